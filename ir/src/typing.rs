//! The type rules of the opcodes with plain operands, in one place for instructions, recipes, parser and printer.
//!
//! Beside the relation that [`Typing`] states, an operation has a set of types that it is defined on:
//! - arithmetic and shifts: the words i8 to i64, and i128;
//! - `and`, `or`, `xor`, `not`: every type, i1 and v128 included;
//! - bit counts, scattered bits, upper halves of products and rotations: words; `bswap`: i16, i32, i64;
//! - `select`: every type.
//!
//! Worked example: `check(Opcode::Zext, Type::I64, &[Type::I32])` is fine; with the types exchanged it is an error
//! that prints as `zext needs an operand that is narrower than its result`.

use crate::{Format, Opcode, Type, Typing};
use std::fmt;

/// A violated type rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeError {
    /// The operation.
    pub op: Opcode,
    /// What its rule asks for.
    pub rule: &'static str,
}

impl fmt::Display for TypeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} needs {}", self.op.name(), self.rule)
    }
}

impl std::error::Error for TypeError {}

/// The relation between operand types and result type, for opcodes whose operands are plain values.
pub const fn typing(op: Opcode) -> Option<Typing> {
    match op.format() {
        Format::Unary(typing) | Format::Binary(typing) | Format::Ternary(typing) => Some(typing),
        Format::Param
        | Format::Const
        | Format::Slot
        | Format::Cond
        | Format::Tick
        | Format::Load
        | Format::Store
        | Format::Guard
        | Format::Native
        | Format::NativeOut => None,
    }
}

/// The result type, where the opcode alone decides it.
pub const fn implied_result(op: Opcode) -> Option<Type> {
    match op.format() {
        Format::Cond => return Some(Type::I1),
        Format::Store | Format::Guard | Format::Native => return Some(Type::Void),
        Format::Tick => return Some(Type::I64),
        _ => {}
    }
    match typing(op) {
        Some(Typing::Compare | Typing::F64Compare | Typing::Parity) => Some(Type::I1),
        Some(Typing::F64 | Typing::F64FromInt | Typing::Half | Typing::Lanes | Typing::F32Widen) => Some(Type::I64),
        Some(Typing::F32 | Typing::F32FromInt | Typing::F32Narrow) => Some(Type::I32),
        Some(Typing::Flags | Typing::FlagsCarry | Typing::FlagsShift | Typing::FlagsFromBit | Typing::FlagsF64) => {
            Some(Type::I32)
        }
        Some(
            Typing::Same
            | Typing::Count
            | Typing::Widen
            | Typing::Narrow
            | Typing::F64ToInt
            | Typing::Select
            | Typing::Join
            | Typing::Swap,
        )
        | None => None,
    }
}

fn is_integer(ty: Type) -> bool {
    ty.is_word() || ty == Type::I128
}

/// The types on which an opcode with [`Typing::Same`] or [`Typing::Count`] is defined, in words and as a predicate.
fn domain(op: Opcode) -> (&'static str, fn(Type) -> bool) {
    let any = matches!(op, Opcode::And | Opcode::Or | Opcode::Xor | Opcode::Not);
    let word = matches!(
        op,
        Opcode::Clz
            | Opcode::Ctz
            | Opcode::Popcnt
            | Opcode::Umulhi
            | Opcode::Smulhi
            | Opcode::Rotl
            | Opcode::Rotr
            | Opcode::Pdep
            | Opcode::Pext
    );
    if any {
        ("a value type", |ty| ty != Type::Void)
    } else if word {
        ("a type from i8 to i64", Type::is_word)
    } else if op == Opcode::Bswap {
        ("type i16, i32 or i64", |ty| matches!(ty, Type::I16 | Type::I32 | Type::I64))
    } else {
        ("a type from i8 to i128", is_integer)
    }
}

