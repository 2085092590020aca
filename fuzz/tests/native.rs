//! Every instruction shape, and blocks of them: hardware against evaluator against compiled code.
//!
//! `REDMAGIC_FUZZ_SCALE=n` multiplies the number of cases, `REDMAGIC_FUZZ_SEED=n` moves to other ones, and
//! `REDMAGIC_FUZZ_ONLY=text` restricts the shapes to encodings whose name contains the text.

use iced_x86::{Decoder, DecoderOptions};
use redmagic_fuzz::bench::{Bench, force};
use redmagic_fuzz::oracle::{Case, Failure};
use redmagic_fuzz::record::Snapshot;
use redmagic_fuzz::rng::Rng;
use redmagic_fuzz::shapes::Shapes;
use redmagic_ir::{ExitValue, Opcode, Slot, Trace};
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

/// A bench, and what was found on it.
struct Run {
    bench: Bench,
    /// By what was refused or differs: how often, and an example.
    refused: BTreeMap<String, u64>,
    findings: BTreeMap<String, (u64, String)>,
}

impl Run {
    fn new() -> Run {
        let (refused, findings) = Default::default();
        Run { bench: Bench::new(), refused, findings }
    }

    /// Notes a failure under `key`.
    fn note(&mut self, key: &str, seed: u64, result: Result<(), Failure>) {
        match result {
            Ok(()) => {}
            Err(Failure::Refused(reason)) => *self.refused.entry(format!("{key}: {reason}")).or_default() += 1,
            Err(other) => {
                let entry = self.findings.entry(key.to_owned()).or_insert_with(|| (0, format!("seed {seed}: {other}")));
                entry.0 += 1;
            }
        }
    }

    fn finish(self, what: &str) {
        println!("{what}: {}", self.bench.tally);
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
    let mut run = Run::new();
    let shapes = Shapes::all();
    let only = std::env::var("REDMAGIC_FUZZ_ONLY").unwrap_or_default();
    for (number, &code) in shapes.codes.iter().enumerate() {
        if !format!("{code:?}").contains(&only) {
            continue;
        }
        for round in 0..4 * scale() {
            let case = seed() + (round << 16) + number as u64;
            let mut rng = Rng::new(case);
            let places = run.bench.places;
            if let Some(inst) = shapes.instruction_of(code, &places, &mut rng) {
                let result = run.bench.single(&inst, 8, &mut rng);
                run.note(&format!("{code:?}"), case, result);
            }
        }
    }
    run.finish("shapes");
}

#[test]
fn blocks_agree_with_the_hardware() {
    let mut run = Run::new();
    for round in 0..400 * scale() {
        let case = seed() + round;
        let result = run.bench.block(None, &mut Rng::new(case));
        run.note("block", case, result);
    }
    run.finish("blocks");
}

#[test]
fn optimised_blocks_agree_with_the_hardware() {
    let mut run = Run::new();
    let names: Vec<_> = Pipeline::names().collect();
    for round in 0..400 * scale() {
        let case = seed() + round;
        let mut rng = Rng::new(case ^ 0x5eed);
        let list: Vec<_> = (0..1 + rng.below(6)).map(|_| *rng.pick(&names)).collect();
        let pipeline = if rng.one_in(2) { Pipeline::default() } else { Pipeline::parse(&list.join(",")).unwrap() };
        let result = run.bench.block(Some(&pipeline), &mut Rng::new(case));
        run.note(&format!("passes={pipeline}"), case, result);
    }
    run.finish("optimised blocks");
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
    let mut run = Run::new();
    let code = real_code();
    assert!(!code.is_empty());
    let places = run.bench.places;
    let default = Pipeline::default();
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
        let insts = run.bench.blocks.adapted(&real, &places, &mut rng);
        let passes = rng.one_in(2).then_some(&default);
        if !insts.is_empty() {
            let result = run.bench.compare_block(&insts, passes, &mut rng);
            run.note("real code", case, result);
        }
    }
    run.finish("blocks of real code");
}

