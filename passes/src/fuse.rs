//! The pass `fuse`: one comparison in the place of several that ask about the same bytes, or about bytes next to each other.
//!
//! Interpreters narrow down what a value is, and look at several small fields of one object. Where nothing is written meanwhile, all
//! of that can be asked at once, where the first guard stands: if the answer is yes, no guard is needed; if it is no, one of them
//! fails. Which one, and so where the guest goes on, is found out beside the path, by the guards themselves, in a copy of what
//! lies between them. So no exit moves: a guard leaves for what the guest does if *it* fails, which is wrong for another one's failure,
//! also an earlier one's. (Where the interpreter's fetch is not far, [`stronger`](crate::stronger) needs no copy.)
//!
//! # Invariants
//! - Between the first and the last guard of a group there are pure operations, loads and guards, and nothing else.
//! - The copy makes the same comparisons in the same order on the same values, and ends with the last exit: the one comparison failed,
//!   so one of the guards does, if none of those before, then the last.
//! - A wider load reads what the narrow ones do, all of it and nothing else, and nothing that the guest might not: each of its bytes lies between two that the segment has accessed through the
//!   same root by then, the guard's own load included, less than a page apart. Its load takes the place of the narrow ones,
//!   which are cut out of it, so that nothing is read twice. Under the strict memory model there is none.
//!
//! # Worked example
//! The tag at 8 is not empty, then a number; the kind of key at 9 is a short string. There was an access to [v0 + 9] before.
//! ```text
//! v1: i8 = load [v0 + 8]                 v7: i16 = load [v0 + 8]
//! v2 = and v1, 15; v3 = eq v2, 0         switch (eq v7, 0x4413) { 1 => seg2 } else seg3
//! guard_not v3, exit1                    seg2: v5 = load [v0], ...
//! v4: i8 = load [v0 + 9]                 seg3: guard_not (eq (and v1, 15), 0), exit1
//! guard (eq v4, 68), exit2                     guard (eq v4, 68), exit2
//! v5: i64 = load [v0]                          v5 = load [v0]
//! guard (eq v1, 19), exit3                     leave exit3
//! ```
//! v1 and v4 are `trunc` of v7 and of `lshr v7, 8`. In loops of Lua it is always one tag, which is not empty and then a certain one: 19
//! guards in the loops of the text tests, 8 of the 35 in the inner loop of `nbody`. The kind of a key lies next to the tag of its value,
//! but is asked for first, and nothing says that the tag is on the same page: those pairs stay.

use crate::Stats;
use crate::pipeline::MemoryModel;
use redmagic_ir::scalar::eval_pure;
use redmagic_ir::{
    Address, Class, Effect, Exit, Inst, Opcode, Recorded, Segment, Target, Terminator, Trace, Type, Value,
};
use std::collections::BTreeMap;

/// So many instructions are copied at most.
const MAX_SPAN: usize = 48;
/// So many groups of a stretch without writes can get further guards.
const MAX_OPEN: usize = 16;
/// Accessed bytes that are nearer to each other than this have no page between them.
const PAGE: i64 = 4096;

/// Runs the pass.
pub(crate) fn run(trace: &mut Trace, stats: &mut Stats) {
    let segments: Vec<Segment> = trace.segments.keys().collect();
    for segment in segments {
        let groups = Scan::of(trace, segment, stats.model);
        let allowed = |group: &Group| {
            let first = trace.segments[segment].insts[group.first()];
            stats.rewrites.look_at(first);
            stats.may("guards fused")
        };
        let groups: Vec<Group> = groups.into_iter().filter(allowed).collect();
        if !groups.is_empty() {
            stats.guards_fused += groups.iter().map(|group| group.members.len() as u32 - 1).sum::<u32>();
            Split::new(trace, segment, groups).run();
        }
    }
}

/// A guard that compares a value, or some of its bits, with a constant.
#[derive(Clone, Copy)]
struct Check {
    /// Its place in the segment.
    at: usize,
    subject: Value,
    mask: u64,
    /// What the bits of the mask are, if the guard says that.
    pinned: Option<u64>,
}

