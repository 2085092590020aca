//! Home classes: in which register file each 64-bit value lives.
//!
//! The IR has no floating-point type, the machine has two register files, and moving between them costs more than most
//! operations. Every i64 value therefore gets a home, [`Class::General`] or [`Class::Vector`]:
//! - the result of a floating-point operation, or of one on packed lanes, lives in a vector register, that of an integer operation in a general one;
//! - what can be produced in either (parameters, loads, slots, selections, sign manipulations) is *neutral*. Neutral
//!   values that flow into each other form a group, and the group lives where most of its other neighbours are.
//!
//! Storing a value, at an exit too, is free from either file. A use that wants the other file converts; if that use is
//! in another segment, the value is converted once, where it is defined.
//!
//! Worked example: in `seg1(v1): v3 = load [v2]; v4 = fadd64 v1, v3; jump seg1(v4)` the parameter v1 is neutral, used
//! and fed by `fadd64`, and so a vector value: the loop never moves the sum to a general register.

use crate::liveness::{Liveness, is_removable};
use redmagic_ir::{Entity, ExitValue, Format, Inst, Opcode, Segment, Terminator, Trace, Type, Typing, Value};

/// A register file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// rax to r15; also the class of every value that is not an i64.
    General,
    /// xmm0 to xmm15.
    Vector,
}

/// The homes of a trace's values.
pub(crate) struct Classes {
    homes: Vec<Class>,
    both: Vec<bool>,
    pinned: Vec<bool>,
}

impl Classes {
    pub(crate) fn new(trace: &Trace, liveness: &Liveness) -> Classes {
        let mut groups = Groups::new(trace, liveness);
        groups.count_votes();
        let homes = trace.insts.keys().map(|value| groups.home(value)).collect();
        let len = trace.insts.len();
        let mut classes = Classes { homes, both: vec![false; len], pinned: vec![false; len] };
        classes.find_conversions(trace, liveness);
        classes.find_pinned(trace, liveness);
        classes
    }

    /// The home of a value.
    pub(crate) fn home(&self, value: Value) -> Class {
        self.homes[value.index()]
    }

    /// Whether the value is wanted in both register files beyond the segment that defines it.
    pub(crate) fn wants_both(&self, value: Value) -> bool {
        self.both[value.index()]
    }

    /// Whether the value is read from memory into a vector register and is then the left operand of a sum or product.
    /// The code generator would exchange the operands to use the memory operand, and so the NaN that survives.
    pub(crate) fn is_pinned(&self, value: Value) -> bool {
        self.pinned[value.index()]
    }

    fn find_conversions(&mut self, trace: &Trace, liveness: &Liveness) {
        let mut defined_in = vec![None; trace.insts.len()];
        for &segment in &liveness.order {
            let data = &trace.segments[segment];
            data.params.iter().for_each(|param| defined_in[param.index()] = Some(segment));
            for &value in &data.insts {
                if trace.insts[value].op != Opcode::NativeOut {
                    defined_in[value.index()] = Some(segment);
                }
                liveness.outputs_of(value).iter().for_each(|(_, out)| defined_in[out.index()] = Some(segment));
            }
        }
        for &segment in &liveness.order {
            for_each_demand(trace, liveness, segment, |value, class| {
                if self.home(value) != class && defined_in[value.index()] != Some(segment) {
                    self.both[value.index()] = true;
                }
            });
        }
    }

    fn find_pinned(&mut self, trace: &Trace, liveness: &Liveness) {
        for &segment in &liveness.order {
            let data = &trace.segments[segment];
            for &value in &data.insts {
                let inst = &trace.insts[value];
                if is_exchangeable(inst.op) {
                    self.pinned[inst.args[0].index()] = true;
                }
            }
            // Only the code of a terminator's exit stands in the same block as a read.
            for recipe in data.terminator.exit().iter().flat_map(|exit| &trace.exits[*exit].recipes) {
                if let (true, ExitValue::Value(value)) = (is_exchangeable(recipe.op), recipe.args[0]) {
                    self.pinned[value.index()] = true;
                }
            }
        }
    }
}

