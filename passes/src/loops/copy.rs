//! Makes the second copy: one walk over the first to learn what it leaves, then rounds over the second.
//!
//! Every round assumes of each parameter and atom that it keeps the value that it has at the end of H, but for those that
//! earlier rounds have found to change (*carried*: they become parameters). When a round confirms its assumptions, its
//! copy is the second copy. Each round adds to the carried ones, so there are few.
//!
//! # Invariants
//! - Values of H and of what dominates it may be used in H2; they are *invariant* there. What is computed from invariant
//!   values alone goes to P, in front of H2.
//! - Knowledge in the scope (numbers, facts) that a failed round has added is undone.

use super::Body;
use super::accesses::{Accesses, is_immutable};
use super::bounds::{self, Extent, Limits};
use super::calls::{self, CallSite};
use super::plan::Plan;
use super::windows::{Break, Gap, Late, Window};
use crate::Stats;
use crate::pipeline::MemoryModel;
use crate::scope::{self, MixMap, Scope};
use crate::walk::map_exit;
use crate::why::Reason;
use redmagic_ir::{Address, Entity, ExitData, Inst, Opcode, Recorded, Terminator, Trace, Type, Value};

/// Rounds and changes of classes before the loop is left as it is.
const MAX_ROUNDS: usize = 24;
/// Atoms that are kept in registers; the others are stored in every iteration.
const MAX_CARRIED: usize = 14;

