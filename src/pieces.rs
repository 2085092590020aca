//! Pieces: short code made at run time that leads from a trace to where an exit goes, and back from single
//! instructions to the library.
//!
//! An exit record's `next` points to a piece. It is entered with the context in rbx and the record in rax, on the thread's
//! private stack. The trace's own code has written what it computed to the context; the piece knows the rest:
//! constants, the flags recipe, which vector registers to load and to join from halves first, and where the guest goes on.
//!
//! # Invariants
//! - The last thing before guest code is clearing BUSY; from the load of the guest's rsp on nothing is pushed.
//! - Loading the flags comes before the general registers, and all that follows are moves.
//!
//! # Worked example
//! Leaving at 0x401000 by an exit with the constant rcx = 7 and unchanged flags:
//! ```text
//! mov eax, [rbx + flags]; <unpack into the flags>
//! mov rax, [rbx + 0]; mov ecx, 7; mov rdx, [rbx + 16]; …; mov rsp, [rbx + 32]; …; mov rbx, [rbx + 24]
//! mov dword fs:[busy], 0
//! jmp 0x401000
//! ```

use crate::context::{ABOVE, Context, gpr_offset, slot_offset, tls};
use crate::emit::{Emitter, RAX, RBX, RCX, RDI, RDX, RSI, RSP, Register};
use crate::exits::ExitRecord;
use crate::records::{ABANDONED, REGION, Record, THUNK_DISTANCE, WAITING};
use crate::regions::Kind;
use crate::stubs;
use redmagic_backend::{ExitCode, FlagsRecipe};
use redmagic_ir::{Opcode, Slot, Type};
use std::mem::offset_of;

/// Which vector registers have to be brought from the context into the machine, or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum VectorState {
    /// None: they are in the machine.
    None,
    /// xmm0 to xmm15.
    Xmm,
    /// All that the machine has.
    All,
}

/// A register that holds an absolute address while a re-encoded instruction runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scratch {
    /// The register; the instruction does not use it.
    pub register: u8,
    /// What it holds.
    pub value: u64,
}

/// What is counted when the piece of an exit runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// The exit's heat goes down; below zero, the library looks at the exit.
    pub heat: bool,
    /// The counter at this address goes down: the exit leads behind an anchor whose macro has not run.
    pub anchor: Option<u64>,
}

fn local(offset: i32) -> i32 {
    (stubs::tls_offset() as i32).wrapping_add(offset)
}

fn stub(function: extern "C" fn()) -> u64 {
    function as *const () as u64
}

/// Leaves to the guest at `pc`.
pub fn leave(exit: &ExitCode, pc: u64, vectors: VectorState, counts: Counts) -> Vec<u8> {
    let mut code = Emitter::new();
    if let Some(counter) = counts.anchor {
        code.constant(RCX, counter);
        code.decrement(RCX, 0);
    }
    if counts.heat {
        code.decrement(RAX, offset_of!(ExitRecord, heat) as i32);
        code.skip_if(9, |code| code.jump(stub(stubs::exit_to_library)));
    }
    constants_to_context(&mut code, exit);
    restore(&mut code, exit, vectors);
    code.store_local_dword(local(tls::BUSY), 0);
    code.jump(pc);
    code.finish()
}

/// Leaves to the guest at the context's rip. For when no piece can be made any more: a signal handler that enters a
/// trace just before the last jump would change its target.
pub fn leave_dynamic(vectors: VectorState) -> Vec<u8> {
    let mut code = Emitter::new();
    code.load(RAX, RBX, offset_of!(Context, rip) as i32);
    code.store_local(local(tls::JUMP), RAX);
    restore(&mut code, &unchanged(), vectors);
    code.store_local_dword(local(tls::BUSY), 0);
    code.jump_local(local(tls::JUMP));
    code.finish()
}

/// An exit that changes nothing.
pub fn unchanged() -> ExitCode {
    ExitCode { flags: FlagsRecipe::Stored, constants: Vec::new(), halves: 0 }
}

/// Enters the trace whose function is at `function`, with the state of the exit in the context.
pub fn link(exit: &ExitCode, function: u64) -> Vec<u8> {
    let mut code = Emitter::new();
    constants_to_context(&mut code, exit);
    for &(slot, value) in exit.constants.iter().filter(|(slot, _)| slot.as_gpr().is_some()) {
        code.constant(RAX, value);
        code.store(RBX, slot_offset(slot), RAX);
    }
    if let FlagsRecipe::Recipe { op, ty } = exit.flags {
        compute_flags(&mut code, op, ty);
        code.flags_to_ecx();
        code.store(RBX, slot_offset(Slot::FLAGS), RCX);
    }
    code.constant(RDX, function);
    code.jump(stub(stubs::enter_trace));
    code.finish()
}

