//! Division. The processor takes 10 to 90 cycles for one, so there is none for a constant divisor of 32 or 64 bits, and only one
//! for quotient and remainder of the same operands.
//!
//! Constants follow T. Granlund and P. Montgomery, "Division by invariant integers using multiplication" (1994), figures 4.1
//! (unsigned) and 5.2 (signed): the quotient is the high half of a product with a scaled reciprocal, corrected and shifted.
//!
//! Worked example: `sdiv.i64 x, 1024` is `(x + (x >> 63 >>> 54)) >> 10`: numbers below 0 are rounded towards 0 by what is added
//! first. Then `srem.i64 x, 1024` is `x - (quotient << 10)`.

use super::{Lowering, Operand};
use crate::BackendError;
use cranelift_codegen::ir::{InstBuilder, Value};
use redmagic_ir::{Opcode, Type};

/// A division that has been lowered.
#[derive(Clone, Copy)]
pub(super) struct Quotient {
    /// Where its result may be used again.
    scope: u32,
    signed: bool,
    operands: [Value; 2],
    result: Value,
}

impl Lowering<'_, '_> {
    /// Quotient and remainder of operands of the same width. That they are defined has been made sure of.
    pub(super) fn divide(&mut self, op: Opcode, ty: Type, a: Operand, b: Operand) -> Result<Value, BackendError> {
        if ty == Type::I128 {
            return self.wide_divide(op, a, b);
        }
        let signed = matches!(op, Opcode::Sdiv | Opcode::Srem);
        let divisor = self.operand_const(b).filter(|_| ty.bits() >= 32);
        let dividend = self.general(a)?;
        let quotient = match divisor.map(|imm| imm as u64 & ty.mask() as u64) {
            Some(divisor) if signed && magnitude(divisor, ty) >= 2 => self.signed_quotient(dividend, divisor, ty),
            Some(divisor) if !signed && divisor >= 2 => self.unsigned_quotient(dividend, divisor, ty),
            _ => {
                let divisor = self.general(b)?;
                return Ok(self.plain_divide(op, dividend, divisor, signed));
            }
        };
        if matches!(op, Opcode::Sdiv | Opcode::Udiv) {
            return Ok(quotient);
        }
        let divisor = self.general(b)?;
        Ok(self.remainder(dividend, quotient, divisor))
    }

    fn plain_divide(&mut self, op: Opcode, a: Value, b: Value, signed: bool) -> Value {
        let same = |known: &Quotient| known.scope == self.scope && known.signed == signed && known.operands == [a, b];
        let known = self.quotient.filter(same).map(|known| known.result);
        match (op, known) {
            (Opcode::Urem | Opcode::Srem, Some(quotient)) => self.remainder(a, quotient, b),
            (Opcode::Urem, None) => self.builder.ins().urem(a, b),
            (Opcode::Srem, None) => self.builder.ins().srem(a, b),
            (_, Some(quotient)) => quotient,
            (_, None) => {
                let ins = self.builder.ins();
                let result = if signed { ins.sdiv(a, b) } else { ins.udiv(a, b) };
                self.quotient = Some(Quotient { scope: self.scope, signed, operands: [a, b], result });
                result
            }
        }
    }

    fn remainder(&mut self, a: Value, quotient: Value, b: Value) -> Value {
        let product = self.builder.ins().imul(quotient, b);
        self.builder.ins().isub(a, product)
    }

    /// `a / divisor`, rounded towards 0, for a divisor of magnitude 2 or more.
    fn signed_quotient(&mut self, a: Value, divisor: u64, ty: Type) -> Value {
        let bits = ty.bits();
        let magnitude = magnitude(divisor, ty);
        let is_negative = sign_extended(divisor, ty) < 0;
        let log = magnitude.next_power_of_two().trailing_zeros();
        let quotient = if magnitude.is_power_of_two() {
            let sign = self.builder.ins().sshr_imm_u(a, i64::from(bits) - 1);
            let bias = self.builder.ins().ushr_imm_u(sign, i64::from(bits - log));
            let biased = self.builder.ins().iadd(a, bias);
            self.builder.ins().sshr_imm_u(biased, i64::from(log))
        } else {
            // 2^bits is left out, and comes in as the dividend that is added.
            let reciprocal = (1u128 << (bits + log - 1)) / u128::from(magnitude) + 1;
            let reciprocal = self.constant(ty, reciprocal as i64);
            let high = self.builder.ins().smulhi(reciprocal, a);
            let sum = self.builder.ins().iadd(high, a);
            let shifted = self.builder.ins().sshr_imm_u(sum, i64::from(log) - 1);
            let sign = self.builder.ins().sshr_imm_u(a, i64::from(bits) - 1);
            self.builder.ins().isub(shifted, sign)
        };
        if is_negative { self.builder.ins().ineg(quotient) } else { quotient }
    }

    /// `a / divisor` without sign, for a divisor of 2 or more.
    fn unsigned_quotient(&mut self, a: Value, divisor: u64, ty: Type) -> Value {
        let bits = ty.bits();
        let log = 64 - (divisor - 1).leading_zeros();
        if divisor.is_power_of_two() {
            return self.builder.ins().ushr_imm_u(a, i64::from(log));
        }
        let excess = (1u128 << log) - u128::from(divisor);
        let reciprocal = (excess << bits) / u128::from(divisor) + 1;
        let reciprocal = self.constant(ty, reciprocal as i64);
        let high = self.builder.ins().umulhi(reciprocal, a);
        let rest = self.builder.ins().isub(a, high);
        let half = self.builder.ins().ushr_imm_u(rest, 1);
        let sum = self.builder.ins().iadd(high, half);
        self.builder.ins().ushr_imm_u(sum, i64::from(log) - 1)
    }
}

fn sign_extended(bits: u64, ty: Type) -> i64 {
    (bits as i64) << (64 - ty.bits()) >> (64 - ty.bits())
}

/// The distance of a signed number from 0.
fn magnitude(divisor: u64, ty: Type) -> u64 {
    sign_extended(divisor, ty).unsigned_abs()
}
