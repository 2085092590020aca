//! Conversions between integers, single and double precision, and roundings to integral numbers.
//!
//! Conversions that truncate have an operation in the IR. Those that round as MXCSR says first round to an integral number
//! the way the machine's adder does it: adding and subtracting 2^52 leaves no room for a fraction. Worked example:
//! `cvtsd2si eax, xmm0` becomes `f64_to_int r`, where r is `fsub64 (fadd64 x, 2^52), 2^52` with the sign of x (2^52 has
//! it, too), or x itself if it is 2^52 or more.

use crate::lifter::Lifter;
use crate::operand::word;
use iced_x86::{Instruction, OpKind};
use redmagic_ir::{Inst, Opcode, Type, Value};

/// 2^52: from here on every `binary64` number is integral.
const INTEGRAL: f64 = 4_503_599_627_370_496.0;

impl Lifter<'_> {
    /// `cvtsi2sd`, `cvtsi2ss`.
    pub(crate) fn int_to_float(&mut self, inst: &Instruction, single: bool) {
        let a = self.read_operand(inst, self.last_source(inst), Type::I64);
        if single {
            let value = self.emit(Inst::unary(Opcode::F32FromInt, Type::I32, a));
            return self.write_single(inst, value);
        }
        let value = self.emit(Inst::unary(Opcode::F64FromInt, Type::I64, a));
        self.write_double(inst, value);
    }

    /// `cvttsd2si`, `cvtsd2si` (rounded) and those of single precision.
    pub(crate) fn float_to_int(&mut self, inst: &Instruction, single: bool, rounded: bool) {
        let register = inst.op0_register();
        let a = if single {
            let a = self.read_single(inst, 1);
            self.widened(a)
        } else {
            self.read_low(inst, 1)
        };
        let a = if rounded { self.rounded_as_set(a) } else { a };
        let value = self.emit(Inst::unary(Opcode::F64ToInt, word(register.size()), a));
        self.write_register(register, value);
    }

    /// `cvtss2sd`.
    pub(crate) fn single_to_double(&mut self, inst: &Instruction) {
        let a = self.read_single(inst, self.last_source(inst));
        let value = self.widened(a);
        self.write_double(inst, value);
    }

    /// `cvtsd2ss`.
    pub(crate) fn double_to_single(&mut self, inst: &Instruction) {
        let a = self.read_low(inst, self.last_source(inst));
        let value = self.narrowed(a);
        self.write_single(inst, value);
    }

    /// `cvtdq2pd` and `cvtps2pd`: the two low lanes, or four for a ymm register.
    pub(crate) fn widening_conversion(&mut self, inst: &Instruction, op: Opcode) {
        let register = inst.op0_register();
        let parts = if register.is_ymm() {
            self.read_full(inst, 1)
        } else {
            let low = self.read_low(inst, 1);
            [low, low]
        };
        let mut widened = |part| {
            [0, 1].map(|at| {
                let lane = self.lane_of_half(32, part, at);
                self.emit(Inst::unary(op, Type::I64, lane))
            })
        };
        let low = widened(parts[0]);
        let high = if register.is_ymm() { widened(parts[1]) } else { low };
        self.write_all(register, low, high);
    }

    /// `cvtdq2ps`.
    pub(crate) fn packed_int_to_single(&mut self, inst: &Instruction) {
        let source = self.read_full(inst, 1);
        let result = source.map(|half| {
            self.each(32, half, half, |lifter, a, _| lifter.emit(Inst::unary(Opcode::F32FromInt, Type::I32, a)))
        });
        self.write_lanes(inst.op0_register(), result);
    }

    /// `cvttps2dq`, `cvtps2dq` (rounded).
    pub(crate) fn packed_single_to_int(&mut self, inst: &Instruction, rounded: bool) {
        let source = self.read_full(inst, 1);
        let result = source.map(|half| {
            self.each(32, half, half, |lifter, a, _| {
                let a = lifter.widened(a);
                let a = if rounded { lifter.rounded_as_set(a) } else { a };
                lifter.emit(Inst::unary(Opcode::F64ToInt, Type::I32, a))
            })
        });
        self.write_lanes(inst.op0_register(), result);
    }

    /// `cvttpd2dq`, `cvtpd2dq` (rounded), `cvtpd2ps`: two lanes, and a cleared upper half; or four lanes.
    pub(crate) fn narrowing_conversion(&mut self, inst: &Instruction, op: Opcode, rounded: bool) {
        let lanes: Vec<Value> = self
            .read_whole(inst, 1)
            .into_iter()
            .map(|a| {
                let a = if rounded { self.rounded_as_set(a) } else { a };
                self.emit(Inst::unary(op, Type::I32, a))
            })
            .collect();
        let low = self.joined_lanes(32, &lanes[..2]);
        let high = self.joined_lanes(32, &lanes[2..]);
        self.write_lanes(inst.op0_register(), [low, high]);
    }

    /// `roundsd`.
    pub(crate) fn round_double(&mut self, inst: &Instruction) {
        let a = self.read_low(inst, self.last_source(inst));
        let value = self.rounded(a, inst);
        self.write_double(inst, value);
    }

    /// `roundss`.
    pub(crate) fn round_single(&mut self, inst: &Instruction) {
        let a = self.read_single(inst, self.last_source(inst));
        let value = self.rounded_single(a, inst);
        self.write_single(inst, value);
    }

    /// `roundpd`.
    pub(crate) fn round_doubles(&mut self, inst: &Instruction) {
        let source = self.read_full(inst, 1);
        let result = source.map(|a| self.rounded(a, inst));
        self.write_lanes(inst.op0_register(), result);
    }

    /// `roundps`.
    pub(crate) fn round_singles(&mut self, inst: &Instruction) {
        let source = self.read_full(inst, 1);
        let result = source.map(|half| self.each(32, half, half, |lifter, a, _| lifter.rounded_single(a, inst)));
        self.write_lanes(inst.op0_register(), result);
    }

    fn rounded_single(&mut self, a: Value, inst: &Instruction) -> Value {
        let wide = self.widened(a);
        let rounded = self.rounded(wide, inst);
        self.narrowed(rounded)
    }

    /// A number rounded as the immediate says.
    fn rounded(&mut self, a: Value, inst: &Instruction) -> Value {
        debug_assert_eq!(inst.op_kind(inst.op_count() - 1), OpKind::Immediate8);
        match inst.immediate(inst.op_count() - 1) & 7 {
            0 => self.unary(Opcode::Fnearest64, a),
            1 => self.unary(Opcode::Ffloor64, a),
            2 => self.unary(Opcode::Fceil64, a),
            3 => self.unary(Opcode::Ftrunc64, a),
            _ => self.rounded_as_set(a),
        }
    }

    /// A number rounded to an integral one as MXCSR says.
    fn rounded_as_set(&mut self, a: Value) -> Value {
        let sign = self.binary_const(Opcode::And, a, i64::MIN);
        let magnitude = self.binary_const(Opcode::And, a, i64::MAX);
        let limit = self.constant(Type::I64, INTEGRAL.to_bits() as i64);
        let has_fraction = self.compare(Opcode::Flt64, magnitude, limit);
        let offset = self.binary(Opcode::Or, sign, limit);
        let sum = self.binary(Opcode::Fadd64, a, offset);
        let difference = self.binary(Opcode::Fsub64, sum, offset);
        // A zero keeps the number's sign.
        let magnitude = self.binary_const(Opcode::And, difference, i64::MAX);
        let rounded = self.binary(Opcode::Or, magnitude, sign);
        // This makes a NaN quiet.
        let zero = self.constant(Type::I64, 0);
        let integral = self.binary(Opcode::Fadd64, a, zero);
        self.select(has_fraction, rounded, integral)
    }
}
