//! Slots: one guest instruction each, decoded once and prepared for execution out of place.
//!
//! # What is executed how
//! - Control flow is emulated by the recorder, from the flags and registers in the context.
//! - Everything else is executed verbatim, in a copy. Only what names its own address has to change: an operand relative to
//!   rip is given the same address through a register that the instruction does not use.
//!
//! # Worked example
//! `mov eax, [rip + 0x2f00]` at 0x401100 becomes `mov ebx, 0x404006; mov eax, [rbx]` between the moves of the register
//! file, where rbx is restored from the context afterwards.
//!
//! # Invariants
//! A slot is made once per address and never changes or moves. If the guest changes its code, the recorder notices
//! nothing until [`Runtime::forget`](crate::runtime::Runtime::forget) is called: code of loaded modules does not change.

use crate::context::Context;
use crate::pieces::{Scratch, VectorState};
use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, EncodingKind, FlowControl, Instruction, InstructionInfoFactory, Mnemonic,
    OpAccess, OpKind, Register,
};
use redmagic_ir::{Cond, Slot};
use redmagic_lift::Refusal;
use smallvec::SmallVec;
use std::sync::atomic::AtomicPtr;

/// A prepared instruction.
pub struct SlotInfo {
    /// Its address.
    pub pc: u64,
    /// The address behind it.
    pub next: u64,
    /// How it is executed.
    pub kind: Kind,
    /// Its memory accesses; the one that is logged comes first.
    pub accesses: SmallVec<[Access; 2]>,
    /// The instruction.
    pub instruction: Instruction,
    /// Whether a trace executes it verbatim.
    pub native: bool,
    /// The slots of the addresses behind it and at the target of a branch, once they are known.
    pub successors: [AtomicPtr<SlotInfo>; 2],
}

/// How an instruction is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In a copy, whose code is at this address.
    Plain(u64),
    /// A conditional jump.
    Branch {
        /// When it is taken.
        condition: Condition,
        /// Where it leads then.
        target: u64,
    },
    /// A direct jump.
    Jump(u64),
    /// A jump through a register or memory.
    JumpIndirect,
    /// A direct call.
    Call(u64),
    /// A call through a register or memory.
    CallIndirect,
    /// A return that pops this many bytes beside the address.
    Return(u16),
    /// No trace may contain it.
    Refused(Refusal),
}

/// When a conditional jump is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// By the flags.
    Flags(Cond),
    /// If rcx is zero, or ecx.
    Zero {
        /// It is ecx.
        narrow: bool,
    },
    /// If rcx (or ecx) is not zero after it was decremented, and a condition holds.
    Loop {
        /// It is ecx.
        narrow: bool,
        /// The condition.
        also: Option<Cond>,
    },
}

/// A memory access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    base: Option<u8>,
    index: Option<u8>,
    scale: u8,
    displacement: u64,
    segment: Option<Slot>,
    narrow: bool,
    /// Bytes.
    pub size: u32,
    /// It is read.
    pub reads: bool,
    /// It is written.
    pub writes: bool,
}

impl Access {
    /// The effective address.
    pub fn address(&self, context: &Context) -> u64 {
        let register = |number: Option<u8>| number.map_or(0, |number| context.gpr[usize::from(number)]);
        let sum = register(self.base)
            .wrapping_add(register(self.index).wrapping_mul(u64::from(self.scale)))
            .wrapping_add(self.displacement);
        let offset = if self.narrow { sum & 0xffff_ffff } else { sum };
        self.segment.map_or(0, |segment| context.slot(segment)).wrapping_add(offset)
    }
}

/// Decodes the instruction at `pc`. `bytes` are what is there, zeros where memory ends.
pub fn decode(pc: u64, bytes: &[u8; 16]) -> Instruction {
    Decoder::with_ip(64, bytes, pc, DecoderOptions::NONE).decode()
}

