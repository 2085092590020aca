/*
 * Modules that are unloaded, and others that are loaded to the same place: same ids, same addresses of anchors and functions,
 * other code. In between, loops of the program itself go on.
 */
#include "redmagic.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROUNDS = 24, N = 200 };

static int id;

static __attribute__((noinline)) long own(long x) {
    for (long i = 0; i < N; i++) {
        x = x * 31 + i;
        REDMAGIC_BACKWARDS_BRANCH(&id);
    }
    return x;
}

int main(void) {
    static const char *const paths[] = {PLUGIN_0, PLUGIN_1, PLUGIN_2};
    redmagic_start();
    void *places[ROUNDS];
    int again = 0;
    long x = 1;
    for (int round = 0; round < ROUNDS; round++) {
        int variant = round * 7 % 5 % 3;
        void *module = dlopen(paths[variant], RTLD_NOW | RTLD_LOCAL);
        if (!module) return puts(dlerror()), 1;
        long (*run)(long, long, void *) = (long (*)(long, long, void *))(size_t)dlsym(module, "plugin_run");
        if (!run) return puts(dlerror()), 1;
        places[round] = (void *)(size_t)run;
        for (int before = 0; before < round; before++) again += places[before] == places[round];
        x = own(run(N, x, &id));
        printf("%d %d: %lx\n", round, variant, x);
        if (round % 6 == 5) continue; /* stays loaded */
        if (dlclose(module) != 0) return puts(dlerror()), 1;
    }
    printf("at a place where another one was: %s\n", again > 0 ? "yes" : "no");
    return 0;
}
