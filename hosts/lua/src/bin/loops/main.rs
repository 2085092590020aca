//! What is left of twelve loops of Lua: what the passes make of one iteration, counted, beside what an ideal tracer would
//! leave.
//!
//! Every script of `hosts/lua/loops` runs in `redmagic-lua`, which leaves a file about the trace of its loop. The lifted
//! trace in it, with its addresses brought into a form that does not depend on where the program was loaded, is optimised
//! here. `--write` also makes it a text test in `tests/filetests/loops`, so that what becomes of it is checked without
//! Lua; `BLESS=1 cargo test --test filetests loops` then writes what is expected.
//!
//! ```text
//! cargo build --release -p redmagic-lua && target/release/loops             the table
//! target/release/loops --write                                            and the tests
//! target/release/loops --details                                          what each weight consists of
//! target/release/loops --programs                                         what is left of the traces of all programs
//! ```
//!
//! # The ideal
//! The figures to compare with are counts of x86 instructions that a small symbolic optimiser has left of recordings of the same
//! loops: within one iteration, knowing that the C stack, the interpreter's stack and its records are apart; and over all
//! iterations, with all memory known to be apart, pointers that were equal assumed to be, and stores in the exits.

mod addresses;
mod state;
mod whole;

use redmagic_ir::{Trace, parse_one, verify};
use redmagic_passes::{Pipeline, loop_weight, optimise};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A loop, its recorded instructions in the study, and the ideal figures: within an iteration, over all iterations.
const LOOPS: [(&str, u32, u32, u32); 12] = [
    ("int_sum", 67, 19, 6),
    ("float_sum", 71, 24, 6),
    ("array_sum", 113, 35, 16),
    ("array_write", 78, 26, 13),
    ("fields", 350, 106, 6),
    ("global", 191, 56, 6),
    ("call", 234, 112, 5),
    ("closure", 285, 148, 6),
    ("method", 532, 312, 6),
    ("floor", 339, 114, 23),
    ("byte_scan", 513, 159, 16),
    ("nbody", 1843, 427, 134),
];

