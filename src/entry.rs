//! What happens at anchors, at exits, and when residual calls return: the functions that the stubs call.
//!
//! # Invariants
//! - Every function here ends by telling a stub where to go on, with the exact state of the guest in the context or in
//!   the machine. Whatever goes wrong, that is the guest's own code.
//! - No panic leaves this file: [`guarded`] turns one into going on in the guest, and counts it.
//!
//! # Worked example
//! The 200th pass of an anchor: [`on_anchor`] finds no trace, makes the loop known, begins a recording and runs it on the
//! thread's private stack. Before a residual call it answers with the piece that makes the call, and nothing of ours is
//! left on any stack; [`recorder_returned`] goes on. When the loop closes, it is compiled, linked to its anchor, and
//! entered.

use crate::ballot;
use crate::calls::{self, describe_call, make_call_plainly};
use crate::compile::{self, Compiled, End, Failure, complete_context};
use crate::context::Context;
use crate::exit_table::Link;
use crate::exits::ExitRecord;
use crate::fork_check::{Trial, try_out};
use crate::functions::Treatment;
use crate::heat::{LATER, come_back, heat_up, leave_alone, pause, penalise, postpone, retry};
use crate::judge::{self, Hot};
use crate::loops::Loop;
use crate::memory::{self, SignalsBlocked, read_word};
use crate::pieces::{self, Counts, VectorState};
use crate::recorder::{EndReason, GiveUp, Origin, Recorder, Stop};
use crate::records::{self, REGION, Record, WAITING};
use crate::regions;
use crate::runtime::{self, Runtime, Shared};
use crate::stats::{self, COUNTERS};
use crate::stubs;
use crate::thread::{self, Thread};
use redmagic_ir::ExitKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

/// Recordings that end elsewhere than in a trace are compiled only if they have so many instructions.
const MIN_RECORDING: usize = 60;
/// Trace entries of threads that have ended.
static ENTRIES: AtomicU64 = AtomicU64::new(0);

/// What a stub does next: jumps to `code` with `argument` in rdx.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Next {
    code: u64,
    argument: u64,
}

impl Next {
    /// Into a trace.
    pub fn enter(function: u64) -> Next {
        Next { code: stubs::enter_trace as *const () as u64, argument: function }
    }

    fn to(code: u64) -> Next {
        Next { code, argument: 0 }
    }

    /// Back behind the anchor call, as if it had not been made.
    fn back() -> Next {
        Next::to(stubs::leave_after_call as *const () as u64)
    }

    /// Where a stub goes that sets no argument, and to none that wants one.
    pub fn code(self) -> u64 {
        self.code
    }

    /// The same for a stub that sets no argument.
    fn without_argument(self, context: &mut Context) -> u64 {
        if self.code == stubs::enter_trace as *const () as u64 {
            context.entering = self.argument;
            return stubs::enter_pending as *const () as u64;
        }
        self.code
    }
}

/// Runs `body`; should it panic, `otherwise`.
fn guarded<T>(body: impl FnOnce() -> T, otherwise: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        if let Some(runtime) = runtime::get() {
            runtime.note(1, "internal error", "internal error: going on in the interpreter");
        }
        otherwise()
    })
}

/// Where the guest goes on with the state in the context.
pub fn leave_anywhere(runtime: &'static Runtime, context: &Context) -> Next {
    Next::to(runtime.lock().leave_piece(context.rip))
}

/// An anchor call with a counter below zero, or a pinned one. The context holds the guest's registers.
#[expect(unsafe_code, reason = "called by a stub with the thread's context")]
pub extern "C" fn on_anchor(context: *mut Context, id: u64) -> Next {
    // SAFETY: the stub passes the calling thread's context, and nothing else uses it now.
    let thread = unsafe { thread::of_context(context) };
    let Some(runtime) = runtime::get() else { return Next::back() };
    if regions::is_disabled() {
        runtime.rewind(id);
        return Next::back();
    }
    let known = runtime.loops.find(id, thread.context.rip);
    if let Some(own) = known
        && let function = own.function.load(Acquire)
        && function != 0
    {
        thread.entries.store(thread.entries.load(Relaxed) + 1, Relaxed);
        runtime.rewind(id);
        land(&mut thread.context, own);
        return Next::enter(function);
    }
    // Whatever a recording has executed by then, the context says where the guest is.
    // SAFETY: the stub's context; the first closure, which used it through `thread`, has ended.
    guarded(|| warm_anchor(runtime, thread, known, id), || leave_anywhere(runtime, unsafe { &*context }))
}

