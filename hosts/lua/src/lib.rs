//! What the tests and the commands around the Lua host share: the programs of this folder, and processes that run Lua and
//! are compared, and random programs.
//!
//! The reference is always `plain-lua`, the interpreter without the patch. Example: run a script in both and compare.
//!
//! ```no_run
//! use lua_runs::runs::{Lua, Settings};
//! let script = std::path::Path::new("script.lua");
//! let lua = Lua::beside_this_program("")?;
//! let plain = lua.plain(script, 1).finish(std::time::Duration::from_secs(10))?;
//! let traced = lua.traced(script, 1, &Settings::hot(2)).finish(std::time::Duration::from_secs(10))?;
//! assert_eq!(plain, traced);
//! # Ok::<(), std::io::Error>(())
//! ```

pub mod compare;
pub mod programs;
pub mod random;
pub mod runs;
