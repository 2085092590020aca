//! The guest of the random loops: an arena that pointers lead to, a stack, and what lies elsewhere.

use redmagic_ir::eval::{Fault, Guest};
use redmagic_ir::sandbox::{interesting, mix};
use redmagic_ir::{CallEffect, FLAGS_MASK, NativeOp, Slot};
use std::collections::BTreeMap;

pub const ARENA: u64 = 0x10_0000;
pub const ARENA_BYTES: u64 = 0x1000;
/// The stack pointer at entry, and what is mapped around it.
pub const STACK: u64 = 0x7fff_0000;
pub const STACK_START: u64 = STACK - 0x800;
pub const STACK_BYTES: u64 = 0xc00;
pub const RED_ZONE: u64 = 128;

/// Registers that hold pointers.
pub const POINTERS: [Slot; 6] = [Slot::RBX, Slot::RBP, Slot::RSI, Slot::RDI, Slot::gpr(8), Slot::gpr(9)];
/// The register that holds the number of iterations.
pub const COUNT: Slot = Slot::RAX;
/// The register that bounds indices.
pub const BOUND: Slot = Slot::RCX;

/// The fs base, and where `errno` is.
pub const FS: u64 = ARENA + 0x700;
pub const ERRNO: u64 = ARENA - 0x100;
/// The register that leads to an `int`, mostly another one.
pub const INT: Slot = Slot::gpr(12);

/// A guest with fast memory.
#[derive(Clone, PartialEq)]
pub struct World {
    pub slots: [u64; Slot::COUNT],
    arena: Vec<u8>,
    stack: Vec<u8>,
    pub other: BTreeMap<u64, u8>,
}

impl World {
    pub fn byte(&self, address: u64) -> u8 {
        match (address.checked_sub(ARENA), address.checked_sub(STACK_START)) {
            (Some(at), _) if at < ARENA_BYTES => self.arena[at as usize],
            (_, Some(at)) if at < STACK_BYTES => self.stack[at as usize],
            _ => self.other.get(&address).copied().unwrap_or(mix(5, address) as u8),
        }
    }

    pub fn set_byte(&mut self, address: u64, byte: u8) {
        match (address.checked_sub(ARENA), address.checked_sub(STACK_START)) {
            (Some(at), _) if at < ARENA_BYTES => self.arena[at as usize] = byte,
            (_, Some(at)) if at < STACK_BYTES => self.stack[at as usize] = byte,
            _ => {
                self.other.insert(address, byte);
            }
        }
    }

    pub fn set_word(&mut self, address: u64, word: u64) {
        word.to_le_bytes().iter().enumerate().for_each(|(at, byte)| self.set_byte(address + at as u64, *byte));
    }

    /// What a callee does that keeps the registers that callees keep. What it returns depends on all memory that is in use.
    pub fn call(&mut self, effect: CallEffect) {
        let stack = self.slot(Slot::RSP);
        let live = (stack..STACK_START + STACK_BYTES).chain(ARENA..ARENA + ARENA_BYTES);
        let seen = live.fold(0, |seen: u64, address| mix(seen, u64::from(self.byte(address))));
        for slot in Slot::all().filter(|slot| slot.is_writable() && !slot.is_callee_saved()) {
            let old = self.slot(slot);
            self.set_slot(slot, if slot == COUNT || slot == BOUND { old } else { pointer((old ^ seen) >> 3) });
        }
        if effect != CallEffect::Any {
            if effect == CallEffect::Errno {
                (0..4).for_each(|at| self.set_byte(ERRNO + at, mix(seen, at) as u8));
            }
            (1..=64).for_each(|below| self.set_byte(stack.wrapping_sub(below), mix(stack, below) as u8));
            return;
        }
        for address in (ARENA..ARENA + ARENA_BYTES).step_by(40) {
            self.set_byte(address, mix(9, address) as u8 & 7);
        }
    }
}