#[test]
fn every_guard_leaves_the_state_of_the_hardware() {
    let mut run = Run::new();
    let default = Pipeline::default();
    for round in 0..400 * scale() {
        let case = seed() + round;
        for (key, passes) in [("sweep", None), ("optimised sweep", Some(&default))] {
            let result = run.bench.sweep(passes, &mut Rng::new(case));
            run.note(key, case, result);
        }
    }
    run.finish("exit sweep");
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
    for (from, to) in pairs {
        let mut bench = Bench::new();
        let noticed = (0..2000).any(|case| {
            let mut rng = Rng::new(case);
            let start = bench.executor.block_address();
            let insts = bench.blocks.block(8, start, &bench.places, &mut rng);
            let starts = bench.block_starts(1, &mut rng);
            let change = |trace: &mut Trace| {
                for value in trace.insts.keys().collect::<Vec<_>>() {
                    if trace.insts[value].op == from {
                        trace.insts[value].op = to;
                    }
                }
            };
            let Bench { executor, backend, tally, .. } = &mut bench;
            let Ok(Some(case)) = Case::new(executor, backend, &insts, &starts[0], &change, tally) else { return false };
            case.check(executor, &starts[0], tally).is_err()
        });
        assert!(noticed, "{} in the place of {} goes unnoticed", to.name(), from.name());
    }
}

/// Compares as lifted, and optimised.
fn compare_both(bench: &mut Bench, insts: &[iced_x86::Instruction], starts: &[Snapshot]) {
    let passes = Pipeline::default();
    for passes in [None, Some(&passes)] {
        bench.compare(insts, passes, None, starts).unwrap_or_else(|failure| panic!("{failure}"));
    }
}

/// `rep movs` and `rep stos` up to the greatest count that is lifted, and beyond; with areas that overlap.
#[test]
fn repeated_moves_agree_with_the_hardware() {
    use iced_x86::{Code, Instruction, Register, RepPrefixKind};
    let mut bench = Bench::new();
    let (none, places) = (RepPrefixKind::None, bench.places);
    for count in [0, 1, 2, 3, 16, 17, 127, 128, 129] {
        for kind in 0..8 {
            let mut string = match kind {
                0 => Instruction::with_movsb(64, Register::None, none),
                1 => Instruction::with_movsw(64, Register::None, none),
                2 => Instruction::with_movsd(64, Register::None, none),
                3 => Instruction::with_movsq(64, Register::None, none),
                4 => Instruction::with_stosb(64, none),
                5 => Instruction::with_stosw(64, none),
                6 => Instruction::with_stosd(64, none),
                _ => Instruction::with_stosq(64, none),
            }
            .unwrap();
            string.set_has_rep_prefix(true);
            let insts = [Instruction::with2(Code::Mov_r32_imm32, Register::ECX, count).unwrap(), string];
            let mut rng = Rng::new((count * 8 + kind) as u64);
            let mut starts = bench.block_starts(20, &mut rng);
            for start in &mut starts {
                let near = places.arena + 512 + rng.below(256) as u64;
                start.state.gpr[6] = near;
                let distance = if rng.one_in(2) { 32 } else { 1200 };
                start.state.gpr[7] = near - 16 + rng.below(distance) as u64;
            }
            compare_both(&mut bench, &insts, &starts);
        }
    }
    // Only those with 129 rounds are executed verbatim.
    assert_eq!(bench.tally.natives, 16);
    assert!(bench.tally.compared > 2_000, "{}", bench.tally);
}

