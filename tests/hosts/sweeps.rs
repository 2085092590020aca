//! Every exit of every trace: each guard is made to fail in a process of its own (`REDMAGIC_CHECK=3`), and where it leads,
//! registers, flags and memory are those of native execution.

use crate::support::{Build, Link, bug, run};

/// Runs a host with each of its exits taken; returns how many states were compared.
fn sweep(folder: &str, sources: &[&str], flags: &str) -> u64 {
    let build = Build::new(folder, sources, flags, Link::Static);
    let program = build.build();
    let reference = run(&program, &[("REDMAGIC", "off".to_owned())]);
    assert_eq!(reference.end, "exit 0", "{}: {reference:#?}", build.name());
    let mut compared = 0;
    for threshold in [2, 7] {
        let settings = [
            ("REDMAGIC_HOT_LOOP", threshold.to_string()),
            ("REDMAGIC_HOT_EXIT", threshold.to_string()),
            ("REDMAGIC_CHECK", "3".to_owned()),
            ("REDMAGIC_LOG", "1".to_owned()),
        ];
        let outcome = run(&program, &settings);
        assert_eq!((&outcome.end, &outcome.output), (&reference.end, &reference.output), "{}", build.name());
        assert!(bug(&outcome).is_none(), "{}: {}", build.name(), outcome.errors);
        let traces = outcome.counter("traces");
        assert!(traces > 0, "{}: {outcome:#?}", build.name());
        // Two replays and one trial for each trace; the rest are exits.
        compared += outcome.counter("checks_passed").saturating_sub(3 * traces);
    }
    println!("{}: {compared} exits", build.name());
    compared
}

#[test]
fn examples() {
    for flags in ["-O2", "-O0"] {
        let exits = ["accumulator.c", "registers.c", "sample.c"].map(|source| sweep("examples", &[source], flags));
        assert!(exits.iter().all(|exits| *exits > 0), "{exits:?}");
    }
}

#[test]
fn interpreters() {
    let exits = [
        sweep("tests/hosts", &["dispatch.c"], "-O2"),
        sweep("tests/hosts", &["jumps.c"], "-O2"),
        sweep("tests/hosts", &["recursion.c"], "-O2"),
        // With atomic instructions, whose guards fail where the exchange does.
        sweep("tests/hosts", &["machine.c"], "-O2 -mno-red-zone"),
    ];
    assert!(exits.iter().sum::<u64>() > 100, "{exits:?}");
}

/// Code for processors with AVX, where the machine has them.
#[test]
fn wide_vectors() {
    if !is_x86_feature_detected!("avx2") || !is_x86_feature_detected!("fma") {
        println!("this processor has no AVX2");
        return;
    }
    let mut flags = vec!["-O3 -mavx2 -mfma -ffast-math", "-O2 -mavx2"];
    if is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512bw") {
        flags.push("-O3 -mavx512vl -mavx512bw -mprefer-vector-width=512");
    }
    let exits: Vec<u64> = flags.into_iter().map(|flags| sweep("tests/hosts", &["vectors.c"], flags)).collect();
    assert!(exits.iter().all(|exits| *exits > 0), "{exits:?}");
}
