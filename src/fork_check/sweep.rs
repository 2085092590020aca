//! Leaves a trial at every one of its guards, one child for each.
//!
//! Each guard also fails when a word that all processes have holds its number: the trace is compiled once, and each
//! child is forked with another number in that word. All children begin where the guest is. Then the guest executes the
//! same instructions natively, and wherever an exit says that it stands, the child that has left by it must have the same
//! registers, flags and memory. From there on both would execute the same code on the same state.
//!
//! A guard that was made to fail leads where it always leads: behind a branch that is on the other side of that branch.
//!
//! Worked example: of `guard v7, exit2` this makes
//! ```text
//! v20: i64 = const 3                  the number of the guard
//! v21: i1 = ne v19, v20               v19 is the word, loaded once at the entry
//! v22: i1 = and v7, v21
//! guard v22, exit2
//! ```

use super::child::{self, Iteration, Trouble};
use super::native::Native;
use super::{Expected, Trial, compare_state};
use crate::check::Difference;
use crate::compile::complete_context;
use crate::context::Context;
use crate::recorder::log::EntryKind;
use crate::recorder::slots::Kind;
use crate::runtime::Runtime;
use crate::thread::Thread;
use redmagic_ir::{Address, Entity, Inst, Opcode, Trace, Type};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The number of the guard that fails.
static CHOSEN: AtomicU64 = AtomicU64::new(NONE);
const NONE: u64 = u64::MAX;

/// Lets the guards of a trace fail one at a time; returns how many there are.
pub fn let_guards_fail(trace: &mut Trace) -> usize {
    let entry = trace.entry();
    let address = trace.add_inst(Inst::constant(Type::I64, &raw const CHOSEN as i64));
    let chosen = trace.add_inst(Inst::load(Type::I64, Address::new(address, 0)));
    let reads = trace.segments[entry].insts.iter().take_while(|value| trace.insts[**value].op == Opcode::Slot).count();
    trace.segments[entry].insts.splice(reads..reads, [address, chosen]);
    let mut guards = 0;
    for segment in trace.segments.keys().collect::<Vec<_>>() {
        let old = std::mem::take(&mut trace.segments[segment].insts);
        for value in old {
            let inst = trace.insts[value];
            if inst.exit().is_some() {
                let number = trace.append(segment, Inst::constant(Type::I64, guards as i64));
                let (test, join) =
                    if inst.op == Opcode::GuardNot { (Opcode::Eq, Opcode::Or) } else { (Opcode::Ne, Opcode::And) };
                let test = trace.append(segment, Inst::binary(test, Type::I1, chosen, number));
                let both = trace.append(segment, Inst::binary(join, Type::I1, inst.args[0], test));
                trace.insts[value].args[0] = both;
                guards += 1;
            }
            trace.segments[segment].insts.push(value);
        }
    }
    guards
}

/// A child that has left by an exit.
struct Left<'a> {
    expected: Expected<'a>,
    iteration: Iteration,
    /// Where it may be, in instructions from the start.
    places: Vec<usize>,
    difference: Option<Difference>,
}

/// What the children have done whose guards failed.
pub struct Sweep<'a> {
    left: Vec<Left<'a>>,
}

impl<'a> Sweep<'a> {
    /// Runs a child for each guard. Guards that are not reached are left out.
    pub fn new(trial: &'a Trial, thread: &mut Thread) -> Result<Sweep<'a>, Trouble> {
        let mut left = Vec::new();
        for guard in 0..trial.guards as u64 {
            CHOSEN.store(guard, Relaxed);
            let iteration = child::run(trial.function, thread);
            CHOSEN.store(NONE, Relaxed);
            let mut iteration = iteration?;
            let Some(expected) = trial.exit_at(iteration.exit) else { return Err(Trouble::Endless) };
            if expected.is_call || expected.closes {
                continue;
            }
            complete_context(&mut iteration.context, expected.code);
            let before = trial.before[expected.number.index()].clone();
            let places = before.map(|before| before * trial.recorded.length + expected.step).collect();
            left.push(Left { expected, iteration, places, difference: None });
        }
        Ok(Sweep { left })
    }

    /// Executes natively up to position `end`, and compares on the way. Returns how many exits had the state of native
    /// execution; those that may also stand further on are not judged.
    pub fn step(
        mut self,
        native: &mut Native,
        end: usize,
        context: &mut Context,
        runtime: &'static Runtime,
    ) -> Result<u64, Difference> {
        let mut positions: Vec<usize> = self.left.iter().flat_map(|left| &left.places).copied().collect();
        positions.retain(|position| *position <= end);
        positions.sort_unstable();
        positions.dedup();
        let mut passed = 0;
        for position in positions {
            // A call that is due, or something that no trace contains: the trial itself will find the same.
            if native.step_to(position, false, context, runtime).is_err() {
                break;
            }
            self.left.retain_mut(|left| {
                if left.places.contains(&position) {
                    left.difference = compare_forced(&left.expected, &left.iteration, native, context).err();
                    passed += u64::from(left.difference.is_none());
                    return left.difference.is_some();
                }
                true
            });
        }
        let stopped = native.recorder.log.len();
        let judged = |places: &[usize]| places.iter().all(|place| *place <= stopped);
        match self.left.into_iter().find_map(|left| left.difference.filter(|_| judged(&left.places))) {
            Some(difference) => Err(difference),
            None => Ok(passed),
        }
    }
}

/// Compares the state of an exit whose guard was made to fail.
fn compare_forced(
    expected: &Expected<'_>,
    iteration: &Iteration,
    native: &Native,
    context: &Context,
) -> Result<(), Difference> {
    // The guest may have gone the other way at the branch that the guard belongs to.
    let branches = native.recorder.log.last().is_some_and(|entry| match (entry.kind, entry.slot.kind) {
        (EntryKind::Inst, Kind::Branch { target, .. }) => [target, entry.slot.next].contains(&expected.pc),
        _ => false,
    });
    if expected.pc != context.rip && !branches {
        return Err(Difference::Left { pc: expected.pc, step: expected.step as u32 });
    }
    compare_state(expected, iteration, native, context)
}
