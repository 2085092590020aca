//! The dirty-slot rule (stated in the parent module): a forward dataflow over sets of slots.

use super::{Place, Problem, Verifier};
use crate::{Entity, Exit, NativeOp, Opcode, Segment, Slot, Terminator};

/// A set of slots, one bit each.
type Slots = u128;

const _: () = assert!(Slot::COUNT <= Slots::BITS as usize);

fn only(slot: Slot) -> Slots {
    1 << slot.index()
}

impl Verifier<'_> {
    pub(super) fn dirty_slots(&mut self) {
        let mut at_start = vec![0; self.trace.segments.len()];
        let mut changed = true;
        while changed {
            changed = false;
            for segment in self.graph.reverse_post_order().to_vec() {
                let out = self.walk(segment, at_start[segment.index()], |_, _, _| {});
                for next in self.trace.segments[segment].terminator.successors() {
                    let all = at_start[next.index()] | out;
                    changed |= all != at_start[next.index()];
                    at_start[next.index()] = all;
                }
            }
        }
        let mut problems = Vec::new();
        for segment in &self.segments {
            self.walk(*segment, at_start[segment.index()], |place, exit, dirty| {
                let listed = self.trace.exits[exit].slots.iter().fold(0, |all, (slot, _)| all | only(*slot));
                for slot in Slot::all().filter(|slot| dirty & !listed & only(*slot) != 0) {
                    problems.push((place.clone(), Problem::Dirty { exit, slot }));
                }
            });
        }
        for (place, problem) in problems {
            self.error(place, problem);
        }
    }

    /// Follows one segment, shows `at_exit` the dirty slots wherever an exit is named, and returns those at its end.
    fn walk(&self, segment: Segment, dirty: Slots, mut at_exit: impl FnMut(Place, Exit, Slots)) -> Slots {
        let data = &self.trace.segments[segment];
        let mut dirty = dirty;
        for slot in data.params.iter().filter_map(|param| self.trace.insts[*param].slot()) {
            dirty |= only(slot);
        }
        for value in &data.insts {
            let inst = &self.trace.insts[*value];
            if let Some(exit) = inst.exit() {
                at_exit(self.at(*value), exit, dirty);
            }
            if let Some(native) = inst.native_op() {
                dirty |= self.written_by(&self.trace.natives[native]);
            }
        }
        if let Some(exit) = data.terminator.exit() {
            at_exit(Place::Terminator(segment), exit, dirty);
        }
        if matches!(data.terminator, Terminator::Call(_)) { 0 } else { dirty }
    }

    fn written_by(&self, native: &NativeOp) -> Slots {
        let changes = |(slot, value): &(Slot, _)| {
            let inst = &self.trace.insts[*value];
            (inst.op != Opcode::Slot || inst.slot() != Some(*slot)).then_some(*slot)
        };
        let inputs = native.inputs.iter().filter_map(changes);
        inputs.chain(native.outputs.iter().copied()).fold(0, |all, slot| all | only(slot))
    }
}
