//! Where a process of the Lua host begins: the command line as the C library passes it, and the option `--compare`, which is
//! looked at before Lua's own options.
//!
//! The entry point is C's `main` and not Rust's, because the latter's start-up changes what scripts can see: it ignores
//! SIGPIPE and handles SIGSEGV. Every program of the host has this file as a module, and names its own `lua_front_main`:
//! which version of Lua that is was decided when the program was linked.

use std::ffi::{CStr, OsStr, OsString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;

/// The process begins here, with the arguments as the C library passes them.
///
/// # Safety
/// `argv` holds `argc` strings and a null pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(argc: c_int, argv: *mut *mut c_char) -> c_int {
    // SAFETY: the caller's promise.
    let arguments = unsafe { rust_arguments(argc, argv) };
    if let Some(repeats) = arguments.get(1).and_then(|first| lua_runs::compare::repeats(first)) {
        return lua_runs::compare::run(repeats, &arguments[2..]);
    }
    // SAFETY: the caller's promise, which is also what this function asks for.
    unsafe { crate::lua_front_main(argc, argv) }
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
