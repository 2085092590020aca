//! Exit records: what compiled code returns, and how traces are linked.
//!
//! Every exit of a trace has one. Compiled code returns its address, and the stub jumps to `next`: at first to the
//! library, later to a *piece* of code that restores the guest's registers and leaves, or that enters a side trace.
//! Storing another address there links or unlinks the exit, atomically.

use std::mem::offset_of;
use std::sync::atomic::{AtomicI32, AtomicU64};

/// The record of one exit of one unit.
#[repr(C)]
pub struct ExitRecord {
    /// The machine code that goes on from here; gets the context in rbx and this record's address in rax.
    pub next: AtomicU64,
    /// How often the exit may still be taken before the library looks at it.
    pub heat: AtomicI32,
    /// The number of the exit in its trace.
    pub index: u32,
    /// The unit it belongs to, [`NO_UNIT`] for records that belong to none.
    pub unit: u32,
}

/// The unit number of records that belong to no unit.
pub const NO_UNIT: u32 = u32::MAX;

/// The distance between two records of a unit, in bytes.
pub const EXIT_STRIDE: u64 = size_of::<ExitRecord>() as u64;

const _: () = assert!(offset_of!(ExitRecord, next) == 0 && offset_of!(ExitRecord, heat) == 8);

impl ExitRecord {
    /// A record that goes on at `next`.
    pub fn new(unit: u32, index: u32, next: u64) -> ExitRecord {
        ExitRecord { next: AtomicU64::new(next), heat: AtomicI32::new(0), index, unit }
    }
}
