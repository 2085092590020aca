//! What is needed, in which order, and what lives across residual calls.
//!
//! A residual call leaves the function: every value that is used behind it travels through the save area of its
//! activation record. Such *crossing* values have two definitions in the machine code (the real one, and the reload on
//! the resume path), all other values have one.
//!
//! Worked example: in
//! ```text
//! seg1(v1):  v2 = add v1, v1      call exit1 { ... } resume seg2
//! seg2():    v3 = add v2, v1      jump seg1(v3)
//! ```
//! v1 and v2 are live into `seg2`, so the call saves them in that order; v3 crosses nothing.

use redmagic_ir::{Effect, Entity, Opcode, Segment, SegmentData, Terminator, Trace, Type, Value};

/// A residual call and the values saved across it.
pub(crate) struct CallSite {
    /// The segment that it ends.
    pub segment: Segment,
    /// Where the trace goes on.
    pub resume: Segment,
    /// What to save, with the index of the first 64-bit word.
    pub saved: Vec<(Value, usize)>,
    /// The number of words they take.
    pub words: usize,
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
        let mut liveness =
            Liveness { order, needed, crossing: vec![false; trace.insts.len()], calls: Vec::new(), native_outputs };
        liveness.find_calls(trace);
        liveness
    }

    /// The needed results of native operation `native`.
    pub(crate) fn outputs_of(&self, native: Value) -> &[(Value, Value)] {
        let start = self.native_outputs.partition_point(|entry| entry.0 < native);
        let end = self.native_outputs.partition_point(|entry| entry.0 <= native);
        &self.native_outputs[start..end]
    }

    fn find_calls(&mut self, trace: &Trace) {
        let is_call = |segment: &Segment| matches!(trace.segments[*segment].terminator, Terminator::Call(_));
        if !self.order.iter().any(is_call) {
            return;
        }
        let live_in = self.live_in(trace);
        for &segment in &self.order {
            let Terminator::Call(call) = &trace.segments[segment].terminator else { continue };
            let mut site = CallSite { segment, resume: call.resume, saved: Vec::new(), words: 0 };
            for value in live_in[call.resume.index()].iter() {
                self.crossing[value.index()] = true;
                site.saved.push((value, site.words));
                site.words += words(trace.ty(value));
            }
            self.calls.push(site);
        }
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

    fn add_all(&mut self, other: &Bits) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word |= other);
    }

    fn iter(&self) -> impl Iterator<Item = Value> + '_ {
        self.0.iter().enumerate().flat_map(|(at, &word)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| Value::from_index(at * 64 + bit))
        })
    }
}
