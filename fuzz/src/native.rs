//! Executes short pieces of machine code on this CPU, with the whole register file in and out.
//!
//! # How it works
//! An [`Executor`] owns a *window* of 1 MiB of low address space:
//! ```text
//! +0x00000  code: entry, leave paths, landing pads, and from SLOT_OFFSET on the block under test   (executable view)
//! +0x10000  context: the guest's registers, the host's saved ones, how the block was left          (read, write)
//! +0x20000  arena: the memory of the guest, between inaccessible pages                             (read, write)
//! +0x40000  scratch: memory of code that is not the guest's, such as a compiled trace's stack      (read, write)
//! +0x80000  code beside the block: a compiled trace, so that both are loaded at once              (executable view)
//! ```
//! All state moves are RIP-relative, so that every register belongs to the block. The block is encoded *at the address
//! where it runs*: its instructions' `ip`s, return addresses and RIP-relative operands are real. It leaves
//! - by falling through: [`Outcome::Completed`] with the address after its last instruction,
//! - by a branch to one of the [`PADS`] landing pads, whose address is then the `next_pc`,
//! - by a fault, which a signal handler turns into a jump to the leave path: the state is the one at the fault.
//!
//! The window is low so that absolute 32-bit addresses reach it, and at the same place in every run (if it is free), so
//! that a test with the same seed sees the same addresses. Executable and writable views are separate mappings.
//!
//! # Invariants
//! - A thread runs one block at a time; `CURRENT` names its executor's context while, and only while, a block runs.
//! - Handlers run on an alternate stack, so the block may put anything into rsp.
//! - Blocks must not make system calls, change segment registers, x87 or AVX-512 state, or write any memory but the
//!   arena and the scratch memory. This is the caller's duty: the executor runs what it is given.

use iced_x86::{Code, Decoder, DecoderOptions, Encoder, Instruction, MemoryOperand, Register};
use std::cell::Cell;
use std::mem::offset_of;
use std::sync::OnceLock;
use std::{fmt, io, ptr};

/// The number of landing pads.
pub const PADS: usize = 4;
/// The number of bytes in the arena.
pub const ARENA_BYTES: usize = 4096;
/// The number of bytes in the scratch memory.
pub const SCRATCH_BYTES: usize = 0x1_0000;
/// Flag bits that a [`State`] carries in and out: the six arithmetic flags and the direction flag.
pub const STATE_FLAGS: u64 = 0xcd5;

const WINDOW_BYTES: usize = 0x10_0000;
const FIRST_WINDOW: usize = 0x2000_0000;
const WINDOWS: usize = 256;
const CODE_BYTES: usize = 0x1_0000;
const CONTEXT_OFFSET: usize = 0x1_0000;
const ARENA_OFFSET: usize = 0x2_0000;
const SCRATCH_OFFSET: usize = 0x4_0000;
const BESIDE_OFFSET: usize = 0x8_0000;
const BESIDE_BYTES: usize = 0x4_0000;
const SLOT_OFFSET: usize = 0x1000;
const PAD_BYTES: usize = 16;
/// Room for the block itself; behind it is room for the fall-through pad.
const SLOT_BYTES: usize = CODE_BYTES - SLOT_OFFSET - 2 * PAD_BYTES;
const ALTERNATE_STACK_BYTES: usize = 64 * 1024;

/// The registers of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct State {
    /// General registers in machine order (rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 …).
    pub gpr: [u64; 16],
    /// RFLAGS; only [`STATE_FLAGS`] are used, the others are 0 on the way out.
    pub flags: u64,
    /// Vector registers, least significant lane first. Lanes 2 and 3 exist only where the CPU has AVX; elsewhere they
    /// keep their values.
    pub vector: [[u64; 4]; 16],
    /// The control and status register of SSE.
    pub mxcsr: u32,
}

impl Default for State {
    /// All zero, with the MXCSR that processes start with.
    fn default() -> State {
        State { gpr: [0; 16], flags: 0, vector: [[0; 4]; 16], mxcsr: 0x1f80 }
    }
}

/// How a block was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it was executed, or a branch left it.
    Completed {
        /// The guest address where execution would continue.
        next_pc: u64,
    },
    /// An instruction faulted; the state is the one before it.
    Fault {
        /// `SIGSEGV`, `SIGBUS`, `SIGILL`, `SIGFPE` or `SIGTRAP`.
        signal: i32,
        /// The address of the faulting instruction.
        pc: u64,
    },
}

