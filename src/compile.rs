//! From a finished recording to a unit: lift, optimise, check, lower, place.
//!
//! # Invariants
//! - A failure changes nothing and is counted by its text.
//! - The optimiser sees no memory: constants come from the recording, and only from ranges listed in `regions`.
//!
//! # Worked example
//! The recording of a loop with 51 instructions, among them a load from declared bytecode, becomes a trace of 71 operations,
//! is optimised to 17, passes its replay, and is placed with 4 exit records; the summary is one line of the log.

use crate::check;
use crate::context::{Context, backend_layout};
use crate::dump::Report;
use crate::exit_table::{ExitInfo, Exits};
use crate::exits::{EXIT_STRIDE, ExitRecord, NO_UNIT};
use crate::fork_check::{Recorded, Trial, bounded, let_guards_fail};
use crate::interpret;
use crate::judge;
use crate::memory::CodeBlock;
use crate::options::{Check, Engine, Options};
use crate::pieces::{self, VectorState};
use crate::recorder::log::{Entry, EntryKind};
use crate::recorder::{Origin, Recorder, disassembly, slots};
use crate::regions::Kind;
use crate::runtime::{Runtime, Shared};
use crate::stats::{self, COUNTERS};
use crate::stubs;
use crate::thread::{errno_distance, is_alone};
use crate::unit::{Unit, exit_vectors, is_wide};
use redmagic_backend::{BackendError, ExitCode, FlagsRecipe, Request};
use redmagic_ir::{Exit, ExitValue, NativeOp, Region, RegionKind, Slot, Terminator, Trace, Type};
use redmagic_lift::{Code, Recording, Refusal};
use redmagic_passes::Stats;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// What lowering an operation takes, roughly, with its part of the exits.
const LOWERING_NS: u64 = 5_000;

/// A program is looked for so far around what points to it.
const AROUND: u64 = 64 << 10;
/// A side trace looks for it in so many places at most.
const MAX_PROGRAMS: usize = 4;
/// What is so far above the stack pointer, or less, may be on the stack.
const STACK: u64 = 1 << 20;

/// What a residual call takes, in instructions.
const CALL_WEIGHT: usize = 40;
/// What an exit to the guest and the way back into a trace take, in instructions.
const DETOUR_WEIGHT: usize = 150;

/// Why a recording did not become a unit.
#[derive(Debug)]
pub enum Failure {
    /// The lifter refused it.
    Refused(Refusal),
    /// A trace is malformed: a bug, found before it could do harm.
    Malformed(String),
    /// The backend refused it.
    Backend(BackendError),
    /// It is too large after optimisation.
    TooManyOperations(usize),
    /// It would take more than its share of the time that may be spent by now.
    NotYet {
        /// Operations.
        operations: usize,
        /// What it takes to do it all again, in nanoseconds.
        price: u64,
    },
    /// The recording alone is so long that it would take more than its share.
    TooManyInstructions {
        /// Instructions.
        instructions: usize,
        /// As above.
        price: u64,
    },
    /// The trace would hardly be faster than the recorded code.
    NoGain {
        /// Recorded instructions.
        instructions: usize,
        /// What the trace's operations and calls weigh, in instructions.
        weight: usize,
    },
    /// Its loop, or what it has read, was taken back by the host meanwhile.
    TakenBack,
    /// There are as many traces as the options allow.
    TooManyTraces,
    /// The code arena is full.
    NoMemory,
    /// The trace does not do what was recorded: a bug, found by a check.
    Check {
        /// After which stage.
        stage: &'static str,
        /// How it showed.
        difference: String,
    },
    /// The compiler panicked: a bug, contained.
    Panicked,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(refusal) => write!(f, "cannot be lifted: {refusal}"),
            Failure::Malformed(error) => write!(f, "malformed trace: {error}"),
            Failure::Backend(error) => write!(f, "cannot be lowered: {error}"),
            Failure::TooManyOperations(_) => f.write_str("too many operations"),
            Failure::NotYet { .. } => f.write_str("too many operations for now"),
            Failure::TooManyInstructions { .. } => f.write_str("too many instructions for now"),
            Failure::NoGain { .. } => f.write_str("hardly faster than the guest's code"),
            Failure::TakenBack => f.write_str("taken back while it was recorded"),
            Failure::TooManyTraces => f.write_str("as many traces as allowed"),
            Failure::NoMemory => f.write_str("no memory for code"),
            Failure::Check { stage, .. } => write!(f, "check failed after {stage}"),
            Failure::Panicked => f.write_str("the compiler panicked"),
        }
    }
}

