//! What is needed, in which order, and what lives across residual calls.
//!
//! A residual call leaves the function: every value that is used behind it travels through the save area of its
//! activation record. Behind the call such *crossing* values stay there, and are loaded where they are used. The next call
//! finds them where they are: it uses the same record, for that is the first free one when the callee has returned.
//!
//! # Invariants
//! - Where a segment is *behind* a call, that call's resume segment dominates it, and no other one that does is nearer. What the
//!   call has saved is in the area there: a call in between that it is live across has kept it at its place.
//! - All that is live across one call has a place of its own. So what is stored overwrites only what nobody needs any more.
//! - Where segments that are behind a call lead to one that is not (to the head of a loop), crossing values are variables
//!   with several definitions.
//!
//! # Worked example
//! In
//! ```text
//! seg1(v1):  v2 = add v1, v1      call exit1 { ... } resume seg2
//! seg2():    v3 = add v2, v1      call exit2 { ... } resume seg3
//! seg3():    v4 = add v3, v1      jump seg1(v4)
//! ```
//! the first call saves v1 in word 0 and v2 in word 1, and `seg2` loads both. The second call saves v3 in word 1, for v2 is
//! not used any more, and v1 is in word 0 already.

use redmagic_ir::graph::Graph;
use redmagic_ir::{Effect, Entity, Exit, Opcode, Segment, SegmentData, Terminator, Trace, Type, Value};

/// A value that lives across a call.
pub(crate) struct Saved {
    pub value: Value,
    /// The first of its 64-bit words in the save area.
    pub word: usize,
    /// Whether it is there already.
    pub kept: bool,
}

/// A residual call and the values saved across it.
pub(crate) struct CallSite {
    /// The segment that it ends.
    pub segment: Segment,
    /// Where the trace goes on.
    pub resume: Segment,
    /// What is in the save area, by value.
    pub saved: Vec<Saved>,
    /// The number of words that the area must have.
    pub words: usize,
}

impl CallSite {
    /// Where `value` is in the save area, if it is there.
    fn word_of(&self, value: Value) -> Option<usize> {
        let at = self.saved.binary_search_by_key(&value, |saved| saved.value).ok()?;
        Some(self.saved[at].word)
    }
}

/// The calls that code is behind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Behind {
    /// It is not reached.
    Nowhere,
    /// This call, or none.
    Call(Option<usize>),
    /// Several places lead there, which are not behind the same call.
    Several,
}

/// The facts about a trace.
pub(crate) struct Liveness {
    /// The segments that can be reached, definitions before uses.
    pub order: Vec<Segment>,
    /// By value: whether anything uses it.
    pub needed: Vec<bool>,
    /// By value: whether it lives across a residual call.
    pub crossing: Vec<bool>,
    /// The residual calls; a call's index is its resume index.
    pub calls: Vec<CallSite>,
    /// By segment: the index of the call that it is behind.
    behind: Vec<Option<usize>>,
    /// By exit: the calls that its guards are behind.
    exits: Vec<Behind>,
    /// By segment, if there are calls: what is live at its start.
    live_in: Vec<Bits>,
    /// The needed results of native operations: (operation, result), sorted.
    pub native_outputs: Vec<(Value, Value)>,
}

impl Liveness {
    pub(crate) fn new(trace: &Trace, entry: Segment) -> Liveness {
        let order = reverse_postorder(trace, entry);
        let needed = needed(trace, &order);
        let mut native_outputs: Vec<(Value, Value)> = order
            .iter()
            .flat_map(|segment| &trace.segments[*segment].insts)
            .filter(|value| needed[value.index()] && trace.insts[**value].op == Opcode::NativeOut)
            .map(|value| (trace.insts[*value].args[0], *value))
            .collect();
        native_outputs.sort_unstable();
        let mut liveness = Liveness {
            order,
            needed,
            crossing: vec![false; trace.insts.len()],
            calls: Vec::new(),
            behind: vec![None; trace.segments.len()],
            exits: vec![Behind::Nowhere; trace.exits.len()],
            live_in: Vec::new(),
            native_outputs,
        };
        liveness.find_calls(trace);
        liveness
    }

