//! The C API: what `redmagic.h` declares.
//!
//! # Invariants
//! - Every function may be called at any time: before the start, when the library is off, from a signal handler that has
//!   interrupted it (then it does nothing).
//! - No panic crosses the boundary.

#![expect(unsafe_code, reason = "the C interface")]

use crate::functions::{Api, Functions, Treatment};
use crate::options::NAMES;
use crate::regions::{self, Kind};
use crate::runtime::{self, Runtime};
use crate::stats::{self, COUNTERS, Snapshot};
use crate::stubs;
use crate::thread;
use redmagic_ir::CallEffect;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub use crate::regions::{redmagic_end_merge_block, redmagic_temp_disable, redmagic_temp_enable};

/// Runs `body` with the runtime, if the library is running and the thread is not in it already.
fn with_runtime<T>(otherwise: T, body: impl FnOnce(&'static Runtime) -> T) -> T {
    let Some(runtime) = runtime::get().filter(|_| !thread::is_busy()) else { return otherwise };
    catch_unwind(AssertUnwindSafe(|| body(runtime))).unwrap_or(otherwise)
}

/// Counts a call that makes no sense, and logs it: the first, the second, the fourth, …, for hosts repeat their mistakes.
pub fn misuse(what: &'static str) {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    stats::add(&COUNTERS.misuse, 1);
    with_runtime((), |runtime| {
        if (CALLS.fetch_add(1, Relaxed) + 1).is_power_of_two() {
            runtime.lock().log(1, &format!("misuse: {what}"));
        }
    });
}

/// Tells recordings what our own functions are.
pub fn declare_functions(functions: &mut Functions) {
    let mut set = |function: u64, api: Api| functions.set(function, Treatment::Api(api));
    set(stubs::redmagic_backwards_branch as *const () as u64, Api::BackwardsBranch);
    set(stubs::redmagic_anchor_stub as *const () as u64, Api::AnchorStub);
    set(redmagic_is_traced as *const () as u64, Api::IsTraced);
    set(redmagic_fellthrough_branch as *const () as u64, Api::FellThrough);
    set(redmagic_begin_branchable_frame as *const () as u64, Api::BeginFrame);
    set(redmagic_end_branchable_frame as *const () as u64, Api::EndFrame);
    set(regions::redmagic_temp_disable as *const () as u64, Api::Region(Kind::Disabled));
    set(redmagic_begin_merge_block as *const () as u64, Api::Region(Kind::Merge));
    set(redmagic_start as *const () as u64, Api::Nothing);
    // One that ends a region of the recording is never met: the recording goes on behind it.
    set(regions::redmagic_end_merge_block as *const () as u64, Api::Nothing);
    for function in [
        redmagic_ensure_not_traced as *const () as u64,
        redmagic_force_begin_trace as *const () as u64,
        redmagic_force_end_trace as *const () as u64,
        redmagic_force_jump_to_trace as *const () as u64,
    ] {
        set(function, Api::Leave);
    }
    for function in [
        regions::redmagic_temp_enable as *const () as u64,
        redmagic_do_not_trace_function as *const () as u64,
        redmagic_set_function_effects as *const () as u64,
        redmagic_disable_branch as *const () as u64,
        redmagic_assume_immutable as *const () as u64,
        redmagic_forget as *const () as u64,
        redmagic_unload as *const () as u64,
        redmagic_configure as *const () as u64,
        redmagic_get_stats as *const () as u64,
    ] {
        functions.set(function, Treatment::Residual);
    }
}

/// Starts the library. Later calls do nothing.
#[unsafe(no_mangle)]
pub extern "C" fn redmagic_start() {
    static ONCE: Once = Once::new();
    let _ = catch_unwind(|| {
        ONCE.call_once(|| {
            if runtime::start().is_some() {
                // SAFETY: registers a function that lives as long as the process.
                unsafe { libc::atexit(write_statistics) };
            }
        })
    });
}

/// Writes the statistics where the options say.
extern "C" fn write_statistics() {
    let _ = catch_unwind(|| {
        let Some(runtime) = runtime::get() else { return };
        let path = runtime.lock().options.stats.clone();
        if let Some(path) = path {
            let _ = std::fs::write(path, runtime.json());
        }
    });
}

/// "Loop `id` is over."
#[unsafe(no_mangle)]
pub extern "C" fn redmagic_fellthrough_branch(id: *mut c_void) {
    if let Some(runtime) = runtime::get().filter(|_| !id.is_null()) {
        runtime.cool(id as u64);
    }
}

/// Begins a native frame that may contain loops of its own.
#[unsafe(no_mangle)]
pub extern "C" fn redmagic_begin_branchable_frame(_frame_data: *mut *mut c_void) {}

/// Ends a native frame that may contain loops of its own.
#[unsafe(no_mangle)]
pub extern "C" fn redmagic_end_branchable_frame(_frame_data: *mut *mut c_void) {}

/// Leaves a trace. A trace or recording is left before this call, which itself has nothing left to do.
#[unsafe(no_mangle)]
pub extern "C" fn redmagic_ensure_not_traced() {}

/// Non-zero in a trace: recordings put the constant there, this function is what the interpreter's own code calls.
#[unsafe(no_mangle)]
pub extern "C" fn redmagic_is_traced() -> c_int {
    0
}

/// Calls of `function` are made as they are.
#[unsafe(no_mangle)]
pub extern "C" fn redmagic_do_not_trace_function(function: *mut c_void) {
    if function.is_null() {
        return misuse("redmagic_do_not_trace_function(NULL)");
    }
    with_runtime((), |runtime| runtime.treat(function as u64, Treatment::Residual));
}

/// Says what `function` does, with all that it calls: `effects` is one of `REDMAGIC_EFFECTS_…`.
#[unsafe(no_mangle)]
pub extern "C" fn redmagic_set_function_effects(function: *mut c_void, effects: c_int) {
    let effect = match effects {
        _ if function.is_null() => return misuse("redmagic_set_function_effects(NULL)"),
        0 => CallEffect::Any,
        1 => CallEffect::Reads,
        2 => CallEffect::Errno,
        3 => CallEffect::None,
        _ => return misuse("redmagic_set_function_effects with unknown effects"),
    };
    with_runtime((), |runtime| runtime.set_effect(function as u64, effect));
}

/// Loop `id` is never traced.
#[unsafe(no_mangle)]
pub extern "C" fn redmagic_disable_branch(id: *mut c_void) {
    if id.is_null() {
        return misuse("redmagic_disable_branch(NULL)");
    }
    with_runtime((), |runtime| runtime.disable(id as u64));
}

/// Begins code that is better not duplicated. A trace has been left already, and comes back at the end of the block.
#[unsafe(no_mangle)]
pub extern "C" fn redmagic_begin_merge_block() {}

/// Lets the next pass of loop `id` be recorded whatever its heat.
#[unsafe(no_mangle)]
pub extern "C" fn redmagic_force_begin_trace(id: *mut c_void) -> *mut c_void {
    if id.is_null() {
        misuse("redmagic_force_begin_trace(NULL)");
        return ptr::null_mut();
    }
    with_runtime((), |runtime| runtime.heat_now(id as u64));
    ptr::null_mut()
}

/// Ends a recording. A recording is left before this call.
#[unsafe(no_mangle)]
pub extern "C" fn redmagic_force_end_trace(_id: *mut c_void) -> *mut c_void {
    ptr::null_mut()
}

/// Enters the trace of `id` at its next anchor, as every anchor does.
#[unsafe(no_mangle)]
pub extern "C" fn redmagic_force_jump_to_trace(_id: *mut c_void) -> *mut c_void {
    ptr::null_mut()
}

/// The `length` bytes at `start` do not change until they are forgotten.
#[unsafe(no_mangle)]
pub extern "C" fn redmagic_assume_immutable(start: *const c_void, length: usize) {
    let Some(end) = (start as u64).checked_add(length as u64).filter(|_| !start.is_null() && length > 0) else {
        return;
    };
    with_runtime((), |runtime| runtime.declare(start as u64, end));
}

/// Takes declarations back and drops what depends on them.
#[unsafe(no_mangle)]
pub extern "C" fn redmagic_forget(start: *const c_void, length: usize) {
    let end = (start as u64).saturating_add(length as u64);
    if !start.is_null() && length > 0 {
        with_runtime((), |runtime| runtime.forget(start as u64, end));
    }
}

/// The module with the code at `inside` is about to be unloaded: drops what is known of its code.
#[unsafe(no_mangle)]
pub extern "C" fn redmagic_unload(inside: *const c_void) {
    with_runtime((), |runtime| runtime.unload(inside as u64));
}

/// Sets an option. Returns 0, or -1 if there is no such option or the value is not understood.
///
/// # Safety
/// `key` and `value` are terminated strings, or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn redmagic_configure(key: *const c_char, value: *const c_char) -> c_int {
    if key.is_null() || value.is_null() {
        misuse("redmagic_configure(NULL)");
        return -1;
    }
    // SAFETY: as the caller promises.
    let (key, value) = unsafe { (CStr::from_ptr(key), CStr::from_ptr(value)) };
    let (Ok(key), Ok(value)) = (key.to_str(), value.to_str()) else { return -1 };
    with_runtime(-1, |runtime| {
        if !NAMES.contains(&key) {
            return -1;
        }
        if runtime.configure(key, value).is_ok() { 0 } else { -1 }
    })
}

/// Copies the counters, as many as the caller knows.
///
/// # Safety
/// `statistics` points to `size` writable bytes, or is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn redmagic_get_stats(statistics: *mut Snapshot, size: u64) {
    if statistics.is_null() {
        return misuse("redmagic_get_stats(NULL)");
    }
    let snapshot = with_runtime(Snapshot::default(), |runtime| runtime.snapshot(&runtime.lock()));
    let snapshot = Snapshot { size, ..snapshot };
    let bytes = (size as usize).min(size_of::<Snapshot>());
    // SAFETY: as the caller promises; never more than both sides have.
    unsafe { ptr::copy_nonoverlapping((&raw const snapshot).cast::<u8>(), statistics.cast::<u8>(), bytes) };
}
