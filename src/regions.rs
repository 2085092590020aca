//! Native regions: stretches of the guest between two calls of the API that a trace leaves and comes back to.
//!
//! At the call that begins a region (`redmagic_temp_disable`, `redmagic_begin_merge_block`) a trace, or a recording, leaves
//! with the state behind that call. The guest goes on in its own code; at the call that ends the region, the trace goes
//! on. It is a residual call without a callee: the live values wait in an activation record, and nothing of ours is on any
//! stack. The differences: nothing is pushed, so the thread knows the record; and the region runs in the frames of the
//! trace itself, so that it counts as a callee that was given their address (the lifter says so).
//!
//! # Invariants
//! - A region ends only where it was recorded to end: same thread, same return address, same stack pointer, and for
//!   `redmagic_temp_enable` the same nesting. Everything else that comes of it (an end elsewhere, a jump out of it, no end at
//!   all) goes on in the guest, and the record is found by those who look for abandoned ones.
//! - The trace relies on nothing but these and on immutable memory: every register and all memory count as changed. So it
//!   would do no harm if a region ended that was left by a jump long ago.
//! - Regions of `redmagic_temp_disable` form a chain, the innermost first, each with the nesting that it has. There
//!   is one region of a merge block at a time: it does not nest, because blocks may be left without a call.
//!
//! # Worked example
//! `for (;;) { work(); redmagic_temp_disable(); print(); redmagic_temp_enable(); anchor(); }`: the trace runs `work`,
//! leaves behind the first call with nesting 1, the guest prints, `redmagic_temp_enable` finds the record of this nesting
//! with its own return address and stack pointer, and `return_common` enters the trace again.

#![expect(unsafe_code, reason = "thread-local storage and activation records that machine code shares")]

use crate::capi;
use crate::context::{Context, tls};
use crate::memory::SignalsBlocked;
use crate::records::{ABANDONED, REGION, Record, WAITING};
use crate::stubs::{self, return_common};
use crate::thread::{self, Thread};
use std::arch::naked_asm;
use std::mem::offset_of;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering::Relaxed, Ordering::SeqCst, compiler_fence};

/// What begins and ends a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `redmagic_temp_disable` and `redmagic_temp_enable`: anchors do nothing in between.
    Disabled,
    /// `redmagic_begin_merge_block` and `redmagic_end_merge_block`.
    Merge,
}

/// A word of the calling thread's block.
fn local<T>(offset: i32) -> &'static T {
    // SAFETY: the block is the calling thread's and outlives what is done here; its words are only accessed as atomics,
    // because machine code writes them.
    unsafe { &*(stubs::fs_base().wrapping_add_signed(stubs::tls_offset() + i64::from(offset)) as *const T) }
}

/// Calls of `redmagic_temp_disable` that are open on the calling thread.
fn nesting() -> &'static AtomicU32 {
    local(tls::DISABLED)
}

/// Whether the calling thread's anchors do nothing.
pub fn is_disabled() -> bool {
    nesting().load(Relaxed) > 0
}

/// Begins code that must not become part of a trace. A trace or recording has been left already. One instruction changes the
/// nesting, so that a signal handler sees it before or after.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub extern "C" fn redmagic_temp_disable() {
    naked_asm!(
        "mov rcx, qword ptr [rip + redmagic_tls_block@GOTTPOFF]",
        "add dword ptr fs:[rcx + {disabled}], 1",
        "ret",
        disabled = const tls::DISABLED,
    )
}

/// Makes the thread busy and goes on if the region with the record in rax, which is not null, ends at this call; rcx holds the
/// distance of the thread's block. Else goes to label 3, or to 4 if the thread is busy by then. What is not so usual is left to
/// [`ends_here`].
macro_rules! check_end {
    () => {
        concat!(
            "cmp dword ptr [rax + {rec_live}], {region}\n",
            "jne 3f\n",
            "mov rdx, qword ptr [rsp]\n",
            "cmp qword ptr [rax + {rec_return}], rdx\n",
            "jne 3f\n",
            "lea rdx, [rsp + 8]\n",
            "cmp qword ptr [rax + {rec_rsp}], rdx\n",
            "jne 3f\n",
            "cmp dword ptr fs:[rcx + {busy}], 0\n",
            "jne 3f\n",
            // Who drops the unit looks at BUSY after it has abandoned the record.
            "mov dword ptr fs:[rcx + {busy}], 1\n",
            "cmp dword ptr [rax + {rec_live}], {region}\n",
            "jne 4f\n",
        )
    };
}