impl Failure {
    /// More words for the log.
    pub fn detail(&self) -> String {
        match self {
            Failure::TooManyOperations(count)
            | Failure::NotYet { operations: count, .. }
            | Failure::TooManyInstructions { instructions: count, .. } => {
                format!("{self}: {count}")
            }
            Failure::NoGain { instructions, weight } => format!("{self}: {weight} for {instructions} instructions"),
            Failure::Check { difference, .. } => format!("{self}: {difference}"),
            _ => self.to_string(),
        }
    }
}

/// Where a recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At its own anchor.
    Loop,
    /// At the anchor of the loop with this number.
    Anchor(u32),
    /// In front of something that a trace cannot contain.
    Exit,
}

/// A unit, and a line about it.
pub struct Compiled {
    /// The unit.
    pub unit: Unit,
    /// For the log.
    pub summary: String,
    /// What has to pass before the unit is used.
    pub trial: Option<Trial>,
}

/// The guest's code, as the lifter reads it.
struct GuestCode<'a>(&'a Shared);

impl Code for GuestCode<'_> {
    fn read(&self, pc: u64) -> Option<[u8; 16]> {
        self.0.modules.code(pc)
    }
}

/// Compiles what `recorder` has recorded, which ended with the state in `context`. `vectors` is what the entry finds in
/// the context only. Signals are blocked.
pub fn compile(
    shared: &mut Shared,
    runtime: &Runtime,
    recorder: &Recorder,
    context: &Context,
    end: End,
    vectors: VectorState,
) -> Result<Compiled, Failure> {
    let mut report = Report::new(shared.options.dump.as_ref(), "trace", COUNTERS.recordings.load(Relaxed));
    report.section("recorded", || disassembly::recording(&recorder.log));
    report.section("memory", || std::fs::read_to_string("/proc/self/maps").unwrap_or_default());
    let name = match recorder.origin {
        Origin::Anchor(own) => format!("trace {}: loop {} at {:#x}", shared.units.next(), own.number, own.site),
        Origin::Exit { unit, exit } => {
            format!("trace {}: side trace of exit {exit} of trace {unit}", shared.units.next())
        }
    };
    let result = if holds(shared, recorder) {
        let recording = recording(shared, runtime, recorder, context, end, name);
        let judged = judge::is_judging(runtime, shared);
        stages(shared, recorder, &recording, context, vectors, judged, &mut report)
    } else {
        Err(Failure::TakenBack)
    };
    if let Err(failure) = &result {
        report.section("failure", || failure.detail());
    }
    report.write();
    result
}

/// Whether what was declared when it was recorded still is.
fn holds(shared: &Shared, recorder: &Recorder) -> bool {
    let is_gone = recorder.origin.anchor().is_some_and(|own| own.gone.load(Relaxed));
    let reads = recorder.log.iter().map(|entry| entry.address);
    !is_gone && shared.declared.holds(recorder.taken_back, reads)
}

