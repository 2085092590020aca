//! Identities of sums, differences, products and selections.
//!
//! Worked example: `sub v1, 8` is `add v1, -8` (`sub_const`): one form for both, so that chains of them collapse.

use super::{Out, Rule, bits_of, constant, mask, op_const, rule, with_const};
use redmagic_ir::{Inst, Opcode, Type};

pub(super) const RULES: &[Rule] = &[
    rule("add_zero", "x + 0 = x", &[Opcode::Add], |s, i| {
        (bits_of(s, i.args[1])? == 0).then_some(Out::Value(i.args[0]))
    })
    .second(&[Opcode::Const]),
    rule("add_const", "(x + c) + d = x + (c + d)", &[Opcode::Add], |s, i| {
        let outer = bits_of(s, i.args[1])?;
        let (x, inner) = with_const(s, i.args[0], Opcode::Add)?;
        Some(op_const(s, Opcode::Add, i.ty, x, inner.wrapping_add(outer)))
    })
    .first(&[Opcode::Add])
    .second(&[Opcode::Const]),
    rule("add_sub_cancel", "(x - y) + y = x", &[Opcode::Add], |s, i| {
        let [a, b, _] = i.args;
        let cancels = |of, y| s.def_of(of, Opcode::Sub).filter(|sub| sub.args[1] == y).map(|sub| sub.args[0]);
        cancels(a, b).or_else(|| cancels(b, a)).map(Out::Value)
    })
    .either(&[Opcode::Sub]),
    rule("add_neg", "x + (-y) = x - y", &[Opcode::Add], |s, i| {
        let [a, b, _] = i.args;
        let (x, neg) = match (s.def_of(a, Opcode::Neg), s.def_of(b, Opcode::Neg)) {
            (_, Some(neg)) => (a, neg),
            (Some(neg), None) => (b, neg),
            (None, None) => return None,
        };
        Some(Out::Inst(Inst::binary(Opcode::Sub, i.ty, x, neg.args[0])))
    })
    .either(&[Opcode::Neg]),
    rule("sub_self", "x - x = 0", &[Opcode::Sub], |s, i| (i.args[0] == i.args[1]).then(|| constant(s, i.ty, 0))),
    rule("sub_const", "x - c = x + (-c)", &[Opcode::Sub], |s, i| {
        let imm = bits_of(s, i.args[1])?;
        Some(op_const(s, Opcode::Add, i.ty, i.args[0], imm.wrapping_neg()))
    })
    .second(&[Opcode::Const]),
    rule("zero_sub", "0 - x = -x", &[Opcode::Sub], |s, i| {
        (bits_of(s, i.args[0])? == 0).then(|| Out::Inst(Inst::unary(Opcode::Neg, i.ty, i.args[1])))
    })
    .first(&[Opcode::Const]),
    rule("sub_add_cancel", "(x + y) - y = x", &[Opcode::Sub], |s, i| {
        let sum = s.def_of(i.args[0], Opcode::Add)?;
        let [x, y, _] = sum.args;
        if y == i.args[1] {
            return Some(Out::Value(x));
        }
        (x == i.args[1]).then_some(Out::Value(y))
    })
    .first(&[Opcode::Add]),
    rule("sub_sum", "x - (x + c) = -c", &[Opcode::Sub], |s, i| {
        let (x, imm) = with_const(s, i.args[1], Opcode::Add)?;
        (x == i.args[0]).then(|| constant(s, i.ty, imm.wrapping_neg()))
    })
    .second(&[Opcode::Add]),
    rule("sub_sub_cancel", "x - (x - y) = y", &[Opcode::Sub], |s, i| {
        let difference = s.def_of(i.args[1], Opcode::Sub)?;
        (difference.args[0] == i.args[0]).then_some(Out::Value(difference.args[1]))
    })
    .second(&[Opcode::Sub]),
    rule("sub_neg", "x - (-y) = x + y", &[Opcode::Sub], |s, i| {
        let neg = s.def_of(i.args[1], Opcode::Neg)?;
        Some(Out::Inst(Inst::binary(Opcode::Add, i.ty, i.args[0], neg.args[0])))
    })
    .second(&[Opcode::Neg]),
    rule("sub_same_root", "(x + c) - (x + d) = c - d", &[Opcode::Sub], |s, i| {
        let (x, c) = with_const(s, i.args[0], Opcode::Add)?;
        let (y, d) = with_const(s, i.args[1], Opcode::Add)?;
        (x == y).then(|| constant(s, i.ty, c.wrapping_sub(d)))
    })
    .first(&[Opcode::Add]),
    rule("neg_neg", "-(-x) = x", &[Opcode::Neg], |s, i| {
        s.def_of(i.args[0], Opcode::Neg).map(|neg| Out::Value(neg.args[0]))
    })
    .first(&[Opcode::Neg]),
    rule("neg_sub", "-(x - y) = y - x", &[Opcode::Neg], |s, i| {
        let sub = s.def_of(i.args[0], Opcode::Sub)?;
        Some(Out::Inst(Inst::binary(Opcode::Sub, i.ty, sub.args[1], sub.args[0])))
    })
    .first(&[Opcode::Sub]),
    rule("mul_zero", "x * 0 = 0", &[Opcode::Mul, Opcode::Umulhi, Opcode::Smulhi], |s, i| {
        (bits_of(s, i.args[1])? == 0).then(|| constant(s, i.ty, 0))
    })
    .second(&[Opcode::Const]),
    rule("mul_one", "x * 1 = x", &[Opcode::Mul], |s, i| (bits_of(s, i.args[1])? == 1).then_some(Out::Value(i.args[0])))
        .second(&[Opcode::Const]),
    rule("mul_minus_one", "x * -1 = -x", &[Opcode::Mul], |s, i| {
        (bits_of(s, i.args[1])? == mask(i.ty)).then(|| Out::Inst(Inst::unary(Opcode::Neg, i.ty, i.args[0])))
    })
    .second(&[Opcode::Const]),
    rule("mul_power", "x * 2^k = x << k", &[Opcode::Mul], |s, i| {
        let imm = bits_of(s, i.args[1]).filter(|imm| imm.is_power_of_two())?;
        let count = s.constant(Type::I8, i64::from(imm.trailing_zeros()));
        Some(Out::Inst(Inst::binary(Opcode::Shl, i.ty, i.args[0], count)))
    })
    .second(&[Opcode::Const]),
    rule("umulhi_one", "high half of x * 1 = 0", &[Opcode::Umulhi], |s, i| {
        (bits_of(s, i.args[1])? == 1).then(|| constant(s, i.ty, 0))
    })
    .second(&[Opcode::Const]),
    super::wide("select_const", "select(1, x, y) = x, select(0, x, y) = y", &[Opcode::Select], |s, i| {
        Some(Out::Value(i.args[if bits_of(s, i.args[0])? == 1 { 1 } else { 2 }]))
    })
    .first(&[Opcode::Const]),
    super::wide("select_same", "select(c, x, x) = x", &[Opcode::Select], |_, i| {
        (i.args[1] == i.args[2]).then_some(Out::Value(i.args[1]))
    }),
    rule("select_bit", "select(c, 1, 0) = zext c, select(c, 0, 1) = zext !c", &[Opcode::Select], |s, i| {
        let bit = match (bits_of(s, i.args[1])?, bits_of(s, i.args[2])?) {
            (1, 0) => i.args[0],
            (0, 1) => s.invert(i.args[0]),
            _ => return None,
        };
        Some(super::resize(bit, Type::I1, i.ty))
    })
    .second(&[Opcode::Const]),
    super::wide("select_not", "select(!c, x, y) = select(c, y, x)", &[Opcode::Select], |s, i| {
        let (c, one) = with_const(s, i.args[0], Opcode::Xor)?;
        (one == 1).then(|| Out::Inst(Inst::ternary(Opcode::Select, i.ty, c, i.args[2], i.args[1])))
    })
    .first(&[Opcode::Xor]),
    super::wide("select_eq", "select(x == y, x, y) = y, select(x != y, x, y) = x", &[Opcode::Select], |s, i| {
        let test = s.def(i.args[0]);
        let [_, x, y] = i.args;
        let same = (test.args[0] == x && test.args[1] == y) || (test.args[0] == y && test.args[1] == x);
        match test.op {
            Opcode::Eq if same => Some(Out::Value(y)),
            Opcode::Ne if same => Some(Out::Value(x)),
            _ => None,
        }
    })
    .first(&[Opcode::Eq, Opcode::Ne]),
];
