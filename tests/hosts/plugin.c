/* A module that is loaded and unloaded, in variants that differ in what their loops do, and whether the anchor is a macro. */
#include "redmagic.h"

static const long table[4] = {VARIANT, 3, 5 + VARIANT, 7};

static __attribute__((noinline)) long step(long x) { return x * table[2] + VARIANT; }

long plugin_run(long n, long x, void *id) {
    for (long i = 0; i < n; i++) {
#if VARIANT == 0
        x = x * 3 + step(i);
#elif VARIANT == 1
        x = (x ^ step(x)) + i;
#else
        x += table[i & 3] ^ step(i);
#endif
#if VARIANT == 2
        redmagic_backwards_branch(id);
#else
        REDMAGIC_BACKWARDS_BRANCH(id);
#endif
    }
    return x;
}
