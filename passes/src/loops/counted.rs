//! Guards that cannot fail before some iteration: H2 is left before that one instead.
//!
//! # Invariants
//! - What the guard compares grows by 1 in each iteration (that it does is checked behind H, if it was only recorded so), up from what it is where H2 begins, and the bound does not change:
//!   it holds in as many iterations as the difference says. H2 runs at most so often in a row, and at least once.
//! - Only unsigned comparisons are left out, as checks of indices are: loops often end by a signed one, and their last
//!   iteration is to be one of H2.
//!
//! # Worked example
//! `H2(v1): guard ult v1, v2, exit0; …; v3 = add v1, 1; … H2(v3)`, which begins with v9: the guard holds `v2 - v9` times if
//! `v9` is below v2. H2 does without it, and its counter begins with the smaller one of this and the usual number.

use super::copy::{Copier, Copy};
use redmagic_ir::{Entity, Opcode, Type, Value};

/// A guard that H2 does without: `start + addend`, one more in each iteration, is below `bound`, or at it unless `strict`.
pub(crate) struct Limit {
    /// In H.
    pub start: Value,
    /// What is added to it.
    pub addend: i64,
    /// Does not change.
    pub bound: Value,
    /// Whether it is below.
    pub strict: bool,
    /// What is added in each iteration and was recorded to be 1, if that is no constant.
    pub step: Option<Value>,
}

impl Copier<'_, '_> {
    /// Takes the guards out of H2 that a limit to its iterations replaces. Each of `params` is with its first value and its next one.
    pub(super) fn limit(&mut self, copy: &mut Copy, params: &[(Value, Value, Value)]) -> Vec<Limit> {
        let mut limits = Vec::new();
        let mut replaced = Vec::new();
        for &(guard, _) in &copy.exits {
            let inst = self.scope.trace.insts[guard];
            let limit = self.limit_of(copy, params, inst.args[0], inst.op == Opcode::Guard);
            if let Some(limit) = limit
                && self.scope.stats.may("guard by count")
            {
                limits.push(limit);
                replaced.push(guard);
            }
        }
        if !replaced.is_empty() {
            let mut gone = 0;
            let mut before = Vec::with_capacity(copy.insts.len());
            copy.insts.iter().for_each(|value| {
                before.push(gone);
                gone += usize::from(replaced.contains(value));
            });
            before.push(gone);
            copy.breaks.iter_mut().for_each(|check| check.at -= before[check.at]);
            copy.insts.retain(|value| !replaced.contains(value));
            copy.exits.retain(|(guard, _)| !replaced.contains(guard));
        }
        limits
    }

    /// The limit that says the same as that `test` is `truth`, if there is one.
    fn limit_of(&self, copy: &Copy, params: &[(Value, Value, Value)], test: Value, truth: bool) -> Option<Limit> {
        let inst = self.scope.trace.insts[test];
        let [a, b, _] = inst.args;
        let (index, bound, strict) = match (inst.op, truth) {
            (Opcode::Ult, true) => (a, b, true),
            (Opcode::Ule, true) => (a, b, false),
            (Opcode::Ult, false) => (b, a, false),
            (Opcode::Ule, false) => (b, a, true),
            _ => return None,
        };
        let is_fixed = |value: Value| {
            let changes = copy.changing.get(value.index()) == Some(&true);
            !changes && !self.made.contains(&value) && !copy.preheader.contains(&value)
        };
        if !is_fixed(bound) || self.scope.trace.ty(bound) != Type::I64 {
            return None;
        }
        let addend_to = |value: Value, base: Value| {
            let inst = &self.scope.trace.insts[value];
            let sum = inst.op == Opcode::Add && inst.args[0] == base;
            if value == base { Some(0) } else { sum.then(|| self.scope.as_const(inst.args[1])).flatten() }
        };
        params.iter().find_map(|&(param, start, next)| {
            if !is_fixed(start) {
                return None;
            }
            let addend = addend_to(index, param)?;
            let next = self.scope.trace.insts[next];
            let step = match next.args {
                _ if next.op != Opcode::Add => return None,
                [one, other, _] if one == param => other,
                [one, other, _] if other == param => one,
                _ => return None,
            };
            let recorded = self.scope.trace.recorded(step).map(|recorded| recorded.value);
            let step = match self.scope.as_const(step) {
                Some(1) => None,
                None if recorded == Some(1) && is_fixed(step) => Some(step),
                _ => return None,
            };
            Some(Limit { start, addend, bound, strict, step })
        })
    }
}
