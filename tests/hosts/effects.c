/*
 * Calls from traces to functions with declared and with known effects: what was loaded before a call is the same behind it, or
 * not, as the function does.
 *
 * Usage: effects
 */
#include "redmagic.h"
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct vm {
    uint64_t sum, count;
    double real;
    int failures;
    char text[32];
    union {
        uint64_t whole;
        uint32_t half[2];
    } cell;
};

static struct vm *everywhere;

#define OPAQUE __attribute__((noinline, noclone))

/* Computes only. */
static OPAQUE uint64_t mixed(uint64_t x) {
    __asm__ volatile("");
    return (x ^ (x >> 7)) * 0x9e3779b97f4a7c15u;
}

/* Reads what traces write. */
static OPAQUE uint64_t summed(const struct vm *vm) {
    __asm__ volatile("" ::: "memory");
    return vm->sum * 3 + vm->count;
}

/* Writes: nothing is said of it. */
static OPAQUE void meddle(uint64_t x) {
    everywhere->count += x & 3;
}

/* Of the same name as a function of the C library, but it writes. */
OPAQUE double log1p(double x) {
    everywhere->sum += 5;
    return x + 1;
}

/* What is in memory has to be read again. */
#define REREAD() __asm__ volatile("" ::: "memory")

enum { MIXED, SUMMED, MEDDLE, LENGTH, LOG, POWER, SHOUT, NEXT, END };

static uint64_t run(const uint8_t *code, struct vm *vm, long passes) {
    const uint8_t *pc = code;
    for (;;) {
        switch (*pc++) {
        case MIXED:
            vm->count++;
            vm->sum += mixed(vm->sum) + vm->count;
            break;
        case SUMMED:
            vm->sum ^= vm->count << 1;
            vm->sum += summed(vm) + vm->sum;
            break;
        case MEDDLE:
            vm->count += 2;
            meddle(vm->sum);
            vm->sum += vm->count;
            break;
        case LENGTH:
            vm->text[vm->count % 20] = (char)('a' + vm->count % 7);
            vm->text[vm->count % 5 + 20] = 0;
            vm->sum += strlen(vm->text) + (uint64_t)(strcmp(vm->text, "bcdefga") > 0) + vm->count;
            break;
        case LOG:
            vm->sum += 2;
            vm->real = log1p(vm->real * 0.5);
            vm->sum += vm->sum & 7;
            break;
        case POWER:
            errno = 0;
            vm->real = pow(vm->count % 3 ? 1.5 : -1.5, 0.5);
            if (errno) vm->failures++;
            vm->sum += (uint64_t)(vm->failures + errno);
            if (vm->real != vm->real) vm->real = 2;
            vm->real = floor(vm->real * 10) + fmod(vm->real, 0.75);
            break;
        case SHOUT:
            vm->cell.whole ^= vm->count * 0x123456789u;
            errno = (int)(vm->count & 1);
            vm->real = exp(vm->count & 4 ? 1e6 : 1.0);
            /* A word that is no errno, read as a whole, written, and read in part. */
            vm->sum += vm->cell.whole;
            REREAD();
            vm->cell.whole = vm->sum * 3;
            REREAD();
            vm->sum += vm->cell.half[0];
            vm->sum += (uint64_t)errno * 7;
            if (vm->real > 1e9) vm->real = 0;
            break;
        case NEXT:
            if (--passes == 0) break;
            pc = code;
            REDMAGIC_BACKWARDS_BRANCH((void *)pc);
            break;
        case END:
            return vm->sum;
        }
    }
}

int main(void) {
    static const uint8_t programs[][10] = {
        {MIXED, SUMMED, NEXT, END},
        {MIXED, MEDDLE, SUMMED, MIXED, NEXT, END},
        {LENGTH, MIXED, LENGTH, NEXT, END},
        {LOG, MIXED, LOG, NEXT, END},
        {POWER, MIXED, POWER, SUMMED, NEXT, END},
        {SHOUT, POWER, SHOUT, MIXED, MEDDLE, NEXT, END},
        {MIXED, LENGTH, POWER, LOG, SHOUT, MEDDLE, SUMMED, NEXT, END},
    };
    redmagic_start();
    void *opaque[] = {(void *)mixed, (void *)summed, (void *)meddle};
    for (int at = 0; at < 3; at++) redmagic_do_not_trace_function(opaque[at]);
    redmagic_set_function_effects((void *)mixed, REDMAGIC_EFFECTS_NONE);
    redmagic_set_function_effects((void *)summed, REDMAGIC_EFFECTS_READS);
    redmagic_set_function_effects((void *)meddle, REDMAGIC_EFFECTS_NONE);
    redmagic_set_function_effects((void *)meddle, REDMAGIC_EFFECTS_ANY);
    for (unsigned at = 0; at < sizeof programs / sizeof *programs; at++) {
        struct vm vm = {.real = 1, .text = "begin"};
        everywhere = &vm;
        uint64_t sum = run(programs[at], &vm, 400);
        printf("%u: %llu %llu %.17g %d %s\n", at, (unsigned long long)sum, (unsigned long long)vm.count, vm.real,
               vm.failures, vm.text);
    }
    return 0;
}
