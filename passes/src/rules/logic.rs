//! Identities of bitwise operations.
//!
//! Worked example: writing al keeps the rest of rax, `or (and rax, -256), (zext v1)`; reading al again,
//! `and (or …), 255`, drops the first half of the `or` (`and_or`), whose bits the mask excludes.

use super::{Out, Rule, bits_of, constant, mask, op_const, rule, wide, with_const};
use crate::scope::{Scope, opposite};
use redmagic_ir::{Inst, Opcode, Type, Value};

/// The operand of `inst` that is `other`'s complement, if one is.
fn is_complement(s: &Scope, value: Value, other: Value) -> bool {
    s.def_of(value, Opcode::Not).is_some_and(|not| not.args[0] == other)
}

/// If `value` is `op other, y`: whether it is, for either order.
fn contains(s: &Scope, value: Value, op: Opcode, other: Value) -> bool {
    s.def_of(value, op).is_some_and(|inst| inst.args[0] == other || inst.args[1] == other)
}

/// The operands of `or a, b` (or `add`, or `xor`, of disjoint bits) of which some bit of `wanted` is possible; `None`
/// if both have one.
fn relevant_half(s: &Scope, value: Value, wanted: u64) -> Option<Value> {
    let merge = s.def_of(value, Opcode::Or).or_else(|| s.def_of(value, Opcode::Xor))?;
    let [a, b, _] = merge.args;
    if s.possible(b) & wanted == 0 {
        return Some(a);
    }
    (s.possible(a) & wanted == 0).then_some(b)
}

