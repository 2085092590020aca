//! What the host has declared immutable, and what it has taken back.
//!
//! # Invariants
//! - Ranges do not overlap: a declaration that overlaps earlier ones swallows what of them reaches beyond its end.
//! - What was read from a range that is taken back before its recording has become a trace is no constant any more, even if
//!   the same addresses were declared again meanwhile: a recording remembers how often something had been taken back when
//!   it began.
//!
//! # Worked example
//! A recording begins, and reads an operand at 0x1010, declared from 0x1000 to 0x1100. In a residual call the host frees that code,
//! takes it back, and declares new code at the same place. The recording ends: [`Declared::holds`] says no, and there is no trace.

use std::collections::{BTreeMap, VecDeque};

/// So many ranges that were taken back are remembered one by one.
const MEMORY: usize = 64;

/// A read may reach so many bytes further, or less.
const READ: u64 = 63;

/// The declared ranges.
#[derive(Default)]
pub struct Declared {
    /// Start and end.
    ranges: BTreeMap<u64, u64>,
    /// Ranges taken back so far.
    taken_back: u64,
    /// The last of them.
    last: VecDeque<(u64, u64)>,
}

impl Declared {
    /// Declares a range.
    pub fn add(&mut self, start: u64, end: u64) {
        // What was declared there before and reaches beyond stays declared.
        let end = self.overlapping(start, end).into_iter().map(|range| range.1).fold(end, u64::max);
        self.ranges.insert(start, end);
    }

    /// Takes a range back. Returns whether anything in it was declared.
    pub fn remove(&mut self, start: u64, end: u64) -> bool {
        let hit = self.overlapping(start, end);
        for (from, to) in &hit {
            self.ranges.remove(from);
            if *from < start {
                self.ranges.insert(*from, start);
            }
            if *to > end {
                self.ranges.insert(end, *to);
            }
        }
        if hit.is_empty() {
            return false;
        }
        self.taken_back += 1;
        if self.last.len() == MEMORY {
            self.last.pop_front();
        }
        self.last.push_back((start, end));
        true
    }

    /// Nothing holds that was read by recordings under way.
    pub fn doubt(&mut self) {
        self.taken_back += 1;
        self.last.clear();
    }

    /// The range that contains an address.
    pub fn range(&self, address: u64) -> Option<(u64, u64)> {
        let (&start, &end) = self.ranges.range(..=address).next_back()?;
        (address < end).then_some((start, end))
    }

    /// How often something was taken back so far.
    pub fn taken_back(&self) -> u64 {
        self.taken_back
    }

    /// Whether what was read at these addresses since [`Declared::taken_back`] was that is what is declared there, if anything is.
    pub fn holds(&self, taken_back: u64, mut reads: impl Iterator<Item = u64>) -> bool {
        let since = usize::try_from(self.taken_back - taken_back).unwrap_or(usize::MAX);
        let Some(known) = self.last.len().checked_sub(since) else { return false };
        let hit =
            |read| self.last.range(known..).any(|&(start, end)| (start.saturating_sub(READ)..end).contains(&read));
        since == 0 || !reads.any(hit)
    }

    fn overlapping(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let from = self.ranges.range(..start).next_back().map_or(start, |(from, _)| *from);
        let ranges = self.ranges.range(from..end).map(|(from, to)| (*from, *to));
        ranges.filter(|(_, to)| *to > start).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_declared_and_taken_back() {
        let mut declared = Declared::default();
        declared.add(100, 200);
        declared.add(150, 160);
        assert_eq!((declared.range(99), declared.range(100)), (None, Some((100, 200))));
        assert_eq!((declared.range(199), declared.range(200)), (Some((150, 200)), None));
        assert!(!declared.remove(300, 400));
        assert_eq!(declared.taken_back(), 0);
        assert!(declared.remove(120, 180));
        assert_eq!(
            (declared.range(119), declared.range(150), declared.range(180)),
            (Some((100, 120)), None, Some((180, 200)))
        );
    }

    #[test]
    fn what_is_taken_back_and_declared_again_is_something_else() {
        let mut declared = Declared::default();
        declared.add(100, 200);
        let begin = declared.taken_back();
        assert!(declared.holds(begin, [150].into_iter()));
        declared.remove(100, 200);
        declared.add(100, 200);
        assert!(!declared.holds(begin, [20, 150].into_iter()));
        assert!(declared.holds(begin, [20, 200].into_iter()));
        assert!(declared.holds(declared.taken_back(), [150].into_iter()));
    }

    #[test]
    fn what_is_doubted_does_not_hold() {
        let mut declared = Declared::default();
        let begin = declared.taken_back();
        declared.doubt();
        assert!(!declared.holds(begin, std::iter::empty()));
        assert!(declared.holds(declared.taken_back(), std::iter::empty()));
    }

    #[test]
    fn what_is_not_remembered_does_not_hold() {
        let mut declared = Declared::default();
        let begin = declared.taken_back();
        for _ in 0..=MEMORY {
            assert!(declared.holds(begin, [150].into_iter()));
            declared.add(100, 101);
            declared.remove(100, 101);
        }
        assert!(!declared.holds(begin, [150].into_iter()));
    }
}
