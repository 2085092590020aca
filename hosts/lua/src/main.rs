//! Lua 5.4 with Redmagic: the program `redmagic-lua`, to be used in place of `lua`.
//!
//! Lua itself is C (`build.rs` compiles it) and its front end is `csrc/front.c`; `host.rs` is where the process begins.
//!
//! ```text
//! redmagic-lua script.lua 100             runs the script
//! redmagic-lua --compare script.lua 100   runs it without and with compiled traces, and compares
//! ```
#![no_main]

mod host;

use std::ffi::{c_char, c_int};

// Linked for the functions that the C code calls.
#[cfg(not(feature = "noop"))]
use redmagic as _;

#[link(name = "redmagic_lua54", kind = "static")]
#[link(name = "m")]
#[link(name = "dl")]
// SAFETY: the signature in `csrc/front.c`.
unsafe extern "C" {
    fn lua_front_main(argc: c_int, argv: *mut *mut c_char) -> c_int;
}
