//! Makes a failing block smaller.
//!
//! Worked example: of a block of 21 instructions that a pass mistreats, `shl edx, cl; setb al` remains.

use crate::native::Executor;
use crate::shapes::Places;
use iced_x86::{Code, Instruction, OpKind, Register};

/// Removes instructions from `insts` as long as `fails` says that the rest still fails.
pub fn reduce(
    executor: &mut Executor,
    places: &Places,
    insts: &[Instruction],
    mut fails: impl FnMut(&mut Executor, &[Instruction]) -> bool,
) -> Vec<Instruction> {
    let mut block = insts.to_vec();
    let mut at = block.len();
    while at > 0 {
        at -= 1;
        let mut shorter = block.clone();
        shorter.remove(at);
        if is_sound(executor, places, &shorter) && fails(executor, &shorter) {
            block = shorter;
            at = block.len();
        }
    }
    block
}

/// Whether all addresses of code are still those of instructions, and a loop still counts.
fn is_sound(executor: &mut Executor, places: &Places, insts: &[Instruction]) -> bool {
    let Ok(block) = executor.load(insts) else { return false };
    let Some(last) = block.last() else { return false };
    let start = executor.block_address();
    let is_code = |address: u64| {
        let known = block.iter().any(|inst| inst.ip() == address) || last.next_ip() == address;
        known || places.pads.contains(&address)
    };
    let names_code = |inst: &Instruction| match inst.op0_kind() {
        OpKind::NearBranch64 => is_code(inst.near_branch64()),
        _ if inst.code() == Code::Lea_r64_m && inst.memory_base() == Register::RIP => {
            let address = inst.memory_displacement64();
            address >= places.arena || is_code(address)
        }
        _ => true,
    };
    let counts = |at: usize| at > 0 && block[at - 1].code() == Code::Sub_rm32_imm8;
    let loops = |inst: &Instruction| inst.op0_kind() == OpKind::NearBranch64 && inst.near_branch64() == start;
    block.len() == insts.len()
        && block.iter().all(names_code)
        && block.iter().enumerate().all(|(at, inst)| !loops(inst) || at + 1 == block.len() && counts(at))
}
