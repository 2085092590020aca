//! Identities of packed flags: a condition on the flags of a known operation is a comparison of its operands.
//!
//! Worked example: `cmp v1, v2; jb` is `cond.b (fl_sub v1, v2)`, which is `ult v1, v2` (`cond_sub`); `ae` is the
//! opposite, `ule v2, v1`, by the same rule.

use super::{Out, Rule, bits_of, rule, truth};
use crate::scope::Scope;
use redmagic_ir::{CF, Cond, Inst, OF, Opcode, Type, Value};

const COND: &[Opcode] = &[Opcode::Cond];

/// Splits a `cond` into the condition that is not negated, whether it is the negation, and the flags' definition if
/// its opcode is `op`.
fn split(s: &Scope, i: &Inst, op: Opcode) -> Option<(Cond, bool, Inst)> {
    let flags = s.def_of(i.args[0], op)?;
    let cond = i.condition()?;
    let negated = cond as u8 & 1 == 1;
    Some((if negated { cond.negate() } else { cond }, negated, flags))
}

/// `value` or its opposite.
fn finish(s: &mut Scope, value: Value, negated: bool) -> Option<Out> {
    Some(Out::Value(if negated { s.invert(value) } else { value }))
}

/// A comparison of `value` with a constant.
fn against(s: &mut Scope, op: Opcode, value: Value, imm: i64) -> Value {
    let imm = s.constant(s.trace.ty(value), imm);
    s.compare(op, value, imm)
}

/// The conditions E, S and P of a result.
fn of_result(s: &mut Scope, cond: Cond, result: Value) -> Option<Value> {
    match cond {
        Cond::E => Some(against(s, Opcode::Eq, result, 0)),
        Cond::S => Some(against(s, Opcode::Slt, result, 0)),
        Cond::P => {
            let byte = if s.trace.ty(result) == Type::I8 {
                result
            } else {
                s.emit(Inst::unary(Opcode::Trunc, Type::I8, result))
            };
            Some(s.emit(Inst::unary(Opcode::Parity, Type::I1, byte)))
        }
        _ => None,
    }
}

/// The type of the first operand of a flags operation.
fn operand_type(s: &Scope, flags: &Inst) -> Type {
    s.trace.ty(flags.args[0])
}

/// The count of a flags operation of a shift, if it is a constant that is not 0 and below the width.
fn shift_count(s: &Scope, flags: &Inst) -> Option<u64> {
    let count = bits_of(s, flags.args[1])?;
    (count > 0 && count < u64::from(operand_type(s, flags).bits())).then_some(count)
}

fn cond_sub(s: &mut Scope, cond: Cond, a: Value, b: Value) -> Option<Value> {
    Some(match cond {
        Cond::E => s.compare(Opcode::Eq, a, b),
        Cond::B => s.compare(Opcode::Ult, a, b),
        Cond::Be => s.compare(Opcode::Ule, a, b),
        Cond::L => s.compare(Opcode::Slt, a, b),
        Cond::Le => s.compare(Opcode::Sle, a, b),
        Cond::S | Cond::P => {
            let difference = s.binary(Opcode::Sub, s.trace.ty(a), a, b);
            return of_result(s, cond, difference);
        }
        _ => return None,
    })
}

fn cond_logic(s: &mut Scope, cond: Cond, result: Value) -> Option<Value> {
    Some(match cond {
        Cond::O | Cond::B => s.constant(Type::I1, 0),
        Cond::Be => against(s, Opcode::Eq, result, 0),
        Cond::L => against(s, Opcode::Slt, result, 0),
        Cond::Le => against(s, Opcode::Sle, result, 0),
        _ => return of_result(s, cond, result),
    })
}

