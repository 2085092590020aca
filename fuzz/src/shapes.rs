//! Instructions of every operand shape.
//!
//! The set of encodings is computed: every encoding of the listed mnemonics whose operands this module can build.
//! [`Shapes::instruction`] then fills the operands of one encoding, at random but with the shapes where lifters err
//! made frequent: operands that alias, high bytes, every addressing form, immediates of both signs, counts of 0, 1 and
//! more than the width.
//!
//! Worked example: for `Add_rm8_r8` it makes `add ah, ah`, `add [r13+r12*4-7], dil`, `add [2002004Ch], cl`, …
//!
//! Memory operands name registers only; [`crate::place`] gives the registers values that lead into the arena.

use crate::corpus::has_features;
use crate::native::PADS;
use crate::rng::Rng;
use crate::values;
use iced_x86::{
    Code, CpuidFeature, EncodingKind, Instruction, Mnemonic, OpCodeInfo, OpCodeOperandKind, OpKind, Register,
};

/// Addresses that instructions refer to.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// The first byte of the arena.
    pub arena: u64,
    /// Where branches go.
    pub pads: [u64; PADS],
}

/// Data that memory operands reach lies in this part of the arena.
pub const DATA: std::ops::Range<u64> = 256..2048;
/// Stack pointers lie in this part of the arena.
pub const STACK: std::ops::Range<u64> = 2560..3840;

