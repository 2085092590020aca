//! Activation records: what a trace leaves behind while a residual call runs.
//!
//! No frame of ours exists during the call. The trace has stored its live values in a record, the record's *thunk* makes
//! the call on the guest's stack, and when the callee returns there, the thunk hands the record to the stub that enters
//! the trace again. A record may also never be returned to (longjmp, an exception, a coroutine that is dropped): then
//! it is found and used again when records run short.
//!
//! # Layout
//! ```text
//! redmagic_records:  RECORDS records of 128 bytes     (readable, writable)
//! + THUNK_DISTANCE:  RECORDS thunks of 128 bytes      (readable, executable once prepared)
//! ```
//! both in a section of the module that takes no room in the file, so that one static unwind entry can cover all
//! thunks: *the caller of a thunk has the same stack pointer, and its return address stands at the start of the
//! record*, a fixed distance before the thunk's own return address. Unwinders, debuggers and profilers walk
//! through as if the callee had been called by the guest itself.
//!
//! # Invariants
//! - A thread's chain of free records is its own. The pool behind it is locked, with signals blocked.
//! - A record whose call is under way belongs to the thread that made the call, which takes it back without the lock when
//!   the callee returns there. Where the guest has moved the stack to another thread, that one takes it with the pool
//!   locked. Only the owner looks for its records that will never return, so it cannot be just returning to one.
//! - `live` is one of the states below. Only calls are returned to, so only they are looked for on the stack; the record of
//!   a region is its thread's until that thread has abandoned it.

#![expect(unsafe_code, reason = "records are shared with machine code")]

use crate::context::tls;
use crate::exits::NO_UNIT;
use crate::memory::{self, Mapping, SignalsBlocked, read_word};
use crate::stubs;
use std::arch::global_asm;
use std::collections::HashSet;
use std::mem::offset_of;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Words that a trace can save across a residual call.
pub const SAVE_WORDS: usize = 128;

const RECORDS: usize = 32768;
const RECORD_BYTES: usize = 128;
const THUNK_BYTES: usize = 128;
/// From a record to its thunk.
pub const THUNK_DISTANCE: usize = RECORDS * RECORD_BYTES;
/// From a thunk's start to where its callee returns.
const RETURN_OFFSET: usize = 18;
/// From a record to where its callee returns.
pub const RETURN_DISTANCE: usize = THUNK_DISTANCE + RETURN_OFFSET;
/// Records are prepared and handed out a page at a time.
const BATCH: usize = 4096 / RECORD_BYTES;

/// The record is not in use.
const FREE: u32 = 0;
/// The trace waits for this call to return.
pub const WAITING: u32 = 1;
/// Nobody waits any more: the unit was dropped meanwhile, or a region did not end where it should.
pub const ABANDONED: u32 = 2;
/// The trace waits for the end of a region; see `regions`.
pub const REGION: u32 = 3;
/// The same, and the unit was dropped meanwhile.
const ABANDONED_REGION: u32 = 4;

/// An activation record.
#[repr(C)]
pub struct Record {
    /// The guest's own return address.
    pub return_address: u64,
    /// The callee.
    pub target: u64,
    /// The guest's stack pointer after the callee has returned.
    pub rsp: u64,
    /// rax as the callee left it.
    pub rax: u64,
    /// rcx as the callee left it.
    pub rcx: u64,
    /// [`SAVE_WORDS`] words for the trace's live values.
    pub save: *mut u64,
    /// The next free record.
    pub next: *mut Record,
    /// Where the trace goes on.
    pub resume: u64,
    /// The function to enter with the context and this record; returns an exit record.
    pub function: u64,
    /// Its state, as above.
    pub live: AtomicU32,
    /// Whether all vector state is saved at return, or only xmm0 to xmm15.
    pub wide: u32,
    /// The unit whose trace made the call.
    pub unit: AtomicU32,
    /// In a region of `redmagic_temp_disable`: its nesting.
    pub depth: u32,
    /// The context of the thread that made the call.
    pub owner: u64,
}

const _: () = assert!(size_of::<Record>() <= RECORD_BYTES);
const _: () = assert!(offset_of!(Record, return_address) == 0);

