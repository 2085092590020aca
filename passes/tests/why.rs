//! The reasons that passes note for what they leave.

mod common;

use common::trace;
use redmagic_ir::{Opcode, Trace, Value};
use redmagic_passes::{Pipeline, Reasons, optimise, optimise_explained};

/// The trace as the passes leave it, and why.
fn explained(text: &str, passes: &str) -> (Trace, Reasons) {
    let mut result = trace(text);
    let mut same = result.clone();
    let pipeline = Pipeline::parse(passes).unwrap();
    let (stats, reasons) = optimise_explained(&mut result, &pipeline);
    assert_eq!(optimise(&mut same, &pipeline).rewrites(), stats.rewrites());
    assert_eq!(same.to_string(), result.to_string(), "explaining changes nothing");
    (result, reasons)
}

/// The reasons for the loads, stores and guards of the last segments, from number `first` on.
fn list(trace: &Trace, reasons: &Reasons, first: usize) -> Vec<String> {
    let insts = trace.segments.values().skip(first).flat_map(|segment| &segment.insts);
    let accesses = insts.filter(|value| {
        matches!(trace.insts[**value].op, Opcode::Load | Opcode::Store | Opcode::Guard | Opcode::GuardNot)
    });
    let reason = |value: Value| {
        let reasons: Vec<_> = reasons.of(value).iter().map(|(pass, reason)| format!("{pass}: {reason}")).collect();
        format!("{} | {}", trace.insts[value].op.name(), reasons.join("; "))
    };
    accesses.map(|value| reason(*value)).collect()
}

#[test]
fn within_an_iteration() {
    let (trace, reasons) = explained(
        "trace t {
seg0():
  v0: i64 = slot rbx
  v1: i64 = slot rbp
  v2: i64 = load [v0 + 8]
  v3: i64 = const 7
  store i64 [v1], v3
  v5: i64 = load [v0 + 8]
  v6: i1 = ult v5, v2
  guard v6, exit0
  store i8 [v0 + 8], v20
  v9: i64 = load [v0 + 8]
  v11: i64 = add v9, v5
  leave exit1
exit0 @0x40 {}
exit1 @0x44 { rax = v11 }
}"
        .replace("  v3: i64 = const 7\n", "  v3: i64 = const 7\n  v20: i8 = const 9\n")
        .as_str(),
        "forward",
    );
    let found = list(&trace, &reasons, 0);
    let store =
        trace.segments[trace.entry()].insts.iter().find(|value| trace.insts[**value].op == Opcode::Store).unwrap();
    let second =
        trace.segments[trace.entry()].insts.iter().filter(|value| trace.insts[**value].op == Opcode::Store).nth(1);
    let expected = [
        "load | forward: nothing is known of this memory before".to_owned(),
        "store | forward: exit0 may see it".to_owned(),
        format!("load | forward: a store ({store}) may be to the same memory: nothing says that v1 and v0 are apart"),
        "guard | forward: depends on v2, v5".to_owned(),
        "store | forward: exit1 may see it".to_owned(),
        format!("load | forward: a store ({}) has changed a part of it", second.unwrap()),
    ];
    assert_eq!(found, expected, "{trace}");
}

#[test]
fn around_a_call() {
    let (trace, reasons) = explained(
        "trace t {
seg0():
  v0: i64 = slot rbx
  v1: i64 = slot rsp
  v2: i64 = load [v0]
  store i64 [v0 + 8], v2
  v4: i64 = const 0x400
  call v4 ret v4 state exit0 effect any -> seg1
seg1():
  v5: i64 = load [v0]
  leave exit1
exit0 @0x40 {}
exit1 @0x44 { rax = v5 }
}",
        "forward",
    );
    let found = list(&trace, &reasons, 0);
    assert_eq!(found[1], "store | forward: a call may see it", "{trace}");
    assert_eq!(found[2], "load | forward: a call, or an instruction executed verbatim, may have changed it", "{trace}");
}

#[test]
fn in_the_second_copy() {
    let (trace, reasons) = explained(
        "trace t {
seg0():
  v0: i64 = slot rbx
  v1: i64 = slot rbp
  v2: i64 = slot rcx
  v3: i64 = const 1
  v4: i64 = const 4
  jump seg1(v2)
seg1(v5: i64 = rcx):
  v6: i16 = trunc v5
  store i16 [v0 + 62], v6 @0x2003e=0x0
  v8: i8 = load [v0 + 62] @0x2003e=0x0
  v9: i64 = load [v1 + v5*8] @0x30000=0x5
  v10: i1 = ult v9, v4
  guard v10, exit0
  v12: i64 = load [v0 + 8] @0x20008=0x1
  v13: i64 = add v12, v9
  v14: i64 = load [v0 + 16] @0x20010=0x1
  v15: i64 = add v13, v14
  v16: i1 = ne v15, v3
  guard v16, exit1
  v18: i64 = add v5, v3
  jump seg1(v18)
exit0 @0x40 { rcx = v5 }
exit1 @0x44 { rcx = v5 }
}",
        "params,forward,dce,loops,dce",
    );
    let found = list(&trace, &reasons, 2);
    let has = |part: &str| found.iter().any(|line| line.contains(part));
    assert!(
        has("store | loops: other accesses take parts of the same bytes") || has("stores cannot wait"),
        "{found:#?}\n{trace}"
    );
    assert!(has("load | loops: its address changes with v"), "{found:#?}\n{trace}");
    assert!(has("guard | loops: depends on v"), "{found:#?}\n{trace}");
}

#[test]
fn what_each_run_did_is_there() {
    let (_, reasons) = explained(
        "trace t {\nseg0():\n  v0: i64 = slot rax\n  v1: i64 = const 0\n  v2: i64 = add v0, v1\n  leave exit0\nexit0 @0x40 { rbx = v2 }\n}",
        "fold,dce",
    );
    let runs: Vec<_> = reasons.runs().iter().map(|run| (run.pass, run.before.others, run.after.others)).collect();
    assert_eq!(runs, [("fold", 3, 2), ("dce", 2, 1)]);
    let done: Vec<_> = reasons.runs()[0].rewrites.iter().map(|rewrite| rewrite.what).collect();
    assert_eq!(done, ["add_zero"]);
}
