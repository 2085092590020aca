//! `redmagic bisect -- COMMAND`: which trace, and which rewrite of the optimiser in it, makes a program go wrong.
//!
//! Wrong is what differs from a run with `REDMAGIC=off`: standard output or the way the program ends. The search uses
//! options of the library only, so that the program need not be built differently: `REDMAGIC_MAX_TRACES` for the first bad
//! trace, `REDMAGIC_SUSPECT` for the passes and the number of rewrites in it, `REDMAGIC_BACKEND=eval` to tell the lifter
//! from the backend. Addresses are not randomised and the time for compiling is not limited, so that runs are alike.
//!
//! # Honesty
//! A program that does not do the same twice by itself cannot be searched. One that goes wrong sometimes is run several
//! times per step; a run that went well proves little then, and the result says how often it was confirmed.
//!
//! # Worked example
//! ```text
//! $ redmagic bisect -- lua sieve.lua 1000
//! bad: output differs
//! first bad trace: 3, side trace of exit 4 of trace 0
//! first bad rewrite: rewrite 112: pass forward, load forwarded, at v31
//! confirmed: with it bad in 3 of 3 runs, without it in 0 of 3
//! ```

use redmagic_passes::Pipeline;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// More traces or rewrites than these are not looked for.
const MOST: u32 = 1 << 24;

/// What to search, and how.
#[derive(clap::Args)]
pub struct Arguments {
    /// Runs of a step when the program goes wrong only sometimes, and of the confirmation.
    #[arg(long, default_value = "3", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Seconds that a run may take; by default 20 times as long as without the library, but at least 10 s.
    #[arg(long)]
    timeout: Option<u64>,
    /// A file for the program's standard input, which is empty otherwise.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Where the files on the bad trace are left.
    #[arg(long, value_name = "DIRECTORY")]
    keep: Option<PathBuf>,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Why nothing was found.
pub enum Failure {
    /// A file or a process.
    Io(String, std::io::Error),
    /// The program does not do the same twice without the library.
    Varies,
    /// It never went wrong, in so many runs.
    NotReproducible(u32),
    /// It went wrong, but the search lost it.
    Lost(&'static str),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Io(what, error) => write!(f, "{what}: {error}"),
            Failure::Varies => f.write_str("not reproducible: two runs without the library differ from each other"),
            Failure::NotReproducible(runs) => {
                write!(f, "not reproducible: {runs} runs with the library did the same as without it")
            }
            Failure::Lost(step) => {
                write!(f, "not reproducible: it went wrong, but not any more while searching {step}")
            }
        }
    }
}

