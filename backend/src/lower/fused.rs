//! Fused multiplications and additions, which the code generator has with AVX only (see [`crate::isa`]).
//!
//! It is told that they are calls: of a function with three operands in xmm0 to xmm2 and the result in xmm0. A near call
//! takes five bytes, and so does the instruction, which then replaces the call. What is live across it is kept from
//! registers that a function may change, the price of not being known to the register allocator; no frame is left, no
//! memory touched.
//!
//! Worked example: `fma64 v1, v2, v3` becomes `call fn0(v2, v1, v3)`, `e8 00 00 00 00` with a relocation, and then
//! `c4 e2 f1 a9 c2`, `vfmadd213sd xmm0, xmm1, xmm2`: xmm1 * xmm0 + xmm2, where a NaN in xmm1 goes before one in xmm0.
//!
//! Among the older instructions of a trace such an instruction costs a hundred cycles on some processors if the upper half
//! of any register is in use when the trace begins. Therefore a trace that has one, and keeps upper halves in the context
//! because it changes some, begins with `vzeroupper`, in the place of a call without operands.

use super::{Lowering, Operand};
use crate::BackendError;
use cranelift_codegen::binemit::Reloc;
use cranelift_codegen::ir::{
    self, AbiParam, ExtFuncData, ExternalName, FuncRef, InstBuilder, Signature, UserExternalName, Value, types,
};
use cranelift_codegen::isa::CallConv;
use cranelift_codegen::{FinalizedMachReloc, FinalizedRelocTarget};
use redmagic_ir::{ExitData, Opcode, Type};

/// `vzeroupper`, and a `nop` of two bytes.
const CLEAR_UPPER: [u8; 5] = [0xc5, 0xf8, 0x77, 0x66, 0x90];

/// What stands in the place of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inline {
    /// A fused operation.
    Fused(Opcode),
    /// Nothing above the low halves of vector registers is in use any more.
    ClearUpper,
}

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

fn is_fused(op: Opcode) -> bool {
    let double = matches!(op, Opcode::Fma64 | Opcode::Fms64 | Opcode::Fnma64 | Opcode::Fnms64);
    double || matches!(op, Opcode::Fma32 | Opcode::Fms32 | Opcode::Fnma32 | Opcode::Fnms32)
}

impl Lowering<'_, '_> {
    /// Clears upper halves where the function begins, if that is worth while.
    pub(super) fn begin_fused(&mut self) {
        let exits = || self.trace.exits.values();
        let fused = self.trace.insts.values().any(|inst| is_fused(inst.op))
            || exits().any(|exit| exit.recipes.iter().any(|recipe| is_fused(recipe.op)));
        let lists_upper = |exit: &ExitData| exit.slots.iter().any(|(slot, _)| slot.is_upper());
        if fused && exits().any(lists_upper) && std::arch::is_x86_feature_detected!("avx") {
            // It changes no register that the register allocator knows.
            let function = self.inline(Inline::ClearUpper, Signature::new(CallConv::PreserveAll));
            self.builder.ins().call(function, &[]);
        }
    }

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
        if !std::arch::is_x86_feature_detected!("fma") {
            return Err(BackendError::Unsupported { op, ty });
        }
        let mut signature = Signature::new(CallConv::SystemV);
        signature.params = vec![AbiParam::new(number); 3];
        signature.returns = vec![AbiParam::new(number)];
        Ok(self.inline(Inline::Fused(op), signature))
    }

    /// The function that stands for an instruction.
    fn inline(&mut self, inline: Inline, signature: Signature) -> FuncRef {
        if let Some((_, function)) = self.inlines.iter().find(|known| known.0 == inline) {
            return *function;
        }
        let signature = self.builder.import_signature(signature);
        let name = UserExternalName::new(0, self.inlines.len() as u32);
        let name = ExternalName::user(self.builder.func.declare_imported_user_function(name));
        let data = ExtFuncData { name, signature, colocated: true, patchable: false };
        let function = self.builder.import_function(data);
        self.inlines.push((inline, function));
        function
    }
}

/// Puts the instructions in the places of the calls, which are all that `relocs` may name, by the number of the function.
pub(crate) fn place_instructions(
    code: &mut [u8],
    relocs: &[FinalizedMachReloc],
    inlines: &[Inline],
) -> Result<(), BackendError> {
    for reloc in relocs {
        let failed = BackendError::Relocation { offset: reloc.offset };
        let FinalizedRelocTarget::ExternalName(ExternalName::User(name)) = reloc.target else { return Err(failed) };
        let bytes = match inlines.get(name.as_u32() as usize) {
            // The last byte names xmm0 and xmm2.
            Some(Inline::Fused(op)) => encoding(*op).map(|[prefix, opcode]| [0xc4, 0xe2, prefix, opcode, 0xc2]),
            Some(Inline::ClearUpper) => Some(CLEAR_UPPER),
            None => None,
        };
        let Some(bytes) = bytes else { return Err(failed) };
        let start = (reloc.offset as usize).wrapping_sub(1);
        let call = code.get_mut(start..start.wrapping_add(5));
        let Some(call) = call.filter(|call| reloc.kind == Reloc::X86CallPCRel4 && call[0] == 0xe8) else {
            return Err(failed);
        };
        call.copy_from_slice(&bytes);
    }
    Ok(())
}
