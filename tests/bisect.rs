//! `redmagic bisect` finds what it is asked to find. Nothing is wrong in the library for it: the programs here are
//! scripts that call it wrong when certain traces and rewrites are there, which they see in the options that the search
//! sets, or in the files on traces that a real host leaves.

#[path = "hosts/support.rs"]
#[allow(dead_code, reason = "made for the tests of hosts")]
mod support;

use std::path::Path;
use std::process::{Command, Output};
use support::{Build, Link, scratch};

/// Searches in a shell script, with these arguments; `$dumps` is where the files on traces are.
fn bisect(name: &str, script: &str, arguments: &[&str]) -> (Output, String) {
    let directory = scratch(&format!("bisect-{name}"));
    let output = Command::new(env!("CARGO_BIN_EXE_redmagic"))
        .args(["bisect", "--keep"])
        .arg(&directory)
        .args(["--", "sh", "-c", &format!("dumps=\"$REDMAGIC_DUMP\"\n{script}"), "sh"])
        .args(arguments)
        .output()
        .expect("the tool");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output, text)
}

/// Says wrong if more than 4 traces are there, and the one with number 4 has 37 rewrites or more.
const PLANTED: &str = r#"
    test "$REDMAGIC" = off && exec echo right
    test "${REDMAGIC_MAX_TRACES:-1000}" -le 4 && exec echo right
    case "$REDMAGIC_SUSPECT" in
        4:*) rewrites=${REDMAGIC_SUSPECT#4:}; rewrites=${rewrites%%:*} ;;
        *) rewrites=100000 ;;
    esac
    if test "$rewrites" -ge 37; then FAULT; fi
    echo right
"#;

#[test]
fn a_planted_fault_is_found() {
    for (name, fault, how) in [
        ("output", "exec echo wrong", "output differs"),
        ("status", "exit 3", "exit status 3 instead of exit status 0"),
        ("crash", "kill -SEGV $$", "signal 11 instead of exit status 0"),
    ] {
        let (output, text) = bisect(name, &PLANTED.replace("FAULT", fault), &[]);
        assert!(output.status.success(), "{text}");
        for part in [how, "first bad trace: 4\n", "first bad rewrite: number 37\n", "confirmed: with it bad in 3 of 3"]
        {
            assert!(text.contains(part), "no `{part}` in\n{text}");
        }
    }
}

#[test]
fn a_program_that_does_not_end_is_bad() {
    let directory = scratch("bisect-time");
    let script = "test \"$REDMAGIC\" = off -o \"${REDMAGIC_MAX_TRACES:-9}\" -le 1 || sleep 100";
    let output = Command::new(env!("CARGO_BIN_EXE_redmagic"))
        .args(["bisect", "--repeat", "1", "--timeout", "1", "--keep"])
        .arg(&directory)
        .args(["--", "sh", "-c", script])
        .output()
        .expect("the tool");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("bad: no end in time instead of exit status 0\nfirst bad trace: 1\n"), "{text}");
    assert!(text.contains("bad without any pass"), "{text}");
}

#[test]
fn a_fault_of_the_backend_is_told_from_one_of_a_pass() {
    let script =
        r#"test "$REDMAGIC" = off -o "$REDMAGIC_BACKEND" = eval -o "$REDMAGIC_MAX_TRACES" = 0 && exec echo right"#;
    let (_, text) = bisect("backend", script, &[]);
    assert!(text.contains("first bad trace: 0\nbad without any pass, so it is the backend\n"), "{text}");
    let script = r#"test "$REDMAGIC" = off -o "$REDMAGIC_MAX_TRACES" = 0 && exec echo right
        case "$REDMAGIC_SUSPECT" in 0:0: | 0:0:params | 0:0:params,forward) exec echo right ;; esac"#;
    let (_, text) = bisect("pass", script, &[]);
    assert!(text.contains("first bad pass: flags (number 3 of params,forward,flags,"), "{text}");
}

#[test]
fn what_cannot_be_reproduced_is_not_found() {
    let (output, text) = bisect("never", "echo right", &[]);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("not reproducible: 3 runs with the library did the same"), "{text}");
    let (output, text) = bisect("varies", "echo $$; cat /proc/sys/kernel/random/uuid", &[]);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("not reproducible: two runs without the library differ"), "{text}");
    let (output, text) = bisect("lost", "test \"$REDMAGIC\" = off -o -n \"$REDMAGIC_MAX_TRACES\" || echo wrong", &[]);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("not any more while searching traces"), "{text}");
}

#[test]
fn a_rewrite_of_a_real_trace_is_named() {
    let program = Build::new("examples", &["registers.c"], "-O2", Link::Static).build();
    // Guards that disappear from the first trace are called wrong.
    let script = r#"
        "$1" || exit
        test "$REDMAGIC" = off && exit
        grep -qs '^trace 0: ops.* guards removed' "$dumps"/* && echo wrong
        exit 0"#;
    let (output, text) = bisect("real", script, &[&program.to_string_lossy()]);
    assert!(output.status.success(), "{text}");
    for part in ["first bad trace: 0, loop ", "pass forward, guard decided, at v", "confirmed"] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    let kept = |name: &str| std::fs::read_to_string(Path::new(&scratch("bisect-real")).join(name)).expect("a file");
    assert!(kept("bad.txt").contains("guards removed 1"));
    assert!(!kept("good.txt").contains("guards removed"));
}
