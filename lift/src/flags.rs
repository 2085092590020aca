//! Flags as definitions: what set them last, not what they are.
//!
//! An arithmetic instruction only notes itself as the flags' [`Kind`]. A condition is then formed directly from its
//! operands (`cmp a, b; jl` is `slt a, b`); the packed flags are computed only if an exit, a call, a back edge or a
//! rare condition needs them, and only once.
//!
//! Some instructions leave some flags alone: `inc` keeps CF, a rotation keeps ZF, a shift by CL may keep all. Their
//! kinds contain the kind before them. Such containment is never deeper than one step: an inner kind that itself
//! contains one is packed first.
//!
//! Worked example: `cmp a, b; inc c; jb` finds `Inc { carry: Sub(a, b) }` and asks the contained kind for `ult a, b`.

use crate::lifter::Lifter;
use redmagic_ir::{AF, CF, Cond, FLAGS_MASK, Inst, OF, Opcode, PF, SF, Slot, Type, Value};

/// What the flags come from.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// They are in the context.
    Context,
    /// No defined value.
    Undefined,
    /// These, packed.
    Packed(Value),
    /// `add a, b`, result r.
    Add { a: Value, b: Value, r: Value },
    /// `sub a, b` and `cmp a, b`; `cmp` has no result value yet.
    Sub { a: Value, b: Value, r: Option<Value> },
    /// `adc a, b` with carry c.
    Adc { a: Value, b: Value, c: Value, r: Value },
    /// `sbb a, b` with borrow c.
    Sbb { a: Value, b: Value, c: Value, r: Value },
    /// A bitwise operation with this result.
    Logic(Value),
    /// `inc a`; CF as in `carry`.
    Inc { a: Value, r: Value, carry: Box<Kind> },
    /// `dec a`; CF as in `carry`.
    Dec { a: Value, r: Value, carry: Box<Kind> },
    /// A shift of a by n (i8, masked). Without `rest` n is a constant other than 0; else all flags are those if n is 0.
    Shift { op: Opcode, a: Value, n: Value, r: Value, rest: Option<Box<Kind>> },
    /// A rotation by n (i8, masked) with result r: CF and OF; the others as in `rest`.
    Rotate { op: Opcode, r: Value, n: Value, rest: Box<Kind> },
    /// `imul` of a and b with low half r: CF and OF tell whether r is not the product.
    Product { a: Value, b: Value, r: Value },
    /// A multiplication: CF and OF.
    Overflow(Value),
    /// `ucomisd a, b`.
    Float { a: Value, b: Value },
    /// ZF and CF (absent: 0); all others 0.
    Bits { zf: Option<Value>, cf: Option<Value> },
    /// CF; the others as in `rest`.
    Carry { cf: Value, rest: Box<Kind> },
}

/// The current flags.
#[derive(Clone, Debug)]
pub(crate) struct Flags {
    /// What they come from.
    pub kind: Kind,
    /// Their packed form, once it has been computed.
    packed: Option<Value>,
}

impl Flags {
    pub fn new(kind: Kind) -> Flags {
        Flags { kind, packed: None }
    }
}

/// The flags of `0 - 1`, which an anchor's countdown leaves.
pub(crate) const BORROW_FLAGS: u32 = CF | PF | AF | SF;

/// A condition as a truth value, or as the opposite of one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Condition {
    pub value: Value,
    pub inverted: bool,
}

impl Condition {
    const fn is(value: Value) -> Condition {
        Condition { value, inverted: false }
    }
    const fn not(value: Value) -> Condition {
        Condition { value, inverted: true }
    }
}

