/*
 * A loop that a trace does not help, for all that it does is to call a function that must not be traced. When that has
 * turned out, anchors rest, as long as no other thread meets any. Another loop, which a trace helps, is found all the same.
 */
#include "vm.h"
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

enum { SECONDS = 20, CALM = 100 };

static VM_NOINLINE long opaque(long *r) { return r[0] ^ r[1]; }

#define CALL {VM_CALL, 2, VM_C(opaque)}
static const struct vm_insn calls[] = {CALL, CALL, CALL, CALL, CALL, CALL, CALL, CALL, CALL, CALL, CALL,
                                       CALL, CALL, CALL, CALL, CALL, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0}};
static const struct vm_insn fast[] = {{VM_ADDI, 0, 3}, {VM_XOR, 0, 1}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0}};

static uint64_t entries(void) {
    struct redmagic_stats stats;
    redmagic_get_stats(&stats, sizeof stats);
    return stats.entries;
}

static int in_time(void) { return clock() / CLOCKS_PER_SEC < SECONDS; }

static long run_calls(void) {
    long r[8] = {1, 1000};
    return vm_run(calls, r);
}

static atomic_int is_known, is_over;

/* Meets anchors until the library knows this thread, which ends rests, and stays until it is over. */
static void *other(void *sum) {
    for (int calm = 0; calm < CALM && in_time(); calm = redmagic_resting > 0 ? 0 : calm + 1) *(long *)sum += run_calls();
    is_known = 1;
    while (!is_over) *(long *)sum += run_calls();
    return NULL;
}

/* How often anchors rest while there is another thread. */
static int rests_beside_another(long *sum) {
    pthread_t thread;
    long others = 0;
    int rests = 0;
    if (pthread_create(&thread, NULL, other, &others)) return -1;
    while (!is_known) *sum += run_calls();
    for (int round = 0; round < 20 * CALM; round++) {
        *sum += run_calls();
        rests += redmagic_resting > 0;
    }
    is_over = 1;
    pthread_join(thread, NULL);
    *sum += others;
    return rests;
}

int main(void) {
    long sum = 0;
    redmagic_start();
    redmagic_do_not_trace_function((void *)opaque);
    redmagic_assume_immutable(calls, sizeof calls);
    redmagic_assume_immutable(fast, sizeof fast);
    while (redmagic_resting <= 0 && in_time()) sum += run_calls();
    printf("anchors %s\n", redmagic_resting > 0 ? "rest" : "are counted");
    printf("beside another thread %d times\n", rests_beside_another(&sum));
    uint64_t before = entries();
    while (entries() == before && in_time()) {
        long r[8] = {1, 1000};
        sum += vm_run(fast, r);
    }
    printf("the other loop %s\n", entries() > before ? "has a trace" : "has none");
    return sum == 42;
}