/// Makes a residual call: `exit` is its state. `function` gets the activation back when the callee has returned.
pub fn call(exit: &ExitCode, function: u64, unit: u32, vectors: VectorState, wide: bool) -> Vec<u8> {
    let mut code = Emitter::new();
    take_record(&mut code, exit, function, unit, wide);
    code.store_dword(RCX, offset_of!(Record, live) as i32, WAITING);
    code.raw(&[0x48, 0x81, 0xc1]); // add rcx, THUNK_DISTANCE
    code.raw(&(THUNK_DISTANCE as u32).to_le_bytes());
    code.store_local(local(tls::JUMP), RCX);
    constants_to_context(&mut code, exit);
    restore(&mut code, exit, vectors);
    // The thunk clears BUSY itself.
    code.jump_local(local(tls::JUMP));
    code.finish()
}

/// Begins a region: `exit` is the state before the API's call, which returns to `pc` and leaves registers as a call may.
/// `function` gets the activation back when the region has ended.
pub fn region(exit: &ExitCode, function: u64, unit: u32, vectors: VectorState, kind: Kind, pc: u64) -> Vec<u8> {
    let mut code = Emitter::new();
    take_record(&mut code, exit, function, unit, false);
    code.store_dword(RCX, offset_of!(Record, live) as i32, REGION);
    match kind {
        Kind::Disabled => {
            code.load_local(RAX, local(tls::REGIONS));
            code.store(RCX, offset_of!(Record, next) as i32, RAX);
            code.store_local(local(tls::REGIONS), RCX);
            code.load_local(RAX, local(tls::DISABLED));
            code.raw(&[0x83, 0xc0, 1]); // add eax, 1
            code.raw(&[0x89, 0x81]); // mov [rcx + disp32], eax
            code.raw(&(offset_of!(Record, depth) as u32).to_le_bytes());
        }
        Kind::Merge => {
            code.store_dword(RCX, offset_of!(Record, depth) as i32, 0);
            // Nobody waits for the one before any more: it was left without a call.
            code.load_local(RAX, local(tls::MERGE));
            code.raw(&[0x48, 0x85, 0xc0]); // test rax, rax
            code.skip_if(4, |code| code.store_dword(RAX, offset_of!(Record, live) as i32, ABANDONED));
            code.store_local(local(tls::MERGE), RCX);
        }
    }
    constants_to_context(&mut code, exit);
    restore(&mut code, exit, vectors);
    if kind == Kind::Disabled {
        code.raw(&[0x64, 0x83, 0x04, 0x25]); // add dword fs:[disp32], 1
        code.raw(&local(tls::DISABLED).to_le_bytes());
        code.raw(&[1]);
    }
    code.store_local_dword(local(tls::BUSY), 0);
    code.jump(pc);
    code.finish()
}

/// Takes a free activation record, into rcx, and describes the call or region. Clobbers rdx.
fn take_record(code: &mut Emitter, exit: &ExitCode, function: u64, unit: u32, wide: bool) {
    // Keep one record in the chain: r = [rbx + free]; if r.next is null, get more first.
    code.load(RCX, RBX, offset_of!(Context, free_record) as i32);
    code.load(RDX, RCX, offset_of!(Record, next) as i32);
    code.raw(&[0x48, 0x85, 0xd2]); // test rdx, rdx
    code.skip_if(5, |code| code.jump(stub(stubs::refill_records)));
    code.store(RBX, offset_of!(Context, free_record) as i32, RDX);
    code.constant(RDX, function);
    code.store(RCX, offset_of!(Record, function) as i32, RDX);
    code.store(RCX, offset_of!(Record, owner) as i32, RBX);
    code.store_dword(RCX, offset_of!(Record, unit) as i32, unit);
    code.store_dword(RCX, offset_of!(Record, wide) as i32, u32::from(wide));
    let rsp = exit.constants.iter().find(|(slot, _)| *slot == Slot::RSP);
    match rsp {
        Some(&(_, value)) => code.constant(RDX, value),
        None => code.load(RDX, RBX, slot_offset(Slot::RSP)),
    }
    code.store(RCX, offset_of!(Record, rsp) as i32, RDX);
}