impl Check {
    fn of(trace: &Trace, at: usize, guard: &Inst) -> Option<Check> {
        let test = &trace.insts[guard.args[0]];
        let asks = matches!(test.op, Opcode::Eq | Opcode::Ne | Opcode::Ult | Opcode::Ule | Opcode::Slt | Opcode::Sle);
        if !asks {
            return None;
        }
        let [a, b, _] = test.args;
        let (varying, imm) = match (trace.as_const(a), trace.as_const(b)) {
            (None, Some(imm)) => (a, imm),
            (Some(imm), None) => (b, imm),
            _ => return None,
        };
        let (subject, mask) = masked(trace, varying);
        let imm = imm as u64 & trace.ty(subject).mask() as u64;
        let is_equality = matches!((test.op, guard.op), (Opcode::Eq, Opcode::Guard) | (Opcode::Ne, Opcode::GuardNot));
        let pinned = (is_equality && imm & !mask == 0).then_some(imm);
        Some(Check { at, subject, mask, pinned })
    }
}

/// What of which value `value` is.
fn masked(trace: &Trace, value: Value) -> (Value, u64) {
    let (inst, all) = (&trace.insts[value], trace.ty(value).mask() as u64);
    let mask = (inst.op == Opcode::And).then(|| trace.as_const(inst.args[1])).flatten();
    mask.map_or((value, all), |mask| (inst.args[0], mask as u64 & all))
}

/// A narrow load that a wider one can take the place of.
#[derive(Clone, Copy)]
struct Narrow {
    /// Its place in the segment.
    at: usize,
    root: Value,
    start: i64,
    end: i64,
    /// Bytes that can be read there through the root.
    readable: (i64, i64),
}

/// Guards that one comparison can take the place of.
#[derive(Clone, Default)]
struct Group {
    members: Vec<Check>,
    /// The loads that their subjects are, if there are several.
    loads: Vec<(Value, Narrow)>,
    /// What is known of the bits of each subject.
    pins: Vec<(Value, u64, u64)>,
    /// Where a wider load starts, and its type.
    window: Option<(i64, Type)>,
}

impl Group {
    fn first(&self) -> usize {
        self.members.iter().map(|check| check.at).min().unwrap_or(0)
    }

    fn last(&self) -> usize {
        self.members.iter().map(|check| check.at).max().unwrap_or(0)
    }

    fn pin(&self, subject: Value) -> Option<(u64, u64)> {
        self.pins.iter().find(|pin| pin.0 == subject).map(|pin| (pin.1, pin.2))
    }

    fn has(&self, subject: Value) -> bool {
        self.members.iter().any(|check| check.subject == subject)
    }

    /// Adds a guard; whether it does not contradict the others.
    fn add(&mut self, check: Check) -> bool {
        if self.members.first().is_some_and(|first| check.at.abs_diff(first.at) > MAX_SPAN) {
            return false;
        }
        if let Some(value) = check.pinned {
            match self.pins.iter_mut().find(|pin| pin.0 == check.subject) {
                Some((_, mask, known)) if (*known ^ value) & *mask & check.mask == 0 => {
                    (*mask, *known) = (*mask | check.mask, *known | value);
                }
                Some(_) => return false,
                None => self.pins.push((check.subject, check.mask, value)),
            }
        }
        self.members.push(check);
        true
    }

    /// Drops what does not follow from what is compared, and what is behind that. Whether at least two guards are left.
    fn finish(&mut self, trace: &Trace, insts: &[Value]) -> bool {
        let pinned = |check: &&Check| check.pinned.is_some();
        let Some(last) = self.members.iter().filter(pinned).map(|check| check.at).max() else { return false };
        let mut members = std::mem::take(&mut self.members);
        members.retain(|check| check.pinned.is_some() || check.at < last && self.implies(trace, insts, check));
        self.members = members;
        // Sixty-four bits are a constant of their own: for two guards that is no gain.
        let least = if self.window.is_some_and(|window| window.1 == Type::I64) { 3 } else { 2 };
        self.members.len() >= least
    }

    fn implies(&self, trace: &Trace, insts: &[Value], check: &Check) -> bool {
        let Some((mask, known)) = self.pin(check.subject).filter(|pin| check.mask & !pin.0 == 0) else { return false };
        let guard = &trace.insts[insts[check.at]];
        let test = &trace.insts[guard.args[0]];
        let ty = trace.ty(check.subject);
        let bits = |value: Value| match trace.as_const(value) {
            Some(imm) => imm as i128 as u128 & ty.mask(),
            None => u128::from(known & mask & check.mask),
        };
        let holds = eval_pure(test.op, Type::I1, ty, [bits(test.args[0]), bits(test.args[1]), 0], None);
        holds == Some(u128::from(guard.op == Opcode::Guard))
    }

