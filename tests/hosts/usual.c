/*
 * A loop with a path that one pass in sixteen takes, and which is much longer. The argument says which: one of them is the
 * pass on which the loop becomes hot.
 */
#include "redmagic.h"
#include <stdio.h>
#include <stdlib.h>

#define SCRAMBLE(x, i) x = (x ^ (x >> 7)) * 2654435761UL + (i)

int main(int argc, char **argv) {
    unsigned long rare = argc > 1 ? strtoul(argv[1], NULL, 10) : 0, x = 1;
    redmagic_start();
    for (volatile unsigned long i = 0; i < 300000; i++) {
        if (i % 16 == rare) {
            SCRAMBLE(x, i);
            SCRAMBLE(x, i);
            SCRAMBLE(x, i);
            SCRAMBLE(x, i);
        } else {
            x += i;
        }
        REDMAGIC_BACKWARDS_BRANCH(&rare);
    }
    printf("%lu\n", x);
    return 0;
}
