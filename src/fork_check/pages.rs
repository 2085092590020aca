//! Which memory another process has changed since it was forked.
//!
//! Pages that the child does not have (it never touched them) are those of its parent. The others are read through the
//! kernel's file of the child's memory, and compared. (`process_vm_readv` would give the child a copy of each page that it
//! still shares with its parent, and of children there are hundreds.)
//!
//! # Invariants
//! Between the fork and the end of the comparison the parent changes nothing that is compared: nothing is allocated here
//! but in [`Scan::new`], and what is written lies in excluded ranges.
//!
//! Worked example: the child of a loop that stores a counter to 0x5010 has one page of its own in the guest's heap;
//! it differs in one word, the change `0x5010: 7 -> 8`.

#![expect(unsafe_code, reason = "reads two address spaces")]

use std::io::Write;

/// A word that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its address, a multiple of 8.
    pub address: u64,
    /// What this process has.
    pub before: u64,
    /// What the other has.
    pub after: u64,
}

const PAGE: u64 = 4096;
/// Pages that are looked at together.
const BATCH: usize = 64;
/// More changes than one iteration makes.
const MAX_CHANGES: usize = 1 << 16;

/// Why memory cannot be compared.
pub type Reason = &'static str;

/// What is to be compared, and room for the result.
pub struct Scan {
    ranges: Vec<(u64, u64)>,
    present: Vec<u64>,
    buffer: Vec<u64>,
    changes: Vec<Change>,
}

impl Scan {
    /// Prepares to compare all private writable memory of this process but what lies in `excluded`.
    pub fn new(excluded: &[(u64, u64)]) -> Result<Scan, Reason> {
        let mut scan = Scan {
            ranges: Vec::new(),
            present: vec![0; BATCH],
            buffer: vec![0; BATCH * PAGE as usize / 8],
            changes: Vec::with_capacity(MAX_CHANGES),
        };
        let range = |start: *const u8, bytes: usize| (start as u64, start as u64 + bytes as u64);
        let mut excluded = excluded.to_vec();
        excluded.push(range(scan.present.as_ptr().cast(), BATCH * 8));
        excluded.push(range(scan.buffer.as_ptr().cast(), BATCH * PAGE as usize));
        excluded.push(range(scan.changes.as_ptr().cast(), MAX_CHANGES * size_of::<Change>()));
        let maps = std::fs::read_to_string("/proc/self/maps").map_err(|_| "the list of mappings cannot be read")?;
        for (start, end) in writable(&maps)? {
            without(start, end, &excluded, &mut scan.ranges);
        }
        Ok(scan)
    }

    /// Compares this process with its child. Allocates nothing.
    pub fn compare(&mut self, child: libc::pid_t) -> Result<(), Reason> {
        let pages = File::of(child, "pagemap").ok_or("the child's pages cannot be listed")?;
        let memory = File::of(child, "mem").ok_or("the child's memory cannot be read")?;
        self.compare_pages(&memory, &pages)
    }

    fn compare_pages(&mut self, memory: &File, list: &File) -> Result<(), Reason> {
        for range in 0..self.ranges.len() {
            let (mut at, end) = self.ranges[range];
            while at < end {
                let first = at & !(PAGE - 1);
                let pages = (end.div_ceil(PAGE) - first / PAGE).min(BATCH as u64) as usize;
                if !list.read(first / PAGE * 8, &mut self.present[..pages]) {
                    return Err("the child's pages cannot be listed");
                }
                let stop = (first + pages as u64 * PAGE).min(end);
                for page in 0..pages {
                    let start = (first + page as u64 * PAGE).max(at);
                    // Present or swapped out.
                    if self.present[page] >> 62 != 0 {
                        let until = (first + (page as u64 + 1) * PAGE).min(stop);
                        self.compare_words(memory, start, until)?;
                    }
                }
                at = stop;
            }
        }
        Ok(())
    }

