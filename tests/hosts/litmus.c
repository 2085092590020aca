/*
 * What another thread may see of a hot loop's loads and stores. Every count is of outcomes that the memory model in force
 * forbids, so that 0 is right however the threads run. The argument says which test to run; which model promises what
 * stands in `tests/hosts.rs`. Standard error says how often threads saw each other at work.
 *
 * Stores, which another thread looks at in the opposite order:
 * writer        the loop stores data, then flag; who reads flag, then data, never finds the data older;
 * writer-twice  the data is stored again behind the flag, which is newer;
 * writer-index  the data goes to an entry of an array; a frame of the trace's own is pushed and popped before the flag;
 * writer-narrow the data is a long; an int, and then a byte beside it, are the flags;
 * publish       a fence, a call, a lock instruction and an exchange stand between five stores;
 * publish-loop  a loop stores the data, and a fence and the flag stand behind it.
 *
 * Loads, while another thread stores data, then flag:
 * reader        the loop loads data, flag, and data again, which it never finds older than the flag;
 * reader-slots  the flag is an entry of an array, another one each time;
 * reader-waits  the same with a loop that waits for the flag, mostly for a round, and becomes part of the one around it;
 * reader-call   a call stands between flag and data;
 * reader-fence  a fence does;
 * reader-lock   a lock instruction does;
 * reader-end    a hot loop is left in between: it waits for a flag that is some way off, and has loaded the data, too;
 * buffers       two loops store, execute a fence, and load what the other one stores: one of them sees the other's store.
 *
 * Two loops that increment two cells under a lock, beside a thread that takes it and never finds the two different; in the
 * end, both are as large as the number of increments:
 * mutex         the lock is taken and given back in calls, and a loop within each critical section increments;
 * mutex-hold    the loop that increments holds it, and gives it up in a call every so many iterations;
 * spin          as `mutex`, but with exchanges of the interpreter's own;
 * spin-store    the same, but given back by a plain store;
 * spin-short    as `spin`, but with one increment each time.
 *
 * Two loops that share data and flag under a lock, one of which stores the one and then the other, many times:
 * order         the other one never finds them different; the lock is that of `mutex`;
 * order-spin    the lock is that of `spin`.
 *
 * Loops that end once another thread, which has seen them running, has set the flag that they test:
 * flag          the loop counts in memory;
 * flag-field    it does so in another field of the object that the flag is a field of;
 * flag-counted  it counts up to a bound, too.
 *
 * Two loops that wait for each other in turn:
 * ping-pong     each finds the turn that it waits for, and none behind it;
 * messages      behind the loop that waits for the turn stands what was stored before it.
 */
#include "redmagic.h"
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

/* The interpreter: `a` and `b` are registers, but for what its cases say of `b`. */
enum {
    HALT, LOAD, LOAD_AT, LOAD_FIELD, STORE, STORE_AT, STORE_FIELD, STORE_INT, STORE_BYTE, ADDI, SET, FRAME, FENCE,
    COUNT, TAKE, GIVE, CALL, OLDER, UNEQUAL, REACHED, MASK, TEST, LOOP, UP
};
/* The register 0 counts iterations. */
enum { LEFT = 1, TRUTH = 4, BAD, NEXT, INNER, OBJECT, INDEX, REGISTERS };

struct insn {
    int op, a;
    volatile void *cell;
    long b;
};

static __attribute__((noinline)) long through_frame(long value) {
    volatile long local[2];
    local[0] = value;
    local[1] = local[0];
    return local[1];
}

#define CELL(type) ((volatile type *)pc->cell)
#define FIELD (((volatile long *)r[OBJECT])[pc->b])
#define BACK_IF(condition)                                                                                             \
    if (condition) {                                                                                                   \
        pc -= pc->b;                                                                                                   \
        REDMAGIC_BACKWARDS_BRANCH(pc);                                                                                 \
    } else {                                                                                                           \
        pc++;                                                                                                          \
    }                                                                                                                  \
    break

