//! The loops of the guest's program: what is known of each anchor.
//!
//! # Invariants
//! - A loop is identified by its id and the site of the anchor call (its return address). Entries are leaked: they live as
//!   long as the process, so that machine code and other threads may hold on to them.
//! - Looking one up takes no lock: an anchor does it on every pass.

use crate::memory::read_bytes;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One loop.
pub struct Loop {
    /// What the guest calls it.
    pub id: u64,
    /// Where its anchor call returns to.
    pub site: u64,
    /// How the guest comes from there to where traces begin.
    pub landing: Landing,
    /// Its number.
    pub number: u32,
    /// The function of its trace, 0 if it has none.
    pub function: AtomicU64,
    /// Passes until it is recorded.
    pub heat: AtomicI32,
    /// Recordings that failed in a row.
    pub failures: AtomicU32,
    /// Its last recording was so long that it is not recorded again before the process has run for so many nanoseconds.
    pub not_before: AtomicU64,
    /// Recordings that left the loop before they came round.
    pub detours: AtomicU32,
    /// Traces that were dropped because the interpreter is faster.
    pub dismissals: AtomicU32,
    /// Never record it.
    pub disabled: AtomicBool,
    /// Its code was unloaded: what is at its site now is another loop.
    pub gone: AtomicBool,
}

/// What lies between an anchor call's return and the start of traces.
///
/// The header's macro steps over the red zone before it calls, and back afterwards. A trace begins behind that step:
/// then the stack pointer at its start is the real one, and what it pushes lies below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Landing {
    /// Bytes of code that a trace does not execute.
    pub code: u64,
    /// What they add to the stack pointer.
    pub stack: u64,
}

impl Landing {
    /// The landing of a site with this code: `lea rsp, [rsp + 128]`, or nothing.
    pub fn of(code: Option<[u8; 8]>) -> Landing {
        const STEP_BACK: [u8; 8] = [0x48, 0x8d, 0xa4, 0x24, 128, 0, 0, 0];
        if code == Some(STEP_BACK) { Landing { code: 8, stack: 128 } } else { Landing::default() }
    }
}

impl Loop {
    /// Where its traces begin.
    pub fn start(&self) -> u64 {
        self.site.wrapping_add(self.landing.code)
    }
}

const BUCKETS: usize = 1 << 16;

struct Chain {
    entry: &'static Loop,
    next: *const Chain,
}

/// All loops: a hash table of leaked chains that only grow.
pub struct Loops {
    buckets: Box<[AtomicPtr<Chain>]>,
    known: Mutex<Known>,
}

/// The same loops in order.
#[derive(Default)]
struct Known {
    by_number: Vec<&'static Loop>,
    by_id: BTreeMap<(u64, u32), &'static Loop>,
}

impl Loops {
    /// No loops.
    pub fn new() -> Loops {
        Loops { buckets: (0..BUCKETS).map(|_| AtomicPtr::default()).collect(), known: Mutex::default() }
    }

    fn bucket(&self, id: u64, site: u64) -> &AtomicPtr<Chain> {
        let hash = (id ^ site.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.buckets[(hash >> 48) as usize]
    }

    /// The loop with this identity, if it is known.
    #[expect(unsafe_code, reason = "a lock-free list")]
    pub fn find(&self, id: u64, site: u64) -> Option<&'static Loop> {
        let mut at = self.bucket(id, site).load(Acquire).cast_const();
        // SAFETY: chain links are published once, complete, and never freed.
        while let Some(link) = unsafe { at.as_ref() } {
            if link.entry.id == id && link.entry.site == site && !link.entry.gone.load(Relaxed) {
                return Some(link.entry);
            }
            at = link.next;
        }
        None
    }

    /// The loop with this identity, made if it is new, with this heat. Signals must be blocked.
    pub fn find_or_add(&self, id: u64, site: u64, heat: u32) -> &'static Loop {
        let mut known = self.known();
        if let Some(entry) = self.find(id, site) {
            return entry;
        }
        let entry: &'static Loop = Box::leak(Box::new(Loop {
            id,
            site,
            landing: Landing::of(read_bytes(site)),
            number: known.by_number.len() as u32,
            function: AtomicU64::new(0),
            heat: AtomicI32::new(i32::try_from(heat).unwrap_or(i32::MAX)),
            failures: AtomicU32::new(0),
            not_before: AtomicU64::new(0),
            detours: AtomicU32::new(0),
            dismissals: AtomicU32::new(0),
            disabled: AtomicBool::new(false),
            gone: AtomicBool::new(false),
        }));
        known.by_number.push(entry);
        known.by_id.insert((id, entry.number), entry);
        let bucket = self.bucket(id, site);
        let link = Box::leak(Box::new(Chain { entry, next: bucket.load(Acquire) }));
        bucket.store(link, Release);
        entry
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loop numbered `number`.
    pub fn get(&self, number: u32) -> Option<&'static Loop> {
        self.known().by_number.get(number as usize).copied()
    }

    /// Every loop.
    pub fn all(&self) -> Vec<&'static Loop> {
        self.known().by_number.clone()
    }

    /// The loops whose ids are in a range.
    pub fn within(&self, ids: Range<u64>) -> Vec<&'static Loop> {
        let known = self.known();
        let from = known.by_id.range((ids.start, 0)..).map(|(_, entry)| *entry);
        from.take_while(|entry| entry.id < ids.end).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_is_its_id_and_its_site() {
        let loops = Loops::new();
        let first = loops.find_or_add(1, 100, 5);
        assert!(std::ptr::eq(first, loops.find_or_add(1, 100, 9)));
        let second = loops.find_or_add(1, 200, 5);
        assert_eq!((first.number, second.number), (0, 1));
        first.gone.store(true, Relaxed);
        assert!(loops.find(1, 100).is_none());
        assert!(loops.find(2, 100).is_none());
        assert!(std::ptr::eq(loops.get(1).expect("the second"), second));
        assert_eq!(loops.all().len(), 2);
        loops.find_or_add(5, 100, 5);
        let ids = |range| loops.within(range).iter().map(|entry| (entry.id, entry.site)).collect::<Vec<_>>();
        assert_eq!(ids(1..5), [(1, 100), (1, 200)]);
        assert_eq!(ids(2..u64::MAX), [(5, 100)]);
    }

    #[test]
    fn threads_share_loops() {
        let loops = Loops::new();
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let loops = &loops;
                scope.spawn(move || {
                    for at in 0..2000 {
                        let id = (at * 7 + thread) % 40;
                        let entry = loops.find(id, 100).unwrap_or_else(|| loops.find_or_add(id, 100, 5));
                        assert_eq!((entry.id, entry.site), (id, 100));
                    }
                });
            }
        });
        assert_eq!(loops.all().len(), 40);
    }
}
