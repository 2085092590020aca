//! The corpus: encodings that compilers emit, collected from executables.
//!
//! A line of its text form holds the distinct instructions of one encoding, as bytes:
//! ```text
//! Add_rm32_imm8 83c001 83042501000000ff
//! ```
//! Two instructions are distinct if they differ in what lifters get wrong: prefixes, which operands are the same register,
//! high bytes and the registers with encodings of their own, the form of the address, the kind of immediate. Other
//! registers and displacements do not count, so a few thousand instructions stand for millions.
//!
//! To be executed, an instruction is [moved](placed): branches get a landing pad as their target, and addresses without
//! registers become addresses of the arena.
//!
//! Worked example: of `add eax, 1`, `add ecx, 1` and `add eax, -1` in a program the corpus keeps the first and the third.

use crate::rng::Rng;
use crate::shapes::{DATA, Places};
use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderOptions, EncodingKind, FlowControl, Instruction, Mnemonic, OpKind, Register,
};
use redmagic_lift::coverage::{Section, Treatment, treatment};
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;

/// Distinct instructions, by encoding.
#[derive(Default)]
pub struct Corpus {
    seen: HashSet<Vec<u64>>,
    instructions: BTreeMap<u32, Vec<Instruction>>,
}

impl Corpus {
    /// Reads the text form. Lines that are not in it are ignored.
    pub fn parse(text: &str) -> Corpus {
        let mut corpus = Corpus::default();
        corpus.extend(text);
        corpus
    }

    /// Adds what is new in a text form.
    pub fn extend(&mut self, text: &str) {
        for bytes in text.lines().flat_map(|line| line.split_whitespace().skip(1)) {
            let bytes: Option<Vec<u8>> =
                (0..bytes.len() / 2).map(|at| u8::from_str_radix(bytes.get(2 * at..2 * at + 2)?, 16).ok()).collect();
            let Some(bytes) = bytes else { continue };
            let inst = Decoder::with_ip(64, &bytes, ADDRESS, DecoderOptions::NONE).decode();
            if inst.len() == bytes.len() {
                self.add(inst);
            }
        }
    }

    /// Adds what is new in a section.
    pub fn collect(&mut self, section: &Section<'_>) {
        for inst in section.instructions() {
            let at = (inst.ip() - section.address) as usize;
            if is_executable_alone(&inst) && !self.seen.contains(&key(&inst)) {
                // Where it stands does not matter.
                let bytes = &section.bytes[at..at + inst.len()];
                self.add(Decoder::with_ip(64, bytes, ADDRESS, DecoderOptions::NONE).decode());
            }
        }
    }

    fn add(&mut self, inst: Instruction) {
        if is_executable_alone(&inst) && self.seen.insert(key(&inst)) {
            self.instructions.entry(inst.code() as u32).or_default().push(inst);
        }
    }

    /// The number of instructions.
    pub fn len(&self) -> usize {
        self.instructions.values().map(Vec::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.instructions.is_empty()
    }

    /// All instructions, by encoding.
    pub fn instructions(&self) -> impl Iterator<Item = &Instruction> {
        self.instructions.values().flatten()
    }

    /// The text form.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut encoder = iced_x86::Encoder::new(64);
        for instructions in self.instructions.values() {
            let Some(first) = instructions.first() else { continue };
            let _ = write!(text, "{:?}", first.code());
            for inst in instructions {
                if encoder.encode(inst, ADDRESS).is_ok() {
                    text.push(' ');
                }
                for byte in encoder.take_buffer() {
                    let _ = write!(text, "{byte:02x}");
                }
            }
            text.push('\n');
        }
        text
    }
}

/// Where instructions of the corpus are decoded.
const ADDRESS: u64 = 0x1000_0000;

/// Whether the executor can run the instruction with nothing else around it.
pub fn is_executable_alone(inst: &Instruction) -> bool {
    let excluded = matches!(
        inst.mnemonic(),
        Mnemonic::Nop
            | Mnemonic::Rdtsc
            | Mnemonic::Rdtscp
            | Mnemonic::Rdrand
            | Mnemonic::Rdseed
            | Mnemonic::Cpuid
            | Mnemonic::Xgetbv
            | Mnemonic::Rdpkru
            | Mnemonic::Rdfsbase
            | Mnemonic::Rdgsbase
            | Mnemonic::Rdsspq
            | Mnemonic::Rdsspd
            | Mnemonic::Rdpid
            | Mnemonic::Pushf
            | Mnemonic::Pushfq
            | Mnemonic::Enter
            | Mnemonic::Maskmovdqu
    ) || inst.code() == Code::Leavew;
    let segment = matches!(inst.segment_prefix(), Register::FS | Register::GS);
    let system = (0..inst.op_count()).any(|operand| {
        let register = inst.op_register(operand);
        register.is_segment_register() || register.is_mm() || register.is_k() || register.is_zmm()
    });
    let known = !matches!(treatment(inst), Treatment::X87 | Treatment::Refused(_));
    let plain = match inst.encoding() {
        EncodingKind::Legacy => true,
        EncodingKind::VEX => has_features(inst.cpuid_features()),
        _ => false,
    };
    // Gathers would read whatever lies where their indices lead.
    known && plain && !excluded && !segment && !system && !inst.is_vsib() && !is_far_call(inst)
}