impl Outcome {
    /// Whether the instruction at `pc` has faulted.
    pub fn is_fault_at(self, pc: u64) -> bool {
        matches!(self, Outcome::Fault { pc: at, .. } if at == pc)
    }
}

/// Why a block was not loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// An instruction has no encoding.
    Encode {
        /// Its index in the block.
        index: usize,
        /// The encoder's words.
        reason: String,
    },
    /// The block does not fit.
    TooLong {
        /// The number of bytes that it has.
        bytes: usize,
        /// How many it may have.
        room: usize,
    },
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Encode { index, reason } => write!(f, "instruction {index} has no encoding: {reason}"),
            LoadError::TooLong { bytes, room } => write!(f, "code of {bytes} bytes exceeds {room}"),
        }
    }
}

impl std::error::Error for LoadError {}

/// What code and host exchange, in the page behind the code.
#[repr(C)]
struct Context {
    state: State,
    next_pc: u64,
    /// Where the block is entered.
    entry_pc: u64,
    /// The leave path that a fault handler jumps to.
    fault_path: u64,
    signal: i32,
    host_mxcsr: u32,
    host_rsp: u64,
    /// rbx, rbp, r12 to r15 of the host.
    host_saved: [u64; 6],
}

thread_local! {
    /// The context of the executor whose block this thread is running; null while it runs none.
    static CURRENT: Cell<*mut Context> = const { Cell::new(ptr::null_mut()) };
    static ALTERNATE_STACK: OnceLock<AlternateStack> = const { OnceLock::new() };
}

/// Runs blocks of machine code. Tied to the thread that made it, because it prepares that thread's signal stack.
pub struct Executor {
    window: *mut u8,
    /// The writable view of the code: first that of the block, then what is beside it.
    code: *mut u8,
    wide: bool,
    /// The bytes of the block, and of the code beside it, that are loaded.
    loaded: [Vec<u8>; 2],
}

impl Executor {
    /// Reserves a window and prepares the calling thread and the process's fault handlers.
    pub fn new() -> io::Result<Executor> {
        static HANDLERS: OnceLock<Result<(), i32>> = OnceLock::new();
        HANDLERS.get_or_init(install_handlers).map_err(io::Error::from_raw_os_error)?;
        ALTERNATE_STACK.with(|stack| match stack.get() {
            Some(_) => Ok(()),
            None => AlternateStack::new().map(|new| stack.set(new).unwrap_or_default()),
        })?;
        let window = reserve_window()?;
        let wide = std::arch::is_x86_feature_detected!("avx");
        let mut executor = Executor { window, code: ptr::null_mut(), wide, loaded: Default::default() };
        executor.map_window()?;
        executor.write_frame_code().map_err(io::Error::other)?;
        Ok(executor)
    }

    fn map_window(&mut self) -> io::Result<()> {
        // SAFETY: plain system calls; the fixed addresses lie within the window, which this executor has reserved, and
        // nothing refers to the replaced (inaccessible) pages.
        unsafe {
            let file = libc::memfd_create(c"redmagic-native".as_ptr(), libc::MFD_CLOEXEC);
            if file < 0 {
                return Err(io::Error::last_os_error());
            }
            let mapped = self.map_views(file);
            libc::close(file);
            mapped
        }
    }

    /// # Safety
    /// `file` is an open memory file; the window is reserved and unused.
    unsafe fn map_views(&mut self, file: i32) -> io::Result<()> {
        let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let data = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: as the caller promises; the writable view is placed by the kernel.
        unsafe {
            let all = CODE_BYTES + BESIDE_BYTES;
            if libc::ftruncate(file, all as i64) < 0 {
                return Err(io::Error::last_os_error());
            }
            self.code = map(ptr::null_mut(), all, data, libc::MAP_SHARED, file)?;
            let (executable, fixed) = (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_SHARED | libc::MAP_FIXED);
            map(self.window, CODE_BYTES, executable, fixed, file)?;
            let (start, offset) = (self.window.add(BESIDE_OFFSET).cast(), CODE_BYTES as i64);
            if libc::mmap(start, BESIDE_BYTES, executable, fixed, file, offset) == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            map(self.window.add(CONTEXT_OFFSET), 4096, data, private, -1)?;
            map(self.window.add(ARENA_OFFSET), ARENA_BYTES, data, private, -1)?;
            map(self.window.add(SCRATCH_OFFSET), SCRATCH_BYTES, data, private, -1)?;
        }
        Ok(())
    }

