//! Accesses with a varying address whose extent is known all the same: an index that a guard has found below a bound.
//!
//! # Worked examples
//! `guard ult(add v1, -1), v2` and `load [v3 + (v1 << 4) - 16]`: with x = v1 - 1 below v2, the address is
//! v3 + 16 x, and all such accesses lie in the `16 * (v2 - 1) + size` bytes at v3.
//!
//! `guard_not sle v1, 0; guard_not slt v2, v1` and `load i8 [v3 + v1 - 1]`: with 1 <= v1 <= v2, signed, v1 - 1 is below v2,
//! unsigned.

use crate::scope::Scope;
use redmagic_ir::{Address, Opcode, Type, Value};

/// Memory that a varying access stays in: from `base + offset` on, `scale * (bound - 1) + size` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub base: Value,
    pub offset: i64,
    pub bound: Value,
    pub scale: u8,
    pub size: i64,
    /// Whether the bound must be found to be so small that the extent does not wrap around.
    pub wide: bool,
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

/// The extent of accesses of `size` bytes at `address`, given `limits`.
pub(crate) fn extent(scope: &Scope, address: &Address, size: i64, limits: &Limits) -> Option<Extent> {
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
        limits.below.iter().rev().find_map(|&(below, bound)| {
            if below.value != index.value || scope.trace.ty(bound) != Type::I64 {
                return None;
            }
            // index = below + difference.
            let difference = index.addend.wrapping_sub(below.addend);
            let offset = offset.checked_add(difference.checked_mul(i64::from(scale))?)?;
            // What a class member has become is the class's origin and a constant.
            let base = sum(scope, scope.resolve(base));
            let offset = offset.checked_add(base.addend)?;
            let bound = scope.resolve(bound);
            let wide = scope.possible(bound) >> 48 != 0;
            Some(Extent { base: base.value, offset, bound, scale, size, wide })
        })
    })
}

/// What guards have said so far of values that may be indices.
#[derive(Default)]
pub(crate) struct Limits {
    /// The first is less than the second, unsigned.
    below: Vec<(Sum, Value)>,
    /// The value is at least this number, signed, which is not negative.
    least: Vec<(Value, i64)>,
    /// The first is less than the second, signed, or equal to it if the last is false.
    less: Vec<(Value, Value, bool)>,
}

impl Limits {
    /// Takes in that `test` is `truth`.
    pub(crate) fn learn(&mut self, scope: &Scope, test: Value, truth: bool) {
        let inst = scope.def(test);
        let [a, b, _] = inst.args;
        let (low, high, strict) = match (inst.op, truth) {
            (Opcode::Ult, true) => return self.below.push((sum(scope, a), b)),
            (Opcode::Ule, false) => return self.below.push((sum(scope, b), a)),
            (Opcode::Slt, true) => (a, b, true),
            (Opcode::Sle, true) => (a, b, false),
            (Opcode::Slt, false) => (b, a, false),
            (Opcode::Sle, false) => (b, a, true),
            _ => return,
        };
        match scope.as_const(low) {
            Some(imm) => {
                let least = imm.saturating_add(i64::from(strict));
                if least >= 0 {
                    self.least.push((high, least));
                    let known: Vec<_> = self.less.iter().copied().filter(|less| less.0 == high).collect();
                    known.into_iter().for_each(|(low, high, strict)| self.signed(low, least, high, strict));
                }
            }
            None => {
                self.less.push((low, high, strict));
                let least = self.least.iter().find(|least| least.0 == low).map(|least| least.1);
                if let Some(least) = least {
                    self.signed(low, least, high, strict);
                }
            }
        }
    }

    /// From `least <= value`, and `value < bound` if `strict`, else `value <= bound`, all signed: with 0 <= value < bound, the same
    /// holds unsigned; with 1 <= value <= bound, it holds for value - 1.
    fn signed(&mut self, value: Value, least: i64, bound: Value, strict: bool) {
        if strict {
            self.below.push((Sum { value, addend: 0 }, bound));
        }
        if least >= 1 {
            self.below.push((Sum { value, addend: -1 }, bound));
        }
    }
}
