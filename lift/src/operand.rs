//! Operands: parts of registers, immediates, effective addresses.
//!
//! A slot is 64 bits wide; this module is the only place that knows how narrower registers lie in it. A write of 32
//! bits clears the upper half, a write of 8 or 16 bits keeps everything else. Worked example: `mov ah, 5` becomes
//! `rax = or (and rax, ~0xff00), 0x500`.

use crate::lifter::Lifter;
use iced_x86::{Instruction, OpKind, Register};
use redmagic_ir::{Address, Inst, Opcode, Recorded, Slot, Type, Value};

/// Where an instruction reads or writes an operand; the address of a memory operand is computed once.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// A general register or a part of one.
    Register(Register),
    /// Memory.
    Memory(Address, Type),
}

/// The slot of a general register or of one of its parts.
pub(crate) fn gpr_slot(register: Register) -> Slot {
    Slot::gpr((register.full_register().number() & 15) as u8)
}

/// Lane `lane` of an xmm or ymm register.
pub(crate) fn lane_slot(register: Register, lane: u8) -> Slot {
    Slot::xmm((register.number() & 15) as u8, lane & 3)
}

fn is_high_byte(register: Register) -> bool {
    matches!(register, Register::AH | Register::CH | Register::DH | Register::BH)
}

/// The integer type of `bytes` bytes; 64 bits for sizes that are no word.
pub(crate) fn word(bytes: usize) -> Type {
    match bytes {
        1 => Type::I8,
        2 => Type::I16,
        4 => Type::I32,
        _ => Type::I64,
    }
}

