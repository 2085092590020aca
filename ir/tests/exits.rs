//! Exits of a trace that nothing takes.

use redmagic_ir::{parse_one, verify};

#[test]
fn unused_exits_go_and_the_others_are_numbered_anew() {
    let text = "trace exits @0x10 {
seg0():
  v0: i64 = slot rax
  v1: i64 = load [v0] @0x9000=1 resume exit0
  v2: i64 = const 0
  v3: i1 = eq v1, v2
  guard v3, exit3
  call v1 ret v2 state exit5 effect any -> seg1
seg1():
  leave exit2
exit0 @0x10 {}
exit1 @0x11 { rax = v0 }
exit2 @0x12 { rax = 2 }
exit3 @0x13 { rax = v1 }
exit4 @0x14 {}
exit5 @0x15 { rcx = v1 }
}
";
    let mut trace = parse_one(text).unwrap();
    verify(&trace).unwrap();
    trace.drop_unused_exits();
    verify(&trace).unwrap();
    let expected = text.replace(" resume exit0", "").replace("exit0 @0x10 {}\n", "");
    let expected = expected.replace("exit1 @0x11 { rax = v0 }\n", "").replace("exit4 @0x14 {}\n", "");
    let expected = expected.replace("exit2", "exit0").replace("exit3", "exit1").replace("exit5", "exit2");
    assert_eq!(trace.to_string(), parse_one(&expected).unwrap().to_string());
    assert_eq!(trace.exits.len(), 3);
}
