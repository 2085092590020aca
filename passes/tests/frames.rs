//! Frames that a trace pushes: what is private, and what must not be taken for it.
//!
//! Each text has a store that may hit a cell of which the optimiser believes to know the contents; the guests let it
//! hit.

mod common;

use common::{every_subset, guest, optimised, same_effects, trace};
use redmagic_ir::Slot;

const STACK: u64 = 0x7fff_0000;

/// Loads that the optimiser forwards in `text`, which must do the same before and after.
fn forwarded(text: &str, slots: &[(Slot, u64)]) -> u32 {
    every_subset(text, &guest(slots));
    let before = trace(text);
    let (after, _) = optimised(&before, "forward");
    assert!(same_effects(&before, &after, &guest(slots)) > 0);
    optimised(&before, "forward,dce").1.loads_forwarded
}

/// A traced call at the stack pointer `RSP`, a store through rdi in the callee, and the return.
const CALL: &str = "  v20: i64 = const -8
  v21: i64 = add RSP, v20
  v22: i64 = const 0x400123
  store i64 [v21], v22
  guard v9, exit0
  store i64 [v2], v2
  v23: i64 = load [v21]
  v24: i64 = const 8
  v25: i64 = add v21, v24
";

#[test]
fn a_loop_that_leaves_the_stack_pointer_as_it_is_has_private_frames() {
    let text = format!(
        "trace t {{
seg0():
  v0: i64 = slot rsp
  v1: i64 = slot rax
  v2: i64 = slot rdi
  v8: i64 = const 0
  jump seg1(v0, v1)
seg1(v3: i64 = rsp, v4: i64 = rax):
  v9: i1 = ne v4, v8
{}  v26: i64 = sub v4, v24
  jump seg1(v25, v26)
exit0 @0x40 {{ rax = v4, rsp = v21 }}
}}",
        CALL.replace("RSP", "v3")
    );
    assert_eq!(forwarded(&text, &[(Slot::RAX, 32), (Slot::RDI, 0x5000)]), 1);
}

#[test]
fn a_loop_that_pops_its_callers_frames_has_none() {
    // The stack pointer rises in each iteration, so that rdi may point to what is pushed.
    let text = format!(
        "trace t {{
seg0():
  v0: i64 = slot rsp
  v1: i64 = slot rax
  v2: i64 = slot rdi
  v8: i64 = const 0
  jump seg1(v0, v1)
seg1(v3: i64 = rsp, v4: i64 = rax):
  v9: i1 = ne v4, v8
{}  v26: i64 = sub v4, v24
  v27: i64 = add v25, v24
  v28: i1 = eq v23, v22
  guard v28, exit1
  jump seg1(v27, v26)
exit0 @0x40 {{ rax = v4, rsp = v21 }}
exit1 @0x50 {{ rax = v23, rsp = v21 }}
}}",
        CALL.replace("RSP", "v3")
    );
    assert_eq!(forwarded(&text, &[(Slot::RAX, 32), (Slot::RDI, STACK + 8)]), 0);
}

#[test]
fn a_stack_pointer_that_came_up_by_a_parameter_is_not_at_entry() {
    // v3 is rsp + 16: what lies below it may be the cell at rsp + 8.
    let text = "trace t {
seg0():
  v0: i64 = slot rsp
  v1: i64 = slot rax
  v2: i64 = const 16
  v4: i64 = add v0, v2
  v5: i64 = load [v0 + 8]
  jump seg1(v4)
seg1(v3: i64 = rsp):
  store i64 [v3 - 8], v1
  v6: i64 = load [v0 + 8]
  v7: i64 = const -8
  v8: i64 = add v0, v7
  v9: i64 = const 3
  v10: i1 = ne v1, v9
  guard v10, exit1
  leave exit0
exit0 @0x40 { rax = v5, rcx = v6, rsp = v3 }
exit1 @0x50 { rsp = v8 }
}";
    assert_eq!(forwarded(text, &[(Slot::RAX, 32)]), 0);
}

#[test]
fn a_frame_address_in_the_anchors_own_frame_has_escaped() {
    // rbx points to the anchor's local at rsp + 16, where the callee leaves the address of its own local.
    let text = "trace t {
seg0():
  v0: i64 = slot rsp
  v1: i64 = slot rax
  v2: i64 = slot rbx
  v3: i64 = const -24
  v4: i64 = add v0, v3
  store i64 [v4 + 8], v1
  store i64 [v0 + 16], v4
  v5: i64 = load [v2]
  store i64 [v5 + 8], v5
  v6: i64 = load [v4 + 8]
  leave exit0
exit0 @0x40 { rax = v6, rsp = v4 }
}";
    assert_eq!(forwarded(text, &[(Slot::RBX, STACK + 16)]), 0);
}

