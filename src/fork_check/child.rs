//! The process that runs one iteration of a trace.
//!
//! # Invariants
//! - The child takes no lock, allocates nothing, runs no handler and no destructor, and never returns from here: it runs
//!   the trace, reports through a shared page and waits to be killed. What it changes is its own, for nothing writable
//!   is shared but the report and the code arena, which traces do not write.
//! - It is no child that the guest could wait for: it sends no signal when it ends. It is always reaped here.
//!
//! - A child that waits can be told to go on from the exit, natively (see the module `follow`).
//!
//! Worked example: the trace returns the record of its exit 3; the child copies its context to the report, sets the state
//! to [`DONE`] and sleeps; the parent compares memory, goes on, looks at some words again, and kills it.

#![expect(unsafe_code, reason = "forks, and runs machine code")]

use super::follow::{Step, follow};
use super::pages::{self, Change, Reason, Scan};
use crate::context::Context;
use crate::judge;
use crate::recorder::PendingCall;
use crate::records::{self, Record};
use crate::stubs;
use crate::thread::{Thread, is_alone};
use std::arch::naked_asm;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering::Acquire, Ordering::Release};
use std::time::{Duration, Instant};

/// What a trace returned, and the state that it left.
pub struct Iteration {
    /// The address of an exit record.
    pub exit: u64,
    /// The residual call that the first free activation record describes: stale unless the exit is the state of one.
    pub call: PendingCall,
    /// The context.
    pub context: Box<Context>,
    /// The words of memory that were changed.
    pub changes: Vec<Change>,
    shared: Shared,
    child: Child,
}

impl Iteration {
    /// A word of the child's memory.
    pub fn word(&self, address: u64) -> Option<u64> {
        pages::read_word_of(self.child.pid, address)
    }

    /// Lets the child execute `steps` from the state in the context, which is the one behind them afterwards; what it has
    /// changed in memory it keeps. Returns how many it has executed; no more than there is room for.
    pub fn follow(&mut self, steps: &[Step]) -> Result<usize, Trouble> {
        let report = self.shared.0;
        let count = steps.len().min(MAX_STEPS);
        // SAFETY: the child sleeps until it is told to go on; there is room for so many steps.
        unsafe {
            ptr::copy_nonoverlapping(steps.as_ptr(), (&raw mut (*report).steps).cast(), count);
            (*report).count = count;
            ptr::copy_nonoverlapping(&raw const *self.context, &raw mut (*report).context, 1);
        }
        self.shared.tell(FOLLOW);
        wait(&self.shared, &mut self.child, FOLLOWED)?;
        // SAFETY: the child has written a context there and sleeps.
        unsafe {
            *self.context = ptr::read(&raw const (*report).context);
            Ok((*report).count)
        }
    }
}

/// Why there is no iteration.
pub enum Trouble {
    /// It cannot be run here.
    Skipped(Reason),
    /// The child died of this signal.
    Died(i32),
    /// It did not end.
    Endless,
}

/// More than one iteration of any trace takes.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// The states of a report: the trace was left; go on natively; that is done.
const DONE: u32 = 1;
const FOLLOW: u32 = 2;
const FOLLOWED: u32 = 3;
/// Instructions that a child goes on for at most.
pub const MAX_STEPS: usize = 4096;

/// What both processes see.
#[repr(C)]
struct Report {
    state: AtomicU32,
    exit: u64,
    call: PendingCall,
    context: Context,
    /// What to execute, and then how much of that was.
    count: usize,
    steps: [MaybeUninit<Step>; MAX_STEPS],
}

/// The report's mapping.
struct Shared(*mut Report);

impl Shared {
    fn new() -> Option<Shared> {
        let length = size_of::<Report>();
        // SAFETY: a new file and a new mapping anywhere. Its name tells a scan that it is no memory of the guest.
        let start = unsafe {
            let file = libc::memfd_create(c"redmagic-check".as_ptr(), libc::MFD_CLOEXEC);
            let access = libc::PROT_READ | libc::PROT_WRITE;
            if file < 0 {
                return None;
            }
            let start = match libc::ftruncate(file, length as i64) {
                0 => libc::mmap(ptr::null_mut(), length, access, libc::MAP_SHARED, file, 0),
                _ => libc::MAP_FAILED,
            };
            libc::close(file);
            start
        };
        (start != libc::MAP_FAILED).then_some(Shared(start.cast()))
    }

    /// Sets the state and wakes the other process. Allocates nothing.
    fn tell(&self, state: u32) {
        self.state().store(state, Release);
        // SAFETY: a word of a mapping that lives; the kernel only looks at it.
        unsafe {
            libc::syscall(libc::SYS_futex, self.state().as_ptr(), libc::FUTEX_WAKE, 1, 0_usize, 0_usize, 0);
        }
    }

    /// Sleeps while the state is `old`, at most for this time. Allocates nothing.
    fn sleep(&self, old: u32, limit: Option<libc::timespec>) {
        let limit = limit.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: as above; the limit lives.
        unsafe { libc::syscall(libc::SYS_futex, self.state().as_ptr(), libc::FUTEX_WAIT, old, limit, 0_usize, 0) };
    }

    fn state(&self) -> &AtomicU32 {
        // SAFETY: the mapping lives as long as this value; the word is only accessed atomically.
        unsafe { &(*self.0).state }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        unsafe { libc::munmap(self.0.cast(), size_of::<Report>()) };
    }
}

