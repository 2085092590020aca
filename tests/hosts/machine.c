/*
 * Loops around instructions and machine state that tracers get wrong. Every loop has its own anchor; branches alternate,
 * so that traces are left, and side traces begin, in the middle of what is looked at.
 */
#include "redmagic.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOINLINE __attribute__((noinline))
#define LOOP(n) for (long i = 0; i < (n); ({ i++; REDMAGIC_BACKWARDS_BRANCH((void *)__func__); }))

enum { N = 600 };

/* Two jumps that share a comparison. */
static NOINLINE long shared_flags(void) {
    long less = 0, equal = 0, greater = 0;
    LOOP(N) {
        long a = i * 7 % 5, b = i * 3 % 4;
        __asm__ volatile("cmp %[b], %[a]\n\t"
                         "jl 1f\n\t"
                         "jg 2f\n\t"
                         "inc %[equal]\n\t"
                         "jmp 3f\n"
                         "1: inc %[less]\n\t"
                         "jmp 3f\n"
                         "2: inc %[greater]\n"
                         "3:"
                         : [less] "+r"(less), [equal] "+r"(equal), [greater] "+r"(greater)
                         : [a] "r"(a), [b] "r"(b)
                         : "cc");
    }
    return less * 1000000 + equal * 1000 + greater;
}

/* All flags at a branch, read by what comes later. */
static NOINLINE unsigned long all_flags(void) {
    unsigned long hash = 1;
    LOOP(N) {
        unsigned long a = hash * 0x9e3779b97f4a7c15u, b = a >> 7, flags, carry = 0;
        __asm__ volatile("add %[b], %[a]\n\t"
                         "js 1f\n\t"
                         "jnp 2f\n"
                         "1: lahf\n\t"
                         "seto %%al\n\t"
                         "movzwl %%ax, %%eax\n\t"
                         "mov %%rax, %[flags]\n\t"
                         "jmp 3f\n"
                         "2: pushfq\n\t"
                         "pop %[flags]\n\t"
                         "and $0x8c5, %[flags]\n"
                         "3: adc $0, %[carry]"
                         : [a] "+r"(a), [flags] "=&r"(flags), [carry] "+r"(carry)
                         : [b] "r"(b)
                         : "rax", "cc");
        hash = hash * 31 + a + flags + carry;
    }
    return hash;
}

/* Operands relative to rip, with and without immediates, of all widths. */
static uint64_t word = 5, other;
static uint32_t half = 7;
static uint16_t quarter = 9;
static uint8_t byte = 11;
static double number = 1.5;

static NOINLINE unsigned long relative(void) {
    double sum = 0;
    word = 5, half = 7, quarter = 9, byte = 11, other = 0, number = 1.5;
    LOOP(N) {
        unsigned long x = i;
        __asm__ volatile("addq $100000, %[word]\n\t"
                         "incq %[word]\n\t"
                         "subl $3, %[half]\n\t"
                         "xorw $0x1234, %[quarter]\n\t"
                         "addb $77, %[byte]\n\t"
                         "orl $0x10001, %[half]\n\t"
                         "cmpb $100, %[byte]\n\t"
                         "jae 1f\n\t"
                         "movw $4321, %[quarter]\n"
                         "1: imul $5, %[word], %%rax\n\t"
                         "add %%rax, %[x]\n\t"
                         "movzbl %[byte], %%eax\n\t"
                         "add %%rax, %[x]\n\t"
                         "movswq %[quarter], %%rax\n\t"
                         "xor %%rax, %[x]\n\t"
                         "testb $4, %[byte]\n\t"
                         "setz %%al\n\t"
                         "adc %%al, %[byte]\n\t"
                         "rolq $3, %[word]\n\t"
                         "pushq %[word]\n\t"
                         "popq %[other]\n\t"
                         "lock addq $1, %[other]\n\t"
                         "xchg %%rax, %[other]\n\t"
                         "add %%rax, %[x]\n\t"
                         "lock xadd %%rax, %[other]\n\t"
                         "negl %[half]\n\t"
                         "btcl $5, %[half]\n\t"
                         "cvtsi2sdl %[half], %%xmm0\n\t"
                         "mulsd %[number], %%xmm0\n\t"
                         "addsd %%xmm0, %[sum]\n\t"
                         "add %[other], %[x]"
                         : [x] "+r"(x), [word] "+m"(word), [half] "+m"(half), [quarter] "+m"(quarter),
                           [byte] "+m"(byte), [other] "+m"(other), [sum] "+x"(sum)
                         : [number] "m"(number)
                         : "rax", "xmm0", "cc", "memory");
        word ^= x;
    }
    return word ^ half ^ quarter ^ byte ^ other ^ (unsigned long)(long)sum;
}

