//! Frames that the trace itself pushed: which values may point into them, and whether anyone else may.
//!
//! # Invariants
//! Memory below the stack pointer at entry is dead for the program, so what the trace pushes there is its own, until
//! the address of such a frame escapes: is stored outside of the stack, or is given to a residual call or a native
//! operation in a register. The one exception is the red zone of a leaf function that contains the anchor: its locals
//! lie below the stack pointer. A function that moves its stack pointer down further to call others has none, so
//! frames count as private only where an exit shows the stack pointer below its value at entry.
//!
//! Worked example: `v1 = add rsp, -8; store [v1], 0x400123` (a traced call) pushes a return address. A store through
//! another root does not change it, so the `ret` that loads it gets the constant back and its guard vanishes.

use crate::memory::Domain;
use redmagic_ir::{Entity, ExitValue, Format, Map, Opcode, Slot, Terminator, Trace, Type, Value};

/// What a value has to do with the frames that the trace pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taint {
    /// It does not point there.
    Clean,
    /// The stack pointer at entry plus this; points there if negative.
    Offset(i64),
    /// It may point there.
    Tainted,
}

impl Taint {
    fn points_to_frame(self) -> bool {
        match self {
            Taint::Clean => false,
            Taint::Offset(offset) => offset < 0,
            Taint::Tainted => true,
        }
    }
}

/// The result of the analysis, for one walk.
pub(crate) struct Frames {
    /// Whether frames of the trace are private.
    private: bool,
    taints: Map<Value, Taint>,
}

/// Whether `value` is the stack pointer as it was read or came in.
fn is_stack_pointer(trace: &Trace, value: Value) -> bool {
    let inst = &trace.insts[value];
    matches!(inst.op, Opcode::Slot | Opcode::Param) && inst.slot() == Some(Slot::RSP)
}

impl Frames {
    /// Analyses `trace`.
    pub(crate) fn new(trace: &Trace) -> Frames {
        let mut analysis = Analysis {
            trace,
            taints: Map::filled(trace.insts.len(), Taint::Clean),
            stack_holds: false,
            escaped: false,
            changed: true,
        };
        while analysis.changed {
            analysis.changed = false;
            analysis.sweep();
        }
        let pushes = trace.exits.values().any(|exit| match exit.get(Slot::RSP) {
            Some(ExitValue::Value(value)) => {
                matches!(analysis.taints[value], Taint::Offset(offset) if offset < 0)
            }
            _ => false,
        });
        Frames { private: pushes && !analysis.escaped, taints: analysis.taints }
    }

    /// Whether `value` may point to a frame of the trace.
    fn points_to_frame(&mut self, trace: &Trace, value: Value) -> bool {
        if !value.is_some() {
            return false;
        }
        // Values that the walk has made since: derived from older ones.
        while self.taints.len() <= value.index() {
            let next = Value::from_index(self.taints.len());
            let taint = pure_taint(trace, &self.taints, next);
            self.taints.push(taint);
        }
        self.taints[value].points_to_frame() || is_stack_pointer(trace, value) && !self.is_entry(value)
    }

    fn is_entry(&self, value: Value) -> bool {
        self.taints[value] == Taint::Offset(0)
    }

    /// Which memory `bytes` bytes at `root + index… + offset` are.
    pub(crate) fn domain(&mut self, trace: &Trace, root: Value, index: Value, offset: i64, bytes: i64) -> Domain {
        if !self.private || trace.as_const(root).is_some() && !index.is_some() {
            return Domain::Other;
        }
        if is_stack_pointer(trace, root) && !index.is_some() && offset.saturating_add(bytes) <= 0 {
            return Domain::Frame;
        }
        if self.points_to_frame(trace, root) || self.points_to_frame(trace, index) {
            return Domain::Unclear;
        }
        let indexed_stack = is_stack_pointer(trace, root) && index.is_some();
        let straddles = is_stack_pointer(trace, root) && offset < 0;
        if indexed_stack || straddles { Domain::Unclear } else { Domain::Other }
    }
}

struct Analysis<'t> {
    trace: &'t Trace,
    taints: Map<Value, Taint>,
    /// Whether a pointer to a frame was stored on the stack.
    stack_holds: bool,
    escaped: bool,
    changed: bool,
}

