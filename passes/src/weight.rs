//! What an iteration of a trace's loop costs, roughly: what is left for the machine to do, whatever the backend makes of it.
//!
//! # Weights
//! A load counts 1, a store 1, an operation 1, a guard 2 with its comparison. Constants, parameters, cuts to a part of a
//! register, extensions of what was just loaded, and what an address takes in count nothing, and neither does a load that
//! only comparisons of guards use. What checks that memory is apart, and what counts a strip of iterations, is listed
//! apart. Operations that only exits need are counted like others, because they are executed like others, and also shown
//! on their own.
//!
//! # Worked example
//! ```text
//! seg1(v1: i64):
//!   v2: i8 = load [v0 + 8]        nothing: only a guard uses it
//!   v3: i1 = eq v2, v9            part of the guard
//!   guard v3, exit0               2
//!   v4: i64 = load [v0]           1
//!   v5: i64 = add v4, v1          1
//!   store [v0], v5                1
//!   jump seg1(v5)                 nothing
//! ```

use crate::graph::Graph;
use redmagic_ir::{Effect, Inst, Map, Opcode, Segment, Terminator, Trace, Type, Value};
use std::fmt;

/// What an iteration of a loop consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Loads that count.
    pub loads: u32,
    /// Loads that only guards use.
    pub tested_loads: u32,
    /// Stores.
    pub stores: u32,
    /// Operations.
    pub operations: u32,
    /// Those of them that only exits need.
    pub for_exits: u32,
    /// Guards, each with its comparison.
    pub guards: u32,
    /// Guards that memory is apart.
    pub alias_checks: u32,
    /// What counts the iterations between two looks at memory.
    pub strip: u32,
}

impl Weight {
    /// The sum by weights, without alias checks and strip counter.
    pub fn total(&self) -> u32 {
        self.loads + self.stores + self.operations + 2 * self.guards
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = loads {}, stores {}", self.total(), self.loads, self.stores)?;
        write!(f, ", operations {} ({} for exits), guards 2 x {}", self.operations, self.for_exits, self.guards)?;
        write!(f, "; apart: tested loads {}, alias checks {}", self.tested_loads, self.alias_checks)?;
        write!(f, ", strip counter {}", self.strip)
    }
}

/// How a value is used in the loop.
#[derive(Clone, Copy, Default)]
struct Uses {
    /// By guards and switches, as the truth value that they test.
    tests: u32,
    /// By comparisons that only tests use.
    comparisons: u32,
    /// As a root without an index.
    roots: u32,
    /// By checks that memory is apart, and what these are computed from.
    checks: u32,
    /// By anything else that is executed in every iteration.
    others: u32,
}

impl Uses {
    fn all(&self) -> u32 {
        self.tests + self.comparisons + self.roots + self.others
    }
}

/// The weight of the innermost loop of `trace`, if it has one. Where loops are nested or a loop has two copies, it is the
/// smallest one.
pub fn loop_weight(trace: &Trace) -> Option<Weight> {
    let graph = Graph::new(trace);
    let size =
        |segments: &Vec<Segment>| segments.iter().map(|segment| trace.segments[*segment].insts.len()).sum::<usize>();
    let mut body = loops(trace, &graph).into_iter().min_by_key(size)?;
    let detours = detours(trace, &body);
    body.retain(|segment| !detours.contains(segment));
    Some(weigh(trace, &body))
}

/// Segments that are executed only where a check has found memory not to be where it usually is.
fn detours(trace: &Trace, body: &[Segment]) -> Vec<Segment> {
    let usual = |segment: &Segment| match &trace.segments[*segment].terminator {
        Terminator::Switch { value, default, .. } if is_alias_check(trace, *value) => Some(default.segment),
        _ => None,
    };
    body.iter().filter_map(usual).collect()
}

/// The weight of once through `trace`: of its innermost loop, or of all of it if it has none.
pub fn path_weight(trace: &Trace) -> Weight {
    loop_weight(trace).unwrap_or_else(|| weigh(trace, &Graph::new(trace).order))
}

