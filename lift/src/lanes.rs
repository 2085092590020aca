//! Packed integers: each half of a vector register on its own, by the IR's lane operations.
//!
//! What the IR has no operation for is done with masks on the whole half (shifts, minima), or lane by lane where it is
//! too rare to matter (saturating sums, high halves of products).
//!
//! Worked example: `psrlw xmm0, 4` becomes `and (lshr xmm0.lo, 4), 0x0fff0fff0fff0fff` and the same of the upper half:
//! bits that come from the lane above are cut off.

use crate::cover::Lanes;
use crate::lifter::Lifter;
use crate::sse::Sources;
use iced_x86::{Instruction, OpKind};
use redmagic_ir::{Inst, Opcode, Type, Value};

/// A number with the low `bits` bits of `lane` in every lane of `bits` bits.
fn repeat(bits: u32, lane: u64) -> i64 {
    let lane = if bits == 64 { lane } else { lane & ((1 << bits) - 1) };
    (0..64).step_by(bits as usize).fold(0, |all, at| all | (lane << at) as i64)
}

/// The sign bits of lanes of `bits` bits.
pub(crate) fn signs(bits: u32) -> i64 {
    repeat(bits, 1 << (bits - 1))
}

/// The operation on lanes of `bits` bits, of those on 8, 16 and 32.
fn of_width(bits: u32, ops: [Opcode; 3]) -> Opcode {
    ops[(bits.trailing_zeros().clamp(3, 5) - 3) as usize]
}

fn add(bits: u32) -> Opcode {
    if bits == 64 { Opcode::Add } else { of_width(bits, [Opcode::Add8, Opcode::Add16, Opcode::Add32]) }
}

fn sub(bits: u32) -> Opcode {
    if bits == 64 { Opcode::Sub } else { of_width(bits, [Opcode::Sub8, Opcode::Sub16, Opcode::Sub32]) }
}

