//! Every program in `programs/` prints the same with and without traces, whenever its loops become hot.
//!
//! The reference is the unpatched Lua; it is compared with the annotated one switched off, with thresholds 1, 2, 50 and a
//! random one, every compiled trace being checked against its recording (`REDMAGIC_CHECK=1`), with 2 and the random one
//! also against native execution (`REDMAGIC_CHECK=2`). The numeric programs also run with the evaluator in place of machine
//! code (`REDMAGIC_BACKEND=eval`). `REDMAGIC_TEST_SEED=n` repeats a run that printed `seed n`: its random thresholds, and
//! where Lua's hash tables put their keys, on which the shape of traces depends.

#[path = "../src/programs.rs"]
mod programs;

use programs::Program;
use std::fs::File;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

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

/// Two processes at a time, so that a test run leaves a small machine usable.
const PARALLEL: usize = 2;

/// Longer than any program takes in any configuration.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// One process to run: a program with these settings.
struct Job<'a> {
    program: &'a Program,
    settings: Vec<(&'static str, String)>,
}

/// What a process did.
#[derive(Debug, PartialEq)]
struct Outcome {
    status: Option<ExitStatus>,
    output: String,
    errors: String,
}

#[test]
fn every_program_gives_its_sizes() {
    let programs = programs::all().unwrap();
    assert!(programs.len() >= 27, "only {} programs", programs.len());
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
    let programs = programs::all().unwrap();
    let mut jobs = Vec::new();
    for (index, program) in programs.iter().enumerate() {
        jobs.push(Job { program, settings: vec![("REDMAGIC", "off".into())] });
        let random = 1 + mix(seed.wrapping_add(index as u64)) % 200;
        for (threshold, check) in [(1, "1"), (2, "2"), (50, "1"), (random, "2")] {
            jobs.push(Job { program, settings: hot(threshold, "REDMAGIC_CHECK", check) });
        }
        // Checks lift the limit on the time for compiling; without them, what is postponed has to go on as well.
        jobs.push(Job { program, settings: hot(1, "REDMAGIC_COMPILE_SHARE", "1") });
        if NUMERIC.contains(&program.name.as_str()) {
            jobs.push(Job { program, settings: hot(2, "REDMAGIC_BACKEND", "eval") });
        }
    }
    let references = in_parallel(&programs, |program| {
        let outcome = run(env!("CARGO_BIN_EXE_plain-lua"), program, &[], seed);
        assert_eq!(outcome.status.and_then(|status| status.code()), Some(0), "{}: {}", program.name, outcome.errors);
        (program.name.clone(), outcome)
    });
    let failures = in_parallel(&jobs, |job| {
        let actual = run(env!("CARGO_BIN_EXE_redmagic-lua"), job.program, &job.settings, seed);
        let (_, expected) = references.iter().find(|(name, _)| *name == job.program.name).unwrap();
        (actual != *expected).then(|| format!("{} {:?}\n{actual:#?}", job.program.name, job.settings))
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

/// Settings under which loops become hot early. A check that fails shows in the errors, where the reference has none.
fn hot(threshold: u64, name: &'static str, value: &str) -> Vec<(&'static str, String)> {
    let log = ("REDMAGIC_LOG", "1".to_owned());
    vec![("REDMAGIC_HOT_LOOP", threshold.to_string()), log, (name, value.to_owned())]
}

fn seed() -> u64 {
    let given = std::env::var("REDMAGIC_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos().into())
}

/// One step of the splitmix64 generator.
fn mix(state: u64) -> u64 {
    let z = state.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The results of `work` on every item, in any order.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = work(item);
                    results.lock().unwrap().push(result);
                }
            });
        }
    });
    results.into_inner().unwrap()
}

/// Runs a program at its size for tests. A process that does not end in time has no status.
fn run(lua: &str, program: &Program, settings: &[(&'static str, String)], seed: u64) -> Outcome {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let number = RUNS.fetch_add(1, Ordering::Relaxed);
    let file = |what: &str| {
        let name = format!("{}-{number}-{what}", program.name);
        std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
    };
    let (output, errors) = (file("output"), file("errors"));
    let mut command = Command::new(lua);
    // A relative name, because error messages that programs print hold it.
    command.current_dir(program.path.parent().unwrap()).arg(program.path.file_name().unwrap());
    command.arg(program.size("test").unwrap().to_string());
    command
        .env_remove("REDMAGIC")
        .env("LUA_HASH_SEED", seed.to_string())
        .envs(settings.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(File::create(&output).unwrap()).stderr(File::create(&errors).unwrap());
    let mut child = command.spawn().unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() && start.elapsed() < TIME_LIMIT {
        std::thread::sleep(Duration::from_millis(2));
    }
    let in_time = child.try_wait().unwrap().is_some();
    if !in_time {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    let read = |path: &std::path::Path| {
        let text = String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
        std::fs::remove_file(path).unwrap();
        text
    };
    Outcome { status: in_time.then_some(status), output: read(&output), errors: read(&errors) }
}
