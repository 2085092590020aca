//! Frames that the trace itself pushed: which values may point into them, and whether anyone else may.
//!
//! # Invariants
//! - Memory below the stack pointer at entry is dead for the program, so what the trace pushes there is its own, until
//!   the address of such a frame *escapes*: it is stored outside of these frames, or given to a residual call or a
//!   native operation in a register. A pointer that was not derived from the stack pointer does not lead there.
//! - The one exception is the red zone of a leaf function that contains the anchor: its locals lie below the stack
//!   pointer. A function that moves its stack pointer down further to call others has none, so frames are private only
//!   where an exit shows the stack pointer below its value at entry, and none shows that the function was left.
//! - A callee does not change what it has no pointer to: frames that are there when it is called stay as they are. (Who walks
//!   the stack reads.) Its own frame lies below the stack pointer that it is called with.
//! - A parameter that carries the stack pointer is as far from its value at entry as all that arrives there, or at
//!   most that value. A residual call returns with the stack pointer that it was made with.
//! - A comparison can make the optimiser use one of two values for the other. So what is compared with a pointer into
//!   a frame counts as one, and a comparison with a number that can be an address ends privacy.
//!
//! Worked example: `v1 = add rsp, -8; store [v1], 0x400123` (a traced call) pushes a return address. A store through
//! another root does not change it, so the `ret` that loads it gets the constant back and its guard vanishes.

use crate::memory::Domain;
use redmagic_ir::{
    Address, Call, Entity, Exit, ExitValue, Format, Inst, Map, Opcode, Segment, Slot, Terminator, Trace, Type, Value,
};
use std::collections::BTreeSet;

/// Numbers in this range can be addresses of a stack; smaller ones are sizes, larger ones negative.
const ADDRESSES: std::ops::Range<u64> = 1 << 16..1 << 56;

/// Distances from the stack pointer that are followed.
const REACH: i64 = 1 << 40;

/// What a value has to do with the frames that the trace pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taint {
    /// It does not point there.
    Clean,
    /// The stack pointer at entry plus this; points there if negative.
    Exact(i64),
    /// Derived from the stack pointer, and at most the stack pointer at entry plus this.
    Below(i64),
    /// It may point there.
    Tainted,
}

impl Taint {
    fn points_to_frame(self) -> bool {
        match self {
            Taint::Clean => false,
            Taint::Exact(offset) => offset < 0,
            Taint::Below(_) | Taint::Tainted => true,
        }
    }

    /// Whether it is derived from the stack pointer.
    fn is_near(self) -> bool {
        self != Taint::Clean
    }

    /// Whether it is at most the stack pointer at entry.
    fn is_below(self) -> bool {
        matches!(self, Taint::Exact(offset) | Taint::Below(offset) if offset <= 0)
    }

    /// What is true of two values of which one or the other is used; a clean one counts as not known yet.
    fn join(self, other: Taint) -> Taint {
        match (self, other) {
            (Taint::Clean, other) => other,
            (one, Taint::Clean) => one,
            (one, other) if one == other => one,
            (Taint::Exact(a) | Taint::Below(a), Taint::Exact(b) | Taint::Below(b)) if a.max(b) <= 0 => {
                Taint::Below(a.max(b))
            }
            _ => Taint::Tainted,
        }
    }

    /// What becomes of it when `by` is added.
    fn moved(self, by: i64) -> Taint {
        let near = |offset: i64| offset.checked_add(by).filter(|sum| (-REACH..=REACH).contains(sum));
        match self {
            Taint::Clean => Taint::Clean,
            Taint::Exact(offset) => near(offset).map_or(Taint::Tainted, Taint::Exact),
            Taint::Below(offset) => near(offset).map_or(Taint::Tainted, Taint::Below),
            Taint::Tainted => Taint::Tainted,
        }
    }
}

