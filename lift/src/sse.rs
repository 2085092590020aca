//! Vector moves, logic and shuffles, on 64-bit lanes.
//!
//! An xmm register is two slots, and no rule here needs more than 64-bit arithmetic. Worked example:
//! `unpcklpd xmm0, xmm1` is `xmm0.hi = xmm1.lo`; `pxor xmm0, xmm0` sets both lanes to 0 without reading them.

use crate::cover::Logic;
use crate::lifter::Lifter;
use crate::operand::lane_slot;
use iced_x86::{EncodingKind, Instruction, OpKind, Register};
use redmagic_ir::{Opcode, Recorded, Type, Value};

/// The operands of an instruction with two vector sources, before it changes anything.
pub(crate) struct Sources {
    /// The destination.
    pub register: Register,
    /// The halves of the first source: the destination itself, unless the encoding names three registers.
    pub a: [Value; 2],
    /// The halves of the second source, in a register or in memory.
    pub b: [Value; 2],
}

/// Whether the first source is an operand of its own.
fn has_own_source(inst: &Instruction) -> bool {
    let third = || matches!(inst.op2_kind(), OpKind::Register | OpKind::Memory);
    inst.encoding() == EncodingKind::VEX && inst.op_count() >= 3 && third()
}

/// The immediate, which is the last operand.
fn control(inst: &Instruction) -> u64 {
    inst.immediate(inst.op_count() - 1)
}

