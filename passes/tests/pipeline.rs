//! Pipelines, and the passes that are not the walk.

mod common;

use common::{every_subset, guest, optimised, trace};
use redmagic_ir::{Opcode, Slot};
use redmagic_passes::Pipeline;

#[test]
fn lists_of_passes() {
    assert_eq!(Pipeline::default().to_string(), "params,forward,flags,dce");
    assert_eq!(Pipeline::parse(" fold, dce ").unwrap().to_string(), "fold,dce");
    assert_eq!(Pipeline::parse("").unwrap().to_string(), "");
    let error = Pipeline::parse("fold,magic").unwrap_err();
    assert_eq!(error.to_string(), "unknown pass 'magic' (known: fold, forward, params, flags, dce)");
}

#[test]
fn the_empty_pipeline_changes_nothing() {
    let before = trace("trace t {\nseg0():\n  v0: i64 = const 5\n  leave exit0\nexit0 @0x40 {}\n}");
    let (after, _) = optimised(&before, "");
    assert_eq!(before, after);
}

const LOOP: &str = "trace t {
seg0():
  v0: i64 = slot rax
  v1: i64 = slot rcx
  v2: i64 = slot rdx
  v3: i64 = const 5
  jump seg1(v0, v1, v3, v2)
seg1(v4: i64 = rax, v5: i64 = rcx, v6: i64 = rbx, v7: i64):
  v8: i64 = const 1
  v9: i64 = sub v4, v8
  v10: i64 = const 0
  v11: i1 = eq v9, v10
  guard_not v11, exit0
  v12: i64 = add v7, v5
  v13: i64 = const 5
  jump seg1(v9, v5, v13, v12)
exit0 @0x40 { rax = v9, rcx = v5, rbx = v6 }
}";

#[test]
fn parameters_that_never_change_disappear() {
    let before = trace(LOOP);
    let (after, stats) = optimised(&before, "params");
    assert_eq!(stats.params_removed, 2, "{after}");
    let (after, _) = optimised(&before, "params,dce");
    let printed = after.to_string();
    assert!(printed.contains("seg1(v4: i64 = rax)"), "{printed}");
    assert!(printed.contains("exit0 @0x40 { rax = v9, rbx = 5 }"), "{printed}");
    every_subset(LOOP, &guest(&[(Slot::RAX, 6)]));
}

#[test]
fn flags_that_only_exits_need_become_recipes() {
    let text = "trace t {
seg0():
  v0: i64 = slot rax
  v1: i64 = slot rcx
  v2: i32 = fl_sub v0, v1
  v3: i1 = cond.b v2
  v4: i64 = const 3
  v5: i32 = fl_inc v0, v3
  v6: i1 = ne v0, v4
  guard v6, exit0
  v7: i8 = const 2
  v8: i32 = fl_shl v1, v7, v5
  v9: i1 = cond.o v8
  guard_not v9, exit1
  leave exit2
exit0 @0x40 { flags = v5 }
exit1 @0x50 { flags = v8 }
exit2 @0x60 { rax = v1, flags = v5 }
}";
    let (after, stats) = optimised(&trace(text), "fold,flags,dce");
    // fl_shl stays, because a guard reads its overflow flag; it uses fl_inc.
    assert_eq!(stats.sunk, 0, "{after}");
    let text = text.replace("cond.o v8", "cond.b v8");
    let (after, stats) = optimised(&trace(&text), "fold,flags,dce");
    assert_eq!(stats.sunk, 3, "{after}");
    assert!(after.segments.values().all(|s| s.insts.iter().all(|v| !after.insts[*v].op.is_flags())), "{after}");
    assert!(after.to_string().contains("fl_inc(v0, ult(v0, v1))"), "{after}");
    every_subset(&text, &guest(&[(Slot::RAX, 6)]));
}

#[test]
fn what_nobody_uses_disappears() {
    let text = "trace t {
seg0():
  v0: i64 = slot rax
  v1: i64 = load [v0 + 8]
  v2: i64 = const 3
  v3: i64 = udiv v1, v2
  v4: i64 = slot rcx
  store i64 [v0], v4
  leave exit0
exit0 @0x40 { rcx = v4 }
}";
    let (after, stats) = optimised(&trace(text), "dce");
    assert_eq!((stats.dead, stats.unchanged, after.len()), (3, 1, 3), "{after}");
    assert!(after.insts.values().any(|inst| inst.op == Opcode::Udiv));
    every_subset(text, &guest(&[(Slot::RAX, 0x6000)]));
}

#[test]
fn a_slot_that_a_call_may_have_changed_stays_in_the_exit() {
    let text = "trace t {
seg0():
  v0: i64 = slot rcx
  v1: i64 = const 0x9000
  v2: i64 = const 0x40
  call v1 ret v2 state exit0 effect any -> seg1
seg1():
  leave exit1
exit0 @0x3b { rcx = v0 }
exit1 @0x40 { rcx = v0 }
}";
    let (_, stats) = optimised(&trace(text), "dce");
    assert_eq!(stats.unchanged, 0);
    every_subset(text, &guest(&[]));
}
