//! One instruction, in at most 32 bytes.

use crate::{Cond, Entity, Exit, Native, Opcode, Slot, Type, Value};

/// What is known about where a memory access goes. The optimiser refines it; it never changes what is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// Nothing is known.
    Any,
    /// A frame that the trace itself pushed.
    Frame,
    /// Memory that does not change while the trace is valid.
    Immutable,
}

impl Class {
    /// Every class.
    pub const ALL: [Class; 3] = [Class::Any, Class::Frame, Class::Immutable];

    /// The name in the text syntax (`load.frame`); empty for [`Class::Any`].
    pub const fn name(self) -> &'static str {
        match self {
            Class::Any => "",
            Class::Frame => "frame",
            Class::Immutable => "immutable",
        }
    }
}

/// A memory address: `root + index * scale + offset`, all in 64 bits modulo 2^64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The base, an i64. An absolute address has a constant as its root.
    pub root: Value,
    /// The index, an i64, or [`Value::NONE`].
    pub index: Value,
    /// What the index is multiplied by: 1, 2, 4 or 8.
    pub scale: u8,
    /// Bytes added to the base.
    pub offset: i32,
}

impl Address {
    /// `root + offset`.
    pub fn new(root: Value, offset: i32) -> Address {
        Address { root, index: Value::NONE, scale: 1, offset }
    }
}

/// One instruction. Which fields mean something depends on the opcode's [`Format`](crate::Format); use the constructors and the
/// accessors, which know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Inst {
    /// What it does.
    pub op: Opcode,
    /// The type of the result; for a store, of the stored value.
    pub ty: Type,
    /// Condition code, index scale, or unused.
    aux: u8,
    /// The alias class of a memory access.
    pub class: Class,
    /// Value operands, unused ones [`Value::NONE`]. Memory: root, index, stored value.
    pub args: [Value; 3],
    /// Immediate, memory offset, slot, meter, exit or native operation.
    imm: i64,
}

const _: () = assert!(std::mem::size_of::<Inst>() <= 32);

impl Inst {
    const NO_ARGS: [Value; 3] = [Value::NONE; 3];

    #[inline]
    fn with(op: Opcode, ty: Type, args: [Value; 3], imm: i64) -> Inst {
        Inst { op, ty, aux: 0, class: Class::Any, args, imm }
    }

    /// A segment parameter of type `ty`, which carries `slot` if one is given.
    #[inline]
    pub fn param(ty: Type, slot: Option<Slot>) -> Inst {
        Inst::with(Opcode::Param, ty, Inst::NO_ARGS, slot.map_or(-1, |slot| slot.index() as i64))
    }

    /// The constant `imm`, kept sign-extended from the type's width so that equal constants are equal instructions.
    #[inline]
    pub fn constant(ty: Type, imm: i64) -> Inst {
        let imm = match ty.bits() {
            0 => 0,
            1 => imm & 1,
            bits @ 2..=63 => imm << (64 - bits) >> (64 - bits),
            _ => imm,
        };
        Inst::with(Opcode::Const, ty, Inst::NO_ARGS, imm)
    }

    /// A read of a slot.
    pub fn slot_read(slot: Slot) -> Inst {
        Inst::with(Opcode::Slot, slot.ty(), Inst::NO_ARGS, slot.index() as i64)
    }

    /// A unary operation.
    #[inline]
    pub fn unary(op: Opcode, ty: Type, a: Value) -> Inst {
        Inst::with(op, ty, [a, Value::NONE, Value::NONE], 0)
    }

    /// A binary operation.
    #[inline]
    pub fn binary(op: Opcode, ty: Type, a: Value, b: Value) -> Inst {
        Inst::with(op, ty, [a, b, Value::NONE], 0)
    }

    /// A ternary operation.
    #[inline]
    pub fn ternary(op: Opcode, ty: Type, a: Value, b: Value, c: Value) -> Inst {
        Inst::with(op, ty, [a, b, c], 0)
    }

    /// Whether the packed flags `flags` satisfy `cond`.
    pub fn cond(cond: Cond, flags: Value) -> Inst {
        Inst { aux: cond as u8, ..Inst::unary(Opcode::Cond, Type::I1, flags) }
    }

    /// A memory read.
    pub fn load(ty: Type, address: Address) -> Inst {
        Inst {
            aux: address.scale,
            ..Inst::with(Opcode::Load, ty, [address.root, address.index, Value::NONE], address.offset as i64)
        }
    }