/// Why a round was in vain.
pub(super) enum Setback {
    /// These change as well.
    Carried,
    /// These roots are not the same in every iteration.
    Roots(Vec<Value>),
    /// There is no second copy, for this reason.
    Hopeless(&'static str),
}

/// Plans the second copy of a loop; `None` if there is none, or nothing is gained.
pub(crate) fn plan(trace: &mut Trace, stats: &mut Stats, body: &Body) -> Option<Plan> {
    let mut varying = Vec::new();
    for _ in 0..MAX_ROUNDS {
        let Some(mut accesses) = Accesses::new(trace, body, &varying) else {
            stats.loop_refusals.push("too many roots");
            return None;
        };
        if calls::respect(trace, body, &mut accesses).is_none() {
            stats.loop_refusals.push("calls may change anything");
            return None;
        }
        for atom in accesses.atoms.iter_mut().filter(|atom| atom.clean) {
            atom.clean = stats.may("cell in a register");
        }
        let mut copier = Copier::new(trace, stats, body, accesses);
        match copier.rounds() {
            Ok(copy) => return copier.finish(copy),
            Err(Setback::Roots(roots)) => {
                roots.iter().for_each(|root| copier.scope.stats.because(*root, || Reason::Varies { root: *root }));
                varying.extend(roots);
            }
            Err(Setback::Carried) => break,
            Err(Setback::Hopeless(reason)) => {
                stats.loop_refusals.push(reason);
                return None;
            }
        }
    }
    stats.loop_refusals.push("too many rounds");
    None
}

/// A varying access.
pub(super) struct Varying {
    pub extent: Option<Extent>,
    pub store: bool,
    /// In H; none if there is an index.
    pub root: Option<Value>,
    /// From the root.
    pub low: i64,
    pub high: i64,
    /// Where the root was recorded to be.
    pub base: Option<u64>,
}

pub(super) struct Copier<'t, 'b> {
    pub scope: Scope<'t>,
    pub body: &'b Body,
    pub accesses: Accesses,
    /// Where each class is stored first: how atoms were recorded.
    pub recorded: Vec<Option<Recorded>>,
    /// What each parameter is at the end of H.
    pub starts: Vec<Value>,
    /// What each atom holds at the end of H.
    pub ends: Vec<Option<Value>>,
    pub varying: Vec<Varying>,
    pub carried_params: Vec<bool>,
    pub carried_atoms: Vec<bool>,
    /// Whether stores to atoms wait.
    pub sinks: bool,
    /// Whether they may.
    pub may_wait: bool,
    /// Whether those to the trace's own frames do, which no other thread looks at, where the others do not.
    pub frames_wait: bool,
    /// Atoms that are stored at the end of each iteration.
    pub through: Vec<bool>,
    /// Atoms that keep their value, but calls find others in memory.
    pub restless: Vec<bool>,
    /// How accesses without bounds are kept apart, if they are.
    pub windows: Vec<Window>,
    pub gaps: Vec<Gap>,
    /// Something is in the way of one.
    pub unplaced: bool,
    pub stack: Option<Value>,
    /// Where it is at exits that do not list it.
    pub unlisted: Option<i64>,
    /// Whether the function that the anchor is in uses its red zone.
    pub red_zone: bool,
    pub constants_before: Vec<Value>,
    /// What the walk over H made.
    pub made: Vec<Value>,
}

/// The second copy as one round made it.
pub(super) struct Copy {
    pub env: MixMap<Value, Value>,
    /// Values that change in H2: parameters, and what is placed there.
    pub changing: Vec<bool>,
    pub params: Vec<Option<Value>>,
    pub atoms: Vec<Option<Value>>,
    pub cells: Vec<Option<Value>>,
    pub preheader: Vec<Value>,
    pub insts: Vec<Value>,
    pub exits: Vec<(Value, ExitData)>,
    pub calls: Vec<CallSite>,
    /// What memory holds of each atom since the last call of the iteration.
    pub written: Vec<Option<Value>>,
    /// What was loaded from varying places, as long as nothing is stored: where, as which type, the value.
    pub loaded: Vec<(Address, Type, Value)>,
    /// What the parameters of H are where the iteration begins.
    pub restart: Vec<Value>,
    /// Atoms of which the iteration has read what they held at its start.
    pub read: Vec<bool>,
    /// Checks that lead back to the start of the iteration.
    pub breaks: Vec<Break>,
    /// Stores to varying places that are made at the end.
    pub late: Vec<Late>,
    /// Something is stored already.
    pub wrote: bool,
    /// Roots of classes that have turned out to change.
    pub moving: Vec<Value>,
}

impl<'t, 'b> Copier<'t, 'b> {
    fn new(trace: &'t mut Trace, stats: &'t mut Stats, body: &'b Body, accesses: Accesses) -> Copier<'t, 'b> {
        let first = &trace.segments[trace.entry()].insts;
        let constants_before = first.iter().copied().filter(|value| trace.as_const(*value).is_some()).collect();
        let stack = calls::fixed_stack(trace, &body.params);
        let atoms = accesses.atoms.len();
        // A call may have been made with another one, which is there since.
        let calls = trace.segments.values().any(|segment| matches!(segment.terminator, Terminator::Call(_)));
        let unlisted = (!calls && trace.natives.is_empty()).then_some(0);
        let mut scope = Scope::new(trace, stats);
        scope.rounding_is_fixed = unlisted.is_some();
        let mut copier = Copier {
            scope,
            body,
            recorded: vec![None; atoms],
            starts: Vec::new(),
            ends: vec![None; atoms],
            accesses,
            varying: Vec::new(),
            carried_params: vec![false; body.params.len()],
            carried_atoms: vec![false; atoms],
            sinks: true,
            may_wait: true,
            frames_wait: false,
            through: vec![false; atoms],
            restless: vec![false; atoms],
            windows: Vec::new(),
            gaps: Vec::new(),
            unplaced: false,
            stack,
            unlisted,
            red_zone: false,
            constants_before,
            made: Vec::new(),
        };
        copier.first();
        copier
    }

