//! The walk: facts, memory, frames, constant memory.

mod common;

use common::{every_subset, guest, optimised, same_effects, same_effects_on, trace};
use redmagic_ir::{Opcode, Slot, Trace};

/// How many placed instructions have opcode `op`.
fn count(trace: &Trace, op: Opcode) -> usize {
    let placed = trace.segments.values().flat_map(|segment| &segment.insts);
    placed.filter(|value| trace.insts[**value].op == op).count()
}

#[test]
fn a_setcc_test_jcc_chain_is_one_comparison() {
    let text = "trace t {
seg0():
  v0: i64 = slot rax
  v1: i64 = slot rcx
  v2: i32 = fl_sub v0, v1
  v3: i1 = cond.l v2
  v4: i8 = zext v3
  v5: i64 = zext v4
  v6: i64 = const -256
  v7: i64 = and v0, v6
  v8: i64 = or v7, v5
  v9: i8 = trunc v8
  v10: i8 = and v9, v9
  v11: i32 = fl_logic v10
  v12: i1 = cond.e v11
  guard_not v12, exit0
  v13: i1 = cond.ne v11
  guard v13, exit0
  leave exit1
exit0 @0x40 { rax = v8, flags = v11 }
exit1 @0x50 { rax = v8, flags = v11 }
}";
    let before = trace(text);
    let (after, stats) = optimised(&before, "fold,dce");
    assert_eq!(count(&after, Opcode::GuardNot) + count(&after, Opcode::Guard), 1, "{after}");
    assert_eq!(count(&after, Opcode::Slt) + count(&after, Opcode::Sle), 1, "{after}");
    assert_eq!(count(&after, Opcode::Cond), 0, "{after}");
    assert_eq!(stats.guards_removed, 1);
    every_subset(text, &guest(&[(Slot::RAX, 5), (Slot::RCX, 6)]));
}

#[test]
fn a_guard_makes_facts_for_the_code_behind_it_only() {
    let text = "trace t {
seg0():
  v0: i64 = slot rax
  v1: i64 = const 7
  v2: i1 = eq v0, v1
  v3: i1 = ne v0, v1
  switch v3 { 1 => seg1() } else seg2()
seg1():
  v4: i64 = add v0, v1
  leave exit0
seg2():
  v5: i64 = add v0, v1
  guard v2, exit1
  v6: i64 = add v0, v1
  leave exit2
exit0 @0x40 { rax = v4 }
exit1 @0x50 { rax = v5 }
exit2 @0x60 { rax = v6, rcx = v0 }
}";
    let (after, stats) = optimised(&trace(text), "fold,dce");
    assert_eq!(stats.guards_removed, 1, "{after}");
    assert!(after.to_string().contains("rax = 14"), "{after}");
    every_subset(text, &guest(&[(Slot::RAX, 7)]));
}

#[test]
fn an_order_guard_decides_its_variations() {
    let text = "trace t {
seg0():
  v0: i64 = slot rax
  v1: i64 = slot rcx
  v2: i1 = ult v0, v1
  guard v2, exit0
  v3: i1 = ule v1, v0
  guard_not v3, exit0
  v4: i1 = eq v1, v0
  guard_not v4, exit0
  v5: i1 = ule v0, v1
  guard v5, exit0
  leave exit1
exit0 @0x40 {}
exit1 @0x50 {}
}";
    let (after, stats) = optimised(&trace(text), "fold,dce");
    assert_eq!(stats.guards_removed, 3, "{after}");
    every_subset(text, &guest(&[(Slot::RAX, 7), (Slot::RCX, 9)]));
}

#[test]
fn a_guard_that_always_fails_ends_the_segment() {
    let text = "trace t {
seg0():
  v0: i64 = slot rax
  v1: i1 = ne v0, v0
  guard v1, exit0
  jump seg1(v0)
seg1(v2: i64):
  jump seg1(v2)
exit0 @0x40 {}
}";
    let (after, stats) = optimised(&trace(text), "fold,params,dce");
    assert_eq!(stats.guards_failing, 1);
    assert_eq!(after.segments.len(), 1, "{after}");
    every_subset(text, &guest(&[]));
}

#[test]
fn addresses_take_their_normal_form() {
    let text = "trace t {
seg0():
  v0: i64 = slot rbx
  v1: i64 = slot rcx
  v2: i64 = const 24
  v3: i64 = add v0, v2
  v4: i64 = const 4
  v5: i8 = const 2
  v6: i64 = add v1, v4
  v7: i64 = shl v6, v5
  v8: i64 = load [v3 + v7*2 - 8]
  v9: i64 = const 5
  v10: i64 = load [v3 + v9*8 + 16]
  v11: i64 = const 0x1000
  v12: i64 = load [v11 + v9*4 + 16]
  leave exit0
exit0 @0x40 { rax = v8, rdx = v10, rsi = v12 }
}";
    let (after, _) = optimised(&trace(text), "fold,dce");
    let printed = after.to_string();
    assert!(printed.contains("[v0 + v1*8 + 48]"), "{printed}");
    assert!(printed.contains("[v0 + 80]"), "{printed}");
    every_subset(text, &guest(&[(Slot::RBX, 0x5000)]));
}