fn warm_anchor(runtime: &'static Runtime, thread: &mut Thread, known: Option<&'static Loop>, id: u64) -> Next {
    stats::add(&COUNTERS.anchors, 1);
    let passes = runtime.rewind(id);
    if id == 0 {
        return Next::back();
    }
    let own = match known {
        Some(own) => own,
        None => runtime.find_or_add(id, thread.context.rip, thread.context.address()),
    };
    if own.disabled.load(Relaxed) {
        leave_alone(runtime, own);
        return Next::back();
    }
    if !heat_up(&own.heat, passes) {
        return Next::back();
    }
    match judge::hot(runtime, own) {
        Hot::Record => {}
        Hot::Wait => return Next::back(),
        Hot::Enter(function) => {
            land(&mut thread.context, own);
            return Next::enter(function);
        }
    }
    let now = memory::process_time();
    let too_early = own.not_before.load(Relaxed) > now;
    if too_early || !runtime.may_compile(now, &Origin::Anchor(own), own.price.load(Relaxed)) {
        pause(runtime, own, now);
        return Next::back();
    }
    if thread.recorder.is_some() {
        if !is_stale(thread) {
            // A recording waits for a residual call that has led here. The loop stays hot.
            own.heat.store(1, Relaxed);
            return Next::back();
        }
        give_up(runtime, thread, GiveUp::Interrupted);
    }
    land(&mut thread.context, own);
    begin(runtime, thread, Origin::Anchor(own))
}

/// Brings the context from an anchor call's return to where the loop's traces begin.
fn land(context: &mut Context, own: &Loop) {
    context.rip = own.start();
    context.gpr[4] = context.gpr[4].wrapping_add(own.landing.stack);
}

/// Whether the suspended recording's residual call can no longer return.
#[expect(unsafe_code, reason = "looks at an activation record")]
fn is_stale(thread: &Thread) -> bool {
    // SAFETY: the record stays this thread's while the recording is suspended.
    let Some(record) = (unsafe { thread.suspended.as_ref() }) else { return true };
    match record.live.load(Relaxed) {
        WAITING => read_word(record.rsp.wrapping_sub(8)) != Some(records::return_point(record)),
        REGION => !regions::is_open(record, &thread.context),
        _ => true,
    }
}

/// Begins a recording at the state in the context.
fn begin(runtime: &'static Runtime, thread: &mut Thread, origin: Origin) -> Next {
    let untried = runtime.lock().take_untried(&origin);
    if let Some(mut compiled) = untried
        && let Some(trial) = compiled.trial.take()
    {
        return try_out(runtime, thread, compiled, &trial);
    }
    let recorder = {
        let _blocked = SignalsBlocked::new();
        let limits = runtime.limits(thread.context.rip);
        let places = std::mem::take(&mut thread.places);
        Box::new(Recorder::new(&thread.context, origin, &limits, places))
    };
    stats::add(&COUNTERS.recordings, 1);
    thread.recorder = Some(recorder);
    thread.suspended = ptr::null_mut();
    go_on_recording(runtime, thread)
}

/// Records until there is a reason to stop, and does what follows.
fn go_on_recording(runtime: &'static Runtime, thread: &mut Thread) -> Next {
    let Some(recorder) = &mut thread.recorder else { return leave_anywhere(runtime, &thread.context) };
    // Anchors that rest are not met.
    runtime.words.rest(0);
    let (begin, before) = (memory::thread_time(), recorder.log.len());
    let stop = recorder.run(&mut thread.context, runtime);
    stats::add(&COUNTERS.recording_ns, memory::thread_time().saturating_sub(begin));
    stats::add(&COUNTERS.recorded_instructions, (recorder.log.len() - before) as u64);
    let long = recorder.log.len() >= MIN_RECORDING;
    match stop {
        Stop::Call => suspend(runtime, thread),
        Stop::Close => finish(runtime, thread, End::Loop),
        Stop::Anchor(other) => finish(runtime, thread, End::Anchor(other.number)),
        Stop::End(_) if long => finish(runtime, thread, End::Exit),
        Stop::End(reason) => {
            give_up(runtime, thread, GiveUp::TooShort(reason));
            leave_anywhere(runtime, &thread.context)
        }
        Stop::GiveUp(reason) => {
            give_up(runtime, thread, reason);
            leave_anywhere(runtime, &thread.context)
        }
    }
}

