//! Frames that the trace itself pushed: which values may point into them, and whether anyone else may.
//!
//! # Invariants
//! - Memory below the stack pointer at entry is dead for the program, so what the trace pushes there is its own, until
//!   the address of such a frame *escapes*: it is stored outside of these frames, or given to a residual call or a
//!   native operation in a register. A pointer that was not derived from the stack pointer does not lead there.
//! - The one exception is the red zone of a leaf function that contains the anchor: its locals lie below the stack
//!   pointer. A function that moves its stack pointer down further to call others has none, so frames are private only
//!   where an exit shows the stack pointer below its value at entry, and none shows that the function was left.
//! - Parameters and re-read slots that carry the stack pointer count as "at most the stack pointer at entry" only if
//!   all that arrives there is.
//! - A comparison can make the optimiser use one of two values for the other. So what is compared with a pointer into
//!   a frame counts as one, and a comparison with a number that can be an address ends privacy.
//!
//! Worked example: `v1 = add rsp, -8; store [v1], 0x400123` (a traced call) pushes a return address. A store through
//! another root does not change it, so the `ret` that loads it gets the constant back and its guard vanishes.

use crate::memory::Domain;
use redmagic_ir::{Address, Call, Entity, ExitValue, Format, Inst, Map, Opcode, Slot, Terminator, Trace, Type, Value};

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

    /// What becomes of it when `by` is added.
    fn moved(self, by: i64) -> Taint {
        let near = |offset: i64| offset.checked_add(by).filter(|sum| sum.abs() <= REACH);
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
    taints: Map<Value, Taint>,
}

impl Frames {
    /// Analyses `trace`.
    pub(crate) fn new(trace: &Trace) -> Frames {
        let mut analysis = Analysis {
            trace,
            taints: Map::filled(trace.insts.len(), Taint::Clean),
            frames_hold: false,
            stack_moves: false,
            escaped: false,
            changed: true,
        };
        while analysis.changed {
            analysis.changed = false;
            analysis.sweep();
        }
        let private = !analysis.escaped && analysis.stays_below();
        Frames { private, taints: analysis.taints }
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

    /// Whether `value` is derived from the stack pointer, or may be a pointer that is.
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

struct Analysis<'t> {
    trace: &'t Trace,
    taints: Map<Value, Taint>,
    /// Whether a pointer to a frame was stored in a frame.
    frames_hold: bool,
    /// Whether a residual call may return with a stack pointer above that at entry.
    stack_moves: bool,
    escaped: bool,
    changed: bool,
}

impl Analysis<'_> {
    fn sweep(&mut self) {
        let trace = self.trace;
        for (segment, data) in trace.segments.iter() {
            for &param in data.params.iter().filter(|param| trace.insts[**param].slot() == Some(Slot::RSP)) {
                self.set(param, Taint::Below(0));
            }
            for &value in &data.insts {
                self.visit(value, Some(segment) == trace.entry);
            }
            self.terminator(&data.terminator);
        }
    }

    /// Taints only grow: clean values become related to the stack pointer, these become tainted.
    fn set(&mut self, value: Value, taint: Taint) {
        let old = self.taints[value];
        let new = match (old, taint) {
            (Taint::Clean, _) => taint,
            (_, Taint::Clean) => old,
            (old, new) if old == new => old,
            _ => Taint::Tainted,
        };
        if new != old {
            self.taints[value] = new;
            self.changed = true;
        }
    }

    fn escape(&mut self, escapes: bool) {
        self.changed |= escapes && !self.escaped;
        self.escaped |= escapes;
    }