/// How compilers clear a structure at rdx: its first and last words, then what is between them from an aligned address on.
/// Where it was aligned when recorded, the trace is for aligned ones.
#[test]
fn cleared_structures_agree_with_the_hardware() {
    use iced_x86::code_asm::*;
    let mut bench = Bench::new();
    let data = bench.places.arena + 512;
    for words in [1, 2, 5, 40, 127, 128, 129] {
        for first in 0..16 {
            let mut a = CodeAssembler::new(64).unwrap();
            a.mov(qword_ptr(rdx), 0).unwrap();
            a.mov(qword_ptr(rdx + 8 * words), 0).unwrap();
            a.xor(eax, eax).unwrap();
            a.lea(rdi, qword_ptr(rdx + 8)).unwrap();
            a.mov(rcx, rdx).unwrap();
            a.and(rdi, -8).unwrap();
            a.sub(rcx, rdi).unwrap();
            a.add(ecx, 8 * words + 8).unwrap();
            a.shr(ecx, 3).unwrap();
            a.rep().stosq().unwrap();
            let insts = a.instructions().to_vec();
            let mut starts = bench.block_starts(16, &mut Rng::new(first));
            for (start, offset) in starts.iter_mut().zip(first..) {
                start.state.gpr[2] = data + offset % 16;
            }
            let natives = bench.tally.natives;
            compare_both(&mut bench, &insts, &starts);
            let lifted = first % 8 == 0 && words <= 128;
            assert_eq!(bench.tally.natives - natives, if lifted { 0 } else { 2 }, "{words} words from {first}");
        }
    }
    assert!(bench.tally.compared > 2_000, "{}", bench.tally);
}

/// Comparisons that end after any number of rounds, in memory of two different bytes.
#[test]
fn repeated_comparisons_agree_with_the_hardware() {
    use iced_x86::{Code, Instruction, Register, RepPrefixKind};
    let mut bench = Bench::new();
    let (none, places) = (RepPrefixKind::None, bench.places);
    for count in 0..=17 {
        for kind in 0..16 {
            let mut string = match kind % 8 {
                0 => Instruction::with_cmpsb(64, Register::None, none),
                1 => Instruction::with_cmpsw(64, Register::None, none),
                2 => Instruction::with_cmpsd(64, Register::None, none),
                3 => Instruction::with_cmpsq(64, Register::None, none),
                4 => Instruction::with_scasb(64, none),
                5 => Instruction::with_scasw(64, none),
                6 => Instruction::with_scasd(64, none),
                _ => Instruction::with_scasq(64, none),
            }
            .unwrap();
            string.set_has_rep_prefix(kind < 8);
            string.set_has_repne_prefix(kind >= 8);
            let insts = [Instruction::with2(Code::Mov_r32_imm32, Register::ECX, count).unwrap(), string];
            let mut rng = Rng::new((count * 16 + kind) as u64);
            let mut starts = bench.block_starts(40, &mut rng);
            for start in &mut starts {
                let rare = 1 + rng.below(40);
                start.arena.iter_mut().for_each(|byte| *byte = u8::from(rng.one_in(rare)));
                for register in [6, 7] {
                    start.state.gpr[register] = places.arena + 512 + rng.below(512) as u64;
                }
                start.state.gpr[0] = u64::from(rng.one_in(2));
            }
            compare_both(&mut bench, &insts, &starts);
        }
    }
    // Only those with 17 rounds are executed verbatim.
    assert_eq!(bench.tally.natives, 32);
    assert!(bench.tally.compared > 20_000, "{}", bench.tally);
}

/// A register that an exit wrongly calls undefined is found at the end of the block.
#[test]
fn what_an_exit_forgets_is_noticed_behind_it() {
    let mut bench = Bench::new();
    let noticed = (0..2000).filter(|case| {
        let mut rng = Rng::new(*case);
        let start = bench.executor.block_address();
        let insts = bench.blocks.block(12, start, &bench.places, &mut rng);
        let starts = bench.block_starts(1, &mut rng);
        let forced = Cell::new(None);
        let change = |trace: &mut Trace| {
            let Some(exit) = force(trace, 0) else { return };
            let general = |slot: &(Slot, ExitValue)| slot.0.as_gpr().is_some() && slot.0 != Slot::RSP;
            if let Some(slot) = trace.exits[exit].slots.iter_mut().find(|slot| general(slot)) {
                slot.1 = ExitValue::Undefined;
                forced.set(Some(exit));
            }
        };
        let Bench { executor, backend, tally, .. } = &mut bench;
        let Ok(Some(case)) = Case::new(executor, backend, &insts, &starts[0], &change, tally) else { return false };
        let failure = forced.get().and_then(|exit| case.check_forced(executor, &starts[0], exit, tally).err());
        failure.is_some_and(|failure| failure.to_string().contains("at the end of the block"))
    });
    assert!(noticed.count() > 20);
}