#[test]
fn loads_see_stores_wholly_and_in_part() {
    let text = "trace t {
seg0():
  v0: i64 = slot rbx
  v1: i64 = slot rcx
  v2: i64 = slot rdx
  store i64 [v0 + 8], v1
  v3: i64 = load [v0 + 8]
  v4: i16 = load [v0 + 10]
  v5: i64 = load [v0 + 16]
  v6: i64 = load [v0 + 16]
  store i64 [v0 + 16], v5
  store i64 [v0 + 24], v2
  v7: v128 = load [v0 + 16]
  v8: i32 = load [v0 + 14]
  v9: i64 = zext v4
  v10: i64 = high v7
  v11: i64 = zext v8
  leave exit0
exit0 @0x40 { rax = v3, rdx = v9, rsi = v6, rdi = v10, r8 = v11 }
}";
    let before = trace(text);
    let (after, stats) = optimised(&before, "forward,dce");
    assert_eq!((stats.loads_forwarded, stats.stores_removed), (4, 1), "{after}");
    assert_eq!(count(&after, Opcode::Load), 2, "{after}");
    every_subset(text, &guest(&[(Slot::RBX, 0x5000)]));
}

#[test]
fn a_store_through_another_root_ends_what_is_known() {
    let text = "trace t {
seg0():
  v0: i64 = slot rbx
  v1: i64 = slot rcx
  v2: i64 = slot rdx
  store i64 [v0 + 8], v2
  store i64 [v1], v0
  v3: i64 = load [v0 + 8]
  store i32 [v0 + 12], v4
  v4: i32 = const 3
  v5: i64 = load [v0 + 8]
  leave exit0
exit0 @0x40 { rax = v3, rsi = v5 }
}"
    .replace("  store i32 [v0 + 12], v4\n  v4: i32 = const 3\n", "  v4: i32 = const 3\n  store i32 [v0 + 12], v4\n");
    let (_, stats) = optimised(&trace(&text), "forward,dce");
    assert_eq!(stats.loads_forwarded, 0);
    every_subset(&text, &guest(&[(Slot::RBX, 0x5000), (Slot::RCX, 0x5008)]));
}

/// A traced call whose callee saves rbx, stores through rdi, and returns.
const CALL: &str = "trace t {
seg0():
  v0: i64 = slot rsp
  v1: i64 = slot rbx
  v2: i64 = slot rdi
  v3: i64 = const -8
  v4: i64 = const 0x400123
  v5: i64 = add v0, v3
  store i64 [v5], v4
  v6: i64 = const 8
  v7: i64 = sub v5, v6
  store i64 [v7], v1
  v8: i64 = const 0
  v9: i1 = ne v2, v8
  guard v9, exit0
  store i64 [ESCAPE], ADDRESS
  v10: i64 = load [v7]
  v11: i64 = add v7, v6
  v12: i64 = load [v11]
  v13: i64 = add v11, v6
  v14: i1 = eq v12, v4
  guard v14, exit1
  leave exit2
exit0 @0x40 { rbx = v2, rsp = v7 }
exit1 @0x50 { rbx = v10, rsp = v13 }
exit2 @0x400123 { rax = v10, rsp = v13 }
}";

#[test]
fn a_traced_call_keeps_its_frame() {
    let text = CALL.replace("ESCAPE", "v2").replace("ADDRESS", "v1");
    let (after, stats) = optimised(&trace(&text), "forward,dce");
    assert_eq!((stats.loads_forwarded, stats.guards_removed), (2, 1), "{after}");
    assert!(after.to_string().contains("store.frame"), "{after}");
    every_subset(&text, &guest(&[(Slot::RDI, 0x5000)]));
}

#[test]
fn a_frame_whose_address_escapes_is_ordinary_memory() {
    let text = CALL.replace("ESCAPE", "v2").replace("ADDRESS", "v7");
    let (_, stats) = optimised(&trace(&text), "forward,dce");
    assert_eq!((stats.loads_forwarded, stats.guards_removed), (0, 0));
    every_subset(&text, &guest(&[(Slot::RDI, 0x5000)]));
    every_subset(&text, &guest(&[(Slot::RDI, 0x7fff_0000 - 16)]));
}

