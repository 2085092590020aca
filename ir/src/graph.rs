//! The control-flow graph of a trace: orders, predecessors, dominators, headers.
//!
//! A [`Graph`] is a snapshot: it does not follow changes of the trace. It covers the segments that the entry reaches;
//! about others it answers "not reachable" and nothing else. References to segments that do not exist are ignored
//! here and reported by the verifier.
//!
//! Worked example: for a loop `seg0 → seg1 → seg2 → seg1`, the reverse post-order is seg0, seg1, seg2; seg1 is the only
//! header, its back edge comes from seg2, and it dominates seg2.

use crate::{Entity, Segment, Trace};
use petgraph::Direction;
use petgraph::algo::dominators::simple_fast;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::DfsPostOrder;

/// The control-flow graph of a trace.
#[derive(Clone, Debug)]
pub struct Graph {
    order: Vec<Segment>,
    /// Position in `order`; `usize::MAX` if not reachable.
    position: Vec<usize>,
    predecessors: Vec<Vec<Segment>>,
    successors: Vec<Vec<Segment>>,
    immediate: Vec<Option<Segment>>,
    /// When a walk of the dominator tree enters and leaves each segment.
    interval: Vec<(usize, usize)>,
    headers: Vec<Segment>,
}

impl Graph {
    /// The graph of `trace`, empty if it has no entry.
    pub fn new(trace: &Trace) -> Graph {
        let count = trace.segments.len();
        let mut graph = DiGraph::<(), ()>::with_capacity(count, count);
        for _ in 0..count {
            graph.add_node(());
        }
        for (segment, data) in trace.segments.iter() {
            for next in data.terminator.successors().into_iter().filter(|next| next.index() < count) {
                graph.add_edge(NodeIndex::new(segment.index()), NodeIndex::new(next.index()), ());
            }
        }
        let mut result = Graph {
            order: Vec::new(),
            position: vec![usize::MAX; count],
            predecessors: vec![Vec::new(); count],
            successors: vec![Vec::new(); count],
            immediate: vec![None; count],
            interval: vec![(0, 0); count],
            headers: Vec::new(),
        };
        if let Some(entry) = trace.entry.filter(|entry| entry.index() < count) {
            result.fill(&graph, NodeIndex::new(entry.index()));
        }
        result
    }

    fn fill(&mut self, graph: &DiGraph<(), ()>, root: NodeIndex) {
        let mut walk = DfsPostOrder::new(graph, root);
        while let Some(node) = walk.next(graph) {
            self.order.push(Segment::from_index(node.index()));
        }
        self.order.reverse();
        for (at, segment) in self.order.iter().enumerate() {
            self.position[segment.index()] = at;
        }
        let dominators = simple_fast(graph, root);
        let mut children = vec![Vec::new(); self.position.len()];
        for segment in self.order.clone() {
            let node = NodeIndex::new(segment.index());
            // petgraph gives neighbours newest edge first; ours are in the order of the terminators.
            let mut predecessors: Vec<_> = graph
                .neighbors_directed(node, Direction::Incoming)
                .map(|from| Segment::from_index(from.index()))
                .filter(|from| self.is_reachable(*from))
                .collect();
            predecessors.sort();
            self.predecessors[segment.index()] = predecessors;
            let mut successors: Vec<_> = graph.neighbors(node).map(|to| Segment::from_index(to.index())).collect();
            successors.reverse();
            self.successors[segment.index()] = successors;
            let immediate = dominators.immediate_dominator(node).map(|above| Segment::from_index(above.index()));
            self.immediate[segment.index()] = immediate;
            if let Some(above) = immediate {
                children[above.index()].push(segment);
            }
        }
        self.number_dominator_tree(&children, Segment::from_index(root.index()));
        let is_header = |segment: &Segment| self.back_edges(*segment).next().is_some();
        self.headers = self.order.iter().copied().filter(is_header).collect();
    }

    fn number_dominator_tree(&mut self, children: &[Vec<Segment>], root: Segment) {
        let mut clock = 0;
        let mut stack = vec![(root, 0)];
        self.interval[root.index()].0 = clock;
        while let Some((segment, next)) = stack.last_mut() {
            clock += 1;
            if let Some(child) = children[segment.index()].get(*next).copied() {
                *next += 1;
                self.interval[child.index()].0 = clock;
                stack.push((child, 0));
            } else {
                self.interval[segment.index()].1 = clock;
                stack.pop();
            }
        }
    }

    /// The reachable segments in reverse post-order: but for back edges, every segment after its predecessors.
    pub fn reverse_post_order(&self) -> &[Segment] {
        &self.order
    }

    /// Whether the entry reaches `segment`.
    pub fn is_reachable(&self, segment: Segment) -> bool {
        self.position.get(segment.index()).is_some_and(|position| *position != usize::MAX)
    }

    /// The place of a reachable segment in the reverse post-order.
    pub fn position(&self, segment: Segment) -> Option<usize> {
        self.position.get(segment.index()).copied().filter(|position| *position != usize::MAX)
    }

    /// The reachable predecessors of `segment`, once for each edge, in index order.
    pub fn predecessors(&self, segment: Segment) -> &[Segment] {
        self.predecessors.get(segment.index()).map_or(&[], Vec::as_slice)
    }

    /// The successors of a reachable `segment`, once for each edge, in the terminator's order.
    pub fn successors(&self, segment: Segment) -> &[Segment] {
        self.successors.get(segment.index()).map_or(&[], Vec::as_slice)
    }

    /// The closest segment, other than itself, that dominates `segment`; `None` for the entry.
    pub fn immediate_dominator(&self, segment: Segment) -> Option<Segment> {
        self.immediate.get(segment.index()).copied().flatten()
    }

    /// Whether every path from the entry to `below` goes through `above`; both must be reachable. A segment
    /// dominates itself.
    pub fn dominates(&self, above: Segment, below: Segment) -> bool {
        if !self.is_reachable(above) || !self.is_reachable(below) {
            return false;
        }
        let (start, end) = self.interval[above.index()];
        let inner = self.interval[below.index()];
        start <= inner.0 && inner.1 <= end
    }

    /// The targets of back edges, in reverse post-order. Every cycle goes through one of them.
    pub fn headers(&self) -> &[Segment] {
        &self.headers
    }

    /// The predecessors of `header` whose edge goes backwards in the reverse post-order (a segment that jumps to
    /// itself is among them), once for each edge. Where the header dominates such a predecessor, the cycle is a
    /// natural loop.
    pub fn back_edges(&self, header: Segment) -> impl Iterator<Item = Segment> + '_ {
        let place = self.position(header);
        self.predecessors(header).iter().copied().filter(move |from| self.position(*from) >= place)
    }
}
