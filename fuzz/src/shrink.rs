//! Makes a trace that fails smaller, for whatever reason it fails.
//!
//! A trace is changed in many small ways: an instruction becomes a constant or one of its operands, a guard or a store
//! goes away, an exit writes less, a segment ends early. A change is kept if the verifier is still content and the trace
//! still fails. What is left is what matters, and is printed as a test file.
//!
//! Worked example: of a loop of 60 instructions that a pass mistreats, one load, one store to the same address and
//! the exit remain.

use redmagic_ir::{Entity, Exit, ExitValue, Inst, Opcode, Terminator, Trace, Type, Value};

/// The smallest trace found that still `fails`.
pub fn shrink(trace: &Trace, mut fails: impl FnMut(&Trace) -> bool) -> Trace {
    let mut best = trace.clone();
    let mut keep = |best: &mut Trace, change: &dyn Fn(&mut Trace) -> bool| {
        let mut smaller = best.clone();
        if change(&mut smaller) && redmagic_ir::verify(&smaller).is_ok() && fails(&smaller) {
            *best = smaller;
            return true;
        }
        false
    };
    // A change may make room for others; a few rounds are enough.
    for _ in 0..4 {
        let mut changed = false;
        for segment in best.segments.keys().collect::<Vec<_>>() {
            for exit in best.exits.keys().collect::<Vec<_>>() {
                let leave = |trace: &mut Trace| {
                    trace.segments[segment].terminator = Terminator::Leave(exit);
                    true
                };
                let ends = matches!(best.segments[segment].terminator, Terminator::Leave(_));
                changed |= !ends && keep(&mut best, &leave);
            }
            for value in best.segments[segment].insts.clone().into_iter().rev() {
                changed |= keep(&mut best, &|trace| remove(trace, value));
                let operands: Vec<Value> = best.insts[value].operands().collect();
                for operand in operands {
                    changed |= keep(&mut best, &|trace| replace(trace, value, operand) && remove(trace, value));
                }
                for imm in [0, 1, -1] {
                    changed |= keep(&mut best, &|trace| become_constant(trace, value, imm));
                }
            }
        }
        for exit in best.exits.keys().collect::<Vec<_>>() {
            changed |= shrink_exit(&mut best, exit, &mut keep);
        }
        if !changed {
            break;
        }
    }
    keep(&mut best, &|trace| {
        *trace = without_unused(trace);
        true
    });
    best
}

type Keep<'a> = dyn FnMut(&mut Trace, &dyn Fn(&mut Trace) -> bool) -> bool + 'a;

fn shrink_exit(best: &mut Trace, exit: Exit, keep: &mut Keep<'_>) -> bool {
    let mut changed = false;
    for at in (0..best.exits[exit].stores.len()).rev() {
        changed |= keep(best, &|trace| {
            trace.exits[exit].stores.remove(at);
            true
        });
    }
    for at in (0..best.exits[exit].slots.len()).rev() {
        let dropped = keep(best, &|trace| {
            trace.exits[exit].slots.remove(at);
            true
        });
        let simple = matches!(best.exits[exit].slots.get(at), None | Some((_, ExitValue::Const(_))));
        changed |= dropped
            || !simple
                && keep(best, &|trace| {
                    trace.exits[exit].slots[at].1 = ExitValue::Const(0);
                    true
                });
    }
    let used = |trace: &Trace, at: usize| {
        let data = &trace.exits[exit];
        let named = data.slots.iter().map(|slot| slot.1).chain(data.stores.iter().map(|store| store.value));
        let inner = data.recipes.iter().flat_map(|recipe| recipe.args);
        named.chain(inner).any(|value| value == ExitValue::Recipe(at as u32))
    };
    // Recipes are named by their place, so only the last can go.
    while !best.exits[exit].recipes.is_empty() && !used(best, best.exits[exit].recipes.len() - 1) {
        best.exits[exit].recipes.pop();
    }
    changed
}

/// Takes an instruction out of its segment.
fn remove(trace: &mut Trace, value: Value) -> bool {
    trace.set_resume_exit(value, None);
    for segment in trace.segments.values_mut() {
        segment.insts.retain(|inst| *inst != value);
    }
    true
}

/// Lets every user of `value` use `other`, which has its type.
fn replace(trace: &mut Trace, value: Value, other: Value) -> bool {
    if trace.ty(value) != trace.ty(other) {
        return false;
    }
    let change = |used: Value| if used == value { other } else { used };
    trace.insts.values_mut().for_each(|inst| inst.map_operands(change));
    trace.natives.values_mut().flat_map(|native| &mut native.inputs).for_each(|input| input.1 = change(input.1));
    trace.exits.values_mut().for_each(|exit| exit.map_values(change));
    trace.segments.values_mut().for_each(|segment| segment.terminator.map_values(change));
    true
}

fn become_constant(trace: &mut Trace, value: Value, imm: i64) -> bool {
    let inst = trace.insts[value];
    let has_result = inst.ty != Type::Void && inst.op != Opcode::Store && inst.op != Opcode::Const;
    if has_result {
        trace.set_resume_exit(value, None);
        trace.set_recorded(value, None);
        trace.insts[value] = Inst::constant(inst.ty, imm);
    }
    has_result
}

/// The trace as its text says it: without values, exits and segments that nothing refers to.
fn without_unused(trace: &Trace) -> Trace {
    let mut reached = vec![false; trace.segments.len()];
    let mut work: Vec<_> = trace.entry.into_iter().collect();
    while let Some(segment) = work.pop() {
        if !std::mem::replace(&mut reached[segment.index()], true) {
            work.extend(trace.segments[segment].terminator.successors());
        }
    }
    let mut smaller = trace.clone();
    for segment in trace.segments.keys().filter(|segment| !reached[segment.index()]) {
        smaller.segments[segment].insts.clear();
    }
    redmagic_ir::parse_one(&smaller.to_string()).unwrap_or(smaller)
}
