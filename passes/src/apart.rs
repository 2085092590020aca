//! Roots that are known to be far enough apart: memory at one is not memory at the other.
//!
//! Interpreters keep their state behind a few registers and what these point to: the C stack, the interpreted program's
//! stack, the frame, the interpreter itself, its objects. Where the recording saw disjoint memory behind two roots, the walk
//! assumes that they are; what it has used of that is guarded: at the start of the trace for two slots read there, else at
//! a *point* (see `points`) behind the definitions of both and in front of the use.
//!
//! # Invariants
//! - A *pair* of roots has one open interval in which the difference of the roots must not lie. It covers all pairs of
//!   accesses that were ever taken for disjoint, and the recorded difference is not in it.
//! - A pair that nothing was concluded from gets no guard. Later walks find the guards again by their form,
//!   `ule (a - b) + low, length`, so that rounds and passes need not tell each other.
//! - A guard counts where it dominates, so what it says is asked for together with the segments on the way to here.
//!
//! # Worked example
//! Accesses of 8 bytes at `[a]` and `[b + 16]` overlap exactly if 8 < a - b < 24. The guard
//! `ule (a - b) - 24, -16` holds for all other differences.

use redmagic_ir::{Entity, Map, Opcode, Segment, Trace, Value};

/// More roots than this are not compared.
const MAX_ROOTS: usize = 64;
/// More pairs than this are not assumed.
const MAX_PAIRS: usize = 255;
/// Of both, so many are for slots that are read at the start of the trace.
const KEPT_ROOTS: usize = 12;
const KEPT_PAIRS: usize = 64;
/// A guard elsewhere must be asked for as often as this before it is made: it costs four operations.
const WANTED: u32 = 3;
/// The number of no pair.
const NO_PAIR: u8 = u8::MAX;
/// The number of no root.
const NO_ROOT: u8 = u8::MAX;

/// The segments that dominate the current one, and that one.
pub(crate) type Path = Map<Segment, bool>;

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
    /// Whether it is there at the start of the trace.
    at_entry: bool,
    /// Whether a guard says something of it.
    known: bool,
}

/// The number of a root that is compared with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RootId(u8);

/// A set of pairs that are assumed to be apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pairs([u128; 2]);

impl Pairs {
    /// The set of the pair with this number.
    fn one(at: usize) -> Pairs {
        let mut words = [0; 2];
        words[at / 128] = 1 << (at % 128);
        Pairs(words)
    }

    /// Both sets.
    pub(crate) fn add(&mut self, other: Pairs) {
        self.0[0] |= other.0[0];
        self.0[1] |= other.0[1];
    }

    /// Whether there is none.
    pub(crate) fn is_empty(self) -> bool {
        self.0[0] | self.0[1] == 0
    }

    /// Their numbers.
    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        let [mut low, mut high] = self.0;
        std::iter::from_fn(move || {
            let (word, first) = if low != 0 { (&mut low, 0) } else { (&mut high, 128) };
            let at = word.trailing_zeros() as usize;
            *word &= word.wrapping_sub(1);
            (at < 128).then_some(first + at)
        })
    }
}

/// A range of bytes behind a root.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub root: RootId,
    pub start: i64,
    pub end: i64,
}

/// Where a guard stands: in front of this instruction of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Spot {
    pub segment: Segment,
    pub at: usize,
}

/// What is assumed of two roots.
struct Assumed {
    gap: Gap,
    /// Both are there at the start of the trace.
    at_entry: bool,
    /// Something was concluded from it, and the start of the trace guards it.
    used: bool,
    /// Where else it is guarded.
    spot: Option<Spot>,
    /// How often something could have been concluded from it.
    asked: u32,
}

/// A guard to be made: `ule (a - b) + addend, limit`.
pub(crate) struct Guard {
    pub a: Value,
    pub b: Value,
    pub addend: i64,
    pub limit: i64,
    /// Where; at the start of the trace if nowhere else.
    pub spot: Option<Spot>,
}

/// What guards say about differences of roots, and what is assumed of them.
pub(crate) struct Apart {
    known: Vec<(Gap, Segment)>,
    roots: Vec<Root>,
    /// For values, up to the last root, their numbers or [`NO_ROOT`].
    numbers: Vec<u8>,
    assumed: Vec<Assumed>,
    /// For two roots, their pair.
    pairs: Vec<u8>,
    /// Whether assumptions about slots read at the start of the trace can be guarded.
    assumes: bool,
    /// Whether those about others perhaps can.
    anywhere: bool,
}

impl Apart {
    /// What the guards of the entry segment say. `anywhere` is whether there are points.
    pub(crate) fn new(trace: &Trace, anywhere: bool) -> Apart {
        let mut apart = Apart {
            known: Vec::new(),
            roots: Vec::new(),
            numbers: Vec::new(),
            assumed: Vec::new(),
            pairs: vec![NO_PAIR; MAX_ROOTS * MAX_ROOTS],
            assumes: trace.start != 0,
            anywhere,
        };
        if let Some(entry) = trace.entry {
            for value in &trace.segments[entry].insts {
                let inst = &trace.insts[*value];
                if inst.op == Opcode::Guard {
                    apart.learn(trace, inst.args[0], entry);
                }
            }
        }
        apart
    }

    /// Takes in what a guard in `segment` says, if `test` is of the form that guards of pairs have.
    pub(crate) fn learn(&mut self, trace: &Trace, test: Value, segment: Segment) {
        let Some(gap) = gap(trace, test).filter(|gap| !self.known.contains(&(*gap, segment))) else { return };
        self.known.push((gap, segment));
        self.roots.iter_mut().filter(|root| [gap.a, gap.b].contains(&root.value)).for_each(|root| root.known = true);
    }

