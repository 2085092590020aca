//! The pass `place`: loads stand next to what uses them.
//!
//! Interpreters load a value first and ask then what it is. Between a load and its only use there are guards then, across which the code
//! generator does not make one instruction of both, and a register that holds the value meanwhile.
//!
//! # Invariants
//! - A load with one use in its own segment, and none by an exit, moves to the front of that use, if nothing is written in between.
//! - Loads that move keep their order.
//!
//! Worked example: `v1 = load [v0]; v2: i8 = load [v0 + 8]; guard (v2 = 19), exit0; v3 = fadd64 v9, v1` becomes
//! `v2: i8 = load [v0 + 8]; guard (v2 = 19), exit0; v1 = load [v0]; v3 = fadd64 v9, v1`.

use crate::Stats;
use crate::pipeline::MemoryModel;
use redmagic_ir::{Effect, Map, Opcode, Trace, Value};

/// Runs the pass.
pub(crate) fn run(trace: &mut Trace, stats: &mut Stats) {
    if stats.model == MemoryModel::Strict {
        return;
    }
    let mut uses = Map::filled(trace.insts.len(), 0u32);
    let segments: Vec<_> = trace.segments.keys().collect();
    for segment in &segments {
        let data = &trace.segments[*segment];
        data.insts.iter().for_each(|value| trace.for_each_use(*value, |used| uses[used] += 1));
        data.terminator.for_each_value(|used| uses[used] += 2);
        if let Some(exit) = data.terminator.exit() {
            trace.exits[exit].for_each_value(|used| uses[used] += 2);
        }
    }
    for (_, exit) in trace.resume_exits() {
        trace.exits[exit].for_each_value(|used| uses[used] += 2);
    }
    let mut is_waiting = Map::filled(trace.insts.len(), false);
    for segment in segments {
        let insts = std::mem::take(&mut trace.segments[segment].insts);
        let mut placed = Vec::with_capacity(insts.len());
        let mut waiting: Vec<Value> = Vec::new();
        for value in insts {
            let inst = &trace.insts[value];
            let writes = !matches!(inst.op.effect(), Effect::Pure | Effect::Partial | Effect::Read | Effect::Guard);
            let waits = inst.op == Opcode::Load && uses[value] == 1 && stats.may("load beside its use");
            let mut is_asked = false;
            trace.for_each_use(value, |operand| is_asked |= std::mem::take(&mut is_waiting[operand]));
            if writes {
                placed.append(&mut waiting);
            } else if is_asked {
                placed.extend(waiting.extract_if(.., |load| !is_waiting[*load]));
            }
            if waits {
                is_waiting[value] = true;
                waiting.push(value);
                continue;
            }
            placed.push(value);
        }
        placed.append(&mut waiting);
        trace.segments[segment].insts = placed;
    }
}
