//! What an optimiser run did, in numbers.
//!
//! Worked example: `stats.guards_removed` counts guards that were proved to hold, and `stats.rule_hits()` yields each
//! identity that was applied with the number of times.

use crate::pipeline::MemoryModel;
use crate::rewrites::{Rewrite, Rewrites};
use crate::rules;
use crate::why::{Reason, Reasons};
use redmagic_ir::Value;
use std::fmt;

/// Counters of one run of the optimiser (or of several, summed).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Instructions that the trace had before the first pass.
    pub ops_before: u32,
    /// Instructions that it has after the last one.
    pub ops_after: u32,
    /// Passes that were run.
    pub passes_run: u32,
    /// Operations computed at compile time.
    pub folded: u32,
    /// Operations that had been computed before.
    pub merged: u32,
    /// Guards that were proved to hold.
    pub guards_removed: u32,
    /// Guards that share one comparison with others, but for one of each group.
    pub guards_fused: u32,
    /// Guards that were proved to fail, which end their segment.
    pub guards_failing: u32,
    /// Loads that got their value from an earlier load or store.
    pub loads_forwarded: u32,
    /// Loads from immutable memory that became constants.
    pub loads_folded: u32,
    /// Stores of what memory held already.
    pub stores_removed: u32,
    /// Addresses that a guard made constant.
    pub promotions: u32,
    /// Loads from declared memory at an unknown address for which no place for a guard was known.
    pub promotions_refused: u32,
    /// Guards of promoted addresses that were moved in front of their loop.
    pub promotions_hoisted: u32,
    /// Loads of an interpreted program that was not declared, which a guard compares with what was recorded.
    pub code_compared: u32,
    /// Pairs of roots that a guard keeps apart.
    pub roots_apart: u32,
    /// Parameters that were removed.
    pub params_removed: u32,
    /// Values that became recipes of exits.
    pub sunk: u32,
    /// Slots that exits need not list because they are unchanged.
    pub unchanged: u32,
    /// Instructions without a use that were removed.
    pub dead: u32,
    /// Loops that got a second copy.
    pub loops_copied: u32,
    /// Why loops did not get one.
    pub loop_refusals: Vec<&'static str>,
    /// What the passes may do to memory.
    pub(crate) model: MemoryModel,
    /// Why things are left, if somebody wants to know.
    pub(crate) reasons: Option<Box<Reasons>>,
    /// Everything that was done, one by one.
    pub(crate) rewrites: Rewrites,
    /// Applications of each identity, by its place in the rule table.
    rules: Vec<u32>,
}

impl Stats {
    /// Counts an application of the identity at place `index` of the table.
    pub(crate) fn count_rule(&mut self, index: usize) {
        if self.rules.len() <= index {
            self.rules.resize(rules::all_rules().len(), 0);
        }
        self.rules[index] += 1;
    }

    /// A number that grows whenever a pass changes the trace.
    pub(crate) fn changes(&self) -> u64 {
        [
            self.folded,
            self.merged,
            self.guards_removed,
            self.guards_fused,
            self.guards_failing,
            self.loads_forwarded,
            self.loads_folded,
            self.stores_removed,
            self.promotions,
            self.promotions_hoisted,
            self.code_compared,
            self.roots_apart,
            self.params_removed,
            self.sunk,
            self.dead,
        ]
        .iter()
        .chain(&self.rules)
        .map(|count| u64::from(*count))
        .sum()
    }

    /// The identities that were applied, with the number of applications, in table order.
    pub fn rule_hits(&self) -> impl Iterator<Item = (&'static str, u32)> + '_ {
        rules::all_rules()
            .iter()
            .zip(&self.rules)
            .filter(|(_, count)| **count > 0)
            .map(|(rule, count)| (rule.name, *count))
    }

    /// How many changes were made that could have been left, and how many of them a limit allowed.
    pub fn rewrites(&self) -> u32 {
        self.rewrites.done()
    }

    /// The last rewrite that a limit allowed, if the limit was reached.
    pub fn last_rewrite(&self) -> Option<Rewrite> {
        self.rewrites.last()
    }

    /// Whether the rewrite called `what` may be done; then it counts.
    pub(crate) fn may(&mut self, what: &'static str) -> bool {
        let allowed = self.rewrites.may(what);
        if let (true, Some(reasons)) = (allowed, &mut self.reasons) {
            reasons.did(self.rewrites.now(what));
        }
        allowed
    }

    /// Notes why `value` is left.
    pub(crate) fn because(&mut self, value: Value, reason: impl FnOnce() -> Reason) {
        if let Some(reasons) = &mut self.reasons {
            reasons.note(self.rewrites.pass(), value, reason());
        }
    }

    /// How often the identity called `name` was applied.
    pub fn rule(&self, name: &str) -> u32 {
        self.rule_hits().find(|hit| hit.0 == name).map_or(0, |hit| hit.1)
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ops {} -> {}", self.ops_before, self.ops_after)?;
        for (name, count) in [
            ("passes", self.passes_run),
            ("rewrites", self.rewrites()),
            ("folded", self.folded),
            ("merged", self.merged),
            ("guards removed", self.guards_removed),
            ("guards fused", self.guards_fused),
            ("guards failing", self.guards_failing),
            ("loads forwarded", self.loads_forwarded),
            ("loads folded", self.loads_folded),
            ("stores removed", self.stores_removed),
            ("promotions", self.promotions),
            ("promotions refused", self.promotions_refused),
            ("promotions hoisted", self.promotions_hoisted),
            ("code compared", self.code_compared),
            ("roots apart", self.roots_apart),
            ("params removed", self.params_removed),
            ("sunk", self.sunk),
            ("unchanged slots", self.unchanged),
            ("dead", self.dead),
            ("loops copied", self.loops_copied),
        ] {
            if count > 0 {
                write!(f, ", {name} {count}")?;
            }
        }
        for reason in &self.loop_refusals {
            write!(f, ", loop not copied: {reason}")?;
        }
        for (name, count) in self.rule_hits() {
            write!(f, ", {name} {count}")?;
        }
        Ok(())
    }
}
