//! The pure operations against independent formulations: exhaustively at 8 bits, on boundaries elsewhere.

use redmagic_ir::scalar::{DEFAULT_NAN, eval_pure, signed};
use redmagic_ir::{AF, CF, Cond, OF, Opcode, PF, SF, Type, ZF};

fn run(op: Opcode, ty: Type, operand: Type, args: [u128; 3]) -> Option<u128> {
    eval_pure(op, ty, operand, args, None)
}

fn byte(op: Opcode, a: u8, b: u8) -> Option<u8> {
    run(op, Type::I8, Type::I8, [a.into(), b.into(), 0]).map(|result| u8::try_from(result).expect("masked"))
}

fn truth(op: Opcode, a: u8, b: u8) -> bool {
    run(op, Type::I1, Type::I8, [a.into(), b.into(), 0]) == Some(1)
}

fn flags(op: Opcode, ty: Type, args: [u128; 3]) -> u32 {
    run(op, Type::I32, ty, args).expect("flags are total") as u32
}

fn pairs() -> impl Iterator<Item = (u8, u8)> {
    (0..=255).flat_map(|a| (0..=255).map(move |b| (a, b)))
}

#[test]
fn byte_arithmetic_is_that_of_rust() {
    for (a, b) in pairs() {
        let (x, y) = (a as i8, b as i8);
        assert_eq!(byte(Opcode::Add, a, b), Some(a.wrapping_add(b)));
        assert_eq!(byte(Opcode::Sub, a, b), Some(a.wrapping_sub(b)));
        assert_eq!(byte(Opcode::Mul, a, b), Some(a.wrapping_mul(b)));
        assert_eq!(byte(Opcode::Umulhi, a, b), Some(((u16::from(a) * u16::from(b)) >> 8) as u8));
        assert_eq!(byte(Opcode::Smulhi, a, b), Some(((i16::from(x) * i16::from(y)) >> 8) as u8));
        assert_eq!(byte(Opcode::Udiv, a, b), a.checked_div(b));
        assert_eq!(byte(Opcode::Urem, a, b), a.checked_rem(b));
        assert_eq!(byte(Opcode::Sdiv, a, b), x.checked_div(y).map(|result| result as u8));
        assert_eq!(byte(Opcode::Srem, a, b), x.checked_rem(y).map(|result| result as u8));
        assert_eq!(byte(Opcode::And, a, b), Some(a & b));
        assert_eq!(byte(Opcode::Or, a, b), Some(a | b));
        assert_eq!(byte(Opcode::Xor, a, b), Some(a ^ b));
        assert_eq!(byte(Opcode::Shl, a, b), Some(a << (b & 7)));
        assert_eq!(byte(Opcode::Lshr, a, b), Some(a >> (b & 7)));
        assert_eq!(byte(Opcode::Ashr, a, b), Some((x >> (b & 7)) as u8));
        assert_eq!(byte(Opcode::Rotl, a, b), Some(a.rotate_left(u32::from(b))));
        assert_eq!(byte(Opcode::Rotr, a, b), Some(a.rotate_right(u32::from(b))));
        assert_eq!(truth(Opcode::Eq, a, b), a == b);
        assert_eq!(truth(Opcode::Ne, a, b), a != b);
        assert_eq!(truth(Opcode::Ult, a, b), a < b);
        assert_eq!(truth(Opcode::Ule, a, b), a <= b);
        assert_eq!(truth(Opcode::Slt, a, b), x < y);
        assert_eq!(truth(Opcode::Sle, a, b), x <= y);
    }
}

#[test]
fn unary_operations() {
    for a in 0..=255u8 {
        assert_eq!(byte(Opcode::Neg, a, 0), Some(a.wrapping_neg()));
        assert_eq!(byte(Opcode::Not, a, 0), Some(!a));
        assert_eq!(byte(Opcode::Clz, a, 0), Some(a.leading_zeros() as u8));
        assert_eq!(byte(Opcode::Ctz, a, 0), Some(a.trailing_zeros() as u8));
        assert_eq!(byte(Opcode::Popcnt, a, 0), Some(a.count_ones() as u8));
        assert_eq!(truth(Opcode::Parity, a, 0), a.count_ones() % 2 == 0);
        assert_eq!(run(Opcode::Sext, Type::I32, Type::I8, [a.into(), 0, 0]), Some(u128::from(a as i8 as i32 as u32)));
        assert_eq!(run(Opcode::Zext, Type::I128, Type::I8, [a.into(), 0, 0]), Some(a.into()));
    }
    assert_eq!(run(Opcode::Bswap, Type::I16, Type::I16, [0x1234, 0, 0]), Some(0x3412));
    assert_eq!(run(Opcode::Bswap, Type::I64, Type::I64, [0x12, 0, 0]), Some(0x12 << 56));
    assert_eq!(run(Opcode::Sext, Type::I128, Type::I1, [1, 0, 0]), Some(u128::MAX));
    assert_eq!(run(Opcode::Trunc, Type::I1, Type::I128, [3, 0, 0]), Some(1));
    assert_eq!(run(Opcode::Clz, Type::I64, Type::I64, [0, 0, 0]), Some(64));
    let wide = run(Opcode::Join, Type::V128, Type::I64, [5, 7, 0]).unwrap();
    assert_eq!(wide, 7 << 64 | 5);
    assert_eq!(run(Opcode::Low, Type::I64, Type::V128, [wide, 0, 0]), Some(5));
    assert_eq!(run(Opcode::High, Type::I64, Type::V128, [wide, 0, 0]), Some(7));
}