impl Lifter<'_> {
    /// The same on both halves of two sources.
    pub(crate) fn lanes(&mut self, inst: &Instruction, op: Lanes) {
        let Sources { register, a, b } = self.sources(inst);
        let result = [0, 1].map(|half| self.lanes_of_half(op, a[half], b[half]));
        self.write_lanes(register, result);
    }

    pub(crate) fn lanes_of_half(&mut self, op: Lanes, a: Value, b: Value) -> Value {
        match op {
            Lanes::Add(bits) => self.binary(add(bits), a, b),
            Lanes::Sub(_) if a == b => self.constant(Type::I64, 0),
            Lanes::Sub(bits) => self.binary(sub(bits), a, b),
            Lanes::Equal(_) if a == b => self.constant(Type::I64, -1),
            Lanes::Equal(64) => {
                let equal = self.compare(Opcode::Eq, a, b);
                self.sext(Type::I64, equal)
            }
            Lanes::Equal(bits) => self.binary(of_width(bits, [Opcode::Eq8, Opcode::Eq16, Opcode::Eq32]), a, b),
            Lanes::Greater(bits) => self.greater(bits, a, b),
            Lanes::Extreme { bits, signed, max } => self.extreme(bits, signed, max, a, b),
            Lanes::UnsignedSum(bits) => {
                let room = self.unary(Opcode::Not, a);
                let left = self.binary(of_width(bits, [Opcode::Usubs8, Opcode::Usubs16, Opcode::Usubs16]), room, b);
                self.unary(Opcode::Not, left)
            }
            Lanes::UnsignedDifference(bits) => {
                self.binary(of_width(bits, [Opcode::Usubs8, Opcode::Usubs16, Opcode::Usubs16]), a, b)
            }
            Lanes::Saturating { bits, op } => self.each(bits, a, b, |lifter, a, b| {
                let (a, b) = (lifter.sext(Type::I32, a), lifter.sext(Type::I32, b));
                let exact = lifter.binary(op, a, b);
                let clamped = lifter.clamped(exact, -1 << (bits - 1), (1 << (bits - 1)) - 1);
                lifter.trunc(lane_type(bits), clamped)
            }),
            Lanes::Average(bits) => {
                // The sum is twice the common bits plus the differing ones.
                let either = self.binary(Opcode::Or, a, b);
                let differing = self.binary(Opcode::Xor, a, b);
                let half = self.shifted_lanes(Opcode::Lshr, bits, differing, 1);
                self.binary(sub(bits), either, half)
            }
            Lanes::MulLow(16) => self.binary(Opcode::Mul16, a, b),
            Lanes::MulLow(bits) => self.each(bits, a, b, |lifter, a, b| lifter.binary(Opcode::Mul, a, b)),
            Lanes::MulHigh { signed } => {
                let op = if signed { Opcode::Smulhi } else { Opcode::Umulhi };
                self.each(16, a, b, |lifter, a, b| lifter.binary(op, a, b))
            }
            Lanes::MulEven { signed } => {
                let (a, b) = (self.trunc(Type::I32, a), self.trunc(Type::I32, b));
                let (a, b) = (self.extended(Type::I64, a, signed), self.extended(Type::I64, b, signed));
                self.binary(Opcode::Mul, a, b)
            }
            Lanes::MulAdd => self.each(32, a, b, |lifter, a, b| {
                let low = lifter.word_product(a, b, 0);
                let high = lifter.word_product(a, b, 16);
                lifter.binary(Opcode::Add, low, high)
            }),
            Lanes::Distance => self.distance(a, b),
            Lanes::MulAddBytes => self.each(16, a, b, |lifter, a, b| {
                let products = [0, 8].map(|at| {
                    let a = lifter.binary_const(Opcode::Lshr, a, at);
                    let (a, b) = (lifter.trunc(Type::I8, a), lifter.binary_const(Opcode::Lshr, b, at));
                    let b = lifter.trunc(Type::I8, b);
                    let (a, b) = (lifter.zext(Type::I32, a), lifter.sext(Type::I32, b));
                    lifter.binary(Opcode::Mul, a, b)
                });
                let sum = lifter.binary(Opcode::Add, products[0], products[1]);
                let clamped = lifter.clamped(sum, -0x8000, 0x7fff);
                lifter.trunc(Type::I16, clamped)
            }),
            Lanes::MulRound => self.each(16, a, b, |lifter, a, b| {
                let (a, b) = (lifter.sext(Type::I32, a), lifter.sext(Type::I32, b));
                let product = lifter.binary(Opcode::Mul, a, b);
                // Half of the last place that stays, rounded up.
                let rounded = lifter.binary_const(Opcode::Add, product, 1 << 14);
                let rounded = lifter.binary_const(Opcode::Lshr, rounded, 15);
                lifter.trunc(Type::I16, rounded)
            }),
            Lanes::Sign(bits) => {
                let zero = self.constant(Type::I64, 0);
                let negative = self.greater(bits, zero, b);
                let flipped = self.binary(Opcode::Xor, a, negative);
                let negated = self.binary(sub(bits), flipped, negative);
                let gone = self.lanes_of_half(Lanes::Equal(bits), b, zero);
                let kept = self.unary(Opcode::Not, gone);
                self.binary(Opcode::And, negated, kept)
            }
        }
    }

    /// All ones in signed lanes where a is greater.
    pub(crate) fn greater(&mut self, bits: u32, a: Value, b: Value) -> Value {
        if bits == 64 {
            let greater = self.compare(Opcode::Slt, b, a);
            return self.sext(Type::I64, greater);
        }
        self.binary(of_width(bits, [Opcode::Sgt8, Opcode::Sgt16, Opcode::Sgt32]), a, b)
    }

    /// The lesser or the greater of two lanes.
    fn extreme(&mut self, bits: u32, signed: bool, max: bool, a: Value, b: Value) -> Value {
        if !signed && bits < 32 {
            // How much a exceeds b: a without it is the lesser, b with it the greater.
            let excess = self.lanes_of_half(Lanes::UnsignedDifference(bits), a, b);
            return if max { self.binary(add(bits), b, excess) } else { self.binary(sub(bits), a, excess) };
        }
        let (mut left, mut right) = (a, b);
        if !signed {
            let signs = signs(bits);
            left = self.binary_const(Opcode::Xor, a, signs);
            right = self.binary_const(Opcode::Xor, b, signs);
        }
        let greater = self.greater(bits, left, right);
        if max { self.choice(greater, a, b) } else { self.choice(greater, b, a) }
    }

    /// The bits of `yes` where `mask` is 1, those of `no` where it is 0.
    pub(crate) fn choice(&mut self, mask: Value, yes: Value, no: Value) -> Value {
        match self.as_const(mask) {
            Some(0) => return no,
            Some(-1) => return yes,
            _ => {}
        }
        let differing = self.binary(Opcode::Xor, yes, no);
        let changed = self.binary(Opcode::And, differing, mask);
        self.binary(Opcode::Xor, no, changed)
    }

    /// An operation on every lane, as a number of `bits` bits.
    pub(crate) fn each(
        &mut self,
        bits: u32,
        a: Value,
        b: Value,
        operation: impl Fn(&mut Self, Value, Value) -> Value,
    ) -> Value {
        let lanes: Vec<Value> = (0..64 / bits)
            .map(|at| {
                let (a, b) = (self.lane_of_half(bits, a, at), self.lane_of_half(bits, b, at));
                operation(self, a, b)
            })
            .collect();
        self.joined_lanes(bits, &lanes)
    }

    /// Lane `at` of a half.
    pub(crate) fn lane_of_half(&mut self, bits: u32, half: Value, at: u32) -> Value {
        let shifted = if at == 0 { half } else { self.binary_const(Opcode::Lshr, half, i64::from(at * bits)) };
        self.trunc(lane_type(bits), shifted)
    }

    /// A half of these lanes, the lowest first.
    pub(crate) fn joined_lanes(&mut self, bits: u32, lanes: &[Value]) -> Value {
        let mut half = self.constant(Type::I64, 0);
        for (at, &lane) in lanes.iter().enumerate() {
            let wide = self.zext(Type::I64, lane);
            half = if at == 0 {
                wide
            } else {
                let placed = self.binary_const(Opcode::Shl, wide, i64::from(bits) * at as i64);
                self.binary(Opcode::Or, half, placed)
            };
        }
        half
    }

    /// The nearest number within bounds.
    fn clamped(&mut self, value: Value, least: i64, most: i64) -> Value {
        let low = self.constant(self.ty(value), least);
        let high = self.constant(self.ty(value), most);
        let below = self.compare(Opcode::Slt, value, low);
        let value = self.select(below, low, value);
        let above = self.compare(Opcode::Slt, high, value);
        self.select(above, high, value)
    }

    /// The product of the signed words from bit `at` on of two i32.
    fn word_product(&mut self, a: Value, b: Value, at: i64) -> Value {
        let [a, b] = [a, b].map(|value| {
            let up = self.binary_const(Opcode::Shl, value, 16 - at);
            self.binary_const(Opcode::Ashr, up, 16)
        });
        self.binary(Opcode::Mul, a, b)
    }

    /// The sum of the absolute differences of the bytes.
    fn distance(&mut self, a: Value, b: Value) -> Value {
        const EVEN: i64 = 0x00ff_00ff_00ff_00ff;
        let one = self.binary(Opcode::Usubs8, a, b);
        let other = self.binary(Opcode::Usubs8, b, a);
        let bytes = self.binary(Opcode::Or, one, other);
        let even = self.binary_const(Opcode::And, bytes, EVEN);
        let odd = self.binary_const(Opcode::Lshr, bytes, 8);
        let odd = self.binary_const(Opcode::And, odd, EVEN);
        let words = self.binary(Opcode::Add, even, odd);
        // The highest word of this product is the sum of all four.
        let sums = self.binary_const(Opcode::Mul, words, repeat(16, 1));
        self.binary_const(Opcode::Lshr, sums, 48)
    }

    /// `psllw` and its like, by an immediate or by the low half of a vector.
    pub(crate) fn lane_shift(&mut self, inst: &Instruction, op: Opcode, bits: u32) {
        let last = inst.op_count() - 1;
        let by_vector = inst.op_kind(last) != OpKind::Immediate8;
        // The count of both halves is in the low one.
        let count = by_vector.then(|| self.in_half(0, |lifter| lifter.read_full(inst, last)[0]));
        let source = if last == 2 { inst.op1_register() } else { inst.op0_register() };
        let result = [0, 1].map(|half| {
            let value = self.read_lane(source, half);
            match count.map(|count| (count, self.as_const(count))) {
                None => self.shifted_lanes(op, bits, value, inst.immediate(last)),
                Some((_, Some(constant))) => self.shifted_lanes(op, bits, value, constant as u64),
                Some((count, None)) => self.variably_shifted_lanes(op, bits, value, count),
            }
        });
        self.write_lanes(inst.op0_register(), result);
    }

    /// All lanes of a half shifted by a constant.
    fn shifted_lanes(&mut self, op: Opcode, bits: u32, value: Value, count: u64) -> Value {
        let width = u64::from(bits);
        let count = match op {
            Opcode::Ashr => count.min(width - 1),
            _ if count >= width => return self.constant(Type::I64, 0),
            _ => count,
        };
        if bits == 64 || count == 0 {
            return self.binary_const(op, value, count as i64);
        }
        let logical = if op == Opcode::Ashr { Opcode::Lshr } else { op };
        let shifted = self.binary_const(logical, value, count as i64);
        let ones = u64::MAX >> (64 - bits);
        let kept = if op == Opcode::Shl { ones << count } else { ones >> count };
        let r = self.binary_const(Opcode::And, shifted, repeat(bits, kept));
        if op != Opcode::Ashr {
            return r;
        }
        // The sign is now a plain bit: complemented and subtracted, it fills the lane.
        let sign = self.constant(Type::I64, repeat(bits, 1 << (width - 1 - count)));
        let flipped = self.binary(Opcode::Xor, r, sign);
        self.binary(sub(bits), flipped, sign)
    }

    /// All lanes of a half shifted by a value.
    fn variably_shifted_lanes(&mut self, op: Opcode, bits: u32, value: Value, count: Value) -> Value {
        let most = self.constant(Type::I64, i64::from(bits) - 1);
        let beyond = self.compare(Opcode::Ult, most, count);
        let count = if op == Opcode::Ashr { self.select(beyond, most, count) } else { count };
        let logical = if op == Opcode::Ashr && bits < 64 { Opcode::Lshr } else { op };
        let mut r = self.binary(logical, value, count);
        if bits < 64 {
            let ones = i64::from(u32::MAX >> (32 - bits));
            let ones = self.constant(Type::I64, ones);
            let kept = self.binary(logical, ones, count);
            let kept = self.binary(Opcode::And, kept, ones);
            let kept = self.binary_const(Opcode::Mul, kept, repeat(bits, 1));
            r = self.binary(Opcode::And, r, kept);
        }
        match op {
            Opcode::Ashr if bits < 64 => {
                let sign = self.constant(Type::I64, 1 << (bits - 1));
                let sign = self.binary(Opcode::Lshr, sign, count);
                let signs = self.binary_const(Opcode::Mul, sign, repeat(bits, 1));
                let flipped = self.binary(Opcode::Xor, r, signs);
                self.binary(sub(bits), flipped, signs)
            }
            Opcode::Ashr => r,
            _ => {
                let zero = self.constant(Type::I64, 0);
                self.select(beyond, zero, r)
            }
        }
    }

    /// `pabsb` and its like.
    pub(crate) fn absolute(&mut self, inst: &Instruction, bits: u32) {
        let source = self.read_full(inst, 1);
        let zero = self.constant(Type::I64, 0);
        let result = source.map(|value| {
            let negative = self.greater(bits, zero, value);
            let flipped = self.binary(Opcode::Xor, value, negative);
            self.binary(sub(bits), flipped, negative)
        });
        self.write_lanes(inst.op0_register(), result);
    }

    /// `packsswb` and its like: the first source's lanes make the lower half.
    pub(crate) fn pack_lanes(&mut self, inst: &Instruction, op: Opcode) {
        let Sources { register, a, b } = self.sources(inst);
        let result = [a, b].map(|[low, high]| self.binary(op, low, high));
        self.write_lanes(register, result);
    }

    /// `packusdw`.
    pub(crate) fn pack_doublewords(&mut self, inst: &Instruction) {
        let Sources { register, a, b } = self.sources(inst);
        let result = [a, b].map(|halves| {
            let words: Vec<Value> = (0..4)
                .map(|at| {
                    let number = self.lane_of_half(32, halves[at / 2], at as u32 % 2);
                    let clamped = self.clamped(number, 0, 0xffff);
                    self.trunc(Type::I16, clamped)
                })
                .collect();
            self.joined_lanes(16, &words)
        });
        self.write_lanes(register, result);
    }

    /// `punpcklbw`, `punpckhwd` and their twins.
    pub(crate) fn unpack(&mut self, inst: &Instruction, bits: u32, high: bool) {
        let Sources { register, a, b } = self.sources(inst);
        let half = usize::from(high);
        let result = self.zipped(bits, a[half], b[half]);
        self.write_lanes(register, result);
    }

    /// The lanes of two halves by turns, as two halves.
    pub(crate) fn zipped(&mut self, bits: u32, a: Value, b: Value) -> [Value; 2] {
        let (low, high) = if bits == 8 { (Opcode::Zip8, Opcode::ZipHigh8) } else { (Opcode::Zip16, Opcode::ZipHigh16) };
        [self.binary(low, a, b), self.binary(high, a, b)]
    }

    /// `pmovzxbw` and its like: the lowest lanes of the source, widened.
    pub(crate) fn widened_lanes(&mut self, inst: &Instruction, from: u32, to: u32, signed: bool) {
        let factor = to / from;
        let is_wide = inst.op0_register().is_ymm();
        // What makes the upper half of a ymm register stands behind what makes the lower one.
        let parts = if inst.op1_kind() != OpKind::Memory || inst.memory_size().size() == 16 {
            self.read_full(inst, 1)
        } else {
            let address = self.address(inst);
            let loaded = self.load_operand(crate::operand::word(inst.memory_size().size()), address);
            let wide = self.zext(Type::I64, loaded);
            [wide, wide]
        };
        let low = self.widened_half(parts[0], from, to, signed);
        let high = if !is_wide {
            low
        } else if factor == 2 {
            self.widened_half(parts[1], from, to, signed)
        } else {
            let upper = self.binary_const(Opcode::Lshr, parts[0], i64::from(128 / factor));
            self.widened_half(upper, from, to, signed)
        };
        self.write_all(inst.op0_register(), low, high);
    }

    /// The lowest lanes of a half, widened to two halves.
    fn widened_half(&mut self, mut value: Value, from: u32, to: u32, signed: bool) -> [Value; 2] {
        let zero = self.constant(Type::I64, 0);
        let mut bits = from;
        let mut halves = [value, zero];
        while bits < to {
            halves = if bits == 32 {
                let (low, high) = (self.lane_of_half(32, value, 0), self.lane_of_half(32, value, 1));
                [self.extended(Type::I64, low, signed), self.extended(Type::I64, high, signed)]
            } else {
                let above = if signed { self.greater(bits, zero, value) } else { zero };
                self.zipped(bits, value, above)
            };
            value = halves[0];
            bits *= 2;
        }
        halves
    }

    /// `pshufb`.
    pub(crate) fn shuffle_bytes(&mut self, inst: &Instruction) {
        let Sources { register, a, b } = self.sources(inst);
        let result = b.map(|by| self.emit(Inst::ternary(Opcode::Shuffle8, Type::I64, a[0], a[1], by)));
        self.write_lanes(register, result);
    }

    /// `palignr`: 16 bytes out of the 32 of both sources, the second below the first.
    pub(crate) fn align_bytes(&mut self, inst: &Instruction) {
        let Sources { register, a, b } = self.sources(inst);
        let bytes = inst.immediate(inst.op_count() - 1).min(32) as usize;
        let zero = self.constant(Type::I64, 0);
        let all = [b[0], b[1], a[0], a[1], zero, zero, zero];
        let bits = bytes as i64 % 8 * 8;
        let result = [0, 1].map(|half| {
            let (low, high) = (all[bytes / 8 + half], all[bytes / 8 + half + 1]);
            if bits == 0 {
                return low;
            }
            let low = self.binary_const(Opcode::Lshr, low, bits);
            let high = self.binary_const(Opcode::Shl, high, 64 - bits);
            self.binary(Opcode::Or, low, high)
        });
        self.write_lanes(register, result);
    }

    /// `pshuflw`, `pshufhw`.
    pub(crate) fn shuffle_words(&mut self, inst: &Instruction, high: bool) {
        let mut result = self.read_full(inst, 1);
        let control = inst.immediate(2);
        let half = usize::from(high);
        let words = [0, 1, 2, 3].map(|at| (control >> (2 * at) & 3) as u32);
        let value = result[half];
        result[half] = if words == [0, 1, 2, 3] {
            value
        } else if words.iter().all(|&word| word == words[0]) {
            let word = self.lane_of_half(16, value, words[0]);
            let wide = self.zext(Type::I64, word);
            self.binary_const(Opcode::Mul, wide, repeat(16, 1))
        } else {
            let lanes = words.map(|at| self.lane_of_half(16, value, at));
            self.joined_lanes(16, &lanes)
        };
        self.write_lanes(inst.op0_register(), result);
    }

    /// `pblendw` and its like: a lane of the second source where the immediate has a 1.
    pub(crate) fn blend(&mut self, inst: &Instruction, bits: u32) {
        let Sources { register, a, b } = self.sources(inst);
        let lanes = 64 / bits;
        // Words have the same choice in both halves.
        let upper = if bits == 16 { 0 } else { u32::from(self.half) * 2 * lanes };
        let control = inst.immediate(inst.op_count() - 1) >> upper;
        let result = [0, 1].map(|half| {
            let ones = u64::MAX >> (64 - bits);
            let mask = (0..lanes)
                .filter(|at| control >> (half as u32 * lanes + at) & 1 == 1)
                .fold(0, |mask, at| mask | ones << (at * bits));
            let mask = self.constant(Type::I64, mask as i64);
            self.choice(mask, b[half], a[half])
        });
        self.write_lanes(register, result);
    }

    /// `pblendvb` and its like: a lane of the second source where the mask's lane is negative.
    pub(crate) fn blend_by(&mut self, inst: &Instruction, bits: u32) {
        let mask = if inst.op_count() == 4 { inst.op3_register() } else { iced_x86::Register::XMM0 };
        let Sources { register, a, b } = self.sources(inst);
        let zero = self.constant(Type::I64, 0);
        let result = [0, 1].map(|half| {
            let control = self.read_lane(mask, half as u8);
            let negative = self.greater(bits, zero, control);
            self.choice(negative, b[half], a[half])
        });
        self.write_lanes(register, result);
    }

    /// `pinsrw` and its like: a lane from a general register or memory.
    pub(crate) fn insert_lane(&mut self, inst: &Instruction, bits: u32) {
        let last = inst.op_count() - 1;
        let source = if last == 3 { inst.op1_register() } else { inst.op0_register() };
        let ty = lane_type(bits);
        let value = self.read_operand(inst, last - 1, ty);
        let value = self.trunc(ty, value);
        let at = inst.immediate(last) as u32 % (128 / bits);
        let mut result = [self.read_lane(source, 0), self.read_lane(source, 1)];
        let half = (at * bits / 64) as usize;
        result[half] = self.with_lane(bits, result[half], at * bits % 64, value);
        self.write_lanes(inst.op0_register(), result);
    }

    /// A half with other bits from bit `shift` on.
    pub(crate) fn with_lane(&mut self, bits: u32, half: Value, shift: u32, value: Value) -> Value {
        let wide = self.zext(Type::I64, value);
        if bits == 64 {
            return wide;
        }
        let mask = u64::MAX >> (64 - bits) << shift;
        let kept = self.binary_const(Opcode::And, half, !mask as i64);
        let placed = if shift == 0 { wide } else { self.binary_const(Opcode::Shl, wide, i64::from(shift)) };
        self.binary(Opcode::Or, kept, placed)
    }

    /// `pextrw` and its like: a lane to a general register, zero-extended, or to memory.
    pub(crate) fn extract_lane(&mut self, inst: &Instruction, bits: u32) {
        let at = inst.immediate(2) as u32 % (128 / bits);
        let half = self.read_lane(inst.op1_register(), (at * bits / 64) as u8);
        let value = self.lane_of_half(bits, half, at * bits % 64 / bits);
        if inst.op0_kind() == OpKind::Memory {
            return self.write_operand(inst, 0, value);
        }
        let wide = self.zext(Type::I64, value);
        self.write_slot(crate::operand::gpr_slot(inst.op0_register()), wide);
    }

    /// `ptest` and its like: ZF if no bit of `mask` is common, CF if the second operand has none that the first lacks.
    pub(crate) fn test_bits(&mut self, inst: &Instruction, mask: i64) {
        let (a, b) = (self.read_whole(inst, 0), self.read_whole(inst, 1));
        let mut bits: Option<[Value; 2]> = None;
        for (&a, &b) in a.iter().zip(&b) {
            let b = if mask == -1 { b } else { self.binary_const(Opcode::And, b, mask) };
            let not = self.unary(Opcode::Not, a);
            let here = [self.binary(Opcode::And, a, b), self.binary(Opcode::And, not, b)];
            bits = Some(match bits {
                None => here,
                Some(all) => [0, 1].map(|at| self.binary(Opcode::Or, all[at], here[at])),
            });
        }
        let [zf, cf] = [0, 1].map(|at| bits.map(|all| self.compare_const(Opcode::Eq, all[at], 0)));
        self.set_flags(crate::flags::Kind::Bits { zf, cf });
    }
}

/// The type of a lane.
fn lane_type(bits: u32) -> Type {
    crate::operand::word(bits as usize / 8)
}
