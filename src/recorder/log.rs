//! What the recorder writes down.
//!
//! An [`Entry`] per instruction always; a [`CheckLog`] beside it when traces are to be checked against their recordings.

use super::slots::{Access, SlotInfo};
use crate::context::Context;
use crate::memory::guest_load;
use crate::regions::Kind;
use redmagic_ir::{CallEffect, Slot};
use redmagic_lift::{Convention, Event};

/// One recorded instruction.
#[derive(Clone, Copy)]
pub struct Entry {
    /// The instruction.
    pub slot: &'static SlotInfo,
    /// The address executed next.
    pub next: u64,
    /// The effective address of its logged access, or 0.
    pub address: u64,
    /// The value read, or for a pure store the value written.
    pub value: u64,
    /// What it was.
    pub kind: EntryKind,
}

/// What an entry stands for.
#[derive(Clone, Copy, Debug)]
pub enum EntryKind {
    /// An executed instruction.
    Inst,
    /// The countdown of an anchor macro.
    Countdown,
    /// A residual call.
    Call {
        /// The callee.
        target: u64,
        /// Where it returns to.
        return_address: u64,
        /// It was a jump.
        tail: bool,
        /// What the callee may do.
        effect: CallEffect,
        /// It is in another module.
        external: bool,
        /// It begins a region that ends there.
        region: Option<(Kind, u64)>,
    },
    /// A call of the library.
    Api {
        /// Where the guest goes on.
        return_address: u64,
        /// What it leaves undefined.
        convention: Convention,
        /// What it returns.
        result: Option<u64>,
    },
}

impl Entry {
    /// The lifter's form.
    pub fn event(&self) -> Event {
        let inst = self.slot.instruction;
        match self.kind {
            EntryKind::Inst => Event::Inst { inst, next: self.next, address: self.address, value: self.value },
            EntryKind::Countdown => Event::Countdown { inst, next: self.next },
            EntryKind::Call { target, return_address, tail, region: Some((_, end)), .. } => {
                Event::Region { inst, target, return_address, tail, end }
            }
            EntryKind::Call { target, return_address, tail, effect, external, region: None } => {
                Event::Call { inst, target, return_address, tail, effect, guard_target: true, external }
            }
            EntryKind::Api { return_address, convention, result } => {
                Event::Api { inst, return_address, convention, result }
            }
        }
    }
}

/// A memory access with what was there before and after.
#[derive(Clone, Copy, Debug)]
pub struct MemoryLog {
    /// The number of the entry.
    pub step: u32,
    /// The address.
    pub address: u64,
    /// Bytes, at most 16.
    pub size: u32,
    /// The bytes before the instruction, if it was read or written.
    pub before: u128,
    /// The bytes after it.
    pub after: u128,
    /// It was written.
    pub writes: bool,
}

/// What a check of the trace needs to know beside the entries.
pub struct CheckLog {
    /// The slots at the start.
    pub start: [u64; Slot::COUNT],
    /// All memory accesses, in order.
    pub accesses: Vec<MemoryLog>,
    /// The slots after native instructions and residual calls, by entry.
    pub states: Vec<(u32, [u64; Slot::COUNT])>,
    /// Something could not be logged: the recording cannot be checked.
    pub incomplete: bool,
    capacity: usize,
}

impl CheckLog {
    /// An empty log for a recording of at most `entries` entries. All memory is allocated here.
    pub fn new(context: &Context, entries: usize) -> CheckLog {
        let states = entries.min(4000);
        CheckLog {
            start: context.slots(),
            accesses: Vec::with_capacity(2 * entries),
            states: Vec::with_capacity(states),
            incomplete: false,
            capacity: states,
        }
    }

    /// Notes the memory that entry `step` is about to access. Returns where its accesses begin.
    pub fn before(&mut self, step: u32, slot: &SlotInfo, context: &Context) -> usize {
        let first = self.accesses.len();
        self.note(step, slot, context, |_| true);
        first
    }

    /// Notes only what entry `step` is about to read.
    pub fn before_reads(&mut self, step: u32, slot: &SlotInfo, context: &Context) {
        self.note(step, slot, context, |access| access.reads && !access.writes);
    }

    /// Notes that the callee of a jump, entry `step`, will return to `value`, which is on top of the stack at `address`.
    pub fn return_address(&mut self, step: u32, address: u64, value: u64) {
        if self.accesses.len() == self.accesses.capacity() {
            self.incomplete = true;
            return;
        }
        let value = u128::from(value);
        self.accesses.push(MemoryLog { step, address, size: 8, before: value, after: value, writes: false });
    }

    #[expect(unsafe_code, reason = "reads what the guest is about to access")]
    fn note(&mut self, step: u32, slot: &SlotInfo, context: &Context, wanted: impl Fn(&Access) -> bool) {
        for access in slot.accesses.iter().filter(|access| wanted(access)) {
            if access.size > 16 || self.accesses.len() == self.accesses.capacity() {
                self.incomplete = true;
                continue;
            }
            let address = access.address(context);
            // SAFETY: the guest's instruction accesses these bytes unconditionally.
            let before = unsafe { guest_load(address, access.size) };
            self.accesses.push(MemoryLog {
                step,
                address,
                size: access.size,
                before,
                after: before,
                writes: access.writes,
            });
        }
    }

    /// Notes what entry `step` has done, whose accesses begin at `first`.
    #[expect(unsafe_code, reason = "reads what the guest has just accessed")]
    pub fn after(&mut self, step: u32, slot: &SlotInfo, context: &Context, first: usize) {
        for access in self.accesses.iter_mut().skip(first).filter(|access| access.writes) {
            // SAFETY: the guest's instruction has just written these bytes.
            access.after = unsafe { guest_load(access.address, access.size) };
        }
        if slot.native {
            let listed = slot.accesses.len() == self.accesses.len() - first;
            let conditional = slot.instruction.has_rep_prefix() || slot.instruction.has_repne_prefix();
            self.incomplete |= !listed || conditional;
            self.state(step, context);
        }
    }

    /// Notes the state after the residual call of entry `step`.
    pub fn returned(&mut self, step: u32, context: &Context) {
        self.state(step, context);
    }

    fn state(&mut self, step: u32, context: &Context) {
        if self.states.len() == self.capacity {
            self.incomplete = true;
        } else {
            self.states.push((step, context.slots()));
        }
    }
}
