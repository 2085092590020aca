//! Single bits: tests, searches, counts, and moves of flags.
//!
//! Worked example: `bts eax, 3` becomes `or eax, 8` with `Kind::Carry` as the flags' definition: CF is the old bit,
//! the other flags stay (the manuals leave most of them undefined).

use crate::cover::{BitChange, BitCount, FlagMove};
use crate::flags::{Kind, SAHF_MASK};
use crate::int::operand_type;
use crate::lifter::Lifter;
use crate::operand::{gpr_slot, word};
use iced_x86::{Instruction, Register};
use redmagic_ir::{Cond, Opcode, Type};

impl Lifter<'_> {
    /// `bt`, `bts`, `btr`, `btc`; the bit number counts modulo the width.
    pub(crate) fn bit_test(&mut self, inst: &Instruction, change: BitChange) {
        let ty = operand_type(inst);
        let place = self.place(inst, 0);
        let a = self.read_place(place);
        let number = self.read_operand(inst, 1, ty);
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

    /// Writes a register unless `keep` holds; then all 64 bits stay.
    fn write_unless(&mut self, keep: redmagic_ir::Value, register: Register, value: redmagic_ir::Value) {
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
