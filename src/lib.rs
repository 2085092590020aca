//! Makes existing C and C++ interpreters fast: records hot loops of machine code, optimises and recompiles them.
//!
//! An interpreter marks the back edges of the programs that it runs with a call or macro of `redmagic.h`, an *anchor*.
//! When one becomes hot, the library records the machine instructions of one iteration, lifts them to a trace IR, optimises,
//! lowers, and runs that instead. Exits rebuild the exact machine state, and the interpreter goes on.
//!
//! # A tour
//! - [`capi`]: the functions of the header. `stubs`: the machine code that anchors, traces and returns run through.
//! - `entry`: what happens at an anchor, at an exit, when a residual call returns. `runtime`: the state behind it. `heat`:
//!   when what is tried. `ballot`: which path is compiled. `judge`: whether it was worth it; `budget`: what may be spent.
//!   `rest`: when anchors are not even counted. `words`: what they share with the library.
//! - `calls`: residual calls that the library makes itself.
//! - `recorder`: executes and logs the guest's instructions. `compile`: from a log to a `unit` of code. `check`:
//!   replays a recording on its trace. `fork_check`: compares one compiled iteration with native execution.
//! - `context`, `records`, `regions`, `exits`, `thread`: what machine code and Rust share. `pieces`, `emit`: code made at run time.
//! - `reclaim`: when the memory of dropped traces is used again. `forks`: what happens around a fork.
//! - `modules`, `functions`, `loops`, `options`, `stats`, `log`, `dump`, `memory`, `gaps`:
//!   leaves.
//!
//! The crates below: `redmagic-ir` (data structures, text, verifier, evaluator), `redmagic-lift`, `redmagic-passes`,
//! `redmagic-backend`. Only this crate knows all of them.

#![deny(unsafe_code)]
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod ballot;
mod budget;
mod calls;
pub mod capi;
mod check;
mod compile;
mod context;
mod declared;
mod dump;
mod emit;
mod entry;
mod exit_table;
mod exits;
mod fork_check;
mod forks;
mod functions;
mod gaps;
mod heat;
mod interpret;
mod judge;
mod log;
mod loops;
mod memory;
mod modules;
mod options;
mod pieces;
mod reclaim;
mod recorder;
mod records;
mod regions;
mod rest;
mod runtime;
mod stats;
mod stubs;
mod thread;
mod unit;
mod words;