/// Why a loop could not be looked at.
enum Failure {
    /// A file or a process.
    Io(String, std::io::Error),
    /// The program failed.
    Program(String, String),
    /// There is no trace of a loop.
    NoTrace(String),
    /// The text of the trace is not as it should be.
    Text(String, String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Io(what, error) => write!(f, "{what}: {error}"),
            Failure::Program(name, errors) => write!(f, "{name}: the program failed: {errors}"),
            Failure::NoTrace(name) => write!(f, "{name}: no trace of a loop"),
            Failure::Text(name, error) => write!(f, "{name}: {error}"),
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Err(failure) = run(&arguments) {
        eprintln!("loops: {failure}");
        std::process::exit(1);
    }
}

fn run(arguments: &[String]) -> Result<(), Failure> {
    let has = |option: &str| arguments.iter().any(|argument| argument == option);
    if has("--programs") {
        return whole::table();
    }
    println!("| loop | recorded | straight line | ideal | with loops | ideal | strip, alias checks |");
    println!("|---|---|---|---|---|---|---|");
    let mut details = String::new();
    for (name, _, within, over) in LOOPS {
        let trace = record(name)?;
        if has("--write") {
            write_test(name, &trace)?;
        }
        let recorded = trace.recorded_instructions;
        let mut columns = Vec::new();
        for (passes, ideal) in [(Pipeline::default().without("loops"), within), (Pipeline::default(), over)] {
            let mut after = trace.trace.clone();
            optimise(&mut after, &passes);
            let weight = loop_weight(&after).ok_or_else(|| Failure::NoTrace(name.to_owned()))?;
            details += &format!("{name}: {weight}\n");
            columns.push((weight, ideal));
        }
        let [(straight, within), (looped, over)] = columns[..] else { continue };
        let (strip, checks) = (looped.strip, looped.alias_checks);
        println!(
            "| {name} | {recorded} | {} | {within} | {} | {over} | {strip}, {checks} |",
            straight.total(),
            looped.total()
        );
    }
    if has("--details") {
        print!("\n{details}");
    }
    Ok(())
}

/// A lifted trace.
struct Recorded {
    trace: Trace,
    recorded_instructions: usize,
}

/// Runs `redmagic-lua`, with the arguments that `add` adds, and reads the files that it leaves about its traces.
fn command(name: &str, add: impl FnOnce(&mut Command)) -> Result<Vec<String>, Failure> {
    let io = |what: &Path| {
        let what = what.display().to_string();
        move |error| Failure::Io(what, error)
    };
    let exe = std::env::current_exe().map_err(io(Path::new("this program")))?;
    let dumps = std::env::temp_dir().join(format!("redmagic-loops-{}", std::process::id()));
    let mut command = Command::new(exe.with_file_name("redmagic-lua"));
    for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("REDMAGIC")) {
        command.env_remove(variable);
    }
    command
        .env("LUA_HASH_SEED", "1")
        .env("REDMAGIC_COMPILE_SHARE", "0")
        .env("REDMAGIC_DUMP", &dumps)
        .stdin(Stdio::null());
    add(&mut command);
    let output = command.output().map_err(io(Path::new(name)))?;
    let texts = std::fs::read_dir(&dumps).map(|entries| {
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        paths.into_iter().filter_map(|path| std::fs::read_to_string(path).ok()).collect::<Vec<_>>()
    });
    // There is nothing to do about a folder that cannot be removed.
    let _ = std::fs::remove_dir_all(&dumps);
    if !output.status.success() {
        return Err(Failure::Program(name.to_owned(), String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    // A program that makes no trace leaves no folder.
    Ok(texts.unwrap_or_default())
}

/// The section of a file about a trace that has this title.
fn sections<'t>(text: &'t str, title: &str) -> &'t str {
    let begin = text.split_once(&format!("==== {title}\n")).map_or("", |(_, rest)| rest);
    begin.split("\n==== ").next().unwrap_or(begin)
}

/// Runs the script and reads what it leaves about its loop.
fn record(name: &str) -> Result<Recorded, Failure> {
    let texts = command(name, |command| {
        // The scripts repeat their loops 100 times, and nothing else more than 50 times.
        command.arg(folder().join("loops").join(format!("{name}.lua"))).env("REDMAGIC_HOT_LOOP", "60");
    })?;
    let is_first = |text: &String| text.contains("\ntrace 0: ops");
    let text = texts.into_iter().find(is_first).ok_or_else(|| Failure::NoTrace(name.to_owned()))?;
    let section = |title: &str| sections(&text, title);
    let named =
        section("lifted").replacen(section("lifted").lines().next().unwrap_or(""), &title(name, section("lifted")), 1);
    let normal = addresses::normalise(&named, section("memory"));
    let wrong = |error: String| Failure::Text(name.to_owned(), error);
    let trace = parse_one(&normal).map_err(|error| wrong(error.to_string()))?;
    verify(&trace).map_err(|errors| wrong(errors.first().map_or_else(String::new, ToString::to_string)))?;
    Ok(Recorded { trace, recorded_instructions: section("recorded").lines().filter(|line| !line.is_empty()).count() })
}

/// The first line of a trace, with the loop's name.
fn title(name: &str, lifted: &str) -> String {
    let first = lifted.lines().next().unwrap_or("");
    let start = first.rsplit_once('@').map_or("", |(_, start)| start);
    format!("trace {name} @{start}")
}

/// Makes the trace a text test; what it expects is written by the test itself.
fn write_test(name: &str, recorded: &Recorded) -> Result<(), Failure> {
    let path = folder().join("../../tests/filetests/loops").join(format!("{name}.tir"));
    let script = std::fs::read_to_string(folder().join("loops").join(format!("{name}.lua")));
    let script = script.map_err(|error| Failure::Io(name.to_owned(), error))?;
    let comment: String = script.lines().map(|line| format!(";     {line}\n")).collect();
    let text = format!(
        "; test: loop\n; One iteration of the loop in\n{comment}; {}\n{}",
        state::run_line(&recorded.trace),
        recorded.trace
    );
    std::fs::create_dir_all(path.parent().unwrap_or(&path))
        .and_then(|()| std::fs::write(&path, text))
        .map_err(|error| Failure::Io(path.display().to_string(), error))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
