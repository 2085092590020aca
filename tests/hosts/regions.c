/*
 * Regions that traces leave and come back to: between redmagic_temp_disable and redmagic_temp_enable, and merge blocks. They
 * end where they were recorded to end, elsewhere, at other heights of the stack, in other orders, or never; they change
 * everything that a trace could rely on. With the library watching, most passes of the regular loops must be traced behind
 * the region, and none in it. Where a region has several ends, those passes are which end it where the recorded pass did.
 */
#include "redmagic.h"
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOINLINE __attribute__((noinline))
enum { N = 1500 };

static int watching;
static long inside, behind;

static void begin(void) { inside = behind = 0; }

/* Says how a loop went; `regular` if it must have been traced behind its regions. */
static void end(const char *name, unsigned long result, int regular) {
    const char *back = !regular || !watching || behind > N / 8 ? "yes" : "no";
    printf("%s: %lx, in the region: %ld, behind it: %s\n", name, result, inside, back);
}

#define BEHIND() (behind += redmagic_is_traced())
#define INSIDE() (inside += redmagic_is_traced())

/* Everything that a trace could know changes in the region: locals, what they point to, globals. */
struct object {
    unsigned long value;
    struct object *other;
};
static struct object first = {1, NULL}, second = {2, NULL}, *chosen = &first;
static unsigned long *leaked;

static NOINLINE unsigned long changes(void) {
    unsigned long a = 1, b = 2, c = 3, d = 4, sum = 0;
    struct object mine = {5, &first};
    for (long i = 0; i < N; i++) {
        chosen->value += a;
        mine.value += sum;
        redmagic_temp_disable();
        INSIDE();
        if (i % 3 == 0) chosen = chosen == &first ? &second : &first;
        a = b ^ (unsigned long)i, b = c + 1, c = d * 3, d = a + chosen->value;
        mine.other->value += d;
        if (i % 7 == 0) mine.other = mine.other == &first ? &second : &first;
        mine.value ^= c;
        redmagic_temp_enable();
        BEHIND();
        sum = sum * 31 + chosen->value + mine.value + mine.other->value + a + b + c + d;
        REDMAGIC_BACKWARDS_BRANCH(&first);
    }
    return sum;
}

/* A region in a function that the trace itself has called: its frame becomes known to others there. */
static NOINLINE void meddle(void) { *leaked += 17; }

static NOINLINE unsigned long callee(unsigned long x) {
    unsigned long local = x, before = local * 3;
    redmagic_temp_disable();
    INSIDE();
    leaked = &local;
    redmagic_temp_enable();
    meddle();
    BEHIND();
    return local + before;
}

static NOINLINE unsigned long calls(void) {
    unsigned long sum = 0;
    for (long i = 0; i < N; i++) {
        sum = sum * 5 + callee(sum + (unsigned long)i);
        redmagic_backwards_branch(&second);
    }
    return sum;
}

/* One begin, several ends; begins and ends in functions of their own, through pointers, nested, too many, too few. */
static NOINLINE void disable(void) { redmagic_temp_disable(), INSIDE(); }
static NOINLINE void enable(void) { INSIDE(), redmagic_temp_enable(); }
static NOINLINE void enable_deeper(long depth) {
    volatile char room[64];
    room[depth & 63] = (char)depth;
    if (depth > 0) enable_deeper(depth - 1);
    else redmagic_temp_enable();
    if (room[depth & 63] != (char)depth) abort();
}
static void (*volatile both[2])(void) = {redmagic_temp_disable, redmagic_temp_enable};

static NOINLINE unsigned long ends(int how) {
    unsigned long sum = (unsigned long)how;
    for (long i = 0; i < N; i++) {
        sum += (unsigned long)i * 3;
        switch (how) {
        case 0:
            redmagic_temp_disable();
            INSIDE();
            if (i % 5 == 4) {
                sum ^= 77;
                redmagic_temp_enable();
                BEHIND();
                sum *= 3;
            } else {
                redmagic_temp_enable();
                BEHIND();
            }
            break;
        case 1: disable(), sum ^= 5, enable(), BEHIND(); break;
        case 2: redmagic_temp_disable(), sum *= 3, enable_deeper(i & 3), sum ^= 9; break;
        case 3: for (int at = 0; at < 2; at++) both[at](), sum = sum * 3 + (unsigned long)at; break;
        case 4:
            redmagic_temp_disable(), redmagic_temp_disable(), INSIDE();
            sum ^= (unsigned long)i;
            redmagic_temp_enable(), INSIDE();
            sum *= 7;
            redmagic_temp_enable(), BEHIND();
            break;
        case 5: /* one end too many */
            redmagic_temp_disable(), INSIDE();
            redmagic_temp_enable(), BEHIND();
            redmagic_temp_enable();
            break;
        case 6: /* ends one pass later */
            redmagic_temp_enable();
            sum ^= 3;
            redmagic_temp_disable(), INSIDE();
            break;
        default: /* anchors in the region do nothing, so this one is never met otherwise */
            redmagic_temp_disable();
            for (int at = 0; at < 5; at++) {
                sum = sum * 3 + 1, INSIDE();
                REDMAGIC_BACKWARDS_BRANCH(&first.value);
            }
            redmagic_temp_enable(), BEHIND();
            break;
        }
        REDMAGIC_BACKWARDS_BRANCH((char *)&both + how);
    }
    if (how == 6) redmagic_temp_enable();
    return sum;
}

