//! Guards at points: roots that are not there at the start of the trace, kept apart where the lifter has left an exit.

mod common;

use common::{guest, optimised, trace};
use redmagic_ir::eval::Outcome;
use redmagic_ir::sandbox::{TestGuest, compare, run};
use redmagic_ir::{Slot, Trace};

/// An object that a field of rbx points to has `fields` words; they are read, a word behind rcx is written, and they are read
/// again behind a point.
fn text(fields: usize) -> String {
    let mut text = "trace t @0x1000 {
region declared 0x9000-0x9100
seg0():
  v0: i64 = slot rbx
  v1: i64 = slot rcx
  v2: i64 = slot rdx
  v3: i64 = slot rsi
  v4: i64 = load [v0] @0x5000=0x6000
  store i64 [v0 + 64], v2 @0x5040=0x1
"
    .to_owned();
    for at in 0..fields {
        text += &format!("  v{}: i64 = load [v4 + {}] @{:#x}=0x7\n", 10 + at, 8 * at, 0x6000 + 8 * at);
    }
    text += "  store i64 [v1 + 16], v2 @0x7010=0x9\n  v5: i64 = load [v3] @0x9000=0x3 resume exit1\n";
    for at in 0..fields {
        text += &format!("  v{}: i64 = load [v4 + {}] @{:#x}=0x7\n", 30 + at, 8 * at, 0x6000 + 8 * at);
    }
    text += "  store i64 [v0 + 72], v5 @0x5048=0x1\n  leave exit0\nexit0 @0x40 { ";
    let slots = ["rax", "rdi", "r8", "r9", "r10", "r11"];
    for (at, slot) in slots.iter().enumerate().take(fields) {
        text += &format!("{}{slot} = v{}", if at > 0 { ", " } else { "" }, 30 + at);
    }
    text + " }\nexit1 @0x50 { rax = v4 }\n}"
}

/// rcx is `distance` behind the object.
fn state(distance: i64) -> TestGuest {
    let mut guest = guest(&[
        (Slot::RBX, 0x5000),
        (Slot::RCX, 0x6000_u64.wrapping_add(distance as u64)),
        (Slot::RDX, 0x1234),
        (Slot::RSI, 0x9000),
    ]);
    guest.memory.set(0x5000, 8, 0x6000);
    guest.memory.set(0x9000, 8, 3);
    guest
}

/// The guest address where a run ends.
fn end(trace: &Trace, guest: &TestGuest) -> (u64, TestGuest) {
    let mut guest = guest.clone();
    let Ok(Outcome::Exit(exit)) = run(trace, &mut guest, 1000) else { panic!("{trace}") };
    (trace.exits[exit].pc, guest)
}

#[test]
fn what_is_repeated_often_enough_is_kept_apart() {
    let before = trace(&text(6));
    let (after, stats) = optimised(&before, "forward,dce");
    // The first two are not worth a guard.
    assert_eq!((stats.roots_apart, stats.loads_forwarded), (1, 4), "{after}");
    for distance in -80..80 {
        let guest = state(distance);
        let (pc, at_end) = end(&after, &guest);
        // The word 16 bytes behind rcx is one of the object's six.
        assert_eq!(pc == 0x50, (-23..=31).contains(&distance), "distance {distance}");
        if pc == 0x50 {
            let word = |guest: &TestGuest, address| guest.memory.get(address, 8).unwrap();
            assert_eq!(at_end.slots[Slot::RAX.index()], 0x6000);
            assert_eq!(word(&at_end, 0x5040), 0x1234, "what comes before the point has happened");
            assert_eq!(word(&at_end, 0x5048), word(&guest, 0x5048), "what comes behind it has not");
        } else {
            assert!(compare(&before, &after, &guest, 1000).unwrap(), "distance {distance}");
        }
    }
}

#[test]
fn what_is_repeated_seldom_is_loaded_again() {
    let (after, stats) = optimised(&trace(&text(2)), "forward,dce");
    assert_eq!((stats.roots_apart, stats.loads_forwarded), (0, 0), "{after}");
    assert!(!after.to_string().contains("exit1"), "{after}");
}

#[test]
fn later_walks_find_the_guard() {
    let (once, _) = optimised(&trace(&text(6)), "forward,dce");
    let (twice, stats) = optimised(&once, "forward,dce");
    assert_eq!((stats.roots_apart, stats.loads_forwarded), (0, 0), "{twice}");
    assert_eq!(twice.to_string(), once.to_string());
}

#[test]
fn without_a_point_behind_both_roots_there_is_no_guard() {
    for (from, to) in [
        // No point; one in front of the root; what was recorded overlaps.
        (" resume exit1", ""),
        ("  v4: i64 = load [v0]", "  v6: i64 = load [v3] @0x9000=0x3 resume exit2\n  v4: i64 = load [v0]"),
        ("@0x7010", "@0x6010"),
    ] {
        let mut text = text(6).replace(from, to);
        if to.contains("exit2") {
            text = text.replace(" resume exit1", "").replace("\n}", "\nexit2 @0x60 {}\n}");
        }
        let before = trace(&text);
        let (after, stats) = optimised(&before, "forward,dce");
        assert_eq!(stats.roots_apart, 0, "{after}");
        for distance in -60..60 {
            assert!(compare(&before, &after, &state(distance), 1000).unwrap(), "distance {distance}");
        }
    }
}

#[test]
fn frames_of_the_trace_need_no_guard() {
    // A store through a loaded pointer does not change what was pushed, wherever the pointer leads.
    let text = "trace t @0x1000 {
region declared 0x9000-0x9100
seg0():
  v0: i64 = slot rbx
  v1: i64 = slot rsp
  v2: i64 = slot rdx
  v3: i64 = slot rsi
  v4: i64 = load [v0] @0x5000=0x6000
  v5: i64 = const -64
  v6: i64 = add v1, v5
  store i64 [v6 + 8], v2 @0x7ffeffc8=0x1
  store i64 [v6 + 16], v3 @0x7ffeffd0=0x1
  store i64 [v4], v2 @0x6000=0x1
  v7: i64 = load [v3] @0x9000=0x3 resume exit1
  v8: i64 = load [v6 + 8] @0x7ffeffc8=0x1
  v9: i64 = load [v6 + 16] @0x7ffeffd0=0x1
  leave exit0
exit0 @0x40 { rax = v8, rcx = v9, rdi = v7, rsp = v6 }
exit1 @0x50 { rsp = v6 }
}";
    let (after, stats) = optimised(&trace(text), "forward,dce");
    assert_eq!((stats.roots_apart, stats.loads_forwarded), (0, 2), "{after}");
}
