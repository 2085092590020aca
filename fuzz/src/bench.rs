//! Everything that a comparison needs, made once: the executor, the compiler, the places, the generator of blocks.
//!
//! Worked example: `bench.block(&|_| (), &mut rng)` makes a block or a loop and compares it from eight states; the
//! failure that it returns has been made small.

use crate::blocks::{Blocks, place_block};
use crate::corpus::placed;
use crate::finding::Finding;
use crate::native::{ARENA_BYTES, Executor, State};
use crate::oracle::{Case, Failure, Tally};
use crate::place::{DF, place};
use crate::record::Snapshot;
use crate::reduce::reduce;
use crate::rng::Rng;
use crate::shapes::{Places, Shapes};
use crate::values::{self, Varied};
use iced_x86::Instruction;
use redmagic_backend::{Backend, Options};
use redmagic_ir::{Exit, Inst, Opcode, Segment, Terminator, Trace, Type, Value};
use redmagic_passes::Pipeline;
use std::cell::Cell;

/// What happens to a trace before it is compared.
pub type Passes<'a> = Option<&'a Pipeline>;

/// An executor and all that works with it.
pub struct Bench {
    /// Hardware and memory.
    pub executor: Executor,
    /// The compiler.
    pub backend: Backend,
    /// Where the executor has its things.
    pub places: Places,
    /// Makes blocks.
    pub blocks: Blocks,
    /// What was compared so far.
    pub tally: Tally,
}

impl Bench {
    /// A bench of its own.
    ///
    /// # Panics
    /// Where there is no executor: nothing can be tested then.
    pub fn new() -> Bench {
        let executor = Executor::new().expect("memory and signal handlers");
        let backend = Backend::new(&Options { verify: true, dump: false }).expect("a supported machine");
        let places = places(&executor);
        Bench { executor, backend, places, blocks: Blocks::new(Shapes::all()), tally: Tally::default() }
    }

    /// A random register file and memory.
    pub fn snapshot(&self, rng: &mut Rng) -> Snapshot {
        let mut snapshot = Snapshot { state: values::state(rng), arena: *self.executor.arena() };
        values::memory(rng, &mut snapshot.arena);
        snapshot
    }

    /// One instruction from `states` states that suit it.
    pub fn single(&mut self, inst: &Instruction, states: usize, rng: &mut Rng) -> Result<(), Failure> {
        let places = self.places;
        let inst = self.executor.load(&[*inst]).map_err(Failure::Load)?[0];
        let mut starts = Vec::new();
        for _ in 0..states {
            let mut start = self.snapshot(rng);
            if place(&inst, &mut start.state, &mut start.arena, &places, rng) {
                // The direction flag is not a slot: what a trace may contain assumes that it is clear.
                start.state.flags &= !DF;
                starts.push(start);
            }
        }
        self.compare(&[inst], None, None, &starts)
    }

    /// One instruction, moved to where it can run, from `count` states: hardware and compiled code in each, the evaluator in
    /// one of `every`. `false` if there is no state to record it from.
    pub fn many(&mut self, inst: &Instruction, count: u64, every: u64, rng: &mut Rng) -> Result<bool, Failure> {
        let Bench { executor, backend, places, tally, .. } = self;
        let Some(inst) = placed(inst, places, rng) else { return Ok(false) };
        let inst = executor.load(&[inst]).map_err(Failure::Load)?[0];
        values::memory(rng, executor.arena_mut());
        let mut states = Varied::new(&inst, rng);
        let mut prepare = |state: &mut State, arena: &mut [u8; ARENA_BYTES]| {
            *state = states.next(rng);
            let placed = place(&inst, state, arena, places, rng);
            state.flags &= !DF;
            placed
        };
        // The recording is made where the instruction does not fault.
        let case = (0..64).find_map(|_| {
            let mut start = Snapshot { state: State::default(), arena: *executor.arena() };
            let placed = prepare(&mut start.state, &mut start.arena);
            let new = || Case::new(executor, backend, &[inst], &start, &|_| (), tally).transpose();
            placed.then(new).flatten()
        });
        let Some(case) = case.transpose()? else { return Ok(false) };
        case.check_many(executor, count, every, prepare, tally)?;
        Ok(true)
    }

