//! Random traces: whatever the passes do to them, the effects stay.
//!
//! The generator favours what passes look at: few roots that may be equal or near each other, small offsets of mixed
//! widths, constants, comparisons that repeat, guards, a diamond, a loop, calls, native operations.

mod common;
#[path = "random/early.rs"]
mod early;
#[path = "random/generator.rs"]
mod generator;

use common::{guest, optimised, same_effects_on, writes_to_region};
use early::{Compared, changed, compare_early};
use generator::{Generator, place_region};
use redmagic_ir::sandbox::{Choices, variations};
use redmagic_ir::*;
use redmagic_passes::Pipeline;

#[test]
fn random_traces_keep_their_effects() {
    let (mut compared, mut framed) = (0, 0);
    let count = std::env::var("RANDOM_TRACES").ok().and_then(|count| count.parse().ok()).unwrap_or(100);
    let first = std::env::var("RANDOM_FIRST").ok().and_then(|first| first.parse().ok()).unwrap_or(0);
    for seed in first..first + count {
        let before = Generator::generate(Choices::seeded(seed));
        if let Err(errors) = verify(&before) {
            panic!("seed {seed}: {errors:#?}\n{before}");
        }
        let mut base = guest(&[(Slot::RBX, 0x5000), (Slot::RCX, 0x5008), (Slot::RAX, 0x7ffe_fff0)]);
        place_region(&mut base);
        let lists = ["fold", "forward", "params", "flags", "sink", "dce"].map(str::to_string);
        for list in lists.into_iter().chain([Pipeline::default().to_string()]) {
            let (after, _) = optimised(&before, &list);
            framed += u64::from(after.insts.values().any(|inst| inst.class == Class::Frame));
            compared += std::panic::catch_unwind(|| {
                same_effects_on(&before, &after, &base, 24, |guest| !writes_to_region(&before, guest))
            })
            .unwrap_or_else(|_| panic!("seed {seed}, passes {list}"));
        }
    }
    assert!(compared as u64 > count * 20, "only {compared} runs reached an exit");
    assert!(framed > count / 10, "only {framed} optimised traces have private frames");
}

#[test]
fn undeclared_programs_are_compared() {
    const FUEL: u64 = 500;
    let (mut compared, mut early, mut rewritten) = (0, 0, 0);
    let count = std::env::var("RANDOM_TRACES").ok().and_then(|count| count.parse().ok()).unwrap_or(100);
    let first = std::env::var("RANDOM_FIRST").ok().and_then(|first| first.parse().ok()).unwrap_or(0);
    for seed in first..first + count {
        let before = Generator::generate_undeclared(Choices::seeded(seed));
        let mut base = guest(&[(Slot::RBX, 0x5000), (Slot::RCX, 0x5008), (Slot::RAX, 0x7ffe_fff0)]);
        place_region(&mut base);
        for list in ["fold".to_owned(), "forward".to_owned(), Pipeline::default().to_string()] {
            let (after, stats) = optimised(&before, &list);
            rewritten += u64::from(stats.code_compared);
            for (number, guest) in variations(&before, &base, 24).into_iter().enumerate() {
                let guest = changed(seed, number as u64, guest);
                if writes_to_region(&before, &guest) {
                    continue;
                }
                match compare_early(&before, &after, &guest, FUEL) {
                    Ok(Compared::Not) => {}
                    Ok(Compared::Same) => compared += 1,
                    Ok(Compared::Early) => early += 1,
                    Err(difference) => {
                        panic!("seed {seed}, passes {list}, guest {number}: {difference}\n{before}\n{after}");
                    }
                }
            }
        }
    }
    assert!(compared > count * 8, "only {compared} runs reached an exit");
    assert!(early > count && rewritten > count, "only {early} runs left at one of {rewritten} loads");
}
