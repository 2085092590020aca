//! Lua 5.4 and Lua 5.5: the annotated program takes every command line as the program without the patch does, and where
//! the two versions differ each does what its own `lua` does.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A program without the patch, the same with it, and the part of variables' names that means this version.
const VERSIONS: [(&str, &str, &str); 2] = [
    (env!("CARGO_BIN_EXE_plain-lua"), env!("CARGO_BIN_EXE_redmagic-lua"), "5_4"),
    (env!("CARGO_BIN_EXE_plain-lua55"), env!("CARGO_BIN_EXE_redmagic-lua55"), "5_5"),
];

fn run(lua: &str, arguments: &[&str], environment: &[(&str, &str)], input: &str) -> Output {
    let mut command = Command::new(lua);
    for name in ["LUA_INIT", "LUA_INIT_5_4", "LUA_INIT_5_5", "LUA_PATH", "LUA_PATH_5_4", "LUA_PATH_5_5"] {
        command.env_remove(name);
    }
    // A low threshold, so that what is typed in runs as traces; a fixed seed, because some errors list tables.
    command.env("REDMAGIC_HOT_LOOP", "1").env("LUA_HASH_SEED", "1").envs(environment.iter().copied());
    command.arg0("lua").args(arguments).current_dir(env!("CARGO_TARGET_TMPDIR"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A program that does not read its input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn write(name: &str, text: &str) {
    std::fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name), text).unwrap();
}

#[test]
fn every_command_line() {
    write("shown.lua", "print(#arg, arg[0], arg[1], arg[-1], arg[-2], ...)\n");
    write("set.lua", "x = 'file'\n");
    write("marked-v3.lua", "return {answer = 42}\n");
    write(
        "failing.lua",
        "local function f() error('deep') end\nsetmetatable({}, {__gc = function() print 'gc' end})\nf()\n",
    );
    write("first_line.lua", "#!/usr/bin/lua\nprint('after')\n");
    let object = "error(setmetatable({}, {__tostring = function() return 'T' end}))";
    let odd = "error(setmetatable({}, {__tostring = function() return 1 end}))";
    let closing = "for i = 1, 9 do local t <close> = setmetatable({}, {__close = function(_, e) print(e) end}) if i > 2 then error 'c' end end";
    let lines: &[&[&str]] = &[
        &["-v"],
        &["-v", "-e", "print(1)"],
        &["-eprint(1)"],
        &["-e"],
        &["-e", "-i"],
        &["-l"],
        &["-h"],
        &["---"],
        &["-Ex"],
        &["-vv"],
        &["-ii"],
        &["-Wx"],
        &["--help"],
        &["shown.lua"],
        &["shown.lua", "a", "b"],
        &["-e", "y=1", "shown.lua", "a"],
        &["-", "a"],
        &["-i"],
        &["-i", "shown.lua", "q"],
        &["-i", "-e", "print(3)"],
        &["-v", "shown.lua"],
        &["--", "shown.lua", "z"],
        &["-W", "-e", "warn('a', 'b')"],
        &["-e", "warn('a')"],
        &["-e", "warn('@on') warn('x')"],
        &["-l", "string", "-e", "print(1)"],
        &["-l", "s=string", "-e", "print(s == string)"],
        &["-l", "no_such_module"],
        &["-l", "marked-v3", "-e", "print(marked.answer)"],
        &["-l", "g=marked-v3", "-e", "print(g.answer)"],
        &["-e", "error('x')"],
        &["-e", "error({})"],
        &["-e", "error()"],
        &["-e", object],
        &["-e", odd],
        &["-e", "x ="],
        &["-e", "return 5"],
        &["no_such_file.lua"],
        &["-e", "os.exit(3)"],
        &["-e", "os.exit(true, true)"],
        &["-e", "os.exit(false)"],
        &["failing.lua"],
        &["first_line.lua"],
        &["-E", "-e", "print(x, package.path)"],
        &["-e", "print(x, package.path)"],
        &["-e", "arg = nil", "shown.lua"],
        &["-e", "arg = {1, 2}", "shown.lua"],
        &["-i", "-"],
        &["-", "-"],
        &["--", "-"],
        &["--"],
        &["-e", "a=1", "--", "shown.lua"],
        &["-W", "shown.lua", "-W"],
        &["-e", "coroutine.wrap(function() error('in') end)()"],
        &["-e", closing],
    ];
    let path = format!("{}/?.lua", env!("CARGO_TARGET_TMPDIR"));
    let environments: &[&[(&str, &str)]] = &[
        &[],
        &[("LUA_INIT", "x = 3")],
        &[("LUA_INIT", "x = 3"), ("LUA_INIT_5_4", "x = 4"), ("LUA_INIT_5_5", "x = 5")],
        &[("LUA_INIT", "@set.lua")],
        &[("LUA_INIT", "error('early')")],
        &[("LUA_INIT", "warn('i') warn('@on')")],
        &[("LUA_PATH", &path), ("LUA_PATH_5_4", "?.four;;"), ("LUA_PATH_5_5", "?.five;;")],
    ];
    for (plain, traced, _) in VERSIONS {
        for arguments in lines {
            for environment in environments {
                let expected = run(plain, arguments, environment, "print('typed', ...)\n");
                let actual = run(traced, arguments, environment, "print('typed', ...)\n");
                assert_eq!(actual, expected, "{arguments:?} {environment:?}");
            }
        }
    }
}

#[test]
fn every_line_typed_in() {
    let texts = [
        "1 + 1\n=2, 'x'\n",
        "local a =\n 5 return a\n",
        "x = 7\nx\n",
        "error('no')\nerror({})\n",
        "_PROMPT = '? '\nx\n",
        "_PROMPT = setmetatable({}, {__tostring = function() return 'P' end})\n1\n",
        "1;\n;\n",
        "local b = 3\nlocalx = 1\n",
        "for i = 1, 40 do\nx = i\nend\nx\n",
        "print = nil\n1\n",
        "print = error\n1\n",
        "return 1, 2, nil\n",
        "\n\n",
        "x = = 1\n",
        "if x then\n",
        "f = function()\n return 1\nend\nf()\n",
        "'a\\\n b'\n",
        "--[[\n]] 4\n",
        "1 -- c\n",
        "goto x\n",
        "os.exit(9)\n",
        "function f() return f() + 1 end f()\n",
        "_PROMPT2 = '2: '\nfor i = 1, 1 do\nend\n",
        "x",
    ];
    for (plain, traced, _) in VERSIONS {
        for text in texts {
            assert_eq!(run(traced, &["-i"], &[], text), run(plain, &["-i"], &[], text), "{text:?}");
        }
    }
}

#[test]
fn where_the_versions_differ() {
    let out = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let err = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    for (_, lua, version) in VERSIONS {
        let number = version.replace('_', ".");
        let output = run(lua, &["-v"], &[], "");
        assert!(out(&output).starts_with(&format!("Lua {number}.")), "{}", out(&output));
        let own = [("LUA_INIT", "x = 0"), (&*format!("LUA_INIT_{version}"), "x = 'own'")];
        assert_eq!(out(&run(lua, &["-e", "print(x, _VERSION)"], &own, "")), format!("own\tLua {number}\n"));
    }
    let [(_, old, _), (_, new, _)] = VERSIONS;
    // A line that begins with an equals sign, and one that declares a local.
    let (four, five) = (run(old, &["-i"], &[], "=1\nlocal x = 1\n"), run(new, &["-i"], &[], "=1\nlocal x = 1\n"));
    assert!(out(&four).contains("> 1\n> ") && err(&four).is_empty(), "{four:?}");
    let expected =
        "stdin:1: unexpected symbol near '='\nwarning: locals do not survive across lines in interactive mode\n";
    assert_eq!(err(&five), expected);
    // What LUA_INIT may say.
    let warning = [("LUA_INIT", "warn('said')")];
    assert_eq!(err(&run(old, &["-e", "warn('silent')"], &warning, "")), "");
    assert_eq!(err(&run(new, &["-e", "warn('silent')"], &warning, "")), "Lua warning: said\n");
}
