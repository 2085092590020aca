//! The hand-written machine code between guest, trace and library.
//!
//! # Registers
//! In the library's own stretches rbx holds the context and rsp points into the thread's private stack, where the
//! context's address lies on top (twice, for alignment) so that it can be found again after a call.
//!
//! # Invariants
//! - The thread-local word BUSY is 1 from the first instruction that uses the context to the last one before guest code.
//!   A signal handler that calls the API in between is declined.
//! - Nothing is written to the guest's stack at or above its red zone. What is pushed there at all (when the thread has
//!   no context yet, or is busy) lies below the return address of a call that the guest has made.
//! - No frame of the library exists while foreign code runs: a stub that lets go of the guest leaves an empty stack.
//!
//! # Worked example
//! `REDMAGIC_BACKWARDS_BRANCH(id)` with a hot counter: `redmagic_anchor_stub` saves the registers, calls
//! [`on_anchor`](crate::runtime::on_anchor), which finds a trace and answers `enter_trace` with the address of its
//! function; `enter_trace` calls it; it returns an exit record; `jmp [record.next]` runs the piece that restores the
//! registers of that exit and jumps into the guest.

#![expect(unsafe_code, reason = "machine code")]

use crate::context::{Context, tls};
use crate::records::Record;
use crate::runtime::{on_anchor, on_exit, on_foreign_thread, on_odd_entry, on_refill, on_stray_return};
use std::arch::{global_asm, naked_asm};
use std::mem::offset_of;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

// The thread-local block; see `context::tls`. In the initial-exec model its distance from fs:[0] is one constant for all
// threads, which slots and pieces have as an immediate.
global_asm!(
    ".section .tbss.redmagic_tls_block,\"awT\",@nobits",
    ".balign 64",
    ".globl redmagic_tls_block",
    ".hidden redmagic_tls_block",
    ".type redmagic_tls_block, @object",
    ".size redmagic_tls_block, 64",
    "redmagic_tls_block:",
    ".skip 64",
    ".text",
);

const GPR: usize = offset_of!(Context, gpr);
const RIP: usize = offset_of!(Context, rip);
const FLAGS: usize = offset_of!(Context, flags);
const STACK: usize = offset_of!(Context, stack_top);
const EXIT: usize = offset_of!(Context, exit);
const ENTERING: usize = offset_of!(Context, entering);
const HOST_RSP: usize = offset_of!(Context, host_rsp);
const FREE: usize = offset_of!(Context, free_record);

/// Distance of the thread-local block from the thread pointer, in bytes.
#[unsafe(naked)]
pub extern "C" fn tls_offset() -> i64 {
    naked_asm!("mov rax, qword ptr [rip + redmagic_tls_block@GOTTPOFF]", "ret")
}

/// The calling thread's fs base, which the System V ABI stores at fs:[0].
#[unsafe(naked)]
pub extern "C" fn fs_base() -> u64 {
    naked_asm!("mov rax, qword ptr fs:[0]", "ret")
}

/// The address of `redmagic_active` that the whole process uses: a program that refers to the symbol of a shared
/// library has its own copy.
#[unsafe(naked)]
pub extern "C" fn active_address() -> u64 {
    naked_asm!("mov rax, qword ptr [rip + redmagic_active@GOTPCREL]", "ret")
}

/// The address of `redmagic_resting` that the whole process uses.
#[unsafe(naked)]
pub extern "C" fn resting_address() -> u64 {
    naked_asm!("mov rax, qword ptr [rip + redmagic_resting@GOTPCREL]", "ret")
}

/// The address of `redmagic_counters` that the whole process uses.
#[unsafe(naked)]
pub extern "C" fn counters_address() -> u64 {
    naked_asm!("mov rax, qword ptr [rip + redmagic_counters@GOTPCREL]", "ret")
}

