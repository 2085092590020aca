//! Oracles and generators for testing against the machine itself.
//!
//! - [`native`] executes generated machine code with a complete register file in and out, and survives its faults.
//! - [`shapes`] makes instructions of every operand shape, [`values`] boundary-heavy states, and [`mod@place`] makes the
//!   two fit together.
//! - [`blocks`] makes straight-line blocks that run from many states.
//! - [`record`] turns a block into a recording, [`oracle`] compares hardware, [`evaluated`] and [`compiled`] traces, and
//!   [`reduce`](mod@reduce) makes failing blocks small.
//! - [`undefined`] is the declared list of what comparisons may leave out: flags that the architecture leaves undefined.
//!
//! - [`bench`](mod@bench) holds all that a comparison needs, [`finding`] is a difference as text, [`shrink`](mod@shrink) makes failing
//!   traces small, and [`targets`] are the five fuzz targets.
//!
//! The tests in `tests/` put them together: every instruction is lifted, evaluated, and compared with the hardware.
//!
//! Worked example: execute `add rax, rcx` on the hardware.
//! ```
//! use iced_x86::{Code, Instruction, Register};
//! use redmagic_fuzz::native::{Executor, Outcome, State};
//!
//! let mut executor = Executor::new().unwrap();
//! let add = Instruction::with2(Code::Add_r64_rm64, Register::RAX, Register::RCX).unwrap();
//! let block = executor.load(&[add]).unwrap();
//! let mut state = State { gpr: [2; 16], ..State::default() };
//! assert_eq!(executor.run(&mut state), Outcome::Completed { next_pc: block[0].next_ip() });
//! assert_eq!(state.gpr[0], 4);
//! ```

pub mod bench;
pub mod blocks;
pub mod compiled;
pub mod corpus;
pub mod evaluated;
pub mod finding;
pub mod mutate;
pub mod native;
pub mod oracle;
pub mod page;
pub mod place;
pub mod record;
pub mod reduce;
pub mod rng;
pub mod shapes;
pub mod shrink;
pub mod targets;
pub mod undefined;
pub mod values;
