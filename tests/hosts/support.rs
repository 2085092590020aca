//! Compiles C hosts with the system's compiler, links them with the library, and runs them.
//!
//! The library is the one that cargo has built for this test: both of its C forms lie beside the test's own program.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Longer than any host takes in any configuration.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// How a host is linked with the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// With `libredmagic.a`: one module.
    Static,
    /// With `libredmagic.so`.
    Shared,
    /// With functions that do nothing.
    Noop,
}

/// A host to build.
#[derive(Clone, Debug)]
pub struct Build {
    name: String,
    sources: Vec<PathBuf>,
    /// Compiled to a shared library of their own.
    outside: Vec<PathBuf>,
    /// Compiled to shared libraries that the host loads by itself, by what they are called in its source.
    plugins: Vec<(String, PathBuf, String)>,
    flags: Vec<String>,
    link: Link,
}

/// The folder of the package.
pub fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Build {
    /// A host of these sources, which lie in `folder` of the package, with these flags (separated by spaces).
    pub fn new(folder: &str, sources: &[&str], flags: &str, link: Link) -> Build {
        let sources: Vec<PathBuf> = sources.iter().map(|source| package().join(folder).join(source)).collect();
        let stem = sources[0].file_stem().unwrap().to_string_lossy().into_owned();
        let words: String = flags.chars().filter(|c| !c.is_whitespace()).collect();
        let name = format!("{stem}{words}-{link:?}").to_lowercase();
        let flags = flags.split_whitespace().map(str::to_owned).collect();
        Build { name, sources, outside: Vec::new(), plugins: Vec::new(), flags, link }
    }

    /// The same with `source` in a shared library of its own.
    pub fn outside(mut self, source: &str) -> Build {
        self.outside.push(package().join("tests/hosts").join(source));
        self.name.push_str("-outside");
        self
    }

    /// The same with `source`, compiled with `flag`, in a shared library whose path the macro `name` holds.
    pub fn plugin(mut self, name: &str, source: &str, flag: &str) -> Build {
        let source = package().join("tests/hosts").join(source);
        self.plugins.push((name.to_owned(), source, flag.to_owned()));
        self
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Compiles and links; the program's path.
    pub fn build(&self) -> PathBuf {
        let program = scratch(&self.name);
        let libraries: Vec<PathBuf> = self
            .outside
            .iter()
            .map(|source| {
                let library = scratch(&format!("lib{}-{}.so", self.name, source.file_stem().unwrap().display()));
                let mut command = self.compiler();
                command.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source);
                succeed(&mut command);
                library
            })
            .collect();
        let artifacts = artifacts();
        let mut command = self.compiler();
        for (name, source, flag) in &self.plugins {
            let plugin = scratch(&format!("lib{}-{name}.so", self.name));
            let mut compiler = self.compiler();
            compiler.args(["-shared", "-fPIC", flag, "-o"]).arg(&plugin).arg(source);
            succeed(compiler.arg(artifacts.join("libredmagic.so")));
            command.arg(format!("-D{name}=\"{}\"", plugin.display()));
        }
        command.arg("-o").arg(&program).args(&self.sources).args(&libraries);
        match self.link {
            Link::Static => command.arg(artifacts.join("libredmagic.a")),
            Link::Shared => {
                command.arg(artifacts.join("libredmagic.so")).arg(format!("-Wl,-rpath,{}", artifacts.display()))
            }
            Link::Noop => command.arg(self.noop()),
        };
        command.args(["-lpthread", "-ldl", "-lm"]);
        succeed(&mut command);
        program
    }

    /// The C API without a library behind it, compiled.
    fn noop(&self) -> PathBuf {
        let object = scratch(&format!("{}.o", self.name));
        let mut command = self.compiler_for(Path::new("noop.c"));
        succeed(command.arg("-c").arg(package().join("hosts/lua/csrc/noop.c")).arg("-o").arg(&object));
        object
    }

    fn compiler(&self) -> Command {
        self.compiler_for(&self.sources[0])
    }

    fn compiler_for(&self, source: &Path) -> Command {
        let plus = source.extension().is_some_and(|extension| extension == "cc");
        let (variable, default) = if plus { ("CXX", "c++") } else { ("CC", "cc") };
        let mut command = Command::new(std::env::var_os(variable).unwrap_or(default.into()));
        // Overflow wraps around in the interpreters; unwinding through every function is part of the tests.
        command.args(["-g1", "-Wall", "-Wextra", "-fwrapv", "-fexceptions"]);
        command.args(["-I", "include", "-I", "tests/hosts"].map(|flag| match flag {
            "-I" => "-I".into(),
            path => package().join(path),
        }));
        command.args(&self.flags);
        command
    }
}

/// Where cargo has put the library.
fn artifacts() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_owned()
}

/// A path in the tests' scratch folder.
pub fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}:\n{errors}");
    assert!(errors.is_empty(), "{command:?}:\n{errors}");
}

/// What a process did.
#[derive(Debug)]
pub struct Outcome {
    /// `exit 0`, `signal 11`, `out of time`.
    pub end: String,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub errors: String,
    /// The library's statistics; null when it was off, or the process did not end by itself.
    pub statistics: serde_json::Value,
}

