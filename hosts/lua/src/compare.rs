//! `--compare`: one script, run without and with compiled traces.
//!
//! The script runs in child processes of this executable, alternately with `REDMAGIC=off` and with the environment as
//! it is. Standard output, standard error and the exit status must be the same every time. The times are CPU times of
//! the children, the least of the repeats; the counters are those that the library writes to `REDMAGIC_STATS`.
//!
//! ```text
//! redmagic-lua --compare=3 programs/sieve.lua
//! output and exit status are the same (exit status: 0, 12 bytes of output)
//! without traces   0.412 s
//! with traces      0.131 s
//! speed-up         3.15
//! ```

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Why no comparison could be made.
enum Failure {
    /// There is nothing to run.
    NoScript,
    /// The children could not be started or waited for.
    Child(std::io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NoScript => write!(f, "usage: redmagic-lua --compare[=repeats] script [arguments]"),
            Failure::Child(error) => write!(f, "--compare: {error}"),
        }
    }
}

/// What one child did.
struct Run {
    output: Output,
    seconds: f64,
    stats: Option<serde_json::Map<String, serde_json::Value>>,
}

/// The number of repeats if `argument` is `--compare` or `--compare=n`.
pub fn repeats(argument: &OsStr) -> Option<u32> {
    let rest = argument.to_str()?.strip_prefix("--compare")?;
    if rest.is_empty() { Some(1) } else { rest.strip_prefix('=')?.parse().ok().filter(|&count| count > 0) }
}

/// Compares and prints. The exit status is 0 if the runs agree, 1 if they differ, 2 if they could not be made.
pub fn run(repeats: u32, arguments: &[OsString]) -> i32 {
    match compare(repeats, arguments) {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(failure) => {
            eprintln!("{failure}");
            2
        }
    }
}

fn compare(repeats: u32, arguments: &[OsString]) -> Result<bool, Failure> {
    if arguments.is_empty() {
        return Err(Failure::NoScript);
    }
    let mut off = child(arguments, false)?;
    let mut on = child(arguments, true)?;
    let mut difference = differs(&off.output, &on.output);
    for _ in 1..repeats {
        let (next_off, next_on) = (child(arguments, false)?, child(arguments, true)?);
        difference = difference.or(differs(&off.output, &next_off.output)).or(differs(&off.output, &next_on.output));
        off.seconds = off.seconds.min(next_off.seconds);
        on = if next_on.seconds < on.seconds { next_on } else { on };
    }
    match &difference {
        None => println!(
            "output and exit status are the same ({}, {} bytes of output)",
            off.output.status,
            off.output.stdout.len() + off.output.stderr.len()
        ),
        Some(what) => println!("DIFFERENT: {what}"),
    }
    println!("without traces {:>9.3} s", off.seconds);
    println!("with traces    {:>9.3} s", on.seconds);
    println!("speed-up       {:>9.2}", off.seconds / on.seconds.max(1e-6));
    print_stats(on.stats.as_ref());
    Ok(difference.is_none())
}

/// Runs the script once.
fn child(arguments: &[OsString], traces: bool) -> Result<Run, Failure> {
    let stats = stats_path();
    let mut command = Command::new(std::env::current_exe().map_err(Failure::Child)?);
    command.args(arguments).stdin(Stdio::null()).env("REDMAGIC_STATS", &stats);
    if !traces {
        command.env("REDMAGIC", "off");
    }
    let before = cpu_seconds_of_children();
    let output = command.output().map_err(Failure::Child)?;
    let seconds = cpu_seconds_of_children() - before;
    let text = std::fs::read(&stats).ok();
    // The file exists only if the child wrote it; there is nothing to do about one that cannot be removed.
    let _ = std::fs::remove_file(&stats);
    let stats = text.and_then(|text| serde_json::from_slice(&text).ok());
    Ok(Run { output, seconds, stats })
}

fn stats_path() -> PathBuf {
    std::env::temp_dir().join(format!("redmagic-lua-stats-{}.json", std::process::id()))
}

/// User and system time of all children that were waited for.
fn cpu_seconds_of_children() -> f64 {
    // SAFETY: all-zero bytes are a valid rusage, which holds numbers only.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a rusage that lives through the call.
    unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// The first difference between two runs, for people.
fn differs(off: &Output, on: &Output) -> Option<String> {
    if off.status != on.status {
        return Some(format!("{} without traces, {} with", off.status, on.status));
    }
    let streams = [("standard output", &off.stdout, &on.stdout), ("standard error", &off.stderr, &on.stderr)];
    for (name, off, on) in streams {
        if off != on {
            let (mut a, mut b) = (off.split(|&byte| byte == b'\n'), on.split(|&byte| byte == b'\n'));
            for line in 1.. {
                let (a, b) = (a.next(), b.next());
                if a != b {
                    let text = |line: Option<&[u8]>| {
                        line.map_or("nothing".into(), |line| format!("{:?}", String::from_utf8_lossy(line)))
                    };
                    return Some(format!("{name}, line {line}: {} without traces, {} with", text(a), text(b)));
                }
            }
        }
    }
    None
}

/// What was traced, in the order and with the names of the library's counters.
fn print_stats(stats: Option<&serde_json::Map<String, serde_json::Value>>) {
    let Some(stats) = stats else {
        println!("no counters: the library wrote none");
        return;
    };
    let number = |name: &str| stats.get(name).and_then(serde_json::Value::as_f64).unwrap_or(0.0);
    println!(
        "traces         {:>9}   of which at exits {}, refused {}, dropped {}",
        number("traces"),
        number("side_traces"),
        number("traces_refused"),
        number("traces_dropped")
    );
    println!(
        "recordings     {:>9}   of which given up {}; {} instructions, {:.2} ms",
        number("recordings"),
        number("recordings_failed"),
        number("recorded_instructions"),
        number("recording_ns") * 1e-6
    );
    println!(
        "operations     {:>9}   before optimisation, {} after, {} native; {:.2} ms, {} bytes of code",
        number("operations_before"),
        number("operations_after"),
        number("native_operations"),
        number("compile_ns") * 1e-6,
        number("code_bytes")
    );
    println!(
        "entries        {:>9}   exits {}, anchors {}, misuse {}, failed checks {}",
        number("entries"),
        number("exits"),
        number("anchors"),
        number("misuse"),
        number("check_failures")
    );
}
