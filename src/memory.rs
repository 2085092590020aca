//! Memory that the library asks the system for, the guest's memory, and what else needs the system.
//!
//! # Invariants
//! - Code is written through one view of the [`Arena`] and executed through another; no page is both.
//! - The guest's memory is read through the kernel where nothing says that an address is mapped.
//! - [`SignalsBlocked`] is held around every lock and every use of the allocator, so that a handler that leaves by
//!   siglongjmp leaves nothing locked. Signals of faults are not blocked: a fault in such a place is fatal anyway.

#![expect(unsafe_code, reason = "system calls, and accesses to the guest's memory")]

use crate::gaps::Gaps;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;

/// A private anonymous mapping, unmapped when dropped.
pub struct Mapping {
    start: u64,
    length: usize,
}

impl Mapping {
    /// Reserves readable and writable zeros; pages cost nothing until they are touched.
    pub fn reserve(length: usize) -> Option<Mapping> {
        // SAFETY: a new mapping anywhere.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        (start != libc::MAP_FAILED).then_some(Mapping { start: start as u64, length })
    }

    /// A stack: like [`Mapping::reserve`], with an inaccessible page at its low end.
    pub fn stack(length: usize) -> Option<Mapping> {
        let mapping = Mapping::reserve(length)?;
        // SAFETY: the first page of a mapping that nobody uses yet.
        let guarded = unsafe { libc::mprotect(mapping.start as *mut _, 4096, libc::PROT_NONE) };
        (guarded == 0).then_some(mapping)
    }

    /// The first address.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The first address behind the mapping.
    pub fn end(&self) -> u64 {
        self.start + self.length as u64
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        unsafe { libc::munmap(self.start as *mut _, self.length) };
    }
}

/// Memory for machine code: one file in memory, mapped twice.
pub struct Arena {
    write: u64,
    execute: u64,
    length: usize,
    /// Nothing was ever used from here on.
    end: usize,
    /// What is before this stays as it is.
    frozen: usize,
    /// What is free between the two.
    gaps: Gaps,
    /// Bytes in use.
    used: usize,
}

/// Machine code in an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeBlock {
    /// Where it can be executed.
    pub address: u64,
    length: usize,
}

/// What code is aligned to at least, in bytes; its length is rounded up to a multiple.
const CODE_ALIGNMENT: usize = 16;
/// An instruction that stops who should not be here: int3.
const TRAP: u8 = 0xcc;

impl Arena {
    /// An empty arena of `length` bytes (a multiple of the page size).
    pub fn new(length: usize) -> Option<Arena> {
        // SAFETY: plain system calls that create two mappings anywhere; the file lives on in them.
        unsafe {
            let file = code_file(length)?;
            let write = map(ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, 0, file);
            let execute = map(ptr::null_mut(), length, libc::PROT_READ | libc::PROT_EXEC, 0, file);
            libc::close(file);
            Some(Arena { write: write?, execute: execute?, length, end: 0, frozen: 0, gaps: Gaps::default(), used: 0 })
        }
    }

    /// Adds code; `None` when the arena is full.
    pub fn add(&mut self, code: &[u8], alignment: usize) -> Option<CodeBlock> {
        let (length, alignment) = (code.len().next_multiple_of(CODE_ALIGNMENT), alignment.max(CODE_ALIGNMENT));
        let start = match self.gaps.take(length, alignment) {
            Some(start) => start,
            None => self.extend(length, alignment)?,
        };
        // SAFETY: the range lies within the writable view, and nobody else has it.
        unsafe { ptr::copy_nonoverlapping(code.as_ptr(), (self.write as *mut u8).add(start), code.len()) };
        self.used += length;
        Some(CodeBlock { address: self.execute + start as u64, length })
    }

    /// Takes room at the end.
    fn extend(&mut self, length: usize, alignment: usize) -> Option<usize> {
        let start = self.end.next_multiple_of(alignment);
        let end = start.checked_add(length).filter(|end| *end <= self.length)?;
        if self.end < start {
            self.gaps.add(self.end, start - self.end);
        }
        self.end = end;
        Some(start)
    }

    /// Gives the memory of code back that nobody executes or refers to any more.
    pub fn remove(&mut self, block: CodeBlock) {
        let start = (block.address - self.execute) as usize;
        self.used -= block.length;
        if start < self.frozen {
            return;
        }
        // SAFETY: the range lies within the writable view and is the block's alone until it is a gap.
        unsafe { ptr::write_bytes((self.write as *mut u8).add(start), TRAP, block.length) };
        self.gaps.add(start, block.length);
    }

    /// In the parent of a fork: nothing that is here is overwritten any more. The child makes its copy of the file when it
    /// comes to it, or never.
    pub fn freeze(&mut self) {
        (self.frozen, self.gaps) = (self.end, Gaps::default());
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used as u64
    }

