//! What the walk knows at one point of the trace: replacements, facts, value numbers, constants.
//!
//! # Invariants
//! - A *replacement* is permanent: the value was found equal to another one where it is defined, so every use of it is
//!   in reach of the other one.
//! - A *fact* (behind `guard eq v1, 5`, v1 is 5) holds in the code that the guard dominates; facts and value numbers are
//!   undone when the walk leaves that code.
//! - All constants live in one pool at the start of the entry segment, so that equal constants are equal values and are
//!   in reach everywhere.
//!
//! Worked example: after `guard v3` with `v3 = ult v1, v2`, v3 resolves to the constant 1, and an `ule v2, v1` that
//! follows is found in the table as the constant 0.

use crate::numbers::{self, Numbers};
use crate::rules::{self, Out};
use crate::{Stats, known};
use redmagic_ir::{Effect, Format};
use redmagic_ir::{Entity, Inst, Map, Opcode, Trace, Type, Typing, Value};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// An instruction is rewritten at most this often before it is taken as it is.
const MAX_STEPS: usize = 16;

/// A hasher for small keys made of integers: fast, and the same on every run.
#[derive(Default)]
pub(crate) struct MixHasher(u64);

impl Hasher for MixHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }
    // Opcodes and types, of few bits: the next word mixes them.
    fn write_u8(&mut self, word: u8) {
        self.0 = self.0.rotate_left(8) ^ u64::from(word);
    }
    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }
    fn write_i64(&mut self, word: i64) {
        self.write_u64(word as u64);
    }
    fn write_isize(&mut self, word: isize) {
        self.0 = self.0.rotate_left(8) ^ word as u64;
    }
    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A hash map that behaves the same on every run.
pub(crate) type MixMap<K, V> = HashMap<K, V, BuildHasherDefault<MixHasher>>;

/// What is known of a value.
#[derive(Clone, Copy)]
struct Fact {
    /// Its permanent replacement, or none.
    replaced: Value,
    /// What it is here, or none.
    here: Value,
    /// The bits that may be set.
    possible: u64,
}

const UNKNOWN: Fact = Fact { replaced: Value::NONE, here: Value::NONE, possible: u64::MAX };

/// What was known at some point.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    learned: usize,
    numbers: numbers::Mark,
}

/// See the module's documentation.
pub(crate) struct Scope<'t> {
    /// The trace; its arena only grows during a walk.
    pub trace: &'t mut Trace,
    /// Counters.
    pub stats: &'t mut Stats,
    /// The instructions of the current segment, as far as it is done.
    pub out: Vec<Value>,
    /// The constants, in order of first use.
    pub pool: Vec<Value>,
    /// Whether nothing in the trace can change the rounding mode: then equal floating-point operations are equal.
    pub rounding_is_fixed: bool,
    facts: Map<Value, Fact>,
    numbers: Numbers,
    constants: Numbers,
    /// The truth values, once they are needed.
    truths: [Value; 2],
    /// Values of which something is known here only, in order.
    learned: Vec<Value>,
}

/// What simplifying an instruction led to.
enum Simplified {
    Value(Value),
    Inst(Inst),
}

