/*
 * The C API without a library behind it: every function does nothing. With the cargo feature `noop` the annotated
 * interpreter is linked with this file, which shows what the annotations alone cost, and lets the interpreter be built
 * and tested where the library is not to be trusted.
 */
#include <string.h>

#define REDMAGIC_NO_MACROS
#include "redmagic.h"

int redmagic_active = 0;
int redmagic_resting = 0;
int redmagic_counters[1 << REDMAGIC_COUNTERS_LOG2];

/* Never called, because redmagic_active is zero. */
void redmagic_anchor_stub(void) {}

void redmagic_start(void) {}
void redmagic_backwards_branch(void *id) { (void)id; }
void redmagic_fellthrough_branch(void *id) { (void)id; }
void redmagic_begin_branchable_frame(void **frame_data) { (void)frame_data; }
void redmagic_end_branchable_frame(void **frame_data) { (void)frame_data; }
void redmagic_temp_disable(void) {}
void redmagic_temp_enable(void) {}
void redmagic_ensure_not_traced(void) {}
int redmagic_is_traced(void) { return 0; }
void redmagic_do_not_trace_function(void *function) { (void)function; }
void redmagic_disable_branch(void *id) { (void)id; }
void redmagic_begin_merge_block(void) {}
void redmagic_end_merge_block(void) {}

void *redmagic_force_begin_trace(void *id) {
    (void)id;
    return NULL;
}

void *redmagic_force_end_trace(void *id) {
    (void)id;
    return NULL;
}

void *redmagic_force_jump_to_trace(void *id) {
    (void)id;
    return NULL;
}

void redmagic_assume_immutable(const void *start, size_t length) {
    (void)start;
    (void)length;
}

void redmagic_forget(const void *start, size_t length) {
    (void)start;
    (void)length;
}

void redmagic_unload(const void *inside) { (void)inside; }

int redmagic_configure(const char *key, const char *value) {
    (void)key;
    (void)value;
    return -1;
}

void redmagic_get_stats(struct redmagic_stats *stats, uint64_t size) {
    memset(stats, 0, size);
}
