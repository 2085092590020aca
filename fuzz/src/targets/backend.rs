//! Traces with everything in them: compiled code does what the evaluator does.
//!
//! The generator and the comparison are those of the tests of the backend.

#[path = "../../../backend/tests/common/mod.rs"]
mod common;
#[path = "../../../backend/tests/random/maker.rs"]
mod maker;

use super::{Finding, caught};
use crate::shrink::shrink;
use common::World;
use redmagic_backend::{Backend, BackendError, Request};
use redmagic_ir::sandbox::{Choices, interesting, mix};
use redmagic_ir::{FLAGS_MASK, Slot, Trace};
use std::cell::RefCell;

/// Guests that a trace runs on.
const GUESTS: u64 = 6;

/// Runs one case.
pub fn run(data: &[u8]) -> Result<(), Finding> {
    thread_local! {
        static BACKEND: RefCell<Option<Backend>> = const { RefCell::new(None) };
    }
    let (head, rest) = data.split_at(data.len().min(2));
    let (seed, calls) = (u64::from(head.first().copied().unwrap_or(0)), head.get(1).is_some_and(|byte| byte % 3 == 0));
    let trace = maker::make(Choices::from_bytes(rest), calls);
    BACKEND.with_borrow_mut(|backend| {
        let backend = backend.get_or_insert_with(common::backend);
        let Some(what) = differs(backend, &trace, seed) else { return Ok(()) };
        let kind = |text: &str| text.split_whitespace().next().unwrap_or_default().to_owned();
        let small =
            shrink(&trace, |trace| differs(backend, trace, seed).is_some_and(|text| kind(&text) == kind(&what)));
        let what = differs(backend, &small, seed).unwrap_or(what);
        Err(format!("{what}\nAs a file in tests/filetests/lower:\n; test: lower\n{small}"))
    })
}

/// How evaluator and compiled code differ on `trace`.
fn differs(backend: &mut Backend, trace: &Trace, seed: u64) -> Option<String> {
    let layout = common::layout();
    let request = Request { trace, layout: &layout, exit_records: 0, exit_stride: 8, natives: &[1, 2] };
    if let Err(BackendError::TooManyLiveValues { .. }) = caught(|| backend.compile(&request)).ok()? {
        return None;
    }
    let compare = || {
        let mut world = World::with_arena(backend, trace.clone(), 1024);
        for input in 0..GUESTS {
            let byte = |at: usize| interesting(mix(input, at as u64 / 8)).to_le_bytes()[at % 8];
            let mut guest = world.guest(mix(seed, input), byte);
            for slot in Slot::all() {
                let value = interesting(mix(seed * 64 + input, slot.index() as u64));
                guest.slots[slot.index()] = if slot == Slot::FLAGS { value & u64::from(FLAGS_MASK) } else { value };
            }
            guest.slots[Slot::RBX.index()] = world.memory() + 128;
            common::check(&mut world, &guest);
        }
    };
    caught(compare).err()
}