/// Which memory `bytes` bytes are at a root, an index (clean if there is none), and a distance.
fn domain_of(root: Taint, index: Option<Taint>, offset: i64, bytes: i64) -> Domain {
    if let Some(index) = index {
        return if root.is_near() || index.is_near() { Domain::Unclear } else { Domain::Other };
    }
    match root.moved(offset) {
        Taint::Clean => Domain::Other,
        Taint::Exact(start) | Taint::Below(start) if start + bytes <= 0 => Domain::Frame,
        Taint::Exact(start) if start >= 0 => Domain::Other,
        Taint::Exact(_) | Taint::Below(_) | Taint::Tainted => Domain::Unclear,
    }
}

/// The result of the analysis, for one walk.
pub(crate) struct Frames {
    /// Whether frames of the trace are private.
    private: bool,
    /// Whether the stack pointer is the same at all exits and calls.
    still: bool,
    taints: Map<Value, Taint>,
}

impl Frames {
    /// Analyses `trace`, whose reachable segments are `order`, in reverse post-order.
    pub(crate) fn new(trace: &Trace, order: &[Segment]) -> Frames {
        let mut analysis = Analysis {
            trace,
            taints: Map::filled(trace.insts.len(), Taint::Clean),
            held: BTreeSet::new(),
            held_anywhere: false,
            in_calls: Taint::Exact(0),
            escaped: false,
            loops: has_loops(trace, order),
            swept: Map::filled(trace.segments.len(), false),
            changed: true,
        };
        while analysis.changed {
            analysis.changed = false;
            analysis.sweep(order);
        }
        let private = !analysis.escaped && analysis.stays_below();
        let still = analysis.is_still();
        Frames { private, still, taints: analysis.taints }
    }

    fn taint(&mut self, trace: &Trace, value: Value) -> Taint {
        // Values that the walk has made since: derived from older ones.
        while self.taints.len() <= value.index() {
            let next = Value::from_index(self.taints.len());
            let taint = plain_taint(trace, &self.taints, &trace.insts[next]);
            self.taints.push(taint);
        }
        self.taints[value]
    }

    /// What a call overwrites that has no effect but its result: the memory below the stack pointer, where its own frame is.
    pub(crate) fn overwritten(&self) -> Overwritten {
        match (self.private, self.still) {
            (true, _) => Overwritten::Frames,
            (false, true) => Overwritten::Stack,
            (false, false) => Overwritten::Everything,
        }
    }

    /// Whether frames of the trace are private.
    pub(crate) fn are_private(&self) -> bool {
        self.private
    }

    /// How far the stack pointer of a call is from what it was at entry, if that is known: frames there or above are out of the
    /// callee's reach where they are private, and what lies below is its own. The context holds one that is so far: `context`.
    pub(crate) fn floor(&mut self, trace: &Trace, state: Exit, context: Option<i64>) -> Option<i64> {
        match trace.exits[state].get(Slot::RSP) {
            Some(ExitValue::Value(value)) => self.distance(trace, value),
            Some(ExitValue::Const(_) | ExitValue::Recipe(_) | ExitValue::Undefined) => None,
            None => context,
        }
    }

    /// How far `value` is from the stack pointer at entry, if it is known.
    pub(crate) fn distance(&mut self, trace: &Trace, value: Value) -> Option<i64> {
        match self.taint(trace, value) {
            Taint::Exact(distance) => Some(distance),
            Taint::Below(_) | Taint::Tainted | Taint::Clean => None,
        }
    }

    /// Whether `value` is computed from the stack pointer (rather than perhaps loaded from a place that holds it).
    pub(crate) fn is_stack_address(&mut self, trace: &Trace, value: Value) -> bool {
        self.taint(trace, value).is_near() && trace.insts[value].op != Opcode::Load
    }

    /// Whether `value` may point to the stack.
    pub(crate) fn is_near_stack(&mut self, trace: &Trace, value: Value) -> bool {
        self.taint(trace, value).is_near()
    }

    /// Which memory `bytes` bytes at `address` are.
    pub(crate) fn domain(&mut self, trace: &Trace, address: &Address, bytes: i64) -> Domain {
        if !self.private {
            return Domain::Other;
        }
        let root = self.taint(trace, address.root);
        let index = address.index.is_some().then(|| self.taint(trace, address.index));
        domain_of(root, index, i64::from(address.offset), bytes)
    }
}