impl<'t> Scope<'t> {
    /// Nothing is known yet.
    pub(crate) fn new(trace: &'t mut Trace, stats: &'t mut Stats) -> Scope<'t> {
        let count = trace.insts.len();
        // What the walk will add has its places already.
        let facts = Map::filled(count + count / 8 + 64, UNKNOWN);
        Scope {
            out: Vec::new(),
            pool: Vec::new(),
            rounding_is_fixed: false,
            facts,
            numbers: Numbers::with_capacity(count / 4),
            constants: Numbers::with_capacity(count / 8),
            truths: [Value::NONE; 2],
            learned: Vec::new(),
            trace,
            stats,
        }
    }

    /// The permanent replacement of `value`.
    pub(crate) fn replacement(&self, value: Value) -> Value {
        let other = self.facts[value].replaced;
        if other.is_some() { other } else { value }
    }

    /// The value that stands for `value` at this point.
    pub(crate) fn resolve(&self, value: Value) -> Value {
        let mut value = value;
        loop {
            let Fact { replaced, here, .. } = self.facts[value];
            if replaced.is_some() {
                value = replaced;
            } else if here.is_some() {
                value = here;
            } else {
                return value;
            }
        }
    }

    /// Makes `value` the same as `other` everywhere.
    pub(crate) fn replace(&mut self, value: Value, other: Value) {
        debug_assert!(value != other);
        self.facts[value].replaced = other;
    }

    /// A mark to return to by [`Scope::leave`].
    pub(crate) fn enter(&mut self) -> Mark {
        Mark { learned: self.learned.len(), numbers: self.numbers.mark() }
    }

    /// Forgets what was learned since `mark`.
    pub(crate) fn leave(&mut self, mark: Mark) {
        for value in self.learned.drain(mark.learned..) {
            self.facts[value].here = Value::NONE;
        }
        self.numbers.restore(mark.numbers);
    }

    /// The definition of `value` with its operands as they are known now.
    pub(crate) fn def(&self, value: Value) -> Inst {
        let mut inst = self.trace.insts[value];
        inst.map_operands(|operand| self.resolve(operand));
        inst
    }

    /// The definition of `value` if its opcode is `op`.
    pub(crate) fn def_of(&self, value: Value, op: Opcode) -> Option<Inst> {
        (self.trace.insts[value].op == op).then(|| self.def(value))
    }

    /// The constant that `value` is.
    pub(crate) fn as_const(&self, value: Value) -> Option<i64> {
        self.trace.as_const(value)
    }

    /// The bits of `value` that may be set (an upper bound; all for types wider than 64 bits).
    pub(crate) fn possible(&self, value: Value) -> u64 {
        self.facts[value].possible & self.trace.ty(value).mask() as u64
    }

    /// The constant `imm` of type `ty`.
    pub(crate) fn constant(&mut self, ty: Type, imm: i64) -> Value {
        let inst = Inst::constant(ty, imm);
        if let Some(value) = self.constants.get(&inst) {
            return value;
        }
        let value = self.add(inst);
        self.constants.insert(&inst, value);
        self.pool_constant(value);
        value
    }

    /// The constant for a truth value.
    fn truth(&mut self, truth: bool) -> Value {
        if !self.truths[usize::from(truth)].is_some() {
            self.truths[usize::from(truth)] = self.constant(Type::I1, i64::from(truth));
        }
        self.truths[usize::from(truth)]
    }

    /// Moves the constant `value` of the trace into the pool, or replaces it by an equal one there.
    pub(crate) fn intern(&mut self, value: Value) {
        let inst = self.trace.insts[value];
        match self.constants.get_or_insert(&inst, value) {
            Some(known) if known != value => self.replace(value, known),
            Some(_) => {}
            None => self.pool_constant(value),
        }
    }

    fn pool_constant(&mut self, value: Value) {
        self.facts[value].possible = self.as_const(value).unwrap_or(-1) as u64;
        self.pool.push(value);
    }

    /// Adds an instruction to the arena only.
    pub(crate) fn add(&mut self, inst: Inst) -> Value {
        let value = self.trace.add_inst(inst);
        if value.index() >= self.facts.len() {
            self.facts.push(UNKNOWN);
        }
        value
    }

    /// The value of the pure instruction `inst`: a known one, or that of a new instruction placed here.
    pub(crate) fn emit(&mut self, inst: Inst) -> Value {
        match self.simplify(inst) {
            Simplified::Value(value) => value,
            Simplified::Inst(inst) => match self.numbers.get(&inst) {
                Some(value) => self.resolve(value),
                None => {
                    let value = self.add(inst);
                    self.set_number(inst, value);
                    self.place(value, inst);
                    value
                }
            },
        }
    }

    /// Emits a binary operation.
    pub(crate) fn binary(&mut self, op: Opcode, ty: Type, a: Value, b: Value) -> Value {
        self.emit(Inst::binary(op, ty, a, b))
    }

    /// Emits a comparison.
    pub(crate) fn compare(&mut self, op: Opcode, a: Value, b: Value) -> Value {
        self.emit(Inst::binary(op, Type::I1, a, b))
    }

    /// The opposite of the truth value `value`.
    pub(crate) fn invert(&mut self, value: Value) -> Value {
        let one = self.constant(Type::I1, 1);
        self.emit(Inst::binary(Opcode::Xor, Type::I1, value, one))
    }

    /// A value that is known already and is the opposite of comparison `value`, if `value` is newer.
    pub(crate) fn known_opposite(&self, value: Value) -> Option<Value> {
        let inst = self.def(value);
        let [a, b, _] = inst.args;
        let (op, a, b) = opposite(inst.op, a, b)?;
        let mut opposite = Inst::binary(op, Type::I1, a, b);
        normalise(self.trace, &mut opposite);
        let known = self.resolve(self.numbers.get(&opposite)?);
        (self.as_const(known).is_some() || known < value).then_some(known)
    }

    /// Treats the pure instruction `value` of the trace, whose operands are resolved in `inst`: replaces it by a known
    /// value, or places it here in its simplest form.
    pub(crate) fn visit_pure(&mut self, value: Value, inst: Inst) {
        match self.simplify(inst) {
            Simplified::Value(other) => self.replace(value, other),
            Simplified::Inst(inst) => match self.number(&inst, value) {
                Some(other) if other != value && self.stats.may("common value") => {
                    self.stats.merged += 1;
                    let other = self.resolve(other);
                    self.replace(value, other);
                }
                // Refused, or already there.
                Some(_) => {
                    self.trace.insts[value] = inst;
                    self.set_number(inst, value);
                    self.place(value, inst);
                }
                None => {
                    self.trace.insts[value] = inst;
                    self.place(value, inst);
                }
            },
        }
    }

    /// Notes what the pure instruction `value` computes, without changing it: which known value it is the same as, or
    /// that others may be the same as it. Simpler forms may be made on the way.
    pub(crate) fn note(&mut self, value: Value) {
        let inst = self.def(value);
        let other = match self.simplify(inst) {
            Simplified::Value(other) => Some(other),
            Simplified::Inst(inst) => {
                let other = self.number(&inst, value);
                if other.is_none() {
                    self.facts[value].possible = known::possible(self, &inst);
                }
                other
            }
        };
        if let Some(other) = other {
            self.unite(value, other);
        }
    }

    /// Notes that `value` and `other` are the same wherever they are in reach.
    pub(crate) fn unite(&mut self, value: Value, other: Value) {
        let (end, other) = (self.resolve(value), self.resolve(other));
        if end == other || self.as_const(end).is_some() && self.as_const(other).is_some() {
            return;
        }
        // Constants stand for others, and what has stood for others goes on to.
        if self.as_const(end).is_some() || end != value {
            self.set_equal(other, end);
        } else {
            self.set_equal(value, other);
        }
    }

    /// Notes that `value` is `other` from here on, but if `other` is made of `value` by adding constants: who follows such
    /// sums would go in a circle.
    fn set_equal(&mut self, value: Value, other: Value) {
        let mut part = other;
        while let Some(inst) = self.def_of(part, Opcode::Add).filter(|inst| self.as_const(inst.args[1]).is_some()) {
            part = inst.args[0];
            if part == value {
                return;
            }
        }
        self.set_fact(value, other);
    }

    fn place(&mut self, value: Value, inst: Inst) {
        self.facts[value].possible = known::possible(self, &inst);
        self.out.push(value);
    }

    /// Whether equal operations of this opcode are equal values.
    fn is_repeatable(&self, op: Opcode) -> bool {
        self.rounding_is_fixed || !depends_on_mxcsr(op)
    }

    /// A known value of `inst`; if there is none, it is `value` from here on.
    fn number(&mut self, inst: &Inst, value: Value) -> Option<Value> {
        if self.is_repeatable(inst.op) { self.numbers.get_or_insert(inst, value) } else { None }
    }

    fn set_number(&mut self, inst: Inst, value: Value) {
        if self.is_repeatable(inst.op) {
            self.numbers.insert(&inst, value);
        }
    }

    fn simplify(&mut self, mut inst: Inst) -> Simplified {
        for _ in 0..MAX_STEPS {
            if let Some(constant) = self.fold(&inst)
                && self.stats.may("constant folding")
            {
                self.stats.folded += 1;
                return Simplified::Value(constant);
            }
            normalise(self.trace, &mut inst);
            match rules::apply(self, &inst) {
                Some(Out::Value(value)) => return Simplified::Value(value),
                Some(Out::Inst(simpler)) => inst = simpler,
                None => break,
            }
        }
        Simplified::Inst(inst)
    }

    /// The result of an operation on constants.
    ///
    /// Floating-point arithmetic stays: its result depends on MXCSR, and it sets flags there. Comparisons depend on
    /// MXCSR only where it says whether subnormal operands count as zero.
    fn fold(&mut self, inst: &Inst) -> Option<Value> {
        // Most instructions have an operand that is not constant.
        self.trace.insts.get(inst.args[0])?.as_const()?;
        if depends_on_mxcsr(inst.op) || matches!(inst.op.format(), Format::Slot | Format::NativeOut) {
            return None;
        }
        let mut args = [0u128; 3];
        let mut operand_type = Type::Void;
        for (at, operand) in inst.operands().enumerate() {
            let imm = self.as_const(operand)?;
            let ty = self.trace.ty(operand);
            args[at] = imm as i128 as u128 & ty.mask();
            if compares_f64(inst.op) && is_subnormal(args[at] as u64) {
                return None;
            }
            // The type that decides: that of the first operand, but a select's first one is its condition.
            if at == usize::from(inst.op == Opcode::Select) {
                operand_type = ty;
            }
        }
        let result = redmagic_ir::scalar::eval_pure(inst.op, inst.ty, operand_type, args, inst.condition())?;
        let imm = result as i64;
        let fits = inst.ty.bits() <= 64 || imm as i128 as u128 & inst.ty.mask() == result;
        fits.then(|| self.constant(inst.ty, imm))
    }

    /// Notes that the truth value `value` is `truth` from here on, with what follows from it.
    pub(crate) fn assume(&mut self, value: Value, truth: bool) {
        let value = self.resolve(value);
        if self.as_const(value).is_some() {
            return;
        }
        let inst = self.def(value);
        let constant = self.truth(truth);
        self.set_fact(value, constant);
        let [a, b, _] = inst.args;
        match (inst.op, truth) {
            (Opcode::Eq, true) | (Opcode::Ne, false) => {
                self.imply(&[(Opcode::Eq, a, b, true), (Opcode::Ne, a, b, false)]);
                self.equate(a, b);
            }
            (Opcode::Eq, false) => self.imply(&[(Opcode::Ne, a, b, true)]),
            (Opcode::Ne, true) => self.imply(&[(Opcode::Eq, a, b, false)]),
            (Opcode::Ult, true) | (Opcode::Slt, true) => self.imply_less(inst.op, a, b),
            (Opcode::Ule, false) => self.imply_less(Opcode::Ult, b, a),
            (Opcode::Sle, false) => self.imply_less(Opcode::Slt, b, a),
            (Opcode::Ult, false) => self.imply(&[(Opcode::Ule, b, a, true)]),
            (Opcode::Slt, false) => self.imply(&[(Opcode::Sle, b, a, true)]),
            (Opcode::Ule, true) => self.imply(&[(Opcode::Ult, b, a, false)]),
            (Opcode::Sle, true) => self.imply(&[(Opcode::Slt, b, a, false)]),
            (Opcode::And, true) | (Opcode::Or, false) => {
                self.assume(a, truth);
                self.assume(b, truth);
            }
            (Opcode::Xor, _) if self.as_const(b) == Some(1) => self.assume(a, !truth),
            (Opcode::Not, _) => self.assume(a, !truth),
            _ => {}
        }
    }

    /// `a` is less than `b` by comparison `less`.
    fn imply_less(&mut self, less: Opcode, a: Value, b: Value) {
        let or_equal = if less == Opcode::Ult { Opcode::Ule } else { Opcode::Sle };
        self.imply(&[
            (less, a, b, true),
            (less, b, a, false),
            (or_equal, a, b, true),
            (or_equal, b, a, false),
            (Opcode::Eq, a, b, false),
            (Opcode::Ne, a, b, true),
        ]);
    }

    /// Enters comparisons whose results are known, and notes the results of those that were computed before.
    fn imply(&mut self, facts: &[(Opcode, Value, Value, bool)]) {
        for &(op, a, b, truth) in facts {
            let mut inst = Inst::binary(op, Type::I1, a, b);
            normalise(self.trace, &mut inst);
            let constant = self.truth(truth);
            // Comparisons of integers: they are always repeatable.
            if let Some(known) = self.numbers.insert(&inst, constant) {
                let known = self.resolve(known);
                if self.as_const(known).is_none() {
                    self.set_fact(known, constant);
                }
            }
        }
    }

    /// Notes that `a` and `b` are equal from here on.
    pub(crate) fn equate(&mut self, a: Value, b: Value) {
        let (a, b) = (self.resolve(a), self.resolve(b));
        let is_load = |value: Value| self.trace.insts[value].op == Opcode::Load;
        match (self.as_const(a), self.as_const(b)) {
            (None, Some(imm)) => self.equate_const(a, b, imm),
            (Some(imm), None) => self.equate_const(b, a, imm),
            (None, None) if a != b && is_load(a) => self.set_equal(a, b),
            (None, None) if a != b && is_load(b) => self.set_equal(b, a),
            _ => {}
        }
    }

    /// Notes that `value` is `constant`, and solves extensions and sums for their operands.
    fn equate_const(&mut self, value: Value, constant: Value, imm: i64) {
        self.set_fact(value, constant);
        let inst = self.def(value);
        match inst.op {
            Opcode::Zext | Opcode::Sext => {
                let inner = self.constant(self.trace.ty(inst.args[0]), imm);
                self.equate(inst.args[0], inner);
            }
            Opcode::Add => {
                if let Some(addend) = self.as_const(inst.args[1]) {
                    let inner = self.constant(inst.ty, imm.wrapping_sub(addend));
                    self.equate(inst.args[0], inner);
                }
            }
            _ => {}
        }
    }

    /// Notes that `value` is `other` from here on, if nothing of the kind is known.
    pub(crate) fn set_fact(&mut self, value: Value, other: Value) {
        if value != other && !self.facts[value].here.is_some() && self.stats.may("fact") {
            self.facts[value].here = other;
            self.learned.push(value);
        }
    }

    /// Notes for the whole trace that the entry value `value` is `constant` (a guard at the entry's start checks it).
    pub(crate) fn set_global_fact(&mut self, value: Value, constant: Value) {
        debug_assert!(!self.facts[value].here.is_some());
        self.facts[value].here = constant;
    }
}

