//! A guest for tests: slots in an array, sparse memory with made-up contents, native operations and residual callees that
//! are deterministic functions of their inputs.
//!
//! Everything derives from a seed and from what the trace does, never from the order in which a map is walked, so two
//! traces that do the same to the guest leave the same guest behind. That is how passes are tested: see [`compare`].
//!
//! Worked example: `TestGuest::new(1)` has some byte at every address. Storing 7 at 0x1000 makes
//! `memory.written()` yield `(0x1000, 7)`; calling the same native operation with the same inputs twice gives the same
//! outputs.

use crate::eval::{EvalError, Fault, Guest, Machine, Outcome};
use crate::{CallEffect, ExitData, ExitValue, NativeOp, Slot, Terminator, Trace};
use std::collections::BTreeMap;

/// A well-mixing function of two numbers; the source of everything made up here.
pub fn mix(seed: u64, number: u64) -> u64 {
    let mut x = seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x = (x ^ x >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ x >> 32
}

/// Where a generator's decisions come from: first from bytes, which a fuzzer may change one by one, then from a seed.
#[derive(Clone, Debug)]
pub struct Choices {
    bytes: Vec<u8>,
    at: usize,
    state: u64,
}

impl Choices {
    /// Decisions that all follow from `seed`.
    pub fn seeded(seed: u64) -> Choices {
        Choices { bytes: Vec::new(), at: 0, state: mix(seed, 77) }
    }

    /// Decisions that follow from `bytes`: each takes as many of them as it needs.
    pub fn from_bytes(bytes: &[u8]) -> Choices {
        let state = bytes.iter().fold(7, |state, byte| mix(state, u64::from(*byte)));
        Choices { bytes: bytes.to_vec(), at: 0, state }
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        match self.bytes.get(self.at..self.at + 8) {
            Some(bytes) => {
                self.at += 8;
                bytes.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte))
            }
            None => {
                self.at = self.bytes.len();
                self.state = mix(self.state, 1);
                mix(self.state, 2)
            }
        }
    }

    /// A number less than `bound` (which is not 0).
    pub fn below(&mut self, bound: u64) -> u64 {
        match self.bytes.get(self.at) {
            Some(byte) if bound <= 256 => {
                self.at += 1;
                u64::from(*byte) % bound
            }
            Some(_) => self.bits() % bound,
            None => {
                self.state = mix(self.state, 1);
                (self.state >> 20) % bound
            }
        }
    }
}

/// What memory holds where nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Background {
    /// Nothing: an access faults.
    Unmapped,
    /// Bytes that derive from the seed and the address.
    Derived(u64),
}

/// Memory as a map of written bytes over a background.
#[derive(Clone, Debug)]
pub struct SparseMemory {
    background: Background,
    /// The bytes that were set, each with the number of scrambles before.
    bytes: BTreeMap<u64, (usize, u8)>,
    /// The seeds of the scrambles so far.
    scrambles: Vec<u64>,
    /// Address ranges that [`SparseMemory::scramble`] does not touch.
    stable: Vec<(u64, u64)>,
}

impl SparseMemory {
    /// Memory over a background.
    pub fn new(background: Background) -> SparseMemory {
        SparseMemory { background, bytes: BTreeMap::new(), scrambles: Vec::new(), stable: Vec::new() }
    }

    /// Changes what memory holds where nothing was written.
    pub fn set_background(&mut self, background: Background) {
        self.background = background;
    }

    /// Excludes the addresses from `start` up to `end` from scrambling.
    pub fn keep_stable(&mut self, start: u64, end: u64) {
        self.stable.push((start, end));
    }

    /// Changes one byte in four, as a callee might: which ones and how depends on the seed and the address alone.
    pub fn scramble(&mut self, seed: u64) {
        self.scrambles.push(seed);
    }

    /// The byte at an address, if one is mapped.
    pub fn byte(&self, address: u64) -> Option<u8> {
        let (epoch, base) = match (self.bytes.get(&address), self.background) {
            (Some((epoch, byte)), _) => (*epoch, *byte),
            (None, Background::Unmapped) => return None,
            (None, Background::Derived(seed)) => (0, mix(seed, address) as u8),
        };
        let stable = || self.stable.iter().any(|range| range.0 <= address && address < range.1);
        let scrambled = self.scrambles[epoch..].iter().rev().map(|seed| mix(*seed, address)).find(|mix| mix & 3 == 0);
        match scrambled {
            Some(mix) if !stable() => Some((mix >> 8) as u8),
            Some(_) | None => Some(base),
        }
    }