#[test]
fn a_frame_address_in_a_frame_is_followed() {
    // The callee's saved frame pointer is held at rsp - 24; what is loaded from elsewhere is no frame address.
    let text = "trace t {
seg0():
  v0: i64 = slot rsp
  v1: i64 = slot rbx
  v2: i64 = slot rdi
  v3: i64 = const -16
  v4: i64 = add v0, v3
  store i64 [v4 + 8], v1
  store i64 [v4 - 8], v4
  v5: i64 = load [v4 + 8]
  v6: i64 = load [v4 - 8]
  store i64 [v2], v5
  store i64 [v6], v2
  v7: i64 = load [v4]
  v8: i64 = load [v4 + 8]
  v9: i64 = load [v2]
  leave exit0
exit0 @0x40 { rax = v7, rcx = v8, rdx = v9, rsp = v4 }
}";
    // All but the frame pointer's own cell, of which the walk learns at once.
    assert_eq!(forwarded(text, &[(Slot::RDI, 0x5000)]), 5);
}

#[test]
fn a_frame_address_in_a_parameter_is_one() {
    let text = "trace t {
seg0():
  v0: i64 = slot rsp
  v1: i64 = slot rax
  v2: i64 = const -16
  v3: i64 = add v0, v2
  store i64 [v3], v1
  jump seg1(v3)
seg1(v4: i64 = rbp):
  store i64 [v4], v4
  v5: i64 = load [v3]
  leave exit0
exit0 @0x40 { rax = v5, rbp = v4, rsp = v3 }
}";
    assert_eq!(forwarded(text, &[]), 0);
}

#[test]
fn what_equals_a_frame_address_is_one() {
    // Behind the guard v6 stands for the frame address that was loaded, and so does what v8 selects.
    let text = "trace t {
seg0():
  v0: i64 = slot rsp
  v1: i64 = slot rax
  v2: i64 = slot rcx
  v3: i64 = const -32
  v4: i64 = add v0, v3
  store i64 [v4], v4
  store i64 [v4 + 16], v1
  v5: i64 = load [v4 + v2*8]
  v6: i64 = load [v1]
  v7: i1 = eq v5, v6
  guard v7, exit1
  v8: i64 = select v7, v5, v0
  store i64 [v8 + 16], v2
  v9: i64 = load [v4 + 16]
  leave exit0
exit0 @0x40 { rax = v9, rsp = v4 }
exit1 @0x50 { rax = v5, rsp = v4 }
}";
    let mut base = guest(&[(Slot::RAX, 0x5000), (Slot::RCX, 0)]);
    base.memory.set(0x5000, 8, u128::from(STACK - 32));
    let before = trace(text);
    let (after, _) = optimised(&before, "forward");
    assert!(same_effects(&before, &after, &base) > 0);
}

#[test]
fn a_call_returns_with_its_stack_pointer() {
    let text = "trace t {
seg0():
  v0: i64 = slot rsp
  v1: i64 = slot rdi
  v2: i64 = const DOWN
  v3: i64 = add v0, v2
  v4: i64 = const 0x9000
  v5: i64 = const 0x40
  call v4 ret v5 state exit0 effect any -> seg1
seg1():
  v6: i64 = slot rsp
  v7: i64 = slot rax
  store i64 [v6 - 8], v7
  store i64 [v1], v1
  v8: i64 = load [v6 - 8]
  v9: i64 = const -8
  v10: i64 = add v6, v9
  leave exit1
exit0 @0x3b { rsp = v3 }
exit1 @0x50 { rcx = v8, rsp = v10 }
}";
    assert_eq!(forwarded(&text.replace("DOWN", "-32"), &[(Slot::RDI, 0x5000)]), 1);
    assert_eq!(forwarded(&text.replace("DOWN", "32"), &[(Slot::RDI, STACK + 24)]), 0);
}

#[test]
fn addresses_of_a_thread_are_not_promoted() {
    let text = "trace t @0x400000 {
region declared 0x7fff0000-0x7fff1000
region declared 0x1000-0x2000
seg0():
  v0: i64 = slot rsp
  v1: i64 = slot fs
  v2: i64 = slot rcx
  v3: i32 = load [v0 + 16] @0x7fff0010=3 resume exit1
  v4: i32 = load [v1 + 16] @0x1010=3 resume exit1
  v5: i64 = zext v3
  v6: i64 = zext v4
  leave exit0
exit0 @0x400100 { rax = v5, rdx = v6 }
exit1 @0x400000 {}
}";
    let (after, stats) = optimised(&trace(text), "forward,dce");
    assert_eq!((stats.promotions, stats.promotions_refused), (0, 2), "{after}");
    let (_, stats) = optimised(&trace(text), "fold,dce");
    assert_eq!(stats.promotions, 0);
}

