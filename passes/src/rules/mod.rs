//! The identities that the walk applies: one table of named rules.
//!
//! # Invariants
//! - A rule looks at one instruction, at the definitions of its operands and at what is known of them. It answers with
//!   an equal value or a simpler instruction, and may place helper instructions before it.
//! - Every rule makes progress (fewer operations, a cheaper one, or a form that other rules understand), so that no two
//!   rules undo each other.
//! - Rules see operands of commutative operations in order: a constant is the second operand.
//! - The tests evaluate an example of every rule for all 8-bit inputs, and for boundary inputs at other widths.
//!
//! Worked example: `add v1, v2` with `v1 = add v0, 8` and `v2 = const -8` becomes `add v0, 0` by `add_const`, and then
//! v0 by `add_zero`.

mod arith;
mod compare;
mod division;
mod flags;
mod logic;
mod shift;
mod width;

use crate::scope::Scope;
use redmagic_ir::{Inst, Opcode, Type, Value};
use std::sync::OnceLock;

/// What a rule makes of an instruction.
pub(crate) enum Out {
    /// It is equal to this value.
    Value(Value),
    /// It is equal to this instruction.
    Inst(Inst),
}

type Apply = fn(&mut Scope, &Inst) -> Option<Out>;

/// A named identity.
#[derive(Clone, Copy)]
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// What it says, in one line.
    pub identity: &'static str,
    /// The opcodes of the instructions that it looks at.
    ops: &'static [Opcode],
    /// Whether it also holds for results wider than 64 bits.
    wide: bool,
    gate: Gate,
    apply: Apply,
}

/// What may define operands for a rule to fit: sets of opcodes. They only save asking the rule, which looks for itself: so
/// two opcodes may share a bit.
#[derive(Clone, Copy)]
struct Gate {
    /// The first operand.
    first: u64,
    /// The second operand.
    second: u64,
    /// One of both.
    either: u64,
}

/// The gate that everything passes.
const ANY: u64 = u64::MAX;

/// A rule for results of at most 64 bits.
const fn rule(name: &'static str, identity: &'static str, ops: &'static [Opcode], apply: Apply) -> Rule {
    Rule { name, identity, ops, wide: false, gate: Gate { first: ANY, second: ANY, either: ANY }, apply }
}

/// A rule for results of any width.
const fn wide(name: &'static str, identity: &'static str, ops: &'static [Opcode], apply: Apply) -> Rule {
    Rule { wide: true, ..rule(name, identity, ops, apply) }
}

/// The bit of an opcode in a set.
const fn bit(op: Opcode) -> u64 {
    1 << (op as u8 & 63)
}

/// A set of opcodes.
const fn set(ops: &[Opcode]) -> u64 {
    let mut set = 0;
    let mut at = 0;
    while at < ops.len() {
        set |= bit(ops[at]);
        at += 1;
    }
    set
}

impl Rule {
    /// The rule looks at first operands that one of `ops` defines.
    const fn first(self, ops: &[Opcode]) -> Rule {
        Rule { gate: Gate { first: set(ops), ..self.gate }, ..self }
    }

    /// The rule looks at second operands that one of `ops` defines.
    const fn second(self, ops: &[Opcode]) -> Rule {
        Rule { gate: Gate { second: set(ops), ..self.gate }, ..self }
    }

    /// The rule looks at instructions with an operand that one of `ops` defines.
    const fn either(self, ops: &[Opcode]) -> Rule {
        Rule { gate: Gate { either: set(ops), ..self.gate }, ..self }
    }
}

/// Every rule, in the order in which they are tried.
pub fn all_rules() -> &'static [Rule] {
    static TABLE: OnceLock<Vec<Rule>> = OnceLock::new();
    TABLE.get_or_init(|| {
        [arith::RULES, division::RULES, logic::RULES, shift::RULES, width::RULES, compare::RULES, flags::RULES].concat()
    })
}

/// The rules of one opcode, at most 64. Sets of them have a bit for each place in the list.
struct Listed {
    /// Their places in the table.
    rules: Vec<u16>,
    /// Those that hold for results of any width.
    wide: u64,
    /// For the bit of an opcode those whose gates it passes: as first operand, as second operand, as either. The last entry
    /// is for an operand that is missing, which is left to the rule.
    passing: Vec<[u64; 3]>,
}

/// The place of an operand that is missing.
const MISSING: usize = 64;

