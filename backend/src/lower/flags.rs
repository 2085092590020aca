//! Packed flags as values, and the conditions on them.
//!
//! Traces rarely need these: the optimiser turns conditions into comparisons, and exits leave flags to the runtime as
//! recipes. What is here makes every trace lowerable, optimised or not. Each flag is first found as a top bit or a
//! comparison and then put in its place; carries and overflows come from the operands and the result by the
//! textbook formulas, e.g. for a sum: `carry = top((a & b) | ((a | b) & !sum))`.

use super::{Lowering, Operand};
use crate::BackendError;
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, Type, Value, types};
use redmagic_ir::{AF, CF, Cond, OF, Opcode, PF, SF, ZF};

impl Lowering<'_, '_> {
    fn type_of(&self, value: Value) -> Type {
        self.builder.func.dfg.value_type(value)
    }

    /// A constant of the type of `like`.
    fn same(&mut self, like: Value, imm: i64) -> Value {
        let ty = self.type_of(like);
        let mask = if ty.bits() >= 64 { u64::MAX } else { (1 << ty.bits()) - 1 };
        self.builder.ins().iconst(ty, (imm as u64 & mask) as i64)
    }

    /// An i32 in which the byte `bit`, 0 or 1, stands at the place of `flag`.
    fn place(&mut self, bit: Value, flag: u32) -> Value {
        let bit = self.builder.ins().uextend(types::I32, bit);
        if flag == 1 {
            return bit;
        }
        let shift = self.same(bit, i64::from(flag.trailing_zeros()));
        self.builder.ins().ishl(bit, shift)
    }

    /// The union of flags in their places.
    fn pack(&mut self, flags: &[Value]) -> Value {
        let mut all = flags[0];
        for &flag in &flags[1..] {
            all = self.builder.ins().bor(all, flag);
        }
        all
    }

    /// The top bit of a value, as a byte.
    fn top(&mut self, value: Value) -> Value {
        let zero = self.same(value, 0);
        self.builder.ins().icmp(IntCC::SignedLessThan, value, zero)
    }

    /// The lowest bit of a value, as a byte.
    fn bottom(&mut self, value: Value) -> Value {
        let byte = self.resize(value, types::I8);
        let one = self.same(byte, 1);
        self.builder.ins().band(byte, one)
    }

    /// A value zero-extended or truncated.
    fn resize(&mut self, value: Value, to: Type) -> Value {
        let from = self.type_of(value);
        if from.bits() < to.bits() {
            self.builder.ins().uextend(to, value)
        } else if from.bits() > to.bits() {
            self.builder.ins().ireduce(to, value)
        } else {
            value
        }
    }

    /// Whether the number of set bits of a byte is even.
    pub(super) fn parity(&mut self, byte: Value) -> Value {
        let count = self.builder.ins().popcnt(byte);
        let one = self.same(count, 1);
        let odd = self.builder.ins().band(count, one);
        self.builder.ins().bxor(odd, one)
    }

    /// ZF, SF and PF of a result.
    fn result_flags(&mut self, result: Value) -> Value {
        let zero = self.same(result, 0);
        let is_zero = self.builder.ins().icmp(IntCC::Equal, result, zero);
        let zf = self.place(is_zero, ZF);
        let sign = self.top(result);
        let sf = self.place(sign, SF);
        let byte = self.resize(result, types::I8);
        let even = self.parity(byte);
        let pf = self.place(even, PF);
        self.pack(&[zf, sf, pf])
    }

    /// AF of a sum or difference.
    fn adjust(&mut self, a: Value, b: Value, result: Value) -> Value {
        let bits = self.builder.ins().bxor(a, b);
        let bits = self.builder.ins().bxor(bits, result);
        let bits = self.resize(bits, types::I32);
        let mask = self.same(bits, i64::from(AF));
        self.builder.ins().band(bits, mask)
    }

