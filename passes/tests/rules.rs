//! Every identity is hit by an example, and every example is right: for all 8-bit inputs, and for boundary inputs at
//! the other widths.
//!
//! An example is a prefix expression over the variables x and y of type `W` (each width in turn) and c of type i1:
//! `(add x (sub 0 x))`. Operations that change the width name their result type: `(zext.i64 x)`, `(trunc.i8 x)`, with `V` for a type
//! twice as wide as `W`, `Q` for i64. Constants are numbers, of the type that stands beside them, or `5:i8`.

use redmagic_ir::scalar::eval_pure;
use redmagic_ir::{Cond, ExitData, ExitValue, Inst, Opcode, Slot, Terminator, Trace, Type, Value};
use redmagic_passes::{Pipeline, all_rules, optimise};

/// `(rule, expression)`.
const EXAMPLES: &[(&str, &str)] = &[
    ("add_zero", "(add x 0)"),
    ("add_const", "(add (add x 100) 77)"),
    ("add_sub_cancel", "(add (sub x y) y)"),
    ("add_sub_cancel", "(add y (sub x y))"),
    ("add_neg", "(add x (neg y))"),
    ("add_neg", "(add (neg y) x)"),
    ("sub_self", "(sub x x)"),
    ("sub_const", "(sub x 100)"),
    ("zero_sub", "(sub 0 x)"),
    ("sub_add_cancel", "(sub (add x y) y)"),
    ("sub_add_cancel", "(sub (add x y) x)"),
    ("sub_sum", "(sub x (add x 9))"),
    ("sub_sub_cancel", "(sub x (sub x y))"),
    ("sub_neg", "(sub x (neg y))"),
    ("sub_same_root", "(sub (add x 9) (add x 200))"),
    ("neg_neg", "(neg (neg x))"),
    ("neg_sub", "(neg (sub x y))"),
    ("mul_zero", "(mul x 0)"),
    ("mul_zero", "(smulhi x 0)"),
    ("mul_one", "(mul x 1)"),
    ("mul_minus_one", "(mul x -1)"),
    ("mul_power", "(mul x 8)"),
    ("mul_power", "(mul x 128)"),
    ("umulhi_one", "(umulhi x 1)"),
    ("div_one", "(udiv x 1)"),
    ("div_one", "(sdiv x 1)"),
    ("udiv_power", "(udiv x 16)"),
    ("urem_power", "(urem x 16)"),
    ("div_positive", "(sdiv (lshr x 1:i8) 7)"),
    ("div_positive", "(srem (lshr x 1:i8) 7)"),
    ("sdiv_power", "(sdiv x 2)"),
    ("sdiv_power", "(sdiv x 64)"),
    ("srem_zero", "(eq (srem x 16) 0)"),
    ("srem_zero", "(ne (srem x 64) 0)"),
    ("floor_rem", "(select (slt (srem x 16) 0) (add (srem x 16) 16) (srem x 16))"),
    ("select_const", "(select 1:i1 x y)"),
    ("select_const", "(select 0:i1 x y)"),
    ("select_same", "(select c x x)"),
    ("select_bit", "(select c 1:W 0:W)"),
    ("select_bit", "(select c 0:W 1:W)"),
    ("select_bit", "(select c 1:i1 0:i1)"),
    ("select_not", "(select (xor c 1) x y)"),
    ("select_eq", "(select (eq x y) x y)"),
    ("select_eq", "(select (ne x y) x y)"),
    ("select_eq", "(select (eq y x) x y)"),
    ("and_self", "(and x x)"),
    ("and_self", "(or x x)"),
    ("xor_self", "(xor x x)"),
    ("and_zero", "(and (shl x 4:i8) 15)"),
    ("and_zero", "(and x 0)"),
    ("and_ones", "(and x -1)"),
    ("and_ones", "(and (zext.V x) 0xff:V)"),
    ("and_const", "(and (and x 60) 15)"),
    ("and_not", "(and x (not x))"),
    ("and_absorb", "(and x (or x y))"),
    ("and_absorb", "(and (or x y) x)"),
    ("and_or", "(and (or (shl x 4:i8) y) 15)"),
    ("and_or", "(and (xor y (shl x 4:i8)) 15)"),
    ("or_zero", "(or x 0)"),
    ("or_zero", "(xor x 0)"),
    ("or_ones", "(or x -1)"),
    ("or_const", "(or (or x 3) 12)"),
    ("or_absorb", "(or x (and x y))"),
    ("or_absorb", "(or (and y x) x)"),
    ("or_not", "(or x (not x))"),
    ("or_not", "(xor (not x) x)"),
    ("or_halves", "(or (and x 15) (and x -16))"),
    ("xor_const", "(xor (xor x 9) 5)"),
    ("xor_cancel", "(xor (xor x y) y)"),
    ("xor_cancel", "(xor x (xor x y))"),
    ("xor_ones", "(xor x -1)"),
    ("xor_compare", "(xor (eq x y) 1)"),
    ("xor_compare", "(xor (ne x y) 1)"),
    ("xor_compare", "(xor (ult x y) 1)"),
    ("xor_compare", "(xor (ule x y) 1)"),
    ("xor_compare", "(xor (slt x y) 1)"),
    ("xor_compare", "(xor (sle x y) 1)"),
    ("xor_compare", "(xor (cond.o (fl_add x y)) 1)"),
    ("not_not", "(not (not x))"),
    ("not_bit", "(not c)"),
    ("shift_zero", "(shl x 0:i8)"),
    ("shift_zero", "(ashr x 64:i8)"),
    ("zero_shift", "(rotl 0:W y)"),
    ("shift_count_const", "(lshr x 67:i64)"),
    ("shift_count_const", "(rotr x 11:W)"),
    ("shift_count_mask", "(ashr x (and y 63))"),
    ("shift_count_width", "(shl x (zext.V y))"),
    ("shift_count_width", "(rotl x (sext.V y))"),
    ("shl_shl", "(shl (shl x 3:i8) 2:i8)"),
    ("shl_shl", "(shl (shl x 7:i8) 6:i8)"),
    ("lshr_lshr", "(lshr (lshr x 3:i8) 2:i8)"),
    ("lshr_lshr", "(lshr (lshr x 7:i8) 5:i8)"),
    ("ashr_ashr", "(ashr (ashr x 3:i8) 2:i8)"),
    ("ashr_ashr", "(ashr (ashr x 7:i8) 6:i8)"),
    ("rot_rot", "(rotl (rotl x 3:i8) 7:i8)"),
    ("rot_rot", "(rotr (rotr x 3:i8) 2:i8)"),
    ("lshr_known", "(lshr (and x 15) 4:i8)"),
    ("shl_lshr", "(lshr (shl x 3:i8) 3:i8)"),
    ("lshr_shl", "(shl (lshr x 3:i8) 3:i8)"),
    ("ashr_positive", "(ashr (and x 100) y)"),
    ("ashr_ones", "(ashr -1:W y)"),
    ("zext_zext", "(zext.Q (zext.V x))"),
    ("zext_trunc", "(zext.W (trunc.H x))"),
    ("zext_trunc", "(zext.V (trunc.H x))"),
    ("zext_trunc", "(zext.W (trunc.i1 x))"),
    ("sext_sext", "(sext.Q (sext.V x))"),
    ("sext_positive", "(sext.V (and x 100))"),
    ("trunc_trunc", "(trunc.i1 (trunc.H x))"),
    ("trunc_ext", "(trunc.W (zext.V x))"),
    ("trunc_ext", "(trunc.V (zext.Q x))"),
    ("trunc_ext", "(trunc.i1 (zext.V x))"),
    ("trunc_ext", "(trunc.W (sext.V x))"),
    ("trunc_ext", "(trunc.V (sext.Q x))"),
    ("trunc_ext", "(trunc.i1 (sext.V x))"),
    ("trunc_and", "(trunc.i1 (and x 3))"),
    ("trunc_and", "(trunc.W (and (add (zext.V x) (sext.V y)) 0xffffffffffff:V))"),
    ("trunc_or", "(trunc.i1 (or x (shl y 1:i8)))"),
    ("trunc_or", "(trunc.i1 (xor (shl y 1:i8) x))"),
    ("trunc_shl", "(trunc.i1 (shl x 1:i8))"),
    ("trunc_known", "(trunc.i1 (and x 100))"),
    ("trunc_join", "(trunc.i8 (join.i128 (zext.i64 x) 5:i64))"),
    ("low_join", "(low (join.v128 (sext.i64 x) 5:i64))"),
    ("high_join", "(high (join.v128 5:i64 (sext.i64 x)))"),
    (
        "join_halves",
        "(high (join.i128 (low (add (zext.i128 x) (sext.i128 y))) (high (add (zext.i128 x) (sext.i128 y)))))",
    ),
    ("low_zext", "(low (zext.i128 x))"),
    ("high_zext", "(high (zext.i128 x))"),
    ("bswap_bswap", "(bswap (bswap (zext.i64 x)))"),
    ("compare_self", "(sle x x)"),
    ("compare_self", "(ult x x)"),
    ("compare_self", "(eq x x)"),
    ("eq_known", "(eq (and x 15) 16)"),
    ("eq_known", "(ne (zext.V x) 0x10000000000:V)"),
    ("eq_bit", "(eq (zext.W c) 0)"),
    ("eq_bit", "(ne (zext.W c) 0)"),
    ("eq_bit", "(eq (zext.W c) 1)"),
    ("eq_bit", "(ne (zext.W c) 1)"),
    ("eq_sext_bit", "(eq (sext.W c) 0)"),
    ("eq_sext_bit", "(ne (sext.W c) -1)"),
    ("eq_sext_bit", "(ne (sext.W c) 1)"),
    ("eq_neg", "(eq (neg x) 0)"),
    ("eq_zext", "(eq (zext.V x) 200:V)"),
    ("eq_zext", "(ne (zext.V x) 3:V)"),
    ("eq_ext_both", "(eq (zext.V x) (zext.V y))"),
    ("eq_ext_both", "(ne (sext.V x) (sext.V y))"),
    ("eq_difference", "(eq (sub x y) 0)"),
    ("eq_difference", "(ne (xor x y) 0)"),
    ("eq_add_const", "(eq (add x 100) 7)"),
    ("eq_xor_const", "(ne (xor x 100) 7)"),
    ("eq_same_addend", "(eq (add x 9) (add y 9))"),
    ("eq_select", "(eq (select c 3:W 4:W) 3)"),
    ("eq_select", "(eq (select c 3:W 4:W) 4)"),
    ("eq_select", "(ne (select c 3:W 4:W) 3)"),
    ("eq_select", "(ne (select c 3:W 4:W) 4)"),
    ("eq_select", "(eq (select c 2:W 6:W) 4)"),
    ("ult_known", "(ult (and x 15) 16)"),
    ("ult_known", "(ule 16:W (and x 15))"),
    ("ult_known", "(ult x 0)"),
    ("ult_known", "(ule x -1)"),
    ("ult_edge", "(ult x 1)"),
    ("ult_edge", "(ule x 0)"),
    ("ult_edge", "(ult 0:W x)"),
    ("ult_edge", "(ule 1:W x)"),
    ("ult_top", "(ult x -1)"),
    ("ult_top", "(ule -1:W x)"),
    ("ult_zext_both", "(ult (zext.V x) (zext.V y))"),
    ("ult_zext_both", "(sle (zext.V x) (zext.V y))"),
    ("slt_sext_both", "(slt (sext.V x) (sext.V y))"),
    ("ult_zext", "(ult (zext.V x) 100:V)"),
    ("ult_zext", "(ule 100:V (zext.V x))"),
    ("slt_positive", "(slt (and x 100) (and y 77))"),
    ("slt_xor", "(slt (xor x 9) 0)"),
    ("slt_xor", "(slt (xor x -9) 0)"),
    ("slt_least", "(slt x LEAST)"),
    ("slt_least", "(sle LEAST:W x)"),
    ("cond_rotate", "(cond.e (fl_rol x 3:i8 (fl_add x y)))"),
    ("cond_rotate", "(cond.np (fl_ror x 3:i8 (fl_add x y)))"),
    ("fl_shift_zero", "(cond.o (fl_shl x 0:i8 (fl_add x y)))"),
    ("fl_carry_zero", "(cond.o (fl_adc x y 0:i1))"),
    ("fl_carry_zero", "(cond.o (fl_sbb x y 0:i1))"),
];

