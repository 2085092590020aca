//! Identities of quotients and remainders.
//!
//! Worked example: `srem x, 1024; slt it, 0; select it ? it + 1024 : it`, the remainder that some languages round down for, is
//! `and x, 1023` (`floor_rem`).

use super::{Out, Rule, bits_of, op_const, rule, with_const};
use crate::known;
use crate::scope::Scope;
use redmagic_ir::{Inst, Opcode, Type, Value};

pub(super) const RULES: &[Rule] = &[
    rule("div_one", "x / 1 = x", &[Opcode::Udiv, Opcode::Sdiv], |s, i| {
        (bits_of(s, i.args[1])? == 1).then_some(Out::Value(i.args[0]))
    })
    .second(&[Opcode::Const]),
    rule("udiv_power", "x / 2^k = x >> k, unsigned", &[Opcode::Udiv], |s, i| {
        let imm = bits_of(s, i.args[1]).filter(|imm| imm.is_power_of_two())?;
        let count = s.constant(Type::I8, i64::from(imm.trailing_zeros()));
        Some(Out::Inst(Inst::binary(Opcode::Lshr, i.ty, i.args[0], count)))
    })
    .second(&[Opcode::Const]),
    rule("urem_power", "x % 2^k = x & (2^k - 1), unsigned", &[Opcode::Urem], |s, i| {
        let imm = bits_of(s, i.args[1])?;
        imm.is_power_of_two().then(|| op_const(s, Opcode::And, i.ty, i.args[0], imm - 1))
    })
    .second(&[Opcode::Const]),
    rule(
        "div_positive",
        "x / c signed = unsigned, % too, if neither can be negative",
        &[Opcode::Sdiv, Opcode::Srem],
        |s, i| {
            let divisor = bits_of(s, i.args[1])?;
            let op = if i.op == Opcode::Sdiv { Opcode::Udiv } else { Opcode::Urem };
            let both = s.possible(i.args[0]) | divisor;
            (divisor != 0 && both & known::sign(i.ty) == 0)
                .then(|| Out::Inst(Inst::binary(op, i.ty, i.args[0], i.args[1])))
        },
    )
    .second(&[Opcode::Const]),
    rule("sdiv_power", "x / 2^k signed = (x + (2^k - 1 if x < 0)) >> k", &[Opcode::Sdiv], |s, i| {
        let power = signed_power(s, i.args[1])?;
        let log = power.trailing_zeros();
        let [last, rest, log] =
            [i.ty.bits() - 1, i.ty.bits() - log, log].map(|count| s.constant(Type::I8, i64::from(count)));
        let sign = s.binary(Opcode::Ashr, i.ty, i.args[0], last);
        let bias = s.binary(Opcode::Lshr, i.ty, sign, rest);
        let biased = s.binary(Opcode::Add, i.ty, i.args[0], bias);
        Some(Out::Inst(Inst::binary(Opcode::Ashr, i.ty, biased, log)))
    })
    .second(&[Opcode::Const]),
    rule("srem_zero", "x % 2^k == 0 signed is x & (2^k - 1) == 0", &[Opcode::Eq, Opcode::Ne], |s, i| {
        let rem = s.def_of(i.args[0], Opcode::Srem).filter(|_| bits_of(s, i.args[1]) == Some(0))?;
        let power = signed_power(s, rem.args[1])?;
        let low = s.constant(rem.ty, power as i64 - 1);
        let bits = s.binary(Opcode::And, rem.ty, rem.args[0], low);
        Some(op_const(s, i.op, Type::I1, bits, 0))
    })
    .first(&[Opcode::Srem])
    .second(&[Opcode::Const]),
    rule("floor_rem", "(r < 0 ? r + 2^k : r) = x & (2^k - 1) where r = x % 2^k signed", &[Opcode::Select], |s, i| {
        let [test, sum, r] = i.args;
        let rem = s.def_of(r, Opcode::Srem)?;
        let power = signed_power(s, rem.args[1])?;
        let is_negative =
            s.def_of(test, Opcode::Slt).is_some_and(|test| test.args[0] == r && bits_of(s, test.args[1]) == Some(0));
        let rounds = with_const(s, sum, Opcode::Add) == Some((r, power));
        (is_negative && rounds).then(|| op_const(s, Opcode::And, i.ty, rem.args[0], power - 1))
    })
    .first(&[Opcode::Slt])
    .second(&[Opcode::Add]),
];

/// The power of two that `value` is, if it is a positive one from 2 on.
fn signed_power(scope: &Scope, value: Value) -> Option<u64> {
    bits_of(scope, value).filter(|imm| imm.is_power_of_two() && (2..known::sign(scope.trace.ty(value))).contains(imm))
}
