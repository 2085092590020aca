//! Residual calls in loops: of callees that leave the memory of the trace alone.
//!
//! # Invariants
//! - At a call memory is complete: what is not there yet is stored first, each cell at a place of its own. Nothing of ours is
//!   lost if the callee never returns, or the guest goes on without us.
//! - A callee may overwrite what lies below the stack pointer, and `errno`, an `int` that is never accessed together with
//!   anything else. Such cells are not kept in registers; that what is reached by other roots does not lie there is checked behind H,
//!   if it is known where `errno` is, from the fs base.
//! - A cell that a call finds with another value than the end of the iteration leaves is *restless*: when the next iteration
//!   begins, memory holds something else than the cell.
//!
//! # Worked example
//! `H(v1): store [v0 + 8], v1; call strlen; v2 = add v1, 1; store [v0 + 8], v2; … H(v2)` is in H2
//! `call strlen { store [v0 + 8] = v1 }; v2 = add v1, 1`, and F stores v2.

use super::Body;
use super::accesses::Accesses;
use super::copy::{Copier, Copy, Setback};
use crate::walk::map_exit;
use redmagic_ir::{Call, CallEffect, Exit, ExitData, ExitValue, Opcode, Segment, Slot, Terminator, Trace, Value};

/// Fewer values than a trace can keep across a call: what H needs comes on top.
const MAX_VALUES: usize = 64;
/// What is no wider may be `errno`.
pub(super) const ERRNO_BYTES: u32 = 4;

/// A call of H2.
pub(crate) struct CallSite {
    /// What stands for it among the instructions.
    pub marker: Value,
    /// Its state and where it goes on are those of H.
    pub call: Call,
    /// The state in H2.
    pub state: ExitData,
}

impl CallSite {
    /// Replaces values of H2 by others.
    pub(super) fn rename(&mut self, rename: impl Fn(Value) -> Value) {
        self.call.target = rename(self.call.target);
        self.call.return_address = rename(self.call.return_address);
        self.state.map_values(rename);
    }

    /// Calls `f` with every value that the call needs (with repetitions).
    pub(super) fn for_each_value(&self, mut f: impl FnMut(Value)) {
        f(self.call.target);
        f(self.call.return_address);
        self.state.for_each_value(f);
    }
}

/// What callees write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zone {
    /// The stack pointer at entry.
    pub stack: Value,
    /// How far above it the highest one is that a call is made with.
    pub floor: i64,
    /// Where `errno` is from the fs base, if a call may set it.
    pub errno: Option<i64>,
}

/// Takes what calls may change out of the cells that can be in registers. `None` if that is not known; what is none of the cells
/// of the stack pointer's own class is kept apart at run time.
pub(super) fn respect(trace: &Trace, body: &Body, accesses: &mut Accesses) -> Option<()> {
    if body.calls.is_empty() {
        return Some(());
    }
    let stack = fixed_stack(trace, &body.params)?;
    let context = context_stack(trace, stack);
    let height = |state| stack_of(trace, state, stack, context);
    let floor =
        body.calls.iter().map(|(_, call)| height(call.state)).collect::<Option<Vec<i64>>>()?.into_iter().max()?;
    let on_stack = accesses.of_root(stack);
    let sets_errno = body.calls.iter().any(|(_, call)| call.effect == CallEffect::Errno);
    let fs = trace.segments[trace.entry()].insts.iter().filter(|value| trace.insts[**value].slot() == Some(Slot::FS));
    let of_fs: Vec<Option<usize>> = fs.map(|root| accesses.of_root(*root).map(|(class, _)| class)).collect();
    for atom in &mut accesses.atoms {
        let unchecked = of_fs.contains(&Some(atom.class)) || trace.errno.is_none();
        let may_be_errno = sets_errno && unchecked && !atom.frame && atom.ty.bytes() <= ERRNO_BYTES;
        let below =
            on_stack.is_some_and(|(class, delta)| class == atom.class && atom.offset.wrapping_sub(delta) < floor);
        atom.clean &= !may_be_errno && !below;
    }
    accesses.zone = Some(Zone { stack, floor, errno: trace.errno.filter(|_| sets_errno) });
    Some(())
}

/// The stack pointer at entry, if it is the one of the loop, whose parameters are `params`.
pub(super) fn fixed_stack(trace: &Trace, params: &[Value]) -> Option<Value> {
    let is_stack = |value: &Value| trace.insts[*value].slot() == Some(Slot::RSP);
    let moves = params.iter().any(is_stack);
    trace.segments[trace.entry()].insts.iter().copied().find(is_stack).filter(|_| !moves)
}

