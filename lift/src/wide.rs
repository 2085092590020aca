//! VEX-encoded vector instructions: two halves, or all of a ymm register.
//!
//! The upper halves are slots only in recordings without instructions that name what lies above them (zmm and mask
//! registers, which stay in the context): elsewhere VEX-encoded instructions are executed verbatim like those.
//!
//! Worked example: `vmovdqu xmm1, [rax]` is `movdqu`, and sets `ymm1.lo` and `ymm1.hi` to 0.

use crate::cover::{Handler, is_whole};
use crate::lifter::Lifter;
use crate::operand::{gpr_slot, lane_slot};
use crate::recording::Event;
use crate::refuse::Refusal;
use iced_x86::{EncodingKind, Instruction, OpKind, Register};
use redmagic_ir::{Inst, Opcode, Recorded, Slot, Type, Value};

impl Event {
    /// Whether its instruction names vector state that is in no slot.
    pub(crate) fn is_beyond_slots(&self) -> bool {
        let Event::Inst { inst, .. } = self else { return false };
        let beyond = |register: Register| register.is_k() || register.is_zmm();
        inst.encoding() == EncodingKind::EVEX || (0..inst.op_count()).any(|operand| beyond(inst.op_register(operand)))
    }
}

impl Lifter<'_> {
    /// Applies a vector rule to each half, or to the low one, and clears what lies above the destination.
    pub(crate) fn wide_instruction(&mut self, inst: &Instruction, rule: Handler) -> Result<(), Refusal> {
        let is_ymm = (0..inst.op_count()).any(|operand| inst.op_register(operand).is_ymm());
        if is_ymm && !is_whole(rule) {
            // The upper half first, because the count of a shift is in a low one. What was seen belongs to the low half.
            let seen = std::mem::take(&mut self.seen);
            self.in_half(1, |lifter| lifter.straight(inst, rule));
            self.seen = seen;
        }
        self.straight(inst, rule);
        let destination = inst.op0_register();
        if inst.op0_kind() == OpKind::Register && destination.is_xmm() && !is_compared(rule) {
            self.clear_above(destination);
        }
        Ok(())
    }

    /// Works on a half of the vector registers.
    pub(crate) fn in_half<T>(&mut self, half: u8, work: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.half, half);
        let result = work(self);
        self.half = before;
        result
    }

    fn clear_above(&mut self, register: Register) {
        let zero = self.constant(Type::I64, 0);
        self.in_half(1, |lifter| lifter.write_lanes(register, [zero, zero]));
    }

    /// `vzeroupper`, `vzeroall`.
    pub(crate) fn clear_upper(&mut self, all: bool) {
        let zero = self.constant(Type::I64, 0);
        for number in 0..16 {
            let first = if all { 0 } else { 2 };
            (first..4).for_each(|lane| self.write_slot(Slot::xmm(number, lane), zero));
        }
    }

    /// Writes the lanes of an xmm or ymm register.
    pub(crate) fn write_all(&mut self, register: Register, low: [Value; 2], high: [Value; 2]) {
        self.write_lanes(register, low);
        if register.is_ymm() {
            self.in_half(1, |lifter| lifter.write_lanes(register, high));
        }
    }

    /// `vpbroadcastb` and its like: one element of `bits` bits everywhere.
    pub(crate) fn broadcast(&mut self, inst: &Instruction, bits: u32) {
        let ty = Type::int(bits).unwrap_or(Type::I64);
        let element = if inst.op1_kind() == OpKind::Memory {
            let address = self.address(inst);
            self.load_operand(ty, address)
        } else {
            let low = self.read_slot(lane_slot(inst.op1_register(), 0));
            self.trunc(ty, low)
        };
        let wide = self.zext(Type::I64, element);
        let ones = u64::MAX / (u64::MAX >> (64 - bits));
        let factor = self.constant(Type::I64, ones as i64);
        let lane = if bits == 64 { wide } else { self.binary(Opcode::Mul, wide, factor) };
        self.write_all(inst.op0_register(), [lane, lane], [lane, lane]);
    }

    /// `vbroadcasti128`.
    pub(crate) fn broadcast_half(&mut self, inst: &Instruction) {
        let half = self.read_full(inst, 1);
        self.write_all(inst.op0_register(), half, half);
    }

    pub(crate) fn half_of(&mut self, register: Register, half: u8) -> [Value; 2] {
        [0, 1].map(|lane| self.read_slot(lane_slot(register, 2 * half + lane)))
    }

    /// `vextracti128`.
    pub(crate) fn extract_half(&mut self, inst: &Instruction) {
        let half = self.half_of(inst.op1_register(), inst.immediate(2) as u8 & 1);
        if inst.op0_kind() == OpKind::Register {
            return self.write_lanes(inst.op0_register(), half);
        }
        let address = self.address(inst);
        self.store_operand(address, half[0]);
        let upper = self.advance(address, 8);
        let recorded =
            self.recorded(Type::I64).map(|seen| Recorded { address: seen.address.wrapping_add(8), value: 0 });
        self.store(upper, half[1], recorded);
    }

    /// `vinserti128`.
    pub(crate) fn insert_half(&mut self, inst: &Instruction) {
        let half = self.read_full(inst, 2);
        let [low, high] = [0, 1].map(|half| self.half_of(inst.op1_register(), half));
        if inst.immediate(3) & 1 == 0 {
            self.write_all(inst.op0_register(), half, high);
        } else {
            self.write_all(inst.op0_register(), low, half);
        }
    }

    /// The lanes of an operand: two, or four if it is a ymm register or as wide in memory. Only the lowest of memory is
    /// noted.
    pub(crate) fn read_whole(&mut self, inst: &Instruction, operand: u32) -> Vec<Value> {
        let in_memory = inst.op_kind(operand) == OpKind::Memory;
        let wide = if in_memory { inst.memory_size().size() == 32 } else { inst.op_register(operand).is_ymm() };
        let mut lanes = self.read_full(inst, operand).to_vec();
        if wide {
            let seen = std::mem::take(&mut self.seen);
            lanes.extend(self.in_half(1, |lifter| lifter.read_full(inst, operand)));
            self.seen = seen;
        }
        lanes
    }

    /// `vperm2i128`: each half of the result is one of four, or 0.
    pub(crate) fn permute_halves(&mut self, inst: &Instruction) {
        let control = inst.immediate(3);
        let a = [0, 1].map(|half| self.half_of(inst.op1_register(), half));
        let b = self.read_whole(inst, 2);
        let zero = self.constant(Type::I64, 0);
        let all = [a[0], a[1], [b[0], b[1]], [b[2], b[3]]];
        let [low, high] = [control, control >> 4]
            .map(|control| if control & 8 != 0 { [zero, zero] } else { all[control as usize & 3] });
        self.write_all(inst.op0_register(), low, high);
    }

    /// `vpermq`: any four of the four lanes.
    pub(crate) fn permute_quadwords(&mut self, inst: &Instruction) {
        let control = inst.immediate(2) as usize;
        let all = self.read_whole(inst, 1);
        let lane = |at: usize| all[control >> (2 * at) & 3];
        let (low, high) = ([lane(0), lane(1)], [lane(2), lane(3)]);
        self.write_all(inst.op0_register(), low, high);
    }

    /// `pmovmskb`, also of a ymm register.
    pub(crate) fn byte_mask(&mut self, inst: &Instruction) {
        let source = inst.op1_register();
        let mut mask = self.constant(Type::I64, 0);
        for lane in 0..if source.is_ymm() { 4 } else { 2 } {
            let value = self.read_slot(lane_slot(source, lane));
            let signs = self.emit(Inst::unary(Opcode::Signs8, Type::I64, value));
            let shift = i64::from(lane) * 8;
            let placed = if shift == 0 { signs } else { self.binary_const(Opcode::Shl, signs, shift) };
            mask = if lane == 0 { placed } else { self.binary(Opcode::Or, mask, placed) };
        }
        self.write_slot(gpr_slot(inst.op0_register()), mask);
    }
}

/// Whether the first operand is only read.
fn is_compared(rule: Handler) -> bool {
    matches!(rule, Handler::FloatFlags | Handler::SingleFlags | Handler::TestBits | Handler::TestSigns(_))
}
