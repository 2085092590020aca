//! Leaves a trial at every one of its guards, one child for each.
//!
//! Each guard also fails when a word that all processes have holds its number: the trace is compiled once, and each
//! child is forked with another number in that word. All children begin where the guest is. Then the guest executes the
//! same instructions natively, and wherever an exit says that it stands, the child that has left by it must have the same
//! registers, flags and memory. When the guest has come to the end of what it executes, each child goes on natively from its
//! exit to the same place (see the module `follow`), and both are compared again: what an exit has not restored, because
//! it would be dead, must not be missed.
//!
//! A guard that was made to fail leads where it always leads: behind a branch that is on the other side of that branch. The
//! child then goes on where the guest does, with the guest's values of what is dead on the other side only.
//!
//! Worked example: of `guard v7, exit2` this makes
//! ```text
//! v20: i64 = const 3                  the number of the guard
//! v21: i1 = ne v19, v20               v19 is the word, loaded once at the entry
//! v22: i1 = and v7, v21
//! guard v22, exit2
//! ```

use super::child::{self, Iteration, MAX_STEPS, Trouble};
use super::follow::Step;
use super::native::Native;
use super::{Expected, Trial, compare_state, defined_flags};
use crate::check::{Difference, is_defined, keeps};
use crate::compile::complete_context;
use crate::context::Context;
use crate::recorder::log::{Entry, EntryKind};
use crate::recorder::slots::Kind;
use crate::runtime::Runtime;
use crate::stats::COUNTERS;
use crate::thread::Thread;
use redmagic_ir::{
    Address, Entity, ExitValue, FLAGS_MASK, Inst, Map, Opcode, Segment, Slot, Terminator, Trace, Type, Value,
};
use std::collections::HashMap;
use std::ops::Range;
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
    let all = trace.segments.values().flat_map(|data| &data.insts).copied();
    let numbered = all.filter(|value| trace.insts[*value].exit().is_some()).enumerate();
    let swaps: HashMap<Value, usize> =
        numbered.filter_map(|(number, guard)| Some((trace.swap_of(guard)?, number))).collect();
    let mut guards = 0;
    let mut first = Map::filled(trace.segments.len() + 1, 0);
    for segment in trace.segments.keys().collect::<Vec<_>>() {
        first[segment] = guards;
        let old = std::mem::take(&mut trace.segments[segment].insts);
        for value in old {
            let inst = trace.insts[value];
            // It finds something else where its guard is to fail.
            if let Some(number) = swaps.get(&value) {
                let number = trace.append(segment, Inst::constant(Type::I64, *number as i64));
                let test = trace.append(segment, Inst::binary(Opcode::Ne, Type::I1, chosen, number));
                let other = trace.append(segment, Inst::unary(Opcode::Not, inst.ty, inst.args[1]));
                let expected = Inst::ternary(Opcode::Select, inst.ty, test, inst.args[1], other);
                trace.insts[value].args[1] = trace.append(segment, expected);
            }
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
    first[Segment::from_index(trace.segments.len())] = guards;
    let end = |segment: Segment| Segment::from_index(segment.index() + 1);
    lead_beside(trace, chosen, |segment| first[segment]..first[end(segment)]);
    guards
}

/// Makes each switch that leads to guards only if it fails lead there, if one of them is chosen: what finds out beside the path
/// which guard fails.
fn lead_beside(trace: &mut Trace, chosen: Value, guards: impl Fn(Segment) -> Range<usize>) {
    for segment in trace.segments.keys().collect::<Vec<_>>() {
        let Terminator::Switch { value, cases, default } = &trace.segments[segment].terminator else { continue };
        let (value, range) = (*value, guards(default.segment));
        if trace.ty(value) != Type::I1 || !matches!(cases[..], [(1, _)]) || !default.args.is_empty() || range.is_empty()
        {
            continue;
        }
        let from = trace.append(segment, Inst::constant(Type::I64, range.start as i64));
        let count = trace.append(segment, Inst::constant(Type::I64, range.len() as i64));
        let place = trace.append(segment, Inst::binary(Opcode::Sub, Type::I64, chosen, from));
        let elsewhere = trace.append(segment, Inst::binary(Opcode::Ule, Type::I1, count, place));
        let both = trace.append(segment, Inst::binary(Opcode::And, Type::I1, value, elsewhere));
        if let Terminator::Switch { value, .. } = &mut trace.segments[segment].terminator {
            *value = both;
        }
    }
}

/// A child that has left by an exit.
struct Left<'a> {
    expected: Expected<'a>,
    iteration: Iteration,
    /// Where it may be, in instructions from the start.
    places: Vec<usize>,
    difference: Option<Difference>,
    /// Where it was found to be.
    place: Option<usize>,
}

/// All children of a trial live at once. What a child has of its own, page tables included, is less than this.
const CHILD_KILOBYTES: usize = 1 << 10;
/// However much memory there is: each child has a number of its own, and mappings in this process.
const MOST_CHILDREN: usize = 8192;

/// How many children there may be: they get half of the memory that is free. This is more than any trace has guards, unless
/// hardly any memory is free.
fn room() -> usize {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kilobytes = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<usize>().ok());
    kilobytes.map_or(1, |free| (free / 2 / CHILD_KILOBYTES).clamp(1, MOST_CHILDREN))
}