/// Lets the guest make the residual call that the recorder has stopped before.
fn suspend(runtime: &'static Runtime, thread: &mut Thread) -> Next {
    let Some(call) = thread.recorder.as_ref().map(|recorder| recorder.call) else {
        return leave_anywhere(runtime, &thread.context);
    };
    if !records::has_two(thread.context.free_record) {
        thread.context.free_record = records::refill(thread.context.free_record, thread.context.address());
    }
    describe_call(&mut thread.context, call);
    let record = thread.context.free_record;
    if !records::has_two(record) {
        give_up(runtime, thread, GiveUp::NoMemory);
        return make_call_plainly(runtime, &mut thread.context);
    }
    if let Some(kind) = call.region {
        thread.suspended = regions::begin_recorded(thread, kind, recorder_returned as *const () as u64);
        thread.context.rip = call.return_address;
        return leave_anywhere(runtime, &thread.context);
    }
    thread.suspended = record;
    Next::to(runtime.lock().call_piece)
}

/// The function of the activation record of a recording: its residual call has returned.
#[expect(unsafe_code, reason = "called by a stub with the thread's context")]
pub extern "C" fn recorder_returned(context: *mut Context, record: *mut Record) -> *const ExitRecord {
    // SAFETY: the stub passes the calling thread's context and a record that it owns.
    let (thread, return_address) = unsafe { (thread::of_context(context), (*record).return_address) };
    thread.context.rip = return_address;
    let ours = thread.suspended == record;
    let code = match runtime::get() {
        Some(runtime) => {
            let next = guarded(
                || match &mut thread.recorder {
                    Some(recorder) if ours => {
                        thread.suspended = ptr::null_mut();
                        recorder.returned(&thread.context);
                        go_on_recording(runtime, thread)
                    }
                    // Another thread has begun the recording, or it was given up.
                    _ => leave_anywhere(runtime, &thread.context),
                },
                // SAFETY: the stub's context; the other closure, which used it through `thread`, has ended.
                || leave_anywhere(runtime, unsafe { &*context }),
            );
            next.without_argument(&mut thread.context)
        }
        None => std::process::abort(), // invariant: there was a recording, so there is a runtime
    };
    thread.transfer.next.store(code, Relaxed);
    &raw const thread.transfer
}

/// Ends a recording that is of no use.
fn give_up(runtime: &'static Runtime, thread: &mut Thread, reason: GiveUp) {
    let _blocked = SignalsBlocked::new();
    let Some(recorder) = thread.take_recorder() else { return };
    thread.suspended = ptr::null_mut();
    stats::add(&COUNTERS.recordings_failed, 1);
    let region = recorder.region().filter(|_| reason == GiveUp::Interrupted);
    let cause = if region.is_some() { "a region did not end where it should".to_owned() } else { reason.to_string() };
    let detail = format!("{}: {cause} after {} instructions", describe(&recorder.origin), recorder.log.len());
    runtime.note(2, &cause, &detail);
    match reason {
        // What was in the way is out of the way the next time.
        GiveUp::Unresolved => retry(runtime, &recorder.origin),
        GiveUp::Interrupted if let Some(pc) = region => {
            runtime.note_odd_region(pc);
            retry(runtime, &recorder.origin);
        }
        GiveUp::Detour => come_back(runtime, &recorder.origin),
        GiveUp::Over => penalise(runtime, &recorder.origin, false),
        GiveUp::TooLong | GiveUp::TooDeep | GiveUp::NativeLoop => match recorder.culprit() {
            Some(function) => {
                runtime.treat(function, Treatment::Residual);
                retry(runtime, &recorder.origin);
            }
            None => penalise(runtime, &recorder.origin, true),
        },
        GiveUp::TooShort(EndReason::Leave | EndReason::Never | EndReason::Outside | EndReason::Refused(_))
        | GiveUp::Interrupted
        | GiveUp::InnerLoop
        | GiveUp::NoMemory => penalise(runtime, &recorder.origin, true),
    }
}

