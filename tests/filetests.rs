//! Tests in files: `tests/filetests/<folder>/*.tir`.
//!
//! A file is a header, traces in the text form, a rule, and the output that is expected exactly:
//! ```text
//! ; test: eval
//! ; run rax=2
//! trace t {
//! ...
//! }
//! ; ---- expected ----
//! run rax=2
//!   leaves by exit0 to 0x40
//! ```
//! `BLESS=1 cargo test --test filetests` writes the expectations anew; look at the difference before you keep it.
//!
//! Commands:
//! - `text`: parse, verify, print. The printed text is parsed and printed again, which must change nothing.
//! - `verify`: one line for each error of the parser or the verifier, or `ok`.
//! - `eval`: parse, verify, and report on each `run` of the header (see [`redmagic_ir::script`]).
//! - `opt [LIST]`: run these passes (or the default ones), print the result, and compare evaluations before and after on
//!   64 variations of each `run` of the header (or of an empty state), at least one of which must reach an exit.
//! - `loop`: the lifted trace of a loop, recorded by `loops --write` of `hosts/lua`. What the straight-line passes and all passes make of it
//!   is printed, each with the weight of an iteration, and compared as for `opt`, but that an optimised trace may leave by an
//!   exit of its own, earlier than the lifted one, when the state is not the recorded one.
//! - `lift [opt [LIST]]`: no traces, but a recording in the header (see the `lifting` module); the lifted trace is printed,
//!   or with `opt` what the passes make of it, compared as `opt` does.
//! - `lower [opt [LIST]]`: compile the traces, or with `opt` what the passes make of them, and print the outcome (see the
//!   `lowering` module).
//!
//! Beside that, every trace of `text`, `eval` and `opt`, before and after the passes, must compile.

#[path = "filetests/lifting.rs"]
mod lifting;
#[path = "filetests/lowering.rs"]
mod lowering;

use redmagic_ir::early::compare_early;
use redmagic_ir::eval::Guest;
use redmagic_ir::sandbox::{Background, Difference, TestGuest, variations};
use redmagic_ir::script::parse_script;
use redmagic_ir::{Slot, Trace, parse, verify};
use redmagic_passes::{Pipeline, loop_weight, optimise};
use std::fs;
use std::path::{Path, PathBuf};

const RULE: &str = "; ---- expected ----\n";

struct TestFile {
    path: PathBuf,
    command: String,
    options: Vec<String>,
    /// Comment lines of the header, without `;`.
    header: Vec<String>,
    input: String,
    expected: String,
}

impl TestFile {
    fn read(path: &Path) -> Result<TestFile, String> {
        let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
        let (input, expected) = text.split_once(RULE).unwrap_or((&text, ""));
        let header: Vec<String> = input
            .lines()
            .take_while(|line| line.starts_with(';'))
            .map(|line| line.trim_start_matches(';').trim().to_owned())
            .collect();
        let command = header.first().and_then(|line| line.strip_prefix("test:")).ok_or("no `; test:` line")?;
        let mut words = command.split_whitespace().map(str::to_owned);
        Ok(TestFile {
            path: path.to_owned(),
            command: words.next().ok_or("no command")?,
            options: words.collect(),
            header,
            input: input.to_owned(),
            expected: expected.to_owned(),
        })
    }

    fn run(&self) -> Result<String, String> {
        match self.command.as_str() {
            "text" => self.text(),
            "verify" => Ok(self.errors()),
            "eval" => self.eval(),
            "opt" => self.optimise(),
            "loop" => self.loop_forms(),
            "lift" => self.lift(),
            "lower" => self.lower(),
            other => Err(format!("there is no command `{other}`")),
        }
    }

    fn valid_traces(&self) -> Result<Vec<Trace>, String> {
        let traces = parse(&self.input).map_err(|error| error.to_string())?;
        for trace in &traces {
            verify(trace).map_err(|errors| {
                let lines: Vec<String> = errors.iter().map(|error| format!("{}: {error}", trace.name)).collect();
                lines.join("\n")
            })?;
        }
        Ok(traces)
    }

    fn text(&self) -> Result<String, String> {
        let printed = print(&self.valid_traces()?);
        let again = parse(&printed).map_err(|error| format!("the printed text does not parse: {error}\n{printed}"))?;
        if print(&again) != printed {
            return Err(format!("the printed text is not a fixed point:\n{}", print(&again)));
        }
        Ok(printed)
    }

