//! Comparison where the optimised trace may leave earlier: where it compares the undeclared program with what was recorded.
//!
//! The oracle: if the optimised trace leaves at a load of the program, then the trace as it was does the same if exactly this load is
//! compared there. So it must be the first time that the load gives something else, and everything before must have been done.
//!
//! Worked example: the trace loads 0x20_0001 twice, and stores there in between. The optimised one leaves at the second load; the
//! unoptimised one with a comparison behind its second load leaves there, too, and has stored the same.

use redmagic_ir::eval::Outcome;
use redmagic_ir::sandbox::{Difference, TestGuest, compare, mix, run};
use redmagic_ir::{Exit, Inst, Opcode, RegionKind, Slot, Trace, Type, Value};

/// Where the program is.
const PROGRAM: u64 = 0x20_0000;
/// Its bytes.
const LENGTH: u64 = 64;

/// A guest whose program is not what was recorded, or is rewritten by the trace's own stores.
pub fn changed(seed: u64, number: u64, mut guest: TestGuest) -> TestGuest {
    let random = mix(seed, number);
    if number % 3 == 1 {
        guest.memory.set_byte(PROGRAM + random % LENGTH, (random >> 32) as u8);
    }
    if number % 4 > 1 {
        guest.slots[Slot::RBX.index()] = PROGRAM + random % 8 * 8;
    }
    guest
}

/// What a comparison came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// The first trace does not reach an exit.
    Not,
    /// Both leave at the same exit.
    Same,
    /// The second one leaves at a load of the program.
    Early,
}

/// Runs both traces on copies of `guest`. The second is the first one, optimised.
pub fn compare_early(before: &Trace, after: &Trace, guest: &TestGuest, fuel: u64) -> Result<Compared, Difference> {
    let pc = match run(after, &mut guest.clone(), fuel.saturating_mul(4)) {
        Ok(Outcome::Exit(exit)) => Some(after.exits[exit].pc),
        _ => None,
    };
    let load = before.resume_exits().find(|(load, exit)| Some(before.exits[*exit].pc) == pc && is_code(before, *load));
    let Some((load, exit)) = load else {
        return compare(before, after, guest, fuel).map(|reached| if reached { Compared::Same } else { Compared::Not });
    };
    let exact = compare(&compared(before, load, exit), after, guest, fuel);
    // Other guards leave in front of loads of the program as well.
    let early = exact.or_else(|_| redmagic_ir::early::compare_early(before, after, guest, fuel));
    early.map(|reached| if reached { Compared::Early } else { Compared::Not })
}

/// Whether a load may read the program.
fn is_code(trace: &Trace, load: Value) -> bool {
    let regions = || trace.regions.iter().filter(|region| region.kind == RegionKind::Code);
    trace
        .recorded(load)
        .is_some_and(|recorded| regions().any(|region| (region.start..region.end).contains(&recorded.address)))
}

/// `trace` with a comparison behind `load`, of where it goes to and what it gives.
fn compared(trace: &Trace, load: Value, exit: Exit) -> Trace {
    let recorded = trace.recorded(load).map_or((0, 0), |recorded| (recorded.address, recorded.value));
    let address = trace.insts[load].address().map_or((load, 0), |address| (address.root, i64::from(address.offset)));
    let mut trace = trace.clone();
    let place = trace.add_inst(Inst::constant(Type::I64, (recorded.0 as i64).wrapping_sub(address.1)));
    let there = trace.add_inst(Inst::binary(Opcode::Eq, Type::I1, address.0, place));
    let constant = trace.add_inst(Inst::constant(trace.ty(load), recorded.1 as i64));
    let same = trace.add_inst(Inst::binary(Opcode::Eq, Type::I1, load, constant));
    let both = trace.add_inst(Inst::binary(Opcode::And, Type::I1, there, same));
    let guard = trace.add_inst(Inst::guard(true, both, exit));
    insert(&mut trace, load, [place, there, constant, same, both, guard]);
    trace
}

fn insert<const COUNT: usize>(trace: &mut Trace, load: Value, insts: [Value; COUNT]) {
    for segment in trace.segments.keys().collect::<Vec<_>>() {
        let list = &mut trace.segments[segment].insts;
        if let Some(at) = list.iter().position(|value| *value == load) {
            list.splice(at + 1..at + 1, insts);
        }
    }
}