    /// The needed results of native operation `native`.
    pub(crate) fn outputs_of(&self, native: Value) -> &[(Value, Value)] {
        let start = self.native_outputs.partition_point(|entry| entry.0 < native);
        let end = self.native_outputs.partition_point(|entry| entry.0 <= native);
        &self.native_outputs[start..end]
    }

    /// The call that `segment` is behind.
    pub(crate) fn behind(&self, segment: Segment) -> Option<usize> {
        self.behind.get(segment.index()).copied().flatten()
    }

    /// The call that all guards with this exit are behind.
    pub(crate) fn behind_exit(&self, exit: Exit) -> Option<usize> {
        match self.exits.get(exit.index()) {
            Some(Behind::Call(call)) => *call,
            Some(Behind::Nowhere | Behind::Several) | None => None,
        }
    }

    /// Whether the guards of an exit are behind several calls, so that it finds in variables what these have saved.
    pub(crate) fn has_several_ways(&self, exit: Exit) -> bool {
        self.exits.get(exit.index()) == Some(&Behind::Several)
    }

    /// Where `value` is in the save area behind `call`, if it is there.
    pub(crate) fn word_of(&self, call: Option<usize>, value: Value) -> Option<usize> {
        self.calls.get(call?)?.word_of(value)
    }

    /// What code behind `call` has in the save area, and `segment`, which it leads to, needs and expects elsewhere.
    pub(crate) fn moved(&self, call: Option<usize>, segment: Segment) -> impl Iterator<Item = Value> + '_ {
        let saved = call.and_then(|call| self.calls.get(call)).map_or(&[][..], |site| &site.saved);
        let live = self.live_in.get(segment.index());
        let behind = self.behind(segment);
        let needed = move |value: &Value| live.is_some_and(|live| live.contains(*value));
        let elsewhere = move |value: &Value| self.word_of(behind, *value).is_none();
        saved.iter().map(|saved| saved.value).filter(needed).filter(elsewhere)
    }

    fn find_calls(&mut self, trace: &Trace) {
        let is_call = |segment: &Segment| matches!(trace.segments[*segment].terminator, Terminator::Call(_));
        if !self.order.iter().any(is_call) {
            return;
        }
        self.live_in = self.live_in(trace);
        let graph = Graph::new(trace);
        // Behind those that dominate it comes each segment.
        for segment in self.order.clone() {
            let resumed = self.calls.iter().position(|site| site.resume == segment);
            let resumed = resumed.filter(|_| graph.predecessors(segment).len() == 1);
            let dominator = graph.immediate_dominator(segment);
            self.behind[segment.index()] = resumed.or(dominator.and_then(|above| self.behind(above)));
            if let Terminator::Call(call) = &trace.segments[segment].terminator {
                self.add_call(trace, segment, call.resume);
            }
        }
        for &segment in &self.order {
            let behind = self.behind(segment);
            for exit in trace.segments[segment].insts.iter().filter_map(|value| trace.insts[*value].exit()) {
                let Some(known) = self.exits.get_mut(exit.index()) else { continue };
                *known = match *known {
                    Behind::Nowhere => Behind::Call(behind),
                    Behind::Call(other) if other == behind => *known,
                    Behind::Call(_) | Behind::Several => Behind::Several,
                };
            }
        }
    }

    /// Finds places in the save area for what lives across a call.
    fn add_call(&mut self, trace: &Trace, segment: Segment, resume: Segment) {
        let behind = self.behind(segment);
        let live: Vec<Value> = self.live_in[resume.index()].iter().collect();
        let places: Vec<Option<usize>> = live.iter().map(|value| self.word_of(behind, *value)).collect();
        let mut taken = Taken(Vec::new());
        for (value, place) in live.iter().zip(&places) {
            place.iter().for_each(|word| taken.take(*word, words(trace.ty(*value))));
        }
        let mut saved = Vec::with_capacity(live.len());
        for (value, place) in live.into_iter().zip(places) {
            self.crossing[value.index()] = true;
            let count = words(trace.ty(value));
            let word = place.unwrap_or_else(|| taken.first_free(count));
            taken.take(word, count);
            saved.push(Saved { value, word, kept: place.is_some() });
        }
        let Taken(taken) = taken;
        self.calls.push(CallSite { segment, resume, saved, words: taken.len() });
    }

    /// The values live at the start of each segment, by backward iteration to the fixed point.
    fn live_in(&self, trace: &Trace) -> Vec<Bits> {
        let mut live_in = vec![Bits::new(trace.insts.len()); trace.segments.len()];
        let mut changed = true;
        while changed {
            changed = false;
            for &segment in self.order.iter().rev() {
                let data = &trace.segments[segment];
                let mut live = Bits::new(trace.insts.len());
                for successor in data.terminator.successors() {
                    live.add_all(&live_in[successor.index()]);
                }
                self.scan_segment(trace, data, &mut live);
                if live != live_in[segment.index()] {
                    live_in[segment.index()] = live;
                    changed = true;
                }
            }
        }
        live_in
    }

    /// Goes from the values live behind a segment to those live before it. The results of a native operation are
    /// defined where it executes, wherever their `native_out` stands.
    fn scan_segment(&self, trace: &Trace, data: &SegmentData, live: &mut Bits) {
        // Constants are made where they are used.
        let add = |live: &mut Bits, value: Value| {
            if trace.as_const(value).is_none() {
                live.insert(value);
            }
        };
        data.terminator.for_each_value(|value| add(live, value));
        if let Some(exit) = data.terminator.exit() {
            trace.exits[exit].for_each_value(|value| add(live, value));
        }
        for &value in data.insts.iter().rev() {
            let op = trace.insts[value].op;
            if op == Opcode::NativeOut || (!self.needed[value.index()] && is_removable(op)) {
                continue;
            }
            live.remove(value);
            if op == Opcode::Native {
                self.outputs_of(value).iter().for_each(|(_, output)| live.remove(*output));
            }
            trace.for_each_use(value, |used| add(live, used));
        }
        data.params.iter().for_each(|param| live.remove(*param));
    }
}

