//! The five fuzz targets for a moment, on bytes that a seed makes.
//!
//! `REDMAGIC_FUZZ_SEED=n` moves to other cases, `REDMAGIC_FUZZ_SCALE=n` multiplies their number. A finding is printed with
//! the seed and the case, and with the text of a test.

use redmagic_fuzz::targets::Target;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Runs a number of cases that take about a second.
fn twin(name: &str, cases: u64) {
    let target = Target::named(name).unwrap();
    let seed = setting("REDMAGIC_FUZZ_SEED", 1);
    println!("{name}: REDMAGIC_FUZZ_SEED={seed}");
    for case in 0..cases * setting("REDMAGIC_FUZZ_SCALE", 1) {
        if let Err(finding) = target.run(&target.bytes(seed, case)) {
            panic!("{name}, REDMAGIC_FUZZ_SEED={seed}, case {case}: {finding}");
        }
    }
}

#[test]
fn text() {
    twin("text", 3000);
}

#[test]
fn passes() {
    twin("passes", 100);
}

#[test]
fn lift() {
    twin("lift", 400);
}

#[test]
fn backend() {
    twin("backend", 60);
}

#[test]
fn exits() {
    twin("exits", 30);
}
