//! The optimiser: passes that turn a trace into a better trace.
//!
//! # Invariants
//! Every pass keeps the verifier content and changes nothing that an exit can observe: the exit that is taken, the
//! slots it lists and memory are the same before and after, for every state of the guest. The optimiser never reads
//! guest memory: a constant that was not in the trace comes from the note that the recorder left at a load. All passes
//! are deterministic and take near-linear time.
//!
//! # The passes
//! | name | what it does |
//! |---|---|
//! | `fold` | one forward walk: constants, identities, common values, guards, constant memory, promotion |
//! | `forward` | the same walk with memory: loads become values that the trace stored or loaded before |
//! | `params` | parameters that always receive the same value disappear |
//! | `flags` | packed flags that only exits need become recipes in these exits |
//! | `loops` | a second copy of a loop, with memory in registers and stores in the exits |
//! | `sink` | operations that only exits need become recipes in these exits |
//! | `fuse` | one comparison takes the place of several guards on the same bytes, or on bytes next to each other |
//! | `dce` | what nobody uses disappears |
//! | `place` | loads stand next to what uses them |
//!
//! # Worked example
//! `mov eax, [rbx]` fetches an instruction of the interpreted program from declared memory, `and eax, 7f` takes its
//! opcode, `jmp [r13 + rax*8]` dispatches. The walk guards that rbx has its recorded value (*promotion*); the load and
//! the opcode are constants from then on, the guard on the jump's target compares two constants and vanishes, and rbx
//! plus 4 at the end of the iteration is a constant as well, so that the next fetch needs no guard. When the loop
//! brings rbx back to where it was, `params` moves the one remaining guard in front of the loop.

#![forbid(unsafe_code)]

mod address;
mod apart;
mod dce;
mod fold;
mod frames;
mod fuse;
mod graph;
mod known;
mod loops;
mod loss;
mod memory;
mod numbers;
mod params;
mod pipeline;
mod place;
mod points;
mod regions;
mod rewrites;
mod rules;
mod scope;
mod sink;
mod stats;
mod stronger;
mod undeclared;
mod walk;
mod weight;
mod why;

pub use pipeline::{MemoryModel, Pass, Pipeline, UnknownPass, optimise, optimise_explained, optimise_limited};
pub use rewrites::Rewrite;
pub use rules::{Rule, all_rules};
pub use stats::Stats;
pub use weight::{Weight, loop_weight, path_weight};
pub use why::{Census, PassRun, Reason, Reasons};