/// Flags operations whose rule decides several conditions.
const FLAGS: &[(&str, &str)] = &[
    ("cond_sub", "(fl_sub x y)"),
    ("cond_logic", "(fl_logic x)"),
    ("cond_add", "(fl_add x y)"),
    ("cond_inc", "(fl_inc x c)"),
    ("cond_dec", "(fl_dec x c)"),
    ("cond_adc", "(fl_adc x y c)"),
    ("cond_adc", "(fl_sbb x y c)"),
    ("cond_shift", "(fl_shl x 3:i8 (fl_add x y))"),
    ("cond_shift", "(fl_shr x 1:i8 (fl_add x y))"),
    ("cond_shift", "(fl_sar x 7:i8 (fl_add x y))"),
    ("cond_mul", "(fl_mul c)"),
    ("cond_f64", "(fl_f64 (sext.i64 x) (sext.i64 y))"),
];

#[derive(Clone, Copy)]
struct Types {
    w: Type,
}

impl Types {
    fn find(self, name: &str) -> Type {
        match name {
            "W" => self.w,
            "V" => Type::int(self.w.bits() * 2).unwrap_or(Type::I64),
            "Q" => Type::I64,
            "H" => Type::int(self.w.bits() / 2).unwrap_or(Type::I1),
            _ => Type::from_name(name).unwrap(),
        }
    }
}

