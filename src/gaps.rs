//! Which ranges of an arena are free: who takes one gets the smallest that is large enough, and neighbours become one.
//!
//! # Invariants
//! Gaps do not touch each other; both maps hold the same ones.
//!
//! # Worked example
//! Gaps at 0..32 and 64..160. Taking 48 leaves 0..32 and 112..160; giving 32..64 back makes them 0..64 and 112..160.

use std::collections::{BTreeMap, BTreeSet};

/// A set of free ranges.
#[derive(Debug, Default)]
pub struct Gaps {
    /// Lengths, by start.
    by_start: BTreeMap<usize, usize>,
    /// Length and start.
    by_length: BTreeSet<(usize, usize)>,
}

impl Gaps {
    /// Makes a range free, which was not.
    pub fn add(&mut self, mut start: usize, mut length: usize) {
        if let Some((&before, &bytes)) = self.by_start.range(..start).next_back()
            && before + bytes == start
        {
            self.remove(before, bytes);
            (start, length) = (before, bytes + length);
        }
        if let Some(&bytes) = self.by_start.get(&(start + length)) {
            self.remove(start + length, bytes);
            length += bytes;
        }
        self.by_start.insert(start, length);
        self.by_length.insert((length, start));
    }

    /// Takes `length` bytes and returns where they start, a multiple of `alignment`.
    pub fn take(&mut self, length: usize, alignment: usize) -> Option<usize> {
        let fits = |&(bytes, start): &(usize, usize)| start.next_multiple_of(alignment) + length <= start + bytes;
        let (bytes, start) = self.by_length.range((length, 0)..).copied().find(fits)?;
        self.remove(start, bytes);
        let taken = start.next_multiple_of(alignment);
        let (end, taken_end) = (start + bytes, taken + length);
        for (from, to) in [(start, taken), (taken_end, end)] {
            if from < to {
                self.by_start.insert(from, to - from);
                self.by_length.insert((to - from, from));
            }
        }
        Some(taken)
    }

    fn remove(&mut self, start: usize, length: usize) {
        self.by_start.remove(&start);
        self.by_length.remove(&(length, start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_gap_that_fits_is_taken_and_neighbours_become_one() {
        let mut gaps = Gaps::default();
        gaps.add(64, 96);
        gaps.add(0, 32);
        assert_eq!(gaps.take(48, 16), Some(64));
        gaps.add(32, 32);
        assert_eq!(gaps.by_start, BTreeMap::from([(0, 64), (112, 48)]));
        assert_eq!(gaps.take(32, 64), Some(128));
        assert_eq!(gaps.take(100, 16), None);
        gaps.add(64, 48);
        gaps.add(128, 32);
        assert_eq!(gaps.by_start, BTreeMap::from([(0, 160)]));
    }

    /// Against a map of bytes.
    #[test]
    fn no_byte_is_given_out_twice() {
        const UNIT: usize = 16;
        let (mut gaps, mut free, mut taken) = (Gaps::default(), vec![true; 128 * UNIT], Vec::new());
        gaps.add(0, free.len());
        let mut random = 1_u64;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let [units, alignment, kind] = [33, 40, 47].map(|shift| (random >> shift) as usize & 0x7f);
            let (length, alignment) = ((1 + units % 5) * UNIT, UNIT << (alignment % 3));
            if kind % 2 == 0 && !taken.is_empty() {
                let (start, length): (usize, usize) = taken.swap_remove(units % taken.len());
                gaps.add(start, length);
                free[start..start + length].fill(true);
            } else if let Some(start) = gaps.take(length, alignment) {
                assert_eq!(start % alignment, 0);
                assert!(free[start..start + length].iter().all(|byte| *byte));
                free[start..start + length].fill(false);
                taken.push((start, length));
            }
            assert_eq!(gaps.by_start.values().sum::<usize>(), free.iter().filter(|byte| **byte).count());
            assert_eq!(gaps.by_start.len(), gaps.by_length.len());
        }
    }
}
