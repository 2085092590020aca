//! Lowers a trace to machine code.
//!
//! A [`Trace`] goes in, position-independent bytes and a description of every exit come out. The bytes are one
//! function with two arguments and one result:
//!
//! ```text
//! fn(context, record) -> exit record
//! ```
//!
//! - `record` is 0 for a fresh entry. Otherwise it is the activation record of a residual call that has returned: the
//!   function reads the resume index and the saved values from it and goes on behind that call.
//! - The result is the address of an exit record, `exit_records + exit * exit_stride`. The trace was left by that exit,
//!   or it wants a residual call made whose state that exit describes.
//! - The function keeps no register but rsp and rbp, so its caller must.
//!
//! # Invariants
//! - Code writes to the context, to activation records and to memory only what the trace says; an exit writes
//!   neither unchanged slots nor constants: the latter are listed in [`ExitCode::constants`] for the runtime.
//! - Every value that an exit needs is computed before its first delayed store.
//! - No relocation is left: the bytes can be copied anywhere (at [`Compiled::alignment`]).
//! - Floating-point operands keep their order, so the NaN that survives is the one the hardware would have chosen.
//!
//! # Worked example
//! ```text
//! seg0():                          load   rax, [context + slots[rax]]
//!   v0: i64 = slot rax      ==>    test   rax, rax
//!   v1: i64 = const 0              je     exit           ; cold, behind everything else
//!   v2: i1 = ne v0, v1             ...
//!   guard v2, exit0                exit: mov rax, exit_records + 0 * exit_stride
//! exit0 @0x40 { rbx = 7 }                ret             ; constants of exit 0: [(rbx, 7)]
//! ```

#![forbid(unsafe_code)]

mod class;
mod error;
mod isa;
mod liveness;
mod lower;

pub use error::BackendError;

use cranelift_codegen::Context;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_frontend::FunctionBuilderContext;
use redmagic_ir::{Opcode, Slot, Trace, Type};

/// Byte offsets that trace code needs; all from the context pointer or from an activation record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Context offset of each slot (8 bytes; the flags 4).
    pub slots: [i32; Slot::COUNT],
    /// Bytes that the context has for each vector register above the slots; they follow the last slot of the register.
    pub above: i32,
    /// Context offset of the pointer to the activation record that the next residual call will use (never null).
    pub free_record: i32,
    /// Context offsets (8 bytes each) of the operands of an exit's [`FlagsRecipe::Recipe`].
    pub flag_args: [i32; 3],
    /// Record offset (8 bytes) of the resume index.
    pub record_resume: i32,
    /// Record offset (8 bytes) of the callee.
    pub record_target: i32,
    /// Record offset (8 bytes) of the original return address.
    pub record_return: i32,
    /// Record offset (8 bytes) of the pointer to the save area.
    pub record_save: i32,
    /// The number of 64-bit words in the save area.
    pub save_words: usize,
}

/// What to compile.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The trace. It has passed the verifier.
    pub trace: &'a Trace,
    /// Where things are.
    pub layout: &'a Layout,
    /// The address of the record of exit 0.
    pub exit_records: u64,
    /// The distance from one exit record to the next.
    pub exit_stride: u64,
    /// The entry address of the stub of each native operation, a System V function of the context pointer.
    pub natives: &'a [u64],
}

/// How the packed flags of an exit come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlagsRecipe {
    /// The flags are not listed, or nothing can read them: the slot stays as it is.
    Unchanged,
    /// The packed flags were stored to the slot, or are a constant in [`ExitCode::constants`].
    Stored,
    /// The flags are the result of `op`; its operands, zero-extended to 64 bits, were stored to
    /// [`Layout::flag_args`].
    Recipe {
        /// The operation, one that computes packed flags.
        op: Opcode,
        /// The type of its first operand.
        ty: Type,
    },
}

/// What the code of an exit leaves for the runtime to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitCode {
    /// The packed flags.
    pub flags: FlagsRecipe,
    /// Slots that the runtime must write, with their values (the flags as 32 bits, zero-extended).
    pub constants: Vec<(Slot, u64)>,
    /// The xmm registers that are written by halves, constants included: bit n is xmm n. A processor forwards a store to a load
    /// only if it covers it, so who loads such a register whole right afterwards waits until all stores have reached the cache.
    pub halves: u16,
}

/// A compiled trace.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The machine code.
    pub code: Vec<u8>,
    /// The alignment that `code` needs, a power of two.
    pub alignment: u32,
    /// The bytes of stack that the code uses beside those of the native stubs it calls.
    pub stack: u32,
    /// By exit index.
    pub exits: Vec<ExitCode>,
    /// The number of IR operations that were lowered.
    pub operations: u32,
    /// The Cranelift IR, if [`Options::dump`] asked for it.
    pub clif: Option<String>,
}

/// How to compile.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Run Cranelift's verifier (a third more compile time; for tests).
    pub verify: bool,
    /// Keep the text of the Cranelift IR.
    pub dump: bool,
}

/// The compiler: a target and the reusable memory of compilations.
pub struct Backend {
    isa: OwnedTargetIsa,
    context: Context,
    builder: FunctionBuilderContext,
    dump: bool,
}

impl Backend {
    /// A compiler for the processor it runs on.
    pub fn new(options: &Options) -> Result<Backend, BackendError> {
        Ok(Backend {
            isa: isa::host(options)?,
            context: Context::new(),
            builder: FunctionBuilderContext::new(),
            dump: options.dump,
        })
    }

    /// Compiles a trace.
    pub fn compile(&mut self, request: &Request<'_>) -> Result<Compiled, BackendError> {
        let result = self.build(request);
        self.context.clear();
        if result.is_err() {
            // An abandoned builder leaves its half-built function in here.
            self.builder = FunctionBuilderContext::new();
        }
        result
    }

    fn build(&mut self, request: &Request<'_>) -> Result<Compiled, BackendError> {
        let lowered = lower::lower(request, &mut self.context.func, &mut self.builder, self.isa.frontend_config())?;
        let clif = self.dump.then(|| self.context.func.display().to_string());
        let compiled = self
            .context
            .compile(self.isa.as_ref(), &mut ControlPlane::default())
            .map_err(|error| BackendError::Codegen(error.inner.to_string()))?;
        let mut code = compiled.code_buffer().to_vec();
        lower::place_instructions(&mut code, compiled.buffer.relocs(), &lowered.inlines)?;
        Ok(Compiled {
            code,
            alignment: compiled.buffer.alignment.max(16),
            // Beside the frame: the saved rbp and the return address.
            stack: compiled.buffer.frame_layout().map_or(0, |layout| layout.frame_to_fp_offset) + 16,
            exits: lowered.exits,
            operations: lowered.operations,
            clif,
        })
    }
}
