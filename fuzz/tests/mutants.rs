//! Deliberately wrong traces are noticed.
//!
//! Every kind of mistake is made in the traces of several instructions. Each mutant must differ from the hardware in one
//! of a few thousand states. One that does not is compared with the right trace in thousands of other states: if these tell
//! the two apart, it has survived and the test fails; if not, it is no mistake (an exclusive or for a sum without
//! carries) and does not count.

use iced_x86::Instruction;
use redmagic_backend::{Backend, Options};
use redmagic_fuzz::corpus::{Corpus, placed};
use redmagic_fuzz::evaluated::ArenaGuest;
use redmagic_fuzz::mutate::{kinds, mutants};
use redmagic_fuzz::native::{ARENA_BYTES, Executor};
use redmagic_fuzz::oracle::{Case, Failure, Tally};
use redmagic_fuzz::place::{DF, place};
use redmagic_fuzz::record::Snapshot;
use redmagic_fuzz::rng::Rng;
use redmagic_fuzz::shapes::{Places, Shapes};
use redmagic_fuzz::undefined::{undefined_flags, undefined_result};
use redmagic_fuzz::values;
use redmagic_ir::eval::{Machine, Outcome};
use redmagic_ir::{ExitValue, FLAGS_MASK, Slot, Trace};
use std::cell::RefCell;

/// In so many states the hardware has to have noticed a mutant.
const STATES: usize = 2560;
/// States in which an unnoticed one is compared with the right trace.
const MORE_STATES: usize = 1500;
/// Instructions in whose traces a kind of mistake is made.
const INSTRUCTIONS: usize = 8;

struct Bench {
    executor: Executor,
    backend: Backend,
    places: Places,
    memory: [u8; ARENA_BYTES],
}

impl Bench {
    /// A state in which the instruction can run.
    fn start(&mut self, inst: &Instruction, rng: &mut Rng) -> Option<Snapshot> {
        // Filling memory takes longer than all the rest, so it is done now and then only.
        if rng.one_in(16) {
            values::memory(rng, &mut self.memory);
        }
        let mut start = Snapshot { state: values::state(rng), arena: self.memory };
        let placed = place(inst, &mut start.state, &mut start.arena, &self.places, rng);
        start.state.flags &= !DF;
        placed.then_some(start)
    }

    fn case(&mut self, inst: &Instruction, start: &Snapshot, change: &dyn Fn(&mut Trace)) -> Option<Case> {
        let made = Case::new(&mut self.executor, &mut self.backend, &[*inst], start, change, &mut Tally::default());
        made.ok().flatten()
    }

    /// The result of a trace: where it leaves, and the state (as far as it is defined), or nothing if it faults.
    fn outcome(&mut self, trace: &Trace, inst: &Instruction, start: &Snapshot) -> Option<(u64, u32, Snapshot)> {
        *self.executor.arena_mut() = start.arena;
        let mut guest = ArenaGuest { executor: &mut self.executor, state: start.state };
        let Ok(Outcome::Exit(exit)) = Machine::new(trace).enter(trace, &mut guest, 10_000) else { return None };
        let mut end = Snapshot { state: guest.state, arena: *self.executor.arena() };
        let data = &trace.exits[exit];
        let undefined = if data.step == 0 { 0 } else { undefined_flags(inst, &start.state) };
        let dead = data.get(Slot::FLAGS) == Some(ExitValue::Undefined);
        end.state.flags &= if dead { 0 } else { u64::from(FLAGS_MASK & !undefined) };
        Some((data.pc, data.step, end))
    }

    /// Whether a mutant can be told from the right trace.
    fn differs(&mut self, right: &Trace, wrong: &Trace, inst: &Instruction, rng: &mut Rng) -> bool {
        (0..MORE_STATES).any(|_| {
            let Some(start) = self.start(inst, rng) else { return false };
            if undefined_result(inst, &start.state) {
                return false;
            }
            let (first, second) = (self.outcome(right, inst, &start), self.outcome(wrong, inst, &start));
            match (first, second) {
                // Leaving in front of the instruction, where the right trace goes on, is no mistake.
                (Some(first), Some(second)) if first.1 == 1 && second.1 == 0 => {
                    (second.2.state, second.2.arena) != (start.state, start.arena)
                }
                (Some(first), Some(second)) => {
                    (first.0, first.1, first.2.state, first.2.arena)
                        != (second.0, second.1, second.2.state, second.2.arena)
                }
                (first, second) => first.is_some() != second.is_some(),
            }
        })
    }
}

