//! Records a block as the product's recorder does: what was executed, where it went, what memory accesses saw.
//!
//! Each instruction is executed alone, in its place and with breakpoints all around it, so that the state between any two
//! instructions is the hardware's own.
//!
//! Worked example: recording `push rax; je pad; inc rax` with ZF set gives the events `push` (address rsp - 8, value
//! rax) and `je` (next: the pad), and [`End::Exit`] at the pad.

use crate::native::{ARENA_BYTES, Executor, LoadError, Outcome, State};
use crate::place::effective_address;
use iced_x86::{Code, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind};
use redmagic_lift::{End, Event, Recording};

/// The guest between two instructions.
#[derive(Clone)]
pub struct Snapshot {
    /// Its registers.
    pub state: State,
    /// Its memory.
    pub arena: [u8; ARENA_BYTES],
}

/// Runs `insts` from `start` up to the first fault, a branch out of the block or back to its start, or the end, and
/// describes the run. `None` if the first instruction faults.
pub fn record(
    executor: &mut Executor,
    insts: &[Instruction],
    start: &Snapshot,
) -> Result<Option<Recording>, LoadError> {
    let block = executor.load(insts)?;
    let bytes = executor.encode(insts)?;
    let mut events = Vec::new();
    let mut before = start.clone();
    let mut pc = executor.block_address();
    let mut end = None;
    for inst in &block {
        if pc != inst.ip() {
            break;
        }
        let Some((next, after)) = step(executor, &bytes, inst, &before)? else { break };
        let (address, value) = access(inst, &before, &after, executor.arena_address());
        events.push(Event::Inst { inst: *inst, next, address, value });
        if next == executor.block_address() {
            end = Some(End::Loop);
        }
        pc = next;
        before = after;
    }
    let recording = Recording {
        name: "block".to_owned(),
        start: executor.block_address(),
        events,
        end: end.unwrap_or(End::Exit { pc }),
        regions: Vec::new(),
        meter: None,
    };
    Ok((!recording.events.is_empty()).then_some(recording))
}

/// Executes `inst` alone, at its place in the block with the bytes `block`, and says where it goes. `None` if it
/// faults.
pub fn step(
    executor: &mut Executor,
    block: &[u8],
    inst: &Instruction,
    before: &Snapshot,
) -> Result<Option<(u64, Snapshot)>, LoadError> {
    /// `int3`: wherever in the block the instruction goes, it goes no further.
    const BREAKPOINT: u8 = 0xcc;
    let at = (inst.ip() - executor.block_address()) as usize;
    let mut alone = vec![BREAKPOINT; block.len()];
    alone[at..at + inst.len()].copy_from_slice(&block[at..at + inst.len()]);
    executor.load_bytes(&alone)?;
    *executor.arena_mut() = before.arena;
    let mut state = before.state;
    let next = match executor.run_from(inst.ip(), &mut state) {
        Outcome::Completed { next_pc } => next_pc,
        Outcome::Fault { signal: libc::SIGTRAP, pc } => pc - 1,
        Outcome::Fault { .. } => return Ok(None),
    };
    Ok(Some((next, Snapshot { state, arena: *executor.arena() })))
}

/// The address and the value of the memory access of `inst`, as [`Event::Inst`] defines them.
fn access(inst: &Instruction, before: &Snapshot, after: &Snapshot, arena: u64) -> (u64, u64) {
    let rsp = before.state.gpr[4];
    let explicit = (0..inst.op_count()).find(|&operand| inst.op_kind(operand) == OpKind::Memory);
    let (address, bytes, writes) = match (explicit, inst.mnemonic()) {
        (_, Mnemonic::Lea | Mnemonic::Nop) => return (0, 0),
        (Some(operand), _) => {
            let mut state = before.state;
            if matches!(inst.code(), Code::Pop_rm64 | Code::Pop_rm16) {
                // The address is computed after rsp has moved.
                state.gpr[4] += inst.memory_size().size() as u64;
            }
            let access = InstructionInfoFactory::new().info(inst).op_access(operand);
            (effective_address(inst, operand, &state), inst.memory_size().size(), access == OpAccess::Write)
        }
        (None, Mnemonic::Push | Mnemonic::Call) => {
            let bytes = -inst.stack_pointer_increment() as usize;
            (Some(rsp - bytes as u64), bytes, true)
        }
        (None, Mnemonic::Pop | Mnemonic::Ret) => (Some(rsp), if inst.code() == Code::Pop_r16 { 2 } else { 8 }, false),
        (None, Mnemonic::Leave) => (Some(before.state.gpr[5]), 8, false),
        (None, _) if inst.op_kinds().any(|kind| kind == OpKind::MemorySegRSI) => {
            (Some(before.state.gpr[6]), inst.memory_size().size(), false)
        }
        (None, _) if inst.op_kinds().any(|kind| kind == OpKind::MemoryESRDI) => {
            let stores = matches!(inst.op0_kind(), OpKind::MemoryESRDI);
            (Some(before.state.gpr[7]), inst.memory_size().size(), stores)
        }
        (None, _) => return (0, 0),
    };
    let Some(address) = address else { return (0, 0) };
    let memory = if writes { &after.arena } else { &before.arena };
    (address, peek(memory, address.wrapping_sub(arena), bytes.min(8)))
}

/// The `bytes` bytes at offset `at` of the arena, zero-extended; 0 outside.
fn peek(arena: &[u8; ARENA_BYTES], at: u64, bytes: usize) -> u64 {
    let mut value = [0; 8];
    if let Some(cell) = usize::try_from(at).ok().and_then(|at| arena.get(at..at.checked_add(bytes)?)) {
        value[..bytes].copy_from_slice(cell);
    }
    u64::from_le_bytes(value)
}
