//! Residual calls, where the library has a part in making them.
//!
//! Mostly it has none: a trace describes the call in the first free activation record and leaves by the call's piece. But a
//! recording has no code that describes it, and without memory for a piece or a record, a call is made as the guest's own
//! instruction would: then the trace is left for good.
//!
//! Worked example: the only free record describes a call of `f` behind 0x401020. No memory for more: 0x401020 is pushed on
//! the guest's stack, and the guest goes on at `f`.

#![expect(unsafe_code, reason = "activation records, and the guest's stack")]

use crate::compile::complete_context;
use crate::context::Context;
use crate::entry::{Next, leave_anywhere};
use crate::exits::ExitRecord;
use crate::recorder::PendingCall;
use crate::records;
use crate::runtime::{self, Runtime};
use crate::thread;
use std::ptr;
use std::sync::atomic::Ordering::Acquire;

/// Writes a residual call to the first free record.
pub fn describe_call(context: &mut Context, call: PendingCall) {
    let record = context.free_record;
    // SAFETY: the chain is never empty, and its first record is free and this thread's.
    unsafe {
        (*record).target = call.target;
        (*record).return_address = call.return_address;
        (*record).resume = 0;
    }
}

/// Makes the call that the first free record describes without a record, as the guest's own instruction would.
pub fn make_call_plainly(runtime: &'static Runtime, context: &mut Context) -> Next {
    let rsp = context.rsp().wrapping_sub(8);
    // SAFETY: the record is this thread's; the guest's call writes these bytes.
    unsafe {
        let record = &*context.free_record;
        crate::memory::guest_store(rsp, 8, u128::from(record.return_address));
        context.rip = record.target;
    }
    context.gpr[4] = rsp;
    leave_anywhere(runtime, context)
}

/// The same for a call of a unit, whose exit is `record`. One that begins a region returns to where that begins; what the
/// trace has written is where it ends.
pub fn make_plainly(runtime: &'static Runtime, context: &mut Context, record: &ExitRecord) -> Next {
    if let Some((unit, index)) = runtime.lock().units.exit_of(record) {
        let Some(info) = unit.exits.get(index) else { std::process::abort() }; // invariant: exit records are of units
        complete_context(context, &info.code);
        if let Some((_, pc)) = info.region {
            // SAFETY: the chain is never empty, and its first record is free and this thread's.
            unsafe { (*context.free_record).return_address = pc };
        }
    }
    make_call_plainly(runtime, context)
}

/// A residual call that has found only one free record. Answers where to go on: to the call's piece again, or without us.
pub extern "C" fn on_refill(context: *mut Context, record: *const ExitRecord) -> u64 {
    // SAFETY: the stub passes the calling thread's context and a record that outlives its unit's code.
    let (thread, record) = unsafe { (thread::of_context(context), &*record) };
    let context = &mut thread.context;
    let first = context.free_record;
    // The trace has described the call in the first record, so that one stays first.
    // SAFETY: the chain is this thread's and has exactly one record.
    unsafe { (*first).next = records::refill(ptr::null_mut(), context.address()) };
    let Some(runtime) = runtime::get() else { std::process::abort() }; // invariant: units belong to a runtime
    if records::has_two(first) {
        return record.next.load(Acquire);
    }
    make_plainly(runtime, context, record).code()
}