    /// The address of a loaded block's first instruction.
    pub fn block_address(&self) -> u64 {
        self.window as u64 + SLOT_OFFSET as u64
    }

    /// The address of landing pad `index` (less than [`PADS`]). Pads lie directly before the block, so that one-byte
    /// branch displacements reach them.
    pub fn pad_address(&self, index: usize) -> u64 {
        assert!(index < PADS);
        self.block_address() - ((index + 1) * PAD_BYTES) as u64
    }

    /// The address of the arena's first byte, below 2^31.
    pub fn arena_address(&self) -> u64 {
        self.window as u64 + ARENA_OFFSET as u64
    }

    /// The arena's bytes.
    pub fn arena(&self) -> &[u8; ARENA_BYTES] {
        // SAFETY: the arena is mapped readable for the executor's life; blocks write it only within `run`, which
        // borrows the executor mutably.
        unsafe { &*self.window.add(ARENA_OFFSET).cast() }
    }

    /// The arena's bytes, to be set up for the next run.
    pub fn arena_mut(&mut self) -> &mut [u8; ARENA_BYTES] {
        // SAFETY: as for `arena`; the mutable borrow excludes others and a running block.
        unsafe { &mut *self.window.add(ARENA_OFFSET).cast() }
    }

    /// The address of the scratch memory's first byte.
    pub fn scratch_address(&self) -> u64 {
        self.window as u64 + SCRATCH_OFFSET as u64
    }

    /// The scratch memory's bytes.
    pub fn scratch(&self) -> &[u8; SCRATCH_BYTES] {
        // SAFETY: as for `arena`.
        unsafe { &*self.window.add(SCRATCH_OFFSET).cast() }
    }

    /// The scratch memory's bytes, to be set up for the next run.
    pub fn scratch_mut(&mut self) -> &mut [u8; SCRATCH_BYTES] {
        // SAFETY: as for `arena_mut`.
        unsafe { &mut *self.window.add(SCRATCH_OFFSET).cast() }
    }

    /// Whether lanes 2 and 3 of [`State::vector`] take part.
    pub fn has_wide_vectors(&self) -> bool {
        self.wide
    }

    /// Encodes `insts` one after the other into the slot and returns them as the decoder sees them there: with their
    /// addresses and lengths.
    pub fn load(&mut self, insts: &[Instruction]) -> Result<Vec<Instruction>, LoadError> {
        let bytes = self.encode(insts)?;
        self.load_bytes(&bytes)?;
        Ok(Decoder::with_ip(64, &bytes, self.block_address(), DecoderOptions::NONE).into_iter().collect())
    }

    /// Puts `code`, made for [`Executor::block_address`] or for any address, into the slot.
    pub fn load_bytes(&mut self, code: &[u8]) -> Result<(), LoadError> {
        if code.len() > SLOT_BYTES {
            return Err(LoadError::TooLong { bytes: code.len(), room: SLOT_BYTES });
        }
        if self.loaded[0] == code && !code.is_empty() {
            return Ok(());
        }
        self.write_code(SLOT_OFFSET, code);
        let end = self.block_address() + code.len() as u64;
        let pad = self.pad_code(end)?;
        self.write_code(SLOT_OFFSET + code.len(), &pad);
        self.loaded[0] = code.to_vec();
        serialise();
        Ok(())
    }

    /// The address of the code beside the block.
    pub fn beside_address(&self) -> u64 {
        self.window as u64 + BESIDE_OFFSET as u64
    }

    /// Puts `code`, made for [`Executor::beside_address`], beside the block, which stays loaded.
    pub fn load_beside(&mut self, code: &[u8]) -> Result<(), LoadError> {
        if code.len() > BESIDE_BYTES {
            return Err(LoadError::TooLong { bytes: code.len(), room: BESIDE_BYTES });
        }
        if self.loaded[1] != code {
            self.write_code(CODE_BYTES, code);
            self.loaded[1] = code.to_vec();
            serialise();
        }
        Ok(())
    }

    /// The bytes of `insts` at the block's address, without loading them.
    pub fn encode(&self, insts: &[Instruction]) -> Result<Vec<u8>, LoadError> {
        encode(insts, self.block_address())
    }

    /// Runs the loaded block on `state`, which then holds the registers as the block left them.
    pub fn run(&mut self, state: &mut State) -> Outcome {
        self.run_from(self.block_address(), state)
    }

