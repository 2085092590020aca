//! A trace: a graph of straight-line SSA segments with their exits.
//!
//! # Shape
//! - A [`SegmentData`] has parameters, instructions, and one [`Terminator`]. Edges carry arguments for the target's
//!   parameters. Any graph is allowed: several headers, joins, nests.
//! - The *entry* segment has no parameters and no predecessors. The segment that a residual call resumes has no
//!   parameters and that call as its only predecessor: values defined before the call stay available after it, and
//!   the backend saves them across.
//! - A use must be dominated by its definition.
//!
//! # State
//! The context (the thread's copy of the guest's register file) is written at exits and residual calls only, from the
//! state map of an [`ExitData`]. A slot that a map does not list is *unchanged*: on every path to the exit, the context
//! holds the slot's current value already, because it was there at entry, or the last residual call left it there. A
//! parameter that carries a slot makes that slot *dirty* until the next residual call: every exit until then lists it.
//!
//! # Worked example
//! A loop that counts rax down to zero and leaves at guest address 0x40:
//! ```text
//! seg0():
//!   v0: i64 = slot rax
//!   jump seg1(v0)
//! seg1(v1: i64 = rax):
//!   v2: i64 = const 0
//!   v3: i1 = ne v1, v2
//!   guard v3, exit0
//!   v4: i64 = const -1
//!   v5: i64 = add v1, v4
//!   jump seg1(v5)
//! exit0 @0x40 { rax = v1 }
//! ```

use crate::{Address, Exit, Inst, Map, Native, Opcode, Segment, Slot, Type, Value};
use std::collections::BTreeMap;

/// What the recorder saw at a memory access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The effective address.
    pub address: u64,
    /// The value read or written, zero-extended (the low 64 bits of wider accesses).
    pub value: u64,
}

/// An address range whose bytes do not change while the trace is valid, or are compared with what they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// First address behind the range.
    pub end: u64,
    /// What is known of the range.
    pub kind: RegionKind,
}

/// What is known of an address range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionKind {
    /// A read-only mapping of a loaded module: a load at a constant address is a constant.
    ReadOnly,
    /// Declared by the host: a load at any address in it also makes the address a constant, behind a guard.
    Declared,
    /// Looks like the program that the recorded interpreter runs, which is at the range's middle, but may change: what is
    /// read from it is known only behind a guard that compares it with what was recorded.
    Code,
}

impl Region {
    /// The address that a range of [`RegionKind::Code`] lies around.
    pub fn middle(&self) -> u64 {
        self.start + self.end.saturating_sub(self.start) / 2
    }
}

/// What an exit or a call writes to a slot, or a delayed store to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExitValue {
    /// An SSA value.
    Value(Value),
    /// A constant (sign-extended); lives in the exit record, not in code.
    Const(i64),
    /// The result of the recipe with this index in [`ExitData::recipes`], computed only when the exit is taken.
    Recipe(u32),
    /// Nothing can read it: any value will do.
    Undefined,
}

/// A pure operation that is computed only when an exit is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Recipe {
    /// The operation (its effect is [`Effect::Pure`](crate::Effect::Pure); of unary, binary or ternary format).
    pub op: Opcode,
    /// The type of the result.
    pub ty: Type,
    /// The operands; unused ones are [`ExitValue::Undefined`]. A recipe may use recipes with a lower index.
    pub args: [ExitValue; 3],
    /// The type of each constant operand (operands of other kinds know theirs).
    pub arg_types: [Type; 3],
}

/// A store that the trace has delayed and that an exit performs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DelayedStore {
    /// The type, and so the width, of the access.
    pub ty: Type,
    /// Where it goes.
    pub address: Address,
    /// What is written.
    pub value: ExitValue,
}

/// Where control goes when an exit is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExitKind {
    /// To the guest's own code.
    Guest,
    /// To the anchor with this number: into its trace when there is one, else to the guest's own code.
    Anchor(u32),
    /// To the library, because a meter has run out at the start of the loop.
    Meter,
}

