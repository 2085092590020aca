//! The coverage table: which rule lifts which instruction.
//!
//! [`handler`] is the one place that decides between lifting, verbatim execution and refusal; the recorder's questions
//! and the lifter itself both ask it. An instruction that no row names is executed verbatim.
//!
//! Worked example: `movsd` names a string instruction and a vector move; the table tells them apart by their code, and
//! sends `rep movsd` and `movsd xmm1, [rax]` to a native operation and to [`Handler::Scalar64`] respectively.

mod vector;
mod vex;

pub(crate) use vex::is_whole;

use crate::fused::Fused;
use crate::refuse::{self, Refusal};
use iced_x86::{Code, EncodingKind, Instruction, Mnemonic as M, OpKind, Register};
use redmagic_ir::{Cond, Opcode};

/// Two-operand integer arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alu {
    Add,
    Sub,
    And,
    Or,
    Xor,
    Cmp,
    Test,
    Adc,
    Sbb,
}

/// One-operand integer arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum One {
    Inc,
    Dec,
    Neg,
    Not,
}

/// What a bit test does to the bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BitChange {
    Keep,
    Set,
    Reset,
    Complement,
}

/// Searches and counts of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BitCount {
    ScanForward,
    ScanReverse,
    TrailingZeros,
    LeadingZeros,
    Ones,
}

/// Instructions that only move flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlagMove {
    Clear,
    Set,
    Complement,
    Load,
    Store,
}

/// Counting and testing branches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// `jrcxz`: no decrement.
    Zero,
    /// `loop`.
    Always,
    /// `loope`.
    Equal,
    /// `loopne`.
    NotEqual,
}

/// What becomes of the lowest set bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LowestBit {
    /// `blsi`.
    Isolate,
    /// `blsr`.
    Reset,
    /// `blsmsk`: all bits up to it.
    Mask,
}

/// Packed integer arithmetic with two sources; numbers are widths of lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lanes {
    Add(u32),
    Sub(u32),
    Equal(u32),
    Greater(u32),
    /// Minima and maxima.
    Extreme {
        bits: u32,
        signed: bool,
        max: bool,
    },
    /// `paddusb` and its like.
    UnsignedSum(u32),
    /// `psubusb` and its like.
    UnsignedDifference(u32),
    /// `paddsb` and its like.
    Saturating {
        bits: u32,
        op: Opcode,
    },
    Average(u32),
    MulLow(u32),
    /// `pmulhw`, `pmulhuw`.
    MulHigh {
        signed: bool,
    },
    /// `pmuldq`, `pmuludq`.
    MulEven {
        signed: bool,
    },
    /// `pmaddwd`.
    MulAdd,
    /// `psadbw`.
    Distance,
    /// `pmaddubsw`.
    MulAddBytes,
    /// `pmulhrsw`.
    MulRound,
    /// `psignb` and its like.
    Sign(u32),
}

/// Bitwise vector logic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logic {
    And,
    AndNot,
    Or,
    Xor,
}

