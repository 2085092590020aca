/*
 * What a loop is, seen from what is traced: places that share an id are loops of their own, heights of the stack are not; a
 * loop that is left after a few passes, or whose frame has ended, is over.
 */
#include "redmagic.h"
#include <stdio.h>

#define NOINLINE __attribute__((noinline))
enum { N = 600 };

static int id, watching;
static long passes[2], traced[2];

static void report(const char *name, const char *what, int is_so) {
    printf("%s: %s: %s\n", name, what, !watching || is_so ? "yes" : "no");
}

static NOINLINE long roots(void) {
    struct redmagic_stats statistics;
    redmagic_get_stats(&statistics, sizeof statistics);
    return (long)(statistics.traces - statistics.side_traces);
}

/* In turn, and one after the other. */
static NOINLINE void places(void) {
    for (int i = 0; i < N; i++) {
        if (i & 1) {
            passes[0]++, traced[0] += redmagic_is_traced();
            redmagic_backwards_branch(&id);
        } else {
            passes[1]++, traced[1] += redmagic_is_traced();
            redmagic_backwards_branch(&id);
        }
    }
    printf("in turn: %ld %ld\n", passes[0], passes[1]);
    traced[0] = traced[1] = 0;
    for (int i = 0; i < N; i++) {
        passes[0]++, traced[0] += redmagic_is_traced();
        REDMAGIC_BACKWARDS_BRANCH(&id);
    }
    for (int i = 0; i < N; i++) {
        passes[1]++, traced[1] += redmagic_is_traced();
        REDMAGIC_BACKWARDS_BRANCH(&id);
    }
    printf("one after the other: %ld %ld\n", passes[0], passes[1]);
    report("places", "both are traced", traced[0] > N / 2 && traced[1] > N / 2);
}

/* One loop at many heights: the first one makes the trace for all. */
static NOINLINE long heights(long height, long x, long *first, long *last) {
    volatile char room[100];
    room[height % 100] = (char)x;
    for (int i = 0; i < N; i++) {
        x = x * 3 + room[height % 100];
        traced[0] += redmagic_is_traced();
        REDMAGIC_BACKWARDS_BRANCH(first);
    }
    if (*first < 0) *first = roots();
    if (height > 0) x ^= heights(height - 1, x, first, last);
    *last = roots();
    return x;
}

/* A loop of three passes, many times. */
static NOINLINE long short_loop(int says_so, long x) {
    for (int i = 0; i < 3; i++) {
        x = x * 5 + i;
        traced[0] += redmagic_is_traced();
        REDMAGIC_BACKWARDS_BRANCH((char *)&passes + says_so);
    }
    if (says_so) redmagic_fellthrough_branch((char *)&passes + says_so);
    return x;
}

/* A loop that is not hot, unless the host says so. */
static NOINLINE long by_hand(int says_so, long x) {
    void *loop = (char *)&watching + says_so;
    for (int i = 0; i < N; i++) {
        x = x * 11 + i;
        traced[0] += redmagic_is_traced();
        if (says_so && i == 5 && redmagic_force_begin_trace(loop) != NULL) x = 0;
        if (says_so && i == 100 && redmagic_force_end_trace(loop) != NULL) x = 0;
        if (says_so && i == 200 && redmagic_force_jump_to_trace(loop) != NULL) x = 0;
        REDMAGIC_BACKWARDS_BRANCH(loop);
    }
    return x;
}

/* A pass in a frame of its own: goes round only through the caller. */
static NOINLINE long one_pass(int frames, long x) {
    void *frame = NULL;
    if (frames) redmagic_begin_branchable_frame(&frame);
    x = x * 7 + 1;
    traced[0] += redmagic_is_traced();
    redmagic_backwards_branch((char *)&traced + frames);
    if (frames) redmagic_end_branchable_frame(&frame);
    return x;
}

int main(void) {
    redmagic_start();
    watching = redmagic_configure("max_depth", "20") == 0;
    redmagic_do_not_trace_function((void *)roots);
    redmagic_do_not_trace_function((void *)report);
    places();
    long first = -1, last = -1, x;
    traced[0] = 0;
    x = heights(7, 1, &first, &last);
    printf("heights: %lx\n", x);
    report("heights", "all are traced", traced[0] > 7 * N);
    report("heights", "by one trace", first == last);
    redmagic_configure("hot_loop", "50");
    for (int says_so = 0; says_so < 2; says_so++) {
        traced[0] = 0;
        for (int i = 0; i < N; i++) x = short_loop(says_so, x);
        printf("short loop: %lx\n", x);
        report("short loop", says_so ? "is not traced" : "is traced", (traced[0] == 0) == says_so);
    }
    redmagic_configure("hot_loop", "1000000");
    for (int says_so = 0; says_so < 2; says_so++) {
        traced[0] = 0;
        x = by_hand(says_so, x);
        printf("by hand: %lx\n", x);
        report("by hand", says_so ? "is traced" : "is not traced", (traced[0] > N / 2) == says_so);
    }
    redmagic_configure("hot_loop", "50");
    for (int frames = 0; frames < 2; frames++) {
        traced[0] = 0;
        for (int i = 0; i < N; i++) x = one_pass(frames, x);
        printf("frames: %lx\n", x);
        report("frames", frames ? "end the loop" : "do not matter", (traced[0] == 0) == frames);
    }
    return 0;
}