    /// Runs the loaded block on `state` from the instruction at `pc` on.
    pub fn run_from(&mut self, pc: u64, state: &mut State) -> Outcome {
        let context = self.context();
        // SAFETY: the context page is mapped and only this thread uses it. The entry is code that `write_frame_code`
        // has put there: it keeps to the C ABI whatever the block does to registers, and the handlers bring a fault to
        // the leave path. Memory other than the arena is the caller's duty (module documentation).
        unsafe {
            let enabled = state.flags & STATE_FLAGS | 0x202;
            (*context).state = State { flags: enabled, ..*state };
            (*context).signal = 0;
            (*context).entry_pc = pc;
            let enter: extern "C" fn() = std::mem::transmute(self.window);
            CURRENT.set(context);
            enter();
            CURRENT.set(ptr::null_mut());
            if !self.wide {
                for (lanes, old) in (*context).state.vector.iter_mut().zip(&state.vector) {
                    lanes[2..].copy_from_slice(&old[2..]);
                }
            }
            *state = (*context).state;
            state.flags &= STATE_FLAGS;
            match ((*context).signal, (*context).next_pc) {
                (0, next_pc) => Outcome::Completed { next_pc },
                (signal, pc) => Outcome::Fault { signal, pc },
            }
        }
    }

    fn context(&self) -> *mut Context {
        self.window.wrapping_add(CONTEXT_OFFSET).cast()
    }

    /// A RIP-relative operand for the context's byte `offset`.
    fn field(&self, offset: usize) -> MemoryOperand {
        MemoryOperand::with_base_displ(Register::RIP, self.context() as i64 + offset as i64)
    }

    fn write_code(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= CODE_BYTES + BESIDE_BYTES);
        // SAFETY: the writable view has so many bytes, and no block is running.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.code.add(offset), bytes.len()) }
    }

    /// Writes everything but the block: entry, leave path and pads.
    fn write_frame_code(&mut self) -> Result<(), LoadError> {
        let start = self.window as u64;
        let mut enter = self.enter_code();
        enter.push(one(Code::Jmp_rm64, self.field(offset_of!(Context, entry_pc))));
        let enter = encode(&enter, start)?;
        let leave = encode(&self.leave_code(), self.leave_address())?;
        assert!(enter.len() <= SLOT_OFFSET / 2 && leave.len() <= SLOT_OFFSET / 2 - PADS * PAD_BYTES);
        self.write_code(0, &enter);
        self.write_code(SLOT_OFFSET / 2, &leave);
        for index in 0..PADS {
            let pad = self.pad_address(index);
            let code = self.pad_code(pad)?;
            self.write_code((pad - start) as usize, &code);
        }
        let fault_path = self.leave_address();
        // SAFETY: the context page is mapped and no block is running.
        unsafe { (*self.context()).fault_path = fault_path };
        Ok(())
    }

    fn leave_address(&self) -> u64 {
        self.window as u64 + SLOT_OFFSET as u64 / 2
    }

    /// Code at `pc` that notes `pc` as the next guest address and leaves.
    fn pad_code(&self, pc: u64) -> Result<Vec<u8>, LoadError> {
        let note = Instruction::with2(Code::Mov_rm64_imm32, self.field(offset_of!(Context, next_pc)), pc as i32)
            .map_err(bug)?;
        encode(&[note, branch(Code::Jmp_rel32_64, self.leave_address())], pc)
    }

    /// Saves what the C ABI keeps, loads the guest's state, and falls into the block.
    fn enter_code(&self) -> Vec<Instruction> {
        let mut code = Vec::new();
        let field = |offset| self.field(offset);
        for (index, register) in HOST_SAVED.into_iter().enumerate() {
            code.push(store64(field(offset_of!(Context, host_saved) + index * 8), register));
        }
        code.push(store64(field(offset_of!(Context, host_rsp)), Register::RSP));
        code.push(one(Code::Stmxcsr_m32, field(offset_of!(Context, host_mxcsr))));
        code.push(one(Code::Ldmxcsr_m32, field(offset_of!(Context, state.mxcsr))));
        for number in 0..16 {
            let memory = field(offset_of!(Context, state.vector) + number as usize * 32);
            code.push(match self.wide {
                true => two(Code::VEX_Vmovups_ymm_ymmm256, Register::YMM0 + number, memory),
                false => two(Code::Movups_xmm_xmmm128, Register::XMM0 + number, memory),
            });
        }
        code.push(one(Code::Push_rm64, field(offset_of!(Context, state.flags))));
        code.push(Instruction::with(Code::Popfq));
        code.extend((0..16).filter(|&n| n != 4).chain([4]).map(|number: u32| {
            two(Code::Mov_r64_rm64, Register::RAX + number, field(offset_of!(Context, state) + number as usize * 8))
        }));
        code
    }

    /// Stores the guest's state, restores what the C ABI keeps, and returns.
    fn leave_code(&self) -> Vec<Instruction> {
        let field = |offset| self.field(offset);
        let mut code: Vec<_> = (0..16)
            .map(|number: u32| store64(field(offset_of!(Context, state) + number as usize * 8), Register::RAX + number))
            .collect();
        code.push(two(Code::Mov_r64_rm64, Register::RSP, field(offset_of!(Context, host_rsp))));
        code.push(Instruction::with(Code::Pushfq));
        code.push(one(Code::Pop_rm64, field(offset_of!(Context, state.flags))));
        for number in 0..16 {
            let memory = field(offset_of!(Context, state.vector) + number as usize * 32);
            let stored = match self.wide {
                true => Instruction::with2(Code::VEX_Vmovups_ymmm256_ymm, memory, Register::YMM0 + number),
                false => Instruction::with2(Code::Movups_xmmm128_xmm, memory, Register::XMM0 + number),
            };
            code.push(stored.expect("operands fit the code")); // invariant: a vector store takes memory and a register
        }
        code.push(one(Code::Stmxcsr_m32, field(offset_of!(Context, state.mxcsr))));
        code.push(one(Code::Ldmxcsr_m32, field(offset_of!(Context, host_mxcsr))));
        if self.wide {
            code.push(Instruction::with(Code::VEX_Vzeroupper));
        }
        code.push(Instruction::with(Code::Cld));
        for (index, register) in HOST_SAVED.into_iter().enumerate() {
            code.push(two(Code::Mov_r64_rm64, register, field(offset_of!(Context, host_saved) + index * 8)));
        }
        code.push(Instruction::with(Code::Retnq));
        code
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        // SAFETY: both mappings are this executor's own, and nothing borrowed from it is left.
        unsafe {
            libc::munmap(self.window.cast(), WINDOW_BYTES);
            if !self.code.is_null() {
                libc::munmap(self.code.cast(), CODE_BYTES + BESIDE_BYTES);
            }
        }
    }
}