/// The rule for an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handler {
    /// Has no effect that the trace can see.
    Nothing,
    Mov,
    Extend {
        signed: bool,
    },
    Lea,
    Alu(Alu),
    One(One),
    /// `cbw`, `cwde`, `cdqe`.
    WidenAccumulator,
    /// `cwd`, `cdq`, `cqo`.
    SignAccumulator,
    Set(Cond),
    Cmov(Cond),
    Xchg,
    /// `xadd`.
    ExchangeAdd,
    /// `cmpxchg`.
    CompareExchange,
    Bswap,
    /// `movbe`.
    SwappedMove,
    BitTest(BitChange),
    BitCount(BitCount),
    Flags(FlagMove),
    /// Left, logical right, arithmetic right.
    Shift(Opcode),
    Rotate(Opcode),
    /// `shld`, `shrd`.
    DoubleShift {
        left: bool,
    },
    /// `rcl`, `rcr`.
    RotateThroughCarry {
        left: bool,
    },
    /// `shlx`, `shrx`, `sarx`, `rorx`.
    PlainShift(Opcode),
    /// `andn`.
    AndNot,
    /// `pdep`, `pext`.
    Scatter(Opcode),
    LowestBit(LowestBit),
    /// `bzhi`.
    ClearHigh,
    /// `bextr`.
    ExtractBits,
    /// `mulx`.
    ProductHalves,
    /// `imul` with two or three operands.
    Product,
    /// One-operand multiplication.
    WideProduct {
        signed: bool,
    },
    Divide {
        signed: bool,
    },
    Push,
    Pop,
    Leave,
    Call,
    Ret,
    Jmp,
    Jcc(Cond),
    Counted(Count),
    Movs,
    Stos,
    Lods,
    Cmps,
    Scas,
    /// `rep movs` and `rep stos`, executed verbatim unless the count is a small constant.
    Repeated {
        stores: bool,
    },
    /// `rep cmps` and `rep scas`, in the same way.
    RepeatedComparison {
        scans: bool,
    },
    /// All 128 bits.
    Full,
    /// `movsd` between vector registers and memory.
    Scalar64,
    /// `movss`.
    Scalar32,
    /// `movq`, `movd`: the rest of a vector destination is cleared.
    Clearing,
    /// `movlps`, `movlpd`, `movhps`, `movhpd`: one lane.
    Lane(u8),
    /// `movhlps`.
    HighToLow,
    /// `movlhps`.
    LowToHigh,
    /// `movddup`.
    Duplicate,
    /// `movmskpd`.
    SignMask,
    /// `movmskps`.
    PartSignMask,
    /// `pmovmskb`.
    ByteMask,
    VectorLogic(Logic),
    Lanes(Lanes),
    /// `psllw` and its like.
    LaneShift {
        op: Opcode,
        bits: u32,
    },
    /// `pabsb` and its like.
    Absolute(u32),
    /// `packsswb`, `packuswb`, `packssdw`.
    Pack(Opcode),
    /// `packusdw`.
    PackDoublewords,
    /// `punpcklbw` and its like.
    Unpack {
        bits: u32,
        high: bool,
    },
    /// `pmovzxbw` and its like.
    WidenLanes {
        from: u32,
        to: u32,
        signed: bool,
    },
    /// `unpcklpd`, `unpckhpd` and their integer twins.
    Unpack64 {
        high: bool,
    },
    /// `unpcklps`, `unpckhps` and their integer twins.
    Unpack32 {
        high: bool,
    },
    /// `movsldup`, `movshdup`.
    DuplicateParts {
        odd: bool,
    },
    Shufpd,
    Shufps,
    Pshufd,
    /// `pshufb`.
    ShuffleBytes,
    /// `pshuflw`, `pshufhw`.
    ShuffleWords {
        high: bool,
    },
    /// `palignr`.
    AlignBytes,
    /// `pslldq`, `psrldq`.
    ByteShift {
        left: bool,
    },
    /// `vpermilps` by the lanes of a vector.
    PermuteParts,
    /// `vpermilpd` by an immediate.
    PermuteDoubles,
    /// `vpermilpd` by the lanes of a vector.
    PermuteDoublesBy,
    /// `vpermd`, `vpermps`.
    PermuteEight,
    /// `vpsllvd` and its like: every lane has a count of its own.
    LaneShiftBy {
        op: Opcode,
        bits: u32,
    },
    /// `phaddw`, `phsubd` and their like: an operation on lanes that are next to each other.
    HorizontalLanes(Lanes),
    /// `pblendw`, `blendps`, `blendpd`.
    Blend(u32),
    /// `pblendvb`, `blendvps`, `blendvpd`.
    BlendBy(u32),
    /// `pinsrb` and its like.
    InsertLane(u32),
    /// `pextrb` and its like.
    ExtractLane(u32),
    /// `insertps`.
    InsertPart,
    /// `ptest`.
    TestBits,
    /// `vtestps`, `vtestpd`: only the signs of lanes.
    TestSigns(u32),
    /// `addsd` and its like.
    Float(Opcode),
    /// `addpd` and its like.
    PackedFloat(Opcode),
    /// `haddpd`, `hsubpd`.
    Horizontal(Opcode),
    /// `haddps`, `hsubps`.
    HorizontalSingles(Opcode),
    /// `addsubpd`.
    DifferenceAndSum,
    /// `addsubps`.
    DifferencesAndSums,
    Sqrt,
    PackedSqrt,
    /// `ucomisd`, `comisd`.
    FloatFlags,
    /// `cmpsd`.
    FloatMask,
    /// `cmppd`.
    PackedFloatMask,
    /// `addss` and its like.
    Single(Opcode),
    /// `addps` and its like.
    PackedSingle(Opcode),
    SingleSqrt,
    PackedSingleSqrt,
    /// `ucomiss`, `comiss`.
    SingleFlags,
    /// `cmpss`.
    SingleMask,
    /// `cmpps`.
    PackedSingleMask,
    /// `cvtsi2sd`, `cvtsi2ss`.
    FromInt {
        single: bool,
    },
    /// `cvttsd2si`, `cvtsd2si` (rounded) and those from single precision.
    ToInt {
        single: bool,
        rounded: bool,
    },
    /// `cvtss2sd`.
    SingleToDouble,
    /// `cvtsd2ss`.
    DoubleToSingle,
    /// `cvtdq2pd`, `cvtps2pd`.
    WidenLow(Opcode),
    /// `cvttpd2dq`, `cvtpd2dq` (rounded), `cvtpd2ps`.
    NarrowBoth {
        op: Opcode,
        rounded: bool,
    },
    /// `cvtdq2ps`.
    PackedIntToSingle,
    /// `cvttps2dq`, `cvtps2dq` (rounded).
    PackedSingleToInt {
        rounded: bool,
    },
    /// `roundsd`.
    RoundDouble,
    /// `roundss`.
    RoundSingle,
    /// `roundpd`.
    RoundDoubles,
    /// `roundps`.
    RoundSingles,
    /// `vzeroupper`, `vzeroall`.
    ClearUpper {
        all: bool,
    },
    /// `vpbroadcastb` and its like.
    Broadcast(u32),
    /// `vbroadcasti128`.
    BroadcastHalf,
    /// `vextracti128`.
    ExtractHalf,
    /// `vinserti128`.
    InsertHalf,
    /// `vperm2i128`.
    PermuteHalves,
    /// `vpermq`.
    PermuteQuadwords,
    /// `vfmadd132sd` and its like.
    Fused(Fused),
    /// `cmpxchg8b`.
    CompareExchangeWide,
    /// `cmpxchg16b`.
    CompareExchangePair,
    /// Atomic: what its unlocked form computes is stored if memory still holds what was loaded.
    Locked,
    /// Executed verbatim.
    Native,
    /// Not possible in a trace.
    Refused(Refusal),
}

