//! Traces and loops: the evaluator does the same before and after any list of passes.
//!
//! The generators are those of the tests of the passes.

#[allow(dead_code, reason = "the tests of the passes count what is executed")]
#[path = "../../../passes/tests/random_loops/compare.rs"]
mod compare;
#[path = "../../../passes/tests/random/early.rs"]
mod early;
#[path = "../../../passes/tests/random_loops/generator.rs"]
mod generator;
#[path = "../../../passes/tests/random/generator.rs"]
mod straight;
#[path = "../../../passes/tests/random_loops/world.rs"]
mod world;

use super::{Finding, caught, exits};
use crate::rng::Rng;
use crate::shrink::shrink;
use redmagic_ir::sandbox::{Choices, Difference, TestGuest, variations};
use redmagic_ir::{Class, RegionKind, Slot, Trace, verify};
use redmagic_passes::{Pipeline, optimise};

/// Guests that a trace runs on.
const GUESTS: u64 = 24;
/// Instructions that a run may execute.
const FUEL: u64 = 5_000;
/// The same where both traces always run.
const SHORT: u64 = 500;

/// Runs one case.
pub fn run(data: &[u8]) -> Result<(), Finding> {
    let (head, rest) = data.split_at(data.len().min(10));
    let mut rng = Rng::from_bytes(head);
    let loops = rng.one_in(2);
    let seed = rng.below(256) as u64;
    let pipeline = exits::pipeline(&mut rng).unwrap_or_default();
    let choices = Choices::from_bytes(rest);
    match (loops, rng.one_in(3)) {
        (true, _) => check_loop(seed, choices, &pipeline),
        (false, true) => check_undeclared(seed, choices, &pipeline),
        (false, false) => check_trace(choices, &pipeline),
    }
}

/// What the passes make of a trace, or how they fail.
fn optimised(before: &Trace, pipeline: &Pipeline) -> Result<Trace, String> {
    let mut after = before.clone();
    caught(|| optimise(&mut after, pipeline)).map_err(|panic| format!("a pass panics: {panic}"))?;
    verify(&after).map_err(|errors| format!("the verifier complains: {}", errors[0]))?;
    Ok(after)
}

/// The guest that others are variations of.
fn base_guest() -> TestGuest {
    let mut base = TestGuest::new(7);
    // One pointer leads to the stack, but not below the stack pointer: only what is derived from that may lead there.
    for (slot, value) in [(Slot::RSP, 0x7fff_0000), (Slot::RBX, 0x5000), (Slot::RCX, 0x5008), (Slot::RAX, 0x7fff_0040)]
    {
        base.slots[slot.index()] = value;
    }
    straight::place_region(&mut base);
    base
}

fn check_trace(choices: Choices, pipeline: &Pipeline) -> Result<(), Finding> {
    let before = straight::Generator::generate(choices);
    check(
        &before,
        pipeline,
        |_, guest| guest,
        |before, after, guest| redmagic_ir::early::compare_early(before, after, guest, FUEL).err(),
    )
}

/// Traces over a program that is not declared, on guests where it is another one, or is overwritten.
fn check_undeclared(seed: u64, choices: Choices, pipeline: &Pipeline) -> Result<(), Finding> {
    let before = straight::Generator::generate_undeclared(choices);
    let changed = |number, guest| early::changed(seed, number, guest);
    check(&before, pipeline, changed, |before, after, guest| early::compare_early(before, after, guest, SHORT).err())
}

/// Optimises `before` and compares on variations of a guest, each of which `change` may change by its number.
fn check(
    before: &Trace,
    pipeline: &Pipeline,
    change: impl Fn(u64, TestGuest) -> TestGuest,
    compare: impl Fn(&Trace, &Trace, &TestGuest) -> Option<Difference>,
) -> Result<(), Finding> {
    let base = base_guest();
    let differs = |before: &Trace| -> Option<String> {
        let after = match optimised(before, pipeline) {
            Ok(after) => after,
            Err(text) => return Some(text),
        };
        variations(before, &base, GUESTS).into_iter().zip(0..).find_map(|(guest, number)| {
            let guest = change(number, guest);
            let difference = (!writes_to_region(before, &guest)).then(|| compare(before, &after, &guest)).flatten();
            difference.map(|difference| difference.to_string())
        })
    };
    report(before, &base, pipeline, differs)
}

