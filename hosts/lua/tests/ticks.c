/*
 * Loaded in front of a program (LD_PRELOAD): a signal every millisecond of real time, with a handler that uses integer,
 * vector and x87 registers as any handler may. The file named by TICKS gets the number of signals when the program exits.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

static volatile sig_atomic_t ticks;
static volatile double sum;
static volatile long double wide;
static char copy[256], pattern[256];

static void tick(int signal) {
    (void)signal;
    ticks = ticks + 1;
    sum = sum * 0.5 + ticks;
    wide = wide * 0.25L + sum;
    memset(pattern, (int)ticks, sizeof pattern);
    memcpy(copy, pattern, sizeof copy);
}

__attribute__((constructor)) static void begin(void) {
    struct sigaction action;
    struct itimerval every = {{0, 1000}, {0, 1000}};
    memset(&action, 0, sizeof action);
    action.sa_handler = tick;
    action.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
}

__attribute__((destructor)) static void end(void) {
    const char *name = getenv("TICKS");
    FILE *file = name != NULL ? fopen(name, "w") : NULL;
    if (file == NULL) return;
    fprintf(file, "%ld\n", (long)ticks);
    fclose(file);
}