/// The integer core and SSE: what interpreters execute, by mnemonic; conditional families are added by [`Shapes::all`].
const MNEMONICS: &[Mnemonic] = {
    use Mnemonic::*;
    &[
        Mov, Lea, Cmp, Test, Xor, Add, Sub, And, Or, Adc, Sbb, Movzx, Movsx, Movsxd, Shl, Sal, Shr, Sar, Rol, Ror,
        Shld, Shrd, Rcl, Rcr, Neg, Not, Inc, Dec, Imul, Mul, Idiv, Div, Bt, Bts, Btr, Btc, Bsf, Bsr, Tzcnt, Lzcnt,
        Popcnt, Bswap, Cbw, Cwde, Cdqe, Cwd, Cdq, Cqo, Xchg, Xadd, Cmpxchg, Cmpxchg8b, Cmpxchg16b, Clc, Stc, Cmc, Lahf,
        Sahf, Nop, Push, Pop, Leave, Call, Ret, Jmp, Jrcxz, Jecxz, Loop, Loope, Loopne, Movsb, Movsw, Movsd, Movsq,
        Stosb, Stosw, Stosd, Stosq, Lodsb, Lodsw, Lodsd, Lodsq, Scasb, Scasw, Scasd, Scasq, Cmpsb, Cmpsw, Cmpsd, Cmpsq,
        Cld, Std, Xlatb, Movss, Movups, Movaps, Movapd, Movupd, Movdqa, Movdqu, Movq, Movd, Movhps, Movlps, Movhpd,
        Movlpd, Movhlps, Movlhps, Pxor, Por, Pand, Pandn, Xorps, Xorpd, Andps, Andpd, Andnps, Andnpd, Orps, Orpd,
        Punpcklbw, Punpcklwd, Punpckldq, Punpcklqdq, Punpckhbw, Punpckhwd, Punpckhdq, Punpckhqdq, Unpcklps, Unpckhps,
        Unpcklpd, Unpckhpd, Pshufd, Pshuflw, Pshufhw, Shufps, Shufpd, Cvtsi2sd, Cvtsi2ss, Cvttsd2si, Cvtsd2si,
        Cvttss2si, Cvtsd2ss, Cvtss2sd, Addsd, Subsd, Mulsd, Divsd, Minsd, Maxsd, Sqrtsd, Ucomisd, Comisd, Addss, Subss,
        Mulss, Divss, Ucomiss, Comiss, Addpd, Mulpd, Paddb, Paddw, Paddd, Paddq, Psubb, Psubw, Psubd, Psubq, Pcmpeqb,
        Pcmpeqw, Pcmpeqd, Pcmpgtb, Pcmpgtd, Pminub, Pmaxub, Pmovmskb, Movmskpd, Movmskps, Pslld, Psllq, Psllw, Psrld,
        Psrlq, Psrlw, Psrldq, Pslldq, Psrad, Pmuludq, Packuswb, Pextrw, Pinsrw, Movbe, Andn, Blsi, Blsr, Blsmsk, Bzhi,
        Bextr, Mulx, Rorx, Sarx, Shlx, Shrx, Pdep, Pext, Adcx, Adox, Crc32, Lddqu, Movntdq, Movntps, Movntpd, Movntdqa,
        Movnti, Movddup, Movsldup, Movshdup, Haddpd, Hsubpd, Haddps, Addsubpd, Addsubps, Pinsrb, Pinsrd, Pinsrq,
        Pextrb, Pextrd, Pextrq, Extractps, Insertps, Packsswb, Packssdw, Packusdw, Pmovzxbw, Pmovzxbd, Pmovzxbq,
        Pmovzxwd, Pmovzxwq, Pmovzxdq, Pmovsxbw, Pmovsxbd, Pmovsxbq, Pmovsxwd, Pmovsxwq, Pmovsxdq, Pshufb, Palignr,
        Pblendw, Blendps, Blendpd, Pblendvb, Blendvps, Blendvpd, Psraw, Pabsb, Pabsw, Pabsd, Ptest, Pcmpeqq, Pcmpgtw,
        Pcmpgtq, Paddusb, Paddusw, Psubusb, Psubusw, Paddsb, Paddsw, Psubsb, Psubsw, Pavgb, Pavgw, Pmullw, Pmulld,
        Pmulhw, Pmulhuw, Pmuldq, Pmaddwd, Psadbw, Pminuw, Pminud, Pmaxuw, Pmaxud, Pminsb, Pminsw, Pminsd, Pmaxsb,
        Pmaxsw, Pmaxsd, Subpd, Divpd, Minpd, Maxpd, Sqrtpd, Cmppd, Cvtdq2pd, Cvttpd2dq, Cvtpd2dq, Cvtpd2ps, Roundsd,
        Roundpd, Minss, Maxss, Addps, Subps, Mulps, Divps, Minps, Maxps, Sqrtss, Sqrtps, Cmpss, Cmpps, Cvtss2si,
        Cvtps2pd, Cvtdq2ps, Cvttps2dq, Cvtps2dq, Roundss, Roundps, Phaddw, Phaddd, Phaddsw, Phsubw, Phsubd, Phsubsw,
        Psignb, Psignw, Psignd, Pmaddubsw, Pmulhrsw, Hsubps, Dpps, Dppd,
    ]
};

const CONDITIONAL: &[Mnemonic] = {
    use Mnemonic::*;
    &[
        Jo, Jno, Jb, Jae, Je, Jne, Jbe, Ja, Js, Jns, Jp, Jnp, Jl, Jge, Jle, Jg, Seto, Setno, Setb, Setae, Sete, Setne,
        Setbe, Seta, Sets, Setns, Setp, Setnp, Setl, Setge, Setle, Setg, Cmovo, Cmovno, Cmovb, Cmovae, Cmove, Cmovne,
        Cmovbe, Cmova, Cmovs, Cmovns, Cmovp, Cmovnp, Cmovl, Cmovge, Cmovle, Cmovg,
    ]
};

/// The encodings to choose from.
#[derive(Clone, Debug)]
pub struct Shapes {
    /// Every encoding of the listed mnemonics that [`Shapes::instruction`] can build, in table order.
    pub codes: Vec<Code>,
}

impl Shapes {
    /// The integer core and SSE.
    pub fn all() -> Shapes {
        let wide = |code: &Code| code.op_code().encoding() == EncodingKind::VEX && is_vector(code.op_code());
        let listed = |code: &Code| {
            let named = MNEMONICS.contains(&code.mnemonic()) || CONDITIONAL.contains(&code.mnemonic());
            named || wide(code) && has_features(code.cpuid_features())
        };
        Shapes { codes: Code::values().filter(listed).filter(|code| is_buildable(code.op_code())).collect() }
    }

