//! Replays a recording on its trace, in the evaluator.
//!
//! One iteration of the trace is evaluated from the state at the recording's start, on the memory that the recording saw.
//! It must end where the recording ended, with the same registers, and must have left the same bytes wherever either of
//! them has written.
//!
//! # How memory is rebuilt
//! A residual call may change any memory, so the recording is cut into *epochs* at its calls. Within an epoch, memory is
//! what was seen at the first access to each byte. The trace reads nothing else: it does less than the recording. A callee
//! that is known to write nothing ends no epoch: the trace may do behind it what the recording did in front of it. What
//! such a callee may read has to be there, and that is not what lies below its frame.
//!
//! # What is not compared
//! Flags: the machine defines some of them otherwise than the IR, where the manual leaves them undefined. Wrong flags show
//! as wrong guards. Slots that the exit calls undefined.

use crate::context::Context;
use crate::recorder::Recorder;
use crate::recorder::log::{CheckLog, Entry, EntryKind, MemoryLog};
use redmagic_ir::eval::{EvalError, Fault, Guest, Machine, Outcome};
use redmagic_ir::graph::Graph;
use redmagic_ir::{CallEffect, Entity, ExitData, ExitValue, NativeOp, Opcode, Segment, Slot, Terminator, Trace, Value};
use std::collections::HashMap;
use std::fmt;

/// How a replay differed from its recording.
#[derive(Clone, Debug)]
pub enum Difference {
    /// The evaluator failed.
    Failed(EvalError),
    /// The trace was left elsewhere.
    Left {
        /// There.
        pc: u64,
        /// After so many instructions.
        step: u32,
    },
    /// Another function was called, or none.
    Call {
        /// The recorded callee, 0 if none was called.
        expected: u64,
    },
    /// A register has another value.
    Register {
        /// The slot.
        slot: Slot,
        /// What the recording has.
        expected: u64,
        /// What the trace has.
        found: u64,
    },
    /// A byte of memory has another value.
    Memory {
        /// Its address.
        address: u64,
        /// What the recording has; `None` if it did not write there.
        expected: Option<u8>,
        /// What the trace has.
        found: Option<u8>,
    },
    /// It does not end.
    Endless,
    /// The process that ran it has died.
    Died {
        /// Of this signal.
        signal: i32,
    },
    /// It has returned something that is no exit of it.
    NoExit {
        /// The address.
        address: u64,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Failed(error) => error.fmt(f),
            Difference::Left { pc, step } => write!(f, "left at {pc:#x} after {step} instructions"),
            Difference::Call { expected } => write!(f, "expected a call of {expected:#x}"),
            Difference::Register { slot, expected, found } => {
                write!(f, "{slot} is {found:#x} instead of {expected:#x}")
            }
            Difference::Memory { address, expected, found } => {
                write!(f, "the byte at {address:#x} is {found:x?} instead of {expected:x?}")
            }
            Difference::Endless => f.write_str("does not end"),
            Difference::Died { signal } => write!(f, "died of signal {signal}"),
            Difference::NoExit { address } => write!(f, "returned {address:#x}, which is no exit"),
        }
    }
}

/// The trace with its back edges turned into exits to its start. `None` if a loop carries values that are in no slot.
///
/// Such an exit lists the parameters, and what the entry has read from slots that are no parameters: they are invariant,
/// but a residual call may have written other values to the context. Where a segment may also go on elsewhere instead of
/// back (into an inner copy of the loop), it goes back.
pub fn single_iteration(trace: &Trace) -> Option<Trace> {
    let graph = Graph::new(trace);
    let mut once = trace.clone();
    let invariant = invariant_slots(trace);
    // Outer loops first: what is inside of one that ends here is not reached any more.
    for &header in graph.headers() {
        let params: Option<Vec<Slot>> = trace.segments[header].params.iter().map(|p| trace.insts[*p].slot()).collect();
        for source in graph.back_edges(header) {
            if !Graph::new(&once).is_reachable(source) {
                continue;
            }
            let mut targets = trace.segments[source].terminator.targets();
            let args = &targets.find(|target| target.segment == header)?.args;
            let exit = once.exits.push(closing_exit(trace, &invariant, params.as_ref()?, args));
            once.segments[source].terminator = Terminator::Leave(exit);
        }
    }
    Some(once)
}

/// The slots that the entry reads and that can be written.
pub fn invariant_slots(trace: &Trace) -> Vec<(Slot, Value)> {
    let reads = trace.segments[trace.entry()].insts.iter().filter(|value| trace.insts[**value].op == Opcode::Slot);
    let slots = reads.filter_map(|value| Some((trace.insts[*value].slot()?, *value)));
    slots.filter(|(slot, _)| slot.is_writable()).collect()
}

