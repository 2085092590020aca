//! Whether traces pay: a loop keeps its trace only if it runs faster with it than without.
//!
//! Tracing does not help every program: where paths are many, or most of the time goes into functions that a compiler has
//! optimised already, a trace can be slower than the interpreter. Nothing of that can be seen in the trace. So passes of
//! a loop's anchor are timed in *windows*, before it is recorded and while it has a trace.
//!
//! # States of a loop
//! ```text
//! cold ─► Interpreting ─► Measured ─► Trial: with, without, without, with, … ─► Kept ─► Trial again, much later
//!            ▲                          │
//!            └──────── dropped ◄────────┘
//! ```
//! A trial compares windows that follow each other, because what the loop does changes with time. Neither kind comes first more
//! often than the other: where every pass takes less than the one before, the later windows would win. For windows without, the
//! trace is set aside: its loop has no function, nothing leads there, and threads that are in it leave by the meter.
//!
//! # Invariants
//! - A verdict changes only where time goes: which code runs, never what it does.
//! - Traces count passes down in a *meter*, which no guest memory overlaps (see the opcode `tick`). Below zero they
//!   leave at the loop's start, where the state is that of an anchor.
//! - Time for recording and compiling is not a loop's. A trial in which something was recorded finds against no trace: side
//!   traces are still being made.
//!
//! # Worked example
//! 64 passes take 200 µs before the recording, so windows have 128 passes. With the trace four of five windows take 1680 µs
//! together, without it 1520 µs: the trace is dropped with its side traces, and the loop is recorded again much later.

use crate::heat::{LEAST_HEAT, let_pass};
use crate::loops::Loop;
use crate::memory::{process_time, thread_time};
use crate::options::{Check, Engine};
use crate::runtime::{Runtime, Shared};
use crate::stats::COUNTERS;
use crate::thread::current_context;
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// Passes in the first window, and the least in any.
const PASSES: i64 = 64;
/// The most passes in a window of a trial.
const MOST_PASSES: i64 = 1 << 16;
/// What a window of a trial takes, in nanoseconds, if that is possible. In shorter ones the way into a trace and out of it,
/// and what caches and branch predictors forget meanwhile, hides what the trace saves.
const WINDOW_NS: u64 = 400_000;
/// Windows have the wrong size if they are so many times too long or too short: then passes are not what they were.
const MISFIT: i64 = 4;
/// Windows of either kind in a trial. The longest of each does not count: something may have disturbed it.
const ROUNDS: u32 = 5;
/// From the first trial of a loop to the next, in windows.
const DISTANCE: i64 = 64;
/// Each further distance is so many times as long.
const GROWTH: i64 = 8;
/// Trials that are begun anew because side traces were made meanwhile, or windows had the wrong size.
const PATIENCE: u32 = 8;
/// What a meter stands at when nobody waits for it.
const NEVER: i64 = i64::MAX / 2;
/// Traces of a loop that were too slow, after which it is left alone.
const MOST_DISMISSALS: u32 = 4;
/// A loop whose trace was slow is looked at again when the process has run for so many times as long.
const MUCH_LATER: u64 = 4;

/// Loops with the same number modulo this share a meter: their windows become useless, and nothing else.
const METERS: usize = 1 << 14;

static METER_TABLE: [AtomicI64; METERS] = [const { AtomicI64::new(NEVER) }; METERS];

fn meter(own: &Loop) -> &'static AtomicI64 {
    &METER_TABLE[own.number as usize % METERS]
}

/// Where the meter of a loop is.
pub fn meter_address(own: &Loop) -> u64 {
    std::ptr::from_ref(meter(own)) as u64
}

/// Where all meters are: start and end.
pub fn meters() -> (u64, u64) {
    let range = METER_TABLE.as_ptr_range();
    (range.start as u64, range.end as u64)
}