/* A leaf function that lives in its red zone, and is left in the middle. */
long red_zone_leaf(long x);
__asm__(".text\n"
        ".type red_zone_leaf, @function\n"
        "red_zone_leaf:\n"
        "    mov %rdi, -8(%rsp)\n"
        "    lea 1(%rdi), %rax\n"
        "    mov %rax, -64(%rsp)\n"
        "    lea 2(%rdi), %rax\n"
        "    mov %rax, -128(%rsp)\n"
        "    test $3, %dil\n"
        "    jz 1f\n"
        "    test $4, %dil\n"
        "    jz 2f\n"
        "1:  addq $5, -64(%rsp)\n"
        "2:  mov -8(%rsp), %rax\n"
        "    imul $3, -64(%rsp), %rcx\n"
        "    add %rcx, %rax\n"
        "    imul $7, -128(%rsp), %rcx\n"
        "    add %rcx, %rax\n"
        "    ret\n"
        ".size red_zone_leaf, . - red_zone_leaf\n");

static NOINLINE long red_zone(void) {
    long sum = 0;
    LOOP(N) sum = sum * 3 + red_zone_leaf(i * 5 % 13);
    return sum;
}

/* Function pointers in globals that change, called through memory in all forms. */
static NOINLINE long f1(long x) { return x + 1; }
static NOINLINE long f2(long x) { return x * 2; }
static NOINLINE long f3(long x) { return x ^ 0x55; }
static long (*pointer)(long) = f1;
static long (*pointers[3])(long) = {f1, f2, f3};

static NOINLINE void change(long i) {
    if (i % 100 == 50) pointer = pointers[i / 100 % 3];
}

static NOINLINE long function_pointers(void) {
    long x = 1;
    LOOP(N) {
        long (*volatile *through)(long) = (long (*volatile *)(long))&pointer;
        x = pointer(x);
        x += pointers[i % 7 % 3](x);
        __asm__ volatile("mov %[x], %%rdi\n\t"
                         "call *(%[through])\n\t"
                         "mov %%rax, %%rdi\n\t"
                         "sub $24, %%rsp\n\t"
                         "mov (%[through]), %%rax\n\t"
                         "mov %%rax, (%%rsp)\n\t"
                         "call *(%%rsp)\n\t"
                         "mov (%[through]), %%rcx\n\t"
                         "mov %%rcx, 8(%%rsp)\n\t"
                         "mov %%rax, %%rdi\n\t"
                         "call *8(%%rsp)\n\t"
                         "add $24, %%rsp\n\t"
                         "mov %%rax, %[x]"
                         : [x] "+&b"(x)
                         : [through] "r"(through)
                         : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "cc", "memory");
        change(i);
        x &= 0xffffff;
    }
    return x;
}

/* Jumps that count or look at rcx, in both directions, and returns in the place of jumps. */
static NOINLINE long counters(void) {
    long zero = 0, loops = 0, ways = 0;
    LOOP(N) {
        __asm__ volatile("mov %[i], %%rcx\n\t"
                         "and $3, %%rcx\n\t"
                         "jrcxz 1f\n\t"
                         "jmp 2f\n"
                         "1: inc %[zero]\n"
                         "2: mov %[i], %%rcx\n\t"
                         "shl $32, %%rcx\n\t"
                         "jecxz 3f\n\t"
                         "dec %[zero]\n"
                         "3: mov %[i], %%rcx\n\t"
                         "and $7, %%rcx\n\t"
                         "inc %%rcx\n"
                         "4: inc %[loops]\n\t"
                         "loop 4b\n\t"
                         "mov $9, %%ecx\n\t"
                         "mov %[i], %%rax\n"
                         "5: shr %%rax\n\t"
                         "test $1, %%al\n\t"
                         "loope 5b\n\t"
                         "add %%rcx, %[loops]\n\t"
                         "mov $9, %%ecx\n"
                         "6: inc %%rax\n\t"
                         "test $3, %%al\n\t"
                         "loopne 6b\n\t"
                         "add %%rcx, %[loops]\n\t"
                         "lea 7f(%%rip), %%rax\n\t"
                         "test $1, %b[i]\n\t"
                         "jz 9f\n\t"
                         "lea 8f(%%rip), %%rax\n"
                         "9: push %%rax\n\t"
                         "ret\n"
                         "8: add $10, %[ways]\n"
                         "7: inc %[ways]"
                         : [zero] "+r"(zero), [loops] "+r"(loops), [ways] "+r"(ways)
                         : [i] "r"(i)
                         : "rax", "rcx", "cc", "memory");
    }
    return zero * 1000000000 + loops * 10000 + ways;
}

