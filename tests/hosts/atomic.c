/*
 * Threads that count, take a lock and exchange words by atomic instructions in the interpreter itself: in traces, too, nothing is
 * lost, and what a lock protects is seen.
 */
#include "redmagic.h"
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>

enum { THREADS = 4, ROUNDS = 4, PASSES = 20000, COUNT = 4 };
enum op { ADD, XADD, SWAP, LOCKED, BITS, NARROW, LOOP, HALT };

static uint64_t added, tickets, swapped, protected_sum, slots[COUNT];
static uint8_t bits[8], narrow;
static int lock;

static const unsigned char program[] = {ADD, XADD, SWAP, LOCKED, BITS, NARROW, LOOP, HALT};

static __attribute__((noinline)) uint64_t run(uint64_t id, uint64_t left) {
    uint64_t drawn = 0, taken = 0, bit = 0;
    for (const unsigned char *pc = program;;) {
        switch (*pc++) {
        case ADD: __atomic_fetch_add(&added, id, __ATOMIC_SEQ_CST); break;
        case XADD: drawn ^= __atomic_fetch_add(&tickets, 1, __ATOMIC_SEQ_CST) >> 63; break;
        case SWAP: taken += __atomic_exchange_n(&swapped, left & 7, __ATOMIC_SEQ_CST) - (left & 7); break;
        case LOCKED:
            while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE)) {}
            for (int at = 0; at < COUNT; at++) slots[at] += 1;
            protected_sum += slots[0] == slots[COUNT - 1];
            __atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
            break;
        case BITS: {
            uint8_t old = __atomic_load_n(&bits[id], __ATOMIC_RELAXED);
            while (!__atomic_compare_exchange_n(&bits[id], &old, old ^ 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {}
            bit += old & 1;
            break;
        }
        case NARROW: __atomic_fetch_xor(&narrow, (uint8_t)id, __ATOMIC_SEQ_CST); break;
        case LOOP:
            if (--left > 0) {
                pc = program;
                REDMAGIC_BACKWARDS_BRANCH(pc);
            }
            break;
        case HALT:
            /* What went through the exchanged word comes out by the others, or at the end. */
            __atomic_fetch_add(&slots[0], 0, __ATOMIC_SEQ_CST);
            return drawn + taken + bit;
        }
    }
}

static uint64_t results[THREADS];

static void *thread(void *argument) {
    uint64_t id = (uint64_t)(uintptr_t)argument;
    /* The later rounds find a trace, however the threads take turns. */
    for (int round = 0; round < ROUNDS; round++) results[id - 1] += run(id, PASSES / ROUNDS);
    return NULL;
}

int main(void) {
    redmagic_start();
    redmagic_assume_immutable(program, sizeof program);
    pthread_t threads[THREADS];
    for (uintptr_t at = 0; at < THREADS; at++) pthread_create(&threads[at], NULL, thread, (void *)(at + 1));
    uint64_t all = 0;
    for (int at = 0; at < THREADS; at++) {
        pthread_join(threads[at], NULL);
        all += results[at];
    }
    /* Every exchange has put in what it counts as negative, and taken out what it adds. */
    all += swapped;
    printf("%lu %lu %lu %lu %lu %lu %d\n", (unsigned long)added, (unsigned long)tickets, (unsigned long)all, (unsigned long)protected_sum,
           (unsigned long)slots[0], (unsigned long)slots[COUNT - 1], narrow);
    return 0;
}
