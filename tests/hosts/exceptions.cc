/* C++ exceptions through functions that hot loops call: caught in the callee, in the loop, and outside of it. */
#include "vm.h"
#include <stdexcept>
#include <string>
#include <utility>

static long destroyed;

struct Guard {
    ~Guard() { destroyed++; }
};

static VM_NOINLINE long may_throw(long *r) {
    Guard guard;
    if (r[1] % 5 == 0) throw std::runtime_error(std::to_string(r[1]));
    if (r[1] % 13 == 0) throw r[1];
    return r[1];
}

static VM_NOINLINE long catches(long *r) {
    try {
        return may_throw(r);
    } catch (const std::exception &error) {
        return std::stol(error.what()) * 2;
    } catch (long value) {
        return value * 3;
    }
}

static const vm_insn catching[] = {
    {VM_CALL, 2, VM_C(catches)}, {VM_ADD, 0, 2}, {VM_ODD, 2, 0}, {VM_ADDI, 0, 5}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};
static const vm_insn throwing[] = {
    {VM_ADDI, 0, 1}, {VM_CALL, 2, VM_C(may_throw)}, {VM_ADD, 0, 2}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};

/* Runs a loop again and again that throws out of the interpreter. */
static VM_NOINLINE long outside(long count) {
    long r[8] = {0, count}, caught = 0;
    while (r[1] > 0) {
        try {
            Guard guard;
            vm_run(throwing, r);
        } catch (const std::exception &error) {
            caught += error.what()[0];
            r[1]--;
        } catch (long value) {
            caught += value;
            r[1]--;
        }
    }
    return r[0] + caught;
}

/* An interpreter that catches in its own loop. */
static VM_NOINLINE long run_catching(const char *code, long count) {
    long sum = 0, r[8] = {0, count};
    const char *pc = code;
    for (;;) {
        try {
            switch (*pc++) {
            case 'c': sum += may_throw(r); break;
            case 'a': sum += 1; break;
            case 'j':
                if (--r[1] > 0) {
                    pc = code;
                    REDMAGIC_BACKWARDS_BRANCH(pc);
                }
                break;
            default: return sum;
            }
        } catch (const std::exception &error) {
            sum += std::stol(error.what()) * 7;
        } catch (long value) {
            sum -= value;
        }
    }
}

/* Throws through several interpreters at once. */
static int depth;
static VM_NOINLINE long climb(long *r);
static const vm_insn tower[] = {
    {VM_ADDI, 0, 1}, {VM_CALL, 2, VM_C(climb)}, {VM_ADD, 0, 2}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0},
};

static VM_NOINLINE long climb(long *r) {
    Guard guard;
    if (depth == 0) {
        if (r[1] == 2) throw r[0];
        return 1;
    }
    long inner[8] = {r[0] & 0xffff, 4};
    depth--;
    long result = vm_run(tower, inner);
    depth++;
    return result;
}

static long towers(int rounds) {
    long sum = 0;
    for (int round = 0; round < rounds; round++) {
        depth = round % 9;
        try {
            long r[8] = {round, 4};
            sum += vm_run(tower, r);
        } catch (long value) {
            sum += value * 2;
        }
    }
    return sum;
}

/* The header's classes, left at their end, by an exception, and by jumps. */
static VM_NOINLINE long scopes(long count) {
    long sum = 1, traced = 0;
    for (long i = 0; i < count; i++) {
        REDMAGIC_BACKWARDS_BRANCH((void *)scopes);
        try {
            redmagic_disable region;
            Guard guard;
            long r[2] = {sum, i};
            traced += redmagic_is_traced();
            if (i % 3 == 0) sum += may_throw(r);
            if (i % 11 == 7) continue;
            sum ^= i << 3;
        } catch (const std::exception &) {
            sum -= 5;
        } catch (long value) {
            sum ^= value;
        }
        try {
            redmagic_merge block;
            long r[2] = {sum, i + 1};
            if (sum & 1) sum = sum * 3 + i;
            else if (i % 7 == 3) sum += may_throw(r);
        } catch (const std::exception &error) {
            sum += error.what()[0];
        } catch (long value) {
            sum -= value;
        }
    }
    return traced == 0 ? sum : -traced;
}

int main() {
    redmagic_start();
#ifndef TRACED
    redmagic_do_not_trace_function((void *)may_throw);
    redmagic_do_not_trace_function((void *)catches);
    redmagic_do_not_trace_function((void *)climb);
#endif
    long r[8] = {0, 500};
    std::printf("caught in the callee: %ld\n", vm_run(catching, r));
    std::printf("caught outside: %ld\n", outside(600));
    std::printf("caught in the loop: %ld\n", run_catching("aacaj.", 700));
    std::printf("towers: %ld\n", towers(150));
    std::printf("scopes: %ld\n", scopes(900));
    std::printf("destroyed: %ld\n", destroyed);
    return 0;
}
