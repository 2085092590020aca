//! What each guest thread has: a context, a private stack, a recorder.
//!
//! A [`Thread`] is made at the first anchor that the library looks at, and freed when the thread ends. The private stack is
//! where the library and traces run; between residual calls nothing of it is in use.
//!
//! # Invariants
//! The thread-local block of the stubs holds the address of the context, or null. Only the thread itself uses its
//! [`Thread`].

#![expect(unsafe_code, reason = "thread-local storage that machine code shares")]

use crate::context::{Context, tls};
use crate::exits::{ExitRecord, NO_UNIT};
use crate::memory::{Mapping, SignalsBlocked};
use crate::recorder::Recorder;
use crate::recorder::places::Places;
use crate::records;
use crate::regions;
use crate::stubs;
use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes of private stack: the optimiser and the compiler run there. Only touched pages cost memory.
const STACK_BYTES: usize = 8 << 20;

/// One guest thread.
#[repr(C)]
pub struct Thread {
    /// First, so that a context's address is its thread's.
    pub context: Context,
    /// The recording under way.
    pub recorder: Option<Box<Recorder>>,
    /// What recordings know of the guest's code, while none is under way.
    pub places: Places,
    /// The activation record of the residual call that the recording waits for.
    pub suspended: *mut records::Record,
    /// Leads wherever the library wants a stub to go that expects an exit record.
    pub transfer: ExitRecord,
    /// Trace entries from anchors. Only this thread adds to them; others look.
    pub entries: AtomicU64,
    stack: Mapping,
}

/// Frees the thread's memory when the thread ends.
struct Owner;

impl Drop for Owner {
    fn drop(&mut self) {
        free_current();
    }
}

thread_local! {
    static OWNER: Cell<Option<Owner>> = const { Cell::new(None) };
}

fn block() -> *mut u8 {
    (stubs::fs_base() as *mut u8).wrapping_offset(stubs::tls_offset() as isize)
}

/// The calling thread's context, or null.
pub fn current_context() -> *mut Context {
    // SAFETY: the thread-local block of the calling thread.
    unsafe { block().wrapping_offset(tls::CONTEXT as isize).cast::<*mut Context>().read() }
}

/// Whether the calling thread is in the library or in a trace.
pub fn is_busy() -> bool {
    // SAFETY: as above.
    unsafe { block().wrapping_offset(tls::BUSY as isize).cast::<u32>().read_volatile() != 0 }
}

/// Says whether the calling thread is in the library or in a trace.
pub fn set_busy(busy: bool) {
    // SAFETY: as above.
    unsafe { block().wrapping_offset(tls::BUSY as isize).cast::<u32>().write_volatile(u32::from(busy)) };
}

/// Makes the calling thread's context. Returns false without memory.
pub fn create() -> bool {
    let _blocked = SignalsBlocked::new();
    if !current_context().is_null() {
        return true;
    }
    let Some(stack) = Mapping::stack(STACK_BYTES) else { return false };
    let mut thread = Box::new(Thread {
        context: Context::new(),
        recorder: None,
        places: Places::default(),
        suspended: ptr::null_mut(),
        transfer: ExitRecord::new(NO_UNIT, 0),
        entries: AtomicU64::new(0),
        stack,
    });
    let owner = &raw const *thread as u64;
    thread.context.free_record = records::enrol(owner, block().wrapping_offset(tls::BUSY as isize) as u64);
    if !records::has_two(thread.context.free_record) {
        records::release(thread.context.free_record, owner);
        return false;
    }
    thread.context.stack_top = thread.stack.end();
    thread.context.fs = stubs::fs_base();
    thread.context.gs = gs_base();
    let thread = Box::into_raw(thread);
    // SAFETY: the thread was just made and is leaked until `free_current`; its context comes first.
    unsafe {
        (*thread).context.thread = thread;
        block().wrapping_offset(tls::CONTEXT as isize).cast::<*mut Thread>().write(thread);
    }
    // Anchors rest for one thread only.
    if let Some(runtime) = crate::runtime::get() {
        runtime.words.rest(0);
    }
    // A thread that is ending already has no destructors any more; its context is leaked.
    let _ = OWNER.try_with(|owner| owner.set(Some(Owner)));
    true
}

/// The calling thread's gs base, which hardly any program uses.
fn gs_base() -> u64 {
    const ARCH_GET_GS: libc::c_int = 0x1004;
    let mut base = 0_u64;
    // SAFETY: the kernel writes one word.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_GET_GS, &raw mut base) };
    base
}

/// How far `errno` is from the fs base: in every thread, since C libraries have it among the thread-local variables that are there
/// from the start.
pub fn errno_distance() -> i64 {
    // SAFETY: it only says where the variable of the calling thread is.
    let address = unsafe { libc::__errno_location() };
    (address as u64).wrapping_sub(stubs::fs_base()) as i64
}

fn free_current() {
    let _blocked = SignalsBlocked::new();
    let context = current_context();
    if context.is_null() || is_busy() {
        return;
    }
    regions::abandon_all();
    // SAFETY: the context is the first field of a thread that `create` has leaked; nothing of it is in use, for the
    // thread is running its destructors, on its own stack.
    unsafe {
        block().wrapping_offset(tls::CONTEXT as isize).cast::<*mut Context>().write(ptr::null_mut());
        let thread = Box::from_raw(context.cast::<Thread>());
        records::release(thread.context.free_record, context as u64);
        crate::runtime::add_entries(thread.entries.load(Relaxed));
    }
}

/// Whether the process has no other thread, of the guest or not.
pub fn is_alone() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}

/// The trace entries of the thread with this context.
///
/// # Safety
/// The thread's structure was not freed.
pub unsafe fn entries_of(context: u64) -> u64 {
    let thread = context as *const Thread;
    // SAFETY: as the caller promises; no reference is made to what the thread itself may be using.
    unsafe { (*thread).entries.load(Relaxed) }
}

/// The thread of a context.
///
/// # Safety
/// `context` is the calling thread's, and no other reference to its thread is in use.
pub unsafe fn of_context<'a>(context: *mut Context) -> &'a mut Thread {
    // SAFETY: a context is the first field of its thread.
    unsafe { &mut *context.cast::<Thread>() }
}

impl Thread {
    /// What of a thread is the library's own, in the address space of the calling thread: start and end of each range.
    pub fn own_ranges(&self) -> [(u64, u64); 3] {
        let (this, block) = (std::ptr::from_ref(self) as u64, block() as u64);
        [(self.stack.start(), self.stack.end()), (this, this + size_of::<Thread>() as u64), (block, block + 64)]
    }

    /// Ends the recording under way.
    pub fn take_recorder(&mut self) -> Option<Box<Recorder>> {
        let mut recorder = self.recorder.take()?;
        self.places = std::mem::take(&mut recorder.places);
        Some(recorder)
    }

    /// Whether an address lies in the private stack.
    pub fn owns(&self, address: u64) -> bool {
        (self.stack.start()..self.stack.end()).contains(&address)
    }
}
