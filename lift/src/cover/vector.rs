//! The vector half of the coverage table.

use super::{Handler, Lanes, Logic};
use iced_x86::{Instruction, Mnemonic as M};
use redmagic_ir::Opcode;

/// The rule for a vector instruction, called `mnemonic` without a VEX prefix.
pub(super) fn handler(inst: &Instruction, mnemonic: M) -> Option<Handler> {
    moves(mnemonic)
        .or_else(|| shuffles(mnemonic))
        .or_else(|| integers(mnemonic))
        .or_else(|| doubles(inst, mnemonic))
        .or_else(|| others(mnemonic))
}

fn moves(mnemonic: M) -> Option<Handler> {
    Some(match mnemonic {
        M::Movaps | M::Movapd | M::Movups | M::Movupd | M::Movdqa | M::Movdqu | M::Lddqu => Handler::Full,
        M::Movntdq | M::Movntps | M::Movntpd | M::Movntdqa => Handler::Full,
        M::Movsd => Handler::Scalar64,
        M::Movss => Handler::Scalar32,
        M::Movq | M::Movd => Handler::Clearing,
        M::Movlps | M::Movlpd => Handler::Lane(0),
        M::Movhps | M::Movhpd => Handler::Lane(1),
        M::Movhlps => Handler::HighToLow,
        M::Movlhps => Handler::LowToHigh,
        M::Movddup => Handler::Duplicate,
        M::Movsldup => Handler::DuplicateParts { odd: false },
        M::Movshdup => Handler::DuplicateParts { odd: true },
        M::Movmskpd => Handler::SignMask,
        M::Movmskps => Handler::PartSignMask,
        M::Pmovmskb => Handler::ByteMask,
        M::Pinsrb => Handler::InsertLane(8),
        M::Pinsrw => Handler::InsertLane(16),
        M::Pinsrd => Handler::InsertLane(32),
        M::Pinsrq => Handler::InsertLane(64),
        M::Pextrb => Handler::ExtractLane(8),
        M::Pextrw => Handler::ExtractLane(16),
        M::Pextrd | M::Extractps => Handler::ExtractLane(32),
        M::Pextrq => Handler::ExtractLane(64),
        M::Insertps => Handler::InsertPart,
        _ => return None,
    })
}

fn shuffles(mnemonic: M) -> Option<Handler> {
    let widen = |from, to, signed| Handler::WidenLanes { from, to, signed };
    Some(match mnemonic {
        M::Unpcklpd | M::Punpcklqdq => Handler::Unpack64 { high: false },
        M::Unpckhpd | M::Punpckhqdq => Handler::Unpack64 { high: true },
        M::Unpcklps | M::Punpckldq => Handler::Unpack32 { high: false },
        M::Unpckhps | M::Punpckhdq => Handler::Unpack32 { high: true },
        M::Punpcklwd => Handler::Unpack { bits: 16, high: false },
        M::Punpckhwd => Handler::Unpack { bits: 16, high: true },
        M::Punpcklbw => Handler::Unpack { bits: 8, high: false },
        M::Punpckhbw => Handler::Unpack { bits: 8, high: true },
        M::Packsswb => Handler::Pack(Opcode::PackS16),
        M::Packuswb => Handler::Pack(Opcode::PackU16),
        M::Packssdw => Handler::Pack(Opcode::PackS32),
        M::Packusdw => Handler::PackDoublewords,
        M::Pmovzxbw => widen(8, 16, false),
        M::Pmovzxbd => widen(8, 32, false),
        M::Pmovzxbq => widen(8, 64, false),
        M::Pmovzxwd => widen(16, 32, false),
        M::Pmovzxwq => widen(16, 64, false),
        M::Pmovzxdq => widen(32, 64, false),
        M::Pmovsxbw => widen(8, 16, true),
        M::Pmovsxbd => widen(8, 32, true),
        M::Pmovsxbq => widen(8, 64, true),
        M::Pmovsxwd => widen(16, 32, true),
        M::Pmovsxwq => widen(16, 64, true),
        M::Pmovsxdq => widen(32, 64, true),
        M::Shufpd => Handler::Shufpd,
        M::Shufps => Handler::Shufps,
        M::Pshufd => Handler::Pshufd,
        M::Pshuflw => Handler::ShuffleWords { high: false },
        M::Pshufhw => Handler::ShuffleWords { high: true },
        M::Pshufb => Handler::ShuffleBytes,
        M::Palignr => Handler::AlignBytes,
        M::Pslldq => Handler::ByteShift { left: true },
        M::Psrldq => Handler::ByteShift { left: false },
        M::Pblendw => Handler::Blend(16),
        M::Blendps => Handler::Blend(32),
        M::Blendpd => Handler::Blend(64),
        M::Pblendvb => Handler::BlendBy(8),
        M::Blendvps => Handler::BlendBy(32),
        M::Blendvpd => Handler::BlendBy(64),
        _ => return None,
    })
}