/// Settings of the library for a run.
type Settings = Vec<(&'static str, String)>;

/// What a run did.
#[derive(PartialEq, Eq)]
struct Outcome {
    end: String,
    output: Vec<u8>,
}

struct Search {
    arguments: Arguments,
    directory: PathBuf,
    /// Whether runs can be started without randomised addresses.
    fixed_addresses: bool,
    limit: Duration,
    reference: Outcome,
    /// Runs of a step.
    attempts: u32,
    how: String,
}

/// Searches; the result for people.
pub fn run(arguments: Arguments) -> Result<String, Failure> {
    let default = || std::env::temp_dir().join(format!("redmagic-bisect-{}", std::process::id()));
    let directory = arguments.keep.clone().unwrap_or_else(default);
    fs::create_dir_all(&directory).map_err(|error| Failure::Io(directory.display().to_string(), error))?;
    let mut search = Search::begin(arguments, directory)?;
    let report = search.all()?;
    Ok(format!("bad: {}\n{report}", search.how))
}

impl Search {
    /// Finds out what the program does without the library, and whether it does something else with it.
    fn begin(arguments: Arguments, directory: PathBuf) -> Result<Search, Failure> {
        let quiet = |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        let fixed_addresses = quiet(Command::new("setarch").args(["-R", "true"])).is_ok_and(|status| status.success());
        let repeat = arguments.repeat;
        let reference = Outcome { end: String::new(), output: Vec::new() };
        let limit = Duration::from_secs(arguments.timeout.unwrap_or(3600));
        let mut search =
            Search { arguments, directory, fixed_addresses, limit, reference, attempts: 1, how: String::new() };
        let off = || vec![("REDMAGIC", "off".to_owned())];
        let begin = Instant::now();
        search.reference = search.outcome(&off())?;
        if search.arguments.timeout.is_none() {
            search.limit = (begin.elapsed() * 20).max(Duration::from_secs(10));
        }
        if search.outcome(&off())? != search.reference {
            return Err(Failure::Varies);
        }
        let mut bad = 0;
        for _ in 0..repeat {
            bad += u32::from(search.is_bad_once(&[])?);
        }
        if bad == 0 {
            return Err(Failure::NotReproducible(repeat));
        }
        if bad < repeat {
            search.attempts = repeat.saturating_mul(3);
            search.how += &format!(" (in {bad} of {repeat} runs, so the result may be wrong)");
        }
        Ok(search)
    }

    fn all(&mut self) -> Result<String, Failure> {
        if self.is_bad(&traces(0))? {
            return Ok("no trace is needed for it: it is the recording or the library itself\n".to_owned());
        }
        let count = self.first_bad("traces", traces)?;
        let trace = count - 1;
        let suspect = |text: String| {
            let mut settings = traces(count);
            settings.push(("REDMAGIC_SUSPECT", text));
            settings
        };
        self.is_bad(&traces(count))?;
        let mut report = format!("first bad trace: {trace}{}\n", self.name_of(trace));
        if self.is_bad(&suspect(format!("{trace}:0:")))? {
            let mut evaluated = suspect(format!("{trace}:0:"));
            evaluated.push(("REDMAGIC_BACKEND", "eval".to_owned()));
            let part = if self.is_bad(&evaluated)? { "the lifter or the library" } else { "the backend" };
            return Ok(report + &format!("bad without any pass, so it is {part}\n"));
        }
        if self.is_bad(&suspect(format!("{trace}:0")))? {
            return Ok(report + &self.first_bad_pass(trace, &suspect)?);
        }
        let rewrites = |count: u32| suspect(format!("{trace}:{count}"));
        let count = self.first_bad("rewrites", rewrites)?;
        let (mut with, mut without) = (0, 0);
        for _ in 0..self.arguments.repeat {
            without += u32::from(self.is_bad_once(&rewrites(count - 1))?);
        }
        let good = self.keep(trace, "good.txt");
        for _ in 0..self.arguments.repeat {
            with += u32::from(self.is_bad_once(&rewrites(count))?);
        }
        let name =
            self.dump_of(trace).and_then(|text| Some(text.lines().find(|l| l.starts_with("rewrite "))?.to_owned()));
        let bad = self.keep(trace, "bad.txt");
        report += &format!("first bad rewrite: {}\n", name.unwrap_or_else(|| format!("number {count}")));
        if let (Some(good), Some(bad)) = (good, bad) {
            report += &format!("compare: {} {}\n", good.display(), bad.display());
        }
        let repeat = self.arguments.repeat;
        let word = if with == repeat && without == 0 { "confirmed" } else { "not reliable" };
        Ok(report + &format!("{word}: with it bad in {with} of {repeat} runs, without it in {without} of {repeat}\n"))
    }

    /// The pass that does wrong in what it does in any case.
    fn first_bad_pass(&mut self, trace: u32, suspect: &dyn Fn(String) -> Settings) -> Result<String, Failure> {
        let list = std::env::var("REDMAGIC_PASSES").unwrap_or_else(|_| Pipeline::default().to_string());
        let passes: Vec<&str> = list.split(',').collect();
        for count in 1..=passes.len() {
            if self.is_bad(&suspect(format!("{trace}:0:{}", passes[..count].join(","))))? {
                let pass = passes[count - 1];
                return Ok(format!("first bad pass: {pass} (number {count} of {list}), whatever it rewrites\n"));
            }
        }
        Err(Failure::Lost("the pass"))
    }

    /// The least number with which the settings are bad; with 0 they are good.
    fn first_bad(&mut self, what: &'static str, settings: impl Fn(u32) -> Settings) -> Result<u32, Failure> {
        let mut good = 0;
        let mut bad = 1;
        while !self.is_bad(&settings(bad))? {
            eprintln!("{bad} {what}: good");
            (good, bad) = (bad, bad * 2);
            if bad > MOST {
                return Err(Failure::Lost(what));
            }
        }
        while bad - good > 1 {
            let middle = good.midpoint(bad);
            let is_bad = self.is_bad(&settings(middle))?;
            eprintln!("{middle} {what}: {}", if is_bad { "bad" } else { "good" });
            *(if is_bad { &mut bad } else { &mut good }) = middle;
        }
        Ok(bad)
    }

    fn is_bad(&mut self, settings: &[(&'static str, String)]) -> Result<bool, Failure> {
        for _ in 0..self.attempts {
            if self.is_bad_once(settings)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_bad_once(&mut self, settings: &[(&'static str, String)]) -> Result<bool, Failure> {
        let outcome = self.outcome(settings)?;
        if outcome == self.reference {
            return Ok(false);
        }
        let how = match (&*self.reference.end, &*outcome.end) {
            (off, on) if off != on => format!("{on} instead of {off}"),
            _ => "output differs".to_owned(),
        };
        if !self.how.starts_with(&how) && !self.how.contains(", and ") {
            self.how = if self.how.is_empty() { how } else { format!("{how}, and {}", self.how) };
        }
        Ok(true)
    }

    /// Runs the program.
    fn outcome(&self, settings: &[(&'static str, String)]) -> Result<Outcome, Failure> {
        let io = |what: &Path| {
            let what = what.display().to_string();
            move |error| Failure::Io(what, error)
        };
        let dumps = self.directory.join("dumps");
        // It does not exist before the first run.
        let _ = fs::remove_dir_all(&dumps);
        let (output, input) = (self.directory.join("output"), self.arguments.input.as_deref());
        let input = input.unwrap_or(Path::new("/dev/null"));
        let mut words = Vec::new();
        if self.fixed_addresses {
            words.extend(["setarch".into(), "-R".into()]);
        }
        words.extend(self.arguments.command.iter().cloned());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env("REDMAGIC_COMPILE_SHARE", "0")
            .env("REDMAGIC_DUMP", &dumps)
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .stdin(File::open(input).map_err(io(input))?)
            .stdout(File::create(&output).map_err(io(&output))?)
            .stderr(Stdio::null())
            .process_group(0);
        let mut child = command.spawn().map_err(io(Path::new(&words[0])))?;
        let end = self.wait(&mut child).map_err(io(Path::new(&words[0])))?;
        Ok(Outcome { end, output: fs::read(&output).map_err(io(&output))? })
    }

    fn wait(&self, child: &mut Child) -> std::io::Result<String> {
        let begin = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(end_of(status));
            }
            if begin.elapsed() > self.limit {
                // The whole group: the program may be a script.
                let group = format!("-{}", child.id());
                Command::new("kill").args(["-KILL", "--", &group]).status()?;
                child.wait()?;
                return Ok("no end in time".to_owned());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What the last run has left on trace `number`.
    fn dump_of(&self, number: u32) -> Option<String> {
        let marks = format!("\ntrace {number}: ops");
        let entries = fs::read_dir(self.directory.join("dumps")).ok()?;
        entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok()).find(|text| text.contains(&marks))
    }

    /// What the last run calls trace `number`.
    fn name_of(&self, number: u32) -> String {
        let begin = format!("trace {number}: ");
        let text = self.dump_of(number).unwrap_or_default();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&begin)?.split(": ").next().filter(|name| !name.starts_with("ops")));
        line.map_or_else(String::new, |name| format!(", {name}"))
    }

    /// Keeps what the last run has left on trace `number`.
    fn keep(&self, number: u32, name: &str) -> Option<PathBuf> {
        let path = self.directory.join(name);
        fs::write(&path, self.dump_of(number)?).ok()?;
        Some(path)
    }
}

/// Only so many traces are compiled.
fn traces(count: u32) -> Settings {
    vec![("REDMAGIC_MAX_TRACES", count.to_string())]
}

fn end_of(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or(0)),
    }
}