    /// A block, or one time in two a loop, from several states.
    pub fn block(&mut self, passes: Passes<'_>, rng: &mut Rng) -> Result<(), Failure> {
        let length = 2 + rng.below(19);
        let start = self.executor.block_address();
        let insts = match rng.one_in(2) {
            true => self.blocks.looped(length, start, &self.places, rng),
            false => self.blocks.block(length, start, &self.places, rng),
        };
        self.compare_block(&insts, passes, rng)
    }

    /// The states that blocks start from.
    pub fn block_starts(&self, count: usize, rng: &mut Rng) -> Vec<Snapshot> {
        let start = |_| {
            let mut start = self.snapshot(rng);
            place_block(&mut start.state, &self.places, rng);
            start
        };
        (0..count).map(start).collect()
    }

    /// A block from several states.
    pub fn compare_block(&mut self, insts: &[Instruction], passes: Passes<'_>, rng: &mut Rng) -> Result<(), Failure> {
        let starts = self.block_starts(8, rng);
        self.compare(insts, passes, None, &starts)
    }

    /// Leaves the trace of a block at every one of its guards.
    pub fn sweep(&mut self, passes: Passes<'_>, rng: &mut Rng) -> Result<(), Failure> {
        let length = 2 + rng.below(30);
        let insts = self.blocks.block(length, self.executor.block_address(), &self.places, rng);
        let starts = self.block_starts(1, rng);
        for number in 0.. {
            let forced = Forced::guard(number);
            self.compare(&insts, passes, Some(&forced), &starts)?;
            if forced.exit.get().is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Compares `insts`, recorded from the first of `starts` where they run, from all of them; what fails is made small.
    pub fn compare(
        &mut self,
        insts: &[Instruction],
        passes: Passes<'_>,
        forced: Option<&Forced>,
        starts: &[Snapshot],
    ) -> Result<(), Failure> {
        let result = self.check(insts, passes, forced, starts);
        let Err(Failure::Mismatch(found)) = result else { return result };
        // A block that fails in another way may only be one that makes no sense.
        let kind = |text: &str| text.split_whitespace().next().unwrap_or_default().to_owned();
        let same = |result| matches!(result, Err(Failure::Mismatch(text)) if kind(&text) == kind(&found));
        let Bench { executor, backend, places, .. } = self;
        let mut tally = Tally::default();
        let mut fails = |executor: &mut Executor, insts: &[Instruction], starts: &[Snapshot]| {
            same(check(executor, backend, &mut tally, insts, passes, forced, starts))
        };
        let small = reduce(executor, places, insts, |executor, insts| fails(executor, insts, starts));
        let mut starts = starts.to_vec();
        while starts.len() > 1 && fails(executor, &small, &starts[..starts.len() - 1]) {
            starts.pop();
        }
        while starts.len() > 1 && fails(executor, &small, &starts[1..]) {
            starts.remove(0);
        }
        let mut finding = Finding::new(executor, &small, passes, forced, &starts);
        finding.simplify(|starts| fails(executor, &small, starts));
        let text = match self.check(&small, passes, forced, &finding.starts) {
            Err(Failure::Mismatch(text)) => text,
            _ => found,
        };
        Err(Failure::Mismatch(format!("{text}\nAs a file in fuzz/findings:\n{finding}")))
    }

    fn check(
        &mut self,
        insts: &[Instruction],
        passes: Passes<'_>,
        forced: Option<&Forced>,
        starts: &[Snapshot],
    ) -> Result<(), Failure> {
        check(&mut self.executor, &mut self.backend, &mut self.tally, insts, passes, forced, starts)
    }
}

impl Default for Bench {
    fn default() -> Bench {
        Bench::new()
    }
}

/// Where `executor` has its arena and its landing pads.
pub fn places(executor: &Executor) -> Places {
    Places { arena: executor.arena_address(), pads: std::array::from_fn(|pad| executor.pad_address(pad)) }
}

fn check(
    executor: &mut Executor,
    backend: &mut Backend,
    tally: &mut Tally,
    insts: &[Instruction],
    passes: Passes<'_>,
    forced: Option<&Forced>,
    starts: &[Snapshot],
) -> Result<(), Failure> {
    let change = |trace: &mut Trace| {
        if let Some(pipeline) = passes {
            redmagic_passes::optimise(trace, pipeline);
        }
        if let Some(forced) = forced {
            forced.apply(trace);
        }
    };
    let mut case = None;
    for start in starts {
        if case.is_none() {
            case = Case::new(executor, backend, insts, start, &change, tally)?;
        }
        match (&case, forced.map(|forced| forced.exit.get())) {
            (Some(case), None) => case.check(executor, start, tally)?,
            (Some(case), Some(Some(exit))) => case.check_forced(executor, start, exit, tally)?,
            (Some(_), Some(None)) | (None, _) => {}
        }
    }
    Ok(())
}

/// One guard of a trace that is made to fail.
pub struct Forced {
    /// Which, in the order of the trace's text.
    pub guard: usize,
    /// The exit that it leaves by, once it was found.
    pub exit: Cell<Option<Exit>>,
}

impl Forced {
    /// Guard number `guard`.
    pub fn guard(guard: usize) -> Forced {
        Forced { guard, exit: Cell::new(None) }
    }

    fn apply(&self, trace: &mut Trace) {
        self.exit.set(force(trace, self.guard));
    }
}

/// Makes guard number `number` of a trace fail, and says by which exit; `None` if there are not so many.
pub fn force(trace: &mut Trace, number: usize) -> Option<Exit> {
    let segments = trace.segments.keys().collect::<Vec<_>>();
    let all = segments.iter().flat_map(|segment| {
        trace.segments[*segment].insts.iter().enumerate().map(move |(at, value)| (*segment, at, *value))
    });
    let (segment, at, value) = all.filter(|(_, _, value)| trace.insts[*value].exit().is_some()).nth(number)?;
    if let Some(swap) = trace.swap_of(value) {
        refuse(trace, swap);
    }
    let fails = trace.insts[value].op == Opcode::GuardNot;
    let constant = trace.add_inst(Inst::constant(Type::I1, i64::from(fails)));
    trace.insts[value].args[0] = constant;
    trace.segments[segment].insts.insert(at, constant);
    lead_to(trace, segment);
    trace.insts[value].exit()
}

/// Makes the switch that leads to `segment` only if it fails lead there, and so on: what finds out beside the path which guard
/// fails.
fn lead_to(trace: &mut Trace, segment: Segment) {
    for from in trace.segments.keys().collect::<Vec<_>>() {
        if let Terminator::Switch { value, cases, default } = &trace.segments[from].terminator
            && trace.ty(*value) == Type::I1
            && let [(1, _)] = cases[..]
            && default.segment == segment
            && default.args.is_empty()
        {
            trace.segments[from].terminator = Terminator::Jump(default.clone());
            lead_to(trace, from);
        }
    }
}

/// Makes a `compare_swap` find something else, as if another thread had been there.
fn refuse(trace: &mut Trace, swap: Value) {
    let inst = trace.insts[swap];
    let other = trace.add_inst(Inst::unary(Opcode::Not, inst.ty, inst.args[1]));
    trace.insts[swap].args[1] = other;
    for segment in trace.segments.keys().collect::<Vec<_>>() {
        let insts = &mut trace.segments[segment].insts;
        if let Some(at) = insts.iter().position(|value| *value == swap) {
            insts.insert(at, other);
        }
    }
}
