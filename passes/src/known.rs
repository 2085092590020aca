//! Which bits of a value can be set: an upper bound, computed once when a value is placed.
//!
//! # Invariants
//! `possible(v)` has every bit set that v can have set. It is an over-approximation from the definition alone: facts of
//! guards are not used, so it holds wherever the value is visible.
//!
//! Worked example: `zext(load i8)` can have bits 0 to 7, shifted right by 3 bits 0 to 4; `ult` of that and 32 is 1.

use crate::scope::Scope;
use redmagic_ir::{Inst, Opcode, Type, Value};

/// All bits up to the highest one of `bits`.
fn fill(bits: u64) -> u64 {
    if bits == 0 { 0 } else { u64::MAX >> bits.leading_zeros() }
}

/// The bits that the result of `inst` can have set.
pub(crate) fn possible(scope: &Scope, inst: &Inst) -> u64 {
    let mask = inst.ty.mask() as u64;
    let [a, b, c] = inst.args;
    let of = |value: Value| scope.possible(value);
    let count = |value: Value| {
        let imm = scope.as_const(value)?;
        Some((imm as u64 & u64::from(inst.ty.bits() - 1)) as u32)
    };
    let bits = match inst.op {
        // The carry out of the sum of the two upper bounds needs one more bit than the larger of them.
        Opcode::Add if inst.ty.is_word() => {
            let (x, y) = (fill(of(a)), fill(of(b)));
            x.checked_add(y).filter(|sum| *sum <= mask).map_or(mask, fill)
        }
        Opcode::And if inst.ty.bits() <= 64 => of(a) & of(b),
        Opcode::Or | Opcode::Xor if inst.ty.bits() <= 64 => of(a) | of(b),
        Opcode::Select if inst.ty.bits() <= 64 => of(b) | of(c),
        Opcode::Shl if inst.ty.is_word() => count(b).map_or(mask, |count| of(a) << count),
        Opcode::Lshr if inst.ty.is_word() => count(b).map_or(fill(of(a)), |count| of(a) >> count),
        Opcode::Ashr if inst.ty.is_word() && of(a) & sign(inst.ty) == 0 => {
            count(b).map_or(fill(of(a)), |count| of(a) >> count)
        }
        Opcode::Zext if inst.ty.bits() <= 64 => of(a),
        Opcode::Trunc if scope.trace.ty(a).bits() <= 64 => of(a),
        Opcode::Urem => scope.as_const(b).map_or(mask, |imm| fill((imm as u64 & mask).saturating_sub(1))),
        Opcode::Clz | Opcode::Ctz | Opcode::Popcnt => fill(u64::from(inst.ty.bits())),
        _ if inst.op.is_flags() => u64::from(redmagic_ir::FLAGS_MASK),
        _ => mask,
    };
    bits & mask
}

/// The sign bit of a word type.
pub(crate) fn sign(ty: Type) -> u64 {
    1 << (ty.bits() - 1)
}
