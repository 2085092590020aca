/*
 * More live activations than there are records, and as many that are abandoned by longjmp or with their stacks.
 */
#include "vm.h"
#include "switch.h"
#include <pthread.h>
#include <setjmp.h>

enum { DEEP = 40000, ABANDONED = 70000 };

static long depth, most;
static const struct vm_insn shaft[];

static VM_NOINLINE long last_pass_goes_down(long *r) {
    if (r[1] != 1 || r[3] <= 0) return r[1];
    long inner[8] = {r[0] & 0xff, 2, 0, r[3] - 1};
    depth++;
    if (depth > most) most = depth;
    long result = vm_run(shaft, inner);
    depth--;
    return result & 0xffff;
}

static const struct vm_insn shaft[] = {
    {VM_ADDI, 0, 1}, {VM_CALL, 2, VM_C(last_pass_goes_down)}, {VM_ADD, 0, 2}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};

static void *dive(void *argument) {
    (void)argument;
    for (int round = 0; round < 2; round++) {
        long r[8] = {round, 60, 0, DEEP};
        most = 0;
        long result = vm_run(shaft, r);
        printf("%ld, %ld deep\n", result, most);
    }
    return NULL;
}

static jmp_buf out;

static VM_NOINLINE long leave_at_the_end(long *r) {
    if (r[1] == 1) longjmp(out, 1);
    return r[1];
}

static const struct vm_insn leaving[] = {
    {VM_ADDI, 0, 1}, {VM_CALL, 2, VM_C(leave_at_the_end)}, {VM_ADD, 0, 2}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};

static VM_NOINLINE void abandon(long *r) {
    if (setjmp(out) == 0) vm_run(leaving, r);
}

static struct stack *caller, *callee;
static volatile long seen;

static VM_NOINLINE long stay_away(long *r) {
    seen += r[0];
    if (r[1] == 1) switch_by_hand(callee, caller);
    return r[1];
}

static const struct vm_insn staying[] = {
    {VM_ADDI, 0, 1}, {VM_CALL, 2, VM_C(stay_away)}, {VM_ADD, 0, 2}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};

static void stay(void) {
    long r[8] = {0, 3};
    vm_run(staying, r);
    abort();
}

int main(void) {
    redmagic_start();
    redmagic_do_not_trace_function(last_pass_goes_down);
    redmagic_do_not_trace_function(leave_at_the_end);
    redmagic_do_not_trace_function(stay_away);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64 << 20);
    pthread_t thread;
    pthread_create(&thread, &attributes, dive, NULL);
    pthread_join(thread, NULL);

    long sum = 0;
    for (long round = 0; round < ABANDONED; round++) {
        long r[8] = {round & 3, 3};
        abandon(r);
        sum += r[0];
    }
    printf("jumped out: %ld\n", sum);

    caller = calloc(1, sizeof *caller);
    callee = calloc(1, sizeof *callee);
    for (long round = 0; round < ABANDONED; round++) {
        prepare_by_hand(callee, stay);
        switch_by_hand(caller, callee);
    }
    printf("stayed away: %ld\n", seen);
    pthread_create(&thread, &attributes, dive, NULL);
    pthread_join(thread, NULL);
    return 0;
}
