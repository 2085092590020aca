//! Single bits: tests, searches, counts, and moves of flags.
//!
//! Worked example: `bts eax, 3` becomes `or eax, 8` with `Kind::Carry` as the flags' definition: CF is the old bit,
//! the other flags stay (the manuals leave most of them undefined).

use crate::cover::{BitChange, BitCount, FlagMove, LowestBit};
use crate::flags::{Kind, SAHF_MASK};
use crate::int::operand_type;
use crate::lifter::{Lifter, Seen};
use crate::operand::{Place, gpr_slot, word};
use iced_x86::{Instruction, OpKind, Register};
use redmagic_ir::{Cond, Opcode, Slot, Type, Value};

impl Lifter<'_> {
    /// `bt`, `bts`, `btr`, `btc`; the bit number counts modulo the width. With a register as the number and an operand
    /// in memory, the operand is the one of its size that contains the bit, before or behind the address.
    pub(crate) fn bit_test(&mut self, inst: &Instruction, change: BitChange) {
        let ty = operand_type(inst);
        let mut place = self.place(inst, 0);
        let number = self.read_operand(inst, 1, ty);
        if let (Place::Memory(mut address, _), OpKind::Register) = (place, inst.op1_kind()) {
            let whole = self.sext(Type::I64, number);
            let operands = self.binary_const(Opcode::Ashr, whole, i64::from(ty.bits().trailing_zeros()));
            let bytes = self.binary_const(Opcode::Shl, operands, i64::from(ty.bytes().trailing_zeros()));
            address.root = self.binary(Opcode::Add, address.root, bytes);
            place = Place::Memory(address, ty);
            // What the recorder saw was at the address itself.
            self.seen = Seen::default();
        }
        let a = self.read_place(place);
        let shifted = self.binary(Opcode::Lshr, a, number);
        let cf = self.trunc(Type::I1, shifted);
        if change != BitChange::Keep {
            let one = self.constant(ty, 1);
            let bit = self.binary(Opcode::Shl, one, number);
            let r = match change {
                BitChange::Set => self.binary(Opcode::Or, a, bit),
                BitChange::Complement => self.binary(Opcode::Xor, a, bit),
                BitChange::Reset | BitChange::Keep => {
                    let others = self.unary(Opcode::Not, bit);
                    self.binary(Opcode::And, a, others)
                }
            };
            self.write_place(place, r);
        }
        let rest = self.flags_before();
        self.set_flags(Kind::Carry { cf, rest });
    }

    /// `bsf`, `bsr`, `tzcnt`, `lzcnt`, `popcnt`.
    pub(crate) fn bit_count(&mut self, inst: &Instruction, count: BitCount) {
        let register = inst.op0_register();
        let ty = word(register.size());
        let a = self.read_operand(inst, 1, ty);
        let is_zero = self.compare_const(Opcode::Eq, a, 0);
        match count {
            BitCount::ScanForward | BitCount::ScanReverse => {
                let found = if count == BitCount::ScanForward {
                    self.unary(Opcode::Ctz, a)
                } else {
                    let zeros = self.unary(Opcode::Clz, a);
                    let top = self.constant(ty, i64::from(ty.bits()) - 1);
                    self.binary(Opcode::Sub, top, zeros)
                };
                self.write_unless(is_zero, register, found);
                self.set_flags(Kind::Bits { zf: Some(is_zero), cf: None });
            }
            BitCount::TrailingZeros | BitCount::LeadingZeros => {
                let op = if count == BitCount::TrailingZeros { Opcode::Ctz } else { Opcode::Clz };
                let r = self.unary(op, a);
                let result_zero = self.compare_const(Opcode::Eq, r, 0);
                self.write_register(register, r);
                self.set_flags(Kind::Bits { zf: Some(result_zero), cf: Some(is_zero) });
            }
            BitCount::Ones => {
                let r = self.unary(Opcode::Popcnt, a);
                self.write_register(register, r);
                self.set_flags(Kind::Bits { zf: Some(is_zero), cf: None });
            }
        }
    }

    /// `andn`.
    pub(crate) fn and_not(&mut self, inst: &Instruction) {
        let ty = operand_type(inst);
        let a = self.read_operand(inst, 1, ty);
        let b = self.read_operand(inst, 2, ty);
        let not = self.unary(Opcode::Not, a);
        let r = self.binary(Opcode::And, not, b);
        self.write_register(inst.op0_register(), r);
        self.set_flags(Kind::Logic(r));
    }

    /// `pdep`, `pext`: no flags.
    pub(crate) fn scatter(&mut self, inst: &Instruction, op: Opcode) {
        let ty = operand_type(inst);
        let a = self.read_operand(inst, 1, ty);
        let b = self.read_operand(inst, 2, ty);
        let value = self.binary(op, a, b);
        self.write_register(inst.op0_register(), value);
    }

    /// `blsr`, `blsmsk`, `blsi`: the lowest set bit.
    pub(crate) fn lowest_bit(&mut self, inst: &Instruction, change: LowestBit) {
        let ty = operand_type(inst);
        let a = self.read_operand(inst, 1, ty);
        let (r, test) = match change {
            LowestBit::Isolate => {
                let negative = self.unary(Opcode::Neg, a);
                (self.binary(Opcode::And, a, negative), Opcode::Ne)
            }
            LowestBit::Reset | LowestBit::Mask => {
                let less = self.binary_const(Opcode::Add, a, -1);
                let op = if change == LowestBit::Reset { Opcode::And } else { Opcode::Xor };
                (self.binary(op, a, less), Opcode::Eq)
            }
        };
        let cf = self.compare_const(test, a, 0);
        self.write_register(inst.op0_register(), r);
        self.set_flags(Kind::Carry { cf, rest: Box::new(Kind::Logic(r)) });
    }

    /// `bzhi`: the bits from a number on are cleared.
    pub(crate) fn clear_high(&mut self, inst: &Instruction) {
        let ty = operand_type(inst);
        let a = self.read_operand(inst, 1, ty);
        let number = self.read_operand(inst, 2, ty);
        let number = self.trunc(Type::I8, number);
        let r = self.low_bits(a, number);
        let cf = self.compare_const(Opcode::Ult, number, i64::from(ty.bits()));
        let cf = self.invert(cf);
        self.write_register(inst.op0_register(), r);
        self.set_flags(Kind::Carry { cf, rest: Box::new(Kind::Logic(r)) });
    }

    /// `bextr`: bits 0 to 7 of the last operand are the first bit's number, bits 8 to 15 the number of bits.
    pub(crate) fn extract_bits(&mut self, inst: &Instruction) {
        let ty = operand_type(inst);
        let a = self.read_operand(inst, 1, ty);
        let control = self.read_operand(inst, 2, ty);
        let start = self.trunc(Type::I8, control);
        let length = self.binary_const(Opcode::Lshr, control, 8);
        let length = self.trunc(Type::I8, length);
        let shifted = self.binary(Opcode::Lshr, a, start);
        let inside = self.compare_const(Opcode::Ult, start, i64::from(ty.bits()));
        let zero = self.constant(ty, 0);
        let shifted = self.select(inside, shifted, zero);
        let r = self.low_bits(shifted, length);
        let zf = self.compare_const(Opcode::Eq, r, 0);
        self.write_register(inst.op0_register(), r);
        self.set_flags(Kind::Bits { zf: Some(zf), cf: None });
    }

    /// The low `count` (i8) bits of `a`, all of them if it has no more.
    fn low_bits(&mut self, a: Value, count: Value) -> Value {
        let ty = self.ty(a);
        let ones = self.constant(ty, -1);
        let above = self.binary(Opcode::Shl, ones, count);
        let mask = self.unary(Opcode::Not, above);
        let low = self.binary(Opcode::And, a, mask);
        let fewer = self.compare_const(Opcode::Ult, count, i64::from(ty.bits()));
        self.select(fewer, low, a)
    }

    /// `mulx`: both halves of rdx times the operand; no flags.
    pub(crate) fn product_halves(&mut self, inst: &Instruction) {
        let ty = operand_type(inst);
        let b = self.read_operand(inst, 2, ty);
        let a = self.read_slot(Slot::RDX);
        let a = self.trunc(ty, a);
        let low = self.binary(Opcode::Mul, a, b);
        let high = self.binary(Opcode::Umulhi, a, b);
        // With one register for both, the high half stays.
        self.write_register(inst.op1_register(), low);
        self.write_register(inst.op0_register(), high);
    }

    /// Writes a register unless `keep` holds; then all 64 bits stay.
    fn write_unless(&mut self, keep: Value, register: Register, value: Value) {
        let slot = gpr_slot(register);
        let old = self.read_slot(slot);
        self.write_register(register, value);
        let new = self.read_slot(slot);
        let result = self.select(keep, old, new);
        self.write_slot(slot, result);
    }

    /// `clc`, `stc`, `cmc`, `lahf`, `sahf`.
    pub(crate) fn move_flags(&mut self, change: FlagMove) {
        let cf = match change {
            FlagMove::Clear => self.constant(Type::I1, 0),
            FlagMove::Set => self.constant(Type::I1, 1),
            FlagMove::Complement => self.condition_bit(Cond::Ae),
            FlagMove::Load => {
                let packed = self.packed_flags();
                let byte = self.trunc(Type::I8, packed);
                // Bit 1 of RFLAGS is always 1.
                let byte = self.binary_const(Opcode::Or, byte, 2);
                return self.write_register(Register::AH, byte);
            }
            FlagMove::Store => {
                let old = self.packed_flags();
                let byte = self.read_register(Register::AH);
                let new = self.zext(Type::I32, byte);
                let merged = self.merge_flags(old, new, SAHF_MASK);
                return self.set_flags(Kind::Packed(merged));
            }
        };
        let rest = self.flags_before();
        self.set_flags(Kind::Carry { cf, rest });
    }
}
