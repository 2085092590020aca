//! Every instruction shape, and blocks of them: hardware against evaluator against compiled code.
//!
//! `REDMAGIC_FUZZ_SCALE=n` multiplies the number of cases, `REDMAGIC_FUZZ_SEED=n` moves to other ones, and
//! `REDMAGIC_FUZZ_ONLY=text` restricts the shapes to encodings whose name contains the text.

use iced_x86::{Decoder, DecoderOptions, Instruction};
use redmagic_backend::{Backend, Options};
use redmagic_fuzz::blocks::{Blocks, place_block};
use redmagic_fuzz::native::Executor;
use redmagic_fuzz::oracle::{Case, Failure, Tally};
use redmagic_fuzz::place::place;
use redmagic_fuzz::record::Snapshot;
use redmagic_fuzz::reduce::reduce;
use redmagic_fuzz::rng::Rng;
use redmagic_fuzz::shapes::{Places, Shapes};
use redmagic_fuzz::values;
use redmagic_ir::{Entity, Exit, Inst, Opcode, Trace, Type};
use redmagic_lift::coverage::executable_sections;
use redmagic_passes::Pipeline;
use std::cell::Cell;
use std::collections::BTreeMap;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn scale() -> u64 {
    setting("REDMAGIC_FUZZ_SCALE", 1)
}

fn seed() -> u64 {
    setting("REDMAGIC_FUZZ_SEED", 1) << 32
}

struct Bench {
    executor: Executor,
    backend: Backend,
    places: Places,
    tally: Tally,
    /// By what was refused or differs: how often, and an example.
    refused: BTreeMap<String, u64>,
    findings: BTreeMap<String, (u64, String)>,
}

impl Bench {
    fn new() -> Bench {
        let executor = Executor::new().unwrap();
        let places =
            Places { arena: executor.arena_address(), pads: std::array::from_fn(|pad| executor.pad_address(pad)) };
        let backend = Backend::new(&Options { verify: true, dump: false }).unwrap();
        let (refused, findings) = Default::default();
        Bench { executor, backend, places, tally: Tally::default(), refused, findings }
    }

    fn snapshot(&self, rng: &mut Rng) -> Snapshot {
        let mut snapshot = Snapshot { state: values::state(rng), arena: *self.executor.arena() };
        values::memory(rng, &mut snapshot.arena);
        snapshot
    }

    /// Notes a failure under `key`.
    fn note(&mut self, key: &str, seed: u64, failure: Failure) {
        match failure {
            Failure::Refused(reason) => *self.refused.entry(format!("{key}: {reason}")).or_default() += 1,
            other => {
                let entry = self.findings.entry(key.to_owned()).or_insert_with(|| (0, format!("seed {seed}: {other}")));
                entry.0 += 1;
            }
        }
    }

    fn finish(self, what: &str) {
        println!("{what}: {}", self.tally);
        for (key, count) in &self.refused {
            println!("refused {count} times: {key}");
        }
        for (key, (count, example)) in self.findings.iter().take(setting("REDMAGIC_FUZZ_SHOW", 10) as usize) {
            println!("---- {key}, {count} times, for example {example}");
        }
        let keys: Vec<_> = self.findings.iter().map(|(key, (count, _))| format!("{key} ({count})")).collect();
        assert!(keys.is_empty(), "{} kinds of differences: {}", keys.len(), keys.join(", "));
    }
}

#[test]
fn every_shape_agrees_with_the_hardware() {
    let mut bench = Bench::new();
    let shapes = Shapes::all();
    let only = std::env::var("REDMAGIC_FUZZ_ONLY").unwrap_or_default();
    for (number, &code) in shapes.codes.iter().enumerate() {
        if !format!("{code:?}").contains(&only) {
            continue;
        }
        for round in 0..4 * scale() {
            let case = seed() + (round << 16) + number as u64;
            let mut rng = Rng::new(case);
            if let Err(failure) = shape(&mut bench, &shapes, code, &mut rng) {
                bench.note(&format!("{code:?}"), case, failure);
            }
        }
    }
    bench.finish("shapes");
}

/// One instruction with encoding `code`, from several states.
fn shape(bench: &mut Bench, shapes: &Shapes, code: iced_x86::Code, rng: &mut Rng) -> Result<(), Failure> {
    let places = bench.places;
    let Some(inst) = shapes.instruction_of(code, &places, rng) else { return Ok(()) };
    let inst = bench.executor.load(&[inst]).map_err(Failure::Load)?[0];
    let mut case = None;
    for _ in 0..8 {
        let mut start = bench.snapshot(rng);
        if !place(&inst, &mut start.state, &mut start.arena, &places, rng) {
            continue;
        }
        // The direction flag is not a slot: what a trace may contain assumes that it is clear.
        start.state.flags &= !redmagic_fuzz::place::DF;
        if case.is_none() {
            case = Case::new(&mut bench.executor, &mut bench.backend, &[inst], &start, &|_| (), &mut bench.tally)?;
        }
        if let Some(case) = &case {
            case.check(&mut bench.executor, &start, &mut bench.tally)?;
        }
    }
    Ok(())
}