/// An exit (or the state of a residual call): the state of the guest at one point of its program.
///
/// Taking it writes the slots, then performs the delayed stores in order; every value is computed before the first
/// store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitData {
    /// The guest address where execution continues (for the state of a call: the address of the call instruction).
    pub pc: u64,
    /// The number of recorded guest instructions before this point, counted from the trace's start.
    pub step: u32,
    /// Where control goes.
    pub kind: ExitKind,
    /// New values of slots; slots that are not listed are unchanged. Sorted by slot.
    pub slots: Vec<(Slot, ExitValue)>,
    /// Operations that only this exit needs.
    pub recipes: Vec<Recipe>,
    /// Memory that is brought up to date, in order.
    pub stores: Vec<DelayedStore>,
}

impl ExitData {
    /// An exit to guest address `pc` with an empty state map.
    pub fn new(pc: u64, step: u32) -> ExitData {
        ExitData { pc, step, kind: ExitKind::Guest, slots: Vec::new(), recipes: Vec::new(), stores: Vec::new() }
    }

    /// What the exit writes to `slot`; `None` if it is unchanged.
    #[inline]
    pub fn get(&self, slot: Slot) -> Option<ExitValue> {
        self.slots.binary_search_by_key(&slot, |entry| entry.0).ok().map(|at| self.slots[at].1)
    }

    /// Makes the exit write `value` to `slot`.
    pub fn set(&mut self, slot: Slot, value: ExitValue) {
        match self.slots.binary_search_by_key(&slot, |entry| entry.0) {
            Ok(at) => self.slots[at].1 = value,
            Err(at) => self.slots.insert(at, (slot, value)),
        }
    }

    /// Calls `f` with every SSA value that the exit uses (with repetitions).
    #[inline]
    pub fn for_each_value(&self, mut f: impl FnMut(Value)) {
        let mut copy = |value: ExitValue| {
            if let ExitValue::Value(value) = value {
                f(value);
            }
        };
        self.slots.iter().for_each(|(_, value)| copy(*value));
        self.recipes.iter().flat_map(|recipe| recipe.args).for_each(&mut copy);
        for store in &self.stores {
            copy(store.value);
            copy(ExitValue::Value(store.address.root));
            if store.address.index.is_some() {
                copy(ExitValue::Value(store.address.index));
            }
        }
    }

    /// Replaces every SSA value that the exit uses by `f` of it. Addresses of delayed stores must stay values.
    #[inline]
    pub fn map_values(&mut self, mut f: impl FnMut(Value) -> Value) {
        let mut update = |value: &mut ExitValue| {
            if let ExitValue::Value(value) = value {
                *value = f(*value);
            }
        };
        self.slots.iter_mut().for_each(|(_, value)| update(value));
        self.recipes.iter_mut().flat_map(|recipe| &mut recipe.args).for_each(&mut update);
        self.stores.iter_mut().for_each(|store| update(&mut store.value));
        for store in &mut self.stores {
            store.address.root = f(store.address.root);
            if store.address.index.is_some() {
                store.address.index = f(store.address.index);
            }
        }
    }
}

/// A machine instruction that a trace executes verbatim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NativeOp {
    /// The guest address it was recorded at (RIP-relative operands refer to it).
    pub pc: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Slots it may read, with their values; written to the context before it executes.
    pub inputs: Vec<(Slot, Value)>,
    /// Slots it may write; read from the context by `native_out`.
    pub outputs: Vec<Slot>,
    /// Whether it may access memory.
    pub memory: bool,
    /// Whether it reads or writes vector state beyond the xmm lanes (the exit stubs must then restore all of it).
    pub wide: bool,
}

