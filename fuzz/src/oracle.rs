//! Three sources of truth, compared: the hardware, the evaluator on the lifted trace, and its compiled code.
//!
//! A block is recorded from one state, lifted and compiled once, and then run from many states. In each of them
//! - the trace is left at some guest address; the hardware must have the same registers, flags and memory when it
//!   arrives there (it runs the recorded block up to that address);
//! - when the evaluator faults, so must the hardware;
//! - compiled code must take the same exit as the evaluator and leave the same state.
//!
//! Left out are undefined flags, by the table in [`crate::undefined`], and slots whose value an exit declares undefined;
//! each omission is counted in [`Tally`].
//!
//! Worked example: `shl al, 9` recorded with AL = 1 and run with AL = 0xff: AL, ZF, SF and PF are compared, and CF, OF
//! and AF are counted as masked.

mod rest;

use crate::compiled::{Ending, Program, ProgramError, slot_of};
use crate::evaluated::ArenaGuest;
use crate::native::{ARENA_BYTES, Executor, LoadError, Outcome, State};
use crate::record::{Snapshot, record, step};
use crate::shapes::DATA;
use crate::undefined::{flag_names, maybe_undefined, undefined_flags, undefined_result};
use iced_x86::{Instruction, Mnemonic, OpKind};
use redmagic_backend::Backend;
use redmagic_ir::eval::{self, EvalError, Fault, Machine};
use redmagic_ir::{Class, Exit, ExitValue, FLAGS_MASK, Opcode, Slot, Trace};
use redmagic_lift::{Code, End, Event, Refusal};
use rest::Place;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What was compared, and what was left out.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Traces made.
    pub traces: u64,
    /// How many of them are loops.
    pub loops: u64,
    /// States compared with the hardware.
    pub compared: u64,
    /// States compared between evaluator and compiled code.
    pub compiled: u64,
    /// States compared between hardware and compiled code alone.
    pub pairs: u64,
    /// Native operations in the traces.
    pub natives: u64,
    /// States where the trace was left before an instruction that the hardware could execute, by that instruction.
    pub early: BTreeMap<String, u64>,
    /// States where hardware and trace both faulted.
    pub faults: u64,
    /// States where an SSE operand was misaligned: the machine faults, the trace need not.
    pub misaligned: u64,
    /// Flags masked because the architecture leaves them undefined.
    pub masked_flags: u64,
    /// Slots masked because the exit declares them undefined.
    pub undefined_slots: u64,
    /// Exits behind which the rest of the block ended natively as it does without the trace.
    pub continued: u64,
    /// States left out because an instruction's result is undefined.
    pub undefined_results: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} traces ({} loops) with {} native operations", self.traces, self.loops, self.natives)?;
        writeln!(
            f,
            "{} states of the evaluator compared with hardware, {} with compiled code; {} of hardware with compiled code",
            self.compared, self.compiled, self.pairs
        )?;
        writeln!(
            f,
            "{} faults on both sides, {} misaligned operands; early exits: {:?}",
            self.faults, self.misaligned, self.early
        )?;
        write!(
            f,
            "{} exits compared again at the end of the block; masked: {} undefined flags, {} undefined slots, {} undefined results",
            self.continued, self.masked_flags, self.undefined_slots, self.undefined_results
        )
    }
}

