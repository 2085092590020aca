/*
 * A host that uses no upper halves of vector registers finds none in use behind a loop: the processor would be slow with
 * legacy SSE instructions from there on, for as long as the host lives.
 */
#include "vm.h"
#include <cpuid.h>

/* Whether the processor keeps upper halves, if it says so: XINUSE, Intel manual, volume 1, 13.6. */
static int upper_halves(void) {
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid_count(1, 0, &a, &b, &c, &d) || !(c & bit_AVX) || !(c & bit_OSXSAVE)) return 0;
    if (!__get_cpuid_count(13, 1, &a, &b, &c, &d) || !(a & 4)) return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(1));
    return (low & 4) != 0;
}

static VM_NOINLINE long odd_sum(long *r) { return r[0] * 3 + 1; }

static long most;
static VM_NOINLINE long look(long *r) {
    most |= upper_halves();
    return r[0] & 7;
}

int main(void) {
    redmagic_start();
    redmagic_do_not_trace_function((void *)look);
    unsigned a, b, c, d;
    if (__get_cpuid(1, &a, &b, &c, &d) && (c & bit_AVX)) __asm__ volatile("vzeroupper");
    int before = upper_halves();
    static const struct vm_insn code[] = {
        {VM_ADDI, 0, 3}, {VM_ODD, 0, 0}, {VM_XOR, 0, 1}, {VM_CALL, 2, VM_C(odd_sum)},
        {VM_CALL, 3, VM_C(look)}, {VM_ADD, 0, 2}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
    };
    long result = 1;
    for (int round = 0; round < 3; round++) {
        long r[8] = {result, 700};
        result = vm_run(code, r);
    }
    int after = upper_halves();
    printf("%d %ld %d, %ld\n", before, most, after, result);
    return 0;
}
