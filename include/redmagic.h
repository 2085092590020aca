/*
 * redmagic.h - makes an interpreter written in C or C++ fast.
 *
 * Call redmagic_start() once, mark the back edges of the interpreted program's loops, and link libredmagic. Everything
 * else is optional. All functions may be called at any time, from any thread, balanced or not: what makes no sense in
 * the current state is counted and ignored, and the interpreter goes on as if the call were not there.
 *
 * Smallest useful example, in the handler of a backward jump:
 *
 *     pc += offset;
 *     if (offset < 0) REDMAGIC_BACKWARDS_BRANCH(pc);
 *
 * Licence: Apache-2.0 OR MIT.
 */
#ifndef REDMAGIC_H
#define REDMAGIC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Starts the library. Later calls do nothing. */
void redmagic_start(void);

/* "The interpreted program is about to repeat loop `id`." The identity of the loop is `id` (any address that belongs
 * to it; NULL is ignored) together with the place of this call. */
void redmagic_backwards_branch(void *id);

/* "Loop `id` is over." Optional. */
void redmagic_fellthrough_branch(void *id);

/* Begin and end of a native frame that may contain loops of its own (a recursive interpreter function). `frame_data`
 * may be NULL. Ending a frame ends every loop that was begun in it. Optional. */
void redmagic_begin_branchable_frame(void **frame_data);
void redmagic_end_branchable_frame(void **frame_data);

/* Brackets code that must not become part of a trace, and where anchors do nothing. A trace comes back behind it. */
void redmagic_temp_disable(void);
void redmagic_temp_enable(void);

/* Leaves a trace, if one is running or being recorded, and goes on in the interpreter's own code. */
void redmagic_ensure_not_traced(void);

/* Non-zero in a trace, zero in the interpreter's own code. */
int redmagic_is_traced(void);

/* Calls of `function` are made as they are and never become part of a trace. */
void redmagic_do_not_trace_function(void *function);

/* Loop `id` is never traced; existing traces of it are dropped. */
void redmagic_disable_branch(void *id);

/* Code between these is better not duplicated when it branches. A hint. */
void redmagic_begin_merge_block(void);
void redmagic_end_merge_block(void);

/* Records loop `id` from here on whatever its heat; ends the recording here; enters the trace of `id` if there is one.
 * The results are always NULL. */
void *redmagic_force_begin_trace(void *id);
void *redmagic_force_end_trace(void *id);
void *redmagic_force_jump_to_trace(void *id);

/* ---- Extensions: hints that can only make things faster or safer. ---- */

/* What `function`, with all that it calls, does where its calls are not followed, as far as others can see. It returns to
 * its caller, calls nobody back and frees nothing, unless its effects are REDMAGIC_EFFECTS_ANY, which all functions have of
 * which nothing was said. Functions of the C library are known. */
enum redmagic_effects {
	REDMAGIC_EFFECTS_ANY = 0,   /* anything */
	REDMAGIC_EFFECTS_READS = 1, /* writes no memory */
	REDMAGIC_EFFECTS_ERRNO = 2, /* writes no memory but perhaps errno, reads none */
	REDMAGIC_EFFECTS_NONE = 3   /* neither reads nor writes memory */
};
void redmagic_set_function_effects(void *function, int effects);

/* The `length` bytes at `start` do not change until they are forgotten (bytecode, constant tables). */
void redmagic_assume_immutable(const void *start, size_t length);

/* Takes back redmagic_assume_immutable for everything in this range, and drops the traces and loops that depend on
 * it. Call it before the memory is changed or freed. */
void redmagic_forget(const void *start, size_t length);

/* The module with the code at `inside` is about to be unloaded: drops the traces of its code. Modules that include this
 * header call it by themselves. */
void redmagic_unload(const void *inside);

/* Sets an option by the name of its environment variable without the prefix, in lower case ("hot_loop", "passes", …).
 * Returns 0, or -1 if there is no such option or the value is not understood. */
int redmagic_configure(const char *key, const char *value);

/* Counters since redmagic_start(). `size` is sizeof(struct redmagic_stats) as the caller knows it. */
struct redmagic_stats {
    uint64_t size;
    uint64_t anchors;                /* anchor calls that reached the library */
    uint64_t recordings;             /* recordings begun */
    uint64_t recordings_failed;      /* recordings given up */
    uint64_t traces;                 /* traces compiled */
    uint64_t traces_refused;         /* recordings that could not be compiled */
    uint64_t side_traces;            /* traces that begin at an exit (counted in `traces` too) */
    uint64_t traces_dropped;         /* traces dropped */
    uint64_t entries;                /* trace entries from anchors */
    uint64_t exits;                  /* exits that reached the library */
    uint64_t recorded_instructions;  /* guest instructions executed by the recorder */
    uint64_t recording_ns;           /* time spent recording */
    uint64_t native_operations;      /* recorded instructions that became native operations */
    uint64_t operations_before;      /* IR operations before optimisation */
    uint64_t operations_after;       /* IR operations after optimisation */
    uint64_t compile_ns;             /* time spent lifting, optimising and lowering */
    uint64_t code_bytes;             /* machine code in use */
    uint64_t misuse;                 /* API calls that made no sense */
    uint64_t check_failures;         /* self-checks of traces that found a difference */
    uint64_t checks_passed;          /* self-checks of traces that passed */
    uint64_t exit_bytes;             /* what describes the exits of compiled traces, beside their code */
};
void redmagic_get_stats(struct redmagic_stats *stats, uint64_t size);

/* ---- What the macros below use; not for direct use. ---- */

