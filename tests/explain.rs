//! `redmagic explain` on traces in text form and on what the library leaves about a trace.

#[path = "hosts/support.rs"]
#[allow(dead_code, reason = "made for the tests of hosts")]
mod support;

use std::path::Path;
use std::process::Command;
use support::{Build, Link, run_with, scratch};

fn explain(file: &Path, more: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_redmagic")).arg("explain").arg(file).args(more).output().expect("the tool");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Every load, store and guard is followed by a reason.
fn check(text: &str) {
    let left = text.split_once("what is left\n").expect("a list").1;
    let mut lines =
        left.split("roots that").next().unwrap_or("").lines().filter(|line| !line.starts_with("  seg")).peekable();
    let mut count = 0;
    while let Some(line) = lines.next() {
        assert!(line.starts_with("    ") && !line.starts_with("      "), "{line}\n{text}");
        assert!(lines.next_if(|next| next.starts_with("      ")).is_some(), "no reason for {line}\n{text}");
        while lines.next_if(|next| next.starts_with("      ")).is_some() {}
        count += 1;
    }
    assert!(count > 5, "{text}");
}

#[test]
fn a_loop_of_lua_is_explained() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/filetests/loops/array_write.tir");
    let text = explain(&file, &["--passes", "params,forward,flags,dce"]);
    check(&text);
    for part in
        ["array_write: 165 operations become", "forward: loads 19 -> ", "constant memory", "may be to the same memory"]
    {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
}

#[test]
fn a_file_that_the_library_has_left_is_explained() {
    let program = Build::new("examples", &["registers.c"], "-O2", Link::Static).build();
    let dumps = scratch("explain-dumps");
    // It does not exist before the first run.
    let _ = std::fs::remove_dir_all(&dumps);
    let settings = [("REDMAGIC_DUMP", dumps.display().to_string()), ("REDMAGIC_COMPILE_SHARE", "0".to_owned())];
    run_with(&program, &settings, &[]);
    let mut files: Vec<_> =
        std::fs::read_dir(&dumps).expect("a folder").map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    let text = explain(&files[0], &[]);
    assert!(text.contains("an iteration weighs"), "{text}");
    check(&text);
}
