//! Pipelines, and the passes that are not the walk.

mod common;

use common::{every_subset, guest, optimised, same_effects_on, trace};
use redmagic_ir::{Opcode, Slot};
use redmagic_passes::Pipeline;

#[test]
fn lists_of_passes() {
    assert_eq!(Pipeline::default().to_string(), "params,forward,flags,dce,loops,sink,fuse,dce,place");
    assert_eq!(Pipeline::parse(" fold, dce ").unwrap().to_string(), "fold,dce");
    assert_eq!(Pipeline::parse("").unwrap().to_string(), "");
    let error = Pipeline::parse("fold,magic").unwrap_err();
    assert_eq!(
        error.to_string(),
        "unknown pass 'magic' (known: fold, forward, params, flags, dce, loops, sink, fuse, place)"
    );
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
fn flags_of_dead_operations_are_sunk_with_what_they_use() {
    // `adc` whose overflow decides a move of a register to itself: the condition is dead, the flags are not.
    let adc = "trace t {
seg0():
  v0: i64 = slot rax
  v1: i32 = slot flags
  v2: i64 = slot r10
  v3: i1 = cond.b v1
  v4: i16 = trunc v0
  v5: i16 = const 187
  v6: i32 = fl_adc v4, v5, v3
  v7: i1 = cond.no v6
  v8: i64 = select v7, v2, v2
  leave exit0
exit0 @0x40 { flags = v6 }
}";
    // The same for an `sbb` of a byte in memory.
    let sbb = "trace t {
seg0():
  v0: i64 = slot rbx
  v1: i32 = slot flags
  v2: i64 = slot r11
  v3: i1 = cond.b v1
  v4: i8 = trunc v2
  v5: i8 = load [v0]
  v6: i32 = fl_sbb v4, v5, v3
  v7: i1 = cond.no v6
  v8: i64 = zext v4
  v9: i64 = select v7, v8, v2
  leave exit0
exit0 @0x40 { flags = v6 }
}";
    // A shift by cl keeps the old flags for a count of 0, and the borrow of an `sbb` comes from them.
    let shift = "trace t {
seg0():
  v0: i64 = slot rax
  v1: i64 = slot rcx
  v2: i32 = slot flags
  v3: i8 = trunc v1
  v4: i8 = const 63
  v5: i8 = and v3, v4
  v6: i32 = fl_sub v0, v1
  v7: i32 = fl_shl v0, v5, v6
  v8: i1 = cond.b v7
  v9: i64 = zext v8
  v10: i64 = sub v0, v1
  v11: i64 = sub v10, v9
  v12: i32 = fl_sbb v0, v1, v8
  v13: i1 = cond.ne v2
  guard v13, exit1
  leave exit0
exit0 @0x40 { flags = v12 }
exit1 @0x50 { flags = v7 }
}";
    for (text, sunk) in [(adc, 1), (sbb, 1), (shift, 1)] {
        for list in ["flags", "flags,dce", "flags,flags", "flags,params,fold,flags", "dce,flags", "forward,flags"] {
            let (after, stats) = optimised(&trace(text), list);
            assert!(stats.sunk >= sunk, "{list}: {after}");
        }
        every_subset(text, &guest(&[(Slot::RAX, 6), (Slot::RBX, 0x5000)]));
    }
}

#[test]
fn flags_in_a_resume_exit_become_a_recipe_there_too() {
    let text = "trace t @0x400000 {
region declared 0x1000-0x2000
seg0():
  v0: i64 = slot rax
  v1: i64 = slot rcx
  v2: i64 = add v0, v1
  v3: i32 = fl_add v0, v1
  v4: i32 = load [v2 + 16] @0x1010=3 resume exit0
  v5: i32 = fl_logic v4
  v6: i64 = zext v4
  leave exit1
exit0 @0x400010 { rax = v2, flags = v3 }
exit1 @0x400020 { rax = v6, flags = v5 }
}";
    let (after, stats) = optimised(&trace(text), "flags,fold,dce");
    assert_eq!((stats.sunk, stats.promotions, stats.loads_folded), (2, 1, 1), "{after}");
    assert!(after.to_string().contains("flags = fl_add(v0, v1)"), "{after}");
    let mut base = guest(&[(Slot::RAX, 0x800), (Slot::RCX, 0x800)]);
    base.memory.set(0x1010, 4, 3);
    assert_eq!(same_effects_on(&trace(text), &after, &base, 1, |_| true), 1);
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
