//! Emission of IR with the few simplifications that keep lifted code small.
//!
//! Only what a register file of 64-bit slots provokes all the time is simplified here: truncations of extensions,
//! constants, `test r, r`. Everything else is the optimiser's. Worked example: `mov eax, ecx; add eax, 1` reads ecx as
//! `trunc rcx`, writes `zext` of it, and the `add` then uses the truncation itself instead of `trunc (zext …)`.

use crate::lifter::Lifter;
use redmagic_ir::{Inst, Opcode, Type, Value};

impl Lifter<'_> {
    /// Appends an instruction to the current segment.
    pub(crate) fn emit(&mut self, inst: Inst) -> Value {
        self.trace.append(self.segment, inst)
    }

    /// A constant; equal ones are shared within a segment.
    pub(crate) fn constant(&mut self, ty: Type, imm: i64) -> Value {
        let inst = Inst::constant(ty, imm);
        let key = (ty, inst.as_const().unwrap_or_default());
        if let Some(&value) = self.constants.get(&key) {
            return value;
        }
        let value = self.emit(inst);
        self.constants.insert(key, value);
        value
    }

    pub(crate) fn ty(&self, value: Value) -> Type {
        self.trace.ty(value)
    }

    pub(crate) fn as_const(&self, value: Value) -> Option<i64> {
        self.trace.as_const(value)
    }

    pub(crate) fn unary(&mut self, op: Opcode, value: Value) -> Value {
        let ty = self.ty(value);
        self.emit(Inst::unary(op, ty, value))
    }

    /// An operation whose result has the type of its first operand.
    pub(crate) fn binary(&mut self, op: Opcode, a: Value, b: Value) -> Value {
        if a == b && matches!(op, Opcode::And | Opcode::Or) {
            return a;
        }
        let ty = self.ty(a);
        self.emit(Inst::binary(op, ty, a, b))
    }

    pub(crate) fn binary_const(&mut self, op: Opcode, a: Value, b: i64) -> Value {
        let b = self.constant(self.ty(a), b);
        self.binary(op, a, b)
    }

    /// `value + delta`; chains of such sums collapse, so that a stack pointer stays one sum away from its origin.
    pub(crate) fn offset(&mut self, mut value: Value, mut delta: i64) -> Value {
        let ty = self.ty(value);
        loop {
            if let Some(constant) = self.as_const(value) {
                return self.constant(ty, constant.wrapping_add(delta));
            }
            let inst = self.trace.insts[value];
            match (inst.op == Opcode::Add).then(|| self.as_const(inst.args[1])).flatten() {
                Some(constant) => {
                    value = inst.args[0];
                    delta = delta.wrapping_add(constant);
                }
                None if delta == 0 => return value,
                None => return self.binary_const(Opcode::Add, value, delta),
            }
        }
    }

    /// A comparison, of type i1.
    pub(crate) fn compare(&mut self, op: Opcode, a: Value, b: Value) -> Value {
        self.emit(Inst::binary(op, Type::I1, a, b))
    }

    pub(crate) fn compare_const(&mut self, op: Opcode, a: Value, b: i64) -> Value {
        let b = self.constant(self.ty(a), b);
        self.compare(op, a, b)
    }

    /// The opposite of a truth value.
    pub(crate) fn invert(&mut self, value: Value) -> Value {
        let inst = self.trace.insts[value];
        let [a, b, _] = inst.args;
        if let Some(constant) = inst.as_const() {
            return self.constant(Type::I1, constant ^ 1);
        }
        if let Some(cond) = inst.condition() {
            return self.emit(Inst::cond(cond.negate(), a));
        }
        match inst.op {
            Opcode::Eq => self.compare(Opcode::Ne, a, b),
            Opcode::Ne => self.compare(Opcode::Eq, a, b),
            Opcode::Ult => self.compare(Opcode::Ule, b, a),
            Opcode::Ule => self.compare(Opcode::Ult, b, a),
            Opcode::Slt => self.compare(Opcode::Sle, b, a),
            Opcode::Sle => self.compare(Opcode::Slt, b, a),
            _ => self.unary(Opcode::Not, value),
        }
    }

    pub(crate) fn select(&mut self, condition: Value, yes: Value, no: Value) -> Value {
        match self.as_const(condition) {
            Some(0) => no,
            Some(_) => yes,
            None => {
                let ty = self.ty(yes);
                self.emit(Inst::ternary(Opcode::Select, ty, condition, yes, no))
            }
        }
    }

    pub(crate) fn zext(&mut self, ty: Type, value: Value) -> Value {
        self.extend(Opcode::Zext, ty, value)
    }

    pub(crate) fn sext(&mut self, ty: Type, value: Value) -> Value {
        self.extend(Opcode::Sext, ty, value)
    }

    /// `op` is `zext` or `sext`; a value that is wide enough already is returned as it is.
    fn extend(&mut self, op: Opcode, ty: Type, value: Value) -> Value {
        let from = self.ty(value);
        if from == ty {
            return value;
        }
        // A constant is as wide as its sign goes: with zeros above it, a negative one of 64 bits is none.
        let is_constant = |constant: &i64| op == Opcode::Sext || ty.bits() <= 64 || from.bits() < 64 || *constant >= 0;
        if let Some(constant) = self.as_const(value).filter(is_constant) {
            let mask = if op == Opcode::Zext { from.mask() as i64 } else { -1 };
            let constant = if from == Type::I1 && op == Opcode::Sext { -constant } else { constant };
            return self.constant(ty, constant & mask);
        }
        let inst = self.trace.insts[value];
        let inner = if inst.op == op { inst.args[0] } else { value };
        self.emit(Inst::unary(op, ty, inner))
    }

    /// The low bits of `value`.
    pub(crate) fn trunc(&mut self, ty: Type, value: Value) -> Value {
        let from = self.ty(value);
        if from == ty {
            return value;
        }
        if let Some(constant) = self.as_const(value) {
            return self.constant(ty, constant);
        }
        let inst = self.trace.insts[value];
        let inner = inst.args[0];
        match inst.op {
            Opcode::Trunc => self.trunc(ty, inner),
            Opcode::Zext | Opcode::Sext if self.ty(inner) == ty => inner,
            Opcode::Zext | Opcode::Sext if self.ty(inner).bits() > ty.bits() => self.trunc(ty, inner),
            Opcode::Zext | Opcode::Sext => self.extend(inst.op, ty, inner),
            _ => self.emit(Inst::unary(Opcode::Trunc, ty, value)),
        }
    }

    /// Bit `number` of a value, as an i1.
    pub(crate) fn bit(&mut self, value: Value, number: u32) -> Value {
        let shifted = if number == 0 { value } else { self.binary_const(Opcode::Lshr, value, i64::from(number)) };
        self.trunc(Type::I1, shifted)
    }

    /// Whether a value is negative.
    pub(crate) fn sign(&mut self, value: Value) -> Value {
        self.compare_const(Opcode::Slt, value, 0)
    }
}