/// A child, killed and reaped when dropped.
struct Child {
    pid: libc::pid_t,
    reaped: bool,
}

impl Child {
    /// The signal it has died of, if it has.
    fn death(&mut self, options: i32) -> Option<i32> {
        let mut status = 0;
        // SAFETY: the child is this value's own.
        let reaped = unsafe { libc::waitpid(self.pid, &mut status, options | libc::__WALL) } == self.pid;
        self.reaped |= reaped;
        reaped.then(|| if libc::WIFSIGNALED(status) { libc::WTERMSIG(status) } else { 0 })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            // SAFETY: not reaped yet, so the number is still this child's.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            self.death(0);
        }
    }
}

/// Runs the trace function at `function` in a forked child, on the thread's context.
pub fn run(function: u64, thread: &mut Thread) -> Result<Iteration, Trouble> {
    if !is_alone() {
        return Err(Trouble::Skipped("there are several threads"));
    }
    let mut excluded = Vec::new();
    excluded.extend(thread.own_ranges());
    excluded.extend(records::ranges());
    excluded.push(judge::meters());
    excluded.extend(system_ranges());
    // In this order: what follows the scan's list of mappings must not change what it lists.
    let mut scan = Scan::new(&excluded).map_err(Trouble::Skipped)?;
    let Some(shared) = Shared::new() else { return Err(Trouble::Skipped("no memory for a report")) };
    // SAFETY: a process of its own, on a copy of this stack. No handler of the guest or of libc runs.
    let pid = unsafe { libc::syscall(libc::SYS_clone, 0_usize, 0_usize, 0_usize, 0_usize, 0_usize) };
    if pid == 0 {
        // SAFETY: this is the child; the context is its copy of this thread's.
        unsafe { iterate(function, &raw mut thread.context, &shared) };
    }
    if pid < 0 {
        return Err(Trouble::Skipped("no process"));
    }
    let mut child = Child { pid: pid as libc::pid_t, reaped: false };
    wait(&shared, &mut child, DONE)?;
    scan.compare(child.pid).map_err(Trouble::Skipped)?;
    // SAFETY: the child has written a context there and sleeps. It is a plain copy: nothing is dropped twice.
    let (report, context) = unsafe { (&*shared.0, Box::new(ptr::read(&raw const (*shared.0).context))) };
    let (exit, call) = (report.exit, report.call);
    Ok(Iteration { exit, call, context, changes: scan.into_changes(), shared, child })
}

/// Waits for the child to reach `state`. Allocates nothing.
fn wait(shared: &Shared, child: &mut Child, state: u32) -> Result<(), Trouble> {
    let start = Instant::now();
    loop {
        let now = shared.state().load(Acquire);
        if now == state {
            return Ok(());
        }
        shared.sleep(now, Some(libc::timespec { tv_sec: 0, tv_nsec: 5_000_000 }));
        if shared.state().load(Acquire) != state {
            if let Some(signal) = child.death(libc::WNOHANG) {
                return Err(Trouble::Died(signal));
            }
            if start.elapsed() > TIME_LIMIT {
                return Err(Trouble::Endless);
            }
        }
    }
}

/// The child's whole life.
///
/// # Safety
/// This process was forked for it; the function is a trace's, the context that of the only thread.
unsafe fn iterate(function: u64, context: *mut Context, shared: &Shared) -> ! {
    let report = shared.0;
    // SAFETY: as the caller promises; system calls on this process alone. The report is this process's while it works.
    unsafe {
        libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        let limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::syscall(libc::SYS_setrlimit, libc::RLIMIT_CORE, &raw const limit);
        // A fault ends the child, whatever the guest would do about it: SIG_DFL, no flags, no mask.
        let default = [0_u64; 4];
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGABRT] {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), 0_usize, 8);
        }
        (*report).exit = enter(context, ptr::null_mut(), function);
        let record = &*(*context).free_record;
        (*report).call = PendingCall { target: record.target, return_address: record.return_address, region: None };
        ptr::copy_nonoverlapping(context, &raw mut (*report).context, 1);
        shared.tell(DONE);
        loop {
            let state = shared.state().load(Acquire);
            if state == FOLLOW {
                ptr::copy_nonoverlapping(&raw const (*report).context, context, 1);
                let steps = std::slice::from_raw_parts((&raw const (*report).steps).cast(), (*report).count);
                (*report).count = follow(&mut *context, steps);
                ptr::copy_nonoverlapping(context, &raw mut (*report).context, 1);
                shared.tell(FOLLOWED);
            } else {
                shared.sleep(state, None);
            }
        }
    }
}

/// Calls a trace function, which keeps no register, as `enter_trace` does.
#[unsafe(naked)]
extern "C" fn enter(_context: *mut Context, _record: *mut Record, _function: u64) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 8",
        "mov rbx, rdi",
        "call rdx",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

/// What the kernel or the C library change on their own: errno, and the area of restartable sequences.
fn system_ranges() -> Vec<(u64, u64)> {
    // SAFETY: the address of this thread's errno; the symbols are constants of the C library, if it has them.
    unsafe {
        let errno = libc::__errno_location() as u64;
        let mut ranges = vec![(errno, errno + 4)];
        let offset = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()).cast::<i64>();
        let size = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_size".as_ptr()).cast::<u32>();
        if !offset.is_null() && !size.is_null() {
            let start = stubs::fs_base().wrapping_add_signed(*offset);
            ranges.push((start, start + u64::from((*size).max(32))));
        }
        ranges
    }
}
