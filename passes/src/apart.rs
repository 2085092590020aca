//! Roots that are known to be far enough apart: memory at one is not memory at the other.
//!
//! Interpreters keep their state behind a few registers: the C stack, the interpreted program's stack, the frame, the
//! interpreter itself. Where the recording saw disjoint memory behind two registers, the walk assumes that they are; what it
//! has used of that is guarded at the start of the trace.
//!
//! # Invariants
//! - Only slot reads of the entry segment are compared: they are the same throughout the trace.
//! - A *pair* of roots has one open interval in which the difference of the roots must not lie. It covers all pairs of
//!   accesses that were ever taken for disjoint, and the recorded difference is not in it.
//! - A pair that nothing was concluded from gets no guard. Later walks find the guards again by their form,
//!   `ule (a - b) + low, length`, so that rounds and passes need not tell each other.
//!
//! # Worked example
//! Accesses of 8 bytes at `[a]` and `[b + 16]` overlap exactly if 8 < a - b < 24. The guard
//! `ule (a - b) - 24, -16` holds for all other differences.

use redmagic_ir::{Opcode, Trace, Value};

/// More roots than this are not compared.
const MAX_ROOTS: usize = 12;
/// More pairs than this are not assumed.
const MAX_PAIRS: usize = 64;

/// The difference of two roots is not in an open interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gap {
    a: Value,
    b: Value,
    /// `a - b` is not strictly between these.
    low: i64,
    high: i64,
}

impl Gap {
    /// Whether windows that overlap for differences strictly between `low` and `high` do not.
    fn covers(&self, low: i64, high: i64) -> bool {
        self.low <= low && high <= self.high
    }
}

/// A root with what it was when recorded.
#[derive(Clone, Copy, Debug)]
struct Root {
    value: Value,
    base: u64,
}

/// The number of a root that is compared with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RootId(u8);

/// A set of pairs that are assumed to be apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pairs(u64);

impl Pairs {
    /// Both sets.
    pub(crate) fn add(&mut self, other: Pairs) {
        self.0 |= other.0;
    }
}

/// A range of bytes behind a root.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub root: RootId,
    pub start: i64,
    pub end: i64,
}

/// What guards say about differences of roots, and what is assumed of them.
#[derive(Default)]
pub(crate) struct Apart {
    known: Vec<Gap>,
    roots: Vec<Root>,
    assumed: Vec<Gap>,
    used: Pairs,
    /// Whether assumptions can be guarded.
    assumes: bool,
}

impl Apart {
    /// What the guards of the entry segment say.
    pub(crate) fn new(trace: &Trace) -> Apart {
        let Some(entry) = trace.entry else { return Apart::default() };
        let tests = trace.segments[entry].insts.iter().filter_map(|value| {
            let inst = &trace.insts[*value];
            (inst.op == Opcode::Guard).then_some(inst.args[0])
        });
        let known = tests.filter_map(|test| gap(trace, test)).collect();
        Apart { known, assumes: trace.start != 0, ..Apart::default() }
    }

    /// The number of slot read `value`, which was recorded as `base`.
    pub(crate) fn root(&mut self, value: Value, base: u64) -> Option<RootId> {
        let at = self.roots.iter().position(|root| root.value == value);
        match at {
            Some(at) => (self.roots[at].base == base).then_some(RootId(at as u8)),
            None if self.roots.len() < MAX_ROOTS => {
                self.roots.push(Root { value, base });
                Some(RootId(self.roots.len() as u8 - 1))
            }
            None => None,
        }
    }

    /// Whether the two windows are disjoint, by a guard or by an assumption that can be made; then what it relies on. `may`
    /// is asked before something new is assumed.
    pub(crate) fn are_apart(&mut self, one: &Window, other: &Window, may: impl FnOnce() -> bool) -> Option<Pairs> {
        // In a fixed order, so that each pair has one interval.
        let (one, other) = if one.root.0 <= other.root.0 { (one, other) } else { (other, one) };
        let (a, b) = (self.roots[usize::from(one.root.0)], self.roots[usize::from(other.root.0)]);
        let (low, high) = (other.start.wrapping_sub(one.end), other.end.wrapping_sub(one.start));
        let known = self.known.iter().any(|gap| match (gap.a, gap.b) {
            pair if pair == (a.value, b.value) => gap.covers(low, high),
            pair if pair == (b.value, a.value) => gap.covers(high.wrapping_neg(), low.wrapping_neg()),
            _ => false,
        });
        if known {
            return Some(Pairs::default());
        }
        let at = self.assumed.iter().position(|gap| (gap.a, gap.b) == (a.value, b.value));
        if let Some(at) = at
            && self.assumed[at].covers(low, high)
        {
            return Some(Pairs(1 << at));
        }
        let old = at.map_or((low, high), |at| (self.assumed[at].low, self.assumed[at].high));
        let gap = Gap { a: a.value, b: b.value, low: old.0.min(low), high: old.1.max(high) };
        let difference = a.base.wrapping_sub(b.base) as i64;
        let held = difference <= gap.low || difference >= gap.high;
        if !self.assumes || !held || at.is_none() && (self.assumed.len() >= MAX_PAIRS || !may()) {
            return None;
        }
        let at = at.unwrap_or(self.assumed.len());
        match self.assumed.get_mut(at) {
            Some(known) => *known = gap,
            None => self.assumed.push(gap),
        }
        Some(Pairs(1 << at))
    }

    /// Notes that something was concluded from these pairs.
    pub(crate) fn rely(&mut self, pairs: Pairs) {
        self.used.add(pairs);
    }

    /// The guards of what was concluded from: roots `a` and `b`, an addend and a limit, for
    /// `ule (a - b) + addend, limit`.
    pub(crate) fn guards(&self) -> impl Iterator<Item = (Value, Value, i64, i64)> + '_ {
        let used = self.assumed.iter().enumerate().filter(|(at, _)| self.used.0 >> at & 1 == 1);
        used.map(|(_, gap)| (gap.a, gap.b, gap.high.wrapping_neg(), gap.low.wrapping_sub(gap.high)))
    }
}

/// What a test says if it is of the form that [`guard_windows`] makes.
fn gap(trace: &Trace, test: Value) -> Option<Gap> {
    let inst = &trace.insts[test];
    if inst.op != Opcode::Ule {
        return None;
    }
    let limit = trace.as_const(inst.args[1])?;
    let (mut difference, mut low) = (&trace.insts[inst.args[0]], 0);
    if difference.op == Opcode::Add {
        low = trace.as_const(difference.args[1])?;
        difference = &trace.insts[difference.args[0]];
    }
    let [a, b, _] = difference.args;
    let is_slot = |value: Value| trace.insts[value].op == Opcode::Slot;
    if difference.op != Opcode::Sub || limit >= 0 || !is_slot(a) || !is_slot(b) {
        return None;
    }
    // (a - b) + low <= 2^64 + limit excludes the differences from limit - low + 1 to -low - 1.
    Some(Gap { a, b, low: limit.wrapping_sub(low), high: low.wrapping_neg() })
}
