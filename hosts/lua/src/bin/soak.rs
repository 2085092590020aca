//! Random Lua programs, without and with traces, until the time is over.
//!
//! Every seed is a program ([`lua_runs::random`]); it runs in `plain-lua` and then in `redmagic-lua` with options that the
//! seed decides: thresholds, checks, the evaluator in place of machine code. Programs that differ are written beside this
//! program's other output, and the line that it prints says how to repeat them.
//!
//! ```text
//! cargo build --release -p redmagic-lua
//! target/release/soak 600                   ten minutes from a seed of the moment
//! target/release/soak 60 1000 55            one minute from seed 1000, with Lua 5.5
//! target/release/soak 0 1234 > p.lua        prints the program of seed 1234
//! ```

use lua_runs::random::program;
use lua_runs::runs::{Lua, random_difference, seed};
use std::time::{Duration, Instant};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).map(|text| text.parse::<u64>());
    let (Some(Ok(seconds)), Ok(first)) = (number(0), number(1).transpose()) else {
        eprintln!("usage: soak SECONDS [SEED [55]]");
        std::process::exit(2);
    };
    let first = first.unwrap_or_else(seed);
    if seconds == 0 {
        print!("{}", program(first));
        return;
    }
    let version = arguments.get(2).map_or("", String::as_str);
    let Ok(lua) = Lua::beside_this_program(version) else {
        eprintln!("soak: no interpreters beside this program");
        std::process::exit(2);
    };
    let (start, mut count, mut different) = (Instant::now(), 0, 0);
    while start.elapsed() < Duration::from_secs(seconds) {
        match random_difference(&lua, first.wrapping_add(count), 2) {
            Ok(None) => {}
            Ok(Some(difference)) => {
                different += 1;
                println!("{difference}");
            }
            Err(error) => {
                eprintln!("soak: {error}");
                std::process::exit(2);
            }
        }
        count += 1;
    }
    println!("seeds {first} to {}: {count} programs, {different} different", first.wrapping_add(count));
    std::process::exit(i32::from(different > 0));
}
