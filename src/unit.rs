//! Units: compiled traces with what is known of their exits.
//!
//! A unit that is dropped is kept until nothing can be in its code any more; see `reclaim`. Numbers are never used again.
//!
//! Worked example: unit 3, the loop of anchor 1, has the exits 0 (guest, hot: linked to unit 5), 1 (the state of a residual
//! call) and 2 (guest, taken twice). Dropping unit 5 unlinks exit 0; dropping unit 3 makes anchor 1 cold again.

use crate::exit_table::Exits;
use crate::exits::{self, ExitRecord};
use crate::memory::CodeBlock;
use crate::pieces::VectorState;
use crate::recorder::Origin;
use redmagic_ir::{Slot, Terminator, Trace};
use std::collections::BTreeMap;
use std::ptr;

/// All units, by number.
#[derive(Default)]
pub struct Units {
    next: u32,
    all: BTreeMap<u32, Unit>,
}

impl Units {
    /// The number of the next unit.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Adds a unit and returns its number.
    pub fn add(&mut self, unit: Unit) -> u32 {
        let number = self.next;
        self.next += 1;
        self.all.insert(number, unit);
        number
    }

    /// Unit `number`, unless its memory was given back.
    pub fn get(&self, number: u32) -> Option<&Unit> {
        self.all.get(&number)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, number: u32) -> Option<&mut Unit> {
        self.all.get_mut(&number)
    }

    /// Takes a unit out.
    pub fn remove(&mut self, number: u32) -> Option<Unit> {
        self.all.remove(&number)
    }

    /// All units, dropped ones too.
    pub fn all(&self) -> impl Iterator<Item = &Unit> {
        self.all.values()
    }

    /// The units in use with their numbers, side traces behind those that they begin in.
    pub fn in_use(&mut self) -> impl Iterator<Item = (u32, &mut Unit)> {
        self.all.iter_mut().map(|(number, unit)| (*number, unit)).filter(|(_, unit)| !unit.dropped)
    }

    /// The unit that a record belongs to, and the number of its exit.
    pub fn exit_of(&mut self, record: &ExitRecord) -> Option<(&mut Unit, u32)> {
        let unit = self.get_mut(record.unit)?;
        let index = exits::index_of(&unit.records, ptr::from_ref(record) as u64)?;
        Some((unit, index))
    }

    /// The number of the unit in use with this function; 0 is nobody's.
    pub fn of_function(&mut self, function: u64) -> Option<u32> {
        if function == 0 {
            return None;
        }
        self.in_use().find(|(_, unit)| unit.function == function).map(|(number, _)| number)
    }
}

/// A compiled trace.
pub struct Unit {
    /// The address of its function.
    pub function: u64,
    /// Where its recording began.
    pub origin: Origin,
    /// The exit records, by exit; machine code refers to them.
    pub records: Box<[ExitRecord]>,
    /// What is known of the exits.
    pub exits: Exits,
    /// Ranges that the trace relies on: what the host has declared immutable, and the code that was recorded.
    pub dependencies: Vec<(u64, u64)>,
    /// Residual calls save all vector state.
    pub wide: bool,
    /// It is no longer entered; activations go on in the guest.
    pub dropped: bool,
    /// The memory of its function and of what that calls.
    pub code: Vec<CodeBlock>,
    /// What it took to compile, in nanoseconds.
    pub cost: u64,
}

impl Unit {
    /// The bytes that are kept of its exits, as long as none is taken.
    pub fn exit_bytes(&self) -> u64 {
        (self.exits.bytes() + size_of_val(&*self.records)) as u64
    }

    /// All its code, with that of its exits.
    pub fn blocks(&self) -> impl Iterator<Item = CodeBlock> {
        self.code.iter().copied().chain(self.exits.blocks())
    }
}

/// Which vector registers each exit of a trace has to restore, if the trace is entered in `entry`.
///
/// At an anchor all vector registers are dead, and what is neither written nor passed through a call is still in the
/// machine. As soon as the context is written by a call or by a verbatim instruction, it is the context that counts.
pub fn exit_vectors(trace: &Trace, entry: VectorState) -> Vec<VectorState> {
    let natives = || trace.natives.values();
    let base = if natives().any(|native| native.wide) || has_upper_lanes(trace) {
        VectorState::All
    } else {
        let calls = trace.segments.values().any(|segment| matches!(segment.terminator, Terminator::Call(_)));
        let vector = natives().any(|native| native.outputs.iter().any(|slot| slot.as_xmm().is_some()));
        entry.max(if calls || vector { VectorState::Xmm } else { VectorState::None })
    };
    let lists_vector = |exit: &redmagic_ir::ExitData| exit.slots.iter().any(|(slot, _)| slot.as_xmm().is_some());
    trace
        .exits
        .values()
        .map(|exit| base.max(if lists_vector(exit) { VectorState::Xmm } else { VectorState::None }))
        .collect()
}

/// Whether residual calls of a trace have to save all vector state.
pub fn is_wide(trace: &Trace, entry: VectorState) -> bool {
    entry == VectorState::All || trace.natives.values().any(|native| native.wide) || has_upper_lanes(trace)
}

/// Whether a trace reads or writes upper halves of ymm registers.
fn has_upper_lanes(trace: &Trace) -> bool {
    let upper = |slot: Option<Slot>| slot.is_some_and(Slot::is_upper);
    let listed = |exit: &redmagic_ir::ExitData| exit.slots.iter().any(|(slot, _)| slot.is_upper());
    trace.exits.values().any(listed) || trace.insts.values().any(|inst| upper(inst.slot()))
}