// The unwind rules: the frame's address is rsp + 1 (any value that differs from the callee's, which some unwinders
// insist on), the caller's rsp is rsp, and its return address is found through our own one at rsp - 8:
// *( *(rsp - 8) - RETURN_DISTANCE ). See DWARF 4, 6.4.2 and 2.5.1.
global_asm!(
    ".section .bss.redmagic_records,\"aw\",@nobits",
    ".balign 4096",
    ".hidden redmagic_records",
    ".type redmagic_records, @object",
    ".size redmagic_records, {records}",
    "redmagic_records:",
    ".skip {records}",
    ".hidden redmagic_residual_call",
    ".type redmagic_residual_call, @function",
    ".size redmagic_residual_call, {thunks}",
    "redmagic_residual_call:",
    ".cfi_startproc simple",
    ".cfi_escape 0x0c, 7, 1",
    ".cfi_escape 0x16, 7, 2, 0x77, 0",
    ".cfi_escape 0x16, 16, 10, 0x77, 0x78, 0x06, 0x0c, {d0}, {d1}, {d2}, {d3}, 0x1c, 0x06",
    ".skip {thunks}",
    ".cfi_endproc",
    ".text",
    records = const RECORDS * RECORD_BYTES,
    thunks = const RECORDS * THUNK_BYTES,
    d0 = const RETURN_DISTANCE & 0xff,
    d1 = const RETURN_DISTANCE >> 8 & 0xff,
    d2 = const RETURN_DISTANCE >> 16 & 0xff,
    d3 = const RETURN_DISTANCE >> 24 & 0xff,
);

// SAFETY: the name, size and kind of the section above.
unsafe extern "C" {
    static mut redmagic_records: [u8; RECORDS * RECORD_BYTES];
}

/// A thread that has records.
struct Member {
    /// Its context.
    owner: u64,
    /// Its word BUSY.
    busy: u64,
}

struct Pool {
    /// Records below this number are prepared.
    prepared: usize,
    /// All threads.
    threads: Vec<Member>,
    /// Refills that are refused before it is worth while to look for abandoned records again.
    patience: usize,
    /// Chain of prepared records that no thread has.
    free: *mut Record,
    /// The save areas of all records.
    saves: Option<Mapping>,
}

impl Pool {
    /// Whether no other thread than the one with context `own` is listed.
    fn is_only(&self, own: u64) -> bool {
        self.threads.iter().all(|thread| thread.owner == own)
    }
}

// SAFETY: the pointers lead into the static section, and only who holds the lock follows them.
unsafe impl Send for Pool {}

static POOL: Mutex<Pool> =
    Mutex::new(Pool { prepared: 0, threads: Vec::new(), patience: 0, free: ptr::null_mut(), saves: None });

fn record(index: usize) -> *mut Record {
    (&raw mut redmagic_records).cast::<u8>().wrapping_add(index * RECORD_BYTES).cast()
}

/// The address where the callee of this record's call returns.
pub fn return_point(record: *const Record) -> u64 {
    record as u64 + RETURN_DISTANCE as u64
}

/// Whether a chain has at least two records: one for a call, and one so that it never becomes empty.
pub fn has_two(chain: *mut Record) -> bool {
    // SAFETY: chains consist of prepared records of the calling thread.
    !chain.is_null() && unsafe { !(*chain).next.is_null() }
}

/// Where records and the values that they save are: start and end of each area.
pub fn ranges() -> [(u64, u64); 2] {
    let _blocked = SignalsBlocked::new();
    let pool = lock();
    let first = record(0) as u64;
    let saves = pool.saves.as_ref().map_or((0, 0), |saves| (saves.start(), saves.end()));
    [(first, first + (THUNK_DISTANCE + RECORDS * THUNK_BYTES) as u64), saves]
}

/// A first chain for a thread with this context and this word BUSY. Null when there is none left.
pub fn enrol(owner: u64, busy: u64) -> *mut Record {
    {
        let _blocked = SignalsBlocked::new();
        lock().threads.push(Member { owner, busy });
    }
    refill(ptr::null_mut(), owner)
}

/// Hands out a chain of free records that ends in `rest` to the calling thread, whose context is `owner`. Returns `rest`
/// itself when there is none left.
pub fn refill(rest: *mut Record, owner: u64) -> *mut Record {
    let _blocked = SignalsBlocked::new();
    let mut pool = lock();
    let mut chain = rest;
    for _ in 0..BATCH {
        // A single record is of no use to a thread that has none: a chain never becomes empty.
        if pool.free.is_null() && !has_two(chain) {
            find_more(&mut pool, owner);
        }
        let first = pool.free;
        if first.is_null() {
            break;
        }
        // SAFETY: a free record of the pool, whose lock is held.
        unsafe {
            pool.free = (*first).next;
            (*first).next = chain;
        }
        chain = first;
    }
    chain
}

/// Puts records into an empty pool: new ones, or abandoned ones.
fn find_more(pool: &mut Pool, owner: u64) {
    if prepare(pool) {
        return;
    }
    // Looking at every record costs as much as thousands of calls.
    match pool.patience.checked_sub(1) {
        Some(left) => pool.patience = left,
        None => pool.patience = if take_abandoned(pool, owner) * 8 >= RECORDS { 0 } else { RECORDS / 8 },
    }
}