/// What both anchor forms do once the counter says so; the id is in rax. Enters at label 2.
macro_rules! anchor_body {
    () => {
        concat!(
            "2: mov rcx, qword ptr [rip + redmagic_tls_block@GOTTPOFF]\n",
            "cmp dword ptr fs:[rcx + {busy}], 0\n",
            "jne 3f\n",
            "cmp qword ptr fs:[rcx + {context}], 0\n",
            "je 3f\n",
            "mov dword ptr fs:[rcx + {busy}], 1\n",
            "mov rcx, qword ptr fs:[rcx + {context}]\n",
            "mov qword ptr [rcx + {gpr}], rax\n",
            "mov qword ptr [rcx + {gpr} + 8], 0\n",
            "mov qword ptr [rcx + {gpr} + 16], rdx\n",
            "mov qword ptr [rcx + {gpr} + 24], rbx\n",
            "mov qword ptr [rcx + {gpr} + 40], rbp\n",
            "mov qword ptr [rcx + {gpr} + 48], rsi\n",
            "mov qword ptr [rcx + {gpr} + 56], rdi\n",
            "mov qword ptr [rcx + {gpr} + 64], r8\n",
            "mov qword ptr [rcx + {gpr} + 72], r9\n",
            "mov qword ptr [rcx + {gpr} + 80], r10\n",
            "mov qword ptr [rcx + {gpr} + 88], r11\n",
            "mov qword ptr [rcx + {gpr} + 96], r12\n",
            "mov qword ptr [rcx + {gpr} + 104], r13\n",
            "mov qword ptr [rcx + {gpr} + 112], r14\n",
            "mov qword ptr [rcx + {gpr} + 120], r15\n",
            "mov rdx, qword ptr [rsp]\n",
            "mov qword ptr [rcx + {rip}], rdx\n",
            "lea rdx, [rsp + 8]\n",
            "mov qword ptr [rcx + {gpr} + 32], rdx\n",
            "mov rdi, rcx\n",
            "mov rsi, rax\n",
            "mov rsp, qword ptr [rcx + {stack}]\n",
            "push rcx\n",
            "push rcx\n",
            "call {on_anchor}\n",
            "mov rbx, qword ptr [rsp]\n",
            "jmp rax\n",
            // Not now, or not yet: the library's own code runs on the caller's stack, below its red zone (the macro has
            // stepped over it, a function call is below it).
            "3: push rax\n",
            "push rdx\n",
            "push rsi\n",
            "push rdi\n",
            "push r8\n",
            "push r9\n",
            "push r10\n",
            "push r11\n",
            "push rbp\n",
            "lea rdi, [rsp + 72]\n",
            "mov rbp, rsp\n",
            "and rsp, -16\n",
            "call {on_odd_entry}\n",
            "mov rsp, rbp\n",
            "mov ecx, eax\n",
            "pop rbp\n",
            "pop r11\n",
            "pop r10\n",
            "pop r9\n",
            "pop r8\n",
            "pop rdi\n",
            "pop rsi\n",
            "pop rdx\n",
            "pop rax\n",
            "test ecx, ecx\n",
            "jne 2b\n",
            "ret\n",
        )
    };
}

/// What the header's macros call, with the id in rax. Keeps every general register but rax and rcx.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub extern "C" fn redmagic_anchor_stub() {
    naked_asm!(
        anchor_body!(),
        busy = const tls::BUSY, context = const tls::CONTEXT, gpr = const GPR, rip = const RIP, stack = const STACK,
        on_anchor = sym on_anchor, on_odd_entry = sym on_odd_entry,
    )
}

/// `redmagic_backwards_branch`: the macro's test and countdown, then the same as the stub. The multiplier and the
/// shift are those of the header.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub extern "C" fn redmagic_backwards_branch(_id: *mut std::ffi::c_void) {
    naked_asm!(
        "mov rcx, qword ptr [rip + redmagic_active@GOTPCREL]",
        "cmp dword ptr [rcx], 0",
        "je 4f",
        "test rdi, rdi",
        "je 4f",
        "mov rcx, qword ptr [rip + redmagic_resting@GOTPCREL]",
        "cmp dword ptr [rcx], 0",
        "jle 5f",
        "sub dword ptr [rcx], 1",
        "ret",
        "5: mov rcx, qword ptr [rip + redmagic_counters@GOTPCREL]",
        "imul eax, edi, 0x9e3779b1",
        "shr eax, 18",
        "sub dword ptr [rcx + rax * 4], 1",
        "jns 4f",
        "mov rax, rdi",
        anchor_body!(),
        "4: ret",
        busy = const tls::BUSY, context = const tls::CONTEXT, gpr = const GPR, rip = const RIP, stack = const STACK,
        on_anchor = sym on_anchor, on_odd_entry = sym on_odd_entry,
    )
}