    /// An instruction with encoding `code`. `None` if the random operands have no encoding (`mov ah, sil`); try again.
    pub fn instruction(&self, code: Code, places: &Places, rng: &mut Rng) -> Option<Instruction> {
        let info = code.op_code();
        let mut inst = Instruction::default();
        inst.set_code(code);
        let mut build = Operands { inst: &mut inst, places, rng, favourite: 0 };
        build.favourite = build.rng.below(16) as u32;
        for (index, kind) in info.op_kinds().iter().enumerate() {
            build.operand(index as u32, *kind);
        }
        let memory = inst.op_kinds().any(|kind| kind == OpKind::Memory);
        if memory && info.can_use_lock_prefix() && inst.op0_kind() == OpKind::Memory && rng.one_in(8) {
            inst.set_has_lock_prefix(true);
        }
        if inst.is_string_instruction() && rng.one_in(2) {
            let compares = info.can_use_repne_prefix();
            if compares && rng.one_in(2) {
                inst.set_has_repne_prefix(true);
            } else {
                inst.set_has_rep_prefix(true);
            }
        }
        iced_x86::Encoder::new(64).encode(&inst, places.pads[0] + 64).ok().map(|_| inst)
    }

    /// An instruction with encoding `code`; `None` only if no operands were found in many attempts.
    pub fn instruction_of(&self, code: Code, places: &Places, rng: &mut Rng) -> Option<Instruction> {
        (0..100).find_map(|_| self.instruction(code, places, rng))
    }
}

/// Whether an operand is a vector register.
fn is_vector(info: &OpCodeInfo) -> bool {
    info.op_kinds().iter().any(|kind| {
        let name = format!("{kind:?}");
        name.starts_with("xmm") || name.starts_with("ymm")
    }) || matches!(info.code(), Code::VEX_Vzeroupper | Code::VEX_Vzeroall)
}

fn is_buildable(info: &OpCodeInfo) -> bool {
    use OpCodeOperandKind as K;
    // A far pointer is as much "memory" as a near one, and 16-bit branches differ between vendors.
    let far = matches!(
        info.code(),
        Code::Jmp_m1616 | Code::Jmp_m1632 | Code::Jmp_m1664 | Code::Call_m1616 | Code::Call_m1632 | Code::Call_m1664
    );
    let narrow_branch = matches!(
        info.code(),
        Code::Jmp_rm16 | Code::Call_rm16 | Code::Retnw | Code::Retnw_imm16 | Code::Jmp_rm32 | Code::Call_rm32
    ) || info.code() == Code::Leavew;
    // Variants of a coprocessor that has long been gone.
    let knights_corner = info.code().cpuid_features().contains(&CpuidFeature::KNC);
    let kinds = info.op_kinds().iter().all(|kind| {
        matches!(
            kind,
            K::mem_offs
                | K::mem
                | K::r8_or_mem
                | K::r16_or_mem
                | K::r32_or_mem
                | K::r64_or_mem
                | K::xmm_or_mem
                | K::r32_vvvv
                | K::r64_vvvv
                | K::r8_reg
                | K::r8_opcode
                | K::r16_reg
                | K::r16_rm
                | K::r16_opcode
                | K::r32_reg
                | K::r32_rm
                | K::r32_opcode
                | K::r64_reg
                | K::r64_rm
                | K::r64_opcode
                | K::xmm_reg
                | K::xmm_vvvv
                | K::xmm_is4
                | K::ymm_reg
                | K::ymm_rm
                | K::ymm_vvvv
                | K::ymm_is4
                | K::ymm_or_mem
                | K::xmm_rm
                | K::al
                | K::cl
                | K::ax
                | K::eax
                | K::rax
                | K::imm8
                | K::imm8_const_1
                | K::imm8sex16
                | K::imm8sex32
                | K::imm8sex64
                | K::imm16
                | K::imm32
                | K::imm32sex64
                | K::imm64
                | K::seg_rSI
                | K::es_rDI
                | K::seg_rBX_al
                | K::br64_1
                | K::br64_4
        )
    });
    info.mode64()
        && info.is_instruction()
        && matches!(info.encoding(), EncodingKind::Legacy | EncodingKind::VEX)
        && kinds
        && !far
        && !narrow_branch
        && !knights_corner
}