    /// Walks over what dominates H, and H: numbers its computations, takes what its guards prove as facts, and finds out
    /// what it leaves in memory if classes are as assumed.
    fn first(&mut self) {
        let entry = self.scope.trace.entry();
        for value in self.scope.trace.segments[entry].insts.clone() {
            if self.scope.as_const(value).is_some() {
                self.scope.intern(value);
            } else if scope::is_numbered(self.scope.trace.insts[value].op) {
                self.scope.note(value);
            }
        }
        self.unify();
        let mut limits = Limits::default();
        for &value in &self.body.insts {
            let inst = self.scope.trace.insts[value];
            match inst.op {
                Opcode::Const => self.scope.intern(value),
                Opcode::Load if is_immutable(self.scope.trace, value) => self.scope.note(value),
                Opcode::Load | Opcode::Store => self.first_access(value, &inst, &limits),
                Opcode::Guard | Opcode::GuardNot => {
                    let test = self.scope.resolve(inst.args[0]);
                    let expected = inst.op == Opcode::Guard;
                    limits.learn(&self.scope, test, expected);
                    self.scope.assume(test, expected);
                }
                _ if scope::is_numbered(inst.op) => self.scope.note(value),
                _ => {}
            }
        }
        // What rounds will learn holds in H2 only, and not where it begins.
        self.starts = self.body.args.iter().map(|arg| self.scope.resolve(*arg)).collect();
        let ends = std::mem::take(&mut self.ends);
        self.ends = ends.into_iter().map(|end| end.map(|value| self.scope.resolve(value))).collect();
        self.made = std::mem::take(&mut self.scope.out);
    }

    /// Expresses the members of a class by its origin: that they are at these distances is checked behind H, and values do
    /// not change.
    fn unify(&mut self) {
        for class in &self.accesses.classes {
            let Some(&(origin, _)) = class.members.first() else { continue };
            for &(member, delta) in &class.members[1..] {
                let delta = self.scope.constant(Type::I64, delta);
                let same = self.scope.binary(Opcode::Add, Type::I64, origin, delta);
                self.scope.unite(member, same);
            }
        }
    }

    /// Whether two values are the same distance from the same value.
    fn is_same(&self, one: Value, other: Value) -> bool {
        let (one, other) = (bounds::sum(&self.scope, one), bounds::sum(&self.scope, other));
        one.value == other.value && one.addend == other.addend
    }

    fn first_access(&mut self, value: Value, inst: &Inst, limits: &Limits) {
        let Some(address) = inst.address() else { return };
        let store = inst.op == Opcode::Store;
        let place =
            (!address.index.is_some()).then(|| self.accesses.place(address.root, i64::from(address.offset))).flatten();
        let Some((class, offset)) = place else {
            let size = i64::from(inst.ty.bytes());
            let root = (!address.index.is_some()).then_some(address.root);
            let low = i64::from(address.offset);
            let base = self.scope.trace.recorded(value).map(|noted| noted.address.wrapping_sub(low as u64));
            let address = Address { root: self.scope.resolve(address.root), ..address };
            // The check stands in H, where what goes to P does not exist yet.
            let in_reach = |extent: &Extent| ![extent.base, extent.bound].iter().any(|v| self.scope.out.contains(v));
            let extent = bounds::extent(&self.scope, &address, size, limits).filter(in_reach);
            if extent.is_none() {
                self.scope.stats.because(value, || Reason::Unbounded { root: address.root });
            }
            self.varying.push(Varying { extent, store, root, low, high: low + size, base });
            return;
        };
        let Some(atom) = self.accesses.atom(class, offset, inst.ty) else { return };
        let (part, atom) = (atom, self.accesses.atoms[atom].inside.unwrap_or(atom));
        // Who reads below the stack pointer what he has not pushed keeps something there.
        self.red_zone |= !store && self.ends[atom].is_none() && self.accesses.atoms[atom].frame;
        if !self.accesses.atoms[atom].clean {
            return;
        }
        if part != atom {
            if let Some(whole) = self.ends[atom] {
                let known = self.part(whole, atom, part);
                self.scope.unite(value, known);
            }
            return;
        }
        if store || self.recorded[atom].is_none() {
            self.recorded[atom] = self.scope.trace.recorded(value);
        }
        if store {
            self.ends[atom] = Some(self.scope.resolve(inst.args[2]));
        } else if let Some(known) = self.ends[atom] {
            self.scope.unite(value, known);
        } else {
            self.ends[atom] = Some(value);
        }
    }