    fn visit(&mut self, value: Value, in_entry: bool) {
        let trace = self.trace;
        let inst = &trace.insts[value];
        let taint = match inst.op {
            Opcode::Slot if inst.slot() == Some(Slot::RSP) => match (in_entry, self.stack_moves) {
                (true, _) => Taint::Exact(0),
                (false, true) => Taint::Tainted,
                (false, false) => Taint::Below(0),
            },
            Opcode::Load => {
                let held = self.frames_hold && inst.ty.bits() >= 64 && self.domain(inst) != Domain::Other;
                if held { Taint::Tainted } else { Taint::Clean }
            }
            Opcode::Store => {
                if self.taints[inst.args[2]].points_to_frame() {
                    let in_frame = self.domain(inst) == Domain::Frame;
                    self.changed |= in_frame && !self.frames_hold;
                    self.frames_hold |= in_frame;
                    self.escape(!in_frame);
                }
                return;
            }
            Opcode::Native => return self.native(inst),
            // A native operation that was given the stack pointer may return an address derived from it.
            Opcode::NativeOut => match trace.insts[inst.args[0]].native_op() {
                Some(native) if trace.natives[native].inputs.iter().any(|input| input.0 == Slot::RSP) => Taint::Tainted,
                Some(_) | None if inst.slot() == Some(Slot::RSP) => Taint::Tainted,
                Some(_) | None => Taint::Clean,
            },
            _ => {
                self.compared(inst);
                plain_taint(trace, &self.taints, inst)
            }
        };
        self.set(value, taint);
    }

    /// The domain of a memory access.
    fn domain(&self, inst: &Inst) -> Domain {
        let Some(address) = inst.address() else { return Domain::Other };
        let index = address.index.is_some().then(|| self.taints[address.index]);
        domain_of(self.taints[address.root], index, i64::from(address.offset), i64::from(inst.ty.bytes()))
    }

    fn native(&mut self, inst: &Inst) {
        let Some(native) = inst.native_op() else { return };
        let op = &self.trace.natives[native];
        let frame = |input: &(Slot, Value)| self.taints[input.1].points_to_frame();
        let given = op.inputs.iter().any(|input| input.0 != Slot::RSP && frame(input));
        let stack = op.inputs.iter().any(|input| input.0 == Slot::RSP && frame(input));
        // With another address at hand, it might store the stack pointer there.
        let addressed = op.inputs.iter().any(|input| input.0 != Slot::RSP && input.0.as_gpr().is_some());
        self.changed |= stack && op.memory && !self.frames_hold;
        self.frames_hold |= stack && op.memory;
        self.escape(given || stack && op.memory && addressed);
    }

    /// Accounts for what the optimiser may conclude where the two operands of `inst` are found equal.
    fn compared(&mut self, inst: &Inst) {
        let compares = matches!(inst.op, Opcode::Eq | Opcode::Ne | Opcode::FlSub | Opcode::Sub | Opcode::Xor);
        let [a, b, _] = inst.args;
        if !compares || self.trace.ty(a) != Type::I64 {
            return;
        }
        for (one, other) in [(a, b), (b, a)] {
            match self.trace.as_const(other) {
                Some(imm) => self.escape(self.taints[one].is_near() && ADDRESSES.contains(&(imm as u64))),
                None if self.taints[one].points_to_frame() && !self.taints[other].is_near() => {
                    if self.trace.as_const(one).is_none() {
                        self.set(other, Taint::Tainted);
                    }
                }
                None => {}
            }
        }
    }

    fn terminator(&mut self, terminator: &Terminator) {
        let trace = self.trace;
        for target in terminator.targets() {
            for (&param, &arg) in trace.segments[target.segment].params.iter().zip(&target.args) {
                let arg = self.taints[arg];
                let taints = match trace.insts[param].slot() {
                    Some(Slot::RSP) => !arg.is_below(),
                    Some(_) | None => arg.points_to_frame(),
                };
                if taints {
                    self.set(param, Taint::Tainted);
                }
            }
        }
        match terminator {
            Terminator::Call(call) => self.call(call),
            Terminator::Switch { value, cases, .. } => {
                let address = cases.iter().any(|case| ADDRESSES.contains(&case.0));
                self.escape(address && self.taints[*value].is_near());
            }
            Terminator::Jump(_) | Terminator::Leave(_) => {}
        }
    }

    fn call(&mut self, call: &Call) {
        let state = &self.trace.exits[call.state];
        let mut escapes = !state.stores.is_empty() || !state.recipes.is_empty();
        for (slot, value) in &state.slots {
            let taint = match value {
                ExitValue::Value(value) => self.taints[*value],
                ExitValue::Const(_) | ExitValue::Recipe(_) | ExitValue::Undefined => Taint::Clean,
            };
            if *slot != Slot::RSP {
                escapes |= taint.points_to_frame();
            } else if !taint.is_below() && !self.stack_moves {
                self.stack_moves = true;
                self.changed = true;
            }
        }
        self.escape(escapes);
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