    fn errors(&self) -> String {
        let traces = match parse(&self.input) {
            Ok(traces) => traces,
            Err(error) => return format!("{error}\n"),
        };
        let mut output = String::new();
        for trace in &traces {
            match verify(trace) {
                Ok(()) => output.push_str(&format!("{}: ok\n", trace.name)),
                Err(errors) => {
                    errors.iter().for_each(|error| output.push_str(&format!("{}: {error}\n", trace.name)));
                }
            }
        }
        output
    }

    fn eval(&self) -> Result<String, String> {
        let runs = parse_script(self.header.iter().map(String::as_str)).map_err(|error| error.to_string())?;
        let traces = self.valid_traces()?;
        let mut output = String::new();
        for trace in &traces {
            runs.iter().for_each(|run| output.push_str(&run.report(trace)));
        }
        Ok(output)
    }

    fn optimise(&self) -> Result<String, String> {
        let pipeline = pipeline(&self.options)?;
        let traces = self.valid_traces()?;
        let optimised: Result<Vec<Trace>, String> =
            traces.into_iter().map(|trace| self.optimised(trace, &pipeline)).collect();
        optimised.map(|traces| print(&traces))
    }

    fn loop_forms(&self) -> Result<String, String> {
        let mut output = String::new();
        for before in self.valid_traces()? {
            let all = Pipeline::default();
            for (title, passes) in [("straight line", all.without("loops")), ("all passes", all)] {
                let mut after = before.clone();
                optimise(&mut after, &passes);
                verify(&after).map_err(|errors| format!("invalid result: {}\n{after}", errors[0]))?;
                self.compare_loop(&before, &after)?;
                let weight = loop_weight(&after).ok_or("no loop is left")?;
                output.push_str(&format!("; {title}: {weight}\n{after}"));
            }
        }
        Ok(output)
    }

    fn compare_loop(&self, before: &Trace, after: &Trace) -> Result<(), String> {
        const VARIATIONS: u64 = 24;
        const FUEL: u64 = 300_000;
        let runs = parse_script(self.header.iter().map(String::as_str)).map_err(|error| error.to_string())?;
        let mut base = runs.into_iter().next().ok_or("no `; run` line")?.guest;
        base.memory.set_background(Background::Derived(7));
        for (number, guest) in variations(before, &base, VARIATIONS).iter().enumerate() {
            match compare_early(before, after, guest, FUEL) {
                Ok(true) => {}
                Ok(false) if number > 0 => {}
                Ok(false) => return Err("the recorded state reaches no exit".to_owned()),
                // The function of the loop calls others, so it keeps nothing below the stack pointer. The stack is the last
                // mapping, so everything else has been compared by then.
                Err(Difference::Memory(address, ..))
                    if (1..=128).contains(&base.slot(Slot::RSP).wrapping_sub(address)) => {}
                Err(error) => return Err(format!("variation {number}: {error}\n{after}")),
            }
        }
        Ok(())
    }

    /// What the passes make of a valid trace, checked.
    fn optimised(&self, mut trace: Trace, pipeline: &Pipeline) -> Result<Trace, String> {
        let before = trace.clone();
        optimise(&mut trace, pipeline);
        verify(&trace).map_err(|errors| format!("invalid result: {}\n{trace}", errors[0]))?;
        self.compare(&before, &trace)?;
        Ok(trace)
    }

    /// The trace itself, or what the passes make of it if the first option is `opt`.
    fn optimised_if_asked(&self, trace: Trace) -> Result<Trace, String> {
        match self.options.split_first() {
            None => Ok(trace),
            Some((word, list)) if word == "opt" => self.optimised(trace, &pipeline(list)?),
            Some((word, _)) => Err(format!("there is no option `{word}`")),
        }
    }

    fn lift(&self) -> Result<String, String> {
        match lifting::lift(&self.header)? {
            Ok(trace) => self.optimised_if_asked(trace).map(|trace| trace.to_string()),
            Err(reason) => Ok(format!("refused: {reason}\n")),
        }
    }

    fn lower(&self) -> Result<String, String> {
        let mut output = String::new();
        for trace in self.valid_traces()? {
            output.push_str(&lowering::lower(&self.optimised_if_asked(trace)?)?);
        }
        Ok(output)
    }