/// Whether this processor has the features that VEX-encoded instructions of the corpus need.
pub fn has_features(features: &[CpuidFeature]) -> bool {
    features.iter().all(|feature| match feature {
        CpuidFeature::BMI1 => is_x86_feature_detected!("bmi1"),
        CpuidFeature::BMI2 => is_x86_feature_detected!("bmi2"),
        CpuidFeature::AVX => is_x86_feature_detected!("avx"),
        CpuidFeature::AVX2 => is_x86_feature_detected!("avx2"),
        CpuidFeature::FMA => is_x86_feature_detected!("fma"),
        CpuidFeature::F16C => is_x86_feature_detected!("f16c"),
        _ => false,
    })
}

/// A call or jump through memory is not placed: it would have to read a landing pad.
fn is_far_call(inst: &Instruction) -> bool {
    matches!(inst.flow_control(), FlowControl::IndirectBranch | FlowControl::IndirectCall)
        && matches!(inst.code(), Code::Jmp_rm16 | Code::Jmp_rm32 | Code::Call_rm16 | Code::Call_rm32)
}

/// Equal for instructions that are not distinct.
fn key(inst: &Instruction) -> Vec<u64> {
    let prefixes = [inst.has_lock_prefix(), inst.has_rep_prefix(), inst.has_repne_prefix()];
    let mut key = vec![inst.code() as u64, prefixes.iter().fold(0, |bits, &prefix| bits << 1 | u64::from(prefix))];
    let mut registers: Vec<Register> = Vec::new();
    let mut describe = |register: Register| {
        if register == Register::None {
            return 0;
        }
        let full = register.full_register();
        let at = registers.iter().position(|&other| other == full).unwrap_or(registers.len());
        if at == registers.len() {
            registers.push(full);
        }
        let high = matches!(register, Register::AH | Register::CH | Register::DH | Register::BH);
        let special = matches!(full, Register::RAX | Register::RCX | Register::RSP | Register::RBP);
        let special = if special { full as u64 } else { 0 };
        1 + at as u64 + 8 * u64::from(high) + 16 * special + 8192 * register.size() as u64
    };
    for operand in 0..inst.op_count() {
        let kind = inst.op_kind(operand);
        key.push(kind as u64);
        match kind {
            OpKind::Register => key.push(describe(inst.op_register(operand))),
            OpKind::Memory => {
                key.push(describe(inst.memory_base()));
                key.push(describe(inst.memory_index()));
                key.push(u64::from(inst.memory_index_scale()));
                let displacement = inst.memory_displacement64() as i64;
                key.push(u64::from(inst.memory_displ_size()) << 1 | u64::from(displacement < 0));
            }
            OpKind::NearBranch64 => {}
            _ => key.push(inst.try_immediate(operand).map_or(0, immediate_class)),
        }
    }
    key
}

/// The kinds of immediates: control bytes and shift counts each their own, others by sign and size.
fn immediate_class(value: u64) -> u64 {
    let signed = value as i64;
    match signed {
        -1..=3 | 7 | 8 | 15 | 16 | 31 | 32 | 63 => value,
        4..=255 => 0x100 + (value.trailing_zeros().min(3)) as u64 + 4 * u64::from(value > 127),
        _ => 0x200 + u64::from(signed < 0) + 2 * u64::from(i64::from(signed as i32) != signed),
    }
}

/// The instruction where the executor can run it. `None` if it has no such form.
pub fn placed(inst: &Instruction, places: &Places, rng: &mut Rng) -> Option<Instruction> {
    let mut inst = *inst;
    for operand in 0..inst.op_count() {
        match inst.op_kind(operand) {
            OpKind::NearBranch64 => inst.set_near_branch64(*rng.pick(&places.pads)),
            OpKind::NearBranch16 | OpKind::NearBranch32 => return None,
            OpKind::Memory if inst.memory_index() == Register::None => {
                let absolute = matches!(inst.memory_base(), Register::None | Register::RIP | Register::EIP);
                if absolute && !matches!(inst.mnemonic(), Mnemonic::Lea) {
                    let target = (DATA.start + rng.below((DATA.end - DATA.start) as usize - 64) as u64) & !31;
                    inst.set_memory_displacement64(places.arena + target);
                    if inst.memory_base() != Register::None {
                        inst.set_memory_base(Register::RIP);
                    }
                }
            }
            OpKind::Immediate16 if inst.code() == Code::Retnq_imm16 => inst.set_immediate16(inst.immediate16() & 0x78),
            _ => {}
        }
    }
    Some(inst)
}