    /// The window of a load that covers the group's loads and `other`, if that can be read where the first of them stands.
    fn window_with(&self, other: &Narrow) -> Option<(i64, Type)> {
        let all = || self.loads.iter().map(|load| &load.1).chain([other]);
        let first = all().min_by_key(|load| load.at)?;
        let start = all().map(|load| load.start).min()?;
        let end = all().map(|load| load.end).max()?;
        let bytes: i64 = all().map(|load| load.end - load.start).sum();
        let ty =
            Type::int(u32::try_from(end - start).ok()? * 8).filter(|ty| bytes == end - start && ty.bits() <= 64)?;
        let can_be_read = first.readable.0 <= start && end <= first.readable.1;
        can_be_read.then_some((start, ty))
    }
}

/// One walk over a segment.
struct Scan<'t> {
    trace: &'t Trace,
    model: MemoryModel,
    /// The bytes that have been accessed through each root, and those between them.
    accessed: BTreeMap<Value, (i64, i64)>,
    /// Loads since the last write.
    loads: BTreeMap<Value, Narrow>,
    /// Groups since the last write.
    open: Vec<Group>,
    done: Vec<Group>,
}

impl Scan<'_> {
    fn of(trace: &Trace, segment: Segment, model: MemoryModel) -> Vec<Group> {
        let (accessed, loads) = (BTreeMap::new(), BTreeMap::new());
        let mut scan = Scan { trace, model, accessed, loads, open: Vec::new(), done: Vec::new() };
        let insts = &trace.segments[segment].insts;
        for (at, &value) in insts.iter().enumerate() {
            let inst = &trace.insts[value];
            scan.access(at, value, inst);
            let is_quiet = matches!(inst.op.effect(), Effect::Pure | Effect::Partial | Effect::Read | Effect::Guard);
            let is_guard = inst.exit().is_some();
            // The guard behind an exchange stays behind it, and so does what reads a native operation's results.
            if !is_quiet || inst.op == Opcode::NativeOut || is_guard && trace.swap_of(value).is_some() {
                scan.wrote(insts);
                if matches!(inst.op.effect(), Effect::Barrier) {
                    scan.accessed.clear();
                }
            } else if is_guard && let Some(check) = Check::of(trace, at, inst) {
                scan.guard(check);
            }
        }
        scan.wrote(insts);
        scan.done.sort_by_key(Group::first);
        scan.done
    }

    fn access(&mut self, at: usize, value: Value, inst: &Inst) {
        let Some(address) = inst.address().filter(|address| !address.index.is_some()) else { return };
        let start = i64::from(address.offset);
        let end = start + i64::from(inst.ty.bytes());
        let readable = self.accessed.entry(address.root).or_insert((start, end));
        let both = (readable.0.min(start), readable.1.max(end));
        if both.1 - both.0 <= PAGE {
            *readable = both;
        } else {
            *readable = (start, end);
        }
        if inst.op == Opcode::Load && inst.class == Class::Any && inst.ty.bytes() <= 4 {
            let narrow = Narrow { at, root: address.root, start, end, readable: *readable };
            self.loads.insert(value, narrow);
        }
    }

    /// Something is written: what stands behind it is not compared with what stands before.
    fn wrote(&mut self, insts: &[Value]) {
        self.loads.clear();
        for mut group in std::mem::take(&mut self.open) {
            if group.finish(self.trace, insts) {
                self.done.push(group);
            }
        }
    }

    fn guard(&mut self, check: Check) {
        let from = self.open.len().saturating_sub(MAX_OPEN);
        let own = (from..self.open.len()).find(|at| self.open[*at].has(check.subject));
        if let Some(narrow) = self.loads.get(&check.subject).copied()
            && check.pinned.is_some()
            && self.model != MemoryModel::Strict
            && own.is_none_or(|own| self.open[own].window.is_none())
            && let Some(at) = (from..self.open.len()).find(|at| Some(*at) != own && self.widens(*at, &narrow))
        {
            self.widen(at, own, check, narrow);
            return;
        }
        if let Some(own) = own
            && self.open[own].add(check)
        {
            return;
        }
        let mut group = Group::default();
        group.add(check);
        self.open.push(group);
    }

    /// Whether a wider load can read the bytes of group `at` and those of another load.
    fn widens(&self, at: usize, narrow: &Narrow) -> bool {
        let group = self.with_loads(at);
        let is_apart =
            |other: &Narrow| other.root == narrow.root && (other.end <= narrow.start || narrow.end <= other.start);
        !group.loads.is_empty()
            && group.loads.iter().all(|load| is_apart(&load.1))
            && group.pins.len() == group.loads.len()
            && group.window_with(narrow).is_some()
    }

    /// Group `at` with the loads that its subjects are.
    fn with_loads(&self, at: usize) -> Group {
        let mut group = self.open[at].clone();
        if group.loads.is_empty()
            && let [(subject, ..)] = group.pins[..]
        {
            group.loads.extend(self.loads.get(&subject).map(|narrow| (subject, *narrow)));
        }
        group
    }

    /// Adds a guard on another load to group `at`, with what group `own` knows of that load.
    fn widen(&mut self, at: usize, own: Option<usize>, check: Check, narrow: Narrow) {
        let mut group = self.with_loads(at);
        group.window = group.window_with(&narrow);
        group.loads.push((check.subject, narrow));
        let others = own.map(|own| self.open[own].members.clone()).unwrap_or_default();
        if others.into_iter().chain([check]).all(|check| group.add(check)) {
            // Each of them is cut out of one load.
            for (load, _) in &group.loads {
                self.loads.remove(load);
            }
            self.open[at] = group;
            if let Some(own) = own {
                self.open[own] = Group::default();
            }
        } else {
            let mut alone = Group::default();
            alone.add(check);
            self.open.push(alone);
        }
    }
}

