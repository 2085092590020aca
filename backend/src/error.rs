//! Why a trace could not be compiled. None of these harms the process: the runtime goes on without the trace.

use redmagic_ir::{Opcode, Segment, Type};
use std::fmt;

/// Why a trace could not be compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendError {
    /// The processor, or a setting for it, is not supported.
    Target(String),
    /// The trace breaks a rule that the verifier checks.
    Malformed(String),
    /// An operation on a type that it is not defined for.
    Unsupported {
        /// The operation.
        op: Opcode,
        /// The type of its result.
        ty: Type,
    },
    /// A native operation has no stub.
    MissingNative {
        /// Its number.
        native: usize,
    },
    /// More values are live across a residual call than its activation record can hold.
    TooManyLiveValues {
        /// The segment that the call ends.
        segment: Segment,
        /// The number of 64-bit words needed.
        words: usize,
        /// The number of 64-bit words there are.
        limit: usize,
    },
    /// The code refers to something by relocation, so it cannot be copied freely.
    Relocation {
        /// Where in the code.
        offset: u32,
    },
    /// The code generator gave up.
    Codegen(String),
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BackendError::Target(why) => write!(f, "cannot generate code for this processor: {why}"),
            BackendError::Malformed(what) => write!(f, "malformed trace: {what}"),
            BackendError::Unsupported { op, ty } => write!(f, "`{}` cannot be lowered for {ty}", op.name()),
            BackendError::MissingNative { native } => write!(f, "native{native} has no stub"),
            BackendError::TooManyLiveValues { segment, words, limit } => {
                write!(f, "the call that ends {segment} has {words} words live across it, at most {limit} can be saved")
            }
            BackendError::Relocation { offset } => write!(f, "the code has a relocation at offset {offset}"),
            BackendError::Codegen(why) => write!(f, "code generation failed: {why}"),
        }
    }
}

impl std::error::Error for BackendError {}
