//! What the optimiser takes for each recorded instruction, and what it leaves, on traces of a real guest.
//!
//! ```text
//! REDMAGIC_DUMP=dumps/int_sum redmagic-lua hosts/lua/programs/int_sum.lua    (for each program)
//! cargo bench -p redmagic-passes --bench recorded -- "$PWD/dumps"
//! ```
//!
//! The argument is a directory with one directory of dumps for each program. Without it, nothing is measured.
//!
//! It also counts what a fusion of adjacent tag checks could save: guards that compare loads from neighbouring addresses with
//! constants, where nothing is stored in between.

use redmagic_ir::{Opcode, SegmentData, Trace, Type, Value, parse_one};
use redmagic_passes::{Pipeline, optimise};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use std::{env, fs};

/// Runs of each trace at least, if the second argument does not say how many.
const REPEATS: usize = 3;
/// Time for each trace at least.
const LEAST: Duration = Duration::from_millis(40);

/// Traces are also summed up by length, in instructions: those from each of these on, and below the next.
const LENGTHS: [usize; 6] = [0, 100, 300, 1000, 3000, 10_000];

/// One dump: the trace as it was lifted, and how many instructions were recorded.
struct Dump {
    trace: Trace,
    instructions: usize,
}

/// What came of the dumps of one program.
#[derive(Default)]
struct Row {
    traces: usize,
    instructions: usize,
    lifted: usize,
    optimised: usize,
    time: Duration,
    tags: Tags,
}

/// Guards, those that compare what was loaded with a constant, and those of these with an earlier one next to them.
#[derive(Clone, Copy, Default)]
struct Tags {
    guards: usize,
    tags: usize,
    adjacent: usize,
}

impl Tags {
    fn of(trace: &Trace) -> Tags {
        let mut tags = Tags::default();
        trace.segments.values().for_each(|segment| tags.count(trace, segment));
        tags
    }

    fn count(&mut self, trace: &Trace, segment: &SegmentData) {
        // Roots, first bytes and the bytes behind what was tested since the last store.
        let mut tested: Vec<(Value, i32, i32, Type)> = Vec::new();
        for value in &segment.insts {
            let inst = &trace.insts[*value];
            let equal = match inst.op {
                Opcode::Store | Opcode::Native => {
                    tested.clear();
                    continue;
                }
                Opcode::Guard => Opcode::Eq,
                Opcode::GuardNot => Opcode::Ne,
                _ => continue,
            };
            self.guards += 1;
            let test = &trace.insts[inst.args[0]];
            let is_tag = test.op == equal && trace.as_const(test.args[1]).is_some();
            let Some(load) = Some(&trace.insts[test.args[0]]).filter(|load| is_tag && load.op == Opcode::Load) else {
                continue;
            };
            let Some(address) = load.address().filter(|address| !address.index.is_some()) else { continue };
            let (start, end) = (address.offset, address.offset + load.ty.bytes() as i32);
            let is_next = |(root, from, to, ty): &(Value, i32, i32, Type)| {
                *root == address.root && *ty == load.ty && (*from == end || *to == start)
            };
            self.tags += 1;
            self.adjacent += usize::from(tested.iter().any(is_next));
            tested.push((address.root, start, end, load.ty));
        }
    }

    fn add(&mut self, other: Tags) {
        self.guards += other.guards;
        self.tags += other.tags;
        self.adjacent += other.adjacent;
    }
}

impl Row {
    fn add(&mut self, other: &Row) {
        self.traces += other.traces;
        self.instructions += other.instructions;
        self.lifted += other.lifted;
        self.optimised += other.optimised;
        self.time += other.time;
        self.tags.add(other.tags);
    }

    fn print(&self, name: &str) {
        let each = self.time.as_nanos() as f64 / self.instructions.max(1) as f64;
        let left = self.optimised as f64 / self.instructions.max(1) as f64;
        println!(
            "{name:<18} {:>6} {:>12} {:>9} {:>10} {left:>10.2} {each:>14.0}",
            self.traces, self.instructions, self.lifted, self.optimised
        );
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1).filter(|arg| !arg.starts_with('-'));
    let Some(folder) = args.next() else {
        println!("no directory of dumps given");
        return Ok(());
    };
    let repeats = args.next().map_or(Ok(REPEATS), |count| count.parse())?;
    let pipeline = match env::var("REDMAGIC_PASSES") {
        Ok(list) => Pipeline::parse(&list)?,
        Err(_) => Pipeline::default(),
    };
    println!("program            traces instructions operations   optimised  per instr.  ns per instr.");
    let mut total = Row::default();
    let mut by_length: Vec<Row> = LENGTHS.iter().map(|_| Row::default()).collect();
    for program in sorted(Path::new(&folder))? {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let dumps = sorted(&program)?.iter().map(|file| read(file)).collect::<Result<Vec<_>, _>>()?;
        let mut row = Row::default();
        for dump in dumps.iter().flatten() {
            let measured = measure(dump, &pipeline, repeats);
            row.add(&measured);
            let class = LENGTHS.iter().rposition(|least| measured.instructions >= *least).unwrap_or(0);
            by_length[class].add(&measured);
        }
        row.print(&name);
        total.add(&row);
    }
    total.print("all");
    let Tags { guards, tags, adjacent } = total.tags;
    println!("guards {guards}, of a loaded value against a constant {tags}, next to an earlier one {adjacent}\n");
    for (least, row) in LENGTHS.iter().zip(&by_length).filter(|(_, row)| row.traces > 0) {
        row.print(&format!("from {least} on"));
    }
    Ok(())
}

fn measure(dump: &Dump, pipeline: &Pipeline, repeats: usize) -> Row {
    let mut row = Row { traces: 1, instructions: dump.instructions, lifted: dump.trace.len(), ..Row::default() };
    // Other processes must not count, and the clock that does not count them is coarse.
    let (mut runs, start) = (0, on_processor());
    while runs < repeats || on_processor() - start < LEAST {
        let mut copy = dump.trace.clone();
        optimise(&mut copy, pipeline);
        row.optimised = copy.len();
        row.tags = Tags::of(&copy);
        runs += 1;
    }
    row.time = (on_processor() - start) / u32::try_from(runs).unwrap_or(u32::MAX);
    row
}

/// The time that this thread has run, without what it has waited for others; where the system does not tell, the time of day.
fn on_processor() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    let told = fs::read_to_string("/proc/thread-self/schedstat").ok();
    let told = told.and_then(|text| text.split(' ').next()?.parse().ok()).map(Duration::from_nanos);
    told.unwrap_or_else(|| START.get_or_init(Instant::now).elapsed())
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    paths.sort();
    Ok(paths)
}

/// Reads a dump; `None` if lifting failed.
fn read(file: &Path) -> Result<Option<Dump>, Box<dyn Error>> {
    let text = fs::read_to_string(file)?;
    let section = |title: &str| {
        let body = text.split(&format!("==== {title}\n")).nth(1)?;
        Some(body.split("\n==== ").next().unwrap_or(body))
    };
    let Some(lifted) = section("lifted") else { return Ok(None) };
    let instructions = section("recorded").unwrap_or("").lines().filter(|line| !line.is_empty()).count();
    let trace = parse_one(lifted).map_err(|error| format!("{}: {error:?}", file.display()))?;
    Ok(Some(Dump { trace, instructions }))
}