/// A segment that is taken apart.
struct Split<'t> {
    trace: &'t mut Trace,
    segment: Segment,
    groups: Vec<Group>,
    /// What is new in front of the instruction at a place.
    before: BTreeMap<usize, Vec<Value>>,
    /// Guards that are gone behind here.
    gone: Vec<bool>,
    insts: Vec<Value>,
}

impl Split<'_> {
    fn new(trace: &mut Trace, segment: Segment, groups: Vec<Group>) -> Split<'_> {
        let insts = std::mem::take(&mut trace.segments[segment].insts);
        let gone = vec![false; insts.len()];
        Split { trace, segment, groups, before: BTreeMap::new(), gone, insts }
    }

    fn run(mut self) {
        let end = Terminator::Leave(Exit::NONE);
        let terminator = std::mem::replace(&mut self.trace.segments[self.segment].terminator, end);
        let groups = std::mem::take(&mut self.groups);
        let tests: Vec<(Value, u64, u64)> = groups.iter().map(|group| self.subject(group)).collect();
        let mut starts = groups.iter().zip(tests).peekable();
        let (mut segment, mut insts) = (self.segment, Vec::new());
        for at in 0..self.insts.len() {
            insts.extend(self.before.get(&at).into_iter().flatten());
            while let Some((group, (subject, mask, known))) = starts.next_if(|start| start.0.first() == at) {
                let test = self.test(&mut insts, subject, mask, known);
                let beside = self.beside(group);
                let next = self.trace.add_segment();
                let target = |segment| Target { segment, args: Vec::new() };
                let data = &mut self.trace.segments[segment];
                data.insts = std::mem::take(&mut insts);
                data.terminator =
                    Terminator::Switch { value: test, cases: vec![(1, target(next))], default: target(beside) };
                group.members.iter().for_each(|check| self.gone[check.at] = true);
                segment = next;
            }
            if !self.gone[at] {
                insts.push(self.insts[at]);
            }
        }
        let data = &mut self.trace.segments[segment];
        (data.insts, data.terminator) = (insts, terminator);
    }

    fn push(&mut self, insts: &mut Vec<Value>, inst: Inst) -> Value {
        let value = self.trace.add_inst(inst);
        insts.push(value);
        value
    }

    /// What is compared, which of its bits, with what. Makes the wider load, if there is one, and what is cut out of it.
    fn subject(&mut self, group: &Group) -> (Value, u64, u64) {
        let Some((start, ty)) = group.window else {
            return group.pins.first().copied().unwrap_or((Value::NONE, 0, 0));
        };
        let shift = |narrow: &Narrow| ((narrow.start - start) * 8) as u32;
        let (mut mask, mut known, mut first) = (0, 0, usize::MAX);
        let mut address = Address::new(Value::NONE, start as i32);
        for (value, narrow) in &group.loads {
            let (bits, is) = group.pin(*value).unwrap_or((0, 0));
            (mask, known) = (mask | bits << shift(narrow), known | is << shift(narrow));
            (address.root, first) = (narrow.root, first.min(narrow.at));
        }
        let wide = self.trace.add_inst(Inst::load(ty, address));
        self.trace.set_recorded(wide, self.recorded(group, start, ty));
        self.before.entry(first).or_default().push(wide);
        for (value, narrow) in &group.loads {
            let mut new = Vec::new();
            let part = if shift(narrow) == 0 {
                wide
            } else {
                let count = self.push(&mut new, Inst::constant(Type::I8, i64::from(shift(narrow))));
                self.push(&mut new, Inst::binary(Opcode::Lshr, ty, wide, count))
            };
            self.before.entry(narrow.at).or_default().extend(new);
            self.trace.insts[*value] = Inst::unary(Opcode::Trunc, self.trace.ty(*value), part);
            self.trace.set_recorded(*value, None);
            self.trace.set_resume_exit(*value, None);
        }
        (wide, mask, known)
    }

    /// What the narrow loads were, together, if they leave no byte out.
    fn recorded(&self, group: &Group, start: i64, ty: Type) -> Option<Recorded> {
        let (mut address, mut value, mut bytes) = (None, 0, 0);
        for (load, narrow) in &group.loads {
            let seen = self.trace.recorded(*load)?;
            let from = seen.address.wrapping_sub((narrow.start - start) as u64);
            if address.is_some_and(|address| address != from) {
                return None;
            }
            address = Some(from);
            value |= (seen.value & self.trace.ty(*load).mask() as u64) << ((narrow.start - start) * 8);
            bytes += self.trace.ty(*load).bytes();
        }
        address.filter(|_| bytes == ty.bytes()).map(|address| Recorded { address, value })
    }

    fn test(&mut self, insts: &mut Vec<Value>, subject: Value, mask: u64, known: u64) -> Value {
        let ty = self.trace.ty(subject);
        let mut bits = subject;
        if mask != ty.mask() as u64 {
            let mask = self.push(insts, Inst::constant(ty, mask as i64));
            bits = self.push(insts, Inst::binary(Opcode::And, ty, subject, mask));
        }
        let known = self.push(insts, Inst::constant(ty, known as i64));
        self.push(insts, Inst::binary(Opcode::Eq, Type::I1, bits, known))
    }

    /// The segment that finds out which guard of a group fails.
    fn beside(&mut self, group: &Group) -> Segment {
        let beside = self.trace.add_segment();
        let (first, last) = (group.first(), group.last());
        let mut copy = Copy { trace: &mut *self.trace, values: BTreeMap::new(), insts: Vec::new() };
        for at in first..=last {
            if at != first {
                self.before.get(&at).into_iter().flatten().for_each(|value| copy.inst(*value));
            }
            if at != last && !self.gone[at] {
                copy.inst(self.insts[at]);
            }
        }
        let exit = copy.trace.insts[self.insts[last]].exit().unwrap_or(Exit::NONE);
        let exit = copy.exit(exit);
        let insts = copy.insts;
        let data = &mut self.trace.segments[beside];
        (data.insts, data.terminator) = (insts, Terminator::Leave(exit));
        beside
    }
}