#[test]
fn wide_arithmetic() {
    let most = u128::from(u64::MAX);
    assert_eq!(run(Opcode::Umulhi, Type::I64, Type::I64, [most, most, 0]), Some(most - 1));
    assert_eq!(run(Opcode::Smulhi, Type::I64, Type::I64, [most, most, 0]), Some(0));
    let least = 1 << 63;
    assert_eq!(run(Opcode::Smulhi, Type::I64, Type::I64, [least, least, 0]), Some(1 << 62));
    assert_eq!(run(Opcode::Sdiv, Type::I64, Type::I64, [least, most, 0]), None);
    assert_eq!(run(Opcode::Sdiv, Type::I128, Type::I128, [1 << 127, u128::MAX, 0]), None);
    assert_eq!(run(Opcode::Sdiv, Type::I128, Type::I128, [u128::MAX, 1, 0]), Some(u128::MAX));
    assert_eq!(run(Opcode::Ashr, Type::I128, Type::I128, [1 << 127, 127, 0]), Some(u128::MAX));
    assert_eq!(run(Opcode::Shl, Type::I64, Type::I64, [1, 65, 0]), Some(2));
}

/// The conditions of a comparison mean what their names say, and the single flags are the machine's.
#[test]
fn flags_of_subtraction() {
    for (a, b) in pairs() {
        let packed = flags(Opcode::FlSub, Type::I8, [a.into(), b.into(), 0]);
        let (x, y) = (a as i8, b as i8);
        assert_eq!(Cond::B.holds(packed), a < b);
        assert_eq!(Cond::Be.holds(packed), a <= b);
        assert_eq!(Cond::L.holds(packed), x < y);
        assert_eq!(Cond::Le.holds(packed), x <= y);
        assert_eq!(Cond::E.holds(packed), a == b);
        assert_eq!(Cond::S.holds(packed), (a.wrapping_sub(b) as i8) < 0);
        assert_eq!(Cond::O.holds(packed), x.checked_sub(y).is_none());
        assert_eq!(packed & AF != 0, a & 15 < b & 15);
        assert_eq!(packed & PF != 0, a.wrapping_sub(b).count_ones() % 2 == 0);
        for borrow in [0, 1] {
            let packed = flags(Opcode::FlSbb, Type::I8, [a.into(), b.into(), borrow]);
            let exact = i32::from(x) - i32::from(y) - borrow as i32;
            assert_eq!(packed & OF != 0, i8::try_from(exact).is_err());
            assert_eq!(packed & CF != 0, u32::from(a) < u32::from(b) + borrow as u32);
            assert_eq!(packed & ZF != 0, exact as u8 == 0);
            assert_eq!(packed & AF != 0, u32::from(a & 15) < u32::from(b & 15) + borrow as u32);
        }
    }
}

#[test]
fn flags_of_addition() {
    for (a, b) in pairs() {
        for carry in [0u8, 1] {
            let packed = flags(Opcode::FlAdc, Type::I8, [a.into(), b.into(), carry.into()]);
            let exact = i32::from(a as i8) + i32::from(b as i8) + i32::from(carry);
            let unsigned = u32::from(a) + u32::from(b) + u32::from(carry);
            assert_eq!(packed & OF != 0, i8::try_from(exact).is_err());
            assert_eq!(packed & CF != 0, unsigned > 255);
            assert_eq!(packed & ZF != 0, unsigned as u8 == 0);
            assert_eq!(packed & SF != 0, unsigned & 0x80 != 0);
            assert_eq!(packed & AF != 0, (a & 15) + (b & 15) + carry > 15);
            if carry == 0 {
                assert_eq!(packed, flags(Opcode::FlAdd, Type::I8, [a.into(), b.into(), 0]));
            }
        }
    }
    let most = u128::from(u64::MAX);
    assert_eq!(flags(Opcode::FlAdd, Type::I64, [most, 1, 0]), CF | ZF | AF | PF);
}

