//! Straight-line blocks: what a trace is made of.
//!
//! A block must run from many different states, so its addresses cannot depend on what the block computes. Registers
//! are therefore shared out: r14 and r15 point into the arena's data, rsp into its stack, r13 is a small index; the
//! block never writes these (rsp moves by pushes, pops and calls only) and computes with all the others. Conditional
//! branches lead to landing pads: from another state the block may leave early, as a trace does by a guard.
//!
//! Worked example: `add rax, [r14+r13*8-16]; jb pad; push rcx; lea rdx, [next]; jmp rdx; addsd xmm0, [r15]`.

use crate::corpus::{is_executable_alone, placed};
use crate::native::{ARENA_BYTES, State};
use crate::place::is_bit_string;
use crate::rng::Rng;
use crate::shapes::{DATA, Places, STACK, Shapes};
use crate::undefined::{iced_flags, maybe_undefined};
use iced_x86::{
    Code, Encoder, FlowControl, IcedError, Instruction, InstructionInfoFactory, MemoryOperand, Mnemonic, OpAccess,
    OpKind, Register, RepPrefixKind,
};

/// Registers that a block does not write; r12 is its counter if it loops.
const PINNED: [Register; 3] = [Register::R13, Register::R14, Register::R15];

/// What interpreters mostly execute; half of a block is made of it.
const COMMON: &[Mnemonic] = {
    use Mnemonic::*;
    &[
        Mov, Add, Sub, Cmp, Test, Lea, Push, Pop, And, Or, Xor, Shl, Shr, Movzx, Movsx, Movsxd, Imul, Je, Jne, Jb, Ja,
        Jl, Jle, Js, Movsd, Addsd, Mulsd, Ucomisd, Sete, Cmove,
    ]
};

/// Makes blocks.
pub struct Blocks {
    shapes: Shapes,
    common: Vec<Code>,
    information: InstructionInfoFactory,
    /// Whether the block being made is the body of a loop.
    looping: bool,
}

impl Blocks {
    /// A generator that uses `shapes`.
    pub fn new(shapes: Shapes) -> Blocks {
        let codes = shapes.codes.iter().copied();
        let common = codes.filter(|code| COMMON.contains(&code.mnemonic()) && !is_string(*code)).collect();
        Blocks { shapes, common, information: InstructionInfoFactory::new(), looping: false }
    }

    /// A loop with a body of about `length` instructions, to stand at address `start`: it counts r12d down to 0, or is
    /// left by a branch to a pad.
    pub fn looped(&mut self, length: usize, start: u64, places: &Places, rng: &mut Rng) -> Vec<Instruction> {
        self.looping = true;
        let mut block = self.block(length, start, places, rng);
        self.looping = false;
        // `sub` defines all flags, so that none is undefined when the body begins again.
        let count = Instruction::with2(Code::Sub_rm32_imm8, Register::R12D, 1);
        let back = Instruction::with_branch(Code::Jne_rel32_64, start);
        block.extend(count.ok().into_iter().chain(back.ok()));
        block
    }

    /// A block of about `length` instructions, to stand at address `start`.
    pub fn block(&mut self, length: usize, start: u64, places: &Places, rng: &mut Rng) -> Vec<Instruction> {
        let mut block = Vec::new();
        let mut end = start;
        let mut undefined = 0;
        while block.len() < length {
            let mut next = match rng.below(24) {
                0 => idiom(end, places, rng).unwrap_or_default(),
                _ => self.single(places, rng).into_iter().collect(),
            };
            let mut encoder = Encoder::new(64);
            let encoded: Option<u64> =
                next.iter().try_fold(end, |pc, inst| encoder.encode(inst, pc).ok().map(|bytes| pc + bytes as u64));
            // Nothing may depend on flags that the architecture leaves undefined.
            let defined = |undefined, inst: &Instruction| {
                let reads = iced_flags(inst.rflags_read()) & undefined != 0;
                (!reads).then(|| maybe_undefined(inst, undefined))
            };
            if let (Some(after), Some(left)) = (encoded, next.iter().try_fold(undefined, defined)) {
                end = after;
                undefined = left;
                block.append(&mut next);
            }
        }
        block
    }

    /// A block made of real instructions, with their registers, immediates and order: only what leads out of the block's
    /// rules is changed or left out. Equal addresses stay equal.
    pub fn adapted(&mut self, code: &[Instruction], places: &Places, rng: &mut Rng) -> Vec<Instruction> {
        let mut block = Vec::new();
        let mut undefined = 0;
        for inst in code {
            let Some(inst) = self.adapt(inst, places, rng) else { continue };
            if iced_flags(inst.rflags_read()) & undefined == 0 && Encoder::new(64).encode(&inst, places.pads[0]).is_ok()
            {
                undefined = maybe_undefined(&inst, undefined);
                block.push(inst);
            }
        }
        block
    }