/// A stretch of passes that is timed.
#[derive(Clone, Copy)]
struct Window {
    /// The thread's time at its start: what other processes do meanwhile is not the loop's.
    began: u64,
    /// What the process had spent on recording and compiling by then.
    overhead: u64,
    /// The thread.
    thread: u64,
}

impl Window {
    fn open() -> Window {
        Window { thread: current_context() as u64, overhead: overhead(), began: thread_time() }
    }

    /// Picoseconds per pass; `None` on another thread, whose time says nothing.
    fn close(self, passes: i64) -> Option<u64> {
        if self.thread != current_context() as u64 {
            return None;
        }
        let time = thread_time().saturating_sub(self.began);
        let own = time.saturating_sub(overhead() - self.overhead);
        Some(own.saturating_mul(1000) / passes.max(1) as u64)
    }
}

fn recordings() -> u64 {
    COUNTERS.recordings.load(Relaxed)
}

fn overhead() -> u64 {
    COUNTERS.recording_ns.load(Relaxed) + COUNTERS.compile_ns.load(Relaxed)
}

/// How many passes make a window, if one takes so many picoseconds.
fn passes_in_window(pass: u64) -> i64 {
    ((WINDOW_NS * 1000 / pass.max(1)) as i64).clamp(PASSES, MOST_PASSES)
}

/// Times of windows, in picoseconds per pass.
#[derive(Clone, Copy, Default)]
struct Times {
    all: u64,
    longest: u64,
}

impl Times {
    fn add(&mut self, time: u64) {
        self.all = self.all.saturating_add(time);
        self.longest = self.longest.max(time);
    }

    fn sum(self) -> u64 {
        self.all - self.longest
    }
}

/// Which window of a trial is open.
#[derive(Clone, Copy)]
enum Phase {
    /// One with the trace.
    With(Window),
    /// None yet: the trace, with this function, was just set aside.
    Aside(u64),
    /// One without the trace, with this function.
    Without(u64, Window),
}

/// A comparison of a loop's times with and without its trace.
#[derive(Clone, Copy)]
struct Trial {
    /// Passes in a window.
    passes: i64,
    /// The windows with the trace, and without it.
    traced: Times,
    interpreted: Times,
    /// Windows that were closed.
    windows: u32,
    phase: Phase,
    /// From this trial to the next, in passes.
    distance: i64,
    /// Recordings of the process when it began.
    recordings: u64,
    /// Trials before this one that were begun anew.
    early: u32,
}

impl Trial {
    fn new(passes: i64, distance: i64) -> Trial {
        Trial {
            passes,
            traced: Times::default(),
            interpreted: Times::default(),
            windows: 0,
            phase: Phase::With(Window::open()),
            distance,
            recordings: recordings(),
            early: 0,
        }
    }

    /// The same trial from its start.
    fn anew(&self, passes: i64) -> Trial {
        let windows = self.distance / self.passes;
        Trial { early: self.early + 1, ..Trial::new(passes, windows.saturating_mul(passes).min(NEVER)) }
    }

    /// The same trial with windows of another size, if the open one, whose passes have taken `time` picoseconds each, shows that
    /// it is wrong. Passes with the trace take less than those without: they say only when windows are too long.
    fn resized(&self, time: u64) -> Option<Trial> {
        let passes = passes_in_window(time);
        let (less, more) = if self.has_trace() { (passes, self.passes) } else { (self.passes, passes) };
        (less * MISFIT < more && self.early < PATIENCE).then(|| self.anew(passes))
    }

    /// Whether the open window is one with the trace.
    fn has_trace(&self) -> bool {
        matches!(self.windows % 4, 0 | 3)
    }

    /// Closes the open window, whose passes have taken `time` picoseconds each.
    fn add(&mut self, time: u64) {
        let times = if self.has_trace() { &mut self.traced } else { &mut self.interpreted };
        times.add(time);
        self.windows += 1;
    }

    /// Whether all windows are closed.
    fn is_over(&self) -> bool {
        self.windows == 2 * ROUNDS
    }

