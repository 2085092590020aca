//! Resume exits: the places where the optimiser may guard the address of a load.
//!
//! Memory that the host has declared immutable makes a load from it a constant as soon as its address is one. The
//! optimiser makes it one by a guard in front of the load; where that guard fails, the guest executes the load's
//! instruction again, so the guard needs an exit with the state before that instruction. Only the lifter knows this
//! state: it attaches the exit to the load, and what the optimiser does not use costs nothing in the end. Where the program
//! may lie that the guest interprets, if it was not declared, guards compare what is loaded, and leave by the same exit.
//!
//! # Invariants
//! - The state is that before the instruction: nothing of it has been written when the exit is made. A load behind a
//!   write of its own instruction gets none.
//! - Only loads recorded in declared memory, or around the interpreted program, at an address that is not constant anyway,
//!   have one.
//!
//! Worked example: with declared memory 0x2000 to 0x3000, `mov eax, [rbx]; add rbx, 4` recorded at rbx = 0x2000
//! becomes
//! ```text
//!   v1: i32 = load [v0] @0x2000=7 resume exit0
//! exit0 @0x1000 {}
//! ```

use crate::lifter::Lifter;
use redmagic_ir::{Address, Exit, Recorded, Region, RegionKind, Type};

/// The memory that the host has declared immutable, or that may be its program: disjoint ranges in order.
pub(crate) struct Declared {
    /// First address and first address behind it.
    ranges: Vec<(u64, u64)>,
}

impl Declared {
    pub(crate) fn new(regions: &[Region]) -> Declared {
        let declared = regions.iter().filter(|region| matches!(region.kind, RegionKind::Declared | RegionKind::Code));
        let mut all: Vec<(u64, u64)> = declared.map(|region| (region.start, region.end)).collect();
        all.sort_unstable();
        let mut ranges: Vec<(u64, u64)> = Vec::with_capacity(all.len());
        for (start, end) in all {
            match ranges.last_mut() {
                // Ranges that only touch stay apart, as they are for the optimiser.
                Some(last) if start < last.1 => last.1 = last.1.max(end),
                _ => ranges.push((start, end)),
            }
        }
        Declared { ranges }
    }

    /// Whether the `bytes` bytes at `address` are in it.
    fn contains(&self, address: u64, bytes: u32) -> bool {
        let Some(end) = address.checked_add(u64::from(bytes)) else { return false };
        let after = self.ranges.partition_point(|range| range.0 <= address);
        after > 0 && end <= self.ranges[after - 1].1
    }
}

impl Lifter<'_> {
    /// The exit in front of the current instruction for a load that is about to be emitted, if it needs one.
    pub(crate) fn resume_exit(&mut self, ty: Type, address: &Address, recorded: Option<Recorded>) -> Option<Exit> {
        let Recorded { address: seen, .. } = recorded?;
        let constant = !address.index.is_some() && self.as_const(address.root).is_some();
        (self.untouched && !constant && self.declared.contains(seen, ty.bytes()))
            .then(|| self.exit_at(self.pc, self.step))
    }
}
