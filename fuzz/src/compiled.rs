//! Runs compiled traces in the executor, as a runtime would: with a context, stubs for native operations, and exit
//! records.
//!
//! The context, the activation record and the stack of the code lie in the executor's scratch memory, at addresses that
//! are known when the code is made. Exit records exist as addresses only: [`Program::run`] turns the address that the code
//! returns into the number of the exit.
//!
//! Worked example: a trace with one native operation becomes, in the slot,
//! ```text
//! jmp code
//! stub:  save the host's registers; load the context; <the instruction>; store the context; restore; ret
//! code:  ... call stub ... mov rax, EXIT_RECORDS + 0 * STRIDE; ret
//! ```
//! and runs, beside the block that it belongs to, with rdi = context, rsi = 0, and a landing pad as its return address.

use crate::native::{Executor, LoadError, Outcome, State};
use iced_x86::{Code, Decoder, DecoderOptions, Encoder, IcedError, Instruction, MemoryOperand, Register};
use redmagic_backend::{Backend, BackendError, Compiled, FlagsRecipe, Layout, Request};
use redmagic_ir::{Entity, Exit, FLAGS_MASK, NativeOp, Slot, Trace};
use std::fmt;

const EXIT_RECORDS: u64 = 0x1_0000_0000;
const STRIDE: u64 = 64;

/// Offsets in the scratch memory.
const FREE_RECORD: usize = 0x400;
const FLAG_ARGS: usize = 0x410;
const SAVED_RSP: usize = 0x430;
const RECORD: usize = 0x800;
const SAVE_AREA: usize = 0x900;
const SAVE_WORDS: usize = 512;
const STACK_TOP: usize = 0xff00;

/// Why a trace does not run.
#[derive(Debug)]
pub enum ProgramError {
    /// The backend gave up.
    Backend(BackendError),
    /// The code does not fit.
    Load(LoadError),
    /// A stub has no encoding.
    Stub(String),
}

impl fmt::Display for ProgramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProgramError::Backend(error) => error.fmt(f),
            ProgramError::Load(error) => error.fmt(f),
            ProgramError::Stub(reason) => write!(f, "a native operation has no stub: {reason}"),
        }
    }
}

impl std::error::Error for ProgramError {}

impl From<IcedError> for ProgramError {
    fn from(error: IcedError) -> ProgramError {
        ProgramError::Stub(error.to_string())
    }
}

/// How compiled code ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By this exit.
    Exit(Exit),
    /// By a fault at an address of the compiled code.
    Fault {
        /// Which.
        signal: i32,
    },
    /// By returning something that is no exit record, or to the wrong place: a bug of the backend.
    Broken,
}

/// A compiled trace, ready to be loaded.
pub struct Program {
    code: Vec<u8>,
    compiled: Compiled,
}

/// Where slots are in the context.
pub fn layout() -> Layout {
    Layout {
        slots: std::array::from_fn(|slot| slot as i32 * 8),
        above: 0,
        free_record: FREE_RECORD as i32,
        flag_args: std::array::from_fn(|arg| (FLAG_ARGS + arg * 8) as i32),
        record_resume: 0,
        record_target: 8,
        record_return: 16,
        record_save: 24,
        save_words: SAVE_WORDS,
    }
}

impl Program {
    /// Compiles `trace` for `executor`.
    pub fn new(executor: &Executor, backend: &mut Backend, trace: &Trace) -> Result<Program, ProgramError> {
        let start = executor.beside_address();
        // A jump over the stubs, to be filled in when their length is known.
        let mut code = vec![0; 16];
        let mut natives = Vec::new();
        for native in trace.natives.values() {
            natives.push(start + code.len() as u64);
            let stub = stub(native, executor.scratch_address(), start + code.len() as u64)?;
            code.extend(stub);
        }
        let request =
            Request { trace, layout: &layout(), exit_records: EXIT_RECORDS, exit_stride: STRIDE, natives: &natives };
        let compiled = backend.compile(&request).map_err(ProgramError::Backend)?;
        code.resize(code.len().next_multiple_of(compiled.alignment as usize), 0xcc);
        let jump = Instruction::with_branch(Code::Jmp_rel32_64, start + code.len() as u64)?;
        let jump = encode(&[jump], start)?;
        code[..jump.len()].copy_from_slice(&jump);
        code.extend(&compiled.code);
        Ok(Program { code, compiled })
    }

    /// Puts the code beside the executor's block.
    pub fn load(&self, executor: &mut Executor) -> Result<(), ProgramError> {
        executor.load_beside(&self.code).map_err(ProgramError::Load)
    }

