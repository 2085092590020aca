//! Identities of comparisons.
//!
//! Worked example: `setcc al; test al, al; jne` leaves `ne (zext c), 0` after the rules for flags; `eq_bit` makes that
//! c itself.

use super::{Out, Rule, bits_of, mask, op_const, rule, truth, with_const};
use crate::known;
use crate::scope::Scope;
use redmagic_ir::{Inst, Opcode, Type, Value};

const EQUALITY: &[Opcode] = &[Opcode::Eq, Opcode::Ne];

/// The instruction that has the truth value `value` if `same`, else the opposite.
fn bit(s: &mut Scope, value: Value, same: bool) -> Out {
    if same {
        Out::Value(value)
    } else {
        let one = s.constant(Type::I1, 1);
        Out::Inst(Inst::binary(Opcode::Xor, Type::I1, value, one))
    }
}

/// An equality test of the same kind as `like`.
fn equality(like: &Inst, a: Value, b: Value) -> Out {
    Out::Inst(Inst::binary(like.op, Type::I1, a, b))
}

/// The operands of two extensions of one kind from one type.
fn both_extended(s: &Scope, i: &Inst, op: Opcode) -> Option<(Value, Value)> {
    let a = s.def_of(i.args[0], op)?.args[0];
    let b = s.def_of(i.args[1], op)?.args[0];
    (s.trace.ty(a) == s.trace.ty(b) && s.trace.ty(a).is_word()).then_some((a, b))
}

/// The type of the operands.
fn operand_type(s: &Scope, i: &Inst) -> Type {
    s.trace.ty(i.args[0])
}

/// The largest value that `value` can have, without sign.
fn largest(s: &Scope, value: Value) -> u64 {
    match bits_of(s, value) {
        Some(imm) => imm,
        None => match s.possible(value) {
            0 => 0,
            bits => u64::MAX >> bits.leading_zeros(),
        },
    }
}

