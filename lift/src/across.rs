//! Operations in which lanes of a vector register meet: permutations by a vector, sums of neighbours, and
//! shifts with a count for every lane.
//!
//! Dot products (`dpps`) are not here: which of several NaNs they leave differs between the lanes of the result, and is not
//! documented. They are executed verbatim.
//!
//! Permutations are shuffles of bytes, whose numbers are computed from those of the lanes. Worked example: the lane 2 of
//! the control of `vpermilps` chooses the bytes 8 to 11: `2 * 0x04040404 + 0x03020100`, for two lanes at once.

use crate::cover::Lanes;
use crate::lifter::Lifter;
use crate::sse::Sources;
use iced_x86::Instruction;
use redmagic_ir::{Inst, Opcode, Type, Value};

/// The bytes with the numbers in `control`, of two halves.
fn shuffle([low, high]: [Value; 2], control: Value) -> Inst {
    Inst::ternary(Opcode::Shuffle8, Type::I64, low, high, control)
}

impl Lifter<'_> {
    /// The numbers of the bytes in two 32-bit lanes, of lanes whose numbers are the two low bits of those of `control`.
    fn bytes_of_parts(&mut self, control: Value) -> Value {
        let numbers = self.binary_const(Opcode::And, control, 0x0000_0003_0000_0003);
        let first = self.binary_const(Opcode::Mul, numbers, 0x0404_0404);
        self.binary_const(Opcode::Or, first, 0x0302_0100_0302_0100)
    }

    /// `vpermilps` by a vector.
    pub(crate) fn permute_parts(&mut self, inst: &Instruction) {
        let Sources { register, a, b } = self.sources(inst);
        let result = b.map(|control| {
            let bytes = self.bytes_of_parts(control);
            self.emit(shuffle(a, bytes))
        });
        self.write_lanes(register, result);
    }

    /// `vpermilpd` by an immediate, which has a bit for each of four lanes.
    pub(crate) fn permute_doubles(&mut self, inst: &Instruction) {
        let source = self.read_full(inst, 1);
        let control = inst.immediate(2) as usize >> (2 * self.half);
        self.write_lanes(inst.op0_register(), [source[control & 1], source[control >> 1 & 1]]);
    }

    /// `vpermilpd` by a vector: bit 1 of each lane counts.
    pub(crate) fn permute_doubles_by(&mut self, inst: &Instruction) {
        let Sources { register, a, b } = self.sources(inst);
        let result = b.map(|control| {
            let upper = self.bit(control, 1);
            self.select(upper, a[1], a[0])
        });
        self.write_lanes(register, result);
    }

    /// `vpermd`, `vpermps`: any of eight lanes, chosen by the first source.
    pub(crate) fn permute_eight(&mut self, inst: &Instruction) {
        let source = self.read_whole(inst, 2);
        let control = [0, 1].map(|half| self.half_of(inst.op1_register(), half));
        let zero = self.constant(Type::I64, 0);
        let [low, high] = control.map(|lanes| {
            lanes.map(|control| {
                let bytes = self.bytes_of_parts(control);
                let [low, high] =
                    [[source[0], source[1]], [source[2], source[3]]].map(|half| self.emit(shuffle(half, bytes)));
                // Bit 2 as a sign.
                let bit = self.binary_const(Opcode::And, control, 0x0000_0004_0000_0004);
                let sign = self.binary_const(Opcode::Shl, bit, 29);
                let upper = self.greater(32, zero, sign);
                self.choice(upper, high, low)
            })
        });
        self.write_all(inst.op0_register(), low, high);
    }

    /// `vpsllvd` and its like. A count beyond the lane leaves 0, or copies of the sign.
    pub(crate) fn lane_shift_by(&mut self, inst: &Instruction, op: Opcode, bits: u32) {
        let Sources { register, a, b } = self.sources(inst);
        let result = [0, 1].map(|half| {
            self.each(bits, a[half], b[half], |lifter, value, count| {
                let ty = lifter.ty(value);
                let most = lifter.constant(ty, i64::from(bits) - 1);
                let beyond = lifter.compare(Opcode::Ult, most, count);
                if op == Opcode::Ashr {
                    let count = lifter.select(beyond, most, count);
                    return lifter.binary(op, value, count);
                }
                let shifted = lifter.binary(op, value, count);
                let zero = lifter.constant(ty, 0);
                lifter.select(beyond, zero, shifted)
            })
        });
        self.write_lanes(register, result);
    }

    /// `phaddw` and its like: an operation on the even and the odd lanes of each source.
    pub(crate) fn horizontal_lanes(&mut self, inst: &Instruction, op: Lanes) {
        let (even, odd) = match op {
            Lanes::Add(32) | Lanes::Sub(32) => (0x0b0a_0908_0302_0100, 0x0f0e_0d0c_0706_0504),
            _ => (0x0d0c_0908_0504_0100, 0x0f0e_0b0a_0706_0302),
        };
        let Sources { register, a, b } = self.sources(inst);
        let result = [a, b].map(|source| {
            let [even, odd] = [even, odd].map(|bytes| {
                let bytes = self.constant(Type::I64, bytes);
                self.emit(shuffle(source, bytes))
            });
            self.lanes_of_half(op, even, odd)
        });
        self.write_lanes(register, result);
    }

    /// The four numbers of two halves.
    fn singles_of(&mut self, halves: [Value; 2]) -> [Value; 4] {
        [0, 1, 2, 3].map(|at: usize| self.lane_of_half(32, halves[at / 2], at as u32 % 2))
    }

    /// `haddps`, `hsubps`: neighbours of each source with each other.
    pub(crate) fn horizontal_singles(&mut self, inst: &Instruction, op: Opcode) {
        let Sources { register, a, b } = self.sources(inst);
        let result = [a, b].map(|source| {
            let [w, x, y, z] = self.singles_of(source);
            let lanes = [self.binary(op, w, x), self.binary(op, y, z)];
            self.joined_lanes(32, &lanes)
        });
        self.write_lanes(register, result);
    }

    /// `addsubps`: differences of the even lanes, sums of the odd ones.
    pub(crate) fn differences_and_sums(&mut self, inst: &Instruction) {
        let Sources { register, a, b } = self.sources(inst);
        let (a, b) = (self.singles_of(a), self.singles_of(b));
        let lanes = [0, 1, 2, 3].map(|at| {
            let op = if at % 2 == 0 { Opcode::Fsub32 } else { Opcode::Fadd32 };
            self.binary(op, a[at], b[at])
        });
        let result = [self.joined_lanes(32, &lanes[..2]), self.joined_lanes(32, &lanes[2..])];
        self.write_lanes(register, result);
    }
}