    /// Runs the loaded code on `state`, which holds the guest's registers afterwards as the exit describes them.
    pub fn run(&self, executor: &mut Executor, state: &mut State) -> Ending {
        let scratch = executor.scratch_address();
        let pad = executor.pad_address(0);
        let slots = slots_of(state);
        executor.scratch_mut()[..slots.len()].copy_from_slice(&slots);
        put(executor, FREE_RECORD, scratch + RECORD as u64);
        put(executor, RECORD + 24, scratch + SAVE_AREA as u64);
        put(executor, STACK_TOP, pad);
        let mut host = State { gpr: [0x5555_5555_5555; 16], mxcsr: state.mxcsr, ..State::default() };
        host.gpr[7] = scratch;
        host.gpr[6] = 0;
        host.gpr[4] = scratch + STACK_TOP as u64;
        let exit = match executor.run_from(executor.beside_address(), &mut host) {
            Outcome::Fault { signal, .. } => return Ending::Fault { signal },
            Outcome::Completed { next_pc } if next_pc != pad || host.gpr[4] != scratch + STACK_TOP as u64 + 8 => {
                return Ending::Broken;
            }
            Outcome::Completed { .. } => host.gpr[0].wrapping_sub(EXIT_RECORDS),
        };
        let Some(code) = self.compiled.exits.get((exit / STRIDE) as usize).filter(|_| exit % STRIDE == 0) else {
            return Ending::Broken;
        };
        set_slots(state, executor.scratch());
        for &(slot, value) in &code.constants {
            set_slot(state, slot, value);
        }
        if let FlagsRecipe::Recipe { op, ty } = code.flags {
            let args = [0, 1, 2].map(|arg| u128::from(get(executor, FLAG_ARGS + arg * 8)));
            let Some(flags) = redmagic_ir::scalar::eval_pure(op, redmagic_ir::Type::I32, ty, args, None) else {
                return Ending::Broken;
            };
            set_slot(state, Slot::FLAGS, flags as u64);
        }
        Ending::Exit(Exit::from_index((exit / STRIDE) as usize))
    }
}

fn put(executor: &mut Executor, at: usize, value: u64) {
    executor.scratch_mut()[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn get(executor: &Executor, at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&executor.scratch()[at..at + 8]);
    u64::from_le_bytes(bytes)
}

/// Where the register files have their parts among the slots.
const GENERAL: usize = 0;
const FLAGS: usize = Slot::FLAGS.index();
const LOW: usize = Slot::xmm(0, 0).index();
const HIGH: usize = Slot::xmm(0, 2).index();

/// The values of all slots, as they lie in the context.
fn slots_of(state: &State) -> [u8; Slot::COUNT * 8] {
    let mut words = [0; Slot::COUNT];
    words[GENERAL..GENERAL + 16].copy_from_slice(&state.gpr);
    words[FLAGS] = state.flags & u64::from(FLAGS_MASK);
    for (number, lanes) in state.vector.iter().enumerate() {
        words[LOW + 2 * number..][..2].copy_from_slice(&lanes[..2]);
        words[HIGH + 2 * number..][..2].copy_from_slice(&lanes[2..]);
    }
    let mut bytes = [0; Slot::COUNT * 8];
    bytes.chunks_exact_mut(8).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
    bytes
}

/// Sets a register file to what a context holds.
fn set_slots(state: &mut State, context: &[u8]) {
    let word = |slot: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&context[slot * 8..slot * 8 + 8]);
        u64::from_le_bytes(bytes)
    };
    state.gpr = std::array::from_fn(|number| word(GENERAL + number));
    set_slot(state, Slot::FLAGS, word(FLAGS));
    for (number, lanes) in state.vector.iter_mut().enumerate() {
        let at = 2 * number;
        *lanes = [word(LOW + at), word(LOW + at + 1), word(HIGH + at), word(HIGH + at + 1)];
    }
}

/// The value of `slot` in a register file (0 for the segment bases, which the guest of these tests does not use).
pub fn slot_of(state: &State, slot: Slot) -> u64 {
    match (slot.as_gpr(), slot.as_xmm()) {
        (Some(number), _) => state.gpr[usize::from(number)],
        (_, Some((number, lane))) => state.vector[usize::from(number)][usize::from(lane)],
        _ if slot == Slot::FLAGS => state.flags & u64::from(FLAGS_MASK),
        _ => 0,
    }
}