/// An exit in the place of a back edge that passes `args` to the parameters for the slots `params`.
pub fn closing_exit(trace: &Trace, invariant: &[(Slot, Value)], params: &[Slot], args: &[Value]) -> ExitData {
    let mut exit = ExitData::new(trace.start, 0);
    invariant.iter().for_each(|(slot, value)| exit.set(*slot, ExitValue::Value(*value)));
    params.iter().zip(args).for_each(|(slot, value)| exit.set(*slot, ExitValue::Value(*value)));
    exit
}

/// Evaluates one iteration of `trace`, which was recorded by `recorder` and ended in `context`. Returns why it could not be
/// checked, if it could not.
pub fn replay(
    trace: &Trace,
    recorder: &Recorder,
    log: &CheckLog,
    context: &Context,
) -> Result<Option<&'static str>, Difference> {
    if log.incomplete.is_some() {
        return Ok(log.incomplete);
    }
    let Some(once) = single_iteration(trace) else { return Ok(Some("a loop carries what is in no slot")) };
    let calls: Vec<u32> = (0..recorder.log.len() as u32)
        .filter(|step| matches!(recorder.log[*step as usize].kind, EntryKind::Call { .. }))
        .collect();
    let mut guest = Replay { slots: log.start, recorder, log, memory: HashMap::new(), next_state: 0, disturbed: false };
    let mut machine = Machine::new(&once);
    let mut resume: Option<Segment> = None;
    for epoch in 0..=calls.len() {
        let first = epoch.checked_sub(1).map_or(0, |before| calls[before] + 1);
        let end = calls.get(epoch).copied();
        let effect = epoch.checked_sub(1).map_or(CallEffect::Any, |before| effect_of(recorder, calls[before]));
        guest.begin_epoch(effect, first, end.map_or(u32::MAX, |end| end + 1));
        if guest.disturbed {
            return Ok(Some("memory was changed by others"));
        }
        let outcome = match resume {
            None => machine.enter(&once, &mut guest, FUEL),
            Some(segment) => machine.resume(&once, segment, &mut guest, FUEL),
        };
        match (outcome.map_err(Difference::Failed)?, end) {
            (Outcome::Call { target, resume: segment, .. }, Some(step)) => {
                if let EntryKind::Call { target: expected, .. } = recorder.log[step as usize].kind
                    && expected != target
                {
                    return Err(Difference::Call { expected });
                }
                let stack = guest.slots[Slot::RSP.index()];
                match effect_of(recorder, step) {
                    CallEffect::Any => guest.compare_memory(0)?,
                    CallEffect::Reads => guest.compare_memory(stack)?,
                    CallEffect::Errno | CallEffect::None => {}
                }
                guest.take_call_state(step);
                resume = Some(segment);
            }
            (Outcome::Exit(exit), None) => {
                let closes = exit.index() >= trace.exits.len();
                let exit = &once.exits[exit];
                if exit.pc != context.rip {
                    return Err(Difference::Left { pc: exit.pc, step: exit.step });
                }
                guest.compare_memory(0)?;
                guest.compare_slots(exit, closes, context)?;
                return Ok(None);
            }
            (Outcome::Exit(exit), Some(_)) => {
                let exit = &once.exits[exit];
                return Err(Difference::Left { pc: exit.pc, step: exit.step });
            }
            (Outcome::Call { .. }, None) => return Err(Difference::Call { expected: 0 }),
            (Outcome::OutOfFuel, _) => return Err(Difference::Endless),
        }
    }
    Ok(None)
}

/// What the callee of entry `step` may do.
fn effect_of(recorder: &Recorder, step: u32) -> CallEffect {
    match recorder.log[step as usize].kind {
        EntryKind::Call { effect, .. } => effect,
        _ => CallEffect::Any,
    }
}

/// A frame is not larger: what lies further below a stack pointer is no stack.
const MAX_FRAMES: u64 = 1 << 20;
/// More than any single iteration needs.
const FUEL: u64 = 50_000_000;

/// A byte of memory.
#[derive(Clone, Copy)]
struct Byte {
    /// What the trace has made of it.
    now: u8,
    /// What the recording left there at the end of the epoch; `None` if it never wrote it.
    expected: Option<u8>,
    /// The trace has written it.
    written: bool,
    /// A callee may have written it since, if it is errno.
    unsure: bool,
}

