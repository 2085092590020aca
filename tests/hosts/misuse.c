/*
 * Every function of the API in any order, balanced or not, with good and bad arguments, from several threads, in the
 * middle of interpreted loops: traced handlers call them directly. What the programs compute must not change.
 *
 * Usage: misuse [seed]
 */
#include "redmagic.h"
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 3, PROGRAMS = 6, LENGTH = 24 };

struct insn {
    uint8_t op, a;
    int16_t b;
};

static __thread uint64_t random_state;

static uint64_t random_number(void) {
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static __attribute__((noinline)) uint64_t residual(uint64_t x) { return x * 31 + 7; }
static char somewhere[256];

static uint64_t run(const struct insn *code, uint64_t *r, long budget) {
    const struct insn *pc = code;
    void *frame = NULL;
    for (;;) {
        switch (pc->op) {
        case 0: r[0] += (uint64_t)pc->b; break;
        case 1: r[0] ^= r[pc->a & 3] << 1; break;
        case 2: r[pc->a & 3] += r[0]; break;
        case 3: r[0] = residual(r[0]); break;
        case 4: /* a jump in either direction, until the budget is spent */
            if (--budget <= 0) return r[0];
            if (r[0] & 1) {
                const struct insn *target = code + pc->b;
                int back = target <= pc;
                pc = target;
                if (back) REDMAGIC_BACKWARDS_BRANCH((void *)pc);
                continue;
            }
            break;
        case 5: /* back to the beginning */
            if (--budget <= 0) return r[0];
            pc = code;
            redmagic_backwards_branch((void *)pc);
            continue;
        case 6: redmagic_temp_disable(); break;
        case 7: redmagic_temp_enable(); break;
        case 8: redmagic_begin_merge_block(); break;
        case 9: redmagic_end_merge_block(); break;
        case 10: redmagic_ensure_not_traced(); break;
        case 11: redmagic_begin_branchable_frame(pc->a & 1 ? &frame : NULL); break;
        case 12: redmagic_end_branchable_frame(pc->a & 1 ? &frame : NULL); break;
        case 13: redmagic_fellthrough_branch((void *)(pc->a & 1 ? code : NULL)); break;
        case 14: if (redmagic_is_traced() & ~1) r[0]++; break;
        case 15: redmagic_force_begin_trace((void *)(pc->a & 1 ? code : NULL)); break;
        case 16: redmagic_force_end_trace((void *)code); break;
        case 17: redmagic_force_jump_to_trace((void *)code); break;
        case 18: redmagic_backwards_branch((void *)(pc->a & 1 ? pc : NULL)); break;
        case 19: redmagic_assume_immutable(code, LENGTH * sizeof *code); break;
        case 20: redmagic_forget(code, (size_t)(pc->a & 31)); break;
        case 21:
            if ((budget & 15) == 0) redmagic_disable_branch(pc->a & 1 ? (void *)(code + 3) : NULL);
            break;
        case 22: redmagic_do_not_trace_function(pc->a & 1 ? (void *)residual : pc->a & 2 ? (void *)somewhere : NULL); break;
        case 23: REDMAGIC_BACKWARDS_BRANCH((void *)somewhere); break;
        case 24: redmagic_start(); break;
        case 25: {
            struct redmagic_stats statistics;
            redmagic_get_stats(pc->a & 1 ? &statistics : NULL, pc->a & 2 ? sizeof statistics : 12);
            break;
        }
        case 26: redmagic_configure(pc->a & 1 ? "hot_exit" : pc->a & 2 ? "nonsense" : NULL, pc->a & 4 ? "3" : "?"); break;
        case 27: if ((budget & 63) == 5) redmagic_configure("enabled", pc->a & 1 ? "on" : "off"); break;
        case 28: redmagic_forget(NULL, 5); redmagic_forget(somewhere, (size_t)-1); break;
        case 29: redmagic_assume_immutable(NULL, 5); redmagic_assume_immutable(somewhere, (size_t)-1); break;
        default: break;
        }
        pc++;
    }
}

static void *misuse(void *argument) {
    random_state = (uint64_t)argument * 0x1234567;
    uint64_t hash = 0;
    struct insn *code = calloc(LENGTH, sizeof *code);
    for (int program = 0; program < PROGRAMS; program++) {
        for (int at = 0; at < LENGTH - 1; at++) {
            uint64_t x = random_number();
            code[at].op = (uint8_t)(x % 3 ? x % 5 : x % 31);
            code[at].a = (uint8_t)(x >> 16);
            code[at].b = (int16_t)((x >> 24) % LENGTH);
        }
        code[LENGTH - 1].op = 5;
        uint64_t r[4] = {random_number(), 1, 2, 3};
        hash = hash * 31 + run(code, r, 500);
        redmagic_forget(code, LENGTH * sizeof *code); /* the one rule: what is declared immutable does not change */
        /* What the program left open is closed again, more or less. */
        for (int at = 0; at < program; at++) redmagic_temp_enable();
        redmagic_configure("enabled", "on");
    }
    free(code);
    return (void *)hash;
}

int main(int argc, char **argv) {
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    printf("%llx\n", (unsigned long long)(uintptr_t)misuse((void *)(seed * 100)));
    redmagic_start();
    for (int round = 0; round < 2; round++) {
        pthread_t threads[THREADS];
        for (uint64_t at = 0; at < THREADS; at++)
            pthread_create(&threads[at], NULL, misuse, (void *)(seed * 100 + (uint64_t)round * 10 + at));
        for (int at = 0; at < THREADS; at++) {
            void *result;
            pthread_join(threads[at], &result);
            printf("%llx\n", (unsigned long long)(uintptr_t)result);
        }
    }
    return 0;
}