/// Ends code that must not become part of a trace.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub extern "C" fn redmagic_temp_enable() {
    naked_asm!(
        "mov rcx, qword ptr [rip + redmagic_tls_block@GOTTPOFF]",
        "mov rax, qword ptr fs:[rcx + {regions}]",
        "test rax, rax",
        "jne 2f",
        "cmp dword ptr fs:[rcx + {disabled}], 0",
        "je 3f",
        "sub dword ptr fs:[rcx + {disabled}], 1",
        "ret",
        "2: mov edx, dword ptr fs:[rcx + {disabled}]",
        "cmp dword ptr [rax + {rec_depth}], edx",
        "jne 3f",
        check_end!(),
        "mov rdx, qword ptr [rax + {rec_next}]",
        "mov qword ptr fs:[rcx + {regions}], rdx",
        "sub dword ptr fs:[rcx + {disabled}], 1",
        "mov dword ptr [rax + {rec_live}], {waiting}",
        "jmp {go_on}",
        "4: mov dword ptr fs:[rcx + {busy}], 0",
        "3: mov rdi, qword ptr [rsp]",
        "lea rsi, [rsp + 8]",
        "push rcx",
        "call {on_enable}",
        "pop rcx",
        "jmp {go_on}",
        regions = const tls::REGIONS, disabled = const tls::DISABLED, busy = const tls::BUSY,
        rec_depth = const offset_of!(Record, depth), rec_live = const offset_of!(Record, live),
        rec_return = const offset_of!(Record, return_address), rec_rsp = const offset_of!(Record, rsp),
        rec_next = const offset_of!(Record, next), region = const REGION, waiting = const WAITING,
        on_enable = sym on_enable, go_on = sym go_on,
    )
}

/// Ends code that is better not duplicated.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub extern "C" fn redmagic_end_merge_block() {
    naked_asm!(
        "mov rcx, qword ptr [rip + redmagic_tls_block@GOTTPOFF]",
        "mov rax, qword ptr fs:[rcx + {merge}]",
        "test rax, rax",
        "jne 2f",
        "ret",
        "2:",
        check_end!(),
        // A signal handler may have run a trace with a merge block since; then this one was abandoned.
        "xor edx, edx",
        "cmpxchg qword ptr fs:[rcx + {merge}], rdx",
        "jne 4f",
        "mov dword ptr [rax + {rec_live}], {waiting}",
        "jmp {go_on}",
        "4: mov dword ptr fs:[rcx + {busy}], 0",
        "3: mov rdi, qword ptr [rsp]",
        "lea rsi, [rsp + 8]",
        "push rcx",
        "call {on_end_merge}",
        "pop rcx",
        "jmp {go_on}",
        merge = const tls::MERGE, busy = const tls::BUSY, rec_live = const offset_of!(Record, live),
        rec_return = const offset_of!(Record, return_address), rec_rsp = const offset_of!(Record, rsp),
        region = const REGION, waiting = const WAITING, on_end_merge = sym on_end_merge, go_on = sym go_on,
    )
}

/// Goes on in the trace whose record is in rax, with the state behind the call that has led here, and the thread busy already;
/// returns from that call if rax is null.
#[unsafe(naked)]
extern "C" fn go_on() {
    naked_asm!(
        "test rax, rax",
        "jne 2f",
        "ret",
        "2: lea rsp, [rsp + 8]",
        // No convention keeps rax; the same value as behind a call that returns.
        "mov qword ptr [rax + {rec_rax}], 0",
        "jmp {return_common}",
        rec_rax = const offset_of!(Record, rax), return_common = sym return_common,
    )
}

/// The calling thread's nesting ends by one, at a call that returns to `return_address` with the stack pointer `rsp`. Returns
/// the record of the region that ends here, or null.
extern "C" fn on_enable(return_address: u64, rsp: u64) -> *mut Record {
    let depth = nesting().load(Relaxed);
    if depth == 0 {
        capi::misuse("redmagic_temp_enable() without redmagic_temp_disable()");
        return ptr::null_mut();
    }
    nesting().store(depth - 1, Relaxed);
    let chain: &AtomicPtr<Record> = local(tls::REGIONS);
    // A signal handler that has interrupted us leaves the chain alone. What it has left too deep is dropped later.
    while !thread::is_busy()
        // SAFETY: records live as long as the process, and those of the chain are the calling thread's.
        && let Some(record) = unsafe { chain.load(Relaxed).as_mut() }
        && record.depth >= depth
    {
        chain.store(record.next, Relaxed);
        if record.depth == depth && ends_here(record, return_address, rsp) {
            return record;
        }
        record.live.store(ABANDONED, Relaxed);
    }
    ptr::null_mut()
}

