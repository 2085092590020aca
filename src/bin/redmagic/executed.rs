//! `redmagic executed -- COMMAND`: which instructions of a program are executed in a run, and how many of them traces can
//! contain.
//!
//! `redmagic coverage` counts what a file consists of, data between functions and code that never runs included. Here the
//! program runs, under the control of this process, with a breakpoint on every instruction of its executable files. The first
//! time that control comes to one, the instructions from there to the next branch are noted and their breakpoints removed:
//! each costs a few microseconds once, and all that is executed is seen.
//!
//! # What is looked at
//! The executable file of each program that the command starts, and the libraries named by `--module`, as far as they are loaded
//! when the program's own entry point is reached. Processes and threads that the program makes are looked at, too.
//!
//! # Invariants
//! - A process is only touched while it is stopped. All of them end when this process does.
//! - A breakpoint that is hit again (by another thread, or in another process that has a copy) is removed again there.
//! - Code sections must hold nothing but code: data there would be changed by breakpoints.
//!
//! # Worked example
//! ```text
//! $ redmagic executed -- lua -e 'print(6*7)'
//! 42
//! /usr/bin/lua: 3170 instructions executed
//! lifted         3170  100.0000%
//! …
//! ```

#![expect(unsafe_code, reason = "controls other processes")]

use redmagic_lift::coverage::{Coverage, Section, executable_sections, goes_on};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;

/// What to run, and what to list.
#[derive(clap::Args)]
pub struct Arguments {
    /// Libraries to look at, by the beginning of their file names.
    #[arg(long, value_name = "NAME")]
    module: Vec<String>,
    /// How many of the codes that are not lifted to list.
    #[arg(long, default_value = "20")]
    pub list: usize,
    /// Seconds after which the program gets an alarm, which ends it unless it has other plans.
    #[arg(long, default_value = "60")]
    seconds: u32,
    /// The program and its arguments. Its standard output goes to the standard error.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// What has gone wrong, where.
pub type Failure = (String, io::Error);

const BREAKPOINT: u8 = 0xcc;

/// A code section in memory.
struct Code {
    file: Rc<PathBuf>,
    /// Its address in the file.
    address: u64,
    /// Where it is in memory.
    start: u64,
    bytes: Vec<u8>,
}

impl Code {
    /// What is here from `address` on.
    fn rest(&self, address: u64) -> Option<&[u8]> {
        self.bytes.get(usize::try_from(address.checked_sub(self.start)?).ok()?..).filter(|rest| !rest.is_empty())
    }
}

/// What a process executes, from one `execve` to the next.
struct Image {
    /// The entry point and the byte there, until it is reached.
    entry: Option<(u64, u8)>,
    code: Vec<Code>,
}

/// A run.
struct Run<'a> {
    modules: &'a [String],
    images: Vec<Image>,
    /// The image of each process or thread.
    of: HashMap<i32, usize>,
    /// Those that were seen before what has made them said so.
    held: HashSet<i32>,
    /// The addresses of executed instructions, as in the files.
    executed: BTreeMap<PathBuf, HashSet<u64>>,
    coverage: BTreeMap<PathBuf, Coverage>,
}

