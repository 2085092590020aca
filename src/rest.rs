//! Anchors rest while nothing can come of them.
//!
//! To watch costs a program that traces do not help two or three percent of its time, as long as it runs. Where no trace is in
//! use, and none may be recorded for now, nothing is lost if anchors go by uncounted for a while, in half as many
//! instructions (figures: `docs/performance.md`).
//!
//! # Invariants
//! - Anchors rest only when a trace has turned out not to help and none has saved more than such traces have cost, while no trace is
//!   in use, no loop is timed, and the library knows one thread at most: others would share the word that counts down.
//! - Recording ends a rest, and so does a trace that comes into use: both take the word for zero.
//! - A rest is short, and shorter while the process is young: a loop that becomes hot waits for its end.
//!
//! # Worked example
//! The traces of a process that has run for a second were slower than the interpreter, and are gone. Each time that one of its
//! loops asks again whether it may be recorded, which is not before four seconds, anchors rest: at first 256 of them. As long as
//! the next question comes sooner than 10 ms later, rests become twice as long: with anchors of 30 ns, up to 524,288 of them.

use crate::heat::adapted;
use crate::judge;
use crate::records;
use crate::runtime::Runtime;
use crate::thread::current_context;

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
    length: u32,
    /// It began when the process had run for so many nanoseconds.
    began: u64,
    /// A loop has turned out to be better off without a trace.
    allowed: bool,
}

impl Rests {
    /// A trace of a loop was, or would be, too slow.
    pub fn allow(&mut self) {
        self.allowed = true;
    }

    /// How many anchors may rest when the process has run for `now` nanoseconds.
    fn next(&mut self, now: u64) -> u32 {
        let (since, wanted) = (now.saturating_sub(self.began), DISTANCE_NS.min(now / YOUNG));
        self.began = now;
        self.length = match adapted(self.length, since, wanted) {
            0 if since < wanted => FIRST,
            length => length.min(LONGEST),
        };
        self.length
    }
}

/// A loop may not be recorded when the process has run for `now` nanoseconds: anchors rest if no other loop needs them.
pub fn may_begin(runtime: &'static Runtime, now: u64) {
    let mut locked = runtime.lock();
    let shared = &mut *locked;
    let may = shared.rests.allowed
        && shared.saved <= shared.wasted
        && shared.units.in_use().next().is_none()
        && judge::is_idle(runtime, shared)
        && records::is_only(current_context() as u64);
    if may {
        runtime.words.rest(shared.rests.next(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// The rests of a process, whose anchors take `anchor` nanoseconds, and which counts 4000 of them after each rest.
    fn rests(anchor: u64, mut now: u64, count: usize) -> Vec<u32> {
        let mut rests = Rests::default();
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
        let mut often = Rests { length: 1024, ..Rests::default() };
        assert_eq!([1, 2, 3].map(|second| often.next(second * 1000 * MS)), [512, 256, 128]);
    }

    #[test]
    fn the_rests_of_a_young_process_are_short() {
        let lengths = rests(30, 2 * MS, 12);
        let time = |length: u32| u64::from(length) * 30;
        assert!(lengths.iter().all(|length| time(*length) < 2 * MS), "{lengths:?}");
    }
}
