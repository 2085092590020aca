/* Switching C stacks: by ucontext, or by hand-written assembly that keeps what the convention keeps. */
#ifndef SWITCH_H
#define SWITCH_H

#include <ucontext.h>

struct stack {
    void *rsp;
    ucontext_t context;
    char memory[1 << 16] __attribute__((aligned(16)));
};

/* Goes on where `to` was left, or in `entry` for a prepared one; returns when somebody switches to `from`. */
void switch_by_hand(struct stack *from, struct stack *to);
void switch_by_library(struct stack *from, struct stack *to);
void prepare_by_hand(struct stack *stack, void (*entry)(void));
void prepare_by_library(struct stack *stack, void (*entry)(void));

#endif
