//! When the memory of dropped traces is used again.
//!
//! Nothing leads to a dropped unit any more, but threads may be in its code still, and calls that it has made may return
//! to it. Both end by themselves; the memory is given back once they have.
//!
//! # How
//! What was dropped waits as one batch for two *rounds*. A round begins with abandoning the activation records of its units,
//! and ends when every thread that was in any trace then was seen outside, or entering another one. Threads that were about
//! to make a residual call when the first round began have made it when it ends, so the second one finds their records.
//! After that none are made: exits of dropped units lead to the library, which makes their calls without a record.
//!
//! Loops that were retired go the same way: a thread that has found one is busy until it has named it in a recording, or has
//! forgotten it again. What names a loop still keeps it for another batch.
//!
//! What was made before a fork is not used again in the parent: nobody knows when the child has made its copy of the code.
//!
//! # Invariants
//! - A thread sets its word BUSY before it looks where a trace is, or whether a record is still its trace's; a round begins
//!   with a barrier on all threads between abandoning and looking at their words. So who is not seen busy finds the new state.
//! - Batches are looked at when a recording has ended: the calling thread is in no trace then, and whatever traces it
//!   goes on with are found afterwards.
//!
//! # Worked example
//! Thread 1 drops unit 3 while thread 2 is in its loop. The next time that thread 1 has recorded something, thread 2 is still
//! there; the time after that it has entered unit 5 twice. The second round begins; thread 2 is in a residual call and so not
//! busy: unit 3 is gone, and its 2 KB of code are the next trace's.

use crate::interpret;
use crate::loops::{self, Loop};
use crate::memory::CodeBlock;
use crate::records::{self, Busy};
use crate::runtime::Shared;
use std::collections::HashSet;

/// What was dropped and not given back yet.
#[derive(Default)]
pub struct Reclaim {
    /// Dropped since the batch under way was closed.
    next: Batch,
    waiting: Option<(Batch, Round)>,
}

/// What is given back together.
#[derive(Default)]
struct Batch {
    units: HashSet<u32>,
    code: Vec<CodeBlock>,
    loops: Vec<&'static Loop>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.units.is_empty() && self.code.is_empty() && self.loops.is_empty()
    }
}

/// A batch waits for these threads.
struct Round {
    is_last: bool,
    threads: Vec<Busy>,
}

impl Reclaim {
    /// These units were dropped.
    pub fn units(&mut self, units: HashSet<u32>) {
        self.next.units.extend(units);
    }

    /// Nothing leads to this code any more.
    pub fn code(&mut self, blocks: impl IntoIterator<Item = CodeBlock>) {
        self.next.code.extend(blocks);
    }

    /// This loop was retired, and its units were dropped.
    pub fn retired(&mut self, retired: &'static Loop) {
        self.next.loops.push(retired);
    }
}

impl Shared {
    /// Gives back what nobody can be in any more. The calling thread, whose context is `own`, is in no trace.
    pub fn give_back(&mut self, own: u64) {
        let mut named = Vec::new();
        loop {
            let (batch, round) = match self.reclaim.waiting.take() {
                Some((batch, mut round)) => {
                    records::still_busy(&mut round.threads);
                    (batch, Some(round))
                }
                None if self.reclaim.next.is_empty() => break,
                None => (std::mem::take(&mut self.reclaim.next), None),
            };
            let round = match round {
                Some(round) if !round.threads.is_empty() => Some(round),
                Some(round) if round.is_last => {
                    named.extend(self.free(batch));
                    continue;
                }
                ended => {
                    records::abandon_units(&batch.units);
                    let threads = records::busy_threads(own);
                    threads.map(|threads| Round { is_last: ended.is_some(), threads })
                }
            };
            // Without a barrier nothing is ever known of other threads.
            let Some(round) = round else { break };
            let goes_on = round.threads.is_empty();
            self.reclaim.waiting = Some((batch, round));
            if !goes_on {
                break;
            }
        }
        self.reclaim.next.loops.extend(named);
    }

    /// Frees a batch; returns its loops that something names still.
    #[expect(unsafe_code, reason = "the end of what was leaked")]
    fn free(&mut self, batch: Batch) -> Vec<&'static Loop> {
        self.discard(batch.code);
        for number in batch.units {
            if let Some(unit) = self.units.remove(number) {
                self.discard(unit.blocks());
                interpret::forget(number);
            }
        }
        if batch.loops.is_empty() {
            return Vec::new();
        }
        let untried = self.untried.iter().map(|compiled| &compiled.unit);
        let roots = self.units.all().chain(untried).filter_map(|unit| unit.origin.anchor());
        let origins: HashSet<u32> = roots.map(|own| own.number).collect();
        let (named, unnamed): (Vec<_>, Vec<_>) =
            batch.loops.into_iter().partition(|retired| retired.is_named() || origins.contains(&retired.number));
        for retired in unnamed {
            self.docket.strike(retired);
            self.ballots.close(retired);
            // SAFETY: it was retired; no thread can have it from where it was found, and nothing names it.
            unsafe { loops::free(retired) };
        }
        named
    }

    /// Gives back code that nobody is in, and nothing leads to.
    pub fn discard(&mut self, blocks: impl IntoIterator<Item = CodeBlock>) {
        blocks.into_iter().for_each(|block| self.arena.remove(block));
    }
}