    /// In the child of a fork: makes the arena this process's own. Returns false if that fails; then no code of it may
    /// run any more, and what is there stays as it is, for it is the parent's.
    pub fn after_fork(&mut self) -> bool {
        let done = self.copy();
        match done {
            true => self.frozen = 0,
            // Nothing can be added, either.
            false => (self.length, self.frozen, self.gaps) = (0, usize::MAX, Gaps::default()),
        }
        done
    }

    /// Replaces the file behind the arena by a new one with the same content.
    fn copy(&mut self) -> bool {
        let rounded = self.end.next_multiple_of(4096);
        // SAFETY: the new file gets a copy of what is in use, then both views are replaced in place by views of it.
        // Code of this arena is not running: the child's only thread is in the call of fork.
        unsafe {
            let Some(file) = code_file(self.length) else { return false };
            let mut done = 0;
            while done < rounded {
                let source = (self.write as *const u8).add(done);
                let written = libc::pwrite(file, source.cast(), rounded - done, done as i64);
                if written <= 0 {
                    libc::close(file);
                    return false;
                }
                done += written as usize;
            }
            let fixed = libc::MAP_FIXED;
            let write =
                map(self.write as *mut u8, self.length, libc::PROT_READ | libc::PROT_WRITE, fixed, file).is_some();
            let execute =
                map(self.execute as *mut u8, self.length, libc::PROT_READ | libc::PROT_EXEC, fixed, file).is_some();
            libc::close(file);
            write && execute
        }
    }
}

/// A file in memory that nobody else has.
fn code_file(length: usize) -> Option<i32> {
    // SAFETY: plain system calls on a new file.
    unsafe {
        let file = libc::memfd_create(c"redmagic".as_ptr(), libc::MFD_CLOEXEC);
        if file < 0 {
            return None;
        }
        if libc::ftruncate(file, length as i64) != 0 {
            libc::close(file);
            return None;
        }
        Some(file)
    }
}

/// # Safety
/// With `MAP_FIXED`, what was mapped at `address` is replaced.
unsafe fn map(address: *mut u8, length: usize, protection: i32, fixed: i32, file: i32) -> Option<u64> {
    // SAFETY: as the caller promises.
    let start = unsafe {
        libc::mmap(address.cast(), length, protection, libc::MAP_SHARED | libc::MAP_NORESERVE | fixed, file, 0)
    };
    (start != libc::MAP_FAILED).then_some(start as u64)
}

/// Reads `N` bytes of this process's memory; `None` if they are not all mapped and readable.
pub fn read_bytes<const N: usize>(address: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    (read_prefix(address, &mut bytes) == N).then_some(bytes)
}

/// Reads as many bytes as are readable from `address` on, at most as many as fit, and returns how many those are.
pub fn read_prefix(address: u64, bytes: &mut [u8]) -> usize {
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // Pages of their own, because a transfer stops at whole ranges only.
    let first = (4096 - (address & 4095) as usize).min(bytes.len());
    let remote = [
        libc::iovec { iov_base: address as *mut _, iov_len: first },
        libc::iovec { iov_base: address.wrapping_add(first as u64) as *mut _, iov_len: bytes.len() - first },
    ];
    // SAFETY: the kernel checks the remote addresses; the local buffer is valid. getpid is always this process, also
    // after a fork.
    let read = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, remote.as_ptr(), 2, 0) };
    usize::try_from(read).unwrap_or(0)
}

/// Reads a 64-bit word of this process's memory; `None` if it is not mapped and readable.
pub fn read_word(address: u64) -> Option<u64> {
    read_bytes(address).map(u64::from_le_bytes)
}

/// Loads `bytes` bytes (1 to 16) as the guest's own instruction would.
///
/// # Safety
/// The guest is about to execute this access itself, or has just done so.
pub unsafe fn guest_load(address: u64, bytes: u32) -> u128 {
    let pointer = address as *const u8;
    // SAFETY: as the caller promises. The usual widths are single accesses, as they are in the guest.
    unsafe {
        match bytes {
            1 => u128::from(pointer.read_volatile()),
            2 => u128::from(pointer.cast::<u16>().read_unaligned()),
            4 => u128::from(pointer.cast::<u32>().read_unaligned()),
            8 => u128::from(pointer.cast::<u64>().read_unaligned()),
            _ => {
                let mut buffer = [0; 16];
                ptr::copy_nonoverlapping(pointer, buffer.as_mut_ptr(), (bytes as usize).min(16));
                u128::from_le_bytes(buffer)
            }
        }
    }
}

/// Stores `bytes` bytes (1 to 16) as the guest's own instruction would.
///
/// # Safety
/// The guest is about to execute this access itself.
pub unsafe fn guest_store(address: u64, bytes: u32, value: u128) {
    let pointer = address as *mut u8;
    // SAFETY: as the caller promises.
    unsafe {
        match bytes {
            1 => pointer.write_volatile(value as u8),
            2 => pointer.cast::<u16>().write_unaligned(value as u16),
            4 => pointer.cast::<u32>().write_unaligned(value as u32),
            8 => pointer.cast::<u64>().write_unaligned(value as u64),
            _ => ptr::copy_nonoverlapping(value.to_le_bytes().as_ptr(), pointer, (bytes as usize).min(16)),
        }
    }
}