impl Lifter<'_> {
    pub(crate) fn sources(&mut self, inst: &Instruction) -> Sources {
        let b = self.read_full(inst, self.last_source(inst));
        let first = self.first_source(inst);
        Sources { register: inst.op0_register(), a: [self.read_lane(first, 0), self.read_lane(first, 1)], b }
    }

    /// The register of the first source.
    pub(crate) fn first_source(&self, inst: &Instruction) -> Register {
        if has_own_source(inst) { inst.op1_register() } else { inst.op0_register() }
    }

    /// The operand that is the second source, or the only one.
    pub(crate) fn last_source(&self, inst: &Instruction) -> u32 {
        if has_own_source(inst) { 2 } else { 1 }
    }

    /// Whether both sources are the same register.
    fn has_same_sources(&self, inst: &Instruction) -> bool {
        let last = self.last_source(inst);
        inst.op_kind(last) == OpKind::Register && inst.op_register(last) == self.first_source(inst)
    }

    /// Writes one lane; the other one is that of the first source.
    pub(crate) fn replace_lane(&mut self, inst: &Instruction, lane: u8, value: Value) {
        let (first, register) = (self.first_source(inst), inst.op0_register());
        if first != register {
            let other = self.read_lane(first, 1 - lane);
            self.write_lane(register, 1 - lane, other);
        }
        self.write_lane(register, lane, value);
    }

    /// Writes the low lane; the upper one is that of the first source.
    pub(crate) fn write_double(&mut self, inst: &Instruction, low: Value) {
        self.replace_lane(inst, 0, low);
    }

    /// A lane of the half that is worked on.
    pub(crate) fn read_lane(&mut self, register: Register, lane: u8) -> Value {
        self.read_slot(lane_slot(register, 2 * self.half + lane))
    }

    pub(crate) fn write_lane(&mut self, register: Register, lane: u8, value: Value) {
        self.write_slot(lane_slot(register, 2 * self.half + lane), value);
    }

    pub(crate) fn write_lanes(&mut self, register: Register, [low, high]: [Value; 2]) {
        self.write_lane(register, 0, low);
        self.write_lane(register, 1, high);
    }

    /// The low 64 bits of an xmm operand, or a 64-bit memory operand.
    pub(crate) fn read_low(&mut self, inst: &Instruction, operand: u32) -> Value {
        if inst.op_kind(operand) == OpKind::Memory {
            let address = self.address(inst);
            return self.load_operand(Type::I64, address);
        }
        self.read_lane(inst.op_register(operand), 0)
    }

    /// All 128 bits of an xmm or memory operand. Only the low half of a memory operand is noted.
    pub(crate) fn read_full(&mut self, inst: &Instruction, operand: u32) -> [Value; 2] {
        if inst.op_kind(operand) == OpKind::Memory {
            let address = self.address(inst);
            let low = self.load_operand(Type::I64, address);
            let upper = self.advance(address, 8);
            return [low, self.load(Type::I64, upper, None)];
        }
        let register = inst.op_register(operand);
        [self.read_lane(register, 0), self.read_lane(register, 1)]
    }

    pub(crate) fn move_full(&mut self, inst: &Instruction) {
        let value = self.read_full(inst, 1);
        if inst.op0_kind() != OpKind::Memory {
            return self.write_lanes(inst.op0_register(), value);
        }
        let address = self.address(inst);
        self.store_operand(address, value[0]);
        let upper = self.advance(address, 8);
        let recorded =
            self.recorded(Type::I64).map(|seen| Recorded { address: seen.address.wrapping_add(8), value: 0 });
        self.store(upper, value[1], recorded);
    }

    /// `movsd` and `movss`: a load clears the rest of the register, a register move keeps it.
    pub(crate) fn move_scalar(&mut self, inst: &Instruction, ty: Type) {
        if inst.op0_kind() == OpKind::Memory {
            let low = self.read_lane(inst.op1_register(), 0);
            let value = self.trunc(ty, low);
            let address = self.address(inst);
            return self.store_operand(address, value);
        }
        let register = inst.op0_register();
        if inst.op1_kind() == OpKind::Memory {
            let address = self.address(inst);
            let value = self.load_operand(ty, address);
            let low = self.zext(Type::I64, value);
            let zero = self.constant(Type::I64, 0);
            return self.write_lanes(register, [low, zero]);
        }
        let low = self.read_lane(inst.op_register(self.last_source(inst)), 0);
        if ty == Type::I32 {
            let narrow = self.trunc(Type::I32, low);
            return self.write_single(inst, narrow);
        }
        self.write_double(inst, low);
    }

    /// `movq` and `movd` in all directions.
    pub(crate) fn move_clearing(&mut self, inst: &Instruction) {
        let source = match inst.op1_kind() {
            OpKind::Register if inst.op1_register().is_xmm() => self.read_lane(inst.op1_register(), 0),
            _ => self.read_operand(inst, 1, Type::I64),
        };
        if inst.op0_kind() == OpKind::Register && inst.op0_register().is_xmm() {
            let low = self.zext(Type::I64, source);
            let zero = self.constant(Type::I64, 0);
            return self.write_lanes(inst.op0_register(), [low, zero]);
        }
        let value = self.trunc(crate::int::operand_type(inst), source);
        self.write_operand(inst, 0, value);
    }

    /// `movlps` and `movhps` and their twins: one lane from or to memory.
    pub(crate) fn move_lane(&mut self, inst: &Instruction, lane: u8) {
        let address = self.address(inst);
        if inst.op0_kind() == OpKind::Memory {
            let value = self.read_lane(inst.op1_register(), lane);
            return self.store_operand(address, value);
        }
        let value = self.load_operand(Type::I64, address);
        self.replace_lane(inst, lane, value);
    }

    pub(crate) fn copy_lane(&mut self, inst: &Instruction, from: u8, to: u8) {
        let value = self.read_lane(inst.op_register(self.last_source(inst)), from);
        self.replace_lane(inst, to, value);
    }

    pub(crate) fn duplicate(&mut self, inst: &Instruction) {
        let low = self.read_low(inst, 1);
        self.write_lanes(inst.op0_register(), [low, low]);
    }

    /// `movmskpd`.
    pub(crate) fn sign_mask(&mut self, inst: &Instruction) {
        let lanes = self.read_whole(inst, 1);
        let mut mask = self.binary_const(Opcode::Lshr, lanes[0], 63);
        for (lane, at) in lanes.into_iter().zip(0..).skip(1) {
            let shifted = self.binary_const(Opcode::Lshr, lane, 63 - at);
            let sign = self.binary_const(Opcode::And, shifted, 1 << at);
            mask = self.binary(Opcode::Or, mask, sign);
        }
        self.write_slot(crate::operand::gpr_slot(inst.op0_register()), mask);
    }

    pub(crate) fn vector_logic(&mut self, inst: &Instruction, op: Logic) {
        if op == Logic::Xor && self.has_same_sources(inst) {
            let zero = self.constant(Type::I64, 0);
            return self.write_lanes(inst.op0_register(), [zero, zero]);
        }
        let Sources { register, a, b } = self.sources(inst);
        let result = [0, 1].map(|half| {
            let (a, b) = (a[half], b[half]);
            match op {
                Logic::And => self.binary(Opcode::And, a, b),
                Logic::Or => self.binary(Opcode::Or, a, b),
                Logic::Xor => self.binary(Opcode::Xor, a, b),
                Logic::AndNot => {
                    let not = self.unary(Opcode::Not, a);
                    self.binary(Opcode::And, not, b)
                }
            }
        });
        self.write_lanes(register, result);
    }

    /// The same operation on both lanes.
    pub(crate) fn each_lane(&mut self, inst: &Instruction, op: Opcode) {
        let Sources { register, a, b } = self.sources(inst);
        let result = [0, 1].map(|half| self.binary(op, a[half], b[half]));
        self.write_lanes(register, result);
    }

    /// `haddpd`, `hsubpd`: the lanes of each source with each other.
    pub(crate) fn horizontal(&mut self, inst: &Instruction, op: Opcode) {
        let Sources { register, a, b } = self.sources(inst);
        let result = [a, b].map(|[low, high]| self.binary(op, low, high));
        self.write_lanes(register, result);
    }

    /// `addsubpd`.
    pub(crate) fn difference_and_sum(&mut self, inst: &Instruction) {
        let Sources { register, a, b } = self.sources(inst);
        let result = [self.binary(Opcode::Fsub64, a[0], b[0]), self.binary(Opcode::Fadd64, a[1], b[1])];
        self.write_lanes(register, result);
    }

    pub(crate) fn unpack64(&mut self, inst: &Instruction, high: bool) {
        let Sources { register, a, b } = self.sources(inst);
        let half = usize::from(high);
        self.write_lanes(register, [a[half], b[half]]);
    }

    pub(crate) fn unpack32(&mut self, inst: &Instruction, high: bool) {
        let Sources { register, a, b } = self.sources(inst);
        let half = usize::from(high);
        let (a, b) = (a[half], b[half]);
        let result = [self.doublewords(a, 0, b, 0), self.doublewords(a, 1, b, 1)];
        self.write_lanes(register, result);
    }

    /// `movsldup`, `movshdup`: the even or the odd 32-bit parts twice.
    pub(crate) fn duplicate_parts(&mut self, inst: &Instruction, odd: bool) {
        let source = self.read_full(inst, 1);
        let half = u64::from(odd);
        let result = source.map(|value| self.doublewords(value, half, value, half));
        self.write_lanes(inst.op0_register(), result);
    }

    /// `insertps`: bits 6 and 7 of the immediate choose the part of the source register, 4 and 5 its new place, 0 to 3
    /// the parts to clear.
    pub(crate) fn insert_part(&mut self, inst: &Instruction) {
        let operand = self.last_source(inst);
        let control = control(inst) as u32;
        let value = if inst.op_kind(operand) == OpKind::Memory {
            self.read_single(inst, operand)
        } else {
            let half = self.read_lane(inst.op_register(operand), (control >> 7 & 1) as u8);
            self.lane_of_half(32, half, control >> 6 & 1)
        };
        let first = self.first_source(inst);
        let mut result = [self.read_lane(first, 0), self.read_lane(first, 1)];
        let to = (control >> 4 & 3) as usize;
        result[to / 2] = self.with_lane(32, result[to / 2], to as u32 % 2 * 32, value);
        for part in (0..4).filter(|part| control >> part & 1 == 1) {
            let kept = if part % 2 == 0 { !0xffff_ffff } else { 0xffff_ffff };
            result[part / 2] = self.binary_const(Opcode::And, result[part / 2], kept);
        }
        self.write_lanes(inst.op0_register(), result);
    }

    /// `movmskps`.
    pub(crate) fn sign_mask_of_parts(&mut self, inst: &Instruction) {
        let mut mask = self.constant(Type::I64, 0);
        for (part, at) in self.read_whole(inst, 1).into_iter().flat_map(|lane| [(lane, 31), (lane, 63)]).zip(0..) {
            let (lane, bit) = part;
            let sign = self.bit(lane, bit);
            let sign = self.zext(Type::I64, sign);
            let placed = self.binary_const(Opcode::Shl, sign, at);
            mask = self.binary(Opcode::Or, mask, placed);
        }
        self.write_slot(crate::operand::gpr_slot(inst.op0_register()), mask);
    }

    /// A lane of two 32-bit halves: half `i` of `a` below half `j` of `b`.
    fn doublewords(&mut self, a: Value, i: u64, b: Value, j: u64) -> Value {
        if a == b && i == 0 && j == 1 {
            return a;
        }
        let low = if i == 0 {
            self.binary_const(Opcode::And, a, 0xffff_ffff)
        } else {
            self.binary_const(Opcode::Lshr, a, 32)
        };
        let high = if j == 0 {
            self.binary_const(Opcode::Shl, b, 32)
        } else {
            self.binary_const(Opcode::And, b, !0xffff_ffff)
        };
        self.binary(Opcode::Or, low, high)
    }

    pub(crate) fn shuffle64(&mut self, inst: &Instruction) {
        let Sources { register, a, b } = self.sources(inst);
        let control = control(inst) as usize >> (2 * self.half);
        self.write_lanes(register, [a[control & 1], b[control >> 1 & 1]]);
    }

    /// `pshufd`: all four parts from the source.
    pub(crate) fn shuffle_one(&mut self, inst: &Instruction) {
        let source = self.read_full(inst, 1);
        let lanes = self.shuffled(source, source, control(inst));
        self.write_lanes(inst.op0_register(), lanes);
    }

    /// `shufps`: two parts from the first source, two from the second.
    pub(crate) fn shuffle_two(&mut self, inst: &Instruction) {
        let Sources { register, a, b } = self.sources(inst);
        let lanes = self.shuffled(a, b, control(inst));
        self.write_lanes(register, lanes);
    }

    /// Two 32-bit parts of `first` below two of `second`, two bits of `control` for each.
    fn shuffled(&mut self, first: [Value; 2], second: [Value; 2], control: u64) -> [Value; 2] {
        let lane = |part: u64| (control >> (2 * part + 1) & 1) as usize;
        let half = |part: u64| control >> (2 * part) & 1;
        [
            self.doublewords_of(first, [lane(0), lane(1)], [half(0), half(1)]),
            self.doublewords_of(second, [lane(2), lane(3)], [half(2), half(3)]),
        ]
    }

    fn doublewords_of(&mut self, lanes: [Value; 2], lane: [usize; 2], half: [u64; 2]) -> Value {
        self.doublewords(lanes[lane[0]], half[0], lanes[lane[1]], half[1])
    }

    /// `pslldq`, `psrldq`.
    pub(crate) fn byte_shift(&mut self, inst: &Instruction, left: bool) {
        let register = inst.op0_register();
        let source = if inst.op_count() == 3 { inst.op1_register() } else { register };
        let bits = control(inst).min(16) as i64 * 8;
        let zero = self.constant(Type::I64, 0);
        if bits == 0 {
            let value = [self.read_lane(source, 0), self.read_lane(source, 1)];
            return self.write_lanes(register, value);
        }
        let (near, far) = if left { (0, 1) } else { (1, 0) };
        let outer = self.read_lane(source, near);
        let (inward, outward) = if left { (Opcode::Lshr, Opcode::Shl) } else { (Opcode::Shl, Opcode::Lshr) };
        let (new_near, new_far) = if bits == 128 {
            (zero, zero)
        } else if bits == 64 {
            (zero, outer)
        } else if bits > 64 {
            (zero, self.binary_const(outward, outer, bits - 64))
        } else {
            let inner = self.read_lane(source, far);
            let moved = self.binary_const(outward, inner, bits);
            let carried = self.binary_const(inward, outer, 64 - bits);
            (self.binary_const(outward, outer, bits), self.binary(Opcode::Or, moved, carried))
        };
        self.write_lane(register, near, new_near);
        self.write_lane(register, far, new_far);
    }
}
