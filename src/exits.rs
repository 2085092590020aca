//! Exit records: what compiled code returns, and how traces are linked.
//!
//! Every exit of a trace has one. Compiled code returns its address, and the stub jumps to `next`: at first to the
//! library, later to a *piece* of code that restores the guest's registers and leaves, or that enters a side trace.
//! Storing another address there links or unlinks the exit, atomically.

use std::mem::offset_of;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicI32, AtomicU64};

/// The record of one exit of one unit. Which one says its place ([`index_of`]).
#[repr(C)]
pub struct ExitRecord {
    /// The machine code that goes on from here; gets the context in rbx and this record's address in rax.
    pub next: AtomicU64,
    /// How often the exit may still be taken before the library looks at it.
    pub heat: AtomicI32,
    /// The unit it belongs to, [`NO_UNIT`] for records that belong to none.
    pub unit: u32,
}

/// The unit number of records that belong to no unit.
pub const NO_UNIT: u32 = u32::MAX;

/// The distance between two records of a unit, in bytes.
pub const EXIT_STRIDE: u64 = size_of::<ExitRecord>() as u64;

// Most of what is kept of an exit is this.
const _: () = assert!(offset_of!(ExitRecord, next) == 0 && offset_of!(ExitRecord, heat) == 8 && EXIT_STRIDE == 16);

impl ExitRecord {
    /// A record that goes on at `next`.
    pub fn new(unit: u32, next: u64) -> ExitRecord {
        ExitRecord { next: AtomicU64::new(next), heat: AtomicI32::new(0), unit }
    }

    /// The library will look at it after it was taken so many times more.
    pub fn cool(&self, times: u32) {
        self.heat.store(i32::try_from(times).unwrap_or(i32::MAX), Relaxed);
    }
}

/// The number of the exit whose record is at `address`, if that is one of `records`.
pub fn index_of(records: &[ExitRecord], address: u64) -> Option<u32> {
    let distance =
        address.checked_sub(records.as_ptr() as u64).filter(|distance| distance.is_multiple_of(EXIT_STRIDE))?;
    u32::try_from(distance / EXIT_STRIDE).ok().filter(|index| (*index as usize) < records.len())
}