/// A property of opcodes as a table, which is looked at for every instruction.
macro_rules! has_property {
    ($op:expr, $formats:pat, $effects:pat) => {{
        // One entry for every number that an opcode could have: nothing is out of bounds.
        static TABLE: [bool; 256] = {
            let mut table = [false; 256];
            let mut at = 0;
            while at < Opcode::ALL.len() {
                let op = Opcode::ALL[at];
                table[op as u8 as usize] = matches!(op.format(), $formats) && matches!(op.effect(), $effects);
                at += 1;
            }
            table
        };
        TABLE[usize::from($op as u8)]
    }};
}

pub(crate) use has_property;

/// Whether the result depends on the rounding mode, or the operation leaves traces in the status flags.
pub(crate) fn depends_on_mxcsr(op: Opcode) -> bool {
    has_property!(
        op,
        Format::Unary(Typing::F64 | Typing::F64FromInt | Typing::F64ToInt)
            | Format::Unary(Typing::F32 | Typing::F32FromInt | Typing::F32Widen | Typing::F32Narrow)
            | Format::Binary(Typing::F64 | Typing::F32)
            | Format::Ternary(Typing::F64 | Typing::F32),
        _
    )
}

/// Whether nothing comes of the instruction but a result that there always is: a division by a constant is such a one.
pub(crate) fn is_total(trace: &Trace, inst: &Inst) -> bool {
    inst.op.is_total(inst.ty, inst.operands().nth(1).and_then(|second| trace.as_const(second)))
}

