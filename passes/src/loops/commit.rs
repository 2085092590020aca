//! Builds the nest that [`copy`](super::copy) has planned.

use super::Body;
use super::accesses::Class;
use super::bounds::Extent;
use super::calls::{self, ERRNO_BYTES, Zone};
use super::ends;
use super::plan::Plan;
use super::windows::Break;
use redmagic_ir::{
    Address, DelayedStore, ExitValue, Inst, Opcode, Segment, Slot, Target, Terminator, Trace, Type, Value,
};

/// More comparisons of windows than these are replaced by an order of all of them.
const MAX_PAIRS: usize = 24;
/// Where it takes much to check whether H2 can begin, H does so once in so many iterations: loops that end soon do not pay.
const SELDOM: i64 = 8;
/// No memory of the guest is behind it.
const HIGHEST_ADDRESS: i64 = i64::MAX;
/// The frames of a callee that leaves memory alone take less: it has no more stack by default.
const LARGEST_FRAMES: i64 = 8 << 20;
/// No array has more elements.
const LARGEST_BOUND: i64 = 1 << 48;

/// Replaces the loop by the nest.
pub(crate) fn commit(trace: &mut Trace, body: &Body, mut plan: Plan) {
    let entry = trace.entry();
    let mut checks = Checks { trace, insts: Vec::new(), constants: Vec::new(), all: None };
    checks.add(&plan);
    let strip = checks.passes(&plan);
    let Checks { insts, constants, all, .. } = checks;
    let one = trace.add_inst(Inst::constant(Type::I64, -1));
    let zero = trace.add_inst(Inst::constant(Type::I64, 0));
    let always = trace.add_inst(Inst::constant(Type::I1, 1));
    // Where the loop has constants of its own, they move to the others.
    trace.segments[body.header].insts.retain(|value| !plan.constants.contains(value));
    for (_, call) in &body.calls {
        trace.segments[call.resume].insts.retain(|value| !plan.constants.contains(value));
    }
    let pool = std::mem::take(&mut plan.constants).into_iter().chain(constants).chain([one, zero, always]);
    let at = trace.segments[entry].insts.iter().take_while(|value| trace.insts[**value].op == Opcode::Slot).count();
    trace.segments[entry].insts.splice(at..at, pool);

    let preheader = trace.add_segment();
    let copy = trace.add_segment();
    let flush = trace.add_segment();
    let header = body.header;
    let again = Target { segment: header, args: body.args.clone() };
    // Where there is much to check, that happens only now and then.
    let checks = match plan.tick.filter(|_| !plan.windows.is_empty()) {
        Some(tick) => {
            let checks = trace.add_segment();
            look_seldom(trace, body.last, again.clone(), checks, tick, zero);
            checks
        }
        None => body.last,
    };
    trace.segments[checks].insts.extend(insts);
    // Even without a check the way back to H stays: checks of single iterations leave there.
    let value = all.unwrap_or(always);
    let into = Target { segment: preheader, args: Vec::new() };
    trace.segments[checks].terminator = Terminator::Switch { value, cases: vec![(1, into)], default: again };

    let count = trace.add_inst(Inst::param(Type::I64, None));
    ends::shorten(trace, &mut plan, strip, count);
    count_passes(trace, &mut plan, strip, count);
    let (mut params, mut first, mut next) = (vec![count], vec![strip], Vec::new());
    let left = trace.add_inst(Inst::binary(Opcode::Add, Type::I64, count, one));
    let goes_on = trace.add_inst(Inst::binary(Opcode::Ne, Type::I1, left, zero));
    next.push(left);
    for (param, start, end) in plan.params {
        params.push(param);
        first.push(start);
        next.push(end);
    }
    trace.segments[preheader].insts = plan.preheader;
    trace.segments[preheader].terminator = Terminator::Jump(Target { segment: copy, args: first });

    for (guard, data) in plan.exits {
        let exit = trace.exits.push(data);
        trace.insts[guard].set_exit(exit);
    }
    let mut insts = plan.insts;
    insts.extend([left, goes_on]);
    trace.segments[copy].params = params;
    let last = if !plan.calls.is_empty() {
        calls::divide(trace, copy, &insts, plan.calls)
    } else if plan.breaks.is_empty() {
        trace.segments[copy].insts = insts;
        copy
    } else {
        let undo = trace.add_segment();
        store_all(trace, undo, &plan.undo);
        trace.segments[undo].terminator = Terminator::Jump(Target { segment: header, args: plan.restart });
        divide(trace, copy, insts, plan.breaks, undo)
    };
    trace.segments[last].terminator = Terminator::Switch {
        value: goes_on,
        cases: vec![(1, Target { segment: copy, args: next })],
        default: Target { segment: flush, args: Vec::new() },
    };
    trace.segments[flush].insts = plan.last;
    store_all(trace, flush, &plan.flush);
    trace.segments[flush].terminator = Terminator::Jump(Target { segment: header, args: plan.back });
}

