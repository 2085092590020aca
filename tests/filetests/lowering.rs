//! The `lower` command: what the backend makes of a trace, without the machine code.
//!
//! ```text
//! countdown: 6 operations, 1 exits            how much of the trace was lowered
//!   exit0 to 0x40: flags fl_sub.i64, rcx = 0x0    what the exit leaves to the runtime: a recipe, constants
//! ```
//! Operations are counted in the trace's own terms, so the output is the same on every machine. The code generator's
//! verifier runs, and the trace is lowered twice, which must give the same bytes.

use redmagic_backend::{Backend, Compiled, ExitCode, FlagsRecipe, Layout, Options, Request};
use redmagic_ir::{ExitData, ExitKind, Slot, Trace};

/// Words of a record's save area: a trace whose calls keep more alive is refused.
const SAVE_WORDS: usize = 16;

/// A context of slots, a free record and the operands of flags; a record of four words.
fn layout() -> Layout {
    let context = |word: usize| word as i32 * 8;
    Layout {
        slots: std::array::from_fn(context),
        above: 0,
        free_record: context(Slot::COUNT),
        flag_args: [1, 2, 3].map(|at| context(Slot::COUNT + at)),
        record_resume: 0,
        record_target: 8,
        record_return: 16,
        record_save: 24,
        save_words: SAVE_WORDS,
    }
}

/// Lowers a trace, or says why the backend refuses it.
fn compile(trace: &Trace) -> Result<Compiled, String> {
    let mut backend = Backend::new(&Options { verify: true, dump: false }).map_err(|error| error.to_string())?;
    let natives: Vec<u64> = (0..trace.natives.len()).map(|at| 0x7000_0000 + 64 * at as u64).collect();
    let layout = layout();
    let request = Request { trace, layout: &layout, exit_records: 0x7100_0000, exit_stride: 64, natives: &natives };
    let compiled = backend.compile(&request).map_err(|error| error.to_string())?;
    // The second compilation works in the memory of the first.
    match backend.compile(&request) {
        Ok(again) if again.code == compiled.code && again.exits == compiled.exits => Ok(compiled),
        Ok(_) => Err("a second compilation gives other code".to_owned()),
        Err(error) => Err(format!("a second compilation fails: {error}")),
    }
}

/// Checks what holds for every compiled trace.
fn check(trace: &Trace, compiled: &Compiled) -> Result<(), String> {
    if compiled.code.is_empty() || !compiled.alignment.is_power_of_two() {
        return Err(format!("{} bytes of code at alignment {}", compiled.code.len(), compiled.alignment));
    }
    if compiled.exits.len() != trace.exits.len() {
        return Err(format!("{} exits became {}", trace.exits.len(), compiled.exits.len()));
    }
    Ok(())
}

/// Lowers a trace that the backend must accept.
pub fn accept(trace: &Trace) -> Result<(), String> {
    let compiled = compile(trace).map_err(|reason| format!("{}: not lowered: {reason}\n{trace}", trace.name))?;
    check(trace, &compiled)
}

/// Lowers a trace and describes the outcome.
pub fn lower(trace: &Trace) -> Result<String, String> {
    let compiled = match compile(trace) {
        Ok(compiled) => compiled,
        Err(reason) => return Ok(format!("{}: refused: {reason}\n", trace.name)),
    };
    check(trace, &compiled)?;
    let mut output = format!("{}: {} operations, {} exits\n", trace.name, compiled.operations, compiled.exits.len());
    for ((exit, data), code) in trace.exits.iter().zip(&compiled.exits) {
        let left = left_to_runtime(data, code);
        let separator = if left.is_empty() { "" } else { ": " };
        let kind = match data.kind {
            ExitKind::Guest => String::new(),
            ExitKind::Anchor(id) => format!(", anchor {id}"),
            ExitKind::Meter => ", meter".to_owned(),
        };
        output.push_str(&format!("  {exit} to {:#x}{kind}{separator}{}\n", data.pc, left.join(", ")));
    }
    Ok(output)
}

fn left_to_runtime(data: &ExitData, code: &ExitCode) -> Vec<String> {
    let mut left = Vec::new();
    match code.flags {
        FlagsRecipe::Unchanged => {}
        FlagsRecipe::Stored if code.constants.iter().any(|constant| constant.0 == Slot::FLAGS) => {}
        FlagsRecipe::Stored => left.push("flags stored".to_owned()),
        FlagsRecipe::Recipe { op, ty } => left.push(format!("flags {}.{ty}", op.name())),
    }
    left.extend(code.constants.iter().map(|(slot, value)| format!("{slot} = {value:#x}")));
    if !data.stores.is_empty() {
        left.push(format!("delayed stores: {}", data.stores.len()));
    }
    left
}
