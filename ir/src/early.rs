//! Comparison of traces of which the second may leave earlier: at the start, or where a load has a resume exit.
//!
//! Passes may let guards leave with the state of an earlier place, if the guest finds out there what the guards did. The oracle does
//! not ask why: it ends the first trace at that place, when control comes there for the first time, the second, and so on. One of these
//! traces must do what the second trace does.
//!
//! # Worked example
//! The second trace leaves at 0x4000, where a load of the first one has the resume exit `exit3 @0x4000`, in the third iteration of a
//! loop. The first one, left by exit3 in front of that load when it is executed for the third time, has the same slots and memory.

use crate::eval::{Guest, Outcome};
use crate::sandbox::{Difference, TestGuest, compare, run};
use crate::{Address, Exit, ExitData, ExitKind, Inst, Opcode, Slot, Terminator, Trace, Type, Value};

/// How often control may have come to the place.
const MAX_TIMES: u64 = 200;
/// A counter lies so far below the stack pointer, where nobody looks.
const COUNTER: u64 = 0x4000;

/// Compares as [`compare`] does, but for where the second trace leaves: that may be earlier. A difference is one from the first trace
/// as it is.
pub fn compare_early(one: &Trace, two: &Trace, guest: &TestGuest, fuel: u64) -> Result<bool, Difference> {
    let result = compare(one, two, guest, fuel);
    let Err(Difference::Point(..)) = &result else { return result };
    let Ok(Outcome::Exit(exit)) = run(two, &mut guest.clone(), fuel.saturating_mul(4)) else { return result };
    let point = &two.exits[exit];
    if point.kind != ExitKind::Guest {
        return result;
    }
    let is_same = |left: &Trace, guest: &TestGuest| compare(left, two, guest, fuel) == Ok(true);
    if point.pc == one.start && is_same(&left_at_start(one), guest) {
        return Ok(true);
    }
    let address = guest.slot(Slot::RSP).wrapping_sub(COUNTER);
    for (load, exit) in one.resume_exits().filter(|(_, exit)| one.exits[*exit].pc == point.pc) {
        let left = left_in_front(one, load, exit, address);
        for times in 1..=MAX_TIMES {
            let mut guest = guest.clone();
            guest.memory.set(address, 8, u128::from(times));
            match compare(&left, two, &guest, fuel) {
                Ok(true) => return Ok(true),
                // Control does not come there so often.
                Err(Difference::Point(..)) => break,
                Ok(false) | Err(_) => {}
            }
        }
    }
    result
}

/// A trace that leaves at once.
fn left_at_start(trace: &Trace) -> Trace {
    let mut left = Trace::new(trace.name.clone());
    left.start = trace.start;
    let entry = left.add_segment();
    left.entry = Some(entry);
    let exit = left.exits.push(ExitData::new(trace.start, 0));
    left.segments[entry].terminator = Terminator::Leave(exit);
    left
}

/// `trace`, left by `exit` in front of `load` when a counter at `address` has come down to 0.
fn left_in_front(trace: &Trace, load: Value, exit: Exit, address: u64) -> Trace {
    let mut left = trace.clone();
    let place = left.add_inst(Inst::constant(Type::I64, address as i64));
    let less = left.add_inst(Inst::constant(Type::I64, -1));
    let zero = left.add_inst(Inst::constant(Type::I64, 0));
    let at = Address::new(place, 0);
    let before = left.add_inst(Inst::load(Type::I64, at));
    let count = left.add_inst(Inst::binary(Opcode::Add, Type::I64, before, less));
    let store = left.add_inst(Inst::store(Type::I64, at, count));
    let goes_on = left.add_inst(Inst::binary(Opcode::Ne, Type::I1, count, zero));
    let guard = left.add_inst(Inst::guard(true, goes_on, exit));
    for data in left.segments.values_mut() {
        if let Some(found) = data.insts.iter().position(|value| *value == load) {
            data.insts.splice(found..found, [place, less, zero, before, count, store, goes_on, guard]);
        }
    }
    left
}
