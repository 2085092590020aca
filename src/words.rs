//! What the header's macros share with the library: a few words.
//!
//! An anchor goes by if the library is off (`redmagic_active`), if anchors rest (`redmagic_resting`, see [`rest`](crate::rest)), or
//! if its counter has not run down (`redmagic_counters`, by the hash of its id).
//!
//! # Invariants
//! - A program that refers to the symbols of a shared library has copies of its own: only through [`Words`] are they the ones that
//!   the whole process uses.
//! - Macros change them without locked instructions. Two threads may lose each other's changes, which lets anchors be looked at
//!   sooner or later, and nothing else.
//!
//! # Worked example
//! With `redmagic_active` 1, `redmagic_resting` 2 and all counters 0, two anchors go by, and the third one calls the stub.

use crate::stubs;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

const COUNTERS_LOG2: u32 = 14;
/// How many counters there are.
pub const COUNTER_COUNT: usize = 1 << COUNTERS_LOG2;

/// `redmagic_active` of the header.
#[expect(unsafe_code, reason = "a symbol of the C interface")]
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static redmagic_active: AtomicI32 = AtomicI32::new(0);

/// `redmagic_resting` of the header.
#[expect(unsafe_code, reason = "a symbol of the C interface")]
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static redmagic_resting: AtomicI32 = AtomicI32::new(0);

/// `redmagic_counters` of the header.
#[expect(unsafe_code, reason = "a symbol of the C interface")]
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static redmagic_counters: [AtomicI32; COUNTER_COUNT] = [const { AtomicI32::new(0) }; COUNTER_COUNT];

/// Where the words are.
pub struct Words {
    active: u64,
    resting: u64,
    counters: u64,
}

impl Words {
    /// Those of this process.
    pub fn of_process() -> Words {
        Words {
            active: stubs::active_address(),
            resting: stubs::resting_address(),
            counters: stubs::counters_address(),
        }
    }

    /// Where those are that a trace takes for constants: start and end of each.
    pub fn tested(&self) -> [(u64, u64); 2] {
        [self.active, self.resting].map(|word| (word, word + 4))
    }

    /// Says whether the macros watch.
    pub fn set_active(&self, active: bool) {
        word(self.active).store(i32::from(active), Relaxed);
    }

    /// Lets so many anchors go by uncounted; none, if that is 0.
    pub fn rest(&self, anchors: u32) {
        word(self.resting).store(i32::try_from(anchors).unwrap_or(i32::MAX), Relaxed);
    }

    /// The counter with this number.
    pub fn counter(&self, bucket: usize) -> &'static AtomicI32 {
        word(self.counters + (bucket % COUNTER_COUNT * 4) as u64)
    }

    /// Whether an address is that of a counter.
    pub fn is_counter(&self, address: u64) -> bool {
        address.wrapping_sub(self.counters) < (COUNTER_COUNT * 4) as u64
    }
}

/// One of the words, whose address is `address`.
#[expect(unsafe_code, reason = "words that the macros of all modules share")]
fn word(address: u64) -> &'static AtomicI32 {
    // SAFETY: the address of a static of this process, or of an element of one, that is only accessed atomically.
    unsafe { &*(address as *const AtomicI32) }
}

/// The number of the counter that an id hashes to, as the header computes it.
pub fn bucket(id: u64) -> usize {
    ((id as u32).wrapping_mul(0x9e37_79b1) >> (32 - COUNTERS_LOG2)) as usize
}
