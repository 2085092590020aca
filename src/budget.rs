//! What may be spent on recording and compiling.
//!
//! A trace costs milliseconds and gains a little every time that it runs. Programs of many paths would spend more on traces
//! than these gain. So every process has something for a start, then a small share of its time, and what traces have saved so
//! far, as [`judge`](crate::judge) finds out: what pays pays for more. What it took to compile traces that were too slow counts
//! twice: where traces do not help, fewer are made.
//!
//! Worked example: a process that has run for two seconds, and saved one, may have spent 30 ms, 2% of two seconds, and half a
//! second, for that is a quarter of its time. If it has spent 500 ms, a trace that will take 70 ms may be compiled, and no other.

use crate::memory::process_time;
use crate::options::{Check, Engine, Options};
use crate::recorder::Origin;
use crate::runtime::{Runtime, Shared};
use crate::stats::COUNTERS;
use std::sync::atomic::Ordering::Relaxed;

/// What every process may spend on recording and compiling, in nanoseconds.
const FREE_BUDGET: u64 = 30_000_000;
/// What may be spent beyond that on the side traces of loops that have a trace: what was begun is worth little unfinished.
const OVERDRAFT: u64 = 15_000_000;
/// It has all of that when it has run for so many times as long, and less before: what is soon over is not compiled.
const RAMP: u64 = 2;
/// The first trace takes so much longer, in nanoseconds: the code generator has not run yet.
const FIRST_TRACE: u64 = 2_000_000;

/// Of the process's time, what may be spent at most because it was saved.
const SAVED_SHARE: u64 = 4;

/// What a process has, and what it has made of it; times in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Account {
    /// The process's time.
    time: u64,
    /// Percent of its time that may be spent.
    share: u64,
    /// What traces have saved.
    saved: u64,
    /// What it took to compile traces that were too slow.
    wasted: u64,
    /// What was spent.
    spent: u64,
    /// What may be spent beyond what there is.
    overdraft: u64,
}

impl Account {
    /// What there is for a start.
    fn free(self) -> u64 {
        FREE_BUDGET.min(self.time / RAMP)
    }

    /// What may have been spent by now.
    fn budget(self) -> u64 {
        let earned = self.free() + self.time / 100 * self.share + self.saved.min(self.time / SAVED_SHARE);
        earned.saturating_sub(self.wasted) + self.overdraft
    }

    /// The process's time when something may be done that takes `cost`; `None` if it may be done now.
    fn affordable_after(self, cost: u64) -> Option<u64> {
        let after = self.spent.saturating_add(self.wasted).saturating_add(cost).saturating_sub(self.overdraft);
        let missing = self.spent.saturating_add(cost).saturating_sub(self.budget());
        if missing == 0 {
            return None;
        }
        let earned = self.time.saturating_add(missing.saturating_mul(100) / self.share.max(1));
        let free = if after <= FREE_BUDGET { after * RAMP } else { u64::MAX };
        Some(earned.min(free))
    }
}

impl Runtime {
    /// Whether a recording from `origin` may be made when the process has run for `now` nanoseconds.
    pub fn may_compile(&'static self, now: u64, origin: &Origin) -> bool {
        self.lock().account(now, origin).is_none_or(|account| account.spent <= account.budget())
    }
}

impl Shared {
    /// What there is for a recording from `origin` when the process has run for `now` nanoseconds; `None` if there is no limit.
    fn account(&self, now: u64, origin: &Origin) -> Option<Account> {
        let Options { compile_share, check, backend, .. } = self.options;
        let limited = compile_share != 0 && check == Check::Off && backend == Engine::Native;
        limited.then(|| Account {
            time: now,
            share: u64::from(compile_share),
            saved: self.saved,
            wasted: self.wasted,
            overdraft: if matches!(origin, Origin::Exit { .. }) { OVERDRAFT.min(now / RAMP) } else { 0 },
            spent: COUNTERS.recording_ns.load(Relaxed) + COUNTERS.compile_ns.load(Relaxed),
        })
    }

    /// The process's time, in nanoseconds, when what was recorded from `origin` may be compiled, which takes `cost`; `None` if it
    /// may be done now.
    pub fn affordable_after(&self, cost: u64, origin: &Origin) -> Option<u64> {
        let first = if COUNTERS.traces.load(Relaxed) == 0 { FIRST_TRACE } else { 0 };
        self.account(process_time(), origin)?.affordable_after(cost.saturating_add(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn account(time: u64) -> Account {
        Account { time, share: 2, saved: 0, wasted: 0, spent: 0, overdraft: 0 }
    }

    #[test]
    fn a_process_has_something_for_a_start_then_a_share_and_what_it_saved() {
        assert_eq!(account(10 * MS).budget(), 5 * MS + 2 * 100_000);
        let late = Account { saved: 1000 * MS, ..account(2000 * MS) };
        assert_eq!(late.budget(), 30 * MS + 40 * MS + 500 * MS);
        assert_eq!(Account { wasted: 40 * MS, ..account(2000 * MS) }.budget(), 30 * MS);
        assert_eq!(Account { wasted: 200 * MS, ..account(2000 * MS) }.budget(), 0);
    }

    #[test]
    fn what_is_too_dear_may_be_done_when_its_time_has_come() {
        // What is spent counts.
        assert_eq!(account(1000 * MS).affordable_after(50 * MS), None);
        let spent = Account { spent: 40 * MS, ..account(1000 * MS) };
        assert_eq!((spent.affordable_after(10 * MS), spent.affordable_after(12 * MS)), (None, Some(1100 * MS)));
        assert_eq!(Account { time: 1100 * MS, ..spent }.affordable_after(12 * MS), None);
        // Early, what is free comes sooner than the share.
        assert_eq!(account(10 * MS).affordable_after(10 * MS), Some(20 * MS));
        assert_eq!(account(20 * MS).affordable_after(10 * MS), None);
        assert!(account(1000 * MS).affordable_after(u64::MAX).is_some_and(|until| until > u64::MAX / 4));
        // What was begun may be finished.
        assert_eq!(Account { overdraft: 15 * MS, ..spent }.affordable_after(25 * MS), None);
    }
}
