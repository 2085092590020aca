//! The pass `dce`: removes what nobody uses.
//!
//! # Invariants
//! - Stores, guards and native operations stay, with all that they, their exits and the terminators use. Everything
//!   else that is not used goes: pure and partial operations, loads, parameters with their arguments.
//! - An exit need not list a slot that still has the value that was read from it at entry, if nothing makes the slot
//!   dirty: no parameter carries it, no native operation touches it, no residual call intervenes.
//! - Resume exits only serve the walk; the pass drops them first, so that the values that only they need go as well.
//!
//! Worked example: a loop that increments v1 and uses it for nothing else: v1 and the sum use only each other, no root
//! reaches them, and both go with the argument on the back edge.

use crate::Stats;
use crate::params::retain_params;
use redmagic_ir::{Effect, ExitValue, Map, Opcode, Segment, Slot, Terminator, Trace, Value};
use std::collections::BTreeMap;

/// Runs the pass.
pub(crate) fn run(trace: &mut Trace, stats: &mut Stats) {
    trace.clear_resume_exits();
    drop_unchanged(trace, stats);
    if !stats.may("dead code") {
        return;
    }
    let live = Marker::mark(trace);
    for segment in trace.segments.values_mut() {
        let before = segment.insts.len();
        segment.insts.retain(|value| live[*value]);
        stats.dead += (before - segment.insts.len()) as u32;
    }
    let mut kept = Map::new();
    for segment in trace.segments.values() {
        let used: Vec<bool> = segment.params.iter().map(|param| live[*param]).collect();
        let unused = used.iter().filter(|used| !**used).count();
        stats.params_removed += unused as u32;
        kept.push((unused > 0).then_some(used));
    }
    retain_params(trace, &kept);
}

/// Removes slots from exits that are unchanged there.
fn drop_unchanged(trace: &mut Trace, stats: &mut Stats) {
    let mut clean = [true; Slot::COUNT];
    for segment in trace.segments.values() {
        if matches!(segment.terminator, Terminator::Call(_)) {
            return;
        }
        segment
            .params
            .iter()
            .filter_map(|param| trace.insts[*param].slot())
            .for_each(|slot| clean[slot.index()] = false);
        for native in segment.insts.iter().filter_map(|value| trace.insts[*value].native_op()) {
            let native = &trace.natives[native];
            let touched = native.inputs.iter().map(|input| input.0).chain(native.outputs.iter().copied());
            touched.for_each(|slot| clean[slot.index()] = false);
        }
    }
    let insts = &trace.insts;
    for exit in trace.exits.values_mut() {
        let before = exit.slots.len();
        exit.slots.retain(|(slot, value)| match value {
            ExitValue::Value(value) => {
                let read = &insts[*value];
                let unchanged = clean[slot.index()] && read.op == Opcode::Slot && read.slot() == Some(*slot);
                !(unchanged && stats.may("unchanged slot"))
            }
            ExitValue::Const(_) | ExitValue::Recipe(_) | ExitValue::Undefined => true,
        });
        stats.unchanged += (before - exit.slots.len()) as u32;
    }
}

struct Marker<'t> {
    trace: &'t Trace,
    live: Map<Value, bool>,
    work: Vec<Value>,
    /// For each parameter its segment and place there.
    params: BTreeMap<Value, (Segment, u32)>,
    preds: Map<Segment, Vec<Segment>>,
}

impl Marker<'_> {
    /// Finds the values that matter.
    fn mark(trace: &Trace) -> Map<Value, bool> {
        let mut marker = Marker {
            trace,
            live: Map::filled(trace.insts.len(), false),
            work: Vec::new(),
            params: BTreeMap::new(),
            preds: Map::filled(trace.segments.len(), Vec::new()),
        };
        for (segment, data) in trace.segments.iter() {
            for (at, param) in data.params.iter().enumerate() {
                marker.params.insert(*param, (segment, at as u32));
            }
            for target in data.terminator.targets() {
                if !marker.preds[target.segment].contains(&segment) {
                    marker.preds[target.segment].push(segment);
                }
            }
        }
        marker.roots();
        while let Some(value) = marker.work.pop() {
            marker.visit(value);
        }
        marker.live
    }

    fn need(&mut self, value: Value) {
        if !self.live[value] {
            self.live[value] = true;
            self.work.push(value);
        }
    }

    fn roots(&mut self) {
        let trace = self.trace;
        for segment in trace.segments.values() {
            for &value in &segment.insts {
                match trace.insts[value].op.effect() {
                    Effect::Pure | Effect::Partial | Effect::Read => {}
                    Effect::Write | Effect::Guard | Effect::Barrier => self.need(value),
                }
            }
            match &segment.terminator {
                Terminator::Jump(_) | Terminator::Leave(_) => {}
                Terminator::Switch { value, .. } => self.need(*value),
                Terminator::Call(call) => {
                    self.need(call.target);
                    self.need(call.return_address);
                }
            }
            if let Some(exit) = segment.terminator.exit() {
                trace.exits[exit].for_each_value(|value| self.need(value));
            }
        }
    }

    fn visit(&mut self, value: Value) {
        let trace = self.trace;
        if trace.insts[value].op != Opcode::Param {
            trace.for_each_use(value, |used| self.need(used));
            return;
        }
        let Some(&(segment, at)) = self.params.get(&value) else { return };
        for pred in 0..self.preds[segment].len() {
            let pred = self.preds[segment][pred];
            for target in trace.segments[pred].terminator.targets() {
                if target.segment == segment {
                    self.need(target.args[at as usize]);
                }
            }
        }
    }
}
