//! Signals: programs are the same when one comes every millisecond, with a handler that uses all kinds of registers; hooks that
//! handlers set are run, and interrupts stop loops that never end, in both versions.

use lua_runs::programs;
use lua_runs::runs::{Lua, Settings, in_parallel};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);

/// The annotated interpreters, and which version they are.
const VERSIONS: [(&str, &str); 2] =
    [(env!("CARGO_BIN_EXE_redmagic-lua"), "54"), (env!("CARGO_BIN_EXE_redmagic-lua55"), "55")];

/// Loops that end only when somebody stops them.
const ENDLESS: [&str; 9] = [
    "while true do end",
    "for i = 1, math.huge do end",
    "local x = 0 repeat x = x + 1 until x < 0",
    "local t, i = {1, 2, 3}, 0 while true do i = i % 3 + 1 t[i] = t[i] + 1 end",
    "local x = 0.5 while true do for i = 1, 100 do x = x * 1.5 - i end end",
    "local function f(x) return x + 1 end local x = 0 while true do x = f(x) end",
    "while true do for k, v in pairs({1, 2}) do local s = 'a' .. v end end",
    "local t = {} for i = 1, 200 do t[i] = i end while true do table.sort(t, function(a, b) return a > b end) end",
    "while true do for i = 1, 50 do local c = coroutine.wrap(function() coroutine.yield(i) end) c() end end",
];

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

#[test]
fn an_interrupt_stops_every_loop() {
    let mut slowest = Duration::ZERO;
    // Caught as any other error; the loop behind it is not interrupted any more and ends by itself.
    let caught = "local _, e = pcall(function() while true do end end) for i = 1, 1000 do end error(e, 0)";
    for (lua, version) in VERSIONS {
        for text in ENDLESS.into_iter().chain([caught]) {
            let mut child = Command::new(lua)
                .args(["-e", &format!("io.write('go') io.flush() {text}")])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut go = [0; 2];
            child.stdout.as_mut().unwrap().read_exact(&mut go).unwrap();
            // Long enough for the loop to become hot; if it is not yet, the test is only weaker.
            std::thread::sleep(Duration::from_millis(100));
            let start = Instant::now();
            // SAFETY: sends a signal to a child that has not been waited for.
            unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
            let output = child.wait_with_output().unwrap();
            slowest = slowest.max(start.elapsed());
            let errors = String::from_utf8_lossy(&output.stderr);
            let line = errors.lines().next().unwrap_or_default();
            assert!(line.ends_with("interrupted!"), "Lua {version}: {text}: {line}");
            assert_eq!(output.status.code(), Some(1), "Lua {version}: {text}");
        }
    }
    println!("the slowest took {slowest:?} to end");
}

#[test]
fn hooks_that_a_handler_sets() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for (lua, version) in VERSIONS {
        let module = folder.join(format!("hook{version}.so"));
        let include = format!("{}/plain-lua{version}", env!("OUT_DIR"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hook.c");
        let flags = ["-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-I", &include, "-o"];
        assert!(Command::new("cc").args(flags).arg(&module).arg(source).status().unwrap().success());
        // A hook is run by the thread that it was set for: the coroutines of the last loop have none.
        for text in &ENDLESS[..ENDLESS.len() - 1] {
            for threshold in ["1", "40"] {
                let program = format!(
                    "local hooked = package.loadlib('{}', 'luaopen_hook')() \
                     local message, hooks, enough = hooked(25, function() {text} end) \
                     print(tostring(message):match('enough$'), hooks, enough)",
                    module.display()
                );
                let mut command = Command::new(lua);
                command.env("REDMAGIC_HOT_LOOP", threshold).env("REDMAGIC_CHECK", "1").env("REDMAGIC_LOG", "1");
                let output = command.args(["-e", &program]).output().unwrap();
                let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
                assert_eq!((&*out, &*errors), ("enough\t25\ttrue\n", ""), "Lua {version}: {text}");
            }
        }
    }
}
