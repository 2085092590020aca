//! Fused multiplications and additions, which the code generator has with AVX only (see [`crate::isa`]).
//!
//! It is told that they are calls: of a function with three operands in xmm0 to xmm2 and the result in xmm0. A near call
//! takes five bytes, and so does the instruction, which then replaces the call. What is live across it is kept from
//! registers that a function may change, the price of not being known to the register allocator; no frame is left, no
//! memory touched.
//!
//! Worked example: `fma64 v1, v2, v3` becomes `call fn0(v2, v1, v3)`, `e8 00 00 00 00` with a relocation, and then
//! `c4 e2 f1 a9 c2`, `vfmadd213sd xmm0, xmm1, xmm2`: xmm1 * xmm0 + xmm2, where a NaN in xmm1 goes before one in xmm0.

use super::{Lowering, Operand};
use crate::BackendError;
use cranelift_codegen::binemit::Reloc;
use cranelift_codegen::ir::{
    self, AbiParam, ExtFuncData, ExternalName, FuncRef, InstBuilder, Signature, UserExternalName, Value, types,
};
use cranelift_codegen::isa::CallConv;
use cranelift_codegen::{FinalizedMachReloc, FinalizedRelocTarget};
use redmagic_ir::{Opcode, Type};

/// The bytes of an instruction that tell it from the others: W and the operand in the prefix, which is xmm1, and the opcode.
fn encoding(op: Opcode) -> Option<[u8; 2]> {
    const DOUBLE: u8 = 0xf1;
    const SINGLE: u8 = 0x71;
    [
        (Opcode::Fma64, [DOUBLE, 0xa9]),
        (Opcode::Fms64, [DOUBLE, 0xab]),
        (Opcode::Fnma64, [DOUBLE, 0xad]),
        (Opcode::Fnms64, [DOUBLE, 0xaf]),
        (Opcode::Fma32, [SINGLE, 0xa9]),
        (Opcode::Fms32, [SINGLE, 0xab]),
        (Opcode::Fnma32, [SINGLE, 0xad]),
        (Opcode::Fnms32, [SINGLE, 0xaf]),
    ]
    .into_iter()
    .find_map(|(known, bytes)| (known == op).then_some(bytes))
}

impl Lowering<'_, '_> {
    pub(super) fn fused_doubles(&mut self, op: Opcode, operands: [Operand; 3]) -> Result<Value, BackendError> {
        let function = self.fused_function(op, Type::I64, types::F64)?;
        let [a, b, c] = operands;
        let (a, b, c) = (self.vector(a)?, self.vector(b)?, self.vector(c)?);
        let call = self.builder.ins().call(function, &[b, a, c]);
        Ok(self.builder.inst_results(call)[0])
    }

    pub(super) fn fused_singles(&mut self, op: Opcode, operands: [Operand; 3]) -> Result<Value, BackendError> {
        let function = self.fused_function(op, Type::I32, types::F32)?;
        let [a, b, c] = operands;
        let (a, b, c) = (self.single(a)?, self.single(b)?, self.single(c)?);
        let call = self.builder.ins().call(function, &[b, a, c]);
        let result = self.builder.inst_results(call)[0];
        Ok(self.cast(types::I32, result))
    }

    /// The function that stands for an operation on numbers of machine type `number`.
    fn fused_function(&mut self, op: Opcode, ty: Type, number: ir::Type) -> Result<FuncRef, BackendError> {
        if let Some((_, function)) = self.fused.iter().find(|known| known.0 == op) {
            return Ok(*function);
        }
        if !std::arch::is_x86_feature_detected!("fma") {
            return Err(BackendError::Unsupported { op, ty });
        }
        let mut signature = Signature::new(CallConv::SystemV);
        signature.params = vec![AbiParam::new(number); 3];
        signature.returns = vec![AbiParam::new(number)];
        let signature = self.builder.import_signature(signature);
        let name = self.builder.func.declare_imported_user_function(UserExternalName::new(0, self.fused.len() as u32));
        let name = ExternalName::user(name);
        let data = ExtFuncData { name, signature, colocated: true, patchable: false };
        let function = self.builder.import_function(data);
        self.fused.push((op, function));
        Ok(function)
    }
}

/// Puts the instructions in the places of the calls, which are all that `relocs` may name, by the number of the operation.
pub(crate) fn place_instructions(
    code: &mut [u8],
    relocs: &[FinalizedMachReloc],
    operations: &[Opcode],
) -> Result<(), BackendError> {
    for reloc in relocs {
        let failed = BackendError::Relocation { offset: reloc.offset };
        let FinalizedRelocTarget::ExternalName(ExternalName::User(name)) = reloc.target else { return Err(failed) };
        let operation = operations.get(name.as_u32() as usize);
        let Some([prefix, opcode]) = operation.and_then(|op| encoding(*op)) else { return Err(failed) };
        let start = (reloc.offset as usize).wrapping_sub(1);
        let call = code.get_mut(start..start.wrapping_add(5));
        let Some(call) = call.filter(|call| reloc.kind == Reloc::X86CallPCRel4 && call[0] == 0xe8) else {
            return Err(failed);
        };
        // The last byte names xmm0 and xmm2.
        call.copy_from_slice(&[0xc4, 0xe2, prefix, opcode, 0xc2]);
    }
    Ok(())
}
