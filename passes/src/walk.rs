//! The forward walk that `fold` and `forward` are made of.
//!
//! It visits segments in preorder of the dominator tree and emits each segment's instructions anew: every instruction
//! is first rewritten with what is known by then, and what it becomes is known to those behind it. So one walk sees
//! through a load that forwards to a constant, the address computed from it, and the load at that address.
//!
//! # Invariants
//! - Values keep their numbers unless they are replaced; new ones are appended to the arena.
//! - An exit that several places share is rewritten with permanent replacements only, since facts differ between them.
//! - What is known about memory at the start of a segment is what its only predecessor left; nothing at joins, at loop
//!   headers and behind residual calls.
//!
//! Worked example: see the crate's documentation.

use crate::Stats;
use crate::apart::{Apart, Path, RootId, Spot, Window};
use crate::frames::{Frames, Overwritten};
use crate::graph::{self, Graph};
use crate::loss::Losses;
use crate::memory::{Base, Domain, Known, Memory, Place};
use crate::pipeline::MemoryModel;
use crate::regions::Regions;
use crate::scope::{self, Scope};
use crate::stronger::Candidates;
use crate::undeclared::Undeclared;
use crate::why::{self, Reason};
use redmagic_ir::{
    Address, Call, CallEffect, Class, Effect, Exit, ExitData, ExitValue, Inst, Map, Opcode, Segment, Slot, Target,
    Terminator, Trace, Type, Value,
};

/// One walk over a trace.
pub(crate) struct Walk<'t> {
    /// What is known besides memory.
    pub scope: Scope<'t>,
    /// Immutable memory.
    pub regions: Regions,
    /// The program that nothing was declared of.
    pub(crate) undeclared: Undeclared,
    /// Comparisons and guards for the start of the entry segment.
    pub entry_guards: Vec<Value>,
    /// The exit of these guards.
    pub start_exit: Exit,
    graph: Graph,
    frames: Frames,
    pub(crate) apart: Apart,
    /// The segments that dominate the current one, and that one.
    pub(crate) path: Path,
    /// Where in the current segment guards could stand that leave by which exit: the last such point.
    pub(crate) point: Option<(Spot, Exit)>,
    /// Exits of points that have guards.
    pub(crate) points: Vec<(Spot, Exit)>,
    /// Guards that a later one may take the place of.
    pub(crate) stronger: Candidates,
    /// Whether loads see earlier loads and stores.
    forward: bool,
    memory: Memory,
    /// What memory does not know any more, if reasons are noted.
    losses: Option<Losses>,
    /// Stores of the segment that nobody has seen yet, if reasons are noted.
    unseen: Vec<Value>,
    /// What is known of memory at the end of segments whose successors need it.
    saved: Map<Segment, Option<Memory>>,
    /// How many places use each exit.
    pub(crate) exit_uses: Map<Exit, u32>,
    /// For each load its resume exit or none.
    pub(crate) resumes: Map<Value, Exit>,
    /// Slot reads of the entry segment.
    entry_slots: Map<Value, bool>,
    /// Addresses that are compared for equality, as the target of a dispatch is.
    compared: Map<Value, bool>,
    /// Values that these are computed from.
    demanded: Map<Value, bool>,
}

enum Step {
    Enter(Segment),
    Leave(Segment, scope::Mark),
}

/// Runs the pass `forward`.
pub(crate) fn run_forward(trace: &mut Trace, stats: &mut Stats) {
    let forward = stats.model != MemoryModel::Strict;
    run(trace, stats, forward);
}

