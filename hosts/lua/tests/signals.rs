//! Programs are the same when a signal comes every millisecond, with a handler that uses all kinds of registers.

use lua_runs::programs;
use lua_runs::runs::{Lua, Settings, in_parallel};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn every_program_under_a_signal_each_millisecond() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let library = folder.join("ticks.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ticks.c");
    let built = Command::new("cc").args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).status().unwrap();
    assert!(built.success());
    let signals = AtomicU64::new(0);
    let versions = [
        Lua::new(env!("CARGO_BIN_EXE_plain-lua"), env!("CARGO_BIN_EXE_redmagic-lua")),
        Lua::new(env!("CARGO_BIN_EXE_plain-lua55"), env!("CARGO_BIN_EXE_redmagic-lua55")),
    ];
    for (version, lua) in versions.iter().enumerate() {
        let programs = programs::all().unwrap();
        let failures = in_parallel(2, &programs, |program| {
            let size = [program.size("test").unwrap().to_string()];
            let expected = lua.plain(&program.path, 1).arguments(&size).finish(LIMIT).unwrap();
            let ticks = folder.join(format!("{}-{version}-ticks", program.name));
            let run = lua.traced(&program.path, 1, &Settings::hot(2)).arguments(&size);
            let run = run.environment("LD_PRELOAD", &library).environment("TICKS", &ticks);
            let actual = run.finish(LIMIT).unwrap();
            let count = std::fs::read_to_string(&ticks).unwrap();
            signals.fetch_add(count.trim().parse().unwrap(), Ordering::Relaxed);
            (actual != expected).then(|| format!("{}: {actual:?}", program.name))
        });
        let failures: Vec<String> = failures.into_iter().flatten().collect();
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }
    let signals = signals.into_inner();
    println!("{signals} signals");
    assert!(signals > 0, "no signal came");
}