    /// A carry as a number of the type of `like`.
    fn carry_in(&mut self, carry: Option<Operand>, like: Value) -> Result<Option<Value>, BackendError> {
        let Some(carry) = carry else { return Ok(None) };
        let carry = self.general(carry)?;
        let ty = self.type_of(like);
        Ok(Some(self.resize(carry, ty)))
    }

    /// The sum of a, b and a carry with all its flags: CF, and the others.
    fn sum_flags(&mut self, a: Value, b: Value, carry: Option<Value>) -> (Value, Value) {
        let mut sum = self.builder.ins().iadd(a, b);
        if let Some(carry) = carry {
            sum = self.builder.ins().iadd(sum, carry);
        }
        let both = self.builder.ins().band(a, b);
        let either = self.builder.ins().bor(a, b);
        let gone = self.builder.ins().bnot(sum);
        let lost = self.builder.ins().band(either, gone);
        let carry = self.builder.ins().bor(both, lost);
        let (a_changed, b_changed) = (self.builder.ins().bxor(a, sum), self.builder.ins().bxor(b, sum));
        let overflow = self.builder.ins().band(a_changed, b_changed);
        self.arithmetic_flags(a, b, sum, carry, overflow)
    }

    /// As [`Self::sum_flags`], for a difference.
    fn difference_flags(&mut self, a: Value, b: Value, borrow: Option<Value>) -> (Value, Value) {
        let mut difference = self.builder.ins().isub(a, b);
        if let Some(borrow) = borrow {
            difference = self.builder.ins().isub(difference, borrow);
        }
        let missing = self.builder.ins().bnot(a);
        let both = self.builder.ins().band(missing, b);
        let either = self.builder.ins().bor(missing, b);
        let lost = self.builder.ins().band(either, difference);
        let borrow = self.builder.ins().bor(both, lost);
        let (unlike, changed) = (self.builder.ins().bxor(a, b), self.builder.ins().bxor(a, difference));
        let overflow = self.builder.ins().band(unlike, changed);
        self.arithmetic_flags(a, b, difference, borrow, overflow)
    }

    fn arithmetic_flags(&mut self, a: Value, b: Value, result: Value, carry: Value, overflow: Value) -> (Value, Value) {
        let carry = self.top(carry);
        let cf = self.place(carry, CF);
        let overflow = self.top(overflow);
        let of = self.place(overflow, OF);
        let af = self.adjust(a, b, result);
        let rest = self.result_flags(result);
        (cf, self.pack(&[of, af, rest]))
    }

    pub(super) fn flags_add(&mut self, a: Operand, b: Operand, carry: Option<Operand>) -> Result<Value, BackendError> {
        let (a, b) = (self.general(a)?, self.general(b)?);
        let carry = self.carry_in(carry, a)?;
        let (cf, rest) = self.sum_flags(a, b, carry);
        Ok(self.pack(&[cf, rest]))
    }

    pub(super) fn flags_sub(&mut self, a: Operand, b: Operand, borrow: Option<Operand>) -> Result<Value, BackendError> {
        let (a, b) = (self.general(a)?, self.general(b)?);
        let borrow = self.carry_in(borrow, a)?;
        let (cf, rest) = self.difference_flags(a, b, borrow);
        Ok(self.pack(&[cf, rest]))
    }

    pub(super) fn flags_logic(&mut self, a: Operand) -> Result<Value, BackendError> {
        let a = self.general(a)?;
        Ok(self.result_flags(a))
    }

    /// `inc` (step 1) and `dec` (step -1): as a sum or difference, but CF is the given one.
    pub(super) fn flags_step(&mut self, a: Operand, carry: Operand, step: i32) -> Result<Value, BackendError> {
        let (a, carry) = (self.general(a)?, self.general(carry)?);
        let one = self.same(a, 1);
        let (_, rest) = if step > 0 { self.sum_flags(a, one, None) } else { self.difference_flags(a, one, None) };
        let cf = self.place(carry, CF);
        Ok(self.pack(&[cf, rest]))
    }

