//! A trace that ends after a few iterations.
//!
//! Worked example: the loop H with a copy H2 that keeps memory in registers for 500 iterations becomes: H once, H2 three
//! times, then the stores that H2 has put off, and an exit in the place of the jump back to H. Where H finds that H2 must
//! not be entered, it takes such an exit at once.

use crate::check::{closing_exit, invariant_slots};
use redmagic_ir::graph::Graph;
use redmagic_ir::{Entity, Exit, ExitValue, Inst, Opcode, Segment, Slot, Target, Terminator, Trace, Type, Value};
use std::ops::RangeInclusive;

/// Iterations of a loop within.
const INNER: i64 = 3;
/// The most iterations that a bounded trace makes.
pub const MAX_ITERATIONS: usize = 1 + INNER as usize;

/// A trace that ends.
pub struct Bounded {
    /// The trace, with exits in the place of back edges behind its own.
    pub trace: Trace,
    /// How many exits are its own.
    pub own_exits: usize,
    /// By exit: how many whole iterations may be complete before the one that it belongs to.
    pub before: Vec<RangeInclusive<usize>>,
}

/// The trace with the back edges of loops that carry slots turned into exits, and other loops made short. `None` if one of
/// these knows no other end.
pub fn bounded(trace: &Trace) -> Option<Bounded> {
    let graph = Graph::new(trace);
    let mut bounded = trace.clone();
    let invariant = invariant_slots(trace);
    let own_exits = trace.exits.len();
    let inner: Vec<Segment> =
        graph.headers().iter().copied().filter(|header| slots(trace, *header).is_none()).collect();
    let within = |segment: Segment| inner.iter().any(|header| graph.dominates(*header, segment));
    let mut before = vec![0..=0; own_exits];
    for segment in trace.segments.keys().filter(|segment| within(*segment)) {
        exits_of(trace, segment).for_each(|exit| before[exit.index()] = 1..=INNER as usize);
    }
    for &header in graph.headers() {
        for source in graph.back_edges(header) {
            let Some(params) = slots(trace, header) else {
                shorten(&mut bounded, &graph, source, header)?;
                continue;
            };
            let mut targets = trace.segments[source].terminator.targets();
            let args = &targets.find(|target| target.segment == header)?.args;
            let mut data = closing_exit(trace, &invariant, &params, args);
            // Whatever else was changed is dead.
            let unlisted: Vec<Slot> =
                Slot::all().filter(|slot| slot.is_writable() && data.get(*slot).is_none()).collect();
            unlisted.into_iter().for_each(|slot| data.set(slot, ExitValue::Undefined));
            let exit = bounded.exits.push(data);
            end(&mut bounded, source, header, Terminator::Leave(exit));
            before.push(if within(source) { 1..=INNER as usize } else { 0..=0 });
        }
    }
    Some(Bounded { trace: bounded, own_exits, before })
}

/// The slots that the parameters of a header carry, if all do.
fn slots(trace: &Trace, header: Segment) -> Option<Vec<Slot>> {
    trace.segments[header].params.iter().map(|param| trace.insts[*param].slot()).collect()
}

/// The exits that a segment may take.
fn exits_of(trace: &Trace, segment: Segment) -> impl Iterator<Item = Exit> + '_ {
    let data = &trace.segments[segment];
    data.insts.iter().filter_map(|value| trace.insts[*value].exit()).chain(data.terminator.exit())
}

/// Puts `terminator` in the place of the edge from `source` to `header`.
fn end(trace: &mut Trace, source: Segment, header: Segment, terminator: Terminator) {
    if let Terminator::Switch { .. } = trace.segments[source].terminator {
        let last = trace.add_segment();
        trace.segments[last].terminator = terminator;
        let back = trace.segments[source].terminator.targets_mut().filter(|target| target.segment == header);
        back.for_each(|target| *target = Target { segment: last, args: Vec::new() });
    } else {
        trace.segments[source].terminator = terminator;
    }
}

/// Lets a loop that counts itself down begin with a small count; ends any other after its first iteration.
fn shorten(trace: &mut Trace, graph: &Graph, source: Segment, header: Segment) -> Option<()> {
    let Terminator::Switch { value, cases, default } = &trace.segments[source].terminator else { return None };
    if let Some(starts) = counter(trace, graph, header, *value) {
        let count = trace.add_inst(Inst::constant(Type::I64, INNER));
        let entry = trace.entry();
        let first =
            trace.segments[entry].insts.iter().take_while(|value| trace.insts[**value].op == Opcode::Slot).count();
        trace.segments[entry].insts.insert(first, count);
        for Start { segment, most, chain } in starts {
            let small = |value: Value| if value == most { count } else { value };
            chain.into_iter().for_each(|value| trace.insts[value].map_operands(small));
            trace.segments[segment].terminator.map_values(small);
        }
        return Some(());
    }
    let other = cases.iter().map(|case| &case.1).chain([default]).find(|target| target.segment != header)?.clone();
    trace.segments[source].terminator = Terminator::Jump(other);
    Some(())
}