fn cond_f64(s: &mut Scope, cond: Cond, a: Value, b: Value) -> Option<Value> {
    let unordered = |s: &mut Scope| s.compare(Opcode::Funo64, a, b);
    let below = |s: &mut Scope, op| {
        // CF is set when a < b or unordered, CF or ZF when a <= b or unordered: not (b <= a), not (b < a).
        let above = s.compare(op, b, a);
        s.invert(above)
    };
    Some(match cond {
        Cond::O | Cond::S | Cond::L => s.constant(Type::I1, 0),
        Cond::B => below(s, Opcode::Fle64),
        Cond::Be => below(s, Opcode::Flt64),
        Cond::P => unordered(s),
        // With SF and OF clear, "less or equal" is ZF.
        _ => {
            let equal = s.compare(Opcode::Feq64, a, b);
            let unordered = unordered(s);
            s.compare(Opcode::Or, equal, unordered)
        }
    })
}

pub(super) const RULES: &[Rule] = &[
    rule("cond_sub", "conditions of x - y compare x and y", COND, |s, i| {
        let (cond, negated, flags) = split(s, i, Opcode::FlSub)?;
        let value = cond_sub(s, cond, flags.args[0], flags.args[1])?;
        finish(s, value, negated)
    })
    .first(&[Opcode::FlSub]),
    rule("cond_logic", "conditions of a bitwise result compare it with 0; no carry, no overflow", COND, |s, i| {
        let (cond, negated, flags) = split(s, i, Opcode::FlLogic)?;
        let value = cond_logic(s, cond, flags.args[0])?;
        finish(s, value, negated)
    })
    .first(&[Opcode::FlLogic]),
    rule("cond_add", "zero, sign, parity of x + y are those of the sum; carry: x + y < x", COND, |s, i| {
        let (cond, negated, flags) = split(s, i, Opcode::FlAdd)?;
        let [a, b, _] = flags.args;
        if !matches!(cond, Cond::E | Cond::S | Cond::P | Cond::B) {
            return None;
        }
        let sum = s.binary(Opcode::Add, operand_type(s, &flags), a, b);
        let value = if cond == Cond::B { s.compare(Opcode::Ult, sum, a) } else { of_result(s, cond, sum)? };
        finish(s, value, negated)
    })
    .first(&[Opcode::FlAdd]),
    rule("cond_inc", "conditions of x + 1: carry as before, zero, sign, parity, signed order", COND, |s, i| {
        let (cond, negated, flags) = split(s, i, Opcode::FlInc)?;
        let [a, carry, _] = flags.args;
        let value = match cond {
            Cond::B => carry,
            Cond::L => against(s, Opcode::Slt, a, -1),
            Cond::Le => against(s, Opcode::Sle, a, -1),
            Cond::E | Cond::S | Cond::P => {
                let one = s.constant(s.trace.ty(a), 1);
                let sum = s.binary(Opcode::Add, operand_type(s, &flags), a, one);
                of_result(s, cond, sum)?
            }
            _ => return None,
        };
        finish(s, value, negated)
    })
    .first(&[Opcode::FlInc]),
    rule("cond_dec", "conditions of x - 1: carry as before, zero, sign, parity, signed order", COND, |s, i| {
        let (cond, negated, flags) = split(s, i, Opcode::FlDec)?;
        let [a, carry, _] = flags.args;
        let value = match cond {
            Cond::B => carry,
            Cond::L => against(s, Opcode::Slt, a, 1),
            Cond::Le => against(s, Opcode::Sle, a, 1),
            Cond::E | Cond::S | Cond::P => {
                let one = s.constant(s.trace.ty(a), 1);
                let difference = s.binary(Opcode::Sub, operand_type(s, &flags), a, one);
                of_result(s, cond, difference)?
            }
            _ => return None,
        };
        finish(s, value, negated)
    })
    .first(&[Opcode::FlDec]),
    rule("cond_adc", "zero, sign, parity of x + y + c are those of the sum; sbb too", COND, |s, i| {
        let (op, cond, negated, flags) = match split(s, i, Opcode::FlAdc) {
            Some((cond, negated, flags)) => (Opcode::Add, cond, negated, flags),
            None => {
                let (cond, negated, flags) = split(s, i, Opcode::FlSbb)?;
                (Opcode::Sub, cond, negated, flags)
            }
        };
        if !matches!(cond, Cond::E | Cond::S | Cond::P) {
            return None;
        }
        let [a, b, carry] = flags.args;
        let ty = operand_type(s, &flags);
        let partial = s.binary(op, ty, a, b);
        let carry = s.emit(Inst::unary(Opcode::Zext, ty, carry));
        let result = s.binary(op, ty, partial, carry);
        let value = of_result(s, cond, result)?;
        finish(s, value, negated)
    })
    .first(&[Opcode::FlAdc, Opcode::FlSbb]),
    rule(
        "cond_shift",
        "zero, sign, parity of a shift by a constant are those of its result; carry: a bit",
        COND,
        |s, i| {
            let (shift, cond, negated, flags) =
                [(Opcode::FlShl, Opcode::Shl), (Opcode::FlShr, Opcode::Lshr), (Opcode::FlSar, Opcode::Ashr)]
                    .into_iter()
                    .find_map(|(op, shift)| {
                        split(s, i, op).map(|(cond, negated, flags)| (shift, cond, negated, flags))
                    })?;
            let count = shift_count(s, &flags)?;
            let ty = operand_type(s, &flags);
            let value = match cond {
                Cond::B => {
                    let last = if shift == Opcode::Shl { u64::from(ty.bits()) - count } else { count - 1 };
                    let bit = s.constant(ty, 1i64 << last);
                    let bit = s.binary(Opcode::And, ty, flags.args[0], bit);
                    against(s, Opcode::Ne, bit, 0)
                }
                Cond::E | Cond::S | Cond::P => {
                    let result = s.binary(shift, ty, flags.args[0], flags.args[1]);
                    of_result(s, cond, result)?
                }
                _ => return None,
            };
            finish(s, value, negated)
        },
    )
    .first(&[Opcode::FlShl, Opcode::FlShr, Opcode::FlSar]),
    rule("cond_rotate", "zero, sign, parity after a rotation are those before", COND, |s, i| {
        let (cond, _, flags) = split(s, i, Opcode::FlRol).or_else(|| split(s, i, Opcode::FlRor))?;
        matches!(cond, Cond::E | Cond::S | Cond::P)
            .then_some(i.condition()?)
            .map(|cond| Out::Inst(Inst::cond(cond, flags.args[2])))
    })
    .first(&[Opcode::FlRol, Opcode::FlRor]),
    rule("cond_mul", "carry and overflow of a product are the operand; all else is clear", COND, |s, i| {
        let flags = s.def_of(i.args[0], Opcode::FlMul)?;
        let cond = i.condition()?;
        Some(match (cond.holds(0), cond.holds(CF | OF)) {
            (false, true) => Out::Value(flags.args[0]),
            (true, false) => Out::Value(s.invert(flags.args[0])),
            (same, _) => truth(s, same),
        })
    })
    .first(&[Opcode::FlMul]),
    rule("cond_f64", "conditions of ucomisd are comparisons of its operands", COND, |s, i| {
        let (cond, negated, flags) = split(s, i, Opcode::FlF64)?;
        let value = cond_f64(s, cond, flags.args[0], flags.args[1])?;
        finish(s, value, negated)
    })
    .first(&[Opcode::FlF64]),
    rule("fl_shift_zero", "a shift or rotation by 0 keeps the flags", SHIFT_FLAGS, |s, i| {
        (bits_of(s, i.args[1])? == 0).then_some(Out::Value(i.args[2]))
    })
    .second(&[Opcode::Const]),
    rule("fl_carry_zero", "fl_adc x, y, 0 = fl_add x, y; fl_sbb too", &[Opcode::FlAdc, Opcode::FlSbb], |s, i| {
        let op = if i.op == Opcode::FlAdc { Opcode::FlAdd } else { Opcode::FlSub };
        (bits_of(s, i.args[2])? == 0).then(|| Out::Inst(Inst::binary(op, i.ty, i.args[0], i.args[1])))
    }),
];

const SHIFT_FLAGS: &[Opcode] = &[Opcode::FlShl, Opcode::FlShr, Opcode::FlSar, Opcode::FlRol, Opcode::FlRor];