impl Analysis<'_> {
    fn sweep(&mut self) {
        for segment in self.trace.segments.keys() {
            let data = &self.trace.segments[segment];
            for &value in &data.insts {
                self.visit(value, Some(segment) == self.trace.entry);
            }
            self.terminator(&data.terminator);
        }
    }

    fn set(&mut self, value: Value, taint: Taint) {
        if self.taints[value] != taint && self.taints[value] != Taint::Tainted {
            self.taints[value] = taint;
            self.changed = true;
        }
    }

    fn visit(&mut self, value: Value, in_entry: bool) {
        let trace = self.trace;
        let inst = &trace.insts[value];
        let taint = match inst.op {
            Opcode::Slot if inst.slot() == Some(Slot::RSP) && in_entry => Taint::Offset(0),
            Opcode::Load => {
                let on_stack = inst.args[..2].iter().any(|part| part.is_some() && self.near_stack(*part));
                if on_stack && self.stack_holds && inst.ty.bits() >= 64 { Taint::Tainted } else { Taint::Clean }
            }
            Opcode::Store => {
                if self.taints[inst.args[2]].points_to_frame() {
                    let frame = is_stack_pointer(trace, inst.args[0]) || self.taints[inst.args[0]].points_to_frame();
                    let flag = if frame { &mut self.stack_holds } else { &mut self.escaped };
                    self.changed |= !*flag;
                    *flag = true;
                }
                return;
            }
            Opcode::Native => {
                if let Some(native) = inst.native_op() {
                    let inputs = &trace.natives[native].inputs;
                    self.escaped |=
                        inputs.iter().any(|(slot, input)| *slot != Slot::RSP && self.taints[*input].points_to_frame());
                }
                return;
            }
            // A native operation that was given the stack pointer may return an address derived from it.
            Opcode::NativeOut => match trace.insts[inst.args[0]].native_op() {
                Some(native) if trace.natives[native].inputs.iter().any(|input| input.0 == Slot::RSP) => Taint::Tainted,
                _ => Taint::Clean,
            },
            _ => pure_taint(trace, &self.taints, value),
        };
        self.set(value, taint);
    }

    /// Whether `value` is derived from the stack pointer.
    fn near_stack(&self, value: Value) -> bool {
        self.taints[value] != Taint::Clean || is_stack_pointer(self.trace, value)
    }

    fn terminator(&mut self, terminator: &Terminator) {
        let trace = self.trace;
        for target in terminator.targets() {
            for (&param, &arg) in trace.segments[target.segment].params.iter().zip(&target.args) {
                if self.taints[arg].points_to_frame() && !is_stack_pointer(trace, param) {
                    self.set(param, Taint::Tainted);
                }
            }
        }
        if let Terminator::Call(call) = terminator {
            let state = &trace.exits[call.state];
            let mut escapes = !state.stores.is_empty() || !state.recipes.is_empty();
            for (slot, value) in &state.slots {
                if let ExitValue::Value(value) = value {
                    escapes |= *slot != Slot::RSP && self.taints[*value].points_to_frame();
                }
            }
            self.escaped |= escapes;
        }
    }
}

/// The taint of an operation on plain values.
fn pure_taint(trace: &Trace, taints: &Map<Value, Taint>, value: Value) -> Taint {
    let inst = &trace.insts[value];
    let plain = matches!(inst.op.format(), Format::Unary(_) | Format::Binary(_) | Format::Ternary(_));
    if !plain || inst.ty.bits() < 64 {
        return taints.get(value).copied().unwrap_or(Taint::Clean);
    }
    let of = |operand: Value| taints.get(operand).copied().unwrap_or(Taint::Tainted);
    if inst.ty == Type::I64 && matches!(inst.op, Opcode::Add | Opcode::Sub) {
        let [a, b, _] = inst.args;
        match (of(a), trace.as_const(b)) {
            (Taint::Offset(offset), Some(imm)) => {
                let imm = if inst.op == Opcode::Add { imm } else { imm.wrapping_neg() };
                return Taint::Offset(offset.wrapping_add(imm));
            }
            (Taint::Clean, Some(_)) if !is_stack_pointer(trace, a) => return Taint::Clean,
            _ => {}
        }
    }
    let derived = inst.operands().any(|operand| of(operand) != Taint::Clean || is_stack_pointer(trace, operand));
    if derived { Taint::Tainted } else { Taint::Clean }
}