impl Lifter<'_> {
    /// Notes an instruction that sets the flags.
    pub(crate) fn set_flags(&mut self, kind: Kind) {
        self.untouched = false;
        self.flags = Flags::new(kind);
        self.dirty.add(Slot::FLAGS);
    }

    /// The packed flags, an i32.
    pub(crate) fn packed_flags(&mut self) -> Value {
        if let Some(packed) = self.flags.packed {
            return packed;
        }
        let kind = self.flags.kind.clone();
        let packed = self.pack(&kind);
        self.flags.packed = Some(packed);
        packed
    }

    /// The current flags, to be contained in the next kind.
    pub(crate) fn flags_before(&mut self) -> Box<Kind> {
        if let Some(packed) = self.flags.packed {
            return Box::new(Kind::Packed(packed));
        }
        let nested = matches!(
            self.flags.kind,
            Kind::Inc { .. }
                | Kind::Dec { .. }
                | Kind::Rotate { .. }
                | Kind::Carry { .. }
                | Kind::Shift { rest: Some(_), .. }
        );
        if nested {
            return Box::new(Kind::Packed(self.packed_flags()));
        }
        Box::new(self.flags.kind.clone())
    }

    /// The current carry flag, to be contained in the flags of `inc` or `dec`.
    pub(crate) fn carry_before(&mut self) -> Box<Kind> {
        match &self.flags.kind {
            Kind::Inc { carry, .. } | Kind::Dec { carry, .. } => carry.clone(),
            Kind::Carry { cf, .. } => Box::new(Kind::Bits { zf: None, cf: Some(*cf) }),
            _ => self.flags_before(),
        }
    }

    /// The carry flag, an i1.
    pub(crate) fn carry_flag(&mut self) -> Value {
        self.condition_bit(Cond::B)
    }

    /// A condition as an i1.
    pub(crate) fn condition_bit(&mut self, cond: Cond) -> Value {
        let Condition { value, inverted } = self.condition(cond);
        if inverted { self.invert(value) } else { value }
    }

    /// A condition; those of a pair of opposites give the same value.
    pub(crate) fn condition(&mut self, cond: Cond) -> Condition {
        let odd = cond as u8 & 1 == 1;
        let positive = if odd { cond.negate() } else { cond };
        let kind = self.flags.kind.clone();
        let direct = match self.flags.packed.filter(|&packed| self.as_const(packed).is_some()) {
            Some(packed) => self.direct(&Kind::Packed(packed), positive),
            None => self.direct(&kind, positive),
        };
        let found = direct.unwrap_or_else(|| {
            let packed = self.packed_flags();
            Condition::is(self.emit(Inst::cond(positive, packed)))
        });
        Condition { value: found.value, inverted: found.inverted != odd }
    }

    /// CF of a contained kind, an i1.
    fn carry_of(&mut self, kind: &Kind) -> Value {
        match self.direct(kind, Cond::B) {
            Some(Condition { value, inverted: false }) => value,
            Some(Condition { value, inverted: true }) => self.invert(value),
            None => {
                let packed = self.pack(kind);
                self.emit(Inst::cond(Cond::B, packed))
            }
        }
    }

    fn known(&mut self, truth: bool) -> Option<Condition> {
        Some(Condition::is(self.constant(Type::I1, i64::from(truth))))
    }

    /// A condition of even number formed from the operands of what set the flags, if there is a short way.
    fn direct(&mut self, kind: &Kind, cond: Cond) -> Option<Condition> {
        match *kind {
            Kind::Context => None,
            Kind::Undefined => self.known(false),
            Kind::Packed(value) => {
                let constant = self.as_const(value)?;
                self.known(cond.holds(constant as u32))
            }
            Kind::Sub { a, b, r } => self.direct_sub(a, b, r, cond),
            Kind::Add { a, b, r } => self.direct_add(a, b, r, cond),
            Kind::Adc { r, .. } | Kind::Sbb { r, .. } => self.direct_result(r, cond),
            Kind::Logic(r) => match cond {
                Cond::O | Cond::B => self.known(false),
                Cond::Be => Some(Condition::is(self.compare_const(Opcode::Eq, r, 0))),
                Cond::L => Some(Condition::is(self.sign(r))),
                Cond::Le => Some(Condition::is(self.compare_const(Opcode::Sle, r, 0))),
                _ => self.direct_result(r, cond),
            },
            Kind::Inc { a, r, ref carry } => match cond {
                Cond::B => Some(Condition::is(self.carry_of(carry))),
                Cond::L => Some(Condition::is(self.compare_const(Opcode::Slt, a, -1))),
                Cond::Le => Some(Condition::is(self.sign(a))),
                _ => self.direct_result(r, cond),
            },
            Kind::Dec { a, r, ref carry } => match cond {
                Cond::B => Some(Condition::is(self.carry_of(carry))),
                Cond::L => Some(Condition::is(self.compare_const(Opcode::Sle, a, 0))),
                Cond::Le => Some(Condition::is(self.compare_const(Opcode::Sle, a, 1))),
                _ => self.direct_result(r, cond),
            },
            Kind::Shift { rest: Some(_), .. } => None,
            Kind::Shift { op, a, n, r, rest: None } => match cond {
                Cond::B => self.shifted_out(op, a, n),
                _ => self.direct_result(r, cond),
            },
            Kind::Rotate { op, r, n, ref rest } => match cond {
                Cond::B if self.as_const(n).is_none() => None,
                Cond::B if op == Opcode::Rotl => Some(Condition::is(self.bit(r, 0))),
                Cond::B => Some(Condition::is(self.sign(r))),
                Cond::E | Cond::S | Cond::P => self.direct(rest, cond),
                _ => None,
            },
            Kind::Product { a, b, r } => match cond {
                Cond::O | Cond::B => Some(Condition::is(self.product_overflow(a, b, r))),
                _ => None,
            },
            Kind::Overflow(bit) => match cond {
                Cond::O | Cond::B => Some(Condition::is(bit)),
                _ => None,
            },
            Kind::Float { a, b } => self.direct_float(a, b, cond),
            Kind::Bits { zf, cf } => self.direct_bits(zf, cf, cond),
            Kind::Carry { cf, ref rest } => match cond {
                Cond::B => Some(Condition::is(cf)),
                Cond::Be => None,
                _ => self.direct(rest, cond),
            },
        }
    }

    /// ZF, SF and PF, which most instructions set from their result.
    fn direct_result(&mut self, r: Value, cond: Cond) -> Option<Condition> {
        Some(Condition::is(match cond {
            Cond::E => self.compare_const(Opcode::Eq, r, 0),
            Cond::S => self.sign(r),
            Cond::P => {
                let byte = self.trunc(Type::I8, r);
                self.emit(Inst::unary(Opcode::Parity, Type::I1, byte))
            }
            _ => return None,
        }))
    }

    fn direct_sub(&mut self, a: Value, b: Value, r: Option<Value>, cond: Cond) -> Option<Condition> {
        let op = match cond {
            Cond::B => Opcode::Ult,
            Cond::E => Opcode::Eq,
            Cond::Be => Opcode::Ule,
            Cond::L => Opcode::Slt,
            Cond::Le => Opcode::Sle,
            Cond::S | Cond::P => {
                let r = r.unwrap_or_else(|| self.binary(Opcode::Sub, a, b));
                return self.direct_result(r, cond);
            }
            _ => return None,
        };
        Some(Condition::is(self.compare(op, a, b)))
    }

    fn direct_add(&mut self, a: Value, b: Value, r: Value, cond: Cond) -> Option<Condition> {
        match cond {
            Cond::B => Some(Condition::is(self.compare(Opcode::Ult, r, a))),
            // The sign of the exact sum a + b; -b exists unless b is the least number.
            Cond::L | Cond::Le => {
                let constant = self.as_const(b)?;
                let least = -1i64 << (self.ty(b).bits() - 1);
                if constant == least {
                    return None;
                }
                let op = if cond == Cond::L { Opcode::Slt } else { Opcode::Sle };
                Some(Condition::is(self.compare_const(op, a, -constant)))
            }
            _ => self.direct_result(r, cond),
        }
    }

    /// CF of a shift by a constant count within the width: the last bit shifted out.
    fn shifted_out(&mut self, op: Opcode, a: Value, n: Value) -> Option<Condition> {
        let count = u32::try_from(self.as_const(n)?).ok()?;
        let bits = self.ty(a).bits();
        if count == 0 || count > bits {
            return None;
        }
        let number = if op == Opcode::Shl { bits - count } else { count - 1 };
        Some(Condition::is(self.bit(a, number)))
    }

    /// `ucomisd a, b` sets ZF, PF and CF if unordered, else ZF if equal and CF if less.
    fn direct_float(&mut self, a: Value, b: Value, cond: Cond) -> Option<Condition> {
        match cond {
            Cond::B => Some(Condition::not(self.compare(Opcode::Fle64, b, a))),
            Cond::Be => Some(Condition::not(self.compare(Opcode::Flt64, b, a))),
            Cond::E | Cond::Le => {
                let equal = self.compare(Opcode::Feq64, a, b);
                let unordered = self.compare(Opcode::Funo64, a, b);
                Some(Condition::is(self.binary(Opcode::Or, equal, unordered)))
            }
            Cond::P => Some(Condition::is(self.compare(Opcode::Funo64, a, b))),
            _ => self.known(false),
        }
    }

    fn direct_bits(&mut self, zf: Option<Value>, cf: Option<Value>, cond: Cond) -> Option<Condition> {
        let bit = match (cond, zf, cf) {
            (Cond::Be, Some(zf), Some(cf)) => Some(self.binary(Opcode::Or, zf, cf)),
            (Cond::Be, zf, cf) => zf.or(cf),
            (Cond::B, _, cf) => cf,
            (Cond::E | Cond::Le, zf, _) => zf,
            _ => None,
        };
        match bit {
            Some(bit) => Some(Condition::is(bit)),
            None => self.known(false),
        }
    }

    /// Computes the packed flags.
    fn pack(&mut self, kind: &Kind) -> Value {
        match *kind {
            Kind::Context => self.read_context(Slot::FLAGS),
            Kind::Undefined => self.constant(Type::I32, 0),
            Kind::Packed(value) => value,
            Kind::Add { a, b, .. } => self.emit(Inst::binary(Opcode::FlAdd, Type::I32, a, b)),
            Kind::Sub { a, b, .. } => self.emit(Inst::binary(Opcode::FlSub, Type::I32, a, b)),
            Kind::Adc { a, b, c, .. } => self.emit(Inst::ternary(Opcode::FlAdc, Type::I32, a, b, c)),
            Kind::Sbb { a, b, c, .. } => self.emit(Inst::ternary(Opcode::FlSbb, Type::I32, a, b, c)),
            Kind::Logic(r) => self.emit(Inst::unary(Opcode::FlLogic, Type::I32, r)),
            Kind::Inc { a, ref carry, .. } => {
                let carry = self.carry_of(carry);
                self.emit(Inst::binary(Opcode::FlInc, Type::I32, a, carry))
            }
            Kind::Dec { a, ref carry, .. } => {
                let carry = self.carry_of(carry);
                self.emit(Inst::binary(Opcode::FlDec, Type::I32, a, carry))
            }
            Kind::Shift { op, a, n, ref rest, .. } => {
                let op = match op {
                    Opcode::Shl => Opcode::FlShl,
                    Opcode::Lshr => Opcode::FlShr,
                    _ => Opcode::FlSar,
                };
                let old = match rest {
                    Some(rest) => self.pack(rest),
                    None => self.constant(Type::I32, 0),
                };
                self.emit(Inst::ternary(op, Type::I32, a, n, old))
            }
            Kind::Rotate { op, r, n, ref rest } => {
                let op = if op == Opcode::Rotl { Opcode::FlRol } else { Opcode::FlRor };
                let old = self.pack(rest);
                self.emit(Inst::ternary(op, Type::I32, r, n, old))
            }
            Kind::Product { a, b, r } => {
                let bit = self.product_overflow(a, b, r);
                self.emit(Inst::unary(Opcode::FlMul, Type::I32, bit))
            }
            Kind::Overflow(bit) => self.emit(Inst::unary(Opcode::FlMul, Type::I32, bit)),
            Kind::Float { a, b } => self.emit(Inst::binary(Opcode::FlF64, Type::I32, a, b)),
            Kind::Bits { zf, cf } => self.pack_bits(zf, cf),
            Kind::Carry { cf, ref rest } => {
                let old = self.pack(rest);
                let others = self.binary_const(Opcode::And, old, i64::from(FLAGS_MASK & !CF));
                let cf = self.zext(Type::I32, cf);
                self.binary(Opcode::Or, others, cf)
            }
        }
    }

    /// Whether the signed product of a and b differs from its low half r.
    fn product_overflow(&mut self, a: Value, b: Value, r: Value) -> Value {
        let high = self.binary(Opcode::Smulhi, a, b);
        let sign = self.binary_const(Opcode::Ashr, r, i64::from(self.ty(r).bits()) - 1);
        self.compare(Opcode::Ne, high, sign)
    }

    fn pack_bits(&mut self, zf: Option<Value>, cf: Option<Value>) -> Value {
        let zf = zf.map(|zf| {
            let word = self.zext(Type::I32, zf);
            self.binary_const(Opcode::Shl, word, 6)
        });
        let cf = cf.map(|cf| self.zext(Type::I32, cf));
        match (zf, cf) {
            (Some(zf), Some(cf)) => self.binary(Opcode::Or, zf, cf),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => self.constant(Type::I32, 0),
        }
    }

    /// Packed flags with the bits of `mask` from `new`, the others from `old`.
    pub(crate) fn merge_flags(&mut self, old: Value, new: Value, mask: u32) -> Value {
        let kept = self.binary_const(Opcode::And, old, i64::from(FLAGS_MASK & !mask));
        let changed = self.binary_const(Opcode::And, new, i64::from(mask));
        self.binary(Opcode::Or, kept, changed)
    }
}

/// The overflow flag, which `sahf` leaves alone.
pub(crate) const SAHF_MASK: u32 = FLAGS_MASK & !OF;
