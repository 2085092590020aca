//! Addresses: their normal form, constant memory, promotion.
//!
//! # Invariants
//! - In normal form an address has no constant part outside of its offset; an absolute address is one constant.
//! - A load becomes a constant only if its address is constant, equal to the recorded one, and in immutable memory.
//! - A *promotion* guards that an address has its recorded value. Its exit is the entry's own state where the address is
//!   a slot read at entry, else the resume exit of the load. Addresses in a thread's stack or segments are not promoted.
//! - Memory that may be the interpreted program is not immutable: its loads stay (see [`undeclared`](crate::undeclared)).
//!
//! Worked example: `load i32 [v1 + v2*4 + 8]` with v1 = `add v0, 16` and v2 = const 3 is `load i32 [v0 + 36]`. If it was
//! recorded at 0x1036 in declared memory, the guard `eq v0, 0x1012` makes it the constant that was recorded.

use crate::rules::with_const;
use crate::walk::Walk;
use redmagic_ir::{Address, Exit, ExitData, Inst, Opcode, Recorded, RegionKind, Type, Value};

/// Sums that are looked through to find what an address is a constant distance from.
const MAX_SUMS: usize = 8;

impl Walk<'_> {
    /// The normal form of `address`.
    pub(crate) fn normalise(&mut self, mut address: Address) -> Address {
        address.root = self.scope.resolve(address.root);
        if address.index.is_some() {
            address.index = self.scope.resolve(address.index);
        }
        while let Some(simpler) = self.simpler_address(&address) {
            address = simpler;
        }
        address
    }

    fn simpler_address(&mut self, address: &Address) -> Option<Address> {
        let Address { root, index, scale, offset } = *address;
        let scope = &mut self.scope;
        let fits = |by: i64| i32::try_from(i64::from(offset).checked_add(by)?).ok();
        if !index.is_some() {
            if let Some(imm) = scope.as_const(root) {
                let total = imm.wrapping_add(i64::from(offset));
                return (offset != 0).then(|| Address::new(scope.constant(Type::I64, total), 0));
            }
        } else {
            if let Some(imm) = scope.as_const(index) {
                let by = imm.wrapping_mul(i64::from(scale));
                if let Some(offset) = fits(by) {
                    return Some(Address::new(root, offset));
                }
                let root = scope.as_const(root)?.wrapping_add(by);
                return Some(Address::new(scope.constant(Type::I64, root), offset));
            }
            if let Some((inner, imm)) = with_const(scope, index, Opcode::Add)
                && let Some(offset) = fits((imm as i64).wrapping_mul(i64::from(scale)))
            {
                return Some(Address { index: inner, offset, ..*address });
            }
            if let Some((inner, count)) = with_const(scope, index, Opcode::Shl)
                && count <= 3
                && scale << count <= 8
            {
                return Some(Address { index: inner, scale: scale << count, ..*address });
            }
            if scale == 1
                && let Some(offset) = scope.as_const(root).and_then(fits)
            {
                return Some(Address::new(index, offset));
            }
        }
        let (inner, imm) = with_const(scope, root, Opcode::Add)?;
        Some(Address { root: inner, offset: fits(imm as i64)?, ..*address })
    }

    /// The absolute address, if it is known.
    pub(crate) fn absolute(&self, address: &Address) -> Option<u64> {
        let root = self.scope.as_const(address.root)?;
        (!address.index.is_some()).then(|| root.wrapping_add(i64::from(address.offset)) as u64)
    }

    /// Replaces load `value` by a constant, if its address is constant and in immutable memory.
    pub(crate) fn fold_load(&mut self, value: Value, address: &Address) -> bool {
        let ty = self.scope.trace.ty(value);
        let Some(recorded) = self.scope.trace.recorded(value) else { return false };
        if ty.bits() > 64 || self.absolute(address) != Some(recorded.address) {
            return false;
        }
        if self.regions.kind(recorded.address, ty.bytes()).is_none() || !self.scope.stats.may("constant memory") {
            return false;
        }
        let constant = self.scope.constant(ty, recorded.value as i64);
        self.scope.replace(value, constant);
        self.scope.stats.loads_folded += 1;
        true
    }

    /// Guards that the address of load `value` is the recorded one, where that is worth it and possible; then it is the
    /// absolute address that is returned.
    pub(crate) fn promote(&mut self, value: Value, address: &Address) -> Option<Address> {
        let Recorded { address: recorded, .. } = self.scope.trace.recorded(value)?;
        if self.absolute(address).is_some() {
            return None;
        }
        let at_entry = self.is_at_entry(address);
        if !self.is_wanted(value, recorded, address, at_entry) {
            return None;
        }
        let target = recorded.wrapping_sub(i64::from(address.offset) as u64) as i64;
        if !self.scope.stats.may("promotion") {
            return None;
        }
        let exit = self.resume_exit(value);
        let stays = self.regions.is_code(recorded, self.scope.trace.ty(value).bytes());
        if at_entry {
            self.guard_entry(address.root, target);
        } else if let Some(exit) = exit
            && !self.is_of_thread(address)
        {
            self.guard_here(address, target, exit);
            if stays {
                // What it gives is compared in the same state.
                self.exit_uses[exit] += 1;
            } else {
                self.scope.trace.set_resume_exit(value, None);
                self.resumes[value] = Exit::NONE;
            }
        } else {
            self.scope.stats.promotions_refused += 1;
            return None;
        }
        self.scope.stats.promotions += 1;
        Some(Address::new(self.scope.constant(Type::I64, recorded as i64), 0))
    }

    /// Whether the address is known at the entry, and a guard there has a place to leave to.
    fn is_at_entry(&self, address: &Address) -> bool {
        !address.index.is_some() && self.is_entry_slot(address.root) && self.scope.trace.start != 0
    }

    /// Whether it is worth it to have load `value` from a constant address.
    fn is_wanted(&self, value: Value, recorded: u64, address: &Address, at_entry: bool) -> bool {
        match self.regions.kind(recorded, self.scope.trace.ty(value).bytes()) {
            // An index that is not constant is data rather than code, unless a dispatch depends on what is loaded.
            Some(RegionKind::Declared) => !address.index.is_some() || self.is_demanded(value),
            // Read-only memory is promoted only where a dispatch depends on it, and only outside of loops.
            Some(RegionKind::ReadOnly) => at_entry && (self.is_compared(value) || self.undeclared.is_demanded(value)),
            Some(RegionKind::Code) | None => self.is_program_counter(value, address),
        }
    }

    /// Promotes addresses that are at a constant distance from a slot read at entry, as far as that is easy to see, before
    /// the walk begins: then it also knows on the way there what it would find out.
    pub(crate) fn promote_early(&mut self) {
        let Some(entry) = self.scope.trace.entry else { return };
        for at in 0..self.scope.trace.segments[entry].insts.len() {
            let value = self.scope.trace.segments[entry].insts[at];
            let inst = &self.scope.trace.insts[value];
            let Some(mut address) = inst.address().filter(|_| inst.op == Opcode::Load) else { continue };
            let Some(Recorded { address: recorded, .. }) = self.scope.trace.recorded(value) else { continue };
            for _ in 0..MAX_SUMS {
                let Some(sum) = self.scope.def_of(address.root, Opcode::Add) else { break };
                let Some(offset) = self.scope.as_const(sum.args[1]).and_then(|imm| i32::try_from(imm).ok()) else {
                    break;
                };
                let Some(offset) = address.offset.checked_add(offset) else { break };
                (address.root, address.offset) = (sum.args[0], offset);
            }
            if self.is_at_entry(&address)
                && self.scope.resolve(address.root) == address.root
                && self.is_wanted(value, recorded, &address, true)
                && self.scope.stats.may("promotion")
            {
                self.guard_entry(address.root, recorded.wrapping_sub(i64::from(address.offset) as u64) as i64);
                self.scope.stats.promotions += 1;
            }
        }
    }

    /// Guards at the start of the trace that slot read `root` is `target`.
    fn guard_entry(&mut self, root: Value, target: i64) {
        let exit = self.start_exit();
        let constant = self.scope.constant(Type::I64, target);
        let equal = self.scope.add(Inst::binary(Opcode::Eq, Type::I1, root, constant));
        let guard = self.scope.add(Inst::guard(true, equal, exit));
        self.entry_guards.extend([equal, guard]);
        self.scope.set_global_fact(root, constant);
    }

    /// The exit that undoes nothing because nothing has happened yet.
    pub(crate) fn start_exit(&mut self) -> Exit {
        if !self.start_exit.is_some() {
            let start = self.scope.trace.start;
            self.start_exit = self.scope.trace.exits.push(ExitData::new(start, 0));
        }
        self.start_exit
    }

    /// Guards at this place that the variable part of `address` is `target`.
    fn guard_here(&mut self, address: &Address, target: i64, exit: Exit) {
        let mut variable = address.root;
        if address.index.is_some() {
            let count = self.scope.constant(Type::I8, i64::from(address.scale.trailing_zeros()));
            let scaled = self.scope.binary(Opcode::Shl, Type::I64, address.index, count);
            variable = self.scope.binary(Opcode::Add, Type::I64, variable, scaled);
        }
        let constant = self.scope.constant(Type::I64, target);
        let equal = self.scope.compare(Opcode::Eq, variable, constant);
        let guard = self.scope.add(Inst::guard(true, equal, exit));
        self.update_exit(exit);
        self.scope.out.push(guard);
        self.scope.assume(equal, true);
        self.scope.equate(variable, constant);
    }
}
