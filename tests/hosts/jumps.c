/*
 * longjmp out of functions that hot loops call, over one or many interpreters, and into a loop again.
 */
#include "vm.h"
#include <setjmp.h>

static jmp_buf *handler;
static long raised;

static VM_NOINLINE void raise_error(long value) {
    raised = value;
    longjmp(*handler, 1);
}

/* Fails in some passes, from a C function that calls another. */
static VM_NOINLINE long may_fail(long *r) {
    if (r[1] % 7 == 3) raise_error(r[1]);
    return r[1] * 3;
}

static const struct vm_insn failing[] = {
    {VM_ADDI, 0, 1}, {VM_CALL, 2, VM_C(may_fail)}, {VM_ADD, 0, 2}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};

/* Runs a loop that fails before its end, and catches. */
static VM_NOINLINE long protected_call(long *r) {
    jmp_buf mine, *outer = handler;
    volatile long result;
    long inner[8] = {r[0] & 0xff, 10 + r[1] % 5};
    handler = &mine;
    if (setjmp(mine) == 0)
        result = vm_run(failing, inner);
    else
        result = 1000 + raised;
    handler = outer;
    return result;
}

static const struct vm_insn catching[] = {
    {VM_CALL, 2, VM_C(protected_call)}, {VM_ADD, 0, 2}, {VM_ODD, 2, 0}, {VM_ADDI, 0, 5}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};

/* A tower of interpreters; the deepest one jumps out of all of them. */
static const struct vm_insn tower[];
static int depth;

static VM_NOINLINE long climb(long *r) {
    if (depth == 0) {
        if (r[1] == 2) raise_error(r[0]);
        return 1;
    }
    long inner[8] = {r[0] & 0xffff, 4};
    depth--;
    long result = vm_run(tower, inner);
    depth++;
    return result;
}

static const struct vm_insn tower[] = {
    {VM_ADDI, 0, 1}, {VM_CALL, 2, VM_C(climb)}, {VM_ADD, 0, 2}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};

static VM_NOINLINE long from_a_tower(int height) {
    jmp_buf mine;
    handler = &mine;
    depth = height;
    if (setjmp(mine) == 0) {
        long r[8] = {height, 4};
        return vm_run(tower, r);
    }
    return 100000 + raised;
}

/* An interpreter that catches for itself: the jump ends in the frame that holds the anchor. */
static VM_NOINLINE long run_and_catch(long *r) {
    jmp_buf mine, *outer = handler;
    volatile long caught = 0;
    handler = &mine;
    setjmp(mine);
    if (r[1] > 0) {
        r[1]--;
        caught++;
        vm_run(failing, r);
    }
    handler = outer;
    return r[0] * 100 + caught;
}

int main(void) {
    redmagic_start();
#ifndef TRACED
    redmagic_do_not_trace_function(may_fail);
    redmagic_do_not_trace_function(protected_call);
    redmagic_do_not_trace_function(climb);
#endif
    long r[8] = {0, 400};
    printf("caught inside: %ld\n", vm_run(catching, r));
    long sum = 0;
    for (int round = 0; round < 200; round++) sum += from_a_tower(round % 12);
    printf("towers: %ld\n", sum);
    long again[8] = {0, 900};
    printf("caught outside: %ld\n", run_and_catch(again));
    return 0;
}