/// Builds the example as a trace that leaves with its value in rax; `None` if it does not exist at this width.
struct Builder<'a> {
    trace: Trace,
    words: Vec<&'a str>,
    at: usize,
    types: Types,
    variables: [Value; 3],
}

impl<'a> Builder<'a> {
    fn build(example: &'a str, w: Type) -> Option<(Trace, Value)> {
        let spaced = example.replace('(', " ( ").replace(')', " ) ");
        let spaced: &'static str = Box::leak(spaced.into_boxed_str());
        let mut trace = Trace::new("example");
        let entry = trace.add_segment();
        trace.entry = Some(entry);
        let slots = [0, 1, 2, 3].map(|n| trace.append(entry, Inst::slot_read(Slot::gpr(n))));
        let mut narrow = |ty: Type, v: Value| {
            if ty == Type::I64 { v } else { trace.append(entry, Inst::unary(Opcode::Trunc, ty, v)) }
        };
        // The fourth slot is 0. No rule sees through a rotation by a variable, or through the parity.
        let [x, y] = [narrow(w, slots[0]), narrow(w, slots[1])];
        let [bits, zero] = [narrow(Type::I8, slots[2]), narrow(Type::I8, slots[3])];
        let [x, y] = [x, y].map(|v| trace.append(entry, Inst::binary(Opcode::Rotl, w, v, zero)));
        let variables = [x, y, trace.append(entry, Inst::unary(Opcode::Parity, Type::I1, bits))];
        let words = spaced.split_whitespace().collect();
        let mut builder = Builder { trace, words, at: 0, types: Types { w }, variables };
        let value = builder.expression(w)?;
        let mut trace = builder.trace;
        let ty = trace.ty(value);
        let wide = match ty {
            Type::I64 => value,
            _ if ty.bits() < 64 => trace.append(entry, Inst::unary(Opcode::Zext, Type::I64, value)),
            _ => return None,
        };
        let mut exit = ExitData::new(0x40, 0);
        exit.set(Slot::RAX, ExitValue::Value(wide));
        let exit = trace.exits.push(exit);
        trace.segments[entry].terminator = Terminator::Leave(exit);
        redmagic_ir::verify(&trace).ok()?;
        Some((trace, value))
    }