/// Makes H look whether H2 can begin, in `checks`, only once in a while: by what its meter has left.
fn look_seldom(trace: &mut Trace, header: Segment, again: Target, checks: Segment, tick: Value, zero: Value) {
    let mask = trace.add_inst(Inst::constant(Type::I64, SELDOM - 1));
    let entry = trace.entry();
    let at = trace.segments[entry].insts.iter().take_while(|value| trace.insts[**value].op == Opcode::Slot).count();
    trace.segments[entry].insts.insert(at, mask);
    let low = trace.append(header, Inst::binary(Opcode::And, Type::I64, tick, mask));
    let value = trace.append(header, Inst::binary(Opcode::Eq, Type::I1, low, zero));
    let look = Target { segment: checks, args: Vec::new() };
    trace.segments[header].terminator = Terminator::Switch { value, cases: vec![(1, look)], default: again };
}

/// Divides H2, which begins with `first`, at its breaks; returns its last segment.
fn divide(trace: &mut Trace, first: Segment, insts: Vec<Value>, breaks: Vec<Break>, undo: Segment) -> Segment {
    let to = |segment: Segment| Target { segment, args: Vec::new() };
    let (mut segment, mut done) = (first, 0);
    let mut detours = Vec::new();
    for Break { at, test, slow } in breaks {
        trace.segments[segment].insts = insts[done..at].to_vec();
        let next = trace.add_segment();
        trace.segments[segment].terminator =
            Terminator::Switch { value: test, cases: vec![(1, to(next))], default: to(undo) };
        detours.push((segment, next, slow));
        (segment, done) = (next, at);
    }
    trace.segments[segment].insts = insts[done..].to_vec();
    for (from, next, slow) in detours {
        let Some(&value) = slow.last() else { continue };
        let detour = trace.add_segment();
        let data = &mut trace.segments[detour];
        data.insts = slow;
        data.terminator = Terminator::Switch { value, cases: vec![(1, to(next))], default: to(undo) };
        if let Terminator::Switch { default, .. } = &mut trace.segments[from].terminator {
            *default = to(detour);
        }
    }
    segment
}

/// Makes the exits of H2 and F write to the loop's meter what would be left if H2 had counted down as H does.
fn count_passes(trace: &mut Trace, plan: &mut Plan, strip: Value, count: Value) {
    let Some(tick) = plan.tick else { return };
    let Some(address) = trace.insts[tick].meter() else { return };
    let root = trace.add_inst(Inst::constant(Type::I64, address as i64));
    // H has left `tick`, and H2 has run `strip - count` times.
    let least = trace.add_inst(Inst::binary(Opcode::Sub, Type::I64, tick, strip));
    plan.preheader.extend([root, least]);
    let left = trace.add_inst(Inst::binary(Opcode::Add, Type::I64, least, count));
    plan.insts.insert(0, left);
    plan.breaks.iter_mut().for_each(|check| check.at += 1);
    let address = Address::new(root, 0);
    plan.undo.push((Type::I64, address, left, None));
    for (_, exit) in &mut plan.exits {
        exit.stores.push(DelayedStore { ty: Type::I64, address, value: ExitValue::Value(left) });
    }
    plan.flush.push((Type::I64, address, least, None));
}

/// Writes what H2 has put off.
fn store_all(trace: &mut Trace, segment: Segment, stores: &[(Type, Address, Value, Option<redmagic_ir::Recorded>)]) {
    for (ty, address, value, recorded) in stores {
        let store = trace.append(segment, Inst::store(*ty, *address, *value));
        let address = recorded.map(|recorded| redmagic_ir::Recorded { value: 0, ..recorded });
        trace.set_recorded(store, address);
    }
}

/// Two parameters that are the same at first and next: the second and the first of them.
pub(super) fn twins(params: &[(Value, Value, Value)]) -> Option<(Value, Value)> {
    params.iter().enumerate().find_map(|(at, (extra, start, next))| {
        let kept = params[..at].iter().find(|(_, other, last)| other == start && last == next)?;
        Some((*extra, kept.0))
    })
}

/// The run-time check of what the second copy relies on.
struct Checks<'t> {
    trace: &'t mut Trace,
    insts: Vec<Value>,
    constants: Vec<Value>,
    /// The conjunction so far.
    all: Option<Value>,
}