/// Takes back the chain of a thread that ends.
pub fn release(chain: *mut Record, owner: u64) {
    let _blocked = SignalsBlocked::new();
    let mut pool = lock();
    pool.threads.retain(|thread| thread.owner != owner);
    let mut at = chain;
    while !at.is_null() {
        // SAFETY: a free record that the caller gives up.
        unsafe {
            let next = (*at).next;
            (*at).next = pool.free;
            pool.free = at;
            at = next;
        }
    }
}

/// Ends the call that a record describes, on whatever thread. Returns whether it was under way: then the record is the
/// caller's.
pub fn end(record: *mut Record) -> bool {
    let _blocked = SignalsBlocked::new();
    let _pool = lock();
    // SAFETY: records live as long as the process.
    unsafe { (*record).live.swap(FREE, Relaxed) != FREE }
}

/// The lock on the pool while the process forks.
pub struct Held(MutexGuard<'static, Pool>);

/// Keeps other threads out of the pool while the process forks. Signals must be blocked.
pub fn hold() -> Held {
    Held(lock())
}

impl Held {
    /// In the child, which has only the thread with this context.
    pub fn keep_only(&mut self, owner: u64) {
        self.0.threads.retain(|thread| thread.owner == owner);
    }
}

fn lock() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The calls of these units that are under way will go on in the guest when they return.
pub fn abandon_units(units: &HashSet<u32>) {
    let pool = lock();
    for at in 0..pool.prepared {
        // SAFETY: a prepared record. Its thread may be writing `unit`; then the unit is looked for again later (see `reclaim`).
        let record = unsafe { &*record(at) };
        if units.contains(&record.unit.load(Relaxed)) {
            let _ = record.live.compare_exchange(WAITING, ABANDONED, Relaxed, Relaxed);
            let _ = record.live.compare_exchange(REGION, ABANDONED_REGION, Relaxed, Relaxed);
        }
    }
}

/// A thread that may be in a trace, and how many it had entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    owner: u64,
    entries: u64,
}

/// Whether no other thread than the one with context `own` has one.
pub fn is_only(own: u64) -> bool {
    let _blocked = SignalsBlocked::new();
    lock().is_only(own)
}

/// The threads that may be in a trace now, without the one with context `own`. A thread that enters one from here on sees
/// all that was stored before. `None` if the system cannot make sure of that.
pub fn busy_threads(own: u64) -> Option<Vec<Busy>> {
    let pool = lock();
    if pool.is_only(own) {
        return Some(Vec::new());
    }
    memory::barrier_everywhere()
        .then(|| pool.threads.iter().filter(|thread| thread.owner != own).filter_map(busy).collect())
}

/// Leaves only those that have been in a trace, the same one, ever since.
pub fn still_busy(seen: &mut Vec<Busy>) {
    let pool = lock();
    seen.retain(|seen| {
        let now = pool.threads.iter().find(|thread| thread.owner == seen.owner).and_then(busy);
        // It may have found its trace before it was seen, and have counted afterwards. Not so the next one.
        now.is_some_and(|now| now.entries.wrapping_sub(seen.entries) < 2)
    });
}

/// What is known of a thread, if it may be in a trace.
fn busy(thread: &Member) -> Option<Busy> {
    // The block of a thread that has ended without a word is gone, or holds anything.
    let is_busy = memory::read_bytes::<4>(thread.busy).is_some_and(|word| word != [0; 4]);
    // SAFETY: members are threads whose structure lives as long as they are listed, or for ever.
    is_busy.then(|| Busy { owner: thread.owner, entries: unsafe { crate::thread::entries_of(thread.owner) } })
}

/// Makes the next page of records and thunks. Returns false if all are made, or memory is short.
fn prepare(pool: &mut Pool) -> bool {
    if pool.prepared + BATCH > RECORDS {
        return false;
    }
    if pool.saves.is_none() {
        pool.saves = Mapping::reserve(RECORDS * SAVE_WORDS * 8);
    }
    let Some(saves) = pool.saves.as_ref().map(Mapping::start) else { return false };
    let first = pool.prepared;
    let thunks = record(first).cast::<u8>().wrapping_add(THUNK_DISTANCE);
    // SAFETY: the pages of this batch belong to the section and nobody refers to them yet; they are written first and
    // then made executable, never both at once.
    unsafe {
        for at in first..first + BATCH {
            let save = (saves as *mut u64).wrapping_add(at * SAVE_WORDS);
            let record = record(at);
            record.write(Record {
                return_address: 0,
                target: 0,
                rsp: 0,
                rax: 0,
                rcx: 0,
                save,
                next: pool.free,
                resume: 0,
                function: 0,
                live: AtomicU32::new(FREE),
                wide: 0,
                unit: AtomicU32::new(NO_UNIT),
                depth: 0,
                owner: 0,
            });
            let code = thunk();
            ptr::copy_nonoverlapping(code.as_ptr(), record.cast::<u8>().wrapping_add(THUNK_DISTANCE), code.len());
            pool.free = record;
        }
        if libc::mprotect(thunks.cast(), BATCH * THUNK_BYTES, libc::PROT_READ | libc::PROT_EXEC) != 0 {
            pool.free = ptr::null_mut();
            return false;
        }
    }
    pool.prepared += BATCH;
    true
}

