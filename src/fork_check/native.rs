//! What this process executes in a trial, and the comparison of memory with the child's.
//!
//! # Dead memory
//! A trace need not write to a frame what nobody reads after it was popped. A byte is *dead* if it lies below the stack
//! pointer at the end, and the instruction that wrote it last did so with the stack pointer further down, no more than a
//! red zone above the byte: it belonged to a frame that is gone.
//!
//! Worked example: `call f` writes the return address to 0x7ff8 and f's first push its rbx to 0x7ff0; after f has
//! returned, the stack pointer is 0x8000 again, and both words may be anything. What f has written to 0x9000 counts.

use super::child::Iteration;
use crate::check::Difference;
use crate::context::Context;
use crate::memory::read_word;
use crate::recorder::places::Places;
use crate::recorder::{GiveUp, Origin, Recorder, Stop};
use crate::runtime::{Limits, Runtime};
use std::collections::BTreeMap;

/// Bytes below the stack pointer that a function may use.
const RED_ZONE: u64 = 128;

/// Native execution, recorded.
pub struct Native {
    /// What was executed.
    pub recorder: Recorder,
    /// The stack pointer after each instruction.
    stack: Vec<u64>,
}

impl Native {
    /// Begins at the state in the context, for at most `most` instructions.
    pub fn new(context: &Context, origin: Origin, runtime: &'static Runtime, most: usize) -> Native {
        let limits = runtime.limits(context.rip);
        let limits = Limits { check: true, instructions: limits.instructions.max(most), ..limits };
        let recorder = Recorder::new(context, origin, &limits, Places::default());
        Native { recorder, stack: Vec::with_capacity(most) }
    }

    /// Executes until there are `target` instructions, and the residual call behind them is due if there `is_call`. Stops
    /// early in front of what a trace cannot contain.
    pub fn step_to(
        &mut self,
        target: usize,
        is_call: bool,
        context: &mut Context,
        runtime: &'static Runtime,
    ) -> Result<(), Stop> {
        while self.recorder.log.len() < target {
            let before = self.recorder.log.len();
            self.recorder.limit = before + 1;
            let stop = self.recorder.run(context, runtime);
            let stepped = self.recorder.log.len() > before;
            if stepped {
                self.stack.push(context.rsp());
            }
            match stop {
                Stop::Call => return Err(stop),
                // There is nothing to do at anchors, each of which stops a recording once.
                Stop::Close | Stop::Anchor(_) => {}
                // What comes next may be something to stop for; perhaps it does not belong to the trial any more.
                _ if stepped => {}
                _ => return Err(stop),
            }
        }
        if !is_call {
            return Ok(());
        }
        self.recorder.limit = target + 1;
        match self.recorder.run(context, runtime) {
            Stop::Call => Ok(()),
            Stop::GiveUp(GiveUp::TooLong) => Err(Stop::GiveUp(GiveUp::TooLong)),
            stop => Err(stop),
        }
    }

    /// Compares bytes that either process has written. This one's state is in `context`.
    pub fn compare_memory(&self, iteration: &Iteration, context: &Context) -> Result<(), Difference> {
        let written = self.written(context.rsp());
        // All that the child has changed must be so in this process now.
        for change in &iteration.changes {
            let native = read_word(change.address).unwrap_or(change.before);
            compare_word(change.address, native, change.after, live(&written, change.address))?;
        }
        self.compare_written(iteration, context)
    }

    /// Compares the bytes that were written here.
    pub fn compare_written(&self, iteration: &Iteration, context: &Context) -> Result<(), Difference> {
        let written = self.written(context.rsp());
        let mut last = None;
        for word in written.keys().map(|address| address & !7) {
            if last.replace(word) != Some(word)
                && let (Some(native), Some(compiled)) = (read_word(word), iteration.word(word))
            {
                compare_word(word, native, compiled, live(&written, word))?;
            }
        }
        Ok(())
    }

    /// The bytes that were written, and whether they are dead now that the stack pointer is `rsp`.
    fn written(&self, rsp: u64) -> BTreeMap<u64, bool> {
        let mut written = BTreeMap::new();
        for access in self.recorder.check.iter().flat_map(|check| &check.accesses).filter(|access| access.writes) {
            let below = self.stack.get(access.step as usize).copied().unwrap_or(rsp);
            for address in (0..access.size).map(|at| access.address.wrapping_add(u64::from(at))) {
                let dead = below < rsp && address < rsp && address >= below.saturating_sub(RED_ZONE);
                written.insert(address, dead);
            }
        }
        written
    }
}

/// The bytes of a word that are not dead.
fn live(written: &BTreeMap<u64, bool>, word: u64) -> u64 {
    let dead = (0..8).filter(|at| written.get(&(word + at)) == Some(&true));
    !dead.fold(0, |dead, at| dead | 0xff << (at * 8))
}

/// Compares the bytes of a word that `live` is not 0 in.
fn compare_word(address: u64, native: u64, compiled: u64, live: u64) -> Result<(), Difference> {
    let different = (native ^ compiled) & live;
    if different == 0 {
        return Ok(());
    }
    let at = u64::from(different.trailing_zeros() / 8);
    let byte = |word: u64| Some((word >> (at * 8)) as u8);
    Err(Difference::Memory { address: address + at, expected: byte(native), found: byte(compiled) })
}