#[test]
fn flags_that_keep_the_carry() {
    for a in 0..=255u8 {
        for carry in [0, 1] {
            let added = flags(Opcode::FlAdd, Type::I8, [a.into(), 1, 0]) & !CF;
            let subtracted = flags(Opcode::FlSub, Type::I8, [a.into(), 1, 0]) & !CF;
            assert_eq!(flags(Opcode::FlInc, Type::I8, [a.into(), carry, 0]), added | carry as u32);
            assert_eq!(flags(Opcode::FlDec, Type::I8, [a.into(), carry, 0]), subtracted | carry as u32);
        }
        let logic = flags(Opcode::FlLogic, Type::I8, [a.into(), 0, 0]);
        assert_eq!(logic & (CF | OF | AF), 0);
        assert_eq!((logic & ZF != 0, logic & SF != 0), (a == 0, a >= 0x80));
    }
    assert_eq!(flags(Opcode::FlMul, Type::I1, [1, 0, 0]), CF | OF);
    assert_eq!(flags(Opcode::FlMul, Type::I1, [0, 0, 0]), 0);
}

/// Shifts one bit at a time; the last bit that falls out is the carry.
#[test]
fn flags_of_shifts() {
    for a in 0..=255u8 {
        for count in 0..=31u8 {
            let args = [a.into(), count.into(), u128::from(CF | AF)];
            if count == 0 {
                for op in [Opcode::FlShl, Opcode::FlShr, Opcode::FlSar, Opcode::FlRol, Opcode::FlRor] {
                    assert_eq!(flags(op, Type::I8, args), CF | AF);
                }
                continue;
            }
            let (mut left, mut right, mut arithmetic) = (a, a, a as i8);
            let (mut out_left, mut out_right, mut out_arithmetic) = (false, false, false);
            for _ in 0..count {
                (out_left, left) = (left & 0x80 != 0, left << 1);
                (out_right, right) = (right & 1 != 0, right >> 1);
                (out_arithmetic, arithmetic) = (arithmetic & 1 != 0, arithmetic >> 1);
            }
            let logic = |result: u8| flags(Opcode::FlLogic, Type::I8, [result.into(), 0, 0]);
            let bit = |mask: u32, set: bool| if set { mask } else { 0 };
            let overflow = bit(OF, out_left != (left >= 0x80));
            assert_eq!(flags(Opcode::FlShl, Type::I8, args), logic(left) | bit(CF, out_left) | overflow);
            assert_eq!(
                flags(Opcode::FlShr, Type::I8, args),
                logic(right) | bit(CF, out_right) | bit(OF, a >= 0x80),
                "{a} {count}"
            );
            assert_eq!(flags(Opcode::FlSar, Type::I8, args), logic(arithmetic as u8) | bit(CF, out_arithmetic));
            let low = a & 1 != 0;
            let (top, next) = (a & 0x80 != 0, a & 0x40 != 0);
            assert_eq!(flags(Opcode::FlRol, Type::I8, args), AF | bit(CF, low) | bit(OF, low != top));
            assert_eq!(flags(Opcode::FlRor, Type::I8, args), AF | bit(CF, top) | bit(OF, top != next));
        }
    }
    // A full-width shift of a wide type, whose count stays within the type of the carry computation.
    assert_eq!(flags(Opcode::FlShr, Type::I64, [1 << 63, 63, 0]) & (CF | ZF | OF), OF);
}

const ONE: u128 = 0x3ff0_0000_0000_0000;
const INFINITY: u128 = 0x7ff0_0000_0000_0000;
const QUIET: u128 = 0x7ff8_0000_0000_1234;
const SIGNALLING: u128 = 0xfff0_0000_0000_0001;

#[test]
fn not_a_number_follows_the_first_operand() {
    let quieted = SIGNALLING | 1 << 51;
    for op in [Opcode::Fadd64, Opcode::Fsub64, Opcode::Fmul64, Opcode::Fdiv64] {
        let float = |a, b| run(op, Type::I64, Type::I64, [a, b, 0]);
        assert_eq!(float(QUIET, ONE), Some(QUIET));
        assert_eq!(float(ONE, QUIET), Some(QUIET));
        assert_eq!(float(QUIET, SIGNALLING), Some(QUIET));
        assert_eq!(float(SIGNALLING, QUIET), Some(quieted));
        assert_eq!(float(ONE, SIGNALLING), Some(quieted));
    }
    let minus = |a: u128| a | 1 << 63;
    let default = Some(u128::from(DEFAULT_NAN));
    let float = |op, a, b| run(op, Type::I64, Type::I64, [a, b, 0]);
    assert_eq!(float(Opcode::Fsub64, INFINITY, INFINITY), default);
    assert_eq!(float(Opcode::Fadd64, INFINITY, minus(INFINITY)), default);
    assert_eq!(float(Opcode::Fmul64, 0, INFINITY), default);
    assert_eq!(float(Opcode::Fdiv64, 0, minus(0)), default);
    assert_eq!(float(Opcode::Fsqrt64, minus(ONE), 0), default);
    assert_eq!(float(Opcode::Fsqrt64, minus(0), 0), Some(minus(0)));
    assert_eq!(float(Opcode::Fsqrt64, SIGNALLING, 0), Some(quieted));
    assert_eq!(float(Opcode::Fdiv64, ONE, minus(0)), Some(minus(INFINITY)));
    // The second operand wins, unchanged, when the comparison does not hold.
    assert_eq!(float(Opcode::Fmin64, ONE, SIGNALLING), Some(SIGNALLING));
    assert_eq!(float(Opcode::Fmin64, QUIET, ONE), Some(ONE));
    assert_eq!(float(Opcode::Fmax64, 0, minus(0)), Some(minus(0)));
    assert_eq!(float(Opcode::Fmin64, 0, minus(0)), Some(minus(0)));
    assert_eq!(float(Opcode::Fmin64, minus(0), 0), Some(0));
}