static __attribute__((noinline)) void run(const struct insn *code, long *r) {
    for (const struct insn *pc = code;;) {
        switch (pc->op) {
        case LOAD: r[pc->a] = *CELL(long); pc++; break;
        case LOAD_AT: r[pc->a] = CELL(long)[r[pc->b]]; pc++; break;
        case LOAD_FIELD: r[pc->a] = FIELD; pc++; break;
        case STORE: *CELL(long) = r[pc->a]; pc++; break;
        case STORE_AT: CELL(long)[r[pc->b]] = r[pc->a]; pc++; break;
        case STORE_FIELD: FIELD = r[pc->a]; pc++; break;
        case STORE_INT: *CELL(int) = (int)r[pc->a]; pc++; break;
        case STORE_BYTE: *CELL(unsigned char) = (unsigned char)r[pc->a]; pc++; break;
        case ADDI: r[pc->a] += pc->b; pc++; break;
        case SET: r[pc->a] = pc->b; pc++; break;
        case FRAME: r[pc->a] = through_frame(r[pc->a]); pc++; break;
        case FENCE: __sync_synchronize(); pc++; break;
        case COUNT: __sync_fetch_and_add(CELL(long), 1); pc++; break;
        case TAKE:
            while (__atomic_exchange_n(CELL(long), 1, __ATOMIC_SEQ_CST)) sched_yield();
            pc++;
            break;
        case GIVE: __atomic_exchange_n(CELL(long), 0, __ATOMIC_SEQ_CST); pc++; break;
        case CALL: ((void (*)(void))pc->cell)(); pc++; break;
        case OLDER: r[BAD] += r[pc->a] < r[pc->b]; pc++; break;
        case UNEQUAL: r[BAD] += r[pc->a] != r[pc->b]; pc++; break;
        case REACHED: r[TRUTH] = r[pc->a] >= r[pc->b]; pc++; break;
        case MASK: r[INDEX] = r[pc->a] & pc->b; pc++; break;
        case TEST: pc += r[pc->a] ? 1 + pc->b : 1; break;
        case LOOP: BACK_IF(--r[pc->a] > 0);
        case UP: BACK_IF(++r[pc->a] < r[LEFT]);
        default: return;
        }
    }
}

/* What threads share; each on a line of its own of the cache, but for what is together. */
enum { BUFFERED = 200000, SLOTS = 64 };
static volatile struct {
    long data __attribute__((aligned(64)));
    long flag __attribute__((aligned(64)));
    long over __attribute__((aligned(64)));
    long lock __attribute__((aligned(64)));
    long waiting __attribute__((aligned(64)));
    long own __attribute__((aligned(64)));
    long seen __attribute__((aligned(64)));
    long object[2] __attribute__((aligned(64)));
    long slots[SLOTS] __attribute__((aligned(64)));
    struct {
        long cell __attribute__((aligned(64)));
    } chain[5];
    struct {
        long data;
        int middle;
        unsigned char flag;
    } narrow __attribute__((aligned(64)));
    long buffered[2][BUFFERED + 1];
} shared;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t ready;

static __attribute__((noinline)) void nothing(void) { __asm__ volatile("" : : : "memory"); }

static void yield(void) { sched_yield(); }

static void take(void) {
    __sync_fetch_and_add(&shared.waiting, 1);
    pthread_mutex_lock(&mutex);
    __sync_fetch_and_sub(&shared.waiting, 1);
}

/* Others need a while to wake up. */
static __attribute__((noinline)) void linger(void) {
    for (int at = 0; at < 400 && shared.waiting; at++) sched_yield();
}

static void give(void) {
    pthread_mutex_unlock(&mutex);
    linger();
}

static void give_up(void) {
    give();
    take();
}

#define CALLS(function) {CALL, 0, (void *)(function), 0}
#define COUNTED {ADDI, 0, 0, 1}
#define WRITES(cell) {STORE, 0, &shared.cell, 0}
#define ENDS(length) {LOOP, LEFT, 0, length}, {HALT, 0, 0, 0}
/* Flag, what else there is, data, which was loaded before, too. */
#define READS(...)                                                                                                     \
    {LOAD, 3, &shared.data, 0}, {LOAD, 2, &shared.flag, 0}, __VA_ARGS__ {LOAD, 3, &shared.data, 0}, {OLDER, 3, 0, 2}

