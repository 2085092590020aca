//! The loops of the guest's program: what is known of each anchor.
//!
//! # Invariants
//! - A loop is identified by its id and the site of the anchor call (its return address). Its number is never another's.
//! - Looking one up takes no lock: an anchor does it on every pass.
//! - A loop that the host takes back is *retired*: nobody finds it any more. It is freed when no thread can be where it was found
//!   (see [`reclaim`](crate::reclaim)), and no recording, unit or compiled trace names it. Others name loops by number.
//!
//! # Worked example
//! A recording of loop 7 waits for a residual call, in which the host frees the loop's bytecode and takes its id back. Loop 7 is
//! retired: the next anchor with that id and site is loop 8. The recording ends, makes no trace, and loop 7 can be freed.

use crate::memory::read_bytes;
use std::collections::BTreeMap;
use std::ops::Range;
use std::ptr;
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
    /// Its last trace was slow: it is not recorded again before the process has run for so many nanoseconds.
    pub not_before: AtomicU64,
    /// Its last recording was so long that it takes so many nanoseconds to compile; 0 if nothing is known of that.
    pub price: AtomicU64,
    /// Passes that were let go by when no time could be spent on it the last time.
    pub pause: AtomicU32,
    /// That was when the process had run for so many nanoseconds.
    pub paused: AtomicU64,
    /// Recordings that left the loop before they came round.
    pub detours: AtomicU32,
    /// Traces that were dropped because the interpreter is faster.
    pub dismissals: AtomicU32,
    /// Never record it.
    pub disabled: AtomicBool,
    /// It was retired: what has its identity now is another loop.
    pub gone: AtomicBool,
    /// How many recordings name it.
    recordings: AtomicU32,
    /// The next in its chain.
    next: AtomicPtr<Loop>,
}

/// Says that a recording names a loop.
pub struct Named(&'static Loop);

impl Drop for Named {
    fn drop(&mut self) {
        self.0.recordings.fetch_sub(1, Release);
    }
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

    /// Keeps it until the result is dropped.
    pub fn name(&'static self) -> Named {
        self.recordings.fetch_add(1, Relaxed);
        Named(self)
    }

    /// Whether a recording names it.
    pub fn is_named(&self) -> bool {
        self.recordings.load(Acquire) != 0
    }
}

/// Frees a loop.
///
/// # Safety
/// It was retired, and nobody refers to it any more.
#[expect(unsafe_code, reason = "the owner of what was leaked")]
pub unsafe fn free(retired: &'static Loop) {
    // SAFETY: `find_or_add` has made it so.
    drop(unsafe { Box::from_raw(ptr::from_ref(retired).cast_mut()) });
}

const BUCKETS: usize = 1 << 16;

/// All loops but those that were retired: a hash table of chains.
pub struct Loops {
    buckets: Box<[AtomicPtr<Loop>]>,
    known: Mutex<Known>,
}

/// The same loops in order.
#[derive(Default)]
struct Known {
    next: u32,
    by_number: BTreeMap<u32, &'static Loop>,
    by_id: BTreeMap<(u64, u32), &'static Loop>,
}

impl Loops {
    /// No loops.
    pub fn new() -> Loops {
        Loops::with_buckets(BUCKETS)
    }

    fn with_buckets(count: usize) -> Loops {
        Loops { buckets: (0..count).map(|_| AtomicPtr::default()).collect(), known: Mutex::default() }
    }

    fn bucket(&self, id: u64, site: u64) -> &AtomicPtr<Loop> {
        let hash = (id ^ site.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.buckets[(hash >> 48) as usize % self.buckets.len()]
    }

    /// The loop with this identity, if it is known.
    pub fn find(&self, id: u64, site: u64) -> Option<&'static Loop> {
        let mut at = follow(self.bucket(id, site));
        while let Some(entry) = at {
            if entry.id == id && entry.site == site && !entry.gone.load(Relaxed) {
                return Some(entry);
            }
            at = follow(&entry.next);
        }
        None
    }

    /// The loop with this identity, made if it is new, with this heat. Signals must be blocked.
    pub fn find_or_add(&self, id: u64, site: u64, heat: u32) -> &'static Loop {
        let mut known = self.known();
        if let Some(entry) = self.find(id, site) {
            return entry;
        }
        let bucket = self.bucket(id, site);
        let number = known.next;
        known.next += 1;
        let entry: &'static Loop = Box::leak(Box::new(Loop {
            id,
            site,
            landing: Landing::of(read_bytes(site)),
            number,
            function: AtomicU64::new(0),
            heat: AtomicI32::new(i32::try_from(heat).unwrap_or(i32::MAX)),
            failures: AtomicU32::new(0),
            not_before: AtomicU64::new(0),
            price: AtomicU64::new(0),
            pause: AtomicU32::new(0),
            paused: AtomicU64::new(0),
            detours: AtomicU32::new(0),
            dismissals: AtomicU32::new(0),
            disabled: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            recordings: AtomicU32::new(0),
            next: AtomicPtr::new(bucket.load(Relaxed)),
        }));
        known.by_number.insert(number, entry);
        known.by_id.insert((id, number), entry);
        bucket.store(ptr::from_ref(entry).cast_mut(), Release);
        entry
    }

    /// Nobody finds this loop any more.
    pub fn retire(&self, retired: &'static Loop) {
        let mut known = self.known();
        retired.gone.store(true, Relaxed);
        known.by_number.remove(&retired.number);
        known.by_id.remove(&(retired.id, retired.number));
        let mut link = self.bucket(retired.id, retired.site);
        while let Some(entry) = follow(link) {
            if ptr::eq(entry, retired) {
                // Who is at the retired one goes on from there.
                link.store(retired.next.load(Relaxed), Release);
                return;
            }
            link = &entry.next;
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loop numbered `number`.
    pub fn get(&self, number: u32) -> Option<&'static Loop> {
        self.known().by_number.get(&number).copied()
    }

    /// Every loop.
    pub fn all(&self) -> Vec<&'static Loop> {
        self.known().by_number.values().copied().collect()
    }

    /// The loops whose ids are in a range.
    pub fn within(&self, ids: Range<u64>) -> Vec<&'static Loop> {
        let known = self.known();
        let from = known.by_id.range((ids.start, 0)..).map(|(_, entry)| *entry);
        from.take_while(|entry| entry.id < ids.end).collect()
    }
}

