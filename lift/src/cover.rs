//! The coverage table: which rule lifts which instruction.
//!
//! [`handler`] is the one place that decides between lifting, verbatim execution and refusal; the recorder's questions
//! and the lifter itself both ask it. An instruction that no row names is executed verbatim.
//!
//! Worked example: `movsd` names a string instruction and a vector move; the table tells them apart by their code, and
//! sends `rep movsd` and `movsd xmm1, [rax]` to a native operation and to [`Handler::Scalar64`] respectively.

use crate::refuse::{self, Refusal};
use iced_x86::{Code, Instruction, Mnemonic as M, OpKind, Register};
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
    Bswap,
    BitTest(BitChange),
    BitCount(BitCount),
    Flags(FlagMove),
    /// Left, logical right, arithmetic right.
    Shift(Opcode),
    Rotate(Opcode),
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
    VectorLogic(Logic),
    /// Lane-wise integer arithmetic on 64-bit lanes.
    LaneInt(Opcode),
    /// `unpcklpd`, `unpckhpd` and their integer twins.
    Unpack64 {
        high: bool,
    },
    /// `unpcklps`, `unpckhps` and their integer twins.
    Unpack32 {
        high: bool,
    },
    Shufpd,
    Shufps,
    Pshufd,
    /// `pslldq`, `psrldq`.
    ByteShift {
        left: bool,
    },
    /// `psllq`, `psrlq` by an immediate.
    LaneShift(Opcode),
    /// `addsd` and its like.
    Float(Opcode),
    /// `addpd` and its like.
    PackedFloat(Opcode),
    Sqrt,
    PackedSqrt,
    /// `ucomisd`, `comisd`.
    FloatFlags,
    /// `cmpsd`.
    FloatMask,
    /// `cmppd`.
    PackedFloatMask,
    FromInt,
    ToInt,
    /// Executed verbatim.
    Native,
    /// Not possible in a trace.
    Refused(Refusal),
}

/// The rule for `inst`.
pub(crate) fn handler(inst: &Instruction) -> Handler {
    if let Some(reason) = refuse::reason(inst) {
        return Handler::Refused(reason);
    }
    if inst.has_lock_prefix() || has_foreign_operand(inst) {
        return Handler::Native;
    }
    integer(inst)
        .or_else(|| string(inst))
        .or_else(|| vector_move(inst))
        .or_else(|| vector_arithmetic(inst))
        .unwrap_or(Handler::Native)
}

/// Whether an operand is a register that is not a slot.
fn has_foreign_operand(inst: &Instruction) -> bool {
    (0..inst.op_count()).any(|operand| {
        let register = inst.op_register(operand);
        register != Register::None && !register.is_gpr() && !(register.is_xmm() && register.number() < 16)
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
        // An exchange with memory is locked.
        M::Xchg if !is_memory(inst, 0) && !is_memory(inst, 1) => Handler::Xchg,
        M::Bswap if inst.op0_register().size() >= 4 => Handler::Bswap,
        M::Bt | M::Bts | M::Btr | M::Btc if !bit_string(inst) => Handler::BitTest(match inst.mnemonic() {
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

/// `bt [mem], reg` and its like: the bit number reaches beyond the operand.
fn bit_string(inst: &Instruction) -> bool {
    is_memory(inst, 0) && inst.op1_kind() == OpKind::Register
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

/// String instructions that run once, on the flat 64-bit address space.
fn string(inst: &Instruction) -> Option<Handler> {
    let rule = match inst.code() {
        Code::Movsb_m8_m8 | Code::Movsw_m16_m16 | Code::Movsd_m32_m32 | Code::Movsq_m64_m64 => Handler::Movs,
        Code::Stosb_m8_AL | Code::Stosw_m16_AX | Code::Stosd_m32_EAX | Code::Stosq_m64_RAX => Handler::Stos,
        Code::Lodsb_AL_m8 | Code::Lodsw_AX_m16 | Code::Lodsd_EAX_m32 | Code::Lodsq_RAX_m64 => Handler::Lods,
        _ => return None,
    };
    let plain = (0..inst.op_count())
        .all(|operand| matches!(inst.op_kind(operand), OpKind::MemoryESRDI | OpKind::MemorySegRSI | OpKind::Register));
    let segment = matches!(inst.segment_prefix(), Register::FS | Register::GS);
    let once = !inst.has_rep_prefix() && !inst.has_repne_prefix();
    Some(if plain && once && !segment { rule } else { Handler::Native })
}

fn vector_move(inst: &Instruction) -> Option<Handler> {
    Some(match inst.mnemonic() {
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
        M::Movmskpd => Handler::SignMask,
        M::Unpcklpd | M::Punpcklqdq => Handler::Unpack64 { high: false },
        M::Unpckhpd | M::Punpckhqdq => Handler::Unpack64 { high: true },
        M::Unpcklps | M::Punpckldq => Handler::Unpack32 { high: false },
        M::Unpckhps | M::Punpckhdq => Handler::Unpack32 { high: true },
        M::Shufpd => Handler::Shufpd,
        M::Shufps => Handler::Shufps,
        M::Pshufd => Handler::Pshufd,
        M::Pslldq => Handler::ByteShift { left: true },
        M::Psrldq => Handler::ByteShift { left: false },
        M::Psllq if inst.op1_kind() == OpKind::Immediate8 => Handler::LaneShift(Opcode::Shl),
        M::Psrlq if inst.op1_kind() == OpKind::Immediate8 => Handler::LaneShift(Opcode::Lshr),
        _ => return None,
    })
}

fn vector_arithmetic(inst: &Instruction) -> Option<Handler> {
    Some(match inst.mnemonic() {
        M::Pxor | M::Xorps | M::Xorpd => Handler::VectorLogic(Logic::Xor),
        M::Por | M::Orps | M::Orpd => Handler::VectorLogic(Logic::Or),
        M::Pand | M::Andps | M::Andpd => Handler::VectorLogic(Logic::And),
        M::Pandn | M::Andnps | M::Andnpd => Handler::VectorLogic(Logic::AndNot),
        M::Paddq => Handler::LaneInt(Opcode::Add),
        M::Psubq => Handler::LaneInt(Opcode::Sub),
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
        M::Sqrtsd => Handler::Sqrt,
        M::Sqrtpd => Handler::PackedSqrt,
        M::Ucomisd | M::Comisd => Handler::FloatFlags,
        M::Cmpsd if inst.code() == Code::Cmpsd_xmm_xmmm64_imm8 => Handler::FloatMask,
        M::Cmppd => Handler::PackedFloatMask,
        M::Cvtsi2sd => Handler::FromInt,
        M::Cvttsd2si => Handler::ToInt,
        _ => return None,
    })
}
