//! Shifts and rotations, also of two operands and through the carry flag.
//!
//! The machine takes the count modulo 32, or 64 for 64-bit operands; a count of 0 changes no flag. IR shifts take it
//! modulo the operand's width, so 8- and 16-bit operands are shifted in 32 bits. Worked example: `shl al, cl` becomes
//! `trunc (shl (zext al), cl)`, with `fl_shl al, (and cl, 31), old` as its flags.
//!
//! `shld`, `shrd`, `rcl` and `rcr` are rare: their flags are packed at once. Operand and carry (or both operands) stand
//! next to each other in a wider type, where one or two plain shifts move them: `rcl al, 3` rotates the 9 bits `CF:al`.

use crate::flags::Kind;
use crate::int::operand_type;
use crate::lifter::Lifter;
use iced_x86::Instruction;
use redmagic_ir::{CF, OF, Opcode, Type, Value};

/// Where packed flags have OF.
const OF_SHIFT: i64 = 11;

impl Lifter<'_> {
    /// `shlx`, `shrx`, `sarx`, `rorx`: no flags.
    pub(crate) fn plain_shift(&mut self, inst: &Instruction, op: Opcode) {
        let register = inst.op0_register();
        let ty = operand_type(inst);
        let a = self.read_operand(inst, 1, ty);
        let n = self.read_operand(inst, 2, Type::I8);
        // As the machine does, the operation takes the count modulo the width.
        let n = self.trunc(Type::I8, n);
        let r = self.binary(op, a, n);
        self.write_register(register, r);
    }

    /// `shl`, `shr`, `sar`.
    pub(crate) fn shift(&mut self, inst: &Instruction, op: Opcode) {
        let place = self.place(inst, 0);
        let a = self.read_place(place);
        let n = self.masked_count(inst, 1);
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
        let n = self.masked_count(inst, 1);
        let r = self.binary(op, a, n);
        if self.as_const(n) == Some(0) {
            return self.write_place(place, r);
        }
        let rest = self.flags_before();
        self.write_place(place, r);
        self.set_flags(Kind::Rotate { op, r, n, rest });
    }

    /// The count, operand `operand`, as an i8, as the machine masks it.
    fn masked_count(&mut self, inst: &Instruction, operand: u32) -> Value {
        let mask = if operand_type(inst) == Type::I64 { 63 } else { 31 };
        let count = self.read_operand(inst, operand, Type::I8);
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

    /// `shld` (left) and `shrd`. By more than the width of 16-bit operands the result is undefined.
    pub(crate) fn double_shift(&mut self, inst: &Instruction, left: bool) {
        let ty = operand_type(inst);
        let bits = i64::from(ty.bits());
        let place = self.place(inst, 0);
        let a = self.read_place(place);
        let b = self.read_operand(inst, 1, ty);
        let n = self.masked_count(inst, 2);
        if self.as_const(n) == Some(0) {
            return self.write_place(place, a);
        }
        let (r, out) = if ty.bits() == 16 {
            self.double_shift_words(a, b, n, left)
        } else {
            // For n = 0 the second part is 0: it is shifted by 1 and by the width less 1.
            let (near, far) = if left { (Opcode::Shl, Opcode::Lshr) } else { (Opcode::Lshr, Opcode::Shl) };
            let kept = self.binary(near, a, n);
            let by_one = self.binary_const(far, b, 1);
            let rest = self.binary_const(Opcode::Xor, n, bits - 1);
            let moved = self.binary(far, by_one, rest);
            let r = self.binary(Opcode::Or, kept, moved);
            // The bit shifted out last, in bit 0; counts of the width stand for 0.
            let back = if left { self.unary(Opcode::Neg, n) } else { self.binary_const(Opcode::Add, n, -1) };
            (r, self.binary(Opcode::Lshr, a, back))
        };
        let cf = self.trunc(Type::I1, out);
        let changed = self.binary(Opcode::Xor, a, r);
        let of = self.sign(changed);
        let old = self.flags_before();
        self.write_place(place, r);
        self.set_flags(Kind::Logic(r));
        let new = self.packed_flags();
        let new = self.with_carry_and_overflow(new, cf, of);
        self.set_flags(Kind::Packed(new));
        self.unless_zero(n, *old, new);
    }

    /// Of 16-bit operands: the result, and a value whose bit 0 is the one shifted out last.
    fn double_shift_words(&mut self, a: Value, b: Value, n: Value, left: bool) -> (Value, Value) {
        let (upper, lower) = if left { (a, b) } else { (b, a) };
        let upper = self.zext(Type::I32, upper);
        let upper = self.binary_const(Opcode::Shl, upper, 16);
        let lower = self.zext(Type::I32, lower);
        let both = self.binary(Opcode::Or, upper, lower);
        if left {
            let shifted = self.binary(Opcode::Shl, both, n);
            let r = self.binary_const(Opcode::Lshr, shifted, 16);
            let back = self.unary(Opcode::Neg, n);
            (self.trunc(Type::I16, r), self.binary(Opcode::Lshr, both, back))
        } else {
            let r = self.binary(Opcode::Lshr, both, n);
            let back = self.binary_const(Opcode::Add, n, -1);
            (self.trunc(Type::I16, r), self.binary(Opcode::Lshr, both, back))
        }
    }

    /// `rcl` (left) and `rcr`: the operand and CF rotate together.
    pub(crate) fn rotate_through_carry(&mut self, inst: &Instruction, left: bool) {
        let ty = operand_type(inst);
        let bits = i64::from(ty.bits());
        let place = self.place(inst, 0);
        let a = self.read_place(place);
        let count = self.masked_count(inst, 1);
        if self.as_const(count) == Some(0) {
            return self.write_place(place, a);
        }
        let wide = if ty == Type::I64 { Type::I128 } else { Type::I64 };
        let n = match self.as_const(count) {
            Some(constant) => self.constant(Type::I8, constant % (bits + 1)),
            None if bits < 32 => self.binary_const(Opcode::Urem, count, bits + 1),
            None => count,
        };
        let cf = self.carry_flag();
        let old = self.flags_before();
        let carry = self.zext(wide, cf);
        let width = self.constant(Type::I8, bits);
        let carry = self.binary(Opcode::Shl, carry, width);
        let low = self.zext(wide, a);
        let all = self.binary(Opcode::Or, low, carry);
        // Bits beyond the carry are cut off when the result is taken apart.
        let other = self.constant(Type::I8, bits + 1);
        let other = self.binary(Opcode::Sub, other, n);
        let (near, far) = if left { (Opcode::Shl, Opcode::Lshr) } else { (Opcode::Lshr, Opcode::Shl) };
        let kept = self.binary(near, all, n);
        let moved = self.binary(far, all, other);
        let rotated = self.binary(Opcode::Or, kept, moved);
        let r = self.trunc(ty, rotated);
        let carry = self.binary(Opcode::Lshr, rotated, width);
        let cf = self.trunc(Type::I1, carry);
        let of = if left {
            let sign = self.sign(r);
            self.binary(Opcode::Xor, sign, cf)
        } else {
            let twice = self.binary_const(Opcode::Shl, r, 1);
            let changed = self.binary(Opcode::Xor, r, twice);
            self.sign(changed)
        };
        self.write_place(place, r);
        self.set_flags(*old.clone());
        let packed = self.packed_flags();
        let new = self.with_carry_and_overflow(packed, cf, of);
        self.set_flags(Kind::Packed(new));
        self.unless_zero(count, *old, new);
    }

    /// Packed flags with other CF and OF.
    fn with_carry_and_overflow(&mut self, flags: Value, cf: Value, of: Value) -> Value {
        let cf = self.zext(Type::I32, cf);
        let of = self.zext(Type::I32, of);
        let of = self.binary_const(Opcode::Shl, of, OF_SHIFT);
        let both = self.binary(Opcode::Or, cf, of);
        self.merge_flags(flags, both, CF | OF)
    }

    /// Leaves the flags at `old` if the count `n` is 0, which only a variable count can be.
    fn unless_zero(&mut self, n: Value, old: Kind, new: Value) {
        if self.as_const(n).is_none() {
            self.set_flags(old);
            let old = self.packed_flags();
            let zero = self.compare_const(Opcode::Eq, n, 0);
            let flags = self.select(zero, old, new);
            self.set_flags(Kind::Packed(flags));
        }
    }
}
