/*
 * What a loop is: its id and the place of its anchor. Ids that places share, ids whose memory is used again, loops that
 * are disabled, forgotten, switched off in the middle.
 */
#include "vm.h"

static int id;

/* Two places with the same id, in turn and one after the other. */
static VM_NOINLINE void two_places(long *first, long *second) {
    for (long i = 0; i < 500; i++) {
        if (i & 1) {
            (*first)++;
            redmagic_backwards_branch(&id);
        } else {
            (*second) += 2;
            redmagic_backwards_branch(&id);
        }
    }
    for (long i = 0; i < 500; i++) {
        (*first) += 3;
        REDMAGIC_BACKWARDS_BRANCH(&id);
    }
    for (long i = 0; i < 500; i++) {
        (*second) += 5;
        REDMAGIC_BACKWARDS_BRANCH(&id);
    }
}

/* The same loop at several depths of the stack, with locals in frames of different sizes. */
static VM_NOINLINE long depths(long depth, long seed) {
    volatile long room[16];
    room[depth & 15] = seed;
    if (depth & 1) {
        volatile char more[333];
        more[seed & 255] = 1;
        if (depth > 0) seed += depths(depth - 1, seed * 3) + more[seed & 255];
    } else if (depth > 0) {
        seed += depths(depth - 1, seed * 5);
    }
    for (long i = 0; i < 70; i++) {
        seed = seed * 7 + room[depth & 15];
        REDMAGIC_BACKWARDS_BRANCH(&id);
    }
    return seed;
}

/* Code in memory that is freed and used again: another program at the same address. */
static VM_NOINLINE long reused(void) {
    long sum = 0;
    struct vm_insn *code = malloc(8 * sizeof *code);
    for (long round = 0; round < 40; round++) {
        long step = round % 3;
        code[0] = (struct vm_insn){step == 0 ? VM_ADDI : VM_XOR, 0, step == 0 ? round : 1};
        code[1] = (struct vm_insn){step == 2 ? VM_ADD : VM_ADDI, 0, 2};
        code[2] = (struct vm_insn){VM_LOOP, 1, 0};
        code[3] = (struct vm_insn){VM_HALT, 0, 0};
        redmagic_assume_immutable(code, 4 * sizeof *code);
        long r[8] = {round, 150, 3};
        sum = sum * 3 + vm_run(code, r);
        redmagic_forget(code, 4 * sizeof *code);
        if (round % 4 == 3) {
            free(code);
            code = malloc(8 * sizeof *code);
        }
    }
    free(code);
    return sum;
}

static const struct vm_insn work[] = {{VM_ADDI, 0, 3}, {VM_XOR, 0, 1}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0}};

static unsigned long entries(void) {
    struct redmagic_stats statistics;
    redmagic_get_stats(&statistics, sizeof statistics);
    return statistics.entries;
}

static long run_work(void) {
    long sum = 0;
    for (long round = 0; round < 10; round++) {
        long r[8] = {round, 100};
        sum += vm_run(work, r);
    }
    return sum;
}

/* Changes the library's mind while a trace of the loop is waiting for this call. */
static int what;
static VM_NOINLINE long meddle(long *r) {
    if (r[1] != 30 && r[1] != 60) return r[1];
    switch (what) {
    case 0: redmagic_forget(work, sizeof work); break;
    case 1: redmagic_configure("enabled", r[1] == 60 ? "off" : "on"); break;
    case 2: redmagic_disable_branch((void *)r[4]); break;
    case 3: redmagic_temp_disable(); if (r[1] == 30) { redmagic_temp_enable(); redmagic_temp_enable(); } break;
    default: redmagic_do_not_trace_function((void *)meddle); break;
    }
    return r[1];
}

static VM_NOINLINE long meddling(void) {
    long sum = 0;
    struct vm_insn code[5][6];
    for (what = 0; what < 5; what++) {
        struct vm_insn *mine = code[what];
        mine[0] = (struct vm_insn){VM_ADDI, 0, what};
        mine[1] = (struct vm_insn){VM_CALL, 2, VM_C(meddle)};
        mine[2] = (struct vm_insn){VM_XOR, 0, 2};
        mine[3] = (struct vm_insn){VM_LOOP, 1, 0};
        mine[4] = (struct vm_insn){VM_HALT, 0, 0};
        redmagic_assume_immutable(mine, sizeof code[what]);
        for (int round = 0; round < 4; round++) {
            long r[8] = {round, 120, 0, 0, (long)mine};
            sum = sum * 5 + vm_run(mine, r);
        }
        redmagic_forget(mine, sizeof code[what]);
    }
    return sum;
}

int main(void) {
    redmagic_start();
    redmagic_do_not_trace_function((void *)entries);
    long first = 0, second = 0;
    two_places(&first, &second);
    printf("two places: %ld %ld\n", first, second);
    printf("depths: %ld\n", depths(9, 1));
    printf("reused: %ld\n", reused());
    printf("work: %ld\n", run_work());
    redmagic_disable_branch((void *)work);
    unsigned long before = entries();
    printf("disabled: %ld\n", run_work());
    printf("entered since: %lu\n", entries() - before);
    printf("meddling: %ld\n", meddling());
    return 0;
}
