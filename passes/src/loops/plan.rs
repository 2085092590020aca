//! What the nest is built from: the plan that the last round of [`copy`](super::copy) leaves to [`commit`](super::commit).
//!
//! # Invariants
//! A plan names values of the trace only, and changes nothing but operands of H2's own instructions: it can be thrown away.
//!
//! # Worked example
//! A cell that H2 carries is a parameter (at first what H has left, next what H2 has left), and a store of F, and of the way back to
//! the start of the iteration.

use super::accesses::Accesses;
use super::bounds::Extent;
use super::calls::CallSite;
use super::commit;
use super::copy::{Copier, Copy};
use super::counted::Limit;
use super::windows::{Break, Gap, Window};
use super::{CALL, STRIP};
use redmagic_ir::{Address, ExitData, Opcode, Recorded, Type, Value};

/// Everything that is needed to build the nest.
pub(crate) struct Plan {
    /// Constants that the entry segment does not have yet.
    pub constants: Vec<Value>,
    /// Computations of P.
    pub preheader: Vec<Value>,
    /// Parameters of H2, what they are at first, and what they are next.
    pub params: Vec<(Value, Value, Value)>,
    /// Instructions of H2.
    pub insts: Vec<Value>,
    /// Exits of the guards in `insts`.
    pub exits: Vec<(Value, ExitData)>,
    /// Calls between them.
    pub calls: Vec<CallSite>,
    /// Computations of F.
    pub last: Vec<Value>,
    /// Stores of F.
    pub flush: Vec<(Type, Address, Value, Option<Recorded>)>,
    /// The arguments for H from H2.
    pub back: Vec<Value>,
    /// Where H2 may go back to the start of the iteration, in H.
    pub breaks: Vec<Break>,
    /// Stores on that way.
    pub undo: Vec<(Type, Address, Value, Option<Recorded>)>,
    /// The arguments for H on that way.
    pub restart: Vec<Value>,
    /// What accesses without bounds are kept in.
    pub windows: Vec<Window>,
    /// The gaps that the windows lie in.
    pub gaps: Vec<Gap>,
    /// What the nest relies on.
    pub accesses: Accesses,
    /// Memory with a varying address, and whether it is stored to.
    pub extents: Vec<(Extent, bool)>,
    /// Iterations of H2 in a row.
    pub strip: i64,
    /// Guards that hold so often are not in H2.
    pub limits: Vec<Limit>,
    /// What counts H down. H2 does not: it tells how often it has run when it is left.
    pub tick: Option<Value>,
}

impl Copier<'_, '_> {
    /// What is needed to build the nest, if that is worth it.
    pub(super) fn finish(mut self, mut copy: Copy) -> Option<Plan> {
        let body = self.body;
        if copy.insts.len() * 10 > body.insts.len() * 9 {
            self.scope.stats.loop_refusals.push("nothing gained");
            return None;
        }
        if self.keeps_too_much(&copy) {
            self.scope.stats.loop_refusals.push("too many values across calls");
            return None;
        }
        let mut params = Vec::new();
        for (at, param) in copy.params.iter().enumerate() {
            if let Some(param) = param {
                params.push((*param, self.starts[at], self.map(&copy, body.args[at])));
            }
        }
        let (mut flush, mut undo) = (Vec::new(), Vec::new());
        for (at, param) in copy.atoms.iter().enumerate() {
            let atom = self.accesses.atoms[at];
            let Some(end) = copy.cells[at].map(|value| self.scope.resolve(value)) else { continue };
            if let (Some(param), Some(start)) = (param, self.ends[at]) {
                params.push((*param, start, end));
                if self.waits(at) && !self.through[at] && !self.is_dead_at_head(at) {
                    let (root, offset) = self.address_of(atom.class, atom.offset);
                    let address = Address::new(root, offset as i32);
                    flush.push((atom.ty, address, end, self.recorded[at]));
                    undo.push((atom.ty, address, *param, self.recorded[at]));
                }
            } else if param.is_some() {
                return None;
            } else if self.restless[at] {
                let (root, offset) = self.address_of(atom.class, atom.offset);
                flush.push((atom.ty, Address::new(root, offset as i32), end, self.recorded[at]));
            }
        }
        let mut back: Vec<Value> = body.args.iter().map(|arg| self.map(&copy, *arg)).collect();
        // Parameters that are the same at first and next are the same.
        while let Some((extra, kept)) = commit::twins(&params) {
            let rename = |value: Value| if value == extra { kept } else { value };
            params.retain(|param| param.0 != extra);
            params.iter_mut().for_each(|param| param.2 = rename(param.2));
            let slow = copy.breaks.iter().flat_map(|check| &check.slow);
            copy.insts.iter().chain(slow).for_each(|value| self.scope.trace.insts[*value].map_operands(rename));
            copy.exits.iter_mut().for_each(|(_, data)| data.map_values(rename));
            copy.calls.iter_mut().for_each(|site| site.rename(rename));
            flush.iter_mut().chain(&mut undo).for_each(|store| store.2 = rename(store.2));
            copy.restart.iter_mut().chain(&mut back).for_each(|arg| *arg = rename(*arg));
        }
        let limits = self.limit(&mut copy, &params);
        let (insts, exits, calls) = (copy.insts, copy.exits, copy.calls);
        let (breaks, restart) = (copy.breaks, copy.restart);
        let extents = self.extents();
        let mut constants = std::mem::take(&mut self.scope.pool);
        constants.retain(|value| !self.constants_before.contains(value));
        let mut preheader = std::mem::take(&mut self.made);
        preheader.extend(&copy.preheader);
        let strip = (STRIP / (insts.len() + CALL * calls.len()).max(1) as i64).clamp(64, 60_000);
        let tick = body.insts.iter().copied().find(|value| self.scope.trace.insts[*value].op == Opcode::Tick);
        let (accesses, windows, gaps) = (self.accesses, self.windows, self.gaps);
        Some(Plan {
            constants,
            preheader,
            params,
            insts,
            exits,
            calls,
            last: Vec::new(),
            flush,
            back,
            breaks,
            undo,
            restart,
            windows,
            gaps,
            accesses,
            extents,
            strip,
            limits,
            tick,
        })
    }

    /// The varying accesses that matter, each once.
    fn extents(&self) -> Vec<(Extent, bool)> {
        let mut extents: Vec<(Extent, bool)> = Vec::new();
        for access in &self.varying {
            let Some(extent) = access.extent else { continue };
            match extents.iter_mut().find(|known| known.0 == extent) {
                Some(known) => known.1 |= access.store,
                None => extents.push((extent, access.store)),
            }
        }
        extents
    }
}