impl Guest for World {
    fn slot(&self, slot: Slot) -> u64 {
        self.slots[slot.index()]
    }
    fn set_slot(&mut self, slot: Slot, value: u64) {
        let mask = if slot == Slot::FLAGS { u64::from(FLAGS_MASK) } else { u64::MAX };
        self.slots[slot.index()] = value & mask;
    }
    fn load(&mut self, address: u64, bytes: u32) -> Result<u128, Fault> {
        Ok((0..u64::from(bytes)).fold(0, |all, at| all | u128::from(self.byte(address.wrapping_add(at))) << (8 * at)))
    }
    fn store(&mut self, address: u64, bytes: u32, value: u128) -> Result<(), Fault> {
        (0..u64::from(bytes)).for_each(|at| self.set_byte(address.wrapping_add(at), (value >> (8 * at)) as u8));
        Ok(())
    }
    fn native(&mut self, op: &NativeOp) -> Result<(), Fault> {
        Err(Fault::Native { pc: op.pc, reason: "no natives here".to_owned() })
    }
}

/// A pointer into the arena, where there is room on both sides.
pub fn pointer(random: u64) -> u64 {
    let near = ARENA + 0x800 + (random & 7) * 8;
    match random >> 8 & 7 {
        0..=3 => ARENA + 0x200 + (random >> 3 & 7) * 0x180,
        4 | 5 => near,
        6 => near + (random >> 11 & 3) * 4,
        _ => near + (random >> 11 & 15),
    }
}

/// Guest number `number` of a seed; number 0 is the one that the recording was made on.
pub fn world(seed: u64, number: u64) -> World {
    let random = |key: u64| mix(mix(seed, number), key) >> 7;
    let mut world = World {
        slots: [0; Slot::COUNT],
        arena: vec![0; ARENA_BYTES as usize],
        stack: (0..STACK_BYTES).map(|at| mix(seed, at) as u8).collect(),
        other: BTreeMap::new(),
    };
    for slot in Slot::all() {
        world.set_slot(slot, interesting(mix(seed, 900 + slot.index() as u64)));
    }
    // Half the guests have most pointers as they were recorded.
    let kept = number == 0 || number % 3 == 1;
    for (at, slot) in POINTERS.into_iter().enumerate() {
        let recorded = mix(mix(seed, 0), at as u64) >> 7;
        let changes = !kept || number > 0 && random(50 + at as u64).is_multiple_of(8);
        let mut value = pointer(if changes { random(at as u64) } else { recorded });
        // Most recordings have their pointers apart.
        if !changes && !seed.is_multiple_of(4) && recorded >> 20 & 3 != 0 {
            value = ARENA + 0x100 + 0x200 * at as u64;
        }
        world.set_slot(slot, value);
    }
    let count = match number {
        0 => 5,
        _ if number.is_multiple_of(16) => 7000,
        _ => [0, 1, 2, 3, 4, 9, 70, 400][random(60) as usize & 7],
    };
    world.set_slot(COUNT, count);
    world.set_slot(BOUND, if number == 0 { 16 } else { [16, 16, 8, 7, 1, 0, 31, 12][random(61) as usize & 7] });
    world.set_slot(Slot::RSP, STACK);
    world.set_slot(Slot::FS, FS);
    world.set_slot(INT, if number % 4 == 2 { ERRNO } else { ARENA + 0x480 });
    for word in 0..ARENA_BYTES / 8 {
        let random = mix(mix(seed, if random(word + 100).is_multiple_of(16) { number } else { 0 }), 2000 + word);
        let value = match random & 7 {
            0..=2 => world.slot(POINTERS[(random >> 8) as usize % POINTERS.len()]),
            3 => pointer(random >> 8),
            4 => 0x3ff0_0000_0000_0000 + (random >> 12),
            5 => interesting(random >> 8),
            _ => random >> 8 & 15,
        };
        world.set_word(ARENA + word * 8, value);
    }
    world
}
