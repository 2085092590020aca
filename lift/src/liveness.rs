//! Whether guest code can read the flags that it is entered with.
//!
//! At most exits the guest overwrites the flags before it reads them; then the exit need not compute them. The scan
//! reads guest code from the exit's address on: a flag is *dead* once overwritten. It follows direct jumps and both
//! ways of a conditional jump, and gives up (live) at calls, returns, indirect jumps, unreadable code and when its
//! budget is spent.
//!
//! Worked example: at `mov rax, [rdi]; cmp rax, rsi; je …` the flags are dead: `cmp` writes all six before `je` reads.

use crate::Code;
use crate::fastmap::FastMap;
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic as M, OpKind, Register, RflagsBits};

/// The six flags that the `flags` slot holds.
pub(crate) const SLOT_FLAGS: u32 =
    RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// Instructions that one scan looks at, over all paths.
const BUDGET: u32 = 24;

/// The results of scans so far.
#[derive(Default)]
pub(crate) struct Liveness {
    known: FastMap<u64, bool>,
}

impl Liveness {
    /// Whether code that starts at `pc` may read the flags that it finds.
    pub fn flags_live(&mut self, code: &dyn Code, pc: u64) -> bool {
        if let Some(&live) = self.known.get(&pc) {
            return live;
        }
        let mut budget = BUDGET;
        let live = scan(code, pc, SLOT_FLAGS, &mut budget);
        self.known.insert(pc, live);
        live
    }
}

/// Whether code at `pc` may read one of the flags in `flags`. Recursion is bounded by the budget.
fn scan(code: &dyn Code, mut pc: u64, mut flags: u32, budget: &mut u32) -> bool {
    loop {
        if *budget == 0 {
            return true;
        }
        *budget -= 1;
        let Some(bytes) = code.read(pc) else { return true };
        let inst = Decoder::with_ip(64, &bytes, pc, DecoderOptions::NONE).decode();
        if inst.is_invalid() || inst.rflags_read() & flags != 0 {
            return true;
        }
        if overwrites_always(&inst) {
            flags &= !inst.rflags_modified();
        }
        if flags == 0 {
            return false;
        }
        match inst.flow_control() {
            FlowControl::Next => pc = inst.next_ip(),
            FlowControl::UnconditionalBranch if is_near(&inst) => pc = inst.near_branch_target(),
            FlowControl::ConditionalBranch if is_near(&inst) => {
                if scan(code, inst.near_branch_target(), flags, budget) {
                    return true;
                }
                pc = inst.next_ip();
            }
            _ => return true,
        }
    }
}

fn is_near(inst: &Instruction) -> bool {
    inst.op0_kind() == OpKind::NearBranch64
}

/// Shifts and rotates keep all flags when the count is 0, repeated string instructions when rcx is.
fn overwrites_always(inst: &Instruction) -> bool {
    let last = inst.op_count().saturating_sub(1);
    match inst.mnemonic() {
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd => {
            inst.op_register(last) != Register::CL && inst.immediate(last) & 31 != 0
        }
        _ => !inst.has_rep_prefix() && !inst.has_repne_prefix(),
    }
}
