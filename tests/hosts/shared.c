/*
 * What threads share: eight of them run the same loops, whose branches go other ways in each, so that one records what another
 * enters, exits become side traces while others take them, and links are made and taken back under everybody's feet.
 * Meanwhile one thread forgets the programs again and again, one disables loops of its own, one changes options and
 * reads the statistics, and one forks children that go on with the same loops.
 */
#include "vm.h"
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS = 8, ROUNDS = 60, PROGRAMS = 6 };

static VM_NOINLINE long twist(long *r) { return (r[0] >> 3) ^ r[4]; }

/* Every program with a few branches, which the contents of the registers decide. */
static struct vm_insn programs[PROGRAMS][12] = {
    {{VM_ADDI, 0, 3}, {VM_ODD, 0, 0}, {VM_XOR, 0, 1}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0}},
    {{VM_ADD, 0, 4}, {VM_ODD, 0, 0}, {VM_ADDI, 0, 5}, {VM_ODD, 1, 0}, {VM_XOR, 0, 4}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0}},
    {{VM_CALL, 2, VM_C(twist)}, {VM_ADD, 0, 2}, {VM_ODD, 2, 0}, {VM_ADDI, 0, 9}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0}},
    {{VM_ADDI, 3, 7}, {VM_XOR, 0, 3}, {VM_LOOP, 3, 1}, {VM_ADD, 0, 1}, {VM_ODD, 0, 0}, {VM_ADDI, 3, 4}, {VM_LOOP, 1, 1}, {VM_HALT, 0, 0}},
    {{VM_CALL, 2, VM_C(twist)}, {VM_XOR, 0, 2}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0}},
    {{VM_ADDI, 0, -1}, {VM_ODD, 0, 0}, {VM_ADD, 0, 1}, {VM_ODD, 4, 0}, {VM_XOR, 0, 1}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0}},
};

static volatile int over;

static long run(long seed, int round) {
    int which = (int)((seed * 7 + round) % PROGRAMS);
    long r[8] = {seed * 1001 + round, 120, 0, which == 3 ? 3 : 0, seed};
    return vm_run(programs[which], r);
}

static void *work(void *argument) {
    long seed = (long)argument, sum = 0;
    for (int round = 0; round < ROUNDS; round++) sum = sum * 31 + run(seed, round);
    return (void *)sum;
}

static void *forget(void *argument) {
    for (unsigned at = 0; !over; at++) {
        redmagic_assume_immutable(programs[at % PROGRAMS], sizeof programs[0]);
        usleep(700);
        redmagic_forget(programs[at % PROGRAMS], sizeof programs[0]);
    }
    return argument;
}

static void *disable(void *argument) {
    for (unsigned at = 0; !over; at++) {
        struct vm_insn own[] = {{VM_ADDI, 0, at}, {VM_XOR, 0, 1}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0}};
        long r[8] = {at, 150};
        if (at % 3 == 0) redmagic_disable_branch(own);
        vm_run(own, r);
        redmagic_forget(own, sizeof own);
        usleep(300);
    }
    return argument;
}

static void *look(void *argument) {
    static const char *const values[] = {"1", "3", "20"};
    for (unsigned at = 0; !over; at++) {
        struct redmagic_stats stats;
        redmagic_get_stats(&stats, sizeof stats);
        redmagic_configure("hot_exit", values[at % 3]);
        usleep(500);
    }
    return argument;
}

static void *breed(void *argument) {
    for (long at = 0; !over; at++) {
        pid_t child = fork();
        if (child == 0) {
            long sum = 0;
            for (int round = 0; round < 4; round++) sum += run(3, round);
            _exit(sum == (long)argument ? 0 : 1);
        }
        int status = 1;
        if (waitpid(child, &status, 0) != child || status != 0) puts("a child went wrong");
        usleep(3000);
    }
    return NULL;
}

int main(void) {
    void *(*const others[])(void *) = {forget, disable, look, breed};
    enum { OTHERS = sizeof others / sizeof *others };
    pthread_t workers[WORKERS], more[OTHERS];
    long expected = 0;
    for (int round = 0; round < 4; round++) expected += run(3, round);
    redmagic_start();
    redmagic_do_not_trace_function(twist);
    for (int at = 0; at < OTHERS; at++) pthread_create(&more[at], NULL, others[at], (void *)expected);
    for (int time = 0; time < 3; time++) {
        for (long at = 0; at < WORKERS; at++) pthread_create(&workers[at], NULL, work, (void *)(at + 8 * time + 1));
        for (int at = 0; at < WORKERS; at++) {
            void *result;
            pthread_join(workers[at], &result);
            printf("%d %d: %lx\n", time, at, (unsigned long)result);
        }
    }
    over = 1;
    for (int at = 0; at < OTHERS; at++) pthread_join(more[at], NULL);
    return 0;
}
