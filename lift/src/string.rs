//! String instructions. Repeated ones are executed verbatim unless their count is a small constant, as where a compiler
//! clears a structure.
//!
//! The direction flag is clear: the ABI requires it, and instructions that could set it are refused. Worked example:
//! `movsq` becomes `load [rsi]`, `store [rdi]`, and 8 added to both.

use crate::flags::Kind;
use crate::int::accumulator;
use crate::lifter::{Lifter, Seen};
use crate::operand::word;
use crate::refuse::Refusal;
use iced_x86::Instruction;
use redmagic_ir::{Address, Opcode, Slot, Type};

/// Repeated instructions with a constant count up to this one are lifted round by round.
const ROUNDS: i64 = 16;

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

    /// `cmps`: compares what rsi and rdi point to.
    pub(crate) fn compare_strings(&mut self, inst: &Instruction) {
        let ty = word(inst.memory_size().size());
        let source = self.read_slot(Slot::RSI);
        let other = self.read_slot(Slot::RDI);
        let a = self.load_operand(ty, Address::new(source, 0));
        let b = self.load(ty, Address::new(other, 0), None);
        self.adjust(Slot::RSI, i64::from(ty.bytes()));
        self.adjust(Slot::RDI, i64::from(ty.bytes()));
        self.set_flags(Kind::Sub { a, b, r: None });
    }

    /// `scas`: compares the accumulator with what rdi points to.
    pub(crate) fn scan_string(&mut self, inst: &Instruction) {
        let ty = word(inst.memory_size().size());
        let other = self.read_slot(Slot::RDI);
        let b = self.load_operand(ty, Address::new(other, 0));
        let a = self.read_register(accumulator(ty));
        self.adjust(Slot::RDI, i64::from(ty.bytes()));
        self.set_flags(Kind::Sub { a, b, r: None });
    }

    /// `rep movs` and `rep stos`.
    pub(crate) fn repeated(&mut self, inst: &Instruction, stores: bool) -> Result<(), Refusal> {
        let count = self.read_slot(Slot::RCX);
        let Some(rounds) = self.as_const(count).filter(|rounds| (0..=ROUNDS).contains(rounds)) else {
            return self.native(inst);
        };
        // What the recorder saw belongs to the whole.
        self.seen = Seen::default();
        for _ in 0..rounds {
            if stores {
                self.store_string(inst);
            } else {
                self.move_string(inst);
            }
            self.adjust(Slot::RCX, -1);
        }
        Ok(())
    }

    /// `rep cmps` and `rep scas` (which it `scans`), without a branch: a round behind the last one reads what the first
    /// one has read, and changes nothing.
    pub(crate) fn repeated_comparison(&mut self, inst: &Instruction, scans: bool) -> Result<(), Refusal> {
        let count = self.read_slot(Slot::RCX);
        let Some(rounds) = self.as_const(count).filter(|rounds| (0..=ROUNDS).contains(rounds)) else {
            return self.native(inst);
        };
        self.seen = Seen::default();
        let ty = word(inst.memory_size().size());
        let goes_on = if inst.has_repne_prefix() { Opcode::Ne } else { Opcode::Eq };
        let (source, other) = (self.read_slot(Slot::RSI), self.read_slot(Slot::RDI));
        let mut bytes = self.constant(Type::I64, 0);
        let mut last = None;
        let mut running = self.constant(Type::I1, 1);
        for round in 0..rounds {
            let here = self.constant(Type::I64, round * i64::from(ty.bytes()));
            let first = self.constant(Type::I64, 0);
            let distance = self.select(running, here, first);
            let read = |lifter: &mut Self, from| {
                let root = lifter.binary(Opcode::Add, from, distance);
                lifter.load(ty, Address::new(root, 0), None)
            };
            let a = if scans { self.read_register(accumulator(ty)) } else { read(self, source) };
            let b = read(self, other);
            let behind = self.constant(Type::I64, (round + 1) * i64::from(ty.bytes()));
            bytes = self.select(running, behind, bytes);
            last = match last {
                None => Some((a, b)),
                Some((old_a, old_b)) => Some((self.select(running, a, old_a), self.select(running, b, old_b))),
            };
            let holds = self.compare(goes_on, a, b);
            running = if round == 0 { holds } else { self.binary(Opcode::And, running, holds) };
        }
        let Some((a, b)) = last else { return Ok(()) };
        let shift = i64::from(ty.bytes().trailing_zeros());
        let made = if shift == 0 { bytes } else { self.binary_const(Opcode::Lshr, bytes, shift) };
        let left = self.binary(Opcode::Sub, count, made);
        self.write_slot(Slot::RCX, left);
        for (slot, start) in [(Slot::RSI, source), (Slot::RDI, other)] {
            if slot == Slot::RDI || !scans {
                let end = self.binary(Opcode::Add, start, bytes);
                self.write_slot(slot, end);
            }
        }
        self.set_flags(Kind::Sub { a, b, r: None });
        Ok(())
    }
}
