/* What residual calls cost: an iteration makes eight calls of a function of the C library that the library knows nothing of,
 * and 24 values live across all of them. docs/performance.md says how to run it. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "redmagic.h"

#define VALUES(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11) f(12) f(13) f(14) f(15) f(16) f(17) f(18) \
    f(19) f(20) f(21) f(22) f(23)
#define LOAD(k) uint32_t v##k = fields[k];
#define ADD(k) x += v##k ^ x;

static uint32_t run(const volatile uint32_t *fields, long rounds, uint32_t (*call)(uint32_t)) {
    uint32_t x = 0;
    for (;;) {
        VALUES(LOAD)
        x = call(x), x = call(x ^ 5), x = call(x + 3), x = call(x ^ 7);
        x = call(x ^ 1), x = call(x + 9), x = call(x ^ 4), x = call(x);
        VALUES(ADD)
        if (--rounds <= 0)
            return x;
        REDMAGIC_BACKWARDS_BRANCH((void *)fields);
    }
}

int main(int count, char **args) {
    static volatile uint32_t fields[24] = {1, 2, 3};
    long rounds = count > 1 ? atol(args[1]) : 3000000;
    redmagic_start();
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    uint32_t result = run(fields, rounds, htonl);
    clock_gettime(CLOCK_MONOTONIC, &end);
    double ns = (end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec);
    printf("%u, %.1f ns for each call\n", result, ns / rounds / 8);
    return 0;
}