#[test]
fn blocks_agree_with_the_hardware() {
    let mut bench = Bench::new();
    let mut blocks = Blocks::new(Shapes::all());
    for round in 0..400 * scale() {
        let case = seed() + round;
        if let Err(failure) = block(&mut bench, &mut blocks, &|_| (), &mut Rng::new(case)) {
            bench.note("block", case, failure);
        }
    }
    bench.finish("blocks");
}

#[test]
fn optimised_blocks_agree_with_the_hardware() {
    let mut bench = Bench::new();
    let mut blocks = Blocks::new(Shapes::all());
    let names: Vec<_> = Pipeline::names().collect();
    for round in 0..400 * scale() {
        let case = seed() + round;
        let mut rng = Rng::new(case ^ 0x5eed);
        let list: Vec<_> = (0..1 + rng.below(6)).map(|_| *rng.pick(&names)).collect();
        let pipeline = if rng.one_in(2) { Pipeline::default() } else { Pipeline::parse(&list.join(",")).unwrap() };
        let optimise = |trace: &mut Trace| drop(redmagic_passes::optimise(trace, &pipeline));
        if let Err(failure) = block(&mut bench, &mut blocks, &optimise, &mut Rng::new(case)) {
            bench.note(&format!("passes={pipeline}"), case, failure);
        }
    }
    bench.finish("optimised blocks");
}

/// A block, or one time in two a loop, from several states.
fn block(bench: &mut Bench, blocks: &mut Blocks, transform: &dyn Fn(&mut Trace), rng: &mut Rng) -> Result<(), Failure> {
    let places = bench.places;
    let length = 2 + rng.below(19);
    let start = bench.executor.block_address();
    let insts = match rng.one_in(2) {
        true => blocks.looped(length, start, &places, rng),
        false => blocks.block(length, start, &places, rng),
    };
    compare_block(bench, &insts, transform, rng)
}

/// A block from several states; one that fails is made small first.
fn compare_block(
    bench: &mut Bench,
    insts: &[Instruction],
    transform: &dyn Fn(&mut Trace),
    rng: &mut Rng,
) -> Result<(), Failure> {
    let places = bench.places;
    let starts: Vec<_> = (0..8)
        .map(|_| {
            let mut start = bench.snapshot(rng);
            place_block(&mut start.state, &places, rng);
            start
        })
        .collect();
    let Bench { executor, backend, tally, .. } = bench;
    let mut check = |executor: &mut Executor, insts: &[Instruction], tally: &mut Tally| {
        let Some(case) = Case::new(executor, backend, insts, &starts[0], transform, tally)? else { return Ok(()) };
        starts.iter().try_for_each(|start| case.check(executor, start, tally))
    };
    let result = check(executor, insts, tally);
    let Err(Failure::Mismatch(found)) = result else { return result };
    // A block that fails in another way may only be one that makes no sense.
    let kind = |text: &str| text.split_whitespace().next().unwrap_or_default().to_owned();
    let fails = |executor: &mut Executor, insts: &[Instruction]| matches!(check(executor, insts, &mut Tally::default()), Err(Failure::Mismatch(text)) if kind(&text) == kind(&found));
    let small = reduce(executor, &places, insts, fails);
    check(executor, &small, &mut Tally::default())
}

/// Real code, found where the test runs: the test program's own and the C library's (they are one file if it is static).
fn real_code() -> Vec<Vec<u8>> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let library = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| path.contains("libc.so"));
    let files = [std::env::current_exe().ok(), library.map(Into::into)];
    let mut code = Vec::new();
    for file in files.into_iter().flatten().filter_map(|path| std::fs::read(path).ok()) {
        let sections = executable_sections(&file).unwrap_or_default();
        code.extend(
            sections.iter().filter(|section| section.bytes.len() > 0x10000).map(|section| section.bytes.to_vec()),
        );
    }
    code
}

#[test]
fn blocks_of_real_code_agree_with_the_hardware() {
    let mut bench = Bench::new();
    let mut blocks = Blocks::new(Shapes::all());
    let code = real_code();
    assert!(!code.is_empty());
    let places = bench.places;
    for round in 0..600 * scale() {
        let case = seed() + round;
        let mut rng = Rng::new(case);
        let section = rng.pick(&code);
        let at = rng.below(section.len() - 0x1000);
        let real: Vec<_> = Decoder::with_ip(64, &section[at..at + 0x400], 0x1000_0000, DecoderOptions::NONE)
            .iter()
            .skip(8)
            .take(2 + rng.below(60))
            .collect();
        let insts = blocks.adapted(&real, &places, &mut rng);
        let optimise = |trace: &mut Trace| drop(redmagic_passes::optimise(trace, &Pipeline::default()));
        let transform: &dyn Fn(&mut Trace) = if rng.one_in(2) { &optimise } else { &|_| () };
        if !insts.is_empty()
            && let Err(failure) = compare_block(&mut bench, &insts, transform, &mut rng)
        {
            bench.note("real code", case, failure);
        }
    }
    bench.finish("blocks of real code");
}

