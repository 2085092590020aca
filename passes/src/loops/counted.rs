//! Guards that cannot fail before some iteration: H2 is left before that one instead.
//!
//! # Invariants
//! - What the guard compares grows by 1 in each iteration (that it does is checked behind H, if it was only recorded so), up from what it is where H2 begins, and the bound does not change:
//!   it holds in as many iterations as the difference says. H2 runs at most so often in a row, and at least once.
//! - A count that goes down by 1 to 0 is such a limit as well, if many iterations were left in the recording: the last one
//!   of the loop is then one of H. Loops end by signed comparisons, too, which stay, so that short loops end in H2.
//!
//! # Worked example
//! `H2(v1): guard ult v1, v2, exit0; …; v3 = add v1, 1; … H2(v3)`, which begins with v9: the guard holds `v2 - v9` times if
//! `v9` is below v2. H2 does without it, and its counter begins with the smaller one of this and the usual number.

use super::copy::{Copier, Copy};
use redmagic_ir::{Entity, Opcode, Type, Value};

/// Iterations for which it does not matter that the last one is slower.
const MANY: u64 = 32;
/// Sums that are looked through to find what a value was when it was recorded.
const MAX_SUMS: u32 = 4;

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
            let truth = inst.op == Opcode::Guard;
            let limit = self.limit_of(copy, params, inst.args[0], truth);
            let limit = limit.or_else(|| self.countdown(copy, params, inst.args[0], truth));
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
        let is_fixed = |value| self.is_fixed(copy, value);
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

    /// Whether H has the value, where H2 begins and in all of it.
    fn is_fixed(&self, copy: &Copy, value: Value) -> bool {
        let changes = copy.changing.get(value.index()) == Some(&true);
        !changes && !self.made.contains(&value) && !copy.preheader.contains(&value)
    }

    /// The limit that says the same as that `test` is `truth`, where that means that a count has not come down to 0.
    fn countdown(&mut self, copy: &Copy, params: &[(Value, Value, Value)], test: Value, truth: bool) -> Option<Limit> {
        let inst = self.scope.trace.insts[test];
        let [count, zero, _] = inst.args;
        let is_left = matches!((inst.op, truth), (Opcode::Eq, false) | (Opcode::Ne, true));
        if !is_left || self.scope.as_const(zero) != Some(0) || self.scope.trace.ty(count) != Type::I64 {
            return None;
        }
        let &(_, start, next) = params.iter().find(|param| param.0 == count)?;
        let next = self.scope.trace.insts[next];
        let falls = next.op == Opcode::Add && next.args[0] == count && self.scope.as_const(next.args[1]) == Some(-1);
        let many = self.recorded_value(start, MAX_SUMS).is_some_and(|left| left >= MANY);
        (falls && many && self.is_fixed(copy, start)).then_some(Limit {
            start: zero,
            addend: 0,
            bound: start,
            strict: true,
            step: None,
        })
    }

    /// What a value was when it was recorded, if a load says so.
    fn recorded_value(&self, value: Value, sums: u32) -> Option<u64> {
        let inst = &self.scope.trace.insts[value];
        match inst.op {
            Opcode::Load => self.scope.trace.recorded(value).map(|recorded| recorded.value),
            Opcode::Add if sums > 0 => {
                let addend = self.scope.as_const(inst.args[1])? as u64;
                self.recorded_value(inst.args[0], sums - 1).map(|value| value.wrapping_add(addend))
            }
            _ => None,
        }
    }
}