/// Goes on in the guest behind its call of an anchor: nothing happened. Context in rbx.
#[unsafe(naked)]
pub extern "C" fn leave_after_call() {
    naked_asm!(
        "mov rax, qword ptr [rbx + {gpr}]",
        "mov rdx, qword ptr [rbx + {gpr} + 16]",
        "mov rsp, qword ptr [rbx + {gpr} + 32]",
        // Back on the return address, which the guest's call has pushed.
        "lea rsp, [rsp - 8]",
        "mov rbp, qword ptr [rbx + {gpr} + 40]",
        "mov rsi, qword ptr [rbx + {gpr} + 48]",
        "mov rdi, qword ptr [rbx + {gpr} + 56]",
        "mov r8, qword ptr [rbx + {gpr} + 64]",
        "mov r9, qword ptr [rbx + {gpr} + 72]",
        "mov r10, qword ptr [rbx + {gpr} + 80]",
        "mov r11, qword ptr [rbx + {gpr} + 88]",
        "mov r12, qword ptr [rbx + {gpr} + 96]",
        "mov r13, qword ptr [rbx + {gpr} + 104]",
        "mov r14, qword ptr [rbx + {gpr} + 112]",
        "mov r15, qword ptr [rbx + {gpr} + 120]",
        "mov rbx, qword ptr [rbx + {gpr} + 24]",
        "mov rcx, qword ptr [rip + redmagic_tls_block@GOTTPOFF]",
        "mov dword ptr fs:[rcx + {busy}], 0",
        "ret",
        gpr = const GPR, busy = const tls::BUSY,
    )
}

/// Enters the trace function in rdx afresh. Context in rbx.
#[unsafe(naked)]
pub extern "C" fn enter_trace() {
    naked_asm!(
        "mov rsp, qword ptr [rbx + {stack}]",
        "push rbx",
        "push rbx",
        "mov rdi, rbx",
        "xor esi, esi",
        "call rdx",
        "mov rbx, qword ptr [rsp]",
        "jmp qword ptr [rax]",
        stack = const STACK,
    )
}

/// Enters the trace function that the context names. Context in rbx.
#[unsafe(naked)]
pub extern "C" fn enter_pending() {
    naked_asm!(
        "mov rdx, qword ptr [rbx + {entering}]",
        "jmp {enter_trace}",
        entering = const ENTERING, enter_trace = sym enter_trace,
    )
}

/// Where exit records lead that the library has not seen yet. Context in rbx, record in rax.
#[unsafe(naked)]
pub extern "C" fn exit_to_library() {
    naked_asm!(
        "mov qword ptr [rbx + {exit}], rax",
        "mov rsp, qword ptr [rbx + {stack}]",
        "push rbx",
        "push rbx",
        "mov rdi, rbx",
        "mov rsi, rax",
        "call {on_exit}",
        "mov rbx, qword ptr [rsp]",
        "mov rcx, rax",
        "mov rax, qword ptr [rbx + {exit}]",
        "jmp rcx",
        exit = const EXIT, stack = const STACK, on_exit = sym on_exit,
    )
}

/// Where a residual call goes that finds only one free activation record. Context in rbx, exit record in rax.
#[unsafe(naked)]
pub extern "C" fn refill_records() {
    naked_asm!(
        "mov qword ptr [rbx + {exit}], rax",
        "mov rsp, qword ptr [rbx + {stack}]",
        "push rbx",
        "push rbx",
        "mov rdi, rbx",
        "mov rsi, rax",
        "call {on_refill}",
        "mov rbx, qword ptr [rsp]",
        "mov rcx, rax",
        "mov rax, qword ptr [rbx + {exit}]",
        "jmp rcx",
        exit = const EXIT, stack = const STACK, on_refill = sym on_refill,
    )
}