pub(super) const RULES: &[Rule] = &[
    wide("and_self", "x & x = x", &[Opcode::And, Opcode::Or], |_, i| {
        (i.args[0] == i.args[1]).then_some(Out::Value(i.args[0]))
    }),
    wide("xor_self", "x ^ x = 0", &[Opcode::Xor], |s, i| (i.args[0] == i.args[1]).then(|| constant(s, i.ty, 0))),
    rule("and_zero", "x & c = 0 if x has no bit of c", &[Opcode::And], |s, i| {
        (s.possible(i.args[0]) & s.possible(i.args[1]) == 0).then(|| constant(s, i.ty, 0))
    }),
    rule("and_ones", "x & c = x if x has no bit outside c", &[Opcode::And], |s, i| {
        let imm = bits_of(s, i.args[1])?;
        (s.possible(i.args[0]) & !imm == 0).then_some(Out::Value(i.args[0]))
    })
    .second(&[Opcode::Const]),
    rule("and_const", "(x & c) & d = x & (c & d)", &[Opcode::And], |s, i| {
        let outer = bits_of(s, i.args[1])?;
        let (x, inner) = with_const(s, i.args[0], Opcode::And)?;
        Some(op_const(s, Opcode::And, i.ty, x, inner & outer))
    })
    .first(&[Opcode::And])
    .second(&[Opcode::Const]),
    rule("and_not", "x & !x = 0", &[Opcode::And], |s, i| {
        let [a, b, _] = i.args;
        (is_complement(s, a, b) || is_complement(s, b, a)).then(|| constant(s, i.ty, 0))
    })
    .either(&[Opcode::Not]),
    rule("and_absorb", "x & (x | y) = x", &[Opcode::And], |s, i| {
        let [a, b, _] = i.args;
        if contains(s, b, Opcode::Or, a) {
            return Some(Out::Value(a));
        }
        contains(s, a, Opcode::Or, b).then_some(Out::Value(b))
    })
    .either(&[Opcode::Or]),
    rule("and_or", "(x | y) & c = x & c if y has no bit of c", &[Opcode::And], |s, i| {
        let imm = bits_of(s, i.args[1])?;
        let half = relevant_half(s, i.args[0], imm)?;
        Some(op_const(s, Opcode::And, i.ty, half, imm))
    })
    .first(&[Opcode::Or, Opcode::Xor])
    .second(&[Opcode::Const]),
    rule("or_zero", "x | 0 = x, x ^ 0 = x", &[Opcode::Or, Opcode::Xor], |s, i| {
        (bits_of(s, i.args[1])? == 0).then_some(Out::Value(i.args[0]))
    })
    .second(&[Opcode::Const]),
    rule("or_ones", "x | -1 = -1", &[Opcode::Or], |s, i| {
        (bits_of(s, i.args[1])? == mask(i.ty)).then_some(Out::Value(i.args[1]))
    })
    .second(&[Opcode::Const]),
    rule("or_const", "(x | c) | d = x | (c | d)", &[Opcode::Or], |s, i| {
        let outer = bits_of(s, i.args[1])?;
        let (x, inner) = with_const(s, i.args[0], Opcode::Or)?;
        Some(op_const(s, Opcode::Or, i.ty, x, inner | outer))
    })
    .first(&[Opcode::Or])
    .second(&[Opcode::Const]),
    rule("or_absorb", "x | (x & y) = x", &[Opcode::Or], |s, i| {
        let [a, b, _] = i.args;
        if contains(s, b, Opcode::And, a) {
            return Some(Out::Value(a));
        }
        contains(s, a, Opcode::And, b).then_some(Out::Value(b))
    })
    .either(&[Opcode::And]),
    rule("or_not", "x | !x = -1, x ^ !x = -1", &[Opcode::Or, Opcode::Xor], |s, i| {
        let [a, b, _] = i.args;
        (is_complement(s, a, b) || is_complement(s, b, a)).then(|| constant(s, i.ty, u64::MAX))
    })
    .either(&[Opcode::Not]),
    rule("or_halves", "(x & c) | (x & !c) = x", &[Opcode::Or], |s, i| {
        let (x, c) = with_const(s, i.args[0], Opcode::And)?;
        let (y, d) = with_const(s, i.args[1], Opcode::And)?;
        (x == y && c | d == mask(i.ty)).then_some(Out::Value(x))
    })
    .first(&[Opcode::And]),
    rule("xor_const", "(x ^ c) ^ d = x ^ (c ^ d)", &[Opcode::Xor], |s, i| {
        let outer = bits_of(s, i.args[1])?;
        let (x, inner) = with_const(s, i.args[0], Opcode::Xor)?;
        Some(op_const(s, Opcode::Xor, i.ty, x, inner ^ outer))
    })
    .first(&[Opcode::Xor])
    .second(&[Opcode::Const]),
    rule("xor_cancel", "(x ^ y) ^ y = x", &[Opcode::Xor], |s, i| {
        let cancels = |of: Value, y: Value| {
            let xor = s.def_of(of, Opcode::Xor)?;
            match xor.args {
                [x, z, _] if z == y => Some(x),
                [z, x, _] if z == y => Some(x),
                _ => None,
            }
        };
        let [a, b, _] = i.args;
        cancels(a, b).or_else(|| cancels(b, a)).map(Out::Value)
    })
    .either(&[Opcode::Xor]),
    rule("xor_ones", "x ^ -1 = !x", &[Opcode::Xor], |s, i| {
        (i.ty != Type::I1 && bits_of(s, i.args[1])? == mask(i.ty))
            .then(|| Out::Inst(Inst::unary(Opcode::Not, i.ty, i.args[0])))
    })
    .second(&[Opcode::Const]),
    rule("xor_compare", "(x < y) ^ 1 = (y <= x), and so on", &[Opcode::Xor], |s, i| {
        if i.ty != Type::I1 || bits_of(s, i.args[1])? != 1 {
            return None;
        }
        let test = s.def(i.args[0]);
        let [a, b, _] = test.args;
        if let Some(cond) = test.condition() {
            return Some(Out::Inst(Inst::cond(cond.negate(), a)));
        }
        let (op, a, b) = opposite(test.op, a, b)?;
        Some(Out::Inst(Inst::binary(op, Type::I1, a, b)))
    })
    .second(&[Opcode::Const]),
    rule("not_not", "!!x = x", &[Opcode::Not], |s, i| {
        s.def_of(i.args[0], Opcode::Not).map(|not| Out::Value(not.args[0]))
    })
    .first(&[Opcode::Not]),
    rule("not_bit", "!c = c ^ 1 for a truth value", &[Opcode::Not], |s, i| {
        (i.ty == Type::I1).then(|| op_const(s, Opcode::Xor, i.ty, i.args[0], 1))
    }),
];
