/*
 * Interpreted programs in memory that is written to and never declared: one with instructions of three bytes, one with words of 32
 * bits. Programs rewrite an operand of theirs, as an inline cache is filled, or an operation, now and then or in every iteration.
 * With -DDECLARED the programs that do not change are declared, for comparison.
 */
#include "redmagic.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum op {
    ADDI,   /* r[a] += b */
    ADD,    /* r[a] += r[b] */
    XOR,    /* r[a] ^= r[b] */
    SHIFT,  /* r[a] = r[a] << 1 | r[a] < 0 */
    CACHE,  /* if r[a] is a multiple of the period, one is added to the operand b instructions before this one */
    CHANGE, /* as CACHE, but the operation b instructions before this one becomes another */
    COUNT,  /* the instruction's own operand b grows by one; r[a] becomes it */
    ODD,    /* if r[a] is even, the next instruction is skipped, without a jump */
    LOOP,   /* if (--r[a] > 0) go b instructions back */
    HALT    /* return r[a] */
};

struct insn {
    unsigned char op, a;
    signed char b;
};

static long period;

/* What CHANGE makes of an operation. */
#define OTHER(op) ((op) == ADD ? XOR : (op) == XOR ? ADDI : ADD)

/* An interpreter of programs made of UNIT; an instruction has STEP of them, and its parts are OP, A and B. */
#define INTERPRETER(name, UNIT, STEP, OP, A, B, SET_OP, SET_B)                                                         \
    static __attribute__((noinline)) long name(UNIT *code, long *r) {                                                  \
        UNIT *pc = code;                                                                                               \
        for (;;) {                                                                                                     \
            switch (OP(pc)) {                                                                                          \
            case ADDI: r[A(pc)] += B(pc); break;                                                                       \
            case ADD: r[A(pc)] += r[B(pc)]; break;                                                                     \
            case XOR: r[A(pc)] ^= r[B(pc)]; break;                                                                     \
            case SHIFT: r[A(pc)] = (long)((unsigned long)r[A(pc)] << 1) | (r[A(pc)] < 0); break;                       \
            case CACHE:                                                                                                \
                if (r[A(pc)] % period == 0) {                                                                          \
                    UNIT *other = pc - STEP * B(pc);                                                                   \
                    SET_B(other, B(other) + 1);                                                                        \
                }                                                                                                      \
                break;                                                                                                 \
            case CHANGE:                                                                                               \
                if (r[A(pc)] % period == 0) {                                                                          \
                    UNIT *other = pc - STEP * B(pc);                                                                   \
                    SET_OP(other, OTHER(OP(other)));                                                                   \
                }                                                                                                      \
                break;                                                                                                 \
            case COUNT: SET_B(pc, B(pc) + 1); r[A(pc)] = B(pc); break;                                                 \
            case ODD: pc += STEP * (2 - (r[A(pc)] & 1)); continue;                                                     \
            case LOOP:                                                                                                 \
                if (--r[A(pc)] > 0) {                                                                                  \
                    pc -= STEP * B(pc);                                                                                \
                    REDMAGIC_BACKWARDS_BRANCH(pc);                                                                     \
                    continue;                                                                                          \
                }                                                                                                      \
                break;                                                                                                 \
            case HALT: return r[A(pc)];                                                                                \
            }                                                                                                          \
            pc += STEP;                                                                                                \
        }                                                                                                              \
    }

#define BYTE_OP(pc) (pc)[0]
#define BYTE_A(pc) (pc)[1]
#define BYTE_B(pc) (signed char)(pc)[2]
#define BYTE_SET_OP(pc, value) ((pc)[0] = (unsigned char)(value))
#define BYTE_SET_B(pc, value) ((pc)[2] = (unsigned char)(value))
INTERPRETER(run_bytes, unsigned char, 3, BYTE_OP, BYTE_A, BYTE_B, BYTE_SET_OP, BYTE_SET_B)