impl Lifter<'_> {
    /// A general register or a part of one.
    pub(crate) fn read_register(&mut self, register: Register) -> Value {
        let value = self.read_slot(gpr_slot(register));
        if is_high_byte(register) {
            let shifted = self.binary_const(Opcode::Lshr, value, 8);
            return self.trunc(Type::I8, shifted);
        }
        self.trunc(word(register.size()), value)
    }

    /// Writes a general register or a part of one; `value` has the part's type.
    pub(crate) fn write_register(&mut self, register: Register, value: Value) {
        let slot = gpr_slot(register);
        let wide = self.zext(Type::I64, value);
        let (mask, shift) = match register.size() {
            1 if is_high_byte(register) => (0xff00, 8),
            1 => (0xff, 0),
            2 => (0xffff, 0),
            _ => return self.write_slot(slot, wide),
        };
        let shifted = if shift == 0 { wide } else { self.binary_const(Opcode::Shl, wide, shift) };
        let old = self.read_slot(slot);
        let kept = self.binary_const(Opcode::And, old, !mask);
        let merged = self.binary(Opcode::Or, kept, shifted);
        self.write_slot(slot, merged);
    }

    /// Where operand `operand` is: a general register or memory.
    pub(crate) fn place(&mut self, inst: &Instruction, operand: u32) -> Place {
        match inst.op_kind(operand) {
            OpKind::Register => Place::Register(inst.op_register(operand)),
            _ => Place::Memory(self.address(inst), word(inst.memory_size().size())),
        }
    }

    pub(crate) fn read_place(&mut self, place: Place) -> Value {
        match place {
            Place::Register(register) => self.read_register(register),
            Place::Memory(address, ty) => self.load_operand(ty, address),
        }
    }

    pub(crate) fn write_place(&mut self, place: Place, value: Value) {
        match place {
            Place::Register(register) => self.write_register(register, value),
            Place::Memory(address, _) => self.store_operand(address, value),
        }
    }

    /// Reads operand `operand`: a general register, memory, or an immediate, which has type `ty`.
    pub(crate) fn read_operand(&mut self, inst: &Instruction, operand: u32, ty: Type) -> Value {
        match inst.op_kind(operand) {
            OpKind::Register | OpKind::Memory => {
                let place = self.place(inst, operand);
                self.read_place(place)
            }
            _ => self.constant(ty, inst.immediate(operand) as i64),
        }
    }

    /// Writes operand `operand`: a general register or memory.
    pub(crate) fn write_operand(&mut self, inst: &Instruction, operand: u32, value: Value) {
        let place = self.place(inst, operand);
        self.write_place(place, value);
    }

    /// A load, with a note of what was seen if it is known.
    pub(crate) fn load(&mut self, ty: Type, address: Address, recorded: Option<Recorded>) -> Value {
        let resume = self.resume_exit(ty, &address, recorded);
        let value = self.emit(Inst::load(ty, address));
        self.trace.set_recorded(value, recorded);
        if let Some(lock) = &mut self.lock {
            lock.loaded = value;
        }
        if resume.is_some() {
            self.trace.set_resume_exit(value, resume);
        }
        value
    }

    /// A store, with a note of what was seen if it is known.
    pub(crate) fn store(&mut self, address: Address, value: Value, recorded: Option<Recorded>) {
        let ty = self.ty(value);
        self.untouched = false;
        if let Some(lock) = self.lock {
            return self.swap(lock, address, value);
        }
        let store = self.emit(Inst::store(ty, address, value));
        self.trace.set_recorded(store, recorded);
    }

    /// Loads the operand that the event's address and value belong to.
    pub(crate) fn load_operand(&mut self, ty: Type, address: Address) -> Value {
        let recorded = self.recorded(ty);
        self.load(ty, address, recorded)
    }

    /// Stores the operand that the event's address belongs to.
    pub(crate) fn store_operand(&mut self, address: Address, value: Value) {
        let ty = self.ty(value);
        let constant = self.as_const(value).map(|constant| constant as u64 & ty.mask() as u64);
        let recorded = self.recorded(ty).map(|seen| Recorded { value: constant.unwrap_or(seen.value), ..seen });
        self.store(address, value, recorded);
    }

    /// What was seen at the event's memory access.
    pub(crate) fn recorded(&self, ty: Type) -> Option<Recorded> {
        (self.seen.address != 0)
            .then(|| Recorded { address: self.seen.address, value: self.seen.value & ty.mask() as u64 })
    }

    /// The effective address of the memory operand, or of the half of it that is worked on.
    pub(crate) fn address(&mut self, inst: &Instruction) -> Address {
        let address = self.whole_address(inst);
        if self.half == 0 { address } else { self.advance(address, 16) }
    }

    fn whole_address(&mut self, inst: &Instruction) -> Address {
        let mut address = self.offset_address(inst);
        let segment = match inst.memory_segment() {
            Register::FS => Slot::FS,
            Register::GS => Slot::GS,
            _ => return address,
        };
        let base = self.read_slot(segment);
        address.root = match self.as_const(address.root) {
            Some(constant) if i32::try_from(constant).is_ok() && address.offset == 0 => {
                address.offset = constant as i32;
                base
            }
            _ => self.binary(Opcode::Add, base, address.root),
        };
        address
    }

    /// The effective address without its segment.
    pub(crate) fn offset_address(&mut self, inst: &Instruction) -> Address {
        let base = inst.memory_base();
        let index = inst.memory_index();
        let displacement = inst.memory_displacement64() as i64;
        let absolute = base == Register::None || matches!(base, Register::RIP | Register::EIP);
        if base.is_gpr32() || index.is_gpr32() {
            return self.narrow_address(inst);
        }
        let mut address = if absolute {
            Address::new(self.constant(Type::I64, displacement), 0)
        } else {
            let root = self.read_register(base);
            match i32::try_from(displacement) {
                Ok(offset) => Address::new(root, offset),
                Err(_) => Address::new(self.offset(root, displacement), 0),
            }
        };
        if index != Register::None {
            address.index = self.read_register(index);
            address.scale = inst.memory_index_scale() as u8;
        }
        address
    }

    /// An address computed in 32 bits.
    fn narrow_address(&mut self, inst: &Instruction) -> Address {
        let mut sum = self.constant(Type::I32, inst.memory_displacement64() as i64);
        if inst.memory_base() != Register::None {
            let base = self.read_register(inst.memory_base());
            sum = self.binary(Opcode::Add, base, sum);
        }
        if inst.memory_index() != Register::None {
            let index = self.read_register(inst.memory_index());
            let scaled = self.binary_const(Opcode::Shl, index, i64::from(inst.memory_index_scale().trailing_zeros()));
            sum = self.binary(Opcode::Add, sum, scaled);
        }
        Address::new(self.zext(Type::I64, sum), 0)
    }

    /// The address `bytes` further on.
    pub(crate) fn advance(&mut self, address: Address, bytes: i32) -> Address {
        match address.offset.checked_add(bytes) {
            Some(offset) => Address { offset, ..address },
            None => Address { root: self.offset(address.root, i64::from(bytes)), ..address },
        }
    }
}
