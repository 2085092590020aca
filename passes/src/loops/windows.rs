//! Accesses without bounds: to objects that are others in each iteration.
//!
//! All that H accesses through a root that changes is a *window*. A window lies in the *gap* between two classes, as far as
//! the recording tells: the check behind H finds the end of the last class in front of it and the start of the first one
//! behind it, and H2 compares each window with these two. One comparison so keeps an object apart from all classes. An
//! object that lies elsewhere is compared with each class.
//!
//! # Invariants
//! - With windows, nothing is stored before the end of an iteration of H2: cells are in registers, and stores to varying
//!   places come *late*. Where a check fails, what earlier iterations have put off is stored, and the iteration begins
//!   again in H, as if it had never begun.
//! - A window that is stored to keeps away from all classes, in H too; one that is only loaded from keeps away, in H2, from
//!   classes with stores, because these wait.
//! - Behind a late store, H2 loads from another window only if the two are found apart as well, and forwards what the same
//!   window holds.
//!
//! # Worked example
//! `v5 = load [v0 + 8]; v6 = load [v5]; v7 = add v6, v1; store [v5], v7; store [v0 + 16], v7`, where the object at v0 is a class and v5
//! changes: H2 loads v5, checks that `v5 - low` is at most `high - low - 8`, loads v6, adds, and stores. The cell at v0 + 16 is a
//! register, and the object at v5 is not the one at v0.

use super::bounds;
use super::copy::{Copier, Copy, Setback, mark};
use redmagic_ir::{Address, Inst, Opcode, Recorded, Type, Value};

/// More windows than these are not worth their checks.
const MAX_WINDOWS: usize = 24;
/// A check costs as much as so many stores.
const CHECK: usize = 4;

/// What H accesses without bounds through one root, or through several that it has found to be the same.
pub(crate) struct Window {
    /// In H, where they are the same.
    pub roots: Vec<Value>,
    /// First byte, from the root.
    pub low: i64,
    /// First byte behind it.
    pub high: i64,
    /// Whether H stores there.
    pub stores: bool,
    /// Which gap it lies in.
    pub gap: usize,
    base: Option<u64>,
}

/// Memory between classes.
pub(crate) struct Gap {
    /// Classes in front of it.
    pub front: Vec<usize>,
    /// Classes behind it.
    pub behind: Vec<usize>,
    /// Its first address; what that is, is filled in when the nest is built.
    pub low: Value,
    /// The first address behind it.
    pub high: Value,
}

/// A check that leads back to the start of the iteration.
pub(crate) struct Break {
    /// In front of which instruction of H2.
    pub at: usize,
    /// Has to be 1,
    pub test: Value,
    /// or else the last one of these.
    pub slow: Vec<Value>,
}

/// A store to a varying place.
pub(super) struct Late {
    pub ty: Type,
    pub address: Address,
    pub value: Value,
    recorded: Option<Recorded>,
    /// What the address is relative to, in H.
    root: Value,
}

impl Copier<'_, '_> {
    /// Decides how accesses without bounds are kept apart from what is in registers.
    pub(super) fn settle(&mut self) -> Result<(), Setback> {
        self.windows.clear();
        self.gaps.clear();
        self.unplaced = false;
        let mut unbounded = self.varying.iter().filter(|access| access.extent.is_none()).peekable();
        self.frames_wait = unbounded.peek().is_none() && self.scope.stats.may("stores to frames wait");
        if unbounded.peek().is_none() {
            return Ok(());
        }
        let stores = unbounded.any(|access| access.store);
        if self.may_wait && self.body.calls.is_empty() && (stores || self.sinks && self.loads_are_worth_it()) {
            if self.find_windows().is_some() && self.scope.stats.may("kept apart") {
                self.sinks = true;
                return Ok(());
            }
            self.windows.clear();
            self.unplaced = false;
        }
        self.sinks = false;
        if stores { Err(Setback::Hopeless("store without bounds")) } else { Ok(()) }
    }

    /// Whether stores that wait save more than the checks of all loads without bounds cost.
    fn loads_are_worth_it(&self) -> bool {
        let mut roots: Vec<Value> = Vec::new();
        for root in self.varying.iter().filter(|access| access.extent.is_none()).filter_map(|access| access.root) {
            if !roots.contains(&root) {
                roots.push(root);
            }
        }
        self.accesses.atoms.iter().filter(|atom| atom.stored && atom.clean).count() > CHECK * roots.len()
    }

