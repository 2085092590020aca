//! Integer operations. Most are one operation of the code generator: shift counts are taken modulo the width by both,
//! and comparisons deliver a byte that is 0 or 1, our i1.
//!
//! Worked example: `v3: i1 = ult v1, v2; guard v3, exit0` becomes `brif (icmp uge v1, v2), exit0, next`: a guard branches
//! when it fails, so it wants the negated condition, and gets it from the comparison itself ([`Lowering::negate`]).

use super::{Lowering, Operand, machine_type};
use crate::BackendError;
use crate::class::Class;
use cranelift_codegen::ir::condcodes::{CondCode, IntCC};
use cranelift_codegen::ir::{InstBuilder, InstructionData, Value, ValueDef, types};
use cranelift_frontend::FuncInstBuilder;
use redmagic_ir::Type;

impl Lowering<'_, '_> {
    pub(super) fn unary(
        &mut self,
        a: Operand,
        build: fn(FuncInstBuilder<'_, '_>, Value) -> Value,
    ) -> Result<Value, BackendError> {
        let a = self.general(a)?;
        Ok(build(self.builder.ins(), a))
    }

    pub(super) fn binary(
        &mut self,
        a: Operand,
        b: Operand,
        build: fn(FuncInstBuilder<'_, '_>, Value, Value) -> Value,
    ) -> Result<Value, BackendError> {
        let (a, b) = (self.general(a)?, self.general(b)?);
        Ok(build(self.builder.ins(), a, b))
    }

    /// `and`, `or`, `xor`, in either register file.
    pub(super) fn bitwise(
        &mut self,
        a: Operand,
        b: Operand,
        class: Class,
        build: fn(FuncInstBuilder<'_, '_>, Value, Value) -> Value,
    ) -> Result<Value, BackendError> {
        let (a, b) = (self.in_class(a, class)?, self.in_class(b, class)?);
        Ok(build(self.builder.ins(), a, b))
    }

    pub(super) fn complement(&mut self, ty: Type, a: Operand) -> Result<Value, BackendError> {
        let a = self.general(a)?;
        if ty == Type::I1 {
            return Ok(self.negate(a));
        }
        Ok(self.builder.ins().bnot(a))
    }

    /// The opposite of an i1. A comparison is repeated with the opposite condition, because a branch on it then needs
    /// no byte in between.
    pub(super) fn negate(&mut self, value: Value) -> Value {
        let dfg = &self.builder.func.dfg;
        if let ValueDef::Result(inst, 0) = dfg.value_def(dfg.resolve_aliases(value)) {
            match dfg.insts[inst] {
                InstructionData::IntCompare { cond, args, .. } => {
                    return self.builder.ins().icmp(cond.complement(), args[0], args[1]);
                }
                InstructionData::FloatCompare { cond, args, .. } => {
                    return self.builder.ins().fcmp(cond.complement(), args[0], args[1]);
                }
                _ => {}
            }
        }
        let zero = self.builder.ins().iconst(types::I8, 0);
        self.builder.ins().icmp(IntCC::Equal, value, zero)
    }

    pub(super) fn zero_extend(&mut self, ty: Type, a: Operand) -> Result<Value, BackendError> {
        let a = self.general(a)?;
        let to = machine_type(ty, Class::General);
        if self.builder.func.dfg.value_type(a) == to {
            return Ok(a); // from i1 to i8
        }
        Ok(self.builder.ins().uextend(to, a))
    }

    pub(super) fn sign_extend(&mut self, ty: Type, a: Operand) -> Result<Value, BackendError> {
        let from = self.operand_type(a);
        let mut a = self.general(a)?;
        if from == Type::I1 {
            a = self.builder.ins().ineg(a);
        }
        let to = machine_type(ty, Class::General);
        if self.builder.func.dfg.value_type(a) == to {
            return Ok(a);
        }
        Ok(self.builder.ins().sextend(to, a))
    }

    pub(super) fn truncate(&mut self, ty: Type, a: Operand) -> Result<Value, BackendError> {
        let mut a = self.general(a)?;
        let to = machine_type(ty, Class::General);
        if self.builder.func.dfg.value_type(a) != to {
            a = self.builder.ins().ireduce(to, a);
        }
        if ty == Type::I1 {
            let one = self.builder.ins().iconst(types::I8, 1);
            a = self.builder.ins().band(a, one);
        }
        Ok(a)
    }

    /// Half `lane` of a 128-bit value.
    pub(super) fn half(&mut self, a: Operand, lane: u8, class: Class) -> Result<Value, BackendError> {
        let ty = self.operand_type(a);
        let a = self.general(a)?;
        if ty == Type::I128 {
            let (low, high) = self.builder.ins().isplit(a);
            return Ok(if lane == 0 { low } else { high });
        }
        match class {
            Class::General => Ok(self.builder.ins().extractlane(a, lane)),
            Class::Vector => {
                let a = self.cast(types::F64X2, a);
                Ok(self.builder.ins().extractlane(a, lane))
            }
        }
    }

    pub(super) fn join(&mut self, ty: Type, low: Operand, high: Operand) -> Result<Value, BackendError> {
        if ty == Type::I128 {
            return self.binary(low, high, |ins, low, high| ins.iconcat(low, high));
        }
        let ((low_value, low_class), (high_value, high_class)) = (self.at_home(low)?, self.at_home(high)?);
        if low_class == Class::Vector || high_class == Class::Vector {
            let (low, high) = (self.vector(low)?, self.vector(high)?);
            let lanes = self.builder.ins().scalar_to_vector(types::F64X2, low);
            let lanes = self.builder.ins().insertlane(lanes, high, 1);
            return Ok(self.cast(types::I64X2, lanes));
        }
        let lanes = self.builder.ins().scalar_to_vector(types::I64X2, low_value);
        Ok(self.builder.ins().insertlane(lanes, high_value, 1))
    }

    pub(super) fn compare(&mut self, cond: IntCC, a: Operand, b: Operand) -> Result<Value, BackendError> {
        let (a, b) = (self.general(a)?, self.general(b)?);
        Ok(self.builder.ins().icmp(cond, a, b))
    }

    pub(super) fn select(
        &mut self,
        condition: Operand,
        a: Operand,
        b: Operand,
        class: Class,
    ) -> Result<Value, BackendError> {
        let condition = self.general(condition)?;
        let (a, b) = (self.in_class(a, class)?, self.in_class(b, class)?);
        Ok(self.builder.ins().select(condition, a, b))
    }
}
