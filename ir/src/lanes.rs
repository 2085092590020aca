//! Exact evaluation of the operations on packed lanes: an i64 is eight bytes, four 16-bit or two 32-bit numbers.
//!
//! Worked example: `eval(Opcode::Add8, 0xff01, 0x0102, 0)` is `Some(0x0003)`: the carry of one lane does not get into the
//! next.

use crate::Opcode;

/// The result of a lane operation; `None` if `op` is none.
pub(crate) fn eval(op: Opcode, a: u64, b: u64, c: u64) -> Option<u64> {
    Some(match op {
        Opcode::Add8 => each(8, a, b, |a, b| a + b),
        Opcode::Add16 => each(16, a, b, |a, b| a + b),
        Opcode::Add32 => each(32, a, b, |a, b| a + b),
        Opcode::Sub8 => each(8, a, b, |a, b| a - b),
        Opcode::Sub16 => each(16, a, b, |a, b| a - b),
        Opcode::Sub32 => each(32, a, b, |a, b| a - b),
        Opcode::Usubs8 => each(8, a, b, |a, b| ((a & 0xff) - (b & 0xff)).max(0)),
        Opcode::Usubs16 => each(16, a, b, |a, b| ((a & 0xffff) - (b & 0xffff)).max(0)),
        Opcode::Mul16 => each(16, a, b, |a, b| a * b),
        Opcode::Eq8 => each(8, a, b, |a, b| -i64::from(a == b)),
        Opcode::Eq16 => each(16, a, b, |a, b| -i64::from(a == b)),
        Opcode::Eq32 => each(32, a, b, |a, b| -i64::from(a == b)),
        Opcode::Sgt8 => each(8, a, b, |a, b| -i64::from(a > b)),
        Opcode::Sgt16 => each(16, a, b, |a, b| -i64::from(a > b)),
        Opcode::Sgt32 => each(32, a, b, |a, b| -i64::from(a > b)),
        Opcode::Zip8 => zip(8, a, b),
        Opcode::ZipHigh8 => zip(8, a >> 32, b >> 32),
        Opcode::Zip16 => zip(16, a, b),
        Opcode::ZipHigh16 => zip(16, a >> 32, b >> 32),
        Opcode::PackS16 => pack(16, a, b, -0x80, 0x7f),
        Opcode::PackU16 => pack(16, a, b, 0, 0xff),
        Opcode::PackS32 => pack(32, a, b, -0x8000, 0x7fff),
        Opcode::Shuffle8 => shuffle(u128::from(a) | u128::from(b) << 64, c),
        Opcode::Signs8 => signs(a),
        _ => return None,
    })
}

/// Lane `lane` of `bits` bits, as a signed number.
fn lane(bits: u32, value: u64, lane: u32) -> i64 {
    (value >> (bits * lane) << (64 - bits)) as i64 >> (64 - bits)
}

/// Puts the low `bits` bits of numbers next to each other, the first lowest.
fn join(bits: u32, lanes: impl Iterator<Item = i64>) -> u64 {
    lanes.enumerate().fold(0, |value, (at, number)| {
        let number = number as u64 & (u64::MAX >> (64 - bits));
        value | number << (bits * at as u32)
    })
}

fn each(bits: u32, a: u64, b: u64, operation: fn(i64, i64) -> i64) -> u64 {
    join(bits, (0..64 / bits).map(|at| operation(lane(bits, a, at), lane(bits, b, at))))
}

/// The lanes of the low halves, by turns.
fn zip(bits: u32, a: u64, b: u64) -> u64 {
    join(bits, (0..32 / bits).flat_map(|at| [lane(bits, a, at), lane(bits, b, at)]))
}

/// The lanes of a, then those of b, each in half the bits and within bounds.
fn pack(bits: u32, a: u64, b: u64, least: i64, most: i64) -> u64 {
    let lanes = [a, b].into_iter().flat_map(|value| (0..64 / bits).map(move |at| lane(bits, value, at)));
    join(bits / 2, lanes.map(|number| number.clamp(least, most)))
}

fn shuffle(table: u128, control: u64) -> u64 {
    join(
        8,
        (0..8).map(|at| {
            let choice = lane(8, control, at);
            if choice < 0 { 0 } else { (table >> (8 * (choice & 15))) as i64 }
        }),
    )
}

fn signs(value: u64) -> u64 {
    join(1, (0..8).map(|at| i64::from(lane(8, value, at) < 0)))
}
