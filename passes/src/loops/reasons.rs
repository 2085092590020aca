//! Why guards and accesses are in H2.
//!
//! Worked example: of `v5 = load [v4 + 8]` in H2, where v4 is loaded in each iteration: its address changes with v4.

use super::copy::{Copier, Copy};
use crate::why::{self, Reason};
use redmagic_ir::{Address, Entity, Inst, Opcode, Value};

impl Copier<'_, '_> {
    /// Notes why a guard is in H2.
    pub(super) fn explain_guard(&mut self, copy: &Copy, guard: Value, test: Value) {
        if self.scope.stats.reasons.is_some() {
            let leaves = why::leaves(self.scope.trace, test, |value| self.scope.resolve(value));
            let changes = |value: &Value| copy.changing.get(value.index()) == Some(&true);
            let invariant = !leaves.iter().any(changes);
            let reason = || if invariant { Reason::Invariant } else { Reason::DependsOn(leaves) };
            self.scope.stats.because(guard, reason);
        }
    }

    /// Notes why an access is in H2; whether it is at a known place.
    pub(super) fn explain_access(&mut self, new: Value, inst: &Inst, placed: bool) {
        let varying = |address: Address| if address.index.is_some() { address.index } else { address.root };
        let root = inst.address().map_or(Value::NONE, varying);
        self.scope.stats.because(new, || match (placed, inst.op) {
            (false, _) => Reason::Varies { root },
            (true, Opcode::Store) if !self.sinks => Reason::CannotWait,
            (true, _) => Reason::Parts,
        });
    }
}
