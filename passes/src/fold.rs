//! The pass `fold`: the walk without memory forwarding.
//!
//! Worked example: `v2 = add v1, 8; v3 = add v2, -8; guard (eq v3, v1), exit0` leaves nothing: v3 is v1 by `add_const`
//! and `add_zero`, the comparison is 1 by `compare_self`, the guard holds.

use crate::{Stats, walk};
use redmagic_ir::Trace;

/// Runs the pass.
pub(crate) fn run(trace: &mut Trace, stats: &mut Stats) {
    walk::run(trace, stats, false);
}