    fn next(&mut self) -> &'a str {
        self.at += 1;
        self.words[self.at - 1]
    }

    fn constant(&mut self, number: &str, ty: Type) -> Option<Value> {
        let (digits, negative) = number.strip_prefix('-').map_or((number, false), |digits| (digits, true));
        let magnitude: i128 = match digits {
            "LEAST" => 1 << (ty.bits() - 1),
            _ => match digits.strip_prefix("0x") {
                Some(hex) => i128::from_str_radix(hex, 16).unwrap(),
                None => digits.parse().unwrap(),
            },
        };
        let imm = if negative { -magnitude } else { magnitude };
        if ty.bits() < 64 && magnitude >> ty.bits() != 0 {
            return None;
        }
        let entry = self.trace.entry();
        Some(self.trace.append(entry, Inst::constant(ty, imm as i64)))
    }

    /// Parses an operand; a plain number has type `expected`.
    fn expression(&mut self, expected: Type) -> Option<Value> {
        let word = self.next();
        match word {
            "x" => return Some(self.variables[0]),
            "y" => return Some(self.variables[1]),
            "c" => return Some(self.variables[2]),
            "(" => {}
            _ => {
                let (number, ty) = word.split_once(':').map_or((word, expected), |(n, ty)| (n, self.types.find(ty)));
                return self.constant(number, ty);
            }
        }
        let head = self.next();
        let (name, suffix) = head.split_once('.').unwrap_or((head, ""));
        let mut operands: Vec<Value> = Vec::new();
        while self.words[self.at] != ")" {
            let beside = operands.last().map_or(expected, |v| self.trace.ty(*v));
            operands.push(self.expression(beside)?);
        }
        self.next();
        let op = Opcode::from_name(name).unwrap();
        let first = self.trace.ty(operands[0]);
        let entry = self.trace.entry();
        if op == Opcode::Cond {
            return Some(self.trace.append(entry, Inst::cond(Cond::from_name(suffix).unwrap(), operands[0])));
        }
        let ty = match redmagic_ir::typing::implied_result(op) {
            Some(ty) => ty,
            None if !suffix.is_empty() => self.types.find(suffix),
            None if op == Opcode::Select => self.trace.ty(operands[1]),
            None => first,
        };
        let inst = match operands[..] {
            [a] => Inst::unary(op, ty, a),
            [a, b] => Inst::binary(op, ty, a, b),
            [a, b, c] => Inst::ternary(op, ty, a, b, c),
            _ => panic!("too many operands"),
        };
        Some(self.trace.append(entry, inst))
    }
}