#[test]
fn no_mutant_of_an_even_kind_survives() {
    run(0);
}

#[test]
fn no_mutant_of_an_odd_kind_survives() {
    run(1);
}

/// Tries every second kind of mistake, from number `first` on.
fn run(first: usize) {
    let executor = Executor::new().unwrap();
    let places = Places { arena: executor.arena_address(), pads: std::array::from_fn(|pad| executor.pad_address(pad)) };
    let backend = Backend::new(&Options { verify: false, dump: false }).unwrap();
    let mut bench = Bench { memory: *executor.arena(), executor, backend, places };
    let mut rng = Rng::new(1);
    let mut sample: Vec<(Instruction, Snapshot, Trace)> = Vec::new();
    let shapes = Shapes::all();
    let corpus = Corpus::parse(include_str!("../corpus/instructions.txt"));
    let generated: Vec<_> =
        shapes.codes.iter().filter_map(|&code| shapes.instruction_of(code, &places, &mut rng)).collect();
    let harvested = corpus.instructions().step_by(9).filter_map(|inst| placed(inst, &places, &mut Rng::new(3)));
    for inst in harvested.chain(generated) {
        let Ok(block) = bench.executor.load(&[inst]) else { continue };
        let inst = block[0];
        let Some(start) = bench.start(&inst, &mut rng) else { continue };
        let trace = RefCell::new(None);
        let keep = |right: &mut Trace| drop(trace.replace(Some(right.clone())));
        if bench.case(&inst, &start, &keep).is_some()
            && let Some(trace) = trace.into_inner()
            && trace.natives.is_empty()
        {
            sample.push((inst, start, trace));
        }
    }
    let (mut noticed, mut same) = (0, 0);
    let mut survivors = Vec::new();
    let mut untried = Vec::new();
    let kinds: Vec<_> = kinds().into_iter().skip(first).step_by(2).collect();
    for &kind in &kinds {
        let mut instructions = 0;
        // Another order for each kind, so that the kinds see different instructions.
        let offset = rng.below(sample.len());
        for at in 0..sample.len() {
            let (inst, start, right) = &sample[(offset + at) % sample.len()];
            if instructions == INSTRUCTIONS {
                break;
            }
            let mut found = false;
            for wrong in mutants(kind, right).into_iter().take(3) {
                let Some(case) = bench.case(inst, start, &|trace: &mut Trace| *trace = wrong.clone()) else { continue };
                let is_noticed = (0..STATES).any(|_| {
                    let Some(start) = bench.start(inst, &mut rng) else { return false };
                    let result = case.check(&mut bench.executor, &start, &mut Tally::default());
                    matches!(result, Err(Failure::Mismatch(_)))
                });
                if is_noticed {
                    noticed += 1;
                    found = true;
                } else if bench.differs(right, &wrong, inst, &mut rng) {
                    survivors.push(format!("{kind:?} in {inst}: {wrong}"));
                    found = true;
                } else {
                    same += 1;
                }
            }
            instructions += usize::from(found);
        }
        if instructions == 0 {
            untried.push((kind, instructions));
        }
    }
    println!("{} kinds in {} instructions: {noticed} mutants noticed, {same} equivalent", kinds.len(), sample.len());
    println!("in no instruction: {untried:?}");
    survivors.iter().take(6).for_each(|survivor| println!("---- {survivor}"));
    let names: Vec<_> = survivors.iter().filter_map(|survivor| survivor.split(':').next()).collect();
    assert!(survivors.is_empty(), "{} survive: {}", survivors.len(), names.join("; "));
    assert!(untried.len() * 10 < kinds.len(), "too few instructions for {untried:?}");
}
