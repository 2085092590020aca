//! Reproducible randomness: the splitmix64 sequence, whose seed every failing test prints.
//!
//! Worked example: `Rng::new(7)` yields the same numbers on every machine, and `Rng::new(seed ^ case)` makes case
//! `case` of a long run reproducible without the cases before it.

/// A random number generator with 64 bits of state, or a reader of a fuzzer's bytes.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
    /// Bytes that decide before the state does, the next one last.
    bytes: Vec<u8>,
}

impl Rng {
    /// The sequence that belongs to `seed`.
    pub fn new(seed: u64) -> Rng {
        Rng { state: seed, bytes: Vec::new() }
    }

    /// Numbers that `bytes` decide: each takes as many of them as it needs. When they are used up, the sequence goes on
    /// with one that belongs to them.
    pub fn from_bytes(bytes: &[u8]) -> Rng {
        let state = bytes.iter().fold(0, |state: u64, byte| (state ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
        Rng { state, bytes: bytes.iter().rev().copied().collect() }
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        if let Some(rest) = self.bytes.len().checked_sub(8) {
            return self.bytes.drain(rest..).rev().fold(0, |bits, byte| bits << 8 | u64::from(byte));
        }
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number less than `bound` (which is not 0).
    pub fn below(&mut self, bound: usize) -> usize {
        if bound <= 256
            && let Some(byte) = self.bytes.pop()
        {
            return usize::from(byte) % bound;
        }
        ((u128::from(self.bits()) * bound as u128) >> 64) as usize
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// An element of `choices` (which is not empty).
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }
}
