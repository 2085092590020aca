//! Random traces: whatever the passes do to them, the effects stay.
//!
//! The generator favours what passes look at: few roots that may be equal or near each other, small offsets of mixed
//! widths, constants, comparisons that repeat, guards, a diamond, a loop, calls, native operations.

mod common;
#[path = "random/generator.rs"]
mod generator;

use common::{guest, optimised, same_effects_on, writes_to_region};
use generator::{Generator, place_region};
use redmagic_ir::sandbox::Choices;
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
