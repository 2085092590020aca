//! What follows an exit: the rest of the block runs natively, from the state that compiled code has left and from the
//! hardware's own, and must end alike.
//!
//! A comparison at the exit leaves out what its trace calls undefined, and the memory of frames that are gone. Here nothing is
//! left out but flags that the architecture leaves undefined at the end: whatever the exit has not restored, the
//! rest of the block has to overwrite before it is used.
//!
//! Worked example: a trace of `cmp rax, rbx; je pad; mov rcx, 1; add rdx, rcx` that was left by the guard of `je` calls
//! the flags undefined. The rest, `mov` and `add`, runs once with all flags inverted; the end is the same.

use super::{Case, Failure, Tally};
use crate::compiled::{set_slot, slot_of};
use crate::native::{Executor, Outcome, State};
use crate::record::Snapshot;
use crate::undefined::maybe_undefined;
use iced_x86::{FlowControl, Instruction};
use redmagic_ir::{Exit, ExitValue, FLAGS_MASK, Slot};

/// A place in the middle of a run: the state of the hardware, where it is, and the flags that may be undefined there.
pub(super) struct Place {
    pub at: Snapshot,
    pub pc: u64,
    pub undefined: u32,
}

impl Case {
    /// Runs the rest of the block behind `exit`, from the hardware's state and from the one that compiled code has `rebuilt`.
    pub(super) fn check_rest(
        &self,
        executor: &mut Executor,
        start: &Snapshot,
        place: &Place,
        rebuilt: &Snapshot,
        exit: Exit,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        let block = executor.load(&self.whole).map_err(Failure::Load)?;
        let Some(index) = block.iter().position(|inst| inst.ip() == place.pc) else { return Ok(()) };
        let mut second = rebuilt.clone();
        second.state.mxcsr = place.at.state.mxcsr;
        let undefined = |slot| self.trace.exits[exit].get(slot) == Some(ExitValue::Undefined);
        if undefined(Slot::FLAGS) {
            second.state.flags ^= u64::from(FLAGS_MASK);
        }
        // Memory that no program may read is read by random blocks.
        for address in self.dead_below(exit, &place.at.state) {
            if let Some(at) = address.checked_sub(self.arena).map(|at| at as usize)
                && let (Some(byte), Some(right)) = (second.arena.get_mut(at), place.at.arena.get(at))
            {
                *byte = *right;
            }
        }
        let mut run = |from: &Snapshot| {
            *executor.arena_mut() = from.arena;
            let mut state = from.state;
            let outcome = executor.run_from(place.pc, &mut state);
            (outcome, Snapshot { state, arena: *executor.arena() })
        };
        let (first_outcome, first) = run(&place.at);
        let (outcome, second) = run(&second);
        if outcome != first_outcome {
            let text =
                format!("behind {exit} the hardware ends with {first_outcome:x?}, the trace's state with {outcome:x?}");
            return Err(self.mismatch(start, &text));
        }
        let masked = undefined_at(&block[index..], outcome, place.undefined);
        // A fault before the flags are written shows them to a signal handler only.
        let dead = undefined(Slot::FLAGS) && matches!(outcome, Outcome::Fault { .. });
        let flags = if dead { 0 } else { u64::from(FLAGS_MASK & !masked) };
        // What the exit does not restore, and the rest does not write, is what it was.
        let mut second = second;
        for slot in Slot::all().filter(|slot| *slot != Slot::FLAGS && undefined(*slot)) {
            if slot_of(&second.state, slot) == slot_of(&rebuilt.state, slot) {
                set_slot(&mut second.state, slot, slot_of(&first.state, slot));
            }
        }
        if let Some(text) = difference(&first, &second, flags) {
            return Err(self.mismatch(start, &format!("behind {exit}, at the end of the block: {text}")));
        }
        tally.continued += 1;
        Ok(())
    }
}

/// The flags that may be undefined where `rest` was left, if `undefined` may be so where it begins.
fn undefined_at(rest: &[Instruction], outcome: Outcome, mut undefined: u32) -> u32 {
    let mut result = 0;
    for inst in rest {
        if outcome.is_fault_at(inst.ip()) {
            return result | undefined;
        }
        undefined = maybe_undefined(inst, undefined);
        let leaves = inst.flow_control() == FlowControl::ConditionalBranch;
        if leaves && outcome == (Outcome::Completed { next_pc: inst.near_branch_target() }) {
            result |= undefined;
        }
    }
    result | undefined
}

/// How two ends differ.
fn difference(left: &Snapshot, right: &Snapshot, flags: u64) -> Option<String> {
    let masked = |state: &State, slot| slot_of(state, slot) & if slot == Slot::FLAGS { flags } else { u64::MAX };
    let slots = Slot::all().filter_map(|slot| {
        let (l, r) = (masked(&left.state, slot), masked(&right.state, slot));
        (l != r).then(|| format!("{slot}: hardware {l:#x}, behind the exit {r:#x}"))
    });
    let bytes = left.arena.iter().zip(&right.arena).enumerate();
    let bytes = bytes
        .filter(|(_, (l, r))| l != r)
        .map(|(at, (l, r))| format!("arena+{at:#x}: hardware {l:#x}, behind the exit {r:#x}"));
    let all: Vec<String> = slots.chain(bytes).take(16).collect();
    (!all.is_empty()).then(|| all.join("; "))
}
