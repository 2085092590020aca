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
use crate::scope::has_property;
use redmagic_ir::{Effect, ExitValue, Map, Opcode, Segment, Slot, Terminator, Trace, Value};

/// Runs the pass.
pub(crate) fn run(trace: &mut Trace, stats: &mut Stats) {
    trace.clear_resume_exits();
    drop_unchanged(trace, stats);
    if !stats.may("dead code") {
        return;
    }
    let marks = Marker::mark(trace);
    for segment in trace.segments.values_mut() {
        let before = segment.insts.len();
        segment.insts.retain(|value| marks[*value] & LIVE != 0);
        stats.dead += (before - segment.insts.len()) as u32;
    }
    let mut kept = Map::new();
    let mut removed = 0;
    for segment in trace.segments.values() {
        let used: Vec<bool> = segment.params.iter().map(|param| marks[*param] & LIVE != 0).collect();
        let unused = used.iter().filter(|used| !**used).count();
        removed += unused as u32;
        kept.push((unused > 0).then_some(used));
    }
    if removed > 0 {
        stats.params_removed += removed;
        retain_params(trace, &kept);
    }
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

/// The value matters.
const LIVE: u8 = 1;
/// The sweep has come past its definition.
const PAST: u8 = 2;

struct Marker<'t> {
    trace: &'t Trace,
    marks: Map<Value, u8>,
    /// Values that turned out to matter when the sweep was past them.
    work: Vec<Value>,
    /// Every parameter with its segment and place there, in order, and every edge backwards, in order.
    params: Vec<(Value, Segment, u32)>,
    edges: Vec<(Segment, Segment)>,
}

impl Marker<'_> {
    /// Finds the values that matter: one sweep from the end to the start, which comes past most uses before definitions.
    fn mark(trace: &Trace) -> Map<Value, u8> {
        let mut marker = Marker {
            trace,
            marks: Map::filled(trace.insts.len(), 0),
            work: Vec::new(),
            params: Vec::new(),
            edges: Vec::new(),
        };
        for (segment, data) in trace.segments.iter() {
            marker.params.extend((0..).zip(&data.params).map(|(at, param)| (*param, segment, at)));
            let targets = data.terminator.targets().filter(|target| !target.args.is_empty());
            marker.edges.extend(targets.map(|target| (target.segment, segment)));
        }
        marker.params.sort_unstable();
        marker.edges.sort_unstable();
        marker.edges.dedup();
        for data in trace.segments.values().rev() {
            marker.terminator(&data.terminator);
            for &value in data.insts.iter().rev() {
                marker.come_past(value);
            }
            data.params.iter().for_each(|param| marker.come_past(*param));
        }
        while let Some(value) = marker.work.pop() {
            marker.visit(value);
        }
        marker.marks
    }

    fn need(&mut self, value: Value) {
        let mark = &mut self.marks[value];
        if *mark & LIVE == 0 {
            *mark |= LIVE;
            if *mark & PAST != 0 {
                self.work.push(value);
            }
        }
    }

    fn come_past(&mut self, value: Value) {
        let removable = has_property!(self.trace.insts[value].op, _, Effect::Pure | Effect::Partial | Effect::Read);
        let mark = &mut self.marks[value];
        *mark |= if removable { PAST } else { PAST | LIVE };
        if *mark & LIVE != 0 {
            self.visit(value);
        }
    }

    fn terminator(&mut self, terminator: &Terminator) {
        match terminator {
            Terminator::Jump(_) | Terminator::Leave(_) => {}
            Terminator::Switch { value, .. } => self.need(*value),
            Terminator::Call(call) => {
                self.need(call.target);
                self.need(call.return_address);
            }
        }
        if let Some(exit) = terminator.exit() {
            self.trace.exits[exit].for_each_value(|value| self.need(value));
        }
    }

    fn visit(&mut self, value: Value) {
        let trace = self.trace;
        if trace.insts[value].op != Opcode::Param {
            trace.for_each_use(value, |used| self.need(used));
            return;
        }
        let Ok(at) = self.params.binary_search_by_key(&value, |param| param.0) else { return };
        let (_, segment, at) = self.params[at];
        let first = self.edges.partition_point(|edge| edge.0 < segment);
        let edges = self.edges.len() - first;
        for edge in 0..edges {
            let (to, from) = self.edges[first + edge];
            if to != segment {
                break;
            }
            for target in trace.segments[from].terminator.targets().filter(|target| target.segment == segment) {
                self.need(target.args[at as usize]);
            }
        }
    }
}
