/* fork in the middle of hot loops: child and parent both go on, with other work afterwards, and both must be right. */
#include "vm.h"
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct vm_insn work[] = {
    {VM_ADDI, 0, 3}, {VM_ODD, 0, 0}, {VM_XOR, 0, 1}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};

static long plain(long *r, long count) {
    long x = r[0];
    for (; count > 0; count--) {
        x += 3;
        if (x & 1) x ^= count;
    }
    return x;
}

/* A loop compiled before the fork, and one with new code: both in this process alone. */
static int both_are_right(void) {
    long r[8] = {5, 400}, expected = plain(r, 400);
    if (vm_run(work, r) != expected) return 0;
    struct vm_insn fresh[sizeof work / sizeof *work];
    memcpy(fresh, work, sizeof work);
    long s[8] = {9, 700};
    expected = plain(s, 700);
    return vm_run(fresh, s) == expected;
}

static int children;

static VM_NOINLINE long fork_sometimes(long *r) {
    if (r[1] % 60 != 0) return r[1];
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        children = -1; /* the child goes on in the same loop, and forks no more */
        return r[1];
    }
    if (children >= 0) {
        int status;
        waitpid(child, &status, 0);
        children++;
        printf("child: %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
        return r[1];
    }
    return r[1];
}

static VM_NOINLINE long fork_unless_child(long *r) { return children < 0 ? r[1] : fork_sometimes(r); }

static const struct vm_insn forking[] = {
    {VM_ADDI, 0, 1}, {VM_CALL, 2, VM_C(fork_unless_child)}, {VM_ADD, 0, 2}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};

static volatile int stop;

static void *busy(void *argument) {
    long bad = 0;
    (void)argument;
    while (!stop) bad += !both_are_right();
    return (void *)bad;
}

int main(void) {
    redmagic_start();
#ifndef TRACED
    redmagic_do_not_trace_function(fork_unless_child);
#endif
    pthread_t other;
    pthread_create(&other, NULL, busy, NULL);
    long r[8] = {0, 301};
    long sum = vm_run(forking, r);
    int right = both_are_right();
    if (children < 0) _exit(sum == 301 + 301 * 302 / 2 && right ? 42 : 1);
    stop = 1;
    void *bad;
    pthread_join(other, &bad);
    printf("parent: %ld %d %d, other thread: %ld\n", sum, right, children, (long)bad);
    return 0;
}
