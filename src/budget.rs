//! What may be spent on recording and compiling.
//!
//! A trace costs milliseconds and gains a little every time that it runs. Programs of many paths would spend more on traces
//! than these gain. So every process has something for a start, then a small share of its time, and what traces have saved so
//! far, as [`judge`](crate::judge) finds out. What it took to compile traces that were too slow counts twice: where traces do not
//! help, fewer are made.
//!
//! Worked example: a process that has run for two seconds, and saved one, may have spent 30 ms, 4% of two seconds, and half a
//! second, for that is a quarter of its time.

use crate::options::{Check, Engine, Options};
use crate::runtime::{Runtime, Shared};
use crate::stats::COUNTERS;
use std::sync::atomic::Ordering::Relaxed;

/// What every process may spend on recording and compiling, in nanoseconds.
const FREE_BUDGET: u64 = 30_000_000;
/// It has all of that when it has run for so many times as long, and less before: what is soon over is not compiled.
const RAMP: u64 = 2;
/// The first trace takes so much longer, in nanoseconds: the code generator has not run yet.
const FIRST_TRACE: u64 = 2_000_000;

/// What is free when the process has run for so many nanoseconds.
fn free_after(time: u64) -> u64 {
    FREE_BUDGET.min(time / RAMP)
}

impl Runtime {
    /// Whether recording and compiling may take more time now.
    ///
    /// A trace costs milliseconds and gains a little every time that it runs. Programs of many paths would spend more on
    /// traces than these gain: then the next ones wait until the process has run for longer.
    pub fn may_compile(&'static self) -> bool {
        let spent = COUNTERS.recording_ns.load(Relaxed) + COUNTERS.compile_ns.load(Relaxed);
        self.lock().budget().is_none_or(|budget| spent <= budget)
    }
}

impl Shared {
    /// The time that recording and compiling may have taken by now, in nanoseconds; `None` if there is no limit.
    pub fn budget(&self) -> Option<u64> {
        /// Of the process's time, what may be spent at most because it was saved.
        const SAVED_SHARE: u64 = 4;
        let Options { compile_share, check, backend, .. } = self.options;
        let limited = compile_share != 0 && check == Check::Off && backend == Engine::Native;
        limited.then(|| {
            let time = crate::memory::process_time();
            let earned = free_after(time) + time / 100 * u64::from(compile_share) + self.saved.min(time / SAVED_SHARE);
            earned.saturating_sub(self.wasted)
        })
    }

    /// The process's time, in nanoseconds, when something may be done that takes `cost`: it may take a quarter of what may be
    /// spent, or what is free, but not more than half of what will be. `None` if it may be done now.
    pub fn affordable_after(&self, cost: u64) -> Option<u64> {
        let budget = self.budget()?;
        let first = if COUNTERS.traces.load(Relaxed) == 0 { FIRST_TRACE } else { 0 };
        let (time, cost) = (crate::memory::process_time(), cost.saturating_add(first));
        let missing = cost.saturating_mul(4).saturating_sub(budget);
        if missing == 0 || cost <= free_after(time).min(FREE_BUDGET / 2) {
            return None;
        }
        let share = u64::from(self.options.compile_share).max(1);
        let earned = time.saturating_add(missing.saturating_mul(100) / share);
        let free = if cost <= FREE_BUDGET / 2 { cost * RAMP } else { u64::MAX };
        Some(earned.min(free))
    }
}
