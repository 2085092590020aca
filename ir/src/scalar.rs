//! Exact evaluation of the pure operations on bit patterns: the meaning that everything else is compared with.
//!
//! Values travel as u128, zero-extended from their type. Floating-point operations round to nearest, ties to even
//! (MXCSR's default), and treat NaN as SSE does: the first operand's NaN wins, then the second's, made quiet; an invalid
//! operation gives the default NaN.
//!
//! Worked example: `eval_pure(Opcode::FlSub, Type::I32, Type::I8, [1, 2, 0], None)` is the packed flags of `cmp 1, 2`
//! on bytes: the result 0xff sets CF, PF, AF and SF, so `Some(0x95)`.

use crate::lanes;
use crate::{AF, CF, Cond, OF, Opcode, PF, SF, Type, ZF};

/// The NaN that an invalid operation gives.
pub const DEFAULT_NAN: u64 = 0xfff8_0000_0000_0000;

const QUIET: u64 = 1 << 51;
/// The same of a `binary32` number.
const DEFAULT_NAN_32: u32 = 0xffc0_0000;
const QUIET_32: u32 = 1 << 22;
/// Fraction bits of `binary64` that `binary32` does not have.
const EXTRA_BITS: u32 = 29;

/// Evaluates a pure operation.
///
/// `ty` is the type of the result, `operand_type` that of the first operand (of the second one for `select`), `args` the
/// operands, zero-extended, and `cond` the condition of a `cond`. `None` if the operation is undefined for these
/// operands (division), or is not one with plain operands.
pub fn eval_pure(op: Opcode, ty: Type, operand_type: Type, args: [u128; 3], cond: Option<Cond>) -> Option<u128> {
    let [a, b, c] = args;
    let bits = operand_type.bits();
    let count = |width: u32| (b % u128::from(width.max(1))) as u32;
    let truth = |value: bool| u128::from(value);
    let result = match op {
        Opcode::Param
        | Opcode::Const
        | Opcode::Slot
        | Opcode::Load
        | Opcode::Store
        | Opcode::CompareSwap
        | Opcode::Guard
        | Opcode::GuardNot
        | Opcode::Tick
        | Opcode::Native
        | Opcode::NativeOut => return None,
        Opcode::Neg => a.wrapping_neg(),
        Opcode::Not => !a,
        Opcode::Bswap => a.swap_bytes() >> (128 - bits.clamp(8, 128)),
        Opcode::Clz => u128::from((a << (128 - bits.clamp(1, 128))).leading_zeros().min(bits)),
        Opcode::Ctz => u128::from(a.trailing_zeros().min(bits)),
        Opcode::Popcnt => u128::from(a.count_ones()),
        Opcode::Zext | Opcode::Trunc => a,
        Opcode::Sext => signed(a, bits) as u128,
        Opcode::Low => a & u128::from(u64::MAX),
        Opcode::High => a >> 64,
        Opcode::Parity => truth((a as u8).count_ones().is_multiple_of(2)),
        Opcode::Add => a.wrapping_add(b),
        Opcode::Sub => a.wrapping_sub(b),
        Opcode::Mul => a.wrapping_mul(b),
        Opcode::Umulhi => a.wrapping_mul(b) >> bits.min(127),
        Opcode::Smulhi => (signed(a, bits).wrapping_mul(signed(b, bits)) >> bits.min(127)) as u128,
        Opcode::Udiv => a.checked_div(b)?,
        Opcode::Urem => a.checked_rem(b)?,
        Opcode::Sdiv => signed_division(a, b, bits, i128::checked_div)?,
        Opcode::Srem => signed_division(a, b, bits, i128::checked_rem)?,
        Opcode::And => a & b,
        Opcode::Or => a | b,
        Opcode::Xor => a ^ b,
        Opcode::Shl => a << count(bits),
        Opcode::Lshr => a >> count(bits),
        Opcode::Ashr => (signed(a, bits) >> count(bits)) as u128,
        Opcode::Rotl => rotate_left(a, count(bits), bits),
        Opcode::Rotr => rotate_left(a, (bits.max(1) - count(bits)) % bits.max(1), bits),
        Opcode::Pdep => ones(b).enumerate().fold(0, |result, (from, to)| result | (a >> from & 1) << to),
        Opcode::Pext => ones(b).enumerate().fold(0, |result, (to, from)| result | (a >> from & 1) << to),
        Opcode::Join => (a & u128::from(u64::MAX)) | b << 64,
        Opcode::Eq => truth(a == b),
        Opcode::Ne => truth(a != b),
        Opcode::Ult => truth(a < b),
        Opcode::Ule => truth(a <= b),
        Opcode::Slt => truth(signed(a, bits) < signed(b, bits)),
        Opcode::Sle => truth(signed(a, bits) <= signed(b, bits)),
        Opcode::Select => {
            if a & 1 == 1 {
                b
            } else {
                c
            }
        }
        Opcode::Fadd64 => arithmetic(a, b, |a, b| a + b),
        Opcode::Fsub64 => arithmetic(a, b, |a, b| a - b),
        Opcode::Fmul64 => arithmetic(a, b, |a, b| a * b),
        Opcode::Fdiv64 => arithmetic(a, b, |a, b| a / b),
        Opcode::Fmin64 => {
            if float(a) < float(b) {
                a
            } else {
                b
            }
        }
        Opcode::Fmax64 => {
            if float(a) > float(b) {
                a
            } else {
                b
            }
        }
        // With one operand both places hold it; a negative number other than -0 is invalid.
        Opcode::Fsqrt64 => arithmetic(a, a, |a, _| a.sqrt()),
        Opcode::Feq64 => truth(float(a) == float(b)),
        Opcode::Flt64 => truth(float(a) < float(b)),
        Opcode::Fle64 => truth(float(a) <= float(b)),
        Opcode::Funo64 => truth(float(a).is_nan() || float(b).is_nan()),
        Opcode::F64FromInt => u128::from((signed(a, bits) as f64).to_bits()),
        Opcode::F64ToInt => to_int(float(a), ty),
        Opcode::Ffloor64 => arithmetic(a, a, |a, _| a.floor()),
        Opcode::Fceil64 => arithmetic(a, a, |a, _| a.ceil()),
        Opcode::Ftrunc64 => arithmetic(a, a, |a, _| a.trunc()),
        Opcode::Fnearest64 => arithmetic(a, a, |a, _| a.round_ties_even()),
        Opcode::Fadd32 => single_arithmetic(a, b, |a, b| a + b),
        Opcode::Fsub32 => single_arithmetic(a, b, |a, b| a - b),
        Opcode::Fmul32 => single_arithmetic(a, b, |a, b| a * b),
        Opcode::Fdiv32 => single_arithmetic(a, b, |a, b| a / b),
        Opcode::Fsqrt32 => single_arithmetic(a, a, |a, _| a.sqrt()),
        Opcode::F32FromInt => u128::from((signed(a, bits) as f32).to_bits()),
        Opcode::F64FromF32 => widen(a as u32),
        Opcode::F32FromF64 => narrow(a as u64),
        Opcode::Fma64 => fused(args, |a, b, c| a.mul_add(b, c)),
        Opcode::Fms64 => fused(args, |a, b, c| a.mul_add(b, -c)),
        Opcode::Fnma64 => fused(args, |a, b, c| (-a).mul_add(b, c)),
        Opcode::Fnms64 => fused(args, |a, b, c| (-a).mul_add(b, -c)),
        Opcode::Fma32 => single_fused(args, |a, b, c| a.mul_add(b, c)),
        Opcode::Fms32 => single_fused(args, |a, b, c| a.mul_add(b, -c)),
        Opcode::Fnma32 => single_fused(args, |a, b, c| (-a).mul_add(b, c)),
        Opcode::Fnms32 => single_fused(args, |a, b, c| (-a).mul_add(b, -c)),
        Opcode::Add8
        | Opcode::Add16
        | Opcode::Add32
        | Opcode::Sub8
        | Opcode::Sub16
        | Opcode::Sub32
        | Opcode::Usubs8
        | Opcode::Usubs16
        | Opcode::Mul16
        | Opcode::Eq8
        | Opcode::Eq16
        | Opcode::Eq32
        | Opcode::Sgt8
        | Opcode::Sgt16
        | Opcode::Sgt32
        | Opcode::Zip8
        | Opcode::ZipHigh8
        | Opcode::Zip16
        | Opcode::ZipHigh16
        | Opcode::PackS16
        | Opcode::PackU16
        | Opcode::PackS32
        | Opcode::Shuffle8
        | Opcode::Signs8 => u128::from(lanes::eval(op, a as u64, b as u64, c as u64)?),
        Opcode::FlAdd => u128::from(flags_add(a, b, false, bits)),
        Opcode::FlSub => u128::from(flags_sub(a, b, false, bits)),
        Opcode::FlAdc => u128::from(flags_add(a, b, c & 1 == 1, bits)),
        Opcode::FlSbb => u128::from(flags_sub(a, b, c & 1 == 1, bits)),
        Opcode::FlLogic => u128::from(flags_of_result(a, bits)),
        Opcode::FlInc => u128::from(flags_add(a, 1, false, bits) & !CF | flag(CF, b & 1 == 1)),
        Opcode::FlDec => u128::from(flags_sub(a, 1, false, bits) & !CF | flag(CF, b & 1 == 1)),
        Opcode::FlShl => u128::from(flags_shl(a, b as u32, c as u32, bits)),
        Opcode::FlShr => u128::from(flags_shr(a, b as u32, c as u32, bits)),
        Opcode::FlSar => u128::from(flags_sar(a, b as u32, c as u32, bits)),
        Opcode::FlRol => {
            let carry = a & 1 == 1;
            u128::from(flags_rotate(b as u32, c as u32, carry, carry != top_bit(a, bits)))
        }
        Opcode::FlRor => {
            let carry = top_bit(a, bits);
            u128::from(flags_rotate(b as u32, c as u32, carry, carry != top_bit(a << 1, bits)))
        }
        Opcode::FlMul => u128::from(flag(CF | OF, a & 1 == 1)),
        Opcode::FlF64 => u128::from(flags_f64(float(a), float(b))),
        Opcode::Cond => truth(cond?.holds(a as u32)),
    };
    Some(result & ty.mask())
}

