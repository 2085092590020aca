//! Vector moves, logic and shuffles, on 64-bit lanes.
//!
//! An xmm register is two slots, and no rule here needs more than 64-bit arithmetic. Worked example:
//! `unpcklpd xmm0, xmm1` is `xmm0.hi = xmm1.lo`; `pxor xmm0, xmm0` sets both lanes to 0 without reading them.

use crate::cover::Logic;
use crate::int::same_registers;
use crate::lifter::Lifter;
use crate::operand::lane_slot;
use iced_x86::{Instruction, OpKind, Register};
use redmagic_ir::{Opcode, Recorded, Slot, Type, Value};

impl Lifter<'_> {
    pub(crate) fn read_lane(&mut self, register: Register, lane: u8) -> Value {
        self.read_slot(lane_slot(register, lane))
    }

    pub(crate) fn write_lane(&mut self, register: Register, lane: u8, value: Value) {
        self.write_slot(lane_slot(register, lane), value);
    }

    fn write_lanes(&mut self, register: Register, [low, high]: [Value; 2]) {
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
        let mut low = self.read_lane(inst.op1_register(), 0);
        if ty == Type::I32 {
            let old = self.read_lane(register, 0);
            let kept = self.binary_const(Opcode::And, old, !0xffff_ffff);
            let narrow = self.trunc(Type::I32, low);
            let new = self.zext(Type::I64, narrow);
            low = self.binary(Opcode::Or, kept, new);
        }
        self.write_lane(register, 0, low);
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
        self.write_lane(inst.op0_register(), lane, value);
    }

    pub(crate) fn copy_lane(&mut self, inst: &Instruction, from: u8, to: u8) {
        let value = self.read_lane(inst.op1_register(), from);
        self.write_lane(inst.op0_register(), to, value);
    }

    pub(crate) fn duplicate(&mut self, inst: &Instruction) {
        let low = self.read_low(inst, 1);
        self.write_lanes(inst.op0_register(), [low, low]);
    }

    /// `movmskpd`.
    pub(crate) fn sign_mask(&mut self, inst: &Instruction) {
        let low = self.read_lane(inst.op1_register(), 0);
        let high = self.read_lane(inst.op1_register(), 1);
        let low = self.binary_const(Opcode::Lshr, low, 63);
        let high = self.binary_const(Opcode::Lshr, high, 62);
        let high = self.binary_const(Opcode::And, high, 2);
        let mask = self.binary(Opcode::Or, low, high);
        self.write_slot(crate::operand::gpr_slot(inst.op0_register()), mask);
    }

    pub(crate) fn vector_logic(&mut self, inst: &Instruction, op: Logic) {
        let register = inst.op0_register();
        if op == Logic::Xor && same_registers(inst) {
            let zero = self.constant(Type::I64, 0);
            return self.write_lanes(register, [zero, zero]);
        }
        let source = self.read_full(inst, 1);
        for lane in [0, 1] {
            let a = self.read_lane(register, lane);
            let b = source[usize::from(lane)];
            let value = match op {
                Logic::And => self.binary(Opcode::And, a, b),
                Logic::Or => self.binary(Opcode::Or, a, b),
                Logic::Xor => self.binary(Opcode::Xor, a, b),
                Logic::AndNot => {
                    let not = self.unary(Opcode::Not, a);
                    self.binary(Opcode::And, not, b)
                }
            };
            self.write_lane(register, lane, value);
        }
    }

    /// The same operation on both lanes.
    pub(crate) fn each_lane(&mut self, inst: &Instruction, op: Opcode) {
        let register = inst.op0_register();
        let source = self.read_full(inst, 1);
        for lane in [0, 1] {
            let a = self.read_lane(register, lane);
            let value = self.binary(op, a, source[usize::from(lane)]);
            self.write_lane(register, lane, value);
        }
    }

    pub(crate) fn unpack64(&mut self, inst: &Instruction, high: bool) {
        let register = inst.op0_register();
        let source = self.read_full(inst, 1);
        let lane = u8::from(high);
        let low = self.read_lane(register, lane);
        self.write_lanes(register, [low, source[usize::from(lane)]]);
    }

    pub(crate) fn unpack32(&mut self, inst: &Instruction, high: bool) {
        let register = inst.op0_register();
        let source = self.read_full(inst, 1);
        let lane = u8::from(high);
        let a = self.read_lane(register, lane);
        let b = source[usize::from(lane)];
        let low = self.doublewords(a, 0, b, 0);
        let high = self.doublewords(a, 1, b, 1);
        self.write_lanes(register, [low, high]);
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
        let register = inst.op0_register();
        let source = self.read_full(inst, 1);
        let control = inst.immediate(2);
        let low = self.read_lane(register, (control & 1) as u8);
        self.write_lanes(register, [low, source[(control >> 1 & 1) as usize]]);
    }

    /// `pshufd`: all four parts from the source.
    pub(crate) fn shuffle_one(&mut self, inst: &Instruction) {
        let source = self.read_full(inst, 1);
        let lanes = self.shuffled(source, source, inst.immediate(2));
        self.write_lanes(inst.op0_register(), lanes);
    }

    /// `shufps`: two parts from the destination, two from the source.
    pub(crate) fn shuffle_two(&mut self, inst: &Instruction) {
        let register = inst.op0_register();
        let source = self.read_full(inst, 1);
        let old = [self.read_lane(register, 0), self.read_lane(register, 1)];
        let lanes = self.shuffled(old, source, inst.immediate(2));
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
        let bits = inst.immediate(1).min(16) as i64 * 8;
        let zero = self.constant(Type::I64, 0);
        if bits == 0 {
            return;
        }
        let (near, far) = if left { (0, 1) } else { (1, 0) };
        let outer = self.read_lane(register, near);
        let (inward, outward) = if left { (Opcode::Lshr, Opcode::Shl) } else { (Opcode::Shl, Opcode::Lshr) };
        let (new_near, new_far) = if bits == 128 {
            (zero, zero)
        } else if bits == 64 {
            (zero, outer)
        } else if bits > 64 {
            (zero, self.binary_const(outward, outer, bits - 64))
        } else {
            let inner = self.read_lane(register, far);
            let moved = self.binary_const(outward, inner, bits);
            let carried = self.binary_const(inward, outer, 64 - bits);
            (self.binary_const(outward, outer, bits), self.binary(Opcode::Or, moved, carried))
        };
        self.write_lane(register, near, new_near);
        self.write_lane(register, far, new_far);
    }

    /// `psllq`, `psrlq` by an immediate; counts from 64 on give 0.
    pub(crate) fn lane_shift(&mut self, inst: &Instruction, op: Opcode) {
        let register = inst.op0_register();
        let count = inst.immediate(1) as i64;
        for lane in [0, 1] {
            let value = if (0..64).contains(&count) {
                let old = self.read_lane(register, lane);
                self.binary_const(op, old, count)
            } else {
                self.constant(Slot::RAX.ty(), 0)
            };
            self.write_lane(register, lane, value);
        }
    }
}
