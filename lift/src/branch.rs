//! Control flow: guards that keep a trace on the recorded path, and calls.
//!
//! A conditional jump leaves at the *other* successor with the state after the jump. An indirect jump, a call through
//! a register and a return leave at the instruction itself with the state before it, so that the guest executes it
//! again. Worked example: `ret` recorded to 0x4012 becomes `v = load [rsp]`, `guard eq v, 0x4012` (exit at the `ret`),
//! `rsp = add rsp, 8`.

use crate::cover::Count;
use crate::lifter::Lifter;
use crate::recording::Convention;
use crate::refuse::Refusal;
use iced_x86::{Code, FlowControl, Instruction, OpKind, Register};
use redmagic_ir::{CallEffect, Cond, Exit, Inst, Opcode, Recorded, Slot, Terminator, Type, Value};

/// A residual call, as recorded.
pub(crate) struct ResidualCall {
    pub target: u64,
    pub return_address: u64,
    pub tail: bool,
    pub effect: CallEffect,
    pub guard_target: bool,
    pub external: bool,
    /// It begins a region that ends here.
    pub end: Option<u64>,
}

impl Lifter<'_> {
    /// Continues only if `value` is `expected`; leaves by `exit`.
    fn guard(&mut self, value: Value, expected: bool, exit: Exit) {
        self.emit(Inst::guard(expected, value, exit));
    }

    /// Whether a guard that `value` is `expected` always holds.
    fn always(&self, value: Value, expected: bool) -> bool {
        self.as_const(value) == Some(i64::from(expected))
    }

    /// Guards with an exit at the current instruction, which must not have changed the state yet.
    pub(crate) fn guard_here(&mut self, value: Value, expected: bool) {
        if !self.always(value, expected) {
            let exit = self.exit_at(self.pc, self.step);
            self.guard(value, expected, exit);
        }
    }

    /// Guards with an exit behind the current instruction, which must have changed the state already.
    fn guard_after(&mut self, value: Value, expected: bool, pc: u64) {
        if !self.always(value, expected) {
            let exit = self.exit_at(pc, self.step + 1);
            self.guard(value, expected, exit);
        }
    }

    /// Guards that an address is the recorded one.
    fn guard_address(&mut self, value: Value, expected: u64) {
        if self.as_const(value) != Some(expected as i64) {
            let equal = self.compare_const(Opcode::Eq, value, expected as i64);
            self.guard_here(equal, true);
        }
    }

    /// Stays on the recorded side of a conditional branch.
    fn follow(&mut self, inst: &Instruction, value: Value, inverted: bool, next: u64) -> Result<(), Refusal> {
        let target = inst.near_branch_target();
        let taken = next == target;
        if !taken && next != inst.next_ip() {
            return Err(Refusal::Inconsistent { pc: self.pc });
        }
        let other = if taken { inst.next_ip() } else { target };
        if other != next {
            self.guard_after(value, taken != inverted, other);
        }
        Ok(())
    }

    pub(crate) fn jump_if(&mut self, inst: &Instruction, cond: Cond, next: u64) -> Result<(), Refusal> {
        let condition = self.condition(cond);
        self.follow(inst, condition.value, condition.inverted, next)
    }

    /// `jrcxz` and the loop instructions, with rcx or ecx as the counter.
    pub(crate) fn counted_jump(&mut self, inst: &Instruction, count: Count, next: u64) -> Result<(), Refusal> {
        let narrow = matches!(
            inst.code(),
            Code::Jecxz_rel8_64 | Code::Loop_rel8_64_ECX | Code::Loope_rel8_64_ECX | Code::Loopne_rel8_64_ECX
        );
        let register = if narrow { Register::ECX } else { Register::RCX };
        let mut counter = self.read_register(register);
        if count == Count::Zero {
            let zero = self.compare_const(Opcode::Eq, counter, 0);
            return self.follow(inst, zero, false, next);
        }
        counter = self.binary_const(Opcode::Add, counter, -1);
        self.write_register(register, counter);
        let mut again = self.compare_const(Opcode::Ne, counter, 0);
        if count != Count::Always {
            let equal = self.condition_bit(if count == Count::Equal { Cond::E } else { Cond::Ne });
            again = self.binary(Opcode::And, again, equal);
        }
        self.follow(inst, again, false, next)
    }

    /// The target of a near jump or call; a load of it is noted to have given `seen`.
    fn branch_target(&mut self, inst: &Instruction, seen: u64) -> Value {
        match inst.op0_kind() {
            OpKind::Register => self.read_register(inst.op0_register()),
            OpKind::Memory => {
                let address = self.address(inst);
                let recorded = (self.seen.address != 0).then_some(Recorded { address: self.seen.address, value: seen });
                self.load(Type::I64, address, recorded)
            }
            _ => self.constant(Type::I64, inst.near_branch_target() as i64),
        }
    }

    /// Goes where the recording went, or leaves at the instruction itself.
    fn follow_target(&mut self, inst: &Instruction, next: u64) -> Result<(), Refusal> {
        let target = self.branch_target(inst, next);
        if self.as_const(target).is_some_and(|constant| constant as u64 != next) {
            return Err(Refusal::Inconsistent { pc: self.pc });
        }
        self.guard_address(target, next);
        Ok(())
    }

    pub(crate) fn jump(&mut self, inst: &Instruction, next: u64) -> Result<(), Refusal> {
        self.follow_target(inst, next)
    }

    /// A call that the recording goes into.
    pub(crate) fn call_into(&mut self, inst: &Instruction, next: u64) -> Result<(), Refusal> {
        self.follow_target(inst, next)?;
        let return_address = inst.next_ip();
        let value = self.constant(Type::I64, return_address as i64);
        let seen = inst.op0_kind() != OpKind::Memory && self.seen.address != 0;
        let recorded = seen.then_some(Recorded { address: self.seen.address, value: return_address });
        self.push_value(value, recorded);
        Ok(())
    }

    pub(crate) fn return_to(&mut self, inst: &Instruction, next: u64) {
        self.return_address(next);
        let extra = if inst.op_count() == 1 { inst.immediate(0) as i64 } else { 0 };
        self.adjust(Slot::RSP, 8 + extra);
    }

    /// The return address on top of the stack, guarded to be the recorded one; the stack pointer stays.
    fn return_address(&mut self, expected: u64) -> Value {
        let rsp = self.read_slot(Slot::RSP);
        let recorded = (self.seen.address != 0).then_some(Recorded { address: self.seen.address, value: expected });
        let value = self.load(Type::I64, redmagic_ir::Address::new(rsp, 0), recorded);
        self.guard_address(value, expected);
        value
    }

    /// A call that the trace makes: the segment ends here, and another one begins when the callee has returned.
    pub(crate) fn residual_call(&mut self, inst: &Instruction, call: &ResidualCall) -> Result<(), Refusal> {
        if inst.flow_control() == FlowControl::ConditionalBranch {
            let crate::cover::Handler::Jcc(cond) = crate::cover::handler(inst) else {
                return Err(Refusal::Inconsistent { pc: self.pc });
            };
            self.jump_if(inst, cond, call.target)?;
        }
        let mut target = self.branch_target(inst, call.target);
        if call.guard_target {
            self.guard_address(target, call.target);
            target = self.constant(Type::I64, call.target as i64);
        }
        let return_address = if call.tail {
            let value = self.return_address(call.return_address);
            self.adjust(Slot::RSP, 8);
            value
        } else if call.return_address == inst.next_ip() {
            self.constant(Type::I64, call.return_address as i64)
        } else {
            return Err(Refusal::Inconsistent { pc: self.pc });
        };
        let return_address = match call.end {
            Some(end) => self.open_frames(end),
            None => return_address,
        };
        let state = self.exit_data(self.pc, self.step, redmagic_ir::ExitKind::Guest);
        let state = self.trace.exits.push(state);
        let resume = self.trace.add_segment();
        self.trace.segments[self.segment].terminator =
            Terminator::Call(redmagic_ir::Call { state, target, return_address, effect: call.effect, resume });
        let external = call.external;
        self.start_epoch(resume, |slot| slot == Slot::RSP || (external && slot.is_callee_saved()));
        Ok(())
    }

    /// In a region, the guest runs in the frames of the trace. What begins it takes no arguments: the registers for them are
    /// dead, and one of them can say that the frames are known to whoever runs now. Returns where the region ends.
    fn open_frames(&mut self, end: u64) -> Value {
        let rsp = self.read_slot(Slot::RSP);
        self.write_slot(Slot::RDI, rsp);
        self.constant(Type::I64, end as i64)
    }

    /// A call of our own API, which the trace does without.
    pub(crate) fn elided_call(
        &mut self,
        inst: &Instruction,
        return_address: u64,
        convention: Convention,
        result: Option<u64>,
    ) {
        if matches!(inst.flow_control(), FlowControl::UnconditionalBranch | FlowControl::IndirectBranch) {
            // A tail call: the return address is on the stack already.
            self.return_address(return_address);
            self.adjust(Slot::RSP, 8);
        }
        for slot in Slot::all().filter(|slot| slot.is_writable()) {
            let kept = match convention {
                Convention::Function => slot.is_callee_saved(),
                Convention::Macro => slot.as_gpr().is_some() && slot != Slot::RAX && slot != Slot::RCX,
                Convention::PassedMacro => slot.as_gpr().is_some() && slot != Slot::RCX,
            };
            if !kept {
                self.forget_slot(slot);
            }
        }
        if let Some(result) = result {
            let value = self.constant(Type::I64, result as i64);
            self.write_slot(Slot::RAX, value);
        }
    }
}