    /// The number of `value`, which was recorded as `base`.
    pub(crate) fn root(&mut self, value: Value, base: u64, at_entry: bool) -> Option<RootId> {
        if !at_entry && !self.anywhere {
            return None;
        }
        let at = self.numbers.get(value.index()).copied().unwrap_or(NO_ROOT);
        if let Some(root) = self.roots.get(usize::from(at)) {
            return (root.base == base).then_some(RootId(at));
        }
        if self.roots.len() + if at_entry { 0 } else { KEPT_ROOTS } >= MAX_ROOTS {
            return None;
        }
        let known = self.known.iter().any(|(gap, _)| [gap.a, gap.b].contains(&value));
        let number = self.roots.len() as u8;
        self.roots.push(Root { value, base, at_entry, known });
        if self.numbers.len() <= value.index() {
            self.numbers.resize(value.index() + 1, NO_ROOT);
        }
        self.numbers[value.index()] = number;
        Some(RootId(number))
    }

    /// Whether a guard on `path` says that `a - b` is not between `low` and `high`.
    fn is_known(&self, a: Value, b: Value, low: i64, high: i64, path: &Path) -> bool {
        self.known.iter().filter(|(_, segment)| path[*segment]).any(|(gap, _)| match (gap.a, gap.b) {
            pair if pair == (a, b) => gap.covers(low, high),
            pair if pair == (b, a) => gap.covers(high.wrapping_neg(), low.wrapping_neg()),
            _ => false,
        })
    }

    /// Whether the two windows are disjoint, by a guard or by an assumption that can be made; then what it relies on. `may`
    /// is asked before something new is assumed.
    pub(crate) fn are_apart(
        &mut self,
        one: &Window,
        other: &Window,
        path: &Path,
        may: impl FnOnce() -> bool,
    ) -> Option<Pairs> {
        // In a fixed order, so that each pair has one interval.
        let (one, other) = if one.root.0 <= other.root.0 { (one, other) } else { (other, one) };
        let (a, b) = (self.roots[usize::from(one.root.0)], self.roots[usize::from(other.root.0)]);
        let (low, high) = (other.start.wrapping_sub(one.end), other.end.wrapping_sub(one.start));
        if a.known && b.known && self.is_known(a.value, b.value, low, high, path) {
            return Some(Pairs::default());
        }
        let place = usize::from(one.root.0) * MAX_ROOTS + usize::from(other.root.0);
        let at = usize::from(self.pairs[place]);
        let old = self.assumed.get(at).map(|assumed| assumed.gap);
        if old.is_some_and(|gap| gap.covers(low, high)) {
            return Some(Pairs::one(at));
        }
        let (from, to) = old.map_or((low, high), |gap| (gap.low.min(low), gap.high.max(high)));
        let gap = Gap { a: a.value, b: b.value, low: from, high: to };
        let difference = a.base.wrapping_sub(b.base) as i64;
        let held = difference <= gap.low || difference >= gap.high;
        if !held {
            return None;
        }
        let at_entry = a.at_entry && b.at_entry;
        if let Some(known) = self.assumed.get_mut(at) {
            known.gap = gap;
            return Some(Pairs::one(at));
        }
        let allowed = if at_entry { self.assumes } else { self.anywhere };
        let kept = if at_entry { 0 } else { KEPT_PAIRS };
        if !allowed || self.assumed.len() + kept >= MAX_PAIRS || !may() {
            return None;
        }
        self.pairs[place] = self.assumed.len() as u8;
        self.assumed.push(Assumed { gap, at_entry, used: false, spot: None, asked: 0 });
        Some(Pairs::one(self.assumed.len() - 1))
    }

    /// The two roots of a pair that must be guarded before anything can be concluded from it on `path`.
    pub(crate) fn open(&self, pair: usize, path: &Path) -> Option<[Value; 2]> {
        let Assumed { gap, at_entry, spot, .. } = &self.assumed[pair];
        let guarded = *at_entry || spot.is_some_and(|spot| path[spot.segment]);
        (!guarded && !self.is_known(gap.a, gap.b, gap.low, gap.high, path)).then_some([gap.a, gap.b])
    }

    /// Something could be concluded from a pair that nothing guards yet: whether a guard would save more than it costs.
    pub(crate) fn is_wanted(&mut self, pair: usize) -> bool {
        self.assumed[pair].asked += 1;
        self.assumed[pair].asked >= WANTED
    }

    /// Notes that something was concluded from a pair, which `spot` guards if nothing else does.
    pub(crate) fn rely(&mut self, pair: usize, spot: Option<Spot>) {
        let assumed = &mut self.assumed[pair];
        assumed.used |= assumed.at_entry;
        assumed.spot = spot.or(assumed.spot);
    }

    /// The guards of what was concluded from.
    pub(crate) fn guards(&self) -> impl Iterator<Item = Guard> + '_ {
        let used = self.assumed.iter().filter(|assumed| assumed.used || assumed.spot.is_some());
        used.map(|Assumed { gap, spot, .. }| Guard {
            a: gap.a,
            b: gap.b,
            addend: gap.high.wrapping_neg(),
            limit: gap.low.wrapping_sub(gap.high),
            spot: *spot,
        })
    }
}

/// What a test says if it is of the form that guards of pairs have.
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
    if difference.op != Opcode::Sub || limit >= 0 {
        return None;
    }
    // (a - b) + low <= 2^64 + limit excludes the differences from limit - low + 1 to -low - 1.
    Some(Gap { a, b, low: limit.wrapping_sub(low), high: low.wrapping_neg() })
}
