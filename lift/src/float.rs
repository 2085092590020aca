//! Double-precision arithmetic and comparisons.
//!
//! The destination is the first operand of every operation: it decides which NaN survives. Worked example:
//! `ucomisd xmm0, xmm1; ja` notes `Kind::Float { a: xmm0.lo, b: xmm1.lo }` and guards `flt64 b, a`.

use crate::flags::Kind;
use crate::lifter::Lifter;
use crate::sse::Sources;
use iced_x86::{EncodingKind, Instruction};
use redmagic_ir::{Opcode, Type, Value};

impl Lifter<'_> {
    /// `addsd` and its like: the upper lane stays.
    pub(crate) fn float(&mut self, inst: &Instruction, op: Opcode) {
        let b = self.read_low(inst, self.last_source(inst));
        let a = self.first_source(inst);
        let a = self.read_lane(a, 0);
        let value = self.binary(op, a, b);
        self.write_double(inst, value);
    }

    pub(crate) fn square_root(&mut self, inst: &Instruction) {
        let a = self.read_low(inst, self.last_source(inst));
        let value = self.unary(Opcode::Fsqrt64, a);
        self.write_double(inst, value);
    }

    pub(crate) fn packed_square_root(&mut self, inst: &Instruction) {
        let source = self.read_full(inst, 1);
        let result = source.map(|a| self.unary(Opcode::Fsqrt64, a));
        self.write_lanes(inst.op0_register(), result);
    }

    /// `ucomisd`, `comisd`.
    pub(crate) fn float_flags(&mut self, inst: &Instruction) {
        let b = self.read_low(inst, 1);
        let a = self.read_lane(inst.op0_register(), 0);
        self.set_flags(Kind::Float { a, b });
    }

    /// `cmpsd`.
    pub(crate) fn float_mask(&mut self, inst: &Instruction) {
        let predicate = self.predicate(inst);
        let b = self.read_low(inst, self.last_source(inst));
        let a = self.first_source(inst);
        let a = self.read_lane(a, 0);
        let mask = self.mask(a, b, predicate);
        self.write_double(inst, mask);
    }

    /// `cmppd`.
    pub(crate) fn packed_float_mask(&mut self, inst: &Instruction) {
        let predicate = self.predicate(inst);
        let Sources { register, a, b } = self.sources(inst);
        let result = [0, 1].map(|half| self.mask(a[half], b[half], predicate));
        self.write_lanes(register, result);
    }

    /// The predicate of a comparison: 0 to 7, with a VEX prefix to 15 (bit 4 only decides which NaNs are reported).
    pub(crate) fn predicate(&self, inst: &Instruction) -> u64 {
        let last = inst.immediate(inst.op_count() - 1);
        if inst.encoding() == EncodingKind::Legacy { last & 7 } else { last & 15 }
    }

    /// All ones if the predicate holds. 0 to 3 are equal, less, less or equal, unordered, 4 to 7 their opposites; 8 to
    /// 15 are the same with the operands exchanged, but for 8, 12 (equal or unordered, neither), 11 (never), 15.
    pub(crate) fn mask(&mut self, a: Value, b: Value, predicate: u64) -> Value {
        let opposite = predicate & 4 != 0;
        let (holds, inverted) = match predicate {
            0 | 4 => (self.compare(Opcode::Feq64, a, b), opposite),
            1 | 5 => (self.compare(Opcode::Flt64, a, b), opposite),
            2 | 6 => (self.compare(Opcode::Fle64, a, b), opposite),
            3 | 7 => (self.compare(Opcode::Funo64, a, b), opposite),
            8 | 12 => {
                let equal = self.compare(Opcode::Feq64, a, b);
                let unordered = self.compare(Opcode::Funo64, a, b);
                (self.binary(Opcode::Or, equal, unordered), opposite)
            }
            9 | 13 => (self.compare(Opcode::Fle64, b, a), !opposite),
            10 | 14 => (self.compare(Opcode::Flt64, b, a), !opposite),
            _ => (self.constant(Type::I1, 0), opposite),
        };
        let ones = self.constant(Type::I64, -1);
        let zero = self.constant(Type::I64, 0);
        if inverted { self.select(holds, zero, ones) } else { self.select(holds, ones, zero) }
    }
}
