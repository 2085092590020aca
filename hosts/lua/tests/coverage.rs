//! How much of Lua is lifted: of its code, and of what its traces consist of.

use lua_runs::programs;
use lua_runs::runs::{Lua, Settings};
use redmagic_lift::coverage::{Coverage, executable_sections};
use std::fs;
use std::path::Path;
use std::time::Duration;

const TIME_LIMIT: Duration = Duration::from_secs(120);

/// The files in an archive of the linker: behind the first line, each has a header of 60 bytes with its size in decimal digits.
fn members(archive: &[u8]) -> Vec<&[u8]> {
    let mut members = Vec::new();
    let mut rest = archive.strip_prefix(b"!<arch>\n").unwrap();
    while rest.len() > 60 {
        let size: usize = std::str::from_utf8(&rest[48..58]).unwrap().trim().parse().unwrap();
        members.push(&rest[60..60 + size]);
        rest = rest.get(60 + size.next_multiple_of(2)..).unwrap_or_default();
    }
    members
}

#[test]
fn the_interpreter_is_lifted() {
    for name in ["libplain_lua54.a", "libplain_lua55.a"] {
        let archive = fs::read(Path::new(env!("OUT_DIR")).join(name)).unwrap();
        let mut coverage = Coverage::default();
        for file in members(&archive) {
            // The list of symbols is no file with code.
            executable_sections(file).unwrap_or_default().iter().for_each(|section| coverage.add(section));
        }
        let count = coverage.count(|_| true);
        println!("{name}: {:.4}% of {count} instructions", coverage.share() * 100.0);
        assert!(coverage.share() >= 0.999 && count > 20_000, "{name}: {} of {count}", coverage.share());
    }
}

/// Instructions and native operations of the traces that a log speaks of: `…: 80 instructions (0 native), …`.
fn traces(log: &str) -> Vec<(u64, u64)> {
    let number = |text: &str| text.rsplit(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty())?.parse().ok();
    let line = |line: &str| {
        let (before, rest) = line.split_once(" instructions (")?;
        Some((number(before)?, rest.split_once(" native)")?.0.parse().ok()?))
    };
    log.lines().filter_map(line).collect()
}

/// At threshold 1 the first iteration of every loop is recorded.
#[test]
fn whatever_is_recorded_is_lifted() {
    let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join("recorded.log");
    let stats = log.with_extension("json");
    let interpreters = [
        (env!("CARGO_BIN_EXE_plain-lua"), env!("CARGO_BIN_EXE_redmagic-lua")),
        (env!("CARGO_BIN_EXE_plain-lua55"), env!("CARGO_BIN_EXE_redmagic-lua55")),
    ];
    for (plain, traced) in interpreters {
        let (mut instructions, mut natives, mut count) = (0, 0, 0);
        for program in programs::all().unwrap() {
            let size = program.size("test").unwrap();
            let settings = Settings::hot(1).with("HOT_EXIT", 1).with("LOG", format_args!("2:{}", log.display()));
            let settings = settings.with("STATS", stats.display());
            let _ = fs::remove_file(&log);
            let run = Lua::new(plain, traced).traced(&program.path, 1, &settings);
            run.arguments(&[size.to_string()]).finish(TIME_LIMIT).unwrap();
            let traces = traces(&fs::read_to_string(&log).unwrap_or_default());
            instructions += traces.iter().map(|trace| trace.0).sum::<u64>();
            natives += traces.iter().map(|trace| trace.1).sum::<u64>();
            count += traces.len();
            // Of the reasons why recordings end, these name instructions.
            let reasons = fs::read_to_string(&stats).unwrap();
            for refused in ["system call", "interrupt", "branch\"", "privileged", "write of", "MXCSR", "register files"]
            {
                assert!(!reasons.contains(refused), "{}: {reasons}", program.name);
            }
        }
        println!("{traced}: {count} traces, {instructions} instructions, {natives} native");
        assert!(count > 100, "only {count} traces");
        assert_eq!(natives, 0, "of {instructions}");
    }
}

#[test]
fn almost_nothing_in_the_traces_is_executed_verbatim() {
    let lua = Lua::new(env!("CARGO_BIN_EXE_plain-lua"), env!("CARGO_BIN_EXE_redmagic-lua"));
    let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join("coverage.log");
    let (mut instructions, mut natives, mut count) = (0, 0, 0);
    for program in programs::all().unwrap() {
        let size = program.size("test").unwrap();
        let settings = Settings::hot(10).with("LOG", format_args!("2:{}", log.display()));
        let _ = fs::remove_file(&log);
        lua.traced(&program.path, 1, &settings).arguments(&[size.to_string()]).finish(TIME_LIMIT).unwrap();
        let traces = traces(&fs::read_to_string(&log).unwrap_or_default());
        let of_program = traces.iter().fold((0, 0), |sum, trace| (sum.0 + trace.0, sum.1 + trace.1));
        println!("{}: {} traces, {} instructions, {} native", program.name, traces.len(), of_program.0, of_program.1);
        (instructions, natives, count) = (instructions + of_program.0, natives + of_program.1, count + traces.len());
    }
    let share = natives as f64 / instructions as f64;
    println!("{count} traces: {natives} native operations of {instructions} instructions, {:.4}%", share * 100.0);
    assert!(count > 100, "only {count} traces");
    assert!(share < 0.01, "{natives} of {instructions}");
}
