/*
 * sample: one interpreter with most of the annotations.
 *
 * Its programs are strings. Letters a to z are variables; the interpreter executes
 *
 *     =xn   x becomes the digit n          ^xy   x grows by y
 *     -x    x is one less                  ?xy   if x is odd, y grows by 1: a conditional jump inside the loop
 *     !x    prints x, sometimes            @x    back to the program's third-last mark while x is not 0
 *     :     a mark, where @ goes back to   .     the end
 *
 * What to look at:
 * - `print_sometimes` runs between redmagic_temp_disable() and redmagic_temp_enable(): it never becomes part of a trace,
 *   which is left in front of it and comes back behind it.
 * - The two ways through `?` meet again behind it; the merge block says so, and leaves them to the interpreter.
 * - redmagic_begin_branchable_frame() and its counterpart bracket a run, because programs can be run recursively.
 * - redmagic_fellthrough_branch() says that a loop is over.
 */
#include "redmagic.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct machine {
    long variables[26];
    long printed;
};

static void print_sometimes(struct machine *machine, char name) {
    long value = machine->variables[name - 'a'];
    if (value % 1000 == 0) {
        printf("%c = %ld\n", name, value);
        machine->printed++;
    }
}

static void run(struct machine *machine, const char *program) {
    const char *pc = program, *mark = program;
    void *frame = NULL;
    redmagic_begin_branchable_frame(&frame);
    for (;;) {
        switch (*pc) {
        case '=':
            machine->variables[pc[1] - 'a'] = pc[2] - '0';
            pc += 3;
            break;
        case '^':
            machine->variables[pc[1] - 'a'] += machine->variables[pc[2] - 'a'];
            pc += 3;
            break;
        case '-':
            machine->variables[pc[1] - 'a']--;
            pc += 2;
            break;
        case '?':
            redmagic_begin_merge_block();
            if (machine->variables[pc[1] - 'a'] & 1) machine->variables[pc[2] - 'a']++;
            redmagic_end_merge_block();
            pc += 3;
            break;
        case '!':
            redmagic_temp_disable();
            print_sometimes(machine, pc[1]);
            redmagic_temp_enable();
            pc += 2;
            break;
        case ':':
            mark = ++pc;
            break;
        case '@':
            if (machine->variables[pc[1] - 'a'] != 0) {
                pc = mark;
                REDMAGIC_BACKWARDS_BRANCH((void *)pc);
            } else {
                redmagic_fellthrough_branch((void *)mark);
                pc += 2;
            }
            break;
        default:
            redmagic_end_branchable_frame(&frame);
            return;
        }
    }
}

int main(void) {
    struct machine machine = {{0}, 0};
    redmagic_start();
    redmagic_configure("memory_model", "interpreter-lock"); /* there is one thread */
    machine.variables['n' - 'a'] = 5000;
    machine.variables['m' - 'a'] = 5000;
    static const char program[] = "=s0=o0=i2"
                                  ":^sn?no!n-n@n" /* sums up and counts odd numbers, printing now and then */
                                  ":^si-m@m";     /* a loop without a detour */
    redmagic_assume_immutable(program, sizeof program);
    run(&machine, program);
    printf("sum %ld, odd %ld, printed %ld\n", machine.variables['s' - 'a'], machine.variables['o' - 'a'], machine.printed);
    printf("traced here: %s\n", redmagic_is_traced() ? "yes" : "no");
    return 0;
}