pub(super) const RULES: &[Rule] = &[
    rule("compare_self", "x == x, x <= x are 1; x != x, x < x are 0", ORDER_AND_EQUALITY, |s, i| {
        let holds = matches!(i.op, Opcode::Eq | Opcode::Ule | Opcode::Sle);
        (i.args[0] == i.args[1]).then(|| truth(s, holds))
    }),
    rule("eq_known", "x == c is 0 if x cannot have a bit of c", EQUALITY, |s, i| {
        let imm = bits_of(s, i.args[1])?;
        (imm & !s.possible(i.args[0]) != 0).then(|| truth(s, i.op == Opcode::Ne))
    })
    .second(&[Opcode::Const]),
    rule("eq_bit", "zext c == 0 is !c, zext c == 1 is c", EQUALITY, |s, i| {
        let imm = bits_of(s, i.args[1])?;
        let inner = s.def_of(i.args[0], Opcode::Zext)?;
        let is_bit = s.trace.ty(inner.args[0]) == Type::I1 && imm <= 1;
        is_bit.then(|| bit(s, inner.args[0], (imm == 1) == (i.op == Opcode::Eq)))
    })
    .first(&[Opcode::Zext])
    .second(&[Opcode::Const]),
    rule("eq_sext_bit", "sext c == 0 is !c, sext c == -1 is c, other constants never", EQUALITY, |s, i| {
        let imm = bits_of(s, i.args[1])?;
        let inner = s.def_of(i.args[0], Opcode::Sext).filter(|inner| s.trace.ty(inner.args[0]) == Type::I1)?;
        let ones = mask(operand_type(s, i));
        Some(match imm {
            0 => bit(s, inner.args[0], i.op == Opcode::Ne),
            imm if imm == ones => bit(s, inner.args[0], i.op == Opcode::Eq),
            _ => truth(s, i.op == Opcode::Ne),
        })
    })
    .first(&[Opcode::Sext])
    .second(&[Opcode::Const]),
    rule("eq_neg", "-x == 0 is x == 0", EQUALITY, |s, i| {
        let inner = s.def_of(i.args[0], Opcode::Neg)?;
        (bits_of(s, i.args[1])? == 0).then(|| op_const(s, i.op, Type::I1, inner.args[0], 0))
    })
    .first(&[Opcode::Neg])
    .second(&[Opcode::Const]),
    rule("eq_zext", "zext x == c is x == c", EQUALITY, |s, i| {
        let imm = bits_of(s, i.args[1])?;
        let x = s.def_of(i.args[0], Opcode::Zext)?.args[0];
        let narrow = s.trace.ty(x);
        (narrow.is_word() && imm <= mask(narrow)).then(|| op_const(s, i.op, Type::I1, x, imm))
    })
    .first(&[Opcode::Zext])
    .second(&[Opcode::Const]),
    rule("eq_ext_both", "zext x == zext y is x == y; sext too", EQUALITY, |s, i| {
        let (a, b) = both_extended(s, i, Opcode::Zext).or_else(|| both_extended(s, i, Opcode::Sext))?;
        Some(equality(i, a, b))
    })
    .first(&[Opcode::Zext, Opcode::Sext]),
    rule("eq_difference", "x - y == 0, (x ^ y) == 0 are x == y", EQUALITY, |s, i| {
        if bits_of(s, i.args[1])? != 0 {
            return None;
        }
        let inner = s.def_of(i.args[0], Opcode::Sub).or_else(|| s.def_of(i.args[0], Opcode::Xor))?;
        Some(equality(i, inner.args[0], inner.args[1]))
    })
    .first(&[Opcode::Sub, Opcode::Xor])
    .second(&[Opcode::Const]),
    rule("eq_add_const", "x + c == d is x == d - c", EQUALITY, |s, i| {
        let imm = bits_of(s, i.args[1])?;
        let (x, addend) = with_const(s, i.args[0], Opcode::Add)?;
        Some(op_const(s, i.op, Type::I1, x, imm.wrapping_sub(addend)))
    })
    .first(&[Opcode::Add])
    .second(&[Opcode::Const]),
    rule("eq_xor_const", "(x ^ c) == d is x == (c ^ d)", EQUALITY, |s, i| {
        let imm = bits_of(s, i.args[1])?;
        let (x, c) = with_const(s, i.args[0], Opcode::Xor)?;
        Some(op_const(s, i.op, Type::I1, x, imm ^ c))
    })
    .first(&[Opcode::Xor])
    .second(&[Opcode::Const]),
    rule("eq_same_addend", "x + z == y + z is x == y", EQUALITY, |s, i| {
        let a = s.def_of(i.args[0], Opcode::Add)?;
        let b = s.def_of(i.args[1], Opcode::Add)?;
        (a.args[1] == b.args[1]).then(|| equality(i, a.args[0], b.args[0]))
    })
    .first(&[Opcode::Add]),
    rule("eq_select", "select(c, k, l) == k is c, == l is !c, else 0", EQUALITY, |s, i| {
        let imm = bits_of(s, i.args[1])?;
        let select = s.def_of(i.args[0], Opcode::Select)?;
        let (yes, no) = (bits_of(s, select.args[1])?, bits_of(s, select.args[2])?);
        let is_eq = i.op == Opcode::Eq;
        Some(match (yes == imm, no == imm) {
            (true, true) => truth(s, is_eq),
            (false, false) => truth(s, !is_eq),
            (first, _) => bit(s, select.args[0], first == is_eq),
        })
    })
    .first(&[Opcode::Select])
    .second(&[Opcode::Const]),
    rule("ult_known", "x < y is 1 if x is too small, 0 if y is too small", &[Opcode::Ult, Opcode::Ule], |s, i| {
        let [a, b, _] = i.args;
        let strict = i.op == Opcode::Ult;
        // A constant is also its own least value; nothing else is known from below.
        let (a_least, b_least) = (bits_of(s, a).unwrap_or(0), bits_of(s, b).unwrap_or(0));
        let (a_most, b_most) = (largest(s, a), largest(s, b));
        let below = |x: u64, y: u64, strict: bool| if strict { x < y } else { x <= y };
        if below(a_most, b_least, strict) {
            return Some(truth(s, true));
        }
        below(b_most, a_least, !strict).then(|| truth(s, false))
    }),
    rule("ult_edge", "x < 1, x <= 0 are x == 0; 0 < x, 1 <= x are x != 0", &[Opcode::Ult, Opcode::Ule], |s, i| {
        let [a, b, _] = i.args;
        let strict = u64::from(i.op == Opcode::Ult);
        if bits_of(s, b) == Some(strict) {
            return Some(op_const(s, Opcode::Eq, Type::I1, a, 0));
        }
        (bits_of(s, a) == Some(1 - strict)).then(|| op_const(s, Opcode::Ne, Type::I1, b, 0))
    }),
    rule("ult_top", "x < -1 is x != -1, -1 <= x is x == -1, unsigned", &[Opcode::Ult, Opcode::Ule], |s, i| {
        let [a, b, _] = i.args;
        let top = mask(operand_type(s, i));
        if i.op == Opcode::Ult && bits_of(s, b) == Some(top) {
            return Some(op_const(s, Opcode::Ne, Type::I1, a, top));
        }
        (i.op == Opcode::Ule && bits_of(s, a) == Some(top)).then(|| op_const(s, Opcode::Eq, Type::I1, b, top))
    }),
    rule("ult_zext_both", "zext x < zext y is x < y; signed order of them too", ORDER, |s, i| {
        let (a, b) = both_extended(s, i, Opcode::Zext)?;
        let op = if matches!(i.op, Opcode::Ult | Opcode::Slt) { Opcode::Ult } else { Opcode::Ule };
        Some(Out::Inst(Inst::binary(op, Type::I1, a, b)))
    })
    .first(&[Opcode::Zext]),
    rule("slt_sext_both", "sext x < sext y is x < y, signed", &[Opcode::Slt, Opcode::Sle], |s, i| {
        let (a, b) = both_extended(s, i, Opcode::Sext)?;
        Some(Out::Inst(Inst::binary(i.op, Type::I1, a, b)))
    })
    .first(&[Opcode::Sext]),
    rule("ult_zext", "zext x < c is x < c if c fits, and c < zext x", &[Opcode::Ult, Opcode::Ule], |s, i| {
        let [a, b, _] = i.args;
        let narrowed = |s: &Scope, ext: Value, imm: u64| {
            let x = s.def_of(ext, Opcode::Zext)?.args[0];
            let ty = s.trace.ty(x);
            (ty.is_word() && imm <= mask(ty)).then_some((x, ty))
        };
        let (a, b) = if let Some(imm) = bits_of(s, b) {
            let (x, ty) = narrowed(s, a, imm)?;
            (x, s.constant(ty, imm as i64))
        } else {
            let imm = bits_of(s, a)?;
            let (x, ty) = narrowed(s, b, imm)?;
            (s.constant(ty, imm as i64), x)
        };
        Some(Out::Inst(Inst::binary(i.op, Type::I1, a, b)))
    })
    .either(&[Opcode::Zext]),
    rule("slt_positive", "x < y signed = unsigned if neither can be negative", &[Opcode::Slt, Opcode::Sle], |s, i| {
        let [a, b, _] = i.args;
        let sign = known::sign(operand_type(s, i));
        let op = if i.op == Opcode::Slt { Opcode::Ult } else { Opcode::Ule };
        ((s.possible(a) | s.possible(b)) & sign == 0).then(|| Out::Inst(Inst::binary(op, Type::I1, a, b)))
    }),
    rule("slt_xor", "(x ^ c) < 0 is x < 0 for c >= 0, and 0 <= x for c < 0, signed", &[Opcode::Slt], |s, i| {
        let (x, imm) = with_const(s, i.args[0], Opcode::Xor).filter(|_| bits_of(s, i.args[1]) == Some(0))?;
        let zero = i.args[1];
        Some(Out::Inst(if imm & known::sign(operand_type(s, i)) == 0 {
            Inst::binary(Opcode::Slt, Type::I1, x, zero)
        } else {
            Inst::binary(Opcode::Sle, Type::I1, zero, x)
        }))
    })
    .first(&[Opcode::Xor])
    .second(&[Opcode::Const]),
    rule("slt_least", "x < least is 0, least <= x is 1, signed", &[Opcode::Slt, Opcode::Sle], |s, i| {
        let [a, b, _] = i.args;
        let least = known::sign(operand_type(s, i));
        let decided = match i.op {
            Opcode::Slt => bits_of(s, b) == Some(least),
            _ => bits_of(s, a) == Some(least),
        };
        decided.then(|| truth(s, i.op == Opcode::Sle))
    }),
];

const ORDER: &[Opcode] = &[Opcode::Ult, Opcode::Ule, Opcode::Slt, Opcode::Sle];
const ORDER_AND_EQUALITY: &[Opcode] = &[Opcode::Eq, Opcode::Ne, Opcode::Ult, Opcode::Ule, Opcode::Slt, Opcode::Sle];
