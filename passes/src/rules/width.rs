//! Identities of extensions, truncations and halves.
//!
//! Worked example: `mov eax, ecx` zero-extends 32 bits; reading eax again truncates: `trunc (zext x)` is x
//! (`trunc_ext`).

use super::{Out, Rule, bits_of, mask, resize, rule, wide, with_const};
use crate::known;
use redmagic_ir::{Inst, Opcode, Type, Value};

pub(super) const RULES: &[Rule] = &[
    wide("zext_zext", "zext(zext x) = zext x", &[Opcode::Zext], |s, i| {
        let inner = s.def_of(i.args[0], Opcode::Zext)?;
        Some(Out::Inst(Inst::unary(Opcode::Zext, i.ty, inner.args[0])))
    })
    .first(&[Opcode::Zext]),
    rule("zext_trunc", "zext(trunc x) = x & mask", &[Opcode::Zext], |s, i| {
        let inner = s.def_of(i.args[0], Opcode::Trunc)?;
        let x = inner.args[0];
        let from = s.trace.ty(x);
        if from.bits() > 64 || i.ty.bits() > 64 {
            return None;
        }
        let x = match resize(x, from, i.ty) {
            Out::Value(x) => x,
            Out::Inst(inst) => s.emit(inst),
        };
        let kept = s.constant(i.ty, mask(inner.ty) as i64);
        Some(Out::Inst(Inst::binary(Opcode::And, i.ty, x, kept)))
    })
    .first(&[Opcode::Trunc]),
    wide("sext_sext", "sext(sext x) = sext x", &[Opcode::Sext], |s, i| {
        let inner = s.def_of(i.args[0], Opcode::Sext)?;
        Some(Out::Inst(Inst::unary(Opcode::Sext, i.ty, inner.args[0])))
    })
    .first(&[Opcode::Sext]),
    rule("sext_positive", "sext x = zext x if x cannot be negative", &[Opcode::Sext], |s, i| {
        (s.possible(i.args[0]) & known::sign(s.trace.ty(i.args[0])) == 0)
            .then(|| Out::Inst(Inst::unary(Opcode::Zext, i.ty, i.args[0])))
    }),
    rule("trunc_trunc", "trunc(trunc x) = trunc x", &[Opcode::Trunc], |s, i| {
        let inner = s.def_of(i.args[0], Opcode::Trunc)?;
        Some(Out::Inst(Inst::unary(Opcode::Trunc, i.ty, inner.args[0])))
    })
    .first(&[Opcode::Trunc]),
    rule("trunc_ext", "trunc(zext x) = x, cut or extended; sext too", &[Opcode::Trunc], |s, i| {
        let inner = s.def(i.args[0]);
        let from = s.trace.ty(*inner.args.first().filter(|x| x.is_some())?);
        match inner.op {
            Opcode::Zext => Some(resize(inner.args[0], from, i.ty)),
            Opcode::Sext if from.bits() < i.ty.bits() => {
                Some(Out::Inst(Inst::unary(Opcode::Sext, i.ty, inner.args[0])))
            }
            Opcode::Sext => Some(resize(inner.args[0], from, i.ty)),
            _ => None,
        }
    })
    .first(&[Opcode::Zext, Opcode::Sext]),
    rule("trunc_and", "trunc(x & c) = trunc x if c keeps all low bits", &[Opcode::Trunc], |s, i| {
        if s.trace.ty(i.args[0]).bits() > 64 {
            return None;
        }
        let (x, kept) = with_const(s, i.args[0], Opcode::And)?;
        (kept & mask(i.ty) == mask(i.ty)).then(|| Out::Inst(Inst::unary(Opcode::Trunc, i.ty, x)))
    })
    .first(&[Opcode::And]),
    rule("trunc_or", "trunc(x | y) = trunc x if y has no low bit; xor too", &[Opcode::Trunc], |s, i| {
        if s.trace.ty(i.args[0]).bits() > 64 {
            return None;
        }
        let merge = s.def_of(i.args[0], Opcode::Or).or_else(|| s.def_of(i.args[0], Opcode::Xor))?;
        let [a, b, _] = merge.args;
        let irrelevant = |value: Value| s.possible(value) & mask(i.ty) == 0;
        let half = match (irrelevant(a), irrelevant(b)) {
            (_, true) => a,
            (true, false) => b,
            (false, false) => return None,
        };
        Some(Out::Inst(Inst::unary(Opcode::Trunc, i.ty, half)))
    })
    .first(&[Opcode::Or, Opcode::Xor]),
    rule("trunc_shl", "trunc(x << n) = 0 if n is at least the width", &[Opcode::Trunc], |s, i| {
        let from = s.trace.ty(i.args[0]);
        let shl = s.def_of(i.args[0], Opcode::Shl)?;
        if from.bits() > 64 {
            return None;
        }
        let count = bits_of(s, shl.args[1])? & u64::from(from.bits() - 1);
        (count >= u64::from(i.ty.bits())).then(|| super::constant(s, i.ty, 0))
    })
    .first(&[Opcode::Shl]),
    rule("trunc_join", "trunc(join x, y) = trunc x", &[Opcode::Trunc], |s, i| {
        let join = s.def_of(i.args[0], Opcode::Join)?;
        Some(resize(join.args[0], Type::I64, i.ty))
    })
    .first(&[Opcode::Join]),
    rule("trunc_known", "trunc x = c if the low bits of x cannot be set", &[Opcode::Trunc], |s, i| {
        (s.trace.ty(i.args[0]).bits() <= 64 && s.possible(i.args[0]) & mask(i.ty) == 0)
            .then(|| super::constant(s, i.ty, 0))
    }),
    rule("low_join", "low(join x, y) = x", &[Opcode::Low], |s, i| {
        s.def_of(i.args[0], Opcode::Join).map(|join| Out::Value(join.args[0]))
    })
    .first(&[Opcode::Join]),
    rule("high_join", "high(join x, y) = y", &[Opcode::High], |s, i| {
        s.def_of(i.args[0], Opcode::Join).map(|join| Out::Value(join.args[1]))
    })
    .first(&[Opcode::Join]),
    wide("join_halves", "join(low x, high x) = x", &[Opcode::Join], |s, i| {
        let low = s.def_of(i.args[0], Opcode::Low)?;
        let high = s.def_of(i.args[1], Opcode::High)?;
        let x = low.args[0];
        (x == high.args[0] && s.trace.ty(x) == i.ty).then_some(Out::Value(x))
    })
    .first(&[Opcode::Low]),
    rule("low_zext", "low(zext x) = zext x", &[Opcode::Low], |s, i| {
        let inner = s.def_of(i.args[0], Opcode::Zext)?;
        Some(resize(inner.args[0], s.trace.ty(inner.args[0]), Type::I64))
    })
    .first(&[Opcode::Zext]),
    rule("high_zext", "high(zext x) = 0 for at most 64 bits", &[Opcode::High], |s, i| {
        s.def_of(i.args[0], Opcode::Zext)?;
        Some(super::constant(s, Type::I64, 0))
    })
    .first(&[Opcode::Zext]),
    rule("bswap_bswap", "bswap(bswap x) = x", &[Opcode::Bswap], |s, i| {
        s.def_of(i.args[0], Opcode::Bswap).map(|inner| Out::Value(inner.args[0]))
    })
    .first(&[Opcode::Bswap]),
];
