//! The command `foreign` finds scripts, compares them, and says what differs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder with these scripts.
fn folder(name: &str, scripts: &[(&str, &str)]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    for (name, text) in scripts {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

fn foreign(arguments: &[&str], folder: &Path) -> (Output, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_foreign"));
    command.arg("--seed=1").args(arguments).arg(folder);
    command.arg(format!("--plain={}", env!("CARGO_BIN_EXE_plain-lua")));
    if !arguments.iter().any(|argument| argument.starts_with("--traced=")) {
        command.arg(format!("--traced={}", env!("CARGO_BIN_EXE_redmagic-lua")));
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, text)
}

#[test]
fn scripts_that_agree() {
    let scripts = [
        ("sum.lua", "local x = 0 for i = 1, 500 do x = x + i end print(x, ...)"),
        ("below/address.lua", "for i = 1, 9 do print({}) end"),
        ("below/fails.lua", "for i = 1, 100 do if i == 70 then error('at ' .. i) end end"),
        ("readme.txt", "this is not Lua"),
    ];
    let (output, text) = foreign(&["--hot=2,random", "--after=argument"], &folder("agree", &scripts));
    assert_eq!(output.status.code(), Some(0), "{text}");
    let expected = "seed 1, 3 scripts\n3 scripts, 0 different; 2 do not end well or vary by themselves\n";
    assert_eq!(text, expected);
}

#[test]
fn a_script_that_differs() {
    let folder = folder("differ", &[("sum.lua", "print(1)\nprint(2)")]);
    let (output, text) = foreign(&["--hot=3", "--traced=/bin/echo"], &folder);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let line = text.lines().nth(1).unwrap();
    assert!(line.starts_with("DIFFERENT ") && line.contains("REDMAGIC_HOT_LOOP=3"), "{text}");
    assert!(line.ends_with("LUA_HASH_SEED=1: output, line 1: \"sum.lua\" in place of \"1\""), "{text}");
    assert!(text.ends_with("1 scripts, 1 different; 0 do not end well or vary by themselves\n"), "{text}");
}

#[test]
fn a_wrong_command_line() {
    let some = folder("wrong", &[("a.lua", "")]);
    for (argument, message) in [
        ("--hot=often", "foreign: often: not a threshold\nusage: "),
        ("--new", "foreign: --new: no such option\nusage: "),
        ("--limit=x", "foreign: --limit=x: not a number\nusage: "),
        ("/no/such/place", "foreign: /no/such/place: No such file or directory"),
    ] {
        let (output, _) = foreign(&[argument], &some);
        assert_eq!(output.status.code(), Some(2), "{argument}");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.starts_with(message), "{errors}");
    }
}