/// Makes guard number `number` of a trace fail, and says by which exit; `None` if there are not so many.
fn force(trace: &mut Trace, number: usize) -> Option<Exit> {
    let is_guard = |trace: &Trace, value| trace.insts[value].exit().is_some();
    for segment in trace.segments.keys().collect::<Vec<_>>() {
        for at in 0..trace.segments[segment].insts.len() {
            let value = trace.segments[segment].insts[at];
            if !is_guard(trace, value) {
                continue;
            }
            let before = trace.segments.values().take(segment.index()).flat_map(|segment| &segment.insts);
            let before = before.chain(&trace.segments[segment].insts[..at]);
            if before.filter(|&&other| is_guard(trace, other)).count() == number {
                let fails = trace.insts[value].op == Opcode::GuardNot;
                let constant = trace.add_inst(Inst::constant(Type::I1, i64::from(fails)));
                trace.insts[value].args[0] = constant;
                trace.segments[segment].insts.insert(at, constant);
                return trace.insts[value].exit();
            }
        }
    }
    None
}

/// Leaves each trace at every one of its guards.
fn sweep(bench: &mut Bench, blocks: &mut Blocks, transform: &dyn Fn(&mut Trace), rng: &mut Rng) -> Result<(), Failure> {
    let places = bench.places;
    let insts = blocks.block(2 + rng.below(30), bench.executor.block_address(), &places, rng);
    let mut start = bench.snapshot(rng);
    place_block(&mut start.state, &places, rng);
    for number in 0.. {
        let forced = Cell::new(None);
        let change = |trace: &mut Trace| {
            transform(trace);
            forced.set(force(trace, number));
        };
        let Bench { executor, backend, tally, .. } = bench;
        let Some(case) = Case::new(executor, backend, &insts, &start, &change, tally)? else { break };
        let Some(exit) = forced.get() else { break };
        case.check_forced(executor, &start, exit, tally)?;
    }
    Ok(())
}

#[test]
fn every_guard_leaves_the_state_of_the_hardware() {
    let mut bench = Bench::new();
    let mut blocks = Blocks::new(Shapes::all());
    for round in 0..400 * scale() {
        let case = seed() + round;
        if let Err(failure) = sweep(&mut bench, &mut blocks, &|_| (), &mut Rng::new(case)) {
            bench.note("sweep", case, failure);
        }
        let optimise = |trace: &mut Trace| drop(redmagic_passes::optimise(trace, &Pipeline::default()));
        if let Err(failure) = sweep(&mut bench, &mut blocks, &optimise, &mut Rng::new(case)) {
            bench.note("optimised sweep", case, failure);
        }
    }
    bench.finish("exit sweep");
}

/// The comparison is worth something only if it notices wrong traces.
#[test]
fn wrong_traces_are_noticed() {
    use Opcode as Op;
    let pairs = [
        (Op::Add, Op::Sub),
        (Op::Sub, Op::Add),
        (Op::And, Op::Or),
        (Op::Lshr, Op::Ashr),
        (Op::Ult, Op::Ule),
        (Op::Zext, Op::Sext),
        (Op::FlAdd, Op::FlSub),
        (Op::FlAdc, Op::FlSbb),
        (Op::FlShl, Op::FlShr),
        (Op::Guard, Op::GuardNot),
        (Op::Fadd64, Op::Fsub64),
        (Op::Fmin64, Op::Fmax64),
    ];
    let mut blocks = Blocks::new(Shapes::all());
    for (from, to) in pairs {
        let mut bench = Bench::new();
        let places = bench.places;
        let noticed = (0..2000).any(|case| {
            let mut rng = Rng::new(case);
            let insts = blocks.block(8, bench.executor.block_address(), &places, &mut rng);
            let mut start = bench.snapshot(&mut rng);
            place_block(&mut start.state, &places, &mut rng);
            let change = |trace: &mut Trace| {
                for value in trace.insts.keys().collect::<Vec<_>>() {
                    if trace.insts[value].op == from {
                        trace.insts[value].op = to;
                    }
                }
            };
            let made = Case::new(&mut bench.executor, &mut bench.backend, &insts, &start, &change, &mut bench.tally);
            let Ok(Some(case)) = made else { return false };
            case.check(&mut bench.executor, &start, &mut bench.tally).is_err()
        });
        assert!(noticed, "{} in the place of {} goes unnoticed", to.name(), from.name());
    }
}