/// What the children have done whose guards failed.
pub struct Sweep<'a> {
    left: Vec<Left<'a>>,
}

impl<'a> Sweep<'a> {
    /// Runs a child for each guard; where there is no room for all, each trial takes others. Guards that are not reached are
    /// left out.
    pub fn new(trial: &'a Trial, thread: &mut Thread) -> Result<Sweep<'a>, Trouble> {
        let mut left = Vec::new();
        let stride = trial.guards.div_ceil(room()).max(1);
        let first = COUNTERS.recordings.load(Relaxed) as usize % stride;
        for guard in (first..trial.guards).step_by(stride) {
            CHOSEN.store(guard as u64, Relaxed);
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
            left.push(Left { expected, iteration, places, difference: None, place: None });
        }
        Ok(Sweep { left })
    }

    /// Executes natively up to position `end`, and compares on the way. Returns how many exits had the state of native
    /// execution; those that may also stand further on are not judged.
    pub fn step(
        &mut self,
        native: &mut Native,
        end: usize,
        context: &mut Context,
        runtime: &'static Runtime,
    ) -> Result<u64, Difference> {
        let mut positions: Vec<usize> = self.left.iter().flat_map(|left| &left.places).copied().collect();
        positions.retain(|position| *position <= end);
        positions.sort_unstable();
        positions.dedup();
        for position in positions {
            // A call that is due, or something that no trace contains: the trial itself will find the same.
            if native.step_to(position, false, context, runtime).is_err() {
                break;
            }
            for left in self.left.iter_mut().filter(|left| left.place.is_none() && left.places.contains(&position)) {
                left.difference = left.arrive(native, context).err();
                left.place = left.difference.is_none().then_some(position);
            }
        }
        let stopped = native.recorder.log.len();
        let judged = |places: &[usize]| places.iter().all(|place| *place <= stopped);
        let mut passed = 0;
        for left in &mut self.left {
            passed += u64::from(left.place.is_some());
            if let Some(difference) = left.difference.take_if(|_| judged(&left.places)) {
                return Err(difference);
            }
        }
        Ok(passed)
    }

    /// Lets the children go on natively to where the guest is now, and compares again. Returns how many have arrived there.
    pub fn follow(self, native: &Native, context: &Context) -> Result<u64, Difference> {
        let log = &native.recorder.log;
        let steps: Vec<Step> = log.iter().map(Step::new).collect();
        let mut followed = 0;
        for mut left in self.left {
            let Some(rest) = left.place.and_then(|place| steps.get(place..)) else { continue };
            if rest.is_empty() || rest.len() > MAX_STEPS {
                continue;
            }
            let place = steps.len() - rest.len();
            let elsewhere = |done: usize| {
                let pc = log.get(place + done).map_or(context.rip, |entry| entry.slot.pc);
                Difference::Left { pc, step: (place + done) as u32 }
            };
            match left.iteration.follow(rest) {
                Ok(done) if done < rest.len() => return Err(elsewhere(done)),
                Ok(done) if left.iteration.context.rip != context.rip => return Err(elsewhere(done)),
                Ok(_) => left.compare_end(native, place, context)?,
                Err(Trouble::Died(signal)) => return Err(Difference::Died { signal }),
                Err(Trouble::Endless | Trouble::Skipped(_)) => return Err(Difference::Endless),
            }
            followed += 1;
        }
        Ok(followed)
    }
}

impl Left<'_> {
    /// Compares with the guest, and prepares to go on from there.
    fn arrive(&mut self, native: &Native, context: &Context) -> Result<(), Difference> {
        compare_forced(&self.expected, &self.iteration, native, context)?;
        let other_side = self.expected.pc != context.rip;
        let child = &mut self.iteration.context;
        child.rip = context.rip;
        for slot in Slot::all().filter(|slot| self.expected.exit.get(*slot) == Some(ExitValue::Undefined)) {
            // Nobody may look at dead flags. Dead registers may be stored, by code that does not know what they hold.
            let dead = slot == Slot::FLAGS && !other_side;
            child.set_slot(slot, context.slot(slot) ^ if dead { u64::from(FLAGS_MASK) } else { 0 });
        }
        Ok(())
    }

    /// Compares at the end, after the entries of the log from `place` on. What was equal at the exit is either as it was, or
    /// was computed from what was equal.
    fn compare_end(&self, native: &Native, place: usize, context: &Context) -> Result<(), Difference> {
        let Expected { exit, code, .. } = &self.expected;
        let log = &native.recorder.log;
        for slot in Slot::all() {
            let listed = exit.get(slot);
            let ended = |entries: &[Entry]| !entries.iter().all(|entry| keeps(entry, slot));
            let dead = ended(&log[place..]) || listed.is_none() && ended(log) || !is_defined(&native.recorder, slot);
            if dead || slot == Slot::FLAGS && listed == Some(ExitValue::Undefined) {
                continue;
            }
            let mask = if slot == Slot::FLAGS { u64::from(defined_flags(code.flags)) } else { u64::MAX };
            let (wanted, found) = (context.slot(slot) & mask, self.iteration.context.slot(slot) & mask);
            if wanted != found {
                return Err(Difference::Register { slot, expected: wanted, found });
            }
        }
        native.compare_written(&self.iteration, context)
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
