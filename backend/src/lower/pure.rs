//! Pure operations, one arm per opcode; instructions and the recipes of exits share it.
//!
//! Worked example: `v3: i64 = select v0, v1, v2` whose home is a vector register asks for v1 and v2 as vectors
//! (converting what lives elsewhere) and delivers a vector; the same as a recipe works in general registers.

use super::{Lowering, Operand};
use crate::BackendError;
use crate::class::Class;
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, Value, types};
use redmagic_ir::{Cond, Opcode, Type};

impl Lowering<'_, '_> {
    /// Lowers a pure operation. The result is in register file `class` if the operation can deliver it in either, else
    /// where the operation delivers it (see [`crate::class::result_class`]).
    pub(super) fn pure(
        &mut self,
        op: Opcode,
        ty: Type,
        condition: Option<Cond>,
        operands: [Operand; 3],
        class: Class,
    ) -> Result<Value, BackendError> {
        let [a, b, c] = operands;
        match op {
            Opcode::Neg => self.unary(a, |ins, a| ins.ineg(a)),
            Opcode::Not => self.complement(ty, a),
            Opcode::Bswap => self.unary(a, |ins, a| ins.bswap(a)),
            Opcode::Clz => self.unary(a, |ins, a| ins.clz(a)),
            Opcode::Ctz => self.unary(a, |ins, a| ins.ctz(a)),
            Opcode::Popcnt => self.unary(a, |ins, a| ins.popcnt(a)),
            Opcode::Zext => self.zero_extend(ty, a),
            Opcode::Sext => self.sign_extend(ty, a),
            Opcode::Trunc => self.truncate(ty, a),
            Opcode::Low => self.half(a, 0, class),
            Opcode::High => self.half(a, 1, class),
            Opcode::Parity => {
                let a = self.general(a)?;
                Ok(self.parity(a))
            }
            Opcode::Add => self.binary(a, b, |ins, a, b| ins.iadd(a, b)),
            Opcode::Sub => self.binary(a, b, |ins, a, b| ins.isub(a, b)),
            Opcode::Mul => self.binary(a, b, |ins, a, b| ins.imul(a, b)),
            Opcode::Umulhi => self.binary(a, b, |ins, a, b| ins.umulhi(a, b)),
            Opcode::Smulhi => self.binary(a, b, |ins, a, b| ins.smulhi(a, b)),
            Opcode::Udiv | Opcode::Urem | Opcode::Sdiv | Opcode::Srem => self.divide(op, ty, a, b),
            Opcode::And => self.bitwise(a, b, class, |ins, a, b| ins.band(a, b)),
            Opcode::Or => self.bitwise(a, b, class, |ins, a, b| ins.bor(a, b)),
            Opcode::Xor => self.bitwise(a, b, class, |ins, a, b| ins.bxor(a, b)),
            Opcode::Shl => self.binary(a, b, |ins, a, b| ins.ishl(a, b)),
            Opcode::Lshr => self.binary(a, b, |ins, a, b| ins.ushr(a, b)),
            Opcode::Ashr => self.binary(a, b, |ins, a, b| ins.sshr(a, b)),
            Opcode::Rotl => self.binary(a, b, |ins, a, b| ins.rotl(a, b)),
            Opcode::Rotr => self.binary(a, b, |ins, a, b| ins.rotr(a, b)),
            Opcode::Pdep | Opcode::Pext => self.scatter(op, ty, a, b),
            Opcode::Join => self.join(ty, a, b),
            Opcode::Eq => self.compare(IntCC::Equal, a, b),
            Opcode::Ne => self.compare(IntCC::NotEqual, a, b),
            Opcode::Ult => self.compare(IntCC::UnsignedLessThan, a, b),
            Opcode::Ule => self.compare(IntCC::UnsignedLessThanOrEqual, a, b),
            Opcode::Slt => self.compare(IntCC::SignedLessThan, a, b),
            Opcode::Sle => self.compare(IntCC::SignedLessThanOrEqual, a, b),
            Opcode::Select => self.select(a, b, c, class),
            Opcode::Fadd64 => self.float_binary(a, b, |ins, a, b| ins.fadd(a, b)),
            Opcode::Fsub64 => self.float_binary(a, b, |ins, a, b| ins.fsub(a, b)),
            Opcode::Fmul64 => self.float_binary(a, b, |ins, a, b| ins.fmul(a, b)),
            Opcode::Fdiv64 => self.float_binary(a, b, |ins, a, b| ins.fdiv(a, b)),
            Opcode::Fmin64 => self.float_min(a, b),
            Opcode::Fmax64 => self.float_max(a, b),
            Opcode::Fsqrt64 => self.float_sqrt(a),
            Opcode::Feq64 => self.float_compare(FloatCC::Equal, a, b),
            Opcode::Flt64 => self.float_compare(FloatCC::LessThan, a, b),
            Opcode::Fle64 => self.float_compare(FloatCC::LessThanOrEqual, a, b),
            Opcode::Funo64 => self.float_compare(FloatCC::Unordered, a, b),
            Opcode::F64FromInt => self.float_from_int(a),
            Opcode::F64ToInt => self.float_to_int(ty, a),
            Opcode::Ffloor64 => self.float_unary(a, |ins, a| ins.floor(a)),
            Opcode::Fceil64 => self.float_unary(a, |ins, a| ins.ceil(a)),
            Opcode::Ftrunc64 => self.float_unary(a, |ins, a| ins.trunc(a)),
            Opcode::Fnearest64 => self.float_unary(a, |ins, a| ins.nearest(a)),
            Opcode::Fadd32 => self.single_binary(a, b, |ins, a, b| ins.fadd(a, b)),
            Opcode::Fsub32 => self.single_binary(a, b, |ins, a, b| ins.fsub(a, b)),
            Opcode::Fmul32 => self.single_binary(a, b, |ins, a, b| ins.fmul(a, b)),
            Opcode::Fdiv32 => self.single_binary(a, b, |ins, a, b| ins.fdiv(a, b)),
            Opcode::Fsqrt32 => self.single_sqrt(a),
            Opcode::F32FromInt => self.single_from_int(a),
            Opcode::F64FromF32 => self.widen_single(a),
            Opcode::F32FromF64 => self.narrow_double(a),
            Opcode::Fma64 | Opcode::Fms64 | Opcode::Fnma64 | Opcode::Fnms64 => self.fused_doubles(op, operands),
            Opcode::Fma32 | Opcode::Fms32 | Opcode::Fnma32 | Opcode::Fnms32 => self.fused_singles(op, operands),
            Opcode::Add8 => self.lanes(types::I8X16, a, b, |ins, a, b| ins.iadd(a, b)),
            Opcode::Add16 => self.lanes(types::I16X8, a, b, |ins, a, b| ins.iadd(a, b)),
            Opcode::Add32 => self.lanes(types::I32X4, a, b, |ins, a, b| ins.iadd(a, b)),
            Opcode::Sub8 => self.lanes(types::I8X16, a, b, |ins, a, b| ins.isub(a, b)),
            Opcode::Sub16 => self.lanes(types::I16X8, a, b, |ins, a, b| ins.isub(a, b)),
            Opcode::Sub32 => self.lanes(types::I32X4, a, b, |ins, a, b| ins.isub(a, b)),
            Opcode::Usubs8 => self.lanes(types::I8X16, a, b, |ins, a, b| ins.usub_sat(a, b)),
            Opcode::Usubs16 => self.lanes(types::I16X8, a, b, |ins, a, b| ins.usub_sat(a, b)),
            Opcode::Mul16 => self.lanes(types::I16X8, a, b, |ins, a, b| ins.imul(a, b)),
            Opcode::Eq8 => self.lanes(types::I8X16, a, b, |ins, a, b| ins.icmp(IntCC::Equal, a, b)),
            Opcode::Eq16 => self.lanes(types::I16X8, a, b, |ins, a, b| ins.icmp(IntCC::Equal, a, b)),
            Opcode::Eq32 => self.lanes(types::I32X4, a, b, |ins, a, b| ins.icmp(IntCC::Equal, a, b)),
            Opcode::Sgt8 => self.lanes(types::I8X16, a, b, |ins, a, b| ins.icmp(IntCC::SignedGreaterThan, a, b)),
            Opcode::Sgt16 => self.lanes(types::I16X8, a, b, |ins, a, b| ins.icmp(IntCC::SignedGreaterThan, a, b)),
            Opcode::Sgt32 => self.lanes(types::I32X4, a, b, |ins, a, b| ins.icmp(IntCC::SignedGreaterThan, a, b)),
            Opcode::Zip8 => self.zip_lanes(types::I8X16, a, b, 0),
            Opcode::ZipHigh8 => self.zip_lanes(types::I8X16, a, b, 1),
            Opcode::Zip16 => self.zip_lanes(types::I16X8, a, b, 0),
            Opcode::ZipHigh16 => self.zip_lanes(types::I16X8, a, b, 1),
            Opcode::PackS16 => self.pack_lanes(types::I16X8, a, b, |ins, both| ins.snarrow(both, both)),
            Opcode::PackU16 => self.pack_lanes(types::I16X8, a, b, |ins, both| ins.unarrow(both, both)),
            Opcode::PackS32 => self.pack_lanes(types::I32X4, a, b, |ins, both| ins.snarrow(both, both)),
            Opcode::Shuffle8 => self.shuffle_bytes(a, b, c),
            Opcode::Signs8 => self.byte_signs(a),
            Opcode::FlAdd => self.flags_add(a, b, None),
            Opcode::FlSub => self.flags_sub(a, b, None),
            Opcode::FlAdc => self.flags_add(a, b, Some(c)),
            Opcode::FlSbb => self.flags_sub(a, b, Some(c)),
            Opcode::FlLogic => self.flags_logic(a),
            Opcode::FlInc => self.flags_step(a, b, 1),
            Opcode::FlDec => self.flags_step(a, b, -1),
            Opcode::FlShl | Opcode::FlShr | Opcode::FlSar => self.flags_shift(op, a, b, c),
            Opcode::FlRol => self.flags_rotate(a, b, c, true),
            Opcode::FlRor => self.flags_rotate(a, b, c, false),
            Opcode::FlMul => self.flags_mul(a),
            Opcode::FlF64 => self.flags_float(a, b),
            Opcode::Cond => match condition {
                Some(condition) => self.condition(condition, a),
                None => Err(BackendError::Unsupported { op, ty }),
            },
            Opcode::Param
            | Opcode::Const
            | Opcode::Slot
            | Opcode::Load
            | Opcode::Store
            | Opcode::CompareSwap
            | Opcode::Guard
            | Opcode::GuardNot
            | Opcode::Native
            | Opcode::Tick
            | Opcode::NativeOut => Err(BackendError::Unsupported { op, ty }),
        }
    }
}