/// Sign extension from `bits` bits.
pub fn signed(value: u128, bits: u32) -> i128 {
    let shift = 128 - bits.clamp(1, 128);
    (value << shift) as i128 >> shift
}

fn top_bit(value: u128, bits: u32) -> bool {
    value >> (bits.max(1) - 1) & 1 == 1
}

fn signed_division(a: u128, b: u128, bits: u32, operation: fn(i128, i128) -> Option<i128>) -> Option<u128> {
    let (a, b) = (signed(a, bits), signed(b, bits));
    let least = i128::MIN >> (128 - bits.clamp(1, 128));
    // 128-bit arithmetic does not overflow for narrower types, but the machine's does.
    if a == least && b == -1 { None } else { operation(a, b).map(|result| result as u128) }
}

/// The places of a value's ones, the lowest first.
fn ones(value: u128) -> impl Iterator<Item = u32> {
    (0..128).filter(move |at| value >> at & 1 == 1)
}

fn rotate_left(value: u128, count: u32, bits: u32) -> u128 {
    if count == 0 { value } else { value << count | value >> (bits - count) }
}

fn float(value: u128) -> f64 {
    f64::from_bits(value as u64)
}

/// An arithmetic operation with the NaN rules of SSE; Rust promises nothing about which NaN an operation gives.
fn arithmetic(a: u128, b: u128, operation: fn(f64, f64) -> f64) -> u128 {
    let bits = if float(a).is_nan() {
        a as u64 | QUIET
    } else if float(b).is_nan() {
        b as u64 | QUIET
    } else {
        let result = operation(float(a), float(b));
        if result.is_nan() { DEFAULT_NAN } else { result.to_bits() }
    };
    u128::from(bits)
}

