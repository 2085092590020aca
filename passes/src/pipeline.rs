//! Which passes run, in which order, how often.
//!
//! # Invariants
//! A pipeline is data: a list of names, so that any subset can be run and compared. Passes next to each other of which
//! each can give the others new work (`params`, `fold`, `forward`) form a group; a group that contains `params` is
//! repeated until nothing changes, at most [`MAX_ROUNDS`] times, without the runs that could not change anything.
//!
//! Worked example: `Pipeline::parse("fold,params,dce")` is the group `fold, params`, repeated, then `dce` once.

use crate::rewrites::Rewrites;
use crate::why::{Census, Reasons};
use crate::{Stats, dce, fold, fuse, loops, params, place, sink, walk};
use redmagic_ir::Trace;
use std::fmt;

/// How often a group is repeated at most.
const MAX_ROUNDS: u32 = 4;

/// A transformation of a trace.
pub trait Pass {
    /// The name in lists of passes.
    fn name(&self) -> &'static str;
    /// Transforms `trace` and adds to the counters.
    fn run(&self, trace: &mut Trace, stats: &mut Stats);
}

type Run = fn(&mut Trace, &mut Stats);

/// A pass that is a function.
#[derive(Clone, Copy)]
struct Entry {
    name: &'static str,
    run: Run,
    /// Whether it gives other passes work and so belongs to a repeated group.
    repeats: bool,
}

impl Entry {
    /// The pass called `name`.
    fn find(name: &str) -> Option<Entry> {
        PASSES.into_iter().find(|pass| pass.name == name)
    }
}

impl Pass for Entry {
    fn name(&self) -> &'static str {
        self.name
    }
    fn run(&self, trace: &mut Trace, stats: &mut Stats) {
        (self.run)(trace, stats);
    }
}

/// Every pass.
const PASSES: [Entry; 9] = [
    Entry { name: "fold", run: fold::run, repeats: true },
    Entry { name: "forward", run: walk::run_forward, repeats: true },
    Entry { name: "params", run: params::run, repeats: true },
    Entry { name: "flags", run: sink::run_flags, repeats: false },
    Entry { name: "dce", run: dce::run, repeats: false },
    Entry { name: "loops", run: loops::run, repeats: false },
    Entry { name: "sink", run: sink::run_all, repeats: false },
    Entry { name: "fuse", run: fuse::run, repeats: false },
    Entry { name: "place", run: place::run, repeats: false },
];

/// The default list. `forward` does all that `fold` does, and finds more where invariant parameters are gone.
const DEFAULT: [&str; 9] = ["params", "forward", "flags", "dce", "loops", "sink", "fuse", "dce", "place"];

/// What the passes may do to loads and stores that other threads can notice; the strictest model comes first.
///
/// Calls that are not traced, locked and verbatim instructions, and exits are barriers in all models, and what a loop has
/// in registers is compared with memory, or written to it, about every 20 microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemoryModel {
    /// Every load and every store is performed, in the order of the program.
    Strict,
    /// Stores are performed in the order of the program, but for those to frames that the trace has pushed. A value that was
    /// loaded before may be used again instead of a load.
    Default,
    /// Stores of loops wait as well: threads that share memory hold a lock while they do, and give it up by calls.
    #[default]
    InterpreterLock,
}

/// A list of passes.
#[derive(Clone)]
pub struct Pipeline {
    passes: Vec<Entry>,
    model: MemoryModel,
}

impl Default for Pipeline {
    fn default() -> Pipeline {
        let passes = DEFAULT.iter().filter_map(|name| Entry::find(name)).collect();
        Pipeline { passes, model: MemoryModel::default() }
    }
}

