//! Multiplication and division.
//!
//! The machine divides a number of twice the width. Compilers nearly always make it by sign or zero extension; then
//! the narrow IR division gives the same result. Otherwise operands of up to 32 bits are divided at twice the width,
//! and for 64 bits a guard requires the upper half to be an extension. Guards also keep out what would fault: they
//! leave at the division itself, which then faults in the guest. Worked example: `cqo; idiv rcx` becomes
//! `guard ne rcx, 0`, `guard_not (and (eq rax, MIN), (eq rcx, -1))`, `sdiv`, `srem`.

use crate::flags::Kind;
use crate::int::operand_type;
use crate::lifter::Lifter;
use crate::operand::word;
use iced_x86::{Instruction, Register};
use redmagic_ir::{Opcode, Type, Value};

impl Lifter<'_> {
    /// `imul` with two or three operands.
    pub(crate) fn product(&mut self, inst: &Instruction) {
        let register = inst.op0_register();
        let ty = word(register.size());
        let (a, b) = if inst.op_count() == 2 {
            (self.read_register(register), self.read_operand(inst, 1, ty))
        } else {
            (self.read_operand(inst, 1, ty), self.read_operand(inst, 2, ty))
        };
        let r = self.binary(Opcode::Mul, a, b);
        self.write_register(register, r);
        self.set_flags(Kind::Product { a, b, r });
    }

    /// One-operand `mul` and `imul`.
    pub(crate) fn wide_product(&mut self, inst: &Instruction, signed: bool) {
        let ty = operand_type(inst);
        let [low_register, high_register] = halves(ty);
        let a = self.read_register(low_register);
        let b = self.read_operand(inst, 0, ty);
        if ty == Type::I8 {
            let wide = self.byte_product(a, b, signed);
            let low = self.trunc(Type::I8, wide);
            let extended = self.extended(Type::I16, low, signed);
            let overflow = self.compare(Opcode::Ne, extended, wide);
            self.write_register(Register::AX, wide);
            return self.set_flags(Kind::Overflow(overflow));
        }
        let low = self.binary(Opcode::Mul, a, b);
        let high = self.binary(if signed { Opcode::Smulhi } else { Opcode::Umulhi }, a, b);
        self.write_register(low_register, low);
        self.write_register(high_register, high);
        let insignificant = self.extension_of(low, signed);
        let overflow = self.compare(Opcode::Ne, high, insignificant);
        self.set_flags(Kind::Overflow(overflow));
    }

    fn byte_product(&mut self, a: Value, b: Value, signed: bool) -> Value {
        let a = self.extended(Type::I16, a, signed);
        let b = self.extended(Type::I16, b, signed);
        self.binary(Opcode::Mul, a, b)
    }

    pub(crate) fn extended(&mut self, ty: Type, value: Value, signed: bool) -> Value {
        if signed { self.sext(ty, value) } else { self.zext(ty, value) }
    }

    /// The upper half that an extension of `low` to twice the width has.
    fn extension_of(&mut self, low: Value, signed: bool) -> Value {
        let ty = self.ty(low);
        if signed { self.binary_const(Opcode::Ashr, low, i64::from(ty.bits()) - 1) } else { self.constant(ty, 0) }
    }

    /// Whether `high` is known to be the upper half of an extension of `low`.
    fn is_extension(&self, low: Value, high: Value, signed: bool) -> bool {
        if !signed {
            return self.as_const(high) == Some(0);
        }
        let inst = self.trace.insts[high];
        let last = i64::from(self.ty(low).bits()) - 1;
        let constants = (self.as_const(low), self.as_const(high));
        (inst.op == Opcode::Ashr && inst.args[0] == low && self.as_const(inst.args[1]) == Some(last))
            || matches!(constants, (Some(low), Some(high)) if high == low >> 63)
    }

    /// `div` and `idiv`.
    pub(crate) fn divide(&mut self, inst: &Instruction, signed: bool) {
        let ty = operand_type(inst);
        let divisor = self.read_operand(inst, 0, ty);
        if self.as_const(divisor).is_none_or(|constant| constant == 0) {
            let nonzero = self.compare_const(Opcode::Ne, divisor, 0);
            self.guard_here(nonzero, true);
        }
        if ty == Type::I8 {
            let dividend = self.read_register(Register::AX);
            let (quotient, remainder) = self.wide_division(dividend, divisor, signed);
            self.write_register(Register::AL, quotient);
            self.write_register(Register::AH, remainder);
        } else {
            let [low_register, high_register] = halves(ty);
            let low = self.read_register(low_register);
            let high = self.read_register(high_register);
            let known = self.is_extension(low, high, signed);
            let (quotient, remainder) = if known || ty == Type::I64 {
                if !known {
                    let extension = self.extension_of(low, signed);
                    let fits = self.compare(Opcode::Eq, high, extension);
                    self.guard_here(fits, true);
                }
                self.division(low, divisor, signed)
            } else {
                let dividend = self.joined(low, high);
                self.wide_division(dividend, divisor, signed)
            };
            self.write_register(low_register, quotient);
            self.write_register(high_register, remainder);
        }
        // All flags are undefined.
        self.set_flags(Kind::Bits { zf: None, cf: None });
    }

    /// Division of operands of one width, guarded against overflow.
    fn division(&mut self, dividend: Value, divisor: Value, signed: bool) -> (Value, Value) {
        if !signed {
            return (self.binary(Opcode::Udiv, dividend, divisor), self.binary(Opcode::Urem, dividend, divisor));
        }
        if self.as_const(divisor).is_none_or(|constant| constant == -1) {
            let least = i64::MIN >> (64 - self.ty(dividend).bits());
            let is_least = self.compare_const(Opcode::Eq, dividend, least);
            let is_minus_one = self.compare_const(Opcode::Eq, divisor, -1);
            let overflows = self.binary(Opcode::And, is_least, is_minus_one);
            self.guard_here(overflows, false);
        }
        (self.binary(Opcode::Sdiv, dividend, divisor), self.binary(Opcode::Srem, dividend, divisor))
    }

    /// Division of a number of twice the divisor's width, guarded so that the quotient fits.
    fn wide_division(&mut self, dividend: Value, divisor: Value, signed: bool) -> (Value, Value) {
        let ty = self.ty(divisor);
        let wide = self.ty(dividend);
        let divisor = self.extended(wide, divisor, signed);
        let (quotient, remainder) = self.division(dividend, divisor, signed);
        let narrow = self.trunc(ty, quotient);
        let back = self.extended(wide, narrow, signed);
        let fits = self.compare(Opcode::Eq, back, quotient);
        self.guard_here(fits, true);
        (narrow, self.trunc(ty, remainder))
    }

    /// `high:low` as one number of twice the width.
    fn joined(&mut self, low: Value, high: Value) -> Value {
        let bits = self.ty(low).bits();
        let wide = if bits == 16 { Type::I32 } else { Type::I64 };
        let low = self.zext(wide, low);
        let high = self.zext(wide, high);
        let high = self.binary_const(Opcode::Shl, high, i64::from(bits));
        self.binary(Opcode::Or, high, low)
    }
}

/// The registers that hold the halves of a number of twice the width (unused for bytes, whose product is in ax).
fn halves(ty: Type) -> [Register; 2] {
    match ty.bits() {
        8 => [Register::AL, Register::AH],
        16 => [Register::AX, Register::DX],
        32 => [Register::EAX, Register::EDX],
        _ => [Register::RAX, Register::RDX],
    }
}
