//! String instructions. Repeated ones are executed verbatim unless their count is a small constant, as where a compiler
//! clears a structure.
//!
//! # Why others are executed verbatim
//! Any other count would have to be guarded, and the trace be left wherever it differs; the processor's own loop is exact for
//! every count, faster than one of the IR, and where it faults its registers say how far it has come. As a native operation
//! it has exact inputs and outputs, and may access any memory.
//!
//! The direction flag is clear: the ABI requires it, and instructions that could set it are refused. Worked example:
//! `movsq` becomes `load [rsi]`, `store [rdi]`, and 8 added to both.

use crate::flags::Kind;
use crate::int::accumulator;
use crate::lifter::{Lifter, Seen};
use crate::operand::word;
use crate::refuse::Refusal;
use iced_x86::Instruction;
use redmagic_ir::{Address, Inst, Opcode, Slot, Type, Value};

/// `rep movs` and `rep stos` with a constant count up to this one are lifted round by round: compilers clear and copy
/// structures of up to a kilobyte so.
const MOVES: i64 = 128;
/// Rounds of `rep cmps` and `rep scas`, each of which takes more operations.
const COMPARISONS: i64 = 16;

/// How many operations are looked at one below the other for a constant count.
const DEPTH: u32 = 10;

/// A value and a constant, modulo the type's range.
#[derive(Clone, Copy)]
struct Sum {
    /// What is unknown, if anything is.
    root: Option<Value>,
    offset: i64,
}

/// An address whose bits below are 0.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Aligned {
    root: Value,
    /// These bits.
    below: i64,
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

    /// How many rounds a repeated instruction makes, if that is a constant up to `most`; or would be if an address were as
    /// aligned as it was when recorded, which is guarded then.
    fn rounds(&mut self, most: i64) -> Option<i64> {
        let count = self.read_slot(Slot::RCX);
        let mut aligned = None;
        let Sum { root, offset } = self.sum(count, DEPTH, &mut aligned);
        if root.is_some() || !(0..=most).contains(&offset) {
            return None;
        }
        if let Some(Aligned { root, below }) = aligned {
            if self.recorded_root(root)? as i64 & below != 0 {
                return None;
            }
            let low = self.binary_const(Opcode::And, root, below);
            let holds = self.compare_const(Opcode::Eq, low, 0);
            self.guard_here(holds, true);
        }
        Some(offset)
    }

    /// What `root` was, if something at a constant distance from it was accessed.
    fn recorded_root(&self, root: Value) -> Option<u64> {
        self.trace.segments[self.segment].insts.iter().rev().find_map(|&access| {
            let address = self.trace.insts[access].address().filter(|address| address.root == root)?;
            let recorded = self.trace.recorded(access).filter(|_| !address.index.is_some())?;
            Some(recorded.address.wrapping_sub(address.offset as u64))
        })
    }

    /// A value as a sum. Compilers compute the count for a structure on the stack as the distance of two addresses; for one
    /// elsewhere they store its first and last words, and round the address up for the rest: then this says which one
    /// has to be aligned.
    fn sum(&self, value: Value, depth: u32, aligned: &mut Option<Aligned>) -> Sum {
        let plain = Sum { root: Some(value), offset: 0 };
        let inst = self.trace.insts[value];
        let ty = self.ty(value);
        let constant =
            |offset: i64| Sum { root: None, offset: Inst::constant(ty, offset).as_const().unwrap_or(offset) };
        if let Some(constant) = inst.as_const() {
            return Sum { root: None, offset: constant };
        }
        let unary = matches!(inst.op, Opcode::Trunc | Opcode::Zext);
        let binary = matches!(inst.op, Opcode::Add | Opcode::Sub | Opcode::And | Opcode::Lshr);
        if depth == 0 || !(unary || binary) {
            return plain;
        }
        let a = self.sum(inst.args[0], depth - 1, aligned);
        let b = if binary { self.sum(inst.args[1], depth - 1, aligned) } else { a };
        let both = |operation: fn(i64, i64) -> i64| {
            if a.root.is_none() && b.root.is_none() { constant(operation(a.offset, b.offset)) } else { plain }
        };
        match inst.op {
            Opcode::Add => match (a, b) {
                (Sum { root: None, offset: by }, Sum { root, offset })
                | (Sum { root, offset }, Sum { root: None, offset: by }) => {
                    Sum { root, ..constant(offset.wrapping_add(by)) }
                }
                _ => plain,
            },
            Opcode::Sub => match (a, b) {
                (Sum { root, offset }, Sum { root: None, offset: by }) => {
                    Sum { root, ..constant(offset.wrapping_sub(by)) }
                }
                (a, b) if a.root == b.root => constant(a.offset.wrapping_sub(b.offset)),
                _ => plain,
            },
            Opcode::Trunc => match a {
                Sum { root: None, offset } => constant(offset),
                Sum { .. } => plain,
            },
            Opcode::Zext => match a {
                Sum { root: None, offset } => constant(offset & self.ty(inst.args[0]).mask() as i64),
                Sum { .. } => plain,
            },
            Opcode::Lshr if ty == Type::I32 => both(|a, by| i64::from(a as u32 >> (by as u32 & 31))),
            Opcode::Lshr if ty == Type::I64 => both(|a, by| (a as u64 >> (by as u32 & 63)) as i64),
            Opcode::And => match (a, b) {
                (Sum { root: Some(root), offset }, Sum { root: None, offset: mask @ -16..=-2 }) => {
                    let new = Aligned { root, below: !mask };
                    let fits = new.below & (new.below + 1) == 0 && offset & new.below == 0;
                    if !fits || aligned.is_some_and(|old| old != new) {
                        return plain;
                    }
                    *aligned = Some(new);
                    a
                }
                _ => both(|a, b| a & b),
            },
            _ => plain,
        }
    }

    /// `rep movs` and `rep stos`.
    pub(crate) fn repeated(&mut self, inst: &Instruction, stores: bool) -> Result<(), Refusal> {
        let Some(rounds) = self.rounds(MOVES) else { return self.native(inst) };
        // What the recorder saw belongs to the whole.
        self.seen = Seen::default();
        for _ in 0..rounds {
            if stores {
                self.store_string(inst);
            } else {
                self.move_string(inst);
            }
        }
        let none = self.constant(Type::I64, 0);
        self.write_slot(Slot::RCX, none);
        Ok(())
    }

    /// `rep cmps` and `rep scas` (which it `scans`), without a branch: a round behind the last one reads what the first
    /// one has read, and changes nothing.
    pub(crate) fn repeated_comparison(&mut self, inst: &Instruction, scans: bool) -> Result<(), Refusal> {
        let Some(rounds) = self.rounds(COMPARISONS) else { return self.native(inst) };
        let count = self.read_slot(Slot::RCX);
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