    /// Makes copies until one is as assumed.
    fn rounds(&mut self) -> Result<Copy, Setback> {
        let lock = self.scope.stats.model == MemoryModel::InterpreterLock;
        self.may_wait = lock && self.scope.stats.may("stores wait");
        self.sinks = self.may_wait;
        self.settle()?;
        for _ in 0..MAX_ROUNDS {
            let mark = self.scope.enter();
            match self.round() {
                Ok(_) if self.unplaced => return Err(Setback::Hopeless("an object where a class was")),
                Ok(copy) => return Ok(copy),
                Err(setback) => {
                    self.scope.leave(mark);
                    self.scope.out.clear();
                    if !matches!(setback, Setback::Carried) {
                        return Err(setback);
                    }
                }
            }
        }
        Err(Setback::Hopeless("too many rounds"))
    }

    fn round(&mut self) -> Result<Copy, Setback> {
        let mut copy = Copy {
            env: MixMap::default(),
            changing: Vec::new(),
            params: vec![None; self.body.params.len()],
            atoms: vec![None; self.accesses.atoms.len()],
            cells: self.ends.clone(),
            preheader: Vec::new(),
            insts: Vec::new(),
            exits: Vec::new(),
            calls: Vec::new(),
            written: vec![None; self.accesses.atoms.len()],
            loaded: Vec::new(),
            restart: Vec::new(),
            read: vec![false; self.accesses.atoms.len()],
            breaks: Vec::new(),
            late: Vec::new(),
            wrote: false,
            moving: Vec::new(),
        };
        for (at, &param) in self.body.params.iter().enumerate() {
            let value = if self.carried_params[at] {
                let inst = self.scope.trace.insts[param];
                *copy.params[at].insert(self.new_param(&mut copy.changing, inst))
            } else {
                self.scope.resolve(self.body.args[at])
            };
            copy.env.insert(param, value);
            copy.restart.push(value);
        }
        for atom in 0..self.accesses.atoms.len() {
            if self.carried_atoms[atom] {
                let inst = Inst::param(self.accesses.atoms[atom].ty, None);
                copy.cells[atom] = Some(*copy.atoms[atom].insert(self.new_param(&mut copy.changing, inst)));
            }
        }
        for &value in &self.body.insts {
            match self.visit(&mut copy, value) {
                Err(_) if !copy.moving.is_empty() => break,
                result => result?,
            }
        }
        if !copy.moving.is_empty() {
            return Err(Setback::Roots(copy.moving));
        }
        self.write_late(&mut copy);
        self.write_through(&mut copy);
        self.confirm(&mut copy)?;
        Ok(copy)
    }

    fn new_param(&mut self, changing: &mut Vec<bool>, inst: Inst) -> Value {
        let value = self.scope.add(inst);
        mark(changing, value);
        value
    }

    /// The value in H2 that stands for `value` of H.
    pub(super) fn map(&self, copy: &Copy, value: Value) -> Value {
        self.scope.resolve(copy.env.get(&value).copied().unwrap_or(value))
    }

    fn visit(&mut self, copy: &mut Copy, value: Value) -> Result<(), Setback> {
        self.scope.stats.rewrites.look_at(value);
        let mut inst = self.scope.trace.insts[value];
        match inst.op {
            Opcode::Const => self.call(copy, value)?,
            Opcode::Tick => {}
            Opcode::Guard | Opcode::GuardNot => self.guard(copy, &inst)?,
            Opcode::Load if is_immutable(self.scope.trace, value) => self.pure(copy, value, inst),
            Opcode::Load | Opcode::Store => self.access(copy, value, inst)?,
            _ if scope::is_numbered(inst.op) => self.pure(copy, value, inst),
            _ => {
                inst.map_operands(|operand| self.map(copy, operand));
                let new = self.scope.add(inst);
                mark(&mut copy.changing, new);
                copy.insts.push(new);
                copy.env.insert(value, new);
            }
        }
        Ok(())
    }

