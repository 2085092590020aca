//! Values that sit at the edges where instructions misbehave.
//!
//! Uniformly random operands almost never carry, overflow, shift by zero or meet a NaN. So a general register is one time
//! in eight each 0, all ones, a single bit, a count around operand widths, a sign-extended 32-bit number or a byte, and
//! random otherwise; most vector lanes hold interesting numbers of either precision. Now and then a whole register file
//! has a theme, so that its values meet each other.

use crate::native::State;
use crate::place::gpr_number;
use crate::rng::Rng;
use iced_x86::{Instruction, InstructionInfoFactory};

/// A register's content.
pub fn word(rng: &mut Rng) -> u64 {
    match rng.below(8) {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << rng.below(64),
        3 => count(rng),
        4 => rng.bits() as i32 as u64,
        5 => rng.bits() & 0xff,
        _ => rng.bits(),
    }
}

/// The bits of a `binary64` number.
pub fn double(rng: &mut Rng) -> u64 {
    let sign = rng.bits() & (1 << 63);
    let fraction = rng.bits() >> 12;
    sign | match rng.below(12) {
        0 => 0,
        1 => f64::INFINITY.to_bits(),
        2 => 0x7ff8_0000_0000_0000 | fraction,
        3 => 0x7ff0_0000_0000_0001 | fraction >> 13,
        4 => fraction,
        5 => 1,
        6 => f64::MAX.to_bits(),
        7 => (rng.below(1000) as f64).to_bits(),
        8 => (rng.bits() as i64 as f64).to_bits() & !(1 << 63),
        9 => 1.5f64.to_bits(),
        // Around the ends of the integer ranges.
        10 => (*rng.pick(&[i32::MAX as f64, 2147483648.0, 4294967296.0, 9223372036854775807.0, 0.5])).to_bits(),
        _ => fraction | (1023 - 8 + rng.below(16) as u64) << 52,
    }
}

/// The bits of two `binary32` numbers.
fn singles(rng: &mut Rng) -> u64 {
    let mut single = || match rng.below(8) {
        0 => 0,
        1 => 0x7fc0_0000 | rng.bits() as u32 >> 10,
        2 => 0x7f80_0001 | rng.bits() as u32 & 0x803f_ffff,
        3 => f32::INFINITY.to_bits(),
        4 => (1.5 * (rng.below(64) as f32 - 32.0)).to_bits(),
        5 => rng.bits() as u32 & 0x807f_ffff,
        6 => (rng.bits() as i32 as f32).to_bits(),
        _ => rng.bits() as u32,
    };
    u64::from(single()) | u64::from(single()) << 32
}

/// What the lanes of a register file, or of a piece of memory, have in common, so that they meet each other.
#[derive(Clone, Copy)]
enum Theme {
    Mixed,
    /// Zeros, infinities and NaNs.
    Special,
    /// Bytes of a small alphabet: often equal in parts.
    Alike,
    /// Counts around the widths of operands.
    Counts,
}

fn theme(rng: &mut Rng) -> Theme {
    *rng.pick(&[
        Theme::Mixed,
        Theme::Mixed,
        Theme::Mixed,
        Theme::Mixed,
        Theme::Mixed,
        Theme::Special,
        Theme::Alike,
        Theme::Counts,
    ])
}

fn themed_lane(theme: Theme, rng: &mut Rng) -> u64 {
    const SINGLES: [u32; 8] =
        [0, 0x8000_0000, 0x7fc0_0001, 0xffc0_0002, 0x7f80_0003, 0xff80_0004, 0x7f80_0000, 0x3f80_0000];
    match theme {
        Theme::Mixed => lane(rng),
        Theme::Special if rng.one_in(2) => {
            let wide = |single: u32| u64::from(single) << 32 | u64::from(single & 7);
            let single = wide(*rng.pick(&SINGLES));
            // The exponent of a double begins one nibble further right.
            let (sign, rest) = (single & 1 << 63, single & !(1 << 63));
            if rest >> 52 == 0x7f8 || rest >> 52 == 0x7fc { sign | rest | 0x7ff << 52 } else { single }
        }
        Theme::Special => u64::from(*rng.pick(&SINGLES)) | u64::from(*rng.pick(&SINGLES)) << 32,
        Theme::Alike => u64::from_le_bytes(std::array::from_fn(|_| *rng.pick(&[0, 0, 0, 1, 0x7f, 0x80, 0xff]))),
        Theme::Counts if rng.one_in(2) => count(rng),
        Theme::Counts => word(rng),
    }
}