/// A straight line of pure operations, flattened for speed: exhaustive inputs run it often.
struct Program {
    steps: Vec<Step>,
    values: Vec<u128>,
    result: Result<usize, u128>,
}

struct Step {
    to: usize,
    op: Opcode,
    ty: Type,
    operand_type: Type,
    args: [usize; 3],
    cond: Option<Cond>,
}

impl Program {
    fn new(trace: &Trace) -> Program {
        let index = |value: Value| if value.is_some() { redmagic_ir::Entity::index(value) } else { 0 };
        let mut values = vec![0; trace.insts.len()];
        let mut steps = Vec::new();
        for &value in &trace.segments[trace.entry()].insts {
            let inst = &trace.insts[value];
            if let Some(imm) = inst.as_const() {
                values[index(value)] = imm as i128 as u128 & inst.ty.mask();
                continue;
            }
            let (args, operand_type) = match inst.slot() {
                Some(slot) => ([slot.index(); 3], Type::I64),
                None => {
                    let typed = inst.args[usize::from(inst.op == Opcode::Select)];
                    (inst.args.map(index), trace.ty(typed))
                }
            };
            let cond = inst.condition();
            steps.push(Step { to: index(value), op: inst.op, ty: inst.ty, operand_type, args, cond });
        }
        let Terminator::Leave(exit) = trace.segments[trace.entry()].terminator else { panic!("left early") };
        let result = match trace.exits[exit].get(Slot::RAX) {
            Some(ExitValue::Value(value)) => Ok(index(value)),
            Some(ExitValue::Const(imm)) => Err(imm as i128 as u128 & Type::I64.mask()),
            other => panic!("{other:?}"),
        };
        Program { steps, values, result }
    }

