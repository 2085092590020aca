//! Identities of shifts and rotations. Counts are taken modulo the width.
//!
//! Worked example: decoding `(x >> 7) & 0xff` after `x` was shifted before: `(x >> 16) >> 8` is `x >> 24`
//! (`lshr_lshr`).

use super::{Out, Rule, bits_of, constant, mask, op_const, rule};
use crate::known;
use crate::scope::Scope;
use redmagic_ir::{Inst, Opcode, Type, Value};

const SHIFTS: &[Opcode] = &[Opcode::Shl, Opcode::Lshr, Opcode::Ashr, Opcode::Rotl, Opcode::Rotr];

/// The effective count of shift `inst`.
fn count(s: &Scope, inst: &Inst) -> Option<u32> {
    Some((bits_of(s, inst.args[1])? & u64::from(inst.ty.bits() - 1)) as u32)
}

/// The operand and count of `value` if it is a shift `op` by a constant.
fn shifted(s: &Scope, value: Value, op: Opcode) -> Option<(Value, u32)> {
    let inst = s.def_of(value, op)?;
    Some((inst.args[0], count(s, &inst)?))
}

/// `op x, count`.
fn shift(s: &mut Scope, op: Opcode, ty: Type, x: Value, count: u32) -> Out {
    let count = s.constant(Type::I8, i64::from(count));
    Out::Inst(Inst::binary(op, ty, x, count))
}

pub(super) const RULES: &[Rule] = &[
    rule("shift_zero", "x << 0 = x, and so on", SHIFTS, |s, i| (count(s, i)? == 0).then_some(Out::Value(i.args[0])))
        .second(&[Opcode::Const]),
    rule("zero_shift", "0 << n = 0, and so on", SHIFTS, |s, i| {
        (bits_of(s, i.args[0])? == 0).then_some(Out::Value(i.args[0]))
    })
    .first(&[Opcode::Const]),
    rule("shift_count_const", "x << c = x << (c mod width), the count an i8", SHIFTS, |s, i| {
        let effective = count(s, i)?;
        let count = s.constant(Type::I8, i64::from(effective));
        (i.args[1] != count).then(|| Out::Inst(Inst::binary(i.op, i.ty, i.args[0], count)))
    })
    .second(&[Opcode::Const]),
    rule("shift_count_mask", "x << (n & c) = x << n if c keeps the bits that count", SHIFTS, |s, i| {
        let (n, kept) = super::with_const(s, i.args[1], Opcode::And)?;
        let needed = u64::from(i.ty.bits() - 1);
        (kept & needed == needed).then(|| Out::Inst(Inst::binary(i.op, i.ty, i.args[0], n)))
    })
    .second(&[Opcode::And]),
    rule("shift_count_width", "x << zext n = x << n, x << trunc n = x << n", SHIFTS, |s, i| {
        let inner = s.def(i.args[1]);
        let resizes = matches!(inner.op, Opcode::Zext | Opcode::Sext | Opcode::Trunc);
        (resizes && s.trace.ty(inner.args[0]).is_word() && s.trace.ty(i.args[1]).is_word())
            .then(|| Out::Inst(Inst::binary(i.op, i.ty, i.args[0], inner.args[0])))
    })
    .second(&[Opcode::Zext, Opcode::Sext, Opcode::Trunc]),
    rule("shl_shl", "(x << a) << b = x << (a + b), 0 beyond the width", &[Opcode::Shl], |s, i| {
        let outer = count(s, i)?;
        let (x, inner) = shifted(s, i.args[0], Opcode::Shl)?;
        let sum = outer + inner;
        Some(if sum < i.ty.bits() { shift(s, Opcode::Shl, i.ty, x, sum) } else { constant(s, i.ty, 0) })
    })
    .first(&[Opcode::Shl])
    .second(&[Opcode::Const]),
    rule("lshr_lshr", "(x >> a) >> b = x >> (a + b), 0 beyond the width", &[Opcode::Lshr], |s, i| {
        let outer = count(s, i)?;
        let (x, inner) = shifted(s, i.args[0], Opcode::Lshr)?;
        let sum = outer + inner;
        Some(if sum < i.ty.bits() { shift(s, Opcode::Lshr, i.ty, x, sum) } else { constant(s, i.ty, 0) })
    })
    .first(&[Opcode::Lshr])
    .second(&[Opcode::Const]),
    rule("ashr_ashr", "(x >> a) >> b = x >> min(a + b, width - 1), signed", &[Opcode::Ashr], |s, i| {
        let outer = count(s, i)?;
        let (x, inner) = shifted(s, i.args[0], Opcode::Ashr)?;
        Some(shift(s, Opcode::Ashr, i.ty, x, (outer + inner).min(i.ty.bits() - 1)))
    })
    .first(&[Opcode::Ashr])
    .second(&[Opcode::Const]),
    rule("rot_rot", "rotl(rotl(x, a), b) = rotl(x, a + b), and rotr", &[Opcode::Rotl, Opcode::Rotr], |s, i| {
        let outer = count(s, i)?;
        let (x, inner) = shifted(s, i.args[0], i.op)?;
        Some(shift(s, i.op, i.ty, x, (outer + inner) % i.ty.bits()))
    })
    .first(&[Opcode::Rotl, Opcode::Rotr])
    .second(&[Opcode::Const]),
    rule("lshr_known", "x >> n = 0 if x has no bit from n on", &[Opcode::Lshr], |s, i| {
        (s.possible(i.args[0]) >> count(s, i)? == 0).then(|| constant(s, i.ty, 0))
    })
    .second(&[Opcode::Const]),
    rule("shl_lshr", "(x << a) >> a = x & (mask >> a)", &[Opcode::Lshr], |s, i| {
        let outer = count(s, i)?;
        let (x, inner) = shifted(s, i.args[0], Opcode::Shl)?;
        (outer == inner).then(|| op_const(s, Opcode::And, i.ty, x, mask(i.ty) >> outer))
    })
    .first(&[Opcode::Shl])
    .second(&[Opcode::Const]),
    rule("lshr_shl", "(x >> a) << a = x & (mask << a)", &[Opcode::Shl], |s, i| {
        let outer = count(s, i)?;
        let (x, inner) = shifted(s, i.args[0], Opcode::Lshr)?;
        (outer == inner).then(|| op_const(s, Opcode::And, i.ty, x, mask(i.ty) << outer))
    })
    .first(&[Opcode::Lshr])
    .second(&[Opcode::Const]),
    rule("ashr_positive", "x >> n signed = unsigned if x cannot be negative", &[Opcode::Ashr], |s, i| {
        (s.possible(i.args[0]) & known::sign(i.ty) == 0)
            .then(|| Out::Inst(Inst::binary(Opcode::Lshr, i.ty, i.args[0], i.args[1])))
    }),
    rule("ashr_ones", "-1 >> n = -1, signed", &[Opcode::Ashr], |s, i| {
        (bits_of(s, i.args[0])? == mask(i.ty)).then_some(Out::Value(i.args[0]))
    })
    .first(&[Opcode::Const]),
];