/* MMX and x87 registers live over the whole loop. */
static NOINLINE unsigned long mmx(void) {
    unsigned long sum = 0;
    __asm__ volatile("movq %0, %%mm6" : : "r"(0x1234567890abcdefl) : "mm6");
    LOOP(N) {
        unsigned long six;
        __asm__ volatile("movq %%mm6, %0\n\t"
                         "paddw %%mm6, %%mm6"
                         : "=r"(six)
                         :
                         : "mm6");
        sum = sum * 31 + six;
        if (i % 3 == 1) sum ^= 0x77;
        if (six == 0) __asm__ volatile("movq %0, %%mm6" : : "r"(sum) : "mm6");
    }
    __asm__ volatile("emms");
    return sum;
}

static NOINLINE double x87(void) {
    double result;
    short control, changed;
    __asm__ volatile("fnstcw %0" : "=m"(control));
    changed = (short)((control & ~0xf00) | 0x600); /* double precision, down */
    __asm__ volatile("fldcw %0\n\tfld1\n\tfldpi" : : "m"(changed));
    LOOP(N) {
        int some = (int)(i * i % 11);
        __asm__ volatile("fildl %0\n\t"
                         "fdivp\n\t"
                         "fadd %%st(1), %%st\n\t"
                         "fld1\n\t"
                         "faddp"
                         :
                         : "m"(some));
        if (some == 0) __asm__ volatile("fstp %%st(0)\n\tfldpi" : :);
        if (i % 4 == 0) __asm__ volatile("fxch" : :);
    }
    __asm__ volatile("faddp\n\tfstpl %0\n\tfldcw %1" : "=m"(result) : "m"(control));
    return result;
}

/* Rounding and flushing modes of SSE, changed for the whole loop. */
static NOINLINE double sse_modes(void) {
    unsigned control, changed;
    __asm__ volatile("stmxcsr %0" : "=m"(control));
    changed = control | 0x6040 | 0x8000; /* towards zero; denormals are zero */
    __asm__ volatile("ldmxcsr %0" : : "m"(changed));
    double sum = 0, tiny = 1e-308;
    LOOP(N) {
        sum += 1.0 / (double)(i + 3);
        tiny *= 0.9;
        if (i % 5 == 2) sum -= 0.1;
        if (tiny == 0) tiny = 1e-307;
    }
    __asm__ volatile("ldmxcsr %0" : : "m"(control));
    return sum + tiny * 1e305;
}

