//! Runs compiled traces and compares them with the reference evaluator.
//!
//! A [`World`] is the evaluator's guest with a piece of real memory: before compiled code runs, slots are copied to a
//! context and memory to the arena, afterwards both are copied back, together with what the runtime would do at the exit
//! (constants, flags recipes). So after [`check`] two guests can be compared slot by slot and byte by byte.

#![allow(dead_code, reason = "every test program uses its own part")]

use redmagic_backend::{Backend, Compiled, FlagsRecipe, Layout, Options, Request};
use redmagic_ir::eval::{Guest, Machine, Outcome};
use redmagic_ir::sandbox::{Background, SparseMemory, TestGuest};
use redmagic_ir::scalar::eval_pure;
use redmagic_ir::{Entity, Exit, NativeOp, Segment, Slot, Terminator, Trace};
use std::cell::RefCell;

pub const RECORDS: u64 = 0x1234_5678_0000;
pub const STRIDE: u64 = 48;
pub const SAVE_WORDS: usize = 32;
pub const ARENA: usize = 4096;

// Trace code keeps no register, so this does. `fn(context, record, code) -> exit record`.
std::arch::global_asm!(
    ".global redmagic_backend_test_enter",
    "redmagic_backend_test_enter:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "sub rsp, 8",
    "call rdx",
    "add rsp, 8",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
);

// SAFETY: the function above.
unsafe extern "sysv64" {
    fn redmagic_backend_test_enter(context: *mut u64, record: *mut u64, code: *const u8) -> u64;
}

/// Executable memory.
pub struct Code {
    start: *mut u8,
    len: usize,
}