/// Where return thunks lead: the callee of a residual call has returned. The record is in rax, whose own value the thunk
/// has put into the record; every other register is the guest's.
#[unsafe(naked)]
pub extern "C" fn return_common() {
    naked_asm!(
        "2: mov qword ptr [rax + {rec_rcx}], rcx",
        "mov rcx, qword ptr [rip + redmagic_tls_block@GOTTPOFF]",
        "mov rcx, qword ptr fs:[rcx + {context}]",
        // The flags are the guest's still, so the test for null must not write them; its jump is a short one.
        "jrcxz 3f",
        "jmp 4f",
        "3: jmp 8f",
        "4: mov qword ptr [rcx + {gpr} + 16], rdx",
        "mov qword ptr [rcx + {gpr} + 24], rbx",
        "mov qword ptr [rcx + {gpr} + 32], rsp",
        "mov qword ptr [rcx + {gpr} + 40], rbp",
        "mov qword ptr [rcx + {gpr} + 48], rsi",
        "mov qword ptr [rcx + {gpr} + 56], rdi",
        "mov qword ptr [rcx + {gpr} + 64], r8",
        "mov qword ptr [rcx + {gpr} + 72], r9",
        "mov qword ptr [rcx + {gpr} + 80], r10",
        "mov qword ptr [rcx + {gpr} + 88], r11",
        "mov qword ptr [rcx + {gpr} + 96], r12",
        "mov qword ptr [rcx + {gpr} + 104], r13",
        "mov qword ptr [rcx + {gpr} + 112], r14",
        "mov qword ptr [rcx + {gpr} + 120], r15",
        "mov rbp, rax",
        "mov rbx, rcx",
        "lahf",
        "seto al",
        "movzx ecx, ah",
        "and ecx, 0xd5",
        "movzx eax, al",
        "shl eax, 11",
        "or ecx, eax",
        "mov qword ptr [rbx + {flags}], rcx",
        "mov rax, qword ptr [rbp + {rec_rax}]",
        "mov qword ptr [rbx + {gpr}], rax",
        "mov rcx, qword ptr [rbp + {rec_rcx}]",
        "mov qword ptr [rbx + {gpr} + 8], rcx",
        "mov rax, rsp",
        "mov rsp, qword ptr [rbx + {stack}]",
        "push rbx",
        "push rbx",
        // The callee has returned to another height or on another thread, or this activation was given up: go on in the
        // guest.
        "cmp rax, qword ptr [rbp + {rec_rsp}]",
        "jne 7f",
        "cmp qword ptr [rbp + {rec_owner}], rbx",
        "jne 7f",
        "cmp dword ptr [rbp + {rec_live}], 1",
        "jne 7f",
        "mov rcx, rbx",
        "cmp dword ptr [rbp + {rec_wide}], 0",
        "jne 5f",
        "call {save_xmm}",
        "jmp 6f",
        "5: call {save_vectors}",
        "6: mov dword ptr [rbp + {rec_live}], 0",
        "mov rax, qword ptr [rbx + {free}]",
        "mov qword ptr [rbp + {rec_next}], rax",
        "mov qword ptr [rbx + {free}], rbp",
        "mov rdi, rbx",
        "mov rsi, rbp",
        "mov rdx, qword ptr [rbp + {rec_function}]",
        "call rdx",
        "mov rbx, qword ptr [rsp]",
        "jmp qword ptr [rax]",
        "7: mov rcx, rbx",
        "call {save_vectors}",
        "mov rdi, rbx",
        "mov rsi, rbp",
        "call {on_stray_return}",
        "mov rbx, qword ptr [rsp]",
        "jmp rax",
        // A thread without a context: the guest has moved the stack to a thread that never met an anchor. The callee's
        // results are kept, its red zone is not: it has returned.
        "8: lea rsp, [rsp - 128]",
        "push rax",
        "push rdx",
        "push rsi",
        "push rdi",
        "push r8",
        "push r9",
        "push r10",
        "push r11",
        "push rbp",
        "pushfq",
        "mov rbp, rsp",
        "and rsp, -64",
        "sub rsp, 256",
        "movups xmmword ptr [rsp], xmm0",
        "movups xmmword ptr [rsp + 16], xmm1",
        "movups xmmword ptr [rsp + 32], xmm2",
        "movups xmmword ptr [rsp + 48], xmm3",
        "movups xmmword ptr [rsp + 64], xmm4",
        "movups xmmword ptr [rsp + 80], xmm5",
        "movups xmmword ptr [rsp + 96], xmm6",
        "movups xmmword ptr [rsp + 112], xmm7",
        "movups xmmword ptr [rsp + 128], xmm8",
        "movups xmmword ptr [rsp + 144], xmm9",
        "movups xmmword ptr [rsp + 160], xmm10",
        "movups xmmword ptr [rsp + 176], xmm11",
        "movups xmmword ptr [rsp + 192], xmm12",
        "movups xmmword ptr [rsp + 208], xmm13",
        "movups xmmword ptr [rsp + 224], xmm14",
        "movups xmmword ptr [rsp + 240], xmm15",
        "call {on_foreign_thread}",
        "movups xmm0, xmmword ptr [rsp]",
        "movups xmm1, xmmword ptr [rsp + 16]",
        "movups xmm2, xmmword ptr [rsp + 32]",
        "movups xmm3, xmmword ptr [rsp + 48]",
        "movups xmm4, xmmword ptr [rsp + 64]",
        "movups xmm5, xmmword ptr [rsp + 80]",
        "movups xmm6, xmmword ptr [rsp + 96]",
        "movups xmm7, xmmword ptr [rsp + 112]",
        "movups xmm8, xmmword ptr [rsp + 128]",
        "movups xmm9, xmmword ptr [rsp + 144]",
        "movups xmm10, xmmword ptr [rsp + 160]",
        "movups xmm11, xmmword ptr [rsp + 176]",
        "movups xmm12, xmmword ptr [rsp + 192]",
        "movups xmm13, xmmword ptr [rsp + 208]",
        "movups xmm14, xmmword ptr [rsp + 224]",
        "movups xmm15, xmmword ptr [rsp + 240]",
        "mov rsp, rbp",
        "popfq",
        "pop rbp",
        "pop r11",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rdi",
        "pop rsi",
        "pop rdx",
        "pop rax",
        "lea rsp, [rsp + 128]",
        "mov rcx, qword ptr [rax + {rec_rcx}]",
        "jmp 2b",
        context = const tls::CONTEXT, gpr = const GPR, flags = const FLAGS, stack = const STACK, free = const FREE,
        rec_rax = const offset_of!(Record, rax), rec_rcx = const offset_of!(Record, rcx),
        rec_rsp = const offset_of!(Record, rsp), rec_live = const offset_of!(Record, live),
        rec_wide = const offset_of!(Record, wide), rec_next = const offset_of!(Record, next),
        rec_function = const offset_of!(Record, function), rec_owner = const offset_of!(Record, owner),
        save_xmm = sym save_xmm, save_vectors = sym save_vectors, on_stray_return = sym on_stray_return,
        on_foreign_thread = sym on_foreign_thread,
    )
}