/// Whether the code generator may exchange the operands.
fn is_exchangeable(op: Opcode) -> bool {
    matches!(op, Opcode::Fadd64 | Opcode::Fmul64)
}

/// Whether the opcode computes a `binary64` number, or packed lanes.
fn makes_float(op: Opcode) -> bool {
    let is_lanes = matches!(op.format(), Format::Binary(Typing::Lanes) | Format::Ternary(Typing::Lanes));
    is_lanes
        || matches!(
            op,
            Opcode::Fadd64
                | Opcode::Fsub64
                | Opcode::Fmul64
                | Opcode::Fdiv64
                | Opcode::Fmin64
                | Opcode::Fmax64
                | Opcode::Fsqrt64
                | Opcode::Ffloor64
                | Opcode::Fceil64
                | Opcode::Ftrunc64
                | Opcode::Fnearest64
                | Opcode::F64FromInt
                | Opcode::F64FromF32
                | Opcode::Fma64
                | Opcode::Fms64
                | Opcode::Fnma64
                | Opcode::Fnms64
        )
}

/// Whether the opcode has `binary64` numbers or packed lanes as operands. (The i32 of `f64_from_f32` has no choice.)
fn takes_float(op: Opcode) -> bool {
    (makes_float(op) && !matches!(op, Opcode::F64FromInt | Opcode::F64FromF32))
        || matches!(
            op,
            Opcode::Feq64
                | Opcode::Flt64
                | Opcode::Fle64
                | Opcode::Funo64
                | Opcode::F64ToInt
                | Opcode::FlF64
                | Opcode::F32FromF64
                | Opcode::Signs8
        )
}

/// Whether the opcode passes on bits from elsewhere.
fn passes_on(op: Opcode) -> bool {
    matches!(op, Opcode::Param | Opcode::Const | Opcode::Slot | Opcode::Select | Opcode::Load | Opcode::NativeOut)
}

/// The register file in which an operation delivers its i64 result; `None` if either will do.
pub(crate) fn result_class(trace: &Trace, inst: &Inst) -> Option<Class> {
    let is_lane =
        matches!(inst.op, Opcode::Low | Opcode::High) && inst.operands().all(|arg| trace.ty(arg) == Type::V128);
    if makes_float(inst.op) {
        Some(Class::Vector)
    } else if passes_on(inst.op) || is_lane || is_sign_manipulation(trace, inst) {
        None
    } else {
        Some(Class::General)
    }
}

/// Whether a bitwise operation is one that compilers use on floating-point numbers: with the sign bit alone, or all
/// but the sign bit, as a constant second operand.
fn is_sign_manipulation(trace: &Trace, inst: &Inst) -> bool {
    matches!(inst.op, Opcode::And | Opcode::Or | Opcode::Xor)
        && inst.ty == Type::I64
        && trace.as_const(inst.args[0]).is_none()
        && matches!(trace.as_const(inst.args[1]), Some(i64::MIN | i64::MAX))
}

/// The register file in which an operation wants its i64 operand number `index`; `None` if either will do.
fn operand_class(trace: &Trace, inst: &Inst, index: usize) -> Option<Class> {
    let is_stored = inst.op == Opcode::Store && index == 2;
    if takes_float(inst.op) {
        Some(Class::Vector)
    } else if matches!(inst.op, Opcode::Select | Opcode::Join) || is_stored || is_sign_manipulation(trace, inst) {
        None
    } else {
        Some(Class::General)
    }
}

