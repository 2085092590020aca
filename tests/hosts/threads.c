/*
 * Threads that run the same loops and loops of their own, and coroutines that begin on one thread and go on on another.
 */
#include "vm.h"
#include "switch.h"
#include <pthread.h>

enum { THREADS = 4 };

static __thread long own;

static VM_NOINLINE long thread_local_sum(long *r) {
    own += r[0] & 15;
    return own;
}

static const struct vm_insn shared[] = {
    {VM_ADDI, 0, 3},  {VM_ODD, 0, 0}, {VM_XOR, 0, 1},  {VM_CALL, 2, VM_C(thread_local_sum)},
    {VM_ADD, 0, 2},   {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};

static void *same_loop(void *argument) {
    own = (long)argument;
    long sum = 0;
    for (int round = 0; round < 40; round++) {
        long r[8] = {(long)argument, 300};
        sum ^= vm_run(shared, r) + round;
    }
    return (void *)(sum + own);
}

static void *own_loop(void *argument) {
    struct vm_insn code[] = {{VM_ADDI, 0, (long)argument}, {VM_XOR, 0, 1}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0}};
    long sum = 0;
    for (int round = 0; round < 40; round++) {
        long r[8] = {round, 300};
        sum += vm_run(code, r);
    }
    return (void *)sum;
}

static void run_all(const char *what, void *(*body)(void *)) {
    pthread_t threads[THREADS];
    for (long at = 0; at < THREADS; at++) pthread_create(&threads[at], NULL, body, (void *)(at + 1));
    for (int at = 0; at < THREADS; at++) {
        void *result;
        pthread_join(threads[at], &result);
        printf("%s %d: %ld\n", what, at, (long)result);
    }
}

/* A traveller switches back to whoever resumed it, on whatever thread. */
static struct traveller {
    struct stack stack, *caller;
    long passed;
    int done;
} travellers[3];
static struct traveller *boarding;

static VM_NOINLINE long pause_travel(long *r) {
    struct traveller *me = &travellers[r[3]];
    me->passed = r[0];
    switch_by_hand(&me->stack, me->caller);
    return me->passed;
}

static const struct vm_insn travel[] = {
    {VM_ADDI, 0, 7}, {VM_CALL, 2, VM_C(pause_travel)}, {VM_XOR, 0, 2}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};

static void travel_body(void) {
    struct traveller *me = boarding;
    long r[8] = {0, 900, 0, me - travellers};
    me->passed = vm_run(travel, r);
    me->done = 1;
    switch_by_hand(&me->stack, me->caller);
    abort();
}

static VM_NOINLINE long carry(long *r) {
    struct traveller *it = &travellers[r[3]];
    struct stack *here = (struct stack *)r[4];
    if (it->done) return -1;
    boarding = it;
    it->caller = here;
    it->passed = r[0] & 31;
    switch_by_hand(here, &it->stack);
    return it->passed;
}

static const struct vm_insn carrier[] = {
    {VM_CALL, 2, VM_C(carry)}, {VM_ADD, 0, 2}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};

static void *carry_some(void *argument) {
    struct stack *here = calloc(1, sizeof *here);
    long r[8] = {(long)argument, 100, 0, (long)argument % 3, (long)here};
    long result = vm_run(carrier, r);
    free(here);
    return (void *)result;
}

/* A thread whose stack never meets an anchor, except in what it resumes. */
static void *carry_one(void *argument) {
    struct stack *here = calloc(1, sizeof *here);
    long r[8] = {(long)argument, 1, 0, (long)argument % 3, (long)here};
    long result = carry(r);
    free(here);
    return (void *)result;
}

static long on_a_thread(void *(*body)(void *), long argument) {
    pthread_t thread;
    void *result;
    pthread_create(&thread, NULL, body, (void *)argument);
    pthread_join(thread, &result);
    return (long)result;
}

int main(void) {
    redmagic_start();
    redmagic_do_not_trace_function(thread_local_sum);
    redmagic_do_not_trace_function(pause_travel);
    redmagic_do_not_trace_function(carry);
    run_all("same loop", same_loop);
    run_all("own loop", own_loop);
    for (int at = 0; at < 3; at++) prepare_by_hand(&travellers[at].stack, travel_body);
    for (long round = 0; round < 30; round++) {
        long result = on_a_thread(round % 4 == 1 ? carry_one : carry_some, round);
        if (round % 5 == 0) printf("carried: %ld\n", result);
        if (round % 7 == 0) printf("here: %ld\n", (long)carry_some((void *)(round + 1)));
    }
    for (int at = 0; at < 3; at++) printf("traveller %d: %ld %d\n", at, travellers[at].passed, travellers[at].done);
    return 0;
}