impl Listed {
    fn new(rules: Vec<u16>) -> Listed {
        let mut wide = 0;
        let mut ungated = [0; 3];
        let mut gated = Vec::new();
        for (at, rule) in rules.iter().map(|rule| &all_rules()[usize::from(*rule)]).enumerate() {
            wide |= u64::from(rule.wide) << at;
            for (operand, gate) in [rule.gate.first, rule.gate.second, rule.gate.either].into_iter().enumerate() {
                if gate == ANY {
                    ungated[operand] |= 1 << at;
                } else {
                    gated.push((operand, 1 << at, gate));
                }
            }
        }
        let mut passing = vec![ungated; if rules.is_empty() { 0 } else { MISSING }];
        passing.push([u64::MAX; 3]);
        for (operand, rule, mut gate) in gated {
            while gate != 0 {
                passing[gate.trailing_zeros() as usize][operand] |= rule;
                gate &= gate - 1;
            }
        }
        Listed { rules, wide, passing }
    }
}

/// For each opcode its rules.
fn by_opcode() -> &'static [Listed] {
    static INDEX: OnceLock<Vec<Listed>> = OnceLock::new();
    INDEX.get_or_init(|| {
        let mut index = vec![Vec::new(); Opcode::ALL.len()];
        for (rule, at) in all_rules().iter().zip(0..) {
            rule.ops.iter().for_each(|op| index[*op as usize].push(at));
        }
        index.into_iter().map(Listed::new).collect()
    })
}

/// Applies the first rule that fits `inst`.
pub(crate) fn apply(scope: &mut Scope, inst: &Inst) -> Option<Out> {
    let list = &by_opcode()[inst.op as usize];
    if list.rules.is_empty() {
        return None;
    }
    let passing = |operand: Value| {
        list.passing[scope.trace.insts.get(operand).map_or(MISSING, |inst| inst.op as usize % MISSING)]
    };
    let (first, second) = (passing(inst.args[0]), passing(inst.args[1]));
    let mut fitting = first[0] & second[1] & (first[2] | second[2]);
    if inst.ty.bits() > 64 {
        fitting &= list.wide;
    }
    while fitting != 0
        && let Some(at) = list.rules.get(fitting.trailing_zeros() as usize)
    {
        fitting &= fitting - 1;
        let rule = &all_rules()[usize::from(*at)];
        if let Some(out) = (rule.apply)(scope, inst)
            && scope.stats.may(rule.name)
        {
            scope.stats.count_rule(usize::from(*at));
            return Some(out);
        }
    }
    None
}

/// The bits of a type of at most 64 bits.
fn mask(ty: Type) -> u64 {
    ty.mask() as u64
}

/// The constant that `value` is, without sign.
fn bits_of(scope: &Scope, value: Value) -> Option<u64> {
    scope.as_const(value).map(|imm| imm as u64 & mask(scope.trace.ty(value)))
}

/// `value` and the constant of `op value, constant`.
pub(crate) fn with_const(scope: &Scope, value: Value, op: Opcode) -> Option<(Value, u64)> {
    let inst = scope.def_of(value, op)?;
    Some((inst.args[0], bits_of(scope, inst.args[1])?))
}

/// The constant `imm` of type `ty`.
fn constant(scope: &mut Scope, ty: Type, imm: u64) -> Out {
    Out::Value(scope.constant(ty, imm as i64))
}

/// The truth value `truth`.
fn truth(scope: &mut Scope, truth: bool) -> Out {
    constant(scope, Type::I1, u64::from(truth))
}

/// `op a, imm` of type `ty` (the type of `a` too).
fn op_const(scope: &mut Scope, op: Opcode, result: Type, a: Value, imm: u64) -> Out {
    let imm = scope.constant(scope.trace.ty(a), imm as i64);
    Out::Inst(Inst::binary(op, result, a, imm))
}

/// `value`, extended with zeros or cut to the type `ty`.
fn resize(value: Value, from: Type, ty: Type) -> Out {
    if from == ty {
        Out::Value(value)
    } else if from.bits() < ty.bits() {
        Out::Inst(Inst::unary(Opcode::Zext, ty, value))
    } else {
        Out::Inst(Inst::unary(Opcode::Trunc, ty, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_have_a_bit_for_every_rule() {
        assert!(by_opcode().iter().all(|list| list.rules.len() <= 64));
    }
}
