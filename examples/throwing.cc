/*
 * throwing: an interpreter in C++ whose operations throw.
 *
 * A register machine with checked arithmetic: a division by zero is an exception, which the interpreted program can
 * catch, or which leaves the interpreter. What it costs is what exceptions cost; that they pass through traces changes
 * nothing: handlers are found and destructors run as in the interpreter's own code. The class redmagic_disable brackets
 * a scope that must not become part of a trace, also when an exception leaves it.
 */
#include "redmagic.h"
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct DivisionByZero : std::runtime_error {
    explicit DivisionByZero(long dividend) : std::runtime_error(std::to_string(dividend) + " divided by zero") {}
};

enum Op { SET, ADD, MOD, LOOP, TRY, CAUGHT, HALT };

/* The operands are numbers of registers, constants or targets. */
struct Insn {
    Op op;
    long a, b;
};

long live; /* objects that exist: none when all is done */

struct Counted {
    Counted() { live++; }
    ~Counted() { live--; }
};

__attribute__((noinline)) long modulo(long a, long b) {
    Counted counted;
    if (b == 0) throw DivisionByZero(a);
    return a % b;
}

class Machine {
public:
    explicit Machine(const std::vector<Insn> &program) : code(program.data()), bytes(program.size() * sizeof(Insn)) {
        redmagic_assume_immutable(code, bytes);
    }
    ~Machine() { redmagic_forget(code, bytes); }
    Machine(const Machine &) = delete;
    Machine &operator=(const Machine &) = delete;

    long registers[8] = {};
    long caught = 0;

    void run() {
        pc = code;
        handler = nullptr;
        for (;;) {
            try {
                return execute();
            } catch (const DivisionByZero &error) {
                note(error);
                if (!handler) throw;
                pc = handler;
            }
        }
    }

private:
    const Insn *const code;
    const std::size_t bytes;
    const Insn *pc = nullptr, *handler = nullptr;

    void note(const DivisionByZero &) {
        redmagic_disable untraced;
        caught++;
    }

    void execute() {
        Counted counted;
        for (;;) {
            const Insn &insn = *pc++;
            switch (insn.op) {
            case SET: registers[insn.a] = insn.b; break;
            case ADD: registers[insn.a] += registers[insn.b]; break;
            case MOD: registers[insn.a] = modulo(registers[insn.a], registers[insn.b]); break;
            case TRY: handler = code + insn.b; break;
            case CAUGHT: registers[insn.a] = caught; break;
            case LOOP:
                if (--registers[insn.a] > 0) {
                    pc = code + insn.b;
                    REDMAGIC_BACKWARDS_BRANCH(pc);
                }
                break;
            case HALT: return;
            }
        }
    }
};

/* Sums up 1000 % (n % 7) for n from register 1 down to 1; every seventh pass throws and catches. */
const std::vector<Insn> catching = {
    {TRY, 0, 6},
    {ADD, 2, 1}, {SET, 3, 7}, {MOD, 2, 3},                    /* 1: the loop */
    {SET, 4, 1000}, {MOD, 4, 2},                              /* 4: may throw */
    {ADD, 0, 4}, {SET, 2, 0}, {LOOP, 1, 1},                   /* 6: the handler */
    {CAUGHT, 5, 0}, {HALT, 0, 0},
};

/* The same without a handler: the exception leaves run(). */
const std::vector<Insn> throwing = {
    {ADD, 2, 1}, {SET, 3, 7}, {MOD, 2, 3}, {SET, 4, 1000}, {MOD, 4, 2}, {ADD, 0, 4}, {SET, 2, 0}, {LOOP, 1, 0}, {HALT, 0, 0},
};

} // namespace

int main() {
    redmagic_start();
    redmagic_configure("memory_model", "interpreter-lock"); /* there is one thread */
    {
        Machine machine(catching);
        machine.registers[1] = 3000;
        machine.run();
        std::printf("sum %ld, caught %ld\n", machine.registers[0], machine.registers[5]);
    }
    {
        Machine machine(throwing);
        machine.registers[1] = 3000;
        long thrown = 0;
        std::string last;
        while (machine.registers[1] > 0) {
            try {
                machine.run();
            } catch (const std::exception &error) {
                thrown++;
                last = error.what();
                machine.registers[1]--;
                machine.registers[2] = 0;
            }
        }
        std::printf("sum %ld, thrown %ld, the last: %s\n", machine.registers[0], thrown, last.c_str());
    }
    std::printf("live: %ld\n", live);
    return 0;
}
