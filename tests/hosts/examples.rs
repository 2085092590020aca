//! The examples print what they print with an API that does nothing, and their loops are as small as they should be.

use crate::support::{Build, Link, Outcome, compare_with, run, run_with, scratch, thresholds};
use redmagic_ir::graph::Graph;
use redmagic_ir::{Opcode, Segment, Terminator, Trace, parse_one};
use std::collections::BTreeSet;
use std::fs;

/// An example at -O0 and -O2, against the build without the library.
fn check(source: &str) {
    for (flags, link) in [("-O2", Link::Static), ("-O0", Link::Shared)] {
        let noop = Build::new("examples", &[source], flags, Link::Noop);
        let reference = run(&noop.build(), &[]);
        let build = Build::new("examples", &[source], flags, link);
        let outcomes = compare_with(&reference, &build, &build.build(), &thresholds());
        let traces: u64 = outcomes.iter().map(|outcome| outcome.counter("traces")).sum();
        assert!(traces > 0, "{}: {outcomes:#?}", build.name());
    }
}

#[test]
fn accumulator() {
    check("accumulator.c");
    let traces = optimised("accumulator.c");
    let inner = Loop::innermost(&traces[0]);
    assert_eq!(inner.count(&[Opcode::Guard, Opcode::GuardNot]), 1, "{}", traces[0]);
    assert!((1..=3).contains(&inner.arithmetic()), "{}", traces[0]);
    assert_eq!(inner.accesses(), 0, "{}", traces[0]);
}

#[test]
fn registers() {
    check("registers.c");
    let traces = optimised("registers.c");
    let inner = Loop::innermost(&traces[0]);
    // One addition, one subtraction, one test; at most the accesses to the three registers are beside them.
    assert_eq!(inner.count(&[Opcode::Guard, Opcode::GuardNot]), 1, "{}", traces[0]);
    assert_eq!(inner.arithmetic(), 2, "{}", traces[0]);
    assert!(inner.accesses() <= 5, "{}", traces[0]);
    let program = traces[0].regions.iter().find(|region| region.kind == redmagic_ir::RegionKind::Declared).unwrap();
    let reads_program = |value| {
        let recorded = traces[0].recorded(value);
        recorded.is_some_and(|recorded| (program.start..program.end).contains(&recorded.address))
    };
    assert!(!inner.values().any(reads_program), "{}", traces[0]);
}

/// A host whose program is not declared: the second copies of its loops do not read it.
#[test]
fn undeclared() {
    let traces = traces_of("tests/hosts", "undeclared.c", &["20000".to_owned()]);
    let loops: Vec<Loop> = traces.iter().filter(|trace| trace.name.contains("loop")).map(Loop::innermost).collect();
    assert!(loops.len() >= 2, "{}", traces[0]);
    for inner in loops {
        let trace = inner.trace;
        let program =
            trace.regions.iter().find(|region| region.kind == redmagic_ir::RegionKind::Code).unwrap().middle();
        let is_fetch = |value| {
            let recorded = trace.recorded(value);
            recorded.is_some_and(|recorded| (program..program + 5 * 4).contains(&recorded.address))
        };
        assert!(trace.insts.keys().any(is_fetch) && !inner.values().any(is_fetch), "{trace}");
        // One of five instructions has a condition.
        assert_eq!(inner.count(&[Opcode::Guard, Opcode::GuardNot]), 1, "{trace}");
        assert_eq!(inner.count(&[Opcode::Load]), 0, "{trace}");
    }
}

#[test]
fn tree() {
    check("tree.c");
    let traces = optimised("tree.c");
    let inner = Loop::innermost(&traces[0]);
    // The test whether the program's loop goes on is the only one: no return address is looked at.
    assert_eq!(inner.count(&[Opcode::Guard, Opcode::GuardNot]), 1, "{}", traces[0]);
    assert_eq!((inner.arithmetic(), inner.count(&[Opcode::Mul]), inner.accesses()), (2, 1, 0), "{}", traces[0]);
    assert!(!inner.calls() && !traces[0].insts.values().any(|inst| inst.op == Opcode::Native), "{}", traces[0]);
}

#[test]
fn sample() {
    check("sample.c");
}

#[test]
fn throwing() {
    check("throwing.cc");
}

/// The optimised traces of an example.
fn optimised(source: &str) -> Vec<Trace> {
    traces_of("examples", source, &[])
}

/// The optimised traces of a program with these arguments, in the order of their numbers.
fn traces_of(folder: &str, source: &str, arguments: &[String]) -> Vec<Trace> {
    let program = Build::new(folder, &[source], "-O2", Link::Shared).build();
    let dump = scratch(&format!("{source}-dump"));
    let _ = fs::remove_dir_all(&dump);
    // The example is over before a process may spend time on traces.
    let settings = [
        ("REDMAGIC_HOT_LOOP", "50".to_owned()),
        ("REDMAGIC_COMPILE_SHARE", "0".to_owned()),
        ("REDMAGIC_DUMP", dump.display().to_string()),
    ];
    let Outcome { end, .. } = run_with(&program, &settings, arguments);
    assert_eq!(end, "exit 0");
    let mut files: Vec<_> = fs::read_dir(&dump).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
    let traces = files.iter().filter_map(|path| {
        let text = fs::read_to_string(path).unwrap();
        let section = text.split("==== optimised\n").nth(1)?.split("==== ").next()?.to_owned();
        Some(parse_one(&section).unwrap_or_else(|error| panic!("{}: {error}\n{section}", path.display())))
    });
    let traces: Vec<Trace> = traces.collect();
    assert!(!traces.is_empty(), "{source} was not traced");
    traces
}

/// The segments of a loop.
struct Loop<'a> {
    trace: &'a Trace,
    segments: BTreeSet<Segment>,
    /// The loop counts its iterations, so that it looks around now and then.
    counted: bool,
}

impl Loop<'_> {
    /// The loop with the fewest segments.
    fn innermost(trace: &Trace) -> Loop<'_> {
        let graph = Graph::new(trace);
        let loops = graph.headers().iter().map(|header| {
            let mut segments = BTreeSet::from([*header]);
            let mut pending: Vec<Segment> = graph.back_edges(*header).collect();
            while let Some(segment) = pending.pop() {
                if segments.insert(segment) {
                    pending.extend(graph.predecessors(segment));
                }
            }
            segments
        });
        let loops: Vec<BTreeSet<Segment>> = loops.collect();
        let segments = loops.iter().min_by_key(|segments| segments.len()).expect("a loop").clone();
        // Another loop around it is there for no other reason.
        Loop { trace, segments, counted: loops.len() > 1 }
    }

    fn values(&self) -> impl Iterator<Item = redmagic_ir::Value> {
        self.segments.iter().flat_map(|segment| self.trace.segments[*segment].insts.iter().copied())
    }

    fn count(&self, opcodes: &[Opcode]) -> usize {
        self.values().filter(|value| opcodes.contains(&self.trace.insts[*value].op)).count()
    }

    /// Additions and subtractions of the guest's.
    fn arithmetic(&self) -> usize {
        // The counter.
        self.count(&[Opcode::Add, Opcode::Sub]) - usize::from(self.counted)
    }

    /// Whether something in the loop is called.
    fn calls(&self) -> bool {
        self.segments.iter().any(|segment| matches!(self.trace.segments[*segment].terminator, Terminator::Call(_)))
    }

    fn accesses(&self) -> usize {
        self.count(&[Opcode::Load, Opcode::Store])
    }
}
