//! Floating point: `binary64` in vector registers, exact to the last NaN payload. `binary32`, which is rare, moves there
//! for each operation.
//!
//! - Operands keep their order; a left operand that comes from memory is pinned to a register when it is read (see
//!   [`crate::class::Classes::is_pinned`]).
//! - `minsd` and `maxsd` are recognised as selections by a less-than; a greater-than would become a branch.
//! - The conversion to an integer saturates in the code generator's IR. That differs from `cvttsd2si` where the
//!   number is too large or no number, and a selection by `x < 2^63` replaces these by the least integer.
//!
//! Worked example: `fmax64 a, b` becomes `select (fcmp lt b, a), a, b`, one `maxsd a, b`: b if either is NaN or both are 0.

use super::{Lowering, Operand, machine_type};
use crate::BackendError;
use crate::class::Class;
use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::immediates::Ieee64;
use cranelift_codegen::ir::{InstBuilder, Value, types};
use cranelift_frontend::FuncInstBuilder;
use redmagic_ir::Type;

impl Lowering<'_, '_> {
    pub(super) fn float_binary(
        &mut self,
        a: Operand,
        b: Operand,
        build: fn(FuncInstBuilder<'_, '_>, Value, Value) -> Value,
    ) -> Result<Value, BackendError> {
        let (a, b) = (self.vector(a)?, self.vector(b)?);
        Ok(build(self.builder.ins(), a, b))
    }

    pub(super) fn float_unary(
        &mut self,
        a: Operand,
        build: fn(FuncInstBuilder<'_, '_>, Value) -> Value,
    ) -> Result<Value, BackendError> {
        let a = self.vector(a)?;
        Ok(build(self.builder.ins(), a))
    }

    /// A `binary32` number, which lives in a general register between operations.
    pub(super) fn single(&mut self, a: Operand) -> Result<Value, BackendError> {
        let a = self.general(a)?;
        Ok(self.cast(types::F32, a))
    }

    pub(super) fn single_binary(
        &mut self,
        a: Operand,
        b: Operand,
        build: fn(FuncInstBuilder<'_, '_>, Value, Value) -> Value,
    ) -> Result<Value, BackendError> {
        let (a, b) = (self.single(a)?, self.single(b)?);
        let result = build(self.builder.ins(), a, b);
        Ok(self.cast(types::I32, result))
    }

    pub(super) fn single_sqrt(&mut self, a: Operand) -> Result<Value, BackendError> {
        let a = self.single(a)?;
        let result = self.builder.ins().sqrt(a);
        Ok(self.cast(types::I32, result))
    }

    pub(super) fn single_from_int(&mut self, a: Operand) -> Result<Value, BackendError> {
        let a = self.general(a)?;
        let result = self.builder.ins().fcvt_from_sint(types::F32, a);
        Ok(self.cast(types::I32, result))
    }

    pub(super) fn widen_single(&mut self, a: Operand) -> Result<Value, BackendError> {
        let a = self.single(a)?;
        Ok(self.builder.ins().fpromote(types::F64, a))
    }

    pub(super) fn narrow_double(&mut self, a: Operand) -> Result<Value, BackendError> {
        let a = self.vector(a)?;
        let result = self.builder.ins().fdemote(types::F32, a);
        Ok(self.cast(types::I32, result))
    }

    pub(super) fn float_compare(&mut self, cond: FloatCC, a: Operand, b: Operand) -> Result<Value, BackendError> {
        let (a, b) = (self.vector(a)?, self.vector(b)?);
        Ok(self.builder.ins().fcmp(cond, a, b))
    }

    pub(super) fn float_min(&mut self, a: Operand, b: Operand) -> Result<Value, BackendError> {
        let (a, b) = (self.vector(a)?, self.vector(b)?);
        let less = self.builder.ins().fcmp(FloatCC::LessThan, a, b);
        Ok(self.builder.ins().select(less, a, b))
    }

    pub(super) fn float_max(&mut self, a: Operand, b: Operand) -> Result<Value, BackendError> {
        let (a, b) = (self.vector(a)?, self.vector(b)?);
        let greater = self.builder.ins().fcmp(FloatCC::LessThan, b, a);
        Ok(self.builder.ins().select(greater, a, b))
    }

    pub(super) fn float_sqrt(&mut self, a: Operand) -> Result<Value, BackendError> {
        let a = self.vector(a)?;
        Ok(self.builder.ins().sqrt(a))
    }

    pub(super) fn float_from_int(&mut self, a: Operand) -> Result<Value, BackendError> {
        let a = self.general(a)?;
        Ok(self.builder.ins().fcvt_from_sint(types::F64, a))
    }

    pub(super) fn float_to_int(&mut self, ty: Type, a: Operand) -> Result<Value, BackendError> {
        let a = self.vector(a)?;
        let to = machine_type(ty, Class::General);
        let (bound, least) =
            if ty == Type::I32 { ((1u64 << 31) as f64, i64::from(i32::MIN)) } else { ((1u64 << 63) as f64, i64::MIN) };
        let bound = self.builder.ins().f64const(Ieee64::with_float(bound));
        let in_range = self.builder.ins().fcmp(FloatCC::LessThan, a, bound);
        let saturated = self.builder.ins().fcvt_to_sint_sat(to, a);
        let least = self.constant(ty, least);
        Ok(self.builder.ins().select(in_range, saturated, least))
    }
}
