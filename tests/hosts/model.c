/*
 * Every function of the API in random order, against a model: what calls return, when a thread may be in a trace, which
 * counters may only grow, how much misuse is counted. The calls are instructions of random programs with loops that
 * become hot, so that they are recorded, run in traces, and met by traces of other loops. They are made by the
 * interpreter itself, by a function that it calls, and by a function that no trace follows; at several depths of the
 * stack, from several threads, and some are skipped by longjmp. What the programs compute is compared with a second
 * interpreter that knows nothing of the library.
 *
 * With SIGNALS defined, a signal handler does all that, balanced, a thousand times a second.
 *
 * Usage: model SEED PROGRAMS THREADS. Prints how many calls of the API were made; exits with 1 at the first difference.
 */
#include "redmagic.h"
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

enum { LENGTH = 24, DEEPEST = 40, LEVELS = 3, IDS = 8, PASSES = 90 };

enum op {
    ADD, XOR, SUM, CALL, BRANCH, AGAIN, NEST, ESCAPE, PROBE,
    DISABLE, ENABLE, IS_TRACED, LEAVE, BEGIN_FRAME, END_FRAME, OVER, BEGIN_MERGE, END_MERGE, FORCE, ANCHOR, MACRO,
    IMMUTABLE, FORGET, NEVER, RESIDUAL, START, STATS, CONFIGURE, SWITCH, OPS
};

struct insn {
    uint8_t op, a;
    int16_t b;
};

/* Who makes a call. */
enum via { ITSELF, FOLLOWED, NOT_FOLLOWED };

/* A thread, with what the model knows of it. */
struct thread {
    uint64_t seed, programs, random;
    uint64_t steps, misuse, traced, probes;
    /* Calls of redmagic_temp_disable that are open, and whether the thread may still be in a trace in each. */
    unsigned depth;
    uint8_t may_be_traced[DEEPEST + 1];
    struct redmagic_stats last;
    jmp_buf *escape;
    int level, nests, probes_left;
};

static char ids[IDS];
static _Atomic uint8_t disabled[IDS];
static int started, alone, switched_off;
static const uint64_t *const end_of_counters = &((struct redmagic_stats *)0)->exit_bytes + 1;

#ifndef SIGNALS
#define SIGNALS 0
#endif
#define NOINLINE __attribute__((noinline))

static NOINLINE void fail(const struct thread *t, int line, const char *what) {
    printf("line %d: not so: %s (seed %llu, after %llu calls)\n", line, what, (unsigned long long)t->seed,
           (unsigned long long)t->steps);
    fflush(stdout);
    _Exit(1);
}
#define CHECK(condition) ((condition) ? (void)0 : fail(t, __LINE__, #condition))

