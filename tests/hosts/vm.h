/*
 * A small interpreter that the test hosts share: registers, calls of C functions, loops that count down.
 *
 * VM_DISPATCH_GOTO and VM_DISPATCH_TAIL choose computed goto and tail calls in place of a switch. The macro
 * REDMAGIC_NO_MACROS of the header makes anchors function calls.
 */
#ifndef VM_H
#define VM_H

#include "redmagic.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum vm_op {
    VM_ADD,  /* r[a] += r[b] */
    VM_ADDI, /* r[a] += b */
    VM_XOR,  /* r[a] ^= r[b] */
    VM_CALL, /* r[a] = b(r) */
    VM_LOOP, /* if (--r[a] > 0) goto b */
    VM_ODD,  /* if (r[a] is even) skip the next instruction */
    VM_HALT  /* return r[a] */
};

typedef long (*vm_callee)(long *r);

struct vm_insn {
    int op;
    int a;
    long b;
};

#define VM_NOINLINE __attribute__((noinline))
#define VM_C(function) ((long)(vm_callee)(function))

#if defined(VM_DISPATCH_TAIL)

typedef long (*vm_handler)(const struct vm_insn *code, const struct vm_insn *pc, long *r);
#define VM_HANDLER(name) static long name(const struct vm_insn *code, const struct vm_insn *pc, long *r)
#define VM_NEXT return vm_handlers[pc->op](code, pc, r)

static const vm_handler vm_handlers[];

VM_HANDLER(vm_add) { r[pc->a] += r[pc->b]; pc++; VM_NEXT; }
VM_HANDLER(vm_addi) { r[pc->a] += pc->b; pc++; VM_NEXT; }
VM_HANDLER(vm_xor) { r[pc->a] ^= r[pc->b]; pc++; VM_NEXT; }
VM_HANDLER(vm_call) { r[pc->a] = ((vm_callee)pc->b)(r); pc++; VM_NEXT; }
VM_HANDLER(vm_loop) {
    if (--r[pc->a] > 0) {
        pc = code + pc->b;
        REDMAGIC_BACKWARDS_BRANCH(pc);
    } else {
        pc++;
    }
    VM_NEXT;
}
VM_HANDLER(vm_odd) { pc += (r[pc->a] & 1) ? 1 : 2; VM_NEXT; }
VM_HANDLER(vm_halt) { (void)code; return r[pc->a]; }

static const vm_handler vm_handlers[] = {vm_add, vm_addi, vm_xor, vm_call, vm_loop, vm_odd, vm_halt};

static VM_NOINLINE long vm_run(const struct vm_insn *code, long *r) {
    return vm_handlers[code->op](code, code, r);
}

#else

#if defined(VM_DISPATCH_GOTO)
#define VM_BEGIN goto *labels[pc->op];
#define VM_CASE(op, label) label
#define VM_NEXT goto *labels[pc->op]
#define VM_END
#else
#define VM_BEGIN for (;;) switch (pc->op) {
#define VM_CASE(op, label) case op
#define VM_NEXT break
#define VM_END }
#endif

static VM_NOINLINE long vm_run(const struct vm_insn *code, long *r) {
#if defined(VM_DISPATCH_GOTO)
    static void *const labels[] = {&&add, &&addi, &&xor, &&call, &&loop, &&odd, &&halt};
#endif
    const struct vm_insn *pc = code;
    VM_BEGIN
    VM_CASE(VM_ADD, add): r[pc->a] += r[pc->b]; pc++; VM_NEXT;
    VM_CASE(VM_ADDI, addi): r[pc->a] += pc->b; pc++; VM_NEXT;
    VM_CASE(VM_XOR, xor): r[pc->a] ^= r[pc->b]; pc++; VM_NEXT;
    VM_CASE(VM_CALL, call): r[pc->a] = ((vm_callee)pc->b)(r); pc++; VM_NEXT;
    VM_CASE(VM_LOOP, loop):
        if (--r[pc->a] > 0) {
            pc = code + pc->b;
            REDMAGIC_BACKWARDS_BRANCH(pc);
        } else {
            pc++;
        }
        VM_NEXT;
    VM_CASE(VM_ODD, odd): pc += (r[pc->a] & 1) ? 1 : 2; VM_NEXT;
    VM_CASE(VM_HALT, halt): return r[pc->a];
    VM_END
}

#endif

#endif