/// Finds records of `owner`, and of threads that have ended, whose call will never return: the stack no longer holds their
/// return address. Returns how many.
fn take_abandoned(pool: &mut Pool, owner: u64) -> usize {
    let mut found = 0;
    for at in 0..pool.prepared {
        let pointer = record(at);
        // SAFETY: a prepared record. Of what its owner may be writing, only words are read.
        let (live, its_owner, rsp) =
            unsafe { ((*pointer).live.load(Relaxed), (*pointer).owner, (*pointer).rsp.wrapping_sub(8)) };
        let ours = its_owner == owner || !pool.threads.iter().any(|thread| thread.owner == its_owner);
        let call = matches!(live, WAITING | ABANDONED);
        if call && ours && read_word(rsp) != Some(return_point(pointer)) {
            // SAFETY: its call is over without a return, and nobody else takes it while the pool is locked.
            unsafe {
                (*pointer).live.store(FREE, Relaxed);
                (*pointer).next = pool.free;
            }
            pool.free = pointer;
            found += 1;
        }
    }
    found
}

/// The code of a thunk; the same bytes for every record, because everything is relative.
fn thunk() -> Vec<u8> {
    let mut code = Vec::with_capacity(THUNK_BYTES);
    let busy = (stubs::tls_offset() as i32).wrapping_add(tls::BUSY).to_le_bytes();
    let field = |code: &[u8], offset: usize, length: usize| {
        let from = THUNK_DISTANCE + code.len() + length;
        (offset as i32 - from as i32).to_le_bytes()
    };
    // mov dword fs:[busy], 0
    code.extend([0x64, 0xc7, 0x04, 0x25]);
    code.extend(busy);
    code.extend([0, 0, 0, 0]);
    // call [rip + target]
    let target = field(&code, offset_of!(Record, target), 6);
    code.extend([0xff, 0x15]);
    code.extend(target);
    debug_assert_eq!(code.len(), RETURN_OFFSET);
    // mov dword fs:[busy], 1
    code.extend([0x64, 0xc7, 0x04, 0x25]);
    code.extend(busy);
    code.extend([1, 0, 0, 0]);
    // mov [rip + rax], rax
    let rax = field(&code, offset_of!(Record, rax), 7);
    code.extend([0x48, 0x89, 0x05]);
    code.extend(rax);
    // lea rax, [rip + record]
    let record = field(&code, 0, 7);
    code.extend([0x48, 0x8d, 0x05]);
    code.extend(record);
    // jmp [rip]; the address follows
    code.extend([0xff, 0x25, 0, 0, 0, 0]);
    code.extend((stubs::return_common as *const () as u64).to_le_bytes());
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_refilled_and_released() {
        let chain = enrol(1, 0);
        assert!(has_two(chain));
        let mut count = 0;
        let mut at = chain;
        while !at.is_null() {
            count += 1;
            assert_eq!(read_word(at as u64 + offset_of!(Record, live) as u64), Some(0));
            at = read_word(at as u64 + offset_of!(Record, next) as u64).unwrap_or(0) as *mut Record;
        }
        assert!((2..=BATCH).contains(&count));
        release(chain, 1);
    }

    #[test]
    fn a_new_thread_gets_two_records_whatever_the_pool_holds() {
        let mut chains = Vec::new();
        // One record short of whole batches, again and again: the pool is left with every number of records.
        for owner in 10..10 + 3 * BATCH as u64 {
            let chain = enrol(owner, 0);
            assert!(has_two(chain));
            // SAFETY: the chain is this test's; its first record is kept, as a call under way would.
            release(unsafe { (*chain).next }, owner);
            chains.push(chain);
        }
        for chain in chains {
            // SAFETY: as above.
            unsafe { (*chain).next = ptr::null_mut() };
            release(chain, 9);
        }
    }

    #[test]
    fn thunks_fit() {
        assert!(thunk().len() <= THUNK_BYTES);
    }
}