/// The rule for `inst`.
pub(crate) fn handler(inst: &Instruction) -> Handler {
    if is_locked(inst) {
        // Sixteen bytes are no word.
        return if inst.mnemonic() == M::Cmpxchg16b { Handler::Native } else { Handler::Locked };
    }
    // Half of what is executed; none of it is refused in any form.
    if let M::Add | M::Sub | M::And | M::Xor | M::Cmp | M::Test | M::Lea | M::Movzx = inst.mnemonic() {
        return integer(inst).unwrap_or(Handler::Native);
    }
    if let Some(reason) = refuse::reason(inst) {
        return Handler::Refused(reason);
    }
    if has_foreign_operand(inst) {
        return Handler::Native;
    }
    if inst.encoding() == EncodingKind::VEX
        && let Some(rule) = vex::handler(inst)
    {
        return rule;
    }
    integer(inst).or_else(|| string(inst)).or_else(|| vector::handler(inst, inst.mnemonic())).unwrap_or(Handler::Native)
}

/// The rule for what an atomic instruction computes.
pub(crate) fn unlocked(inst: &Instruction) -> Option<Handler> {
    integer(inst)
}

/// Whether `inst` changes memory atomically. An exchange with memory needs no prefix for that.
pub(crate) fn is_locked(inst: &Instruction) -> bool {
    let exchange = inst.mnemonic() == M::Xchg && (is_memory(inst, 0) || is_memory(inst, 1));
    inst.has_lock_prefix() || exchange
}

/// Whether `rule` works on vector registers, in a VEX-encoded instruction.
pub(crate) fn is_vector(rule: Handler, inst: &Instruction) -> bool {
    let bmi = (0..inst.op_count()).all(|operand| {
        let register = inst.op_register(operand);
        register == Register::None || register.is_gpr()
    });
    matches!(rule, Handler::ClearUpper { .. }) || !bmi && !matches!(rule, Handler::Native | Handler::Refused(_))
}