pub fn describe(origin: &Origin) -> String {
    match origin {
        Origin::Anchor(own) => format!("loop {} at {:#x}", own.number, own.site),
        Origin::Exit { unit, exit } => format!("exit {exit} of trace {unit}"),
    }
}

/// Compiles a finished recording, installs the trace and goes on in it.
fn finish(runtime: &'static Runtime, thread: &mut Thread, end: End) -> Next {
    let _blocked = SignalsBlocked::new();
    let Some(recorder) = thread.take_recorder() else { return leave_anywhere(runtime, &thread.context) };
    if ballot::needs_another(runtime, &recorder, end) {
        return leave_anywhere(runtime, &thread.context);
    }
    let begin = memory::thread_time();
    let result = {
        // One lock from the unit's number, which is the next free one, until it is installed.
        let mut shared = runtime.lock();
        shared.give_back(thread.context.address());
        let vectors = match recorder.origin {
            Origin::Anchor(_) => VectorState::None,
            Origin::Exit { unit, exit } => shared
                .units
                .get(unit)
                .and_then(|unit| unit.exits.get(exit))
                .map_or(VectorState::All, |info| info.vectors),
        };
        let context = &thread.context;
        let compile = || compile::compile(&mut shared, runtime, &recorder, context, end, vectors);
        let mut compiled = catch_unwind(AssertUnwindSafe(compile)).unwrap_or(Err(Failure::Panicked));
        if let Ok(compiled) = &mut compiled {
            compiled.unit.cost = memory::thread_time().saturating_sub(begin);
        }
        compiled.map(|mut compiled| match compiled.trial.take() {
            None => Ready::Installed(install(runtime, &mut shared, compiled)),
            Some(trial) if end == End::Loop => Ready::Untried(Box::new((compiled, trial))),
            // The state is no longer the one at the trace's start: the next time that the guest is there.
            trial @ Some(_) => {
                compiled.trial = trial;
                shared.untried.push(compiled);
                Ready::Later
            }
        })
    };
    stats::add(&COUNTERS.compile_ns, memory::thread_time().saturating_sub(begin));
    match result {
        Ok(Ready::Later) => {
            retry(runtime, &recorder.origin);
            leave_anywhere(runtime, &thread.context)
        }
        Ok(Ready::Untried(untried)) => try_out(runtime, thread, untried.0, &untried.1),
        Ok(Ready::Installed(function)) => {
            let next = match end {
                End::Loop => function,
                End::Anchor(number) => runtime.loops.get(number).map_or(0, |other| other.function.load(Acquire)),
                End::Exit => 0,
            };
            if next != 0 { Next::enter(next) } else { leave_anywhere(runtime, &thread.context) }
        }
        Err(failure) => {
            stats::add(&COUNTERS.traces_refused, 1);
            let level = if matches!(failure, Failure::Check { .. } | Failure::Malformed(_)) { 1 } else { 2 };
            let detail = format!("{}: {}", describe(&recorder.origin), failure.detail());
            runtime.note(level, &failure.to_string(), &detail);
            match failure {
                Failure::NotYet { price, .. } | Failure::TooManyInstructions { price, .. } => {
                    postpone(runtime, &recorder.origin, price);
                }
                failure => {
                    if let (Failure::NoGain { .. }, Some(own)) = (&failure, recorder.origin.anchor()) {
                        judge::discourage(&mut runtime.lock(), own);
                    }
                    penalise(runtime, &recorder.origin, !matches!(failure, Failure::TakenBack));
                }
            }
            leave_anywhere(runtime, &thread.context)
        }
    }
}

/// What became of a compiled trace.
enum Ready {
    /// It is in use, and this is its function; 0 if it is not.
    Installed(u64),
    /// It is tried out now.
    Untried(Box<(Compiled, Trial)>),
    /// It is tried out later.
    Later,
}

