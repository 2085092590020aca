//! The pass `params`: parameters that always receive the same value.
//!
//! # Invariants
//! - A parameter whose arguments are one value (or the parameter itself) is that value: what reaches all predecessors
//!   of a segment that it does not dominate reaches the segment.
//! - A loop parameter that a guard in the loop compares with a constant, and that every iteration sets to this constant,
//!   is the constant if it is at entry: the guard moves to the start of the trace, with the state at entry as its exit.
//!
//! Worked example: `seg1(v1: i64 = rbx)` with the arguments v0 (`slot rbx`) and `const 0x1000` and the guard
//! `eq v1, 0x1000` in the loop: the start of the trace guards `eq v0, 0x1000`, and v1 is `const 0x1000` everywhere.

use crate::Stats;
use crate::graph::Graph;
use crate::walk::map_exit;
use redmagic_ir::{ExitData, Inst, Map, Opcode, Segment, Slot, Trace, Type, Value};

/// What arrives at a parameter, besides itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Arriving {
    Nothing,
    /// This value only (constants are compared by what they are).
    One(Value),
    /// This slot read or constant of the entry, and this constant.
    EntryAnd(Value, Value),
    Many,
}

/// Runs the pass.
pub(crate) fn run(trace: &mut Trace, stats: &mut Stats) {
    if trace.segments.values().all(|segment| segment.params.is_empty()) {
        return;
    }
    let graph = Graph::new(trace);
    let mut renames = Map::filled(trace.insts.len(), Value::NONE);
    let mut guards = Vec::new();
    let mut changed = true;
    let mut removed = 0;
    let mut compared = None;
    while changed {
        changed = false;
        for &segment in &graph.order {
            for at in 0..trace.segments[segment].params.len() {
                let param = trace.segments[segment].params[at];
                if renames[param].is_some() {
                    continue;
                }
                let (replacement, guard) = match arriving(trace, &graph, &renames, segment, at) {
                    Arriving::One(value) => (value, None),
                    Arriving::EntryAnd(entry, constant)
                        if compared
                            .get_or_insert_with(|| guarded_constants(trace))
                            .contains(&(param, trace.as_const(constant))) =>
                    {
                        (constant, Some((entry, constant)))
                    }
                    Arriving::Nothing | Arriving::EntryAnd(..) | Arriving::Many => continue,
                };
                stats.rewrites.look_at(param);
                if !stats.may("parameter") {
                    break;
                }
                guards.extend(guard);
                renames[param] = replacement;
                changed = true;
                removed += 1;
            }
        }
    }
    stats.params_removed += removed;
    if removed > 0 {
        remove(trace, &renames);
        pool_constants(trace, &renames);
        rename_all(trace, &renames);
        guard_entry(trace, guards, stats);
    }
}

/// The end of the chain of renames that starts at `value`.
fn renamed(renames: &Map<Value, Value>, mut value: Value) -> Value {
    while let Some(&next) = renames.get(value)
        && next.is_some()
    {
        value = next;
    }
    value
}

/// Every `(value, constant)` that a guard compares.
fn guarded_constants(trace: &Trace) -> Vec<(Value, Option<i64>)> {
    let insts = trace.segments.values().flat_map(|segment| &segment.insts);
    let guards = insts.map(|value| &trace.insts[*value]).filter(|inst| inst.op == Opcode::Guard);
    let tests = guards.map(|guard| &trace.insts[guard.args[0]]).filter(|test| test.op == Opcode::Eq);
    tests.map(|test| (test.args[0], trace.as_const(test.args[1]))).filter(|pair| pair.1.is_some()).collect()
}

fn arriving(trace: &Trace, graph: &Graph, renames: &Map<Value, Value>, segment: Segment, at: usize) -> Arriving {
    let param = trace.segments[segment].params[at];
    let mut found = Arriving::Nothing;
    for &pred in &graph.preds[segment] {
        for target in trace.segments[pred].terminator.targets() {
            if target.segment != segment {
                continue;
            }
            let value = renamed(renames, target.args[at]);
            if value != param {
                found = meet(trace, found, value);
            }
        }
    }
    found
}

fn meet(trace: &Trace, found: Arriving, value: Value) -> Arriving {
    let same = |a: Value, b: Value| a == b || trace.as_const(a).is_some() && trace.insts[a] == trace.insts[b];
    let hoistable = |value: Value| trace.start != 0 && is_entry_slot(trace, value);
    match found {
        Arriving::Nothing => Arriving::One(value),
        Arriving::One(one) if same(one, value) => found,
        Arriving::One(one) if hoistable(one) && trace.as_const(value).is_some() => Arriving::EntryAnd(one, value),
        Arriving::One(one) if hoistable(value) && trace.as_const(one).is_some() => Arriving::EntryAnd(value, one),
        Arriving::EntryAnd(entry, constant) if value == entry || same(constant, value) => found,
        Arriving::One(_) | Arriving::EntryAnd(..) | Arriving::Many => Arriving::Many,
    }
}

