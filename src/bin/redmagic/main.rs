//! The command-line tool: looks at traces in the text form, and runs single steps of the library on them.
//!
//! Worked example, on the loop in the documentation of `redmagic_ir::Trace`:
//! ```text
//! $ redmagic eval count.tir --set rax=2
//! run rax=2
//!   leaves by exit0 to 0x40
//!   rax = 0x0
//! ```

mod bisect;
mod executed;
mod explain;

use clap::{Parser, Subcommand};
use iced_x86::{Decoder, DecoderOptions, Instruction};
use redmagic_ir::script::parse_script;
use redmagic_ir::{Trace, parse, verify};
use redmagic_lift::coverage::{Coverage, Treatment, executable_sections};
use redmagic_lift::{Code, End, Event, Recording};
use redmagic_passes::{Pipeline, optimise};
use std::fmt;
use std::io::Read;
use std::process::ExitCode;

/// Reads, checks, evaluates, optimises and lifts traces in text form.
#[derive(Parser)]
#[command(name = "redmagic", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Parses traces and prints them in the canonical form.
    Print {
        /// A file with traces; `-` is the standard input.
        file: String,
    },
    /// Lists what is wrong with traces.
    Verify {
        /// A file with traces; `-` is the standard input.
        file: String,
    },
    /// Evaluates traces. Without `--set`, the file's own `; run` lines say on what.
    Eval {
        /// A file with traces; `-` is the standard input.
        file: String,
        /// A part of the initial state: `rax=5`, `i64[0x1000]=7,8`, `seed=1`, `fuel=100`.
        #[arg(long, value_name = "ITEM", num_args = 1..)]
        set: Vec<String>,
    },
    /// Optimises traces and prints the result.
    Opt {
        /// A file with traces; `-` is the standard input.
        file: String,
        /// The passes to run, separated by commas, instead of the default ones.
        #[arg(long, value_name = "LIST")]
        passes: Option<String>,
        /// Prints what the passes did to the standard error.
        #[arg(long)]
        stats: bool,
    },
    /// Finds the trace, and the rewrite in it, with which a program does not do what it does without the library.
    Bisect(bisect::Arguments),
    /// Says what each pass removes from a trace, and why each load, store and guard that is left could not be removed.
    Explain {
        /// A file that `REDMAGIC_DUMP` has left, or one with traces; `-` is the standard input.
        file: String,
        /// The passes to run, separated by commas, instead of the default ones.
        #[arg(long, value_name = "LIST")]
        passes: Option<String>,
    },
    /// Counts the instructions of an ELF file that traces can contain: lifted, executed verbatim, refused.
    Coverage {
        /// An executable or a shared library.
        file: String,
        /// How many of the codes that are not lifted to list.
        #[arg(long, default_value = "20")]
        list: usize,
    },
    /// Runs a program and counts the instructions of its own that it executes: lifted, executed verbatim, refused.
    Executed(executed::Arguments),
    /// Lifts straight-line machine code, as if it had been recorded without accessing memory.
    Lift {
        /// The instructions' bytes in hexadecimal.
        hex: String,
        /// The guest address of the first instruction.
        #[arg(long, default_value = "0x1000", value_parser = address)]
        start: u64,
        /// The code is a loop: its last instruction goes back to the first.
        #[arg(long = "loop")]
        is_loop: bool,
    },
}