/// Prepares an instruction. `place` puts the code of a verbatim copy into executable memory; `None` if that is full.
pub fn prepare(
    instruction: Instruction,
    bytes: &[u8; 16],
    place: impl FnOnce(&[u8], Option<Scratch>, VectorState) -> Option<u64>,
) -> Option<SlotInfo> {
    let refusal = redmagic_lift::refusal(&instruction);
    let kind = match (refusal, control_flow(&instruction)) {
        (Some(refusal), _) => Kind::Refused(refusal),
        (None, Some(kind)) => kind,
        (None, None) => match verbatim(&instruction, &bytes[..instruction.len()]) {
            Some((code, scratch)) => Kind::Plain(place(&code, scratch, vector_state(&instruction))?),
            None => Kind::Refused(Refusal::Invalid),
        },
    };
    Some(SlotInfo {
        pc: instruction.ip(),
        next: instruction.next_ip(),
        kind,
        accesses: accesses(&instruction),
        native: redmagic_lift::is_native(&instruction),
        instruction,
        successors: [AtomicPtr::default(), AtomicPtr::default()],
    })
}

fn control_flow(instruction: &Instruction) -> Option<Kind> {
    let target = || instruction.near_branch_target();
    Some(match instruction.flow_control() {
        FlowControl::UnconditionalBranch => Kind::Jump(target()),
        FlowControl::IndirectBranch => Kind::JumpIndirect,
        FlowControl::Call => Kind::Call(target()),
        FlowControl::IndirectCall => Kind::CallIndirect,
        FlowControl::Return => {
            Kind::Return(if instruction.op_count() == 1 { instruction.immediate(0) as u16 } else { 0 })
        }
        FlowControl::ConditionalBranch => Kind::Branch { condition: condition(instruction)?, target: target() },
        FlowControl::Next | FlowControl::Interrupt | FlowControl::XbeginXabortXend | FlowControl::Exception => {
            return None;
        }
    })
}

fn condition(instruction: &Instruction) -> Option<Condition> {
    Some(match instruction.code() {
        Code::Jecxz_rel8_64 => Condition::Zero { narrow: true },
        Code::Jrcxz_rel8_64 => Condition::Zero { narrow: false },
        Code::Loop_rel8_64_ECX => Condition::Loop { narrow: true, also: None },
        Code::Loop_rel8_64_RCX => Condition::Loop { narrow: false, also: None },
        Code::Loope_rel8_64_ECX => Condition::Loop { narrow: true, also: Some(Cond::E) },
        Code::Loope_rel8_64_RCX => Condition::Loop { narrow: false, also: Some(Cond::E) },
        Code::Loopne_rel8_64_ECX => Condition::Loop { narrow: true, also: Some(Cond::Ne) },
        Code::Loopne_rel8_64_RCX => Condition::Loop { narrow: false, also: Some(Cond::Ne) },
        _ => {
            // The decoder numbers conditions as the machine does, from 1 on.
            let number = (instruction.condition_code() as usize).checked_sub(1)?;
            Condition::Flags(*Cond::ALL.get(number)?)
        }
    })
}

fn accesses(instruction: &Instruction) -> SmallVec<[Access; 2]> {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let general = |register: Register| register.is_gpr().then(|| register.full_register().number() as u8);
    let mut list: SmallVec<[Access; 2]> = info
        .used_memory()
        .iter()
        .filter_map(|memory| {
            let (reads, writes) = match memory.access() {
                OpAccess::Read => (true, false),
                OpAccess::Write => (false, true),
                // `cmpxchg` writes in any case, if only what it has read.
                OpAccess::ReadWrite | OpAccess::ReadCondWrite => (true, true),
                // Conditional accesses may not be possible at all.
                _ => return None,
            };
            let size = memory.memory_size().size() as u32;
            if memory.vsib_size() != 0 || size == 0 {
                return None;
            }
            Some(Access {
                base: general(memory.base()),
                index: general(memory.index()),
                scale: memory.scale() as u8,
                displacement: memory.displacement(),
                segment: match memory.segment() {
                    Register::FS => Some(Slot::FS),
                    Register::GS => Some(Slot::GS),
                    _ => None,
                },
                narrow: memory.address_size() == iced_x86::CodeSize::Code32,
                size,
                reads,
                writes,
            })
        })
        .collect();
    // The logged access is the explicit operand's; where two are explicit or none is, what is read.
    let stores_popped = instruction.mnemonic() == Mnemonic::Pop && instruction.op0_kind() == OpKind::Memory;
    list.sort_by_key(|access| access.reads == stores_popped);
    list
}

