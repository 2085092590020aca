//! What may be spent on recording and compiling.
//!
//! A trace costs milliseconds and gains a little every time that it runs. Programs of many paths would spend more on traces
//! than these gain. So every process has something for a start, then a small share of its time, and what traces have saved so
//! far, as [`judge`](crate::judge) finds out: what pays pays for more. What it took to compile traces that were too slow counts
//! twice: where traces do not help, fewer are made. Nor does one trace take more than half of all that may be spent.
//!
//! What a trace takes is known when its recording is over. Where that is too much, the recording was in vain: the loop or exit
//! keeps its *price*, and is recorded again when that may be spent, which is more than the recording and the trace take.
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

/// What was done in vain, for it could not be finished, takes less than such a part of the rest.
const AGAIN: u64 = 4;
/// Of all that may be spent, one trace takes no more than such a part.
const LARGEST: u64 = 2;

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

    /// Whether something may be done that takes `cost`.
    fn affords(self, cost: u64) -> bool {
        let budget = self.budget();
        self.spent.saturating_add(cost) <= budget && cost <= budget / LARGEST
    }
}

impl Runtime {
    /// Whether a recording from `origin` may be made when the process has run for `now` nanoseconds, if it takes at least
    /// `price` to record and compile it.
    pub fn may_compile(&'static self, now: u64, origin: &Origin, price: u64) -> bool {
        self.lock().account(now, origin).is_none_or(|account| account.affords(price))
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

    /// What it takes to record and compile again what was recorded from `origin`, if too little is left to go on with it now,
    /// which takes `cost`. All in nanoseconds.
    pub fn too_dear(&self, cost: u64, origin: &Origin) -> Option<u64> {
        let first = if COUNTERS.traces.load(Relaxed) == 0 { FIRST_TRACE } else { 0 };
        let cost = cost.saturating_add(first);
        let account = self.account(process_time(), origin)?;
        (!account.affords(cost)).then(|| cost.saturating_add(cost / AGAIN))
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
    fn what_is_too_dear_waits_until_there_is_as_much() {
        // What is spent counts.
        let spent = Account { spent: 40 * MS, ..account(1000 * MS) };
        assert!(account(1000 * MS).affords(12 * MS) && spent.affords(10 * MS) && !spent.affords(12 * MS));
        assert!(Account { time: 1100 * MS, ..spent }.affords(12 * MS));
        // Early, there is less.
        assert!(!account(10 * MS).affords(5 * MS) && account(20 * MS).affords(5 * MS));
        assert!(!account(1000 * MS).affords(u64::MAX));
        // What was begun may be finished.
        assert!(Account { overdraft: 15 * MS, ..spent }.affords(25 * MS));
    }

    #[test]
    fn one_trace_does_not_take_it_all() {
        assert!(account(1000 * MS).affords(25 * MS) && !account(1000 * MS).affords(26 * MS));
    }
}
