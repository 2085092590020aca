//! Single-precision arithmetic, comparisons and conversions.
//!
//! A number is an i32. Comparisons, minima and roundings are made with the same numbers in double precision, which
//! holds them exactly. Worked example: `addss xmm0, xmm1` becomes
//! `xmm0.lo = or (and xmm0.lo, 0xffffffff00000000), (zext (fadd32 (trunc xmm0.lo), (trunc xmm1.lo)))`.

use crate::flags::Kind;
use crate::lifter::Lifter;
use crate::sse::Sources;
use iced_x86::{Instruction, OpKind};
use redmagic_ir::{Inst, Opcode, Type, Value};

impl Lifter<'_> {
    /// The lowest number of a vector operand, or one in memory.
    pub(crate) fn read_single(&mut self, inst: &Instruction, operand: u32) -> Value {
        if inst.op_kind(operand) == OpKind::Memory {
            let address = self.address(inst);
            return self.load_operand(Type::I32, address);
        }
        let low = self.read_lane(inst.op_register(operand), 0);
        self.trunc(Type::I32, low)
    }

    /// Writes the lowest number of the destination; the others come from the first source.
    pub(crate) fn write_single(&mut self, inst: &Instruction, value: Value) {
        let first = self.first_source(inst);
        let low = self.read_lane(first, 0);
        let low = self.with_lane(32, low, 0, value);
        self.write_double(inst, low);
    }

    pub(crate) fn widened(&mut self, value: Value) -> Value {
        self.emit(Inst::unary(Opcode::F64FromF32, Type::I64, value))
    }

    pub(crate) fn narrowed(&mut self, value: Value) -> Value {
        self.emit(Inst::unary(Opcode::F32FromF64, Type::I32, value))
    }

    /// `addss` and its like.
    pub(crate) fn single(&mut self, inst: &Instruction, op: Opcode) {
        let b = self.read_single(inst, self.last_source(inst));
        let a = self.first_source(inst);
        let a = self.read_lane(a, 0);
        let a = self.trunc(Type::I32, a);
        let value = self.single_result(op, a, b);
        self.write_single(inst, value);
    }

    /// `addps` and its like.
    pub(crate) fn packed_single(&mut self, inst: &Instruction, op: Opcode) {
        let Sources { register, a, b } = self.sources(inst);
        let result = [0, 1].map(|half| self.each(32, a[half], b[half], |lifter, a, b| lifter.single_result(op, a, b)));
        self.write_lanes(register, result);
    }

    /// An operation on two numbers; minima and maxima are named by those of double precision.
    fn single_result(&mut self, op: Opcode, a: Value, b: Value) -> Value {
        if !matches!(op, Opcode::Fmin64 | Opcode::Fmax64) {
            return self.binary(op, a, b);
        }
        let (x, y) = (self.widened(a), self.widened(b));
        let first =
            if op == Opcode::Fmin64 { self.compare(Opcode::Flt64, x, y) } else { self.compare(Opcode::Flt64, y, x) };
        self.select(first, a, b)
    }

    /// `sqrtss`.
    pub(crate) fn single_root(&mut self, inst: &Instruction) {
        let a = self.read_single(inst, self.last_source(inst));
        let value = self.unary(Opcode::Fsqrt32, a);
        self.write_single(inst, value);
    }

    /// `sqrtps`.
    pub(crate) fn packed_single_root(&mut self, inst: &Instruction) {
        let source = self.read_full(inst, 1);
        let result = source.map(|half| self.each(32, half, half, |lifter, a, _| lifter.unary(Opcode::Fsqrt32, a)));
        self.write_lanes(inst.op0_register(), result);
    }

    /// `ucomiss`, `comiss`.
    pub(crate) fn single_flags(&mut self, inst: &Instruction) {
        let b = self.read_single(inst, 1);
        let b = self.widened(b);
        let a = self.read_lane(inst.op0_register(), 0);
        let a = self.trunc(Type::I32, a);
        let a = self.widened(a);
        self.set_flags(Kind::Float { a, b });
    }

    /// `cmpss`.
    pub(crate) fn single_mask(&mut self, inst: &Instruction) {
        let predicate = self.predicate(inst);
        let b = self.read_single(inst, self.last_source(inst));
        let a = self.first_source(inst);
        let a = self.read_lane(a, 0);
        let a = self.trunc(Type::I32, a);
        let mask = self.single_comparison(a, b, predicate);
        self.write_single(inst, mask);
    }

    /// `cmpps`.
    pub(crate) fn packed_single_mask(&mut self, inst: &Instruction) {
        let predicate = self.predicate(inst);
        let Sources { register, a, b } = self.sources(inst);
        let result = [0, 1]
            .map(|half| self.each(32, a[half], b[half], |lifter, a, b| lifter.single_comparison(a, b, predicate)));
        self.write_lanes(register, result);
    }

    fn single_comparison(&mut self, a: Value, b: Value, predicate: u64) -> Value {
        let (a, b) = (self.widened(a), self.widened(b));
        let mask = self.mask(a, b, predicate);
        self.trunc(Type::I32, mask)
    }
}