/// Whether an operand is a register that is not a slot.
fn has_foreign_operand(inst: &Instruction) -> bool {
    (0..inst.op_count()).any(|operand| {
        let register = inst.op_register(operand);
        let vector = register.is_xmm() || register.is_ymm();
        register != Register::None && !register.is_gpr() && !(vector && register.number() < 16)
    })
}

fn is_memory(inst: &Instruction, operand: u32) -> bool {
    inst.op_kind(operand) == OpKind::Memory
}

fn integer(inst: &Instruction) -> Option<Handler> {
    Some(match inst.mnemonic() {
        M::Nop | M::Endbr64 | M::Endbr32 | M::Cld | M::Pause => Handler::Nothing,
        M::Prefetch | M::Prefetchw | M::Prefetchnta | M::Prefetcht0 | M::Prefetcht1 | M::Prefetcht2 => Handler::Nothing,
        M::Mov | M::Movnti => Handler::Mov,
        M::Movzx => Handler::Extend { signed: false },
        M::Movsx | M::Movsxd => Handler::Extend { signed: true },
        M::Lea => Handler::Lea,
        M::Add => Handler::Alu(Alu::Add),
        M::Sub => Handler::Alu(Alu::Sub),
        M::And => Handler::Alu(Alu::And),
        M::Or => Handler::Alu(Alu::Or),
        M::Xor => Handler::Alu(Alu::Xor),
        M::Cmp => Handler::Alu(Alu::Cmp),
        M::Test => Handler::Alu(Alu::Test),
        M::Adc => Handler::Alu(Alu::Adc),
        M::Sbb => Handler::Alu(Alu::Sbb),
        M::Inc => Handler::One(One::Inc),
        M::Dec => Handler::One(One::Dec),
        M::Neg => Handler::One(One::Neg),
        M::Not => Handler::One(One::Not),
        M::Cbw | M::Cwde | M::Cdqe => Handler::WidenAccumulator,
        M::Cwd | M::Cdq | M::Cqo => Handler::SignAccumulator,
        M::Xchg => Handler::Xchg,
        M::Bswap if inst.op0_register().size() >= 4 => Handler::Bswap,
        M::Xadd => Handler::ExchangeAdd,
        // Processors differ in what they clear of a 32-bit register that is not changed.
        M::Cmpxchg if inst.op0_register().size() != 4 => Handler::CompareExchange,
        M::Cmpxchg8b => Handler::CompareExchangeWide,
        M::Cmpxchg16b => Handler::CompareExchangePair,
        M::Movbe => Handler::SwappedMove,
        M::Bt | M::Bts | M::Btr | M::Btc => Handler::BitTest(match inst.mnemonic() {
            M::Bts => BitChange::Set,
            M::Btr => BitChange::Reset,
            M::Btc => BitChange::Complement,
            _ => BitChange::Keep,
        }),
        M::Bsf => Handler::BitCount(BitCount::ScanForward),
        M::Bsr => Handler::BitCount(BitCount::ScanReverse),
        M::Tzcnt => Handler::BitCount(BitCount::TrailingZeros),
        M::Lzcnt => Handler::BitCount(BitCount::LeadingZeros),
        M::Popcnt => Handler::BitCount(BitCount::Ones),
        M::Clc => Handler::Flags(FlagMove::Clear),
        M::Stc => Handler::Flags(FlagMove::Set),
        M::Cmc => Handler::Flags(FlagMove::Complement),
        M::Lahf => Handler::Flags(FlagMove::Load),
        M::Sahf => Handler::Flags(FlagMove::Store),
        M::Shl | M::Sal => Handler::Shift(Opcode::Shl),
        M::Shr => Handler::Shift(Opcode::Lshr),
        M::Sar => Handler::Shift(Opcode::Ashr),
        M::Rol => Handler::Rotate(Opcode::Rotl),
        M::Ror => Handler::Rotate(Opcode::Rotr),
        M::Shld => Handler::DoubleShift { left: true },
        M::Shrd => Handler::DoubleShift { left: false },
        M::Rcl => Handler::RotateThroughCarry { left: true },
        M::Rcr => Handler::RotateThroughCarry { left: false },
        M::Shlx => Handler::PlainShift(Opcode::Shl),
        M::Shrx => Handler::PlainShift(Opcode::Lshr),
        M::Sarx => Handler::PlainShift(Opcode::Ashr),
        M::Rorx => Handler::PlainShift(Opcode::Rotr),
        M::Andn => Handler::AndNot,
        M::Pdep => Handler::Scatter(Opcode::Pdep),
        M::Pext => Handler::Scatter(Opcode::Pext),
        M::Blsi => Handler::LowestBit(LowestBit::Isolate),
        M::Blsr => Handler::LowestBit(LowestBit::Reset),
        M::Blsmsk => Handler::LowestBit(LowestBit::Mask),
        M::Bzhi => Handler::ClearHigh,
        M::Bextr => Handler::ExtractBits,
        M::Mulx => Handler::ProductHalves,
        M::Imul if inst.op_count() > 1 => Handler::Product,
        M::Imul => Handler::WideProduct { signed: true },
        M::Mul => Handler::WideProduct { signed: false },
        M::Div => Handler::Divide { signed: false },
        M::Idiv => Handler::Divide { signed: true },
        M::Push => Handler::Push,
        M::Pop => Handler::Pop,
        M::Leave if inst.code() == Code::Leaveq => Handler::Leave,
        M::Call => Handler::Call,
        M::Ret => Handler::Ret,
        M::Jmp => Handler::Jmp,
        M::Jrcxz | M::Jecxz => Handler::Counted(Count::Zero),
        M::Loop => Handler::Counted(Count::Always),
        M::Loope => Handler::Counted(Count::Equal),
        M::Loopne => Handler::Counted(Count::NotEqual),
        _ => return conditional(inst),
    })
}

