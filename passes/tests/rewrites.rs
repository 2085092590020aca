//! With any limit on the number of rewrites, the result is valid and does the same; and the limit names its last rewrite.

mod common;

use common::{guest, same_effects, trace};
use redmagic_ir::{Slot, Trace, verify};
use redmagic_passes::{Pipeline, optimise, optimise_limited};

/// A loop over memory and registers with something for every pass.
fn sample() -> Trace {
    let mut sample = trace(
        "trace sample {
region declared 0x100000-0x100040
seg0():
  v0: i64 = slot rbx
  v1: i64 = slot rbp
  v2: i64 = slot rax
  v3: i64 = slot rcx
  jump seg1(v0, v1, v2, v3)
seg1(v4: i64 = rbx, v5: i64 = rbp, v6: i64 = rax, v7: i64 = rcx):
  v8: i32 = load [v4] @0x100000=0x11
  v9: i64 = zext v8
  v10: i64 = const 1
  v11: i64 = and v9, v10
  v12: i64 = sub v6, v11
  v13: i32 = fl_sub v6, v11
  v14: i1 = cond.e v13
  guard_not v14, exit0
  v15: i64 = load [v5 + 8] @0x300008=0x5
  v16: i64 = add v15, v12
  store i64 [v5 + 8], v16 @0x300008=0x0
  v17: i64 = load [v5 + 8] @0x300008=0x5
  v18: i64 = add v17, v7
  store i64 [v5 + 16], v18 @0x300010=0x0
  v19: i8 = load [v5 + 16] @0x300010=0x5
  v24: i64 = zext v19
  v20: i8 = load [v7 + 3] @0x200003=0x5
  v21: i64 = zext v20
  v22: i64 = const 0x100000
  v23: i1 = ne v21, v22
  guard v23, exit1
  jump seg1(v4, v5, v12, v7)
exit0 @0x40 { rax = v12, rbx = v4, rbp = v5, rcx = v7, rdx = v11, flags = v13 }
exit1 @0x44 { rax = v12, rbx = v4, rbp = v5, rcx = v7, rdx = v24, r8 = v17, flags = v13 }
}",
    );
    sample.start = 0x7000;
    sample
}

#[test]
fn every_limit_leaves_a_trace_that_does_the_same() {
    let before = sample();
    let mut state = guest(&[(Slot::RBX, 0x10_0000), (Slot::RBP, 0x30_0000), (Slot::RAX, 9), (Slot::RCX, 0x20_0000)]);
    state.memory.set(0x10_0000, 4, 0x11);
    let mut full = before.clone();
    let total = optimise(&mut full, &Pipeline::default()).rewrites();
    assert!(total > 30, "{full}");
    let mut parts = Vec::new();
    for limit in 0..=total {
        let mut after = before.clone();
        let stats = optimise_limited(&mut after, &Pipeline::default(), limit);
        assert_eq!(stats.rewrites(), limit);
        if let Err(errors) = verify(&after) {
            panic!("limit {limit}: {errors:?}\n{after}");
        }
        assert!(same_effects(&before, &after, &state) > 10, "limit {limit}");
        let last = stats.last_rewrite();
        assert_eq!(last.map_or(0, |last| last.number), limit);
        parts.extend(last.map(|last| (last.pass, last.what)));
    }
    for part in [
        ("forward", "load forwarded"),
        ("forward", "constant folding"),
        ("params", "parameter"),
        ("flags", "flags in exits"),
        ("dce", "dead code"),
        ("loops", "cell in a register"),
        ("loops", "second copy"),
    ] {
        assert!(parts.contains(&part), "{part:?} is not among {parts:?}");
    }
}

#[test]
fn a_limit_says_what_it_allowed_last() {
    let mut trace = trace(
        "trace t {\nseg0():\n  v0: i64 = slot rax\n  v1: i64 = const 0\n  v2: i64 = add v0, v1\n  leave exit0\nexit0 @0x40 { rbx = v2 }\n}",
    );
    let stats = optimise_limited(&mut trace, &Pipeline::parse("fold").unwrap(), 1);
    assert_eq!(stats.last_rewrite().unwrap().to_string(), "rewrite 1: pass fold, add_zero, at v2");
}