/// The stages of compilation, from the lifter's input on. Where traces are `judged`, those that promise nothing are refused.
fn stages(
    shared: &mut Shared,
    recorder: &Recorder,
    recording: &Recording,
    context: &Context,
    vectors: VectorState,
    judged: bool,
    report: &mut Report,
) -> Result<Compiled, Failure> {
    let instructions = recorder.log.len();
    // The optimiser leaves an operation for two instructions, or more.
    if let Some(price) = shared.too_dear(instructions as u64 / 2 * LOWERING_NS, &recorder.origin) {
        return Err(Failure::TooManyInstructions { instructions, price });
    }
    let begin = Instant::now();
    let lifted = redmagic_lift::lift(recording, &GuestCode(shared)).map_err(Failure::Refused)?;
    let lifting = begin.elapsed();
    stats::add(&COUNTERS.native_operations, u64::from(lifted.natives));
    let mut trace = lifted.trace;
    trace.errno = Some(errno_distance());
    report.section("lifted", || trace.to_string());
    let checking = shared.options.check != Check::Off;
    if cfg!(debug_assertions) || checking {
        verify(&trace)?;
    }
    if checking {
        replay(shared, &trace, recorder, context, "lifting")?;
    }
    let begin = Instant::now();
    let number = shared.units.next();
    if number >= shared.options.max_traces {
        return Err(Failure::TooManyTraces);
    }
    let passes = optimise(&mut trace, &shared.options, number);
    trace.drop_unused_exits();
    let optimising = begin.elapsed();
    report.section("passes", || passes_report(number, &passes));
    report.section("optimised", || trace.to_string());
    // What runs is always verified: a bug up to here is refused instead of executed.
    verify(&trace)?;
    if checking {
        replay(shared, &trace, recorder, context, "optimisation")?;
    }
    if trace.len() > shared.options.max_operations as usize {
        return Err(Failure::TooManyOperations(trace.len()));
    }
    if let Some(price) = shared.too_dear(trace.len() as u64 * LOWERING_NS, &recorder.origin) {
        return Err(Failure::NotYet { operations: trace.len(), price });
    }
    if judged && passes.loops_copied == 0 {
        gains(&trace, recorder)?;
    }
    stats::add(&COUNTERS.operations_before, u64::from(passes.ops_before));
    stats::add(&COUNTERS.operations_after, u64::from(passes.ops_after));
    let begin = Instant::now();
    let lowered = lower(shared, &trace, number)?;
    let lowering = begin.elapsed();
    report.section("CLIF", || lowered.clif.clone().unwrap_or_default());
    report.section("machine code", || disassembly::code(&lowered.code, lowered.function));
    report.section("exits", || exit_list(&trace, &lowered));
    let (wide, length) = (is_wide(&trace, vectors), lowered.code.len());
    let mut unit = unit(recorder, &trace, lowered, wide, &exit_vectors(&trace, vectors));
    let summary = format!(
        "{}: {} instructions ({} native), {} operations, {} optimised, {} exits with {} values, {} bytes and {} for exits; \
         lifted in {} µs, optimised in {} µs, lowered in {} µs",
        recording.name,
        recorder.log.len(),
        lifted.natives,
        passes.ops_before,
        passes.ops_after,
        trace.exits.len(),
        written_values(&trace),
        length,
        unit.exit_bytes(),
        lifting.as_micros(),
        optimising.as_micros(),
        lowering.as_micros(),
    );
    report.section("summary", || summary.clone());
    match trial(shared, &trace, recorder, &mut unit.code) {
        Ok(trial) => Ok(Compiled { unit, summary, trial }),
        Err(failure) => {
            shared.discard(unit.code);
            Err(failure)
        }
    }
}

/// Refuses a trace that cannot be much faster than what was recorded: most of it is code that a compiler has optimised
/// already, and calls that leave it.
fn gains(trace: &Trace, recorder: &Recorder) -> Result<(), Failure> {
    let is_call = |entry: &&Entry| matches!(entry.kind, EntryKind::Call { .. });
    let calls = recorder.log.iter().filter(is_call).count();
    let (instructions, weight) = (recorder.log.len(), trace.len() + calls * CALL_WEIGHT);
    // Where a side trace ends, the guest's code would have to find its way back.
    let detour = if matches!(recorder.origin, Origin::Exit { .. }) { DETOUR_WEIGHT } else { 0 };
    if weight > instructions + detour { Err(Failure::NoGain { instructions, weight }) } else { Ok(()) }
}

/// Runs the passes on trace `number`.
fn optimise(trace: &mut Trace, options: &Options, number: u32) -> Stats {
    match options.suspect.as_ref().filter(|suspect| suspect.trace == number) {
        Some(suspect) => {
            let passes = suspect.passes.as_ref().unwrap_or(&options.passes).clone().under(options.passes.model());
            redmagic_passes::optimise_limited(trace, &passes, suspect.rewrites)
        }
        None => redmagic_passes::optimise(trace, &options.passes),
    }
}

/// What the passes did to trace `number`; `redmagic bisect` reads it.
fn passes_report(number: u32, stats: &Stats) -> String {
    let last = stats.last_rewrite().map_or_else(String::new, |last| format!("\n{last}"));
    format!("trace {number}: {stats}{last}")
}

