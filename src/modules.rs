//! The modules (program and shared libraries) of this process: where their code and their read-only data are.
//!
//! A snapshot of `dl_iterate_phdr`, taken when an address is met that no known module contains, and when a recording begins after
//! modules have come or gone: another one may be where one was.
//!
//! Worked example: `of_code(0x401136)` in a program linked at 0x400000 is the module with `text = 0x401000..0x4a2000`, and
//! `read_only` holds its ELF headers, `.rodata` and the part of `.data.rel.ro` that the loader has protected.

#![expect(unsafe_code, reason = "the loader's list of modules is a C interface")]

use crate::memory;
use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::CStr;
use std::ops::Range;

const PAGE: usize = 4096;

/// One module.
#[derive(Clone, Debug)]
pub struct Module {
    /// The file, empty for the program itself.
    pub path: String,
    /// Executable segments.
    pub text: Vec<Range<u64>>,
    /// Readable segments that are never writable once the module is loaded.
    pub read_only: Vec<Range<u64>>,
}

impl Module {
    /// Whether code at `pc` belongs to the module.
    pub fn has_code(&self, pc: u64) -> bool {
        self.text.iter().any(|range| range.contains(&pc))
    }
}

/// All modules.
#[derive(Default)]
pub struct Modules {
    modules: Vec<Module>,
    /// The loader's count of modules ever loaded, when the snapshot was taken.
    generation: u64,
    /// Pages with code that was looked at: code of loaded modules does not change, and reading it safely is a system call.
    pages: RefCell<HashMap<u64, Box<[u8; PAGE]>>>,
}

impl Modules {
    /// A first snapshot.
    pub fn new() -> Modules {
        let mut modules = Modules::default();
        modules.refresh();
        modules
    }

    /// Takes the snapshot again if modules came or went. Returns whether it did.
    pub fn refresh(&mut self) -> bool {
        let mut generation = self.generation;
        // SAFETY: the callback gets the pointer that is passed here.
        unsafe { libc::dl_iterate_phdr(Some(look_at_generation), (&raw mut generation).cast()) };
        let changed = generation != self.generation;
        if changed {
            let mut snapshot = Modules::default();
            // SAFETY: the callback gets the pointer that is passed here, and valid program headers.
            unsafe { libc::dl_iterate_phdr(Some(add_module), (&raw mut snapshot).cast()) };
            *self = snapshot;
        }
        changed
    }

    /// Counts loaded and unloaded modules.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The number of the module whose code contains `pc`.
    pub fn of_code(&mut self, pc: u64) -> Option<usize> {
        match self.find(pc) {
            Some(at) => Some(at),
            None if self.refresh() => self.find(pc),
            None => None,
        }
    }

    /// The number of the module in the last snapshot whose code contains `pc`.
    pub fn find(&self, pc: u64) -> Option<usize> {
        self.modules.iter().position(|module| module.has_code(pc))
    }

    /// The module numbered `at`.
    pub fn get(&self, at: usize) -> Option<&Module> {
        self.modules.get(at)
    }

