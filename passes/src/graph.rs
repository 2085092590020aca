//! The shape of a trace's graph: order, predecessors, dominators.
//!
//! # Invariants
//! Only segments that the entry reaches take part; [`remove_unreachable`] makes that all of them. Traces are nearly
//! straight, so the simple iterative dominator algorithm is done after one or two sweeps.
//!
//! Worked example: entry `seg0` jumps to header `seg1`, which switches to itself and to `seg2`: the order is
//! `seg0, seg1, seg2`, and `seg1` has the predecessors `seg0` and `seg1` and dominates `seg2`.

use redmagic_ir::{Entity, Map, Segment, Terminator, Trace};

/// Order, predecessors and dominator tree of the reachable segments.
pub(crate) struct Graph {
    /// Reachable segments in reverse post-order; the entry is first.
    pub order: Vec<Segment>,
    /// For each segment the reachable predecessors, one entry for each edge.
    pub preds: Map<Segment, Vec<Segment>>,
    /// The segments that a segment dominates immediately, in reverse post-order.
    pub children: Map<Segment, Vec<Segment>>,
}

impl Graph {
    /// Examines `trace`.
    pub(crate) fn new(trace: &Trace) -> Graph {
        let count = trace.segments.len();
        let order = reverse_post_order(trace);
        let mut preds = Map::filled(count, Vec::new());
        for &segment in &order {
            for next in trace.segments[segment].terminator.successors() {
                preds[next].push(segment);
            }
        }
        let mut children = Map::filled(count, Vec::new());
        let dominators = immediate_dominators(count, &order, &preds);
        for &segment in order.iter().skip(1) {
            children[dominators[segment]].push(segment);
        }
        Graph { order, preds, children }
    }

    /// The one predecessor of `segment`, if it has one edge into it.
    pub(crate) fn only_pred(&self, segment: Segment) -> Option<Segment> {
        match self.preds[segment][..] {
            [pred] => Some(pred),
            _ => None,
        }
    }
}

fn reverse_post_order(trace: &Trace) -> Vec<Segment> {
    let mut seen = Map::<Segment, bool>::filled(trace.segments.len(), false);
    let mut order = Vec::new();
    let entry = trace.entry();
    seen[entry] = true;
    let mut stack = vec![(entry, trace.segments[entry].terminator.successors())];
    while let Some((segment, rest)) = stack.last_mut() {
        match rest.pop() {
            Some(next) if !seen[next] => {
                seen[next] = true;
                stack.push((next, trace.segments[next].terminator.successors()));
            }
            Some(_) => {}
            None => {
                order.push(*segment);
                stack.pop();
            }
        }
    }
    order.reverse();
    order
}

fn immediate_dominators(count: usize, order: &[Segment], preds: &Map<Segment, Vec<Segment>>) -> Map<Segment, Segment> {
    let mut number = Map::<Segment, usize>::filled(count, usize::MAX);
    for (at, segment) in order.iter().enumerate() {
        number[*segment] = at;
    }
    let mut dominators = Map::filled(count, Segment::NONE);
    let Some(&entry) = order.first() else { return dominators };
    dominators[entry] = entry;
    let mut changed = true;
    while changed {
        changed = false;
        for &segment in &order[1..] {
            let mut known = preds[segment].iter().copied().filter(|pred| dominators[*pred].is_some());
            let Some(first) = known.next() else { continue };
            let meet = known.fold(first, |mut a, mut b| {
                while a != b {
                    if number[a] > number[b] {
                        a = dominators[a];
                    } else {
                        b = dominators[b];
                    }
                }
                a
            });
            if dominators[segment] != meet {
                dominators[segment] = meet;
                changed = true;
            }
        }
    }
    dominators
}

/// Removes the segments that the entry does not reach and numbers the others in reverse post-order of the graph,
/// unless all are reachable.
pub(crate) fn remove_unreachable(trace: &mut Trace) {
    let order = reverse_post_order(trace);
    if order.len() == trace.segments.len() {
        return;
    }
    let mut number = Map::filled(trace.segments.len(), Segment::NONE);
    let mut kept = Map::new();
    for &segment in &order {
        let data = &mut trace.segments[segment];
        let emptied = redmagic_ir::SegmentData {
            params: Vec::new(),
            insts: Vec::new(),
            terminator: Terminator::Leave(redmagic_ir::Exit::NONE),
        };
        number[segment] = kept.push(std::mem::replace(data, emptied));
    }
    for data in kept.values_mut() {
        for target in data.terminator.targets_mut() {
            target.segment = number[target.segment];
        }
        if let Terminator::Call(call) = &mut data.terminator {
            call.resume = number[call.resume];
        }
    }
    trace.entry = trace.entry.map(|entry| number[entry]);
    trace.segments = kept;
    debug_assert!(trace.entry.is_some_and(|entry| entry.index() == 0));
}