#[test]
fn floating_point_comparisons() {
    let compare = |op, a, b| run(op, Type::I1, Type::I64, [a, b, 0]) == Some(1);
    for (a, b, packed) in [(ONE, 0, 0), (0, ONE, CF), (0, 1 << 63, ZF), (QUIET, ONE, ZF | PF | CF)] {
        assert_eq!(flags(Opcode::FlF64, Type::I64, [a, b, 0]), packed);
        let unordered = packed & PF != 0;
        assert_eq!(compare(Opcode::Funo64, a, b), unordered);
        assert_eq!(compare(Opcode::Feq64, a, b), !unordered && packed & ZF != 0);
        assert_eq!(compare(Opcode::Flt64, a, b), !unordered && packed & CF != 0);
        assert_eq!(compare(Opcode::Fle64, a, b), !unordered && packed & (CF | ZF) != 0);
    }
}

#[test]
fn conversions() {
    let to_int = |ty, value: f64| run(Opcode::F64ToInt, ty, Type::I64, [u128::from(value.to_bits()), 0, 0]);
    for (value, narrow, wide) in [
        (1.9, 1, 1),
        (-1.9, -1, -1),
        (2147483647.9, i64::from(i32::MAX), 2147483647),
        (2147483648.0, i64::from(i32::MIN), 2147483648),
        (-2147483648.9, i64::from(i32::MIN), -2147483648),
        (9.3e18, i64::from(i32::MIN), i64::MIN),
        (-9.3e18, i64::from(i32::MIN), i64::MIN),
        (f64::NAN, i64::from(i32::MIN), i64::MIN),
    ] {
        assert_eq!(to_int(Type::I32, value), Some(u128::from(narrow as u32)), "{value}");
        assert_eq!(to_int(Type::I64, value), Some(u128::from(wide as u64)), "{value}");
    }
    let from_int =
        |ty, bits: u128| f64::from_bits(run(Opcode::F64FromInt, Type::I64, ty, [bits, 0, 0]).unwrap() as u64);
    assert_eq!(from_int(Type::I32, 0xffff_ffff), -1.0);
    assert_eq!(from_int(Type::I64, 0xffff_ffff), 4294967295.0);
    assert_eq!(from_int(Type::I64, (1 << 53) + 1), 9007199254740992.0);
}

#[test]
fn select_and_conditions() {
    assert_eq!(run(Opcode::Select, Type::I64, Type::I64, [1, 5, 6]), Some(5));
    assert_eq!(run(Opcode::Select, Type::I64, Type::I64, [0, 5, 6]), Some(6));
    for packed in (0..0x1000).filter(|packed| packed & !0x8d5 == 0) {
        for cond in Cond::ALL {
            let result = eval_pure(Opcode::Cond, Type::I1, Type::I32, [u128::from(packed), 0, 0], Some(cond));
            assert_eq!(result, Some(u128::from(cond.holds(packed))));
        }
    }
    assert_eq!(signed(0x80, 8), -128);
    assert_eq!(signed(1, 1), -1);
}

/// Results stay within their type for every pure opcode, whatever the operands.
#[test]
fn results_fit_their_type() {
    let values = [0, 1, 2, 7, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0xffff_ffff, 1 << 63, u64::MAX as u128, u128::MAX];
    for op in Opcode::ALL {
        for ty in Type::ALL {
            for operand in Type::ALL {
                for a in values {
                    for b in values {
                        let args = [a & operand.mask(), b & operand.mask(), 1];
                        if let Some(result) = eval_pure(*op, ty, operand, args, Some(Cond::O)) {
                            assert_eq!(result & !ty.mask(), 0, "{} {ty} {operand}", op.name());
                        }
                    }
                }
            }
        }
    }
}
