//! C and C++ hosts that do what makes tracing difficult: they switch stacks, jump, throw, fork, recurse, are interrupted.
//!
//! Each is compiled with the system's compiler and linked with the library, run switched off for reference, and then with
//! several thresholds, every compiled trace being checked against its recording (`REDMAGIC_CHECK=1`). The output must be
//! the same. `REDMAGIC_TEST_SEED=n` repeats a run that printed `seed n`.

#[path = "hosts/examples.rs"]
mod examples;
#[path = "hosts/support.rs"]
mod support;
#[path = "hosts/sweeps.rs"]
mod sweeps;

use std::collections::BTreeSet;
use support::Link::{Noop, Shared, Static};
use support::{Build, Link, Outcome, bug, compare, difference, run_with, seed, thresholds};

/// Builds and compares a host of `tests/hosts`, which must be traced.
fn check(sources: &[&str], flags: &str, link: Link) {
    check_build(&Build::new("tests/hosts", sources, flags, link));
}

fn check_build(build: &Build) {
    let outcomes = compare(build, &thresholds());
    for counter in ["traces", "entries", "checks_passed"] {
        let sum: u64 = outcomes.iter().map(|outcome| outcome.counter(counter)).sum();
        assert!(sum > 0, "{}: no {counter}: {outcomes:#?}", build.name());
    }
}

#[test]
fn every_kind_of_compilation() {
    for flags in ["-O0", "-O2", "-O3 -fomit-frame-pointer", "-O2 -fPIC", "-Os -fcf-protection=full"] {
        for dispatch in ["", " -DVM_DISPATCH_GOTO"] {
            check(&["dispatch.c"], &format!("{flags}{dispatch}"), Shared);
        }
    }
    check(&["dispatch.c"], "-O2 -DVM_DISPATCH_TAIL", Shared);
    check(&["dispatch.c"], "-O3 -DVM_DISPATCH_TAIL -fno-plt", Shared);
    check(&["dispatch.c"], "-O2 -DREDMAGIC_NO_MACROS", Static);
    check(&["dispatch.c"], "-O0 -pie -fPIE", Static);
    check(&["dispatch.c"], "-O1 -no-pie", Static);
}

#[test]
fn coroutines_of_the_library() {
    check(&["coroutines.c", "switch.c"], "-O2", Shared);
    check(&["coroutines.c", "switch.c"], "-O0 -DTRACED", Shared);
    check_build(&Build::new("tests/hosts", &["coroutines.c"], "-O2 -DTRACED", Shared).outside("switch.c"));
}

#[test]
fn coroutines_by_hand() {
    check(&["coroutines.c", "switch.c"], "-O2 -DBY_HAND", Static);
    check(&["coroutines.c", "switch.c"], "-O2 -DBY_HAND -DTRACED", Shared);
    check_build(&Build::new("tests/hosts", &["coroutines.c"], "-O2 -DBY_HAND -DTRACED", Shared).outside("switch.c"));
}

#[test]
fn long_jumps() {
    check(&["jumps.c"], "-O2", Static);
    check(&["jumps.c"], "-O0", Shared);
    check(&["jumps.c"], "-O2 -DTRACED", Shared);
}

#[test]
fn effects_of_functions() {
    check(&["effects.c"], "-O2 -fno-builtin-log1p", Shared);
    check(&["effects.c"], "-O2 -fno-builtin-log1p -rdynamic", Shared);
    check(&["effects.c"], "-O0", Static);
}

#[test]
fn exceptions() {
    check(&["exceptions.cc"], "-O2", Static);
    check(&["exceptions.cc"], "-O0", Shared);
    check(&["exceptions.cc"], "-O2 -DTRACED", Shared);
}

#[test]
fn stack_walks() {
    check(&["walk.cc"], "-O2 -no-pie", Shared);
    check(&["walk.cc"], "-O0", Static);
}

#[test]
fn identity() {
    check(&["identity.c"], "-O2", Shared);
    check(&["identity.c"], "-O0", Shared);
}

#[test]
fn what_a_loop_is() {
    check(&["loops.c"], "-O2", Static);
    check(&["loops.c"], "-O0", Shared);
}

