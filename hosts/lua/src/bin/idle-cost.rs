//! What the annotations cost a Lua that does not use them, in executed instructions, which do not vary as times do.
//!
//! Every program runs under `valgrind --tool=callgrind` in `plain-lua` and in `redmagic-lua` with `REDMAGIC=off`; the
//! instructions of an empty script are subtracted from both. Then the empty loop runs with the library watching for
//! loops that never get hot, which gives the instructions per back edge.
//!
//! ```text
//! cargo build -p redmagic-lua && target/debug/idle-cost            all programs
//! target/debug/idle-cost sieve nbody                               some of them
//! ```

use lua_runs::programs::{self, Program};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A threshold that no loop reaches.
const NEVER_HOT: &str = "1000000000";

/// Why a measurement was not possible.
enum Failure {
    /// A file or a process.
    Io(String, std::io::Error),
    /// The program under valgrind did not end well.
    Child(String),
    /// Valgrind's report has no total.
    NoTotal(String),
    /// A program does not say its size.
    NoSize(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Io(what, error) => write!(f, "{what}: {error}"),
            Failure::Child(text) => write!(f, "the program failed under valgrind:\n{text}"),
            Failure::NoTotal(text) => write!(f, "no total in valgrind's report:\n{text}"),
            Failure::NoSize(name) => write!(f, "{name}.lua does not say its size in its second line"),
        }
    }
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Err(failure) = measure(&wanted) {
        eprintln!("idle-cost: {failure}");
        std::process::exit(1);
    }
}

fn measure(wanted: &[String]) -> Result<(), Failure> {
    let exe = std::env::current_exe().map_err(|error| Failure::Io("this program".into(), error))?;
    let (plain, annotated) = (exe.with_file_name("plain-lua"), exe.with_file_name("redmagic-lua"));
    let off = [("REDMAGIC", "off")];
    let empty_plain = instructions(&plain, &[], &[])?;
    let empty_off = instructions(&annotated, &[], &off)?;
    let mut logarithms = Vec::new();
    println!("{:<16} {:>12} {:>12} {:>7}", "program", "plain", "annotated", "ratio");
    for program in programs::all().map_err(|error| Failure::Io("programs".into(), error))? {
        if !wanted.is_empty() && !wanted.contains(&program.name) {
            continue;
        }
        let arguments = arguments(&program)?;
        let base = instructions(&plain, &arguments, &[])?.saturating_sub(empty_plain).max(1);
        let with = instructions(&annotated, &arguments, &off)?.saturating_sub(empty_off).max(1);
        let ratio = with as f64 / base as f64;
        logarithms.push(ratio.ln());
        println!("{:<16} {base:>12} {with:>12} {ratio:>7.4}", program.name);
        if program.name == "empty_loop" {
            back_edges(&program, &annotated, base, with, empty_off)?;
        }
    }
    if !logarithms.is_empty() {
        let mean = logarithms.iter().sum::<f64>() / logarithms.len() as f64;
        println!("{:<16} {:>33.4}", "geometric mean", mean.exp());
    }
    println!("start-up         {empty_plain:>12} {empty_off:>12} (an empty script)");
    Ok(())
}

/// Prints what one back edge of the empty loop costs with the library off, and watching.
fn back_edges(program: &Program, annotated: &Path, plain: u64, off: u64, empty_off: u64) -> Result<(), Failure> {
    let count = program.size("idle").ok_or_else(|| Failure::NoSize(program.name.clone()))? as f64;
    let never = [("REDMAGIC_HOT_LOOP", NEVER_HOT)];
    let empty = instructions(annotated, &[], &never)?;
    let watching = instructions(annotated, &arguments(program)?, &never)?.saturating_sub(empty);
    let per_edge = |with: u64| (with as f64 - plain as f64) / count;
    println!("  per back edge: {:.2} instructions when off, {:.2} when watching", per_edge(off), per_edge(watching));
    println!("  start-up: {empty_off} instructions when off, {empty} when watching");
    Ok(())
}

fn arguments(program: &Program) -> Result<Vec<PathBuf>, Failure> {
    let size = program.size("idle").ok_or_else(|| Failure::NoSize(program.name.clone()))?;
    Ok(vec![program.path.clone(), size.to_string().into()])
}

/// The instructions that `lua` executes with these arguments; with none it runs an empty script.
fn instructions(lua: &Path, arguments: &[PathBuf], environment: &[(&str, &str)]) -> Result<u64, Failure> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(lua);
    if arguments.is_empty() {
        command.args(["-e", ""]);
    }
    // With the same seed both interpreters have the same collisions in their hash tables.
    command.args(arguments).env_remove("REDMAGIC").env("LUA_HASH_SEED", "1").envs(environment.iter().copied());
    let output = command.output().map_err(|error| Failure::Io("valgrind".into(), error))?;
    let report = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(Failure::Child(report));
    }
    let total = report.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    total.ok_or(Failure::NoTotal(report))
}
