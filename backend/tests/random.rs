//! Made-up traces against the evaluator: loops over a mixture of all operations, with guards, exits full of recipes and
//! delayed stores, joins, native operations and residual calls. They mix register files, types and lifetimes in ways
//! that nobody writes down.

mod common;
#[path = "random/maker.rs"]
mod maker;

use common::{World, backend, check};
use maker::make;
use redmagic_ir::sandbox::{Choices, interesting, mix};
use redmagic_ir::{FLAGS_MASK, Slot};

#[test]
fn made_up_traces_agree_with_the_evaluator() {
    let mut backend = backend();
    let (mut compared, mut refused, mut calls) = (0, 0, 0);
    let count = std::env::var("REDMAGIC_TEST_TRACES").ok().and_then(|count| count.parse().ok()).unwrap_or(400);
    for seed in 0..count {
        let trace = make(Choices::seeded(seed), seed % 3 == 0);
        redmagic_ir::verify(&trace).unwrap_or_else(|errors| panic!("{errors:?}\n{trace}"));
        let layout = common::layout();
        let request = redmagic_backend::Request {
            trace: &trace,
            layout: &layout,
            exit_records: 0,
            exit_stride: 8,
            natives: &[1, 2],
        };
        if let Err(redmagic_backend::BackendError::TooManyLiveValues { .. }) = backend.compile(&request) {
            refused += 1;
            continue;
        }
        let mut world = World::with_arena(&mut backend, trace, 1024);
        for input in 0..6 {
            let mut guest =
                world.guest(mix(seed, input), |at| interesting(mix(input, at as u64 / 8)).to_le_bytes()[at % 8]);
            for slot in Slot::all() {
                let value = interesting(mix(seed * 64 + input, slot.index() as u64));
                guest.slots[slot.index()] = if slot == Slot::FLAGS { value & u64::from(FLAGS_MASK) } else { value };
            }
            guest.slots[Slot::RBX.index()] = world.memory() + 128;
            if check(&mut world, &guest).is_some() {
                compared += 1;
                calls += world.run(&mut guest).1;
            }
        }
    }
    assert!(compared > 5 * (count as usize - refused), "{compared} of {count}, {refused} refused");
    assert!(calls > count as usize / 4, "{calls} calls");
}
