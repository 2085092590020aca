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
    /// What may define the first operand, the second one, one of both, for the rule to fit: sets of opcodes.
    first: u128,
    second: u128,
    either: u128,
    apply: Apply,
}

const _: () = assert!(Opcode::ALL.len() <= 128);

/// A rule for results of at most 64 bits.
const fn rule(name: &'static str, identity: &'static str, ops: &'static [Opcode], apply: Apply) -> Rule {
    const ANY: u128 = u128::MAX;
    Rule { name, identity, ops, wide: false, first: ANY, second: ANY, either: ANY, apply }
}

/// A rule for results of any width.
const fn wide(name: &'static str, identity: &'static str, ops: &'static [Opcode], apply: Apply) -> Rule {
    Rule { wide: true, ..rule(name, identity, ops, apply) }
}

/// A set of opcodes.
const fn set(ops: &[Opcode]) -> u128 {
    let mut set = 0;
    let mut at = 0;
    while at < ops.len() {
        set |= 1 << ops[at] as u8;
        at += 1;
    }
    set
}

impl Rule {
    /// The rule looks at first operands that one of `ops` defines.
    const fn first(self, ops: &[Opcode]) -> Rule {
        Rule { first: set(ops), ..self }
    }

    /// The rule looks at second operands that one of `ops` defines.
    const fn second(self, ops: &[Opcode]) -> Rule {
        Rule { second: set(ops), ..self }
    }

    /// The rule looks at instructions with an operand that one of `ops` defines.
    const fn either(self, ops: &[Opcode]) -> Rule {
        Rule { either: set(ops), ..self }
    }
}

/// Every rule, in the order in which they are tried.
pub fn all_rules() -> &'static [Rule] {
    static TABLE: OnceLock<Vec<Rule>> = OnceLock::new();
    TABLE
        .get_or_init(|| [arith::RULES, logic::RULES, shift::RULES, width::RULES, compare::RULES, flags::RULES].concat())
}

/// For each opcode its rules, with their places in the table.
fn by_opcode() -> &'static [Vec<(u16, Rule)>] {
    static INDEX: OnceLock<Vec<Vec<(u16, Rule)>>> = OnceLock::new();
    INDEX.get_or_init(|| {
        let mut index = vec![Vec::new(); Opcode::ALL.len()];
        for (at, rule) in all_rules().iter().enumerate() {
            for op in rule.ops {
                index[*op as usize].push((at as u16, *rule));
            }
        }
        index
    })
}

/// Applies the first rule that fits `inst`.
pub(crate) fn apply(scope: &mut Scope, inst: &Inst) -> Option<Out> {
    let rules = &by_opcode()[inst.op as usize];
    if rules.is_empty() {
        return None;
    }
    let defined_by = |operand: Value| scope.trace.insts.get(operand).map_or(0, |inst| 1u128 << inst.op as u8);
    let (first, second) = (defined_by(inst.args[0]), defined_by(inst.args[1]));
    let narrow = inst.ty.bits() <= 64;
    for (at, rule) in rules {
        // An instruction without a second operand has no rule that asks for one.
        let fits = rule.first & first != 0
            && (rule.second == u128::MAX || rule.second & second != 0)
            && rule.either & (first | second) != 0;
        if fits
            && (rule.wide || narrow)
            && let Some(out) = (rule.apply)(scope, inst)
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