/// The finding, made small, if `differs` has one.
fn report(
    before: &Trace,
    base: &TestGuest,
    pipeline: &Pipeline,
    differs: impl Fn(&Trace) -> Option<String>,
) -> Result<(), Finding> {
    let Some(what) = differs(before) else { return Ok(()) };
    let kind = |text: &str| text.split_whitespace().next().unwrap_or_default().to_owned();
    let small = shrink(before, |trace| differs(trace).is_some_and(|text| kind(&text) == kind(&what)));
    let what = differs(&small).unwrap_or(what);
    Err(format!("{what}\nAs a file in tests/filetests/opt:\n; test: opt {pipeline}\n{}{small}", run_line(base)))
}

/// A guest as a line of a script.
fn run_line(guest: &TestGuest) -> String {
    let slots = Slot::all().filter(|slot| guest.slots[slot.index()] != 0);
    let mut line =
        slots.fold("; run seed=7".to_owned(), |line, slot| format!("{line} {slot}={:#x}", guest.slots[slot.index()]));
    let mut last = None;
    for (address, byte) in guest.memory.written() {
        let follows = last.is_some_and(|last: u64| last.wrapping_add(1) == address);
        line += &if follows { format!(",{byte}") } else { format!(" i8[{address:#x}]={byte}") };
        last = Some(address);
    }
    line + "\n"
}

/// Whether a run changes memory that the trace's regions declare to be immutable.
fn writes_to_region(trace: &Trace, guest: &TestGuest) -> bool {
    let mut after = guest.clone();
    let ran = redmagic_ir::sandbox::run(trace, &mut after, FUEL).is_ok();
    let immutable = trace.regions.iter().filter(|region| region.kind != RegionKind::Code);
    let mut addresses = immutable.flat_map(|region| region.start..region.end);
    ran && addresses.any(|address| after.memory.byte(address) != guest.memory.byte(address))
}

fn check_loop(seed: u64, choices: Choices, pipeline: &Pipeline) -> Result<(), Finding> {
    let before = generator::Generator::generate(seed, choices);
    let differs = |before: &Trace| -> Option<String> {
        let after = match optimised(before, pipeline) {
            Ok(after) => after,
            Err(text) => return Some(text),
        };
        let dead_frames = after.insts.values().any(|inst| inst.class == Class::Frame);
        (0..14).find_map(|number| {
            let world = world::world(seed, number);
            let one = compare::run(before, &world, 200_000)?;
            let Some(two) = compare::run(&after, &world, 1_000_000) else { return Some("no end".to_owned()) };
            if after.exits[two.exit].pc == before.start && after.exits.len() > before.exits.len() {
                return (two.world != world).then(|| "something happened before the start".to_owned());
            }
            compare::compare(before, &after, &one, &two, dead_frames).err()
        })
    };
    let Some(what) = differs(&before) else { return Ok(()) };
    let kind = |text: &str| text.split_whitespace().next().unwrap_or_default().to_owned();
    let small = shrink(&before, |trace| differs(trace).is_some_and(|text| kind(&text) == kind(&what)));
    let what = differs(&small).unwrap_or(what);
    // The world of a loop is not a guest of the text tests; its pointers are what mostly matters.
    let mut base = TestGuest::new(7);
    base.slots = world::world(seed, 1).slots;
    Err(format!(
        "{what} (world of seed {seed})\nAs a file in tests/filetests/opt:\n; test: opt {pipeline}\n{}{small}",
        run_line(&base)
    ))
}