/// What a residual callee may do besides its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallEffect {
    /// Anything.
    Any,
    /// Writes no memory that the trace can see; its result may depend on any (`strlen`).
    Reads,
    /// Nothing to memory that the trace can see, but for the thread's `errno` (`pow`).
    Errno,
    /// Nothing to memory that the trace can see (`floor`).
    None,
}

/// A residual call: the guest function runs natively, and then the trace is resumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The complete guest state at the call; its rsp is the stack pointer after the return address was popped again,
    /// that is, the value before the call instruction.
    pub state: Exit,
    /// The address of the callee, an i64.
    pub target: Value,
    /// The original return address, an i64.
    pub return_address: Value,
    /// What the callee may do.
    pub effect: CallEffect,
    /// Where the trace goes on; reads of slots there see what the callee left.
    pub resume: Segment,
}

/// An edge of the graph with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where it leads.
    pub segment: Segment,
    /// One value for each parameter of the segment.
    pub args: Vec<Value>,
}

/// How a segment ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Terminator {
    /// Goes on in another segment.
    Jump(Target),
    /// Goes to the case with the value's number, else to the default. On a truth value with one case, the case is the
    /// likely way.
    Switch {
        /// What is tested (i1, or a word type).
        value: Value,
        /// Numbers (zero-extended) and where they lead; no number twice.
        cases: Vec<(u64, Target)>,
        /// Where all other numbers lead.
        default: Target,
    },
    /// Makes a residual call.
    Call(Call),
    /// Leaves the trace.
    Leave(Exit),
}

impl Terminator {
    /// The segments that may run next.
    pub fn successors(&self) -> Vec<Segment> {
        match self {
            Terminator::Jump(target) => vec![target.segment],
            Terminator::Switch { cases, default, .. } => {
                cases.iter().map(|case| &case.1).chain([default]).map(|target| target.segment).collect()
            }
            Terminator::Call(call) => vec![call.resume],
            Terminator::Leave(_) => Vec::new(),
        }
    }

    /// The edges that carry arguments.
    #[inline]
    pub fn targets(&self) -> impl Iterator<Item = &Target> + Clone {
        let (cases, last): (&[(u64, Target)], _) = match self {
            Terminator::Jump(target) => (&[], Some(target)),
            Terminator::Switch { cases, default, .. } => (cases, Some(default)),
            Terminator::Call(_) | Terminator::Leave(_) => (&[], None),
        };
        cases.iter().map(|case| &case.1).chain(last)
    }

    /// The edges that carry arguments, mutably.
    #[inline]
    pub fn targets_mut(&mut self) -> impl Iterator<Item = &mut Target> {
        let (cases, last): (&mut [(u64, Target)], _) = match self {
            Terminator::Jump(target) => (&mut [], Some(target)),
            Terminator::Switch { cases, default, .. } => (cases, Some(default)),
            Terminator::Call(_) | Terminator::Leave(_) => (&mut [], None),
        };
        cases.iter_mut().map(|case| &mut case.1).chain(last)
    }

    /// The exit whose state the terminator needs.
    #[inline]
    pub fn exit(&self) -> Option<Exit> {
        match self {
            Terminator::Jump(_) | Terminator::Switch { .. } => None,
            Terminator::Call(call) => Some(call.state),
            Terminator::Leave(exit) => Some(*exit),
        }
    }

    /// Calls `f` with every value that the terminator itself uses (not those of its exit).
    #[inline]
    pub fn for_each_value(&self, mut f: impl FnMut(Value)) {
        match self {
            Terminator::Jump(_) | Terminator::Leave(_) => {}
            Terminator::Switch { value, .. } => f(*value),
            Terminator::Call(call) => {
                f(call.target);
                f(call.return_address);
            }
        }
        self.targets().flat_map(|target| &target.args).for_each(|value| f(*value));
    }