/// The bytes that do what the instruction does at any address, and the register that they need. `None` if there are none.
pub fn verbatim(instruction: &Instruction, bytes: &[u8]) -> Option<(Vec<u8>, Option<Scratch>)> {
    if !instruction.is_ip_rel_memory_operand() {
        return Some((bytes.to_vec(), None));
    }
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let uses =
        |register: Register| info.used_registers().iter().any(|used| used.register().full_register() == register);
    let register = [Register::RBX, Register::RSI, Register::RDI, Register::RDX, Register::RCX, Register::RAX]
        .into_iter()
        .find(|register| !uses(*register))?;
    let scratch = Scratch { register: register.number() as u8, value: instruction.ip_rel_memory_address() };
    if let Some(code) = based_on(register, instruction, bytes) {
        return Some((code, Some(scratch)));
    }
    let mut moved = *instruction;
    moved.set_memory_base(register);
    moved.set_memory_displacement64(0);
    moved.set_memory_displ_size(0);
    let mut encoder = Encoder::new(64);
    encoder.encode(&moved, instruction.ip()).ok()?;
    Some((encoder.take_buffer(), Some(scratch)))
}

/// The bytes of an instruction with `register` as the whole address of its operand relative to rip; `None` if that takes
/// more than other bits in the same fields. (An encoder can do it too, but making one takes as long as a short recording.)
fn based_on(register: Register, instruction: &Instruction, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut decoder = Decoder::with_ip(64, bytes, instruction.ip(), DecoderOptions::NONE);
    let again = decoder.decode();
    let displacement = decoder.get_constant_offsets(&again).displacement_offset();
    let fields = bytes.get(displacement.checked_sub(1)?).filter(|fields| **fields & 0xc7 == 0x05)?;
    let mut code = bytes[..displacement - 1].to_vec();
    code.push(fields & 0x38 | register.number() as u8);
    code.extend_from_slice(bytes.get(displacement + 4..)?);
    // Whether it is that instruction now is the decoder's to say: prefixes may extend the field.
    let moved = Decoder::with_ip(64, &code, instruction.ip(), DecoderOptions::NONE).decode();
    let registers = |inst: &Instruction| [0, 1, 2, 3, 4].map(|at| (at < inst.op_count()).then(|| inst.op_register(at)));
    let same = moved.code() == instruction.code()
        && moved.len() == code.len()
        && registers(&moved) == registers(instruction)
        && moved.memory_base() == register
        && moved.memory_index() == Register::None
        && moved.memory_displacement64() == 0
        && moved.memory_segment() == instruction.memory_segment();
    same.then_some(code)
}

