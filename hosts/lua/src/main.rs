//! Lua 5.4 with Redmagic: the program `redmagic-lua`, to be used in place of `lua`.
//!
//! Lua itself is C (`build.rs` compiles it) and its front end is `csrc/front.c`; here are the entry point and the
//! option `--compare`, which is looked at before Lua's own options. The entry point is C's `main` and not Rust's,
//! because the latter's start-up changes what scripts can see: it ignores SIGPIPE and handles SIGSEGV.
//!
//! ```text
//! redmagic-lua script.lua 100             runs the script
//! redmagic-lua --compare script.lua 100   runs it without and with compiled traces, and compares
//! ```
#![no_main]

mod compare;

use std::ffi::{CStr, OsStr, OsString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;

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

/// The process begins here, with the arguments as the C library passes them.
///
/// # Safety
/// `argv` holds `argc` strings and a null pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(argc: c_int, argv: *mut *mut c_char) -> c_int {
    // SAFETY: the caller's promise.
    let arguments = unsafe { rust_arguments(argc, argv) };
    if let Some(repeats) = arguments.get(1).and_then(|first| compare::repeats(first)) {
        return compare::run(repeats, &arguments[2..]);
    }
    // SAFETY: the caller's promise, which is also what this function asks for.
    unsafe { lua_front_main(argc, argv) }
}

/// # Safety
/// `argv` holds `argc` strings.
unsafe fn rust_arguments(argc: c_int, argv: *mut *mut c_char) -> Vec<OsString> {
    (0..usize::try_from(argc).unwrap_or(0))
        .map(|index| {
            // SAFETY: `index` is below `argc`, so this is one of the strings.
            let argument = unsafe { CStr::from_ptr(*argv.add(index)) };
            OsStr::from_bytes(argument.to_bytes()).to_owned()
        })
        .collect()
}