/// Whether the operation compares `binary64` numbers.
fn compares_f64(op: Opcode) -> bool {
    has_property!(op, Format::Binary(Typing::F64Compare | Typing::FlagsF64), _)
}

/// Whether the bits are a `binary64` number next to zero, with less than full precision.
fn is_subnormal(bits: u64) -> bool {
    f64::from_bits(bits).is_subnormal()
}

/// The comparison that is 1 exactly if comparison `op a, b` is 0.
pub(crate) fn opposite(op: Opcode, a: Value, b: Value) -> Option<(Opcode, Value, Value)> {
    Some(match op {
        Opcode::Eq => (Opcode::Ne, a, b),
        Opcode::Ne => (Opcode::Eq, a, b),
        Opcode::Ult => (Opcode::Ule, b, a),
        Opcode::Ule => (Opcode::Ult, b, a),
        Opcode::Slt => (Opcode::Sle, b, a),
        Opcode::Sle => (Opcode::Slt, b, a),
        _ => return None,
    })
}

/// Brings operands of commutative operations into a fixed order: constants last, else by number.
fn normalise(trace: &Trace, inst: &mut Inst) {
    if !inst.op.is_commutative() {
        return;
    }
    let key = |value: Value| (trace.as_const(value).is_some(), value.index());
    if key(inst.args[0]) > key(inst.args[1]) {
        inst.args.swap(0, 1);
    }
}

/// Whether the walk may number the instruction: it is pure or partial and computed from its operands alone.
pub(crate) fn is_numbered(op: Opcode) -> bool {
    has_property!(
        op,
        Format::Unary(_) | Format::Binary(_) | Format::Ternary(_) | Format::Cond,
        Effect::Pure | Effect::Partial
    )
}