/// Makes a unit reachable from where its recording began. Returns its function, 0 if its parent has gone meanwhile.
pub fn install(runtime: &'static Runtime, shared: &mut Shared, mut compiled: Compiled) -> u64 {
    shared.log(2, &compiled.summary);
    stats::add(&COUNTERS.traces, 1);
    stats::add(&COUNTERS.exit_bytes, compiled.unit.exit_bytes());
    let (function, origin) = (compiled.unit.function, compiled.unit.origin);
    // Others may have been installed since it was compiled.
    let number = shared.units.next();
    compiled.unit.records.iter_mut().for_each(|record| record.unit = number);
    shared.units.add(compiled.unit);
    match origin {
        Origin::Anchor(own) => {
            if own.disabled.load(Relaxed) || own.gone.load(Relaxed) {
                runtime.drop_units(shared, |unit| unit.function == function);
                return 0;
            }
            own.failures.store(0, Relaxed);
            runtime.lead(own, function);
            shared.ballots.close(own);
            judge::installed(runtime, shared, own);
        }
        Origin::Exit { unit, exit } => {
            stats::add(&COUNTERS.side_traces, 1);
            if !link(shared, unit, exit, number) {
                runtime.drop_units(shared, |unit| unit.function == function);
                return 0;
            }
        }
    }
    function
}

/// Lets an exit of a unit in use lead to unit `target`. Returns whether it does.
fn link(shared: &mut Shared, unit: u32, exit: u32, target: u32) -> bool {
    let Some(function) = shared.units.get(target).map(|target| target.function) else { return false };
    let Some(unit) = shared.units.get_mut(unit).filter(|unit| !unit.dropped) else { return false };
    let Some((info, record)) = unit.exits.get(exit).zip(unit.records.get(exit as usize)) else { return false };
    let Some(used) = unit.exits.used_mut(exit) else { return false };
    let Some(code) = shared.arena.add(&pieces::link(&info.code, function), 16) else { return false };
    record.next.store(code.address, Release);
    let old = used.link.replace(Link { unit: target, code });
    shared.reclaim.code(old.map(|old| old.code));
    true
}

/// An exit whose record leads to the library.
#[expect(unsafe_code, reason = "called by a stub with the thread's context and an exit record")]
pub extern "C" fn on_exit(context: *mut Context, record: *const ExitRecord) -> u64 {
    // SAFETY: the stub passes the calling thread's context and a record of a unit, which is not freed while a
    // thread is in it.
    let (thread, record) = unsafe { (thread::of_context(context), &*record) };
    let Some(runtime) = runtime::get() else { std::process::abort() }; // invariant: units belong to a runtime
    stats::add(&COUNTERS.exits, 1);
    // An exit with its own piece needs nothing from the context.
    if let Leave::By(piece) = guarded(|| decide_exit(runtime, record), || Leave::Library) {
        return piece;
    }
    let taken = complete_exit(runtime, thread, record);
    // From here on the context says where the guest is.
    // SAFETY: the stub's context; the first closure, which used it through `thread`, has ended.
    let next =
        guarded(|| begin_at_exit(runtime, thread, record, taken), || leave_anywhere(runtime, unsafe { &*context }));
    // SAFETY: as above.
    next.without_argument(unsafe { &mut *context })
}

/// What an exit does.
enum Leave {
    /// This piece knows.
    By(u64),
    /// The library does, with the complete state in the context: it may record.
    Library,
}

fn decide_exit(runtime: &'static Runtime, record: &ExitRecord) -> Leave {
    let mut locked = runtime.lock();
    let shared = &mut *locked;
    let Some((unit, index)) = shared.units.exit_of(record).filter(|(unit, _)| !unit.dropped) else {
        return Leave::Library;
    };
    let (function, wide) = (unit.function, unit.wide);
    let Some(info) = unit.exits.get(index) else { return Leave::Library };
    if info.is_call {
        let Some(used) = unit.exits.used_mut(index) else { return Leave::Library };
        let code = match info.region {
            Some((kind, pc)) => pieces::region(&info.code, function, record.unit, info.vectors, kind, pc),
            None => pieces::call(&info.code, function, record.unit, info.vectors, wide),
        };
        if used.piece.is_none() {
            used.piece = shared.arena.add(&code, 16);
        }
        let Some(piece) = used.piece else { return Leave::Library };
        record.next.store(piece.address, Release);
        return Leave::By(piece.address);
    }
    let target = match info.kind {
        ExitKind::Anchor(number) => runtime.loops.get(number),
        ExitKind::Meter => return Leave::Library,
        ExitKind::Guest => None,
    };
    if let Some(target) = target
        && let Some(number) = shared.units.of_function(target.function.load(Acquire))
        && link(shared, record.unit, index, number)
    {
        return Leave::By(record.next.load(Relaxed));
    }
    leave_by_piece(runtime, shared, record, target)
}