/* Waits until `cell`, loaded by `load`, is as large as register 0, at least once round; others may have the processor. */
#define WAITS(load, cell, index)                                                                                       \
    {SET, INNER, 0, 20000}, {SET, TRUTH, 0, 0},                                                                        \
        {TEST, TRUTH, 0, 3}, {load, 2, cell, index}, {REACHED, 2, 0, 0}, {LOOP, INNER, 0, 3},                          \
        {TEST, TRUTH, 0, 3}, CALLS(yield), {SET, INNER, 0, 2}, {LOOP, INNER, 0, 9}
enum { WAIT = 10 };

#define MUTEX_TAKE CALLS(take)
#define MUTEX_GIVE CALLS(give)
#define SPIN_TAKE {TAKE, 0, &shared.lock, 0}
#define SPIN_GIVE {GIVE, 0, &shared.lock, 0}, CALLS(yield)
#define STORE_TAKE SPIN_TAKE
#define STORE_GIVE {SET, 3, 0, 0}, {STORE, 3, &shared.lock, 0}, CALLS(yield)
/* A loop of the length `length` with a lock held, within a loop. */
#define HOLDS(lock, times, length, ...)                                                                                \
    lock##_TAKE, {SET, INNER, 0, times}, __VA_ARGS__, {LOOP, INNER, 0, length}, lock##_GIVE
#define INCREMENTS                                                                                                     \
    {LOAD, 2, &shared.data, 0}, {ADDI, 2, 0, 1}, {STORE, 2, &shared.data, 0},                                          \
    {LOAD, 3, &shared.flag, 0}, {ADDI, 3, 0, 1}, {STORE, 3, &shared.flag, 0}
#define TELLS COUNTED, WRITES(data), WRITES(flag)
#define COMPARES {LOAD, 2, &shared.flag, 0}, {LOAD, 3, &shared.data, 0}, {UNEQUAL, 2, 0, 3}
#define MASKED {MASK, 0, 0, SLOTS - 1}
/* How often loops go round: those that go on and on, those with others within them, those that others wait for. */
enum { LONG = 300000, SHORT = 100000, HELD = 1000, TIMES = 50, TURNS = 300, ENOUGH = 2000 };

enum code {
    NO_CODE, WRITER, WRITER_TWICE, WRITER_INDEX, WRITER_NARROW, PUBLISH, PUBLISH_LOOP, READER, READER_SLOTS,
    READER_WAITS, READER_CALL, READER_FENCE, READER_LOCK, READER_END, BUFFERS, BUFFERS_OTHER, MUTEX, MUTEX_HOLD,
    SPIN, SPIN_STORE, SPIN_SHORT, ORDER, ORDER_OTHER, ORDER_SPIN, ORDER_SPIN_OTHER, FLAG, FLAG_FIELD, FLAG_COUNTED,
    PING, PONG, SENDS, RECEIVES, CODES
};

