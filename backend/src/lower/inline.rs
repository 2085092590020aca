//! Instructions that the code generator does not have: fused multiplications and additions (it has them with AVX only, see
//! [`crate::isa`]), `pdep` and `pext`.
//!
//! It is told that they are calls: of a function with three operands in xmm0 to xmm2 and the result in xmm0, or two in rdi and
//! rsi and the result in rax. A near call takes five bytes, and so does the instruction, which then replaces the call. What
//! is live across it is kept from registers that a function may change, the price of not being known to the register
//! allocator; no frame is left, no memory touched.
//!
//! Worked example: `fma64 v1, v2, v3` becomes `call fn0(v2, v1, v3)`, `e8 00 00 00 00` with a relocation, and then
//! `c4 e2 f1 a9 c2`, `vfmadd213sd xmm0, xmm1, xmm2`: xmm1 * xmm0 + xmm2, where a NaN in xmm1 goes before one in xmm0.
//!
//! Among the older instructions of a trace a fused one costs a hundred cycles on some processors if the upper half of any
//! register is in use when the trace begins. Therefore a trace that has one, and keeps upper halves in the context because it
//! changes some, begins with `vzeroupper`, in the place of a call without operands.

use super::{Lowering, Operand, machine_type};
use crate::BackendError;
use crate::class::Class;
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
    /// An operation.
    Operation(Opcode),
    /// Nothing above the low halves of vector registers is in use any more.
    ClearUpper,
}

/// The instruction of an operation: three bytes of prefix, the opcode, and the byte that names two registers.
fn encoding(op: Opcode) -> Option<[u8; 5]> {
    // In the last byte of a fused operation stand xmm0 and xmm2, in the prefix xmm1; in the others rax, rsi and rdi.
    let double = |opcode| [0xc4, 0xe2, 0xf1, opcode, 0xc2];
    let single = |opcode| [0xc4, 0xe2, 0x71, opcode, 0xc2];
    let scatter = |prefix| [0xc4, 0xe2, prefix, 0xf5, 0xc6];
    [
        (Opcode::Fma64, double(0xa9)),
        (Opcode::Fms64, double(0xab)),
        (Opcode::Fnma64, double(0xad)),
        (Opcode::Fnms64, double(0xaf)),
        (Opcode::Fma32, single(0xa9)),
        (Opcode::Fms32, single(0xab)),
        (Opcode::Fnma32, single(0xad)),
        (Opcode::Fnms32, single(0xaf)),
        (Opcode::Pdep, scatter(0xc3)),
        (Opcode::Pext, scatter(0xc2)),
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

    /// `pdep`, `pext`. Narrow operands are extended: a mask has no ones beyond its width.
    pub(super) fn scatter(&mut self, op: Opcode, ty: Type, a: Operand, b: Operand) -> Result<Value, BackendError> {
        if !std::arch::is_x86_feature_detected!("bmi2") {
            return Err(BackendError::Unsupported { op, ty });
        }
        let mut signature = Signature::new(CallConv::SystemV);
        signature.params = vec![AbiParam::new(types::I64); 2];
        signature.returns = vec![AbiParam::new(types::I64)];
        let function = self.inline(Inline::Operation(op), signature);
        let operands = [self.general(a)?, self.general(b)?];
        if ty == Type::I64 {
            let call = self.builder.ins().call(function, &operands);
            return Ok(self.builder.inst_results(call)[0]);
        }
        let operands = operands.map(|operand| self.builder.ins().uextend(types::I64, operand));
        let call = self.builder.ins().call(function, &operands);
        let result = self.builder.inst_results(call)[0];
        Ok(self.builder.ins().ireduce(machine_type(ty, Class::General), result))
    }

    /// The function that stands for an operation on numbers of machine type `number`.
    fn fused_function(&mut self, op: Opcode, ty: Type, number: ir::Type) -> Result<FuncRef, BackendError> {
        if !std::arch::is_x86_feature_detected!("fma") {
            return Err(BackendError::Unsupported { op, ty });
        }
        let mut signature = Signature::new(CallConv::SystemV);
        signature.params = vec![AbiParam::new(number); 3];
        signature.returns = vec![AbiParam::new(number)];
        Ok(self.inline(Inline::Operation(op), signature))
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
            Some(Inline::Operation(op)) => encoding(*op),
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
