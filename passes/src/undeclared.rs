//! The interpreted program where the host has not declared it: which loads read it, and what is made of them.
//!
//! Such memory may change, and so is never taken for what it was. But a loop that the host names by the place of its program
//! comes back to that place, and what is there is nearly always the same: a guard compares it with what was recorded, and
//! behind the guard it is a constant. In a second copy of the loop the comparison is gone as long as nobody stores there.
//!
//! # Invariants
//! - A load is *compared*, never left out: its value is known only behind a guard that leaves at the load's own instruction.
//! - The program counter becomes a constant by a guard as well, and only what is taken for it: a register that is near the
//!   region's middle at the start of the trace, or of its loop, and on which a dispatch depends; what comes of it by additions,
//!   where a dispatch is fetched; and where a dispatch by the same table is fetched, as in a function that the program calls.
//! - What else is compared is demanded by a dispatch, or is an operand next to what is. What the trace itself stores to is
//!   data: it will be something else the next time.
//!
//! # Worked example
//! ```text
//! v3: i8 = load [v1] @0x9000=7 resume exit1     guard v1 = 0x9000 (exit1), guard v3 = 7 (exit1)
//! v4: i64 = load [v2 + v3*8] @0x500038=0x4100   a constant then, like the guard on the dispatch's target
//! v5: i8 = load [v1 + 1] @0x9001=2 resume exit2 an operand: guard v5 = 2 (exit2)
//! v6: i64 = load [v8 + v5*8]                    a cell at a known distance from v8
//! ```

use crate::regions::Regions;
use crate::scope::MixMap;
use crate::walk::Walk;
use redmagic_ir::{Address, Exit, Format, Inst, Map, Opcode, Recorded, Segment, Trace, Type, Value};

/// What lies so near to a region's middle may be the program counter.
const NEAR: u64 = 64;
/// Instructions of programs are at most so many bytes long.
const LONGEST: u64 = 16;
/// Programs, and parts of a program, that have less than this between them are looked at as one.
const GAP: u64 = 64;
/// Jump targets are so near to the code that jumps.
const MODULE: u64 = 1 << 24;
/// From an opcode to the index of a table there are fewer operations.
const MAX_STEPS: usize = 16;
/// And so many one behind the other.
const MAX_DEPTH: usize = 6;
/// How often what loops carry is followed back.
const MAX_ROUNDS: usize = 4;

/// What is known of the program before a walk. Empty where no region may be one.
#[derive(Default)]
pub(crate) struct Undeclared {
    /// Values that a dispatch depends on.
    demanded: Map<Value, bool>,
    /// Loads that compare, or are compared already.
    wanted: Map<Value, bool>,
    /// Demanded loads whose root is a program counter, or some distance from it.
    derived: Map<Value, bool>,
    /// First and last address of what they read, piece by piece.
    pieces: Vec<(u64, u64)>,
}

impl Undeclared {
    /// Finds out which loads of `trace` read the program. `order` has the segments behind those that dominate them.
    pub(crate) fn new(trace: &Trace, order: &[Segment], regions: &Regions) -> Undeclared {
        if !regions.have_code() {
            return Undeclared::default();
        }
        let empty = || Map::filled(trace.insts.len(), false);
        let (demanded, targets, known) = (empty(), empty(), empty());
        let mut search = Search { trace, order, regions, demanded, targets, known, entries: Vec::new() };
        search.demand();
        let of_program = search.of_program();
        let fetches = search.fetches(&of_program);
        let (mut wanted, mut derived) = (empty(), empty());
        let mut places = Vec::new();
        for value in search.loads() {
            let Some(place) = search.place(value) else { continue };
            if regions.is_written(place, trace.ty(value).bytes()) {
                continue;
            }
            let is_operand = || search.is_operand(value, place, &of_program, &fetches);
            if search.demanded[value] || search.known[value] || is_operand() {
                wanted[value] = true;
                derived[value] = search.demanded[value]
                    && trace.insts[value].address().is_some_and(|address| of_program[address.root]);
                places.push(place);
            }
        }
        places.sort_unstable();
        let mut pieces: Vec<(u64, u64)> = Vec::new();
        for place in places {
            match pieces.last_mut() {
                Some(last) if place - last.1 <= GAP => last.1 = place,
                _ => pieces.push((place, place)),
            }
        }
        Undeclared { demanded: search.demanded, wanted, derived, pieces }
    }

    /// Whether a dispatch depends on `value`.
    pub(crate) fn is_demanded(&self, value: Value) -> bool {
        self.demanded.get(value) == Some(&true)
    }

