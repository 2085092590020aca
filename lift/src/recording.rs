//! What a recorder hands to the lifter.
//!
//! Events follow each other without a gap: each begins at the address where the one before went on. The worked
//! example of the crate's documentation is the event list
//! `Inst { add, next: 3, .. }, Inst { dec, next: 6, .. }, Inst { jne, next: 0, .. }` with `start: 0, end: End::Loop`.

use iced_x86::Instruction;
use redmagic_ir::{CallEffect, Region};

/// A straight run of executed guest instructions.
#[derive(Clone, Debug)]
pub struct Recording {
    /// A name for people.
    pub name: String,
    /// The guest address of the first event.
    pub start: u64,
    /// What was executed, in order.
    pub events: Vec<Event>,
    /// Where the recording ends.
    pub end: End,
    /// Address ranges that do not change while the trace is valid.
    pub regions: Vec<Region>,
    /// The address of a meter that every iteration of a loop counts down; below zero it leaves at its start.
    pub meter: Option<u64>,
}

/// One step of a recording.
#[derive(Clone, Debug)]
pub enum Event {
    /// An executed instruction.
    Inst {
        /// The instruction; its `ip` is where it was executed.
        inst: Instruction,
        /// The address executed next.
        next: u64,
        /// The effective address of its memory operand, 0 if it accesses no memory. The explicit operand counts where
        /// there is one (`push [mem]`, `call [mem]`); else the stack access of push, pop, call and ret, and the source
        /// of `movs`.
        address: u64,
        /// The value that it loaded from there (the low 64 bits, zero-extended, before the instruction), or for a
        /// pure store the value that it stored.
        value: u64,
    },
    /// The counter decrement of an anchor macro. It makes no memory access and leaves the flags of 0 - 1.
    Countdown {
        /// The instruction.
        inst: Instruction,
        /// The address executed next.
        next: u64,
    },
    /// A call that is not traced into.
    Call {
        /// The call, or the jump of a tail call.
        inst: Instruction,
        /// The callee.
        target: u64,
        /// Where the callee returned to.
        return_address: u64,
        /// It was a jump: the return address is on the stack already.
        tail: bool,
        /// What the callee may do besides its result.
        effect: CallEffect,
        /// Another callee than the recorded one must not be called from the trace.
        guard_target: bool,
        /// The call leaves the module, so the System V ABI says which registers survive.
        external: bool,
    },
    /// A call of one of our own API functions that begins a region: the guest goes on in its own code, in whatever frames
    /// there are, until that has come to `end` with the same stack pointer.
    Region {
        /// The call (or the jump of a tail call).
        inst: Instruction,
        /// The function.
        target: u64,
        /// Where the region begins.
        return_address: u64,
        /// It was a jump: the return address is on the stack already.
        tail: bool,
        /// Where the trace goes on.
        end: u64,
    },
    /// A call of one of our own API functions; the trace does without it.
    Api {
        /// The call (or the jump of a tail call).
        inst: Instruction,
        /// Where the guest goes on.
        return_address: u64,
        /// Which slots have no defined value afterwards.
        convention: Convention,
        /// What the call leaves in rax.
        result: Option<u64>,
    },
}

/// Which slots an elided API call leaves without a defined value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convention {
    /// A plain call under the System V ABI: all caller-saved registers, the flags, all vector registers.
    Function,
    /// The header's macro forms: rax, rcx, the flags, all vector registers.
    Macro,
    /// A macro form that the recording goes on behind, which leaves its argument in rax: rcx, the flags, all vector
    /// registers. Unoptimised code stores rax, though nobody reads it.
    PassedMacro,
}

/// Where a recording ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At its own start.
    Loop,
    /// At another anchor.
    Anchor {
        /// The guest address of the anchor.
        pc: u64,
        /// The anchor's number.
        id: u32,
    },
    /// Anywhere else.
    Exit {
        /// The guest address where the guest's own code goes on.
        pc: u64,
    },
}

/// Read access to the guest's code.
pub trait Code {
    /// The bytes at a guest code address (zeros where fewer than 16 are readable); `None` if it is not readable as
    /// code.
    fn read(&self, pc: u64) -> Option<[u8; 16]>;
}
