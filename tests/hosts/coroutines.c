/*
 * Coroutines, each with an interpreter of its own, that switch C stacks in the middle of hot loops.
 *
 * BY_HAND: the assembly switch in place of ucontext. TRACED: the functions that switch are not declared, so recordings
 * follow them up to the switch (ucontext) or through it (by hand).
 */
#include "vm.h"
#include "switch.h"

#ifdef BY_HAND
#define SWITCH switch_by_hand
#define PREPARE prepare_by_hand
#else
#define SWITCH switch_by_library
#define PREPARE prepare_by_library
#endif

struct coroutine {
    struct stack stack, caller;
    struct coroutine *resumer;
    long passed, limit;
    int done;
};

static struct coroutine *current;

static VM_NOINLINE long resume(struct coroutine *co, long value) {
    if (co->done) return -1;
    co->passed = value;
    co->resumer = current;
    current = co;
    SWITCH(&co->caller, &co->stack);
    current = co->resumer;
    return co->passed;
}

static VM_NOINLINE long yield(long *r) {
    struct coroutine *me = current;
    me->passed = r[0];
    SWITCH(&me->stack, &me->caller);
    return me->passed;
}

/* r[0] sums up, r[1] counts down, r[2] is what came in. */
static const struct vm_insn generator[] = {
    {VM_ADDI, 0, 3}, {VM_CALL, 2, VM_C(yield)}, {VM_ADD, 0, 2}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};

static void body(void) {
    struct coroutine *me = current;
    long r[8] = {me->passed, me->limit};
    vm_run(generator, r);
    me->passed = r[0];
    me->done = 1;
    SWITCH(&me->stack, &me->caller);
    abort();
}

static struct coroutine *make(long limit) {
    struct coroutine *co = calloc(1, sizeof *co);
    co->limit = limit;
    PREPARE(&co->stack, body);
    return co;
}

static struct coroutine *all[4];

static VM_NOINLINE long next_of(long *r) { return resume(all[r[3] & 3], r[0] & 7); }

/* A loop that resumes the coroutines in turn, in a coroutine itself or not. */
static const struct vm_insn consumer[] = {
    {VM_ADDI, 3, 1},  {VM_CALL, 2, VM_C(next_of)}, {VM_XOR, 0, 2}, {VM_ODD, 0, 0},
    {VM_ADDI, 0, 11}, {VM_LOOP, 1, 0},             {VM_HALT, 0, 0},
};

static void nested_body(void) {
    struct coroutine *me = current;
    long r[8] = {me->passed, me->limit};
    for (int at = 0; at < 4; at++) {
        me->passed = vm_run(consumer, r);
        r[1] = me->limit;
        SWITCH(&me->stack, &me->caller);
        r[0] += me->passed;
    }
    me->done = 1;
    SWITCH(&me->stack, &me->caller);
    abort();
}

int main(void) {
    redmagic_start();
    redmagic_assume_immutable(generator, sizeof generator);
    redmagic_assume_immutable(consumer, sizeof consumer);
#ifndef TRACED
    redmagic_do_not_trace_function(resume);
    redmagic_do_not_trace_function(yield);
#endif
    for (int at = 0; at < 4; at++) all[at] = make(200 + 30 * at);
    for (int round = 0; round < 4; round++) {
        long r[8] = {round, 150};
        printf("round %d: %ld\n", round, vm_run(consumer, r));
    }
    for (int at = 0; at < 4; at++) {
        printf("coroutine %d: %s\n", at, all[at]->done ? "done" : "alive");
        free(all[at]); /* also in the middle of its loop */
        all[at] = make(500);
    }
    struct coroutine *outer = calloc(1, sizeof *outer);
    outer->limit = 170;
    PREPARE(&outer->stack, nested_body);
    for (long at = 0; at < 6; at++) printf("nested: %ld\n", resume(outer, at));
    for (int round = 0; round < 300; round++) { /* coroutines that are dropped after a few steps */
        struct coroutine *co = make(1000);
        long sum = 0;
        for (int step = 0; step < 20; step++) sum += resume(co, step);
        if (round % 60 == 0) printf("dropped: %ld\n", sum);
        free(co);
    }
    return 0;
}