/// Runs the command; returns what was executed, by file.
pub fn run(arguments: &Arguments) -> Result<Vec<(PathBuf, Coverage)>, Failure> {
    let [program, rest @ ..] = &arguments.command[..] else { return Ok(Vec::new()) };
    let name = || program.to_string_lossy().into_owned();
    let mut command = Command::new(program);
    command.args(rest).stdout(Stdio::from(io::stderr()));
    let seconds = arguments.seconds;
    // SAFETY: two system calls between fork and exec, which leaves the alarm as it is.
    unsafe {
        command.pre_exec(move || {
            libc::alarm(seconds);
            match libc::ptrace(libc::PTRACE_TRACEME, 0, 0_usize, 0_usize) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
    let child = command.spawn().map_err(|error| (name(), error))?;
    let mut run = Run {
        modules: &arguments.module,
        images: Vec::new(),
        of: HashMap::new(),
        held: HashSet::new(),
        executed: BTreeMap::new(),
        coverage: BTreeMap::new(),
    };
    let first = child.id() as i32;
    wait(first).map_err(|error| (name(), error))?;
    request(libc::PTRACE_SETOPTIONS, first, OPTIONS as usize).map_err(|error| (name(), error))?;
    run.new_image(first).map_err(|error| (name(), error))?;
    go_on(first, 0);
    while let Ok((process, status)) = wait(-1) {
        run.stopped(process, status).map_err(|error| (name(), error))?;
    }
    Ok(run.coverage.into_iter().collect())
}

const OPTIONS: i32 = libc::PTRACE_O_EXITKILL
    | libc::PTRACE_O_TRACEEXEC
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACECLONE;

impl Run<'_> {
    /// A process has stopped or ended.
    fn stopped(&mut self, process: i32, status: i32) -> io::Result<()> {
        if !libc::WIFSTOPPED(status) {
            if libc::WIFSIGNALED(status) {
                eprintln!("process {process} was ended by signal {}", libc::WTERMSIG(status));
            }
            self.of.remove(&process);
            return Ok(());
        }
        if !self.of.contains_key(&process) {
            self.held.insert(process);
            return Ok(());
        }
        let signal = libc::WSTOPSIG(status);
        let deliver = match status >> 16 {
            libc::PTRACE_EVENT_EXEC => {
                self.new_image(process)?;
                0
            }
            libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => {
                let mut new = 0_u64;
                request(libc::PTRACE_GETEVENTMSG, process, &raw mut new as usize)?;
                self.of.insert(new as i32, self.of[&process]);
                if self.held.remove(&(new as i32)) {
                    go_on(new as i32, 0);
                }
                0
            }
            _ if signal == libc::SIGTRAP && self.reached(process)? => 0,
            // What a process begins with that was not there before.
            _ if signal == libc::SIGSTOP => 0,
            _ => signal,
        };
        go_on(process, deliver);
        Ok(())
    }

    /// The process executes another file from now on. Its code is looked at when the libraries are loaded.
    fn new_image(&mut self, process: i32) -> io::Result<()> {
        const ENTRY: u64 = 9;
        let mut auxiliary = Vec::new();
        File::open(format!("/proc/{process}/auxv"))?.read_to_end(&mut auxiliary)?;
        let words: Vec<u64> = auxiliary
            .chunks_exact(8)
            .map(|word| word.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte)))
            .collect();
        let entry = words.chunks_exact(2).find(|pair| pair[0] == ENTRY).map(|pair| pair[1]);
        let mut image = Image { entry: None, code: Vec::new() };
        if let Some(entry) = entry {
            let memory = memory_of(process)?;
            let mut byte = [0];
            memory.read_exact_at(&mut byte, entry)?;
            memory.write_all_at(&[BREAKPOINT], entry)?;
            image.entry = Some((entry, byte[0]));
        }
        self.of.insert(process, self.images.len());
        self.images.push(image);
        Ok(())
    }

    /// Whether the process has come to a breakpoint, which is now removed.
    fn reached(&mut self, process: i32) -> io::Result<bool> {
        // SAFETY: all numbers are valid.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        request(libc::PTRACE_GETREGS, process, &raw mut registers as usize)?;
        let address = registers.rip.wrapping_sub(1);
        let number = self.of[&process];
        let memory = memory_of(process)?;
        let image = &mut self.images[number];
        if let Some((_, byte)) = image.entry.filter(|entry| entry.0 == address) {
            memory.write_all_at(&[byte], address)?;
            image.entry = None;
            image.code = code(process, self.modules)?;
            for code in &image.code {
                memory.write_all_at(&with_breakpoints(code), code.start)?;
            }
        } else {
            let Some(code) = image.code.iter().find(|code| code.rest(address).is_some()) else { return Ok(false) };
            let rest = code.rest(address).unwrap_or_default();
            let executed = self.executed.entry(code.file.to_path_buf()).or_default();
            let coverage = self.coverage.entry(code.file.to_path_buf()).or_default();
            let mut length = 0;
            for inst in (Section { address, bytes: rest }).instructions() {
                length += inst.len();
                if executed.insert(code.address + (inst.ip() - code.start)) {
                    coverage.add_instruction(&inst);
                }
                if !goes_on(&inst) {
                    break;
                }
            }
            memory.write_all_at(&rest[..length.min(rest.len())], address)?;
        }
        registers.rip = address;
        request(libc::PTRACE_SETREGS, process, &raw const registers as usize)?;
        Ok(true)
    }
}

/// The code of a section, the first byte of each instruction replaced.
fn with_breakpoints(code: &Code) -> Vec<u8> {
    let mut bytes = code.bytes.clone();
    for inst in (Section { address: code.start, bytes: &code.bytes }).instructions().filter(|inst| !inst.is_invalid()) {
        bytes[(inst.ip() - code.start) as usize] = BREAKPOINT;
    }
    bytes
}

/// The code sections in memory of the program and of the libraries whose names begin as one of `modules`.
fn code(process: i32, modules: &[String]) -> io::Result<Vec<Code>> {
    let program = fs::read_link(format!("/proc/{process}/exe"))?;
    let maps = fs::read_to_string(format!("/proc/{process}/maps"))?;
    let mut all = Vec::new();
    for line in maps.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [range, access, offset, _, _, path, ..] = fields[..] else { continue };
        let path = Path::new(path);
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if !access.contains('x') || path != program && !modules.iter().any(|module| name.starts_with(module.as_str())) {
            continue;
        }
        let number =
            |text: &str| u64::from_str_radix(text, 16).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        let (start, end) = range.split_once('-').unwrap_or_default();
        let (start, end, offset) = (number(start)?, number(end)?, number(offset)?);
        let file = Rc::new(path.to_owned());
        let content = fs::read(path)?;
        for section in executable_sections(&content).map_err(|error| io::Error::other(error.to_string()))? {
            let place = (section.bytes.as_ptr() as usize - content.as_ptr() as usize) as u64;
            let inside = place.checked_sub(offset).map(|distance| start + distance);
            if let Some(start) = inside.filter(|at| at + section.bytes.len() as u64 <= end) {
                all.push(Code {
                    file: Rc::clone(&file),
                    address: section.address,
                    start,
                    bytes: section.bytes.to_vec(),
                });
            }
        }
    }
    Ok(all)
}

fn memory_of(process: i32) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(format!("/proc/{process}/mem"))
}

/// Waits for a process, or for any with -1.
fn wait(process: i32) -> io::Result<(i32, i32)> {
    let mut status = 0;
    // SAFETY: the status is valid.
    match unsafe { libc::waitpid(process, &raw mut status, libc::__WALL) } {
        -1 => Err(io::Error::last_os_error()),
        process => Ok((process, status)),
    }
}

/// A request to a stopped process, with data or the address of some.
fn request(what: libc::c_uint, process: i32, data: usize) -> io::Result<()> {
    // SAFETY: callers pass what the request needs.
    match unsafe { libc::ptrace(what, process, 0_usize, data) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Lets a process go on, with a signal unless it is 0. One that was killed meanwhile is reaped later.
fn go_on(process: i32, signal: i32) {
    let _ = request(libc::PTRACE_CONT, process, signal as usize);
}
