//! What the functions of the C interface cost, called from a program whose loops never become hot.
//!
//! ```text
//! cargo bench --bench api
//! ```

use redmagic::capi::*;
use std::ffi::{CStr, c_void};
use std::hint::black_box;
use std::ptr;
use std::time::Instant;

/// Runs of which the fastest counts.
const REPEATS: usize = 7;

// SAFETY: the header's signature; the function is machine code of the library, and takes any id.
unsafe extern "C" {
    safe fn redmagic_backwards_branch(id: *mut c_void);
}

/// Prints how long one of `count` calls takes, with the loop around them.
fn row(name: &str, count: u64, mut call: impl FnMut(u64)) {
    let mut best = f64::INFINITY;
    for _ in 0..REPEATS {
        let begin = Instant::now();
        for at in 0..count {
            call(black_box(at));
        }
        best = best.min(begin.elapsed().as_nanos() as f64 / count as f64);
    }
    println!("{name:<48} {best:>9.1} ns");
}

fn set(key: &CStr, value: &CStr) -> i32 {
    // SAFETY: terminated strings.
    unsafe { redmagic_configure(key.as_ptr(), value.as_ptr()) }
}

fn main() {
    redmagic_start();
    assert_eq!(set(c"hot_loop", c"1000000000"), 0, "the library is running");
    let bytes = vec![0_u8; 1 << 20];
    let place = |at: u64| bytes[(at as usize * 64) % bytes.len()..].as_ptr().cast::<c_void>();
    let id = ptr::from_ref(&bytes).cast_mut().cast::<c_void>();

    row("(the loop alone)", 1_000_000, |_| {});
    row("redmagic_backwards_branch, cold", 1_000_000, |_| redmagic_backwards_branch(id));
    row("redmagic_fellthrough_branch", 1_000_000, |_| redmagic_fellthrough_branch(id));
    row("redmagic_is_traced", 1_000_000, |_| {
        black_box(redmagic_is_traced());
    });
    row("redmagic_temp_disable and redmagic_temp_enable", 1_000_000, |_| {
        redmagic_temp_disable();
        redmagic_temp_enable();
    });
    row("redmagic_assume_immutable and redmagic_forget", 10_000, |at| {
        redmagic_assume_immutable(place(at), 64);
        redmagic_forget(place(at), 64);
    });
    row("redmagic_do_not_trace_function", 10_000, |_| redmagic_do_not_trace_function(main as *mut c_void));
    row("redmagic_configure", 10_000, |_| {
        set(c"hot_exit", c"50");
    });
    row("redmagic_get_stats", 10_000, |_| {
        // SAFETY: no byte is written.
        unsafe { redmagic_get_stats(id.cast(), 0) };
    });
}
