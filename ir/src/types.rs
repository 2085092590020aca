//! Types of values: widths and nothing else.
//!
//! There is no floating-point type. A value is a bit pattern; an opcode that computes in floating point names its
//! format (`fadd64`), and the backend chooses the register file from the uses.

use std::fmt;

/// The width of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Type {
    /// No value: the instruction is executed for its effect.
    Void,
    /// A truth value, 0 or 1.
    I1,
    /// 8 bits.
    I8,
    /// 16 bits.
    I16,
    /// 32 bits.
    I32,
    /// 64 bits; also addresses and the lanes of vector registers.
    I64,
    /// 128 bits, as an integer.
    I128,
    /// 128 bits, as a vector of lanes.
    V128,
}

impl Type {
    /// Every type that a value can have, narrowest first.
    pub const ALL: [Type; 7] = [Type::I1, Type::I8, Type::I16, Type::I32, Type::I64, Type::I128, Type::V128];

    /// The name in the text syntax.
    pub const fn name(self) -> &'static str {
        match self {
            Type::Void => "void",
            Type::I1 => "i1",
            Type::I8 => "i8",
            Type::I16 => "i16",
            Type::I32 => "i32",
            Type::I64 => "i64",
            Type::I128 => "i128",
            Type::V128 => "v128",
        }
    }

    /// The type called `name` in the text syntax.
    pub fn from_name(name: &str) -> Option<Type> {
        Type::ALL.into_iter().find(|ty| ty.name() == name)
    }

    /// The width in bits; 0 for [`Type::Void`].
    #[inline]
    pub const fn bits(self) -> u32 {
        match self {
            Type::Void => 0,
            Type::I1 => 1,
            Type::I8 => 8,
            Type::I16 => 16,
            Type::I32 => 32,
            Type::I64 => 64,
            Type::I128 | Type::V128 => 128,
        }
    }

    /// The number of bytes that a memory access of this type touches (an `i1` is never in memory: 0).
    #[inline]
    pub const fn bytes(self) -> u32 {
        self.bits() / 8
    }

    /// The integer type of `bits` bits.
    pub const fn int(bits: u32) -> Option<Type> {
        match bits {
            1 => Some(Type::I1),
            8 => Some(Type::I8),
            16 => Some(Type::I16),
            32 => Some(Type::I32),
            64 => Some(Type::I64),
            128 => Some(Type::I128),
            _ => None,
        }
    }

    /// Whether this is one of the types i8 to i64, on which arithmetic is defined.
    #[inline]
    pub const fn is_word(self) -> bool {
        matches!(self, Type::I8 | Type::I16 | Type::I32 | Type::I64)
    }

    /// The bits that a value of this type may have set.
    #[inline]
    pub const fn mask(self) -> u128 {
        // In the order of the types.
        const MASKS: [u128; 8] = [0, 1, 0xff, 0xffff, 0xffff_ffff, u64::MAX as u128, u128::MAX, u128::MAX];
        MASKS[self as usize]
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
