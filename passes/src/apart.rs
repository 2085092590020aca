//! Roots that are known to be far enough apart: memory at one is not memory at the other.
//!
//! Interpreters keep their state behind a few registers: the C stack, the interpreted program's stack, the frame, the
//! interpreter itself. Where the recording saw disjoint memory behind two registers, a guard at the start of the trace makes
//! sure of it, and a store behind one forgets nothing of what is behind the other.
//!
//! # Invariants
//! - Only slot reads of the entry segment are compared: they are the same throughout the trace.
//! - What is known is what guards say. The pass finds its own guards again by their form,
//!   `ule (a - b) + low, length`, so that rounds and passes need not tell each other.
//!
//! # Worked example
//! Accesses of 8 bytes at `[a]` and `[b + 16]` overlap exactly if 8 < a - b < 24. The guard
//! `ule (a - b) - 24, -16` holds for all other differences.

use crate::Stats;
use redmagic_ir::{Exit, ExitData, Inst, Opcode, Slot, Trace, Type, Value};

/// More roots than this are not compared.
const MAX_ROOTS: usize = 8;

/// The difference of two roots is not in an open interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gap {
    a: Value,
    b: Value,
    /// `a - b` is not strictly between these.
    low: i64,
    high: i64,
}

/// What guards say about differences of roots.
#[derive(Default)]
pub(crate) struct Apart {
    gaps: Vec<Gap>,
}

/// A range of bytes behind a root.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub root: Value,
    pub start: i64,
    pub end: i64,
}

impl Apart {
    /// What the guards of the entry segment say.
    pub(crate) fn new(trace: &Trace) -> Apart {
        let Some(entry) = trace.entry else { return Apart::default() };
        let tests = trace.segments[entry].insts.iter().filter_map(|value| {
            let inst = &trace.insts[*value];
            (inst.op == Opcode::Guard).then_some(inst.args[0])
        });
        Apart { gaps: tests.filter_map(|test| gap(trace, test)).collect() }
    }

    /// Whether the two windows are disjoint.
    pub(crate) fn are_apart(&self, one: &Window, other: &Window) -> bool {
        self.gaps.iter().any(|gap| {
            let (a, b) = match (gap.a, gap.b) {
                (a, b) if (a, b) == (one.root, other.root) => (one, other),
                (a, b) if (a, b) == (other.root, one.root) => (other, one),
                _ => return false,
            };
            // They overlap if the difference lies between these, which are within the gap.
            b.start.wrapping_sub(a.end) >= gap.low && b.end.wrapping_sub(a.start) <= gap.high
        })
    }

    /// Whether nothing is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.gaps.is_empty()
    }

    /// The roots that something is known of in relation to `root`.
    pub(crate) fn partners(&self, root: Value) -> impl Iterator<Item = Value> + '_ {
        self.gaps.iter().filter_map(move |gap| match root {
            _ if gap.a == root => Some(gap.b),
            _ if gap.b == root => Some(gap.a),
            _ => None,
        })
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

/// What is accessed behind a root.
struct Root {
    window: Window,
    /// Where the root was recorded to point.
    base: u64,
    stores: bool,
}

/// Adds guards for roots whose windows were disjoint when recorded.
pub(crate) fn guard_windows(trace: &mut Trace, stats: &mut Stats) {
    let entry = trace.entry();
    if trace.start == 0 {
        return;
    }
    let roots = roots(trace);
    if roots.len() < 2 || roots.len() > MAX_ROOTS {
        return;
    }
    let known = Apart::new(trace);
    let mut insts = Vec::new();
    let mut exit = Exit::NONE;
    for (at, one) in roots.iter().enumerate() {
        for other in roots[at + 1..].iter().filter(|other| one.stores || other.stores) {
            let (a, b) = (&one.window, &other.window);
            let bytes = |root: &Root| {
                let at = |offset: i64| root.base.wrapping_add(offset as u64);
                (at(root.window.start), at(root.window.end))
            };
            let ((start, end), (first, last)) = (bytes(one), bytes(other));
            if known.are_apart(a, b) || start < last && first < end || !stats.may("roots apart") {
                continue;
            }
            if !exit.is_some() {
                exit = trace.exits.push(ExitData::new(trace.start, 0));
            }
            let mut constant = |imm: i64| {
                let value = trace.add_inst(Inst::constant(Type::I64, imm));
                insts.push(value);
                value
            };
            let low = constant(a.start.wrapping_sub(b.end));
            let limit = constant(-((a.end - a.start) + (b.end - b.start)));
            for inst in [
                Inst::binary(Opcode::Sub, Type::I64, a.root, b.root),
                Inst::binary(Opcode::Add, Type::I64, Value::NONE, low),
                Inst::binary(Opcode::Ule, Type::I1, Value::NONE, limit),
                Inst::guard(true, Value::NONE, exit),
            ] {
                let before = insts.last().copied().unwrap_or(Value::NONE);
                let mut inst = inst;
                if !inst.args[0].is_some() {
                    inst.args[0] = before;
                }
                insts.push(trace.add_inst(inst));
            }
            stats.roots_apart += 1;
        }
    }
    let slots = trace.segments[entry].insts.iter().rposition(|value| trace.insts[*value].op == Opcode::Slot);
    let at = slots.map_or(0, |last| last + 1);
    trace.segments[entry].insts.splice(at..at, insts);
}

/// The slot reads of the entry that accesses are rooted at, with what is accessed there.
fn roots(trace: &Trace) -> Vec<Root> {
    let entry = trace.entry();
    let slots: Vec<Value> =
        trace.segments[entry].insts.iter().copied().filter(|value| is_pointer(trace, *value)).collect();
    let mut roots: Vec<Root> = Vec::new();
    for &value in trace.segments.values().flat_map(|segment| &segment.insts) {
        let inst = &trace.insts[value];
        let Some(address) = inst.address().filter(|address| !address.index.is_some()) else { continue };
        let Some(recorded) = trace.recorded(value).filter(|_| slots.contains(&address.root)) else { continue };
        let start = i64::from(address.offset);
        let end = start + i64::from(inst.ty.bytes());
        let stores = inst.op == Opcode::Store;
        match roots.iter_mut().find(|root| root.window.root == address.root) {
            Some(root) => {
                root.window.start = root.window.start.min(start);
                root.window.end = root.window.end.max(end);
                root.stores |= stores;
            }
            None => {
                let base = recorded.address.wrapping_sub(start as u64);
                roots.push(Root { window: Window { root: address.root, start, end }, base, stores });
            }
        }
    }
    roots
}

fn is_pointer(trace: &Trace, value: Value) -> bool {
    let inst = &trace.insts[value];
    inst.op == Opcode::Slot && !matches!(inst.slot(), None | Some(Slot::FLAGS | Slot::FS | Slot::GS))
}
