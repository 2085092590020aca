/* Thousands of live activations, and callbacks from library functions that run hot loops. */
#include "vm.h"

static const struct vm_insn dive[];
static long most, depth;

static VM_NOINLINE long deeper(long *r) {
    if (r[3] <= 0) return 1;
    long inner[8] = {r[0] & 0xff, 1 + (r[3] % 1000 == 0), 0, r[3] - 1};
    depth++;
    if (depth > most) most = depth;
    long result = vm_run(dive, inner);
    depth--;
    return result;
}

/* Each level goes through the loop's body before and after the call; the loop closes on some levels only. */
static const struct vm_insn dive[] = {
    {VM_ADDI, 0, 1}, {VM_CALL, 2, VM_C(deeper)}, {VM_ADDI, 3, -100000}, {VM_XOR, 0, 2}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};

/* A loop that is hot already and goes down in its last pass. */
static const struct vm_insn shaft[];

static VM_NOINLINE long last_pass_goes_down(long *r) {
    if (r[1] != 1 || r[3] <= 0) return r[1];
    long inner[8] = {r[0] & 0xff, 3, 0, r[3] - 1};
    depth++;
    if (depth > most) most = depth;
    long result = vm_run(shaft, inner);
    depth--;
    return result & 0xffff;
}

static const struct vm_insn shaft[] = {
    {VM_ADDI, 0, 1}, {VM_CALL, 2, VM_C(last_pass_goes_down)}, {VM_ADD, 0, 2}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};

/* qsort whose comparator is interpreted. */
static const struct vm_insn digits[] = {
    {VM_ADD, 0, 2}, {VM_XOR, 0, 1}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};

static long weight(long value) {
    long r[8] = {0, 10, value};
    return vm_run(digits, r);
}

static int compare(const void *a, const void *b) {
    long x = weight(*(const long *)a), y = weight(*(const long *)b);
    return x < y ? -1 : x > y;
}

static VM_NOINLINE long sort_some(long *r) {
    long values[40];
    for (int at = 0; at < 40; at++) values[at] = (r[1] * 7919 + at * 104729) % 1009;
    qsort(values, 40, sizeof *values, compare);
    return values[0] + values[20] * 3 + values[39] * 5;
}

static const struct vm_insn sorting[] = {
    {VM_CALL, 2, VM_C(sort_some)}, {VM_ADD, 0, 2}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};

int main(void) {
    redmagic_start();
#ifndef TRACED
    redmagic_do_not_trace_function(deeper);
    redmagic_do_not_trace_function(last_pass_goes_down);
    redmagic_do_not_trace_function(sort_some);
#endif
    long r[8] = {0, 20, 0, 0};
    printf("warm: %ld\n", vm_run(shaft, r));
    for (int round = 0; round < 3; round++) {
        long d[8] = {round, 3, 0, 10000};
        most = 0;
        printf("shaft: %ld, %ld deep\n", vm_run(shaft, d), most);
        long e[8] = {round, 1, 0, 10000};
        most = 0;
        printf("dive: %ld, %ld deep\n", vm_run(dive, e), most);
    }
    long s[8] = {0, 60};
    printf("sorted: %ld\n", vm_run(sorting, s));
    return 0;
}
