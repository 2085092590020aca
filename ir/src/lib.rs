//! The trace IR of Redmagic: data structures, text form, verifier and reference evaluator.
//!
//! Recorded machine instructions are *lifted* to this IR, the optimiser rewrites it, the backend *lowers* it to machine
//! code. It is small on purpose: one table of opcodes ([`Opcode`]), values that are plain bit patterns ([`Type`]), a
//! graph of straight-line segments ([`Trace`]), and exits that say what the guest's registers and memory hold when the
//! trace is left ([`ExitData`]).

#![forbid(unsafe_code)]

pub mod early;
mod entity;
pub mod eval;
pub mod graph;
mod guest;
mod inst;
mod lanes;
mod lexer;
mod opcode;
mod parse;
mod print;
pub mod sandbox;
pub mod scalar;
pub mod script;
mod trace;
mod types;
pub mod typing;
pub mod verify;

pub use entity::{Entity, Exit, Map, Native, Segment, Value};
pub use guest::{AF, CF, Cond, FLAGS_MASK, OF, PF, SF, Slot, ZF};
pub use inst::{Address, Class, Inst};
pub use opcode::{Effect, Format, Opcode, Typing};
pub use parse::{ParseError, ParseErrorKind, parse, parse_one};
pub use print::DisplayInst;
pub use trace::{
    Call, CallEffect, DelayedStore, ExitData, ExitKind, ExitValue, NativeOp, Recipe, Recorded, Region, RegionKind,
    SegmentData, Target, Terminator, Trace,
};
pub use types::Type;
pub use verify::verify;