    /// What the trace will have saved until the next trial, in nanoseconds.
    fn saves(&self) -> u64 {
        let picoseconds = self.interpreted.sum().saturating_sub(self.traced.sum()) / u64::from(ROUNDS - 1);
        u64::try_from(u128::from(picoseconds) * self.distance.max(0) as u128 / 1000).unwrap_or(u64::MAX)
    }

    /// Whether the trace is faster, by more than chance.
    fn pays(&self) -> bool {
        self.traced.sum().saturating_mul(20) <= self.interpreted.sum().saturating_mul(19)
    }
}

/// What is known of a loop's times.
#[derive(Clone, Copy)]
enum State {
    /// A window in the interpreter is open, before the recording.
    Interpreting(Window),
    /// What a pass took in the interpreter, in picoseconds.
    Measured(u64),
    /// The trace is compared with the interpreter.
    Trial(Trial),
    /// The trace stays until the next trial, whose windows have so many passes; the distance to the one after.
    Kept(i64, i64),
}

/// The states of all loops that are not cold, by number.
#[derive(Default)]
pub struct Docket(HashMap<u32, State>);

impl Docket {
    /// Nothing is known of the loop any more.
    pub fn strike(&mut self, own: &Loop) {
        self.0.remove(&own.number);
    }
}

/// What to do at a hot anchor without a trace.
pub enum Hot {
    /// Record the loop.
    Record,
    /// Go on in the interpreter.
    Wait,
    /// Enter this function.
    Enter(u64),
}

/// Whether loops are timed at all.
pub fn is_judging(runtime: &Runtime, shared: &Shared) -> bool {
    let options = &shared.options;
    options.judge
        && options.check == Check::Off
        && options.backend == Engine::Native
        && runtime.hot_loop() >= LEAST_HEAT
}

/// Whether loops are timed, and none without a trace is now.
pub fn is_idle(runtime: &Runtime, shared: &Shared) -> bool {
    is_judging(runtime, shared) && !shared.docket.0.values().any(|state| matches!(state, State::Interpreting(_)))
}

/// Whether a loop may be recorded from an exit that leads to its anchor.
pub fn may_record(runtime: &'static Runtime, own: &Loop) -> bool {
    let shared = runtime.lock();
    !is_judging(runtime, &shared) || matches!(shared.docket.0.get(&own.number), Some(State::Measured(_)))
}

/// A hot anchor without a trace.
pub fn hot(runtime: &'static Runtime, own: &'static Loop) -> Hot {
    let mut locked = runtime.lock();
    let shared = &mut *locked;
    if !is_judging(runtime, shared) {
        return Hot::Record;
    }
    match shared.docket.0.get(&own.number).copied() {
        // Where every pass comes here, timing them would time us.
        None if runtime.is_pinned(own.id) => Hot::Record,
        None => {
            let_pass(runtime, own, PASSES as u32);
            shared.docket.0.insert(own.number, State::Interpreting(Window::open()));
            Hot::Wait
        }
        Some(State::Interpreting(window)) => {
            // Where threads share a loop, its windows have the least passes.
            shared.docket.0.insert(own.number, State::Measured(window.close(PASSES).unwrap_or(u64::MAX)));
            Hot::Record
        }
        Some(State::Measured(_) | State::Kept(..)) => Hot::Record,
        Some(State::Trial(trial)) => without(runtime, shared, own, trial),
    }
}

/// A hot anchor while the loop's trace is set aside: a window without it begins or ends.
fn without(runtime: &'static Runtime, shared: &mut Shared, own: &'static Loop, mut trial: Trial) -> Hot {
    let (function, window) = match trial.phase {
        Phase::With(_) => return Hot::Wait,
        Phase::Aside(function) => return begin_without(runtime, shared, own, function, trial),
        Phase::Without(function, window) => (function, window),
    };
    let early = trial.recordings != recordings() && trial.early < PATIENCE;
    match window.close(trial.passes) {
        None => keep_unjudged(shared, own),
        Some(time) if let Some(trial) = trial.resized(time) => with(shared, own, trial),
        Some(time) => {
            trial.add(time);
            if !trial.is_over() {
                if !trial.has_trace() {
                    return begin_without(runtime, shared, own, function, trial);
                }
                with(shared, own, trial);
            } else if !trial.pays() && early {
                with(shared, own, trial.anew(trial.passes));
            } else if !keep_or_dismiss(runtime, shared, own, &trial) {
                return Hot::Wait;
            }
        }
    }
    runtime.lead(own, function);
    Hot::Enter(function)
}

