//! Packed lanes: an i64 in the low half of a vector register, where one SIMD instruction treats all its lanes.
//!
//! What happens in the upper half does not matter: no operation here can fault or raise floating-point flags.
//!
//! Worked example: `v3 = add8 v1, v2` becomes `iadd.i8x16` of both registers, one `paddb`; taking an i64 for a vector and
//! back costs nothing while it lives in a vector register.

use super::{Lowering, Operand};
use crate::BackendError;
use cranelift_codegen::ir::{self, InstBuilder, Value, types};
use cranelift_frontend::FuncInstBuilder;

impl Lowering<'_, '_> {
    /// An i64 as the low half of a vector of type `ty`.
    fn lanes_of(&mut self, ty: ir::Type, a: Operand) -> Result<Value, BackendError> {
        let a = self.vector(a)?;
        let lanes = self.builder.ins().scalar_to_vector(types::F64X2, a);
        Ok(self.cast(ty, lanes))
    }

    /// Two i64 as a vector of type `ty`.
    fn joined_lanes(&mut self, ty: ir::Type, low: Operand, high: Operand) -> Result<Value, BackendError> {
        let (low, high) = (self.vector(low)?, self.vector(high)?);
        let lanes = self.builder.ins().scalar_to_vector(types::F64X2, low);
        let lanes = self.builder.ins().insertlane(lanes, high, 1);
        Ok(self.cast(ty, lanes))
    }

    /// Half `half` of a vector, as an i64 in a vector register.
    fn half_of_lanes(&mut self, value: Value, half: u8) -> Value {
        let lanes = self.cast(types::F64X2, value);
        self.builder.ins().extractlane(lanes, half)
    }

    /// An operation on lanes of type `ty`.
    pub(super) fn lanes(
        &mut self,
        ty: ir::Type,
        a: Operand,
        b: Operand,
        build: fn(FuncInstBuilder<'_, '_>, Value, Value) -> Value,
    ) -> Result<Value, BackendError> {
        let (a, b) = (self.lanes_of(ty, a)?, self.lanes_of(ty, b)?);
        let result = build(self.builder.ins(), a, b);
        Ok(self.half_of_lanes(result, 0))
    }

    /// Half `half` of the lanes of both operands by turns.
    pub(super) fn zip_lanes(&mut self, ty: ir::Type, a: Operand, b: Operand, half: u8) -> Result<Value, BackendError> {
        let (a, b) = (self.lanes_of(types::I8X16, a)?, self.lanes_of(types::I8X16, b)?);
        let bytes = ty.lane_bits() as u8 / 8;
        // The mask by which the code generator recognises `punpcklbw` and `punpcklwd`.
        let mask: Vec<u8> = (0..16 / bytes)
            .flat_map(|lane| (0..bytes).map(move |byte| (lane / 2) * bytes + byte + 16 * (lane % 2)))
            .collect();
        let mask = self.builder.func.dfg.immediates.push(mask.as_slice().into());
        let result = self.builder.ins().shuffle(a, b, mask);
        Ok(self.half_of_lanes(result, half))
    }

    /// Lanes of half the size from those of both operands.
    pub(super) fn pack_lanes(
        &mut self,
        ty: ir::Type,
        a: Operand,
        b: Operand,
        build: fn(FuncInstBuilder<'_, '_>, Value) -> Value,
    ) -> Result<Value, BackendError> {
        let both = self.joined_lanes(ty, a, b)?;
        let result = build(self.builder.ins(), both);
        Ok(self.half_of_lanes(result, 0))
    }

    pub(super) fn shuffle_bytes(&mut self, low: Operand, high: Operand, by: Operand) -> Result<Value, BackendError> {
        let table = self.joined_lanes(types::I8X16, low, high)?;
        let by = self.lanes_of(types::I8X16, by)?;
        let result = self.builder.ins().x86_pshufb(table, by);
        Ok(self.half_of_lanes(result, 0))
    }

    pub(super) fn byte_signs(&mut self, a: Operand) -> Result<Value, BackendError> {
        let a = self.lanes_of(types::I8X16, a)?;
        let signs = self.builder.ins().vhigh_bits(types::I64, a);
        let low = self.builder.ins().iconst(types::I64, 0xff);
        Ok(self.builder.ins().band(signs, low))
    }
}
