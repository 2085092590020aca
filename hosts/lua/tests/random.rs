//! One second of random programs for each version; `soak` runs them as long as one likes.

use lua_runs::random::program;
use lua_runs::runs::{Lua, random_difference, seed};
use std::time::{Duration, Instant};

fn some(lua: &Lua) {
    let first = seed();
    println!("seed {first}");
    let start = Instant::now();
    let mut differences = Vec::new();
    // At least three, however slow the machine is.
    for count in 0.. {
        if count >= 3 && start.elapsed() > Duration::from_secs(1) {
            break;
        }
        differences.extend(random_difference(lua, first.wrapping_add(count), 2).unwrap());
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn programs_of_lua_5_4() {
    some(&Lua::new(env!("CARGO_BIN_EXE_plain-lua"), env!("CARGO_BIN_EXE_redmagic-lua")));
}

#[test]
fn programs_of_lua_5_5() {
    some(&Lua::new(env!("CARGO_BIN_EXE_plain-lua55"), env!("CARGO_BIN_EXE_redmagic-lua55")));
}

/// A generator whose programs do not compile, or stop at once, would find nothing.
#[test]
fn programs_run_to_their_end() {
    let lua = Lua::new(env!("CARGO_BIN_EXE_plain-lua"), env!("CARGO_BIN_EXE_redmagic-lua"));
    let script = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("generated.lua");
    let (mut good, mut errors) = (0, String::new());
    for seed in 1..=30 {
        std::fs::write(&script, program(seed)).unwrap();
        let outcome = lua.plain(&script, 1).finish(Duration::from_secs(60)).unwrap();
        good += u32::from(outcome.good() && !outcome.output.is_empty());
        errors.push_str(&String::from_utf8_lossy(&outcome.errors));
    }
    assert!(good >= 24, "only {good} of 30 programs run to their end:\n{errors}");
}