    /// A memory write of `value`, which has type `ty`.
    pub fn store(ty: Type, address: Address, value: Value) -> Inst {
        Inst {
            aux: address.scale,
            ..Inst::with(Opcode::Store, ty, [address.root, address.index, value], address.offset as i64)
        }
    }

    /// A guard that continues if `value` is `expected`.
    #[inline]
    pub fn guard(expected: bool, value: Value, exit: Exit) -> Inst {
        let op = if expected { Opcode::Guard } else { Opcode::GuardNot };
        Inst::with(op, Type::Void, [value, Value::NONE, Value::NONE], exit.index() as i64)
    }

    /// A countdown of the meter at `address`.
    pub fn tick(address: u64) -> Inst {
        Inst::with(Opcode::Tick, Type::I64, Inst::NO_ARGS, address as i64)
    }

    /// The verbatim execution of `native`.
    pub fn native(native: Native) -> Inst {
        Inst::with(Opcode::Native, Type::Void, Inst::NO_ARGS, native.index() as i64)
    }

    /// What the native operation executed by instruction `native` left in `slot`.
    pub fn native_out(native: Value, slot: Slot) -> Inst {
        Inst::with(Opcode::NativeOut, slot.ty(), [native, Value::NONE, Value::NONE], slot.index() as i64)
    }

    /// The whole instruction as three words, which are equal exactly if the instructions are: for tables.
    #[inline]
    pub fn words(&self) -> [u64; 3] {
        let [a, b, c] = self.args.map(|arg| arg.index() as u64);
        let head = self.op as u64 | (self.ty as u64) << 8 | u64::from(self.aux) << 16 | (self.class as u64) << 24;
        [head | a << 32, b | c << 32, self.imm as u64]
    }

    /// The constant, sign-extended from the type's width, if this is one.
    #[inline]
    pub fn as_const(&self) -> Option<i64> {
        (self.op == Opcode::Const).then_some(self.imm)
    }

    /// The slot that a `slot`, `native_out` or slot-carrying `param` instruction names.
    #[inline]
    pub fn slot(&self) -> Option<Slot> {
        let names_slot = matches!(self.op, Opcode::Slot | Opcode::NativeOut | Opcode::Param);
        usize::try_from(self.imm).ok().filter(|_| names_slot).and_then(Slot::from_index)
    }

    /// The address of the meter that a `tick` counts down.
    pub fn meter(&self) -> Option<u64> {
        (self.op == Opcode::Tick).then_some(self.imm as u64)
    }

    /// The condition of a `cond` instruction.
    #[inline]
    pub fn condition(&self) -> Option<Cond> {
        (self.op == Opcode::Cond).then(|| Cond::ALL[self.aux as usize & 15])
    }

    /// The address of a memory access.
    #[inline]
    pub fn address(&self) -> Option<Address> {
        matches!(self.op, Opcode::Load | Opcode::Store).then(|| Address {
            root: self.args[0],
            index: self.args[1],
            scale: self.aux,
            offset: self.imm as i32,
        })
    }

    /// Replaces the address of a memory access.
    #[inline]
    pub fn set_address(&mut self, address: Address) {
        debug_assert!(self.address().is_some());
        self.args[0] = address.root;
        self.args[1] = address.index;
        self.aux = address.scale;
        self.imm = address.offset as i64;
    }

    /// The exit of a guard.
    #[inline]
    pub fn exit(&self) -> Option<Exit> {
        matches!(self.op, Opcode::Guard | Opcode::GuardNot).then(|| Exit::from_index(self.imm as usize))
    }

    /// Replaces the exit of a guard.
    #[inline]
    pub fn set_exit(&mut self, exit: Exit) {
        debug_assert!(self.exit().is_some());
        self.imm = exit.index() as i64;
    }

    /// The native operation that a `native` instruction executes.
    #[inline]
    pub fn native_op(&self) -> Option<Native> {
        (self.op == Opcode::Native).then(|| Native::from_index(self.imm as usize))
    }

    /// The value operands in `args`, in order. (A `native` instruction has further operands: the inputs of its
    /// [`NativeOp`](crate::NativeOp).)
    #[inline]
    pub fn operands(&self) -> impl Iterator<Item = Value> + '_ {
        self.args.iter().copied().filter(|value| value.is_some())
    }

    /// Replaces every operand in `args` by `f` of it.
    #[inline]
    pub fn map_operands(&mut self, mut f: impl FnMut(Value) -> Value) {
        for arg in &mut self.args {
            if arg.is_some() {
                *arg = f(*arg);
            }
        }
    }
}