struct Replay<'a> {
    slots: [u64; Slot::COUNT],
    recorder: &'a Recorder,
    log: &'a CheckLog,
    memory: HashMap<u64, Byte>,
    next_state: usize,
    /// Another thread has changed memory during the recording: what the trace would read is not known.
    disturbed: bool,
}

impl Replay<'_> {
    /// Memory as the entries `first..end` saw it first, and what they left; beside what is known already and the call before
    /// them, with this effect, has not changed.
    fn begin_epoch(&mut self, effect: CallEffect, first: u32, end: u32) {
        let from = self.log.accesses.partition_point(|access| access.step < first);
        match effect {
            CallEffect::Any => self.memory.clear(),
            CallEffect::Errno => self.memory.values_mut().for_each(|byte| byte.unsure = true),
            CallEffect::Reads | CallEffect::None => {}
        }
        let mut seen: HashMap<u64, u8> = HashMap::new();
        let accesses = || self.log.accesses[from..].iter().take_while(|access| access.step < end);
        let writes = |step: u32| accesses().filter(move |access| access.step == step).any(|access| access.writes);
        for access in accesses() {
            // The instruction may have read what came in between.
            self.disturbed |= !access.writes && access.before != access.after && !writes(access.step);
            for at in 0..access.size {
                let byte = |value: u128| (value >> (at * 8)) as u8;
                let address = access.address.wrapping_add(u64::from(at));
                let after = if access.writes { byte(access.after) } else { byte(access.before) };
                self.disturbed |= seen.insert(address, after).is_some_and(|last| last != byte(access.before));
                let new = Byte { now: byte(access.before), expected: None, written: false, unsure: false };
                let entry = self.memory.entry(address).or_insert(new);
                // Traces, too, take every cell that is smaller than a word for errno. What comes first says what it is.
                if std::mem::take(&mut entry.unsure) && access.size < 8 {
                    *entry = new;
                }
                if access.writes {
                    entry.expected = Some(byte(access.after));
                }
            }
        }
    }

    /// What both have left in memory, except in dead frames below `stack` (0 for none).
    fn compare_memory(&self, stack: u64) -> Result<(), Difference> {
        let dead = stack.saturating_sub(MAX_FRAMES)..stack;
        for (&address, byte) in self.memory.iter().filter(|(address, _)| !dead.contains(address)) {
            match byte.expected {
                Some(expected) if expected != byte.now => {
                    return Err(Difference::Memory { address, expected: Some(expected), found: Some(byte.now) });
                }
                None if byte.written => {
                    return Err(Difference::Memory { address, expected: None, found: Some(byte.now) });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What both have left in registers. Where the loop closes, a slot that is not listed is one that the next iteration
    /// overwrites before anybody looks at it, or one that nothing has changed.
    fn compare_slots(&self, exit: &ExitData, closes: bool, context: &Context) -> Result<(), Difference> {
        for slot in Slot::all().filter(|slot| *slot != Slot::FLAGS) {
            let (expected, found) = (context.slot(slot), self.slots[slot.index()]);
            let listed = exit.get(slot);
            let defined = listed != Some(ExitValue::Undefined)
                && !(listed.is_none() && (closes || self.has_ended(slot)))
                && is_defined(self.recorder, slot);
            if defined && expected != found {
                return Err(Difference::Register { slot, expected, found });
            }
        }
        Ok(())
    }

    /// Whether a vector register has ended somewhere in the recording, where the recorder has set it to 0: if the trace does
    /// not list it, it is as it was.
    fn has_ended(&self, slot: Slot) -> bool {
        slot.as_xmm().is_some() && self.recorder.log.iter().any(|entry| !keeps(entry, slot))
    }

    /// What the callee of entry `step` has left.
    fn take_call_state(&mut self, step: u32) {
        if let Some(at) = self.log.states[self.next_state..].iter().position(|state| state.0 == step) {
            self.next_state += at + 1;
            self.slots = self.log.states[self.next_state - 1].1;
        }
    }

    fn accesses_of(&self, step: u32) -> &[MemoryLog] {
        let from = self.log.accesses.partition_point(|access| access.step < step);
        let length = self.log.accesses[from..].iter().take_while(|access| access.step == step).count();
        &self.log.accesses[from..from + length]
    }
}

/// Whether the recording ends with a value in `slot` that anybody may look at: right behind an anchor call, only
/// what the convention keeps. The macro's own last instruction, which takes the stack pointer back, may stand behind the call.
pub fn is_defined(recorder: &Recorder, slot: Slot) -> bool {
    recorder.log.iter().rev().take(2).all(|entry| keeps(entry, slot))
}

/// Whether there may be a value in `slot` behind an entry: an anchor call leaves only what its convention keeps.
pub fn keeps(entry: &Entry, slot: Slot) -> bool {
    is_kept_by(entry.kind, slot)
}

/// The same of what an entry stands for.
pub fn is_kept_by(kind: EntryKind, slot: Slot) -> bool {
    match kind {
        EntryKind::Api { convention: redmagic_lift::Convention::Macro, .. } => {
            slot.as_gpr().is_some() && slot != Slot::RAX && slot != Slot::RCX
        }
        EntryKind::Api { convention: redmagic_lift::Convention::PassedMacro, .. } => {
            slot.as_gpr().is_some() && slot != Slot::RCX
        }
        EntryKind::Api { convention: redmagic_lift::Convention::Function, .. } => slot.is_callee_saved(),
        _ => true,
    }
}

impl Guest for Replay<'_> {
    fn slot(&self, slot: Slot) -> u64 {
        self.slots[slot.index()]
    }

    fn set_slot(&mut self, slot: Slot, value: u64) {
        self.slots[slot.index()] = value;
    }

    fn load(&mut self, address: u64, bytes: u32) -> Result<u128, Fault> {
        (0..u64::from(bytes)).try_fold(0, |value, at| {
            let address = address.wrapping_add(at);
            let byte = self.memory.get(&address).ok_or(Fault::Unmapped { address })?;
            Ok(value | u128::from(byte.now) << (at * 8))
        })
    }

    fn store(&mut self, address: u64, bytes: u32, value: u128) -> Result<(), Fault> {
        for at in 0..u64::from(bytes) {
            let byte = (value >> (at * 8)) as u8;
            let unknown = Byte { now: byte, expected: None, written: true, unsure: false };
            let entry = self.memory.entry(address.wrapping_add(at)).or_insert(unknown);
            (entry.now, entry.written) = (byte, true);
        }
        Ok(())
    }

    /// Does what the recorded instruction did: the next one in the log at the same place.
    fn native(&mut self, op: &NativeOp) -> Result<(), Fault> {
        let states = &self.log.states[self.next_state..];
        let here = |step: u32| self.recorder.log[step as usize].slot.pc == op.pc;
        let Some(at) = states.iter().position(|state| here(state.0)) else {
            return Err(Fault::Native { pc: op.pc, reason: "it was not recorded".to_owned() });
        };
        let (step, slots) = &states[at];
        self.next_state += at + 1;
        for slot in &op.outputs {
            self.slots[slot.index()] = slots[slot.index()];
        }
        let writes: Vec<MemoryLog> = self.accesses_of(*step).iter().filter(|access| access.writes).copied().collect();
        for access in writes {
            self.store(access.address, access.size, access.after)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::Origin;
    use crate::recorder::places::{Places, Terms};
    use crate::runtime::Limits;

    /// Whether a recording with these accesses of the cell at 0x1000 was disturbed: step, value before and after, whether it writes.
    fn is_disturbed(accesses: &[(u32, u64, u64, bool)]) -> bool {
        let context = Context::new();
        let limits = Limits { instructions: 8, depth: 1, check: true, taken_back: 0, terms: Terms::default() };
        let recorder = Recorder::new(&context, Origin::Exit { unit: 0, exit: 0 }, &limits, Places::default());
        let mut log = CheckLog::new(&context, 8);
        for &(step, before, after, writes) in accesses {
            let (before, after) = (u128::from(before), u128::from(after));
            log.accesses.push(MemoryLog { step, address: 0x1000, size: 8, before, after, writes });
        }
        let (slots, memory) = (log.start, HashMap::new());
        let mut guest = Replay { slots, recorder: &recorder, log: &log, memory, next_state: 0, disturbed: false };
        guest.begin_epoch(CallEffect::Any, 0, u32::MAX);
        guest.disturbed
    }

    #[test]
    fn what_others_write_meanwhile_shows() {
        assert!(!is_disturbed(&[(0, 5, 5, false), (1, 5, 6, true), (2, 6, 6, false)]));
        // Between two instructions, and while one reads.
        assert!(is_disturbed(&[(0, 5, 5, false), (2, 6, 6, false)]));
        assert!(is_disturbed(&[(1, 5, 6, true), (2, 5, 5, false)]));
        assert!(is_disturbed(&[(0, 5, 6, false)]));
        // An instruction that reads and writes the cell.
        assert!(!is_disturbed(&[(0, 5, 6, false), (0, 5, 6, true), (1, 6, 6, false)]));
    }
}
