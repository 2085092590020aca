//! What optimisers of traces have got wrong elsewhere, each as a small trace on which the same mistake would show.
//!
//! Every test runs every subset of the passes on its trace and compares many states before and after; besides, it looks
//! for what must still be there in what the whole pipeline makes of it.

mod common;

use common::{counted_loop, every_subset, guest, optimised, same_effects, trace};
use redmagic_ir::eval::Guest;
use redmagic_ir::sandbox::{TestGuest, run};
use redmagic_ir::{Opcode, Slot, Terminator, Trace};
use redmagic_passes::Pipeline;

/// What the whole pipeline makes of a trace. All subsets of the passes are compared on the first guest, all of them on the
/// others.
fn hazard(text: &str, guests: &[TestGuest]) -> Trace {
    let before = trace(text);
    let after = optimised(&before, &Pipeline::default().to_string()).0;
    every_subset(text, &guests[0]);
    for guest in guests {
        assert!(same_effects(&before, &after, guest) > 0, "no run reached an exit");
    }
    after
}

fn count(trace: &Trace, op: Opcode) -> usize {
    trace.segments.values().flat_map(|segment| &segment.insts).filter(|value| trace.insts[**value].op == op).count()
}

/// A loop that counts rax down; rsi is v4.
fn counted(params: &str, starts: &str, body: &str, args: &str, exits: &str) -> String {
    counted_loop("rsi", params, starts, body, args, exits)
}

const RBX: u64 = 0x5000;
const RCX: u64 = 0x6000;

/// Nine iterations, with memory at rbx and rcx.
fn state(rbx: u64, rcx: u64, cells: &[(u64, u64)]) -> TestGuest {
    let mut guest = guest(&[(Slot::RAX, 9), (Slot::RBX, rbx), (Slot::RCX, rcx), (Slot::RDX, 8), (Slot::RSI, 3)]);
    for (address, value) in cells {
        guest.memory.set(*address, 8, u128::from(*value));
    }
    guest
}

#[test]
fn a_load_is_not_moved_across_a_call_that_clears_memory() {
    // The value from before the call is used behind it, beside what is there by then.
    let text = "trace t {
seg0():
  v0: i64 = slot rbx
  v1: i64 = load [v0 + 8]
  v2: i64 = const 0x9000
  call v2 ret v2 state exit0 effect any -> seg1
seg1():
  v3: i64 = load [v0 + 8]
  v4: i64 = sub v3, v1
  leave exit1
exit0 @0x30 {}
exit1 @0x40 { rax = v4, rdx = v1 }
}";
    let after = hazard(text, &[state(RBX, RCX, &[(RBX + 8, 77)])]);
    assert_eq!(count(&after, Opcode::Load), 2, "{after}");
    let entry = &after.segments[after.entry()];
    assert!(entry.insts.iter().any(|value| after.insts[*value].op == Opcode::Load), "{after}");
}

#[test]
fn a_value_is_not_forwarded_to_another_path_after_a_rehash() {
    // The table's node array is replaced between the store through the old pointer and the load through the new one.
    let text = "trace t {
seg0():
  v0: i64 = slot rbx
  v1: i64 = slot rcx
  v2: i64 = slot rdx
  v3: i64 = load [v0 + 24] @0x5018=0x7000
  store i64 [v3 + 8], v2 @0x7008=0x8
  store i64 [v0 + 24], v1 @0x5018=0x6000
  v6: i64 = load [v0 + 24] @0x5018=0x6000
  v7: i64 = load [v6 + 8] @0x6008=0x5
  leave exit0
exit0 @0x40 { rax = v7 }
}";
    let cells = [(RBX + 24, 0x7000), (0x7008, 1), (RCX + 8, 5)];
    let after = hazard(text, &[state(RBX, RCX, &cells), state(RBX, 0x7000, &cells), state(RBX, 0x7004, &cells)]);
    // The pointer is known; what it points to is not.
    assert_eq!(count(&after, Opcode::Load), 2, "{after}");
}