/// Code that was changed through another linear address is certain to be seen only after a serialising instruction. A
/// return from an interrupt is one that no hypervisor intercepts (`cpuid` takes 25 microseconds in some machines).
fn serialise() {
    // SAFETY: it returns to the next instruction, with the stack and the flags as they are.
    unsafe {
        std::arch::asm!(
            "mov {stack}, rsp",
            "mov {word:e}, ss",
            "push {word}",
            "push {stack}",
            "pushfq",
            "mov {word:e}, cs",
            "push {word}",
            "lea {word}, [rip + 2f]",
            "push {word}",
            "iretq",
            "2:",
            stack = out(reg) _,
            word = out(reg) _,
        );
    }
}

const HOST_SAVED: [Register; 6] =
    [Register::RBX, Register::RBP, Register::R12, Register::R13, Register::R14, Register::R15];

fn bug(error: iced_x86::IcedError) -> LoadError {
    LoadError::Encode { index: 0, reason: error.to_string() }
}

fn one(code: Code, memory: MemoryOperand) -> Instruction {
    Instruction::with1(code, memory).expect("operands fit the code") // invariant: used with memory-only codes
}

fn two(code: Code, register: Register, memory: MemoryOperand) -> Instruction {
    Instruction::with2(code, register, memory).expect("operands fit the code") // invariant: used with load codes
}

fn store64(memory: MemoryOperand, register: Register) -> Instruction {
    Instruction::with2(Code::Mov_rm64_r64, memory, register).expect("operands fit the code") // invariant: a store
}

fn branch(code: Code, target: u64) -> Instruction {
    Instruction::with_branch(code, target).expect("operands fit the code") // invariant: used with branch codes
}

/// The bytes of `insts`, to stand at `address`.
fn encode(insts: &[Instruction], address: u64) -> Result<Vec<u8>, LoadError> {
    let mut encoder = Encoder::new(64);
    let mut pc = address;
    for (index, inst) in insts.iter().enumerate() {
        let bytes = encoder.encode(inst, pc).map_err(|error| LoadError::Encode { index, reason: error.to_string() })?;
        pc += bytes as u64;
    }
    Ok(encoder.take_buffer())
}

