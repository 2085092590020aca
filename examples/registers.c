/*
 * registers: a register machine, and a program for it that squares a number by adding it to itself.
 *
 *     MOV a, b        register b becomes register a
 *     ADD a, b        register b grows by register a
 *     DECR a          register a is one less
 *     JUMP_IF a, t    to t if register a is not 0
 *     PRINT a
 *     HALT
 *
 * This is the example with which papers on tracing interpreters begin: in a good trace of the loop nothing is left of
 * the instructions themselves. What remains is one addition, one subtraction, one test, and the registers.
 * Usage: registers [number…]
 */
#include "redmagic.h"
#include <stdio.h>
#include <stdlib.h>

enum { MOV, ADD, DECR, JUMP_IF, PRINT, HALT };

static const int square[] = {
    MOV, 0, 1,      /*  0: counter */
    MOV, 0, 2,      /*  3: what is added */
    ADD, 2, 3,      /*  6: the loop */
    DECR, 1,        /*  9 */
    JUMP_IF, 1, 6,  /* 11 */
    PRINT, 3,       /* 14 */
    HALT,           /* 16 */
};

static void run(const int *code, long *registers) {
    const int *pc = code;
    for (;;) {
        switch (*pc) {
        case MOV:
            registers[pc[2]] = registers[pc[1]];
            pc += 3;
            break;
        case ADD:
            registers[pc[2]] += registers[pc[1]];
            pc += 3;
            break;
        case DECR:
            registers[pc[1]]--;
            pc += 2;
            break;
        case JUMP_IF:
            if (registers[pc[1]] != 0) {
                const int *target = code + pc[2];
                int backwards = target <= pc;
                pc = target;
                REDMAGIC_BACKWARDS_BRANCH_IF(backwards, pc);
            } else {
                pc += 3;
            }
            break;
        case PRINT:
            printf("%ld\n", registers[pc[1]]);
            pc += 2;
            break;
        default:
            return;
        }
    }
}

int main(int argc, char **argv) {
    redmagic_start();
    redmagic_configure("memory_model", "interpreter-lock"); /* there is one thread */
    redmagic_assume_immutable(square, sizeof square);
    for (int at = 1; at < argc || at == 1; at++) {
        long registers[4] = {argc > 1 ? atol(argv[at]) : 20000};
        run(square, registers);
    }
    return 0;
}
