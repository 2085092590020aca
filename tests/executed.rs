//! What programs execute is lifted: interpreters of this machine, and the traces of the example hosts.
//!
//! Of an interpreter's own code every instruction that a short script executes must be lifted, but for three kinds that are
//! executed verbatim: x87; repeated string instructions, unless their count is a small
//! constant (which a single instruction does not tell).

#[path = "hosts/support.rs"]
#[allow(dead_code, reason = "made for the tests of hosts")]
mod support;

use std::path::Path;
use std::process::Command;
use support::{Build, Link, run, scratch};

/// Interpreters: the program, libraries that are part of it, arguments.
const INTERPRETERS: [(&str, &[&str], &[&str]); 9] = [
    (
        "python3",
        &["libpython3"],
        &[
            "-c",
            "import re, json; print(json.dumps({'a': [1, 2.5, 10**30]}), re.sub('a+', 'b', 'caat'), {x: x % 7 for x in range(99)})",
        ],
    ),
    (
        "perl",
        &["libperl"],
        &[
            "-e",
            "my %h; $h{$_} = sprintf('%.3f', $_ * 1.5) for 1 .. 99; my $s = join ',', sort values %h; $s =~ s/5(,)/$1x/g; print $s, 7 ** 0.5, qq{\n}",
        ],
    ),
    (
        "bash",
        &[],
        &[
            "-c",
            "f() { local i; for i in 1 2 3; do echo $((i * $1)); done; }; f 7; a=(x y); printf '%5.2f %s\n' 2.5 ${a[1]^}",
        ],
    ),
    ("tclsh", &["libtcl"], &["/dev/stdin"]),
    (
        "lua5.4",
        &["liblua"],
        &["-e", "local t = {} for i = 1, 99 do t[i] = i * 1.5 end print(table.concat(t, ','):gsub('5', 'x'))"],
    ),
    (
        "luajit",
        &["libluajit"],
        &["-joff", "-e", "local t = {} for i = 1, 99 do t[i] = i * 1.5 end print(table.concat(t, ','):gsub('5', 'x'))"],
    ),
    ("ruby", &["libruby"], &["-e", "puts (1..99).map { |x| x * 1.5 }.join(',').gsub(/5/, 'x')"]),
    ("php", &[], &["-r", "echo preg_replace('/5/', 'x', implode(',', array_map(fn($x) => $x * 1.5, range(1, 99))));"]),
    ("guile", &["libguile"], &["-c", "(display (map (lambda (x) (* x 1.5)) (iota 99)))"]),
];
/// What asks for features of the processor runs once, when a program starts.
const AT_THE_START: [&str; 2] = ["Cpuid", "Xgetbv"];

/// The number that a line of the report gives.
fn number(report: &str, name: &str) -> u64 {
    let line = report.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    line.unwrap_or_else(|| panic!("no {name} in {report}"))
}

/// Checks the report on one file; returns the number of instructions.
fn check(report: &str) -> u64 {
    let [lifted, repeated, x87] = ["lifted ", "repeated ", "x87 "].map(|name| number(report, name));
    let others: Vec<&str> =
        report.lines().filter(|line| line.ends_with("(native)") || line.contains("(refused")).collect();
    let start = others.iter().filter(|line| AT_THE_START.iter().any(|name| line.contains(name))).count();
    assert_eq!(others.len(), start, "{report}");
    println!("  {lifted} lifted, {repeated} repeated string instructions, {x87} of x87, {start} at the start");
    lifted + repeated + x87
}

#[test]
fn what_interpreters_execute_is_lifted() {
    let mut interpreters = 0;
    for (program, modules, arguments) in INTERPRETERS {
        let mut command = Command::new(env!("CARGO_BIN_EXE_redmagic"));
        command.args(["executed", "--list", "10000"]);
        modules.iter().for_each(|module| _ = command.args(["--module", module]));
        let script = scratch("executed.tcl");
        std::fs::write(&script, "set a 0\nfor {set i 0} {$i < 99} {incr i} {incr a [expr {$i * 2}]}\nputs [format {%d %.2f %s} $a 2.5 [string repeat ab 3]]\n").unwrap();
        command.arg("--").arg(program).args(arguments).stdin(std::fs::File::open(&script).unwrap());
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            // Not installed, or nobody may control other processes here.
            println!("{program}: {}", errors.lines().last().unwrap_or_default());
            continue;
        }
        let text = String::from_utf8(output.stdout).unwrap();
        // A report begins with the line that ends so.
        let mut all = 0;
        let lines: Vec<&str> = text.lines().collect();
        for report in lines.split(|line| line.ends_with(" instructions executed")).skip(1) {
            all += check(&report.join("\n"));
        }
        assert!(all > 5000, "{program}: only {all} instructions\n{text}{errors}");
        interpreters += 1;
    }
    println!("{interpreters} interpreters");
}

/// Native operations among the instructions of all traces that a log speaks of: `…: 80 instructions (0 native), …`.
fn natives(log: &str) -> (u64, u64) {
    let number = |text: &str| text.rsplit(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty())?.parse().ok();
    let line = |line: &str| -> Option<(u64, u64)> {
        let (before, rest) = line.split_once(" instructions (")?;
        Some((number(before)?, rest.split_once(" native)")?.0.parse().ok()?))
    };
    log.lines().filter_map(line).fold((0, 0), |sum, trace| (sum.0 + trace.0, sum.1 + trace.1))
}

#[test]
fn what_example_hosts_record_is_lifted() {
    let hosts = [
        ("examples", "accumulator.c"),
        ("examples", "registers.c"),
        ("examples", "tree.c"),
        ("tests/hosts", "dispatch.c"),
    ];
    for (folder, source) in hosts {
        for flags in ["-O0", "-O2", "-O3 -mavx2"] {
            if flags.contains("avx2") && !is_x86_feature_detected!("avx2") {
                println!("{source} {flags}: not on this processor");
                continue;
            }
            let build = Build::new(folder, &[source], flags, Link::Static);
            let program = build.build();
            let log = scratch(&format!("executed-{}.log", Path::new(source).file_stem().unwrap().display()));
            let _ = std::fs::remove_file(&log);
            let settings = [
                ("REDMAGIC_HOT_LOOP", "1".to_owned()),
                ("REDMAGIC_HOT_EXIT", "1".to_owned()),
                ("REDMAGIC_COMPILE_SHARE", "0".to_owned()),
                ("REDMAGIC_LOG", format!("2:{}", log.display())),
            ];
            let outcome = run(&program, &settings);
            assert_eq!(outcome.end, "exit 0", "{outcome:#?}");
            let (instructions, natives) = natives(&std::fs::read_to_string(&log).unwrap_or_default());
            println!("{source} {flags}: {instructions} instructions, {natives} native");
            assert!(instructions > 10 && natives == 0, "{source} {flags}: {natives} of {instructions}");
        }
    }
}
