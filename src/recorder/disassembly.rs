//! Text of guest and host code for dumps.
//!
//! A line of a recording is `401136  mov rax,[rdi+8]  ; [7ffd3010] = 2a`: address, instruction, and the address and value
//! of its memory access.

use super::log::{Entry, EntryKind};
use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter};
use std::fmt::Write;

/// An instruction in Intel syntax.
pub fn text(instruction: &Instruction) -> String {
    let mut formatter = IntelFormatter::new();
    let mut output = String::new();
    formatter.format(instruction, &mut output);
    output
}

/// Machine code, a line per instruction.
pub fn code(bytes: &[u8], start: u64) -> String {
    let mut output = String::new();
    for instruction in Decoder::with_ip(64, bytes, start, DecoderOptions::NONE).iter() {
        let _ = writeln!(output, "{:x}  {}", instruction.ip(), text(&instruction));
    }
    output
}

/// A recording, a line per instruction.
pub fn recording(entries: &[Entry]) -> String {
    let mut output = String::new();
    for entry in entries {
        let _ = write!(output, "{:x}  {}", entry.slot.pc, text(&entry.slot.instruction));
        let _ = match entry.kind {
            EntryKind::Inst if entry.address != 0 => write!(output, "  ; [{:x}] = {:x}", entry.address, entry.value),
            EntryKind::Inst => Ok(()),
            EntryKind::Countdown => write!(output, "  ; countdown"),
            EntryKind::Call { target, .. } => write!(output, "  ; residual call of {target:x}"),
            EntryKind::Api { .. } => write!(output, "  ; call of the library"),
        };
        output.push('\n');
    }
    output
}