    fn pure(&mut self, copy: &mut Copy, value: Value, mut inst: Inst) {
        inst.map_operands(|operand| self.map(copy, operand));
        let new = self.scope.emit(inst);
        self.place(copy);
        if new != value {
            copy.env.insert(value, new);
        }
        // What was recorded is of one address: where another one is read, nothing is.
        if inst.op == Opcode::Load && inst.operands().eq(self.scope.def(value).operands()) {
            let recorded = self.scope.trace.recorded(new).or(self.scope.trace.recorded(value));
            self.scope.trace.set_recorded(new, recorded);
        }
    }

    /// Puts what the scope has made where it belongs.
    pub(super) fn place(&mut self, copy: &mut Copy) {
        for new in std::mem::take(&mut self.scope.out) {
            let inst = &self.scope.trace.insts[new];
            // What can trap, fault or raise a flag in MXCSR stays behind the guards that protect it.
            let stays = !scope::is_total(self.scope.trace, inst) || scope::depends_on_mxcsr(inst.op);
            let changing = |operand: Value| copy.changing.get(operand.index()) == Some(&true);
            if stays || inst.operands().any(changing) {
                mark(&mut copy.changing, new);
                copy.insts.push(new);
            } else {
                copy.preheader.push(new);
            }
        }
    }

    fn guard(&mut self, copy: &mut Copy, inst: &Inst) -> Result<(), Setback> {
        let Some(exit) = inst.exit() else { return Err(Setback::Hopeless("malformed")) };
        let expected = inst.op == Opcode::Guard;
        let test = self.map(copy, inst.args[0]);
        if let Some(imm) = self.scope.as_const(test) {
            return if (imm == 1) == expected { Ok(()) } else { Err(Setback::Hopeless("a guard always fails")) };
        }
        let mut data = self.scope.trace.exits[exit].clone();
        if !data.stores.is_empty() {
            return Err(Setback::Hopeless("stores wait already"));
        }
        map_exit(self.scope.trace, &mut data, |value| self.map(copy, value));
        data.stores = self.pending(copy, &data);
        let guard = self.scope.add(Inst::guard(expected, test, exit));
        self.explain_guard(copy, guard, test);
        copy.insts.push(guard);
        copy.exits.push((guard, data));
        self.scope.assume(test, expected);
        // Facts are not computations; what the rules have made is.
        self.place(copy);
        Ok(())
    }

    fn access(&mut self, copy: &mut Copy, value: Value, mut inst: Inst) -> Result<(), Setback> {
        let Some(mut address) = inst.address() else { return Err(Setback::Hopeless("malformed")) };
        let root = address.root;
        address.root = self.map(copy, root);
        if address.index.is_some() {
            address.index = self.map(copy, address.index);
        }
        let mut fixed =
            (!address.index.is_some()).then(|| self.accesses.place(root, i64::from(address.offset))).flatten();
        // The address in H2 must be one that is known to be the same. Else the round goes on to find others.
        if fixed.is_some() && !self.is_same(address.root, self.scope.resolve(root)) {
            fixed = None;
            if !copy.moving.contains(&root) {
                copy.moving.push(root);
            }
        }
        if let Some((class, offset)) = fixed {
            let known = |atom: &usize| self.accesses.atoms[self.accesses.atoms[*atom].inside.unwrap_or(*atom)].clean;
            let atom = self.accesses.atom(class, offset, inst.ty).filter(known);
            if let Some(atom) = atom
                && self.promoted(copy, value, &inst, atom)
            {
                return Ok(());
            }
        }
        inst.set_address(address);
        if !self.windows.is_empty() && fixed.is_none() {
            if inst.op == Opcode::Store {
                return self.late_store(copy, value, root, &inst);
            }
            if let Some(known) = self.see_late(copy, root, &address, inst.ty)? {
                copy.env.insert(value, known);
                return Ok(());
            }
        }
        if inst.op == Opcode::Store {
            inst.args[2] = self.map(copy, inst.args[2]);
            copy.loaded.clear();
            copy.wrote = true;
        } else if let Some(&(.., known)) = copy.loaded.iter().find(|entry| (entry.0, entry.1) == (address, inst.ty))
            && self.scope.stats.may("load repeated")
        {
            self.scope.stats.loads_forwarded += 1;
            copy.env.insert(value, known);
            return Ok(());
        }
        let new = self.scope.add(inst);
        if inst.op == Opcode::Load {
            copy.loaded.push((address, inst.ty, new));
        }
        self.explain_access(new, &inst, fixed.is_some());
        let recorded = self.scope.trace.recorded(value);
        self.scope.trace.set_recorded(new, recorded);
        mark(&mut copy.changing, new);
        copy.insts.push(new);
        copy.env.insert(value, new);
        Ok(())
    }

