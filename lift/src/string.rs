//! String instructions without a repeat prefix.
//!
//! The direction flag is clear: the ABI requires it, and instructions that could set it are refused. Worked example:
//! `movsq` becomes `load [rsi]`, `store [rdi]`, and 8 added to both.

use crate::lifter::Lifter;
use crate::operand::word;
use iced_x86::{Instruction, Register};
use redmagic_ir::{Address, Slot, Type};

fn accumulator(ty: Type) -> Register {
    match ty.bits() {
        8 => Register::AL,
        16 => Register::AX,
        32 => Register::EAX,
        _ => Register::RAX,
    }
}

impl Lifter<'_> {
    pub(crate) fn move_string(&mut self, inst: &Instruction) {
        let ty = word(inst.memory_size().size());
        let source = self.read_slot(Slot::RSI);
        let destination = self.read_slot(Slot::RDI);
        let value = self.load_operand(ty, Address::new(source, 0));
        self.store(Address::new(destination, 0), value, None);
        self.adjust(Slot::RSI, i64::from(ty.bytes()));
        self.adjust(Slot::RDI, i64::from(ty.bytes()));
    }

    pub(crate) fn store_string(&mut self, inst: &Instruction) {
        let ty = word(inst.memory_size().size());
        let value = self.read_register(accumulator(ty));
        let destination = self.read_slot(Slot::RDI);
        self.store_operand(Address::new(destination, 0), value);
        self.adjust(Slot::RDI, i64::from(ty.bytes()));
    }

    pub(crate) fn load_string(&mut self, inst: &Instruction) {
        let ty = word(inst.memory_size().size());
        let source = self.read_slot(Slot::RSI);
        let value = self.load_operand(ty, Address::new(source, 0));
        self.write_register(accumulator(ty), value);
        self.adjust(Slot::RSI, i64::from(ty.bytes()));
    }
}
