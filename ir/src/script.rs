//! Evaluations in text: what to run a trace on, and what came out of it.
//!
//! A script is a list of lines. `run` starts an evaluation and sets up its guest, `call` lines after it say what the
//! residual calls do, in order; further calls do something made up.
//! ```text
//! run rax=5 flags=0x40 i64[0x1000]=7,-1 fuel=100
//! call rax=9 i8[0x1000]=2
//! ```
//! Items: `SLOT=NUMBER`; `TYPE[ADDRESS]=NUMBER,...`, which maps memory and fills it, element after element; `fuel=NUMBER`;
//! `seed=NUMBER`, which makes memory that is not set hold made-up bytes instead of being unmapped.
//!
//! Worked example: the loop in the documentation of [`Trace`] with `run rax=2` is reported as
//! ```text
//! run rax=2
//!   leaves by exit0 to 0x40
//!   rax = 0
//! ```

use crate::eval::{EvalError, Guest, Outcome};
use crate::sandbox::{Background, Event, SparseMemory, TestGuest, run_with};
use crate::{ExitKind, ExitValue, Slot, Trace, Type};
use std::fmt::{self, Write};

/// The fuel of a run that states none.
const FUEL: u64 = 100_000;

/// One evaluation of a script.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its line.
    pub line: String,
    /// The guest it starts with.
    pub guest: TestGuest,
    /// How many instructions it may execute.
    pub fuel: u64,
    /// What the residual calls do.
    calls: Vec<Vec<Item>>,
}

/// Why a line is not one of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScriptError {
    /// An item that is none of those above.
    Item(String),
    /// A `call` before the first `run`.
    CallFirst,
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScriptError::Item(item) => write!(f, "`{item}` is no item of a run"),
            ScriptError::CallFirst => f.write_str("`call` needs a `run` before it"),
        }
    }
}

impl std::error::Error for ScriptError {}

#[derive(Clone, Debug)]
enum Item {
    Slot(Slot, u64),
    Memory(u64, u32, Vec<u128>),
    Fuel(u64),
    Seed(u64),
}

fn number(text: &str) -> Option<u64> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let magnitude = match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok()?,
        None => digits.parse().ok()?,
    };
    Some(if negative { magnitude.wrapping_neg() } else { magnitude })
}

fn item(text: &str) -> Option<Item> {
    let (name, value) = text.split_once('=')?;
    if let Some((ty, address)) = name.strip_suffix(']').and_then(|name| name.split_once('[')) {
        let ty = Type::from_name(ty).filter(|ty| ty.bytes() > 0)?;
        // Sign-extended, so that -1 fills a wide element too.
        let values: Option<Vec<u128>> = value
            .split(',')
            .map(|value| {
                let bits = number(value)?;
                Some(if value.starts_with('-') { i128::from(bits as i64) as u128 } else { u128::from(bits) })
            })
            .collect();
        return Some(Item::Memory(number(address)?, ty.bytes(), values?));
    }
    let value = number(value)?;
    Some(match name {
        "fuel" => Item::Fuel(value),
        "seed" => Item::Seed(value),
        _ => Item::Slot(Slot::from_name(name)?, value),
    })
}

fn items(words: &str) -> Result<Vec<Item>, ScriptError> {
    words.split_whitespace().map(|word| item(word).ok_or_else(|| ScriptError::Item(word.to_owned()))).collect()
}

fn set_up(guest: &mut TestGuest, items: &[Item]) {
    for item in items {
        match item {
            Item::Slot(slot, value) => guest.set_slot(*slot, *value),
            Item::Memory(address, bytes, values) => {
                for (at, value) in values.iter().enumerate() {
                    guest.memory.set(address.wrapping_add(at as u64 * u64::from(*bytes)), *bytes, *value);
                }
            }
            Item::Fuel(_) | Item::Seed(_) => {}
        }
    }
}

/// Reads a script; lines that start with neither `run` nor `call` are not its business.
pub fn parse_script<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Vec<Run>, ScriptError> {
    let mut runs: Vec<Run> = Vec::new();
    for line in lines {
        let line = line.trim();
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match command {
            "run" => runs.push(Run::new(line, &items(rest)?)),
            "call" => runs.last_mut().ok_or(ScriptError::CallFirst)?.calls.push(items(rest)?),
            _ => {}
        }
    }
    Ok(runs)
}

impl Run {
    fn new(line: &str, items: &[Item]) -> Run {
        let (mut seed, mut fuel, mut background) = (0, FUEL, Background::Unmapped);
        for item in items {
            match item {
                Item::Fuel(number) => fuel = *number,
                Item::Seed(number) => (seed, background) = (*number, Background::Derived(*number)),
                Item::Slot(..) | Item::Memory(..) => {}
            }
        }
        let mut guest = TestGuest::with_memory(seed, SparseMemory::new(background));
        set_up(&mut guest, items);
        Run { line: line.to_owned(), guest, fuel, calls: Vec::new() }
    }

    /// Evaluates a trace, and tells in text how that went: events, the end, and what it changed.
    pub fn report(&self, trace: &Trace) -> String {
        let mut guest = self.guest.clone();
        let mut calls = self.calls.iter();
        let outcome =
            run_with(trace, &mut guest, self.fuel, |guest, target, return_address, effect| match calls.next() {
                Some(items) => {
                    guest.events.push(Event::Call(target, return_address));
                    set_up(guest, items);
                }
                None => guest.perform_call(target, return_address, effect),
            });
        let mut text = format!("{}\n", self.line);
        // Writing to a string cannot fail.
        let _ = self.describe(&mut text, trace, &guest, outcome);
        text
    }

    fn describe(
        &self,
        text: &mut String,
        trace: &Trace,
        guest: &TestGuest,
        outcome: Result<Outcome, EvalError>,
    ) -> fmt::Result {
        for event in &guest.events {
            match event {
                Event::Native(pc, _) => writeln!(text, "  native {pc:#x}")?,
                Event::Call(target, return_address) => writeln!(text, "  call {target:#x} ret {return_address:#x}")?,
            }
        }
        let exit = match outcome {
            Ok(Outcome::Exit(exit)) => exit,
            Ok(Outcome::OutOfFuel | Outcome::Call { .. }) => return writeln!(text, "  runs out of fuel"),
            Err(error) => return writeln!(text, "  fails {error}"),
        };
        let data = &trace.exits[exit];
        write!(text, "  leaves by {exit} to {:#x}", data.pc)?;
        if let ExitKind::Anchor(number) = data.kind {
            write!(text, ", anchor {number}")?;
        }
        writeln!(text)?;
        for slot in Slot::all() {
            if data.get(slot) == Some(ExitValue::Undefined) {
                writeln!(text, "  {slot} = undefined")?;
            } else if guest.slot(slot) != self.guest.slot(slot) {
                writeln!(text, "  {slot} = {:#x}", guest.slot(slot))?;
            }
        }
        let mut last = None;
        for (address, byte) in guest.memory.written() {
            if self.guest.memory.byte(address) == Some(byte) {
                continue;
            }
            if last.is_none_or(|last: u64| last.checked_add(1) != Some(address)) {
                let end = if last.is_some() { "\n" } else { "" };
                write!(text, "{end}  [{address:#x}] =")?;
            }
            write!(text, " {byte:02x}")?;
            last = Some(address);
        }
        if last.is_some() { writeln!(text) } else { Ok(()) }
    }
}