/// Whether an unused instruction with this opcode can be left out.
pub(crate) fn is_removable(op: Opcode) -> bool {
    match op.effect() {
        Effect::Pure | Effect::Partial | Effect::Read => true,
        Effect::Write | Effect::Guard | Effect::Barrier => false,
    }
}

/// The 64-bit words that a saved value of this type takes.
fn words(ty: Type) -> usize {
    if ty.bits() > 64 { 2 } else { 1 }
}

fn reverse_postorder(trace: &Trace, entry: Segment) -> Vec<Segment> {
    let mut seen = vec![false; trace.segments.len()];
    let mut order = Vec::new();
    let mut stack = vec![(entry, trace.segments[entry].terminator.successors())];
    seen[entry.index()] = true;
    while let Some((segment, pending)) = stack.last_mut() {
        match pending.pop() {
            Some(next) if seen[next.index()] => {}
            Some(next) => {
                seen[next.index()] = true;
                stack.push((next, trace.segments[next].terminator.successors()));
            }
            None => {
                order.push(*segment);
                stack.pop();
            }
        }
    }
    order.reverse();
    order
}

fn needed(trace: &Trace, order: &[Segment]) -> Vec<bool> {
    let mut needed = vec![false; trace.insts.len()];
    let mut pending: Vec<Value> = Vec::new();
    for &segment in order {
        let data = &trace.segments[segment];
        let effects = data.insts.iter().copied().filter(|value| !is_removable(trace.insts[*value].op));
        pending.extend(effects);
        data.terminator.for_each_value(|value| pending.push(value));
        if let Some(exit) = data.terminator.exit() {
            trace.exits[exit].for_each_value(|value| pending.push(value));
        }
    }
    while let Some(value) = pending.pop() {
        if !std::mem::replace(&mut needed[value.index()], true) {
            trace.for_each_use(value, |used| pending.push(used));
        }
    }
    needed
}