    /// A real instruction within a block's rules.
    fn adapt(&mut self, inst: &Instruction, places: &Places, rng: &mut Rng) -> Option<Instruction> {
        let mut inst = placed(inst, places, rng)?;
        let near_only = inst.is_loop() || inst.is_loopcc() || inst.is_jcx_short();
        let stray = is_string(inst.code()) || is_bit_string(&inst) || !is_executable_alone(&inst) || near_only;
        let excluded = matches!(inst.mnemonic(), Mnemonic::Div | Mnemonic::Idiv | Mnemonic::Leave | Mnemonic::Shld);
        let flows = matches!(inst.flow_control(), FlowControl::Next | FlowControl::ConditionalBranch);
        if stray || excluded || !flows || inst.mnemonic() == Mnemonic::Shrd {
            return None;
        }
        // The landing pads may be far away.
        inst.as_near_branch();
        let (base, index) = (inst.memory_base(), inst.memory_index());
        let has_memory = inst.op_kinds().any(|kind| kind == OpKind::Memory);
        for operand in 0..inst.op_count() {
            if inst.op_kind(operand) == OpKind::Register {
                inst.set_op_register(operand, unpinned(inst.op_register(operand)));
            }
        }
        if has_memory && (base.is_gpr() || index.is_gpr()) {
            let aligned = inst.memory_size().size() >= 16;
            let stack = base == Register::RSP && !aligned;
            let other = if base.number() % 2 == 0 { Register::R14 } else { Register::R15 };
            inst.set_memory_base(if stack { Register::RSP } else { other });
            let indexed = index != Register::None && !aligned;
            inst.set_memory_index(if indexed { Register::R13 } else { Register::None });
            let displacement = i64::from(inst.memory_displacement64() as i8) & if aligned { !31 } else { !0 };
            inst.set_memory_displ_size(u32::from(displacement != 0));
            inst.set_memory_displacement64(displacement as u64);
        }
        self.keeps_pinned(&inst).then_some(inst)
    }

    fn single(&mut self, places: &Places, rng: &mut Rng) -> Option<Instruction> {
        let codes = if rng.one_in(2) { &self.common } else { &self.shapes.codes };
        let code = *rng.pick(codes);
        let mut inst = self.shapes.instruction(code, places, rng)?;
        if is_string(code) || is_bit_string(&inst) {
            return None;
        }
        match inst.mnemonic() {
            // Undefined results for some counts.
            Mnemonic::Shld | Mnemonic::Shrd if inst.op1_register().size() == 2 => return None,
            Mnemonic::Leave | Mnemonic::Xlatb | Mnemonic::Cld | Mnemonic::Std => return None,
            // Exits in the middle of a round cannot be compared.
            Mnemonic::Div | Mnemonic::Idiv if self.looping || !rng.one_in(8) => return None,
            _ => {}
        }
        if !matches!(inst.flow_control(), FlowControl::Next | FlowControl::ConditionalBranch) {
            return None;
        }
        if inst.op_kinds().any(|kind| kind == OpKind::Memory) {
            pin_address(&mut inst, rng);
        }
        let alignment = inst.memory_size().size().max(8) as u64 - 1;
        let aligned = alignment < 15 || inst.memory_displacement64() & alignment == 0;
        (aligned && self.keeps_pinned(&inst)).then_some(inst)
    }

    fn keeps_pinned(&mut self, inst: &Instruction) -> bool {
        let moves_stack = inst.stack_pointer_increment() != 0;
        let info = self.information.info(inst);
        let writes_pinned = info.used_registers().iter().any(|used| {
            let full = used.register().full_register();
            let read_only = matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess);
            let counter = self.looping && full == Register::R12;
            !read_only && (PINNED.contains(&full) || counter || full == Register::RSP && !moves_stack)
        });
        let names_stack = (0..inst.op_count()).any(|operand| {
            moves_stack
                && inst.op_kind(operand) == OpKind::Register
                && inst.op_register(operand).full_register() == Register::RSP
        });
        !writes_pinned && !names_stack
    }
}

/// The register, or one of the same size in the place of a pinned one.
fn unpinned(register: Register) -> Register {
    match register.full_register() {
        Register::R13 | Register::R14 | Register::R15 if register.is_gpr() => register - 5,
        _ => register,
    }
}

fn is_string(code: Code) -> bool {
    code.op_code().op_kinds().iter().any(|kind| {
        use iced_x86::OpCodeOperandKind as K;
        matches!(kind, K::seg_rSI | K::es_rDI | K::seg_rDI)
    })
}

