/*
 * Signal handlers a thousand times a second over hot loops: one runs a hot loop itself, one sets a flag that a loop
 * waits for, one jumps out of the loop.
 */
#include "vm.h"
#include <setjmp.h>
#include <signal.h>
#include <sys/time.h>
#include <time.h>

static volatile long ticks, wrong;
static volatile sig_atomic_t flag;
static sigjmp_buf out;
static volatile int mode; /* 0: run a loop, 1: set the flag, 2: jump out every few ticks */

static const struct vm_insn small[] = {{VM_ADDI, 0, 2}, {VM_XOR, 0, 1}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0}};

static long plain(long x, long count) {
    for (; count > 0; count--) {
        x += 2;
        x ^= count;
    }
    return x;
}

static void on_tick(int number) {
    (void)number;
    ticks++;
    long r[8] = {ticks, 60};
    if (vm_run(small, r) != plain(ticks, 60)) wrong++;
    if (mode == 1 && ticks % 5 == 0) flag = 1;
    if (mode == 2 && ticks % 3 == 0) siglongjmp(out, 1);
}

static VM_NOINLINE long residual(long *r) {
    /* Long enough to be interrupted here too. */
    volatile long x = r[0];
    for (int at = 0; at < 50; at++) x = x * 3 + at;
    return x & 0xff;
}

static const struct vm_insn work[] = {
    {VM_ADDI, 0, 3}, {VM_ODD, 0, 0}, {VM_XOR, 0, 1}, {VM_CALL, 2, VM_C(residual)}, {VM_ADD, 0, 2}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};

static long plain_work(long x, long count) {
    for (; count > 0; count--) {
        long r[1];
        x += 3;
        if (x & 1) x ^= count;
        r[0] = x;
        x += residual(r);
    }
    return x;
}

/* An interpreter's loop that tests the flag itself. */
static VM_NOINLINE long wait_for_flag(const char *code) {
    long count = 0;
    const char *pc = code;
    for (;;) {
        switch (*pc++) {
        case '+': count++; break;
        case '-': count--; break;
        case '?':
            if (!flag) {
                pc = code;
                REDMAGIC_BACKWARDS_BRANCH(pc);
            }
            break;
        default: return count;
        }
    }
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

int main(void) {
    redmagic_start();
    redmagic_do_not_trace_function(residual);
    redmagic_do_not_trace_function(on_tick);
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_tick;
#ifdef OWN_STACK
    stack_t stack = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
    sigaltstack(&stack, NULL);
    action.sa_flags = SA_ONSTACK | SA_RESTART;
#else
    action.sa_flags = SA_RESTART;
#endif
    sigaction(SIGALRM, &action, NULL);
    struct itimerval every = {{0, 1000}, {0, 1000}};
    setitimer(ITIMER_REAL, &every, NULL);

    /* The clocks end what goes wrong; a busy machine is given time. */
    double end = now() + 20;
    long bad = 0;
    for (long round = 0; ticks < 300 && now() < end; round++) {
        long r[8] = {round, 200};
        if (vm_run(work, r) != plain_work(round, 200)) bad++;
    }
    printf("under fire: %ld wrong, in handlers: %ld wrong, ticked: %d\n", bad, wrong, ticks >= 300);

    mode = 1;
    long counts = 0;
    for (int round = 0; round < 20; round++) {
        flag = 0;
        counts += wait_for_flag("++-?.") > 0;
    }
    printf("waited: %ld\n", counts);

    mode = 2;
    volatile long jumps = 0, finished = 0;
    double late = now() + 20;
    while (jumps < 60 && now() < late) {
        if (sigsetjmp(out, 1)) {
            jumps++;
            continue;
        }
        long r[8] = {jumps, 3000000};
        vm_run(work, r);
        finished++;
    }
    mode = 0;
    printf("jumped out: %d\n", jumps >= 60);
    for (long round = 0; round < 50; round++) {
        long r[8] = {round, 200};
        if (vm_run(work, r) != plain_work(round, 200)) bad++;
    }
    printf("afterwards: %ld wrong\n", bad);
    return 0;
}