    /// Replaces every value that the terminator itself uses by `f` of it.
    #[inline]
    pub fn map_values(&mut self, mut f: impl FnMut(Value) -> Value) {
        match self {
            Terminator::Jump(_) | Terminator::Leave(_) => {}
            Terminator::Switch { value, .. } => *value = f(*value),
            Terminator::Call(call) => {
                call.target = f(call.target);
                call.return_address = f(call.return_address);
            }
        }
        self.targets_mut().flat_map(|target| &mut target.args).for_each(|value| *value = f(*value));
    }
}

/// A straight-line piece of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentData {
    /// Parameters: values whose instruction is a `param`.
    pub params: Vec<Value>,
    /// Instructions, in order of execution.
    pub insts: Vec<Value>,
    /// How it ends.
    pub terminator: Terminator,
}

/// A trace.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Trace {
    /// A name for people.
    pub name: String,
    /// The guest address at which the trace is entered: an exit there with an empty state map restores the state at
    /// entry, as long as the trace has had no effect.
    pub start: u64,
    /// Address ranges that do not change.
    pub regions: Vec<Region>,
    /// How far `errno`, an `int`, is from the fs base, if that is known: callees may write it that write nothing else.
    pub errno: Option<i64>,
    /// Where execution starts.
    pub entry: Option<Segment>,
    /// All segments.
    pub segments: Map<Segment, SegmentData>,
    /// All instructions and parameters, also those that no segment lists any more.
    pub insts: Map<Value, Inst>,
    /// What was recorded at each memory access.
    recorded: Map<Value, Option<Recorded>>,
    /// For some loads, the state before the guest instruction that they belong to; see [`Trace::resume_exit`].
    resume_exits: BTreeMap<Value, Exit>,
    /// All exits.
    pub exits: Map<Exit, ExitData>,
    /// All verbatim instructions.
    pub natives: Map<Native, NativeOp>,
}

impl Trace {
    /// An empty trace.
    pub fn new(name: impl Into<String>) -> Trace {
        Trace { name: name.into(), ..Trace::default() }
    }

    /// The entry segment.
    ///
    /// # Panics
    /// If the trace has none: a builder's error, which the verifier reports first.
    #[inline]
    pub fn entry(&self) -> Segment {
        self.entry.expect("a trace has an entry segment") // invariant: checked by the verifier
    }

    /// Adds an instruction to the arena without placing it in a segment.
    #[inline]
    pub fn add_inst(&mut self, inst: Inst) -> Value {
        self.recorded.push(None);
        self.insts.push(inst)
    }

    /// Adds an empty segment that, until told otherwise, leaves by no exit.
    pub fn add_segment(&mut self) -> Segment {
        self.segments.push(SegmentData {
            params: Vec::new(),
            insts: Vec::new(),
            terminator: Terminator::Leave(Exit::NONE),
        })
    }

    /// Adds a parameter to a segment.
    pub fn add_param(&mut self, segment: Segment, ty: Type, slot: Option<Slot>) -> Value {
        let value = self.add_inst(Inst::param(ty, slot));
        self.segments[segment].params.push(value);
        value
    }

    /// Appends an instruction to a segment.
    pub fn append(&mut self, segment: Segment, inst: Inst) -> Value {
        let value = self.add_inst(inst);
        self.segments[segment].insts.push(value);
        value
    }

    /// What was recorded at memory access `value`.
    #[inline]
    pub fn recorded(&self, value: Value) -> Option<Recorded> {
        self.recorded[value]
    }

    /// Notes what was recorded at memory access `value`.
    #[inline]
    pub fn set_recorded(&mut self, value: Value, recorded: Option<Recorded>) {
        self.recorded[value] = recorded;
    }

    /// An exit to the guest instruction that load `value` belongs to, with the state before that instruction.
    ///
    /// It lets the optimiser put a guard before the load. Its values count as uses only for the optimiser, and only
    /// until it drops the table; the backend and the evaluator ignore it.
    #[inline]
    pub fn resume_exit(&self, value: Value) -> Option<Exit> {
        self.resume_exits.get(&value).copied()
    }