    /// `shl`, `shr`, `sar`. All shifts are made in 64 bits, where only counts from 64 on need care.
    pub(super) fn flags_shift(
        &mut self,
        op: Opcode,
        a: Operand,
        count: Operand,
        old: Operand,
    ) -> Result<Value, BackendError> {
        let (a, count, old) = (self.general(a)?, self.general(count)?, self.general(old)?);
        let n = self.builder.ins().uextend(types::I64, count);
        let narrow = self.type_of(a);
        let (result, carry, overflow) = if op == Opcode::FlShl {
            self.shift_left(a, n)
        } else if op == Opcode::FlShr {
            self.shift_right(a, n)
        } else {
            self.shift_right_signed(a, n)
        };
        let result = self.resize(result, narrow);
        let sign = self.top(result);
        let overflow = match overflow {
            Overflow::No => self.same(carry, 0),
            Overflow::SignOfOperand => self.top(a),
            Overflow::CarryDiffersFromSign => self.builder.ins().bxor(carry, sign),
        };
        let cf = self.place(carry, CF);
        let of = self.place(overflow, OF);
        let rest = self.result_flags(result);
        let packed = self.pack(&[cf, of, rest]);
        Ok(self.unless_zero(count, packed, old))
    }

    /// Result (in 64 bits), carry and overflow of `shl`.
    fn shift_left(&mut self, a: Value, n: Value) -> (Value, Value, Overflow) {
        let bits = self.type_of(a).bits();
        let wide = self.resize(a, types::I64);
        let shifted = self.builder.ins().ishl(wide, n);
        let result = self.if_less(n, 64, shifted);
        let carry = if bits < 64 {
            // The bit that the narrow shift loses is still there.
            let place = self.same(result, i64::from(bits));
            self.builder.ins().ushr(result, place)
        } else {
            let back = self.builder.ins().ineg(n);
            let lost = self.builder.ins().ushr(wide, back);
            self.if_less(n, 65, lost)
        };
        (result, self.bottom(carry), Overflow::CarryDiffersFromSign)
    }

    /// Result (in 64 bits), carry and overflow of `shr`.
    fn shift_right(&mut self, a: Value, n: Value) -> (Value, Value, Overflow) {
        let wide = self.resize(a, types::I64);
        let shifted = self.builder.ins().ushr(wide, n);
        let result = self.if_less(n, 64, shifted);
        let one = self.same(n, 1);
        let before = self.builder.ins().isub(n, one);
        let lost = self.builder.ins().ushr(wide, before);
        let lost = self.if_less(n, 65, lost);
        (result, self.bottom(lost), Overflow::SignOfOperand)
    }

    /// Result (in 64 bits), carry and overflow of `sar`.
    fn shift_right_signed(&mut self, a: Value, n: Value) -> (Value, Value, Overflow) {
        let is_wide = self.type_of(a) == types::I64;
        let wide = if is_wide { a } else { self.builder.ins().sextend(types::I64, a) };
        let last = self.same(n, 63);
        let one = self.same(n, 1);
        let within = self.builder.ins().icmp(IntCC::UnsignedLessThan, n, last);
        let places = self.builder.ins().select(within, n, last);
        let result = self.builder.ins().sshr(wide, places);
        let before = self.builder.ins().isub(n, one);
        let within = self.builder.ins().icmp(IntCC::UnsignedLessThan, before, last);
        let places = self.builder.ins().select(within, before, last);
        let lost = self.builder.ins().sshr(wide, places);
        (result, self.bottom(lost), Overflow::No)
    }

    /// `value` if `n` is less than `bound`, else 0.
    fn if_less(&mut self, n: Value, bound: i64, value: Value) -> Value {
        let bound = self.same(n, bound);
        let within = self.builder.ins().icmp(IntCC::UnsignedLessThan, n, bound);
        let zero = self.same(value, 0);
        self.builder.ins().select(within, value, zero)
    }