#[test]
fn a_bounds_check_is_not_invariant_while_the_bound_changes() {
    // Each iteration takes one from the bound, through a pointer that only the state knows to be the same.
    let text = counted(
        "",
        "",
        "  v20: i64 = load [v1 + 8] @0x5008=0x9
  v21: i1 = ult v9, v20
  guard v21, exit1
  v22: i64 = load [v2] @0x5008=0x9
  v23: i64 = add v22, v3
  store i64 [v2], v23 @0x5008=0x7",
        "",
        "exit0 @0x40 { rax = v9 }\nexit1 @0x44 { rax = v9 }",
    );
    let mut shrinking = state(RBX, RBX + 8, &[(RBX + 8, 30)]);
    shrinking.set_slot(Slot::RDX, -5i64 as u64);
    let mut apart = state(RBX, RCX, &[(RBX + 8, 30), (RCX, 3)]);
    apart.set_slot(Slot::RDX, -5i64 as u64);
    let after = hazard(&text, &[shrinking, apart]);
    let guards = count(&after, Opcode::Guard);
    // In the second copy, too, the counter and the bound are compared.
    let copies = after.segments.values().filter(|segment| segment.terminator.successors().len() == 2).count();
    assert!(guards >= 2 * copies, "{after}");
}

#[test]
fn two_exits_at_one_position_keep_their_own_states() {
    let text = counted(
        ", v12: i64 = rdx",
        ", v3",
        "  v20: i64 = load [v1] @0x5000=0x1
  v21: i64 = add v20, v12
  v22: i1 = ne v21, v4
  guard v22, exit1
  store i64 [v1], v21 @0x5000=0x9
  v23: i1 = ne v21, v9
  guard v23, exit2",
        ", v21",
        "exit0 @0x40 { rax = v9, rdx = v12 }
exit1 @0x44 { rax = v9, rdx = v12 }
exit2 @0x44 { rax = v9, rdx = v21 }",
    );
    let guests = [state(RBX, RCX, &[(RBX, 1)]), state(RBX, RCX, &[(RBX, 0)]), state(RBX, RCX, &[(RBX, -3i64 as u64)])];
    let after = hazard(&text, &guests);
    let at = |pc: u64| after.exits.values().filter(|exit| exit.pc == pc).count();
    assert!(at(0x44) >= 2, "{after}");
}

#[test]
fn what_only_a_delayed_store_needs_goes_round_with_the_loop() {
    // Three cells take turns: what an exit stores to one is what went into another one two iterations before.
    let text = counted(
        "",
        "",
        "  v20: i64 = load [v1] @0x5000=0x1
  v21: i64 = load [v1 + 8] @0x5008=0x2
  v22: i64 = load [v1 + 16] @0x5010=0x3
  v23: i64 = add v22, v9
  store i64 [v1], v21 @0x5000=0x2
  store i64 [v1 + 8], v22 @0x5008=0x3
  store i64 [v1 + 16], v20 @0x5010=0x1
  store i64 [v1 + 24], v23 @0x5018=0x3",
        "",
        "exit0 @0x40 { rax = v9 }",
    );
    let after = hazard(&text, &[state(RBX, RCX, &[(RBX, 1), (RBX + 8, 20), (RBX + 16, 300)])]);
    let waiting = after.exits.values().map(|exit| exit.stores.len()).max();
    assert_eq!(waiting, Some(4), "{after}");
}

#[test]
fn nothing_that_a_guard_protects_moves_ahead_of_it() {
    // The pointer is the same in every iteration, but only the guard says that it is not null, and the divisor not zero.
    let text = counted(
        ", v12: i64 = rdx",
        ", v3",
        "  v20: i1 = ne v2, v7
  guard v20, exit1
  v21: i64 = load [v2 + 8] @0x6008=0x3
  v22: i1 = ne v21, v7
  guard v22, exit2
  v23: i64 = udiv v12, v21",
        ", v23",
        "exit0 @0x40 { rax = v9, rdx = v12 }
exit1 @0x44 { rax = v9, rdx = v12 }
exit2 @0x48 { rax = v9, rdx = v12 }",
    );
    let cells = [(RCX + 8, 3)];
    let after = hazard(&text, &[state(RBX, RCX, &cells), state(RBX, 0, &cells), state(RBX, RCX, &[(RCX + 8, 0)])]);
    for segment in after.segments.values() {
        let first = |op: Opcode| segment.insts.iter().position(|value| after.insts[*value].op == op);
        if let Some(load) = first(Opcode::Load) {
            assert!(first(Opcode::Guard).is_some_and(|guard| guard < load), "{after}");
        }
    }
}

