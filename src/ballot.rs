//! Which of a loop's paths becomes its trace: the one that several recordings took.
//!
//! A trace is fast on the path that it was recorded on. Other paths go round through side traces, without what the second copy
//! of a loop saves. The pass on which a loop becomes hot may take any of them. A recording costs a tenth of what its trace
//! does, or less: so a loop is recorded several times, a few passes apart, until one of its paths has [`ENOUGH`] votes.
//!
//! # Invariants
//! - A vote changes only which recording is compiled, and when.
//! - Votes count until the trace is in use: if it is too dear for now, they wait with it.
//! - A host that asks for traces early gets the first path.
//!
//! # Worked example
//! A loop over numbers does more for primes, and its first recording sees 269, the second 282, the third 319, the fourth 368.
//! The last three took one path, and the fourth recording is compiled.

use crate::compile::End;
use crate::entry::describe;
use crate::heat::{LEAST_HEAT, let_pass};
use crate::loops::Loop;
use crate::recorder::Recorder;
use crate::recorder::log::Entry;
use crate::runtime::Runtime;
use std::collections::HashMap;

/// Votes that a path needs.
const ENOUGH: usize = 3;
/// Recordings after which a path needs only as many votes as any other.
const MANY: usize = 7;
/// Recordings of a loop, at most, before one is compiled.
const MOST: usize = 10;
/// From one recording to the next, in passes: what programs do has short periods, and a multiple of twelve and one gets on by
/// one in periods of 2, 3, 4, 6 and 12.
const BETWEEN: [u32; 3] = [13, 37, 49];

/// The paths that loops were recorded on, by their numbers.
#[derive(Default)]
pub struct Ballots(HashMap<u32, Vec<u64>>);

/// A recording has ended; if it is one of a loop, it votes. Returns whether another one is needed, which comes a few passes later.
pub fn needs_another(runtime: &'static Runtime, recorder: &Recorder, end: End) -> bool {
    let Some(own) = recorder.origin.anchor().filter(|_| runtime.hot_loop() >= LEAST_HEAT) else { return false };
    let path = path(&recorder.log);
    let Some(passes) = runtime.lock().ballots.count(own.number, path) else { return false };
    let cause = "recorded again to find the usual path";
    let detail = format!("{}: {cause} after {} instructions", describe(&recorder.origin), recorder.log.len());
    runtime.note(3, cause, &detail);
    // A recording that came round has met the anchor of the next pass.
    let_pass(runtime, own, passes - u32::from(end == End::Loop));
    true
}

impl Ballots {
    /// Counts a vote of the loop with this number. Returns how many passes later the next recording begins, if this one is not
    /// to be compiled.
    fn count(&mut self, number: u32, path: u64) -> Option<u32> {
        let votes = self.0.entry(number).or_default();
        if votes.len() < MOST {
            votes.push(path);
        }
        let of = |path| votes.iter().filter(|vote| **vote == path).count();
        let needed = if votes.len() < MANY { ENOUGH } else { votes.iter().map(|vote| of(*vote)).max().unwrap_or(0) };
        let goes_on = votes.len() < MOST && of(path) < needed;
        goes_on.then(|| BETWEEN[(votes.len() - 1) % BETWEEN.len()])
    }

    /// Nothing is known of the loop any more, or it has a trace.
    pub fn close(&mut self, own: &Loop) {
        self.0.remove(&own.number);
    }
}

/// What distinguishes the path of a recording from others.
fn path(log: &[Entry]) -> u64 {
    log.iter().fold(0, |hash, entry| (hash ^ entry.next).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of these recordings is compiled.
    fn elected(paths: &[u64]) -> Option<usize> {
        let mut ballots = Ballots::default();
        paths.iter().position(|path| ballots.count(5, *path).is_none())
    }

    #[test]
    fn the_first_path_with_enough_votes_is_compiled() {
        assert_eq!(elected(&[1, 1, 1, 1]), Some(2));
        assert_eq!(elected(&[2, 2, 1, 1, 1]), Some(4));
        assert_eq!(elected(&[1, 2, 3, 1, 2, 2]), Some(5));
        assert_eq!(elected(&[1, 2, 1, 2]), None);
    }

    #[test]
    fn where_no_path_has_them_the_most_decide() {
        assert_eq!(elected(&[1, 2, 3, 4, 5, 6, 7]), Some(6));
        assert_eq!(elected(&[1, 2, 1, 3, 4, 5, 6, 7, 4]), Some(8));
        assert_eq!(elected(&[1, 2, 1, 3, 4, 5, 6, 7, 8, 9]), Some(9));
    }

    #[test]
    fn a_path_that_is_too_dear_keeps_its_votes() {
        let mut ballots = Ballots::default();
        let mut vote = |path| ballots.count(5, path).is_none();
        assert_eq!([1, 1, 1, 2, 1].map(&mut vote), [false, false, true, false, true]);
    }

    /// A path that every `period`-th pass takes is not the usual one, whichever pass the first recording sees.
    #[test]
    fn what_is_rare_in_a_short_period_is_not_compiled() {
        for (period, first) in
            [3, 4, 5, 6, 7, 8, 12, 16].into_iter().flat_map(|period| (0..period).map(move |at| (period, at)))
        {
            let (mut ballots, mut pass) = (Ballots::default(), first);
            let is_rare = |pass: u32| pass.is_multiple_of(period);
            while let Some(passes) = ballots.count(5, u64::from(is_rare(pass))) {
                pass += passes;
            }
            assert!(!is_rare(pass), "one of {period}, from {first} on");
        }
    }

    #[test]
    fn loops_vote_apart() {
        let mut ballots = Ballots::default();
        assert!([5, 5, 6, 6].iter().all(|number| ballots.count(*number, 1).is_some()));
        assert!(ballots.count(6, 1).is_none());
    }
}