/// Why a block cannot be compared, or how the sources differ.
#[derive(Debug)]
pub enum Failure {
    /// It has no encoding.
    Load(LoadError),
    /// The lifter refused it.
    Refused(Refusal),
    /// It has no code.
    Compile(ProgramError),
    /// The sources differ.
    Mismatch(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Load(error) => error.fmt(f),
            Failure::Refused(reason) => write!(f, "refused: {reason}"),
            Failure::Compile(error) => error.fmt(f),
            Failure::Mismatch(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Failure {}

/// The guest's code as far as the lifter may look: the block's own bytes.
struct BlockCode {
    start: u64,
    bytes: Vec<u8>,
}

impl Code for BlockCode {
    fn read(&self, pc: u64) -> Option<[u8; 16]> {
        let rest = self.bytes.get(usize::try_from(pc.checked_sub(self.start)?).ok()?..)?;
        let mut window = [0; 16];
        let length = rest.len().min(16);
        window[..length].copy_from_slice(&rest[..length]);
        (length > 0).then_some(window)
    }
}

/// A block that was recorded, lifted and compiled.
pub struct Case {
    /// The recorded instructions.
    pub block: Vec<Instruction>,
    /// The whole block, also what was not executed in the recording.
    whole: Vec<Instruction>,
    /// What they were lifted to.
    pub trace: Trace,
    program: Program,
    /// The bytes of `block`.
    code: Vec<u8>,
    /// Where the executor's arena is.
    arena: u64,
}

impl Case {
    /// Records `insts` from `start`, lifts them, and changes the trace by `transform`. `None` if the first instruction faults there.
    pub fn new(
        executor: &mut Executor,
        backend: &mut Backend,
        insts: &[Instruction],
        start: &Snapshot,
        transform: &dyn Fn(&mut Trace),
        tally: &mut Tally,
    ) -> Result<Option<Case>, Failure> {
        let Some(recording) = record(executor, insts, start).map_err(Failure::Load)? else { return Ok(None) };
        let bytes = executor.encode(insts).map_err(Failure::Load)?;
        let code = BlockCode { start: executor.block_address(), bytes };
        let listing = || insts.iter().map(|inst| format!("{inst} {:?}", inst.code())).collect::<Vec<_>>().join("; ");
        let lifted = catch_unwind(AssertUnwindSafe(|| redmagic_lift::lift(&recording, &code)))
            .map_err(|_| Failure::Mismatch(format!("the lifter panics: {}", listing())))?;
        let mut trace = lifted.map_err(Failure::Refused)?.trace;
        let text = trace.to_string();
        catch_unwind(AssertUnwindSafe(|| transform(&mut trace)))
            .map_err(|_| Failure::Mismatch(format!("a pass panics: {}\n{text}", listing())))?;
        if let Err(errors) = redmagic_ir::verify(&trace) {
            let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
            return Err(Failure::Mismatch(format!("the verifier complains: {}\n{trace}", errors.join("; "))));
        }
        let program = Program::new(executor, backend, &trace).map_err(Failure::Compile)?;
        tally.traces += 1;
        tally.loops += u64::from(recording.end == End::Loop);
        tally.natives += trace.natives.len() as u64;
        let block: Vec<_> = recording.events.iter().filter_map(instruction).collect();
        let code = executor.encode(&block).map_err(Failure::Load)?;
        Ok(Some(Case { block, code, whole: insts.to_vec(), trace, program, arena: executor.arena_address() }))
    }

    /// Compares all three from `start`.
    pub fn check(&self, executor: &mut Executor, start: &Snapshot, tally: &mut Tally) -> Result<(), Failure> {
        if matches!(&self.block[..], [inst] if undefined_result(inst, &start.state)) {
            tally.undefined_results += 1;
            return Ok(());
        }
        *executor.arena_mut() = start.arena;
        let mut guest = ArenaGuest { executor, state: start.state };
        let evaluated = Machine::new(&self.trace).enter(&self.trace, &mut guest, 10_000);
        let end = Snapshot { state: guest.state, arena: *executor.arena() };
        let exit = match evaluated {
            Ok(eval::Outcome::Exit(exit)) => exit,
            Err(EvalError::Fault { fault: Fault::Unmapped { .. } | Fault::Native { .. }, .. }) => {
                return self.check_fault(executor, start, tally);
            }
            other => return Err(self.mismatch(start, &format!("the evaluation ended with {other:?}"))),
        };
        let place = self.check_hardware(executor, start, &end, exit, tally)?;
        let rebuilt = self.check_compiled(executor, start, &end, exit, tally)?;
        place.map_or(Ok(()), |place| self.check_rest(executor, start, &place, &rebuilt, exit, tally))
    }

    /// Compares hardware and compiled code alone, from a state whose rounding the evaluator does not know. Only for an
    /// instruction that always goes on to the next one. `false` if it faults.
    pub fn check_code(&self, executor: &mut Executor, start: &Snapshot, tally: &mut Tally) -> Result<bool, Failure> {
        let (outcome, hardware) = self.run_hardware(executor, start, self.block.len())?;
        if matches!(outcome, Outcome::Fault { .. }) {
            return Ok(false);
        }
        let (ending, compiled) = self.run_compiled(executor, start)?;
        let Ending::Exit(exit) = ending else {
            return Err(self.mismatch(start, &format!("compiled code ends with {ending:?}")));
        };
        self.compare("hardware", &hardware, "compiled", &compiled, exit, u64::from(FLAGS_MASK), tally)
            .map_err(|text| self.mismatch(start, &text))?;
        tally.compiled += 1;
        Ok(true)
    }

    /// Whether an exit leads back to a division, which the trace does for small quotients only.
    fn exits_early(&self, exit: Exit) -> bool {
        let data = &self.trace.exits[exit];
        let inst = self.block.get(data.step as usize).filter(|inst| inst.ip() == data.pc);
        inst.is_some_and(|inst| matches!(inst.mnemonic(), Mnemonic::Div | Mnemonic::Idiv))
    }

    /// Compares all three where one guard was made to fail, from the state of the recording: whatever the guard tests, its
    /// exit must describe the state between the same two instructions.
    pub fn check_forced(
        &self,
        executor: &mut Executor,
        start: &Snapshot,
        forced: Exit,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        *executor.arena_mut() = start.arena;
        let mut guest = ArenaGuest { executor, state: start.state };
        let evaluated = Machine::new(&self.trace).enter(&self.trace, &mut guest, 10_000);
        let end = Snapshot { state: guest.state, arena: *executor.arena() };
        if let Ok(eval::Outcome::Exit(first)) = evaluated
            && first != forced
            && self.exits_early(first)
        {
            // Even the recorded values make the trace leave in front of this division: nothing behind it is reached.
            return Ok(());
        }
        if evaluated != Ok(eval::Outcome::Exit(forced)) {
            return Err(
                self.mismatch(start, &format!("{forced} is forced, but the evaluation ended with {evaluated:?}"))
            );
        }
        let data = &self.trace.exits[forced];
        let steps = data.step as usize;
        let (next_pc, hardware) = self.step_hardware(executor, start, steps)?;
        // A branch that would have gone the other way.
        let other = steps.checked_sub(1).and_then(|last| self.block.get(last)).is_some_and(|last| {
            let target = if last.is_jcc_short_or_near() { last.near_branch_target() } else { data.pc };
            data.pc == target || data.pc == last.next_ip()
        });
        if data.pc != next_pc && !other {
            return Err(self.mismatch(start, &format!("{forced} goes to {:#x} from {next_pc:#x}", data.pc)));
        }
        let undefined = self.block[..steps].iter().fold(0, |undefined, inst| maybe_undefined(inst, undefined));
        tally.masked_flags += u64::from(undefined.count_ones());
        let flags = u64::from(FLAGS_MASK & !undefined);
        self.compare("hardware", &hardware, "evaluator", &end, forced, flags, tally)
            .map_err(|text| self.mismatch(start, &text))?;
        tally.compared += 1;
        let rebuilt = self.check_compiled(executor, start, &end, forced, tally)?;
        // Behind a branch that goes the other way both go on there.
        let place = Place { at: hardware, pc: data.pc, undefined };
        self.check_rest(executor, start, &place, &rebuilt, forced, tally)
    }

    /// Compares hardware and compiled code from `count` states, one after the other as fast as they run, and the evaluator
    /// with both in one state of `every`. `prepare` makes a state and changes memory for it, or says that it cannot. Only
    /// for a single instruction.
    pub fn check_many(
        &self,
        executor: &mut Executor,
        count: u64,
        every: u64,
        mut prepare: impl FnMut(&mut State, &mut [u8; ARENA_BYTES]) -> bool,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        let mut start = Snapshot { state: State::default(), arena: *executor.arena() };
        let mut after = [0; ARENA_BYTES];
        let window = self.block.first().map_or(0..ARENA_BYTES, window);
        for number in 0..count {
            if number % ALL_OF_MEMORY == 0 {
                start.arena = *executor.arena();
            }
            if !prepare(&mut start.state, executor.arena_mut()) {
                continue;
            }
            let all = number % ALL_OF_MEMORY == ALL_OF_MEMORY - 1;
            let window = if all { 0..ARENA_BYTES } else { window.clone() };
            start.arena[window.clone()].copy_from_slice(&executor.arena()[window.clone()]);
            if number % every == 0 || !self.check_pair(executor, &start, &mut after, window, tally)? {
                // What faults, is misaligned or undefined is rare, and treated one by one, as are differences.
                start.arena = *executor.arena();
                self.check(executor, &start, tally)?;
            }
        }
        Ok(())
    }

    /// Compares hardware and compiled code, from the state that memory is in. `false` if this is not as simple as it looks;
    /// memory is then as before.
    fn check_pair(
        &self,
        executor: &mut Executor,
        start: &Snapshot,
        after: &mut [u8; ARENA_BYTES],
        window: std::ops::Range<usize>,
        tally: &mut Tally,
    ) -> Result<bool, Failure> {
        let [inst] = &self.block[..] else { return Ok(false) };
        executor.load_bytes(&self.code).map_err(Failure::Load)?;
        self.program.load(executor).map_err(Failure::Compile)?;
        let mut hardware = start.state;
        let outcome = executor.run(&mut hardware);
        after[window.clone()].copy_from_slice(&executor.arena()[window.clone()]);
        let mut compiled = start.state;
        executor.arena_mut()[window.clone()].copy_from_slice(&start.arena[window.clone()]);
        let ending = self.program.run(executor, &mut compiled);
        let is_same = || {
            let Ending::Exit(exit) = ending else { return None };
            let data = &self.trace.exits[exit];
            let executed = data.step == 1 && outcome == (Outcome::Completed { next_pc: data.pc });
            let undefined = undefined_flags(inst, &start.state);
            let flags = (hardware.flags ^ compiled.flags) & u64::from(FLAGS_MASK & !undefined);
            let same = hardware.gpr == compiled.gpr && hardware.vector == compiled.vector && flags == 0;
            let same = same && after[window.clone()] == executor.arena()[window.clone()];
            (executed && same && !undefined_result(inst, &start.state)).then_some(undefined)
        };
        let Some(undefined) = is_same() else {
            executor.arena_mut()[window.clone()].copy_from_slice(&start.arena[window]);
            return Ok(false);
        };
        tally.masked_flags += u64::from(undefined.count_ones());
        tally.pairs += 1;
        Ok(true)
    }

    fn check_fault(&self, executor: &mut Executor, start: &Snapshot, tally: &mut Tally) -> Result<(), Failure> {
        let (outcome, _) = self.run_hardware(executor, start, self.block.len())?;
        if let Outcome::Completed { .. } = outcome {
            return Err(self.mismatch(start, "the evaluator faults, the hardware does not"));
        }
        let ending = self.run_compiled(executor, start)?.0;
        if !matches!(ending, Ending::Fault { .. }) {
            return Err(self.mismatch(start, &format!("the evaluator faults, compiled code ends with {ending:?}")));
        }
        tally.faults += 1;
        Ok(())
    }

    fn check_hardware(
        &self,
        executor: &mut Executor,
        start: &Snapshot,
        end: &Snapshot,
        exit: Exit,
        tally: &mut Tally,
    ) -> Result<Option<Place>, Failure> {
        let data = &self.trace.exits[exit];
        let step = data.step as usize;
        if step > self.block.len() {
            return Err(self.mismatch(start, &format!("{exit} counts {step} instructions")));
        }
        let index = self.block.iter().position(|inst| inst.ip() == data.pc);
        let hardware = match index {
            Some(index) if index != step => self.step_hardware(executor, start, step)?,
            _ => match self.run_hardware(executor, start, index.unwrap_or(self.block.len()))? {
                (Outcome::Completed { next_pc }, hardware) => (next_pc, hardware),
                (Outcome::Fault { signal: libc::SIGSEGV, pc }, _) if self.is_misaligned(pc) => {
                    tally.misaligned += 1;
                    return Ok(None);
                }
                (fault, _) => return Err(self.mismatch(start, &format!("hardware: {fault:x?}, {exit} is taken"))),
            },
        };
        let (next_pc, hardware) = hardware;
        if next_pc != data.pc {
            let text = format!("hardware goes to {next_pc:#x}, {exit} to {:#x} after {step}", data.pc);
            return Err(self.mismatch(start, &text));
        }
        if let Some(length) = index.filter(|index| *index == step) {
            let name = format!("{:?}", self.block[length].mnemonic());
            let (one_more, _) = self.run_hardware(executor, start, length + 1)?;
            let faults = matches!(one_more, Outcome::Fault { .. });
            *tally.early.entry(if faults { name + " that faults" } else { name }).or_default() += 1;
        }
        // A branch that was not taken in the recording leaves in the middle of the block.
        let undefined = match &self.block[..step] {
            [inst] => undefined_flags(inst, &start.state),
            prefix => prefix.iter().fold(0, |undefined, inst| maybe_undefined(inst, undefined)),
        };
        tally.masked_flags += u64::from(undefined.count_ones());
        let flags = u64::from(FLAGS_MASK & !undefined);
        self.compare("hardware", &hardware, "evaluator", end, exit, flags, tally)
            .map_err(|text| self.mismatch(start, &text))?;
        tally.compared += 1;
        Ok(Some(Place { at: hardware, pc: data.pc, undefined }))
    }

    fn check_compiled(
        &self,
        executor: &mut Executor,
        start: &Snapshot,
        end: &Snapshot,
        exit: Exit,
        tally: &mut Tally,
    ) -> Result<Snapshot, Failure> {
        let (ending, compiled) = self.run_compiled(executor, start)?;
        if ending != Ending::Exit(exit) {
            return Err(
                self.mismatch(start, &format!("the evaluator takes {exit}, compiled code ends with {ending:?}"))
            );
        }
        let flags = u64::from(FLAGS_MASK);
        self.compare("compiled", &compiled, "evaluator", end, exit, flags, tally)
            .map_err(|text| self.mismatch(start, &text))?;
        tally.compiled += 1;
        Ok(compiled)
    }

    /// Runs the first `length` recorded instructions on the hardware.
    fn run_hardware(
        &self,
        executor: &mut Executor,
        start: &Snapshot,
        length: usize,
    ) -> Result<(Outcome, Snapshot), Failure> {
        executor.load(&self.block[..length]).map_err(Failure::Load)?;
        *executor.arena_mut() = start.arena;
        let mut state = start.state;
        let outcome = executor.run(&mut state);
        Ok((outcome, Snapshot { state, arena: *executor.arena() }))
    }

    /// Executes `steps` of the recorded instructions one by one; also where that leads to the block's start again.
    fn step_hardware(
        &self,
        executor: &mut Executor,
        start: &Snapshot,
        steps: usize,
    ) -> Result<(u64, Snapshot), Failure> {
        let bytes = executor.encode(&self.block).map_err(Failure::Load)?;
        let mut at = (executor.block_address(), start.clone());
        for inst in &self.block[..steps] {
            match step(executor, &bytes, inst, &at.1).map_err(Failure::Load)? {
                Some(next) if at.0 == inst.ip() => at = next,
                _ => return Err(self.mismatch(start, &format!("hardware does not reach {inst} at {:#x}", inst.ip()))),
            }
        }
        Ok(at)
    }

    fn run_compiled(&self, executor: &mut Executor, start: &Snapshot) -> Result<(Ending, Snapshot), Failure> {
        self.program.load(executor).map_err(Failure::Compile)?;
        *executor.arena_mut() = start.arena;
        let mut state = start.state;
        let ending = self.program.run(executor, &mut state);
        Ok((ending, Snapshot { state, arena: *executor.arena() }))
    }

    /// Whether the instruction at `pc` insists on an aligned operand.
    fn is_misaligned(&self, pc: u64) -> bool {
        self.block.iter().any(|inst| inst.ip() == pc && inst.memory_size().size() >= 16)
    }

    /// Memory that nobody can read behind an exit: what the trace has pushed and popped, where the optimiser has found these
    /// frames to be its own. Where functions are still open, the last one's red zone counts.
    fn dead_below(&self, exit: Exit, state: &State) -> std::ops::Range<u64> {
        const RED_ZONE: u64 = 128;
        let pushes = self.trace.insts.values().any(|inst| inst.op == Opcode::Store && inst.class == Class::Frame);
        let open = self.trace.exits[exit].get(Slot::RSP).is_some();
        let end = if open { state.gpr[4].wrapping_sub(RED_ZONE) } else { state.gpr[4] };
        if pushes { end.saturating_sub(ARENA_BYTES as u64)..end } else { 0..0 }
    }

    /// Compares two ends of the run by `exit`; `flags` are the flags that count.
    #[expect(clippy::too_many_arguments, reason = "two named sides, and what they have in common")]
    fn compare(
        &self,
        left_name: &str,
        left: &Snapshot,
        right_name: &str,
        right: &Snapshot,
        exit: Exit,
        flags: u64,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let mut differences = String::new();
        for slot in Slot::all() {
            if self.trace.exits[exit].get(slot) == Some(ExitValue::Undefined) {
                tally.undefined_slots += 1;
                continue;
            }
            let mask = if slot == Slot::FLAGS { flags } else { u64::MAX };
            let (l, r) = (slot_of(&left.state, slot) & mask, slot_of(&right.state, slot) & mask);
            if l != r {
                differences += &format!("\n  {slot}: {left_name} {l:#x}, {right_name} {r:#x}");
                if slot == Slot::FLAGS {
                    differences += &format!(" (differing: {})", flag_names((l ^ r) as u32));
                }
            }
        }
        if left.arena == right.arena {
            return if differences.is_empty() { Ok(()) } else { Err(format!("states differ at {exit}:{differences}")) };
        }
        let dead = self.dead_below(exit, &left.state);
        let differs = |at: &usize| left.arena[*at] != right.arena[*at] && !dead.contains(&(self.arena + *at as u64));
        for at in (0..ARENA_BYTES).filter(differs).take(16) {
            let (l, r) = (left.arena[at], right.arena[at]);
            differences += &format!("\n  arena+{at:#x}: {left_name} {l:#x}, {right_name} {r:#x}");
        }
        if differences.is_empty() { Ok(()) } else { Err(format!("states differ at {exit}:{differences}")) }
    }

    fn mismatch(&self, start: &Snapshot, text: &str) -> Failure {
        let listing: String =
            self.block.iter().map(|inst| format!("\n  {:#x} {inst}  {:?}", inst.ip(), inst.code())).collect();
        Failure::Mismatch(format!("{text}\nblock:{listing}\nfrom: {}\ntrace:\n{}", registers(&start.state), self.trace))
    }
}

/// Once in so many states all of memory is compared, otherwise what the instruction should touch.
const ALL_OF_MEMORY: u64 = 16;

/// The part of the arena that an instruction may touch, as it is placed.
fn window(inst: &Instruction) -> std::ops::Range<usize> {
    let explicit = inst.op_kinds().any(|kind| kind == OpKind::Memory);
    let stack = inst.stack_pointer_increment() != 0 || inst.mnemonic() == Mnemonic::Leave;
    match (stack || inst.is_string_instruction(), explicit) {
        (true, _) => 0..ARENA_BYTES,
        (false, true) => 0..DATA.end as usize + 256,
        (false, false) => 0..0,
    }
}

fn instruction(event: &Event) -> Option<Instruction> {
    match event {
        Event::Inst { inst, .. } => Some(*inst),
        Event::Countdown { .. } | Event::Call { .. } | Event::Region { .. } | Event::Api { .. } => None,
    }
}

/// The registers, for messages.
fn registers(state: &State) -> String {
    Slot::all()
        .map(|slot| (slot, slot_of(state, slot)))
        .filter(|entry| entry.1 != 0)
        .map(|(slot, value)| format!("{slot}={value:#x}"))
        .collect::<Vec<_>>()
        .join(" ")
}