/// Replaces the registers of a memory operand by pinned ones.
fn pin_address(inst: &mut Instruction, rng: &mut Rng) {
    if inst.memory_base() == Register::RIP || !inst.memory_base().is_gpr() && !inst.memory_index().is_gpr() {
        return;
    }
    let base = *rng.pick(&[Register::R14, Register::R15, Register::RSP]);
    inst.set_memory_base(base);
    inst.set_memory_index(Register::None);
    inst.set_memory_index_scale(1);
    let mut displacement = rng.bits() as i8 as i64;
    if inst.memory_size().size() >= 16 || rng.one_in(2) {
        displacement &= !31;
    } else if rng.one_in(3) {
        inst.set_memory_index(Register::R13);
        inst.set_memory_index_scale(1 << rng.below(4));
    }
    if base == Register::RSP {
        // Pushes and pops have made rsp a multiple of 8 only.
        let aligned_only = inst.memory_size().size() >= 16;
        inst.set_memory_base(if aligned_only { Register::R14 } else { base });
    }
    inst.set_memory_displ_size(if displacement == 0 { 0 } else { 1 });
    inst.set_memory_displacement64(displacement as u64);
}

/// Several instructions that belong together, to stand at `start`.
fn idiom(start: u64, places: &Places, rng: &mut Rng) -> Result<Vec<Instruction>, IcedError> {
    let scratch = [Register::RAX, Register::RDX, Register::RBX, Register::R8, Register::R11];
    let register = *rng.pick(&scratch);
    let load_address = |register, target: u64| {
        let memory = MemoryOperand::with_base_displ(Register::RIP, target as i64);
        Instruction::with2(Code::Lea_r64_m, register, memory)
    };
    /// The number of bytes of a RIP-relative `lea`.
    const LEA: u64 = 7;
    Ok(match rng.below(5) {
        // A call and the end of the callee's frame.
        0 => vec![
            Instruction::with_branch(Code::Call_rel32_64, start + 5)?,
            Instruction::with1(Code::Pop_r64, *rng.pick(&scratch))?,
        ],
        // An indirect branch that goes on at the next instruction.
        1 => {
            let jump = Instruction::with1(Code::Jmp_rm64, register)?;
            let length = Encoder::new(64).encode(&jump, start)? as u64;
            vec![load_address(register, start + LEA + length)?, jump]
        }
        // A return to the next instruction.
        2 => {
            let push = Instruction::with1(Code::Push_r64, register)?;
            let length = Encoder::new(64).encode(&push, start)? as u64;
            vec![load_address(register, start + LEA + length + 1)?, push, Instruction::with(Code::Retnq)]
        }
        // A computed index.
        3 => {
            let narrow = register.full_register32();
            let address = MemoryOperand::with_base_index_scale(Register::R14, register, 8);
            vec![
                Instruction::with2(Code::And_rm32_imm8, narrow, 15)?,
                match rng.one_in(2) {
                    true => Instruction::with2(Code::Mov_r64_rm64, Register::RSI, address)?,
                    false => Instruction::with2(Code::Add_rm64_r64, address, Register::RSI)?,
                },
            ]
        }
        // A string operation.
        _ => {
            let none = RepPrefixKind::None;
            let kind = rng.below(7);
            let mut string = match kind {
                0 => Instruction::with_movsq(64, Register::None, none)?,
                1 => Instruction::with_stosb(64, none)?,
                2 => Instruction::with_stosd(64, none)?,
                3 => Instruction::with_cmpsb(64, Register::None, none)?,
                4 => Instruction::with_cmpsq(64, Register::None, none)?,
                5 => Instruction::with_scasb(64, none)?,
                _ => Instruction::with_scasw(64, none)?,
            };
            match rng.below(4) {
                0 => {}
                1 if kind > 2 => string.set_has_repne_prefix(true),
                _ => string.set_has_rep_prefix(true),
            }
            vec![
                load_address(Register::RSI, places.arena + DATA.start + rng.below(64) as u64)?,
                load_address(Register::RDI, places.arena + DATA.start + 64 + rng.below(1024) as u64)?,
                Instruction::with2(Code::Mov_r32_imm32, Register::ECX, rng.below(9) as i32)?,
                string,
            ]
        }
    })
}

/// Sets the pinned registers of `state`.
pub fn place_block(state: &mut State, places: &Places, rng: &mut Rng) {
    const { assert!(STACK.end as usize + 256 <= ARENA_BYTES) };
    state.gpr[4] = places.arena + STACK.start + 512 + (rng.below(32) * 8) as u64;
    state.gpr[12] = 1 + rng.below(6) as u64;
    state.gpr[13] = rng.below(16) as u64;
    for pointer in [14, 15] {
        state.gpr[pointer] = places.arena + DATA.start + 256 + (rng.below(32) * 32) as u64;
    }
    if rng.one_in(4) {
        // The two pointers see the same data.
        state.gpr[15] = state.gpr[14];
    }
}
