//! The pass `loops`: a second copy of a loop that keeps in registers what the first one has in memory.
//!
//! # Shape
//! A loop H of one segment, or of several with calls between them of callees that leave its memory alone, becomes a nest:
//! ```text
//! H (as before) ──► is all assumed memory disjoint? ──no──► H
//!                       │ yes
//!                       ▼
//!                       P: what the second copy needs once
//!                       ▼
//!                  ┌──► H2: the second copy ──► again? ──no──► F: stores that H2 has put off ──► H
//!                  └────────────────────────────── yes
//! ```
//! One iteration of H has just run when H2 begins: every load, check and pure computation that would give the same again
//! is not repeated in H2. A cell of memory that changes from iteration to iteration is a parameter of H2, and its stores
//! wait: exits of H2 perform them, and F does.
//!
//! # Invariants
//! - H2 is entered only behind the check, at the end of H, that the memory which the loop accesses at different roots is
//!   disjoint, or the same where it was recorded to be. The roots are values that do not change in H2.
//! - At a call of H2, memory is complete (`calls.rs`).
//! - H2 gives way to H after a bounded number of iterations ([`STRIP`]), so that what other threads and signal handlers
//!   write is seen after a while, and what H2 has put off is written.
//! - A store that waits was executed by H before, at the same address: delaying it adds no fault.
//! - Objects that are others in each iteration are kept apart in H2 itself, by checks that lead back to H, to the start of the
//!   iteration: nothing is stored before its end then (`windows.rs`).
//!
//! # Worked example
//! `H(v1: i64 = rax): v2 = load [v0 + 8]; v3 = add v2, v1; store [v0 + 16], v3; v4 = load [v0 + 16]; …; jump H(v4)`
//! has in H2 only the addition: v2 is what H has loaded, and the cell at v0 + 16 is a parameter that starts with v3.

mod accesses;
mod bounds;
mod calls;
mod commit;
mod copy;
mod counted;
mod ends;
mod plan;
mod reasons;
mod waiting;
mod windows;

use crate::Stats;
use crate::pipeline::MemoryModel;
use redmagic_ir::{Call, CallEffect, Inst, Opcode, Segment, Terminator, Trace, Type, Value};

/// Operations of H2 between two looks at memory, roughly 20 µs.
const STRIP: i64 = 60_000;
/// What a call counts for.
const CALL: usize = 100;
/// Larger loops stay as they are.
const MAX_BODY: usize = 1500;

/// A loop without inner ones.
pub(crate) struct Body {
    pub header: Segment,
    /// Where it ends: the header, or what comes after the last call.
    pub last: Segment,
    pub params: Vec<Value>,
    /// The arguments on the back edge.
    pub args: Vec<Value>,
    pub insts: Vec<Value>,
    /// Its calls, with what stands for each of them among the instructions.
    pub calls: Vec<(Value, Call)>,
}

/// Runs the pass.
pub(crate) fn run(trace: &mut Trace, stats: &mut Stats) {
    if stats.model == MemoryModel::Strict {
        return;
    }
    let headers: Vec<Segment> = trace.segments.keys().collect();
    for header in headers {
        let Some(body) = body(trace, header) else { continue };
        if let Some(plan) = copy::plan(trace, stats, &body)
            && stats.may("second copy")
        {
            commit::commit(trace, &body, plan);
            stats.loops_copied += 1;
        }
    }
}

/// The loop that begins with `header`, if one does that executes nothing verbatim or atomically and calls only who leaves its
/// memory alone.
fn body(trace: &mut Trace, header: Segment) -> Option<Body> {
    let (mut last, mut insts, mut calls) = (header, Vec::new(), Vec::new());
    let args = loop {
        let data = &trace.segments[last];
        insts.extend(&data.insts);
        let is_plain =
            |value: &Value| !matches!(trace.insts[*value].op, Opcode::Native | Opcode::NativeOut | Opcode::CompareSwap);
        if insts.len() > MAX_BODY || !data.insts.iter().all(is_plain) {
            return None;
        }
        match &data.terminator {
            Terminator::Jump(target) if target.segment == header => break target.args.clone(),
            Terminator::Call(call) if call.effect != CallEffect::Any => {
                let call = call.clone();
                let marker = trace.add_inst(Inst::constant(Type::I1, 1));
                last = call.resume;
                insts.push(marker);
                calls.push((marker, call));
            }
            Terminator::Jump(_) | Terminator::Call(_) | Terminator::Switch { .. } | Terminator::Leave(_) => {
                return None;
            }
        }
    };
    Some(Body { header, last, params: trace.segments[header].params.clone(), args, insts, calls })
}
