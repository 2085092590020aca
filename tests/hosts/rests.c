/*
 * A loop that a trace does not help, for all that it does is to call a function that must not be traced. When that has
 * turned out, anchors rest. Another loop, which a trace helps, is found all the same.
 */
#include "vm.h"
#include <time.h>

enum { SECONDS = 20 };

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

int main(void) {
    long sum = 0;
    redmagic_start();
    redmagic_do_not_trace_function((void *)opaque);
    redmagic_assume_immutable(calls, sizeof calls);
    redmagic_assume_immutable(fast, sizeof fast);
    while (redmagic_resting <= 0 && in_time()) {
        long r[8] = {1, 1000};
        sum += vm_run(calls, r);
    }
    printf("anchors %s\n", redmagic_resting > 0 ? "rest" : "are counted");
    uint64_t before = entries();
    while (entries() == before && in_time()) {
        long r[8] = {1, 1000};
        sum += vm_run(fast, r);
    }
    printf("the other loop %s\n", entries() > before ? "has a trace" : "has none");
    return sum == 42;
}