/// The weight of the segments of `body`.
fn weigh(trace: &Trace, body: &[Segment]) -> Weight {
    let uses = uses(trace, body);
    let mut weight = Weight::default();
    let mut strip = Vec::new();
    for &segment in body {
        if let Terminator::Switch { value, .. } = &trace.segments[segment].terminator {
            if let Some(counter) = counter(trace, *value) {
                weight.strip += 2;
                strip.push(counter);
            } else if is_alias_check(trace, *value) {
                weight.alias_checks += 1;
            } else {
                weight.guards += 1;
            }
        }
    }
    for &value in body.iter().flat_map(|segment| &trace.segments[*segment].insts) {
        let inst = &trace.insts[value];
        match inst.op.effect() {
            // The way that the first copy counts, with its guard.
            Effect::Write if inst.op == Opcode::Tick => weight.strip += 2,
            Effect::Guard if is_countdown(trace, inst.args[0]) => {}
            Effect::Write => weight.stores += 1,
            Effect::Guard if is_alias_check(trace, inst.args[0]) => weight.alias_checks += 1,
            Effect::Guard => weight.guards += 1,
            Effect::Read if uses[value].comparisons == uses[value].all() && uses[value].all() > 0 => {
                weight.tested_loads += 1
            }
            Effect::Read => weight.loads += 1,
            _ if strip.contains(&value) => {}
            Effect::Pure | Effect::Partial | Effect::Barrier => {
                let is_check = uses[value].all() == 0 && uses[value].checks > 0;
                if !is_check && counts(trace, &uses, value) {
                    weight.operations += 1;
                    weight.for_exits += u32::from(uses[value].all() == 0);
                }
            }
        }
    }
    weight
}

/// The segments of every loop.
fn loops(trace: &Trace, graph: &Graph) -> Vec<Vec<Segment>> {
    let mut place = Map::filled(trace.segments.len(), usize::MAX);
    graph.order.iter().enumerate().for_each(|(at, segment)| place[*segment] = at);
    let mut loops = Vec::new();
    for &tail in &graph.order {
        for head in trace.segments[tail].terminator.successors() {
            if place[head] > place[tail] {
                continue;
            }
            let mut body = vec![head];
            let mut work = vec![tail];
            while let Some(segment) = work.pop() {
                if !body.contains(&segment) {
                    body.push(segment);
                    work.extend(&graph.preds[segment]);
                }
            }
            loops.push(body);
        }
    }
    loops
}

/// How the values are used in the segments of `body`, the last use first: what nobody needs uses nothing.
fn uses(trace: &Trace, body: &[Segment]) -> Map<Value, Uses> {
    let mut uses = Map::filled(trace.insts.len(), Uses::default());
    for segment in body {
        match &trace.segments[*segment].terminator {
            Terminator::Switch { value, .. } if is_alias_check(trace, *value) => uses[*value].checks += 1,
            Terminator::Switch { value, .. } => uses[*value].tests += 1,
            Terminator::Call(call) => {
                uses[call.target].others += 1;
                uses[call.return_address].others += 1;
                trace.exits[call.state].for_each_value(|value| uses[value].others += 1);
            }
            Terminator::Jump(_) | Terminator::Leave(_) => {}
        }
        let targets = trace.segments[*segment].terminator.targets();
        let inside = targets.filter(|target| body.contains(&target.segment));
        // A register that only exits need waits for them in a parameter: that is no work of the loop.
        inside.flat_map(|target| &target.args).for_each(|value| uses[*value].others += 1);
    }
    for segment in body.iter().rev() {
        for &value in trace.segments[*segment].insts.iter().rev() {
            note(trace, &mut uses, value);
        }
    }
    uses
}