/// The families with sixteen members.
fn conditional(inst: &Instruction) -> Option<Handler> {
    let cond = *Cond::ALL.get((inst.condition_code() as usize).checked_sub(1)?)?;
    if inst.is_jcc_short_or_near() {
        return Some(Handler::Jcc(cond));
    }
    match inst.mnemonic() {
        M::Seto | M::Setno | M::Setb | M::Setae | M::Sete | M::Setne | M::Setbe | M::Seta => Some(Handler::Set(cond)),
        M::Sets | M::Setns | M::Setp | M::Setnp | M::Setl | M::Setge | M::Setle | M::Setg => Some(Handler::Set(cond)),
        M::Cmovo | M::Cmovno | M::Cmovb | M::Cmovae | M::Cmove | M::Cmovne | M::Cmovbe | M::Cmova => {
            Some(Handler::Cmov(cond))
        }
        M::Cmovs | M::Cmovns | M::Cmovp | M::Cmovnp | M::Cmovl | M::Cmovge | M::Cmovle | M::Cmovg => {
            Some(Handler::Cmov(cond))
        }
        _ => None,
    }
}

/// String instructions on the flat 64-bit address space.
fn string(inst: &Instruction) -> Option<Handler> {
    let (once, repeated) = match inst.code() {
        Code::Movsb_m8_m8 | Code::Movsw_m16_m16 | Code::Movsd_m32_m32 | Code::Movsq_m64_m64 => {
            (Handler::Movs, Handler::Repeated { stores: false })
        }
        Code::Stosb_m8_AL | Code::Stosw_m16_AX | Code::Stosd_m32_EAX | Code::Stosq_m64_RAX => {
            (Handler::Stos, Handler::Repeated { stores: true })
        }
        Code::Lodsb_AL_m8 | Code::Lodsw_AX_m16 | Code::Lodsd_EAX_m32 | Code::Lodsq_RAX_m64 => {
            (Handler::Lods, Handler::Native)
        }
        Code::Cmpsb_m8_m8 | Code::Cmpsw_m16_m16 | Code::Cmpsd_m32_m32 | Code::Cmpsq_m64_m64 => {
            (Handler::Cmps, Handler::RepeatedComparison { scans: false })
        }
        Code::Scasb_AL_m8 | Code::Scasw_AX_m16 | Code::Scasd_EAX_m32 | Code::Scasq_RAX_m64 => {
            (Handler::Scas, Handler::RepeatedComparison { scans: true })
        }
        _ => return None,
    };
    let plain = (0..inst.op_count())
        .all(|operand| matches!(inst.op_kind(operand), OpKind::MemoryESRDI | OpKind::MemorySegRSI | OpKind::Register));
    let segment = matches!(inst.segment_prefix(), Register::FS | Register::GS);
    Some(match (plain && !segment, inst.has_rep_prefix() || inst.has_repne_prefix()) {
        (false, _) => Handler::Native,
        (true, true) => repeated,
        (true, false) => once,
    })
}