/// The loop that a link of a chain leads to.
#[expect(unsafe_code, reason = "a lock-free list")]
fn follow(link: &AtomicPtr<Loop>) -> Option<&'static Loop> {
    // SAFETY: links are published once, complete; what is retired is freed only when nobody can come from there any more.
    unsafe { link.load(Acquire).cast_const().as_ref() }
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
        loops.retire(first);
        assert!(loops.find(1, 100).is_none() && loops.get(0).is_none());
        assert!(loops.find(2, 100).is_none());
        assert!(std::ptr::eq(loops.get(1).expect("the second"), second));
        assert_eq!(loops.find_or_add(1, 100, 5).number, 2);
        assert_eq!(loops.all().len(), 2);
        loops.find_or_add(5, 100, 5);
        let ids = |range| loops.within(range).iter().map(|entry| (entry.id, entry.site)).collect::<Vec<_>>();
        assert_eq!(ids(1..5), [(1, 200), (1, 100)]);
        assert_eq!(ids(2..u64::MAX), [(5, 100)]);
    }

    #[test]
    fn retired_loops_leave_their_chain() {
        let loops = Loops::with_buckets(1);
        let sites = [100, 200, 300, 400];
        let entries = sites.map(|site| loops.find_or_add(9, site, 5));
        let found = || sites.map(|site| loops.find(9, site).is_some());
        // In the middle, the last, the first, the only one.
        let orders = [[true, false, true, true], [false, false, true, true], [false, false, true, false], [false; 4]];
        for (at, expected) in [1, 0, 3, 2].into_iter().zip(orders) {
            loops.retire(entries[at]);
            assert_eq!(found(), expected);
        }
        // Who is at a retired one gets on.
        assert!(ptr::eq(follow(&entries[1].next).expect("the first"), entries[0]));
    }

    #[test]
    fn a_recording_names_its_loop_until_it_ends() {
        let entry = Loops::with_buckets(1).find_or_add(1, 2, 3);
        let names = [entry.name(), entry.name()];
        assert!(entry.is_named());
        drop(names);
        assert!(!entry.is_named());
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
