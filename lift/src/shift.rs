//! Shifts and rotations.
//!
//! The machine takes the count modulo 32, or 64 for 64-bit operands; a count of 0 changes no flag. IR shifts take it
//! modulo the operand's width, so 8- and 16-bit operands are shifted in 32 bits. Worked example: `shl al, cl` becomes
//! `trunc (shl (zext al), cl)`, with `fl_shl al, (and cl, 31), old` as its flags.

use crate::flags::Kind;
use crate::int::operand_type;
use crate::lifter::Lifter;
use iced_x86::Instruction;
use redmagic_ir::{Opcode, Type, Value};

impl Lifter<'_> {
    /// `shl`, `shr`, `sar`.
    pub(crate) fn shift(&mut self, inst: &Instruction, op: Opcode) {
        let place = self.place(inst, 0);
        let a = self.read_place(place);
        let n = self.masked_count(inst);
        let r = self.shifted(op, a, n);
        let rest = match self.as_const(n) {
            Some(0) => return self.write_place(place, r),
            Some(_) => None,
            None => Some(self.flags_before()),
        };
        self.write_place(place, r);
        self.set_flags(Kind::Shift { op, a, n, r, rest });
    }

    /// `rol`, `ror`.
    pub(crate) fn rotate(&mut self, inst: &Instruction, op: Opcode) {
        let place = self.place(inst, 0);
        let a = self.read_place(place);
        let n = self.masked_count(inst);
        let r = self.binary(op, a, n);
        if self.as_const(n) == Some(0) {
            return self.write_place(place, r);
        }
        let rest = self.flags_before();
        self.write_place(place, r);
        self.set_flags(Kind::Rotate { op, r, n, rest });
    }

    /// The count as an i8, as the machine masks it.
    fn masked_count(&mut self, inst: &Instruction) -> Value {
        let mask = if operand_type(inst) == Type::I64 { 63 } else { 31 };
        let count = self.read_operand(inst, 1, Type::I8);
        match self.as_const(count) {
            Some(constant) => self.constant(Type::I8, constant & mask),
            None => self.binary_const(Opcode::And, count, mask),
        }
    }

    /// `a` shifted by the masked count `n`, which may exceed the width of narrow operands.
    fn shifted(&mut self, op: Opcode, a: Value, n: Value) -> Value {
        let ty = self.ty(a);
        let fits = self.as_const(n).is_some_and(|count| count < i64::from(ty.bits()));
        if fits || ty.bits() >= 32 {
            return self.binary(op, a, n);
        }
        let wide = if op == Opcode::Ashr { self.sext(Type::I32, a) } else { self.zext(Type::I32, a) };
        let shifted = self.binary(op, wide, n);
        self.trunc(ty, shifted)
    }
}