/// Sets `slot` in a register file; segment bases are ignored.
pub fn set_slot(state: &mut State, slot: Slot, value: u64) {
    match (slot.as_gpr(), slot.as_xmm()) {
        (Some(number), _) => state.gpr[usize::from(number)] = value,
        (_, Some((number, lane))) => state.vector[usize::from(number)][usize::from(lane)] = value,
        _ if slot == Slot::FLAGS => {
            let mask = u64::from(FLAGS_MASK);
            state.flags = state.flags & !mask | value & mask;
        }
        _ => {}
    }
}

fn encode(insts: &[Instruction], address: u64) -> Result<Vec<u8>, IcedError> {
    let mut encoder = Encoder::new(64);
    let mut pc = address;
    for inst in insts {
        pc += encoder.encode(inst, pc)? as u64;
    }
    Ok(encoder.take_buffer())
}

const HOST_SAVED: [Register; 6] =
    [Register::RBX, Register::RBP, Register::R12, Register::R13, Register::R14, Register::R15];

/// A System V function, to stand at `address`, that executes `native` on the context at `context`.
fn stub(native: &NativeOp, context: u64, address: u64) -> Result<Vec<u8>, IcedError> {
    let field = |offset: usize| MemoryOperand::with_base_displ(Register::RIP, (context + offset as u64) as i64);
    let slot = |slot: Slot| field(slot.index() * 8);
    let vector = |number: u8| (Register::XMM0 + u32::from(number), slot(Slot::xmm(number, 0)));
    let upper = |number: u8| slot(Slot::xmm(number, 2));
    let wide = is_x86_feature_detected!("avx");
    let general = |number: u8| (Register::RAX + u32::from(number), slot(Slot::gpr(number)));
    // rsp goes last: until then the host's stack is in use.
    let order = || (0..16).filter(|&number| number != 4).chain([4]);
    let mut code = Vec::new();
    for register in HOST_SAVED {
        code.push(Instruction::with1(Code::Push_r64, register)?);
    }
    code.push(Instruction::with2(Code::Mov_rm64_r64, field(SAVED_RSP), Register::RSP)?);
    code.push(Instruction::with2(Code::Mov_r32_rm32, Register::EAX, slot(Slot::FLAGS))?);
    code.push(Instruction::with2(Code::Or_rm32_imm32, Register::EAX, 0x202)?);
    code.push(Instruction::with1(Code::Push_r64, Register::RAX)?);
    code.push(Instruction::with(Code::Popfq));
    for (register, memory) in (0..16).map(vector) {
        code.push(Instruction::with2(Code::Movups_xmm_xmmm128, register, memory)?);
    }
    for number in (0..16).filter(|_| wide) {
        let ymm = Register::YMM0 + u32::from(number);
        code.push(Instruction::with4(Code::VEX_Vinsertf128_ymm_ymm_xmmm128_imm8, ymm, ymm, upper(number), 1)?);
    }
    for (register, memory) in order().map(general) {
        code.push(Instruction::with2(Code::Mov_r64_rm64, register, memory)?);
    }
    code.push(Decoder::with_ip(64, &native.bytes, native.pc, DecoderOptions::NONE).decode());
    for (register, memory) in (0..16).map(general) {
        code.push(Instruction::with2(Code::Mov_rm64_r64, memory, register)?);
    }
    code.push(Instruction::with2(Code::Mov_r64_rm64, Register::RSP, field(SAVED_RSP))?);
    code.push(Instruction::with(Code::Pushfq));
    code.push(Instruction::with1(Code::Pop_r64, Register::RAX)?);
    code.push(Instruction::with2(Code::And_rm32_imm32, Register::EAX, FLAGS_MASK as i32)?);
    code.push(Instruction::with2(Code::Mov_rm32_r32, slot(Slot::FLAGS), Register::EAX)?);
    for (register, memory) in (0..16).map(vector) {
        code.push(Instruction::with2(Code::Movups_xmmm128_xmm, memory, register)?);
    }
    for number in (0..16).filter(|_| wide) {
        let ymm = Register::YMM0 + u32::from(number);
        code.push(Instruction::with3(Code::VEX_Vextractf128_xmmm128_ymm_imm8, upper(number), ymm, 1)?);
    }
    code.push(Instruction::with(Code::Cld));
    for register in HOST_SAVED.into_iter().rev() {
        code.push(Instruction::with1(Code::Pop_r64, register)?);
    }
    code.push(Instruction::with(Code::Retnq));
    encode(&code, address)
}