    /// Compiles the traces as they are and as the default passes leave them.
    fn compiles(&self) -> Result<(), String> {
        for mut trace in self.valid_traces()? {
            lowering::accept(&trace)?;
            optimise(&mut trace, &Pipeline::default());
            lowering::accept(&trace)?;
        }
        Ok(())
    }

    fn compare(&self, before: &Trace, after: &Trace) -> Result<(), String> {
        const VARIATIONS: u64 = 64;
        const FUEL: u64 = 5_000;
        let runs = parse_script(self.header.iter().map(String::as_str)).map_err(|error| error.to_string())?;
        let mut bases: Vec<TestGuest> = runs.into_iter().map(|run| run.guest).collect();
        if bases.is_empty() {
            bases.push(TestGuest::new(1));
        }
        let mut reached = 0;
        for mut base in bases {
            // What a variation changes may lead anywhere, so memory must be everywhere.
            base.memory.set_background(Background::Derived(7));
            if base.slot(Slot::RSP) == 0 {
                base.set_slot(Slot::RSP, 0x7fff_f000);
            }
            for (number, guest) in variations(before, &base, VARIATIONS).iter().enumerate() {
                let compared = match compare_early(before, after, guest, FUEL) {
                    // A meter that only the optimised loop writes; tests have it behind all other memory.
                    Err(Difference::Memory(address, ..)) if is_meter(before, address) => Ok(true),
                    compared => compared,
                };
                reached += u32::from(compared.map_err(|error| format!("variation {number}: {error}\n{after}"))?);
            }
        }
        if reached == 0 { Err("no variation reaches an exit".to_owned()) } else { Ok(()) }
    }

    /// Compares with the expectation, or writes it.
    fn check(&self) -> Result<(), String> {
        let output = self.run()?;
        if output == self.expected {
            return Ok(());
        }
        if std::env::var_os("BLESS").is_some() {
            return fs::write(&self.path, format!("{}{RULE}{output}", self.input)).map_err(|error| error.to_string());
        }
        Err(difference(&self.expected, &output))
    }
}

/// The passes of a list, or the default ones.
/// Whether an address is that of a byte of a meter.
fn is_meter(trace: &Trace, address: u64) -> bool {
    trace.insts.values().filter_map(redmagic_ir::Inst::meter).any(|meter| (meter..meter + 8).contains(&address))
}

fn pipeline(list: &[String]) -> Result<Pipeline, String> {
    match list {
        [] => Ok(Pipeline::default()),
        [list] => Pipeline::parse(list).map_err(|error| error.to_string()),
        more => Err(format!("one list of passes, not {}", more.len())),
    }
}

fn print(traces: &[Trace]) -> String {
    traces.iter().map(Trace::to_string).collect()
}

/// Both texts from their first differing line on.
fn difference(expected: &str, output: &str) -> String {
    let same = expected.lines().zip(output.lines()).take_while(|(one, two)| one == two).count();
    let rest = |text: &str| text.lines().skip(same).take(20).map(|line| format!("    {line}\n")).collect::<String>();
    format!("line {} of the output differs\n  expected:\n{}  found:\n{}", same + 1, rest(expected), rest(output))
}

fn check_folder(folder: &str) {
    check_each(folder, TestFile::check);
}

/// Checks every file of a folder, and lists all that fail.
fn check_each(folder: &str, check: impl Fn(&TestFile) -> Result<(), String>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/filetests").join(folder);
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "tir"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} holds no tests", folder.display());
    let failures: Vec<String> = paths
        .iter()
        .filter_map(|path| {
            let error = TestFile::read(path).and_then(|file| check(&file)).err()?;
            Some(format!("{}: {error}", path.display()))
        })
        .collect();
    assert!(failures.is_empty(), "{} of {} files fail\n{}", failures.len(), paths.len(), failures.join("\n"));
}

#[test]
fn text() {
    check_folder("text");
}

#[test]
fn verifier() {
    check_folder("verify");
}

#[test]
fn evaluator() {
    check_folder("eval");
}

#[test]
fn optimiser() {
    check_folder("opt");
}

#[test]
fn loops_of_lua() {
    check_folder("loops");
}

#[test]
fn lifter() {
    check_folder("lift");
}

#[test]
fn backend() {
    check_folder("lower");
}

#[test]
fn every_trace_compiles() {
    ["text", "eval", "opt", "loops"].into_iter().for_each(|folder| check_each(folder, TestFile::compiles));
}
