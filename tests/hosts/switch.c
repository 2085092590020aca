#include "switch.h"
#include <stddef.h>

__asm__(".text\n"
        ".globl switch_by_hand\n"
        ".type switch_by_hand, @function\n"
        "switch_by_hand:\n"
        "    push %rbp\n"
        "    push %rbx\n"
        "    push %r12\n"
        "    push %r13\n"
        "    push %r14\n"
        "    push %r15\n"
        "    mov %rsp, (%rdi)\n"
        "    mov (%rsi), %rsp\n"
        "    pop %r15\n"
        "    pop %r14\n"
        "    pop %r13\n"
        "    pop %r12\n"
        "    pop %rbx\n"
        "    pop %rbp\n"
        "    ret\n"
        ".size switch_by_hand, . - switch_by_hand\n");

void switch_by_library(struct stack *from, struct stack *to) { swapcontext(&from->context, &to->context); }

void prepare_by_hand(struct stack *stack, void (*entry)(void)) {
    void **top = (void **)(stack->memory + sizeof stack->memory);
    *--top = NULL; /* where the entry would return to */
    *--top = (void *)entry;
    for (int at = 0; at < 6; at++) *--top = NULL;
    stack->rsp = top;
}

void prepare_by_library(struct stack *stack, void (*entry)(void)) {
    getcontext(&stack->context);
    stack->context.uc_stack.ss_sp = stack->memory;
    stack->context.uc_stack.ss_size = sizeof stack->memory;
    stack->context.uc_link = NULL;
    makecontext(&stack->context, entry, 0);
}