/* Wide vector registers across branches that are taken now and then. */
__attribute__((target("avx2"))) static NOINLINE unsigned long ymm(void) {
    uint64_t data[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    unsigned long rare = 0;
    LOOP(N) {
        __asm__ volatile("vmovdqu (%[data]), %%ymm3\n\t"
                         "vmovdqu 32(%[data]), %%ymm12\n\t"
                         "test $3, %b[i]\n\t"
                         "jnz 1f\n\t"
                         "inc %[rare]\n"
                         "1: vpaddq %%ymm12, %%ymm3, %%ymm3\n\t"
                         "test $4, %b[i]\n\t"
                         "jz 2f\n\t"
                         "vpsllq $1, %%ymm12, %%ymm12\n"
                         "2: vpermq $0x93, %%ymm3, %%ymm3\n\t"
                         "vpxor %%ymm3, %%ymm12, %%ymm12\n\t"
                         "vmovdqu %%ymm3, (%[data])\n\t"
                         "vmovdqu %%ymm12, 32(%[data])\n\t"
                         "vzeroupper"
                         : [rare] "+r"(rare)
                         : [data] "r"(data), [i] "r"(i)
                         : "xmm3", "xmm12", "cc", "memory");
    }
    for (int at = 0; at < 8; at++) rare = rare * 31 + data[at];
    return rare;
}

__attribute__((target("avx512f,avx512bw"))) static NOINLINE unsigned long zmm(void) {
    uint64_t data[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    unsigned long rare = 0;
    LOOP(N) {
        __asm__ volatile("vmovdqu64 (%[data]), %%zmm3\n\t"
                         "vmovdqu64 64(%[data]), %%zmm29\n\t"
                         "kmovq %[i], %%k3\n\t"
                         "test $3, %b[i]\n\t"
                         "jnz 1f\n\t"
                         "inc %[rare]\n"
                         "1: vpaddq %%zmm29, %%zmm3, %%zmm3%{%%k3%}\n\t"
                         "test $4, %b[i]\n\t"
                         "jz 2f\n\t"
                         "vpsllq $1, %%zmm29, %%zmm29\n"
                         "2: vpxorq %%zmm3, %%zmm29, %%zmm29\n\t"
                         "vpcmpgtq %%zmm3, %%zmm29, %%k2\n\t"
                         "kmovq %%k2, %%rax\n\t"
                         "add %%rax, %[rare]\n\t"
                         "vpaddq %%zmm29, %%zmm29, %%zmm29%{%%k3%}\n\t"
                         "vmovdqu64 %%zmm3, (%[data])\n\t"
                         "vmovdqu64 %%zmm29, 64(%[data])\n\t"
                         "vzeroupper"
                         : [rare] "+r"(rare)
                         : [data] "r"(data), [i] "r"(i)
                         : "rax", "xmm3", "xmm29", "k2", "k3", "cc", "memory");
    }
    for (int at = 0; at < 16; at++) rare = rare * 31 + data[at];
    return rare;
}

/* A callee that sees how its stack is aligned, and uses it. */
__attribute__((visibility("hidden"))) volatile long misaligned;
long aligned_callee(long x);
__asm__(".text\n"
        ".type aligned_callee, @function\n"
        "aligned_callee:\n"
        "    lea 8(%rsp), %rax\n"
        "    test $15, %al\n"
        "    jz 1f\n"
        "    incq misaligned(%rip)\n"
        "    ret\n"
        "1:  sub $24, %rsp\n"
        "    movq %rdi, %xmm0\n"
        "    punpcklqdq %xmm0, %xmm0\n"
        "    movaps %xmm0, (%rsp)\n"
        "    mov 8(%rsp), %rax\n"
        "    add $24, %rsp\n"
        "    ret\n"
        ".size aligned_callee, . - aligned_callee\n");

static NOINLINE long alignment(void) {
    long sum = 0;
    LOOP(N) {
        sum += aligned_callee(i);
        if (i % 6 == 1) sum ^= 3;
    }
    return sum * 1000 + misaligned;
}

/* Backwards through a string, in every fourth pass. */
static NOINLINE unsigned long direction(void) {
    unsigned char from[16];
    unsigned long hash = 1;
    for (int at = 0; at < 16; at++) from[at] = (unsigned char)(at * 37);
    LOOP(N) {
        const unsigned char *source = from + 12;
        unsigned long a = hash;
        if (i % 4 == 3)
            __asm__ volatile("std\n\tlodsb\n\tadd %%al, %%ah\n\tlodsb\n\tcld" : "+a"(a), "+S"(source) : : "cc", "memory");
        else
            __asm__ volatile("lodsb\n\tadd %%al, %%ah\n\tlodsb" : "+a"(a), "+S"(source) : : "cc", "memory");
        hash = hash * 31 + a + (unsigned long)(source - from);
    }
    return hash;
}

/* Flags that a callee leaves, and a callee that goes elsewhere by changing its return address. */
long flags_over_return(long x, long y);
__asm__(".text\n"
        ".type redmagic_test_compare, @function\n"
        "redmagic_test_compare:\n"
        "    cmp %rsi, %rdi\n"
        "    ret\n"
        ".size redmagic_test_compare, . - redmagic_test_compare\n"
        ".type redmagic_test_skip, @function\n"
        "redmagic_test_skip:\n"
        "    test $1, %dil\n"
        "    jz 1f\n"
        "    addq $5, (%rsp)\n" /* the length of the jump behind the call */
        "1:  ret\n"
        ".size redmagic_test_skip, . - redmagic_test_skip\n"
        ".type flags_over_return, @function\n"
        "flags_over_return:\n"
        "    xor %eax, %eax\n"
        "    call redmagic_test_compare\n"
        "    jl 1f\n"
        "    seta %al\n"
        "    adc $2, %eax\n"
        "    jmp 2f\n"
        "1:  setp %al\n"
        "    sbb $-7, %eax\n"
        "2:  call redmagic_test_skip\n"
        "    .byte 0xe9\n" /* jmp rel32 */
        "    .long 3f - . - 4\n"
        "    add $100, %eax\n"
        "3:  ret\n"
        ".size flags_over_return, . - flags_over_return\n");

static NOINLINE long returns(void) {
    long sum = 0;
    LOOP(N) sum = sum * 3 + flags_over_return(i * 7 % 11 - 4, i * 5 % 9 - 3);
    return sum;
}

/* Odds and ends: high byte registers, prefixes, strings, wide arithmetic. */
static NOINLINE unsigned long odds(void) {
    unsigned char from[64], to[64] = {0};
    unsigned long hash = 1;
    for (int at = 0; at < 64; at++) from[at] = (unsigned char)(at * 37);
    LOOP(N) {
        unsigned long a = hash, d = 0, c = (unsigned long)i & 31;
        const unsigned char *source = from + c;
        unsigned char *target = to + (i % 17);
        __asm__ volatile("endbr64\n\t"
                         "mov %%al, %%ah\n\t"
                         "add $3, %%ah\n\t"
                         "xchg %%ah, %%dl\n\t"
                         "bswap %%rax\n\t"
                         "shld $5, %%rax, %%rdx\n\t"
                         "rcl %%cl, %%rax\n\t"
                         "rcr $3, %%edx\n\t"
                         "mul %%rdx\n\t"
                         "push %%rcx\n\t"
                         "rep movsb\n\t"
                         "pop %%rcx\n\t"
                         "bt %%rcx, %%rax\n\t"
                         "sbb %%rdx, %%rax\n\t"
                         "cmpxchg %%rdx, %%rcx\n\t"
                         "jz 1f\n\t"
                         "popcnt %%rax, %%rdx\n"
                         "1: cwtl\n\t"
                         "cqto\n\t"
                         "fs; movq 0, %%rsi\n\t"
                         "sub %%fs:0, %%rsi\n\t"
                         "add %%rsi, %%rax"
                         : "+a"(a), "+d"(d), "+c"(c), "+S"(source), "+D"(target)
                         :
                         : "cc", "memory");
        hash = hash * 31 + a + d * 3 + c * 7;
        __asm__ volatile("div %[by]" : "+a"(a), "=d"(d) : [by] "r"(c | 5), "1"(0L) : "cc");
        hash += a ^ d;
        __asm__ volatile("xor %%eax, %%eax\n\tcpuid" : "=a"(a), "=b"(d) : : "rcx", "rdx");
        hash += a + d;
    }
    for (int at = 0; at < 64; at++) hash = hash * 31 + to[at];
    return hash;
}

/* A store that changes what the loop has decided on: nothing was declared immutable. */
static NOINLINE long changing_program(void) {
    static char program[] = "abababx";
    long x = 1;
    const char *pc = program;
    LOOP(N) {
        for (pc = program; *pc != 'x'; pc++) {
            switch (*pc) {
            case 'a': x = x * 3 + 1; break;
            case 'b': x ^= i; break;
            default: x -= 5; break;
            }
        }
        if (i % 90 == 60) program[i / 90 % 6] = (char)('a' + i / 90 % 3);
        x &= 0xffffffff;
    }
    return x;
}

int main(void) {
    redmagic_start();
#ifdef RESIDUAL
    redmagic_do_not_trace_function(red_zone_leaf);
    redmagic_do_not_trace_function(aligned_callee);
    redmagic_do_not_trace_function(f1);
    redmagic_do_not_trace_function(f2);
    redmagic_do_not_trace_function(change);
#endif
    printf("shared_flags %ld\n", shared_flags());
    printf("all_flags %lx\n", all_flags());
    printf("relative %lx\n", relative());
    printf("red_zone %ld\n", red_zone());
    printf("function_pointers %ld\n", function_pointers());
    printf("counters %ld\n", counters());
    printf("mmx %lx\n", mmx());
    printf("x87 %.17g\n", x87());
    printf("sse_modes %.17g\n", sse_modes());
    if (__builtin_cpu_supports("avx2")) printf("ymm %lx\n", ymm());
    if (__builtin_cpu_supports("avx512bw")) printf("zmm %lx\n", zmm());
    printf("alignment %ld\n", alignment());
    printf("direction %lx\n", direction());
    printf("returns %ld\n", returns());
    printf("odds %lx\n", odds());
    printf("changing_program %ld\n", changing_program());
    return 0;
}
