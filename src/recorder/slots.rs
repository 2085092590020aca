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
                OpAccess::ReadWrite => (true, true),
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
    let mut moved = *instruction;
    moved.set_memory_base(register);
    moved.set_memory_displacement64(0);
    moved.set_memory_displ_size(0);
    let mut encoder = Encoder::new(64);
    encoder.encode(&moved, instruction.ip()).ok()?;
    let value = instruction.ip_rel_memory_address();
    Some((encoder.take_buffer(), Some(Scratch { register: register.number() as u8, value })))
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
