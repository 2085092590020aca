//! Turns assembled code into recordings, without a machine: the tests say which way conditional jumps went.

#![allow(dead_code, reason = "each test file uses its own part")]

use iced_x86::code_asm::CodeAssembler;
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};
use redmagic_ir::{Trace, verify};
use redmagic_lift::{Code, End, Event, Lifted, Recording, Refusal, lift};

/// Where the code lies.
pub const BASE: u64 = 0x40_0000;

/// Assembled guest code.
pub struct Guest {
    bytes: Vec<u8>,
}

impl Code for Guest {
    fn read(&self, pc: u64) -> Option<[u8; 16]> {
        let rest = self.bytes.get(usize::try_from(pc.checked_sub(BASE)?).ok()?..)?;
        let mut window = [0; 16];
        let length = rest.len().min(16);
        window[..length].copy_from_slice(&rest[..length]);
        (length > 0).then_some(window)
    }
}

impl Guest {
    pub fn new(build: impl FnOnce(&mut CodeAssembler)) -> Guest {
        let mut assembler = CodeAssembler::new(64).unwrap();
        build(&mut assembler);
        Guest { bytes: assembler.assemble(BASE).unwrap() }
    }

    pub fn inst(&self, pc: u64) -> Instruction {
        Decoder::with_ip(64, &self.read(pc).unwrap(), pc, DecoderOptions::NONE).decode()
    }

    /// The address behind the code.
    pub fn end(&self) -> u64 {
        BASE + self.bytes.len() as u64
    }

    /// The events from the start on, until control reaches the start again or the end of the code. Conditional jumps
    /// go as `taken` says.
    pub fn events(&self, taken: &[bool]) -> Vec<Event> {
        let mut taken = taken.iter();
        let mut returns = Vec::new();
        let mut events = Vec::new();
        let mut pc = BASE;
        while pc < self.end() {
            let inst = self.inst(pc);
            let next = match inst.flow_control() {
                FlowControl::ConditionalBranch if *taken.next().unwrap() => inst.near_branch_target(),
                FlowControl::UnconditionalBranch => inst.near_branch_target(),
                FlowControl::Call => {
                    returns.push(inst.next_ip());
                    inst.near_branch_target()
                }
                FlowControl::Return => returns.pop().unwrap(),
                _ => inst.next_ip(),
            };
            events.push(Event::Inst { inst, next, address: 0, value: 0 });
            pc = next;
            if pc == BASE {
                break;
            }
        }
        events
    }

    /// The first `count` events.
    pub fn events_until(&self, count: usize, taken: &[bool]) -> Vec<Event> {
        let mut events = Vec::new();
        let mut taken = taken.iter();
        let mut pc = BASE;
        for _ in 0..count {
            let inst = self.inst(pc);
            let jumps = inst.flow_control() == FlowControl::ConditionalBranch && *taken.next().unwrap();
            let next = if jumps { inst.near_branch_target() } else { inst.next_ip() };
            events.push(Event::Inst { inst, next, address: 0, value: 0 });
            pc = next;
        }
        events
    }

    pub fn lift(&self, events: Vec<Event>, end: End) -> Result<Lifted, Refusal> {
        let recording = Recording { name: "test".into(), start: BASE, events, end, regions: Vec::new(), meter: None };
        lift(&recording, self)
    }

    /// Lifts a loop and verifies the trace.
    pub fn lift_loop(&self, taken: &[bool]) -> Trace {
        self.checked(self.events(taken), End::Loop)
    }

    /// Lifts a straight run to the end of the code and verifies the trace.
    pub fn lift_line(&self, taken: &[bool]) -> Trace {
        self.checked(self.events(taken), End::Exit { pc: self.end() })
    }

    pub fn checked(&self, events: Vec<Event>, end: End) -> Trace {
        let trace = self.lift(events, end).unwrap().trace;
        if let Err(errors) = verify(&trace) {
            let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
            panic!("{}\n{trace}", errors.join("\n"));
        }
        trace
    }
}
