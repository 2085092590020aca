//! Registers that a guard keeps apart: stores behind one leave what is known behind the other.

mod common;

use common::{guest, optimised, same_effects, trace};
use redmagic_ir::Slot;
use redmagic_ir::eval::Outcome;
use redmagic_ir::sandbox::run;

/// A load behind rbx, a store behind rcx, the load again; rbx and rcx were recorded 0x100 bytes apart.
const TEXT: &str = "trace t @0x1000 {
seg0():
  v0: i64 = slot rbx
  v1: i64 = slot rcx
  v2: i64 = slot rdx
  v3: i64 = load [v0 + 8] @0x5008=0x7
  store i64 [v1 + 16], v2 @0x5110=0x9
  v4: i64 = load [v0 + 8] @0x5008=0x7
  leave exit0
exit0 @0x40 { rax = v3, rdx = v4 }
}";

/// What `forward` makes of the text when other passes have been there before.
fn after() -> redmagic_ir::Trace {
    let (after, stats) = optimised(&trace(TEXT), "params,forward,params,forward,dce");
    assert_eq!((stats.roots_apart, stats.loads_forwarded), (1, 1), "{after}");
    after
}

#[test]
fn a_store_behind_another_register_forgets_nothing() {
    let base = guest(&[(Slot::RBX, 0x5000), (Slot::RCX, 0x5100)]);
    assert!(same_effects(&trace(TEXT), &after(), &base) > 0);
}

#[test]
fn registers_that_come_close_leave_before_anything_has_happened() {
    let after = after();
    let leaves_at_start = |distance: i64| {
        let mut guest =
            guest(&[(Slot::RBX, 0x5000), (Slot::RCX, 0x5000_u64.wrapping_add(distance as u64)), (Slot::RDX, 1)]);
        let Ok(Outcome::Exit(exit)) = run(&after, &mut guest, 1000) else { panic!("{after}") };
        after.exits[exit].pc == 0x1000
    };
    // Bytes 8 to 16 behind rbx and 16 to 24 behind rcx overlap at distances from -15 to -1.
    for distance in -40..40 {
        assert_eq!(leaves_at_start(distance), (-15..=-1).contains(&distance), "distance {distance}");
    }
}

#[test]
fn what_was_recorded_close_together_is_not_kept_apart() {
    let text = TEXT.replace("@0x5110", "@0x500c");
    let (_, stats) = optimised(&trace(&text), "params,forward,params,forward,dce");
    assert_eq!((stats.roots_apart, stats.loads_forwarded), (0, 0));
}