impl Pipeline {
    /// The passes that `list` names, separated by commas; an empty list is a pipeline that does nothing.
    pub fn parse(list: &str) -> Result<Pipeline, UnknownPass> {
        let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
        let passes = names
            .map(|name| Entry::find(name).ok_or_else(|| UnknownPass { name: name.to_string() }))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Pipeline { passes, model: MemoryModel::default() })
    }

    /// The same passes but for those called `name`.
    pub fn without(&self, name: &str) -> Pipeline {
        let passes = self.passes.iter().filter(|pass| pass.name != name).copied().collect();
        Pipeline { passes, model: self.model }
    }

    /// The same passes under another memory model.
    pub fn under(self, model: MemoryModel) -> Pipeline {
        Pipeline { model, ..self }
    }

    /// The memory model.
    pub fn model(&self) -> MemoryModel {
        self.model
    }

    /// The names that [`Pipeline::parse`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PASSES.iter().map(|pass| pass.name)
    }

    /// The passes, in order.
    pub fn passes(&self) -> impl Iterator<Item = &dyn Pass> {
        self.passes.iter().map(|pass| pass as &dyn Pass)
    }

    /// The passes in groups that are repeated together.
    fn groups(&self) -> impl Iterator<Item = &[Entry]> {
        self.passes.chunk_by(|a, b| a.repeats && b.repeats)
    }
}

impl fmt::Display for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.passes().map(Pass::name).collect();
        f.write_str(&names.join(","))
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pipeline({self})")
    }
}

/// A list of passes names one that does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPass {
    /// The name.
    pub name: String,
}

impl fmt::Display for UnknownPass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known: Vec<_> = Pipeline::names().collect();
        write!(f, "unknown pass '{}' (known: {})", self.name, known.join(", "))
    }
}

impl std::error::Error for UnknownPass {}

/// Runs `pipeline` on `trace`. In debug builds the verifier runs after each pass.
pub fn optimise(trace: &mut Trace, pipeline: &Pipeline) -> Stats {
    optimise_limited(trace, pipeline, u32::MAX)
}

/// Runs `pipeline` on `trace`, but does only the first `limit` rewrites.
pub fn optimise_limited(trace: &mut Trace, pipeline: &Pipeline, limit: u32) -> Stats {
    let mut stats = Stats::default();
    stats.rewrites = Rewrites::limited(limit);
    run(trace, pipeline, &mut stats);
    stats
}

/// Runs `pipeline` on `trace` and notes why the loads, stores and guards that remain do.
pub fn optimise_explained(trace: &mut Trace, pipeline: &Pipeline) -> (Stats, Reasons) {
    let mut stats = Stats::default();
    stats.reasons = Some(Box::default());
    run(trace, pipeline, &mut stats);
    let reasons = stats.reasons.take().map_or_else(Reasons::default, |reasons| *reasons);
    (stats, reasons)
}

fn run(trace: &mut Trace, pipeline: &Pipeline, stats: &mut Stats) {
    stats.ops_before = trace.len() as u32;
    stats.model = pipeline.model;
    for group in pipeline.groups() {
        run_group(trace, group, stats);
    }
    stats.ops_after = trace.len() as u32;
}

/// Runs the passes of a group in turn, each as long as another one has changed something since its last run.
fn run_group(trace: &mut Trace, group: &[Entry], stats: &mut Stats) {
    let repeated = group.len() > 1 && group.iter().any(|pass| pass.name == "params");
    let mut seen = vec![u64::MAX; group.len()];
    for _ in 0..if repeated { MAX_ROUNDS } else { 1 } {
        let mut idle = true;
        for (pass, seen) in group.iter().zip(&mut seen) {
            if stats.changes() == *seen {
                continue;
            }
            stats.rewrites.enter(pass.name);
            let before = stats.reasons.is_some().then(|| Census::of(trace));
            pass.run(trace, stats);
            if let (Some(before), Some(reasons)) = (before, &mut stats.reasons) {
                reasons.ran(pass.name, before, Census::of(trace));
            }
            stats.passes_run += 1;
            check(trace, pass.name);
            idle = false;
            *seen = stats.changes();
        }
        if idle {
            break;
        }
    }
}

/// Reports a trace that a pass broke. Only debug builds look.
fn check(trace: &Trace, pass: &str) {
    if cfg!(debug_assertions)
        && let Err(errors) = redmagic_ir::verify(trace)
    {
        panic!("pass {pass} broke the trace: {errors:?}"); // invariant: a bug of ours, looked for in debug builds only
    }
}
