//! What recording and compiling cost, measured on Lua programs.
//!
//! ```text
//! cargo bench -p redmagic-lua --bench costs
//! ```
//!
//! Recording: `rerecord.lua` records the same loop once, twice, and a few hundred times; the differences separate what a
//! process pays once, what every new instruction costs, and what recording it again does.
//!
//! Compiling: every program in `programs/` runs with a low threshold; the log says for each trace how large it is and how long
//! the stages took. The costs per operation and per exit are those of the plane that fits best (least squares).

use lua_runs::programs;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const LUA: &str = env!("CARGO_BIN_EXE_redmagic-lua");
/// Runs of which the fastest counts.
const REPEATS: usize = 5;
/// Recordings of the same loop.
const MANY: u64 = 401;

fn main() -> Result<()> {
    let folder = env::temp_dir().join(format!("redmagic-costs-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let measured = recording(&folder).and_then(|()| compiling(&folder));
    fs::remove_dir_all(&folder)?;
    measured
}

/// What the library's counters say after a run of `rerecord.lua`: instructions and nanoseconds.
fn recorded(folder: &Path, times: u64) -> Result<(f64, f64)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/rerecord.lua");
    let mut best = (0.0, f64::INFINITY);
    for _ in 0..REPEATS {
        let file = folder.join("stats.json");
        let status = lua().arg(&script).arg(times.to_string()).env("REDMAGIC_STATS", &file).status()?;
        if !status.success() {
            return Err(format!("{}: {status}", script.display()).into());
        }
        let stats: serde_json::Value = serde_json::from_slice(&fs::read(&file)?)?;
        let number = |name: &str| stats[name].as_f64().ok_or_else(|| format!("no counter {name}"));
        let ns = number("recording_ns")?;
        if ns < best.1 {
            best = (number("recorded_instructions")?, ns);
        }
    }
    Ok(best)
}

fn recording(folder: &Path) -> Result<()> {
    let (one, twice, many) = (recorded(folder, 1)?, recorded(folder, 2)?, recorded(folder, MANY)?);
    println!("recording                                 instructions        time   per instruction");
    let row = |name: &str, instructions: f64, ns: f64| {
        let each = ns / instructions;
        println!("  {name:<38} {instructions:>13} {:>8.1} µs   {each:>12.1} ns", ns / 1000.0);
    };
    row("the first loop of a process", one.0, one.1);
    row("the same instructions again", (many.0 - twice.0) / (MANY - 2) as f64, (many.1 - twice.1) / (MANY - 2) as f64);
    row(&format!("all of {MANY} loops"), many.0, many.1);
    Ok(())
}

/// A trace as the log describes it.
struct Trace {
    instructions: f64,
    natives: f64,
    operations: f64,
    optimised: f64,
    exits: f64,
    values: f64,
    bytes: f64,
    exit_bytes: f64,
    lifting: f64,
    optimising: f64,
    lowering: f64,
}

impl Trace {
    /// Reads a line of the log: `…: 51 instructions (0 native), 71 operations, …`.
    fn parse(line: &str) -> Option<Trace> {
        let before =
            |unit: &str| -> Option<f64> { line[..line.find(unit)?].split([' ', '(']).next_back()?.parse().ok() };
        let after = |verb: &str| -> Option<f64> { line.split(verb).nth(1)?.split(' ').next()?.parse().ok() };
        Some(Trace {
            instructions: before(" instructions")?,
            natives: before(" native")?,
            operations: before(" operations")?,
            optimised: before(" optimised")?,
            exits: before(" exits")?,
            values: before(" values")?,
            bytes: before(" bytes")?,
            exit_bytes: before(" for exits")?,
            lifting: after("lifted in ")?,
            optimising: after("optimised in ")?,
            lowering: after("lowered in ")?,
        })
    }

    fn take_least(&mut self, other: &Trace) {
        self.lifting = self.lifting.min(other.lifting);
        self.optimising = self.optimising.min(other.optimising);
        self.lowering = self.lowering.min(other.lowering);
    }
}

/// The traces that a program makes, with the least times of several runs.
fn traces(folder: &Path, program: &programs::Program) -> Result<Vec<Trace>> {
    let size = program.size("idle").ok_or("a program does not say its size")?;
    let mut best: Vec<Trace> = Vec::new();
    for _ in 0..REPEATS {
        let log = folder.join("log");
        let mut setting = std::ffi::OsString::from("2:");
        setting.push(&log);
        let mut command = lua();
        command.arg(&program.path).arg(size.to_string()).env("LUA_HASH_SEED", "1");
        command.env("REDMAGIC_HOT_LOOP", "20").env("REDMAGIC_HOT_EXIT", "10").env("REDMAGIC_LOG", setting);
        let status = command.status()?;
        if !status.success() {
            return Err(format!("{}: {status}", program.name).into());
        }
        // The first trace of a process pays for the code generator's tables.
        let text = fs::read_to_string(&log).unwrap_or_default();
        let lines = text.lines().filter(|line| !line.contains(" trace 0:"));
        let traces: Vec<Trace> = lines.filter_map(Trace::parse).collect();
        fs::remove_file(&log).ok();
        if best.len() == traces.len() {
            best.iter_mut().zip(&traces).for_each(|(best, trace)| best.take_least(trace));
        } else if best.is_empty() {
            best = traces;
        }
    }
    Ok(best)
}

fn compiling(folder: &Path) -> Result<()> {
    let programs = programs::all()?;
    let mut traces = Vec::new();
    for program in &programs {
        traces.extend(self::traces(folder, program)?);
    }
    let sum = |of: fn(&Trace) -> f64| traces.iter().map(of).sum::<f64>();
    let instructions = sum(|trace| trace.instructions);
    println!("\ncompiling: {} traces of {} programs", traces.len(), programs.len());
    println!("  recorded instructions                  {instructions:>13}   native {}", sum(|trace| trace.natives));
    println!(
        "  operations                             {:>13}   after optimisation {}, exits {}, bytes of code {}, of exits {}",
        sum(|trace| trace.operations),
        sum(|trace| trace.optimised),
        sum(|trace| trace.exits),
        sum(|trace| trace.bytes),
        sum(|trace| trace.exit_bytes)
    );
    for (stage, time) in [
        ("lifting", (|trace| trace.lifting) as fn(&Trace) -> f64),
        ("optimising", |trace| trace.optimising),
        ("lowering", |trace| trace.lowering),
    ] {
        println!("  {stage:<38} {:>10.3} µs per recorded instruction", sum(time) / instructions);
    }
    let lowering = fit(traces.iter().map(|trace| ([trace.optimised, trace.exits, trace.values], trace.lowering)));
    let [operation, exit, value] = lowering.ok_or("too few traces")?;
    println!(
        "  lowering: {operation:.2} µs per operation + {exit:.2} µs per exit + {value:.2} µs per value at an exit"
    );
    Ok(())
}

fn lua() -> Command {
    let mut command = Command::new(PathBuf::from(LUA));
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("REDMAGIC")) {
        command.env_remove(name);
    }
    // Everything that gets hot is to be compiled.
    command.stdout(Stdio::null()).env("REDMAGIC_COMPILE_SHARE", "0").env("REDMAGIC_JUDGE", "off");
    command
}

/// The factors whose products with the sizes add up to the times, with the least squares of relative errors.
fn fit(rows: impl Iterator<Item = ([f64; 3], f64)>) -> Option<[f64; 3]> {
    let mut equations = [[0.0_f64; 4]; 3];
    for (sizes, time) in rows.filter(|(_, time)| *time > 0.0) {
        let [a, b, c] = sizes.map(|size| size / time);
        let row = [a, b, c, 1.0];
        for (equation, factor) in equations.iter_mut().zip(row) {
            equation.iter_mut().zip(row).for_each(|(cell, other)| *cell += factor * other);
        }
    }
    for pivot in 0..3 {
        let divisor = Some(equations[pivot][pivot]).filter(|divisor| divisor.abs() > 1e-12)?;
        equations[pivot].iter_mut().for_each(|cell| *cell /= divisor);
        let line = equations[pivot];
        for (_, other) in equations.iter_mut().enumerate().filter(|(at, _)| *at != pivot) {
            let factor = other[pivot];
            other.iter_mut().zip(line).for_each(|(cell, known)| *cell -= factor * known);
        }
    }
    Some(equations.map(|equation| equation[3]))
}