fn integers(mnemonic: M) -> Option<Handler> {
    let shift = |op, bits| Handler::LaneShift { op, bits };
    let lanes = match mnemonic {
        M::Pxor | M::Xorps | M::Xorpd => return Some(Handler::VectorLogic(Logic::Xor)),
        M::Por | M::Orps | M::Orpd => return Some(Handler::VectorLogic(Logic::Or)),
        M::Pand | M::Andps | M::Andpd => return Some(Handler::VectorLogic(Logic::And)),
        M::Pandn | M::Andnps | M::Andnpd => return Some(Handler::VectorLogic(Logic::AndNot)),
        M::Psllw => return Some(shift(Opcode::Shl, 16)),
        M::Pslld => return Some(shift(Opcode::Shl, 32)),
        M::Psllq => return Some(shift(Opcode::Shl, 64)),
        M::Psrlw => return Some(shift(Opcode::Lshr, 16)),
        M::Psrld => return Some(shift(Opcode::Lshr, 32)),
        M::Psrlq => return Some(shift(Opcode::Lshr, 64)),
        M::Psraw => return Some(shift(Opcode::Ashr, 16)),
        M::Psrad => return Some(shift(Opcode::Ashr, 32)),
        M::Pabsb => return Some(Handler::Absolute(8)),
        M::Pabsw => return Some(Handler::Absolute(16)),
        M::Pabsd => return Some(Handler::Absolute(32)),
        M::Ptest => return Some(Handler::TestBits),
        M::Paddb => Lanes::Add(8),
        M::Paddw => Lanes::Add(16),
        M::Paddd => Lanes::Add(32),
        M::Paddq => Lanes::Add(64),
        M::Psubb => Lanes::Sub(8),
        M::Psubw => Lanes::Sub(16),
        M::Psubd => Lanes::Sub(32),
        M::Psubq => Lanes::Sub(64),
        M::Pcmpeqb => Lanes::Equal(8),
        M::Pcmpeqw => Lanes::Equal(16),
        M::Pcmpeqd => Lanes::Equal(32),
        M::Pcmpeqq => Lanes::Equal(64),
        M::Pcmpgtb => Lanes::Greater(8),
        M::Pcmpgtw => Lanes::Greater(16),
        M::Pcmpgtd => Lanes::Greater(32),
        M::Pcmpgtq => Lanes::Greater(64),
        M::Paddusb => Lanes::UnsignedSum(8),
        M::Paddusw => Lanes::UnsignedSum(16),
        M::Psubusb => Lanes::UnsignedDifference(8),
        M::Psubusw => Lanes::UnsignedDifference(16),
        M::Paddsb => Lanes::Saturating { bits: 8, op: Opcode::Add },
        M::Paddsw => Lanes::Saturating { bits: 16, op: Opcode::Add },
        M::Psubsb => Lanes::Saturating { bits: 8, op: Opcode::Sub },
        M::Psubsw => Lanes::Saturating { bits: 16, op: Opcode::Sub },
        M::Pavgb => Lanes::Average(8),
        M::Pavgw => Lanes::Average(16),
        M::Pmullw => Lanes::MulLow(16),
        M::Pmulld => Lanes::MulLow(32),
        M::Pmulhw => Lanes::MulHigh { signed: true },
        M::Pmulhuw => Lanes::MulHigh { signed: false },
        M::Pmuldq => Lanes::MulEven { signed: true },
        M::Pmuludq => Lanes::MulEven { signed: false },
        M::Pmaddwd => Lanes::MulAdd,
        M::Psadbw => Lanes::Distance,
        M::Pmaddubsw => Lanes::MulAddBytes,
        M::Pmulhrsw => Lanes::MulRound,
        M::Psignb => Lanes::Sign(8),
        M::Psignw => Lanes::Sign(16),
        M::Psignd => Lanes::Sign(32),
        M::Phaddw => return Some(Handler::HorizontalLanes(Lanes::Add(16))),
        M::Phaddd => return Some(Handler::HorizontalLanes(Lanes::Add(32))),
        M::Phaddsw => return Some(Handler::HorizontalLanes(Lanes::Saturating { bits: 16, op: Opcode::Add })),
        M::Phsubw => return Some(Handler::HorizontalLanes(Lanes::Sub(16))),
        M::Phsubd => return Some(Handler::HorizontalLanes(Lanes::Sub(32))),
        M::Phsubsw => return Some(Handler::HorizontalLanes(Lanes::Saturating { bits: 16, op: Opcode::Sub })),
        _ => extreme(mnemonic)?,
    };
    Some(Handler::Lanes(lanes))
}

/// Minima and maxima of integers.
fn extreme(mnemonic: M) -> Option<Lanes> {
    let (bits, signed, max) = match mnemonic {
        M::Pminub => (8, false, false),
        M::Pminuw => (16, false, false),
        M::Pminud => (32, false, false),
        M::Pmaxub => (8, false, true),
        M::Pmaxuw => (16, false, true),
        M::Pmaxud => (32, false, true),
        M::Pminsb => (8, true, false),
        M::Pminsw => (16, true, false),
        M::Pminsd => (32, true, false),
        M::Pmaxsb => (8, true, true),
        M::Pmaxsw => (16, true, true),
        M::Pmaxsd => (32, true, true),
        _ => return None,
    };
    Some(Lanes::Extreme { bits, signed, max })
}

