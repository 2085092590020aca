//! Double-precision arithmetic, comparisons and conversions.
//!
//! The destination is the first operand of every operation: it decides which NaN survives. Worked example:
//! `ucomisd xmm0, xmm1; ja` notes `Kind::Float { a: xmm0.lo, b: xmm1.lo }` and guards `flt64 b, a`.

use crate::flags::Kind;
use crate::lifter::Lifter;
use crate::operand::word;
use iced_x86::{Instruction, OpKind};
use redmagic_ir::{Inst, Opcode, Type, Value};

impl Lifter<'_> {
    /// `addsd` and its like: the upper lane stays.
    pub(crate) fn float(&mut self, inst: &Instruction, op: Opcode) {
        let register = inst.op0_register();
        let b = self.read_low(inst, 1);
        let a = self.read_lane(register, 0);
        let value = self.binary(op, a, b);
        self.write_lane(register, 0, value);
    }

    pub(crate) fn square_root(&mut self, inst: &Instruction) {
        let a = self.read_low(inst, 1);
        let value = self.unary(Opcode::Fsqrt64, a);
        self.write_lane(inst.op0_register(), 0, value);
    }

    pub(crate) fn packed_square_root(&mut self, inst: &Instruction) {
        let source = self.read_full(inst, 1);
        for lane in [0, 1] {
            let value = self.unary(Opcode::Fsqrt64, source[usize::from(lane)]);
            self.write_lane(inst.op0_register(), lane, value);
        }
    }

    /// `ucomisd`, `comisd`.
    pub(crate) fn float_flags(&mut self, inst: &Instruction) {
        let b = self.read_low(inst, 1);
        let a = self.read_lane(inst.op0_register(), 0);
        self.set_flags(Kind::Float { a, b });
    }

    /// `cmpsd`.
    pub(crate) fn float_mask(&mut self, inst: &Instruction) {
        let register = inst.op0_register();
        let b = self.read_low(inst, 1);
        let a = self.read_lane(register, 0);
        let mask = self.mask(a, b, inst.immediate(2));
        self.write_lane(register, 0, mask);
    }

    /// `cmppd`.
    pub(crate) fn packed_float_mask(&mut self, inst: &Instruction) {
        let register = inst.op0_register();
        let source = self.read_full(inst, 1);
        for lane in [0, 1] {
            let a = self.read_lane(register, lane);
            let mask = self.mask(a, source[usize::from(lane)], inst.immediate(2));
            self.write_lane(register, lane, mask);
        }
    }

    /// All ones if the predicate (equal, less, less or equal, unordered, and their opposites) holds.
    fn mask(&mut self, a: Value, b: Value, predicate: u64) -> Value {
        let op = match predicate & 3 {
            0 => Opcode::Feq64,
            1 => Opcode::Flt64,
            2 => Opcode::Fle64,
            _ => Opcode::Funo64,
        };
        let holds = self.compare(op, a, b);
        let ones = self.constant(Type::I64, -1);
        let zero = self.constant(Type::I64, 0);
        if predicate & 4 == 0 { self.select(holds, ones, zero) } else { self.select(holds, zero, ones) }
    }

    /// `cvtsi2sd`.
    pub(crate) fn int_to_float(&mut self, inst: &Instruction) {
        let a = self.read_operand(inst, 1, Type::I64);
        let value = self.emit(Inst::unary(Opcode::F64FromInt, Type::I64, a));
        self.write_lane(inst.op0_register(), 0, value);
    }

    /// `cvttsd2si`.
    pub(crate) fn float_to_int(&mut self, inst: &Instruction) {
        let register = inst.op0_register();
        debug_assert_eq!(inst.op0_kind(), OpKind::Register);
        let a = self.read_low(inst, 1);
        let value = self.emit(Inst::unary(Opcode::F64ToInt, word(register.size()), a));
        self.write_register(register, value);
    }
}
