//! The evaluator as a backend: every trace of a live process runs in it, without machine code of its own.
//!
//! For debugging: what is wrong with machine code and right here is the lowering's fault. A unit's function is a few
//! instructions that call [`evaluate`] with the unit's number. The values of an evaluation that waits for a residual call
//! are kept on the heap, and the activation record points to them. Signals are let in at loads: a loop may wait for
//! what a handler stores.

#![expect(unsafe_code, reason = "works on the guest's memory and on activation records")]

use crate::context::Context;
use crate::emit::{Emitter, RAX, RDX};
use crate::exits::ExitRecord;
use crate::memory::{SignalsBlocked, guest_load, guest_store};
use crate::records::Record;
use redmagic_ir::eval::{EvalError, Fault, Guest, Machine, Outcome, swap_in_steps};
use redmagic_ir::{Entity, NativeOp, Segment, Slot, Trace};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A trace with what its evaluation needs.
struct Evaluated {
    trace: Trace,
    /// The stubs of its native operations.
    natives: Vec<u64>,
    /// The address of its first exit record.
    records: u64,
}

static EVALUATED: Mutex<Option<HashMap<u32, Arc<Evaluated>>>> = Mutex::new(None);

/// The code of the function of unit `number`.
pub fn entry(number: u32) -> Vec<u8> {
    let mut code = Emitter::new();
    code.constant(RDX, u64::from(number));
    code.constant(RAX, evaluate as *const () as u64);
    code.raw(&[0xff, 0xe0]); // jmp rax
    code.finish()
}

/// Keeps what the function of unit `number` evaluates. Signals must be blocked.
pub fn remember(number: u32, trace: &Trace, natives: Vec<u64>, records: &[ExitRecord]) {
    let evaluated = Evaluated { trace: trace.clone(), natives, records: records.as_ptr() as u64 };
    let mut all = EVALUATED.lock().unwrap_or_else(PoisonError::into_inner);
    all.get_or_insert_default().insert(number, Arc::new(evaluated));
}

/// Unit `number` is gone. Signals must be blocked.
pub fn forget(number: u32) {
    let mut all = EVALUATED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(all) = all.as_mut() {
        all.remove(&number);
    }
}

/// The longest that signals wait for the next load.
const PATIENCE: Duration = Duration::from_millis(1);

/// The guest of a live process.
struct Live<'a> {
    context: *mut Context,
    evaluated: &'a Evaluated,
    blocked: Option<SignalsBlocked>,
    since: Instant,
}

impl Guest for Live<'_> {
    fn slot(&self, slot: Slot) -> u64 {
        // SAFETY: the calling thread's context; no reference to it is held.
        unsafe { (*self.context).slot(slot) }
    }

    fn set_slot(&mut self, slot: Slot, value: u64) {
        // SAFETY: as above.
        unsafe { (*self.context).set_slot(slot, value) }
    }

    fn load(&mut self, address: u64, bytes: u32) -> Result<u128, Fault> {
        if self.since.elapsed() > PATIENCE {
            self.blocked = None;
            self.blocked = Some(SignalsBlocked::new());
            self.since = Instant::now();
        }
        // SAFETY: the guest would access these bytes here; a fault is the guest's own.
        Ok(unsafe { guest_load(address, bytes) })
    }

    fn store(&mut self, address: u64, bytes: u32, value: u128) -> Result<(), Fault> {
        // SAFETY: as for loads.
        unsafe { guest_store(address, bytes, value) };
        Ok(())
    }

    fn compare_swap(&mut self, address: u64, bytes: u32, expected: u128, new: u128) -> Result<u128, Fault> {
        macro_rules! swap {
            ($atomic:ty, $word:ty) => {{
                // SAFETY: as for loads; aligned.
                let place = unsafe { <$atomic>::from_ptr(address as *mut $word) };
                place
                    .compare_exchange(expected as $word, new as $word, SeqCst, SeqCst)
                    .unwrap_or_else(|seen| seen)
                    .into()
            }};
        }
        Ok(match bytes {
            1 => swap!(AtomicU8, u8),
            2 if address.is_multiple_of(2) => swap!(AtomicU16, u16),
            4 if address.is_multiple_of(4) => swap!(AtomicU32, u32),
            8 if address.is_multiple_of(8) => swap!(AtomicU64, u64),
            // Where a lock is split between two cache lines, the evaluator, which looks for bugs of ours only, has none.
            _ => swap_in_steps(self, address, bytes, expected, new)?,
        })
    }

    fn native(&mut self, op: &NativeOp) -> Result<(), Fault> {
        let at = self.evaluated.trace.natives.values().position(|native| std::ptr::eq(native, op));
        let Some(stub) = at.and_then(|at| self.evaluated.natives.get(at)) else {
            return Err(Fault::Native { pc: op.pc, reason: "it has no stub".to_owned() });
        };
        // SAFETY: the stub is a System V function of the context, made for this operation.
        unsafe { std::mem::transmute::<u64, extern "C" fn(*mut Context)>(*stub)(self.context) };
        Ok(())
    }
}

/// What a trace function is: runs the unit's trace from its entry (`record` null) or behind the call of `record`, and
/// returns the record of the exit.
extern "C" fn evaluate(context: *mut Context, record: *mut Record, number: u32) -> u64 {
    let blocked = Some(SignalsBlocked::new());
    let all = EVALUATED.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(evaluated) = all.as_ref().and_then(|all| all.get(&number)).cloned() else { std::process::abort() };
    drop(all);
    let trace = &evaluated.trace;
    let mut guest = Live { context, evaluated: &evaluated, blocked, since: Instant::now() };
    let (mut machine, result) = if record.is_null() {
        let mut machine = Box::new(Machine::new(trace));
        let result = machine.enter(trace, &mut guest, u64::MAX);
        (machine, result)
    } else {
        // SAFETY: a record of this unit holds the machine that was put there below, once.
        let (mut machine, resume) =
            unsafe { (Box::from_raw((*record).save.read() as *mut Machine), (*record).resume as usize) };
        let result = machine.resume(trace, Segment::from_index(resume), &mut guest, u64::MAX);
        (machine, result)
    };
    let exit = match result {
        Ok(Outcome::Exit(exit)) => exit,
        Ok(Outcome::Call { target, return_address, resume, state }) => {
            // SAFETY: there is always a free record, and it belongs to this thread.
            unsafe {
                let record = (*context).free_record;
                (*record).target = target;
                (*record).return_address = return_address;
                (*record).resume = resume.index() as u64;
                (*record).save.write(&raw mut *machine as u64);
            }
            std::mem::forget(machine);
            state
        }
        Ok(Outcome::OutOfFuel) => std::process::abort(),
        Err(error) => fail(&error),
    };
    evaluated.records + exit.index() as u64 * crate::exits::EXIT_STRIDE
}

/// The guest has divided by zero, or a trace that has passed the verifier cannot be evaluated.
fn fail(error: &EvalError) -> ! {
    if matches!(error, EvalError::Undefined { .. }) {
        // SAFETY: what the division would have done.
        unsafe { libc::raise(libc::SIGFPE) };
    }
    crate::log::line(None, &format!("evaluation failed: {error}"));
    std::process::abort()
}