static uint64_t random_number(struct thread *t) {
    uint64_t z = t->random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static NOINLINE uint64_t residual(uint64_t x) { return x * 31 + 7; }
static NOINLINE uint64_t followed(uint64_t x) { return x * 5 + (x >> 7); }

/* ---- The simple functions, and who calls them. ---- */

static inline __attribute__((always_inline)) int simple(int op, void *id, void **frame) {
    switch (op) {
    case DISABLE: redmagic_temp_disable(); return 0;
    case ENABLE: redmagic_temp_enable(); return 0;
    case IS_TRACED: return redmagic_is_traced();
    case LEAVE: redmagic_ensure_not_traced(); return redmagic_is_traced();
    case BEGIN_FRAME: redmagic_begin_branchable_frame(frame); return 0;
    case END_FRAME: redmagic_end_branchable_frame(frame); return 0;
    case OVER: redmagic_fellthrough_branch(id); return 0;
    case BEGIN_MERGE: redmagic_begin_merge_block(); return 0;
    default: redmagic_end_merge_block(); return 0;
    }
}

static NOINLINE int simple_followed(int op, void *id, void **frame) { return simple(op, id, frame) & 3; }
static NOINLINE int simple_not_followed(int op, void *id, void **frame) { return simple(op, id, frame) & 5; }

/* What the model says about them. */
static inline void expect(struct thread *t, int op, int via, int result) {
    t->steps++;
    switch (op) {
    case DISABLE:
        t->may_be_traced[t->depth + 1] = via == NOT_FOLLOWED ? t->may_be_traced[t->depth] : 0;
        t->depth++;
        break;
    case ENABLE:
        if (t->depth > 0) t->depth--;
        else t->misuse++;
        break;
    case IS_TRACED:
        CHECK(result == 0 || (result == 1 && via != NOT_FOLLOWED && t->may_be_traced[t->depth] && started));
        t->traced += (unsigned)result;
        break;
    default: CHECK(result == 0); break;
    }
}

/* ---- Functions with more to say. ---- */

static NOINLINE void stats(struct thread *t, unsigned size) {
    union {
        unsigned char bytes[sizeof(struct redmagic_stats) + 64];
        struct redmagic_stats stats;
    } now;
    memset(&now, 0xaa, sizeof now);
    size %= sizeof now.bytes;
    t->steps++;
    redmagic_get_stats(&now.stats, size);
    unsigned known = size < sizeof now.stats ? size : (unsigned)sizeof now.stats;
    for (unsigned at = known; at < sizeof now.bytes; at++) CHECK(now.bytes[at] == 0xaa);
    if (size >= sizeof now.stats.size) CHECK(now.stats.size == size);
    if (size < sizeof now.stats) return;
    const uint64_t *before = &t->last.size, *after = &now.stats.size;
    size_t code = (size_t)(&t->last.code_bytes - before);
    for (size_t at = 1; at < (size_t)(end_of_counters - (const uint64_t *)0); at++)
        CHECK(at == code || before[at] <= after[at]);
    CHECK(now.stats.side_traces <= now.stats.traces && now.stats.check_failures == 0);
    if (alone) CHECK(now.stats.misuse == (started ? t->misuse : 0));
    t->last = now.stats;
}

static NOINLINE void configure(struct thread *t, unsigned which) {
    static const struct {
        const char *key, *value;
        int result;
    } calls[] = {{"hot_exit", "3", 0},   {"hot_exit", "20", 0}, {"hot_exit", "?", -1}, {"hot_loop", "2", 0},
                 {"hot_loop", "13", 0},  {"nonsense", "1", -1}, {"", "", -1},          {"HOT_LOOP", "1", -1},
                 {"max_depth", "9", 0},  {"hot_loop", NULL, 2}, {NULL, "1", 2},        {NULL, NULL, 2}};
    which %= sizeof calls / sizeof *calls;
    t->steps++;
    int result = redmagic_configure(calls[which].key, calls[which].value);
    t->misuse += calls[which].result == 2;
    CHECK(result == (calls[which].result == 0 && started ? 0 : -1));
}

/* A native loop with an anchor of its own, which nobody's trace follows. */
static NOINLINE uint64_t probe(struct thread *t, unsigned which, uint64_t x) {
    int must_not = t->depth > 0 || disabled[which] || !started || switched_off;
    struct redmagic_stats before, after;
    redmagic_get_stats(&before, sizeof before);
    unsigned traced = 0;
    for (unsigned i = 0; i < PASSES; i++) {
        x = x * 3 + i;
        traced += (unsigned)redmagic_is_traced();
        if (which & 1) REDMAGIC_BACKWARDS_BRANCH(&ids[which]);
        else redmagic_backwards_branch(&ids[which]);
    }
    redmagic_fellthrough_branch(&ids[which]);
    redmagic_get_stats(&after, sizeof after);
    t->steps += 2 * PASSES + 3;
    if (must_not) CHECK(traced == 0 && (!alone || SIGNALS || before.entries == after.entries));
    t->probes += traced;
    return x;
}

static uint64_t run(struct thread *t, const struct insn *code, uint64_t *r, long budget);

/* Runs the program deeper in the stack; it may jump out. */
static NOINLINE uint64_t attempt(struct thread *t, const struct insn *code, uint64_t *r, long budget) {
    jmp_buf here, *outer = t->escape;
    int level = t->level;
    uint64_t result = 77;
    t->escape = &here;
    if (!setjmp(here)) result = run(t, code, r, budget);
    t->escape = outer;
    t->level = level;
    return result;
}

static uint64_t run(struct thread *t, const struct insn *code, uint64_t *r, long budget) {
    const struct insn *pc = code;
    void *frame = NULL;
    for (;; pc++) {
        switch (pc->op) {
        case ADD: r[0] += (uint64_t)pc->b; break;
        case XOR: r[0] ^= r[pc->a & 3] << 1; break;
        case SUM: r[pc->a & 3] += r[0]; break;
        case CALL: r[0] = pc->a & 1 ? residual(r[0]) : followed(r[0]); break;
        case BRANCH: /* in either direction, until the budget is spent */
            if (--budget <= 0) return r[0];
            if (r[0] & 1) {
                const struct insn *target = code + pc->b;
                int back = target <= pc;
                pc = target;
                if (back) {
                    t->steps++;
                    REDMAGIC_BACKWARDS_BRANCH((void *)pc);
                }
                pc--;
            }
            break;
        case AGAIN:
            if (--budget <= 0) return r[0];
            pc = code;
            t->steps++;
            redmagic_backwards_branch((void *)pc);
            pc--;
            break;
        case NEST:
            if (t->level < LEVELS && t->nests-- > 0) {
                t->level++;
                r[1] ^= pc->a & 1 ? attempt(t, code, r, budget / 4) : run(t, code, r, budget / 4);
                t->level--;
            }
            break;
        case ESCAPE:
            if (t->escape && (r[0] & 7) == 3) longjmp(*t->escape, 1);
            break;
        case PROBE:
            if (t->probes_left-- > 0) r[2] = probe(t, pc->a % IDS, r[2]);
            break;
        case DISABLE:
            if (t->depth == DEEPEST) break; /* fall through */
        case ENABLE: case IS_TRACED: case LEAVE: case BEGIN_FRAME: case END_FRAME: case OVER: case BEGIN_MERGE:
        case END_MERGE: {
            int result, via = pc->a & 3;
            void *id = pc->b & 1 ? (void *)code : pc->b & 2 ? (void *)&ids[pc->a % IDS] : NULL;
            void **data = pc->b & 4 ? &frame : NULL;
            if (via == FOLLOWED) result = simple_followed(pc->op, id, data);
            else if (via == NOT_FOLLOWED) result = simple_not_followed(pc->op, id, data);
            else result = simple(pc->op, id, data);
            expect(t, pc->op, via, result);
            break;
        }
        case FORCE: {
            void *id = pc->a & 1 ? (void *)code : pc->a & 2 ? (void *)&ids[0] : NULL;
            t->steps += 3;
            t->misuse += id == NULL;
            CHECK(redmagic_force_begin_trace(id) == NULL);
            CHECK(redmagic_force_end_trace(id) == NULL);
            CHECK(redmagic_force_jump_to_trace(id) == NULL);
            break;
        }
        case ANCHOR: t->steps++, redmagic_backwards_branch(pc->a & 1 ? (void *)pc : pc->a & 2 ? (void *)code : NULL); break;
        case MACRO: t->steps++; REDMAGIC_BACKWARDS_BRANCH((void *)(pc->a & 1 ? pc : pc->a & 2 ? code : NULL)); break;
        case IMMUTABLE:
            t->steps++;
            if (pc->a & 1) redmagic_assume_immutable(code, LENGTH * sizeof *code);
            else redmagic_assume_immutable(pc->a & 2 ? NULL : ids, pc->a & 4 ? 5 : (size_t)-1);
            break;
        case FORGET:
            t->steps++;
            if (pc->a & 1) redmagic_forget(code, (size_t)(pc->a >> 2));
            else redmagic_forget(pc->a & 2 ? NULL : ids, pc->a & 4 ? 1 : (size_t)-1);
            break;
        case NEVER:
            t->steps++;
            t->misuse += !(pc->a & 1);
            redmagic_disable_branch(pc->a & 1 ? &ids[IDS / 2 + pc->a / 2 % (IDS / 2)] : NULL);
            if (pc->a & 1) disabled[IDS / 2 + pc->a / 2 % (IDS / 2)] = (uint8_t)started;
            break;
        case RESIDUAL:
            t->steps++;
            t->misuse += !(pc->a & 3);
            redmagic_do_not_trace_function(pc->a & 1 ? (void *)residual : pc->a & 2 ? (void *)ids : NULL);
            break;
        case START:
            if (!started) break;
            t->steps++;
            redmagic_start();
            break;
        case STATS:
            if (pc->a & 1) stats(t, pc->a & 2 ? sizeof(struct redmagic_stats) : (unsigned)pc->b);
            else t->steps++, t->misuse++, redmagic_get_stats(NULL, 100);
            break;
        case CONFIGURE: configure(t, (unsigned)pc->b); break;
        case SWITCH: /* off and on; for everybody, so only who is alone knows what to expect */
            if (!alone || !started || pc->a & 6) break;
            t->steps++;
            switched_off = (pc->a & 9) == 1;
            CHECK(redmagic_configure("enabled", switched_off ? "off" : "on") == 0);
            break;
        default: fail(t, __LINE__, "an instruction"); break;
        }
    }
}

/* ---- The same without the library. ---- */

static uint64_t plain_run(struct thread *t, const struct insn *code, uint64_t *r, long budget);

static NOINLINE uint64_t plain_attempt(struct thread *t, const struct insn *code, uint64_t *r, long budget) {
    jmp_buf here, *outer = t->escape;
    int level = t->level;
    uint64_t result = 77;
    t->escape = &here;
    if (!setjmp(here)) result = plain_run(t, code, r, budget);
    t->escape = outer;
    t->level = level;
    return result;
}

static uint64_t plain_run(struct thread *t, const struct insn *code, uint64_t *r, long budget) {
    for (const struct insn *pc = code;; pc++) {
        switch (pc->op) {
        case ADD: r[0] += (uint64_t)pc->b; break;
        case XOR: r[0] ^= r[pc->a & 3] << 1; break;
        case SUM: r[pc->a & 3] += r[0]; break;
        case CALL: r[0] = pc->a & 1 ? r[0] * 31 + 7 : r[0] * 5 + (r[0] >> 7); break;
        case BRANCH:
            if (--budget <= 0) return r[0];
            if (r[0] & 1) pc = code + pc->b - 1;
            break;
        case AGAIN:
            if (--budget <= 0) return r[0];
            pc = code - 1;
            break;
        case NEST:
            if (t->level < LEVELS && t->nests-- > 0) {
                t->level++;
                r[1] ^= pc->a & 1 ? plain_attempt(t, code, r, budget / 4) : plain_run(t, code, r, budget / 4);
                t->level--;
            }
            break;
        case ESCAPE:
            if (t->escape && (r[0] & 7) == 3) longjmp(*t->escape, 1);
            break;
        case PROBE:
            if (t->probes_left-- > 0)
                for (unsigned i = 0; i < PASSES; i++) r[2] = r[2] * 3 + i;
            break;
        default: break;
        }
    }
}

/* ---- A handler that does the same, on whatever thread. ---- */

static _Atomic long ticks, wrong;

static NOINLINE long in_handler(long x, int traced_at_all) {
    for (int i = 0; i < 40; i++) {
        redmagic_temp_disable();
        x = x * 3 + i;
        wrong += redmagic_is_traced();
        redmagic_temp_enable();
        redmagic_begin_merge_block();
        if (x & 1) x ^= i;
        redmagic_end_merge_block();
        if (traced_at_all) REDMAGIC_BACKWARDS_BRANCH(&ticks);
    }
    return x;
}

static NOINLINE long plain_handler(long x) {
    for (int i = 0; i < 40; i++) {
        x = x * 3 + i;
        if (x & 1) x ^= i;
    }
    return x;
}

static void handle(int signal) {
    long tick = ++ticks;
    (void)signal;
    if (in_handler(tick, tick & 1) != plain_handler(tick)) wrong++;
}

/* ---- Programs. ---- */

static void begin(struct thread *t) {
    t->escape = NULL;
    t->level = 0;
    t->nests = 40;
    t->probes_left = 25;
}

static void one_program(struct thread *t, struct insn *code) {
    /* Few kinds of calls in one program, so that their combinations are met often. */
    uint8_t favourites[4];
    for (int at = 0; at < 4; at++) favourites[at] = (uint8_t)(PROBE + random_number(t) % (OPS - PROBE));
    for (int at = 0; at < LENGTH - 1; at++) {
        uint64_t x = random_number(t);
        unsigned work = x % 8 < 4, any = x % 8 == 7;
        code[at].op = (uint8_t)(work ? (x >> 8) % (BRANCH + 1) : any ? (x >> 8) % OPS : favourites[(x >> 8) & 3]);
        code[at].a = (uint8_t)(x >> 16);
        code[at].b = (int16_t)((x >> 24) % LENGTH);
        /* What is disabled for good is seldom interesting. */
        if (code[at].op == DISABLE && x >> 56 & 7 && at < LENGTH - 2) code[++at] = (struct insn){ENABLE, (uint8_t)(x >> 48), 0};
    }
    code[LENGTH - 1].op = AGAIN;
    uint64_t r[4] = {random_number(t), 1, 2, 3}, expected[4];
    memcpy(expected, r, sizeof r);
    long budget = 40 + (long)(random_number(t) % 500);
    begin(t);
    uint64_t result = run(t, code, r, budget);
    redmagic_forget(code, LENGTH * sizeof *code); /* the one rule: what is declared immutable does not change */
    begin(t);
    CHECK(result == plain_run(t, code, expected, budget));
    CHECK(memcmp(r, expected, sizeof r) == 0);
    /* Sometimes the next program begins with what this one has left open. */
    while (t->depth > 0 && random_number(t) % 8) {
        redmagic_temp_enable();
        expect(t, ENABLE, ITSELF, 0);
    }
    stats(t, sizeof(struct redmagic_stats));
}

static void *programs(void *argument) {
    struct thread *t = argument;
    t->random = t->seed * 0x12345679;
    t->may_be_traced[0] = 1;
    struct insn *code = calloc(LENGTH, sizeof *code);
    for (uint64_t at = 0; at < t->programs; at++) one_program(t, code);
    free(code);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    uint64_t seed = strtoull(argv[1], NULL, 10), count = strtoull(argv[2], NULL, 10), threads = strtoull(argv[3], NULL, 10);
    struct thread before = {.seed = seed, .programs = 1}, *all = calloc(threads, sizeof *all);
    alone = 1;
    programs(&before);
    redmagic_start();
    /* Off means that it was never started. */
    struct thread *t = &before;
    int watching = redmagic_configure("hot_exit", "5") == 0;
    started = watching;
    redmagic_do_not_trace_function((void *)simple_not_followed);
    redmagic_do_not_trace_function((void *)attempt);
    redmagic_do_not_trace_function((void *)probe);
    redmagic_do_not_trace_function((void *)stats);
    redmagic_do_not_trace_function((void *)fail);
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
    struct itimerval often = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    if (SIGNALS && (sigaction(SIGALRM, &action, NULL) || setitimer(ITIMER_REAL, &often, NULL))) return 2;
    pthread_t handles[64];
    alone = threads <= 1;
    for (uint64_t at = 0; at < threads && at < 64; at++) {
        all[at] = (struct thread){.seed = seed * 100 + at, .programs = count, .misuse = alone ? before.misuse : 0};
        if (pthread_create(&handles[at], NULL, programs, &all[at]) != 0) return 2;
    }
    uint64_t steps = before.steps, misuse = alone ? 0 : before.misuse, traced = 0, probes = 0;
    for (uint64_t at = 0; at < threads && at < 64; at++) {
        pthread_join(handles[at], NULL);
        steps += all[at].steps;
        misuse += all[at].misuse;
        traced += all[at].traced;
        probes += all[at].probes;
    }
    if (setitimer(ITIMER_REAL, &never, NULL)) return 2;
    CHECK(wrong == 0);
    struct redmagic_stats statistics;
    redmagic_get_stats(&statistics, sizeof statistics);
    if (watching) CHECK(statistics.misuse == misuse);
    else CHECK(traced + probes == 0);
    printf("calls: %llu\ntraced: %s\n", (unsigned long long)steps, traced && probes ? "yes" : "no");
    printf("misuse after the start: %s\n", misuse > before.misuse ? "yes" : "no");
    return 0;
}
