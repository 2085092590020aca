//! Gives an instruction's registers the values with which it can run: addresses lead into the arena, indirect branches
//! to landing pads, repetition counts are small, and divisions do not always overflow.
//!
//! Worked example: for `mov eax, [rcx+rdx*8-4]` everything stays random but rcx, which becomes
//! `target + 4 - rdx*8` for a random `target` in the arena.

use crate::native::{ARENA_BYTES, State};
use crate::rng::Rng;
use crate::shapes::{DATA, Places, STACK};
use crate::values;
use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpKind, Register};

/// The direction flag.
pub const DF: u64 = 0x400;

/// The value of a general register, its part, or an instruction or segment pointer, as address computations see it.
pub fn register_value(state: &State, register: Register) -> u64 {
    let full = if register.is_gpr() { state.gpr[gpr_number(register)] } else { 0 };
    match register.size() {
        1 if is_high_byte(register) => full >> 8 & 0xff,
        1 => full & 0xff,
        2 => full & 0xffff,
        4 => full & 0xffff_ffff,
        _ => full,
    }
}

/// The number of the general register that `register` is (a part of).
pub fn gpr_number(register: Register) -> usize {
    register.full_register() as usize - Register::RAX as usize
}

fn is_high_byte(register: Register) -> bool {
    matches!(register, Register::AH | Register::CH | Register::DH | Register::BH)
}

/// The address of memory operand `operand`.
pub fn effective_address(inst: &Instruction, operand: u32, state: &State) -> Option<u64> {
    inst.virtual_address(operand, 0, |register, _, _| {
        Some(if register.is_segment_register() { 0 } else { register_value(state, register) })
    })
}

/// The explicit memory operand, if there is one (not `lea`'s, which is not accessed).
fn memory_operand(inst: &Instruction) -> Option<u32> {
    let accessed = !matches!(inst.mnemonic(), Mnemonic::Lea | Mnemonic::Nop);
    (0..inst.op_count()).find(|&index| accessed && inst.op_kind(index) == OpKind::Memory)
}

/// Changes `state` and `arena` so that `inst` can run. `false` if it cannot with these registers (a bit offset that is
/// also the base, for example): such an instruction is left out.
pub fn place(
    inst: &Instruction,
    state: &mut State,
    arena: &mut [u8; ARENA_BYTES],
    places: &Places,
    rng: &mut Rng,
) -> bool {
    state.gpr[4] = places.arena + STACK.start + (rng.below((STACK.end - STACK.start) as usize) as u64 & !7);
    if inst.mnemonic() == Mnemonic::Leave {
        state.gpr[5] = places.arena + STACK.start + (rng.below((STACK.end - STACK.start) as usize) as u64 & !7);
    }
    operands(inst, state, places, rng);
    if inst.is_string_instruction() {
        string_operands(inst, state, places, rng);
    }
    let Some(operand) = memory_operand(inst) else { return transfer_target(inst, None, state, arena, places, rng) };
    if !bit_offset(inst, state, rng) || !address(inst, operand, state, places, rng) {
        return false;
    }
    let at = effective_address(inst, operand, state).and_then(|ea| ea.checked_sub(places.arena)).map(|at| at as usize);
    // Most of the arena is the same from state to state.
    if let Some(cell) = at.and_then(|at| arena.get_mut(at..at.checked_add(inst.memory_size().size())?)) {
        values::memory(rng, cell);
    }
    if inst.mnemonic() == Mnemonic::Cmpxchg
        && rng.one_in(2)
        && let Some(cell) = at.and_then(|at| arena.get_mut(at..at + inst.memory_size().size()))
    {
        let bytes = state.gpr[0].to_le_bytes();
        let length = cell.len();
        cell.copy_from_slice(&bytes[..length]);
    }
    if inst.mnemonic() == Mnemonic::Cmpxchg8b
        && rng.one_in(2)
        && let Some(cell) = at.and_then(|at| arena.get_mut(at..at + 8))
    {
        cell[..4].copy_from_slice(&state.gpr[0].to_le_bytes()[..4]);
        cell[4..].copy_from_slice(&state.gpr[2].to_le_bytes()[..4]);
    }
    if inst.mnemonic() == Mnemonic::Cmpxchg16b
        && rng.one_in(2)
        && let Some(cell) = at.and_then(|at| arena.get_mut(at..at + 16))
    {
        cell[..8].copy_from_slice(&state.gpr[0].to_le_bytes());
        cell[8..].copy_from_slice(&state.gpr[2].to_le_bytes());
    }
    transfer_target(inst, at, state, arena, places, rng)
}

