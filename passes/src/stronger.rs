//! Guards that a later one makes superfluous: the later one takes the place of the first of them.
//!
//! Interpreters narrow down what a value is: not empty, not an integer, then a number. The last answer implies all others, but their
//! guards come first, and each leaves by the way that the program takes if it alone fails. Where nothing has been written since
//! a [point](crate::points), a guard can also leave there: whatever it is that fails, the program finds out for itself.
//!
//! # Invariants
//! - The last guard says that a value is a constant, and each guard that is gone follows from that.
//! - Between the point and the first of them nothing is written: the point's state and memory are those that there were.
//! - All are in one segment, so that what is executed once is compared once.
//!
//! # Worked example
//! ```text
//! v1 = load [v9], resume exit1      the next instruction's fetch: a point
//! v2: i8 = load [v0 + 8]
//! v3 = and v2, 15; v4 = eq v3, 0
//! guard_not v4, exit2               guard eq v2, 19, exit1: then v3 is 3
//! v5: i64 = load [v0]
//! v6 = eq v2, 19; guard v6, exit3   gone
//! ```

use crate::apart::Spot;
use crate::rules::with_const;
use crate::scope::MixMap;
use crate::walk::Walk;
use redmagic_ir::scalar::eval_pure;
use redmagic_ir::{Exit, Inst, Opcode, Segment, Type, Value};
use std::collections::BTreeSet;

/// A guard that may become another one.
struct Weak {
    guard: Value,
    spot: Spot,
    /// The point's exit.
    exit: Exit,
}

/// A guard that became another one: a new test in front of it, and the exit that it is to have a copy of.
struct Stronger {
    guard: Value,
    test: Value,
    spot: Spot,
    exit: Exit,
}

/// What a walk knows of guards that may become stronger.
#[derive(Default)]
pub(crate) struct Candidates {
    /// Nothing has been written since the last point.
    is_fresh: bool,
    /// By what their tests say something of.
    weak: MixMap<Value, Vec<Weak>>,
    stronger: Vec<Stronger>,
    /// Guards that are gone.
    gone: Vec<Value>,
}

impl Candidates {
    /// Another segment begins.
    pub(crate) fn enter(&mut self) {
        self.is_fresh = false;
        self.weak.clear();
    }

    /// Memory is as it was at the point here.
    pub(crate) fn at_point(&mut self) {
        self.is_fresh = true;
    }

    /// Something is written.
    pub(crate) fn wrote(&mut self) {
        self.is_fresh = false;
    }
}

impl Walk<'_> {
    /// Notes a guard that is about to be placed.
    pub(crate) fn note_guard(&mut self, guard: Value, test: Value, segment: Segment) {
        if let Some((_, exit)) = self.point.filter(|_| self.stronger.is_fresh)
            && let Some(subject) = self.subject(test)
        {
            let spot = Spot { segment, at: self.scope.out.len() };
            self.stronger.weak.entry(subject).or_default().push(Weak { guard, spot, exit });
        }
    }

    /// What a comparison with a constant says something of.
    fn subject(&self, test: Value) -> Option<Value> {
        let inst = self.scope.trace.insts[test];
        let compares =
            matches!(inst.op, Opcode::Eq | Opcode::Ne | Opcode::Ult | Opcode::Ule | Opcode::Slt | Opcode::Sle);
        if !compares {
            return None;
        }
        let [a, b, _] = inst.args;
        let varying = match (self.scope.as_const(a), self.scope.as_const(b)) {
            (None, Some(_)) => a,
            (Some(_), None) => b,
            _ => return None,
        };
        Some(with_const(&self.scope, varying, Opcode::And).map_or(varying, |(masked, _)| masked))
    }

    /// Puts a guard that `test` is `expected` in the place of the first guard that it implies. Whether there is one.
    pub(crate) fn strengthen(&mut self, test: Value, expected: bool) -> bool {
        let inst = self.scope.trace.insts[test];
        let [subject, constant, _] = inst.args;
        let is_equality = matches!((inst.op, expected), (Opcode::Eq, true) | (Opcode::Ne, false));
        let Some(imm) = is_equality.then(|| self.scope.as_const(constant)).flatten() else { return false };
        let Some(weak) = self.stronger.weak.get(&subject) else { return false };
        let all: Vec<usize> = (0..weak.len()).filter(|at| self.is_implied(&weak[*at], subject, imm)).collect();
        let Some(&first) = all.first() else { return false };
        if !self.scope.stats.may("guard in the place of others") {
            return false;
        }
        let Some(weak) = self.stronger.weak.get_mut(&subject) else { return false };
        for at in all[1..].iter().rev() {
            self.stronger.gone.push(weak.remove(*at).guard);
        }
        let Weak { guard, spot, exit } = weak.remove(first);
        let test = self.scope.add(Inst::binary(Opcode::Eq, Type::I1, subject, constant));
        if let Some(own) = self.scope.trace.insts[guard].exit() {
            self.scope.trace.insts[guard] = Inst::guard(true, test, own);
        }
        // What is known differs between the exit's places: it is rewritten with what is always true.
        self.exit_uses[exit] = self.exit_uses[exit].max(1) + 1;
        self.stronger.stronger.push(Stronger { guard, test, spot, exit });
        self.scope.stats.guards_removed += all.len() as u32;
        true
    }

    /// Whether a guard holds if its subject is `imm`.
    fn is_implied(&self, weak: &Weak, subject: Value, imm: i64) -> bool {
        let guard = self.scope.trace.insts[weak.guard];
        let test = self.scope.trace.insts[guard.args[0]];
        let ty = self.scope.trace.ty(test.args[0]);
        let bits = |value: Value| {
            if let Some(imm) = self.scope.as_const(value) {
                return Some(imm as u128 & ty.mask());
            }
            let mask = match with_const(&self.scope, value, Opcode::And) {
                Some((masked, mask)) if masked == subject => u128::from(mask),
                _ if value == subject => ty.mask(),
                _ => return None,
            };
            Some(imm as u128 & mask & ty.mask())
        };
        let (Some(a), Some(b)) = (bits(test.args[0]), bits(test.args[1])) else { return false };
        let holds = eval_pure(test.op, Type::I1, ty, [a, b, 0], None);
        holds == Some(u128::from(guard.op == Opcode::Guard))
    }

    /// The tests that stand in front of guards that became stronger.
    pub(crate) fn stronger_tests(&self) -> impl Iterator<Item = (Spot, Vec<Value>)> {
        self.stronger.stronger.iter().map(|stronger| (stronger.spot, vec![stronger.test]))
    }

    /// Gives guards that became stronger their exits, and takes those out that are gone.
    pub(crate) fn finish_stronger(&mut self) {
        for Stronger { guard, exit, .. } in std::mem::take(&mut self.stronger.stronger) {
            let data = self.scope.trace.exits[exit].clone();
            let own = self.scope.trace.exits.push(data);
            self.scope.trace.insts[guard].set_exit(own);
        }
        let gone = std::mem::take(&mut self.stronger.gone);
        if !gone.is_empty() {
            let gone: BTreeSet<Value> = gone.into_iter().collect();
            for segment in self.scope.trace.segments.values_mut() {
                segment.insts.retain(|value| !gone.contains(value));
            }
        }
    }
}
