//! When loops and exits are hot: thresholds, and delays after failures.
//!
//! # Invariants
//! Nothing is tried again at once but what cannot fail twice for the same reason. Delays double with each failure, and after
//! [`MAX_FAILURES`] a loop or exit is left alone.
//!
//! # Worked example
//! An exit whose side trace met an inner loop three times is looked at again after 50 * 2^4 more exits.

use crate::recorder::Origin;
use crate::runtime::{Locked, Runtime};
use std::sync::atomic::Ordering::Relaxed;

/// Failures in a row after which a loop or an exit is left alone.
const MAX_FAILURES: u32 = 8;
/// What is hot while no time may be spent on it is looked at again after so many times the threshold.
pub const LATER: u32 = 4;

/// Lowers what is left of a loop's heat; says whether it is hot now.
pub fn heat_up(heat: &std::sync::atomic::AtomicI32, passes: u32) -> bool {
    let left = heat.load(Relaxed).saturating_sub(i32::try_from(passes).unwrap_or(i32::MAX));
    heat.store(left.max(0), Relaxed);
    left <= 0
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
        own.heat.store(0, Relaxed);
        runtime.count_down(own.id, 2 + 3 * detours as i32);
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
            let delay = delay(runtime.hot_loop(), failures);
            own.heat.store(i32::try_from(delay).unwrap_or(i32::MAX), Relaxed);
        }
        Origin::Exit { unit, exit } => {
            let mut shared = runtime.lock();
            let Some(info) = shared.units.get_mut(*unit).and_then(|unit| unit.exits.get_mut(*exit as usize)) else {
                return;
            };
            info.failures += 1;
            let delay = delay(runtime.hot_exit(), info.failures);
            let heat = if info.failures >= MAX_FAILURES { u32::MAX } else { delay };
            cool_exit(&mut shared, *unit, *exit, heat);
        }
    }
}

/// The exit will be looked at after it was taken so many times more.
pub fn cool_exit(shared: &mut Locked, unit: u32, exit: u32, times: u32) {
    if let Some(record) = shared.units.get(unit).and_then(|unit| unit.records.get(exit as usize)) {
        record.heat.store(i32::try_from(times).unwrap_or(i32::MAX), Relaxed);
    }
}

/// Looks at it again much later: it would take more time to compile than the process may spend before it has run for
/// `until` nanoseconds.
pub fn postpone(runtime: &'static Runtime, origin: &Origin, until: u64) {
    const MUCH: u32 = 8 * LATER;
    match origin {
        Origin::Anchor(own) => {
            own.not_before.store(until, Relaxed);
            own.heat.store(i32::try_from(runtime.hot_loop()).unwrap_or(i32::MAX), Relaxed);
        }
        Origin::Exit { unit, exit } => {
            cool_exit(&mut runtime.lock(), *unit, *exit, runtime.hot_exit().saturating_mul(MUCH));
        }
    }
}