impl Outcome {
    /// A counter of the statistics.
    pub fn counter(&self, name: &str) -> u64 {
        self.statistics[name].as_u64().unwrap_or_else(|| panic!("no counter {name} in {}", self.statistics))
    }
}

/// Runs a host with these variables in its environment.
pub fn run(program: &Path, settings: &[(&str, String)]) -> Outcome {
    run_with(program, settings, &[])
}

/// The same with arguments.
pub fn run_with(program: &Path, settings: &[(&str, String)], arguments: &[String]) -> Outcome {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let number = RUNS.fetch_add(1, Ordering::Relaxed);
    let name = program.file_name().unwrap().to_string_lossy();
    let file = |what: &str| scratch(&format!("{name}-{number}-{what}"));
    let (output, errors, statistics) = (file("output"), file("errors"), file("statistics"));
    let mut command = Command::new(program);
    command.args(arguments);
    for variable in ["REDMAGIC", "REDMAGIC_HOT_LOOP", "REDMAGIC_LOG", "REDMAGIC_DUMP", "REDMAGIC_PASSES"] {
        command.env_remove(variable);
    }
    // Unless a test says otherwise, the model that leaves most to the optimiser.
    command.env("REDMAGIC_MEMORY_MODEL", "interpreter-lock");
    command.env("REDMAGIC_STATS", &statistics).envs(settings.iter().map(|(name, value)| (*name, value)));
    command.stdin(Stdio::null()).stdout(File::create(&output).unwrap()).stderr(File::create(&errors).unwrap());
    let mut child = command.spawn().unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() && start.elapsed() < TIME_LIMIT {
        std::thread::sleep(Duration::from_millis(1));
    }
    let in_time = child.try_wait().unwrap().is_some();
    if !in_time {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    let read = |path: &Path| {
        let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let _ = fs::remove_file(path);
        text
    };
    let end = match (in_time, status.code(), status.signal()) {
        (false, _, _) => "out of time".to_owned(),
        (_, Some(code), _) => format!("exit {code}"),
        (_, None, signal) => format!("signal {}", signal.unwrap_or(0)),
    };
    Outcome {
        end,
        output: read(&output),
        errors: read(&errors),
        statistics: serde_json::from_str(&read(&statistics)).unwrap_or_default(),
    }
}

/// Failures that mean a bug of ours, whatever came of it.
const BUGS: [&str; 4] = ["check failed", "malformed trace", "internal error", "panicked"];

/// What is wrong with a run that should have done the same as `reference`, if anything.
pub fn difference(reference: &Outcome, actual: &Outcome) -> Option<String> {
    if (&actual.end, &actual.output) != (&reference.end, &reference.output) {
        return Some(format!("expected {}:\n{}\nfound {actual:#?}", reference.end, reference.output));
    }
    bug(actual)
}

/// The bug of ours that the statistics of a run speak of, if any.
pub fn bug(actual: &Outcome) -> Option<String> {
    let reasons = actual.statistics["reasons"].as_object()?;
    let bug = reasons.keys().find(|reason| BUGS.iter().any(|bug| reason.contains(bug)))?;
    Some(format!("{bug}: {}", actual.errors))
}

/// Runs a host switched off and then with each threshold, and compares. Returns the runs with thresholds.
pub fn compare(build: &Build, thresholds: &[u64]) -> Vec<Outcome> {
    let program = build.build();
    let reference = run(&program, &[("REDMAGIC", "off".to_owned())]);
    compare_with(&reference, build, &program, thresholds)
}

/// Runs a host with each threshold and compares it with a run that must be right.
pub fn compare_with(reference: &Outcome, build: &Build, program: &Path, thresholds: &[u64]) -> Vec<Outcome> {
    assert_eq!(reference.end, "exit 0", "{}: {reference:#?}", build.name);
    assert!(!reference.output.is_empty(), "{}", build.name);
    let mut failures = Vec::new();
    let mut outcomes = Vec::new();
    for threshold in thresholds {
        let settings = [
            ("REDMAGIC_HOT_LOOP", threshold.to_string()),
            ("REDMAGIC_HOT_EXIT", threshold.to_string()),
            ("REDMAGIC_CHECK", "1".to_owned()),
            ("REDMAGIC_LOG", "1".to_owned()),
            ("REDMAGIC_MEMORY_MODEL", if *threshold == 2 { "default" } else { "interpreter-lock" }.to_owned()),
        ];
        let outcome = run(program, &settings);
        if let Some(difference) = difference(reference, &outcome) {
            failures.push(format!("{} with threshold {threshold}: {difference}", program.display()));
        }
        outcomes.push(outcome);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    outcomes
}

/// The usual thresholds, one of them random.
pub fn thresholds() -> [u64; 4] {
    [1, 2, 50, 1 + seed() % 120]
}

/// A number that `REDMAGIC_TEST_SEED` repeats.
pub fn seed() -> u64 {
    let given = std::env::var("REDMAGIC_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos().into());
    println!("seed {seed}");
    seed
}
