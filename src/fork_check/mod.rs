//! Tries a compiled trace out before it is used: a forked child runs an iteration of the machine code while this process
//! executes the same guest instructions one by one; then registers and written memory are compared.
//!
//! A replay (`check`) shows that the trace does what was *recorded*. A trial runs from the next state in which the trace
//! would be entered, where counters have moved on: it also finds what the optimiser took for constant and is not, and what
//! is wrong with the lowering.
//!
//! # How
//! - A [`Trial`] is the optimised trace with its back edges turned into exits and inner copies of loops made short
//!   ([`bounded`]), lowered as any other.
//! - The child runs it on its own copy of memory and stops at an exit, or in front of a residual call, which it must not
//!   make. The exit says how many guest instructions of an iteration that was.
//! - This process records (and so executes) as many instructions from the same state, for real: the guest has made
//!   progress, whatever the outcome. Both must be at the same place with the same state.
//! - Words of memory that the child has changed are found by comparing pages; what it should have written is in the
//!   recording.
//!
//! With `REDMAGIC_CHECK=3` more children leave the trace at each of its guards, and go on natively from there (see the modules
//! `sweep` and `follow`).
//!
//! A trace that passes is installed, one that does not is refused, and the guest goes on where it is. What cannot be
//! tried (several threads, shared memory) is used untried, which the statistics count.
//!
//! # What is not compared
//! What an exit calls undefined; flags beyond those that the recipe of the exit defines; frames that were pushed and popped
//! again; what lies behind the first residual call.
//!
//! # Worked example
//! A loop of 51 instructions closes and is compiled. In the child its single iteration returns the exit record of the
//! back edge: 51 instructions. The recorder executes 51 instructions and is back at the anchor. rbx is 0x48 in both, and
//! the 16 bytes that the recorder has seen written are the 2 words that the child has changed: the trace is entered.

mod bounded;
mod child;
mod follow;
mod native;
mod pages;
mod sweep;
#[cfg(test)]
mod tests;

use crate::calls::{describe_call, make_call_plainly};
use crate::check::{Difference, is_defined, keeps};
use crate::compile::{Compiled, Failure, Lowered, call_states, complete_context};
use crate::context::Context;
use crate::dump::Report;
use crate::entry::{Next, describe, install, leave_anywhere};
use crate::exits::{self, ExitRecord};
use crate::heat::penalise;
use crate::memory::SignalsBlocked;
use crate::recorder::log::{Entry, EntryKind};
use crate::recorder::{Origin, PendingCall, Recorder, Stop, disassembly};
use crate::runtime::Runtime;
use crate::stats::{self, COUNTERS};
use crate::thread::Thread;
use bounded::MAX_ITERATIONS;
use child::{Iteration, Trouble};
use native::Native;
use redmagic_backend::{ExitCode, FlagsRecipe};
use redmagic_ir::{AF, CF, Entity, Exit, ExitValue, FLAGS_MASK, OF, Opcode, Slot, Trace};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::atomic::Ordering::Relaxed;
use sweep::Sweep;

pub use bounded::{Bounded, bounded};
pub use sweep::let_guards_fail;

/// A few iterations of a trace, compiled.
pub struct Trial {
    trace: Trace,
    /// The exits from here on are back edges.
    own_exits: usize,
    /// By exit: how many whole iterations may be complete before the one that it belongs to.
    before: Vec<RangeInclusive<usize>>,
    recorded: Recorded,
    function: u64,
    code: Vec<u8>,
    records: Box<[ExitRecord]>,
    exits: Vec<ExitCode>,
    /// The exits that are states of residual calls.
    calls: BTreeSet<Exit>,
    /// How many of its guards can be made to fail.
    guards: usize,
}

/// What the recording of a trace was like.
pub struct Recorded {
    /// Its instructions: those of one iteration, if it is a loop.
    pub length: usize,
    /// The addresses of its residual calls.
    pub calls: BTreeSet<u64>,
}

impl Recorded {
    /// What is left of a recording.
    pub fn new(recorder: &Recorder) -> Recorded {
        let is_call = |entry: &&Entry| matches!(entry.kind, EntryKind::Call { .. });
        let calls = recorder.log.iter().filter(is_call).map(|entry| entry.slot.pc).collect();
        Recorded { length: recorder.log.len(), calls }
    }
}

/// How a trial ended that has not failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No difference.
    Passed,
    /// It cannot be made, for this reason.
    Skipped(&'static str),
}

/// How a trial ended. The context is where the guest goes on.
pub struct Conclusion {
    /// What was found.
    pub verdict: Result<Verdict, Difference>,
    /// Exits whose guards were made to fail, with the state of native execution.
    pub swept: u64,
    /// Exits behind which native execution came to the same end.
    pub followed: u64,
    /// The residual call that the guest has to make first.
    pub call: Option<PendingCall>,
    /// How the child has left the trace.
    pub exit: Option<Exit>,
    /// What was executed natively.
    pub recorder: Option<Recorder>,
}