/// Walks over `trace`, with memory forwarding if `forward`.
pub(crate) fn run(trace: &mut Trace, stats: &mut Stats, forward: bool) {
    graph::remove_unreachable(trace);
    let graph = Graph::new(trace);
    let entry = trace.entry();
    let mut resumes = Map::filled(trace.insts.len(), Exit::NONE);
    trace.resume_exits().for_each(|(load, exit)| resumes[load] = exit);
    let has_points = trace.resume_exits().next().is_some();
    let regions = Regions::new(trace);
    let mut walk = Walk {
        undeclared: Undeclared::new(trace, &graph.order, &regions),
        regions,
        entry_guards: Vec::new(),
        start_exit: Exit::NONE,
        frames: Frames::new(trace, &graph.order),
        apart: Apart::new(trace, has_points),
        path: Map::filled(trace.segments.len(), false),
        point: None,
        points: Vec::new(),
        stronger: Candidates::default(),
        forward,
        memory: Memory::default(),
        losses: stats.reasons.is_some().then(Losses::default),
        unseen: Vec::new(),
        saved: Map::filled(trace.segments.len(), None),
        exit_uses: count_exit_uses(trace),
        resumes,
        entry_slots: Map::filled(trace.insts.len(), false),
        compared: Map::filled(trace.insts.len(), false),
        demanded: Map::filled(trace.insts.len(), false),
        graph,
        scope: Scope::new(trace, stats),
    };
    walk.scan();
    walk.promote_early();
    let mut steps = vec![Step::Enter(entry)];
    while let Some(step) = steps.pop() {
        match step {
            Step::Enter(segment) => {
                steps.push(Step::Leave(segment, walk.scope.enter()));
                walk.path[segment] = true;
                walk.point = None;
                walk.stronger.enter();
                if walk.segment(segment) {
                    steps.extend(walk.graph.children[segment].iter().rev().map(|child| Step::Enter(*child)));
                }
            }
            // What was learned is not needed any more when nothing is left to enter.
            Step::Leave(segment, mark) if steps.iter().any(|step| matches!(step, Step::Enter(_))) => {
                walk.path[segment] = false;
                walk.scope.leave(mark);
            }
            Step::Leave(..) => {}
        }
    }
    walk.finish(entry);
    graph::remove_unreachable(trace);
}

fn count_exit_uses(trace: &Trace) -> Map<Exit, u32> {
    let mut uses = Map::filled(trace.exits.len(), 0);
    for segment in trace.segments.values() {
        let guards = segment.insts.iter().filter_map(|value| trace.insts[*value].exit());
        for exit in guards.chain(segment.terminator.exit()) {
            uses[exit] += 1;
        }
    }
    for (_, exit) in trace.resume_exits() {
        uses[exit] += 1;
    }
    uses
}