/// Runs a slot (one guest instruction with its state moves) and returns. A System V function of the context and the
/// slot's address.
#[unsafe(naked)]
pub extern "C" fn run_slot(_context: *mut Context, _slot: u64) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 8",
        "mov qword ptr [rdi + {host_rsp}], rsp",
        "mov rcx, rdi",
        "jmp rsi",
        host_rsp = const HOST_RSP,
    )
}

/// Where a slot ends, with the host's stack pointer restored.
#[unsafe(naked)]
pub extern "C" fn slot_return() {
    naked_asm!("add rsp, 8", "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx", "ret",)
}

/// Instruction `$mnemonic` for vector registers 0 to 15 (and 16 to 31), towards memory or from it.
macro_rules! moves {
    (save $op:literal $size:literal $reg:literal: $($n:literal)*) => {
        concat!($($op, " ", $size, " ptr [rcx + {vector} + 64 * ", $n, "], ", $reg, $n, "\n"),*)
    };
    (load $op:literal $size:literal $reg:literal: $($n:literal)*) => {
        concat!($($op, " ", $reg, $n, ", ", $size, " ptr [rcx + {vector} + 64 * ", $n, "]\n"),*)
    };
}

/// Defines a function that moves vector registers between the machine and the context in rcx; keeps everything else, but the
/// flags only where it saves.
macro_rules! vector_function {
    ($(#[$doc:meta])* $name:ident, $way:ident $op:literal $size:literal $reg:literal: $($n:literal)*; $masks:expr) => {
        $(#[$doc])*
        #[unsafe(naked)]
        pub extern "C" fn $name() {
            naked_asm!(
                moves!($way $op $size $reg: $($n)*), $masks, "ret",
                vector = const offset_of!(Context, vector),
            )
        }
    };
}

vector_function!(
    /// Saves xmm0 to xmm15.
    save_xmm, save "movups" "xmmword" "xmm": 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; ""
);
vector_function!(
    /// Loads xmm0 to xmm15; the upper parts stay.
    load_xmm, load "movups" "xmmword" "xmm": 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; ""
);
vector_function!(
    /// Saves ymm0 to ymm15, and clears their upper halves: the library and traces would be slow with them.
    save_ymm, save "vmovups" "ymmword" "ymm": 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; "vzeroupper\n"
);
vector_function!(
    /// Loads ymm0 to ymm15. Zeros in all upper halves are those of a processor that does not use them: as long as it does,
    /// every legacy SSE instruction waits for the one before that has written its register.
    load_ymm, load "vmovups" "ymmword" "ymm": 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15;
    concat!(
        "vorps ymm0, ymm0, ymm1\n", "vorps ymm0, ymm0, ymm2\n", "vorps ymm0, ymm0, ymm3\n",
        "vorps ymm0, ymm0, ymm4\n", "vorps ymm0, ymm0, ymm5\n", "vorps ymm0, ymm0, ymm6\n",
        "vorps ymm0, ymm0, ymm7\n", "vorps ymm0, ymm0, ymm8\n", "vorps ymm0, ymm0, ymm9\n",
        "vorps ymm0, ymm0, ymm10\n", "vorps ymm0, ymm0, ymm11\n", "vorps ymm0, ymm0, ymm12\n",
        "vorps ymm0, ymm0, ymm13\n", "vorps ymm0, ymm0, ymm14\n", "vorps ymm0, ymm0, ymm15\n",
        "vextractf128 xmm0, ymm0, 1\n",
        "vptest xmm0, xmm0\n",
        "vmovups ymm0, ymmword ptr [rcx + {vector}]\n",
        "jne 2f\n",
        "vzeroupper\n",
        "2:\n",
    )
);
vector_function!(
    /// Saves zmm0 to zmm31 and k0 to k7, and clears upper halves like `save_ymm`.
    save_zmm, save "vmovups" "zmmword" "zmm":
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31;
    concat!(
        "kmovq qword ptr [rcx + {vector} + 2048], k0\n", "kmovq qword ptr [rcx + {vector} + 2056], k1\n",
        "kmovq qword ptr [rcx + {vector} + 2064], k2\n", "kmovq qword ptr [rcx + {vector} + 2072], k3\n",
        "kmovq qword ptr [rcx + {vector} + 2080], k4\n", "kmovq qword ptr [rcx + {vector} + 2088], k5\n",
        "kmovq qword ptr [rcx + {vector} + 2096], k6\n", "kmovq qword ptr [rcx + {vector} + 2104], k7\n",
    )
);
vector_function!(
    /// Loads zmm0 to zmm31 and k0 to k7. Zeros in upper parts are like those in `load_ymm`; of registers 16 to 31 they cost
    /// nothing.
    load_zmm, load "vmovups" "zmmword" "zmm":
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31;
    concat!(
        "vporq zmm0, zmm0, zmm1\n", "vpternlogq zmm0, zmm2, zmm3, 0xfe\n", "vpternlogq zmm0, zmm4, zmm5, 0xfe\n",
        "vpternlogq zmm0, zmm6, zmm7, 0xfe\n", "vpternlogq zmm0, zmm8, zmm9, 0xfe\n",
        "vpternlogq zmm0, zmm10, zmm11, 0xfe\n", "vpternlogq zmm0, zmm12, zmm13, 0xfe\n",
        "vpternlogq zmm0, zmm14, zmm15, 0xfe\n",
        // Words 2 to 7.
        "kxnorw k1, k1, k1\n",
        "kshiftlw k1, k1, 2\n",
        "vptestmq k0{{k1}}, zmm0, zmm0\n",
        "kortestw k0, k0\n",
        "vmovups zmm0, zmmword ptr [rcx + {vector}]\n",
        "jne 2f\n",
        "vzeroupper\n",
        "2:\n",
        "kmovq k0, qword ptr [rcx + {vector} + 2048]\n", "kmovq k1, qword ptr [rcx + {vector} + 2056]\n",
        "kmovq k2, qword ptr [rcx + {vector} + 2064]\n", "kmovq k3, qword ptr [rcx + {vector} + 2072]\n",
        "kmovq k4, qword ptr [rcx + {vector} + 2080]\n", "kmovq k5, qword ptr [rcx + {vector} + 2088]\n",
        "kmovq k6, qword ptr [rcx + {vector} + 2096]\n", "kmovq k7, qword ptr [rcx + {vector} + 2104]\n",
    )
);

const _: () = assert!(offset_of!(Context, mask) == offset_of!(Context, vector) + 2048);

/// How all vector state of this machine is saved and loaded.
static VECTOR_ROUTINES: [AtomicPtr<()>; 2] = [AtomicPtr::new(save_xmm as *mut ()), AtomicPtr::new(load_xmm as *mut ())];

/// Saves all vector state that this machine has to the context in rcx, and leaves no upper halves in use; keeps everything else.
#[unsafe(naked)]
pub extern "C" fn save_vectors() {
    naked_asm!("jmp qword ptr [rip + {routines}]", routines = sym VECTOR_ROUTINES)
}

/// Loads all vector state that this machine has from the context in rcx; keeps everything else but the flags.
#[unsafe(naked)]
pub extern "C" fn load_vectors() {
    naked_asm!("jmp qword ptr [rip + {routines} + 8]", routines = sym VECTOR_ROUTINES)
}

/// Finds out which vector state this machine has.
pub fn detect_vectors() {
    let (save, load): (extern "C" fn(), extern "C" fn()) =
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
            (save_zmm, load_zmm)
        } else if is_x86_feature_detected!("avx") {
            (save_ymm, load_ymm)
        } else {
            (save_xmm, load_xmm)
        };
    VECTOR_ROUTINES[0].store(save as *mut (), Relaxed);
    VECTOR_ROUTINES[1].store(load as *mut (), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::arch::asm;

    type Routine = extern "C" fn();

    /// Loads everything from one context and saves it to another.
    fn through(load: Routine, save: Routine, from: &Context, to: &mut Context) {
        // SAFETY: the routines use what is in rcx, and nothing of the machine but vector registers, masks and flags.
        unsafe {
            asm!(
                "call {load}", "mov rcx, {to}", "call {save}",
                load = in(reg) load, save = in(reg) save, to = in(reg) to, inout("rcx") from => _,
                clobber_abi("C"),
            );
        }
    }

    #[test]
    fn vector_registers_pass_through_whatever_their_upper_parts_hold() {
        let mut routines: Vec<(Routine, Routine, usize, usize)> = vec![(load_xmm, save_xmm, 16, 2)];
        if is_x86_feature_detected!("avx") {
            routines.push((load_ymm, save_ymm, 16, 4));
        }
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
            routines.push((load_zmm, save_zmm, 32, 8));
        }
        for (load, save, registers, words) in routines {
            // All zero above the low halves; then one word that is not, in each place.
            let places = (0..registers).flat_map(|register| (2..words).map(move |word| (register, word)));
            for place in [None].into_iter().chain(places.map(Some)) {
                let mut from = Context::new();
                for (number, register) in from.vector.iter_mut().take(registers).enumerate() {
                    (register[0], register[1]) = (number as u64 + 1, !(number as u64));
                }
                if let Some((register, word)) = place {
                    from.vector[register][word] = 0x8000_0000_0000_0001;
                }
                if words == 8 {
                    from.mask = std::array::from_fn(|mask| mask as u64 * 0x0101_0101_0101_0101);
                }
                let mut to = Context::new();
                through(load, save, &from, &mut to);
                assert_eq!((to.vector, to.mask), (from.vector, from.mask), "{words} words, {place:?}");
            }
        }
    }
}
