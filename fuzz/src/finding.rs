//! A difference as text: what `fuzz/findings` consists of, and what a failing comparison prints.
//!
//! ```text
//! ; what was wrong
//! passes fold,flags                    passes that were run; without this line none
//! force 2                              the guard that was made to fail; without this line none
//! code 4801c8                          one instruction, where the executor has its block
//! state rax=0x1 flags=0x40 xmm0.lo=7   a register file; what is not named is 0
//! memory 0x340=0100ff                  bytes of the arena, which belong to the state above; others are 0
//! ```
//! The test `findings` compares each of them again.
//!
//! Worked example: `Finding::parse("code 4801c8\nstate rax=1")` has one instruction and one state.

use crate::bench::{Forced, Passes};
use crate::compiled::{set_slot, slot_of};
use crate::native::{ARENA_BYTES, Executor, State};
use crate::record::Snapshot;
use iced_x86::{Decoder, DecoderOptions, Encoder, Instruction};
use redmagic_ir::Slot;
use std::fmt::{self, Write};

/// Instructions, what is done with them, and the states in which they were compared.
pub struct Finding {
    /// The instructions, one after the other.
    pub code: Vec<Vec<u8>>,
    /// The passes, as a list of names.
    pub passes: Option<String>,
    /// The guard that is made to fail.
    pub force: Option<usize>,
    /// The states; the first is the one that is recorded.
    pub starts: Vec<Snapshot>,
}

impl Finding {
    /// The finding that consists of these.
    pub fn new(
        executor: &Executor,
        insts: &[Instruction],
        passes: Passes<'_>,
        forced: Option<&Forced>,
        starts: &[Snapshot],
    ) -> Finding {
        let mut encoder = Encoder::new(64);
        let mut pc = executor.block_address();
        let mut code = Vec::new();
        for inst in insts {
            pc += encoder.encode(inst, pc).unwrap_or(0) as u64;
            code.push(encoder.take_buffer());
        }
        Finding {
            code,
            passes: passes.map(ToString::to_string),
            force: forced.map(|forced| forced.guard),
            starts: starts.to_vec(),
        }
    }

    /// Reads the text form; says which line is not in it.
    pub fn parse(text: &str) -> Result<Finding, String> {
        let mut finding = Finding { code: Vec::new(), passes: None, force: None, starts: Vec::new() };
        for line in text.lines().filter(|line| !line.starts_with(';') && !line.trim().is_empty()) {
            finding.line(line).ok_or_else(|| format!("`{line}` is no line of a finding"))?;
        }
        Ok(finding)
    }

    fn line(&mut self, line: &str) -> Option<()> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "passes" => self.passes = Some(rest.to_owned()),
            "force" => self.force = Some(rest.parse().ok()?),
            "code" => self.code.push(bytes(rest)?),
            "state" => {
                let mut state = State::default();
                for item in rest.split_whitespace() {
                    let (name, value) = item.split_once('=')?;
                    set(&mut state, name, number(value)?)?;
                }
                self.starts.push(Snapshot { state, arena: [0; ARENA_BYTES] });
            }
            "memory" => {
                let arena = &mut self.starts.last_mut()?.arena;
                for item in rest.split_whitespace() {
                    let (at, text) = item.split_once('=')?;
                    let (at, bytes) = (number(at)? as usize, bytes(text)?);
                    arena.get_mut(at..at + bytes.len())?.copy_from_slice(&bytes);
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// The instructions, to stand at `address`.
    pub fn instructions(&self, address: u64) -> Vec<Instruction> {
        let bytes: Vec<u8> = self.code.concat();
        Decoder::with_ip(64, &bytes, address, DecoderOptions::NONE).into_iter().collect()
    }

    /// Clears what does not matter in the states as long as they still fail.
    pub fn simplify(&mut self, mut fails: impl FnMut(&[Snapshot]) -> bool) {
        let mut attempt = |starts: &mut Vec<Snapshot>, change: &dyn Fn(&mut Vec<Snapshot>)| {
            let mut simpler = starts.clone();
            change(&mut simpler);
            if fails(&simpler) {
                *starts = simpler;
            }
        };
        for at in 0..self.starts.len() {
            for slot in Slot::all().filter(|slot| slot.is_writable()) {
                if slot_of(&self.starts[at].state, slot) != 0 {
                    attempt(&mut self.starts, &|starts| set_slot(&mut starts[at].state, slot, 0));
                }
            }
            for size in [ARENA_BYTES / 2, 256, 16] {
                for chunk in (0..ARENA_BYTES).step_by(size) {
                    if self.starts[at].arena[chunk..chunk + size].iter().any(|byte| *byte != 0) {
                        attempt(&mut self.starts, &|starts| starts[at].arena[chunk..chunk + size].fill(0));
                    }
                }
            }
        }
    }
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn set(state: &mut State, name: &str, value: u64) -> Option<()> {
    if name == "mxcsr" {
        state.mxcsr = value as u32;
    } else {
        set_slot(state, Slot::from_name(name)?, value);
    }
    Some(())
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(passes) = &self.passes {
            writeln!(f, "passes {passes}")?;
        }
        if let Some(force) = self.force {
            writeln!(f, "force {force}")?;
        }
        let hex = |bytes: &[u8]| {
            bytes.iter().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
        };
        for code in &self.code {
            writeln!(f, "code {}", hex(code))?;
        }
        for start in &self.starts {
            f.write_str("state")?;
            for slot in Slot::all().filter(|slot| slot_of(&start.state, *slot) != 0) {
                write!(f, " {slot}={:#x}", slot_of(&start.state, slot))?;
            }
            if start.state.mxcsr != State::default().mxcsr {
                write!(f, " mxcsr={:#x}", start.state.mxcsr)?;
            }
            f.write_str("\nmemory")?;
            for (row, bytes) in start.arena.chunks(16).enumerate().filter(|row| row.1.iter().any(|byte| *byte != 0)) {
                write!(f, " {:#x}={}", row * 16, hex(bytes))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