#[test]
fn without_a_pushed_frame_memory_below_the_stack_pointer_may_be_anyones() {
    let text = "trace t {
seg0():
  v0: i64 = slot rsp
  v1: i64 = slot rdi
  v2: i64 = slot rbx
  store i64 [v0 - 16], v2
  store i64 [v1], v1
  v3: i64 = load [v0 - 16]
  leave exit0
exit0 @0x40 { rax = v3 }
}";
    let (_, stats) = optimised(&trace(text), "forward,dce");
    assert_eq!(stats.loads_forwarded, 0);
    every_subset(text, &guest(&[(Slot::RDI, 0x7fff_0000 - 16)]));
}

#[test]
fn calls_and_native_operations_end_what_is_known() {
    let text = "trace t {
seg0():
  v0: i64 = slot rbx
  v1: i64 = slot rcx
  v2: i64 = const 0x9000
  v3: i64 = const 0x40
  store i64 [v0], v1
  call v2 ret v3 state exit0 effect EFFECT -> seg1
seg1():
  v4: i64 = load [v0]
  v5: i64 = slot rbx
  native native0
  v7: i64 = load [v0]
  leave exit1
exit0 @0x3b {}
exit1 @0x50 { rax = v4, rsi = v5, rdi = v7 }
native0 @0x48 bytes 90 memory
}";
    for (effect, forwarded) in [("any", 0), ("none", 1)] {
        let text = text.replace("EFFECT", effect);
        let (after, stats) = optimised(&trace(&text), "forward,dce");
        assert_eq!(stats.loads_forwarded, forwarded, "{after}");
        every_subset(&text, &guest(&[(Slot::RBX, 0x5000)]));
    }
}

const DECLARED: &str = "trace t @0x400000 {
region declared 0x1000-0x2000
region readonly 0x8000-0x9000
seg0():
  v0: i64 = slot rbx
  v1: i64 = slot rcx
  v2: i64 = slot r13
  v3: i32 = load [v0 + 16] @0x1010=3
  STORE
  v4: i64 = zext v3
  v5: i64 = load [v2 + v4*8] @0x8018=0x400300
  v6: i64 = const 0x400300
  v7: i1 = eq v5, v6
  guard v7, exit0
  leave exit1
exit0 @0x400100 { rax = v4 }
exit1 @0x400300 { rax = v4 }
}";

#[test]
fn a_declared_load_at_entry_is_promoted_and_the_dispatch_folds() {
    let text = DECLARED.replace("STORE", "");
    let (after, stats) = optimised(&trace(&text), "fold,dce");
    assert_eq!((stats.promotions, stats.loads_folded, stats.guards_removed), (2, 2, 1), "{after}");
    assert_eq!(count(&after, Opcode::Load), 0, "{after}");
    let mut base = guest(&[(Slot::RBX, 0x1000), (Slot::gpr(13), 0x8000)]);
    base.memory.set(0x1010, 4, 3);
    base.memory.set(0x8018, 8, 0x400300);
    every_subset(&text, &base);
}

#[test]
fn a_trace_that_writes_to_a_region_does_not_fold_it() {
    let text =
        DECLARED.replace("STORE", "store i8 [v1], v8 @0x1fff=9").replace("  v3: i32", "  v8: i8 = const 9\n  v3: i32");
    let before = trace(&text);
    let (after, stats) = optimised(&before, "fold,forward,dce");
    assert_eq!((stats.promotions, stats.loads_folded), (0, 0), "{after}");
    let mut base = guest(&[(Slot::RBX, 0x1000), (Slot::gpr(13), 0x8000), (Slot::RCX, 0x1010)]);
    base.memory.set(0x8000, 128, 0);
    assert!(same_effects(&before, &after, &base) > 0);
}

#[test]
fn without_a_start_nothing_is_promoted_at_entry() {
    let text = DECLARED.replace("STORE", "").replace(" @0x400000 {", " {");
    let (_, stats) = optimised(&trace(&text), "fold,dce");
    assert_eq!((stats.promotions, stats.promotions_refused), (0, 1));
}

#[test]
fn floating_point_is_not_merged_across_what_may_change_the_rounding() {
    let text = "trace t {
seg0():
  v0: i64 = slot rax
  v1: i64 = slot rcx
  v2: i64 = fadd64 v0, v1
  NATIVE
  v4: i64 = fadd64 v0, v1
  leave exit0
exit0 @0x40 { rdx = v2, rsi = v4 }
native0 @0x48 bytes 90
}";
    let plain = text.replace("  NATIVE\n", "").replace("native0 @0x48 bytes 90\n", "");
    assert_eq!(optimised(&trace(&plain), "fold,dce").1.merged, 1);
    let native = text.replace("NATIVE", "native native0");
    assert_eq!(optimised(&trace(&native), "fold,dce").1.merged, 0);
    every_subset(&native, &guest(&[]));
}