/// Calls `f` with every i64 value that the code of `segment` (not that of its exits) wants in a certain register file.
fn for_each_demand(trace: &Trace, liveness: &Liveness, segment: Segment, mut f: impl FnMut(Value, Class)) {
    let data = &trace.segments[segment];
    let is_home_free = |value: Value| trace.ty(value) == Type::I64 && trace.as_const(value).is_none();
    for &value in &data.insts {
        let inst = &trace.insts[value];
        let skipped = inst.op == Opcode::NativeOut || (!liveness.needed[value.index()] && is_removable(inst.op));
        if skipped {
            continue;
        }
        for (index, &arg) in inst.args.iter().enumerate() {
            if arg.is_some()
                && is_home_free(arg)
                && let Some(class) = operand_class(trace, inst, index)
            {
                f(arg, class);
            }
        }
    }
    if let Terminator::Switch { value, .. } = &data.terminator
        && is_home_free(*value)
    {
        f(*value, Class::General);
    }
}

/// Neutral values that flow into each other, and the votes for their homes.
struct Groups<'a> {
    trace: &'a Trace,
    liveness: &'a Liveness,
    parents: Vec<Value>,
    /// By group leader: positive for vector.
    votes: Vec<i32>,
}

impl<'a> Groups<'a> {
    fn new(trace: &'a Trace, liveness: &'a Liveness) -> Groups<'a> {
        let mut groups =
            Groups { trace, liveness, parents: trace.insts.keys().collect(), votes: vec![0; trace.insts.len()] };
        groups.for_each_flow(|groups, from, to| {
            if groups.is_neutral(from) {
                groups.join(from, to);
            }
        });
        groups
    }

    /// Whether the value is an i64 that may live in either register file.
    fn is_neutral(&self, value: Value) -> bool {
        let inst = &self.trace.insts[value];
        inst.ty == Type::I64 && inst.op != Opcode::Const && result_class(self.trace, inst).is_none()
    }

    fn leader(&mut self, mut value: Value) -> Value {
        while self.parents[value.index()] != value {
            let parent = self.parents[value.index()];
            self.parents[value.index()] = self.parents[parent.index()];
            value = parent;
        }
        value
    }

    fn join(&mut self, a: Value, b: Value) {
        let (a, b) = (self.leader(a), self.leader(b));
        self.parents[a.index()] = b;
    }

    /// Calls `f` with every (from, to) where `to` is neutral and takes over the value `from` or a variant of it.
    fn for_each_flow(&mut self, mut f: impl FnMut(&mut Self, Value, Value)) {
        let (trace, liveness) = (self.trace, self.liveness);
        for &segment in &liveness.order {
            let data = &trace.segments[segment];
            for target in data.terminator.targets() {
                for (&arg, &param) in target.args.iter().zip(&trace.segments[target.segment].params) {
                    if trace.ty(param) == Type::I64 {
                        f(self, arg, param);
                    }
                }
            }
            for &value in data.insts.iter().filter(|value| liveness.needed[value.index()]) {
                let inst = &trace.insts[value];
                if inst.op == Opcode::Select && inst.ty == Type::I64 {
                    inst.args[1..].iter().for_each(|&source| f(self, source, value));
                } else if is_sign_manipulation(trace, inst) {
                    f(self, inst.args[0], value);
                }
            }
        }
    }

    fn count_votes(&mut self) {
        let (trace, liveness) = (self.trace, self.liveness);
        let weight = |class| if class == Class::Vector { 1 } else { -1 };
        for &segment in &liveness.order {
            for_each_demand(trace, liveness, segment, |value, class| {
                if self.is_neutral(value) {
                    let leader = self.leader(value);
                    self.votes[leader.index()] += weight(class);
                }
            });
        }
        self.for_each_flow(|groups, from, to| {
            if let Some(class) = result_class(trace, &trace.insts[from]) {
                let leader = groups.leader(to);
                groups.votes[leader.index()] += weight(class);
            }
        });
    }

    fn home(&mut self, value: Value) -> Class {
        let inst = &self.trace.insts[value];
        if inst.ty != Type::I64 {
            return Class::General;
        }
        if self.is_neutral(value) {
            let leader = self.leader(value);
            return if self.votes[leader.index()] > 0 { Class::Vector } else { Class::General };
        }
        result_class(self.trace, inst).unwrap_or(Class::General)
    }
}
