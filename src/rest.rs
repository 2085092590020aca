//! Anchors rest while nothing can come of them.
//!
//! To watch costs a program that traces do not help two or three percent of its time, as long as it runs. Where no loop has a
//! trace, and none may be recorded for now, nothing is lost if anchors go by uncounted for a while: that costs half a percent.
//!
//! # Invariants
//! - Anchors rest only when a trace has turned out not to help and none has saved more than such traces have cost, while no loop
//!   leads to a trace, none is timed, and the library knows one thread at most: others would share the word that counts down.
//! - Recording ends a rest, so what is recorded never contains one.
//! - A rest is short, and shorter while the process is young: a loop that becomes hot waits for its end.
//! - A trace that is entered again after it was set aside may run during a rest. It takes the word to be what it was, so its
//!   anchors are counted, and nothing else changes.
//!
//! # Worked example
//! The traces of a process that has run for a second were slower than the interpreter, and are gone. Each time that one of its
//! loops asks again whether it may be recorded, which is not before four seconds, anchors rest: at first 256 of them. As long as
//! the next question comes sooner than 10 ms later, rests become twice as long: with anchors of 30 ns, up to 524,288 of them.

use crate::judge;
use crate::records;
use crate::runtime::Runtime;
use crate::thread::current_context;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

/// From one rest to the next, in nanoseconds, at most about four times as long.
const DISTANCE_NS: u64 = 10_000_000;
/// The same as a part of the time that the process has run.
const YOUNG: u64 = 16;
/// The first rest, in anchors.
const FIRST: u32 = 256;
/// The longest one.
const LONGEST: u32 = 1 << 24;

/// The rests of a process.
#[derive(Default)]
pub struct Rests {
    /// How many anchors the last one had.
    length: AtomicU32,
    /// It began when the process had run for so many nanoseconds.
    began: AtomicU64,
    /// A loop has turned out to be better off without a trace.
    allowed: AtomicBool,
}

impl Rests {
    /// A trace of a loop was, or would be, too slow.
    pub fn allow(&self) {
        self.allowed.store(true, Relaxed);
    }

    /// How many anchors may rest when the process has run for `now` nanoseconds.
    fn next(&self, now: u64) -> u32 {
        let since = now.saturating_sub(self.began.swap(now, Relaxed));
        let length = next_length(self.length.load(Relaxed), since, DISTANCE_NS.min(now / YOUNG));
        self.length.store(length, Relaxed);
        length
    }
}

/// How many anchors rest if the last rest had `last` of them and it was `since` nanoseconds until now, when `wanted` were.
fn next_length(last: u32, since: u64, wanted: u64) -> u32 {
    match since {
        _ if since < wanted => last.saturating_mul(2).clamp(FIRST, LONGEST),
        _ if since / 4 < wanted => last,
        _ => last / 2,
    }
}

/// A loop may not be recorded when the process has run for `now` nanoseconds: anchors rest if no other loop needs them.
pub fn may_begin(runtime: &'static Runtime, now: u64) {
    let is_alone = || records::is_only(current_context() as u64);
    if !runtime.rests.allowed.load(Relaxed) || !runtime.leads_nowhere() || !is_alone() {
        return;
    }
    let shared = runtime.lock();
    if shared.saved <= shared.wasted && judge::is_idle(runtime, &shared) {
        runtime.words.rest(runtime.rests.next(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// The rests of a process, whose anchors take `anchor` nanoseconds, and which counts 4000 of them after each rest.
    fn rests(anchor: u64, mut now: u64, count: usize) -> Vec<u32> {
        let rests = Rests::default();
        let mut next = || {
            let length = rests.next(now);
            now += (u64::from(length) + 4000) * anchor;
            length
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn rests_become_as_long_as_they_have_to_be() {
        let lengths = rests(30, 1000 * MS, 20);
        assert_eq!(lengths[..4], [0, 256, 512, 1024]);
        assert_eq!(lengths[12..15], [524_288; 3]);
        assert!(rests(1, 1000 * MS, 60).iter().all(|length| *length <= LONGEST));
    }

    /// Where anchors are rare, to count them costs nothing.
    #[test]
    fn rare_anchors_do_not_rest() {
        assert!(rests(1_000_000, 1000 * MS, 20).iter().all(|length| *length == 0));
        assert_eq!(next_length(1024, 100 * DISTANCE_NS, DISTANCE_NS), 512);
    }

    #[test]
    fn the_rests_of_a_young_process_are_short() {
        let lengths = rests(30, 2 * MS, 12);
        let time = |length: u32| u64::from(length) * 30;
        assert!(lengths.iter().all(|length| time(*length) < 2 * MS), "{lengths:?}");
    }
}
