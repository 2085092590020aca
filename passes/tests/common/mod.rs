//! Helpers of the pass tests: text in, optimised trace out, with the proof that both do the same.

#![allow(dead_code, reason = "every test file uses its own part")]

use redmagic_ir::early::compare_early;
use redmagic_ir::sandbox::{TestGuest, run, variations};
use redmagic_ir::{RegionKind, Slot, Trace, parse_one};
use redmagic_passes::{Pipeline, Stats, optimise};

/// Instructions that a run may execute.
const FUEL: u64 = 5_000;

/// Parses a trace and verifies it.
pub fn trace(text: &str) -> Trace {
    let trace = parse_one(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    redmagic_ir::verify(&trace).unwrap_or_else(|errors| panic!("{errors:#?}\n{text}"));
    trace
}

/// A loop that counts rax, v9, down to 0: its other parameters, what they are at first, what it does, what they are next, and
/// its exits. rbx, rcx and rdx are v1 to v3, the register `fourth` v4; v7 is 0, v8 is -1. It ends by exit0.
pub fn counted_loop(fourth: &str, params: &str, starts: &str, body: &str, args: &str, exits: &str) -> String {
    format!(
        "trace t {{
seg0():
  v0: i64 = slot rax
  v1: i64 = slot rbx
  v2: i64 = slot rcx
  v3: i64 = slot rdx
  v4: i64 = slot {fourth}
  v7: i64 = const 0
  v8: i64 = const -1
  jump seg1(v0{starts})
seg1(v9: i64 = rax{params}):
  v10: i1 = ne v9, v7
  guard v10, exit0
{body}
  v11: i64 = add v9, v8
  jump seg1(v11{args})
{exits}
}}"
    )
}

/// Optimises a copy of `trace` by the passes in `list`.
pub fn optimised(trace: &Trace, list: &str) -> (Trace, Stats) {
    let mut result = trace.clone();
    let pipeline = Pipeline::parse(list).unwrap();
    let stats = optimise(&mut result, &pipeline);
    redmagic_ir::verify(&result).unwrap_or_else(|errors| panic!("{errors:#?}\n{result}"));
    (result, stats)
}

/// A guest with `slots` set.
pub fn guest(slots: &[(Slot, u64)]) -> TestGuest {
    let mut guest = TestGuest::new(7);
    guest.slots[Slot::RSP.index()] = 0x7fff_0000;
    for (slot, value) in slots {
        guest.slots[slot.index()] = *value;
    }
    guest
}

/// Checks that both traces do the same on variations of `base`; returns how many of them reached an exit.
///
/// The optimised trace may leave earlier, with the state of an earlier place.
pub fn same_effects(before: &Trace, after: &Trace, base: &TestGuest) -> usize {
    same_effects_on(before, after, base, 200, |_| true)
}

/// The same with `count` variations, those that `valid` accepts.
pub fn same_effects_on(
    before: &Trace,
    after: &Trace,
    base: &TestGuest,
    count: u64,
    valid: impl Fn(&TestGuest) -> bool,
) -> usize {
    let mut compared = 0;
    for (number, guest) in variations(before, base, count).iter().enumerate() {
        if !valid(guest) {
            continue;
        }
        match compare_early(before, after, guest, FUEL) {
            Ok(reached) => compared += usize::from(reached),
            Err(difference) => panic!("variation {number}: {difference}\nbefore:\n{before}\nafter:\n{after}"),
        }
    }
    compared
}

/// Whether a run of `trace` changes memory that its regions declare to be immutable.
pub fn writes_to_region(trace: &Trace, guest: &TestGuest) -> bool {
    let mut after = guest.clone();
    let ran = run(trace, &mut after, FUEL).is_ok();
    let immutable = trace.regions.iter().filter(|region| region.kind != RegionKind::Code);
    let mut addresses = immutable.flat_map(|region| region.start..region.end);
    ran && addresses.any(|address| after.memory.byte(address) != guest.memory.byte(address))
}

/// Optimises by every subset of the passes and checks the effects each time.
pub fn every_subset(text: &str, base: &TestGuest) {
    let before = trace(text);
    let names: Vec<_> = Pipeline::names().collect();
    for subset in 0..1 << names.len() {
        let list: Vec<_> = (0..names.len()).filter(|at| subset >> at & 1 == 1).map(|at| names[at]).collect();
        let (after, _) = optimised(&before, &list.join(","));
        assert!(same_effects_on(&before, &after, base, 60, |_| true) > 0, "no run reached an exit");
    }
}
