/*
 * Loops over short arrays, which compilers make vector instructions of: with -mavx2 such on whole ymm registers, and scalar
 * ones that clear what is above them. Branches alternate, so that traces are left while upper halves hold something.
 */
#include "redmagic.h"
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define LOOP(n) for (long i = 0; i < (n); ({ i++; REDMAGIC_BACKWARDS_BRANCH((void *)__func__); }))

enum { N = 300, LENGTH = 32 };

static uint8_t bytes[LENGTH], other_bytes[LENGTH];
static int32_t words[LENGTH];
static double numbers[LENGTH / 4];
static float singles[LENGTH / 4];

static uint64_t hash(uint64_t seed, const void *memory, size_t length) {
    const unsigned char *at = memory;
    for (size_t i = 0; i < length; i++)
        seed = (seed ^ at[i]) * 0x100000001b3u;
    return seed;
}

static __attribute__((noinline)) uint64_t on_bytes(void) {
    uint64_t result = 1;
    LOOP(N) {
        for (int k = 0; k < LENGTH; k++) {
            uint8_t a = bytes[k], b = other_bytes[k];
            bytes[k] = (uint8_t)((a > b ? a : b) + i);
            other_bytes[k] = a < b ? a ^ 0x55 : b;
        }
        result = hash(result, bytes, sizeof bytes);
        if (i % 3 == 1)
            result ^= other_bytes[i % LENGTH];
    }
    return result;
}

static __attribute__((noinline)) uint64_t on_words(void) {
    uint64_t result = 1;
    LOOP(N) {
        int32_t sum = 0;
        for (int k = 0; k < LENGTH; k++) {
            words[k] = words[k] * 3 + (int32_t)(i ^ k);
            sum += words[k] >> (k & 7);
        }
        result = result * 31 + (uint32_t)sum;
        if (i % 5 == 2)
            memcpy(bytes, words, sizeof bytes);
    }
    return hash(result, words, sizeof words);
}

static __attribute__((noinline)) uint64_t on_numbers(void) {
    uint64_t result = 1;
    LOOP(N) {
        double scale = (double)(i % 7) * 0.25;
        for (int k = 0; k < LENGTH / 4; k++) {
            numbers[k] = numbers[k] * 0.5 + scale - (double)k;
            singles[k] = (float)numbers[k] + singles[k] / 2;
        }
        if (i % 4 == 3)
            result = hash(result, numbers, sizeof numbers);
        else
            result = hash(result, singles, sizeof singles);
    }
    return result;
}

int main(void) {
    redmagic_start();
    for (int k = 0; k < LENGTH; k++) {
        bytes[k] = (uint8_t)(k * 37);
        other_bytes[k] = (uint8_t)(k * 91 + 5);
        words[k] = k * 1000003;
    }
    printf("bytes %016lx\n", on_bytes());
    printf("words %016lx\n", on_words());
    printf("numbers %016lx\n", on_numbers());
    return 0;
}