static const struct insn codes[CODES][18] = {
    [WRITER] = {COUNTED, WRITES(data), WRITES(flag), ENDS(3)},
    [WRITER_TWICE] = {COUNTED, WRITES(data), WRITES(flag), COUNTED, WRITES(data), ENDS(5)},
    [WRITER_INDEX] = {COUNTED, MASKED, {STORE_AT, 0, shared.slots, INDEX}, {FRAME, 0, 0, 0}, WRITES(flag), ENDS(5)},
    [WRITER_NARROW] = {COUNTED, WRITES(narrow.data), {STORE_INT, 0, &shared.narrow.middle, 0},
                       {STORE_BYTE, 0, &shared.narrow.flag, 0}, ENDS(4)},
    [PUBLISH] = {COUNTED, WRITES(chain[4].cell), {FENCE, 0, 0, 0}, WRITES(chain[3].cell), CALLS(nothing),
                 WRITES(chain[2].cell), {COUNT, 0, &shared.own, 0}, WRITES(chain[1].cell), {GIVE, 0, &shared.lock, 0},
                 WRITES(chain[0].cell), ENDS(10)},
    [PUBLISH_LOOP] = {{SET, INNER, 0, TIMES}, COUNTED, WRITES(data), {LOOP, INNER, 0, 2}, {FENCE, 0, 0, 0}, WRITES(flag),
                      ENDS(6)},
    [READER] = {READS(), ENDS(4)},
    [READER_SLOTS] = {COUNTED, MASKED, {LOAD_AT, 2, shared.slots, INDEX}, {REACHED, 2, 0, 0}, {TEST, TRUTH, 0, 3},
                      {ADDI, 0, 0, -1}, CALLS(yield), {LOOP, LEFT, 0, 7},
                      {LOAD, 3, &shared.data, 0}, {OLDER, 3, 0, 0}, ENDS(10)},
    [READER_WAITS] = {COUNTED, MASKED, WAITS(LOAD_AT, shared.slots, INDEX), {LOAD, 3, &shared.data, 0}, {OLDER, 3, 0, 0},
                      ENDS(WAIT + 4)},
    [READER_CALL] = {READS(CALLS(nothing),), ENDS(5)},
    [READER_FENCE] = {READS({FENCE, 0, 0, 0},), ENDS(5)},
    [READER_LOCK] = {READS({COUNT, 0, &shared.own, 0},), ENDS(5)},
    [READER_END] = {{LOAD, NEXT, &shared.flag, 0}, {ADDI, NEXT, 0, 20}, {SET, INNER, 0, 500}, {SET, TRUTH, 0, 0},
                    {TEST, TRUTH, 0, 4}, {LOAD, 3, &shared.data, 0}, {LOAD, 2, &shared.flag, 0}, {REACHED, 2, 0, NEXT},
                    {LOOP, INNER, 0, 4}, {LOAD, 3, &shared.data, 0}, {OLDER, 3, 0, 2}, ENDS(11)},
    [BUFFERS] = {COUNTED, WRITES(data), {FENCE, 0, 0, 0}, {LOAD, 2, &shared.flag, 0},
                 {STORE_AT, 2, shared.buffered[0], 0}, ENDS(5)},
    [BUFFERS_OTHER] = {COUNTED, WRITES(flag), {FENCE, 0, 0, 0}, {LOAD, 2, &shared.data, 0},
                       {STORE_AT, 2, shared.buffered[1], 0}, ENDS(5)},
    [MUTEX] = {HOLDS(MUTEX, TIMES, 6, INCREMENTS), ENDS(10)},
    [MUTEX_HOLD] = {CALLS(take), INCREMENTS, COUNTED, MASKED, {TEST, INDEX, 0, 1}, CALLS(give_up), {LOOP, LEFT, 0, 10},
                    CALLS(give), {HALT, 0, 0, 0}},
    [SPIN] = {HOLDS(SPIN, TIMES, 6, INCREMENTS), ENDS(11)},
    [SPIN_STORE] = {HOLDS(STORE, TIMES, 6, INCREMENTS), ENDS(12)},
    [SPIN_SHORT] = {SPIN_TAKE, INCREMENTS, SPIN_GIVE, ENDS(9)},
    [ORDER] = {HOLDS(MUTEX, TIMES, 3, TELLS), ENDS(7)},
    [ORDER_OTHER] = {HOLDS(MUTEX, 3, 3, COMPARES), ENDS(7)},
    [ORDER_SPIN] = {HOLDS(SPIN, TIMES, 3, TELLS), ENDS(8)},
    [ORDER_SPIN_OTHER] = {HOLDS(SPIN, 3, 3, COMPARES), ENDS(8)},
    [FLAG] = {COUNTED, WRITES(object[0]), {LOAD, 2, &shared.object[1], 0}, {TEST, 2, 0, 1}, ENDS(4)},
    [FLAG_FIELD] = {{LOAD_FIELD, 3, 0, 0}, {ADDI, 3, 0, 1}, {STORE_FIELD, 3, 0, 0}, {LOAD_FIELD, 2, 0, 1},
                    {TEST, 2, 0, 1}, ENDS(5)},
    [FLAG_COUNTED] = {WRITES(object[0]), MASKED, {STORE_AT, 0, shared.slots, INDEX}, {LOAD, 2, &shared.object[1], 0},
                      {TEST, 2, 0, 1}, {UP, 0, 0, 5}, {HALT, 0, 0, 0}},
    [PING] = {COUNTED, WRITES(flag), WAITS(LOAD, &shared.data, 0), {OLDER, 0, 0, 2}, ENDS(WAIT + 3)},
    [PONG] = {COUNTED, WAITS(LOAD, &shared.flag, 0), {OLDER, 0, 0, 2}, WRITES(data), ENDS(WAIT + 3)},
    [SENDS] = {COUNTED, WRITES(object[0]), WRITES(flag), WAITS(LOAD, &shared.data, 0), ENDS(WAIT + 3)},
    [RECEIVES] = {COUNTED, WAITS(LOAD, &shared.flag, 0), {LOAD, 3, &shared.object[0], 0}, {UNEQUAL, 0, 0, 3}, WRITES(data),
                  ENDS(WAIT + 4)},
};

