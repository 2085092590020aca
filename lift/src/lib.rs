//! Lifts recorded x86-64 instructions to the trace IR.
//!
//! # What goes in
//! A [`Recording`]: the instructions that the guest executed between two points, in order, each with the address that
//! was executed next and what its memory access was seen to do. A [`Code`] reads further guest code, to find out
//! whether flags are live where a trace is left.
//!
//! # What comes out
//! A [`Lifted`] trace that does what the recorded instructions did, bit for bit, for *every* machine state, or leaves
//! by an exit with the exact state of one of the recorded points. Nothing is approximated:
//! - an instruction in the coverage table (`cover.rs`) becomes pure operations, loads, stores and guards;
//! - any other becomes a *native* operation, executed verbatim with explicit inputs and outputs;
//! - what neither can express is refused with a named [`Refusal`], and a recording ends before it.
//!
//! # Worked example
//! One iteration of `top: add rax, rcx; dec rdi; jne top`, recorded as [`End::Loop`], becomes
//! ```text
//! seg0():
//!   v11: i64 = slot rax
//!   v12: i64 = slot rdi
//!   v1: i64 = slot rcx
//!   jump seg1(v11, v12)
//! seg1(v0: i64 = rax, v3: i64 = rdi):
//!   v2: i64 = add v0, v1
//!   v4: i64 = const 0
//!   v5: i64 = const -1
//!   v6: i64 = add v3, v5
//!   v7: i1 = eq v6, v4
//!   v8: i1 = ult v2, v0
//!   v9: i32 = fl_dec v3, v8
//!   guard_not v7, exit0
//!   jump seg1(v2, v6)
//! exit0 @0x400008 step 3 { rax = v2, rdi = v6, flags = v9 }
//! ```
//! rcx is only read: it is not a parameter, and no exit lists it. The flags are no parameter either, because `add`
//! overwrites all of them. Packing those of `dec` is for the exit alone: the code behind the loop, here a `ret`, might
//! read them; if it overwrote them first, the exit would list them as undefined.

#![forbid(unsafe_code)]

mod across;
mod bits;
mod branch;
mod convert;
mod cover;
pub mod coverage;
mod emit;
mod fastmap;
mod flags;
mod float;
mod fused;
mod int;
mod lanes;
mod lifter;
mod liveness;
mod locked;
mod muldiv;
mod native;
mod operand;
mod recording;
mod refuse;
mod resume;
mod shift;
mod single;
mod sse;
mod stack;
mod state;
mod string;
mod wide;

pub use lifter::{Lifted, lift};
pub use recording::{Code, Convention, End, Event, Recording};
pub use refuse::Refusal;

use iced_x86::{EncodingKind, Instruction};

/// Why a recording has to end before this instruction, if it has to.
pub fn refusal(inst: &Instruction) -> Option<Refusal> {
    match cover::handler(inst) {
        cover::Handler::Refused(reason) => Some(reason),
        _ => None,
    }
}

/// Whether the instruction changes memory atomically.
pub fn is_atomic(inst: &Instruction) -> bool {
    cover::is_locked(inst)
}

/// Whether the instruction may become a native operation, executed verbatim: a repeated string instruction does unless its
/// count turns out to be a small constant, one of AVX does in a recording that also names zmm or mask registers.
pub fn is_native(inst: &Instruction) -> bool {
    let rule = cover::handler(inst);
    let repeated = matches!(rule, cover::Handler::Repeated { .. } | cover::Handler::RepeatedComparison { .. });
    repeated || rule == cover::Handler::Native || inst.encoding() == EncodingKind::VEX && cover::is_vector(rule, inst)
}
