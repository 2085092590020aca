//! What only the end of H2 needs goes there.
//!
//! # Invariants
//! - The *path* of H2 is what one of its iterations must compute for the next one, for its guards and for memory. The rest is for
//!   exits, which the pass `sink` gives recipes, and for F, which gets copies of its own here: F follows the last iteration, so
//!   whatever H2 has computed is in reach.
//! - A copy keeps at most one value of H2 in a register for longer, as sinking does.
//! - A parameter that falls by 1 in each iteration and is not on the path falls with the counter of iterations: it is at a fixed
//!   distance from that.
//!
//! # Worked example
//! `H2(v1 from v9): v2 = add v1, -1; … H2(v2)` with `F: store [v0], v2`, where nothing else needs v1 and v2: P has
//! `v5 = sub v9, strip`, H2 has `v1 = add count, v5` (which is gone if no exit needs it), and F has copies of v1 and v2.

use super::plan::Plan;
use crate::scope::{self, MixMap};
use redmagic_ir::{Inst, Map, Opcode, Trace, Type, Value};

/// Takes out of H2 what it need not compute. `count` is its counter, which begins with `strip` and falls by 1.
pub(super) fn shorten(trace: &mut Trace, plan: &mut Plan, strip: Value, count: Value) {
    let falling = |(param, _, next): &(Value, Value, Value)| {
        let inst = &trace.insts[*next];
        let falls = inst.op == Opcode::Add && inst.args[0] == *param && trace.as_const(inst.args[1]) == Some(-1);
        (falls && trace.ty(*param) == Type::I64).then_some(*param)
    };
    let mut falling: Vec<Value> = plan.params.iter().filter_map(falling).collect();
    let path = loop {
        let path = path(trace, plan, &falling);
        let before = falling.len();
        falling.retain(|param| !path[*param]);
        if falling.len() == before {
            break path;
        }
    };
    for param in falling {
        let Some(at) = plan.params.iter().position(|known| known.0 == param) else { continue };
        let (_, start, _) = plan.params.remove(at);
        let distance = trace.add_inst(Inst::binary(Opcode::Sub, Type::I64, start, strip));
        plan.preheader.push(distance);
        trace.insts[param] = Inst::binary(Opcode::Add, Type::I64, count, distance);
        plan.insts.insert(0, param);
        plan.breaks.iter_mut().for_each(|check| check.at += 1);
    }
    put_off(trace, plan, &path, count);
}

/// What has no effect, and nobody notices how often it is computed.
fn is_free(trace: &Trace, inst: &Inst) -> bool {
    scope::is_numbered(inst.op) && scope::is_total(trace, inst) && !scope::depends_on_mxcsr(inst.op)
}

/// The values on the path, if the parameters `falling` are not.
fn path(trace: &Trace, plan: &Plan, falling: &[Value]) -> Map<Value, bool> {
    let mut path = Map::filled(trace.insts.len(), false);
    plan.params.iter().filter(|param| !falling.contains(&param.0)).for_each(|param| path[param.2] = true);
    plan.calls.iter().for_each(|site| site.for_each_value(|value| path[value] = true));
    for check in &plan.breaks {
        path[check.test] = true;
        check.slow.iter().for_each(|value| trace.insts[*value].operands().for_each(|operand| path[operand] = true));
    }
    for &value in plan.insts.iter().rev() {
        let inst = &trace.insts[value];
        if path[value] || !is_free(trace, inst) {
            path[value] = true;
            inst.operands().for_each(|operand| path[operand] = true);
        }
    }
    path
}

/// Gives F copies of what it needs and the path does not. In the last iteration the counter is 1.
fn put_off(trace: &mut Trace, plan: &mut Plan, path: &Map<Value, bool>, count: Value) {
    let ours: Vec<Value> = plan.params.iter().map(|param| param.0).chain(plan.insts.iter().copied()).collect();
    let mut in_h2 = Map::filled(trace.insts.len(), false);
    ours.iter().for_each(|value| in_h2[*value] = true);
    let mut wanted = Map::filled(trace.insts.len(), false);
    plan.flush.iter().for_each(|store| wanted[store.2] = true);
    plan.back.iter().for_each(|value| wanted[*value] = true);
    let mut moved = Vec::new();
    for &value in plan.insts.iter().rev() {
        let inst = &trace.insts[value];
        let waits = |operand: &Value| in_h2[*operand];
        if wanted[value] && !path[value] && inst.operands().filter(waits).count() <= 1 {
            inst.operands().for_each(|operand| wanted[operand] = true);
            moved.push(value);
        }
    }
    let mut copies: MixMap<Value, Value> = MixMap::default();
    if wanted[count] {
        let one = trace.add_inst(Inst::constant(Type::I64, 1));
        plan.last.push(one);
        copies.insert(count, one);
    }
    for value in moved.into_iter().rev() {
        let mut inst = trace.insts[value];
        inst.map_operands(|operand| copies.get(&operand).copied().unwrap_or(operand));
        let copy = trace.add_inst(inst);
        copies.insert(value, copy);
        plan.last.push(copy);
    }
    let copy_of = |value: Value| copies.get(&value).copied().unwrap_or(value);
    plan.flush.iter_mut().for_each(|store| store.2 = copy_of(store.2));
    plan.back.iter_mut().for_each(|value| *value = copy_of(*value));
}