#[test]
fn modules_come_and_go() {
    let build = Build::new("tests/hosts", &["modules.c"], "-O2", Shared);
    let build = build.plugin("PLUGIN_0", "plugin.c", "-DVARIANT=0").plugin("PLUGIN_1", "plugin.c", "-DVARIANT=1");
    check_build(&build.plugin("PLUGIN_2", "plugin.c", "-DVARIANT=2"));
}

#[test]
fn threads() {
    check(&["threads.c", "switch.c"], "-O2", Static);
    check(&["threads.c", "switch.c"], "-O0", Shared);
}

/// What is printed is the same whatever the verdicts are, and there are some.
#[test]
fn loops_are_judged() {
    let noop = Build::new("tests/hosts", &["judged.c"], "-O2", Noop).build();
    let program = Build::new("tests/hosts", &["judged.c"], "-O2", Static).build();
    let expected = run_with(&noop, &[], &[]).output;
    for hot_loop in [128, 300, 1500] {
        let settings = [("REDMAGIC_HOT_LOOP", hot_loop.to_string()), ("REDMAGIC_LOG", "3".to_owned())];
        let outcome = run_with(&program, &settings, &[]);
        assert_eq!((&*outcome.end, &outcome.output), ("exit 0", &expected), "{outcome:#?}");
        assert!(outcome.errors.contains(" ps with its trace, "), "no verdict at {hot_loop}: {outcome:#?}");
    }
}

/// Anchors rest when traces did not help, and loops that become hot are found nevertheless.
#[test]
fn anchors_rest() {
    for (flags, link) in [("-O2", Static), ("-O2 -DREDMAGIC_NO_MACROS", Static), ("-O0", Shared)] {
        let program = Build::new("tests/hosts", &["rests.c"], flags, link).build();
        let outcome = run_with(&program, &[("REDMAGIC_HOT_LOOP", "200".to_owned())], &[]);
        let expected = "anchors rest\nbeside another thread 0 times\nthe other loop has a trace\n";
        assert_eq!((&*outcome.end, &*outcome.output), ("exit 0", expected), "{flags}: {outcome:#?}");
    }
}

/// What the benchmark of residual calls computes is the same without the library, and it measures a trace.
#[test]
fn residual_calls_are_measured_in_a_trace() {
    let program = Build::new("benches", &["residual.c"], "-O2", Static).build();
    let run = |settings: &[(&str, String)]| run_with(&program, settings, &["200000".to_owned()]);
    let off = run(&[("REDMAGIC", "off".to_owned())]);
    let on = run(&[("REDMAGIC_JUDGE", "off".to_owned()), ("REDMAGIC_COMPILE_SHARE", "0".to_owned())]);
    let result = |outcome: &Outcome| outcome.output.split(',').next().map(str::to_owned);
    assert_eq!((&*on.end, result(&on)), ("exit 0", result(&off)), "{on:#?}");
    assert_eq!((on.counter("traces"), on.counter("exits") < 100), (1, true), "{on:#?}");
}

/// The traces of loops of several paths are those of the usual path, if there is time to find out which that is.
#[test]
fn the_usual_path_is_compiled() {
    let program = Build::new("tests/hosts", &["usual.c"], "-O2", Static).build();
    let paths = |hot_loop: &str| {
        let recorded = |rare: u32| {
            let settings = [("REDMAGIC_HOT_LOOP", hot_loop), ("REDMAGIC_LOG", "2"), ("REDMAGIC_COMPILE_SHARE", "0")];
            let settings = settings.map(|(name, value)| (name, value.to_owned()));
            let (arguments, off) = ([rare.to_string()], [("REDMAGIC", "off".to_owned())]);
            let (expected, outcome) = (run_with(&program, &off, &arguments), run_with(&program, &settings, &arguments));
            assert_eq!((&outcome.end, &outcome.output), (&expected.end, &expected.output), "{outcome:#?}");
            let line = outcome.errors.lines().find(|line| line.contains("trace 0: loop 0 "));
            let words = line.and_then(|line| line.split(": ").nth(3)).unwrap_or_else(|| panic!("{outcome:#?}"));
            words.split(' ').next().unwrap().to_owned()
        };
        (0..16).map(recorded).collect::<BTreeSet<_>>().len()
    };
    assert_eq!(["60", "200", "1000"].map(paths), [2, 1, 1]);
}