/// Executes one guest instruction on the context in rcx; ends in `slot_return`.
pub fn slot(bytes: &[u8], scratch: Option<Scratch>, vectors: VectorState) -> Vec<u8> {
    let mut code = Emitter::new();
    match vectors {
        VectorState::None => {}
        VectorState::Xmm => code.call(stub(stubs::load_xmm)),
        VectorState::All => code.call(stub(stubs::load_vectors)),
    }
    code.load32(RAX, RCX, slot_offset(Slot::FLAGS));
    code.flags_from_eax();
    for register in (0..16).filter(|register| *register != RCX) {
        code.load(register, RCX, gpr_offset(register));
    }
    code.load(RCX, RCX, gpr_offset(RCX));
    if let Some(scratch) = scratch {
        code.constant(scratch.register, scratch.value);
    }
    code.raw(bytes);
    // The scratch register is none of the instruction's: the context still holds the guest's value.
    let holds = |register: Register| scratch.is_none_or(|scratch| scratch.register != register);
    code.store_local(local(tls::SCRATCH), RCX);
    code.load_local(RCX, local(tls::CONTEXT));
    for register in (0..16).filter(|register| *register != RCX && holds(*register)) {
        code.store(RCX, gpr_offset(register), register);
    }
    code.load(RSP, RCX, offset_of!(Context, host_rsp) as i32);
    code.copy(RDI, RCX);
    code.load_local(RDX, local(tls::SCRATCH));
    code.flags_to_ecx();
    code.store(RDI, slot_offset(Slot::FLAGS), RCX);
    if holds(RCX) {
        code.store(RDI, gpr_offset(RCX), RDX);
    }
    code.copy(RCX, RDI);
    match vectors {
        VectorState::None => {}
        VectorState::Xmm => code.call(stub(stubs::save_xmm)),
        VectorState::All => code.call(stub(stubs::save_vectors)),
    }
    code.jump(stub(stubs::slot_return));
    code.finish()
}

/// The stub of a native operation: a System V function of the context that executes one instruction on it.
pub fn native(bytes: &[u8], scratch: Option<Scratch>, vectors: VectorState) -> Vec<u8> {
    let run_slot = stubs::run_slot as *const () as u64;
    let mut tail = Emitter::new();
    tail.jump(run_slot);
    let tail = tail.finish();
    let mut code = Emitter::new();
    code.address_ahead(tail.len() as i32);
    code.raw(&tail);
    code.raw(&slot(bytes, scratch, vectors));
    code.finish()
}

/// Writes the constants of an exit that are not general registers to the context. Clobbers rax.
fn constants_to_context(code: &mut Emitter, exit: &ExitCode) {
    for &(slot, value) in exit.constants.iter().filter(|(slot, _)| slot.as_gpr().is_none()) {
        code.constant(RAX, value);
        code.store(RBX, slot_offset(slot), RAX);
        if slot.as_xmm().is_some_and(|(_, lane)| lane == 3) {
            code.constant(RAX, 0);
            (8..=ABOVE).step_by(8).for_each(|above| code.store(RBX, slot_offset(slot) + above, RAX));
        }
    }
}

/// Loads the flags, vector registers and general registers.
fn restore(code: &mut Emitter, exit: &ExitCode, vectors: VectorState) {
    match vectors {
        VectorState::None => {}
        VectorState::Xmm => {
            join_halves(code, exit);
            code.copy(RCX, RBX);
            code.call(stub(stubs::load_xmm));
        }
        VectorState::All => {
            code.copy(RCX, RBX);
            code.call(stub(stubs::load_vectors));
        }
    }
    match exit.flags {
        FlagsRecipe::Recipe { op, ty } => compute_flags(code, op, ty),
        FlagsRecipe::Unchanged | FlagsRecipe::Stored => {
            code.load32(RAX, RBX, slot_offset(Slot::FLAGS));
            code.flags_from_eax();
        }
    }
    let constant =
        |register: u8| exit.constants.iter().find(|(slot, _)| slot.as_gpr() == Some(register)).map(|(_, value)| *value);
    for register in (0..16).filter(|register| *register != RBX).chain([RBX]) {
        match constant(register) {
            Some(value) => code.constant(register, value),
            None => code.load(register, RBX, gpr_offset(register)),
        }
    }
}