#define WORD_OP(pc) (*(pc) & 255)
#define WORD_A(pc) (*(pc) >> 8 & 255)
#define WORD_B(pc) (signed char)(*(pc) >> 16)
#define WORD_SET_OP(pc, value) (*(pc) = (*(pc) & ~255u) | (uint32_t)(value))
#define WORD_SET_B(pc, value) (*(pc) = (*(pc) & ~0xff0000u) | (uint32_t)((value) & 255) << 16)
INTERPRETER(run_words, uint32_t, 1, WORD_OP, WORD_A, WORD_B, WORD_SET_OP, WORD_SET_B)

static const struct insn plain[] = {{ADDI, 0, 3}, {ADD, 0, 1}, {XOR, 0, 2}, {SHIFT, 0, 0}, {LOOP, 1, 4}, {HALT, 0, 0}};
static const struct insn nested[] = {
    {XOR, 2, 2}, {ADDI, 2, 90}, {ADD, 0, 2}, {XOR, 0, 1}, {LOOP, 2, 2}, {ADDI, 0, 1}, {LOOP, 1, 6}, {HALT, 0, 0},
};
static const struct insn cache[] = {{ADDI, 0, 3}, {XOR, 0, 1}, {CACHE, 1, 2}, {ADD, 0, 1}, {LOOP, 1, 4}, {HALT, 0, 0}};
static const struct insn change[] = {{ADD, 0, 1}, {XOR, 0, 1}, {CHANGE, 1, 2}, {ADDI, 0, 5}, {LOOP, 1, 4}, {HALT, 0, 0}};
static const struct insn count[] = {{COUNT, 2, 0}, {ADD, 0, 2}, {ADD, 0, 1}, {LOOP, 1, 3}, {HALT, 0, 0}};

static const struct insn branches[] = {
    {ADDI, 0, 3}, {ODD, 0, 0}, {XOR, 0, 1}, {ODD, 1, 0}, {ADDI, 0, 1}, {LOOP, 1, 5}, {HALT, 0, 0},
};

/* The program in memory of its own, one instruction from the start of it, with the registers behind it. */
struct program {
    unsigned char bytes[3 * 16];
    uint32_t words[16];
    long r[2][4];
};

static void run(const char *name, const struct insn *insns, size_t size, long passes, int changes) {
    struct program *program = calloc(1, sizeof *program);
    for (size_t at = 0; at < size; at++) {
        memcpy(program->bytes + 3 * at, &insns[at], 3);
        program->words[at] = insns[at].op | insns[at].a << 8 | (uint32_t)(unsigned char)insns[at].b << 16;
    }
#ifdef DECLARED
    if (!changes) {
        redmagic_assume_immutable(program->bytes, sizeof program->bytes);
        redmagic_assume_immutable(program->words, sizeof program->words);
    }
#endif
    program->r[0][1] = program->r[1][1] = passes;
    long bytes = run_bytes(program->bytes, program->r[0]);
    long words = run_words(program->words, program->r[1]);
    printf("%s %ld: %ld %ld\n", name, passes, bytes, words);
#ifdef DECLARED
    if (!changes) {
        redmagic_forget(program, sizeof *program);
    }
#else
    (void)changes;
#endif
    /* Freed memory comes back with another program in it. */
    free(program);
}

#define RUN(program, passes, changes) run(#program, program, sizeof program / sizeof program[0], passes, changes)

int main(int argc, char **argv) {
    /* Where the passes are given, only what does not change runs. */
    long passes = argc > 1 ? atol(argv[1]) : 0;
    redmagic_start();
    for (period = 7; period <= 1000 && passes == 0; period = period * 12 - 1) {
        for (long of = 1; of <= 4; of++) {
            RUN(plain, 700 * of, 0);
            RUN(cache, 1100 * of, 1);
            RUN(nested, 8 * of, 0);
            RUN(branches, 500 * of, 0);
            RUN(change, 1100 * of, 1);
            RUN(count, 300 * of, 1);
        }
    }
    if (passes > 0) {
        RUN(plain, passes, 0);
    }
    return 0;
}
