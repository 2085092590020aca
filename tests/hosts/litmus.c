/*
 * What another thread may see of a hot loop's loads and stores. Every count is of outcomes that the memory model in force
 * forbids, so that 0 is right however the threads run:
 *
 * writer   the loop stores data, then flag; another thread that reads flag, then data, never finds the data older;
 * reader   the same with the loop as the reader;
 * buffers  two loops store, execute a fence, and load what the other one stores: one of them sees the other's store;
 * flag     the loop ends once another thread, which has seen it running, has set the flag that it tests.
 *
 * The argument says which of them to run.
 */
#include "redmagic.h"
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { LOAD, STORE, STORE_AT, ADDI, FENCE, OLDER, TEST, LOOP, HALT };
enum { ROUNDS = 200000 };

struct insn {
    int op, a;
    volatile long *cell;
    long b;
};

static __attribute__((noinline)) void run(const struct insn *code, long *r) {
    for (const struct insn *pc = code;;) {
        switch (pc->op) {
        case LOAD: r[pc->a] = *pc->cell; pc++; break;
        case STORE: *pc->cell = r[pc->a]; pc++; break;
        case STORE_AT: pc->cell[r[pc->b]] = r[pc->a]; pc++; break;
        case ADDI: r[pc->a] += pc->b; pc++; break;
        case FENCE: __sync_synchronize(); pc++; break;
        case OLDER: r[5] += r[pc->a] < r[pc->b]; pc++; break;
        case TEST: pc += r[pc->a] ? 2 : 1; break;
        case LOOP:
            if (--r[pc->a] > 0) {
                pc = code;
                REDMAGIC_BACKWARDS_BRANCH(pc);
            } else {
                pc++;
            }
            break;
        default: return;
        }
    }
}

/* Each on a line of its own of the cache. */
static volatile long data __attribute__((aligned(64)));
static volatile long flag __attribute__((aligned(64)));
static volatile long over __attribute__((aligned(64)));
static volatile long seen[2][ROUNDS + 1];

static const struct insn writes[] = {
    {ADDI, 0, 0, 1}, {STORE, 0, &data, 0}, {STORE, 0, &flag, 0}, {LOOP, 1, 0, 0}, {HALT, 0, 0, 0},
};
static const struct insn reads[] = {
    {LOAD, 2, &flag, 0}, {LOAD, 3, &data, 0}, {OLDER, 3, 0, 2}, {LOOP, 1, 0, 0}, {HALT, 0, 0, 0},
};
static const struct insn one[] = {
    {ADDI, 0, 0, 1}, {STORE, 0, &data, 0}, {FENCE, 0, 0, 0}, {LOAD, 2, &flag, 0},
    {STORE_AT, 2, seen[0], 0}, {LOOP, 1, 0, 0}, {HALT, 0, 0, 0},
};
static const struct insn other[] = {
    {ADDI, 0, 0, 1}, {STORE, 0, &flag, 0}, {FENCE, 0, 0, 0}, {LOAD, 2, &data, 0},
    {STORE_AT, 2, seen[1], 0}, {LOOP, 1, 0, 0}, {HALT, 0, 0, 0},
};
/* Counts in `data` until `flag` is set: the test skips the way back, which counts a register that never ends. */
static const struct insn waits[] = {
    {ADDI, 0, 0, 1}, {STORE, 0, &data, 0}, {LOAD, 2, &flag, 0}, {TEST, 2, 0, 0}, {LOOP, 1, 0, 0}, {HALT, 0, 0, 0},
};

static void *read_both(void *bad) {
    while (!over) {
        long f = flag, d = data;
        *(long *)bad += d < f;
    }
    return bad;
}

static void *write_both(void *unused) {
    for (long at = 1; !over; at++) {
        data = at;
        flag = at;
    }
    return unused;
}

static void *run_other(void *unused) {
    long r[8] = {0, ROUNDS};
    run(other, r);
    return unused;
}

static void *set_flag(void *unused) {
    long start = data;
    while (data < start + 1000) {
    }
    flag = 1;
    return unused;
}

/* Runs `code` beside another thread; register 5 counts in `code`. */
static long beside(void *(*thread)(void *), const struct insn *code, long rounds, int ends) {
    long bad = 0, r[8] = {0, rounds};
    pthread_t id;
    data = flag = over = 0;
    if (pthread_create(&id, 0, thread, &bad)) return -1;
    run(code, r);
    over = !ends;
    pthread_join(id, 0);
    return bad + r[5];
}

int main(int argc, char **argv) {
    const char *which = argc > 1 ? argv[1] : "";
    long bad = 0;
    redmagic_start();
    redmagic_assume_immutable(writes, sizeof writes);
    redmagic_assume_immutable(reads, sizeof reads);
    redmagic_assume_immutable(one, sizeof one);
    redmagic_assume_immutable(other, sizeof other);
    redmagic_assume_immutable(waits, sizeof waits);
    if (!strcmp(which, "writer")) {
        bad = beside(read_both, writes, ROUNDS, 0);
        bad += data != ROUNDS || flag != ROUNDS;
    } else if (!strcmp(which, "reader")) {
        bad = beside(write_both, reads, ROUNDS, 0);
    } else if (!strcmp(which, "buffers")) {
        bad = beside(run_other, one, ROUNDS, 1);
        for (long at = 1; at <= ROUNDS; at++) bad += seen[0][at] < at && seen[1][at] < at;
    } else if (!strcmp(which, "flag")) {
        for (int at = 0; at < 20; at++) bad += beside(set_flag, waits, 1L << 60, 1);
    }
    printf("%s %ld\n", which, bad);
    return 0;
}