    fn is_wanted(&self, value: Value) -> bool {
        self.wanted.get(value) == Some(&true)
    }

    /// The start of the piece of the program that `address` lies in.
    fn piece(&self, address: u64) -> Option<u64> {
        let at = self.pieces.partition_point(|piece| piece.0 <= address).checked_sub(1)?;
        (address <= self.pieces[at].1).then_some(self.pieces[at].0)
    }
}

/// The search for what reads the program.
struct Search<'t> {
    trace: &'t Trace,
    order: &'t [Segment],
    regions: &'t Regions,
    demanded: Map<Value, bool>,
    /// Values that jump targets are computed from by addition.
    targets: Map<Value, bool>,
    /// Loads that are compared with what was recorded already.
    known: Map<Value, bool>,
    /// Loads of targets from tables.
    entries: Vec<Value>,
}

impl<'t> Search<'t> {
    fn loads(&self) -> impl Iterator<Item = Value> + use<'t> {
        let trace = self.trace;
        let all = self.order.iter().flat_map(|segment| &trace.segments[*segment].insts).copied();
        all.filter(|value| trace.insts[*value].op == Opcode::Load)
    }

    /// Where load `value` was recorded, if that may be the program.
    fn place(&self, value: Value) -> Option<u64> {
        let address = self.trace.recorded(value)?.address;
        let ty = self.trace.ty(value);
        (ty.bits() <= 64 && self.regions.is_code(address, ty.bytes())).then_some(address)
    }

    /// Finds what dispatches depend on, backwards from the tests of their targets.
    fn demand(&mut self) {
        for _ in 0..MAX_ROUNDS {
            // Other loads of a cell that is demanded are, too: they are one value in the end.
            let mut cells: MixMap<Address, ()> = MixMap::default();
            for segment in self.order.iter().rev() {
                for &value in self.trace.segments[*segment].insts.iter().rev() {
                    let inst = self.trace.insts[value];
                    self.look_at(value, &inst);
                    let Some(address) = inst.address().filter(|_| inst.op == Opcode::Load) else { continue };
                    if self.demanded[value] {
                        cells.insert(address, ());
                    } else if cells.contains_key(&address) && self.place(value).is_some() {
                        self.demanded[value] = true;
                    }
                }
            }
            if !self.follow_back() {
                break;
            }
        }
    }

    /// Notes what follows from instruction `value` for its operands.
    fn look_at(&mut self, value: Value, inst: &Inst) {
        if matches!(inst.op, Opcode::Eq | Opcode::Ne) {
            self.look_at_test(inst);
        }
        if self.targets[value] {
            match inst.op {
                Opcode::Add | Opcode::Sub | Opcode::Sext | Opcode::Zext => {
                    inst.operands().for_each(|operand| self.targets[operand] = true);
                }
                // A table of targets.
                Opcode::Load if self.is_immutable(value) && !self.entries.contains(&value) => {
                    self.demanded[value] = true;
                    self.entries.push(value);
                }
                _ => {}
            }
        }
        // What a condition depends on is not what is loaded from where.
        if self.demanded[value] && inst.ty != Type::I1 {
            let operands: Vec<Value> = inst.operands().filter(|operand| self.trace.ty(*operand) != Type::I1).collect();
            operands.into_iter().for_each(|operand| self.demanded[operand] = true);
        }
    }

    fn look_at_test(&mut self, inst: &Inst) {
        for [one, other] in [[inst.args[0], inst.args[1]], [inst.args[1], inst.args[0]]] {
            let Some(imm) = self.trace.as_const(other) else { continue };
            let ty = self.trace.ty(one);
            let is_target = ty == Type::I64 && (imm as u64).abs_diff(self.trace.start) < MODULE;
            self.targets[one] |= is_target;
            if self.trace.insts[one].op != Opcode::Load || self.place(one).is_none() {
                continue;
            }
            let seen = self.trace.recorded(one).map(|recorded| u128::from(recorded.value));
            if seen == Some(imm as i128 as u128 & ty.mask()) {
                self.known[one] = true;
                // A program that consists of addresses.
                self.demanded[one] |= is_target;
            }
        }
    }

    fn is_immutable(&self, value: Value) -> bool {
        let bytes = self.trace.ty(value).bytes();
        self.trace.recorded(value).is_some_and(|recorded| self.regions.kind(recorded.address, bytes).is_some())
    }

    /// Follows what is demanded of parameters to where it comes from; whether there was anything new.
    fn follow_back(&mut self) -> bool {
        let mut changed = false;
        for segment in self.order {
            for target in self.trace.segments[*segment].terminator.targets() {
                for (param, arg) in self.trace.segments[target.segment].params.iter().zip(&target.args) {
                    changed |= self.demanded[*param] && !self.demanded[*arg];
                    self.demanded[*arg] |= self.demanded[*param];
                }
            }
        }
        changed
    }

    /// Values that are some distance from what is taken for a program counter.
    fn of_program(&self) -> Map<Value, bool> {
        let mut found = Map::filled(self.trace.insts.len(), false);
        for value in self.loads() {
            let Some(Recorded { address: seen, .. }) = self.trace.recorded(value) else { continue };
            if let Some(address) = self.trace.insts[value].address()
                && self.is_counter(value, seen, &address)
            {
                found[address.root] = true;
            }
        }
        self.add_sums(&mut found);
        // The same table tells other fetches from dispatches on types and the like.
        let root = |fetch: &Value| self.trace.insts[*fetch].address().map(|address| address.root);
        let is_known = |fetch: &Value| root(fetch).is_some_and(|root| found[root]);
        let tables: Vec<u64> = self.dispatches().filter(|(_, fetch)| is_known(fetch)).map(|pair| pair.0).collect();
        let others: Vec<Value> = self.dispatches().filter(|pair| tables.contains(&pair.0)).map(|pair| pair.1).collect();
        others.iter().filter_map(root).for_each(|root| found[root] |= self.trace.as_const(root).is_none());
        self.add_sums(&mut found);
        found
    }

    /// Adds what comes of `found` by additions.
    fn add_sums(&self, found: &mut Map<Value, bool>) {
        for segment in self.order {
            for &value in &self.trace.segments[*segment].insts {
                let inst = &self.trace.insts[value];
                if matches!(inst.op, Opcode::Add | Opcode::Sub) {
                    found[value] |= found[inst.args[0]] || inst.op == Opcode::Add && found[inst.args[1]];
                }
            }
        }
    }

    /// Where each table of targets lies, with a load that its index comes from.
    fn dispatches(&self) -> impl Iterator<Item = (u64, Value)> {
        self.entries.iter().flat_map(|entry| {
            let index = self.trace.insts[*entry].address().map_or(Value::NONE, |address| address.index);
            let table = self.table(*entry);
            self.loads_behind(index).into_iter().filter_map(move |fetch| Some((table?, fetch)))
        })
    }

    /// Where the table lies that `entry` was loaded from.
    fn table(&self, entry: Value) -> Option<u64> {
        let address = self.trace.insts[entry].address().filter(|address| address.index.is_some())?;
        let index = self.seen(address.index, MAX_DEPTH)? as u64;
        Some(self.trace.recorded(entry)?.address.wrapping_sub(index.wrapping_mul(u64::from(address.scale))))
    }

    /// What `value` was when it was recorded, if it is computed from what was loaded.
    fn seen(&self, value: Value, steps: usize) -> Option<u128> {
        let inst = self.trace.insts.get(value)?;
        let mask = inst.ty.mask();
        if let Some(imm) = self.trace.as_const(value) {
            return Some(imm as i128 as u128 & mask);
        }
        if inst.op == Opcode::Load {
            return self.trace.recorded(value).map(|recorded| u128::from(recorded.value) & mask);
        }
        let mut args = [0; 3];
        for (at, operand) in inst.operands().enumerate() {
            args[at] = self.seen(operand, steps.checked_sub(1)?)?;
        }
        let of = inst.operands().next().map(|operand| self.trace.ty(operand))?;
        let is_simple = matches!(inst.op.format(), Format::Unary(_) | Format::Binary(_));
        is_simple.then(|| redmagic_ir::scalar::eval_pure(inst.op, inst.ty, of, args, None))?
    }

    /// The loads of the program that `value` is computed from, without others in between.
    fn loads_behind(&self, value: Value) -> Vec<Value> {
        let (mut found, mut pending) = (Vec::new(), vec![value]);
        for _ in 0..MAX_STEPS {
            let Some(value) = pending.pop() else { break };
            let Some(inst) = self.trace.insts.get(value) else { continue };
            if inst.op == Opcode::Load {
                found.extend(self.place(value).map(|_| value));
            } else {
                pending.extend(inst.operands().filter(|operand| self.trace.ty(*operand) != Type::I1));
            }
        }
        found
    }

    /// Whether the root of load `value` may be the program counter.
    fn is_counter(&self, value: Value, seen: u64, address: &Address) -> bool {
        let is_source = matches!(self.trace.insts[address.root].op, Opcode::Slot | Opcode::Param);
        let root = seen.wrapping_sub(i64::from(address.offset) as u64);
        let is_near = !address.index.is_some() && self.regions.middles().any(|middle| middle.abs_diff(root) <= NEAR);
        self.demanded[value] && is_source && is_near && self.place(value).is_some()
    }

    /// Where instructions of the program are fetched, in order.
    fn fetches(&self, of_program: &Map<Value, bool>) -> Vec<u64> {
        let mut all: Vec<(u64, bool)> = self.regions.middles().map(|middle| (middle, true)).collect();
        for value in self.loads() {
            let (Some(place), Some(address)) = (self.place(value), self.trace.insts[value].address()) else { continue };
            let is_of_program = of_program[address.root] || address.index.is_some() && of_program[address.index];
            let is_constant = !address.index.is_some() && self.trace.as_const(address.root).is_some();
            if self.demanded[value] && is_of_program {
                all.push((place, true));
            } else if is_constant && (self.demanded[value] || self.known[value]) {
                all.push((place, false));
            }
        }
        all.sort_unstable();
        // What is not sure is one if it is near to one.
        let spread = |last: &mut Option<u64>, fetch: &mut (u64, bool)| {
            fetch.1 |= last.is_some_and(|last| last.abs_diff(fetch.0) <= GAP);
            *last = if fetch.1 { Some(fetch.0) } else { *last };
        };
        let mut last = None;
        all.iter_mut().for_each(|fetch| spread(&mut last, fetch));
        last = None;
        all.iter_mut().rev().for_each(|fetch| spread(&mut last, fetch));
        all.into_iter().filter(|fetch| fetch.1).map(|fetch| fetch.0).collect()
    }

    /// Whether load `value`, recorded at `place`, reads a part of an instruction.
    fn is_operand(&self, value: Value, place: u64, of_program: &Map<Value, bool>, fetches: &[u64]) -> bool {
        let Some(address) = self.trace.insts[value].address().filter(|address| !address.index.is_some()) else {
            return false;
        };
        let after = fetches.partition_point(|fetch| *fetch <= place);
        let Some(before) = after.checked_sub(1).map(|at| fetches[at]) else { return false };
        if of_program[address.root] {
            return place - before <= LONGEST;
        }
        let is_constant = self.trace.as_const(address.root).is_some();
        is_constant && fetches.get(after).is_some_and(|next| next - before <= LONGEST)
    }
}

