//! A trace that ends after a few iterations.
//!
//! Worked example: the loop H with a copy H2 that keeps memory in registers for 500 iterations becomes: H once, H2 three
//! times, then the stores that H2 has put off, and an exit in the place of the jump back to H. Where H finds that H2 must
//! not be entered, it takes such an exit at once.

use crate::check::{closing_exit, invariant_slots};
use redmagic_ir::graph::Graph;
use redmagic_ir::{Inst, Opcode, Segment, Slot, Target, Terminator, Trace, Value};

/// Iterations of a loop within.
const INNER: i64 = 3;
/// The most iterations that a bounded trace makes.
pub const MAX_ITERATIONS: usize = 1 + INNER as usize;

/// The trace with the back edges of loops that carry slots turned into exits, which come behind its own, and other loops
/// made short. `None` if one of these knows no other end.
pub fn bounded(trace: &Trace) -> Option<Trace> {
    let graph = Graph::new(trace);
    let mut bounded = trace.clone();
    let invariant = invariant_slots(trace);
    for &header in graph.headers() {
        let params: Option<Vec<Slot>> = trace.segments[header].params.iter().map(|p| trace.insts[*p].slot()).collect();
        for source in graph.back_edges(header) {
            match &params {
                Some(params) => {
                    let targets = trace.segments[source].terminator.targets();
                    let args = &targets.into_iter().find(|target| target.segment == header)?.args;
                    let exit = bounded.exits.push(closing_exit(trace, &invariant, params, args));
                    end(&mut bounded, source, header, Terminator::Leave(exit));
                }
                None => shorten(&mut bounded, &graph, source, header)?,
            }
        }
    }
    Some(bounded)
}

/// Puts `terminator` in the place of the edge from `source` to `header`.
fn end(trace: &mut Trace, source: Segment, header: Segment, terminator: Terminator) {
    if let Terminator::Switch { .. } = trace.segments[source].terminator {
        let last = trace.add_segment();
        trace.segments[last].terminator = terminator;
        let back =
            trace.segments[source].terminator.targets_mut().into_iter().filter(|target| target.segment == header);
        back.for_each(|target| *target = Target { segment: last, args: Vec::new() });
    } else {
        trace.segments[source].terminator = terminator;
    }
}

/// Lets a loop that counts itself down begin with a small count; ends any other after its first iteration.
fn shorten(trace: &mut Trace, graph: &Graph, source: Segment, header: Segment) -> Option<()> {
    let Terminator::Switch { value, cases, default } = &trace.segments[source].terminator else { return None };
    if let Some(at) = counter(trace, header, *value) {
        let count = trace.add_inst(Inst::constant(trace.ty(trace.segments[header].params[at]), INNER));
        let entry = trace.entry();
        let first =
            trace.segments[entry].insts.iter().take_while(|value| trace.insts[**value].op == Opcode::Slot).count();
        trace.segments[entry].insts.insert(first, count);
        let back: Vec<Segment> = graph.back_edges(header).collect();
        let outside: Vec<Segment> = trace.segments.keys().filter(|segment| !back.contains(segment)).collect();
        for segment in outside {
            let targets = trace.segments[segment].terminator.targets_mut();
            targets.into_iter().filter(|target| target.segment == header).for_each(|target| target.args[at] = count);
        }
        return Some(());
    }
    let other = cases.iter().map(|case| &case.1).chain([default]).find(|target| target.segment != header)?.clone();
    trace.segments[source].terminator = Terminator::Jump(other);
    Some(())
}

/// Which parameter of a header counts the loop down, if `again` is what its end tests: `count - 1 != 0`, from a constant.
fn counter(trace: &Trace, header: Segment, again: Value) -> Option<usize> {
    let operands = |value: Value, op: Opcode| -> Option<[Value; 2]> {
        let inst = &trace.insts[value];
        let mut operands = inst.operands();
        (inst.op == op).then(|| Some([operands.next()?, operands.next()?])).flatten()
    };
    let [left, zero] = operands(again, Opcode::Ne)?;
    let [count, step] = operands(left, Opcode::Add)?;
    if trace.as_const(zero) != Some(0) || trace.as_const(step) != Some(-1) {
        return None;
    }
    let at = trace.segments[header].params.iter().position(|param| *param == count)?;
    let starts = trace.segments.values().flat_map(|segment| segment.terminator.targets());
    let mut starts = starts.filter(|target| target.segment == header && target.args[at] != left);
    starts.all(|target| trace.as_const(target.args[at]).is_some_and(|start| start > INNER)).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inner_loop_is_short_and_the_outer_one_ends() {
        let text = "trace nest @0x10 {
seg0():
  v0: i64 = slot rax
  v1: i64 = const 500
  v2: i64 = const -1
  v3: i64 = const 0
  jump seg1(v0)
seg1(v10: i64 = rax):
  v11: i64 = add v10, v2
  v12: i1 = ne v11, v3
  switch v12 { 1 => seg2(v1, v11) } else seg1(v11)
seg2(v20: i64, v21: i64):
  v22: i64 = add v21, v2
  v23: i64 = add v20, v2
  v24: i1 = ne v23, v3
  switch v24 { 1 => seg2(v23, v22) } else seg3()
seg3():
  jump seg1(v22)
}";
        let trace = redmagic_ir::parse_one(text).expect("well-formed text");
        redmagic_ir::verify(&trace).expect("a well-formed trace");
        let bounded = bounded(&trace).expect("it ends");
        redmagic_ir::verify(&bounded).expect("a well-formed trace");
        assert_eq!(bounded.exits.len(), 2);
        let mut guest = redmagic_ir::sandbox::TestGuest::new(0);
        guest.slots[Slot::RAX.index()] = 100;
        let mut machine = redmagic_ir::eval::Machine::new(&bounded);
        machine.enter(&bounded, &mut guest, 100).expect("it runs");
        assert_eq!(guest.slots[Slot::RAX.index()], 100 - MAX_ITERATIONS as u64);
    }
}