/// Why a command failed.
enum Failure {
    Read(String, std::io::Error),
    Parse(redmagic_ir::ParseError),
    Elf(String, redmagic_lift::coverage::ElfError),
    /// The errors of the verifier, one a line.
    Invalid(Vec<String>),
    Script(redmagic_ir::script::ScriptError),
    /// There is nothing to evaluate on.
    NoRun,
    Pass(redmagic_passes::UnknownPass),
    Bisect(bisect::Failure),
    Hex(String),
    /// Bytes that are no instruction, and their address.
    Decode(u64),
    Lift(redmagic_lift::Refusal),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Read(file, error) => write!(f, "{file}: {error}"),
            Failure::Elf(file, error) => write!(f, "{file}: {error}"),
            Failure::Parse(error) => write!(f, "{error}"),
            Failure::Invalid(lines) => f.write_str(&lines.join("\n")),
            Failure::Script(error) => write!(f, "{error}"),
            Failure::NoRun => f.write_str("nothing to evaluate on: give `--set` or write `; run` lines"),
            Failure::Pass(error) => write!(f, "{error}"),
            Failure::Bisect(error) => write!(f, "{error}"),
            Failure::Hex(text) => write!(f, "`{text}` is no even number of hexadecimal digits"),
            Failure::Decode(address) => write!(f, "no instruction at {address:#x}"),
            Failure::Lift(reason) => write!(f, "the code cannot be lifted: {reason}"),
        }
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(output) => {
            print!("{output}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<String, Failure> {
    match command {
        Command::Print { file } => {
            Ok(parse(&read(&file)?).map_err(Failure::Parse)?.iter().map(Trace::to_string).collect())
        }
        Command::Verify { file } => valid(&read(&file)?).map(|_| String::new()),
        Command::Eval { file, set } => eval(&read(&file)?, &set),
        Command::Opt { file, passes, stats } => {
            let pipeline = pipeline(passes.as_deref())?;
            let mut output = String::new();
            for mut trace in valid(&read(&file)?)? {
                let done = optimise(&mut trace, &pipeline);
                if stats {
                    eprintln!("{}: {done:?}", trace.name);
                }
                output.push_str(&trace.to_string());
            }
            Ok(output)
        }
        Command::Bisect(arguments) => bisect::run(arguments).map_err(Failure::Bisect),
        Command::Explain { file, passes } => {
            let pipeline = pipeline(passes.as_deref())?;
            let mut traces = valid(explain::lifted(&read(&file)?))?;
            Ok(traces.iter_mut().map(|trace| explain::explain(trace, &pipeline)).collect())
        }
        Command::Coverage { file, list } => coverage(&file, list),
        Command::Executed(arguments) => {
            let files = executed::run(&arguments).map_err(|(what, error)| Failure::Read(what, error))?;
            Ok(files
                .into_iter()
                .map(|(file, coverage)| {
                    let count = coverage.count(|_| true);
                    format!("{}: {count} instructions executed\n{}", file.display(), counts(&coverage, arguments.list))
                })
                .collect())
        }
        Command::Lift { hex, start, is_loop } => lift(&hex, start, is_loop),
    }
}

/// The passes of a list, or the default ones.
fn pipeline(list: Option<&str>) -> Result<Pipeline, Failure> {
    list.map_or(Ok(Pipeline::default()), |list| Pipeline::parse(list).map_err(Failure::Pass))
}

/// What the code sections of a file consist of.
fn coverage(file: &str, list: usize) -> Result<String, Failure> {
    let bytes = std::fs::read(file).map_err(|error| Failure::Read(file.to_owned(), error))?;
    let sections = executable_sections(&bytes).map_err(|error| Failure::Elf(file.to_owned(), error))?;
    let mut coverage = Coverage::default();
    sections.iter().for_each(|section| coverage.add(section));
    Ok(counts(&coverage, list))
}

/// A line for each treatment, and for each of the `list` most frequent codes that are not lifted.
fn counts(coverage: &Coverage, list: usize) -> String {
    let all = coverage.count(|_| true);
    let line = |name: &str, chosen: fn(Treatment) -> bool| {
        let count = coverage.count(chosen);
        format!("{name:<9} {count:>9}  {:>8.4}%\n", share(count, all))
    };
    let mut text = line("lifted", |treatment| treatment == Treatment::Lifted);
    text += &line("repeated", |treatment| treatment == Treatment::Repeated);
    text += &line("native", |treatment| treatment == Treatment::Native);
    text += &line("x87", |treatment| treatment == Treatment::X87);
    text += &line("refused", |treatment| matches!(treatment, Treatment::Refused(_)));
    text += &format!("lifted, x87 left out: {:.4}%\n", coverage.share() * 100.0);
    // What run-time selection by processor leaves unused elsewhere.
    let wide = |code: iced_x86::Code| code.encoding() != iced_x86::EncodingKind::Legacy;
    let vex: u64 = coverage.others().iter().filter(|other| wide(other.1)).map(|other| other.2).sum();
    text += &format!("native with a VEX or EVEX prefix (AVX and later): {:.4}%\n", share(vex, all));
    for (treatment, code, count) in coverage.others().into_iter().take(list) {
        let why = match treatment {
            Treatment::Refused(reason) => format!("refused: {reason}"),
            Treatment::X87 => "x87".to_owned(),
            Treatment::Repeated => "native unless its count is a small constant".to_owned(),
            Treatment::Native | Treatment::Lifted => "native".to_owned(),
        };
        text += &format!("{count:>9}  {:>8.4}%  {code:?} ({why})\n", share(count, all));
    }
    text
}

/// `part` of `all`, in per cent.
fn share(part: u64, all: u64) -> f64 {
    part as f64 * 100.0 / all.max(1) as f64
}

/// Separates a test file's input from the output that it expects.
const RULE: &str = "; ---- expected ----\n";

fn read(file: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let result = if file == "-" {
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    let text = result.map_err(|error| Failure::Read(file.to_owned(), error))?;
    // What a test file expects is no part of its traces.
    Ok(text.split_once(RULE).map_or(text.as_str(), |(input, _)| input).to_owned())
}

fn valid(text: &str) -> Result<Vec<Trace>, Failure> {
    let traces = parse(text).map_err(Failure::Parse)?;
    let errors: Vec<String> = traces
        .iter()
        .filter_map(|trace| Some((trace, verify(trace).err()?)))
        .flat_map(|(trace, errors)| errors.into_iter().map(|error| format!("{}: {error}", trace.name)))
        .collect();
    if errors.is_empty() { Ok(traces) } else { Err(Failure::Invalid(errors)) }
}

fn eval(text: &str, set: &[String]) -> Result<String, Failure> {
    let given = format!("run {}", set.join(" "));
    let runs = if set.is_empty() {
        parse_script(text.lines().filter_map(|line| line.trim().strip_prefix(';')))
    } else {
        parse_script([given.as_str()])
    };
    let runs = runs.map_err(Failure::Script)?;
    if runs.is_empty() {
        return Err(Failure::NoRun);
    }
    let traces = valid(text)?;
    Ok(traces.iter().flat_map(|trace| runs.iter().map(|run| run.report(trace))).collect())
}

fn address(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| error.to_string())
}

/// Guest code that is only what was given on the command line.
struct Bytes {
    start: u64,
    bytes: Vec<u8>,
}

impl Code for Bytes {
    fn read(&self, pc: u64) -> Option<[u8; 16]> {
        let rest = self.bytes.get(usize::try_from(pc.checked_sub(self.start)?).ok()?..)?;
        let mut window = [0; 16];
        let count = rest.len().min(window.len());
        window[..count].copy_from_slice(&rest[..count]);
        (count > 0).then_some(window)
    }
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

fn lift(hex: &str, start: u64, is_loop: bool) -> Result<String, Failure> {
    let bytes = hexadecimal(hex).ok_or_else(|| Failure::Hex(hex.to_owned()))?;
    let mut instructions: Vec<Instruction> = Vec::new();
    for inst in &mut Decoder::with_ip(64, &bytes, start, DecoderOptions::NONE) {
        if inst.is_invalid() {
            return Err(Failure::Decode(inst.ip()));
        }
        instructions.push(inst);
    }
    let end = instructions.last().map_or(start, Instruction::next_ip);
    let events = instructions
        .into_iter()
        .map(|inst| {
            let next = if is_loop && inst.next_ip() == end { start } else { inst.next_ip() };
            Event::Inst { inst, next, address: 0, value: 0 }
        })
        .collect();
    let end = if is_loop { End::Loop } else { End::Exit { pc: end } };
    let recording = Recording { name: "lifted".to_owned(), start, events, end, regions: Vec::new(), meter: None };
    let lifted = redmagic_lift::lift(&recording, &Bytes { start, bytes }).map_err(Failure::Lift)?;
    Ok(lifted.trace.to_string())
}