/// What a loop's counter begins with.
struct Start {
    /// Where the loop is entered from.
    segment: Segment,
    /// The constant that it is, or at most is.
    most: Value,
    /// What is computed from that: the smaller one of it and others, and what else is in the segment.
    chain: Vec<Value>,
}

/// What a header counts down from, if `again` is what its end tests: `count - 1 != 0`, from a constant or less.
fn counter(trace: &Trace, graph: &Graph, header: Segment, again: Value) -> Option<Vec<Start>> {
    let operands = |value: Value, op: Opcode| -> Option<[Value; 2]> {
        let inst = &trace.insts[value];
        let mut operands = inst.operands();
        (inst.op == op).then(|| Some([operands.next()?, operands.next()?])).flatten()
    };
    let [left, zero] = operands(again, Opcode::Ne)?;
    let [count, step] = operands(left, Opcode::Add)?;
    if trace.ty(count) != Type::I64 || trace.as_const(zero) != Some(0) || trace.as_const(step) != Some(-1) {
        return None;
    }
    let at = trace.segments[header].params.iter().position(|param| *param == count)?;
    let back: Vec<Segment> = graph.back_edges(header).collect();
    let mut starts = Vec::new();
    for segment in trace.segments.keys() {
        for target in trace.segments[segment].terminator.targets().filter(|target| target.segment == header) {
            if back.contains(&segment) {
                if target.args[at] != left {
                    return None;
                }
                continue;
            }
            let mut chain = trace.segments[segment].insts.clone();
            let mut most = target.args[at];
            // The smaller one of two: `select (ult x, most), x, most`.
            while let Some(inst) = Some(&trace.insts[most]).filter(|inst| inst.op == Opcode::Select) {
                let [test, one, other] = inst.args;
                let [less, than] = operands(test, Opcode::Ult)?;
                if [less, than] != [one, other] {
                    return None;
                }
                chain.extend([most, test]);
                most = other;
            }
            if trace.as_const(most)? <= INNER {
                return None;
            }
            starts.push(Start { segment, most, chain });
        }
    }
    Some(starts)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loop that counts rax down, and another one within that counts it down, as often as `starts` makes v13.
    fn nest(starts: &str) -> String {
        format!(
            "trace nest @0x10 {{
seg0():
  v0: i64 = slot rax
  v1: i64 = const 500
  v2: i64 = const -1
  v3: i64 = const 0
  jump seg1(v0)
seg1(v10: i64 = rax):
  v11: i64 = add v10, v2
  v12: i1 = ne v11, v3
  {starts}
  switch v12 {{ 1 => seg4() }} else seg1(v11)
seg4():
  jump seg2(v13, v11)
seg2(v20: i64, v21: i64):
  v22: i64 = add v21, v2
  v23: i64 = add v20, v2
  v24: i1 = ne v23, v3
  switch v24 {{ 1 => seg2(v23, v22) }} else seg3()
seg3():
  jump seg1(v22)
}}"
        )
    }

    #[test]
    fn the_inner_loop_is_short_and_the_outer_one_ends() {
        let constant = "v13: i64 = const 500";
        let smaller = "v14: i1 = ult v11, v1\n  v13: i64 = select v14, v11, v1";
        for (starts, rax, iterations) in [(constant, 100, 4), (smaller, 100, 4), (smaller, 3, 3), (smaller, 2, 2)] {
            let trace = redmagic_ir::parse_one(&nest(starts)).expect("well-formed text");
            redmagic_ir::verify(&trace).expect("a well-formed trace");
            let bounded = bounded(&trace).expect("it ends");
            assert_eq!((bounded.own_exits, bounded.before), (0, vec![0..=0, 1..=3]));
            let bounded = bounded.trace;
            redmagic_ir::verify(&bounded).expect("a well-formed trace");
            let mut guest = redmagic_ir::sandbox::TestGuest::new(0);
            guest.slots[Slot::RAX.index()] = rax;
            let mut machine = redmagic_ir::eval::Machine::new(&bounded);
            machine.enter(&bounded, &mut guest, 100).expect("it runs");
            assert_eq!(guest.slots[Slot::RAX.index()], rax - iterations, "{starts}");
        }
    }
}
