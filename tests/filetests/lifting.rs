//! The `lift` command: a recording in the header of a test file.
//!
//! ```text
//! ; start 0x1000                              the address of the first instruction (0x1000 if not stated)
//! ; inst 8b03 address=0x2000 value=7          an executed instruction, and what its memory access was seen to do
//! ; inst 7402 next=0x1006                     where execution went on, if not behind the instruction
//! ; region readonly 0x2000-0x3000             an immutable range
//! ; meter 0x9000                              a loop counts its iterations down there
//! ; end loop                                  or `end exit ADDRESS`, `end anchor ADDRESS NUMBER`
//! ```
//! Flags are live wherever execution could leave: no code but the recorded instructions is readable. What cannot be lifted
//! gives one line instead of a trace.

use iced_x86::{Decoder, DecoderOptions, Instruction};
use redmagic_ir::{Region, RegionKind, Trace, verify};
use redmagic_lift::{Code, End, Event, Recording, Refusal};
use std::collections::BTreeMap;

/// The bytes of the recorded instructions, by address.
struct Recorded(BTreeMap<u64, u8>);

impl Code for Recorded {
    fn read(&self, pc: u64) -> Option<[u8; 16]> {
        self.0.get(&pc)?;
        Some(std::array::from_fn(|at| self.0.get(&pc.wrapping_add(at as u64)).copied().unwrap_or(0)))
    }
}

fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| format!("{text}: {error}"))
}

fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let pair = |at: usize| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    (0..text.len()).step_by(2).map(|at| pair(at).ok_or_else(|| format!("`{text}` is not hexadecimal"))).collect()
}

/// One `inst` line at address `pc`.
fn event(pc: u64, words: &[&str], code: &mut Recorded) -> Result<(Event, u64), String> {
    let bytes = bytes(words.first().ok_or("no bytes")?)?;
    let inst: Instruction = Decoder::with_ip(64, &bytes, pc, DecoderOptions::NONE).decode();
    if inst.is_invalid() || inst.len() != bytes.len() {
        return Err(format!("`{}` is not one instruction", words[0]));
    }
    code.0.extend((pc..).zip(bytes));
    let (mut next, mut address, mut value) = (inst.next_ip(), 0, 0);
    for word in &words[1..] {
        match word.split_once('=') {
            Some(("next", text)) => next = number(text)?,
            Some(("address", text)) => address = number(text)?,
            Some(("value", text)) => value = number(text)?,
            _ => return Err(format!("`{word}` is no part of an `inst` line")),
        }
    }
    Ok((Event::Inst { inst, next, address, value }, next))
}

/// Lifts the recording that the header describes; the trace, or why there is none.
pub fn lift(header: &[String]) -> Result<Result<Trace, Refusal>, String> {
    let mut recording = Recording {
        name: "lifted".to_owned(),
        start: 0x1000,
        events: Vec::new(),
        end: End::Loop,
        regions: Vec::new(),
        meter: None,
    };
    let mut code = Recorded(BTreeMap::new());
    let (mut pc, mut end) = (recording.start, None);
    for line in header {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["start", address] => (recording.start, pc) = (number(address)?, number(address)?),
            ["inst", rest @ ..] => {
                let (event, next) = event(pc, rest, &mut code)?;
                recording.events.push(event);
                pc = next;
            }
            ["region", kind, range] => {
                let kind = match *kind {
                    "readonly" => RegionKind::ReadOnly,
                    "declared" => RegionKind::Declared,
                    "code" => RegionKind::Code,
                    other => return Err(format!("`{other}` is no kind of region")),
                };
                let (start, end) = range.split_once('-').ok_or("a range is ADDRESS-ADDRESS")?;
                recording.regions.push(Region { start: number(start)?, end: number(end)?, kind });
            }
            ["meter", address] => recording.meter = Some(number(address)?),
            ["end", "loop"] => end = Some(End::Loop),
            ["end", "exit", pc] => end = Some(End::Exit { pc: number(pc)? }),
            ["end", "anchor", pc, id] => {
                let id = u32::try_from(number(id)?).map_err(|error| error.to_string())?;
                end = Some(End::Anchor { pc: number(pc)?, id });
            }
            _ => {}
        }
    }
    recording.end = end.unwrap_or(End::Exit { pc });
    let lifted = redmagic_lift::lift(&recording, &code).map(|lifted| lifted.trace);
    if let Ok(trace) = &lifted {
        verify(trace).map_err(|errors| format!("invalid: {}\n{trace}", errors[0]))?;
    }
    Ok(lifted)
}
