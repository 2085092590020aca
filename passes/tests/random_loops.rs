//! Random loops of one segment: the nest that `loops` makes of them does the same, iteration by iteration.
//!
//! The generator executes what it generates, so that notes of the recording agree with one first iteration, and guards
//! hold there. The guests that the loops then run on differ from the recorded one in what matters to the pass: pointers
//! that were apart overlap, pointers that were equal are not, pointers in memory lead elsewhere, and loops run once or
//! thousands of times.
//!
//! `RANDOM_LOOPS=n` runs n seeds, `RANDOM_FIRST=n` starts with seed n.

mod common;
#[path = "random_loops/generator.rs"]
mod generator;
#[path = "random_loops/world.rs"]
mod world;

use common::optimised;
use generator::Generator;
use redmagic_ir::eval::{Guest, Machine, Outcome};
use redmagic_ir::sandbox::{Choices, mix};
use redmagic_ir::*;
use redmagic_passes::Pipeline;
use std::collections::BTreeMap;
use world::{ARENA, ARENA_BYTES, RED_ZONE, STACK, STACK_BYTES, STACK_START, World, world};

/// Where a run ended.
struct End {
    exit: Exit,
    world: World,
    executed: u64,
}

fn run(trace: &Trace, start: &World, fuel: u64) -> Option<End> {
    let mut world = start.clone();
    let mut machine = Machine::new(trace);
    let mut outcome = machine.enter(trace, &mut world, fuel).ok()?;
    while let Outcome::Call { resume, .. } = outcome {
        world.call();
        outcome = machine.resume(trace, resume, &mut world, fuel).ok()?;
    }
    match outcome {
        Outcome::Exit(exit) => Some(End { exit, world, executed: machine.executed() }),
        Outcome::Call { .. } | Outcome::OutOfFuel => None,
    }
}

/// Compares two ends; `dead_frames` if what lies below the stack pointer at entry is nobody's where all was popped.
fn compare(before: &Trace, after: &Trace, one: &End, two: &End, dead_frames: bool) -> Result<(), String> {
    let (exit, other) = (&before.exits[one.exit], &after.exits[two.exit]);
    if exit.pc != other.pc {
        return Err(format!("leaves to {:#x}, then {:#x}", exit.pc, other.pc));
    }
    for slot in Slot::all().filter(|slot| exit.get(*slot) != Some(ExitValue::Undefined)) {
        let (left, right) = (one.world.slot(slot), two.world.slot(slot));
        if left != right {
            return Err(format!("at {:#x}: {slot} is {left:#x}, then {right:#x}", exit.pc));
        }
    }
    let stack = one.world.slot(Slot::RSP);
    let dead_end = if dead_frames && stack == STACK { stack } else { stack - RED_ZONE };
    let live = (dead_end..STACK_START + STACK_BYTES).chain(ARENA..ARENA + ARENA_BYTES);
    let live: Box<dyn Iterator<Item = u64>> =
        if dead_frames { Box::new(live) } else { Box::new((STACK_START..dead_end).chain(live)) };
    for address in live.chain(one.world.other.keys().chain(two.world.other.keys()).copied()) {
        let (left, right) = (one.world.byte(address), two.world.byte(address));
        if left != right {
            return Err(format!("at {:#x}: the byte at {address:#x} is {left:#x}, then {right:#x}", exit.pc));
        }
    }
    Ok(())
}

/// Lists of passes to try with a seed.
fn lists(seed: u64) -> Vec<String> {
    let mut lists = vec![Pipeline::default().to_string(), "loops".to_owned()];
    let some = [
        "forward,loops,dce",
        "loops,forward,dce",
        "params,forward,flags,dce,loops,params,forward,flags,dce",
        "loops,params,fold,flags,dce",
        "flags,loops,loops",
    ];
    lists.push(some[seed as usize % some.len()].to_owned());
    if seed.is_multiple_of(4) {
        let names: Vec<_> = Pipeline::names().collect();
        let picked: Vec<_> = (0..6).map(|at| names[(mix(seed, at) >> 9) as usize % names.len()]).collect();
        lists.push(picked.join(","));
    }
    lists
}

#[test]
fn random_loops_keep_their_effects() {
    let from_env = |name| std::env::var(name).ok().and_then(|count| count.parse::<u64>().ok());
    let count = from_env("RANDOM_LOOPS").unwrap_or(150);
    let first = from_env("RANDOM_FIRST").unwrap_or(0);
    let (mut copied, mut compared, mut faster, mut framed) = (0, 0, 0, 0);
    let mut refusals: BTreeMap<&str, u32> = BTreeMap::new();
    for seed in first..first + count {
        let before = Generator::generate(seed, Choices::seeded(seed));
        if let Err(errors) = verify(&before) {
            panic!("seed {seed}: {errors:#?}\n{before}");
        }
        let runs: Vec<(World, End)> = (0..if seed.is_multiple_of(8) { 17 } else { 14 })
            .filter_map(|number| {
                let world = world(seed, number);
                let end = run(&before, &world, 1_000_000)?;
                Some((world, end))
            })
            .collect();
        for (at, list) in lists(seed).into_iter().enumerate() {
            let optimised = std::panic::catch_unwind(|| optimised(&before, &list));
            let (after, stats) = optimised.unwrap_or_else(|_| panic!("seed {seed}, passes {list}\n{before}"));
            let dead_frames = after.insts.values().any(|inst| inst.class == Class::Frame);
            if at == 0 {
                copied += u64::from(stats.loops_copied > 0);
                stats.loop_refusals.iter().for_each(|reason| *refusals.entry(reason).or_default() += 1);
            }
            framed += u64::from(dead_frames && stats.loops_copied > 0);
            for (number, (world, one)) in runs.iter().enumerate() {
                let fail = |text: String| {
                    panic!("seed {seed}, passes {list}, run {number}: {text}\nbefore:\n{before}\nafter:\n{after}")
                };
                let Some(two) = run(&after, world, 4_000_000) else { fail("no end".to_owned()) };
                // A guard that `forward` has put at the start: nothing has happened.
                if after.exits[two.exit].pc == before.start && after.exits.len() > before.exits.len() {
                    assert!(two.world == *world, "seed {seed}, passes {list}: {after}");
                    continue;
                }
                if let Err(text) = compare(&before, &after, one, &two, dead_frames) {
                    fail(text);
                }
                compared += 1;
                faster += u64::from(stats.loops_copied > 0 && one.executed > 200 && two.executed < one.executed);
            }
        }
    }
    println!("{count} loops, {copied} copied, {compared} runs compared, {faster} faster, {framed} with frames");
    println!("refusals: {refusals:?}");
    assert!(copied * 3 > count, "only {copied} of {count} loops were copied: {refusals:?}");
    assert!(faster > count / 4, "only {faster} runs gained");
}