/// Begins a window without the trace, which has this function.
fn begin_without(
    runtime: &'static Runtime,
    shared: &mut Shared,
    own: &'static Loop,
    function: u64,
    mut trial: Trial,
) -> Hot {
    let_pass(runtime, own, trial.passes as u32);
    trial.phase = Phase::Without(function, Window::open());
    shared.docket.0.insert(own.number, State::Trial(trial));
    Hot::Wait
}

/// Threads share the loop, so that no window is of one thread: its trace stays.
fn keep_unjudged(shared: &mut Shared, own: &Loop) {
    shared.docket.0.remove(&own.number);
    meter(own).store(NEVER, Relaxed);
}

/// The verdict on a trace, after its trial. Returns whether it stays.
fn keep_or_dismiss(runtime: &'static Runtime, shared: &mut Shared, own: &'static Loop, trial: &Trial) -> bool {
    let (with, without) = (trial.traced.sum(), trial.interpreted.sum());
    let text = format!("loop {} at {:#x}: {with} ps with its trace, {without} ps without", own.number, own.site);
    if !trial.pays() {
        shared.note(2, "slower than the interpreter", &text);
        dismiss(runtime, shared, own);
        return false;
    }
    shared.log(3, &text);
    shared.saved = shared.saved.saturating_add(trial.saves());
    meter(own).store(trial.distance, Relaxed);
    let distance = trial.distance.saturating_mul(GROWTH).min(NEVER);
    shared.docket.0.insert(own.number, State::Kept(trial.passes, distance));
    true
}

/// Begins a window with the trace.
fn with(shared: &mut Shared, own: &Loop, mut trial: Trial) {
    trial.phase = Phase::With(Window::open());
    shared.docket.0.insert(own.number, State::Trial(trial));
    meter(own).store(trial.passes, Relaxed);
}

/// Drops the trace of a loop. It may be recorded again, much later.
fn dismiss(runtime: &'static Runtime, shared: &mut Shared, own: &'static Loop) {
    shared.wasted = shared.wasted.saturating_add(runtime.drop_loop(shared, own));
    discourage(shared, own);
}

/// A loop's trace was too slow, or would be. It is recorded again much later, and not often.
pub fn discourage(shared: &mut Shared, own: &Loop) {
    shared.rests.allow();
    if own.dismissals.fetch_add(1, Relaxed) + 1 >= MOST_DISMISSALS {
        own.disabled.store(true, Relaxed);
    }
    own.not_before.store(process_time().saturating_mul(MUCH_LATER), Relaxed);
}

/// The loop has a trace from now on.
pub fn installed(runtime: &Runtime, shared: &mut Shared, own: &'static Loop) {
    match shared.docket.0.remove(&own.number) {
        Some(State::Measured(interpreted)) if is_judging(runtime, shared) => {
            let passes = passes_in_window(interpreted);
            // The first window is not timed: what is new is slow, and this time is the compiler's.
            shared.docket.0.insert(own.number, State::Kept(passes, passes * DISTANCE));
            meter(own).store(passes, Relaxed);
        }
        _ => meter(own).store(NEVER, Relaxed),
    }
}

