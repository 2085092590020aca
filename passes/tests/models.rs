//! Memory models: what the passes may leave out of a loop under each.

mod common;

use common::{counted_loop, guest, same_effects, trace};
use redmagic_ir::{Opcode, Slot, Trace, Value};
use redmagic_passes::{MemoryModel, Pipeline, optimise};

/// Each iteration loads twice from a place that it stores to, once from another, and stores what it has there to a third.
const BODY: &str = "
  v20: i64 = load [v2 + 8] @0x6008=0x1
  v21: i64 = load [v1] @0x5000=0x2
  v22: i64 = add v21, v20
  store i64 [v1], v22 @0x5000=0x3
  v23: i64 = load [v1] @0x5000=0x3
  store i64 [v2 + 24], v23 @0x6018=0x3";

fn counted() -> Trace {
    trace(&counted_loop("rsp", "", "", BODY, "", "exit0 @0x40 { rax = v9 }"))
}

/// How many loads and stores each segment that is a loop by itself has.
fn accesses_of_loops(trace: &Trace) -> Vec<[usize; 2]> {
    let loops = trace.segments.iter().filter(|(segment, data)| data.terminator.successors().contains(segment));
    let count = |insts: &[Value], op| insts.iter().filter(|value| trace.insts[**value].op == op).count();
    loops.map(|(_, data)| [Opcode::Load, Opcode::Store].map(|op| count(&data.insts, op))).collect()
}

#[test]
fn what_a_loop_leaves_out() {
    let before = counted();
    let start = guest(&[(Slot::RAX, 9), (Slot::RBX, 0x5000), (Slot::RCX, 0x6000)]);
    for (model, expected) in [
        (MemoryModel::Strict, &[[3, 2]][..]),
        (MemoryModel::Default, &[[2, 2], [0, 2]]),
        (MemoryModel::InterpreterLock, &[[2, 2], [0, 0]]),
    ] {
        let mut after = before.clone();
        optimise(&mut after, &Pipeline::default().under(model));
        assert_eq!(accesses_of_loops(&after), expected, "{model:?}: {after}");
        assert!(same_effects(&before, &after, &start) > 0, "no run reached an exit");
    }
}

/// Each iteration pushes a number onto the stack, looks at it with the stack pointer there, and pops it again.
const PUSHES: &str = "
  v20: i64 = load [v1] @0x5000=0x2
  v24: i64 = const -512
  v21: i64 = add v4, v24
  store i64 [v21], v20 @0x7ffefe00=0x2
  v25: i1 = ne v20, v7
  guard v25, exit1
  v22: i64 = load [v21] @0x7ffefe00=0x2
  v23: i64 = add v22, v9
  store i64 [v1], v23 @0x5000=0x3";

#[test]
fn own_frames_are_of_one_thread() {
    let before = trace(&counted_loop(
        "rsp",
        "",
        "",
        PUSHES,
        "",
        "exit0 @0x40 { rax = v9 }\nexit1 @0x44 { rax = v9, rsp = v21 }",
    ));
    let start = guest(&[(Slot::RAX, 9), (Slot::RBX, 0x5000), (Slot::RCX, 0x6000)]);
    for (model, stores) in
        [(MemoryModel::Strict, &[2][..]), (MemoryModel::Default, &[2, 1]), (MemoryModel::InterpreterLock, &[2, 0])]
    {
        let mut after = before.clone();
        optimise(&mut after, &Pipeline::default().under(model));
        let found: Vec<usize> = accesses_of_loops(&after).iter().map(|accesses| accesses[1]).collect();
        assert_eq!(found, stores, "{model:?}: {after}");
        assert!(same_effects(&before, &after, &start) > 0, "no run reached an exit");
    }
}