/// The same of `binary32` numbers.
fn single_arithmetic(a: u128, b: u128, operation: fn(f32, f32) -> f32) -> u128 {
    let (a, b) = (a as u32, b as u32);
    let (x, y) = (f32::from_bits(a), f32::from_bits(b));
    let bits = if x.is_nan() {
        a | QUIET_32
    } else if y.is_nan() {
        b | QUIET_32
    } else {
        let result = operation(x, y);
        if result.is_nan() { DEFAULT_NAN_32 } else { result.to_bits() }
    };
    u128::from(bits)
}

/// An operation on three numbers. The first NaN survives, even where the product of the other two is invalid.
fn fused(args: [u128; 3], operation: fn(f64, f64, f64) -> f64) -> u128 {
    let [a, b, c] = args.map(float);
    let Some(nan) = args.into_iter().find(|bits| float(*bits).is_nan()) else {
        let result = operation(a, b, c);
        return u128::from(if result.is_nan() { DEFAULT_NAN } else { result.to_bits() });
    };
    u128::from(nan as u64 | QUIET)
}

/// The same of `binary32` numbers.
fn single_fused(args: [u128; 3], operation: fn(f32, f32, f32) -> f32) -> u128 {
    let [a, b, c] = args.map(|bits| f32::from_bits(bits as u32));
    let Some(nan) = args.into_iter().find(|bits| f32::from_bits(*bits as u32).is_nan()) else {
        let result = operation(a, b, c);
        return u128::from(if result.is_nan() { DEFAULT_NAN_32 } else { result.to_bits() });
    };
    u128::from(nan as u32 | QUIET_32)
}

