//! Why a recording stops, and how that is told.
//!
//! Worked example: a recording meets `setjmp` after 5 instructions. The recorder stops with `End(Never)`, which is a good end
//! of a trace, but not of so short a one: the statistics count `recording too short: call of a function that is never called
//! from a trace`.

use crate::loops::Loop;
use redmagic_lift::Refusal;
use std::fmt;

/// Why the recorder stopped.
#[derive(Clone, Copy)]
pub enum Stop {
    /// Back at its own anchor.
    Close,
    /// At another anchor, one that has a trace.
    Anchor(&'static Loop),
    /// Before something that a trace cannot contain; what was recorded is good.
    End(EndReason),
    /// What was recorded is of no use.
    GiveUp(GiveUp),
    /// Before a residual call.
    Call,
}

/// What a trace cannot contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// This instruction.
    Refused(Refusal),
    /// A call of a function that no trace calls.
    Never,
    /// Code that belongs to no traced module.
    Outside,
    /// A call of the API that leaves traces.
    Leave,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndReason::Refused(refusal) => refusal.fmt(f),
            EndReason::Never => f.write_str("call of a function that is never called from a trace"),
            EndReason::Outside => f.write_str("code outside the traced modules"),
            EndReason::Leave => f.write_str("the guest asked to leave"),
        }
    }
}

/// Why a recording is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveUp {
    /// It has more instructions than allowed.
    TooLong,
    /// A function that was called has a loop of its own.
    NativeLoop,
    /// Its calls are nested deeper than allowed.
    TooDeep,
    /// It left its loop, which more often goes round.
    Detour,
    /// It runs through a loop that should be recorded first.
    InnerLoop,
    /// The guest says that the loop is over.
    Over,
    /// A function of another module was called for the first time; the next attempt will find it resolved.
    Unresolved,
    /// It ended after a few instructions.
    TooShort(EndReason),
    /// A residual call did not return.
    Interrupted,
    /// No memory for code is left.
    NoMemory,
}

impl fmt::Display for GiveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GiveUp::TooLong => "recording too long",
            GiveUp::NativeLoop => "a callee with a loop of its own",
            GiveUp::TooDeep => "calls nested too deep",
            GiveUp::Detour => "the loop was left",
            GiveUp::InnerLoop => "an inner loop comes first",
            GiveUp::Over => "the loop is over",
            GiveUp::Unresolved => "a linkage slot was not resolved yet",
            GiveUp::TooShort(reason) => return write!(f, "recording too short: {reason}"),
            GiveUp::Interrupted => "a residual call did not return",
            GiveUp::NoMemory => "no memory for code",
        })
    }
}
