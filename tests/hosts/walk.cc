/*
 * Callees of hot loops that walk the stack, or unwind all of it: backtrace, pthread_exit, pthread_cancel, nested
 * exceptions, exceptions that cross threads' coroutines. What they find of the host's own frames must be the same.
 */
#include "vm.h"
#include <exception>
#include <execinfo.h>
#include <pthread.h>
#include <stdexcept>
#include <unistd.h>

extern "C" char __executable_start, etext;

static unsigned long frames_hash;
static long frames_seen;
static long destroyed;

struct Guard {
    ~Guard() { destroyed++; }
};

/* The return addresses in this program's own text, from the caller on. */
static VM_NOINLINE long walk(long *r) {
    void *frames[64];
    int count = backtrace(frames, 64);
    for (int at = 1; at < count; at++) {
        unsigned long address = (unsigned long)frames[at], start = (unsigned long)&__executable_start;
        if (address - start >= (unsigned long)&etext - start) continue;
        frames_hash = frames_hash * 31 + (address - start);
        frames_seen++;
    }
    return r[0] & 1;
}

static const vm_insn walking[] = {
    {VM_ADDI, 0, 3}, {VM_CALL, 2, VM_C(walk)}, {VM_ADD, 0, 2}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};

static VM_NOINLINE long walk_deeper(long *r) {
    long inner[8] = {r[0] & 0xff, 4};
    return vm_run(walking, inner);
}

static const vm_insn outer[] = {
    {VM_ADDI, 0, 3}, {VM_CALL, 2, VM_C(walk_deeper)}, {VM_ADD, 0, 2}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};

/* A thread that ends in the middle of its loop. */
static VM_NOINLINE long end_thread(long *r) {
    Guard guard;
    if (r[1] == 1) pthread_exit((void *)(r[0] & 0xffff));
    return r[1];
}

static const vm_insn ending[] = {
    {VM_ADDI, 0, 3}, {VM_CALL, 2, VM_C(end_thread)}, {VM_ADD, 0, 2}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};

static void *ends(void *argument) {
    Guard guard;
    long r[8] = {(long)argument, 60};
    vm_run(ending, r);
    return nullptr;
}

/* One that is cancelled there. */
static int pipes[2];

static VM_NOINLINE long wait_for_end(long *r) {
    Guard guard;
    char byte;
    if (r[1] == 1 && read(pipes[0], &byte, 1) != 1) return -1;
    return r[1];
}

static const vm_insn waiting[] = {
    {VM_ADDI, 0, 3}, {VM_CALL, 2, VM_C(wait_for_end)}, {VM_ADD, 0, 2}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};

static void *waits(void *argument) {
    Guard guard;
    long r[8] = {(long)argument, 60};
    vm_run(waiting, r);
    return nullptr;
}

/* Throws while another exception is being handled, in interpreters in handlers. */
static VM_NOINLINE long nested_throw(long *r) {
    Guard guard;
    try {
        if (r[1] % 3 == 0) throw r[1];
    } catch (long value) {
        try {
            if (r[3] > 0) {
                long inner[8] = {value, 4, 0, r[3] - 1};
                static const vm_insn again[] = {
                    {VM_CALL, 2, VM_C(nested_throw)}, {VM_ADD, 0, 2}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
                };
                return vm_run(again, inner);
            }
            std::throw_with_nested(std::runtime_error("nested"));
        } catch (const std::runtime_error &error) {
            try {
                std::rethrow_if_nested(error);
            } catch (long again) {
                return again * 7;
            }
        }
    }
    return r[1];
}

static const vm_insn nesting[] = {
    {VM_CALL, 2, VM_C(nested_throw)}, {VM_ADD, 0, 2}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};

int main() {
    redmagic_start();
    redmagic_do_not_trace_function((void *)walk);
    redmagic_do_not_trace_function((void *)walk_deeper);
    redmagic_do_not_trace_function((void *)end_thread);
    redmagic_do_not_trace_function((void *)wait_for_end);
    redmagic_do_not_trace_function((void *)nested_throw);
    long r[8] = {0, 120};
    vm_run(outer, r);
    std::printf("walked: %ld frames, %lx\n", frames_seen, frames_hash);

    long sum = 0;
    for (long at = 0; at < 40; at++) {
        pthread_t thread;
        void *result;
        pthread_create(&thread, nullptr, ends, (void *)at);
        pthread_join(thread, &result);
        sum += (long)result;
    }
    std::printf("ended: %ld, destroyed: %ld\n", sum, destroyed);
    if (pipe(pipes) != 0) return 1;
    for (long at = 0; at < 40; at++) {
        pthread_t thread;
        void *result;
        pthread_create(&thread, nullptr, waits, (void *)at);
        pthread_cancel(thread);
        pthread_join(thread, &result);
        sum += result == PTHREAD_CANCELED;
    }
    std::printf("cancelled: %ld\n", sum);
    long s[8] = {0, 300, 0, 3};
    std::printf("nested: %ld\n", vm_run(nesting, s));
    return 0;
}