/// A `binary32` number as a `binary64` one; a NaN keeps sign and payload.
fn widen(bits: u32) -> u128 {
    let number = f32::from_bits(bits);
    let sign = u64::from(bits >> 31) << 63;
    let payload = u64::from(bits << 9 >> 9) << EXTRA_BITS;
    let nan = sign | f64::INFINITY.to_bits() | payload | QUIET;
    u128::from(if number.is_nan() { nan } else { f64::from(number).to_bits() })
}

/// A `binary64` number as a `binary32` one; a NaN keeps sign and the upper part of its payload.
fn narrow(bits: u64) -> u128 {
    let number = f64::from_bits(bits);
    let sign = ((bits >> 63) as u32) << 31;
    let payload = (bits << 12 >> 12 >> EXTRA_BITS) as u32;
    let nan = sign | f32::INFINITY.to_bits() | payload | QUIET_32;
    u128::from(if number.is_nan() { nan } else { (number as f32).to_bits() })
}

/// Rounds towards 0; out of range and NaN give the least integer.
fn to_int(value: f64, ty: Type) -> u128 {
    let limit = if ty == Type::I32 { 2f64.powi(31) } else { 2f64.powi(63) };
    let rounded = value.trunc();
    if rounded >= -limit && rounded < limit { i128::from(rounded as i64) as u128 } else { 1 << (ty.bits().max(1) - 1) }
}

fn flag(mask: u32, set: bool) -> u32 {
    if set { mask } else { 0 }
}

/// ZF, SF and PF of a result.
fn flags_of_result(result: u128, bits: u32) -> u32 {
    flag(ZF, result == 0) | flag(SF, top_bit(result, bits)) | flag(PF, (result as u8).count_ones().is_multiple_of(2))
}

fn width_mask(bits: u32) -> u128 {
    if bits >= 128 { u128::MAX } else { (1 << bits) - 1 }
}

fn flags_add(a: u128, b: u128, carry: bool, bits: u32) -> u32 {
    let sum = a.wrapping_add(b).wrapping_add(u128::from(carry));
    let result = sum & width_mask(bits);
    flags_of_result(result, bits)
        | flag(CF, sum != result)
        | flag(AF, (a ^ b ^ result) & 0x10 != 0)
        | flag(OF, top_bit((a ^ result) & (b ^ result), bits))
}

fn flags_sub(a: u128, b: u128, borrow: bool, bits: u32) -> u32 {
    let result = a.wrapping_sub(b).wrapping_sub(u128::from(borrow)) & width_mask(bits);
    flags_of_result(result, bits)
        | flag(CF, a < b.saturating_add(u128::from(borrow)))
        | flag(AF, (a ^ b ^ result) & 0x10 != 0)
        | flag(OF, top_bit((a ^ b) & (a ^ result), bits))
}

/// Bit `at` of a value; bits beyond any type are 0.
fn bit(value: u128, at: u32) -> bool {
    at < 128 && value >> at & 1 == 1
}

fn flags_shl(a: u128, count: u32, old: u32, bits: u32) -> u32 {
    if count == 0 {
        return old;
    }
    let result = if count >= bits { 0 } else { a << count & width_mask(bits) };
    let carry = count <= bits && bit(a, bits - count);
    flags_of_result(result, bits) | flag(CF, carry) | flag(OF, carry != top_bit(result, bits))
}

fn flags_shr(a: u128, count: u32, old: u32, bits: u32) -> u32 {
    if count == 0 {
        return old;
    }
    let result = if count >= bits { 0 } else { a >> count };
    flags_of_result(result, bits) | flag(CF, count <= bits && bit(a, count - 1)) | flag(OF, top_bit(a, bits))
}

fn flags_sar(a: u128, count: u32, old: u32, bits: u32) -> u32 {
    if count == 0 {
        return old;
    }
    let wide = signed(a, bits);
    let result = (wide >> count.min(bits - 1)) as u128 & width_mask(bits);
    let carry = if count <= bits { bit(a, count - 1) } else { wide < 0 };
    flags_of_result(result, bits) | flag(CF, carry)
}

fn flags_rotate(count: u32, old: u32, carry: bool, overflow: bool) -> u32 {
    if count == 0 { old } else { old & !(CF | OF) | flag(CF, carry) | flag(OF, overflow) }
}

fn flags_f64(a: f64, b: f64) -> u32 {
    match a.partial_cmp(&b) {
        None => ZF | PF | CF,
        Some(std::cmp::Ordering::Less) => CF,
        Some(std::cmp::Ordering::Equal) => ZF,
        Some(std::cmp::Ordering::Greater) => 0,
    }
}