    /// Sets one byte, mapping it if need be.
    pub fn set_byte(&mut self, address: u64, byte: u8) {
        self.bytes.insert(address, (self.scrambles.len(), byte));
    }

    /// Sets `bytes` bytes, little-endian.
    pub fn set(&mut self, address: u64, bytes: u32, value: u128) {
        for at in 0..bytes.min(16) {
            self.set_byte(address.wrapping_add(u64::from(at)), (value >> (8 * at)) as u8);
        }
    }

    /// Reads `bytes` bytes, little-endian.
    pub fn get(&self, address: u64, bytes: u32) -> Result<u128, Fault> {
        (0..bytes.min(16)).try_fold(0, |value, at| {
            let address = address.wrapping_add(u64::from(at));
            let byte = self.byte(address).ok_or(Fault::Unmapped { address })?;
            Ok(value | u128::from(byte) << (8 * at))
        })
    }

    /// The bytes that were set, in address order, with their current contents.
    pub fn written(&self) -> impl Iterator<Item = (u64, u8)> + '_ {
        self.bytes.keys().filter_map(|address| Some((*address, self.byte(*address)?)))
    }
}

/// Something that the world outside a trace sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A native operation at this address was executed; the second number is a digest of its inputs.
    Native(u64, u64),
    /// A residual call to the first address, to return to the second.
    Call(u64, u64),
}

/// A guest without a machine.
#[derive(Clone, Debug)]
pub struct TestGuest {
    /// What the context holds.
    pub slots: [u64; Slot::COUNT],
    /// Its memory.
    pub memory: SparseMemory,
    /// What happened so far.
    pub events: Vec<Event>,
    seed: u64,
    /// The stack pointer when a trace was entered: what lies between it and that of a call are frames of the trace.
    stack: u64,
}

impl TestGuest {
    /// A guest with slots of 0 and memory that derives from `seed`.
    pub fn new(seed: u64) -> TestGuest {
        TestGuest::with_memory(seed, SparseMemory::new(Background::Derived(seed)))
    }

    /// A guest with slots of 0 and the given memory.
    pub fn with_memory(seed: u64, memory: SparseMemory) -> TestGuest {
        TestGuest { slots: [0; Slot::COUNT], memory, events: Vec::new(), seed, stack: 0 }
    }

    /// What a residual callee might do: all slots but the callee-saved ones change, and memory: all of it if the callee may
    /// do anything, but for frames of the trace that it has no pointer to; else what its own frame overwrites.
    pub fn perform_call(&mut self, target: u64, return_address: u64, effect: CallEffect) {
        let seed = mix(self.seed, mix(target, self.events.len() as u64));
        self.events.push(Event::Call(target, return_address));
        let hidden = self.hidden_frames();
        for slot in Slot::all().filter(|slot| slot.is_writable() && !slot.is_callee_saved()) {
            self.set_slot(slot, interesting(mix(seed, slot.index() as u64)));
        }
        if effect == CallEffect::Any {
            let frames: Vec<_> = hidden.map(|address| (address, self.memory.byte(address))).collect();
            self.memory.scramble(seed);
            for (address, byte) in frames {
                if let Some(byte) = byte {
                    self.memory.set(address, 1, u128::from(byte));
                }
            }
        } else {
            const FRAME: u64 = 128;
            for below in (8..=FRAME).step_by(8) {
                let address = self.slot(Slot::RSP).wrapping_sub(below);
                self.memory.set(address, 8, u128::from(mix(seed, address)));
            }
        }
    }
}

impl TestGuest {
    /// The frames that the trace has pushed and that are there now, if no register but the stack pointer and no word that was
    /// written elsewhere leads there, or below.
    fn hidden_frames(&self) -> std::ops::Range<u64> {
        const MOST: u64 = 4096;
        let (low, high) = (self.slot(Slot::RSP), self.stack);
        if high.wrapping_sub(low) > MOST {
            return 0..0;
        }
        let inside = |address: u64| (low.saturating_sub(MOST)..high).contains(&address);
        let given = Slot::all().any(|slot| slot != Slot::RSP && inside(self.slot(slot)));
        let word = |address: u64| self.memory.get(address, 8).is_ok_and(|word| inside(word as u64));
        let held = self.memory.written().any(|(address, _)| !(low..high).contains(&address) && word(address));
        if given || held { 0..0 } else { low..high }
    }
}

