//! Native execution behind an exit, in the child: the instructions that the guest has executed from there on, one by one.
//!
//! The guest comes first and tells the child what it has done: what stands at which address, how it was executed, and the
//! address of the logged memory access. The child begins with the state that the exit has left in it, executes the
//! same copies of instructions, decides about every branch by itself, and stops where it is not where the guest was.
//!
//! # Invariants
//! Nothing is allocated here, and no lock taken: this runs in a child that was not made by `fork`. The guest waits meanwhile.
//!
//! Worked example: an exit has forgotten rdx. The guest has executed `mov [rdi], rdx; dec rcx; jne top`; the child executes
//! the same, with the rdx that it has. At `top` the word at rdi differs.

#![expect(unsafe_code, reason = "executes the guest's instructions")]

use crate::check::is_kept_by;
use crate::context::Context;
use crate::memory::{guest_load, guest_store};
use crate::recorder::log::{Entry, EntryKind};
use crate::recorder::slots::{Access, Condition, Kind};
use crate::stubs;
use redmagic_ir::{AF, CF, PF, SF, Slot};

/// An instruction that the guest has executed. Plain data: another process reads it.
#[derive(Clone, Copy)]
pub struct Step {
    entry: EntryKind,
    kind: Kind,
    pc: u64,
    behind: u64,
    /// The access that the recorder has logged, with its address.
    access: Option<(Access, u64)>,
    /// The register that holds the target of an indirect branch.
    register: Option<u8>,
}

impl Step {
    /// What an entry of the log stands for.
    pub fn new(entry: &Entry) -> Step {
        let slot = entry.slot;
        let register = slot.instruction.op0_register();
        Step {
            entry: entry.kind,
            kind: slot.kind,
            pc: slot.pc,
            behind: slot.next,
            access: slot.accesses.first().map(|access| (*access, entry.address)),
            register: register.is_gpr().then(|| register.full_register().number() as u8),
        }
    }
}

/// Executes `steps`; returns how many. Fewer than all where the child is elsewhere, or accesses another address.
pub fn follow(context: &mut Context, steps: &[Step]) -> usize {
    steps.iter().take_while(|step| context.rip == step.pc && execute(context, step)).count()
}

/// Executes one instruction; `false` if it would access another address than the guest has.
fn execute(context: &mut Context, step: &Step) -> bool {
    match step.entry {
        EntryKind::Inst => return instruction(context, step),
        EntryKind::Countdown => {
            context.flags = u64::from(CF | PF | AF | SF);
            context.rip = step.behind;
        }
        EntryKind::Api { return_address, result, .. } => {
            pop_if_jumped(context, step);
            for slot in Slot::all().filter(|slot| slot.as_xmm().is_some() && !is_kept_by(step.entry, *slot)) {
                context.set_slot(slot, 0);
            }
            context.gpr[0] = result.unwrap_or(context.gpr[0]);
            context.rip = return_address;
        }
        // The last step: the call is due, and made by nobody.
        EntryKind::Call { region, .. } => {
            pop_if_jumped(context, step);
            if region.is_some() {
                context.gpr[7] = context.rsp();
            }
        }
    }
    true
}

/// A function that was jumped to returns with its caller's return address.
fn pop_if_jumped(context: &mut Context, step: &Step) {
    if matches!(step.kind, Kind::Jump(_) | Kind::JumpIndirect | Kind::Branch { .. }) {
        context.gpr[4] = context.rsp().wrapping_add(8);
    }
}

fn instruction(context: &mut Context, step: &Step) -> bool {
    context.rip = match step.kind {
        Kind::Plain(code) => {
            if step.access.is_some_and(|(access, address)| access.address(context) != address) {
                return false;
            }
            stubs::run_slot(context, code);
            step.behind
        }
        Kind::Branch { condition, target } => {
            if is_taken(context, condition) {
                target
            } else {
                step.behind
            }
        }
        Kind::Jump(target) => target,
        Kind::JumpIndirect => indirect(context, step),
        Kind::Call(target) => push(context, step, target),
        Kind::CallIndirect => {
            let target = indirect(context, step);
            push(context, step, target)
        }
        Kind::Return(extra) => {
            let rsp = context.rsp();
            context.gpr[4] = rsp.wrapping_add(8 + u64::from(extra));
            // SAFETY: a return reads what the stack pointer points to; if nothing is there, the child dies of it.
            unsafe { guest_load(rsp, 8) as u64 }
        }
        Kind::Refused(_) => return false,
    };
    true
}

/// Whether a jump is taken; a loop instruction counts down.
fn is_taken(context: &mut Context, condition: Condition) -> bool {
    let rcx = context.gpr[1];
    match condition {
        Condition::Flags(cond) => cond.holds(context.flags as u32),
        Condition::Zero { narrow } => (if narrow { rcx & 0xffff_ffff } else { rcx }) == 0,
        Condition::Loop { narrow, also } => {
            let count = rcx.wrapping_sub(1);
            context.gpr[1] = if narrow { count & 0xffff_ffff } else { count };
            context.gpr[1] != 0 && also.is_none_or(|cond| cond.holds(context.flags as u32))
        }
    }
}

fn indirect(context: &Context, step: &Step) -> u64 {
    match (step.register, step.access) {
        (Some(register), _) => context.gpr[usize::from(register)],
        // SAFETY: the branch loads its target from here; if nothing is there, the child dies of it.
        (None, Some((access, _))) => unsafe { guest_load(access.address(context), 8) as u64 },
        (None, None) => 0,
    }
}

fn push(context: &mut Context, step: &Step, target: u64) -> u64 {
    let rsp = context.rsp().wrapping_sub(8);
    // SAFETY: a call writes its return address here; if nothing is there, the child dies of it.
    unsafe { guest_store(rsp, 8, u128::from(step.behind)) };
    context.gpr[4] = rsp;
    target
}
