/*
 * Loops that run for long enough to be timed with and without their traces: one that a trace makes much faster, one of many
 * paths through calls that are opaque, and one whose work changes half way.
 */
#include "vm.h"

static VM_NOINLINE long opaque(long *r) { return (r[0] * 2654435761L >> 7) & 1023; }

static const struct vm_insn fast[] = {{VM_ADDI, 0, 3}, {VM_XOR, 0, 1}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0}};
static const struct vm_insn paths[] = {
    {VM_CALL, 2, VM_C(opaque)}, {VM_ADD, 0, 2}, {VM_ODD, 2, 0}, {VM_XOR, 0, 1}, {VM_ODD, 0, 0},
    {VM_ADDI, 0, 5}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};

int main(void) {
    redmagic_start();
    redmagic_do_not_trace_function((void *)opaque);
    redmagic_assume_immutable(fast, sizeof fast);
    redmagic_assume_immutable(paths, sizeof paths);
    for (int half = 0; half < 2; half++) {
        long r[8] = {half, 3000000};
        printf("fast %ld\n", vm_run(fast, r));
        long s[8] = {half * 77, 400000};
        printf("paths %ld\n", vm_run(paths, s));
        for (int round = 0; round < 20000; round++) {
            long t[8] = {round, half ? 5 : 25};
            s[0] ^= vm_run(fast, t);
        }
        printf("short %ld\n", s[0]);
    }
    return 0;
}