/// The state that an exit of the trial stands for.
struct Expected<'a> {
    number: Exit,
    exit: &'a redmagic_ir::ExitData,
    code: &'a ExitCode,
    /// It is a back edge.
    closes: bool,
    /// It is the state of a residual call.
    is_call: bool,
    pc: u64,
    step: usize,
}

impl Trial {
    /// A trial of a trace, `guards` of whose guards can be made to fail.
    pub fn new(bounded: Bounded, recorded: Recorded, lowered: Lowered, guards: usize) -> Trial {
        let Lowered { function, code, records, exits, .. } = lowered;
        let Bounded { trace, own_exits, before } = bounded;
        let calls = call_states(&trace);
        Trial { trace, own_exits, before, recorded, function, code, records, exits, calls, guards }
    }

    /// Where it begins.
    pub fn start(&self) -> u64 {
        self.trace.start
    }

    /// Tries it out from the state in the thread's context, where the trace would be entered. Signals are blocked.
    pub fn run(&self, thread: &mut Thread, origin: Origin, runtime: &'static Runtime) -> Conclusion {
        let untouched = |verdict| Conclusion { verdict, swept: 0, followed: 0, call: None, exit: None, recorder: None };
        let children = Sweep::new(self, thread).and_then(|sweep| Ok((sweep, child::run(self.function, thread)?)));
        let (mut sweep, mut iteration) = match children {
            Ok(children) => children,
            Err(Trouble::Skipped(reason)) => return untouched(Ok(Verdict::Skipped(reason))),
            Err(Trouble::Died(signal)) => return untouched(Err(Difference::Died { signal })),
            Err(Trouble::Endless) => return untouched(Err(Difference::Endless)),
        };
        let Some(expected) = self.exit_at(iteration.exit) else {
            return untouched(Err(Difference::NoExit { address: iteration.exit }));
        };
        complete_context(&mut iteration.context, expected.code);
        let most = MAX_ITERATIONS * self.recorded.length + 1;
        let mut native = Native::new(&thread.context, origin, runtime, most);
        let first = self.before[expected.number.index()].start() * self.recorded.length + expected.step;
        let swept = sweep.step(&mut native, first, &mut thread.context, runtime);
        let (verdict, call) = self.step(&expected, &iteration, &mut native, &mut thread.context, runtime);
        let compared = *swept.as_ref().unwrap_or(&0);
        let verdict = verdict.and_then(|verdict| swept.map(|_| verdict));
        let end = match &verdict {
            Ok(Verdict::Passed) => sweep.follow(&native, &thread.context),
            Ok(Verdict::Skipped(_)) | Err(_) => Ok(0),
        };
        let followed = *end.as_ref().unwrap_or(&0);
        let verdict = verdict.and_then(|verdict| end.map(|_| verdict));
        let recorder = Some(native.recorder);
        Conclusion { verdict, swept: compared, followed, call, exit: Some(expected.number), recorder }
    }

    /// The exit whose record is at `address`.
    fn exit_at(&self, address: u64) -> Option<Expected<'_>> {
        let index = exits::index_of(&self.records, address)? as usize;
        let code = self.exits.get(index)?;
        let number = Exit::from_index(index);
        let exit = &self.trace.exits[number];
        let closes = index >= self.own_exits;
        let (pc, step) = if closes { (self.trace.start, self.recorded.length) } else { (exit.pc, exit.step as usize) };
        let is_call = self.calls.contains(&number);
        Some(Expected { number, exit, code, closes, is_call, pc, step })
    }

    /// Executes natively what the child has executed compiled, and compares.
    fn step(
        &self,
        expected: &Expected,
        iteration: &Iteration,
        native: &mut Native,
        context: &mut Context,
        runtime: &'static Runtime,
    ) -> (Result<Verdict, Difference>, Option<PendingCall>) {
        let mut result = Ok(Verdict::Passed);
        for before in self.before[expected.number.index()].clone() {
            let target = before * self.recorded.length + expected.step;
            let (call, difference) = match native.step_to(target, expected.is_call, context, runtime) {
                Ok(()) => match compare(expected, iteration, native, context) {
                    Ok(()) => return (Ok(Verdict::Passed), expected.is_call.then_some(native.recorder.call)),
                    Err(difference) => (expected.is_call.then_some(native.recorder.call), difference),
                },
                // The recording has followed the call; since then it was decided otherwise.
                Err(Stop::Call) if !self.recorded.calls.contains(&context.rip) => {
                    return (Ok(Verdict::Skipped("a call is no longer followed")), Some(native.recorder.call));
                }
                Err(Stop::Call) => {
                    (Some(native.recorder.call), Difference::Call { expected: native.recorder.call.target })
                }
                Err(_) => (None, Difference::Left { pc: expected.pc, step: expected.step as u32 }),
            };
            // That it is elsewhere says the least.
            if result.is_ok() || !matches!(difference, Difference::Left { .. }) {
                result = Err(difference);
            }
            if call.is_some() {
                return (result, call);
            }
        }
        (result, None)
    }

    /// Adds what is known of a trial that has failed.
    pub fn describe(&self, report: &mut Report, conclusion: &Conclusion) {
        report.section("exit", || conclusion.exit.map_or_else(String::new, |exit| exit.to_string()));
        report
            .section("difference", || conclusion.verdict.as_ref().err().map_or_else(String::new, ToString::to_string));
        report.section("one iteration", || self.trace.to_string());
        report.section("machine code", || disassembly::code(&self.code, self.function));
        if let Some(recorder) = &conclusion.recorder {
            report.section("executed", || disassembly::recording(&recorder.log));
        }
    }
}

