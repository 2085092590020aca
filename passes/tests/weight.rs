//! What counts in an iteration, and what does not.

mod common;

use common::trace;
use redmagic_passes::loop_weight;

#[test]
fn weights_are_those_of_the_documentation() {
    let trace = trace(
        "trace t {
seg0():
  v0: i64 = slot rbx
  v9: i64 = slot rax
  v6: i8 = const 3
  jump seg1(v9)
seg1(v1: i64 = rax):
  v2: i8 = load [v0 + 8]
  v3: i1 = eq v2, v6
  guard v3, exit0
  v4: i64 = load [v0]
  v5: i64 = add v4, v1
  store i64 [v0], v5
  v7: i64 = add v5, v4
  v8: i64 = zext v2
  jump seg1(v5)
exit0 @0x40 { rax = v1 }
}",
    );
    let weight = loop_weight(&trace).unwrap();
    assert_eq!(
        weight.to_string(),
        "6 = loads 1, stores 1, operations 2 (1 for exits), guards 2 x 1; apart: tested loads 1, alias checks 0, strip counter 0"
    );
}

#[test]
fn strip_counters_and_alias_checks_are_listed_apart() {
    let trace = trace(
        "trace t {
seg0():
  v0: i64 = slot rbx
  v1: i64 = slot rbp
  v2: i64 = const 100
  v3: i64 = const -1
  v4: i64 = const 0
  v5: i64 = const -24
  v6: i64 = const 16
  jump seg1(v2)
seg1(v7: i64):
  v8: i64 = load [v1]
  v9: i64 = sub v8, v0
  v10: i64 = add v9, v6
  v11: i1 = ule v10, v5
  guard v11, exit0
  v12: i64 = add v7, v3
  v13: i1 = ne v12, v4
  switch v13 { 1 => seg1(v12) } else seg2()
seg2():
  leave exit1
exit0 @0x40 {}
exit1 @0x44 {}
}",
    );
    let weight = loop_weight(&trace).unwrap();
    assert_eq!((weight.alias_checks, weight.strip, weight.guards), (1, 2, 0));
}

#[test]
fn a_trace_without_a_loop_has_no_weight() {
    assert_eq!(loop_weight(&trace("trace t {\nseg0():\n  leave exit0\nexit0 @0x40 {}\n}")), None);
}