#define REDMAGIC_COUNTERS_LOG2 14

/* Non-zero while the library watches for hot loops. */
extern int redmagic_active;
/* How many anchors go by uncounted, while nothing can come of them; the library looks at none if it is not positive. */
extern int redmagic_resting;
/* How often anchors may still be passed before the library looks at them, by hash of the id. */
extern int redmagic_counters[1 << REDMAGIC_COUNTERS_LOG2];
/* Not a C function: keeps every register but rax, rcx and the flags and vector registers; argument in rax. */
void redmagic_anchor_stub(void);

/* Runs when the module that it is in is unloaded: what comes to the same place has other code. One per module. */
#if defined(__GNUC__)
__attribute__((__destructor__, __visibility__("hidden"), __weak__, __unused__)) void redmagic_unloading_(void) {
    redmagic_unload((const void *)&redmagic_unloading_);
}
#endif

#ifdef __cplusplus
} /* extern "C" */

/* Brackets a scope that must not become part of a trace. */
class redmagic_disable {
public:
    redmagic_disable() { redmagic_temp_disable(); }
    ~redmagic_disable() { redmagic_temp_enable(); }
    redmagic_disable(const redmagic_disable &) = delete;
    redmagic_disable &operator=(const redmagic_disable &) = delete;
};

/* Brackets a scope that is a merge block. */
class redmagic_merge {
public:
    redmagic_merge() { redmagic_begin_merge_block(); }
    ~redmagic_merge() { redmagic_end_merge_block(); }
    redmagic_merge(const redmagic_merge &) = delete;
    redmagic_merge &operator=(const redmagic_merge &) = delete;
};
#endif

/*
 * REDMAGIC_BACKWARDS_BRANCH(id): redmagic_backwards_branch(id) for the hottest places. Costs two instructions when the
 * library is off, about twelve while the loop is cold, and six while anchors rest because nothing can come of them. No
 * register but two scratch registers is disturbed, so the compiler's register allocation around the interpreter's
 * dispatch stays as it was.
 *
 * The counter of the id's hash is decremented; when it falls below zero, the stub is called with the id in rax. The
 * red zone is stepped over before the call.
 */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(REDMAGIC_NO_MACROS)
/* Is the library watching? As inline assembly, because compilers turn the comparison in C into a load and a test. */
static __inline__ __attribute__((__always_inline__, __unused__)) int redmagic_watching_(void) {
    __asm__ goto("cmpl $0, %[active]\n\tjne %l[watching]" : : [active] "m"(redmagic_active) : "cc" : watching);
    return 0;
watching:
    return 1;
}

/* Do anchors rest? If so, this one has gone by. */
static __inline__ __attribute__((__always_inline__, __unused__)) int redmagic_rests_(void) {
    __asm__ goto("cmpl $0, %[resting]\n\tjle %l[counts]\n\tsubl $1, %[resting]"
                 :
                 : [resting] "m"(redmagic_resting)
                 : "cc", "memory"
                 : counts);
    return 1;
counts:
    return 0;
}

/* REDMAGIC_BACKWARDS_BRANCH_IF(condition, id): the same if `condition` holds, which is only evaluated while the
 * library watches: for handlers of jumps of either direction. */
#define REDMAGIC_BACKWARDS_BRANCH_IF(condition, id)                                                                    \
    do {                                                                                                               \
        if (__builtin_expect(redmagic_watching_(), 0) && !redmagic_rests_() && (condition)) {                          \
            void *redmagic_id_ = (void *)(id);                                                                         \
            int *redmagic_table_ = redmagic_counters;                                                                  \
            __asm__ volatile("imull $0x9e3779b1, %k[key], %%ecx\n\t"                                                   \
                             "shrl %[shift], %%ecx\n\t"                                                                \
                             "subl $1, (%[table], %%rcx, 4)\n\t"                                                       \
                             "jns 1f\n\t"                                                                              \
                             "leaq -128(%%rsp), %%rsp\n\t"                                                             \
                             "call *%[stub]\n\t"                                                                       \
                             "leaq 128(%%rsp), %%rsp\n\t"                                                              \
                             "1:"                                                                                      \
                             : [key] "+a"(redmagic_id_)                                                                \
                             : [table] "r"(redmagic_table_), [shift] "i"(32 - REDMAGIC_COUNTERS_LOG2),                 \
                               [stub] "r"(&redmagic_anchor_stub)                                                       \
                             : "rcx", "cc", "memory", REDMAGIC_VECTORS_);                                              \
        }                                                                                                              \
    } while (0)
#define REDMAGIC_BACKWARDS_BRANCH(id) REDMAGIC_BACKWARDS_BRANCH_IF(1, id)
#define REDMAGIC_SSE_                                                                                                  \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",         \
        "xmm13", "xmm14", "xmm15"
#ifdef __AVX512F__
#define REDMAGIC_VECTORS_                                                                                              \
    REDMAGIC_SSE_, "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26",  \
        "xmm27", "xmm28", "xmm29", "xmm30", "xmm31", "k1", "k2", "k3", "k4", "k5", "k6", "k7"
#else
#define REDMAGIC_VECTORS_ REDMAGIC_SSE_
#endif
#else
#define REDMAGIC_BACKWARDS_BRANCH(id) redmagic_backwards_branch((void *)(id))
#define REDMAGIC_BACKWARDS_BRANCH_IF(condition, id)                                                                    \
    do {                                                                                                               \
        if (condition) REDMAGIC_BACKWARDS_BRANCH(id);                                                                  \
    } while (0)
#endif

#endif /* REDMAGIC_H */