/// A meter has run out in a trace. Returns whether the loop goes on in its trace.
pub fn ran_out(runtime: &'static Runtime, own: &'static Loop) -> bool {
    let mut locked = runtime.lock();
    let shared = &mut *locked;
    match shared.docket.0.get(&own.number).copied() {
        Some(State::Kept(passes, distance)) => with(shared, own, Trial::new(passes, distance)),
        Some(State::Trial(mut trial)) if let Phase::With(window) = trial.phase => {
            // The second copy of a loop looks at the meter seldom, and leaves it far below zero.
            let passed = trial.passes.saturating_sub(meter(own).load(Relaxed));
            let Some(time) = window.close(passed) else {
                keep_unjudged(shared, own);
                return own.function.load(Relaxed) != 0;
            };
            if let Some(resized) = trial.resized(time) {
                with(shared, own, resized);
                return own.function.load(Relaxed) != 0;
            }
            trial.add(time);
            if !trial.has_trace() {
                trial.phase = Phase::Aside(runtime.set_aside(shared, own));
                own.heat.store(0, Relaxed);
                meter(own).store(0, Relaxed);
                shared.docket.0.insert(own.number, State::Trial(trial));
                return false;
            }
            with(shared, own, trial);
        }
        _ => meter(own).store(if own.function.load(Relaxed) == 0 { 0 } else { NEVER }, Relaxed),
    }
    own.function.load(Relaxed) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(traced: &[u64], interpreted: &[u64]) -> Trial {
        let mut trial = Trial::new(PASSES, 1_000_000);
        traced.iter().for_each(|time| trial.traced.add(*time));
        interpreted.iter().for_each(|time| trial.interpreted.add(*time));
        trial
    }

    #[test]
    fn the_longest_window_does_not_count() {
        assert!(trial(&[50, 50, 9000, 50, 50], &[100; 5]).pays());
        assert!(!trial(&[50, 50, 9000, 9000, 50], &[100; 5]).pays());
    }

    #[test]
    fn windows_are_as_long_as_they_have_to_be() {
        let without = |passes| Trial { windows: 1, ..Trial::new(passes, passes * DISTANCE) };
        let size =
            |trial: Trial, time| trial.resized(time).map(|resized| (resized.passes, resized.distance / resized.passes));
        // Passes of 100 ns, 4,000 of which make a window.
        assert_eq!(size(without(64), 100_000), Some((4000, DISTANCE)));
        assert_eq!(size(without(1000), 100_000), None);
        assert_eq!(size(without(MOST_PASSES), 100_000), None);
        assert_eq!(size(without(64), 0), Some((MOST_PASSES, DISTANCE)));
        // With the trace, a pass would take longer without.
        let with = |passes| Trial { windows: 0, ..without(passes) };
        assert_eq!(size(with(64), 100_000), None);
        assert_eq!(size(with(MOST_PASSES), 100_000), Some((4000, DISTANCE)));
        // Passes that change all the time get a verdict, too.
        assert_eq!(size(Trial { early: PATIENCE, ..without(64) }, 100_000), None);
    }

    #[test]
    fn a_trend_decides_nothing() {
        for (name, time) in [("falls", (|at| 200 - 7 * at) as fn(u64) -> u64), ("rises", |at| 100 + 7 * at)] {
            let mut trial = Trial::new(PASSES, 1_000_000);
            while !trial.is_over() {
                trial.add(time(u64::from(trial.windows)));
            }
            assert_eq!(trial.traced.sum(), trial.interpreted.sum(), "{name}");
        }
    }

    #[test]
    fn a_trace_has_to_be_faster_by_more_than_chance() {
        assert!(!trial(&[100; 5], &[100; 5]).pays());
        assert!(!trial(&[96; 5], &[100; 5]).pays());
        assert!(trial(&[94; 5], &[100; 5]).pays());
    }

    #[test]
    fn what_is_saved_may_be_spent() {
        // A million passes that take 60 ps less each.
        assert_eq!(trial(&[40; 5], &[100; 5]).saves(), 60_000);
        assert_eq!(trial(&[100; 5], &[40; 5]).saves(), 0);
        assert_eq!(trial(&[0; 5], &[u64::MAX / 8; 5]).saves(), u64::MAX);
    }
}
