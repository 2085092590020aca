//! Every instruction of the corpus, from many states: hardware against compiled code, and against the evaluator.
//!
//! `REDMAGIC_FUZZ_STATES=n` sets the number of states for each instruction. The program `pairs` goes on for as long as one
//! likes.

use redmagic_fuzz::bench::Bench;
use redmagic_fuzz::corpus::Corpus;
use redmagic_fuzz::rng::Rng;
use std::collections::BTreeMap;

/// States for each instruction.
const STATES: u64 = 1000;
/// The evaluator takes part in one of so many.
const EVERY: u64 = 32;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Runs every second instruction of the corpus, from number `first` on. Two such tests share the machine's processors.
fn run(first: usize) {
    let corpus = Corpus::parse(include_str!("../corpus/instructions.txt"));
    assert!(corpus.len() > 4000, "only {} instructions", corpus.len());
    let mut bench = Bench::new();
    let states = setting("REDMAGIC_FUZZ_STATES", STATES);
    let seed = setting("REDMAGIC_FUZZ_SEED", 1) << 32;
    let mut left_out: BTreeMap<String, u64> = BTreeMap::new();
    let mut findings: BTreeMap<String, (u64, String)> = BTreeMap::new();
    for (number, inst) in corpus.instructions().enumerate().skip(first).step_by(2) {
        match bench.many(inst, states, EVERY, &mut Rng::new(seed + number as u64)) {
            Ok(true) => {}
            Ok(false) => *left_out.entry(format!("{:?}", inst.code())).or_default() += 1,
            Err(failure) => {
                let entry = findings.entry(format!("{:?}", inst.code())).or_insert_with(|| (0, failure.to_string()));
                entry.0 += 1;
            }
        }
    }
    println!("harvested instructions: {}\nleft out: {left_out:?}", bench.tally);
    for (key, (count, example)) in findings.iter().take(8) {
        println!("---- {key}, {count} times, for example {example}");
    }
    let keys: Vec<_> = findings.iter().map(|(key, (count, _))| format!("{key} ({count})")).collect();
    assert!(keys.is_empty(), "{} kinds of differences: {}", keys.len(), keys.join(", "));
    let missing: u64 = left_out.values().sum();
    assert!(missing * 50 < corpus.len() as u64, "{missing} instructions could not be executed");
}

#[test]
fn even_instructions_agree_with_the_hardware() {
    run(0);
}

#[test]
fn odd_instructions_agree_with_the_hardware() {
    run(1);
}