/// A merge block ends, at a call that returns to `return_address` with the stack pointer `rsp`. Returns the record of the
/// region that ends here, or null.
extern "C" fn on_end_merge(return_address: u64, rsp: u64) -> *mut Record {
    let current: &AtomicPtr<Record> = local(tls::MERGE);
    if thread::is_busy() {
        return ptr::null_mut();
    }
    // At once, because a signal handler may run a trace with a merge block.
    let pointer = current.swap(ptr::null_mut(), Relaxed);
    // SAFETY: as in `on_enable`.
    let Some(record) = (unsafe { pointer.as_mut() }) else { return ptr::null_mut() };
    if ends_here(record, return_address, rsp) {
        return pointer;
    }
    // The end of an inner block, unless the frame has been left.
    if rsp > record.rsp || current.compare_exchange(ptr::null_mut(), pointer, Relaxed, Relaxed).is_err() {
        record.live.store(ABANDONED, Relaxed);
    }
    ptr::null_mut()
}

/// Whether a region ends here; then its record waits for `return_common`, and the thread is busy.
fn ends_here(record: &mut Record, return_address: u64, rsp: u64) -> bool {
    let context = thread::current_context();
    if context.is_null() || record.live.load(Relaxed) != REGION || record.rsp != rsp {
        return false;
    }
    if record.return_address == 0 {
        // A recording finds out where its region ends.
        record.return_address = return_address;
    }
    if record.return_address != return_address {
        return false;
    }
    // From here on the record would pass for one that was abandoned: no handler may look for such. And who drops the unit
    // looks at BUSY after it has abandoned the record.
    thread::set_busy(true);
    compiler_fence(SeqCst);
    let ends = record.live.compare_exchange(REGION, WAITING, Relaxed, Relaxed).is_ok();
    if !ends {
        thread::set_busy(false);
    }
    ends
}

/// Begins a region of a recording, with the first free record of its thread; there must be another one.
pub fn begin_recorded(thread: &mut Thread, kind: Kind, function: u64) -> *mut Record {
    let context = &mut thread.context;
    let record = context.free_record;
    let (rsp, owner) = (context.rsp(), context.address());
    // SAFETY: the chain of free records is the thread's own.
    let taken = unsafe { &mut *record };
    context.free_record = taken.next;
    taken.return_address = 0;
    taken.function = function;
    taken.rsp = rsp;
    taken.owner = owner;
    taken.wide = 1;
    taken.unit.store(crate::exits::NO_UNIT, Relaxed);
    taken.live.store(REGION, Relaxed);
    match kind {
        Kind::Disabled => {
            let chain: &AtomicPtr<Record> = local(tls::REGIONS);
            taken.depth = nesting().fetch_add(1, Relaxed) + 1;
            taken.next = chain.swap(record, Relaxed);
        }
        Kind::Merge => {
            let current: &AtomicPtr<Record> = local(tls::MERGE);
            taken.depth = 0;
            // SAFETY: as above.
            if let Some(before) = unsafe { current.swap(record, Relaxed).as_ref() } {
                before.live.store(ABANDONED, Relaxed);
            }
        }
    }
    record
}

/// Whether a recording's region can still end, as seen from where its thread is now.
pub fn is_open(record: &Record, context: &Context) -> bool {
    // In the same frame or an outer one, the block was left without a call.
    record.live.load(Relaxed) == REGION && (record.depth > 0 || context.rsp() < record.rsp)
}

/// Gives up all regions of the calling thread, which ends.
pub fn abandon_all() {
    let _blocked = SignalsBlocked::new();
    let (chain, merge): (&AtomicPtr<Record>, &AtomicPtr<Record>) = (local(tls::REGIONS), local(tls::MERGE));
    for mut at in [chain.swap(ptr::null_mut(), Relaxed), merge.swap(ptr::null_mut(), Relaxed)] {
        // SAFETY: as above.
        while let Some(record) = unsafe { at.as_ref() } {
            at = if record.depth > 0 { record.next } else { ptr::null_mut() };
            record.live.store(ABANDONED, Relaxed);
        }
    }
}