/// # Safety
/// With `MAP_FIXED`, the caller owns the range and nothing refers to it.
unsafe fn map(address: *mut u8, bytes: usize, protection: i32, flags: i32, file: i32) -> io::Result<*mut u8> {
    // SAFETY: as the caller promises.
    let mapped = unsafe { libc::mmap(address.cast(), bytes, protection, flags, file, 0) };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(mapped.cast()) }
}

/// Reserves the first free window, inaccessible.
fn reserve_window() -> io::Result<*mut u8> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    for index in 0..WINDOWS {
        let wanted = (FIRST_WINDOW + index * WINDOW_BYTES) as *mut u8;
        // SAFETY: MAP_FIXED_NOREPLACE never touches an existing mapping.
        match unsafe { map(wanted, WINDOW_BYTES, libc::PROT_NONE, flags, -1) } {
            Ok(window) if window == wanted => return Ok(window),
            Ok(elsewhere) => {
                // A kernel without MAP_FIXED_NOREPLACE takes the address as a hint only.
                // SAFETY: it was just mapped for us, and nothing refers to it.
                unsafe { libc::munmap(elsewhere.cast(), WINDOW_BYTES) };
            }
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("no free window of low addresses"))
}

/// The signal stack of a thread: its mapping, or null before there is one.
struct AlternateStack(*mut u8);

impl AlternateStack {
    fn new() -> io::Result<AlternateStack> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh mapping becomes the signal stack; the thread's former one (if any) stays mapped, and is not
        // in use because no handler is running.
        unsafe {
            let stack = map(ptr::null_mut(), ALTERNATE_STACK_BYTES, libc::PROT_READ | libc::PROT_WRITE, flags, -1)?;
            let new = libc::stack_t { ss_sp: stack.cast(), ss_flags: 0, ss_size: ALTERNATE_STACK_BYTES };
            if libc::sigaltstack(&new, ptr::null_mut()) < 0 {
                let error = io::Error::last_os_error();
                libc::munmap(stack.cast(), ALTERNATE_STACK_BYTES);
                return Err(error);
            }
            Ok(AlternateStack(stack))
        }
    }
}

impl Drop for AlternateStack {
    fn drop(&mut self) {
        let none = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
        // SAFETY: the thread is ending; its signal stack is disabled before its memory goes.
        unsafe {
            libc::sigaltstack(&none, ptr::null_mut());
            libc::munmap(self.0.cast(), ALTERNATE_STACK_BYTES);
        }
    }
}

const SIGNALS: [i32; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP];

/// The dispositions before ours, in the order of [`SIGNALS`].
static FORMER: OnceLock<[libc::sigaction; SIGNALS.len()]> = OnceLock::new();

fn install_handlers() -> Result<(), i32> {
    // SAFETY: zeroed is a valid sigaction (default disposition, empty mask); the handler has the signature that
    // SA_SIGINFO asks for and is async-signal-safe.
    unsafe {
        let mut former: [libc::sigaction; SIGNALS.len()] = std::mem::zeroed();
        for (signal, old) in SIGNALS.into_iter().zip(&mut former) {
            if libc::sigaction(signal, ptr::null(), old) < 0 {
                return Err(io::Error::last_os_error().raw_os_error().unwrap_or(0));
            }
        }
        FORMER.get_or_init(|| former);
        for signal in SIGNALS {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_fault as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            if libc::sigaction(signal, &action, ptr::null_mut()) < 0 {
                return Err(io::Error::last_os_error().raw_os_error().unwrap_or(0));
            }
        }
    }
    Ok(())
}

/// Sends a faulting block to its leave path; gives any other fault back to whoever handled it before.
extern "C" fn on_fault(signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let current = CURRENT.get();
    // SAFETY: the kernel passes a valid ucontext. CURRENT is non-null only while this thread runs a block, and then
    // points to its mapped context.
    unsafe {
        if current.is_null() {
            let at = SIGNALS.iter().position(|&known| known == signal);
            if let (Some(at), Some(former)) = (at, FORMER.get()) {
                // The instruction is tried again under the former disposition.
                libc::sigaction(signal, &former[at], ptr::null_mut());
            }
            return;
        }
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let pc = &mut registers[libc::REG_RIP as usize];
        (*current).signal = signal;
        (*current).next_pc = *pc as u64;
        *pc = (*current).fault_path as i64;
    }
}