impl Walk<'_> {
    /// Whether the root of load `value` at `address` is to be the program counter.
    pub(crate) fn is_program_counter(&self, value: Value, address: &Address) -> bool {
        !address.index.is_some() && self.undeclared.derived.get(value) == Some(&true)
    }

    /// The address of load `value`, in terms of the start of its piece of the program if it is absolute and in one: then
    /// what reads that piece has one root.
    pub(crate) fn in_piece(&mut self, value: Value, address: Address) -> Address {
        if !self.undeclared.is_wanted(value) {
            return address;
        }
        let Some(absolute) = self.absolute(&address) else { return address };
        let Some(start) = self.undeclared.piece(absolute) else { return address };
        let Ok(offset) = i32::try_from(absolute - start) else { return address };
        Address::new(self.scope.constant(Type::I64, start as i64), offset)
    }

    /// Guards that load `value`, which has just been placed or has become another value, gives what was recorded, if it
    /// reads the program.
    pub(crate) fn compare_load(&mut self, value: Value, address: &Address) {
        let Some(exit) = self.resume_exit(value).filter(|_| self.undeclared.is_wanted(value)) else { return };
        let Some(recorded) = self.scope.trace.recorded(value) else { return };
        let ty = self.scope.trace.ty(value);
        let loaded = self.scope.resolve(value);
        if self.absolute(address) != Some(recorded.address)
            || ty.bits() > 64
            || !self.regions.is_code(recorded.address, ty.bytes())
            || self.scope.as_const(loaded).is_some()
            || !self.scope.stats.may("code compared")
        {
            return;
        }
        let constant = self.scope.constant(ty, recorded.value as i64);
        let equal = self.scope.compare(Opcode::Eq, loaded, constant);
        // It cannot be what it was, or must be.
        if self.scope.as_const(equal).is_some() {
            return;
        }
        self.update_exit(exit);
        let guard = self.scope.add(Inst::guard(true, equal, exit));
        self.scope.out.push(guard);
        self.scope.trace.set_resume_exit(value, None);
        self.resumes[value] = Exit::NONE;
        self.scope.assume(equal, true);
        self.scope.equate(loaded, constant);
        self.scope.stats.code_compared += 1;
    }
}
