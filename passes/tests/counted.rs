//! Guards on an index that grows, or on a count that falls: the second copy does without them, and ends before the index reaches
//! its bound, and the count 0.

mod common;

use common::{counted_loop, guest, trace};
use redmagic_ir::sandbox::{TestGuest, compare};
use redmagic_ir::{Opcode, Slot, Trace};
use redmagic_passes::{Pipeline, optimise};

const FUEL: u64 = 20_000;

/// A loop over the index rdx, which grows by what memory at rbx + 8 holds, while `test` of it (v20) and rcx (v2) is as expected.
fn text(test: &str, guard: &str) -> String {
    let body = format!(
        "
  v20: i64 = add v12, v8
  v21: i1 = {test}
  {guard} v21, exit1
  v22: i64 = load [v1 + 8] @0x5008=0x1
  v23: i64 = load [v1] @0x5000=0x2
  v24: i64 = add v23, v12
  store i64 [v1], v24 @0x5000=0x9
  v25: i64 = add v12, v22"
    );
    let exits = "exit0 @0x40 { rax = v9, rdx = v12 }\nexit1 @0x44 { rax = v9, rdx = v12 }";
    counted_loop("rsp", ", v12: i64 = rdx", ", v3", &body, ", v25", exits)
}

fn state(count: u64, index: u64, bound: u64, step: u64) -> TestGuest {
    let mut guest = guest(&[(Slot::RAX, count), (Slot::RBX, 0x5000), (Slot::RCX, bound), (Slot::RDX, index)]);
    guest.memory.set(0x5008, 8, u128::from(step));
    guest
}

fn guards(trace: &Trace) -> usize {
    let insts = trace.segments.values().flat_map(|segment| &segment.insts);
    insts.filter(|value| matches!(trace.insts[**value].op, Opcode::Guard | Opcode::GuardNot)).count()
}

#[test]
fn the_bound_is_met_exactly() {
    const EDGE: u64 = u64::MAX;
    for (test, guard) in
        [("ult v20, v2", "guard"), ("ule v20, v2", "guard"), ("ule v2, v20", "guard_not"), ("ult v2, v20", "guard_not")]
    {
        let before = trace(&text(test, guard));
        let mut after = before.clone();
        optimise(&mut after, &Pipeline::default());
        assert_eq!(guards(&after), 3, "two, and one of them again: {after}");
        let mut ends = 0;
        for index in [0, 1, 2, 5, 8, 9, 10, 11, 300, EDGE - 9, EDGE - 1, EDGE, 1 << 63] {
            for bound in [0, 1, 2, 9, 10, 40, 600, EDGE - 8, EDGE - 1, EDGE, 1 << 63, (1 << 63) + 5] {
                for (count, step) in [(0, 1), (1, 1), (7, 1), (400, 1), (20, 0), (20, 2), (20, EDGE)] {
                    let guest = state(count, index, bound, step);
                    let same = compare(&before, &after, &guest, FUEL);
                    ends += usize::from(same.unwrap_or_else(|difference| {
                        panic!("{test}, index {index:#x}, bound {bound:#x}, {count} times, step {step:#x}: {difference}\n{after}")
                    }));
                }
            }
        }
        assert!(ends > 1000, "{ends}");
    }
}

/// A loop that counts down what memory at rbx + 16 holds, `left` when it was recorded, and notes a number that it makes of the
/// count at rbx + 24.
fn countdown(left: u64) -> String {
    let body = format!(
        "
  v20: i64 = load [v1 + 16] @0x5010={left:#x}
  v21: i1 = eq v20, v7
  guard_not v21, exit1
  v22: i64 = add v20, v8
  store i64 [v1 + 16], v22 @0x5010={left:#x}
  v23: i64 = add v12, v20
  v24: i64 = xor v23, v2
  store i64 [v1 + 24], v24 @0x5018=0x1"
    );
    let exits = "exit0 @0x40 { rax = v9, rdx = v12 }\nexit1 @0x44 { rax = v9, rdx = v12 }";
    counted_loop("rsp", ", v12: i64 = rdx", ", v3", &body, ", v23", exits)
}

#[test]
fn a_count_ends_at_zero() {
    for (left, guards_left) in [(1000, 3), (33, 3), (32, 4), (5, 4)] {
        let before = trace(&countdown(left));
        let mut after = before.clone();
        optimise(&mut after, &Pipeline::default());
        assert_eq!(guards(&after), guards_left, "two, and one or both of them again: {after}");
        for stored in [0, 1, 2, 3, 31, 32, 33, 399, 400, 401, 1 << 63, u64::MAX, u64::MAX - 1] {
            for count in [0, 1, 2, 3, 50, 399, 400, 401, 3000] {
                let mut guest = guest(&[(Slot::RAX, count), (Slot::RBX, 0x5000), (Slot::RCX, 77), (Slot::RDX, 5)]);
                guest.memory.set(0x5010, 8, u128::from(stored));
                let same = compare(&before, &after, &guest, FUEL * 10);
                let ended =
                    same.unwrap_or_else(|difference| panic!("{stored:#x} left, {count} times: {difference}\n{after}"));
                assert!(ended, "{stored:#x} left, {count} times");
            }
        }
    }
}