    /// Finds the windows and their gaps, if all accesses without bounds have some.
    fn find_windows(&mut self) -> Option<()> {
        for access in self.varying.iter().filter(|access| access.extent.is_none()) {
            let root = access.root?;
            let same = |other: &Value| self.scope.resolve(*other) == self.scope.resolve(root);
            match self.windows.iter_mut().find(|window| window.roots.first().is_some_and(same)) {
                Some(window) => {
                    if !window.roots.contains(&root) {
                        window.roots.push(root);
                    }
                    window.low = window.low.min(access.low);
                    window.high = window.high.max(access.high);
                    window.stores |= access.store;
                    window.base = window.base.or(access.base);
                }
                None => self.windows.push(Window {
                    roots: vec![root],
                    low: access.low,
                    high: access.high,
                    stores: access.store,
                    gap: usize::MAX,
                    base: access.base,
                }),
            }
        }
        if self.windows.len() > MAX_WINDOWS {
            return None;
        }
        for at in 0..self.windows.len() {
            match self.find_gap(at) {
                Some(gap) => self.windows[at].gap = gap,
                // What is in the way may turn out to be no class.
                None => self.unplaced = true,
            }
        }
        Some(())
    }

    /// The gap of a window, if the recording tells.
    fn find_gap(&mut self, window: usize) -> Option<usize> {
        let window = &self.windows[window];
        let base = window.base?;
        let (start, end) = (base.wrapping_add(window.low as u64), base.wrapping_add(window.high as u64));
        let (mut front, mut behind) = (Vec::new(), Vec::new());
        for (at, class) in self.accesses.classes.iter().enumerate() {
            if !window.stores && !class.stores {
                continue;
            }
            let origin = class.recorded?;
            if origin.wrapping_add(class.high as u64) <= start {
                front.push(at);
            } else if end <= origin.wrapping_add(class.low as u64) {
                behind.push(at);
            } else {
                return None;
            }
        }
        let known = self.gaps.iter().position(|gap| gap.front == front && gap.behind == behind);
        Some(known.unwrap_or_else(|| {
            let [low, high] = [(); 2].map(|()| self.scope.add(Inst::param(Type::I64, None)));
            self.gaps.push(Gap { front, behind, low, high });
            self.gaps.len() - 1
        }))
    }

    fn window(&self, root: Value) -> Option<&Window> {
        self.windows.iter().find(|window| window.roots.contains(&root))
    }

    /// Goes back to the start of the iteration unless `test` is 1, or what `slow` ends with.
    fn insist(&mut self, copy: &mut Copy, test: Value, slow: Vec<Value>) -> Result<(), Setback> {
        self.place(copy);
        let test = self.scope.resolve(test);
        match self.scope.as_const(test) {
            Some(1) => Ok(()),
            _ if copy.breaks.iter().any(|known| known.test == test) => Ok(()),
            Some(_) => Err(Setback::Hopeless("memory that is never apart")),
            None if copy.wrote => Err(Setback::Hopeless("a check behind a store")),
            None => {
                copy.breaks.push(Break { at: copy.insts.len(), test, slow });
                Ok(())
            }
        }
    }

    /// Compares what is accessed at `root + low` with every class of a gap's two sides; what that takes, the result last.
    fn compare_all(&mut self, root: Value, low: i64, size: i64, gap: usize) -> Vec<Value> {
        let gap = &self.gaps[gap];
        let sides: Vec<usize> = gap.front.iter().chain(&gap.behind).copied().collect();
        let mut insts = Vec::new();
        let mut all = None;
        for class in sides {
            let class = &self.accesses.classes[class];
            let (origin, length) = (class.members[0].0, class.high - class.low);
            let addend = low.wrapping_sub(class.low).wrapping_sub(length);
            let [addend, limit] = [addend, -(length + size)].map(|imm| self.scope.constant(Type::I64, imm));
            let mut emit = |inst: Inst| {
                insts.push(self.scope.add(inst));
                insts[insts.len() - 1]
            };
            let distance = emit(Inst::binary(Opcode::Sub, Type::I64, root, origin));
            let moved = emit(Inst::binary(Opcode::Add, Type::I64, distance, addend));
            let apart = emit(Inst::binary(Opcode::Ule, Type::I1, moved, limit));
            all = Some(match all {
                None => apart,
                Some(others) => emit(Inst::binary(Opcode::And, Type::I1, others, apart)),
            });
        }
        insts
    }

    /// Makes sure that the window of `root`, which is `mapped` in H2, lies in its gap, if it has a window.
    fn stay_in_gap(&mut self, copy: &mut Copy, root: Value, mapped: Value) -> Result<(), Setback> {
        let Some(window) = self.window(root) else { return Ok(()) };
        let (low, size) = (window.low, window.high - window.low);
        let at = window.gap;
        let Some(gap) = self.gaps.get(at) else { return Ok(()) };
        let (from, to) = (gap.low, gap.high);
        let [below, less] = [low.wrapping_neg(), -size].map(|imm| self.scope.constant(Type::I64, imm));
        let start = self.scope.binary(Opcode::Add, Type::I64, from, below);
        let room = self.scope.binary(Opcode::Sub, Type::I64, to, from);
        let room = self.scope.binary(Opcode::Add, Type::I64, room, less);
        let distance = self.scope.binary(Opcode::Sub, Type::I64, mapped, start);
        let test = self.scope.compare(Opcode::Ule, distance, room);
        let slow = self.compare_all(mapped, low, size, at);
        self.insist(copy, test, slow)
    }

