//! What compiling on a thread of its own would save, and what it would cost.
//!
//! ```text
//! cargo bench -p redmagic-lua --bench tiers
//! ```
//!
//! For each program: the processor time without traces, with traces, and of that what recording and compiling took, which is
//! the most that a second thread could take away. And the time that plain Lua needs if the process has a second thread that
//! does nothing at all: from then on the C library's allocator and its streams use locked instructions.

use lua_runs::programs;
use std::error::Error;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, fs};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PLAIN: &str = env!("CARGO_BIN_EXE_plain-lua");
const TRACED: &str = env!("CARGO_BIN_EXE_redmagic-lua");
/// Runs of which the fastest counts.
const REPEATS: usize = 5;
/// Programs that are over sooner say nothing.
const LEAST_SECONDS: f64 = 0.05;

/// A shared object that gives the process a second thread before it begins.
const SECOND_THREAD: &str = "
#include <pthread.h>
#include <unistd.h>
static void *wait_for_ever(void *argument) { for (;;) pause(); return argument; }
__attribute__((constructor)) static void begin(void) {
    pthread_t thread;
    pthread_create(&thread, 0, wait_for_ever, 0);
}
";

fn main() -> Result<()> {
    let folder = env::temp_dir().join(format!("redmagic-tiers-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let measured = measure(&folder);
    fs::remove_dir_all(&folder)?;
    measured
}

fn measure(folder: &Path) -> Result<()> {
    let (source, object) = (folder.join("thread.c"), folder.join("thread.so"));
    fs::write(&source, SECOND_THREAD)?;
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let mut build = Command::new(compiler);
    build.args(["-O2", "-shared", "-fPIC", "-pthread", "-o"]).arg(&object).arg(&source);
    if !build.status()?.success() {
        return Err("the C compiler has failed".into());
    }
    println!("| program | plain | with a second thread | ratio | with traces | recording and compiling |");
    println!("|---|---|---|---|---|---|");
    let mut factors = Vec::new();
    for program in programs::all()? {
        let alone = fastest(&mut Command::new(PLAIN), &program.path)?;
        if alone < LEAST_SECONDS {
            continue;
        }
        let beside = fastest(Command::new(PLAIN).env("LD_PRELOAD", &object), &program.path)?;
        let file = folder.join("stats.json");
        let traced = fastest(Command::new(TRACED).env("REDMAGIC_STATS", &file), &program.path)?;
        let stats: serde_json::Value = serde_json::from_slice(&fs::read(&file)?)?;
        let spent = |name: &str| stats[name].as_f64().unwrap_or(0.0) / 1e6;
        let compiling = spent("recording_ns") + spent("compile_ns");
        let name = &program.name;
        let ratio = beside / alone;
        println!("| {name} | {alone:.3} s | {beside:.3} s | {ratio:.2} | {traced:.3} s | {compiling:.0} ms |");
        factors.push(ratio);
    }
    let mean = (factors.iter().map(|factor| factor.ln()).sum::<f64>() / factors.len().max(1) as f64).exp();
    println!("| geometric mean | | | {mean:.2} | | |");
    Ok(())
}

/// The processor time of a script, in seconds.
fn fastest(lua: &mut Command, script: &Path) -> Result<f64> {
    let run = format!("arg = {{}} dofile([[{}]]) io.stderr:write('\\n', os.clock())", script.display());
    lua.args(["-e", &run]).stdin(Stdio::null());
    let mut best = f64::INFINITY;
    for _ in 0..REPEATS {
        let output = lua.output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        let seconds = errors.lines().last().and_then(|line| line.parse::<f64>().ok());
        best = best.min(seconds.ok_or_else(|| format!("{}: {errors}", script.display()))?);
    }
    Ok(best)
}
