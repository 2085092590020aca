/* Threads whose first call is any function of the API: afterwards they run a loop like every other. */
#include "vm.h"
#include <pthread.h>

static const struct vm_insn work[] = {{VM_ADDI, 0, 3}, {VM_XOR, 0, 1}, {VM_LOOP, 1, 0}, {VM_HALT, 0, 0}};
static struct redmagic_stats statistics;
static void *frame;
static char text[64];

static void call(int which) {
    switch (which) {
    case 0: redmagic_start(); break;
    case 1: redmagic_backwards_branch((void *)work); break;
    case 2: redmagic_fellthrough_branch((void *)work); break;
    case 3: redmagic_begin_branchable_frame(&frame); break;
    case 4: redmagic_end_branchable_frame(&frame); break;
    case 5: redmagic_temp_disable(); break;
    case 6: redmagic_temp_enable(); break;
    case 7: redmagic_ensure_not_traced(); break;
    case 8: redmagic_is_traced(); break;
    case 9: redmagic_do_not_trace_function((void *)call); break;
    case 10: redmagic_disable_branch((void *)call); break;
    case 11: redmagic_begin_merge_block(); break;
    case 12: redmagic_end_merge_block(); break;
    case 13: redmagic_force_begin_trace((void *)work); break;
    case 14: redmagic_force_end_trace((void *)work); break;
    case 15: redmagic_force_jump_to_trace((void *)work); break;
    case 16: redmagic_assume_immutable(text, sizeof text); break;
    case 17: redmagic_forget(text, sizeof text); break;
    case 18: redmagic_configure("hot_exit", "10"); break;
    case 19: redmagic_get_stats(&statistics, sizeof statistics); break;
    default: REDMAGIC_BACKWARDS_BRANCH((void *)work); break;
    }
}

enum { CALLS = 21 };

static void *begin(void *argument) {
    call((int)(long)argument);
    long sum = 0;
    for (int round = 0; round < 3; round++) {
        long r[8] = {(long)argument, 200};
        sum += vm_run(work, r);
    }
    return (void *)sum;
}

int main(void) {
    /* The first round before the library is started. */
    for (int round = 0; round < 3; round++) {
        for (long which = CALLS - 1; which >= 0; which--) {
            pthread_t thread;
            void *result;
            pthread_create(&thread, NULL, begin, (void *)which);
            pthread_join(thread, &result);
            printf("%ld: %ld\n", which, (long)result);
        }
        redmagic_start();
    }
    return 0;
}