    /// The modules whose file names end in `name`.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = usize> + 'a {
        let matches = move |module: &&Module| !module.path.is_empty() && module.path.ends_with(name);
        (0..self.modules.len()).filter(move |at| self.modules.get(*at).as_ref().is_some_and(matches))
    }

    /// Forgets the module with code at `pc`, which is about to be unloaded. Returns where its code is.
    pub fn remove(&mut self, pc: u64) -> Option<Vec<Range<u64>>> {
        let at = self.find(pc)?;
        self.pages.get_mut().clear();
        // The next snapshot differs from this one, whatever comes in its place.
        self.generation = u64::MAX;
        Some(self.modules.remove(at).text)
    }

    /// Up to 16 bytes of code at `pc`, zeros behind the end of the module; `None` if `pc` is in no module's code.
    pub fn code(&self, pc: u64) -> Option<[u8; 16]> {
        self.modules.iter().find(|module| module.has_code(pc))?;
        let mut bytes = [0; 16];
        let mut done = 0;
        while done < bytes.len() {
            let copied = self.copy(pc.wrapping_add(done as u64), &mut bytes[done..]);
            if copied == 0 {
                break;
            }
            done += copied;
        }
        (done > 0).then_some(bytes)
    }

    /// Copies bytes of the page that contains `address`. Returns how many, 0 if it cannot be read.
    fn copy(&self, address: u64, bytes: &mut [u8]) -> usize {
        let (page, offset) = (address & !(PAGE as u64 - 1), address as usize % PAGE);
        let mut pages = self.pages.borrow_mut();
        let content = match pages.entry(page) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => match memory::read_bytes::<PAGE>(page) {
                Some(content) => vacant.insert(Box::new(content)),
                None => return 0,
            },
        };
        let count = bytes.len().min(PAGE - offset);
        bytes[..count].copy_from_slice(&content[offset..offset + count]);
        count
    }

    /// Where a linkage stub at `pc` leads: `[endbr64;] [bnd] jmp [rip + disp32]`, through its slot. `None` if there is no
    /// such code at `pc`.
    pub fn stub_target(&self, pc: u64) -> Option<u64> {
        let bytes = self.code(pc)?;
        let mut at = 0;
        if bytes.starts_with(&[0xf3, 0x0f, 0x1e, 0xfa]) {
            at += 4;
        }
        if bytes[at] == 0xf2 {
            at += 1;
        }
        if bytes[at..at + 2] != [0xff, 0x25] {
            return None;
        }
        let displacement = i32::from_le_bytes([bytes[at + 2], bytes[at + 3], bytes[at + 4], bytes[at + 5]]);
        memory::read_word(pc.wrapping_add(at as u64 + 6).wrapping_add(i64::from(displacement) as u64))
    }

    /// Whether a linkage stub at `pc` still leads to the loader: the function behind it has not been called yet. Its slot
    /// then points to `[endbr64;] push imm32; [bnd] jmp …`.
    pub fn is_unresolved(&self, pc: u64) -> bool {
        let Some(bytes) = self.stub_target(pc).and_then(|target| self.code(target)) else { return false };
        let code = bytes.strip_prefix(&[0xf3, 0x0f, 0x1e, 0xfa]).unwrap_or(&bytes);
        code[0] == 0x68 && (code[5] == 0xe9 || code[5..7] == [0xf2, 0xe9])
    }
}

/// The loader's count of modules that came and went.
fn generation_of(info: &libc::dl_phdr_info) -> u64 {
    info.dlpi_adds.wrapping_add(info.dlpi_subs << 32)
}

/// A callback of `dl_iterate_phdr` that looks at the first module only.
///
/// # Safety
/// `info` is a module of the loader, `generation` a number.
unsafe extern "C" fn look_at_generation(
    info: *mut libc::dl_phdr_info,
    _size: usize,
    generation: *mut libc::c_void,
) -> i32 {
    // SAFETY: the loader passes a valid description, and our own pointer back.
    unsafe { *generation.cast::<u64>() = generation_of(&*info) };
    1
}

/// The callback of `dl_iterate_phdr` that takes the snapshot.
///
/// # Safety
/// `info` is a module of the loader, `modules` a [`Modules`].
unsafe extern "C" fn add_module(info: *mut libc::dl_phdr_info, _size: usize, modules: *mut libc::c_void) -> i32 {
    // SAFETY: the loader passes a valid description, and our own pointer back.
    let (info, modules) = unsafe { (&*info, &mut *modules.cast::<Modules>()) };
    modules.generation = generation_of(info);
    // SAFETY: the loader's array and string.
    let (headers, path) = unsafe {
        let path = if info.dlpi_name.is_null() { c"" } else { CStr::from_ptr(info.dlpi_name) };
        (std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)), path)
    };
    let range = |header: &libc::Elf64_Phdr| {
        let start = info.dlpi_addr.wrapping_add(header.p_vaddr);
        start..start.wrapping_add(header.p_memsz)
    };
    let mut module = Module { path: path.to_string_lossy().into_owned(), text: Vec::new(), read_only: Vec::new() };
    for header in headers {
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_X != 0 {
            module.text.push(range(header));
        }
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 && header.p_flags & libc::PF_R != 0 {
            module.read_only.push(range(header));
        }
        if header.p_type == libc::PT_GNU_RELRO {
            // The loader protects whole pages: what is left of the last one stays writable.
            let range = range(header);
            module.read_only.push(range.start..range.end & !4095);
        }
    }
    modules.modules.push(module);
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_code_and_constants_are_found() {
        let mut modules = Modules::new();
        let pc = this_code_and_constants_are_found as *const () as u64;
        let module = modules.of_code(pc).and_then(|at| modules.get(at)).expect("this test's module");
        static CONSTANT: [u64; 4] = [1, 2, 3, 4];
        let address = &raw const CONSTANT as u64;
        assert!(module.read_only.iter().any(|range| range.contains(&address)));
        assert!(modules.code(pc).is_some());
        assert_eq!(modules.code(address), None);
        assert_eq!(modules.of_code(8), None);
        assert!(modules.remove(pc).is_some_and(|text| text.iter().any(|range| range.contains(&pc))));
        assert_eq!(modules.find(pc), None);
        assert!(modules.of_code(pc).is_some());
    }
}