impl Checks<'_> {
    /// Adds all checks.
    fn add(&mut self, plan: &Plan) {
        let classes = &plan.accesses.classes;
        for class in classes {
            self.members(class);
        }
        let pairs: Vec<(&Class, &Class)> = classes
            .iter()
            .enumerate()
            .flat_map(|(at, one)| classes[at + 1..].iter().map(move |other| (one, other)))
            .filter(|(one, other)| one.stores || other.stores)
            .collect();
        if pairs.len() <= MAX_PAIRS {
            pairs.into_iter().for_each(|(one, other)| self.disjoint(one, other));
        } else {
            self.in_order(classes);
        }
        if let Some(zone) = plan.accesses.zone {
            let others = classes.iter().filter(|class| class.members.iter().all(|(root, _)| *root != zone.stack));
            others.for_each(|class| self.outside_frames(class, zone));
            zone.errno.into_iter().for_each(|errno| self.outside_errno(classes, errno));
        }
        self.gaps(plan);
        for (extent, _) in plan.extents.iter().filter(|extent| extent.0.wide) {
            let limit = self.constant(LARGEST_BOUND);
            let small = self.binary(Opcode::Ule, Type::I1, extent.bound, limit);
            self.require(small);
        }
        for one in classes {
            for (extent, stores) in &plan.extents {
                if one.stores || *stores {
                    self.outside(one, extent);
                }
            }
        }
    }

    /// How often H2 runs in a row at most: as long as no guard that it does without would fail.
    fn passes(&mut self, plan: &Plan) -> Value {
        let mut passes = self.constant(plan.strip);
        for limit in &plan.limits {
            if let Some(step) = limit.step {
                let one = self.constant(1);
                let grows = self.binary(Opcode::Eq, Type::I1, step, one);
                self.require(grows);
            }
            let index = self.offset(limit.start, limit.addend);
            let below = if limit.strict { Opcode::Ult } else { Opcode::Ule };
            let holds = self.binary(below, Type::I1, index, limit.bound);
            self.require(holds);
            let left = self.binary(Opcode::Sub, Type::I64, limit.bound, index);
            // With an index at the bound allowed, once more; that there is no such number is left to H.
            let left = self.offset(left, i64::from(!limit.strict));
            let fewer = self.binary(Opcode::Ult, Type::I1, left, passes);
            passes = self.emit(Inst::ternary(Opcode::Select, Type::I64, fewer, left, passes));
        }
        if plan.limits.iter().any(|limit| !limit.strict) {
            let zero = self.constant(0);
            let some = self.binary(Opcode::Ne, Type::I1, passes, zero);
            self.require(some);
        }
        passes
    }

    fn constant(&mut self, imm: i64) -> Value {
        let value = self.trace.add_inst(Inst::constant(Type::I64, imm));
        self.constants.push(value);
        value
    }

    fn emit(&mut self, inst: Inst) -> Value {
        let value = self.trace.add_inst(inst);
        self.insts.push(value);
        value
    }

    fn binary(&mut self, op: Opcode, ty: Type, a: Value, b: Value) -> Value {
        self.emit(Inst::binary(op, ty, a, b))
    }

    fn offset(&mut self, value: Value, by: i64) -> Value {
        if by == 0 {
            return value;
        }
        let by = self.constant(by);
        self.binary(Opcode::Add, Type::I64, value, by)
    }

    fn require(&mut self, condition: Value) {
        self.all = Some(match self.all {
            None => condition,
            Some(all) => self.binary(Opcode::And, Type::I1, all, condition),
        });
    }

    /// Members of a class are where they were recorded.
    fn members(&mut self, class: &Class) {
        let Some(&(first, _)) = class.members.first() else { return };
        for &(member, delta) in &class.members[1..] {
            let expected = self.offset(first, delta);
            let equal = self.binary(Opcode::Eq, Type::I1, member, expected);
            self.require(equal);
        }
    }

    /// Two windows do not overlap: with d the distance of the first from the second, d is at least the second's length
    /// and at most 2^64 less the first's, all unsigned.
    fn disjoint(&mut self, one: &Class, other: &Class) {
        let (length, other_length) = (one.high - one.low, other.high - other.low);
        let distance = self.binary(Opcode::Sub, Type::I64, one.members[0].0, other.members[0].0);
        let distance = self.offset(distance, (one.low - other.low).wrapping_sub(other_length));
        let limit = self.constant(-(length + other_length));
        let apart = self.binary(Opcode::Ule, Type::I1, distance, limit);
        self.require(apart);
    }

    /// All windows lie one behind the other, in the order in which they were recorded. Fewer comparisons than all pairs, but
    /// other objects may lie in another order.
    fn in_order(&mut self, classes: &[Class]) {
        let mut order: Vec<&Class> = classes.iter().collect();
        order.sort_by_key(|class| class.recorded.map(|base| base.wrapping_add(class.low as u64)));
        for pair in order.windows(2) {
            // Every address was accessed just now, so none of these sums wraps around.
            let end = self.offset(pair[0].members[0].0, pair[0].high);
            let start = self.offset(pair[1].members[0].0, pair[1].low);
            let ordered = self.binary(Opcode::Ule, Type::I1, end, start);
            self.require(ordered);
        }
    }

    /// Finds the gaps that H2 keeps accesses without bounds in; those that H has stored to are checked here.
    fn gaps(&mut self, plan: &Plan) {
        for (at, gap) in plan.gaps.iter().enumerate() {
            let class = |at: &usize| &plan.accesses.classes[*at];
            let mut low = self.constant(0);
            for class in gap.front.iter().map(class) {
                let end = self.offset(class.members[0].0, class.high);
                let later = self.binary(Opcode::Ult, Type::I1, low, end);
                low = self.emit(Inst::ternary(Opcode::Select, Type::I64, later, end, low));
            }
            let mut high = self.constant(HIGHEST_ADDRESS);
            for class in gap.behind.iter().map(class) {
                let start = self.offset(class.members[0].0, class.low);
                let earlier = self.binary(Opcode::Ult, Type::I1, start, high);
                high = self.emit(Inst::ternary(Opcode::Select, Type::I64, earlier, start, high));
            }
            let zero = self.constant(0);
            for (name, value) in [(gap.low, low), (gap.high, high)] {
                self.trace.insts[name] = Inst::binary(Opcode::Add, Type::I64, value, zero);
                self.insts.push(name);
            }
            for window in plan.windows.iter().filter(|window| window.gap == at) {
                // Where H only loads, it has read what is there; but the gap must be wide enough.
                let mut start = low;
                if window.stores {
                    start = self.offset(window.roots[0], window.low);
                    let behind = self.binary(Opcode::Ule, Type::I1, low, start);
                    self.require(behind);
                }
                let end = self.offset(start, window.high - window.low);
                let before = self.binary(Opcode::Ule, Type::I1, end, high);
                self.require(before);
            }
        }
    }

    /// A window does not overlap frames of callees: as in `disjoint`.
    fn outside_frames(&mut self, class: &Class, zone: Zone) {
        let length = class.high - class.low;
        let distance = self.binary(Opcode::Sub, Type::I64, class.members[0].0, zone.stack);
        let distance = self.offset(distance, class.low.wrapping_sub(zone.floor));
        let limit = self.constant(-(length + LARGEST_FRAMES));
        let apart = self.binary(Opcode::Ule, Type::I1, distance, limit);
        self.require(apart);
    }

    /// No window overlaps `errno`, but for those that lie at distances from the fs base: as in `disjoint`.
    fn outside_errno(&mut self, classes: &[Class], errno: i64) {
        let entry = self.trace.entry();
        let is_fs = |trace: &Trace, value: Value| trace.insts[value].slot() == Some(Slot::FS);
        let read = self.trace.segments[entry].insts.iter().copied().find(|value| is_fs(self.trace, *value));
        let fs = read.unwrap_or_else(|| {
            let read = self.trace.add_inst(Inst::slot_read(Slot::FS));
            self.trace.segments[entry].insts.insert(0, read);
            read
        });
        for class in classes {
            if class.members.iter().any(|(root, _)| is_fs(self.trace, *root)) {
                continue;
            }
            let bytes = i64::from(ERRNO_BYTES);
            let distance = self.binary(Opcode::Sub, Type::I64, class.members[0].0, fs);
            let distance = self.offset(distance, class.low.wrapping_sub(errno).wrapping_sub(bytes));
            let limit = self.constant(-(class.high - class.low + bytes));
            let apart = self.binary(Opcode::Ule, Type::I1, distance, limit);
            self.require(apart);
        }
    }

    /// A window does not overlap the extent of a varying access, whose length is known at run time only.
    fn outside(&mut self, class: &Class, extent: &Extent) {
        let distance = self.binary(Opcode::Sub, Type::I64, class.members[0].0, extent.base);
        let distance = self.offset(distance, class.low.wrapping_sub(extent.offset));
        let shift = self.trace.add_inst(Inst::constant(Type::I8, i64::from(extent.scale.trailing_zeros())));
        self.constants.push(shift);
        let scaled = self.binary(Opcode::Shl, Type::I64, extent.bound, shift);
        let length = self.offset(scaled, extent.size - i64::from(extent.scale));
        let behind = self.binary(Opcode::Ule, Type::I1, length, distance);
        self.require(behind);
        let limit = self.constant(-(class.high - class.low));
        let before = self.binary(Opcode::Ule, Type::I1, distance, limit);
        self.require(before);
    }
}