/* What native threads do; each returns how often it has seen what is forbidden. */

static long older(long data, long flag) {
    static long last;
    shared.seen += flag != last;
    last = flag;
    return data < flag;
}

static long read_both(void) {
    long flag = shared.flag;
    return older(shared.data, flag);
}

static long read_slot(void) {
    long flag = shared.flag;
    return older(shared.slots[flag % SLOTS], flag);
}

/* The byte's count is known if not many others were stored meanwhile: it is one of those from `before` - 1 to `middle`. */
static long read_narrow(void) {
    long before = shared.narrow.middle;
    unsigned char flag = shared.narrow.flag;
    long middle = shared.narrow.middle;
    long bad = middle - before < 200 && (unsigned char)(flag - (before - 1)) > middle - (before - 1);
    return bad + older(shared.narrow.data, middle);
}

static long read_chain(void) {
    long bad = 0, flag = shared.chain[0].cell;
    for (int at = 1; at < 5; at++) {
        long data = shared.chain[at].cell;
        bad += older(data, flag);
        flag = data;
    }
    return bad;
}

/* Now and then, readers catch up. */
static long write_both(void) {
    long at = shared.flag + 1;
    shared.data = at;
    shared.flag = at;
    shared.slots[at % SLOTS] = at;
    for (int rest = at % 4096 ? 5 : 1000; rest > 0; rest--) __builtin_ia32_pause();
    shared.seen++;
    return 0;
}

static long compare_both(void) {
    long data = shared.data;
    return older(data, shared.flag) + (data != shared.flag);
}

static long compare_in_mutex(void) {
    take();
    long bad = compare_both();
    give();
    return bad;
}

static long compare_in_spin(void) {
    while (__atomic_exchange_n(&shared.lock, 1, __ATOMIC_SEQ_CST)) sched_yield();
    long bad = compare_both();
    __atomic_store_n(&shared.lock, 0, __ATOMIC_RELEASE);
    sched_yield();
    return bad;
}

static long set_flag(void) {
    static long enough;
    if (enough == 0) enough = shared.object[0] + 1000;
    if (shared.object[0] < enough) {
        sched_yield();
    } else {
        enough = 0;
        shared.object[1] = 1;
        shared.over = 1;
    }
    return 0;
}

/* Of those that store into buffers before they load, one saw the other's store. */
static long both_blind(void) {
    long bad = 0;
    for (long at = 1; at <= BUFFERED; at++) bad += shared.buffered[0][at] < at && shared.buffered[1][at] < at;
    return bad;
}