impl Code {
    pub fn new(bytes: &[u8]) -> Code {
        let len = bytes.len().next_multiple_of(4096);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping, filled within its length before it becomes executable.
        unsafe {
            let start = libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert_ne!(start, libc::MAP_FAILED);
            let start = start.cast::<u8>();
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), start, bytes.len());
            assert_eq!(libc::mprotect(start.cast(), len, libc::PROT_READ | libc::PROT_EXEC), 0);
            Code { start, len }
        }
    }

    /// Runs the code.
    pub fn enter(&self, context: &mut [u64], record: Option<&mut [u64]>) -> u64 {
        let record = record.map_or(std::ptr::null_mut(), |record| record.as_mut_ptr());
        // SAFETY: the code was compiled for this layout of context and record.
        unsafe { redmagic_backend_test_enter(context.as_mut_ptr(), record, self.start) }
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing runs in it any more.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

/// Context: the slots, the free record, three flag operands.
pub fn layout() -> Layout {
    Layout {
        slots: std::array::from_fn(|slot| slot as i32 * 8),
        above: 0,
        free_record: Slot::COUNT as i32 * 8,
        flag_args: [1, 2, 3].map(|at| (Slot::COUNT as i32 + at) * 8),
        record_resume: 0,
        record_target: 8,
        record_return: 16,
        record_save: 24,
        save_words: SAVE_WORDS,
    }
}

thread_local! {
    /// The native operations of the trace that runs, and the guest that they act on.
    static NATIVES: RefCell<(Vec<NativeOp>, Option<TestGuest>)> = const { RefCell::new((Vec::new(), None)) };
}

extern "sysv64" fn native<const NUMBER: usize>(context: *mut u64) {
    NATIVES.with_borrow_mut(|(natives, guest)| {
        let guest = guest.as_mut().expect("a guest runs");
        // SAFETY: compiled code passes the context that `run` gave it.
        let context = unsafe { std::slice::from_raw_parts_mut(context, Slot::COUNT) };
        for slot in Slot::all() {
            guest.set_slot(slot, context[slot.index()]);
        }
        guest.native(&natives[NUMBER]).expect("it never fails");
        for slot in Slot::all() {
            context[slot.index()] = guest.slot(slot);
        }
    });
    clobber();
}

/// Changes every register that a function may change.
fn clobber() {
    // SAFETY: only scratch registers, all declared.
    unsafe {
        std::arch::asm!(
            "mov rax, -1", "mov rcx, -1", "mov rdx, -1", "mov rsi, -1", "mov rdi, -1", "mov r8, -1", "mov r9, -1",
            "mov r10, -1", "mov r11, -1", "pcmpeqd xmm0, xmm0", "pcmpeqd xmm1, xmm1", "pcmpeqd xmm2, xmm2",
            "pcmpeqd xmm3, xmm3", "pcmpeqd xmm4, xmm4", "pcmpeqd xmm5, xmm5", "pcmpeqd xmm6, xmm6",
            "pcmpeqd xmm7, xmm7", "pcmpeqd xmm8, xmm8", "pcmpeqd xmm9, xmm9", "pcmpeqd xmm10, xmm10",
            "pcmpeqd xmm11, xmm11", "pcmpeqd xmm12, xmm12", "pcmpeqd xmm13, xmm13", "pcmpeqd xmm14, xmm14",
            "pcmpeqd xmm15, xmm15",
            out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _, out("r8") _, out("r9") _,
            out("r10") _, out("r11") _, out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _,
            out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _,
            out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
        );
    }
}

fn stubs() -> [u64; 4] {
    type Stub = extern "sysv64" fn(*mut u64);
    let stubs: [Stub; 4] = [native::<0>, native::<1>, native::<2>, native::<3>];
    stubs.map(|stub| stub as usize as u64)
}

/// A compiler with Cranelift's verifier on.
pub fn backend() -> Backend {
    Backend::new(&Options { verify: true, dump: true }).expect("this machine is supported")
}

/// Compiles a trace for [`layout`].
pub fn compile(backend: &mut Backend, trace: &Trace) -> Compiled {
    let natives = stubs();
    let request = Request { trace, layout: &layout(), exit_records: RECORDS, exit_stride: STRIDE, natives: &natives };
    backend.compile(&request).unwrap_or_else(|error| panic!("{}: {error}", trace.name))
}

/// A trace with its code, and memory for it to work on.
pub struct World {
    pub trace: Trace,
    pub compiled: Compiled,
    code: Code,
    arena: Vec<u8>,
}

impl World {
    /// A world with an arena of [`ARENA`] bytes.
    pub fn new(backend: &mut Backend, trace: Trace) -> World {
        World::with_arena(backend, trace, ARENA)
    }

    pub fn with_arena(backend: &mut Backend, trace: Trace, arena: usize) -> World {
        redmagic_ir::verify(&trace).unwrap_or_else(|errors| panic!("{}: {errors:?}\n{trace}", trace.name));
        let compiled = compile(backend, &trace);
        let code = Code::new(&compiled.code);
        World { trace, compiled, code, arena: vec![0; arena] }
    }

    pub fn parse(backend: &mut Backend, text: &str) -> World {
        World::new(backend, redmagic_ir::parse_one(text).unwrap_or_else(|error| panic!("{error}\n{text}")))
    }

    /// Where the arena is.
    pub fn memory(&self) -> u64 {
        self.arena.as_ptr() as u64
    }

    /// A guest whose memory is the arena with the bytes that `byte` gives.
    pub fn guest(&self, seed: u64, byte: impl Fn(usize) -> u8) -> TestGuest {
        let mut memory = SparseMemory::new(Background::Unmapped);
        for at in 0..self.arena.len() {
            memory.set_byte(self.memory() + at as u64, byte(at));
        }
        TestGuest::with_memory(seed, memory)
    }

    /// Runs the compiled code on a guest that the evaluator has come to an end with; the exit taken and the number of residual
    /// calls.
    pub fn run(&mut self, guest: &mut TestGuest) -> (Exit, usize) {
        let mut context = vec![0; Slot::COUNT + 4];
        let mut save = vec![0x5a5a_5a5a_5a5a_5a5a_u64; SAVE_WORDS];
        let mut record = vec![0, 0, 0, save.as_mut_ptr() as u64];
        context[Slot::COUNT] = record.as_mut_ptr() as u64;
        NATIVES.set((self.trace.natives.values().cloned().collect(), None));
        let mut resumed = false;
        let mut calls = 0;
        loop {
            self.copy_in(guest, &mut context);
            NATIVES.with_borrow_mut(|natives| natives.1 = Some(guest.clone()));
            let result = self.code.enter(&mut context, resumed.then_some(&mut record));
            let after = NATIVES.with_borrow_mut(|natives| natives.1.take()).expect("still there");
            guest.events = after.events;
            assert_eq!((result - RECORDS) % STRIDE, 0);
            let exit = Exit::from_index(((result - RECORDS) / STRIDE) as usize);
            self.copy_out(guest, &mut context, exit);
            let call = self.trace.segments.values().find_map(|segment| match &segment.terminator {
                Terminator::Call(call) if call.state == exit => Some(call),
                _ => None,
            });
            let Some(call) = call else { return (exit, calls) };
            calls += 1;
            assert!(calls <= MOST_CALLS, "more calls than the evaluator makes: {}", self.trace);
            guest.perform_call(record[1], record[2], call.effect);
            resumed = true;
        }
    }

    fn copy_in(&mut self, guest: &mut TestGuest, context: &mut [u64]) {
        for slot in Slot::all() {
            context[slot.index()] = guest.slot(slot);
        }
        let start = self.memory();
        for (at, byte) in self.arena.iter_mut().enumerate() {
            *byte = guest.memory.byte(start + at as u64).expect("mapped");
        }
    }

    /// Copies back what the code did, and does what the runtime does at the exit.
    fn copy_out(&mut self, guest: &mut TestGuest, context: &mut [u64], exit: Exit) {
        let start = self.memory();
        for (at, byte) in self.arena.iter().enumerate() {
            if guest.memory.byte(start + at as u64) != Some(*byte) {
                guest.memory.set_byte(start + at as u64, *byte);
            }
        }
        let code = &self.compiled.exits[exit.index()];
        for (slot, value) in &code.constants {
            context[slot.index()] = *value;
        }
        if let FlagsRecipe::Recipe { op, ty } = code.flags {
            let args = [1, 2, 3].map(|at| u128::from(context[Slot::COUNT + at]));
            let flags = eval_pure(op, redmagic_ir::Type::I32, ty, args, None).expect("flags are always defined");
            context[Slot::FLAGS.index()] = flags as u64;
        }
        for slot in Slot::all() {
            let mask = if slot == Slot::FLAGS { u64::from(u32::MAX) } else { u64::MAX };
            let value = context[slot.index()] & mask;
            if slot == Slot::FLAGS {
                assert_eq!(value & !u64::from(redmagic_ir::FLAGS_MASK), 0, "stray flags {value:#x}");
            }
            guest.set_slot(slot, value);
        }
    }
}

/// Calls after which a trace is not followed any more: loops may go on for as long as callees say.
const MOST_CALLS: usize = 1000;

/// Runs the evaluator; the exit taken, or `None` if an operation was undefined, or too many calls were made.
pub fn evaluate(trace: &Trace, guest: &mut TestGuest) -> Option<Exit> {
    let mut machine = Machine::new(trace);
    let mut outcome = machine.enter(trace, guest, 1_000_000).ok()?;
    let mut calls = 0;
    loop {
        match outcome {
            Outcome::Call { .. } if calls == MOST_CALLS => return None,
            Outcome::Exit(exit) => return Some(exit),
            Outcome::Call { target, return_address, resume, .. } => {
                calls += 1;
                let effect = effect_of(trace, resume);
                guest.perform_call(target, return_address, effect);
                outcome = machine.resume(trace, resume, guest, 1_000_000).ok()?;
            }
            Outcome::OutOfFuel => panic!("{} does not end", trace.name),
        }
    }
}

fn effect_of(trace: &Trace, resume: Segment) -> redmagic_ir::CallEffect {
    let call = trace.segments.values().find_map(|segment| match &segment.terminator {
        Terminator::Call(call) if call.resume == resume => Some(call.effect),
        _ => None,
    });
    call.expect("the call exists")
}

/// Runs evaluator and compiled code on copies of a guest and compares everything. `None` if the evaluator calls the
/// trace undefined on it, else the exit taken and the guest afterwards.
pub fn check(world: &mut World, guest: &TestGuest) -> Option<(Exit, TestGuest)> {
    let (mut expected, mut found) = (guest.clone(), guest.clone());
    let exit = evaluate(&world.trace, &mut expected)?;
    let (taken, _) = world.run(&mut found);
    let trace = &world.trace;
    let context = || {
        let before: Vec<_> = Slot::all().filter(|slot| guest.slot(*slot) != 0).collect();
        let before: Vec<_> = before.iter().map(|slot| format!("{slot}={:#x}", guest.slot(*slot))).collect();
        format!("{}\n{}\n{trace}{}", trace.name, before.join(" "), world.compiled.clif.as_deref().unwrap_or(""))
    };
    assert_eq!(exit, taken, "another exit: {}", context());
    for slot in Slot::all() {
        let (expected, found) = (expected.slot(slot), found.slot(slot));
        assert_eq!(expected, found, "{slot} is {found:#x}, not {expected:#x}: {}", context());
    }
    assert!(expected.memory.written().eq(found.memory.written()), "memory differs: {}", context());
    assert_eq!(expected.events, found.events, "events differ: {}", context());
    Some((exit, found))
}
