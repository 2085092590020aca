/*
 * Declared code that a callee of the loop takes back, rewrites and declares again, while the loop is recorded or in its trace:
 * what was recorded of the old code holds no longer.
 */
#include "vm.h"

enum { PASSES = 60, RUNS = 200 };

static struct vm_insn code[] = {
    {VM_ADDI, 0, 1}, {VM_CALL, 2, 0}, {VM_XOR, 0, 2}, {VM_ADDI, 0, 5}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};
static long rewrite_at, immediate;

static VM_NOINLINE long rewrite(long *r) {
    if (r[1] == rewrite_at) {
        redmagic_forget(code, sizeof code);
        code[0].b = immediate;
        redmagic_assume_immutable(code, sizeof code);
    }
    return r[0] & 3;
}

/* The loop, rewritten in the pass with `at` to go, if there is one; against the same without an interpreter. */
static long is_wrong(long at) {
    long before = code[0].b, sum = 0, r[3] = {0, PASSES, 0};
    rewrite_at = at;
    for (long left = PASSES; left > 0; left--) {
        sum += left < at ? immediate : before;
        sum = (sum ^ (sum & 3)) + 5;
    }
    return vm_run(code, r) != sum;
}

int main(void) {
    redmagic_start();
    redmagic_do_not_trace_function((void *)rewrite);
    code[1].b = VM_C(rewrite);
    redmagic_assume_immutable(code, sizeof code);
    long wrong = 0;
    for (int run = 0; run < RUNS; run++) {
        /* Each run rewrites in another pass, the recorded one among them. */
        immediate = run + 2;
        wrong += is_wrong(PASSES - run % PASSES);
        wrong += is_wrong(0);
        wrong += is_wrong(0);
        redmagic_forget(code, sizeof code);
        redmagic_assume_immutable(code, sizeof code);
    }
    printf("%ld wrong\n", wrong);
    return 0;
}