    /// Compares at most a page of whole words.
    fn compare_words(&mut self, memory: &File, start: u64, end: u64) -> Result<(), Reason> {
        let words = (end - start) as usize / 8;
        if !memory.read(start, &mut self.buffer[..words]) {
            return Err("the child's memory cannot be read");
        }
        for (word, after) in self.buffer[..words].iter().enumerate() {
            let address = start + word as u64 * 8;
            // SAFETY: the page is readable, for the child has it and both have the same mappings.
            let before = unsafe { (address as *const u64).read_volatile() };
            if before != *after {
                if self.changes.len() == MAX_CHANGES {
                    return Err("too many changes");
                }
                self.changes.push(Change { address, before, after: *after });
            }
        }
        Ok(())
    }

    /// What was found. The room that it did not need is given back.
    pub fn into_changes(mut self) -> Vec<Change> {
        self.changes.shrink_to_fit();
        self.changes
    }
}

/// A file about another process, closed when dropped.
struct File(i32);

impl File {
    /// Opens it. Allocates nothing.
    fn of(process: libc::pid_t, which: &str) -> Option<File> {
        let mut name = [0_u8; 40];
        write!(&mut name[..39], "/proc/{process}/{which}").ok()?;
        // SAFETY: a terminated string.
        let file = unsafe { libc::open(name.as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC) };
        (file >= 0).then_some(File(file))
    }

    /// Reads all of `words` from `offset` on.
    fn read(&self, offset: u64, words: &mut [u64]) -> bool {
        let bytes = size_of_val(words);
        // SAFETY: there is room for so many bytes.
        let read = unsafe { libc::pread(self.0, words.as_mut_ptr().cast(), bytes, offset as i64) };
        read == bytes as isize
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: opened by this value.
        unsafe { libc::close(self.0) };
    }
}

/// A word of another process.
pub fn read_word_of(process: libc::pid_t, address: u64) -> Option<u64> {
    let mut word = 0_u64;
    let local = libc::iovec { iov_base: (&raw mut word).cast(), iov_len: 8 };
    let remote = libc::iovec { iov_base: address as *mut _, iov_len: 8 };
    // SAFETY: the word is valid; the kernel checks the other process's address.
    let read = unsafe { libc::process_vm_readv(process, &local, 1, &remote, 1, 0) };
    (read == 8).then_some(word)
}

/// The private writable mappings in a list of mappings. Fails if the guest has shared ones: the child would write there.
fn writable(maps: &str) -> Result<Vec<(u64, u64)>, Reason> {
    let mut ranges = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (Some(range), Some(access)) = (fields.next(), fields.next()) else { continue };
        let Some((start, end)) = range.split_once('-') else { continue };
        let (Ok(start), Ok(end)) = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16)) else { continue };
        if !access.starts_with("rw") {
            continue;
        }
        if access.ends_with('p') {
            ranges.push((start, end));
        } else if !line.contains("/memfd:redmagic") {
            return Err("memory is shared with other processes");
        }
    }
    Ok(ranges)
}

/// Adds what is left of a range without `excluded` (and without the words that these touch) to `ranges`.
fn without(start: u64, end: u64, excluded: &[(u64, u64)], ranges: &mut Vec<(u64, u64)>) {
    let mut inside: Vec<(u64, u64)> = excluded
        .iter()
        .map(|(from, to)| (from & !7, to.next_multiple_of(8)))
        .filter(|(from, to)| *from < end && start < *to)
        .collect();
    inside.sort_unstable();
    let mut at = start;
    for (from, to) in inside {
        if at < from {
            ranges.push((at, from));
        }
        at = at.max(to);
    }
    if at < end {
        ranges.push((at, end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excluded_ranges_are_cut_out() {
        let mut ranges = Vec::new();
        without(0x1000, 0x3000, &[(0x2ffc, 0x4000), (0x1804, 0x1810), (0x1808, 0x180c), (0, 8)], &mut ranges);
        assert_eq!(ranges, [(0x1000, 0x1800), (0x1810, 0x2ff8)]);
    }

    #[test]
    fn mappings_are_understood() {
        let maps =
            "1000-2000 rw-p 0 0:0 0 [heap]\n3000-4000 r-xp 0 0:0 0 /bin/x\n5000-6000 rw-s 0 0:0 1 /memfd:redmagic";
        assert_eq!(writable(maps), Ok(vec![(0x1000, 0x2000)]));
        assert!(writable("1000-2000 rw-s 00000000 00:01 5 /dev/shm/x").is_err());
    }
}
