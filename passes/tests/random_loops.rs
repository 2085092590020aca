//! Random loops of one segment: the nest that `loops` makes of them does the same, iteration by iteration.
//!
//! The generator executes what it generates, so that notes of the recording agree with one first iteration, and guards
//! hold there. The guests that the loops then run on differ from the recorded one in what matters to the pass: pointers
//! that were apart overlap, pointers that were equal are not, pointers in memory lead elsewhere, and loops run once or
//! thousands of times.
//!
//! `RANDOM_LOOPS=n` runs n seeds, `RANDOM_FIRST=n` starts with seed n.

mod common;
#[path = "random_loops/compare.rs"]
mod compare;
#[path = "random_loops/generator.rs"]
mod generator;
#[path = "random_loops/world.rs"]
mod world;

use common::optimised;
use compare::{End, compare, run};
use generator::Generator;
use redmagic_ir::sandbox::{Choices, mix};
use redmagic_ir::*;
use redmagic_passes::Pipeline;
use std::collections::BTreeMap;
use world::{World, world};

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