impl Guest for TestGuest {
    fn slot(&self, slot: Slot) -> u64 {
        self.slots[slot.index()]
    }

    fn set_slot(&mut self, slot: Slot, value: u64) {
        let mask = if slot == Slot::FLAGS { u64::from(crate::FLAGS_MASK) } else { u64::MAX };
        self.slots[slot.index()] = value & mask;
    }

    fn load(&mut self, address: u64, bytes: u32) -> Result<u128, Fault> {
        self.memory.get(address, bytes)
    }

    fn store(&mut self, address: u64, bytes: u32, value: u128) -> Result<(), Fault> {
        // Faults as a whole: a store that crosses into unmapped memory writes nothing.
        self.memory.get(address, bytes)?;
        self.memory.set(address, bytes, value);
        Ok(())
    }

    fn native(&mut self, op: &NativeOp) -> Result<(), Fault> {
        let start = op.bytes.iter().fold(mix(self.seed, op.pc), |digest, byte| mix(digest, u64::from(*byte)));
        let digest = op.inputs.iter().fold(start, |digest, (slot, _)| mix(digest, self.slot(*slot)));
        self.events.push(Event::Native(op.pc, digest));
        for slot in &op.outputs {
            self.set_slot(*slot, interesting(mix(digest, slot.index() as u64)));
        }
        if op.memory {
            self.memory.scramble(digest);
        }
        Ok(())
    }
}

/// Turns a random number into one that tests something: often a boundary, often small, seldom arbitrary.
pub fn interesting(random: u64) -> u64 {
    const BOUNDARIES: [u64; 16] = [
        0,
        1,
        2,
        0x7f,
        0x80,
        0xff,
        0x7fff,
        0x8000,
        0xffff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0x7fff_ffff_ffff_ffff,
        0x8000_0000_0000_0000,
        0x3ff0_0000_0000_0000,
        0xfff8_0000_0000_0000,
    ];
    let pick = random >> 8;
    match random & 7 {
        0..=2 => BOUNDARIES[pick as usize & 15].wrapping_add(pick >> 4 & 1).wrapping_sub(pick >> 5 & 1),
        3 => (pick & 0xff).wrapping_neg(),
        4 => pick & 0xff,
        // An address in a small range, so that different ones are equal or overlap now and then.
        5 | 6 => 0x10_0000 + (pick & 0x3f) * 8,
        _ => random,
    }
}

/// Runs a trace from its entry to an exit, making residual calls as [`TestGuest::perform_call`] does.
pub fn run(trace: &Trace, guest: &mut TestGuest, fuel: u64) -> Result<Outcome, EvalError> {
    run_with(trace, guest, fuel, |guest, target, return_address, effect| {
        guest.perform_call(target, return_address, effect);
    })
}

/// Runs a trace from its entry to an exit; `call` is told callee, return address and effect of each residual call.
pub fn run_with(
    trace: &Trace,
    guest: &mut TestGuest,
    fuel: u64,
    mut call: impl FnMut(&mut TestGuest, u64, u64, CallEffect),
) -> Result<Outcome, EvalError> {
    let mut machine = Machine::new(trace);
    guest.stack = guest.slot(Slot::RSP);
    let mut outcome = machine.enter(trace, guest, fuel)?;
    while let Outcome::Call { target, return_address, resume, .. } = outcome {
        let effect = trace.segments.values().find_map(|segment| match &segment.terminator {
            Terminator::Call(call) if call.resume == resume => Some(call.effect),
            Terminator::Call(_) | Terminator::Jump(_) | Terminator::Switch { .. } | Terminator::Leave(_) => None,
        });
        call(guest, target, return_address, effect.unwrap_or(CallEffect::Any));
        let left = fuel.saturating_sub(machine.executed());
        outcome = machine.resume(trace, resume, guest, left)?;
    }
    Ok(outcome)
}

/// How two traces differ on one input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The second one fails.
    Failure(EvalError),
    /// They end differently; both ends in words.
    Outcome(String, String),
    /// They leave at different points of the guest program: address and anchor of each.
    Point(String, String),
    /// A slot differs: its value after each.
    Slot(Slot, u64, u64),
    /// A byte of memory differs: its address and its value after each.
    Memory(u64, Option<u8>, Option<u8>),
    /// Different native operations or calls were executed.
    Events(Vec<Event>, Vec<Event>),
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Difference::Failure(error) => write!(f, "the second trace fails: {error}"),
            Difference::Outcome(one, two) => write!(f, "the outcome is {one}, then {two}"),
            Difference::Point(one, two) => write!(f, "execution leaves to {one}, then {two}"),
            Difference::Slot(slot, one, two) => write!(f, "{slot} is {one:#x}, then {two:#x}"),
            Difference::Memory(address, one, two) => write!(f, "the byte at {address:#x} is {one:x?}, then {two:x?}"),
            Difference::Events(one, two) => write!(f, "the events are {one:x?}, then {two:x?}"),
        }
    }
}