/// Fills the operands of one instruction.
struct Operands<'a> {
    inst: &'a mut Instruction,
    places: &'a Places,
    rng: &'a mut Rng,
    /// A register number that several operands share now and then, so that they alias.
    favourite: u32,
}

impl Operands<'_> {
    fn operand(&mut self, index: u32, kind: OpCodeOperandKind) {
        use OpCodeOperandKind as K;
        match kind {
            K::mem => self.memory(index),
            K::mem_offs => self.absolute64(index),
            K::r8_or_mem | K::r16_or_mem | K::r32_or_mem | K::r64_or_mem | K::xmm_or_mem | K::ymm_or_mem
                if self.rng.one_in(2) =>
            {
                self.memory(index);
            }
            K::r8_or_mem | K::r8_reg | K::r8_opcode => {
                let register = match self.rng.one_in(4) {
                    true => Register::AH + self.rng.below(4) as u32,
                    false => byte_register(self.number()),
                };
                self.register(index, register);
            }
            K::r16_or_mem | K::r16_reg | K::r16_rm | K::r16_opcode => {
                let number = self.number();
                self.register(index, Register::AX + number);
            }
            K::r32_or_mem | K::r32_reg | K::r32_rm | K::r32_opcode | K::r32_vvvv => {
                let number = self.number();
                self.register(index, Register::EAX + number);
            }
            K::r64_or_mem | K::r64_reg | K::r64_rm | K::r64_opcode | K::r64_vvvv => {
                let number = self.number();
                self.register(index, Register::RAX + number);
            }
            K::xmm_or_mem | K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_is4 => {
                let number = self.number();
                self.register(index, Register::XMM0 + number);
            }
            K::ymm_or_mem | K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 => {
                let number = self.number();
                self.register(index, Register::YMM0 + number);
            }
            K::al => self.register(index, Register::AL),
            K::cl => self.register(index, Register::CL),
            K::ax => self.register(index, Register::AX),
            K::eax => self.register(index, Register::EAX),
            K::rax => self.register(index, Register::RAX),
            K::seg_rSI => self.inst.set_op_kind(index, OpKind::MemorySegRSI),
            K::es_rDI => self.inst.set_op_kind(index, OpKind::MemoryESRDI),
            K::seg_rBX_al => {
                self.inst.set_op_kind(index, OpKind::Memory);
                self.inst.set_memory_base(Register::RBX);
                self.inst.set_memory_index(Register::AL);
            }
            K::br64_1 | K::br64_4 => {
                self.inst.set_op_kind(index, OpKind::NearBranch64);
                let target = *self.rng.pick(&self.places.pads);
                self.inst.set_near_branch64(target);
            }
            other => self.immediate(index, other),
        }
    }

    fn immediate(&mut self, index: u32, kind: OpCodeOperandKind) {
        use OpCodeOperandKind as K;
        let value = match self.rng.below(4) {
            // Counts and small differences.
            0 => *self.rng.pick(&[0, 1, 2, 7, 8, 15, 16, 31, 32, 33, 63, 64, 65, 127, 128, 255]),
            1 => self.rng.below(256) as u64,
            _ => values::word(self.rng),
        };
        let (op_kind, value) = match kind {
            K::imm8_const_1 => (OpKind::Immediate8, 1),
            K::imm8sex16 => (OpKind::Immediate8to16, value as i8 as u64),
            K::imm8sex32 => (OpKind::Immediate8to32, value as i8 as u64),
            K::imm8sex64 => (OpKind::Immediate8to64, value as i8 as u64),
            K::imm16 => (OpKind::Immediate16, value as i16 as u64),
            K::imm32 => (OpKind::Immediate32, value as i32 as u64),
            K::imm32sex64 => (OpKind::Immediate32to64, value as i32 as u64),
            K::imm64 => (OpKind::Immediate64, value),
            _ => (OpKind::Immediate8, value as i8 as u64),
        };
        // `ret imm16` moves the stack pointer by it.
        let value = if self.inst.code() == Code::Retnq_imm16 { value & 0x7f } else { value };
        self.inst.set_op_kind(index, op_kind);
        match op_kind {
            OpKind::Immediate8 => self.inst.set_immediate8(value as u8),
            OpKind::Immediate16 => self.inst.set_immediate16(value as u16),
            OpKind::Immediate32 => self.inst.set_immediate32(value as u32),
            OpKind::Immediate64 => self.inst.set_immediate64(value),
            _ => self.inst.set_immediate_i64(index, value as i64),
        }
    }

    fn number(&mut self) -> u32 {
        if self.rng.one_in(3) { self.favourite } else { self.rng.below(16) as u32 }
    }

    fn register(&mut self, index: u32, register: Register) {
        self.inst.set_op_kind(index, OpKind::Register);
        self.inst.set_op_register(index, register);
    }

    /// An offset of data in the arena, with room for any operand.
    fn data(&mut self) -> u64 {
        let offset = DATA.start + self.rng.below((DATA.end - DATA.start) as usize - 64) as u64;
        self.places.arena + if self.rng.one_in(16) { offset } else { offset & !31 }
    }

    fn absolute64(&mut self, index: u32) {
        let target = self.data();
        self.inst.set_op_kind(index, OpKind::Memory);
        self.inst.set_memory_displ_size(8);
        self.inst.set_memory_displacement64(target);
    }

    fn memory(&mut self, index: u32) {
        self.inst.set_op_kind(index, OpKind::Memory);
        match self.rng.below(16) {
            0 => {
                let target = self.data();
                self.inst.set_memory_base(Register::RIP);
                self.inst.set_memory_displ_size(8);
                self.inst.set_memory_displacement64(target);
            }
            1 => {
                let target = self.data();
                self.inst.set_memory_displ_size(4);
                self.inst.set_memory_displacement64(target);
            }
            form => {
                let bank = if self.rng.one_in(32) { Register::EAX } else { Register::RAX };
                let (based, indexed) = (form >= 3, form < 9);
                let base = self.number();
                // The stack pointer cannot be an index, and with one register in both places no value may fit.
                let index = (0..).map(|_| self.number()).find(|&number| number != 4 && !(based && number == base));
                if based {
                    self.inst.set_memory_base(bank + base);
                }
                if let (true, Some(index)) = (indexed, index) {
                    self.inst.set_memory_index(bank + index);
                    self.inst.set_memory_index_scale(1 << self.rng.below(4));
                }
                self.displacement(form >= 3);
            }
        }
    }

    fn displacement(&mut self, based: bool) {
        let value = match self.rng.below(4) {
            0 if based => 0,
            1 => self.rng.bits() as i8 as i64,
            2 => self.rng.bits() as i16 as i64,
            _ => self.rng.bits() as i32 as i64,
        };
        // Without a base the displacement always has 32 bits; and the index must be able to reach the arena exactly.
        let (size, value) = match (based, value) {
            (false, value) => (4, value & !31),
            (true, 0) => (0, 0),
            (true, -128..=127) => (1, value),
            (true, _) => (4, value),
        };
        self.inst.set_memory_displ_size(size);
        self.inst.set_memory_displacement64(value as u64);
    }
}

/// The low byte of general register `number`.
fn byte_register(number: u32) -> Register {
    if number < 4 { Register::AL + number } else { Register::SPL + (number - 4) }
}
