//! The front end behaves as the `lua` program does: options, exit statuses, messages, lines typed in, closed pipes.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// The annotated interpreter, under a name that does not depend on where it was built.
fn lua() -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(env!("CARGO_BIN_EXE_redmagic-lua"));
    command.arg0("lua");
    for name in ["LUA_INIT", "LUA_INIT_5_4", "LUA_PATH", "LUA_PATH_5_4"] {
        command.env_remove(name);
    }
    command
}

fn run(arguments: &[&str]) -> Output {
    lua().args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn run_with_input(arguments: &[&str], input: &str) -> Output {
    let mut child =
        lua().args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Writes a script; every test has its own names.
fn script(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn texts_libraries_and_warnings_in_their_order() {
    let output = run(&["-e", "x = 1", "-ex = x + 1", "-l", "string", "-l", "s=string", "-e", "print(x, s == string)"]);
    assert_eq!(out(&output), "2\ttrue\n", "{}", err(&output));
    let output = run(&["-W", "-e", "warn('w', '1')"]);
    assert_eq!(err(&output), "Lua warning: w1\n");
    let output = run(&["-e", "warn('silent')"]);
    assert_eq!(err(&output), "");
}

#[test]
fn modules_with_a_version_mark() {
    script("marked-v2.lua", "return { answer = 42 }");
    let output = lua()
        .args(["-l", "marked-v2", "-e", "print(marked.answer)"])
        .env("LUA_PATH", concat!(env!("CARGO_TARGET_TMPDIR"), "/?.lua"))
        .output()
        .unwrap();
    assert_eq!(out(&output), "42\n", "{}", err(&output));
    let output = run(&["-l", "no_such_module", "-e", "print(1)"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).starts_with("lua: module 'no_such_module' not found:"), "{}", err(&output));
    assert_eq!(out(&output), "");
}

#[test]
fn the_version() {
    let output = run(&["-v"]);
    assert!(out(&output).starts_with("Lua 5.4."), "{}", out(&output));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn arguments_of_a_script() {
    let path = script("arguments.lua", "print(#arg, arg[0] ~= nil, arg[1], arg[-1], arg[-2], arg[-3], ...)");
    let output = run(&["-e", "y = 1", path.to_str().unwrap(), "a", "b"]);
    assert_eq!(out(&output), "2\ttrue\ta\ty = 1\t-e\tlua\ta\tb\n", "{}", err(&output));
    let output = run_with_input(&["-", "p", "-v"], "print(...)");
    assert_eq!(out(&output), "p\t-v\n");
    let output = run_with_input(&[], "print(arg[0], ...)");
    assert_eq!(out(&output), "lua\n");
    let output = run(&["--", path.to_str().unwrap()]);
    assert_eq!(out(&output), "0\ttrue\tnil\t--\tlua\tnil\n");
}

#[test]
fn malformed_options() {
    for (arguments, message) in [
        (&["-h"][..], "lua: unrecognized option '-h'\n"),
        (&["---"], "lua: unrecognized option '---'\n"),
        (&["-Ex"], "lua: unrecognized option '-Ex'\n"),
        (&["-vv"], "lua: unrecognized option '-vv'\n"),
        (&["-e"], "lua: '-e' needs argument\n"),
        (&["-e", "-i"], "lua: '-e' needs argument\n"),
        (&["-l"], "lua: '-l' needs argument\n"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(err(&output).starts_with(message), "{arguments:?}: {}", err(&output));
        assert!(err(&output).contains("usage: lua [options] [script [args]]"), "{}", err(&output));
    }
}

#[test]
fn errors_and_exit_statuses() {
    let output = run(&["-e", "error('bad')"]);
    assert_eq!(output.status.code(), Some(1));
    let expected = "lua: (command line):1: bad\nstack traceback:\n\t[C]: in function 'error'\n\t(command line):1: in main \
                    chunk\n\t[C]: in ?\n";
    assert_eq!(err(&output), expected);
    assert_eq!(err(&run(&["-e", "error({})"])).lines().next(), Some("lua: (error object is a table value)"));
    let object = "error(setmetatable({}, {__tostring = function() return 'mine' end}))";
    assert_eq!(err(&run(&["-e", object])), "lua: mine\n");
    assert_eq!(err(&run(&["-e", "x = = 1"])), "lua: (command line):1: unexpected symbol near '='\n");
    let output = run(&["no such file.lua"]);
    assert_eq!(err(&output), "lua: cannot open no such file.lua: No such file or directory\n");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(run(&["-e", "os.exit(7)"]).status.code(), Some(7));
    assert_eq!(run(&["-e", "os.exit(false, true)"]).status.code(), Some(1));
    assert_eq!(run(&["-e", ""]).status.code(), Some(0));
}

#[test]
fn settings_from_the_environment() {
    let with = |name: &str, value: &str, arguments: &[&str]| lua().args(arguments).env(name, value).output().unwrap();
    let output = with("LUA_INIT", "x = 3", &["-e", "print(x)"]);
    assert_eq!(out(&output), "3\n");
    let output = with("LUA_INIT", "x = 3", &["-E", "-e", "print(x)"]);
    assert_eq!(out(&output), "nil\n");
    let path = script("init.lua", "x = 'file'");
    let output = with("LUA_INIT_5_4", &format!("@{}", path.display()), &["-e", "print(x)"]);
    assert_eq!(out(&output), "file\n");
    let output = with("LUA_INIT", "error('early')", &["-e", "print(1)"]);
    assert_eq!(err(&output).lines().next(), Some("lua: LUA_INIT:1: early"));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn lines_typed_in() {
    let typed = "1 + 1\n=2, 'x'\nlocal a =\n  5 return a\nx = 7\nx\nerror('no')\nerror({})\n_PROMPT = '? '\n";
    let output = run_with_input(&["-i"], typed);
    let text = out(&output);
    let lines: Vec<&str> = text.lines().skip(1).collect();
    assert_eq!(lines, ["> 2", "> 2\tx", "> >> 5", "> > 7", "> > > ? "], "{}", err(&output));
    assert!(err(&output).starts_with("stdin:1: no\nstack traceback:"), "{}", err(&output));
    assert!(err(&output).contains("\n(error object is a table value)\n"), "{}", err(&output));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_closed_pipe_ends_the_process_silently() {
    use std::os::unix::process::ExitStatusExt;
    let mut child = lua()
        .args(["-e", "while true do print('text') end"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGPIPE));
    assert_eq!(err(&output), "");
}

#[test]
fn comparing() {
    let path = script("compared.lua", "local x = 0 for i = 1, 1000 do x = x + i end print(x, ...) os.exit(3)");
    let output = run(&["--compare=2", path.to_str().unwrap(), "argument"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let same = "output and exit status are the same (exit status: 3, 16 bytes of output)\n";
    assert!(out(&output).starts_with(same), "{}", out(&output));
    assert!(out(&output).contains("\nspeed-up "), "{}", out(&output));
    let path = script("different.lua", "print(os.getenv('REDMAGIC'))");
    let output = run(&["--compare", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let different = "DIFFERENT: standard output, line 1: \"off\" without traces, \"nil\" with\n";
    assert!(out(&output).starts_with(different), "{}", out(&output));
    assert_eq!(run(&["--compare"]).status.code(), Some(2));
}