/// Writes the registers of which halves have just been written as a whole, so that a load of the whole need not wait.
/// Clobbers xmm0.
fn join_halves(code: &mut Emitter, exit: &ExitCode) {
    for register in (0..16).filter(|register| exit.halves >> register & 1 == 1) {
        let (low, high) = (slot_offset(Slot::xmm(register, 0)), slot_offset(Slot::xmm(register, 1)));
        let constant =
            |half: i32| exit.constants.iter().find(|(slot, _)| slot_offset(*slot) == half).map(|entry| entry.1);
        code.load_low_xmm0(RBX, low);
        if constant(high) != Some(0) {
            code.load_high_xmm0(RBX, high);
        }
        code.store_xmm0(RBX, low);
    }
}

/// Computes the flags of `op` on the operands in the context, by executing the instruction that it describes: undefined
/// flags are then those of this machine. Clobbers rax, rcx, rdx, rsi.
fn compute_flags(code: &mut Emitter, op: Opcode, ty: Type) {
    let argument = |at: i32| offset_of!(Context, flag_args) as i32 + at * 8;
    match op {
        Opcode::FlMul => {
            code.load32(RAX, RBX, argument(0));
            code.raw(&[0x69, 0xc0]); // imul eax, eax, CF | OF
            code.raw(&(redmagic_ir::CF | redmagic_ir::OF).to_le_bytes());
            code.flags_from_eax();
        }
        Opcode::FlF64 => {
            let keep = offset_of!(Context, scratch) as i32;
            code.store_xmm0(RBX, keep);
            code.load_xmm0(RBX, argument(0));
            code.raw(&[0x66, 0x0f, 0x2e, 0x83]); // ucomisd xmm0, [rbx + disp32]
            code.raw(&argument(1).to_le_bytes());
            code.load_xmm0(RBX, keep);
        }
        Opcode::FlShl | Opcode::FlShr | Opcode::FlSar | Opcode::FlRol | Opcode::FlRor => {
            code.load(RSI, RBX, argument(0));
            code.load(RCX, RBX, argument(1));
            // What a rotation has rotated is rotated back first. ModRM extensions of group 2.
            let (redo, undo) = match op {
                Opcode::FlShl => (4, None),
                Opcode::FlShr => (5, None),
                Opcode::FlSar => (7, None),
                Opcode::FlRol => (0, Some(1)),
                _ => (1, Some(0)),
            };
            if let Some(undo) = undo {
                sized(code, ty, 0xd2, undo << 3 | RSI);
            }
            code.load32(RAX, RBX, argument(2));
            code.flags_from_eax();
            sized(code, ty, 0xd2, redo << 3 | RSI);
        }
        _ => {
            code.load(RAX, RBX, argument(0));
            code.load(RCX, RBX, argument(1));
            let carry = match op {
                Opcode::FlAdc | Opcode::FlSbb => Some(2),
                Opcode::FlInc | Opcode::FlDec => Some(1),
                _ => None,
            };
            if let Some(carry) = carry {
                code.load32(RDX, RBX, argument(carry));
                code.raw(&[0xd1, 0xea]); // shr edx, 1
            }
            let registers = RCX << 3 | RAX;
            match op {
                Opcode::FlAdd => sized(code, ty, 0x00, registers),
                Opcode::FlSub => sized(code, ty, 0x38, registers),
                Opcode::FlAdc => sized(code, ty, 0x10, registers),
                Opcode::FlSbb => sized(code, ty, 0x18, registers),
                Opcode::FlInc => sized(code, ty, 0xfe, 0),
                Opcode::FlDec => sized(code, ty, 0xfe, 1 << 3),
                _ => sized(code, ty, 0x84, RAX << 3 | RAX), // fl_logic: test
            }
        }
    }
}

/// An instruction on registers in the width of `ty`; `opcode` is that of the 8-bit form, the next one is for the others.
fn sized(code: &mut Emitter, ty: Type, opcode: u8, fields: u8) {
    match ty {
        // A REX prefix makes sil of what would be dh.
        Type::I8 => code.raw(&[0x40, opcode, 0xc0 | fields]),
        Type::I16 => code.raw(&[0x66, opcode | 1, 0xc0 | fields]),
        Type::I64 => code.raw(&[0x48, opcode | 1, 0xc0 | fields]),
        _ => code.raw(&[opcode | 1, 0xc0 | fields]),
    }
}