static const struct test {
    const char *name;
    enum code code, other;
    /* How often the codes go round; how often they are run, but for the first two only until enough was seen. */
    long rounds;
    int runs;
    /* What a third thread does until the loops have ended. */
    long (*native)(void);
    /* Data and flag in the end, if not 0. */
    long total;
    long (*after)(void);
} tests[] = {
    {"writer", WRITER, NO_CODE, LONG, 30, read_both, LONG, 0},
    {"writer-twice", WRITER_TWICE, NO_CODE, LONG, 30, read_both, 0, 0},
    {"writer-index", WRITER_INDEX, NO_CODE, LONG, 30, read_slot, 0, 0},
    {"writer-narrow", WRITER_NARROW, NO_CODE, LONG, 30, read_narrow, 0, 0},
    {"publish", PUBLISH, NO_CODE, SHORT, 10, read_chain, 0, 0},
    {"publish-loop", PUBLISH_LOOP, NO_CODE, SHORT, 10, read_both, SHORT * TIMES, 0},
    {"reader", READER, NO_CODE, LONG, 10, write_both, 0, 0},
    {"reader-slots", READER_SLOTS, NO_CODE, SHORT, 10, write_both, 0, 0},
    {"reader-waits", READER_WAITS, NO_CODE, SHORT, 10, write_both, 0, 0},
    {"reader-call", READER_CALL, NO_CODE, SHORT, 10, write_both, 0, 0},
    {"reader-fence", READER_FENCE, NO_CODE, SHORT, 10, write_both, 0, 0},
    {"reader-lock", READER_LOCK, NO_CODE, SHORT, 10, write_both, 0, 0},
    {"reader-end", READER_END, NO_CODE, SHORT / 5, 10, write_both, 0, 0},
    {"buffers", BUFFERS, BUFFERS_OTHER, BUFFERED, 2, 0, 0, both_blind},
    {"mutex", MUTEX, MUTEX, HELD, 5, compare_in_mutex, 2 * HELD * TIMES, 0},
    {"mutex-hold", MUTEX_HOLD, MUTEX_HOLD, HELD * TIMES, 5, compare_in_mutex, 2 * HELD * TIMES, 0},
    {"spin", SPIN, SPIN, HELD, 5, compare_in_spin, 2 * HELD * TIMES, 0},
    {"spin-store", SPIN_STORE, SPIN_STORE, HELD, 5, compare_in_spin, 2 * HELD * TIMES, 0},
    {"spin-short", SPIN_SHORT, SPIN_SHORT, HELD, 5, compare_in_spin, 2 * HELD, 0},
    {"order", ORDER, ORDER_OTHER, HELD, 5, compare_in_mutex, HELD * TIMES, 0},
    {"order-spin", ORDER_SPIN, ORDER_SPIN_OTHER, HELD, 5, compare_in_spin, HELD * TIMES, 0},
    {"flag", FLAG, NO_CODE, 1L << 60, 10, set_flag, 0, 0},
    {"flag-field", FLAG_FIELD, NO_CODE, 1L << 60, 10, set_flag, 0, 0},
    {"flag-counted", FLAG_COUNTED, NO_CODE, 1L << 60, 10, set_flag, 0, 0},
    {"ping-pong", PING, PONG, TURNS, 2, 0, TURNS, 0},
    {"messages", SENDS, RECEIVES, TURNS, 2, 0, TURNS, 0},
};

static void *native(void *what) {
    long bad = 0;
    pthread_barrier_wait(&ready);
    while (!shared.over) bad += ((const struct test *)what)->native();
    return (void *)bad;
}

static long interpret(enum code code, long rounds) {
    long r[REGISTERS] = {[LEFT] = rounds, [OBJECT] = (long)shared.object};
    pthread_barrier_wait(&ready);
    run(codes[code], r);
    return r[BAD];
}

static void *interpret_other(void *what) {
    const struct test *test = what;
    return (void *)interpret(test->other, test->rounds);
}

/* Runs a test's codes beside its native thread. */
static long once(const struct test *test) {
    pthread_t threads[2];
    int started = 0;
    long seen = shared.seen;
    memset((void *)&shared, 0, sizeof shared);
    shared.seen = seen;
    pthread_barrier_init(&ready, 0, 1 + (test->other != NO_CODE) + (test->native != 0));
    if (test->other != NO_CODE && pthread_create(&threads[started++], 0, interpret_other, (void *)test)) return -1;
    if (test->native && pthread_create(&threads[started++], 0, native, (void *)test)) return -1;
    long bad = interpret(test->code, test->rounds);
    for (int at = 0; at < started; at++) {
        void *result;
        if (at > 0 || test->other == NO_CODE) shared.over = 1;
        pthread_join(threads[at], &result);
        bad += (long)result;
    }
    pthread_barrier_destroy(&ready);
    if (test->total) bad += (shared.data != test->total) + (shared.flag != test->total);
    return bad + (test->after ? test->after() : 0);
}

int main(int argc, char **argv) {
    redmagic_start();
    redmagic_assume_immutable(codes, sizeof codes);
    redmagic_do_not_trace_function((void *)nothing);
    redmagic_do_not_trace_function((void *)linger);
    for (const struct test *test = tests; test < tests + sizeof tests / sizeof *tests; test++) {
        if (argc < 2 || strcmp(argv[1], test->name)) continue;
        long bad = 0;
        for (int at = 0; at < 2 || (at < test->runs && shared.seen < ENOUGH); at++) bad += once(test);
        printf("%s %ld\n", test->name, bad);
        fprintf(stderr, "seen %ld\n", shared.seen);
    }
    return 0;
}