/// Values that the exits of a trace write in code: to slots and to memory. Constants are in their records.
fn written_values(trace: &Trace) -> usize {
    let computed = |value: &ExitValue| matches!(value, ExitValue::Value(_) | ExitValue::Recipe(_));
    let exits = trace.exits.values();
    exits.map(|exit| exit.slots.iter().filter(|(_, value)| computed(value)).count() + exit.stores.len()).sum()
}

/// What the pieces of the exits will do.
fn exit_list(trace: &Trace, lowered: &Lowered) -> String {
    let exits = trace.exits.iter().zip(&lowered.exits);
    exits.map(|((exit, data), code)| format!("{exit} @{:#x}: {code:?}\n", data.pc)).collect()
}

/// The lifter's input.
fn recording(
    shared: &Shared,
    runtime: &Runtime,
    recorder: &Recorder,
    context: &Context,
    end: End,
    name: String,
) -> Recording {
    let end = match end {
        End::Loop => redmagic_lift::End::Loop,
        End::Anchor(id) => redmagic_lift::End::Anchor { pc: context.rip, id },
        End::Exit => redmagic_lift::End::Exit { pc: context.rip },
    };
    Recording {
        name,
        start: recorder.start,
        events: recorder.log.iter().map(Entry::event).collect(),
        end,
        regions: regions(shared, runtime, recorder, context.slot(Slot::RSP)),
        meter: recorder.origin.anchor().map(judge::meter_address),
    }
}

/// The immutable ranges that the recording has read, and where it may have read the guest's program.
fn regions(shared: &Shared, runtime: &Runtime, recorder: &Recorder, stack: u64) -> Vec<Region> {
    let reads = || {
        let inst = |entry: &&Entry| matches!(entry.kind, EntryKind::Inst) && entry.address != 0;
        recorder.log.iter().filter(inst).map(|entry| entry.address)
    };
    let declared: BTreeSet<(u64, u64)> = reads().filter_map(|address| shared.declared.range(address)).collect();
    let read_only: Vec<(u64, u64)> = shared
        .traced_modules(recorder.start)
        .iter()
        .filter_map(|module| shared.modules.get(*module))
        .flat_map(|module| module.read_only.iter().map(|range| (range.start, range.end)))
        .collect();
    let used = |range: &(u64, u64)| reads().any(|address| (range.0..range.1).contains(&address));
    let region = |kind| move |(start, end)| Region { start, end, kind };
    // What the macro tests. While the library is off there are no traces, and while anchors rest none is entered.
    let code = programs(shared, recorder, stack).into_iter().map(|at| (at - AROUND, at + AROUND)).filter(used);
    declared
        .into_iter()
        .map(region(RegionKind::Declared))
        .chain(read_only.iter().copied().chain(runtime.words.tested()).filter(used).map(region(RegionKind::ReadOnly)))
        .chain(code.map(region(RegionKind::Code)))
        .collect()
}

/// Where the guest's program may be at the start of a recording, if that is not declared: where the loop's id points to. For a
/// side trace, near to that: what its first instruction reads (it is the one that compared, or fetched), and where the
/// exit's constants point to. Who has declared the loop's program has declared all of it.
fn programs(shared: &Shared, recorder: &Recorder, stack: u64) -> BTreeSet<u64> {
    let mut origin = recorder.origin;
    let id = loop {
        match origin {
            Origin::Anchor(own) => break own.id,
            Origin::Exit { unit, .. } => match shared.units.get(unit) {
                Some(unit) => origin = unit.origin,
                None => return BTreeSet::new(),
            },
        }
    };
    let all = match recorder.origin {
        _ if shared.declared.range(id).is_some() => return BTreeSet::new(),
        Origin::Anchor(_) => vec![id],
        Origin::Exit { unit, exit } => {
            let exit = shared.units.get(unit).and_then(|unit| unit.exits.get(exit));
            let constants = exit.into_iter().flat_map(|exit| exit.code.constants);
            let constants = constants.filter(|(slot, _)| *slot != Slot::FLAGS).map(|(_, at)| at);
            let first = recorder.log.first().map(|entry| entry.address);
            first.into_iter().chain(constants).filter(|at| at.abs_diff(id) <= AROUND).collect()
        }
    };
    // What is on a thread's stack is not a constant of a trace.
    let is_stack = |at: u64| (stack.saturating_sub(AROUND)..stack.saturating_add(STACK)).contains(&at);
    let is_possible = |at: &u64| {
        let fits = at.checked_sub(AROUND).is_some_and(|start| start > 0) && at.checked_add(AROUND).is_some();
        fits && !is_stack(*at) && shared.declared.range(*at).is_none()
    };
    all.into_iter().filter(is_possible).take(MAX_PROGRAMS).collect()
}