/// What is known to contain all that a call's own frame overwrites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overwritten {
    /// The frames that the trace has pushed: nobody else has pointers there.
    Frames,
    /// What is reached through the stack pointer: the trace pushes no frames.
    Stack,
    /// Frames that the trace has pushed or left, to which any pointer may lead.
    Everything,
}

struct Analysis<'t> {
    trace: &'t Trace,
    taints: Map<Value, Taint>,
    /// Where words that may point to a frame were stored in frames: distances from the stack pointer at entry.
    held: BTreeSet<i64>,
    /// Whether such words were also stored in places of frames that are not known.
    held_anywhere: bool,
    /// The stack pointer that calls are made with.
    in_calls: Taint,
    escaped: bool,
    /// Whether what comes later in a sweep may be executed earlier.
    loops: bool,
    /// Segments that this sweep has been through.
    swept: Map<Segment, bool>,
    /// Whether something has changed that matters to what this sweep has been through.
    changed: bool,
}

impl Analysis<'_> {
    fn sweep(&mut self, order: &[Segment]) {
        for &segment in order {
            let data = &self.trace.segments[segment];
            for &value in &data.insts {
                self.visit(value, Some(segment) == self.trace.entry);
            }
            self.swept[segment] = true;
            self.terminator(&data.terminator);
        }
        self.swept.values_mut().for_each(|swept| *swept = false);
    }

    /// Notes a taint; whether that is new.
    fn set(&mut self, value: Value, taint: Taint) -> bool {
        let old = self.taints[value];
        self.taints[value] = old.join(taint);
        self.taints[value] != old
    }

    fn visit(&mut self, value: Value, in_entry: bool) {
        let trace = self.trace;
        let inst = &trace.insts[value];
        let taint = match inst.op {
            Opcode::Slot if inst.slot() == Some(Slot::RSP) && in_entry => Taint::Exact(0),
            // Other reads of the stack pointer get theirs from the call before.
            Opcode::Slot => Taint::Clean,
            Opcode::Load => {
                if inst.ty.bits() >= 64 && self.may_hold(inst) {
                    Taint::Tainted
                } else {
                    Taint::Clean
                }
            }
            Opcode::Store => {
                if self.taints[inst.args[2]].points_to_frame() {
                    self.hold(inst);
                }
                return;
            }
            Opcode::CompareSwap => {
                let near = inst.args.iter().any(|operand| self.taints[*operand].is_near());
                self.escaped |= near;
                if near { Taint::Tainted } else { Taint::Clean }
            }
            Opcode::Native => return self.native(inst),
            // A native operation that was given the stack pointer may return an address derived from it.
            Opcode::NativeOut => match trace.insts[inst.args[0]].native_op() {
                Some(native) if trace.natives[native].inputs.iter().any(|input| input.0 == Slot::RSP) => Taint::Tainted,
                Some(_) | None if inst.slot() == Some(Slot::RSP) => Taint::Tainted,
                Some(_) | None => Taint::Clean,
            },
            // Most of the others have nothing to do with the stack.
            _ if !inst.args.iter().any(|operand| self.taints.get(*operand).is_some_and(|taint| taint.is_near())) => {
                return;
            }
            _ => {
                self.compared(inst);
                plain_taint(trace, &self.taints, inst)
            }
        };
        self.set(value, taint);
    }

    /// The distance of a memory access from the stack pointer at entry, as far as it is known, and its domain.
    fn place(&self, inst: &Inst) -> (Taint, Domain) {
        let Some(address) = inst.address() else { return (Taint::Tainted, Domain::Unclear) };
        let root = self.taints[address.root];
        let index = address.index.is_some().then(|| self.taints[address.index]);
        let offset = i64::from(address.offset);
        let start = if index.is_some() { Taint::Tainted } else { root.moved(offset) };
        (start, domain_of(root, index, offset, i64::from(inst.ty.bytes())))
    }

    /// Accounts for a store of a pointer to a frame.
    fn hold(&mut self, inst: &Inst) {
        match self.place(inst) {
            (Taint::Exact(start), Domain::Frame) => {
                for word in (0..i64::from(inst.ty.bytes())).step_by(8) {
                    self.changed |= self.held.insert(start + word) && self.loops;
                }
            }
            (_, Domain::Frame | Domain::Kept) => self.hold_anywhere(),
            (_, Domain::Unclear | Domain::Other) => self.escaped = true,
        }
    }

    fn hold_anywhere(&mut self) {
        self.changed |= !self.held_anywhere && self.loops;
        self.held_anywhere = true;
    }

    /// Whether a load may find a pointer to a frame.
    fn may_hold(&self, inst: &Inst) -> bool {
        if self.held.is_empty() && !self.held_anywhere {
            return false;
        }
        match self.place(inst) {
            (_, Domain::Other) => false,
            (Taint::Exact(start), Domain::Frame) if !self.held_anywhere => {
                self.held.range(start - 7..start + i64::from(inst.ty.bytes())).next().is_some()
            }
            (_, Domain::Frame | Domain::Kept | Domain::Unclear) => self.held_anywhere || !self.held.is_empty(),
        }
    }

    fn native(&mut self, inst: &Inst) {
        let Some(native) = inst.native_op() else { return };
        let op = &self.trace.natives[native];
        let frame = |input: &(Slot, Value)| self.taints[input.1].points_to_frame();
        let given = op.inputs.iter().any(|input| input.0 != Slot::RSP && frame(input));
        let stack = op.inputs.iter().any(|input| input.0 == Slot::RSP && frame(input));
        // With another address at hand, it might store the stack pointer there.
        let addressed = op.inputs.iter().any(|input| input.0 != Slot::RSP && input.0.as_gpr().is_some());
        if stack && op.memory {
            self.hold_anywhere();
        }
        self.escaped |= given || stack && op.memory && addressed;
    }

    /// Accounts for what the optimiser may conclude where the two operands of `inst` are found equal.
    fn compared(&mut self, inst: &Inst) {
        let compares = matches!(inst.op, Opcode::Eq | Opcode::Ne | Opcode::FlSub | Opcode::Sub | Opcode::Xor);
        let [a, b, _] = inst.args;
        if !compares || self.trace.ty(a) != Type::I64 {
            return;
        }
        for (one, other) in [(a, b), (b, a)] {
            let taint = self.taints[one];
            match self.trace.as_const(other) {
                // What was loaded is compared with addresses of code, where calls return to.
                Some(imm) if self.trace.insts[one].op != Opcode::Load => {
                    self.escaped |= taint.is_near() && ADDRESSES.contains(&(imm as u64));
                }
                None if taint.points_to_frame() && !self.taints[other].is_near() => {
                    self.changed |= self.set(other, Taint::Tainted);
                }
                Some(_) | None => {}
            }
        }
    }

    fn terminator(&mut self, terminator: &Terminator) {
        let trace = self.trace;
        for target in terminator.targets() {
            for (&param, &arg) in trace.segments[target.segment].params.iter().zip(&target.args) {
                let arg = self.taints[arg];
                let carries_stack = trace.insts[param].slot() == Some(Slot::RSP);
                let taint = match (carries_stack, arg.points_to_frame()) {
                    (true, _) if arg.is_below() => arg,
                    (true, _) | (false, true) => Taint::Tainted,
                    (false, false) => continue,
                };
                let is_new = self.set(param, taint);
                self.changed |= is_new && self.swept[target.segment];
            }
        }
        match terminator {
            Terminator::Call(call) => self.call(call),
            Terminator::Switch { value, cases, .. } => {
                let address = cases.iter().any(|case| ADDRESSES.contains(&case.0));
                self.escaped |= address && self.taints[*value].is_near();
            }
            Terminator::Jump(_) | Terminator::Leave(_) => {}
        }
    }

    fn call(&mut self, call: &Call) {
        let trace = self.trace;
        let state = &trace.exits[call.state];
        let taint = |value: ExitValue| match value {
            ExitValue::Value(value) => self.taints[value],
            ExitValue::Const(_) | ExitValue::Recipe(_) | ExitValue::Undefined => Taint::Clean,
        };
        let gives = |&(slot, value): &(Slot, ExitValue)| slot != Slot::RSP && taint(value).points_to_frame();
        let escapes = !state.stores.is_empty() || !state.recipes.is_empty() || state.slots.iter().any(gives);
        // Where the stack pointer is not listed, the context has it from the entry or from an earlier call.
        let stack = state.get(Slot::RSP).map_or(self.in_calls, taint);
        let stack = if stack.is_near() { stack } else { Taint::Tainted };
        let in_calls = self.in_calls.join(stack);
        self.changed |= in_calls != self.in_calls && self.loops;
        self.in_calls = in_calls;
        self.escaped |= escapes;
        let reads = trace.segments[call.resume].insts.iter();
        for &read in reads.filter(|value| trace.insts[**value].slot() == Some(Slot::RSP)) {
            if trace.insts[read].op == Opcode::Slot {
                self.set(read, stack);
            }
        }
    }

    /// Whether the stack pointer is at all exits what it is at entry.
    fn is_still(&self) -> bool {
        self.trace.exits.values().all(|exit| match exit.get(Slot::RSP) {
            Some(ExitValue::Value(value)) => self.taints[value] == Taint::Exact(0),
            Some(ExitValue::Const(_) | ExitValue::Recipe(_) | ExitValue::Undefined) => false,
            None => true,
        })
    }

    /// Whether the stack pointer goes below its value at entry at an exit, and at none of them above it or elsewhere.
    fn stays_below(&self) -> bool {
        let trace = self.trace;
        let taint = |exit| match trace.exits[exit].get(Slot::RSP) {
            Some(ExitValue::Value(value)) => Some(self.taints[value]),
            Some(ExitValue::Const(_) | ExitValue::Recipe(_)) => Some(Taint::Clean),
            Some(ExitValue::Undefined) | None => None,
        };
        let placed = trace.segments.values().flat_map(|segment| {
            let guards = segment.insts.iter().filter_map(|value| trace.insts[*value].exit());
            guards.chain(segment.terminator.exit())
        });
        let leaves = |taint| match taint {
            Taint::Clean => true,
            Taint::Exact(offset) => offset > 0,
            Taint::Below(_) | Taint::Tainted => false,
        };
        // Exits that no place uses any more still say what the program does.
        let pushes = |taint| matches!(taint, Taint::Exact(offset) | Taint::Below(offset) if offset < 0);
        trace.exits.keys().filter_map(taint).any(pushes) && !placed.filter_map(taint).any(leaves)
    }
}

