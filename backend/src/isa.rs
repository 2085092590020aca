//! The target: this machine's processor with the settings that measurements chose.
//!
//! - `opt_level=none`: our own optimiser has run; the code generator's would sink values into exits and duplicate them
//!   there, at half as much compile time again.
//! - The backtracking register allocator: the quick one makes loops three to five times slower.
//! - No AVX: the code generator moves registers by the older instructions all the same, and where the guest or its library
//!   has left something in the upper halves, some processors take a hundred cycles for each change between the two kinds (a
//!   matrix product became eight times *slower* than interpreted). Without AVX there is no change within a trace.
//! - No position-independent addressing, unwind data or stack probes: exit addresses are constants, frames are described
//!   by the runtime, and the stack that code runs on has a guard page of its own.
//!
//! Worked example: on a processor with BMI2, a shift by a register becomes `shlx`, without it `mov` to cl and `shl`.

use crate::{BackendError, Options};
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_codegen::settings::{self, Configurable};

/// The target for the processor this runs on.
pub(crate) fn host(options: &Options) -> Result<OwnedTargetIsa, BackendError> {
    let mut flags = settings::builder();
    let verify = if options.verify { "true" } else { "false" };
    for (name, value) in [
        ("opt_level", "none"),
        ("regalloc_algorithm", "backtracking"),
        ("is_pic", "false"),
        ("unwind_info", "false"),
        ("enable_probestack", "false"),
        ("enable_verifier", verify),
    ] {
        flags.set(name, value).map_err(|error| BackendError::Target(format!("{name}={value}: {error}")))?;
    }
    let mut builder = cranelift_native::builder().map_err(|why| BackendError::Target(why.to_owned()))?;
    for name in ["has_avx", "has_avx2", "has_fma", "has_avx512bitalg", "has_avx512dq", "has_avx512f", "has_avx512vl"] {
        builder.set(name, "false").map_err(|error| BackendError::Target(format!("{name}: {error}")))?;
    }
    builder.finish(settings::Flags::new(flags)).map_err(|error| BackendError::Target(error.to_string()))
}