impl Walk<'_> {
    /// Finds the entry's slot reads, the values that a dispatch depends on, and whether rounding may change.
    fn scan(&mut self) {
        let trace = &*self.scope.trace;
        let mut rounding_is_fixed = true;
        for segment in self.graph.order.iter().rev() {
            let data = &trace.segments[*segment];
            rounding_is_fixed &= !matches!(data.terminator, Terminator::Call(Call { effect: CallEffect::Any, .. }));
            for &value in data.insts.iter().rev() {
                let inst = &trace.insts[value];
                match inst.op {
                    Opcode::Slot => self.entry_slots[value] = Some(*segment) == trace.entry,
                    Opcode::Native => rounding_is_fixed = false,
                    Opcode::Eq | Opcode::Ne if trace.ty(inst.args[0]) == Type::I64 => {
                        inst.operands().for_each(|operand| self.compared[operand] = true);
                    }
                    _ => {}
                }
                if self.demanded[value] || self.compared[value] && inst.op == Opcode::Load {
                    self.demanded[value] = true;
                    inst.operands().for_each(|operand| self.demanded[operand] = true);
                }
            }
        }
        self.scope.rounding_is_fixed = rounding_is_fixed;
    }

    /// Whether `value` was read from a slot at entry and is not the stack pointer or a segment base.
    pub(crate) fn is_entry_slot(&self, value: Value) -> bool {
        let slot = self.scope.trace.insts[value].slot();
        self.entry_slots.get(value) == Some(&true)
            && slot.is_some_and(|slot| slot != Slot::RSP && slot != Slot::FS && slot != Slot::GS)
    }

    /// The state before the guest instruction that load `value` belongs to, if a guard can leave there.
    pub(crate) fn resume_exit(&self, value: Value) -> Option<Exit> {
        self.resumes.get(value).copied().filter(|exit| exit.is_some())
    }

    /// Whether an address depends on the thread: on its stack pointer or its segment bases.
    pub(crate) fn is_of_thread(&mut self, address: &Address) -> bool {
        [address.root, address.index].into_iter().filter(|part| part.is_some()).any(|part| {
            let inst = &self.scope.trace.insts[part];
            let is_segment = inst.op == Opcode::Slot && matches!(inst.slot(), Some(Slot::FS | Slot::GS));
            is_segment || self.frames.is_stack_address(self.scope.trace, part)
        })
    }

    /// Whether `value` is an address that is compared for equality, as the target of a dispatch is.
    pub(crate) fn is_compared(&self, value: Value) -> bool {
        self.compared.get(value) == Some(&true)
    }

    /// Whether the target of a dispatch is computed from `value`.
    pub(crate) fn is_demanded(&self, value: Value) -> bool {
        self.demanded.get(value) == Some(&true)
    }

    /// Treats a segment; whether control gets to its end.
    fn segment(&mut self, segment: Segment) -> bool {
        self.memory = match self.graph.only_pred(segment).filter(|pred| self.saved[*pred].is_some()) {
            // Successors after the first need a copy.
            Some(pred) if self.graph.children[pred].len() > 1 => self.saved[pred].clone().unwrap_or_default(),
            Some(pred) => self.saved[pred].take().unwrap_or_default(),
            None => Memory::with_stack((self.scope.trace.entry == Some(segment)).then_some(0)),
        };
        self.unseen.clear();
        if let Some(losses) = &mut self.losses {
            losses.enter(&mut self.memory);
        }
        self.enter_case(segment);
        let insts = std::mem::take(&mut self.scope.trace.segments[segment].insts);
        let mut failing = None;
        for value in insts {
            failing = self.visit(value, segment);
            if failing.is_some() {
                break;
            }
        }
        match failing {
            Some(exit) => {
                self.update_exit(exit);
                self.scope.trace.segments[segment].terminator = Terminator::Leave(exit);
            }
            None => self.terminator(segment),
        }
        self.scope.trace.segments[segment].insts = std::mem::take(&mut self.scope.out);
        failing.is_none()
    }

    /// In the target of one case of a switch, the tested value is known.
    fn enter_case(&mut self, segment: Segment) {
        let Some(pred) = self.graph.only_pred(segment) else { return };
        let Terminator::Switch { value, cases, default } = &self.scope.trace.segments[pred].terminator else { return };
        let value = *value;
        let ty = self.scope.trace.ty(value);
        let number = match cases.iter().find(|case| case.1.segment == segment) {
            Some(case) => case.0,
            // The default of a truth value with one case is the other one.
            None if ty == Type::I1 && cases.len() == 1 && default.segment == segment => 1 - (cases[0].0 & 1),
            None => return,
        };
        if ty == Type::I1 {
            self.scope.assume(value, number == 1);
        } else {
            let constant = self.scope.constant(ty, number as i64);
            self.scope.equate(value, constant);
        }
    }

    /// Treats one instruction; the exit, if it is a guard that always fails.
    fn visit(&mut self, value: Value, segment: Segment) -> Option<Exit> {
        self.scope.stats.rewrites.look_at(value);
        let mut inst = self.scope.trace.insts[value];
        if scope::is_numbered(inst.op) {
            inst.map_operands(|operand| self.scope.resolve(operand));
            self.scope.visit_pure(value, inst);
            return None;
        }
        match inst.op {
            Opcode::Const => self.scope.intern(value),
            Opcode::Load => self.load(value, inst, segment),
            Opcode::Store => self.store(value, inst),
            Opcode::Guard | Opcode::GuardNot => return self.guard(value, &inst, segment),
            Opcode::Native => {
                self.native(&inst);
                self.stronger.wrote();
                self.scope.out.push(value);
            }
            Opcode::CompareSwap => {
                inst.map_operands(|operand| self.scope.resolve(operand));
                self.scope.trace.insts[value] = inst;
                self.barrier();
                self.scope.out.push(value);
            }
            Opcode::Tick => {
                self.stronger.wrote();
                self.scope.out.push(value);
            }
            _ => {
                debug_assert!(matches!(inst.op.effect(), Effect::Pure));
                self.scope.out.push(value);
            }
        }
        None
    }

    fn native(&mut self, inst: &Inst) {
        let Some(native) = inst.native_op() else { return };
        let mut inputs = std::mem::take(&mut self.scope.trace.natives[native].inputs);
        for (slot, input) in &mut inputs {
            // An input that is the slot's own read leaves the context as it is; a constant known to be equal would not.
            let own = self.scope.trace.insts[*input];
            *input = if own.op == Opcode::Slot && own.slot() == Some(*slot) {
                self.scope.replacement(*input)
            } else {
                self.scope.resolve(*input)
            };
        }
        let op = &mut self.scope.trace.natives[native];
        op.inputs = inputs;
        if op.inputs.iter().any(|input| input.0 == Slot::RSP) || op.outputs.contains(&Slot::RSP) {
            self.memory.stack = None;
        }
        if op.memory {
            self.barrier();
        }
    }

    /// Anything may be read, and written.
    fn barrier(&mut self) {
        self.stronger.wrote();
        self.show(|| Reason::SeenByCall);
        self.memory.clear();
        self.lose(None);
    }

    fn guard(&mut self, value: Value, inst: &Inst, segment: Segment) -> Option<Exit> {
        let exit = inst.exit()?;
        let mut expected = inst.op == Opcode::Guard;
        let mut test = self.scope.resolve(inst.args[0]);
        while let Some(xor) = self.scope.def_of(test, Opcode::Xor)
            && self.scope.as_const(xor.args[1]) == Some(1)
        {
            expected = !expected;
            test = xor.args[0];
        }
        if let Some(opposite) = self.scope.known_opposite(test) {
            expected = !expected;
            test = opposite;
        }
        if let Some(imm) = self.scope.as_const(test)
            && self.scope.stats.may("guard decided")
        {
            if (imm == 1) == expected {
                self.scope.stats.guards_removed += 1;
                return None;
            }
            self.scope.stats.guards_failing += 1;
            return Some(exit);
        }
        if self.strengthen(test, expected) {
            self.scope.assume(test, expected);
            return None;
        }
        self.scope.trace.insts[value] = Inst::guard(expected, test, exit);
        self.note_guard(value, test, segment);
        self.show(|| Reason::SeenBy(exit));
        if self.losses.is_some() {
            let leaves = why::leaves(self.scope.trace, test, |value| self.scope.resolve(value));
            self.scope.stats.because(value, || Reason::DependsOn(leaves));
        }
        self.update_exit(exit);
        self.scope.out.push(value);
        self.scope.assume(test, expected);
        if expected {
            self.apart.learn(self.scope.trace, test, segment);
        }
        None
    }

    fn load(&mut self, value: Value, mut inst: Inst, segment: Segment) {
        let Some(address) = inst.address() else { return };
        self.note_point(value, segment);
        let mut address = self.normalise(address);
        if self.fold_load(value, &address) {
            return;
        }
        if let Some(exit) = self.resume_exit(value) {
            self.update_exit(exit);
        }
        if let Some(promoted) = self.promote(value, &address) {
            address = promoted;
            if self.fold_load(value, &address) {
                return;
            }
        }
        let address = self.in_piece(value, address);
        inst.set_address(address);
        if self.absolute(&address).and_then(|address| self.regions.kind(address, inst.ty.bytes())).is_some() {
            inst.class = Class::Immutable;
            self.scope.visit_pure(value, inst);
            return;
        }
        if self.forward {
            let place = self.place(value, &address, inst.ty);
            if let Some((known, pairs)) = self.memory.load(&place, inst.ty)
                && self.can_rely(pairs)
                && let Some(other) = self.extract(known, inst.ty)
                && self.scope.stats.may("load forwarded")
            {
                self.scope.replace(value, other);
                self.scope.stats.loads_forwarded += 1;
                self.rely(pairs);
                self.compare_load(value, &address);
                return;
            }
            self.memory.loaded(&place, inst.ty, value);
            if let Some(losses) = &mut self.losses {
                self.scope.stats.because(value, || losses.reason(&place, inst.ty));
                losses.learned(&place, inst.ty);
            }
            if place.domain == Domain::Frame {
                inst.class = Class::Frame;
            }
        }
        self.scope.trace.insts[value] = inst;
        self.scope.out.push(value);
        self.compare_load(value, &address);
    }

    /// The value of type `ty` that is described by `known`.
    fn extract(&mut self, known: Known, ty: Type) -> Option<Value> {
        let scope = &mut self.scope;
        Some(match known {
            Known::Same(value) => scope.resolve(value),
            Known::Part(value, shift) => {
                let value = scope.resolve(value);
                let from = scope.trace.ty(value);
                let count = scope.constant(Type::I8, i64::from(shift));
                let shifted = scope.binary(Opcode::Lshr, from, value, count);
                scope.emit(Inst::unary(Opcode::Trunc, ty, shifted))
            }
            Known::Half(value, high) => {
                let op = if high { Opcode::High } else { Opcode::Low };
                let value = scope.resolve(value);
                scope.emit(Inst::unary(op, Type::I64, value))
            }
            Known::Halves(low, high) => {
                let (low, high) = (scope.resolve(low), scope.resolve(high));
                scope.binary(Opcode::Join, ty, low, high)
            }
        })
    }

    fn store(&mut self, value: Value, mut inst: Inst) {
        let Some(address) = inst.address() else { return };
        let address = self.normalise(address);
        inst.set_address(address);
        inst.args[2] = self.scope.resolve(inst.args[2]);
        if self.forward {
            let place = self.place(value, &address, inst.ty);
            if let Some((Known::Same(known), pairs)) = self.memory.load(&place, inst.ty)
                && self.scope.resolve(known) == inst.args[2]
                && !self.memory.is_kept(&place)
                && self.can_rely(pairs)
                && self.scope.stats.may("store of what is there")
            {
                self.scope.stats.stores_removed += 1;
                self.rely(pairs);
                return;
            }
            self.note_store(&place, &inst);
            self.lose(Some((value, &place, inst.ty)));
            if place.domain == Domain::Frame {
                inst.class = Class::Frame;
            }
        }
        self.stronger.wrote();
        self.scope.trace.insts[value] = inst;
        self.scope.out.push(value);
    }

    /// Stores until here are seen by something.
    fn show(&mut self, reason: impl Fn() -> Reason) {
        for store in std::mem::take(&mut self.unseen) {
            self.scope.stats.because(store, &reason);
        }
    }

    /// Finds out what memory does not know any more behind a store, or behind a call if there is none.
    fn lose(&mut self, store: Option<(Value, &Place, Type)>) {
        let Some(losses) = &mut self.losses else { return };
        losses.check(&mut self.memory, store.map(|(value, place, _)| (value, place)));
        if let Some((value, place, ty)) = store {
            losses.learned(place, ty);
            self.unseen.push(value);
        }
    }

    fn note_store(&mut self, place: &Place, inst: &Inst) {
        let own = place.root.map(|root| Window { root, start: place.offset, end: place.offset + place.bytes });
        let Walk { memory, apart, scope, path, .. } = self;
        memory.stored(place, inst.ty, inst.args[2], |root: RootId, start, end| {
            apart.are_apart(&own?, &Window { root, start, end }, path, || scope.stats.may("roots apart"))
        });
    }

    /// The place of access `value` with an address in normal form.
    fn place(&mut self, value: Value, address: &Address, ty: Type) -> Place {
        let bytes = i64::from(ty.bytes());
        let Address { root, index, scale, offset } = *address;
        if let Some(absolute) = self.absolute(address) {
            let base = Base { root: Value::NONE, index: Value::NONE, scale: 1 };
            return Place { base, offset: absolute as i64, bytes, domain: Domain::Other, root: None };
        }
        let domain = self.frames.domain(self.scope.trace, address, bytes);
        let base = Base { root, index, scale: if index.is_some() { scale } else { 1 } };
        let at_entry = self.entry_slots.get(root) == Some(&true);
        let is_compared = !index.is_some() && (at_entry || domain != Domain::Frame);
        let root = self.scope.trace.recorded(value).filter(|_| is_compared).and_then(|recorded| {
            let slot = self.scope.trace.insts[root].slot().filter(|_| at_entry);
            let is_pointer = !matches!(slot, Some(Slot::FLAGS | Slot::FS | Slot::GS));
            let base = recorded.address.wrapping_sub(i64::from(offset) as u64);
            if is_pointer { self.apart.root(root, base, at_entry) } else { None }
        });
        Place { base, offset: i64::from(offset), bytes, domain, root }
    }

    fn terminator(&mut self, segment: Segment) {
        let empty = Terminator::Leave(Exit::NONE);
        let mut terminator = std::mem::replace(&mut self.scope.trace.segments[segment].terminator, empty);
        terminator.map_values(|value| self.scope.resolve(value));
        if let Some(exit) = terminator.exit() {
            self.update_exit(exit);
        }
        self.show(|| match &terminator {
            Terminator::Leave(exit) => Reason::SeenBy(*exit),
            Terminator::Call(_) => Reason::SeenByCall,
            Terminator::Jump(_) | Terminator::Switch { .. } => Reason::SeenNext,
        });
        if let Terminator::Call(call) = &terminator {
            let floor = self.frames.floor(self.scope.trace, call.state, self.memory.stack);
            match call.effect {
                CallEffect::Any => self.forget_reachable(floor),
                effect @ (CallEffect::Reads | CallEffect::Errno | CallEffect::None) => {
                    self.forget_overwritten(floor);
                    if effect == CallEffect::Errno {
                        self.memory.forget_errno();
                    }
                }
            }
            self.memory.stack = floor;
        }
        if let Terminator::Call(_) = &terminator {
            self.lose(None);
        }
        if let Some(target) = self.decided(&terminator)
            && self.scope.stats.may("switch decided")
        {
            self.scope.stats.guards_removed += 1;
            terminator = Terminator::Jump(target);
        }
        let continues = terminator.successors().iter().any(|next| self.graph.only_pred(*next).is_some());
        if continues && self.forward {
            self.saved[segment] = Some(std::mem::take(&mut self.memory));
        }
        self.scope.trace.segments[segment].terminator = terminator;
    }

    /// Forgets what a callee may change that may do anything.
    fn forget_reachable(&mut self, floor: Option<i64>) {
        let Walk { memory, frames, scope, .. } = self;
        match floor {
            Some(floor) if frames.are_private() => {
                memory.keep_frames(floor, |root| frames.distance(scope.trace, root));
            }
            Some(_) | None => memory.clear(),
        }
    }

    /// Forgets what the frame of a callee overwrites.
    fn forget_overwritten(&mut self, floor: Option<i64>) {
        let Walk { memory, frames, scope, .. } = self;
        match (frames.overwritten(), floor) {
            (Overwritten::Frames, Some(floor)) => {
                memory.forget_frames_below(floor, |root| frames.distance(scope.trace, root));
            }
            (Overwritten::Frames, None) => {
                memory.forget(Domain::Frame);
                memory.forget(Domain::Unclear);
                memory.forget(Domain::Kept);
            }
            (Overwritten::Stack, _) => memory.forget_roots(|root| frames.is_near_stack(scope.trace, root)),
            (Overwritten::Everything, _) => memory.clear(),
        }
    }

    /// Where a switch on a constant goes.
    fn decided(&self, terminator: &Terminator) -> Option<Target> {
        let Terminator::Switch { value, cases, default } = terminator else { return None };
        let imm = self.scope.as_const(*value)?;
        let number = imm as u64 & self.scope.trace.ty(*value).mask() as u64;
        Some(cases.iter().find(|case| case.0 == number).map_or(default, |case| &case.1).clone())
    }

    /// Rewrites an exit with what is known here, if this is its only place.
    pub(crate) fn update_exit(&mut self, exit: Exit) {
        if self.exit_uses.get(exit) == Some(&1) {
            let mut data = std::mem::replace(&mut self.scope.trace.exits[exit], ExitData::new(0, 0));
            map_exit(self.scope.trace, &mut data, |value| self.scope.resolve(value));
            self.scope.trace.exits[exit] = data;
        }
    }

    /// Completes shared exits and the entry segment.
    fn finish(&mut self, entry: Segment) {
        self.guard_pairs();
        let shared: Vec<Exit> = self.exit_uses.iter().filter(|uses| *uses.1 > 1).map(|uses| uses.0).collect();
        for exit in shared {
            let mut data = std::mem::replace(&mut self.scope.trace.exits[exit], ExitData::new(0, 0));
            map_exit(self.scope.trace, &mut data, |value| self.scope.replacement(value));
            self.scope.trace.exits[exit] = data;
        }
        self.finish_stronger();
        let stale: Vec<Value> = self.scope.trace.resume_exits().map(|entry| entry.0).collect();
        for load in stale {
            if self.scope.replacement(load) != load {
                self.scope.trace.set_resume_exit(load, None);
            }
        }
        let old = std::mem::take(&mut self.scope.trace.segments[entry].insts);
        let is_slot = |value: &Value| self.scope.trace.insts[*value].op == Opcode::Slot;
        let (mut insts, rest): (Vec<Value>, Vec<Value>) = old.into_iter().partition(is_slot);
        insts.append(&mut self.scope.pool);
        insts.append(&mut self.entry_guards);
        insts.extend(rest);
        self.scope.trace.segments[entry].insts = insts;
    }
}

/// Replaces the values of an exit by `f` of them; constants go into the exit itself.
pub(crate) fn map_exit(trace: &Trace, data: &mut ExitData, f: impl Fn(Value) -> Value) {
    // Most exits only write slots.
    if data.recipes.is_empty() && data.stores.is_empty() {
        for (_, value) in &mut data.slots {
            if let ExitValue::Value(inner) = value {
                let inner = f(*inner);
                *value = trace.as_const(inner).map_or(ExitValue::Value(inner), ExitValue::Const);
            }
        }
        return;
    }
    data.map_values(f);
    let constant = |value: &mut ExitValue| {
        let ExitValue::Value(inner) = *value else { return None };
        let imm = trace.as_const(inner)?;
        *value = ExitValue::Const(imm);
        Some(trace.ty(inner))
    };
    data.slots.iter_mut().for_each(|(_, value)| {
        constant(value);
    });
    data.stores.iter_mut().filter(|store| store.ty.bits() <= 64).for_each(|store| {
        constant(&mut store.value);
    });
    for recipe in &mut data.recipes {
        for (arg, ty) in recipe.args.iter_mut().zip(&mut recipe.arg_types) {
            if let Some(found) = constant(arg) {
                *ty = found;
            }
        }
    }
}