/// Makes every thread of the process that is running pass a memory barrier, and look at its code anew. Returns false if the
/// system cannot do that (Linux before 4.16); see membarrier(2).
pub fn barrier_everywhere() -> bool {
    const PRIVATE_EXPEDITED_SYNC_CORE: libc::c_int = 1 << 5;
    const REGISTER_PRIVATE_EXPEDITED_SYNC_CORE: libc::c_int = 1 << 6;
    // SAFETY: plain system calls without pointers. A process registers once; a second time does nothing.
    let membarrier = |command: libc::c_int| unsafe { libc::syscall(libc::SYS_membarrier, command, 0) == 0 };
    membarrier(PRIVATE_EXPEDITED_SYNC_CORE)
        || membarrier(REGISTER_PRIVATE_EXPEDITED_SYNC_CORE) && membarrier(PRIVATE_EXPEDITED_SYNC_CORE)
}

/// The processor time of this process so far, in nanoseconds.
pub fn process_time() -> u64 {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// The processor time of the calling thread so far, in nanoseconds.
pub fn thread_time() -> u64 {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn clock(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes the structure.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

// SAFETY: as POSIX declares it.
unsafe extern "C" {
    fn pthread_setcancelstate(state: libc::c_int, old: *mut libc::c_int) -> libc::c_int;
}

const PTHREAD_CANCEL_DISABLE: libc::c_int = 1;

/// While it lives, the calling thread takes no signals but those of faults, and is not cancelled: it would be unwound out of
/// the library's own frames, which no exception leaves.
pub struct SignalsBlocked {
    old: libc::sigset_t,
    old_cancel_state: libc::c_int,
    /// The mask belongs to the thread.
    _thread: PhantomData<*const ()>,
}

impl SignalsBlocked {
    /// Blocks signals.
    pub fn new() -> SignalsBlocked {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        let mut old = MaybeUninit::<libc::sigset_t>::zeroed();
        let mut old_cancel_state = 0;
        // SAFETY: both sets are written before they are read.
        unsafe {
            libc::sigfillset(set.as_mut_ptr());
            for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGABRT] {
                libc::sigdelset(set.as_mut_ptr(), signal);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), old.as_mut_ptr());
            pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &mut old_cancel_state);
            SignalsBlocked { old: old.assume_init(), old_cancel_state, _thread: PhantomData }
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the state and the mask that were in force before.
        unsafe {
            pthread_setcancelstate(self.old_cancel_state, ptr::null_mut());
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.old, ptr::null_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_in_the_arena_runs_and_survives_a_fork() {
        let mut arena = Arena::new(1 << 20).expect("memory");
        // mov eax, 42; ret
        let code = arena.add(&[0xb8, 42, 0, 0, 0, 0xc3], 16).expect("room");
        // SAFETY: a complete C function.
        let function: extern "C" fn() -> i32 = unsafe { std::mem::transmute(code.address) };
        assert_eq!(function(), 42);
        assert!(arena.after_fork());
        assert_eq!(function(), 42);
        // What a child may not have copied yet stays.
        arena.freeze();
        arena.remove(code);
        assert_eq!(function(), 42);
        assert!(arena.add(&[0xcc], 16).is_some_and(|other| other.address != code.address));
        assert!(arena.add(&[0; 2 << 20], 16).is_none());
    }

    #[test]
    fn memory_of_removed_code_is_used_again() {
        let mut arena = Arena::new(1 << 20).expect("memory");
        let blocks: Vec<CodeBlock> = (1..100).map(|bytes| arena.add(&vec![0x90; bytes], 16).expect("room")).collect();
        let (used, end) = (arena.used(), arena.end);
        blocks.iter().for_each(|block| arena.remove(*block));
        assert_eq!(arena.used(), 0);
        assert_eq!(read_bytes::<1>(blocks[0].address), Some([TRAP]));
        for bytes in 1..100 {
            assert!(arena.add(&vec![0x90; bytes], 16).is_some());
        }
        assert_eq!((arena.used(), arena.end), (used, end));
    }

    #[test]
    fn reading_stops_at_unmapped_memory() {
        let mapping = Mapping::stack(8192).expect("memory");
        assert_eq!(read_word(mapping.start()), None);
        assert_eq!(read_word(mapping.end() - 8), Some(0));
        assert_eq!(read_prefix(0, &mut [0; 8]), 0);
        let value = 0x0123_4567_89ab_cdef_u64;
        assert_eq!(read_word(&raw const value as u64), Some(value));
    }
}