/// Which vector state an instruction needs and changes. Encodings other than the legacy one clear or use what lies above
/// the xmm registers.
pub fn vector_state(instruction: &Instruction) -> VectorState {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let vector = |register: Register| register.is_vector_register() || register.is_k();
    if instruction.encoding() != EncodingKind::Legacy {
        // Also those without vector operands (vzeroupper); bmi instructions pay a little for the simplicity.
        VectorState::All
    } else if info.used_registers().iter().any(|used| vector(used.register())) {
        VectorState::Xmm
    } else {
        VectorState::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(bytes: &[u8]) -> (Instruction, [u8; 16]) {
        let mut padded = [0; 16];
        padded[..bytes.len()].copy_from_slice(bytes);
        (decode(0x40_1000, &padded), padded)
    }

    #[test]
    fn rip_relative_operands_get_a_register() {
        // mov rbx, [rip + 0x10]
        let (inst, bytes) = instruction(&[0x48, 0x8b, 0x1d, 0x10, 0, 0, 0]);
        let (code, scratch) = verbatim(&inst, &bytes[..inst.len()]).expect("encodable");
        assert_eq!(scratch, Some(Scratch { register: 6, value: 0x40_1017 }));
        assert_eq!(code, [0x48, 0x8b, 0x1e]); // mov rbx, [rsi]
    }

    #[test]
    fn the_address_of_an_operand_changes_in_place() {
        let cases: [(&[u8], &[u8]); 6] = [
            (&[0x81, 0x3d, 1, 2, 3, 4, 5, 6, 7, 8], &[0x81, 0x3b, 5, 6, 7, 8]), // cmp dword [rip + …], 0x8070605
            (&[0x66, 0x0f, 0x28, 0x05, 1, 2, 3, 4], &[0x66, 0x0f, 0x28, 0x03]), // movapd xmm0, [rip + …]
            (&[0xf2, 0x44, 0x0f, 0x10, 0x0d, 1, 2, 3, 4], &[0xf2, 0x44, 0x0f, 0x10, 0x0b]), // movsd xmm9, [rip + …]
            (&[0xc5, 0xf4, 0x58, 0x05, 1, 2, 3, 4], &[0xc5, 0xf4, 0x58, 0x03]), // vaddps ymm0, ymm1, [rip + …]
            (&[0x62, 0xf1, 0x74, 0x48, 0x58, 0x05, 1, 2, 3, 4], &[0x62, 0xf1, 0x74, 0x48, 0x58, 0x03]), // … zmm
            (&[0x3a, 0x05, 1, 2, 3, 4], &[0x3a, 0x03]),                         // cmp al, [rip + …]
        ];
        for (before, after) in cases {
            let (inst, bytes) = instruction(before);
            assert_eq!(based_on(Register::RBX, &inst, &bytes[..inst.len()]).as_deref(), Some(after), "{before:x?}");
        }
        // mov rax, [rip + …] with a prefix that makes r11 of rbx: left to the encoder.
        let (inst, bytes) = instruction(&[0x49, 0x8b, 0x05, 1, 2, 3, 4]);
        assert_eq!(based_on(Register::RBX, &inst, &bytes[..inst.len()]), None);
        assert_eq!(verbatim(&inst, &bytes[..inst.len()]).map(|(code, _)| code), Some(vec![0x48, 0x8b, 0x03]));
    }

    #[test]
    fn the_logged_access_is_the_explicit_one() {
        let mut context = Context::new();
        context.gpr[4] = 0x1000;
        context.gpr[0] = 0x2000;
        let first = |bytes: &[u8], context: &Context| {
            let access = accesses(&instruction(bytes).0)[0];
            (access.address(context), access.reads, access.writes)
        };
        assert_eq!(first(&[0xff, 0x30], &context), (0x2000, true, false)); // push [rax]
        assert_eq!(first(&[0x8f, 0x00], &context), (0x2000, false, true)); // pop [rax]
        assert_eq!(first(&[0x53], &context), (0xff8, false, true)); // push rbx
        assert_eq!(first(&[0xc3], &context), (0x1000, true, false)); // ret
        assert_eq!(first(&[0x48, 0x01, 0x18], &context), (0x2000, true, true)); // add [rax], rbx
        assert!(accesses(&instruction(&[0x48, 0x8d, 0x00]).0).is_empty()); // lea rax, [rax]
    }

    #[test]
    fn conditions_are_numbered_as_in_the_machine() {
        for cond in Cond::ALL {
            let (inst, _) = instruction(&[0x70 | cond as u8, 0x10]);
            assert_eq!(condition(&inst), Some(Condition::Flags(cond)));
        }
    }

    #[test]
    fn vector_state_follows_the_encoding() {
        assert_eq!(vector_state(&instruction(&[0xf2, 0x0f, 0x58, 0xc1]).0), VectorState::Xmm); // addsd
        assert_eq!(vector_state(&instruction(&[0xc5, 0xf3, 0x58, 0xc1]).0), VectorState::All); // vaddsd
        assert_eq!(vector_state(&instruction(&[0xc5, 0xf8, 0x77]).0), VectorState::All); // vzeroupper
        assert_eq!(vector_state(&instruction(&[0x48, 0x01, 0xc0]).0), VectorState::None);
    }
}
