//! The five fuzz targets: each turns bytes into a test case, and a difference into a text test.
//!
//! | target | makes | compares |
//! |---|---|---|
//! | [`text`] | text, by mutation of test files | parser and verifier never panic, printing is a fixed point |
//! | [`passes`] | traces and loops | the evaluator before and after a list of passes |
//! | [`lift`] | one instruction: harvested, mutated, of every shape, or raw bytes | hardware, evaluator, compiled code |
//! | [`backend`] | traces with everything in them | the evaluator and compiled code |
//! | [`exits`] | blocks and loops of instructions, optimised | hardware, evaluator, compiled code; every guard made to fail |
//!
//! `fuzz/libfuzzer` runs them under libFuzzer, the test `twins` for a moment on bytes that a seed makes, and the
//! program `fuzz` for as long as one likes without libFuzzer. All three call [`Target::run`].
//!
//! Worked example: `Target::named("lift")` run on no bytes at all compares the instruction that the empty sequence of
//! decisions leads to.

pub mod backend;
pub mod exits;
pub mod lift;
pub mod passes;
pub mod text;

use crate::bench::Bench;
use crate::rng::Rng;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a target found, as text that ends in a test file.
pub type Finding = String;

/// One of the five.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    run: fn(&[u8]) -> Result<(), Finding>,
    /// How many bytes the twin gives it at most.
    pub bytes: usize,
}

/// All targets.
pub const ALL: [Target; 5] = [
    Target { name: "text", run: text::run, bytes: 400 },
    Target { name: "passes", run: passes::run, bytes: 300 },
    Target { name: "lift", run: lift::run, bytes: 120 },
    Target { name: "backend", run: backend::run, bytes: 300 },
    Target { name: "exits", run: exits::run, bytes: 300 },
];

impl Target {
    /// The target called `name`.
    pub fn named(name: &str) -> Option<Target> {
        ALL.into_iter().find(|target| target.name == name)
    }

    /// Runs one case. Panics of what is tested are findings, too.
    pub fn run(&self, data: &[u8]) -> Result<(), Finding> {
        quietly(|| (self.run)(data)).unwrap_or_else(|| Err(format!("{} panics on {data:02x?}", self.name)))
    }

    /// The bytes of case `case` of `seed`.
    pub fn bytes(&self, seed: u64, case: u64) -> Vec<u8> {
        let mut rng = Rng::new(seed ^ case.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let length = rng.below(self.bytes);
        if self.name == "text" {
            return text::made_up(&mut rng);
        }
        (0..length).map(|_| rng.bits() as u8).collect()
    }
}

/// Runs `f`; `None` if it panics. Nothing is printed then, and a hook that would end the process is not asked.
pub(crate) fn quietly<T>(f: impl FnOnce() -> T) -> Option<T> {
    thread_local! {
        static QUIET: RefCell<usize> = const { RefCell::new(0) };
    }
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let former = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.with_borrow(|depth| *depth == 0) {
                former(info);
            }
        }));
    });
    QUIET.with_borrow_mut(|depth| *depth += 1);
    let result = catch_unwind(AssertUnwindSafe(f));
    QUIET.with_borrow_mut(|depth| *depth -= 1);
    result.ok()
}

/// The message of a panic in `f`, or what it returns.
pub(crate) fn caught<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    let mut message = String::new();
    let result = quietly(|| match catch_unwind(AssertUnwindSafe(f)) {
        Ok(value) => Some(value),
        Err(payload) => {
            let text = payload.downcast_ref::<String>().cloned();
            message = text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
            None
        }
    });
    result.flatten().ok_or(message)
}

/// The bench of this thread.
fn with_bench<T>(f: impl FnOnce(&mut Bench) -> T) -> T {
    thread_local! {
        static BENCH: RefCell<Option<Bench>> = const { RefCell::new(None) };
    }
    BENCH.with_borrow_mut(|bench| f(bench.get_or_insert_with(Bench::new)))
}
