/*
 * accumulator: the smallest language that can loop. It has one register and three instructions.
 *
 *     +   increase the accumulator
 *     -   decrease the accumulator
 *     <   jump back three instructions while the accumulator is below the limit
 *
 * Two annotations make its loops fast: the program text is declared immutable, so that a trace need not look at it, and
 * the backward jump is an anchor. Usage: accumulator [limit [program]]
 */
#include "redmagic.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static long run(const char *program, long limit) {
    const char *pc = program;
    long accumulator = 0;
    for (;;) {
        switch (*pc++) {
        case '+':
            accumulator++;
            break;
        case '-':
            accumulator--;
            break;
        case '<':
            if (accumulator < limit) {
                pc -= 4; /* this instruction, and three */
                REDMAGIC_BACKWARDS_BRANCH(pc);
            }
            break;
        default:
            return accumulator;
        }
    }
}

int main(int argc, char **argv) {
    long limit = argc > 1 ? atol(argv[1]) : 1000000;
    const char *program = argc > 2 ? argv[2] : "++-<";
    redmagic_start();
    redmagic_configure("memory_model", "interpreter-lock"); /* there is one thread */
    redmagic_assume_immutable(program, strlen(program) + 1);
    printf("%ld\n", run(program, limit));
    redmagic_forget(program, strlen(program) + 1);
    return 0;
}
