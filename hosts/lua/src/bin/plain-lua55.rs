//! Stock Lua 5.5, built from the same sources with the same flags and front end as `redmagic-lua55`, but without the
//! patch: what everything is measured against.
#![no_main]

use std::ffi::{c_char, c_int};

#[link(name = "plain_lua55", kind = "static")]
#[link(name = "m")]
#[link(name = "dl")]
// SAFETY: the signature in `csrc/front.c`.
unsafe extern "C" {
    fn lua_front_main(argc: c_int, argv: *mut *mut c_char) -> c_int;
}

/// The process begins here, with the arguments as the C library passes them.
///
/// # Safety
/// `argv` holds `argc` strings and a null pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(argc: c_int, argv: *mut *mut c_char) -> c_int {
    // SAFETY: the caller's promise, which is also what this function asks for.
    unsafe { lua_front_main(argc, argv) }
}
