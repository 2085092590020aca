//! Every program in `programs/` prints the same with and without traces, whenever its loops become hot.
//!
//! The reference is the unpatched Lua; it is compared with the annotated one switched off, with thresholds 1, 2, 50 and a
//! random one, every compiled trace being checked against its recording (`REDMAGIC_CHECK=1`), with 2 and the random one
//! also against native execution (`REDMAGIC_CHECK=2`), and with 2 some programs at every exit (`REDMAGIC_CHECK=3`). The
//! numeric programs also run with the evaluator in place of machine code (`REDMAGIC_BACKEND=eval`). `REDMAGIC_TEST_SEED=n` repeats a run that printed `seed n`: its random thresholds, and
//! where Lua's hash tables put their keys, on which the shape of traces depends. All programs also run with each pass of the
//! optimiser left out, and with random lists of passes (`REDMAGIC_PASSES`).

use lua_runs::programs::{self, Program};
use lua_runs::runs::{Lua, Outcome, Run, Settings, in_parallel, mix, seed};
use redmagic_passes::{Pass, Pipeline};
use std::time::Duration;

/// Programs whose loops do little but arithmetic and table accesses.
const NUMERIC: [&str; 13] = [
    "array_sum",
    "array_write",
    "empty_loop",
    "fannkuch",
    "float_sum",
    "int_sum",
    "mandelbrot",
    "matrix_product",
    "nbody",
    "queens",
    "sieve",
    "spectral_norm",
    "while_mod",
];

/// Programs whose traces are left at every guard: loops, calls, tables, strings, closures, floats.
const SWEPT: [&str; 10] = [
    "closure_calls",
    "fannkuch",
    "field_access",
    "float_sum",
    "int_sum",
    "mandelbrot",
    "method_calls",
    "sieve",
    "strings",
    "while_mod",
];

/// Two processes at a time, so that a test run leaves a small machine usable.
const PARALLEL: usize = 2;

/// Longer than any program takes in any configuration.
const TIME_LIMIT: Duration = Duration::from_secs(120);

#[test]
fn every_program_gives_its_sizes() {
    let programs = programs::all().unwrap();
    assert!(programs.len() >= 38, "only {} programs", programs.len());
    for program in &programs {
        assert!(program.size("test").is_some(), "{} gives no size for tests", program.name);
        assert!(program.size("idle").is_some(), "{} gives no size for idle-cost", program.name);
    }
    for name in NUMERIC {
        assert!(programs.iter().any(|program| program.name == name), "no program {name}");
    }
}

#[test]
fn traces_change_nothing() {
    let seed = seed();
    println!("seed {seed}");
    let lua = Lua::new(env!("CARGO_BIN_EXE_plain-lua"), env!("CARGO_BIN_EXE_redmagic-lua"));
    let programs = programs::all().unwrap();
    let mut jobs: Vec<(&Program, Settings)> = Vec::new();
    for (index, program) in programs.iter().enumerate() {
        jobs.push((program, Settings::off()));
        let random = 1 + mix(seed.wrapping_add(index as u64)) % 200;
        // Every exit of every trace, in a process of its own.
        if SWEPT.contains(&program.name.as_str()) {
            jobs.push((program, Settings::hot(2).with("CHECK", 3)));
        }
        for (threshold, check) in [(1, 1), (2, 2), (50, 1), (random, 2)] {
            jobs.push((program, Settings::hot(threshold).with("CHECK", check)));
        }
        // Checks lift the limit on the time for compiling; without them, what is postponed has to go on as well.
        jobs.push((program, Settings::hot(1).with("COMPILE_SHARE", 1)));
        if NUMERIC.contains(&program.name.as_str()) {
            jobs.push((program, Settings::hot(2).with("BACKEND", "eval")));
        }
    }
    compare(&lua, &programs, &jobs, seed);
}

/// Every pass of the optimiser can be left out, and any number of them.
#[test]
fn traces_change_nothing_whatever_the_passes() {
    let seed = seed();
    println!("seed {seed}");
    let lua = Lua::new(env!("CARGO_BIN_EXE_plain-lua"), env!("CARGO_BIN_EXE_redmagic-lua"));
    let programs = programs::all().unwrap();
    let all = Pipeline::default();
    let names: Vec<&str> = all.passes().map(Pass::name).collect();
    let mut lists: Vec<String> = Pipeline::names().map(|name| all.without(name).to_string()).collect();
    lists.sort();
    lists.dedup();
    let mut jobs: Vec<(&Program, Settings)> = Vec::new();
    for (index, program) in programs.iter().enumerate() {
        lists.iter().for_each(|list| jobs.push((program, Settings::hot(2).with("PASSES", list))));
        for number in 0..2 {
            let bits = mix(seed ^ (2 * index as u64 + number));
            let some: Vec<&str> = (0..names.len()).filter(|at| bits >> at & 1 == 1).map(|at| names[at]).collect();
            jobs.push((program, Settings::hot(1 + bits % 50).with("PASSES", some.join(","))));
        }
    }
    compare(&lua, &programs, &jobs, seed);
}

#[test]
fn traces_change_nothing_in_lua_5_5_either() {
    let seed = seed();
    println!("seed {seed}");
    let lua = Lua::new(env!("CARGO_BIN_EXE_plain-lua55"), env!("CARGO_BIN_EXE_redmagic-lua55"));
    let programs = programs::all().unwrap();
    let mut jobs: Vec<(&Program, Settings)> = Vec::new();
    for (index, program) in programs.iter().enumerate() {
        let random = 1 + mix(seed.wrapping_add(index as u64)) % 200;
        for threshold in [1, 2, 50, random] {
            jobs.push((program, Settings::hot(threshold).with("CHECK", 1)));
        }
    }
    compare(&lua, &programs, &jobs, seed);
}

/// Runs all `programs` without the patch and all `jobs` with it.
fn compare(lua: &Lua, programs: &[Program], jobs: &[(&Program, Settings)], seed: u64) {
    let references = in_parallel(PARALLEL, programs, |program| {
        let outcome = finish(program, lua.plain(&program.path, seed));
        assert!(outcome.good(), "{}: {outcome:?}", program.name);
        (program.name.clone(), outcome)
    });
    let failures = in_parallel(PARALLEL, jobs, |(program, settings)| {
        let actual = finish(program, lua.traced(&program.path, seed, settings));
        let (_, expected) = references.iter().find(|(name, _)| *name == program.name).unwrap();
        (actual != *expected).then(|| format!("{} {settings}\n{actual:?}", program.name))
    });
    let failures: Vec<String> = failures.into_iter().flatten().collect();
    assert!(
        failures.is_empty(),
        "seed {seed}: {} of {} runs differ from the unpatched Lua:\n{}",
        failures.len(),
        jobs.len(),
        failures.join("\n")
    );
}

/// Runs a program at its size for tests.
fn finish(program: &Program, run: Run) -> Outcome {
    run.arguments(&[program.size("test").unwrap().to_string()]).finish(TIME_LIMIT).unwrap()
}
