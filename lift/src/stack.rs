//! Push, pop and leave.
//!
//! Worked example: `push rbx` becomes `store [rsp - 8], rbx` and `rsp = add rsp, -8`; a following `push rbp` stores to
//! `[(add rsp, -8) - 8]` and makes rsp `add rsp, -16`, one sum away from where the trace began.

use crate::lifter::Lifter;
use iced_x86::{Code, Instruction, OpKind};
use redmagic_ir::{Address, Recorded, Slot, Type, Value};

impl Lifter<'_> {
    /// Pushes a value.
    pub(crate) fn push_value(&mut self, value: Value, recorded: Option<Recorded>) {
        let bytes = self.ty(value).bytes() as i32;
        let rsp = self.read_slot(Slot::RSP);
        self.store(Address::new(rsp, -bytes), value, recorded);
        self.adjust(Slot::RSP, i64::from(-bytes));
    }

    /// Pops a value.
    pub(crate) fn pop_value(&mut self, ty: Type, recorded: Option<Recorded>) -> Value {
        let rsp = self.read_slot(Slot::RSP);
        let value = self.load(ty, Address::new(rsp, 0), recorded);
        self.adjust(Slot::RSP, i64::from(ty.bytes()));
        value
    }

    pub(crate) fn push(&mut self, inst: &Instruction) {
        let ty = match inst.code() {
            Code::Push_r16 | Code::Push_rm16 | Code::Push_imm16 | Code::Pushw_imm8 => Type::I16,
            _ => Type::I64,
        };
        let value = self.read_operand(inst, 0, ty);
        // The event's note belongs to the explicit operand.
        let recorded = if inst.op0_kind() == OpKind::Memory { None } else { self.recorded(ty) };
        self.push_value(value, recorded);
    }

    pub(crate) fn pop(&mut self, inst: &Instruction) {
        let ty = match inst.code() {
            Code::Pop_r16 | Code::Pop_rm16 => Type::I16,
            _ => Type::I64,
        };
        let recorded = if inst.op0_kind() == OpKind::Memory { None } else { self.recorded(ty) };
        // An address that uses rsp, and `pop rsp`, see it after the increment.
        let value = self.pop_value(ty, recorded);
        self.write_operand(inst, 0, value);
    }

    pub(crate) fn leave_frame(&mut self) {
        let rbp = self.read_slot(Slot::RBP);
        let value = self.load_operand(Type::I64, Address::new(rbp, 0));
        let above = self.offset(rbp, 8);
        self.write_slot(Slot::RSP, above);
        self.write_slot(Slot::RBP, value);
    }
}
