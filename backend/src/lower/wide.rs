//! 128-bit division, which the code generator does not have: calls of helpers of ours.
//!
//! A helper takes four halves and returns the result in two registers, the System V way. It is a leaf, so the small
//! stack of trace code suffices.

use super::{Lowering, Operand};
use crate::BackendError;
use cranelift_codegen::ir::{AbiParam, InstBuilder, Signature, Value, types};
use cranelift_codegen::isa::CallConv;
use redmagic_ir::{Opcode, Type};

type Helper = extern "sysv64" fn(u64, u64, u64, u64) -> u128;

fn wide(low: u64, high: u64) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

// The operands are defined (the trace guards them), so the defaults are never seen; they spare the process a panic.

extern "sysv64" fn udiv(a_low: u64, a_high: u64, b_low: u64, b_high: u64) -> u128 {
    wide(a_low, a_high).checked_div(wide(b_low, b_high)).unwrap_or(0)
}

extern "sysv64" fn urem(a_low: u64, a_high: u64, b_low: u64, b_high: u64) -> u128 {
    wide(a_low, a_high).checked_rem(wide(b_low, b_high)).unwrap_or(0)
}

extern "sysv64" fn sdiv(a_low: u64, a_high: u64, b_low: u64, b_high: u64) -> u128 {
    (wide(a_low, a_high) as i128).checked_div(wide(b_low, b_high) as i128).unwrap_or(0) as u128
}

extern "sysv64" fn srem(a_low: u64, a_high: u64, b_low: u64, b_high: u64) -> u128 {
    (wide(a_low, a_high) as i128).checked_rem(wide(b_low, b_high) as i128).unwrap_or(0) as u128
}

impl Lowering<'_, '_> {
    /// Division and remainder of i128.
    pub(super) fn wide_divide(&mut self, op: Opcode, a: Operand, b: Operand) -> Result<Value, BackendError> {
        let helper: Helper = if op == Opcode::Udiv {
            udiv
        } else if op == Opcode::Urem {
            urem
        } else if op == Opcode::Sdiv {
            sdiv
        } else if op == Opcode::Srem {
            srem
        } else {
            return Err(BackendError::Unsupported { op, ty: Type::I128 });
        };
        let (a, b) = (self.general(a)?, self.general(b)?);
        let (a_low, a_high) = self.builder.ins().isplit(a);
        let (b_low, b_high) = self.builder.ins().isplit(b);
        let mut signature = Signature::new(CallConv::SystemV);
        signature.params = vec![AbiParam::new(types::I64); 4];
        signature.returns = vec![AbiParam::new(types::I64); 2];
        let signature = self.builder.import_signature(signature);
        let callee = self.builder.ins().iconst(types::I64, helper as usize as i64);
        let call = self.builder.ins().call_indirect(signature, callee, &[a_low, a_high, b_low, b_high]);
        let results = self.builder.inst_results(call);
        let (low, high) = (results[0], results[1]);
        Ok(self.builder.ins().iconcat(low, high))
    }
}
