//! Every instruction of the corpus, from many states: hardware against evaluator against compiled code.
//!
//! `REDMAGIC_FUZZ_STATES=n` sets the number of states for each instruction; 100 and more make a soak.

use redmagic_backend::{Backend, Options};
use redmagic_fuzz::corpus::{Corpus, placed};
use redmagic_fuzz::native::Executor;
use redmagic_fuzz::oracle::{Case, Failure, Tally};
use redmagic_fuzz::place::{DF, place};
use redmagic_fuzz::record::Snapshot;
use redmagic_fuzz::rng::Rng;
use redmagic_fuzz::shapes::Places;
use redmagic_fuzz::values;
use std::collections::BTreeMap;

/// States that are compared at once.
const BATCH: usize = 32;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Runs every second instruction of the corpus, from number `first` on. Two such tests share the machine's processors.
fn run(first: usize) {
    let corpus = Corpus::parse(include_str!("../corpus/instructions.txt"));
    assert!(corpus.len() > 4000, "only {} instructions", corpus.len());
    let mut executor = Executor::new().unwrap();
    let places = Places { arena: executor.arena_address(), pads: std::array::from_fn(|pad| executor.pad_address(pad)) };
    let mut backend = Backend::new(&Options { verify: true, dump: false }).unwrap();
    let states = setting("REDMAGIC_FUZZ_STATES", 32) as usize;
    let seed = setting("REDMAGIC_FUZZ_SEED", 1) << 32;
    let mut tally = Tally::default();
    let mut left_out: BTreeMap<String, u64> = BTreeMap::new();
    let mut findings: BTreeMap<String, (u64, String)> = BTreeMap::new();
    for (number, inst) in corpus.instructions().enumerate().skip(first).step_by(2) {
        let mut rng = Rng::new(seed + number as u64);
        let mut instruction = || -> Result<bool, Failure> {
            let Some(inst) = placed(inst, &places, &mut rng) else { return Ok(false) };
            let inst = executor.load(&[inst]).map_err(Failure::Load)?[0];
            let mut case = None;
            let mut done = 0;
            let mut memory = *executor.arena();
            values::memory(&mut rng, &mut memory);
            let mut attempts = 0;
            while done < states && attempts < 4 * states {
                let mut starts = Vec::with_capacity(BATCH);
                for _ in 0..BATCH.min(states - done) {
                    attempts += 1;
                    let mut start = Snapshot { state: values::state(&mut rng), arena: memory };
                    if place(&inst, &mut start.state, &mut start.arena, &places, &mut rng) {
                        start.state.flags &= !DF;
                        starts.push(start);
                    }
                }
                done += starts.len();
                for start in &starts {
                    if case.is_none() {
                        case = Case::new(&mut executor, &mut backend, &[inst], start, &|_| (), &mut tally)?;
                    }
                }
                if let Some(case) = &case {
                    case.check_all(&mut executor, &starts, &mut tally)?;
                }
            }
            Ok(case.is_some())
        };
        match instruction() {
            Ok(true) => {}
            Ok(false) => *left_out.entry(format!("{:?}", inst.code())).or_default() += 1,
            Err(failure) => {
                let entry = findings.entry(format!("{:?}", inst.code())).or_insert_with(|| (0, failure.to_string()));
                entry.0 += 1;
            }
        }
    }
    println!("harvested instructions: {tally}\nleft out: {left_out:?}");
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