#[test]
fn upper_halves_stay_clean() {
    check(&["upper.c"], "-O2", Static);
}

#[test]
fn dropped_traces_are_freed() {
    check(&["reclaim.c"], "-O2", Static);
    check(&["reclaim.c"], "-O0", Shared);
}

#[test]
fn code_is_rewritten_while_it_is_recorded() {
    check(&["rewritten.c"], "-O2", Static);
    check(&["rewritten.c"], "-O0", Shared);
}

/// Programs that are never declared, some of which rewrite themselves.
#[test]
fn code_that_is_not_declared() {
    for flags in ["-O2", "-O3 -fno-plt", "-Os", "-O2 -fno-jump-tables"] {
        check(&["undeclared.c"], flags, Static);
    }
    check(&["undeclared.c"], "-O0", Shared);
    check(&["undeclared.c"], "-O2 -no-pie -DREDMAGIC_NO_MACROS", Shared);
}

#[test]
fn atomic_instructions() {
    check(&["atomic.c"], "-O2", Static);
    check(&["atomic.c"], "-O0", Shared);
    // The evaluator's are atomic, too.
    let program = Build::new("tests/hosts", &["atomic.c"], "-O2", Static).build();
    let reference = run_with(&program, &[("REDMAGIC", "off".to_owned())], &[]);
    let settings = [("REDMAGIC_BACKEND", "eval".to_owned()), ("REDMAGIC_HOT_LOOP", "5".to_owned())];
    let outcome = run_with(&program, &settings, &[]);
    assert_eq!((&outcome.end, &outcome.output), (&reference.end, &reference.output), "{outcome:#?}");
    assert!(outcome.counter("traces") > 0, "{outcome:#?}");
}

#[test]
fn what_threads_share() {
    check(&["shared.c"], "-O2", Static);
    check(&["shared.c"], "-O0", Shared);
}

/// The models, the strictest first.
const MEMORY_MODELS: [&str; 3] = ["strict", "default", "interpreter-lock"];

/// Each test of `litmus.c` with the weakest model that forbids what it counts.
const LITMUS: [(&str, &[&str]); 3] = [
    ("strict", &["reader", "reader-slots", "reader-waits"]),
    ("default", &["writer", "writer-twice", "writer-index", "writer-narrow", "spin-store", "messages"]),
    (
        "interpreter-lock",
        &[
            "publish",
            "publish-loop",
            "reader-call",
            "reader-fence",
            "reader-lock",
            "reader-end",
            "buffers",
            "mutex",
            "mutex-hold",
            "spin",
            "spin-short",
            "order",
            "order-spin",
            "flag",
            "flag-field",
            "flag-counted",
            "ping-pong",
        ],
    ),
];

/// Each memory model with the outcomes that it forbids; how often there are those that it allows is printed.
#[test]
fn memory_models() {
    let program = Build::new("tests/hosts", &["litmus.c"], "-O2", Static).build();
    for (weakest, tests) in LITMUS {
        let weakest = MEMORY_MODELS.iter().position(|model| *model == weakest).unwrap();
        for (at, model) in MEMORY_MODELS.iter().enumerate() {
            for test in tests {
                let settings = [
                    ("REDMAGIC_MEMORY_MODEL", (*model).to_owned()),
                    ("REDMAGIC_HOT_LOOP", "20".to_owned()),
                    ("REDMAGIC_HOT_EXIT", "20".to_owned()),
                    ("REDMAGIC_JUDGE", "off".to_owned()),
                    ("REDMAGIC_COMPILE_SHARE", "0".to_owned()),
                ];
                let outcome = run_with(&program, &settings, &[(*test).to_owned()]);
                assert_eq!(outcome.end, "exit 0", "{model}, {test}: {outcome:#?}");
                for counter in ["traces", "entries"] {
                    assert!(outcome.counter(counter) > 0, "no {counter}: {model}, {test}: {outcome:#?}");
                }
                if at <= weakest {
                    assert_eq!(outcome.output, format!("{test} 0\n"), "{model}: {outcome:#?}");
                } else {
                    println!("{model} allows: {}", outcome.output.trim_end());
                }
            }
        }
    }
}

#[test]
fn forks() {
    check(&["forks.c"], "-O2", Static);
    check(&["forks.c"], "-O2 -DTRACED", Shared);
}