/// Leaves to the guest by a piece of the exit's own, which counts; once it has counted enough, the library looks at it. Where
/// the guest goes on is in front of the anchor of `target`, if that is a loop.
fn leave_by_piece(runtime: &Runtime, shared: &mut Shared, record: &ExitRecord, target: Option<&Loop>) -> Leave {
    let Some((unit, index)) = shared.units.exit_of(record) else { return Leave::Library };
    match unit.exits.used(index).piece {
        None => {
            let Some(info) = unit.exits.get(index) else { return Leave::Library };
            let Some(used) = unit.exits.used_mut(index) else { return Leave::Library };
            let counts = Counts { heat: true, anchor: target.map(|target| runtime.counter_address(target.id)) };
            let code = pieces::leave(&info.code, info.pc, info.vectors, counts);
            used.piece = shared.arena.add(&code, 16);
            let Some(piece) = used.piece else { return Leave::Library };
            record.cool(runtime.hot_exit());
            record.next.store(piece.address, Release);
            Leave::By(piece.address)
        }
        Some(piece) if record.heat.load(Relaxed) >= 0 => {
            record.cool(u32::MAX);
            Leave::By(piece.address)
        }
        Some(_) => Leave::Library,
    }
}

/// What is known of an exit whose state is complete.
struct Taken {
    /// Its trace is out of use.
    dropped: bool,
    /// It is the state of a residual call.
    is_call: bool,
    /// The loop whose meter has run out.
    timed: Option<&'static Loop>,
    /// What it takes to compile a recording from here, if that is known.
    price: u64,
    /// What a recording from here is a recording of.
    origin: Origin,
}

/// Completes the state of an exit in the context.
fn complete_exit(runtime: &'static Runtime, thread: &mut Thread, record: &ExitRecord) -> Taken {
    let mut shared = runtime.lock();
    let Some((unit, index)) = shared.units.exit_of(record) else { std::process::abort() }; // invariant: exit records are of units
    let Some(info) = unit.exits.get(index) else { std::process::abort() }; // invariant: as above
    complete_context(&mut thread.context, &info.code);
    thread.context.rip = info.pc;
    let timed = unit.origin.anchor().filter(|_| info.kind == ExitKind::Meter);
    let price = unit.exits.used(index).price;
    let origin = origin_of_exit(runtime, info.kind, record.unit, index);
    Taken { dropped: unit.dropped, is_call: info.is_call, timed, price, origin }
}

/// Records a side trace from an exit whose state is in the context, if nothing speaks against it.
fn begin_at_exit(runtime: &'static Runtime, thread: &mut Thread, record: &ExitRecord, taken: Taken) -> Next {
    let Taken { dropped, is_call, timed, price, origin } = taken;
    if is_call {
        // No memory for its piece: the call is made without us.
        return calls::make_plainly(runtime, &mut thread.context, record);
    }
    if let Some(own) = timed {
        let goes_on = judge::ran_out(runtime, own);
        let function = own.function.load(Acquire);
        return if goes_on && function != 0 { Next::enter(function) } else { leave_anywhere(runtime, &thread.context) };
    }
    let now = memory::process_time();
    // A loop has terms of its own, wherever its recording begins.
    let own_terms = |own: &Loop| (own.not_before.load(Relaxed), own.price.load(Relaxed));
    let (not_before, price) = origin.anchor().map_or((0, price), own_terms);
    if not_before > now || !runtime.may_compile(now, &origin, price) {
        record.cool(runtime.hot_exit().saturating_mul(LATER));
        return leave_anywhere(runtime, &thread.context);
    }
    if dropped || (thread.recorder.is_some() && !is_stale(thread)) {
        record.cool(1);
        return leave_anywhere(runtime, &thread.context);
    }
    let is_disabled = origin.anchor().is_some_and(|own| own.disabled.load(Relaxed));
    if is_disabled {
        record.cool(u32::MAX);
        return leave_anywhere(runtime, &thread.context);
    }
    if let Origin::Anchor(own) = origin {
        // What leads here often makes the loop hot; its anchors decide. What becomes of a recording is noted of the loop, so
        // the exit waits in any case.
        own.heat.store(0, Relaxed);
        record.cool(runtime.hot_exit());
        if !judge::may_record(runtime, own) {
            return leave_anywhere(runtime, &thread.context);
        }
    }
    if thread.recorder.is_some() {
        give_up(runtime, thread, GiveUp::Interrupted);
    }
    begin(runtime, thread, origin)
}

