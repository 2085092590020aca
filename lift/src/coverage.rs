//! What would become of a program's instructions: static counts of lifted, verbatim and refused ones.
//!
//! The executable sections of an ELF file are decoded one instruction after the other, without following branches, so
//! data between functions is counted as the instructions that it happens to be. Padding (`nop`, `int3`) is left out of
//! all shares.
//!
//! Worked example: a section with `add eax, 1; cpuid; nop; ret` gives one verbatim code (`Cpuid`), two lifted
//! instructions and one of padding; `Coverage::share` of the lifted ones is 2/3.

use crate::cover::{self, Handler};
use crate::refuse::Refusal;
use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};
use std::collections::HashMap;
use std::fmt;

/// Why a file has no code to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfError {
    /// It is no ELF file for x86-64.
    Format,
    /// A header points outside the file.
    Truncated,
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ElfError::Format => "no ELF file for x86-64",
            ElfError::Truncated => "the file ends before its sections",
        })
    }
}

impl std::error::Error for ElfError {}

/// A piece of code in a file.
#[derive(Clone, Copy, Debug)]
pub struct Section<'a> {
    /// The address of the first byte.
    pub address: u64,
    /// The machine code.
    pub bytes: &'a [u8],
}

impl Section<'_> {
    /// The instructions, one after the other; bytes that are none are skipped.
    pub fn instructions(&self) -> impl Iterator<Item = Instruction> {
        Decoder::with_ip(64, self.bytes, self.address, DecoderOptions::NONE).into_iter()
    }
}

/// The executable sections of an ELF file.
pub fn executable_sections(file: &[u8]) -> Result<Vec<Section<'_>>, ElfError> {
    const MAGIC: &[u8] = b"\x7fELF\x02\x01";
    const X86_64: u64 = 62;
    const PROGBITS: u64 = 1;
    const EXECUTABLE: u64 = 4;
    if !file.starts_with(MAGIC) || field(file, 18, 2)? != X86_64 {
        return Err(ElfError::Format);
    }
    let (table, size, count) = (field(file, 0x28, 8)?, field(file, 0x3a, 2)?, field(file, 0x3c, 2)?);
    let mut sections = Vec::new();
    for number in 0..count {
        let header = table.checked_add(number * size).ok_or(ElfError::Truncated)?;
        let at = |offset: u64| header.checked_add(offset).ok_or(ElfError::Truncated);
        if field(file, at(4)?, 4)? != PROGBITS || field(file, at(8)?, 8)? & EXECUTABLE == 0 {
            continue;
        }
        let (address, start, length) = (field(file, at(16)?, 8)?, field(file, at(24)?, 8)?, field(file, at(32)?, 8)?);
        sections.push(Section { address, bytes: slice(file, start, length)? });
    }
    Ok(sections)
}

fn slice(file: &[u8], start: u64, length: u64) -> Result<&[u8], ElfError> {
    let range = || Some(usize::try_from(start).ok()?..usize::try_from(start.checked_add(length)?).ok()?);
    range().and_then(|range| file.get(range)).ok_or(ElfError::Truncated)
}

/// A little-endian number of a header.
fn field(file: &[u8], at: u64, bytes: u64) -> Result<u64, ElfError> {
    Ok(slice(file, at, bytes)?.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

/// What becomes of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Treatment {
    /// Operations of the IR.
    Lifted,
    /// A native operation of the x87 unit.
    X87,
    /// A native operation unless the count is a small constant.
    Repeated,
    /// Another native operation.
    Native,
    /// A recording ends before it.
    Refused(Refusal),
}

/// What becomes of `inst`.
pub fn treatment(inst: &Instruction) -> Treatment {
    match cover::handler(inst) {
        Handler::Refused(reason) => Treatment::Refused(reason),
        Handler::Native if is_x87(inst) => Treatment::X87,
        Handler::Native => Treatment::Native,
        Handler::Repeated { .. } | Handler::RepeatedComparison { .. } => Treatment::Repeated,
        _ => Treatment::Lifted,
    }
}

/// The name of the rule for `inst` in the coverage table, without its parameters.
pub fn rule(inst: &Instruction) -> String {
    let rule = format!("{:?}", cover::handler(inst));
    rule.split([' ', '(', '{']).next().unwrap_or_default().to_owned()
}

/// Whether `inst` belongs to the x87 unit.
fn is_x87(inst: &Instruction) -> bool {
    use iced_x86::CpuidFeature as F;
    inst.cpuid_features().iter().any(|feature| matches!(feature, F::FPU | F::FPU287 | F::FPU387 | F::MMX))
}

/// Whether control goes on behind `inst` to the next instruction, and nowhere else.
pub fn goes_on(inst: &Instruction) -> bool {
    inst.flow_control() == FlowControl::Next
}

/// Static counts.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// `nop` and `int3`, which stand between functions.
    pub padding: u64,
    /// Bytes that are no instruction.
    pub invalid: u64,
    counts: HashMap<(Treatment, Code), u64>,
}

impl Coverage {
    /// Counts the instructions of a section.
    pub fn add(&mut self, section: &Section<'_>) {
        section.instructions().for_each(|inst| self.add_instruction(&inst));
    }

    /// Counts an instruction.
    pub fn add_instruction(&mut self, inst: &Instruction) {
        match inst.mnemonic() {
            Mnemonic::INVALID => self.invalid += 1,
            Mnemonic::Nop | Mnemonic::Int3 => self.padding += 1,
            _ => *self.counts.entry((treatment(inst), inst.code())).or_default() += 1,
        }
    }

    /// The number of instructions whose treatment `chosen` accepts.
    pub fn count(&self, chosen: impl Fn(Treatment) -> bool) -> u64 {
        self.counts.iter().filter(|entry| chosen(entry.0.0)).map(|entry| entry.1).sum()
    }

    /// The share of lifted instructions among those that are not x87's.
    pub fn share(&self) -> f64 {
        let all = self.count(|treatment| treatment != Treatment::X87);
        self.count(|treatment| treatment == Treatment::Lifted) as f64 / all.max(1) as f64
    }

    /// The codes that are not lifted, the most frequent first.
    pub fn others(&self) -> Vec<(Treatment, Code, u64)> {
        let entries = self.counts.iter().map(|(&(treatment, code), &count)| (treatment, code, count));
        let mut others: Vec<_> = entries.filter(|entry| entry.0 != Treatment::Lifted).collect();
        others.sort_by_key(|&(_, code, count)| (std::cmp::Reverse(count), code as u32));
        others
    }
}