fn verify(trace: &Trace) -> Result<(), Failure> {
    redmagic_ir::verify(trace)
        .map_err(|errors| Failure::Malformed(errors.first().map_or_else(String::new, ToString::to_string)))
}

fn replay(
    shared: &mut Shared,
    trace: &Trace,
    recorder: &Recorder,
    context: &Context,
    stage: &'static str,
) -> Result<(), Failure> {
    let Some(log) = &recorder.check else { return Ok(()) };
    let result = check::replay(trace, recorder, log, context);
    let is_atomic = |entry: &Entry| redmagic_lift::is_atomic(&entry.slot.instruction);
    let skipped = match &result {
        Ok(why) => *why,
        // What others have done between the note of a memory cell and an atomic instruction is the instruction's to see.
        Err(_) if recorder.log.iter().any(is_atomic) && !is_alone() => Some("atomic instructions among threads"),
        Err(_) => None,
    };
    if let Some(why) = skipped {
        let reason = format!("check skipped: {why}");
        shared.note(2, &reason, &format!("{}: {reason}", trace.name));
        return Ok(());
    }
    match result {
        Ok(_) => {
            stats::add(&COUNTERS.checks_passed, 1);
            Ok(())
        }
        Err(difference) => {
            stats::add(&COUNTERS.check_failures, 1);
            Err(Failure::Check { stage, difference: difference.to_string() })
        }
    }
}

/// A few iterations of a trace that was recorded by `recorder`, to be tried out, if options ask for that and
/// it is possible. Adds the memory of their code to `blocks`.
fn trial(
    shared: &mut Shared,
    trace: &Trace,
    recorder: &Recorder,
    blocks: &mut Vec<CodeBlock>,
) -> Result<Option<Trial>, Failure> {
    let check = shared.options.check;
    if !matches!(check, Check::Fork | Check::Sweep) || shared.options.backend != Engine::Native {
        return Ok(None);
    }
    let Some(mut bounded) = bounded(trace) else {
        shared.note(2, "check skipped: a loop without another end", &trace.name);
        return Ok(None);
    };
    let guards = if check == Check::Sweep { let_guards_fail(&mut bounded.trace) } else { 0 };
    verify(&bounded.trace)?;
    let lowered = lower(shared, &bounded.trace, NO_UNIT)?;
    blocks.extend(&lowered.blocks);
    Ok(Some(Trial::new(bounded, Recorded::new(recorder), lowered, guards)))
}

/// A trace in executable memory.
pub struct Lowered {
    /// The address of its function.
    pub function: u64,
    /// The bytes of the function.
    pub code: Vec<u8>,
    /// The records of its exits, to which the code refers.
    pub records: Box<[ExitRecord]>,
    /// What the exits leave to do.
    pub exits: Vec<ExitCode>,
    /// Its memory.
    pub blocks: Vec<CodeBlock>,
    clif: Option<String>,
}

/// Makes the function of unit `number`.
pub fn lower(shared: &mut Shared, trace: &Trace, number: u32) -> Result<Lowered, Failure> {
    let mut blocks = Vec::new();
    let lowered = lower_into(shared, trace, number, &mut blocks);
    match lowered {
        Ok(lowered) => Ok(Lowered { blocks, ..lowered }),
        Err(failure) => {
            shared.discard(blocks);
            Err(failure)
        }
    }
}