/// A frame is pushed, left, and pushed again behind a call that has no effect but overwrites it with its own: what the first
/// one held is not there any more.
fn frame_twice(escapes: bool, effect: &str) -> String {
    let escape = if escapes { "store i64 [v2], v4" } else { "store i64 [v2], v1" };
    format!(
        "trace t {{
seg0():
  v0: i64 = slot rsp
  v1: i64 = slot rax
  v2: i64 = slot rdi
  v3: i64 = const -16
  v4: i64 = add v0, v3
  {escape}
  store i64 [v4], v1
  v5: i64 = const 0x7000
  v6: i64 = const 0x1234
  v7: i1 = eq v1, v2
  guard_not v7, exit1
  call v5 ret v6 state exit0 effect {effect} -> seg1
seg1():
  store i64 [v4], v1
  v8: i64 = const 0
  leave exit2
exit0 @0x40 {{}}
exit1 @0x44 {{ rsp = v4 }}
exit2 @0x48 {{ rsp = v4, rdx = v8 }}
}}"
    )
}

#[test]
fn calls_without_effect_overwrite_what_lies_below_the_stack_pointer() {
    for effect in ["any", "reads", "errno", "none"] {
        for escapes in [false, true] {
            let before = trace(&frame_twice(escapes, effect));
            let (after, stats) = optimised(&before, "forward,dce");
            assert_eq!(stats.stores_removed, 0, "{effect}: {after}");
            assert!(same_effects(&before, &after, &guest(&[(Slot::RDI, 0x5000)])) > 0);
        }
    }
}

/// A frame of 32 bytes is pushed and written, a function is called from it, and its words are read and written again.
const AROUND: &str = "trace t {
seg0():
  v0: i64 = slot rsp
  v1: i64 = slot rdi
  v2: i64 = slot rax
  v3: i64 = const -32
  v4: i64 = add v0, v3
  v5: i64 = const 0x9000
  v6: i64 = const 0x40
  store i64 [v4 + 24], v2
  store i64 [v4 + 8], v1
  store i64 [v4 - 8], v1
  call v5 ret v6 state exit0 effect EFFECT -> seg1
seg1():
  v7: i64 = load [v4 + 24]
  v8: i64 = load [v4 + 8]
  v9: i64 = load [v4 - 8]
  v10: i64 = load [v1]
  store i64 [v4 + 8], v1
  leave exit1
exit0 @0x3b { rsp = v4 }
exit1 @0x50 { rsp = v4, rax = v7, rcx = v8, rdx = v9, rsi = v10 }
}";

#[test]
fn a_callee_does_not_change_frames_that_it_cannot_know() {
    for effect in ["any", "reads", "errno", "none"] {
        let text = AROUND.replace("EFFECT", effect);
        // Not what lies below the stack pointer, where the callee's own frame is.
        assert_eq!(forwarded(&text, &[(Slot::RDI, 0x5000)]), 2, "{effect}");
        let (after, stats) = optimised(&trace(&text), "forward,dce");
        // Who checks a trace against its recording looks at what both have written since the last call.
        assert_eq!(stats.stores_removed, u32::from(effect != "any"), "{effect}: {after}");
    }
    // The stack pointer of the second call is that of the first.
    let twice = AROUND
        .replace("EFFECT", "any")
        .replace(
            "  leave exit1",
            "  call v5 ret v6 state exit2 effect any -> seg2\nseg2():\n  v11: i64 = load [v4 + 24]\n  leave exit1",
        )
        .replace("exit1 @0x50 {", "exit2 @0x4b {}\nexit1 @0x50 { rdi = v11,");
    assert_eq!(forwarded(&twice, &[(Slot::RDI, 0x5000)]), 3);
}

#[test]
fn a_callee_may_change_frames_that_it_can_know() {
    for (from, to) in [
        // In an argument, in memory, in what is left of an earlier computation, with the stack pointer unknown.
        ("exit0 @0x3b { rsp = v4 }", "exit0 @0x3b { rsp = v4, rdi = v4 }"),
        ("  store i64 [v4 - 8], v1", "  store i64 [v1], v4"),
        ("  store i64 [v4 - 8], v1", "  store i64 [v0 + 8], v4"),
        ("exit0 @0x3b { rsp = v4 }", "exit0 @0x3b { rsp = v4, r11 = v4 }"),
        ("exit0 @0x3b { rsp = v4 }", "exit0 @0x3b { rsp = v1 }"),
    ] {
        let text = AROUND.replace("EFFECT", "any").replace(from, to);
        assert_eq!(forwarded(&text, &[(Slot::RDI, 0x5000)]), 0, "{to}");
    }
}
