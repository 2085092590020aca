/* The plainest use, for all kinds of compilation: loops with branches, inner loops, calls. */
#include "vm.h"

static VM_NOINLINE long twice(long *r) { return r[0] * 2 + 1; }
static VM_NOINLINE long outside(long *r) {
    char text[32];
    return snprintf(text, sizeof text, "%ld", r[0]) + text[0];
}

static const struct vm_insn branches[] = {
    {VM_ADDI, 0, 3}, {VM_ODD, 0, 0}, {VM_XOR, 0, 1},  {VM_ODD, 1, 0},
    {VM_ADDI, 0, 1}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};
static const struct vm_insn nested[] = {
    {VM_XOR, 2, 2},  {VM_ADDI, 2, 9}, {VM_ADD, 0, 2},  {VM_LOOP, 2, 2},
    {VM_XOR, 0, 1},  {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};
static const struct vm_insn calls[] = {
    {VM_CALL, 2, VM_C(twice)}, {VM_XOR, 0, 2}, {VM_CALL, 2, VM_C(outside)}, {VM_ADD, 0, 2}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};

int main(void) {
    redmagic_start();
    redmagic_assume_immutable(nested, sizeof nested);
    const struct vm_insn *all[] = {branches, nested, calls};
    for (int which = 0; which < 3; which++) {
        for (long count = 1; count < 600; count = count * 3 + 1) {
            long r[8] = {count, count};
            printf("%d: %ld\n", which, vm_run(all[which], r));
        }
    }
    return 0;
}
