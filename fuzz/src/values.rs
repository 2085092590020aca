//! Values that sit at the edges where instructions misbehave.
//!
//! Uniformly random operands almost never carry, overflow, shift by zero or meet a NaN. So a general register is one
//! time in eight each 0, all ones, a single bit, a small number, a sign-extended 32-bit number or a byte, and random
//! otherwise; half of the vector lanes hold interesting doubles.

use crate::native::State;
use crate::rng::Rng;

/// A register's content.
pub fn word(rng: &mut Rng) -> u64 {
    match rng.below(8) {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << rng.below(64),
        3 => rng.below(70) as u64,
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
    let mut single = || match rng.below(6) {
        0 => 0,
        1 => 0x7fc0_0000 | rng.bits() as u32 >> 10,
        2 => f32::INFINITY.to_bits(),
        3 => rng.bits() as u32 & 0x807f_ffff,
        4 => (rng.bits() as i32 as f32).to_bits(),
        _ => rng.bits() as u32,
    };
    u64::from(single()) | u64::from(single()) << 32
}

/// A 64-bit lane of a vector register.
pub fn lane(rng: &mut Rng) -> u64 {
    match rng.below(8) {
        0..4 => double(rng),
        4 => singles(rng),
        _ => word(rng),
    }
}

/// A register file without any relation to memory.
pub fn state(rng: &mut Rng) -> State {
    let mut state = State::default();
    state.gpr.fill_with(|| word(rng));
    // Equal operands are as likely as special ones.
    if rng.one_in(8) {
        let (to, from) = (rng.below(16), rng.below(16));
        state.gpr[to] = state.gpr[from];
    }
    for vector in &mut state.vector {
        vector.fill_with(|| lane(rng));
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
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&lane(rng).to_le_bytes()[..chunk.len()]);
    }
}