fn doubles(inst: &Instruction, mnemonic: M) -> Option<Handler> {
    Some(match mnemonic {
        M::Addsd => Handler::Float(Opcode::Fadd64),
        M::Subsd => Handler::Float(Opcode::Fsub64),
        M::Mulsd => Handler::Float(Opcode::Fmul64),
        M::Divsd => Handler::Float(Opcode::Fdiv64),
        M::Minsd => Handler::Float(Opcode::Fmin64),
        M::Maxsd => Handler::Float(Opcode::Fmax64),
        M::Addpd => Handler::PackedFloat(Opcode::Fadd64),
        M::Subpd => Handler::PackedFloat(Opcode::Fsub64),
        M::Mulpd => Handler::PackedFloat(Opcode::Fmul64),
        M::Divpd => Handler::PackedFloat(Opcode::Fdiv64),
        M::Minpd => Handler::PackedFloat(Opcode::Fmin64),
        M::Maxpd => Handler::PackedFloat(Opcode::Fmax64),
        M::Haddpd => Handler::Horizontal(Opcode::Fadd64),
        M::Hsubpd => Handler::Horizontal(Opcode::Fsub64),
        M::Addsubpd => Handler::DifferenceAndSum,
        M::Sqrtsd => Handler::Sqrt,
        M::Sqrtpd => Handler::PackedSqrt,
        M::Ucomisd | M::Comisd => Handler::FloatFlags,
        M::Cmpsd if !inst.is_string_instruction() => Handler::FloatMask,
        M::Cmppd => Handler::PackedFloatMask,
        M::Cvtsi2sd => Handler::FromInt { single: false },
        M::Cvttsd2si => Handler::ToInt { single: false, rounded: false },
        M::Cvtsd2si => Handler::ToInt { single: false, rounded: true },
        M::Cvtsd2ss => Handler::DoubleToSingle,
        M::Cvtdq2pd => Handler::WidenLow(Opcode::F64FromInt),
        M::Cvttpd2dq => Handler::NarrowBoth { op: Opcode::F64ToInt, rounded: false },
        M::Cvtpd2dq => Handler::NarrowBoth { op: Opcode::F64ToInt, rounded: true },
        M::Cvtpd2ps => Handler::NarrowBoth { op: Opcode::F32FromF64, rounded: false },
        M::Roundsd => Handler::RoundDouble,
        M::Roundpd => Handler::RoundDoubles,
        _ => return None,
    })
}

/// Single precision.
fn others(mnemonic: M) -> Option<Handler> {
    Some(match mnemonic {
        M::Addss => Handler::Single(Opcode::Fadd32),
        M::Subss => Handler::Single(Opcode::Fsub32),
        M::Mulss => Handler::Single(Opcode::Fmul32),
        M::Divss => Handler::Single(Opcode::Fdiv32),
        M::Minss => Handler::Single(Opcode::Fmin64),
        M::Maxss => Handler::Single(Opcode::Fmax64),
        M::Addps => Handler::PackedSingle(Opcode::Fadd32),
        M::Subps => Handler::PackedSingle(Opcode::Fsub32),
        M::Mulps => Handler::PackedSingle(Opcode::Fmul32),
        M::Divps => Handler::PackedSingle(Opcode::Fdiv32),
        M::Minps => Handler::PackedSingle(Opcode::Fmin64),
        M::Maxps => Handler::PackedSingle(Opcode::Fmax64),
        M::Haddps => Handler::HorizontalSingles(Opcode::Fadd32),
        M::Hsubps => Handler::HorizontalSingles(Opcode::Fsub32),
        M::Addsubps => Handler::DifferencesAndSums,
        M::Sqrtss => Handler::SingleSqrt,
        M::Sqrtps => Handler::PackedSingleSqrt,
        M::Ucomiss | M::Comiss => Handler::SingleFlags,
        M::Cmpss => Handler::SingleMask,
        M::Cmpps => Handler::PackedSingleMask,
        M::Cvtsi2ss => Handler::FromInt { single: true },
        M::Cvttss2si => Handler::ToInt { single: true, rounded: false },
        M::Cvtss2si => Handler::ToInt { single: true, rounded: true },
        M::Cvtss2sd => Handler::SingleToDouble,
        M::Cvtps2pd => Handler::WidenLow(Opcode::F64FromF32),
        M::Cvtdq2ps => Handler::PackedIntToSingle,
        M::Cvttps2dq => Handler::PackedSingleToInt { rounded: false },
        M::Cvtps2dq => Handler::PackedSingleToInt { rounded: true },
        M::Roundss => Handler::RoundSingle,
        M::Roundps => Handler::RoundSingles,
        _ => return None,
    })
}
