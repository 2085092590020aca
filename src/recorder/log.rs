//! What the recorder writes down.
//!
//! An [`Entry`] per instruction always; a [`CheckLog`] beside it when traces are to be checked against their recordings.

use super::slots::{Access, SlotInfo};
use crate::context::Context;
use crate::memory::guest_load;
use crate::regions::Kind;
use iced_x86::Mnemonic::{Movsb, Movsd, Movsq, Movsw, Stosb, Stosd, Stosq, Stosw};
use iced_x86::Register;
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

const TOO_MANY: &str = "it has more accesses or calls than are logged";

/// The direction flag: string instructions go downwards.
const DIRECTION: u64 = 1 << 10;

/// Whether an instruction may access memory any number of times.
fn is_repeated(slot: &SlotInfo) -> bool {
    slot.instruction.is_string_instruction()
        && (slot.instruction.has_rep_prefix() || slot.instruction.has_repne_prefix())
}

/// What a check of the trace needs to know beside the entries.
pub struct CheckLog {
    /// The slots at the start.
    pub start: [u64; Slot::COUNT],
    /// All memory accesses, in order.
    pub accesses: Vec<MemoryLog>,
    /// The slots after native instructions and residual calls, by entry.
    pub states: Vec<(u32, [u64; Slot::COUNT])>,
    /// Why something could not be logged, so that the recording cannot be checked.
    pub incomplete: Option<&'static str>,
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
            incomplete: None,
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
            self.incomplete = Some(TOO_MANY);
            return;
        }
        let value = u128::from(value);
        self.accesses.push(MemoryLog { step, address, size: 8, before: value, after: value, writes: false });
    }

    fn note(&mut self, step: u32, slot: &SlotInfo, context: &Context, wanted: impl Fn(&Access) -> bool) {
        if is_repeated(slot) {
            return self.note_rounds(step, slot, context);
        }
        for access in slot.accesses.iter().filter(|access| wanted(access)) {
            self.access(step, access.address(context), u64::from(access.size), access.writes);
        }
    }

    /// The same of all rounds of a repeated instruction.
    fn note_rounds(&mut self, step: u32, slot: &SlotInfo, context: &Context) {
        let moves = matches!(slot.instruction.mnemonic(), Movsb | Movsw | Movsd | Movsq);
        let stores = matches!(slot.instruction.mnemonic(), Stosb | Stosw | Stosd | Stosq);
        let backwards = context.flags & DIRECTION != 0;
        if !(moves || stores) || backwards || slot.instruction.segment_prefix() != Register::None {
            self.incomplete = Some("a repeated instruction that may stop early");
            return;
        }
        let (rcx, rsi, rdi) = (context.gpr[1], context.gpr[6], context.gpr[7]);
        let bytes = rcx.saturating_mul(slot.instruction.memory_size().size() as u64);
        if moves {
            self.access(step, rsi, bytes, false);
        }
        self.access(step, rdi, bytes, true);
    }

    /// Notes that entry `step` is about to access so many bytes, in any case.
    #[expect(unsafe_code, reason = "reads what the guest is about to access")]
    fn access(&mut self, step: u32, address: u64, bytes: u64, writes: bool) {
        for at in (0..bytes).step_by(16) {
            if self.accesses.len() == self.accesses.capacity() {
                self.incomplete = Some(TOO_MANY);
                return;
            }
            let (address, size) = (address.wrapping_add(at), (bytes - at).min(16) as u32);
            // SAFETY: the guest's instruction accesses these bytes in any case.
            let before = unsafe { guest_load(address, size) };
            self.accesses.push(MemoryLog { step, address, size, before, after: before, writes });
        }
    }

    /// Notes what entry `step` has done, whose accesses begin at `first`.
    #[expect(unsafe_code, reason = "reads what the guest has just accessed")]
    pub fn after(&mut self, step: u32, slot: &SlotInfo, context: &Context, first: usize) {
        // What has only been read is another value if somebody else has written it meanwhile.
        for access in self.accesses.iter_mut().skip(first) {
            // SAFETY: the guest's instruction has just accessed these bytes.
            access.after = unsafe { guest_load(access.address, access.size) };
        }
        if slot.native {
            let known: u32 = slot.accesses.iter().map(|access| access.size.div_ceil(16)).sum();
            if !is_repeated(slot) && known as usize != self.accesses.len() - first {
                self.incomplete = Some("a native instruction whose accesses are not known");
            }
            self.state(step, context);
        }
    }

    /// Notes the state after the residual call of entry `step`.
    pub fn returned(&mut self, step: u32, context: &Context) {
        self.state(step, context);
    }

    fn state(&mut self, step: u32, context: &Context) {
        if self.states.len() == self.capacity {
            self.incomplete = Some(TOO_MANY);
        } else {
            self.states.push((step, context.slots()));
        }
    }
}
