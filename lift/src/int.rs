//! Integer moves and arithmetic.
//!
//! Worked example: `add dword [rdi+4], 1` loads an i32, adds, stores to the same address (computed once), and notes
//! `Kind::Add` as the flags' definition.

use crate::cover::{Alu, One};
use crate::flags::Kind;
use crate::lifter::Lifter;
use crate::operand::{Place, word};
use iced_x86::{Code, Instruction, OpKind, Register};
use redmagic_ir::{Cond, FLAGS_MASK, Opcode, Recorded, Slot, Type, Value, ZF};

impl Lifter<'_> {
    pub(crate) fn mov(&mut self, inst: &Instruction) {
        let ty = operand_type(inst);
        let value = self.read_operand(inst, 1, ty);
        self.write_operand(inst, 0, value);
    }

    /// `movzx`, `movsx`, `movsxd`.
    pub(crate) fn extended_move(&mut self, inst: &Instruction, signed: bool) {
        let ty = word(inst.op0_register().size());
        let value = self.read_operand(inst, 1, ty);
        let wide = if signed { self.sext(ty, value) } else { self.zext(ty, value) };
        self.write_register(inst.op0_register(), wide);
    }

    /// `lea` ignores segments.
    pub(crate) fn lea(&mut self, inst: &Instruction) {
        let address = self.offset_address(inst);
        let mut sum = address.root;
        if address.index.is_some() {
            let shift = i64::from(address.scale.trailing_zeros());
            let scaled = if shift == 0 { address.index } else { self.binary_const(Opcode::Shl, address.index, shift) };
            sum = if self.as_const(sum) == Some(0) { scaled } else { self.binary(Opcode::Add, sum, scaled) };
        }
        sum = self.offset(sum, i64::from(address.offset));
        let register = inst.op0_register();
        let value = self.trunc(word(register.size()), sum);
        self.write_register(register, value);
    }

    pub(crate) fn alu(&mut self, inst: &Instruction, op: Alu) {
        if op == Alu::Xor && same_registers(inst) {
            return self.clear(inst.op0_register());
        }
        let ty = operand_type(inst);
        let place = self.place(inst, 0);
        let a = self.read_place(place);
        let b = self.read_operand(inst, 1, ty);
        let result = match op {
            Alu::Cmp => {
                self.set_flags(Kind::Sub { a, b, r: None });
                return;
            }
            Alu::Add => self.add(a, b),
            Alu::Sub => self.sub(a, b),
            Alu::And | Alu::Test => self.binary(Opcode::And, a, b),
            Alu::Or => self.binary(Opcode::Or, a, b),
            Alu::Xor => self.binary(Opcode::Xor, a, b),
            Alu::Adc | Alu::Sbb => return self.with_carry(inst, op, place, a, b),
        };
        if op != Alu::Test {
            self.write_place(place, result);
        }
        self.set_flags(match op {
            Alu::Add => Kind::Add { a, b, r: result },
            Alu::Sub => Kind::Sub { a, b, r: Some(result) },
            _ => Kind::Logic(result),
        });
    }

    fn add(&mut self, a: Value, b: Value) -> Value {
        match self.as_const(b) {
            Some(constant) => self.offset(a, constant),
            None => self.binary(Opcode::Add, a, b),
        }
    }

    fn sub(&mut self, a: Value, b: Value) -> Value {
        match self.as_const(b) {
            Some(constant) => self.offset(a, constant.wrapping_neg()),
            None => self.binary(Opcode::Sub, a, b),
        }
    }

    /// `xor r, r` does not depend on r.
    fn clear(&mut self, register: Register) {
        let zero = self.constant(word(register.size()), 0);
        self.write_register(register, zero);
        self.set_flags(Kind::Logic(zero));
    }

    fn with_carry(&mut self, inst: &Instruction, op: Alu, place: Place, a: Value, b: Value) {
        let ty = self.ty(a);
        let c = self.carry_flag();
        let wide = self.zext(ty, c);
        let result = if op == Alu::Adc {
            let sum = self.binary(Opcode::Add, a, b);
            self.binary(Opcode::Add, sum, wide)
        } else if same_registers(inst) {
            self.unary(Opcode::Neg, wide)
        } else {
            let difference = self.binary(Opcode::Sub, a, b);
            self.binary(Opcode::Sub, difference, wide)
        };
        self.write_place(place, result);
        self.set_flags(if op == Alu::Adc {
            Kind::Adc { a, b, c, r: result }
        } else {
            Kind::Sbb { a, b, c, r: result }
        });
    }

    /// `inc`, `dec`, `neg`, `not`.
    pub(crate) fn one_operand(&mut self, inst: &Instruction, op: One) {
        let place = self.place(inst, 0);
        let a = self.read_place(place);
        let zero = self.constant(self.ty(a), 0);
        let r = match op {
            One::Inc => self.offset(a, 1),
            One::Dec => self.offset(a, -1),
            One::Neg => self.unary(Opcode::Neg, a),
            One::Not => self.unary(Opcode::Not, a),
        };
        self.write_place(place, r);
        match op {
            One::Inc => {
                let carry = self.carry_before();
                self.set_flags(Kind::Inc { a, r, carry });
            }
            One::Dec => {
                let carry = self.carry_before();
                self.set_flags(Kind::Dec { a, r, carry });
            }
            One::Neg => self.set_flags(Kind::Sub { a: zero, b: a, r: Some(r) }),
            One::Not => {}
        }
    }

    /// `cbw`, `cwde`, `cdqe`.
    pub(crate) fn widen_accumulator(&mut self, inst: &Instruction) {
        let (from, to) = match inst.code() {
            Code::Cbw => (Register::AL, Register::AX),
            Code::Cwde => (Register::AX, Register::EAX),
            _ => (Register::EAX, Register::RAX),
        };
        let value = self.read_register(from);
        let wide = self.sext(word(to.size()), value);
        self.write_register(to, wide);
    }

    /// `cwd`, `cdq`, `cqo`.
    pub(crate) fn sign_accumulator(&mut self, inst: &Instruction) {
        let (from, to) = match inst.code() {
            Code::Cwd => (Register::AX, Register::DX),
            Code::Cdq => (Register::EAX, Register::EDX),
            _ => (Register::RAX, Register::RDX),
        };
        let value = self.read_register(from);
        let sign = self.binary_const(Opcode::Ashr, value, i64::from(self.ty(value).bits()) - 1);
        self.write_register(to, sign);
    }

    pub(crate) fn set_on_condition(&mut self, inst: &Instruction, cond: Cond) {
        let bit = self.condition_bit(cond);
        let byte = self.zext(Type::I8, bit);
        self.write_operand(inst, 0, byte);
    }

    /// `cmovcc` reads its source, and clears the upper half of a 32-bit destination, in any case.
    pub(crate) fn move_on_condition(&mut self, inst: &Instruction, cond: Cond) {
        let register = inst.op0_register();
        let source = self.read_operand(inst, 1, word(register.size()));
        let old = self.read_register(register);
        let condition = self.condition(cond);
        let value = if condition.inverted {
            self.select(condition.value, old, source)
        } else {
            self.select(condition.value, source, old)
        };
        self.write_register(register, value);
    }

    /// `xchg`; a memory operand comes first.
    pub(crate) fn exchange(&mut self, inst: &Instruction) {
        let place = self.place(inst, 0);
        let second = inst.op1_register();
        let a = self.read_place(place);
        let b = self.read_register(second);
        self.write_place(place, b);
        self.write_register(second, a);
    }

    pub(crate) fn swap_bytes(&mut self, inst: &Instruction) {
        let register = inst.op0_register();
        let value = self.read_register(register);
        let swapped = self.unary(Opcode::Bswap, value);
        self.write_register(register, swapped);
    }

    /// `movbe`.
    pub(crate) fn swapped_move(&mut self, inst: &Instruction) {
        let ty = operand_type(inst);
        let value = self.read_operand(inst, 1, ty);
        let swapped = self.unary(Opcode::Bswap, value);
        self.write_operand(inst, 0, swapped);
    }

    /// `xadd`: the operands are exchanged, then added.
    pub(crate) fn exchange_add(&mut self, inst: &Instruction) {
        let ty = operand_type(inst);
        let place = self.place(inst, 0);
        let a = self.read_place(place);
        let b = self.read_operand(inst, 1, ty);
        let r = self.add(a, b);
        // With one register for both, the sum stays. A store that faults must leave the register alone.
        if let Place::Memory(..) = place {
            self.write_place(place, r);
            self.write_register(inst.op1_register(), a);
        } else {
            self.write_register(inst.op1_register(), a);
            self.write_place(place, r);
        }
        self.set_flags(Kind::Add { a, b, r });
    }

    /// `cmpxchg`: the destination becomes the source if it equals the accumulator, else the accumulator it.
    pub(crate) fn compare_exchange(&mut self, inst: &Instruction) {
        let ty = operand_type(inst);
        let place = self.place(inst, 0);
        let old = self.read_place(place);
        let new = self.read_operand(inst, 1, ty);
        let accumulator = accumulator(ty);
        let expected = self.read_register(accumulator);
        let equal = self.compare(Opcode::Eq, expected, old);
        let kept = self.read_slot(Slot::RAX);
        let stored = self.select(equal, new, old);
        self.write_register(accumulator, old);
        let loaded = self.read_slot(Slot::RAX);
        let rax = self.select(equal, kept, loaded);
        self.write_slot(Slot::RAX, rax);
        // It is written in any case; a register that is the accumulator itself, with what was read.
        self.write_place(place, stored);
        self.set_flags(Kind::Sub { a: expected, b: old, r: None });
    }

    /// `cmpxchg8b`: eight bytes become ecx:ebx if they are edx:eax, else edx:eax becomes them. Only ZF changes.
    pub(crate) fn compare_exchange_wide(&mut self, inst: &Instruction) {
        let address = self.address(inst);
        let old = self.load_operand(Type::I64, address);
        let pair = |lifter: &mut Self, low: Register, high: Register| {
            let (low, high) = (lifter.read_register(low), lifter.read_register(high));
            let (low, high) = (lifter.zext(Type::I64, low), lifter.zext(Type::I64, high));
            let high = lifter.binary_const(Opcode::Shl, high, 32);
            lifter.binary(Opcode::Or, low, high)
        };
        let expected = pair(self, Register::EAX, Register::EDX);
        let new = pair(self, Register::EBX, Register::ECX);
        let equal = self.compare(Opcode::Eq, expected, old);
        let stored = self.select(equal, new, old);
        let flags = self.packed_flags();
        self.store_operand(address, stored);
        let low = self.binary_const(Opcode::And, old, 0xffff_ffff);
        let high = self.binary_const(Opcode::Lshr, old, 32);
        for (slot, loaded) in [(Slot::RAX, low), (Slot::RDX, high)] {
            let kept = self.read_slot(slot);
            let value = self.select(equal, kept, loaded);
            self.write_slot(slot, value);
        }
        self.set_zero_flag(flags, equal);
    }

    /// `cmpxchg16b`: sixteen bytes become rcx:rbx if they are rdx:rax, else rdx:rax becomes them. Only ZF changes.
    pub(crate) fn compare_exchange_pair(&mut self, inst: &Instruction) {
        let address = self.address(inst);
        let low = self.load_operand(Type::I64, address);
        let upper = self.advance(address, 8);
        let high = self.load(Type::I64, upper, None);
        let [expected_low, expected_high, new_low, new_high] =
            [Slot::RAX, Slot::RDX, Slot::RBX, Slot::RCX].map(|slot| self.read_slot(slot));
        let equal_low = self.compare(Opcode::Eq, expected_low, low);
        let equal_high = self.compare(Opcode::Eq, expected_high, high);
        let equal = self.binary(Opcode::And, equal_low, equal_high);
        let flags = self.packed_flags();
        let stored_low = self.select(equal, new_low, low);
        let stored_high = self.select(equal, new_high, high);
        self.store_operand(address, stored_low);
        let seen = self.recorded(Type::I64);
        let seen = seen.map(|seen| Recorded { address: seen.address.wrapping_add(8), value: 0 });
        self.store(upper, stored_high, seen);
        let kept_low = self.select(equal, expected_low, low);
        let kept_high = self.select(equal, expected_high, high);
        self.write_slot(Slot::RAX, kept_low);
        self.write_slot(Slot::RDX, kept_high);
        self.set_zero_flag(flags, equal);
    }

    /// The flags are `flags`, but for ZF.
    fn set_zero_flag(&mut self, flags: Value, equal: Value) {
        let others = self.binary_const(Opcode::And, flags, i64::from(FLAGS_MASK & !ZF));
        let zf = self.zext(Type::I32, equal);
        let zf = self.binary_const(Opcode::Shl, zf, i64::from(ZF.trailing_zeros()));
        let flags = self.binary(Opcode::Or, others, zf);
        self.set_flags(Kind::Packed(flags));
    }

    /// Adds to a 64-bit register.
    pub(crate) fn adjust(&mut self, slot: Slot, delta: i64) {
        let value = self.read_slot(slot);
        let sum = self.offset(value, delta);
        self.write_slot(slot, sum);
    }
}

/// The part of rax that has a type.
pub(crate) fn accumulator(ty: Type) -> Register {
    match ty.bits() {
        8 => Register::AL,
        16 => Register::AX,
        32 => Register::EAX,
        _ => Register::RAX,
    }
}

/// The type that an integer instruction works in: that of its first operand.
pub(crate) fn operand_type(inst: &Instruction) -> Type {
    match inst.op0_kind() {
        OpKind::Register => word(inst.op0_register().size()),
        _ => word(inst.memory_size().size()),
    }
}

/// Whether both operands are the same register.
pub(crate) fn same_registers(inst: &Instruction) -> bool {
    let both = inst.op0_kind() == OpKind::Register && inst.op1_kind() == OpKind::Register;
    both && inst.op0_register() == inst.op1_register()
}