#[test]
fn a_dispatch_through_an_indexed_declared_table_folds() {
    let text = "trace t @0x400000 {
region declared 0x8000-0x9000
seg0():
  v0: i64 = slot rbx
  v1: i64 = load [v0]
  v2: i64 = const 0x8000
  v3: i64 = load [v2 + v1*8] @0x8018=0x400300 resume exit2
  v4: i64 = const 0x400300
  v5: i1 = eq v3, v4
  guard v5, exit0
  leave exit1
exit0 @0x400100 { rax = v3 }
exit1 @0x400300 { rax = v3 }
exit2 @0x400010 { rcx = v1 }
}";
    let (after, stats) = optimised(&trace(text), "fold,dce");
    assert_eq!((stats.promotions, stats.loads_folded, stats.guards_removed), (1, 1, 1), "{after}");
    let mut base = guest(&[(Slot::RBX, 0x5000)]);
    base.memory.set(0x5000, 8, 3);
    base.memory.set(0x8018, 8, 0x400300);
    assert_eq!(same_effects_on(&trace(text), &after, &base, 1, |_| true), 1);
}

#[test]
fn comparisons_of_subnormal_numbers_are_left_to_the_machine() {
    let text = "trace t {
seg0():
  v0: i64 = const 0
  v1: i64 = const BITS
  v2: i1 = flt64 v0, v1
  v3: i64 = zext v2
  leave exit0
exit0 @0x40 { rax = v3 }
}";
    assert_eq!(optimised(&trace(&text.replace("BITS", "1")), "fold,dce").1.folded, 0);
    assert_eq!(optimised(&trace(&text.replace("BITS", "0x3ff0000000000000")), "fold,dce").1.folded, 2);
}

#[test]
fn equalities_that_define_each_other_end() {
    // From v2 = v3 + 8 follows v3 = v2 - 8: taking each for the other for good would never end.
    let text = "trace t {
seg0():
  v0: i64 = slot rbx
  v1: i64 = slot rcx
  v2: i64 = load [v0]
  v3: i64 = load [v1]
  v10: i64 = const 8
  v11: i64 = const -8
  v4: i64 = add v3, v10
  v5: i64 = add v2, v11
  v6: i1 = eq v2, v4
  guard v6, exit0
  v7: i1 = eq v3, v5
  guard v7, exit0
  v8: i64 = load [v5 + 16]
  leave exit1
exit0 @0x40 {}
exit1 @0x44 { rax = v8 }
}";
    let mut base = guest(&[(Slot::RBX, 0x5000), (Slot::RCX, 0x5010)]);
    base.memory.set(0x5000, 8, 0x6008);
    base.memory.set(0x5010, 8, 0x6000);
    every_subset(text, &base);
}

/// What is known of memory behind a call, for each kind of effects: loads of 64 and of 32 bits that are repeated behind it.
#[test]
fn effects_of_calls_decide_what_is_known_behind_them() {
    let text = |effect: &str| {
        format!(
            "trace t {{
seg0():
  v0: i64 = slot rbx
  v1: i64 = load [v0 + 8]
  v2: i32 = load [v0 + 16]
  v3: i64 = const 0x7000
  v4: i64 = const 0x1234
  call v3 ret v4 state exit0 effect {effect} -> seg1
seg1():
  v5: i64 = load [v0 + 8]
  v6: i32 = load [v0 + 16]
  v7: i64 = zext v2
  v8: i64 = zext v6
  leave exit1
exit0 @0x40 {{}}
exit1 @0x48 {{ rdx = v1, rsi = v5, r8 = v7, r9 = v8 }}
}}"
        )
    };
    for (effect, forwarded) in [("any", 0), ("errno", 1), ("reads", 2), ("none", 2)] {
        let before = trace(&text(effect));
        let (after, stats) = optimised(&before, "forward,dce");
        assert_eq!(stats.loads_forwarded, forwarded, "{effect}: {after}");
        assert!(same_effects(&before, &after, &guest(&[(Slot::RBX, 0x5000)])) > 0);
    }
}

/// Equal floating-point operations on both sides of a call are equal if the call leaves the rounding mode alone.
#[test]
fn calls_that_only_compute_leave_the_rounding_mode_alone() {
    for (effect, merged) in [("any", 0), ("errno", 1)] {
        let text = format!(
            "trace t {{
seg0():
  v0: i64 = slot xmm0.lo
  v1: i64 = fadd64 v0, v0
  v3: i64 = const 0x7000
  v4: i64 = const 0x1234
  call v3 ret v4 state exit0 effect {effect} -> seg1
seg1():
  v5: i64 = fadd64 v0, v0
  leave exit1
exit0 @0x40 {{}}
exit1 @0x48 {{ rdx = v1, rsi = v5 }}
}}"
        );
        let (after, stats) = optimised(&trace(&text), "forward,dce");
        assert_eq!(stats.merged, merged, "{effect}: {after}");
    }
}