/// Notes what `value` uses.
fn note(trace: &Trace, uses: &mut Map<Value, Uses>, value: Value) {
    let inst = &trace.insts[value];
    let own = uses[value];
    match inst.op.effect() {
        Effect::Guard if is_alias_check(trace, inst.args[0]) => uses[inst.args[0]].checks += 1,
        Effect::Guard => uses[inst.args[0]].tests += 1,
        Effect::Read | Effect::Write => {
            let Some(address) = inst.address() else { return };
            if address.index.is_some() {
                uses[address.index].others += 1;
                uses[address.root].others += 1;
            } else {
                uses[address.root].roots += 1;
            }
            if inst.op == Opcode::Store {
                uses[inst.args[2]].others += 1;
            }
        }
        Effect::Pure | Effect::Partial if own.all() == 0 => {
            inst.operands().for_each(|operand| uses[operand].checks += own.checks);
        }
        Effect::Pure if is_comparison(inst) && own.tests == own.all() => {
            inst.operands().for_each(|operand| uses[operand].comparisons += 1);
        }
        // What costs nothing is used as its result is.
        Effect::Pure if is_cut(inst) => {
            let operand = &mut uses[inst.args[0]];
            operand.comparisons += own.comparisons;
            operand.others += own.tests + own.roots + own.others;
        }
        Effect::Pure | Effect::Partial | Effect::Barrier => {
            trace.for_each_use(value, |used| uses[used].others += 1);
        }
    }
}

fn is_comparison(inst: &Inst) -> bool {
    inst.ty == Type::I1 && !matches!(inst.op, Opcode::Const | Opcode::Param)
}

fn is_cut(inst: &Inst) -> bool {
    matches!(inst.op, Opcode::Trunc | Opcode::Zext)
}

/// Whether a pure operation is one for the machine.
fn counts(trace: &Trace, uses: &Map<Value, Uses>, value: Value) -> bool {
    let inst = &trace.insts[value];
    let own = &uses[value];
    let only_tested = own.tests == own.all() && own.all() > 0;
    match inst.op {
        Opcode::Const | Opcode::Param | Opcode::Slot | Opcode::NativeOut | Opcode::Trunc => false,
        // Loads extend, and operations on 32 bits clear the others.
        Opcode::Zext => {
            let from = &trace.insts[inst.args[0]];
            from.op != Opcode::Load && from.ty != Type::I32
        }
        // An address adds an index to a root.
        Opcode::Add if own.roots == own.all() && own.all() > 0 => false,
        _ => !(is_comparison(inst) && only_tested),
    }
}

/// The decrement of a strip counter, if `test` is that it is not yet zero.
fn counter(trace: &Trace, test: Value) -> Option<Value> {
    let inst = &trace.insts[test];
    let less = inst.args[0];
    let counts = inst.op == Opcode::Ne
        && trace.as_const(inst.args[1]) == Some(0)
        && trace.insts[less].op == Opcode::Add
        && trace.as_const(trace.insts[less].args[1]) == Some(-1)
        && trace.insts[trace.insts[less].args[0]].op == Opcode::Param
        && trace.insts[trace.insts[less].args[0]].slot().is_none();
    counts.then_some(less)
}

/// Whether `test` is about what a meter has left.
fn is_countdown(trace: &Trace, test: Value) -> bool {
    trace.insts[test].operands().any(|operand| trace.insts[operand].op == Opcode::Tick)
}

/// Whether `test` is that a difference of addresses is not in some range.
fn is_alias_check(trace: &Trace, test: Value) -> bool {
    let inst = &trace.insts[test];
    if inst.op != Opcode::Ule {
        return false;
    }
    // The range may be as wide as a gap, less what is accessed there.
    let limit = match trace.insts[inst.args[1]] {
        limit if limit.op == Opcode::Add && trace.insts[limit.args[0]].op == Opcode::Sub => limit.args[1],
        _ => inst.args[1],
    };
    let Some(limit) = trace.as_const(limit) else { return false };
    let mut difference = &trace.insts[inst.args[0]];
    if difference.op == Opcode::Add {
        difference = &trace.insts[difference.args[0]];
    }
    limit < 0 && difference.op == Opcode::Sub
}