#[test]
fn signals() {
    check(&["signals.c"], "-O2", Static);
    check(&["signals.c"], "-O2 -DOWN_STACK", Shared);
}

#[test]
fn more_activations_than_records() {
    check(&["exhaustion.c", "switch.c"], "-O2", Shared);
}

#[test]
fn recursion() {
    check(&["recursion.c"], "-O2", Static);
    check(&["recursion.c"], "-O0 -DTRACED", Shared);
}

#[test]
fn instructions_and_machine_state() {
    // The compiler must not keep anything in a red zone that the assembly's pushes overwrite.
    check(&["machine.c"], "-O2 -mno-red-zone", Static);
    check(&["machine.c"], "-O0 -mno-red-zone", Shared);
    check(&["machine.c"], "-O2 -mno-red-zone -DRESIDUAL -fcf-protection=full -fno-plt", Shared);
}

#[test]
fn regions() {
    check(&["regions.c"], "-O2", Shared);
    check(&["regions.c"], "-O0", Static);
    check(&["regions.c"], "-O2 -fno-plt", Shared);
}

#[test]
fn threads_begin_with_any_function() {
    check(&["first.c"], "-O2", Static);
    check(&["first.c"], "-O0", Shared);
}

#[test]
fn any_function_at_any_time() {
    check(&["misuse.c"], "-O2", Shared);
    let build = Build::new("tests/hosts", &["misuse.c"], "-O1", Shared);
    let program = build.build();
    let seed = seed();
    for (at, threshold) in [2, 7, 50].into_iter().enumerate() {
        let arguments = [(seed + at as u64).to_string()];
        let reference = run_with(&program, &[("REDMAGIC", "off".to_owned())], &arguments);
        let settings = [("REDMAGIC_HOT_LOOP", threshold.to_string()), ("REDMAGIC_CHECK", "1".to_owned())];
        let found = difference(&reference, &run_with(&program, &settings, &arguments));
        assert!(found.is_none(), "{program:?} {arguments:?} with threshold {threshold}: {}", found.unwrap_or_default());
    }
}

/// Every function of the API against a model. `REDMAGIC_TEST_ROUNDS=n` makes n rounds of what is one otherwise; a round is
/// about 200,000 calls.
#[test]
fn every_function_against_a_model() {
    let rounds: u64 = std::env::var("REDMAGIC_TEST_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap());
    let seed = seed() % 1_000_000_000;
    for (flags, link) in [("-O2", Shared), ("-O0", Static), ("-O2 -DSIGNALS=1", Shared)] {
        let program = Build::new("tests/hosts", &["model.c"], flags, link).build();
        let (mut calls, mut traced) = (0, 0);
        // Half of the random programs leave tracing disabled from early on; the rounds go on until one has run in traces.
        for at in 0..rounds * 4 + 60 {
            if at >= rounds * 4 && traced > 0 {
                break;
            }
            let threshold = [1, 2, 20, 7][at as usize % 4].to_string();
            let threads = if at % 4 == 3 { 3 } else { 1 };
            let arguments = [(seed + at).to_string(), "10".to_owned(), threads.to_string()];
            let settings = [
                ("REDMAGIC_HOT_LOOP", threshold.clone()),
                ("REDMAGIC_HOT_EXIT", threshold.clone()),
                ("REDMAGIC_CHECK", "1".to_owned()),
                ("REDMAGIC_LOG", "1".to_owned()),
            ];
            let outcome = run_with(&program, &settings, &arguments);
            assert!(outcome.end == "exit 0", "{program:?} {arguments:?} with threshold {threshold}: {outcome:#?}");
            let bug = bug(&outcome);
            assert!(bug.is_none(), "{program:?} {arguments:?} with threshold {threshold}: {}", bug.unwrap_or_default());
            calls += outcome.output.split_whitespace().nth(1).map_or(0, |calls| calls.parse().unwrap());
            let misused = outcome.output.contains("misuse after the start: yes");
            assert_eq!(outcome.errors.contains("misuse: redmagic_"), misused, "{outcome:#?}");
            traced += u64::from(outcome.output.contains("traced: yes"));
        }
        println!("{calls} calls");
        assert!(calls > 10_000 * rounds && traced > 0, "{calls} calls, {traced} runs with traces");
    }
}