/// The same; adds the memory of all code that it makes to `blocks`.
fn lower_into(
    shared: &mut Shared,
    trace: &Trace,
    number: u32,
    blocks: &mut Vec<CodeBlock>,
) -> Result<Lowered, Failure> {
    let to_library = stubs::exit_to_library as *const () as u64;
    let records: Box<[ExitRecord]> = trace.exits.values().map(|_| ExitRecord::new(number, to_library)).collect();
    let mut natives = Vec::new();
    for native in trace.natives.values() {
        let stub = native_stub(shared, native)?;
        blocks.push(stub);
        natives.push(stub.address);
    }
    if shared.options.backend == Engine::Eval {
        let code = interpret::entry(number);
        let block = shared.arena.add(&code, 16).ok_or(Failure::NoMemory)?;
        blocks.push(block);
        interpret::remember(number, trace, natives, &records);
        // The evaluator writes everything to the context itself.
        let exits = trace.exits.values().map(|_| pieces::unchanged()).collect();
        return Ok(Lowered { function: block.address, code, records, exits, blocks: Vec::new(), clif: None });
    }
    let layout = backend_layout();
    let request = Request {
        trace,
        layout: &layout,
        exit_records: records.as_ptr() as u64,
        exit_stride: EXIT_STRIDE,
        natives: &natives,
    };
    let compiled = shared.backend()?.compile(&request).map_err(Failure::Backend)?;
    let block = shared.arena.add(&compiled.code, compiled.alignment as usize).ok_or(Failure::NoMemory)?;
    blocks.push(block);
    let (function, code) = (block.address, compiled.code);
    Ok(Lowered { function, code, records, exits: compiled.exits, blocks: Vec::new(), clif: compiled.clif })
}

/// The stub of a native operation.
fn native_stub(shared: &mut Shared, native: &NativeOp) -> Result<CodeBlock, Failure> {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(&native.bytes) {
        *to = *from;
    }
    let instruction = slots::decode(native.pc, &bytes);
    let (code, scratch) =
        slots::verbatim(&instruction, &native.bytes).ok_or(Failure::Refused(Refusal::Changed { pc: native.pc }))?;
    let stub = pieces::native(&code, scratch, slots::vector_state(&instruction));
    shared.arena.add(&stub, 16).ok_or(Failure::NoMemory)
}

/// The exits that are the states of residual calls.
pub fn call_states(trace: &Trace) -> BTreeSet<Exit> {
    let state = |terminator: &Terminator| match terminator {
        Terminator::Call(call) => Some(call.state),
        Terminator::Jump(_) | Terminator::Switch { .. } | Terminator::Leave(_) => None,
    };
    trace.segments.values().filter_map(|segment| state(&segment.terminator)).collect()
}

/// The region that an entry begins: what kind, and where it begins.
fn region(entry: &Entry) -> Option<(Kind, u64)> {
    let EntryKind::Call { region: Some((kind, _)), return_address, .. } = entry.kind else { return None };
    Some((kind, return_address))
}

fn unit(recorder: &Recorder, trace: &Trace, lowered: Lowered, wide: bool, vectors: &[VectorState]) -> Unit {
    let calls = call_states(trace);
    let exits = trace.exits.iter().zip(lowered.exits).zip(vectors).map(|(((exit, data), code), vectors)| ExitInfo {
        code,
        pc: data.pc,
        kind: data.kind,
        vectors: *vectors,
        is_call: calls.contains(&exit),
        region: recorder.log.get(data.step as usize).filter(|_| calls.contains(&exit)).and_then(region),
    });
    let exits = Exits::new(exits);
    let pcs = || recorder.log.iter().map(|entry| entry.slot.pc);
    let code = pcs().min().zip(pcs().max()).map(|(first, last)| (first, last + 1));
    let declared = trace.regions.iter().filter(|region| region.kind == RegionKind::Declared);
    Unit {
        function: lowered.function,
        origin: recorder.origin,
        records: lowered.records,
        exits,
        dependencies: declared.map(|region| (region.start, region.end)).chain(code).collect(),
        wide,
        dropped: false,
        code: lowered.blocks,
        cost: 0,
    }
}

/// Writes what the exit's piece would have computed to the context: constants and flags.
pub fn complete_context(context: &mut Context, exit: &ExitCode) {
    for &(slot, value) in &exit.constants {
        context.set_slot(slot, value);
    }
    if let FlagsRecipe::Recipe { op, ty } = exit.flags {
        let args = context.flag_args.map(u128::from);
        if let Some(flags) = redmagic_ir::scalar::eval_pure(op, Type::I32, ty, args, None) {
            context.set_slot(Slot::FLAGS, flags as u64);
        }
    }
}