/// Whether `value` is read at the start of the trace from a slot whose value may be a constant (for every thread).
fn is_entry_slot(trace: &Trace, value: Value) -> bool {
    let inst = &trace.insts[value];
    let of_thread = matches!(inst.slot(), Some(Slot::RSP | Slot::FS | Slot::GS));
    inst.op == Opcode::Slot
        && inst.ty == Type::I64
        && !of_thread
        && trace.segments[trace.entry()].insts.contains(&value)
}

/// Removes the renamed parameters and their arguments.
fn remove(trace: &mut Trace, renames: &Map<Value, Value>) {
    let kept: Map<Segment, Option<Vec<bool>>> = trace.segments.values().fold(Map::new(), |mut all, segment| {
        let kept: Vec<bool> = segment.params.iter().map(|param| !renames[*param].is_some()).collect();
        all.push(kept.contains(&false).then_some(kept));
        all
    });
    retain_params(trace, &kept);
}

/// Removes the parameters, and their arguments, for which `kept` says so; `None` keeps all of a segment.
pub(crate) fn retain_params(trace: &mut Trace, kept: &Map<Segment, Option<Vec<bool>>>) {
    let retain = |list: &mut Vec<Value>, kept: &[bool]| {
        let mut at = 0;
        list.retain(|_| {
            at += 1;
            kept[at - 1]
        });
    };
    for segment in trace.segments.keys().collect::<Vec<_>>() {
        if let Some(kept) = &kept[segment] {
            retain(&mut trace.segments[segment].params, kept);
        }
        for target in trace.segments[segment].terminator.targets_mut() {
            if let Some(kept) = &kept[target.segment] {
                retain(&mut target.args, kept);
            }
        }
    }
}

/// Moves the constants that replace parameters to the start of the trace, where they reach every use.
fn pool_constants(trace: &mut Trace, renames: &Map<Value, Value>) {
    let entry = trace.entry();
    let mut pooled: Vec<Value> = renames.values().copied().filter(|value| value.is_some()).collect();
    pooled.retain(|value| trace.as_const(*value).is_some());
    pooled.sort_unstable();
    pooled.dedup();
    let start = after_slots(trace);
    let already = |value: &Value| trace.segments[entry].insts[..start].contains(value);
    pooled.retain(|value| !already(value));
    if pooled.is_empty() {
        return;
    }
    for segment in trace.segments.values_mut() {
        segment.insts.retain(|value| pooled.binary_search(value).is_err());
    }
    let start = after_slots(trace);
    trace.segments[entry].insts.splice(start..start, pooled);
}

/// The place in the entry segment behind its slot reads and the constants after them.
fn after_slots(trace: &Trace) -> usize {
    let insts = &trace.segments[trace.entry()].insts;
    let last_slot = insts.iter().rposition(|value| trace.insts[*value].op == Opcode::Slot).map_or(0, |at| at + 1);
    let consts = insts[last_slot..].iter().take_while(|value| trace.insts[**value].op == Opcode::Const);
    last_slot + consts.count()
}

fn rename_all(trace: &mut Trace, renames: &Map<Value, Value>) {
    let f = |value: Value| renamed(renames, value);
    for segment in trace.segments.keys().collect::<Vec<_>>() {
        let data = &mut trace.segments[segment];
        data.terminator.map_values(f);
        for at in 0..data.insts.len() {
            let value = trace.segments[segment].insts[at];
            trace.insts[value].map_operands(f);
        }
    }
    for native in trace.natives.values_mut() {
        native.inputs.iter_mut().for_each(|input| input.1 = f(input.1));
    }
    for exit in trace.exits.keys().collect::<Vec<_>>() {
        let mut data = std::mem::replace(&mut trace.exits[exit], ExitData::new(0, 0));
        map_exit(trace, &mut data, f);
        trace.exits[exit] = data;
    }
}

/// Guards at the start of the trace that each value is its constant.
fn guard_entry(trace: &mut Trace, mut guards: Vec<(Value, Value)>, stats: &mut Stats) {
    guards.sort_unstable();
    guards.dedup();
    if guards.is_empty() {
        return;
    }
    let exit = trace.exits.push(ExitData::new(trace.start, 0));
    let mut insts = Vec::new();
    for (value, constant) in guards {
        let equal = trace.add_inst(Inst::binary(Opcode::Eq, Type::I1, value, constant));
        let guard = trace.add_inst(Inst::guard(true, equal, exit));
        insts.extend([equal, guard]);
        stats.promotions_hoisted += 1;
    }
    let start = after_slots(trace);
    let entry = trace.entry();
    trace.segments[entry].insts.splice(start..start, insts);
}