/// A copy of instructions.
struct Copy<'t> {
    trace: &'t mut Trace,
    values: BTreeMap<Value, Value>,
    insts: Vec<Value>,
}

impl Copy<'_> {
    fn inst(&mut self, value: Value) {
        let mut inst = self.trace.insts[value];
        if let Some(exit) = inst.exit() {
            // What only the guards ask is not computed on the path.
            self.compute(inst.args[0]);
            let exit = self.exit(exit);
            inst.set_exit(exit);
        }
        self.add(value, inst);
    }

    fn add(&mut self, value: Value, mut inst: Inst) {
        inst.map_operands(|operand| self.values.get(&operand).copied().unwrap_or(operand));
        let new = self.trace.add_inst(inst);
        let recorded = self.trace.recorded(value);
        self.trace.set_recorded(new, recorded);
        self.values.insert(value, new);
        self.insts.push(new);
    }

    /// Computes a comparison from what is compared.
    fn compute(&mut self, test: Value) {
        let inst = self.trace.insts[test];
        for value in [inst.args[0], test] {
            let Some(inst) = self.trace.insts.get(value).copied() else { continue };
            let asks = matches!(inst.op, Opcode::And | Opcode::Eq | Opcode::Ne | Opcode::Ult | Opcode::Ule)
                || matches!(inst.op, Opcode::Slt | Opcode::Sle);
            if asks && !self.values.contains_key(&value) {
                self.add(value, inst);
            }
        }
    }

    /// The exit with the copied values.
    fn exit(&mut self, exit: Exit) -> Exit {
        let mut data = self.trace.exits[exit].clone();
        let mut is_same = true;
        data.map_values(|value| {
            let new = self.values.get(&value).copied().unwrap_or(value);
            is_same &= new == value;
            new
        });
        if is_same { exit } else { self.trace.exits.push(data) }
    }
}
