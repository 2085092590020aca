//! How long the optimiser takes for each operation. Prints; fails only if time is not near-linear.

mod common;

use redmagic_ir::{Trace, parse_one};
use redmagic_passes::{Pipeline, Stats, optimise};
use std::fmt::Write;
use std::time::Instant;

/// A straight trace of `blocks` interpreter-like pieces: decoding what `word` says, two checked loads, a sum with its
/// flags, a store.
fn pieces(blocks: usize, word: fn(usize) -> String) -> Trace {
    let mut text =
        String::from("trace speed {\nseg0():\n  v0: i64 = slot rbx\n  v1: i64 = slot rbp\n  v2: i64 = slot rsp\n");
    let mut exits = String::new();
    for block in 0..blocks {
        let v = |at: usize| format!("v{}", 10 + block * 20 + at);
        let lines = [
            (0, word(block)),
            (1, "i8 = const 16".into()),
            (2, format!("i64 = lshr {}, {}", v(0), v(1))),
            (3, "i64 = const 255".into()),
            (4, format!("i64 = and {}, {}", v(2), v(3))),
            (5, "i8 = const 4".into()),
            (6, format!("i64 = shl {}, {}", v(4), v(5))),
            (7, format!("i64 = add {}, v1", v(6))),
            (8, format!("i8 = load [{} + 8]", v(7))),
            (9, "i8 = const 3".into()),
            (10, format!("i32 = fl_sub {}, {}", v(8), v(9))),
            (11, format!("i1 = cond.e {}", v(10))),
            (12, format!("i64 = load [{} + {}]", v(7), block % 64 * 8)),
            (13, format!("i64 = add {}, v0", v(12))),
            (14, format!("i32 = fl_add {}, v0", v(12))),
        ];
        for (at, line) in lines {
            writeln!(text, "  {}: {line}", v(at)).unwrap();
        }
        writeln!(text, "  guard {}, exit{block}\n  store i64 [{}], {}", v(11), v(7), v(13)).unwrap();
        writeln!(exits, "exit{block} @{:#x} {{ rax = {}, rcx = {}, flags = {} }}", block + 1, v(7), v(12), v(14))
            .unwrap();
        // The exit may use values that are defined before the guard only; all of these are.
    }
    parse_one(&format!("{text}  leave exit0\n{exits}}}")).unwrap()
}

/// Nanoseconds for each operation before the first pass.
fn measure(trace: &Trace) -> (f64, Stats) {
    let pipeline = Pipeline::default();
    let rounds = std::env::var("SPEED_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(5);
    let best = (0..rounds).map(|_| {
        let mut copy = trace.clone();
        let start = Instant::now();
        let stats = optimise(&mut copy, &pipeline);
        (start.elapsed().as_nanos() as f64 / trace.len() as f64, stats)
    });
    best.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
}

#[test]
fn time_grows_with_length_only() {
    let constant = |block: usize| format!("i64 = const {}", 0x4000_1234 + block * 256);
    let loaded = |block: usize| format!("i64 = load [v0 + {}]", block * 8);
    for (name, word) in [("constant", constant as fn(usize) -> String), ("loaded", loaded)] {
        let (small, stats) = measure(&pieces(50, word));
        let (large, _) = measure(&pieces(1000, word));
        println!("{name} code: {small:.0} ns an operation at 800, {large:.0} ns at 16000; {stats}");
        assert!(large < small * 4.0 + 1000.0, "{small} ns an operation, {large} ns in a long trace");
    }
}