#[test]
fn parameters_that_change_places_do_not_confuse_the_second_copy() {
    let text = counted(
        ", v12: i64 = rbx, v13: i64 = rcx, v14: i64 = rdx, v15: i64 = rsi",
        ", v1, v2, v3, v3",
        "  v20: i64 = add v12, v14\n  v21: i1 = ne v20, v15\n  guard v21, exit0",
        ", v13, v12, v20, v13",
        "exit0 @0x40 { rax = v9, rbx = v12, rcx = v13, rdx = v14, rsi = v15 }",
    );
    let after = hazard(&text, &[state(1, 20, &[]), state(7, 7, &[])]);
    let before = trace(&text);
    for start in [(1, 20), (7, 7), (0, u64::MAX)] {
        let (mut one, mut two) = (state(start.0, start.1, &[]), state(start.0, start.1, &[]));
        assert!(run(&before, &mut one, 5_000).is_ok() && run(&after, &mut two, 5_000).is_ok());
        assert_eq!(one.slots, two.slots);
    }
}

#[test]
fn a_flag_is_not_polled_once_and_for_all() {
    // Nobody in the trace writes the flag, so the second copy need not look at it; it must not run for long then.
    let text = counted(
        "",
        "",
        "  v20: i32 = load [v1 + 40] @0x5028=0x0
  v21: i32 = const 0
  v22: i1 = eq v20, v21
  guard v22, exit1
  v23: i64 = load [v2] @0x6000=0x1
  v24: i64 = add v23, v9
  store i64 [v2], v24 @0x6000=0x1",
        "",
        "exit0 @0x40 { rax = v9 }\nexit1 @0x44 { rax = v9 }",
    );
    let after = hazard(&text, &[state(RBX, RCX, &[(RBX + 40, 0), (RCX, 5)])]);
    let polls = |insts: &[redmagic_ir::Value]| insts.iter().any(|value| after.insts[*value].op == Opcode::Load);
    for (segment, data) in after.segments.iter() {
        let again = data.terminator.successors().contains(&segment);
        if !again || polls(&data.insts) {
            continue;
        }
        // A counter of bounded start decides whether it goes on.
        let Terminator::Switch { value, .. } = data.terminator else { panic!("an endless loop\n{after}") };
        let counter = after.insts[after.insts[value].args[0]].args[0];
        let at = data.params.iter().position(|param| *param == counter).expect("a parameter");
        let starts =
            after.segments.values().flat_map(|from| from.terminator.targets()).filter(|to| to.segment == segment);
        let bounds: Vec<i64> = starts.filter_map(|to| after.as_const(to.args[at])).collect();
        assert!(!bounds.is_empty() && bounds.iter().all(|bound| (1..=60_000).contains(bound)), "{bounds:?}\n{after}");
    }
}

#[test]
fn a_jump_to_a_loop_with_more_parameters_passes_them_all() {
    // Two ways lead to the wider loop, and some of its parameters are the same on both.
    let text = "trace t {
seg0():
  v0: i64 = slot rax
  v1: i64 = slot rbx
  v2: i64 = slot rcx
  v3: i64 = slot rdx
  v4: i64 = const 1
  v5: i64 = const 0
  v6: i1 = ult v1, v2
  switch v6 { 1 => seg1(v0) } else seg2(v0, v1, v4, v2, v5)
seg1(v7: i64 = rax):
  v8: i64 = add v7, v4
  v9: i1 = ult v8, v3
  switch v9 { 1 => seg1(v8) } else seg2(v8, v2, v4, v2, v7)
seg2(v10: i64 = rax, v11: i64 = rbx, v12: i64 = rsi, v13: i64 = rcx, v14: i64 = rdi):
  v15: i64 = add v10, v12
  v16: i64 = add v14, v11
  v17: i64 = const 40
  v18: i1 = ult v15, v17
  guard v18, exit0
  jump seg2(v15, v11, v12, v13, v16)
exit0 @0x40 { rax = v15, rbx = v11, rcx = v13, rsi = v12, rdi = v16 }
}";
    let mut long = state(1, 20, &[]);
    long.set_slot(Slot::RDX, 25);
    let after = hazard(text, &[state(1, 20, &[]), state(20, 1, &[]), long]);
    for segment in after.segments.values() {
        for target in segment.terminator.targets() {
            assert_eq!(target.args.len(), after.segments[target.segment].params.len(), "{after}");
        }
    }
}