/// Whether an edge leads back in `order`.
fn has_loops(trace: &Trace, order: &[Segment]) -> bool {
    let mut seen = Map::<Segment, bool>::filled(trace.segments.len(), false);
    order.iter().any(|segment| {
        seen[*segment] = true;
        trace.segments[*segment].terminator.targets().any(|target| seen[target.segment])
    })
}

/// The taint of an operation on plain values.
fn plain_taint(trace: &Trace, taints: &Map<Value, Taint>, inst: &Inst) -> Taint {
    let plain = matches!(inst.op.format(), Format::Unary(_) | Format::Binary(_) | Format::Ternary(_));
    if !plain || inst.ty.bits() < 64 {
        return Taint::Clean;
    }
    let of = |operand: Value| taints.get(operand).copied().unwrap_or(Taint::Tainted);
    let [a, b, _] = inst.args;
    if inst.ty == Type::I64
        && let Some(imm) = trace.insts.get(b).and_then(Inst::as_const)
    {
        match (inst.op, of(a)) {
            (Opcode::Add, taint) => return taint.moved(imm),
            (Opcode::Sub, taint) => return taint.moved(imm.wrapping_neg()),
            // What is left are the low bits.
            (Opcode::And, _) if (0..4096).contains(&imm) => return Taint::Clean,
            // Alignment.
            (Opcode::And, Taint::Exact(offset) | Taint::Below(offset)) if (-4096..0).contains(&imm) => {
                return Taint::Below(offset);
            }
            _ => {}
        }
    }
    if inst.operands().any(|operand| of(operand).is_near()) { Taint::Tainted } else { Taint::Clean }
}