/// Tries a compiled trace out from the state in the context, which is one at its start, and installs it if nothing speaks
/// against it.
pub fn try_out(runtime: &'static Runtime, thread: &mut Thread, compiled: Compiled, trial: &Trial) -> Next {
    let _blocked = SignalsBlocked::new();
    let origin = compiled.unit.origin;
    let conclusion = trial.run(thread, origin, runtime);
    let function = match &conclusion.verdict {
        Ok(verdict) => {
            match verdict {
                Verdict::Passed => {
                    stats::add(&COUNTERS.checks_passed, 1 + conclusion.swept);
                    let length = conclusion.recorder.as_ref().map_or(0, |recorder| recorder.log.len());
                    let (swept, followed) = (conclusion.swept, conclusion.followed);
                    let place = describe(&origin);
                    let line = format!(
                        "{place}: {length} instructions and {swept} exits of {} tried out, {followed} of them to the end",
                        trial.guards
                    );
                    runtime.lock().log(3, &line);
                }
                Verdict::Skipped(reason) => {
                    let cause = format!("check skipped: {reason}");
                    runtime.note(2, &cause, &format!("{}: {cause}", describe(&origin)));
                }
            }
            install(runtime, &mut runtime.lock(), compiled)
        }
        Err(difference) => {
            stats::add(&COUNTERS.check_failures, 1);
            stats::add(&COUNTERS.traces_refused, 1);
            let failure = Failure::Check { stage: "lowering", difference: difference.to_string() };
            runtime.note(1, &failure.to_string(), &format!("{}: {}", describe(&origin), failure.detail()));
            let number = COUNTERS.recordings.load(Relaxed);
            let mut report = Report::new(runtime.lock().options.dump.as_ref(), "check", number);
            trial.describe(&mut report, &conclusion);
            report.write();
            runtime.lock().discard(compiled.unit.blocks());
            penalise(runtime, &origin, true);
            0
        }
    };
    match conclusion.call {
        Some(call) => {
            describe_call(&mut thread.context, call);
            make_call_plainly(runtime, &mut thread.context)
        }
        None if function != 0 && thread.context.rip == trial.start() => Next::enter(function),
        None => leave_anywhere(runtime, &thread.context),
    }
}

/// Compares what the child has made of the state with what `recorder` has.
fn compare(expected: &Expected, iteration: &Iteration, native: &Native, context: &Context) -> Result<(), Difference> {
    if expected.pc != context.rip {
        return Err(Difference::Left { pc: expected.pc, step: expected.step as u32 });
    }
    let call = native.recorder.call;
    // Where a region ends is not known before it has ended.
    let ended = call.region.is_some() || iteration.call.return_address == call.return_address;
    if expected.is_call && (iteration.call.target != call.target || !ended) {
        return Err(Difference::Call { expected: call.target });
    }
    compare_state(expected, iteration, native, context)
}

/// Compares registers and memory.
fn compare_state(
    expected: &Expected,
    iteration: &Iteration,
    native: &Native,
    context: &Context,
) -> Result<(), Difference> {
    for slot in Slot::all() {
        let listed = expected.exit.get(slot);
        // Where the loop closes, a slot that is not listed is one that the next iteration overwrites first, or one that
        // nothing has changed. Elsewhere, an anchor call in between may have ended its value's life.
        let dead = || expected.closes || !native.recorder.log.iter().all(|entry| keeps(entry, slot));
        if listed == Some(ExitValue::Undefined) || (listed.is_none() && dead()) || !is_defined(&native.recorder, slot) {
            continue;
        }
        let mask = if slot == Slot::FLAGS { u64::from(defined_flags(expected.code.flags)) } else { u64::MAX };
        let (wanted, found) = (context.slot(slot) & mask, iteration.context.slot(slot) & mask);
        if wanted != found {
            return Err(Difference::Register { slot, expected: wanted, found });
        }
    }
    native.compare_memory(iteration, context)
}

/// The flags that the manual defines for an operation, and that do not depend on its operands.
fn defined_flags(recipe: FlagsRecipe) -> u32 {
    let FlagsRecipe::Recipe { op, .. } = recipe else { return 0 };
    if matches!(op, Opcode::FlAdd | Opcode::FlSub | Opcode::FlAdc | Opcode::FlSbb | Opcode::FlF64) {
        FLAGS_MASK
    } else if op == Opcode::FlLogic {
        FLAGS_MASK & !AF
    } else if matches!(op, Opcode::FlInc | Opcode::FlDec) {
        FLAGS_MASK & !CF
    } else if op == Opcode::FlMul {
        CF | OF
    } else {
        0
    }
}
