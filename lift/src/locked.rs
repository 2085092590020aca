//! Atomic instructions.
//!
//! What the instruction would do without its lock is computed from a load, and stored by a [`CompareSwap`](Opcode::CompareSwap),
//! which is atomic and a barrier: if memory still holds what was loaded, all has happened at once. If another thread was faster, the
//! trace is left in front of the instruction, which the guest executes itself; no loop of the IR is needed, and every form is exact.
//!
//! Worked example: `lock add dword [rdi], 1` becomes
//! ```text
//! v1 = load [v0]; v2 = add v1, 1; v3 = compare_swap v0, v1, v2; v4 = eq v3, v1; guard v4, exit0
//! ```

use crate::cover;
use crate::lifter::Lifter;
use crate::refuse::Refusal;
use iced_x86::Instruction;
use redmagic_ir::{Address, Exit, Inst, Opcode, Type, Value};

/// An atomic instruction that is being lifted.
#[derive(Clone, Copy)]
pub(crate) struct Lock {
    /// The state in front of it.
    exit: Exit,
    /// What it has loaded.
    pub loaded: Value,
}

impl Lifter<'_> {
    pub(crate) fn locked(&mut self, inst: &Instruction) -> Result<(), Refusal> {
        let Some(rule) = cover::unlocked(inst) else { return self.native(inst) };
        let exit = self.exit_at(self.pc, self.step);
        self.lock = Some(Lock { exit, loaded: Value::NONE });
        self.straight(inst, rule);
        self.lock = None;
        Ok(())
    }

    /// Stores `value` if memory holds what the instruction has loaded there, else leaves in front of it.
    pub(crate) fn swap(&mut self, lock: Lock, address: Address, value: Value) {
        let ty = self.ty(value);
        let mut place = address.root;
        if address.index.is_some() {
            let scale = i64::from(address.scale.trailing_zeros());
            let scaled = if scale == 0 { address.index } else { self.binary_const(Opcode::Shl, address.index, scale) };
            place = self.binary(Opcode::Add, place, scaled);
        }
        let place = self.offset(place, i64::from(address.offset));
        let seen = self.emit(Inst::ternary(Opcode::CompareSwap, ty, place, lock.loaded, value));
        let same = self.emit(Inst::binary(Opcode::Eq, Type::I1, seen, lock.loaded));
        self.emit(Inst::guard(true, same, lock.exit));
    }
}