impl std::error::Error for Difference {}

/// Memory below the stack pointer and its red zone is nobody's; differences there do not count.
const RED_ZONE: u64 = 128;
/// How far below the stack pointer memory is taken for dead stack.
const DEAD_STACK: u64 = 1 << 16;

/// Runs two traces on copies of a guest and compares what they leave behind: exit point, slots that the first one's exit
/// defines, memory, native operations and calls. `Ok(false)` if the first does not reach an exit, so that nothing can
/// be compared; the second may use more fuel.
pub fn compare(one: &Trace, two: &Trace, guest: &TestGuest, fuel: u64) -> Result<bool, Difference> {
    let mut first = guest.clone();
    let mut second = guest.clone();
    let Ok(Outcome::Exit(exit)) = run(one, &mut first, fuel) else {
        return Ok(false);
    };
    let other = match run(two, &mut second, fuel.saturating_mul(4)) {
        Ok(Outcome::Exit(other)) => other,
        Ok(outcome) => return Err(Difference::Outcome(exit.to_string(), format!("{outcome:?}"))),
        Err(error) => return Err(Difference::Failure(error)),
    };
    let (exit, other) = (&one.exits[exit], &two.exits[other]);
    let point = |exit: &ExitData| format!("{:#x} {:?}", exit.pc, exit.kind);
    if point(exit) != point(other) {
        return Err(Difference::Point(point(exit), point(other)));
    }
    if first.events != second.events {
        return Err(Difference::Events(first.events, second.events));
    }
    for slot in Slot::all().filter(|slot| exit.get(*slot) != Some(ExitValue::Undefined)) {
        if first.slot(slot) != second.slot(slot) {
            return Err(Difference::Slot(slot, first.slot(slot), second.slot(slot)));
        }
    }
    let dead_end = first.slot(Slot::RSP).wrapping_sub(RED_ZONE);
    let touched = first.memory.bytes.keys().chain(second.memory.bytes.keys());
    for address in touched.filter(|address| dead_end.wrapping_sub(**address).wrapping_sub(1) >= DEAD_STACK) {
        let (before, after) = (first.memory.byte(*address), second.memory.byte(*address));
        if before != after {
            return Err(Difference::Memory(*address, before, after));
        }
    }
    Ok(true)
}

/// Guests to compare on: `base` itself and `count - 1` variations, in each of which some slots hold boundary values, a few
/// bytes of memory differ, and callees do other things. Immutable regions of `trace` keep what `base` has there, and so do slots that hold
/// addresses in them and the neighbourhood of the stack pointer.
pub fn variations(trace: &Trace, base: &TestGuest, count: u64) -> Vec<TestGuest> {
    let vary = |number: u64| {
        let mut guest = base.clone();
        guest.seed = mix(base.seed, number);
        for region in &trace.regions {
            guest.memory.keep_stable(region.start, region.end);
        }
        let stack = base.slot(Slot::RSP);
        guest.memory.keep_stable(stack.saturating_sub(DEAD_STACK), stack.saturating_add(DEAD_STACK));
        if number == 0 {
            return guest;
        }
        // Half the guests change little, so that deep guards pass; the others change most slots.
        let rate = if number.is_multiple_of(2) { 8 } else { 2 };
        for slot in Slot::all().filter(|slot| *slot != Slot::RSP) {
            let held = base.slot(slot);
            let random = mix(guest.seed, 1000 + slot.index() as u64);
            if (random >> 40).is_multiple_of(rate) && trace.region(held, 1).is_none() {
                guest.set_slot(slot, interesting(random));
            }
        }
        let cells: Vec<u64> = base.memory.bytes.keys().copied().collect();
        for address in cells {
            let random = mix(guest.seed, address);
            if (random >> 40).is_multiple_of(16 * rate) && trace.region(address, 1).is_none() {
                guest.memory.set_byte(address, interesting(random) as u8);
            }
        }
        guest
    };
    (0..count).map(vary).collect()
}