    /// `flags`, or `old` if the count is 0.
    fn unless_zero(&mut self, count: Value, flags: Value, old: Value) -> Value {
        let zero = self.same(count, 0);
        let is_zero = self.builder.ins().icmp(IntCC::Equal, count, zero);
        self.builder.ins().select(is_zero, old, flags)
    }

    /// `rol` and `ror`, from their result.
    pub(super) fn flags_rotate(
        &mut self,
        result: Operand,
        count: Operand,
        old: Operand,
        is_left: bool,
    ) -> Result<Value, BackendError> {
        let (result, count, old) = (self.general(result)?, self.general(count)?, self.general(old)?);
        let top = self.top(result);
        let (carry, overflow) = if is_left {
            let carry = self.bottom(result);
            (carry, self.builder.ins().bxor(carry, top))
        } else {
            let doubled = self.builder.ins().iadd(result, result);
            let next = self.top(doubled);
            (top, self.builder.ins().bxor(top, next))
        };
        let keep = self.same(old, !i64::from(CF | OF));
        let kept = self.builder.ins().band(old, keep);
        let cf = self.place(carry, CF);
        let of = self.place(overflow, OF);
        let packed = self.pack(&[kept, cf, of]);
        Ok(self.unless_zero(count, packed, old))
    }

    pub(super) fn flags_mul(&mut self, overflow: Operand) -> Result<Value, BackendError> {
        let overflow = self.general(overflow)?;
        let cf = self.place(overflow, CF);
        let of = self.place(overflow, OF);
        Ok(self.pack(&[cf, of]))
    }

    pub(super) fn flags_float(&mut self, a: Operand, b: Operand) -> Result<Value, BackendError> {
        let zf = self.float_compare(FloatCC::UnorderedOrEqual, a, b)?;
        let zf = self.place(zf, ZF);
        let pf = self.float_compare(FloatCC::Unordered, a, b)?;
        let pf = self.place(pf, PF);
        let cf = self.float_compare(FloatCC::UnorderedOrLessThan, a, b)?;
        let cf = self.place(cf, CF);
        Ok(self.pack(&[zf, pf, cf]))
    }

    /// Whether packed flags satisfy a condition.
    pub(super) fn condition(&mut self, cond: Cond, flags: Operand) -> Result<Value, BackendError> {
        let flags = self.general(flags)?;
        let (bits, mask) = match cond {
            Cond::O | Cond::No => (flags, OF),
            Cond::B | Cond::Ae => (flags, CF),
            Cond::E | Cond::Ne => (flags, ZF),
            Cond::Be | Cond::A => (flags, CF | ZF),
            Cond::S | Cond::Ns => (flags, SF),
            Cond::P | Cond::Np => (flags, PF),
            Cond::L | Cond::Ge => (self.sign_differs_from_overflow(flags), SF),
            Cond::Le | Cond::G => (self.sign_differs_from_overflow(flags), SF | ZF),
        };
        let mask = self.same(bits, i64::from(mask));
        let bits = self.builder.ins().band(bits, mask);
        let zero = self.same(bits, 0);
        let is_negated = cond as u8 & 1 == 1;
        let cc = if is_negated { IntCC::Equal } else { IntCC::NotEqual };
        Ok(self.builder.ins().icmp(cc, bits, zero))
    }

    /// Packed flags with SF replaced by whether SF and OF differ.
    fn sign_differs_from_overflow(&mut self, flags: Value) -> Value {
        let distance = self.same(flags, i64::from(OF.trailing_zeros() - SF.trailing_zeros()));
        let overflow = self.builder.ins().ushr(flags, distance);
        let mask = self.same(flags, i64::from(SF));
        let overflow = self.builder.ins().band(overflow, mask);
        self.builder.ins().bxor(flags, overflow)
    }
}

/// How a shift sets OF.
enum Overflow {
    No,
    SignOfOperand,
    CarryDiffersFromSign,
}