#[test]
fn an_exit_restores_a_slot_that_the_loop_carries() {
    // The exit wants the rax of the entry, while the loop keeps another value in this slot.
    let text = "trace t {
seg0():
  v0: i64 = slot rax
  v1: i64 = slot rbx
  v2: i64 = const 1
  jump seg1(v0)
seg1(v3: i64 = rax):
  v4: i64 = add v3, v2
  v5: i1 = ult v4, v1
  guard v5, exit0
  jump seg1(v4)
exit0 @0x40 { rax = v0, rdx = v4 }
}";
    let after = hazard(text, &[state(30, 0, &[]), state(10, 0, &[])]);
    for exit in after.exits.values().filter(|exit| exit.pc == 0x40) {
        assert!(exit.get(Slot::RAX).is_some(), "{after}");
    }
}

#[test]
fn constants_of_one_way_do_not_live_on_where_ways_meet() {
    // On one way, rbx is 5 and rcx what the guard says; the segment where both ways meet is told otherwise.
    let text = "trace t {
seg0():
  v0: i64 = slot rax
  v1: i64 = slot rbx
  v2: i64 = slot rcx
  v3: i64 = const 5
  v4: i64 = const 7
  v5: i1 = eq v1, v3
  switch v5 { 1 => seg1() } else seg2()
seg1():
  v6: i1 = eq v2, v4
  guard v6, exit0
  v7: i64 = load [v0]
  jump seg3(v1, v7)
seg2():
  v8: i64 = load [v0]
  jump seg3(v4, v8)
seg3(v9: i64 = rbx, v10: i64 = rdx):
  v11: i64 = add v1, v2
  v12: i64 = load [v0]
  v13: i64 = sub v12, v10
  v14: i1 = eq v1, v3
  v15: i64 = zext v14
  leave exit1
exit0 @0x40 {}
exit1 @0x44 { rax = v11, rbx = v9, rdx = v13, rsi = v15 }
}";
    let guests = [state(5, 7, &[]), state(5, 8, &[]), state(6, 7, &[]), state(6, 9, &[])];
    let after = hazard(text, &guests);
    assert!(count(&after, Opcode::Add) >= 1, "{after}");
    assert!(count(&after, Opcode::Eq) >= 2, "{after}");
}

/// A loop over an array of pointers at rcx, to objects of which one may be the object at rbx: each iteration changes a
/// field through the pointer, and one at rbx.
fn objects() -> String {
    let tag = |at: u32| {
        let (load, test, offset) = (40 + 2 * at, 41 + 2 * at, 24 + 8 * at);
        format!(
            "  v{load}: i64 = load [v1 + {offset}] @{:#x}=0x0\n  v{test}: i1 = ne v{load}, v8\n  guard v{test}, exit1\n",
            0x5000 + offset
        )
    };
    let tags: String = (0..6).map(tag).collect();
    counted(
        ", v30: i64 = rcx",
        ", v2",
        &("  v12: i64 = const 8
  v20: i64 = load [v30] @0x6000=0x7100
  v21: i64 = load [v20 + 16] @0x7110=0x1
  v22: i64 = add v21, v3
  store i64 [v20 + 16], v22 @0x7110=0x9
TAGS  v28: i64 = load [v1 + 16] @0x5010=0x2
  v29: i64 = add v28, v22
  store i64 [v1 + 16], v29 @0x5010=0xb
  v31: i64 = load [v30 + 8] @0x6008=0x7200
  v32: i64 = load [v31 + 16] @0x7210=0x3
  v33: i64 = add v32, v29
  store i64 [v31 + 16], v33 @0x7210=0xe
  v34: i64 = add v30, v12")
            .replace("TAGS", &tags),
        ", v34",
        "exit0 @0x40 { rax = v9, rcx = v30 }\nexit1 @0x44 { rax = v9, rcx = v30 }",
    )
}

#[test]
fn an_object_among_many_is_the_one_that_is_in_registers() {
    let pointers =
        |list: [u64; 10]| -> Vec<(u64, u64)> { (0..10).map(|at| (RCX + 8 * at, list[at as usize])).collect() };
    let far: [u64; 10] = std::array::from_fn(|at| 0x7100 + 0x100 * at as u64);
    // One object is that at rbx, overlaps it, lies on its other side, is met twice in a row, or holds the next pointer.
    let guests: Vec<TestGuest> = [far[0], RBX, RBX + 8, RBX - 0x40, far[4], RCX + 32, RBX]
        .iter()
        .map(|odd| {
            let mut list = far;
            list[5] = *odd;
            state(RBX, RCX, &pointers(list))
        })
        .collect();
    let after = hazard(&objects(), &guests);
    assert!(after.segments.len() > 5, "{after}");
}