/* Jumps out of regions. */
static jmp_buf out;
static NOINLINE void jump(int value) { longjmp(out, value); }

static NOINLINE unsigned long jumps_out(volatile int merge) {
    volatile unsigned long sum = 0;
    volatile long start = 0;
    int value = setjmp(out);
    if (value == 2) redmagic_temp_enable(); /* what the region that was left still owes */
    for (long i = start; i < N; i++) {
        sum = sum * 3 + (unsigned long)i;
        if (merge) redmagic_begin_merge_block();
        else redmagic_temp_disable();
        INSIDE();
        start = i + 1;
        /* Less often than any threshold of the tests, or recordings could meet nothing else. */
        if (i % 150 == 149) jump(merge ? 1 : 2);
        if (merge) redmagic_end_merge_block();
        else redmagic_temp_enable();
        BEHIND();
        redmagic_backwards_branch((void *)&out);
    }
    return sum;
}

/* A region that a function leaves by returning. */
static NOINLINE int returns_out(long i, unsigned long *sum) {
    redmagic_begin_merge_block();
    INSIDE();
    *sum = *sum * 3 + 1;
    if (i % 3 == 1) return 1;
    redmagic_end_merge_block();
    BEHIND();
    *sum ^= 5;
    return 0;
}

static NOINLINE unsigned long returning(void) {
    unsigned long sum = 0;
    for (long i = 0; i < N; i++) {
        if (returns_out(i, &sum)) sum += 11;
        REDMAGIC_BACKWARDS_BRANCH(&out);
    }
    return sum;
}

/* Merge blocks: both ways, nested, with loops of their own. */
static NOINLINE unsigned long merges(int how) {
    unsigned long sum = 1, odd = 0;
    for (long i = 0; i < N; i++) {
        redmagic_begin_merge_block();
        if (how != 2) INSIDE();
        if (sum & 1) odd++, sum += odd;
        else sum ^= odd << 3;
        if (how == 1) {
            redmagic_begin_merge_block();
            if (sum & 2) sum++;
            redmagic_end_merge_block();
        }
        if (how == 2) {
            for (int at = 0; at < 3; at++) {
                sum = sum * 5 + 1;
                redmagic_backwards_branch(&odd);
            }
        }
        redmagic_end_merge_block();
        BEHIND();
        sum = sum * 3 + (unsigned long)i;
        REDMAGIC_BACKWARDS_BRANCH((char *)out + how);
    }
    return sum + odd;
}

/* Regions in every activation of a recursion, with loops above and below. */
static NOINLINE unsigned long recursion(long depth, unsigned long sum) {
    for (long i = 0; i < 30; i++) {
        sum = sum * 7 + (unsigned long)depth;
        if (i % 10 == 3 && depth > 0) sum ^= recursion(depth - 1, sum);
        redmagic_temp_disable();
        INSIDE();
        sum ^= (unsigned long)i;
        if (i % 10 == 5 && depth > 0) sum += recursion(depth - 1, sum);
        redmagic_temp_enable();
        BEHIND();
        REDMAGIC_BACKWARDS_BRANCH(&leaked);
    }
    return sum;
}

int main(void) {
    redmagic_start();
    watching = redmagic_configure("max_depth", "20") == 0;
    static const int regular[] = {1, 0, 0, 0, 1, 1, 0, 1};
    begin(), end("changes", changes(), 1);
    begin(), end("calls", calls(), 1);
    for (int how = 0; how < 8; how++) {
        char name[20];
        snprintf(name, sizeof name, "ends %d", how);
        begin();
        unsigned long result = ends(how);
        end(name, result, regular[how]);
    }
    begin(), end("jumps out", jumps_out(0), 1);
    begin(), end("jumps out of merge blocks", jumps_out(1), 1);
    begin(), end("returns", returning(), 0);
    for (int how = 0; how < 3; how++) begin(), end("merges", merges(how), how < 2);
    begin(), end("recursion", recursion(3, 1), 0);
    printf("traced: %s\n", redmagic_is_traced() ? "yes" : "no");
    return 0;
}