/// A number at which shifts and bit fields change their ways.
pub fn count(rng: &mut Rng) -> u64 {
    *rng.pick(&[0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 0x100, 0x2000, 0x4010, u64::MAX])
}

/// A 64-bit lane of a vector register.
pub fn lane(rng: &mut Rng) -> u64 {
    match rng.below(8) {
        0..3 => double(rng),
        3 | 4 => singles(rng),
        _ => word(rng),
    }
}

/// A register file without any relation to memory.
pub fn state(rng: &mut Rng) -> State {
    let mut state = State::default();
    let kind = theme(rng);
    state.gpr.fill_with(|| match kind {
        Theme::Counts => count(rng),
        Theme::Mixed | Theme::Special | Theme::Alike => word(rng),
    });
    // Equal operands are as likely as special ones.
    if rng.one_in(8) {
        let (to, from) = (rng.below(16), rng.below(16));
        state.gpr[to] = state.gpr[from];
    }
    for vector in &mut state.vector {
        vector.fill_with(|| themed_lane(kind, rng));
    }
    if rng.one_in(8) {
        let (to, from) = (rng.below(16), rng.below(16));
        state.vector[to] = state.vector[from];
    }
    state.flags = rng.bits() & u64::from(redmagic_ir::FLAGS_MASK);
    state
}

/// Fills memory with interesting words.
pub fn memory(rng: &mut Rng, bytes: &mut [u8]) {
    let kind = theme(rng);
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&themed_lane(kind, rng).to_le_bytes()[..chunk.len()]);
    }
}

/// Many states for one instruction: from one to the next, mostly what it reads or writes changes.
pub struct Varied {
    state: State,
    general: Vec<usize>,
    vector: Vec<usize>,
}

impl Varied {
    /// States for `inst`.
    pub fn new(inst: &Instruction, rng: &mut Rng) -> Varied {
        let mut varied = Varied { state: state(rng), general: Vec::new(), vector: Vec::new() };
        for used in InstructionInfoFactory::new().info(inst).used_registers() {
            let register = used.register();
            let (list, number) = if register.is_gpr() {
                (&mut varied.general, gpr_number(register))
            } else if register.is_vector_register() && register.number() < 16 {
                (&mut varied.vector, register.number())
            } else {
                continue;
            };
            if !list.contains(&number) {
                list.push(number);
            }
        }
        varied
    }

    /// The next state.
    pub fn next(&mut self, rng: &mut Rng) -> State {
        if rng.one_in(64) {
            self.state = state(rng);
            return self.state;
        }
        let kind = theme(rng);
        for &number in &self.general {
            self.state.gpr[number] = if matches!(kind, Theme::Counts) { count(rng) } else { word(rng) };
        }
        for &number in &self.vector {
            self.state.vector[number].fill_with(|| themed_lane(kind, rng));
        }
        let other = rng.below(16);
        self.state.gpr[other] = word(rng);
        self.state.vector[rng.below(16)][other % 4] = lane(rng);
        if rng.one_in(8) {
            if let [first, second, ..] = self.general[..] {
                self.state.gpr[first] = self.state.gpr[second];
            }
            if let [first, second, ..] = self.vector[..] {
                self.state.vector[first] = self.state.vector[second];
            }
        }
        self.state.flags = rng.bits() & u64::from(redmagic_ir::FLAGS_MASK);
        self.state
    }
}
