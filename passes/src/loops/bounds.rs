//! Accesses with a varying address whose extent is known all the same: an index that a guard has found below a bound.
//!
//! Worked example: `guard ult(add v1, -1), v2` and `load [v3 + (v1 << 4) - 16]`: with x = v1 - 1 below v2, the address is
//! v3 + 16 x, and all such accesses lie in the `16 * (v2 - 1) + size` bytes at v3.

use crate::scope::Scope;
use redmagic_ir::{Address, Inst, Opcode, Type, Value};

/// Memory that a varying access stays in: from `base + offset` on, `scale * (bound - 1) + size` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub base: Value,
    pub offset: i64,
    pub bound: Value,
    pub scale: u8,
    pub size: i64,
}

/// `value + addend`.
#[derive(Clone, Copy)]
pub(crate) struct Sum {
    pub value: Value,
    pub addend: i64,
}

/// Takes constants out of a sum.
pub(crate) fn sum(scope: &Scope, mut value: Value) -> Sum {
    let mut addend = 0i64;
    while let Some(inst) = scope.def_of(value, Opcode::Add)
        && let Some(imm) = scope.as_const(inst.args[1])
    {
        addend = addend.wrapping_add(imm);
        value = inst.args[0];
    }
    Sum { value, addend }
}

/// `value << shift`, with a shift of at most 5.
fn scaled(scope: &Scope, value: Value) -> Option<(Value, u8)> {
    let inst = scope.def_of(value, Opcode::Shl)?;
    let shift = scope.as_const(inst.args[1]).filter(|shift| (0..=5).contains(shift))?;
    Some((inst.args[0], 1 << shift))
}

/// The extent of accesses of `size` bytes at `address`, given `limits`: pairs of which the first is known to be less than
/// the second, unsigned.
pub(crate) fn extent(scope: &Scope, address: &Address, size: i64, limits: &[(Value, Value)]) -> Option<Extent> {
    let offset = i64::from(address.offset);
    let mut candidates: Vec<(Value, Value, u8)> = Vec::new();
    if address.index.is_some() {
        let index = scope.resolve(address.index);
        candidates.push((address.root, index, address.scale));
        if let Some((inner, scale)) = scaled(scope, index)
            && let Some(scale) = scale.checked_mul(address.scale)
        {
            candidates.push((address.root, inner, scale));
        }
    } else if let Some(inst) = scope.def_of(address.root, Opcode::Add) {
        for (base, index) in [(inst.args[0], inst.args[1]), (inst.args[1], inst.args[0])] {
            candidates.extend(scaled(scope, index).map(|(inner, scale)| (base, inner, scale)));
            candidates.push((base, index, 1));
        }
    }
    candidates.into_iter().find_map(|(base, index, scale)| {
        let index = sum(scope, index);
        limits.iter().rev().find_map(|&(below, bound)| {
            let below = sum(scope, below);
            if below.value != index.value || scope.trace.ty(bound) != Type::I64 {
                return None;
            }
            // The bound must be small enough that the extent does not wrap around.
            if scope.possible(bound) >> 48 != 0 {
                return None;
            }
            // index = below + difference.
            let difference = index.addend.wrapping_sub(below.addend);
            let offset = offset.checked_add(difference.checked_mul(i64::from(scale))?)?;
            // What a class member has become is the class's origin and a constant.
            let base = sum(scope, scope.resolve(base));
            let offset = offset.checked_add(base.addend)?;
            Some(Extent { base: base.value, offset, bound: scope.resolve(bound), scale, size })
        })
    })
}

/// The unsigned comparison `a < b` that holds if `inst` is `truth`.
pub(crate) fn less(inst: &Inst, truth: bool) -> Option<(Value, Value)> {
    let [a, b, _] = inst.args;
    match (inst.op, truth) {
        (Opcode::Ult, true) => Some((a, b)),
        (Opcode::Ule, false) => Some((b, a)),
        _ => None,
    }
}