/// Checks the types of an operation with plain operands. Operations of other formats have no rule here and pass.
pub fn check(op: Opcode, result: Type, operands: &[Type]) -> Result<(), TypeError> {
    let Some(typing) = typing(op) else { return Ok(()) };
    let fail = |rule| Err(TypeError { op, rule });
    if operands.len() != op.format().arity() {
        return fail("another number of operands");
    }
    if implied_result(op).is_some_and(|ty| ty != result) {
        return fail(match implied_result(op) {
            Some(Type::I1) => "result type i1",
            Some(Type::I32) => "result type i32",
            _ => "result type i64",
        });
    }
    let first = operands[0];
    let last = operands[operands.len() - 1];
    let words_alike = |of: &[Type]| of.iter().all(|ty| *ty == first && ty.is_word());
    let rule = |holds: bool, rule| if holds { Ok(()) } else { fail(rule) };
    match typing {
        Typing::Same => {
            let (types, allowed) = domain(op);
            rule(operands.iter().all(|ty| *ty == result), "operands of its result's type")?;
            rule(allowed(result), types)
        }
        Typing::Count => {
            let (types, allowed) = domain(op);
            rule(first == result, "a first operand of its result's type")?;
            rule(last.is_word(), "a count of a type from i8 to i64")?;
            rule(allowed(result), types)
        }
        Typing::Compare => rule(words_alike(operands), "operands of one type from i8 to i64"),
        Typing::Widen => rule(
            first.bits() > 0 && first.bits() < result.bits() && is_integer(result),
            "an operand that is narrower than its result",
        ),
        Typing::Narrow => rule(
            result.bits() > 0 && first.bits() > result.bits() && is_integer(first),
            "an operand that is wider than its result",
        ),
        Typing::F64 | Typing::F64Compare | Typing::FlagsF64 | Typing::Lanes | Typing::F32Narrow => {
            rule(operands.iter().all(|ty| *ty == Type::I64), "operands of type i64")
        }
        Typing::F32 | Typing::F32Widen => rule(operands.iter().all(|ty| *ty == Type::I32), "operands of type i32"),
        Typing::F64FromInt | Typing::F32FromInt => {
            rule(matches!(first, Type::I32 | Type::I64), "an operand of type i32 or i64")
        }
        Typing::F64ToInt => {
            rule(first == Type::I64, "an operand of type i64")?;
            rule(matches!(result, Type::I32 | Type::I64), "result type i32 or i64")
        }
        Typing::Select => {
            rule(first == Type::I1, "a first operand of type i1")?;
            rule(
                operands[1] == result && operands[2] == result && result != Type::Void,
                "a second and third operand of its result's type",
            )
        }
        Typing::Join => {
            rule(operands.iter().all(|ty| *ty == Type::I64), "operands of type i64")?;
            rule(matches!(result, Type::I128 | Type::V128), "result type i128 or v128")
        }
        Typing::Half => rule(matches!(first, Type::I128 | Type::V128), "an operand of type i128 or v128"),
        Typing::Flags => rule(words_alike(operands), "operands of one type from i8 to i64"),
        Typing::FlagsCarry => {
            rule(words_alike(&operands[..operands.len() - 1]), "operands of one type from i8 to i64 before its carry")?;
            rule(last == Type::I1, "a carry of type i1")
        }
        Typing::FlagsShift => {
            rule(first.is_word(), "a first operand of a type from i8 to i64")?;
            rule(operands[1] == Type::I8, "a count of type i8")?;
            rule(last == Type::I32, "old flags of type i32")
        }
        Typing::FlagsFromBit => rule(first == Type::I1, "an operand of type i1"),
        Typing::Swap => {
            rule(first == Type::I64, "an address of type i64")?;
            rule(
                operands[1] == result && operands[2] == result && result.is_word(),
                "a second and third operand of its result's type, from i8 to i64",
            )
        }
        Typing::Parity => rule(first == Type::I8, "an operand of type i8"),
    }
}
