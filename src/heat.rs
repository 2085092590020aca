//! When loops and exits are hot: thresholds, and delays after failures.
//!
//! # Invariants
//! Nothing is tried again at once but what cannot fail twice for the same reason. Delays double with each failure, and after
//! [`MAX_FAILURES`] a loop or exit is left alone. Every look at a loop that is not worth one costs a microsecond: the counter
//! of its anchor is set so that the delay passes without us.
//!
//! # Worked example
//! A loop of 30 ns may not be recorded, because the process has spent what it may. It is looked at again after 800 passes, which
//! is too soon, and then after 1600, 3200, and so on up to 25,600 passes: every three quarters of a millisecond. An exit whose side trace met an inner loop three times is looked at again after 50 * 2^4 more exits.

use crate::loops::Loop;
use crate::memory::process_time;
use crate::recorder::Origin;
use crate::rest;
use crate::runtime::{Locked, Runtime};
use std::sync::atomic::Ordering::Relaxed;

/// Failures in a row after which a loop or an exit is left alone.
const MAX_FAILURES: u32 = 8;
/// What is hot while no time may be spent on it is looked at again after so many times the threshold, and more
/// if that has turned out to be sooner than this, in nanoseconds.
pub const LATER: u32 = 4;
const PAUSE_NS: u64 = 500_000;
/// Loops that are hot sooner are neither timed nor recorded several times: who sets that wants traces early.
pub const LEAST_HEAT: u32 = 128;
/// The most passes between two looks at a loop.
const MOST_PASSES: u32 = 1 << 17;

/// Lowers what is left of a loop's heat; says whether it is hot now.
pub fn heat_up(heat: &std::sync::atomic::AtomicI32, passes: u32) -> bool {
    let left = heat.load(Relaxed).saturating_sub(i32::try_from(passes).unwrap_or(i32::MAX));
    heat.store(left.max(0), Relaxed);
    left <= 0
}

/// Lets passes of a loop go by, in the guest where that is possible, until one is hot.
pub fn let_pass(runtime: &Runtime, own: &Loop, passes: u32) {
    let passes = passes.min(MOST_PASSES) as i32;
    if runtime.is_pinned(own.id) {
        own.heat.store(passes, Relaxed);
    } else {
        own.heat.store(0, Relaxed);
        runtime.count_down(own.id, passes);
    }
}

/// No time may be spent on a hot loop now, when the process has run for `now` nanoseconds.
pub fn pause(runtime: &'static Runtime, own: &Loop, now: u64) {
    let since = now.saturating_sub(own.paused.swap(now, Relaxed));
    let passes = next_pause(own.pause.load(Relaxed), since, runtime.hot_loop().saturating_mul(LATER));
    own.pause.store(passes, Relaxed);
    let_pass(runtime, own, passes);
    rest::may_begin(runtime, now);
}

/// How many passes to let go by, at least `least`, if after `last` so much time had passed.
fn next_pause(last: u32, since: u64, least: u32) -> u32 {
    adapted(last, since, PAUSE_NS).min(MOST_PASSES).max(least)
}

/// How many passes take `wanted` nanoseconds, or up to four times as much, if `last` took `since`: twice as many, as many, or half.
pub fn adapted(last: u32, since: u64, wanted: u64) -> u32 {
    match since {
        _ if since < wanted => last.saturating_mul(2),
        _ if since / 4 < wanted => last,
        _ => last / 2,
    }
}

/// A loop that is left alone.
pub fn leave_alone(runtime: &'static Runtime, own: &Loop) {
    let_pass(runtime, own, MOST_PASSES);
    rest::may_begin(runtime, process_time());
}

/// Lets the next pass record again.
pub fn retry(runtime: &'static Runtime, origin: &Origin) {
    match origin {
        Origin::Anchor(own) => own.heat.store(1, Relaxed),
        Origin::Exit { unit, exit } => cool_exit(&mut runtime.lock(), *unit, *exit, 1),
    }
}

/// Lets one of the next passes record, not the next one again.
pub fn come_back(runtime: &Runtime, origin: &Origin) {
    if let Origin::Anchor(own) = origin {
        // Short loops have different phases then.
        let detours = own.detours.fetch_add(1, Relaxed).min(100);
        let_pass(runtime, own, 2 + 3 * detours);
    }
}

/// Makes the next attempt come later; after too many failures that count, never.
pub fn penalise(runtime: &'static Runtime, origin: &Origin, counts: bool) {
    let delay = |first: u32, failures: u32| first.saturating_mul(2 << failures.min(16));
    match origin {
        Origin::Anchor(own) => {
            let failures = own.failures.fetch_add(u32::from(counts), Relaxed) + u32::from(counts);
            if failures >= MAX_FAILURES {
                own.disabled.store(true, Relaxed);
            }
            let_pass(runtime, own, delay(runtime.hot_loop(), failures));
        }
        Origin::Exit { unit, exit } => {
            let mut shared = runtime.lock();
            let Some(used) = shared.units.get_mut(*unit).and_then(|unit| unit.exits.used_mut(*exit)) else { return };
            used.failures += 1;
            let delay = delay(runtime.hot_exit(), used.failures);
            let heat = if used.failures >= MAX_FAILURES { u32::MAX } else { delay };
            cool_exit(&mut shared, *unit, *exit, heat);
        }
    }
}

/// The exit will be looked at after it was taken so many times more.
fn cool_exit(shared: &mut Locked, unit: u32, exit: u32, times: u32) {
    if let Some(record) = shared.units.get(unit).and_then(|unit| unit.records.get(exit as usize)) {
        record.cool(times);
    }
}

/// Looks at it again when the process may spend `price` nanoseconds, for that is what it takes.
pub fn postpone(runtime: &'static Runtime, origin: &Origin, price: u64) {
    match origin {
        Origin::Anchor(own) => {
            own.price.store(price, Relaxed);
            let_pass(runtime, own, runtime.hot_loop());
        }
        Origin::Exit { unit, exit } => {
            let mut shared = runtime.lock();
            if let Some(used) = shared.units.get_mut(*unit).and_then(|unit| unit.exits.used_mut(*exit)) {
                used.price = price;
            }
            cool_exit(&mut shared, *unit, *exit, runtime.hot_exit().saturating_mul(LATER));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pauses of a loop with passes of so many nanoseconds.
    fn pauses(pass: u64, count: usize) -> Vec<u32> {
        let next = |last: &u32| Some(next_pause(*last, u64::from(*last) * pass, 800));
        std::iter::successors(Some(800), next).take(count).collect()
    }

    #[test]
    fn pauses_become_as_long_as_they_have_to_be() {
        assert_eq!(pauses(30, 8), [800, 1600, 3200, 6400, 12_800, 25_600, 25_600, 25_600]);
        assert_eq!(pauses(1, 12).last(), Some(&MOST_PASSES));
        assert_eq!(pauses(10_000, 3), [800, 800, 800]);
        // A loop whose passes have become longer.
        assert_eq!(next_pause(25_600, 100 * PAUSE_NS, 800), 12_800);
        assert_eq!(next_pause(0, 100 * PAUSE_NS, 800), 800);
    }
}