/// How far the stack pointer of an exit is above `stack`, if it is a constant distance; `context` if the exit does not list it.
fn stack_of(trace: &Trace, exit: Exit, stack: Value, context: Option<i64>) -> Option<i64> {
    match trace.exits[exit].get(Slot::RSP) {
        Some(ExitValue::Value(value)) => above(trace, value, stack),
        Some(ExitValue::Const(_) | ExitValue::Recipe(_) | ExitValue::Undefined) => None,
        None => context,
    }
}

/// How far the stack pointer of the context is above that at entry wherever an exit does not list it, if that is known: if no call
/// is made with another one.
fn context_stack(trace: &Trace, stack: Value) -> Option<i64> {
    let calls = trace.segments.values().filter_map(|segment| match &segment.terminator {
        Terminator::Call(call) => Some(call.state),
        Terminator::Jump(_) | Terminator::Switch { .. } | Terminator::Leave(_) => None,
    });
    let mut heights = calls.map(|state| stack_of(trace, state, stack, Some(0)));
    (trace.natives.is_empty() && heights.all(|height| height == Some(0))).then_some(0)
}

/// How far `value` is above `stack`, if it is a constant distance from it by definition: what is known of it in one iteration
/// does not matter.
pub(super) fn above(trace: &Trace, mut value: Value, stack: Value) -> Option<i64> {
    let mut distance = 0i64;
    while value != stack {
        let inst = Some(&trace.insts[value]).filter(|inst| inst.op == Opcode::Add)?;
        distance = distance.checked_add(trace.as_const(inst.args[1])?)?;
        value = inst.args[0];
    }
    Some(distance)
}

impl Copier<'_, '_> {
    /// Makes the call that `marker` stands for, if it stands for one.
    pub(super) fn call(&mut self, copy: &mut Copy, marker: Value) -> Result<(), Setback> {
        let Some((_, call)) = self.body.calls.iter().find(|(known, _)| *known == marker) else { return Ok(()) };
        let mut state = self.scope.trace.exits[call.state].clone();
        if !state.stores.is_empty() {
            return Err(Setback::Hopeless("stores wait already"));
        }
        map_exit(self.scope.trace, &mut state, |value| self.map(copy, value));
        state.stores = self.pending(copy, &state);
        for at in 0..self.accesses.atoms.len() {
            if self.accesses.atoms[at].stored && self.waits(at) {
                copy.written[at] = copy.cells[at].map(|value| self.scope.resolve(value));
            }
        }
        copy.loaded.clear();
        let (target, return_address) = (self.map(copy, call.target), self.map(copy, call.return_address));
        let call = Call { target, return_address, ..call.clone() };
        copy.insts.push(marker);
        copy.calls.push(CallSite { marker, call, state });
        Ok(())
    }

    /// Finds the cells that become restless in this copy; whether there are any that were not.
    pub(super) fn find_restless(&mut self, copy: &Copy) -> bool {
        let mut changed = false;
        for at in 0..self.accesses.atoms.len() {
            let end = self.ends[at].map(|value| self.scope.resolve(value));
            let written = copy.written[at].is_some_and(|written| Some(self.scope.resolve(written)) != end);
            if written && !self.carried_atoms[at] && !self.restless[at] {
                self.restless[at] = true;
                changed = true;
            }
        }
        changed
    }

    /// Whether more values would have to be kept across calls than is sensible.
    pub(super) fn keeps_too_much(&self, copy: &Copy) -> bool {
        if copy.calls.is_empty() {
            return false;
        }
        let mut used: Vec<Value> = Vec::new();
        let trace = &*self.scope.trace;
        copy.insts.iter().for_each(|value| used.extend(trace.insts[*value].operands()));
        copy.exits.iter().for_each(|(_, data)| data.for_each_value(|value| used.push(value)));
        copy.calls.iter().for_each(|site| site.for_each_value(|value| used.push(value)));
        used.retain(|value| trace.as_const(*value).is_none());
        used.sort_unstable();
        used.dedup();
        let own = copy.insts.iter().filter(|value| used.binary_search(value).is_ok()).count();
        used.len() - own > MAX_VALUES
    }
}

/// Divides H2, which begins with `first`, at its calls; returns its last segment.
pub(super) fn divide(trace: &mut Trace, first: Segment, insts: &[Value], calls: Vec<CallSite>) -> Segment {
    let (mut segment, mut rest) = (first, insts);
    for CallSite { marker, call, state } in calls {
        let Some(at) = rest.iter().position(|value| *value == marker) else { continue };
        trace.segments[segment].insts = rest[..at].to_vec();
        let resume = trace.add_segment();
        let state: Exit = trace.exits.push(state);
        trace.segments[segment].terminator = Terminator::Call(Call { state, resume, ..call });
        (segment, rest) = (resume, &rest[at + 1..]);
    }
    trace.segments[segment].insts = rest.to_vec();
    segment
}