    /// What the trace leaves in rax.
    fn run(&mut self, slots: [u64; 4]) -> u128 {
        for step in &self.steps {
            self.values[step.to] = if step.op == Opcode::Slot {
                u128::from(slots[step.args[0]])
            } else {
                let args = step.args.map(|arg| self.values[arg]);
                eval_pure(step.op, step.ty, step.operand_type, args, step.cond).unwrap()
            };
        }
        self.result.map_or_else(|imm| imm, |at| self.values[at])
    }
}

fn boundaries(w: Type) -> Vec<u64> {
    let top = w.bits() - 1;
    let mut all: Vec<u64> =
        vec![0, 1, 2, 3, 4, 7, 15, 16, 17, 63, 64, 100, 127, 128, 200, 255, 256, 0xdead_beef_1234_5678];
    all.extend([1 << top, (1 << top) - 1, (1 << top) + 1, w.mask() as u64, w.mask() as u64 - 1, 0x5555_5555_5555_5555]);
    all
}

/// Optimises the example at width `w` and compares; whether `rule` was applied.
fn check(rule: &str, example: &str, w: Type) -> bool {
    let Some((before, _)) = Builder::build(example, w) else { return false };
    let mut after = before.clone();
    let stats = optimise(&mut after, &Pipeline::parse("fold,dce").unwrap());
    let (mut left, mut right) = (Program::new(&before), Program::new(&after));
    let mut compare = |x: u64, y: u64, c: u64| {
        let expected = left.run([x, y, c, 0]);
        let found = right.run([x, y, c, 0]);
        assert_eq!(expected, found, "{example} at {w}, x={x:#x} y={y:#x} c={c}:\n{before}\n{after}");
    };
    let uses = |variable: &str| example.split([' ', '(', ')']).any(|word| word == variable);
    let all: Vec<u64> = if w == Type::I8 { (0..256).collect() } else { boundaries(w) };
    let values = |variable: &str, all: &[u64]| if uses(variable) { all.to_vec() } else { vec![0] };
    for &x in &values("x", &all) {
        for &y in &values("y", &all) {
            values("c", &[0, 1]).iter().for_each(|c| compare(x, y, *c));
        }
    }
    stats.rule(rule) > 0
}

const WIDTHS: [Type; 4] = [Type::I8, Type::I16, Type::I32, Type::I64];

#[test]
fn every_example_is_equal_and_uses_its_rule() {
    for (rule, example) in EXAMPLES {
        let hits = WIDTHS.map(|w| check(rule, example, w));
        assert!(hits.contains(&true), "{example} does not use {rule}");
    }
}

#[test]
fn every_condition_of_every_flags_operation_is_equal() {
    for (rule, flags) in FLAGS {
        let mut hits = 0;
        for cond in Cond::ALL {
            let example = format!("(cond.{cond} {flags})");
            hits += WIDTHS.iter().filter(|w| check(rule, &example, **w)).count();
        }
        assert!(hits > 0, "{flags} does not use {rule}");
    }
}

#[test]
fn every_rule_has_an_example() {
    for rule in all_rules() {
        let known = EXAMPLES.iter().chain(FLAGS).any(|(name, _)| *name == rule.name);
        assert!(known, "{}: {}", rule.name, rule.identity);
    }
    let mut names: Vec<_> = all_rules().iter().map(|rule| rule.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all_rules().len(), "rule names are unique");
}
