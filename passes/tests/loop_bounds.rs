//! The pass `loops`: accesses whose bounds signed comparisons give, and varying loads that are repeated.

mod common;

use common::{guest, optimised, trace};
use redmagic_ir::Slot;
use redmagic_ir::sandbox::{TestGuest, compare, variations};
use redmagic_passes::{Weight, loop_weight};

const FUEL: u64 = 10_000;
const CELL: u64 = 0x5000;
const STRING: u64 = 0x6000;

/// A loop over rax, down to 0, that adds bytes of the string at rcx, which has rdx bytes and is indexed from 1, to the word at
/// rbx. `guards` are on v9, the index, and v3, the length; v7 is 0, v6 is 1, v8 is -1.
fn text(guards: &str, rest: &str) -> String {
    format!(
        "trace t {{
seg0():
  v0: i64 = slot rax
  v1: i64 = slot rbx
  v2: i64 = slot rcx
  v3: i64 = slot rdx
  v6: i64 = const 1
  v7: i64 = const 0
  v8: i64 = const -1
  jump seg1(v0)
seg1(v9: i64 = rax):
  v10: i1 = ne v9, v8
  guard v10, exit0
{guards}
  v23: i64 = add v2, v9
  v24: i8 = load [v23 - 1] @0x6000=0x1
  v25: i64 = zext v24
  v26: i64 = load [v1] @0x5000=0x1
  v27: i64 = add v26, v25
  store i64 [v1], v27 @0x5000=0x9
{rest}
  v11: i64 = add v9, v8
  jump seg1(v11)
exit0 @0x40 {{ rax = v9 }}
exit1 @0x44 {{ rax = v9 }}
}}"
    )
}

fn state(index: i64, string: u64, length: u64) -> TestGuest {
    let values = [(Slot::RAX, index as u64), (Slot::RBX, CELL), (Slot::RCX, string), (Slot::RDX, length)];
    let mut guest = guest(&values);
    (0..80).for_each(|at| guest.memory.set(CELL - 40 + at, 1, u128::from(at.wrapping_mul(29) & 255)));
    guest
}

/// Optimises, compares at all distances and lengths, and weighs an iteration.
fn weighed(text: &str) -> Weight {
    let before = trace(text);
    let (after, stats) = optimised(&before, "loops,dce");
    assert_eq!(stats.loops_copied, 1, "{stats}\n{after}");
    let check = |guest: &TestGuest| {
        compare(&before, &after, guest, FUEL).unwrap_or_else(|difference| panic!("{difference}\n{before}\n{after}"))
    };
    let mut compared = 0;
    for (index, length) in
        [(5, 9), (9, 9), (10, 9), (0, 9), (1, 1), (2, 0), (3, 1 << 63), (20, 1 << 49), (20, u64::MAX)]
    {
        for by in [-30i64, -20, -12, -9, -8, -5, -1, 0, 1, 4, 8, 9, 30, 0x1000] {
            compared += usize::from(check(&state(index, CELL.wrapping_add(by as u64), length)));
        }
    }
    compared += variations(&before, &state(5, STRING, 9), 60).iter().filter(|guest| check(guest)).count();
    assert!(compared > 100, "{compared}");
    loop_weight(&after).unwrap()
}

#[test]
fn signed_comparisons_bound_an_index() {
    for guards in [
        "  v20: i1 = sle v9, v7\n  guard_not v20, exit1\n  v21: i1 = slt v3, v9\n  guard_not v21, exit1",
        "  v20: i1 = slt v7, v9\n  guard v20, exit1\n  v21: i1 = sle v9, v3\n  guard v21, exit1",
        "  v20: i1 = sle v6, v9\n  guard v20, exit1\n  v21: i1 = slt v9, v3\n  guard v21, exit1",
        "  v21: i1 = sle v3, v9\n  guard_not v21, exit1\n  v20: i1 = slt v9, v7\n  guard_not v20, exit1",
        "  v21: i1 = slt v9, v3\n  guard v21, exit1\n  v20: i1 = slt v9, v6\n  guard_not v20, exit1",
    ] {
        let weight = weighed(&text(guards, ""));
        assert_eq!((weight.loads, weight.stores), (1, 0), "{guards}");
    }
}

#[test]
fn half_a_bound_is_none() {
    for guards in [
        // Nothing below, nothing above, a negative least number, zero included where one is taken away.
        "  v21: i1 = slt v3, v9\n  guard_not v21, exit1",
        "  v20: i1 = sle v9, v7\n  guard_not v20, exit1",
        "  v20: i1 = sle v8, v9\n  guard v20, exit1\n  v21: i1 = slt v9, v3\n  guard v21, exit1",
        "  v20: i1 = sle v7, v9\n  guard v20, exit1\n  v21: i1 = sle v9, v3\n  guard v21, exit1",
    ] {
        let (_, stats) = optimised(&trace(&text(guards, "")), "loops,dce");
        assert_eq!(stats.loop_refusals, ["nothing gained"], "{guards}");
    }
}

const BOUNDED: &str = "  v20: i1 = sle v9, v7\n  guard_not v20, exit1\n  v21: i1 = slt v3, v9\n  guard_not v21, exit1";

#[test]
fn a_varying_load_is_not_repeated_while_nothing_is_stored() {
    let again = "  v30: i8 = load [v23 - 1] @0x6000=0x1\n  v31: i64 = zext v30\n  v32: i64 = add v27, v31\n  store i64 [v1], v32 @0x5000=0x9";
    let weight = weighed(&text(BOUNDED, again));
    assert_eq!((weight.loads, weight.stores), (1, 0));
    // A store that cannot wait is in the way.
    let store = "  store i8 [v23 - 1], v24 @0x6000=0x9\n";
    let weight = weighed(&text(BOUNDED, &format!("{store}{again}")));
    assert_eq!((weight.loads, weight.stores), (2, 1));
    // Other widths and places are other loads.
    for other in [again.replace("v23 - 1", "v23 - 2"), again.replace("v30: i8", "v30: i16")] {
        let weight = weighed(&text(BOUNDED, &other));
        assert_eq!(weight.loads, 2, "{other}");
    }
}
