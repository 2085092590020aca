//! The context: a thread's copy of the guest's register file, which stubs, trace code and the recorder share.
//!
//! # Invariants
//! - The offsets below are part of machine code: stubs use them as constants, trace code gets them as a
//!   [`Layout`](redmagic_backend::Layout). Changing a field's place changes nothing else.
//! - A context is written by the thread that it belongs to, and only while that thread is in the library or in a trace.
//! - `free_record` is never null while a trace runs.
//!
//! # Worked example
//! A trace was entered with rax = 5 in the guest. The stub has written 5 to `gpr[0]`; the trace reads it there once,
//! works on registers, and leaves by an exit that lists `rax = v7`: the exit's code writes v7 to `gpr[0]`, and the
//! piece that leads back to the guest loads the register from there.

use crate::exits::ExitRecord;
use crate::records::{Record, SAVE_WORDS};
use crate::thread::Thread;
use redmagic_backend::Layout;
use redmagic_ir::Slot;
use std::mem::offset_of;

/// The register file and what the stubs need beside it.
#[repr(C, align(64))]
pub struct Context {
    /// General registers in machine order.
    pub gpr: [u64; 16],
    /// CF, PF, AF, ZF, SF and OF at their places in RFLAGS.
    pub flags: u64,
    /// Where the guest goes on.
    pub rip: u64,
    /// Base of the fs segment.
    pub fs: u64,
    /// Base of the gs segment.
    pub gs: u64,
    /// Operands of the flags recipe of the exit being taken.
    pub flag_args: [u64; 3],
    /// The activation record that the next residual call uses.
    pub free_record: *mut Record,
    /// The stack pointer to come back to after a recorded instruction.
    pub host_rsp: u64,
    /// The end of the thread's private stack, 16-byte aligned.
    pub stack_top: u64,
    /// The exit that was taken last.
    pub exit: *const ExitRecord,
    /// The thread that this context belongs to.
    pub thread: *mut Thread,
    /// The trace function that `enter_pending` enters.
    pub entering: u64,
    /// Holds a vector register for a moment.
    pub scratch: [u64; 3],
    /// zmm0 to zmm31, least significant word first.
    pub vector: [[u64; 8]; 32],
    /// k0 to k7.
    pub mask: [u64; 8],
}

/// Offsets in the thread-local block of the stubs, from its start.
pub mod tls {
    /// Pointer to the thread's [`Context`](super::Context), null before the first anchor.
    pub const CONTEXT: i32 = 0;
    /// 1 (an i32) while the thread is in the library or in a trace.
    pub const BUSY: i32 = 8;
    /// Holds a register for a moment.
    pub const SCRATCH: i32 = 16;
    /// Holds the target of a jump for a moment.
    pub const JUMP: i32 = 24;
    /// Calls of `redmagic_temp_disable` that are open (a u32).
    pub const DISABLED: i32 = 32;
    /// The record of the innermost region of `redmagic_temp_disable` that a trace waits for, or null.
    pub const REGIONS: i32 = 40;
    /// The record of the merge block that a trace waits for, or null.
    pub const MERGE: i32 = 48;
}

/// Offset of general register `number`.
pub const fn gpr_offset(number: u8) -> i32 {
    offset_of!(Context, gpr) as i32 + number as i32 * 8
}

/// Offset of vector register `number`.
pub const fn vector_offset(number: u8) -> i32 {
    offset_of!(Context, vector) as i32 + number as i32 * 64
}

/// Bytes of a vector register above its slots: who writes the last slot clears them.
pub const ABOVE: i32 = 32;

/// Offset of a slot.
pub fn slot_offset(slot: Slot) -> i32 {
    if let Some(number) = slot.as_gpr() {
        gpr_offset(number)
    } else if let Some((number, lane)) = slot.as_xmm() {
        vector_offset(number) + i32::from(lane) * 8
    } else if slot == Slot::FLAGS {
        offset_of!(Context, flags) as i32
    } else if slot == Slot::FS {
        offset_of!(Context, fs) as i32
    } else {
        offset_of!(Context, gs) as i32
    }
}

/// What trace code needs to know.
pub fn backend_layout() -> Layout {
    let argument = |at: usize| (offset_of!(Context, flag_args) + at * 8) as i32;
    Layout {
        slots: std::array::from_fn(|at| Slot::from_index(at).map_or(0, slot_offset)),
        above: ABOVE,
        free_record: offset_of!(Context, free_record) as i32,
        flag_args: [argument(0), argument(1), argument(2)],
        record_resume: offset_of!(Record, resume) as i32,
        record_target: offset_of!(Record, target) as i32,
        record_return: offset_of!(Record, return_address) as i32,
        record_save: offset_of!(Record, save) as i32,
        save_words: SAVE_WORDS,
    }
}

impl Context {
    /// A context that holds zeros.
    pub fn new() -> Context {
        Context {
            gpr: [0; 16],
            flags: 0,
            rip: 0,
            fs: 0,
            gs: 0,
            flag_args: [0; 3],
            free_record: std::ptr::null_mut(),
            host_rsp: 0,
            stack_top: 0,
            exit: std::ptr::null(),
            thread: std::ptr::null_mut(),
            entering: 0,
            scratch: [0; 3],
            vector: [[0; 8]; 32],
            mask: [0; 8],
        }
    }

    /// The value of a slot, zero-extended.
    pub fn slot(&self, slot: Slot) -> u64 {
        if let Some(number) = slot.as_gpr() {
            self.gpr[usize::from(number)]
        } else if let Some((number, lane)) = slot.as_xmm() {
            self.vector[usize::from(number)][usize::from(lane)]
        } else if slot == Slot::FLAGS {
            self.flags & 0xffff_ffff
        } else if slot == Slot::FS {
            self.fs
        } else {
            self.gs
        }
    }

    /// Changes the value of a slot.
    pub fn set_slot(&mut self, slot: Slot, value: u64) {
        if let Some(number) = slot.as_gpr() {
            self.gpr[usize::from(number)] = value;
        } else if let Some((number, lane)) = slot.as_xmm() {
            let register = &mut self.vector[usize::from(number)];
            register[usize::from(lane)] = value;
            if lane == 3 {
                register[4..].fill(0);
            }
        } else if slot == Slot::FLAGS {
            self.flags = value & 0xffff_ffff;
        } else if slot == Slot::FS {
            self.fs = value;
        } else {
            self.gs = value;
        }
    }

    /// The values of all slots, by index.
    pub fn slots(&self) -> [u64; Slot::COUNT] {
        std::array::from_fn(|at| Slot::from_index(at).map_or(0, |slot| self.slot(slot)))
    }

    /// This context's address, which names its thread.
    pub fn address(&self) -> u64 {
        std::ptr::from_ref(self) as u64
    }

    /// The stack pointer.
    pub fn rsp(&self) -> u64 {
        self.gpr[4]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_its_own_place() {
        let mut context = Context::new();
        for slot in Slot::all() {
            context.set_slot(slot, 1000 + slot.index() as u64);
        }
        let slots = context.slots();
        let base = std::ptr::from_ref(&context).cast::<u8>();
        for slot in Slot::all() {
            assert_eq!(slots[slot.index()], 1000 + slot.index() as u64);
            let bytes: [u8; 8] = std::array::from_fn(|at| {
                // The offsets that machine code uses name the same bytes as the accessors.
                let offset = slot_offset(slot) as usize + at;
                crate::memory::read_bytes::<1>(base as u64 + offset as u64).map_or(0, |byte| byte[0])
            });
            assert_eq!(u64::from_le_bytes(bytes), slots[slot.index()]);
        }
    }
}
