/*
 * Traces that are dropped all the time while threads are in them, in calls that they have made, and in regions within them:
 * their memory is used again, and nobody notices.
 */
#include "vm.h"
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>

enum { THREADS = 3, PROGRAMS = 6, ROUNDS = 120, PASSES = 150, SIZE = 6, MOST_BYTES = 1 << 20, LOOPS = 300, LEAST_LEAK = LOOPS * 3 * 64 };

static struct vm_insn programs[PROGRAMS][SIZE];
static volatile int done;
static __thread unsigned calls;

static VM_NOINLINE long nested(long *r);

/* What the library may not follow, so that it is called. */
static VM_NOINLINE long called(long *r) {
    if (++calls % 64 == 0) sched_yield();
    return (r[0] >> 3) & 15;
}

static VM_NOINLINE long in_region(long *r) {
    redmagic_temp_disable();
    long result = called(r) + 1;
    redmagic_temp_enable();
    return result;
}

static VM_NOINLINE long in_block(long *r) {
    redmagic_begin_merge_block();
    long result = (r[0] & 7) * 3;
    redmagic_end_merge_block();
    return result;
}

static const vm_callee callees[PROGRAMS] = {called, in_region, in_block, nested, called, in_region};

/* A loop in a call of a loop. */
static VM_NOINLINE long nested(long *r) {
    long inner[8] = {r[0], 3};
    return vm_run(programs[4], inner) & 255;
}

static long run(int program, long start) {
    long r[8] = {start, PASSES};
    return vm_run(programs[program], r);
}

/* The same without an interpreter. */
static long expected(int program, long start, long passes) {
    for (long left = passes; left > 0; left--) {
        long result;
        start += program + 1;
        switch (program) {
        case 2: result = (start & 7) * 3; break;
        case 3: result = expected(4, start, 3) & 255; break;
        default: result = ((start >> 3) & 15) + (callees[program] == in_region); break;
        }
        start = (start + result) ^ left;
    }
    return start;
}

static void *loops(void *argument) {
    long wrong = 0, seed = (long)argument;
    while (!done) {
        for (int program = 0; program < PROGRAMS; program++) {
            seed = (seed * 1103515245 + 12345) & 0xffffff;
            wrong += run(program, seed) != expected(program, seed, PASSES);
        }
    }
    return (void *)wrong;
}

/* Code that is made, runs a little, and is freed: what is known of its loops goes with it. Returns the bytes that are in use. */
static size_t come_and_go(long *wrong) {
    static struct vm_insn code[LOOPS][2];
    for (int at = 0; at < LOOPS; at++) {
        struct vm_insn loop[2] = {{VM_LOOP, 1, 0}, {VM_HALT, 0, 0}};
        memcpy(code[at], loop, sizeof loop);
        redmagic_assume_immutable(code[at], sizeof code[at]);
        long r[2] = {at, 3};
        *wrong += vm_run(code[at], r) != at;
        redmagic_forget(code[at], sizeof code[at]);
    }
    return mallinfo2().uordblks;
}

/* The same again and again. Returns the bytes that stay, whatever else is in use now and then. */
static size_t growth(long *wrong) {
    size_t early = SIZE_MAX, late = SIZE_MAX;
    for (int round = 0; round < 6; round++) {
        size_t used = come_and_go(wrong), *least = round < 3 ? &early : &late;
        if (used < *least) *least = used;
    }
    return late > early ? late - early : 0;
}

int main(void) {
    redmagic_start();
    redmagic_do_not_trace_function((void *)called);
    for (int at = 0; at < PROGRAMS; at++) {
        struct vm_insn code[SIZE] = {
            {VM_ADDI, 0, at + 1}, {VM_CALL, 2, VM_C(callees[at])}, {VM_ADD, 0, 2}, {VM_XOR, 0, 1}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
        };
        memcpy(programs[at], code, sizeof code);
    }
    pthread_t threads[THREADS];
    for (long at = 0; at < THREADS; at++) pthread_create(&threads[at], NULL, loops, (void *)(at + 1));
    long wrong = 0;
    for (int round = 0; round < ROUNDS; round++) {
        int program = round % PROGRAMS;
        wrong += run(program, round) != expected(program, round, PASSES);
        redmagic_forget(programs[(round * 5 + 2) % PROGRAMS], sizeof programs[0]);
    }
    done = 1;
    for (int at = 0; at < THREADS; at++) {
        void *result;
        pthread_join(threads[at], &result);
        wrong += (long)result;
    }
    /* Alone, what the others were in is given back with the next trace. */
    for (int round = 0; round < 20; round++) {
        wrong += run(0, round) != expected(0, round, PASSES);
        redmagic_forget(programs[0], sizeof programs[0]);
    }
    size_t bytes = growth(&wrong);
    struct redmagic_stats stats;
    redmagic_get_stats(&stats, sizeof stats);
    printf("%ld wrong, memory is %s\n", wrong, stats.code_bytes < MOST_BYTES && bytes < LEAST_LEAK ? "bounded" : "not bounded");
    if (getenv("VERBOSE"))
        fprintf(stderr, "%ld traces, %ld dropped, %ld bytes\n", (long)stats.traces, (long)stats.traces_dropped, (long)stats.code_bytes), fprintf(stderr, "%zu bytes of loops\n", bytes);
    return 0;
}