/// Register operands that are usually uninteresting when random.
fn operands(inst: &Instruction, state: &mut State, places: &Places, rng: &mut Rng) {
    match inst.mnemonic() {
        Mnemonic::Div | Mnemonic::Idiv if !rng.one_in(4) => {
            let width = if inst.op0_kind() == OpKind::Register {
                inst.op0_register().size()
            } else {
                inst.memory_size().size()
            };
            let signed = inst.mnemonic() == Mnemonic::Idiv;
            let bits = width * 8;
            let negative = signed && state.gpr[0] >> (bits - 1) & 1 == 1;
            let high = if negative { u64::MAX } else { 0 };
            let high = if rng.one_in(2) { high } else { high ^ rng.below(4) as u64 };
            match width {
                1 => state.gpr[0] = state.gpr[0] & !0xff00 | (high & 0xff) << 8,
                2 => state.gpr[2] = state.gpr[2] & !0xffff | high & 0xffff,
                _ => state.gpr[2] = high,
            }
        }
        Mnemonic::Cmpxchg if rng.one_in(2) && inst.op0_kind() == OpKind::Register => {
            state.gpr[0] = state.gpr[gpr_number(inst.op0_register())];
        }
        Mnemonic::Jrcxz | Mnemonic::Jecxz | Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne if rng.one_in(2) => {
            state.gpr[1] = rng.below(3) as u64;
        }
        Mnemonic::Psllw
        | Mnemonic::Pslld
        | Mnemonic::Psllq
        | Mnemonic::Psrlw
        | Mnemonic::Psrld
        | Mnemonic::Psrlq
        | Mnemonic::Psraw
        | Mnemonic::Psrad
        | Mnemonic::Vpsllw
        | Mnemonic::Vpslld
        | Mnemonic::Vpsllq
        | Mnemonic::Vpsrlw
        | Mnemonic::Vpsrld
        | Mnemonic::Vpsrlq
        | Mnemonic::Vpsraw
        | Mnemonic::Vpsrad
            if rng.one_in(2) =>
        {
            // A count in a register has 64 bits.
            let last = inst.op_register(inst.op_count() - 1);
            if last.is_xmm() && last.number() < 16 {
                state.vector[last.number()][0] = values::count(rng);
            }
        }
        Mnemonic::Xlatb => state.gpr[3] = places.arena + DATA.start,
        _ => {}
    }
}

fn string_operands(inst: &Instruction, state: &mut State, places: &Places, rng: &mut Rng) {
    let mut pointer = || places.arena + DATA.start + 64 + rng.below(1024) as u64;
    state.gpr[6] = pointer();
    state.gpr[7] = pointer();
    if inst.has_rep_prefix() || inst.has_repne_prefix() {
        state.gpr[1] = rng.below(9) as u64;
    }
    if rng.one_in(4) {
        state.flags |= DF;
    }
}

/// Bounds the bit offset that moves the address of `bt [memory], register`.
fn bit_offset(inst: &Instruction, state: &mut State, rng: &mut Rng) -> bool {
    let moves = matches!(inst.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc);
    if !moves || inst.op1_kind() != OpKind::Register {
        return true;
    }
    let number = gpr_number(inst.op1_register());
    let addresses = [inst.memory_base(), inst.memory_index()];
    if number == 4 || addresses.iter().any(|register| register.is_gpr() && gpr_number(*register) == number) {
        return false;
    }
    state.gpr[number] = (rng.below(2048) as i64 - 1024) as u64;
    true
}

/// Makes the address of memory operand `operand` lie in the arena.
fn address(inst: &Instruction, operand: u32, state: &mut State, places: &Places, rng: &mut Rng) -> bool {
    let bytes = inst.memory_size().size();
    let mut target = places.arena + DATA.start + 128 + rng.below((DATA.end - DATA.start) as usize - 256) as u64;
    let (base, index) = (inst.memory_base(), inst.memory_index());
    if bytes >= 16 && !rng.one_in(32) || base == Register::None {
        target &= !31;
    }
    let touches_stack = inst.stack_pointer_increment() != 0;
    let solved = match (base, index) {
        (Register::RIP | Register::EIP, _) | (Register::None, Register::None) => return true,
        (Register::None, index) => index,
        (Register::RBX, Register::AL) => return true,
        (base, _) => base,
    };
    let number = gpr_number(solved);
    if number == 4 && touches_stack {
        // The stack pointer is where it must be; small displacements stay in the arena.
        return index == Register::None
            && inst.memory_displacement64() as i64 == inst.memory_displacement64() as i8 as i64;
    }
    let upper = state.gpr[number] & !0xffff_ffff;
    state.gpr[number] = 0;
    let Some(rest) = effective_address(inst, operand, state) else { return false };
    let mut value = target.wrapping_sub(rest);
    if base == Register::None {
        let scale = i64::from(inst.memory_index_scale());
        value = (value as i64 / scale) as u64;
    }
    state.gpr[number] = if solved.size() == 4 { value & 0xffff_ffff | upper } else { value };
    effective_address(inst, operand, state) == Some(target)
}

/// Sends an indirect branch or a return to a landing pad.
fn transfer_target(
    inst: &Instruction,
    memory: Option<usize>,
    state: &mut State,
    arena: &mut [u8; ARENA_BYTES],
    places: &Places,
    rng: &mut Rng,
) -> bool {
    let pad = *rng.pick(&places.pads);
    let cell = match inst.flow_control() {
        FlowControl::Return => (state.gpr[4] - places.arena) as usize,
        FlowControl::IndirectBranch | FlowControl::IndirectCall => match (inst.op0_kind(), memory) {
            (OpKind::Register, _) => {
                let number = gpr_number(inst.op0_register());
                state.gpr[number] = pad;
                return number != 4;
            }
            (_, Some(at)) => at,
            (_, None) => return false,
        },
        _ => return true,
    };
    let Some(bytes) = arena.get_mut(cell..cell + 8) else { return false };
    bytes.copy_from_slice(&pad.to_le_bytes());
    true
}

/// Whether `inst` is `bt`-like with a register offset into memory: iced's memory information does not cover it.
pub fn is_bit_string(inst: &Instruction) -> bool {
    matches!(
        inst.code(),
        Code::Bt_rm16_r16
            | Code::Bt_rm32_r32
            | Code::Bt_rm64_r64
            | Code::Bts_rm16_r16
            | Code::Bts_rm32_r32
            | Code::Bts_rm64_r64
            | Code::Btr_rm16_r16
            | Code::Btr_rm32_r32
            | Code::Btr_rm64_r64
            | Code::Btc_rm16_r16
            | Code::Btc_rm32_r32
            | Code::Btc_rm64_r64
    ) && inst.op0_kind() == OpKind::Memory
}
