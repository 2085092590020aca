//! Stores that wait: which exits perform them.
//!
//! # Invariants
//! - An exit performs the stores of all atoms whose value differs from what memory holds, but for cells of frames that nobody
//!   can read behind it.
//!
//! Worked example: H2 has put off `store [v1 + 8], v5`; a guard in front of the next store there leaves by an exit that
//! performs it, one behind that store by an exit that performs that one.

use super::calls::above;
use super::copy::{Copier, Copy};
use redmagic_ir::{Address, DelayedStore, ExitData, ExitValue, Opcode, Slot, Type, Value};

impl Copier<'_, '_> {
    /// Whether stores to an atom wait until they are needed.
    pub(super) fn waits(&self, atom: usize) -> bool {
        let atom = &self.accesses.atoms[atom];
        atom.clean && (self.sinks || self.frames_wait && atom.frame)
    }

    /// The stores that an exit has to perform.
    pub(super) fn pending(&self, copy: &Copy, exit: &ExitData) -> Vec<DelayedStore> {
        let mut stores = Vec::new();
        for (at, atom) in self.accesses.atoms.iter().enumerate() {
            if !atom.stored || !self.waits(at) || self.is_dead(atom.frame, atom.class, atom.offset, atom.ty, exit) {
                continue;
            }
            let Some(value) = copy.cells[at].map(|value| self.scope.resolve(value)) else { continue };
            if self.holds(copy, at, value) {
                continue;
            }
            let (root, offset) = self.address_of(atom.class, atom.offset);
            let narrow = self.scope.as_const(value).filter(|_| atom.ty.bits() <= 64);
            let value = narrow.map_or(ExitValue::Value(value), ExitValue::Const);
            stores.push(DelayedStore { ty: atom.ty, address: Address::new(root, offset as i32), value });
        }
        stores.extend(copy.late.iter().map(|late| {
            let constant = self.scope.as_const(late.value).filter(|_| late.ty.bits() <= 64);
            let value = constant.map_or(ExitValue::Value(late.value), ExitValue::Const);
            DelayedStore { ty: late.ty, address: late.address, value }
        }));
        stores
    }

    /// Whether memory is known to hold what the cell of an atom holds, `value`.
    pub(super) fn holds(&self, copy: &Copy, at: usize, value: Value) -> bool {
        if let Some(written) = copy.written[at] {
            return self.scope.resolve(written) == value;
        }
        // What the last iteration has left, or what H has left.
        let untouched = self.through[at] && copy.cells[at] == copy.atoms[at];
        let first = self.ends[at].map(|end| self.scope.resolve(end)) == Some(value);
        untouched || first && !self.carried_atoms[at] && !self.restless[at]
    }

    pub(super) fn address_of(&self, class: usize, offset: i64) -> (Value, i64) {
        let (root, delta) = self.accesses.classes[class].members[0];
        (root, offset - delta)
    }

    /// Whether nobody can read a cell of the trace's own frames behind an exit: it lies below the stack pointer there, and
    /// below the red zone of a function that the trace is in the middle of.
    pub(super) fn is_dead(&self, frame: bool, class: usize, offset: i64, ty: Type, exit: &ExitData) -> bool {
        let Some((stack, (stack_class, delta))) =
            self.stack.and_then(|stack| Some((stack, self.accesses.of_root(stack)?)))
        else {
            return false;
        };
        if !frame || stack_class != class {
            return false;
        }
        let height = match exit.get(Slot::RSP) {
            None => self.unlisted,
            Some(ExitValue::Value(value)) => above(self.scope.trace, value, stack),
            Some(ExitValue::Const(_) | ExitValue::Recipe(_) | ExitValue::Undefined) => None,
        };
        const RED_ZONE: i64 = 128;
        let limit = height.map(|height| if height >= 0 && !self.red_zone { 0 } else { height.min(0) - RED_ZONE });
        limit.is_some_and(|limit| offset - delta + i64::from(ty.bytes()) <= limit)
    }

    /// Whether nobody reads what a cell holds where H begins: H stores there before it leaves or reads.
    pub(super) fn is_dead_at_head(&self, at: usize) -> bool {
        let trace = &*self.scope.trace;
        let atom = &self.accesses.atoms[at];
        for value in &self.body.insts {
            let inst = &trace.insts[*value];
            if let Some(exit) = inst.exit() {
                if !self.is_dead(atom.frame, atom.class, atom.offset, atom.ty, &trace.exits[exit]) {
                    return false;
                }
            } else if self.body.calls.iter().any(|(marker, _)| marker == value) {
                return false;
            } else if let Some(address) = inst.address().filter(|address| !address.index.is_some())
                && let Some((class, offset)) = self.accesses.place(address.root, i64::from(address.offset))
                && let Some(found) = self.accesses.atom(class, offset, inst.ty)
                && self.accesses.atoms[found].inside.unwrap_or(found) == at
            {
                return inst.op == Opcode::Store;
            }
        }
        false
    }
}