    /// Notes a store to a varying place.
    pub(super) fn late_store(
        &mut self,
        copy: &mut Copy,
        value: Value,
        root: Value,
        inst: &Inst,
    ) -> Result<(), Setback> {
        let Some(address) = inst.address() else { return Err(Setback::Hopeless("malformed")) };
        self.stay_in_gap(copy, root, address.root)?;
        let stored = self.map(copy, inst.args[2]);
        copy.late.push(Late { ty: inst.ty, address, value: stored, recorded: self.scope.trace.recorded(value), root });
        Ok(())
    }

    /// Makes sure that late stores do not matter to a load from a varying place; or the value that the last one has
    /// put there.
    pub(super) fn see_late(
        &mut self,
        copy: &mut Copy,
        root: Value,
        address: &Address,
        ty: Type,
    ) -> Result<Option<Value>, Setback> {
        self.stay_in_gap(copy, root, address.root)?;
        for at in (0..copy.late.len()).rev() {
            let late = &copy.late[at];
            let own = (i64::from(address.offset), i64::from(address.offset) + i64::from(ty.bytes()));
            let offset = i64::from(late.address.offset);
            let other = (offset, offset + i64::from(late.ty.bytes()));
            if (late.address.index, late.address.scale) != (address.index, address.scale) || address.index.is_some() {
                // They are not compared: memory has to be up to date.
                self.write_late(copy);
                break;
            }
            let (base, late_base) =
                (bounds::sum(&self.scope, address.root), bounds::sum(&self.scope, late.address.root));
            if base.value == late_base.value {
                let delta = base.addend.wrapping_sub(late_base.addend);
                let own = (own.0.wrapping_add(delta), own.1.wrapping_add(delta));
                if own == other && late.ty == ty {
                    return Ok(Some(late.value));
                }
                if own.0 < other.1 && other.0 < own.1 {
                    self.write_late(copy);
                    break;
                }
                continue;
            }
            let whole = |window: Option<&Window>, (low, high): (i64, i64)| {
                window.map_or((low, high), |window| (window.low.min(low), window.high.max(high)))
            };
            let (own, other) = (whole(self.window(root), own), whole(self.window(late.root), other));
            // The distance of the first from the second is at least the second's length, and at most 2^64 less the first's.
            let (length, other_length) = (own.1 - own.0, other.1 - other.0);
            let addend = own.0.wrapping_sub(other.0).wrapping_sub(other_length);
            let [addend, limit] = [addend, -(length + other_length)].map(|imm| self.scope.constant(Type::I64, imm));
            let distance = self.scope.binary(Opcode::Sub, Type::I64, address.root, copy.late[at].address.root);
            let distance = self.scope.binary(Opcode::Add, Type::I64, distance, addend);
            let test = self.scope.compare(Opcode::Ule, distance, limit);
            self.insist(copy, test, Vec::new())?;
        }
        Ok(None)
    }

    /// Makes the late stores.
    pub(super) fn write_late(&mut self, copy: &mut Copy) {
        for late in std::mem::take(&mut copy.late) {
            self.write(copy, Inst::store(late.ty, late.address, late.value), late.recorded);
            copy.loaded.clear();
            copy.wrote = true;
        }
    }

    /// Stores the atoms that are stored in each iteration.
    pub(super) fn write_through(&mut self, copy: &mut Copy) {
        for at in 0..self.through.len() {
            let Some(value) = copy.cells[at].map(|value| self.scope.resolve(value)) else { continue };
            if !self.through[at] || !self.waits(at) || self.holds(copy, at, value) {
                continue;
            }
            let atom = self.accesses.atoms[at];
            let (root, offset) = self.address_of(atom.class, atom.offset);
            let store = Inst::store(atom.ty, Address::new(root, offset as i32), value);
            self.write(copy, store, self.recorded[at]);
        }
    }

    fn write(&mut self, copy: &mut Copy, store: Inst, recorded: Option<Recorded>) {
        let new = self.scope.add(store);
        self.scope.trace.set_recorded(new, recorded.map(|recorded| Recorded { value: 0, ..recorded }));
        mark(&mut copy.changing, new);
        copy.insts.push(new);
    }

    /// Keeps fewer atoms in registers: first those whose old value only exits need. Whether that changes anything.
    pub(super) fn relieve(&mut self, copy: &Copy) -> bool {
        let mut changed = false;
        for at in 0..self.through.len() {
            if self.carried_atoms[at] && !self.through[at] && !copy.read[at] {
                self.through[at] = true;
                changed = true;
            }
        }
        if !changed && self.windows.is_empty() {
            self.sinks = false;
            changed = true;
        }
        changed
    }
}
