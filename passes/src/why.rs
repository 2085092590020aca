//! Why loads, stores and guards are still there: what a pass notes when it gives up on one.
//!
//! Passes note reasons only if somebody has asked for them ([`optimise_explained`](crate::optimise_explained)); otherwise
//! that costs a test. A later run of a pass replaces what an earlier one has noted. Reasons are facts of the pass that notes
//! them, at the place where it decides, so they stay true when the pass changes.
//!
//! # Worked example
//! ```text
//! v1: i64 = load [v0 + 8]     forward: nothing is known of this memory before
//! store i64 [v9], v5          forward: exit1 may see it
//! v2: i64 = load [v0 + 8]     forward: the store v6 may be to the same memory: nothing says that v9 and v0 are apart
//! guard v3, exit1             forward: depends on v2
//! ```

use crate::rewrites::Rewrite;
use redmagic_ir::{Entity, Exit, Inst, Opcode, Trace, Value};
use std::collections::BTreeMap;
use std::fmt;

/// Why an instruction was left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A load: nothing is known of the memory, because the iteration has not used it before.
    First,
    /// A load: what was known is gone since a store to what may be the same memory.
    Killed {
        /// The store.
        by: Value,
        /// What its address is relative to; none if it is absolute.
        its_root: Value,
        /// What the load's address is relative to; none if it is absolute.
        root: Value,
    },
    /// A load: a store has changed a part of what was known.
    Overlapped {
        /// The store.
        by: Value,
    },
    /// A load: a residual call or an instruction that is executed verbatim may have changed the memory.
    Called,
    /// A store: an exit behind it shows memory to the interpreter.
    SeenBy(Exit),
    /// A store: a residual call behind it may read memory.
    SeenByCall,
    /// A store: the next iteration may read it.
    SeenNext,
    /// A guard: what it tests depends on these, of which too little is known.
    DependsOn(Vec<Value>),
    /// An access of a loop: its address may be another one in each iteration.
    Varies {
        /// What changes.
        root: Value,
    },
    /// An access of a loop with a changing address: no guard bounds it, so it may be to any memory.
    Unbounded {
        /// What changes.
        root: Value,
    },
    /// An access of a loop: other accesses take parts of the same bytes.
    Parts,
    /// A store of a loop: stores cannot wait, because there are too many or a load may be from anywhere.
    CannotWait,
    /// A guard of a loop that tests the same in every iteration, but not what the first one has tested.
    Invariant,
}

impl Reason {
    /// The store that is to blame.
    pub fn store(&self) -> Option<Value> {
        match self {
            Reason::Killed { by, .. } | Reason::Overlapped { by } => Some(*by),
            Reason::First | Reason::Called => None,
            Reason::SeenBy(_) | Reason::SeenByCall | Reason::SeenNext => None,
            Reason::DependsOn(_) | Reason::Invariant => None,
            Reason::Varies { .. } | Reason::Unbounded { .. } | Reason::Parts | Reason::CannotWait => None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::First => f.write_str("nothing is known of this memory before"),
            Reason::Killed { by, its_root, root } => {
                let name = |root: &Value| if root.is_some() { root.to_string() } else { "a fixed address".to_owned() };
                write!(f, "a store ({by}) may be to the same memory: nothing says that {} and ", name(its_root))?;
                write!(f, "{} are apart", name(root))
            }
            Reason::Overlapped { by } => write!(f, "a store ({by}) has changed a part of it"),
            Reason::Called => f.write_str("a call, or an instruction executed verbatim, may have changed it"),
            Reason::SeenBy(exit) => write!(f, "{exit} may see it"),
            Reason::SeenByCall => f.write_str("a call may see it"),
            Reason::SeenNext => f.write_str("the next iteration may see it"),
            Reason::DependsOn(values) => {
                let names: Vec<String> = values.iter().map(Value::to_string).collect();
                write!(f, "depends on {}", names.join(", "))
            }
            Reason::Varies { root } => write!(f, "its address changes with {root}"),
            Reason::Unbounded { root } => write!(f, "its address changes with {root}, which no guard bounds"),
            Reason::Parts => f.write_str("other accesses take parts of the same bytes"),
            Reason::CannotWait => f.write_str("stores cannot wait: there are too many, or a load may be from anywhere"),
            Reason::Invariant => {
                f.write_str("tests the same in every iteration, but not what the first one has tested")
            }
        }
    }
}

/// How many instructions of each kind a trace has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Loads.
    pub loads: u32,
    /// Stores.
    pub stores: u32,
    /// Guards.
    pub guards: u32,
    /// All others.
    pub others: u32,
}

impl Census {
    /// Counts.
    pub(crate) fn of(trace: &Trace) -> Census {
        let mut census = Census::default();
        for value in trace.segments.values().flat_map(|segment| &segment.insts) {
            *match trace.insts[*value].op {
                Opcode::Load => &mut census.loads,
                Opcode::Store => &mut census.stores,
                Opcode::Guard | Opcode::GuardNot => &mut census.guards,
                _ => &mut census.others,
            } += 1;
        }
        census
    }
}

/// One run of a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassRun {
    /// Its name.
    pub pass: &'static str,
    /// What the trace had before.
    pub before: Census,
    /// What it had afterwards.
    pub after: Census,
    /// What it did.
    pub rewrites: Vec<Rewrite>,
}

/// What passes have noted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reasons {
    reasons: BTreeMap<Value, Vec<(&'static str, Reason)>>,
    runs: Vec<PassRun>,
    /// Rewrites of the pass that runs.
    rewrites: Vec<Rewrite>,
}

impl Reasons {
    /// The reasons for which `value` is there, each with the pass that noted it.
    pub fn of(&self, value: Value) -> &[(&'static str, Reason)] {
        self.reasons.get(&value).map_or(&[], Vec::as_slice)
    }

    /// The runs of passes, in order.
    pub fn runs(&self) -> &[PassRun] {
        &self.runs
    }

    pub(crate) fn note(&mut self, pass: &'static str, value: Value, reason: Reason) {
        let reasons = self.reasons.entry(value).or_default();
        reasons.retain(|known| known.0 != pass);
        reasons.push((pass, reason));
    }

    pub(crate) fn ran(&mut self, pass: &'static str, before: Census, after: Census) {
        self.runs.push(PassRun { pass, before, after, rewrites: std::mem::take(&mut self.rewrites) });
    }

    pub(crate) fn did(&mut self, rewrite: Rewrite) {
        self.rewrites.push(rewrite);
    }
}

/// What `value` is computed from: loads, parameters and what comes from outside of the trace, at most a few.
pub(crate) fn leaves(trace: &Trace, value: Value, resolve: impl Fn(Value) -> Value) -> Vec<Value> {
    const MOST: usize = 4;
    let mut leaves = Vec::new();
    let mut seen = vec![resolve(value)];
    let mut at = 0;
    while at < seen.len() && leaves.len() < MOST && seen.len() < 64 {
        let inst: &Inst = &trace.insts[seen[at]];
        let is_leaf = matches!(inst.op, Opcode::Load | Opcode::Param | Opcode::Slot | Opcode::NativeOut);
        if is_leaf {
            leaves.push(seen[at]);
        } else {
            for operand in inst.operands().map(&resolve) {
                if !seen.contains(&operand) && trace.as_const(operand).is_none() {
                    seen.push(operand);
                }
            }
        }
        at += 1;
    }
    leaves.sort_unstable_by_key(|leaf| leaf.index());
    leaves
}