/// A recording from an exit to an anchor is one of that anchor.
fn origin_of_exit(runtime: &'static Runtime, kind: ExitKind, unit: u32, exit: u32) -> Origin {
    match kind {
        ExitKind::Anchor(number) => runtime.loops.get(number).map(Origin::Anchor),
        ExitKind::Guest | ExitKind::Meter => None,
    }
    .unwrap_or(Origin::Exit { unit, exit })
}

/// A callee has come back to an activation that does not wait for it: another stack height, or its trace was dropped.
#[expect(unsafe_code, reason = "called by a stub with the thread's context and an activation record")]
pub extern "C" fn on_stray_return(context: *mut Context, record: *mut Record) -> u64 {
    // SAFETY: the stub passes the calling thread's context and the record that the guest has returned to.
    let thread = unsafe {
        let thread = thread::of_context(context);
        thread.context.rip = (*record).return_address;
        if records::end(record) {
            (*record).next = thread.context.free_record;
            thread.context.free_record = record;
        }
        thread
    };
    let Some(runtime) = runtime::get() else { std::process::abort() }; // invariant: records belong to a runtime
    if thread.suspended == record {
        give_up(runtime, thread, GiveUp::Interrupted);
    }
    leave_anywhere(runtime, &thread.context).code
}

/// An anchor call on a thread that has no context yet, or that is busy. `rsp` is the stack pointer after the call has
/// returned. Returns 1 if the anchor is to be tried again, 0 if it is declined.
#[expect(unsafe_code, reason = "called by a stub")]
pub extern "C" fn on_odd_entry(rsp: u64) -> u32 {
    let context = thread::current_context();
    if !thread::is_busy() {
        return u32::from(context.is_null() && runtime::get().is_some() && guarded(thread::create, || false));
    }
    if context.is_null() {
        return 0;
    }
    // SAFETY: the calling thread's context, which a stub or a trace may be using: it is only looked at.
    let (thread, interrupted) = unsafe { (&*context.cast::<Thread>(), (*context).rsp()) };
    // A signal handler that has interrupted us runs on our stack, on its own, or below the guest's.
    if thread.owns(rsp) || on_signal_stack(rsp) || rsp < interrupted {
        return 0;
    }
    // A handler has jumped out of us into the guest: nothing of ours is in use any more.
    thread::set_busy(false);
    1
}

/// Whether an address lies on the calling thread's alternate signal stack.
#[expect(unsafe_code, reason = "a system call")]
fn on_signal_stack(rsp: u64) -> bool {
    let mut stack = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    // SAFETY: only asks.
    let known = unsafe { libc::sigaltstack(ptr::null(), &mut stack) } == 0;
    let start = stack.ss_sp as u64;
    known && stack.ss_flags & libc::SS_DISABLE == 0 && (start..start + stack.ss_size as u64).contains(&rsp)
}

/// A residual call has returned on a thread that has no context yet.
pub extern "C" fn on_foreign_thread() {
    while !guarded(thread::create, || false) {
        // Without a context the guest cannot go on. Memory may become free.
        std::thread::yield_now();
    }
}

/// Trace entries so far. Those of other threads that are still running are not known.
#[expect(unsafe_code, reason = "reads the calling thread's counter")]
pub fn entries() -> u64 {
    let context = thread::current_context();
    // SAFETY: the calling thread's own, and the counter is atomic.
    let own = if context.is_null() { 0 } else { unsafe { (*context.cast::<Thread>()).entries.load(Relaxed) } };
    ENTRIES.load(Relaxed) + own
}

/// Adds the entries of a thread that ends.
pub fn add_entries(entries: u64) {
    ENTRIES.fetch_add(entries, Relaxed);
}