    /// Notes or removes the resume exit of load `value`.
    pub fn set_resume_exit(&mut self, value: Value, exit: Option<Exit>) {
        match exit {
            Some(exit) => self.resume_exits.insert(value, exit),
            None => self.resume_exits.remove(&value),
        };
    }

    /// Every load with a resume exit, in order of the loads.
    pub fn resume_exits(&self) -> impl Iterator<Item = (Value, Exit)> + '_ {
        self.resume_exits.iter().map(|(value, exit)| (*value, *exit))
    }

    /// The `compare_swap` that guard `guard` asks the success of: where it fails, nothing was written.
    pub fn swap_of(&self, guard: Value) -> Option<Value> {
        self.insts[guard].exit()?;
        let test = &self.insts[self.insts[guard].args[0]];
        let [a, b, _] = test.args;
        let asks =
            |swap: Value, expected| self.insts[swap].op == Opcode::CompareSwap && self.insts[swap].args[1] == expected;
        let mut pairs = [(a, b), (b, a)].into_iter().filter(|_| test.op == Opcode::Eq);
        pairs.find_map(|(swap, expected)| asks(swap, expected).then_some(swap))
    }

    /// Removes all resume exits.
    pub fn clear_resume_exits(&mut self) {
        self.resume_exits.clear();
    }

    /// Removes the exits that no guard and no end of a segment takes, and numbers the others anew, in the same order. Resume exits
    /// are for passes, and go.
    pub fn drop_unused_exits(&mut self) {
        self.resume_exits.clear();
        let mut places = Map::filled(self.exits.len(), Exit::NONE);
        for data in self.segments.values() {
            let guards = data.insts.iter().filter_map(|value| self.insts[*value].exit());
            guards.chain(data.terminator.exit()).for_each(|exit| places[exit] = exit);
        }
        let mut kept = Map::new();
        for (exit, place) in self.exits.keys().zip(places.values_mut()) {
            if place.is_some() {
                let data = std::mem::replace(&mut self.exits[exit], ExitData::new(0, 0));
                *place = kept.push(data);
            }
        }
        self.exits = kept;
        for data in self.segments.values_mut() {
            for value in &data.insts {
                if let Some(exit) = self.insts[*value].exit() {
                    self.insts[*value].set_exit(places[exit]);
                }
            }
            match &mut data.terminator {
                Terminator::Jump(_) | Terminator::Switch { .. } => {}
                Terminator::Call(call) => call.state = places[call.state],
                Terminator::Leave(exit) => *exit = places[*exit],
            }
        }
    }

    /// The type of a value.
    #[inline]
    pub fn ty(&self, value: Value) -> Type {
        self.insts[value].ty
    }

    /// The constant (sign-extended) that a value is, if it is one.
    #[inline]
    pub fn as_const(&self, value: Value) -> Option<i64> {
        self.insts[value].as_const()
    }

    /// Calls `f` with every value that instruction `value` uses: its operands, the inputs of its native operation,
    /// and the values its exit needs.
    #[inline]
    pub fn for_each_use(&self, value: Value, mut f: impl FnMut(Value)) {
        let inst = &self.insts[value];
        inst.operands().for_each(&mut f);
        if let Some(native) = inst.native_op() {
            self.natives[native].inputs.iter().for_each(|(_, input)| f(*input));
        }
        if let Some(exit) = inst.exit() {
            self.exits[exit].for_each_value(f);
        }
    }

    /// The first region of `kind` that contains the `bytes` bytes at `address`.
    pub fn region(&self, address: u64, bytes: u32) -> Option<&Region> {
        let end = address.checked_add(u64::from(bytes))?;
        self.regions.iter().find(|region| region.start <= address && end <= region.end)
    }

    /// The number of instructions that segments list.
    pub fn len(&self) -> usize {
        self.segments.values().map(|segment| segment.insts.len()).sum()
    }

    /// Whether no segment lists an instruction.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