    /// Does an access to a clean atom without memory; whether that was possible.
    fn promoted(&mut self, copy: &mut Copy, value: Value, inst: &Inst, atom: usize) -> bool {
        if inst.op == Opcode::Store {
            let stored = self.map(copy, inst.args[2]);
            copy.cells[atom] = Some(stored);
            return self.waits(atom);
        }
        let whole = self.accesses.atoms[atom].inside.unwrap_or(atom);
        let Some(known) = copy.cells[whole] else { return false };
        copy.read[whole] |= copy.atoms[whole] == Some(known);
        let mut known = self.scope.resolve(known);
        if whole != atom {
            known = self.part(known, whole, atom);
            self.place(copy);
        }
        if known != value {
            copy.env.insert(value, known);
        }
        true
    }

    /// What an atom that is a part of another one holds when that one holds `value`.
    fn part(&mut self, value: Value, whole: usize, part: usize) -> Value {
        let (whole, part) = (self.accesses.atoms[whole], self.accesses.atoms[part]);
        let shift = self.scope.constant(Type::I8, (part.offset - whole.offset) * 8);
        let shifted = self.scope.binary(Opcode::Lshr, whole.ty, value, shift);
        self.scope.emit(Inst::unary(Opcode::Trunc, part.ty, shifted))
    }

    /// Compares what the copy has at its end with what it assumed at its start.
    fn confirm(&mut self, copy: &mut Copy) -> Result<(), Setback> {
        let (mut changed, mut unsettled) = (false, false);
        for at in 0..self.body.params.len() {
            let arg = self.body.args[at];
            if !self.carried_params[at] && self.map(copy, arg) != self.scope.resolve(arg) {
                self.carried_params[at] = true;
                changed = true;
            }
        }
        for at in 0..self.accesses.atoms.len() {
            let atom = self.accesses.atoms[at];
            if self.carried_atoms[at] || !atom.clean || !atom.stored {
                continue;
            }
            let start = self.ends[at].map(|value| self.scope.resolve(value));
            let end = copy.cells[at].map(|value| self.scope.resolve(value));
            if start != end {
                self.carried_atoms[at] = true;
                changed = true;
            }
        }
        changed |= self.find_restless(copy);
        for at in 0..self.varying.len() {
            let Some(extent) = self.varying[at].extent else { continue };
            let fixed = |value: Value| self.map(copy, value) == self.scope.resolve(value);
            if fixed(extent.base) && fixed(extent.bound) {
                continue;
            }
            // It may be anywhere.
            self.varying[at].extent = None;
            unsettled = true;
        }
        if unsettled {
            self.settle()?;
        }
        let kept = |at: &usize| self.carried_atoms[*at] && !self.through[*at];
        let carried = (0..self.carried_atoms.len()).filter(kept).count();
        if carried > MAX_CARRIED && self.sinks && !changed && !unsettled {
            changed = self.relieve(copy);
        }
        if changed || unsettled { Err(Setback::Carried) } else { Ok(()) }
    }
}

/// Notes that a value changes from iteration to iteration.
pub(super) fn mark(changing: &mut Vec<bool>, value: Value) {
    if changing.len() <= value.index() {
        changing.resize(value.index() + 1, false);
    }
    changing[value.index()] = true;
}