/// By word of a save area: whether it is in use.
struct Taken(Vec<bool>);

impl Taken {
    fn take(&mut self, word: usize, count: usize) {
        self.0.resize(self.0.len().max(word + count), false);
        self.0[word..word + count].fill(true);
    }

    /// The first of the words that nothing of `count` words is in the way of.
    fn first_free(&self, count: usize) -> usize {
        let is_free = |word: &usize| self.0.iter().skip(*word).take(count).all(|taken| !taken);
        (0..).find(is_free).unwrap_or(self.0.len())
    }
}

/// A set of values.
#[derive(Clone, PartialEq, Eq)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(len: usize) -> Bits {
        Bits(vec![0; len.div_ceil(64)])
    }

    fn insert(&mut self, value: Value) {
        self.0[value.index() / 64] |= 1 << (value.index() % 64);
    }

    fn remove(&mut self, value: Value) {
        self.0[value.index() / 64] &= !(1 << (value.index() % 64));
    }

    fn contains(&self, value: Value) -> bool {
        self.0[value.index() / 64] >> (value.index() % 64) & 1 == 1
    }

    fn add_all(&mut self, other: &Bits) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word |= other);
    }

    fn iter(&self) -> impl Iterator<Item = Value> + '_ {
        self.0.iter().enumerate().flat_map(|(at, &word)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| Value::from_index(at * 64 + bit))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each call saves: the value's number, its word, whether it is there already.
    fn saved(text: &str) -> Vec<Vec<(usize, usize, bool)>> {
        let trace = redmagic_ir::parse_one(text).expect("a trace");
        let liveness = Liveness::new(&trace, trace.entry());
        let of =
            |site: &CallSite| site.saved.iter().map(|saved| (saved.value.index(), saved.word, saved.kept)).collect();
        liveness.calls.iter().map(of).collect()
    }

    #[test]
    fn the_next_call_finds_what_was_saved_where_it_is() {
        let calls = saved(
            "trace t { seg0():
               v0: i64 = slot rbx
               v9: i64 = slot rcx
               jump seg1(v0)
             seg1(v1: i64):
               v2: i64 = add v1, v1
               call v9 ret v9 state exit0 effect any -> seg2
             seg2():
               v3: i64 = add v2, v1
               call v9 ret v9 state exit0 effect any -> seg3
             seg3():
               v4: i64 = add v3, v1
               jump seg1(v4)
             exit0 @0x40 {} }",
        );
        // v9 is needed again in the next iteration.
        assert_eq!(calls[0], [(1, 0, false), (2, 1, false), (9, 2, false)]);
        assert_eq!(calls[1], [(1, 0, true), (3, 1, false), (9, 2, true)]);
    }

    #[test]
    fn what_only_one_way_has_saved_is_saved_again() {
        let calls = saved(
            "trace t { seg0():
               v0: i64 = slot rbx
               v1: i1 = trunc v0
               switch v1 { 1 => seg1() } else seg2()
             seg1():
               call v0 ret v0 state exit0 effect any -> seg3
             seg3():
               jump seg2()
             seg2():
               call v0 ret v0 state exit0 effect any -> seg4
             seg4():
               leave exit1
             exit0 @0x40 {}
             exit1 @0x44 { rax = v0 } }",
        );
        assert_eq!(calls, [[(0, 0, false)], [(0, 0, false)]]);
    }
}
