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

/// What `forward` makes of the text.
fn after() -> redmagic_ir::Trace {
    let (after, stats) = optimised(&trace(TEXT), "forward,dce");
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
    let (_, stats) = optimised(&trace(&text), "forward,dce");
    assert_eq!((stats.roots_apart, stats.loads_forwarded), (0, 0));
}

#[test]
fn pairs_that_nothing_was_concluded_from_are_not_guarded() {
    // Two more loads before the store, of which only one is repeated behind it.
    let text = TEXT
        .replace("  store", "  v5: i64 = slot rsi\n  v6: i64 = load [v5] @0x6000=0x3\n  store")
        .replace("  v5: i64 = slot rsi\n", "")
        .replace("  v2: i64 = slot rdx\n", "  v2: i64 = slot rdx\n  v5: i64 = slot rsi\n")
        .replace("rdx = v4", "rdx = v4, rdi = v6");
    let (after, stats) = optimised(&trace(&text), "forward,dce");
    assert_eq!((stats.roots_apart, stats.loads_forwarded), (1, 1), "{after}");
}

#[test]
fn a_guard_is_found_again_by_later_walks() {
    let (once, _) = optimised(&trace(TEXT), "forward,dce");
    let (twice, stats) = optimised(&once, "forward,dce");
    assert_eq!(stats.roots_apart, 0);
    assert_eq!(twice.to_string(), once.to_string());
}

#[test]
fn one_guard_covers_all_accesses_of_a_pair_but_not_where_it_was_recorded() {
    // The stores behind rcx are on both sides of what is behind rbx: one of them can be kept apart.
    let text = "trace t @0x1000 {
seg0():
  v0: i64 = slot rbx
  v1: i64 = slot rcx
  v2: i64 = slot rdx
  v3: i64 = load [v0 + 8] @0x5008=0x7
  store i64 [v1 + 16], v2 @0x5110=0x9
  store i64 [v1 - 512], v2 @0x4f00=0x9
  v4: i64 = load [v0 + 8] @0x5008=0x7
  leave exit0
exit0 @0x40 { rax = v3, rdx = v4 }
}";
    let (_, stats) = optimised(&trace(text), "forward,dce");
    assert_eq!((stats.roots_apart, stats.loads_forwarded), (0, 0));
    let same_side = text.replace("[v1 - 512], v2 @0x4f00", "[v1 + 512], v2 @0x5300");
    let (after, stats) = optimised(&trace(&same_side), "forward,dce");
    assert_eq!((stats.roots_apart, stats.loads_forwarded), (1, 1), "{after}");
    for distance in [-600, -505, -15, -8, 0, 8, 256] {
        let base = guest(&[(Slot::RBX, 0x5000), (Slot::RCX, 0x5000_u64.wrapping_add_signed(distance))]);
        assert!(same_effects(&trace(&same_side), &after, &base) > 0, "distance {distance}");
    }
}
