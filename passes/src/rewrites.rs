//! Rewrites, one by one: every change that a pass could as well leave undone is asked for here.
//!
//! When an optimised trace does something wrong, the question is which change is at fault. With a limit on the number of
//! rewrites, everything behind the limit stays as it is, and the trace is still valid: so two runs, one with and one
//! without the last rewrite, tell.
//!
//! # Invariants
//! - A rewrite that was refused leaves the trace as correct as it was; passes never rely on one that they have asked for.
//! - The same trace, passes and limit give the same rewrites in the same order.
//!
//! # Worked example
//! `v2 = add v1, 0; guard (eq v2, v1)`: without a limit three rewrites, `add_zero` at v2, `compare_self` at the comparison,
//! `guard removed` at the guard. With a limit of 1, v2 is gone, and comparison and guard stay.

use redmagic_ir::Value;
use std::fmt;

/// What one rewrite was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Its place in the order, from 1.
    pub number: u32,
    /// The pass.
    pub pass: &'static str,
    /// The identity or the named part of the pass.
    pub what: &'static str,
    /// The instruction that the pass was looking at, or none.
    pub at: Value,
}

impl fmt::Display for Rewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rewrite { number, pass, what, at } = *self;
        write!(f, "rewrite {number}: pass {pass}, {what}")?;
        if at.is_some() { write!(f, ", at {at}") } else { Ok(()) }
    }
}

/// Counts rewrites and refuses those beyond a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rewrites {
    limit: u32,
    done: u32,
    pass: &'static str,
    at: Value,
    last: Option<Rewrite>,
}

impl Default for Rewrites {
    fn default() -> Rewrites {
        Rewrites::limited(u32::MAX)
    }
}

impl Rewrites {
    /// The first `limit` rewrites are done.
    pub(crate) fn limited(limit: u32) -> Rewrites {
        Rewrites { limit, done: 0, pass: "", at: Value::NONE, last: None }
    }

    /// From now on, rewrites are those of `pass`.
    pub(crate) fn enter(&mut self, pass: &'static str) {
        (self.pass, self.at) = (pass, Value::NONE);
    }

    /// From now on, rewrites concern the instruction `value`.
    pub(crate) fn look_at(&mut self, value: Value) {
        self.at = value;
    }

    /// Whether the rewrite called `what` may be done; then it counts.
    pub(crate) fn may(&mut self, what: &'static str) -> bool {
        let allowed = self.done < self.limit;
        if allowed {
            self.done += 1;
            if self.done == self.limit {
                self.last = Some(self.now(what));
            }
        }
        allowed
    }

    /// The rewrite that was done now.
    pub(crate) fn now(&self, what: &'static str) -> Rewrite {
        Rewrite { number: self.done, pass: self.pass, what, at: self.at }
    }

    /// The pass that runs.
    pub(crate) fn pass(&self) -> &'static str {
        self.pass
    }

    /// How many were done.
    pub(crate) fn done(&self) -> u32 {
        self.done
    }

    /// The last one that the limit allowed, if it was reached.
    pub(crate) fn last(&self) -> Option<Rewrite> {
        self.last
    }
}
