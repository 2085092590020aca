//! A table from instructions to values, with marks to return to: value numbering of a walk.
//!
//! # Invariants
//! - Entries are kept in the order in which they were added; the hash table holds their places. Returning to a mark takes
//!   entries off the end, so the chains of those that stay are as they were when they were added.
//! - The same operations give the same table on every run.
//!
//! # Worked example
//! `add v1, v2` is found as v3. Behind a mark a guard teaches that it is the constant v9, so the entry changes; returning to
//! the mark makes it v3 again.

use redmagic_ir::{Inst, Value};

/// The place of nothing in the hash table.
const EMPTY: u64 = 0;

/// Where the table was at some point.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    entries: usize,
    changes: usize,
}

struct Entry {
    key: [u64; 3],
    hash: u32,
    value: Value,
}

/// See the module's documentation.
pub(crate) struct Numbers {
    entries: Vec<Entry>,
    /// An open hash table: the hash of an entry and its place plus one, or [`EMPTY`].
    slots: Vec<u64>,
    /// What changed entries were before.
    changes: Vec<(u32, Value)>,
}

fn hash(key: &[u64; 3]) -> u32 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = (key[0].wrapping_mul(FACTOR) ^ key[1]).rotate_left(29).wrapping_mul(FACTOR) ^ key[2];
    (mixed.wrapping_mul(FACTOR) >> 32) as u32
}

impl Numbers {
    /// A table with room for `count` instructions.
    pub(crate) fn with_capacity(count: usize) -> Numbers {
        let slots = (count * 2).next_power_of_two().max(64);
        Numbers { entries: Vec::with_capacity(slots / 2), slots: vec![EMPTY; slots], changes: Vec::new() }
    }

    /// The value of `inst`.
    pub(crate) fn get(&self, inst: &Inst) -> Option<Value> {
        let key = inst.words();
        self.find(&key, hash(&key)).ok().map(|at| self.entries[at].value)
    }

    /// The place of an entry, or the slot where it would be linked.
    fn find(&self, key: &[u64; 3], hash: u32) -> Result<usize, usize> {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == EMPTY {
                return Err(at);
            }
            let place = (slot as u32 - 1) as usize;
            if (slot >> 32) as u32 == hash && self.entries[place].key == *key {
                return Ok(place);
            }
            at = (at + 1) & mask;
        }
    }

    /// Notes that `inst` is `value`; what it was before.
    pub(crate) fn insert(&mut self, inst: &Inst, value: Value) -> Option<Value> {
        let key = inst.words();
        let hash = hash(&key);
        match self.find(&key, hash) {
            Ok(place) => {
                let entry = &mut self.entries[place];
                let old = std::mem::replace(&mut entry.value, value);
                self.changes.push((place as u32, old));
                Some(old)
            }
            Err(slot) => {
                self.add(Entry { key, hash, value }, slot);
                None
            }
        }
    }

    /// The value of `inst`; if there is none, it is `value` from now on.
    pub(crate) fn get_or_insert(&mut self, inst: &Inst, value: Value) -> Option<Value> {
        let key = inst.words();
        let hash = hash(&key);
        match self.find(&key, hash) {
            Ok(place) => Some(self.entries[place].value),
            Err(slot) => {
                self.add(Entry { key, hash, value }, slot);
                None
            }
        }
    }

    /// Adds an entry, which `slot` is free for.
    fn add(&mut self, entry: Entry, slot: usize) {
        let hash = entry.hash;
        self.entries.push(entry);
        let place = self.entries.len();
        if place * 4 > self.slots.len() * 3 {
            self.grow();
        } else {
            self.slots[slot] = u64::from(hash) << 32 | place as u64;
        }
    }

    /// Enters the entry at `place`, which has no slot yet.
    fn link(&mut self, place: usize) {
        let hash = self.entries[place].hash;
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at] != EMPTY {
            at = (at + 1) & mask;
        }
        self.slots[at] = u64::from(hash) << 32 | (place as u64 + 1);
    }

    fn grow(&mut self) {
        self.slots = vec![EMPTY; self.slots.len() * 2];
        (0..self.entries.len()).for_each(|place| self.link(place));
    }

    /// A mark to return to.
    pub(crate) fn mark(&self) -> Mark {
        Mark { entries: self.entries.len(), changes: self.changes.len() }
    }

    /// Forgets everything since `mark`.
    pub(crate) fn restore(&mut self, mark: Mark) {
        for (place, old) in self.changes.drain(mark.changes..).rev() {
            self.entries[place as usize].value = old;
        }
        let mask = self.slots.len() - 1;
        while self.entries.len() > mark.entries {
            let Some(entry) = self.entries.pop() else { break };
            let own = u64::from(entry.hash) << 32 | (self.entries.len() as u64 + 1);
            let mut at = entry.hash as usize & mask;
            while self.slots[at] != own {
                at = (at + 1) & mask;
            }
            self.slots[at] = EMPTY;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redmagic_ir::{Entity, Opcode, Type};

    fn v(number: usize) -> Value {
        Value::from_index(number)
    }

    fn sum(a: usize, b: usize) -> Inst {
        Inst::binary(Opcode::Add, Type::I64, v(a), v(b))
    }

    #[test]
    fn a_mark_is_returned_to() {
        let mut table = Numbers::with_capacity(4);
        // More than there is room for, before and behind the mark.
        (0..200).for_each(|at| assert_eq!(table.insert(&sum(at, at + 1), v(at)), None));
        let mark = table.mark();
        (100..1000).for_each(|at| {
            table.insert(&sum(at, at + 1), v(at + 5000));
        });
        assert_eq!(table.insert(&sum(150, 151), v(7)), Some(v(5150)));
        assert_eq!(table.get_or_insert(&sum(150, 151), v(8)), Some(v(7)));
        assert_eq!(table.get_or_insert(&sum(2, 1), v(8)), None);
        assert_eq!(table.get(&sum(150, 151)), Some(v(7)));
        assert_eq!(table.get(&sum(999, 1000)), Some(v(5999)));
        table.restore(mark);
        (0..200).for_each(|at| assert_eq!(table.get(&sum(at, at + 1)), Some(v(at))));
        (200..1000).for_each(|at| assert_eq!(table.get(&sum(at, at + 1)), None));
        assert_eq!(table.get(&sum(2, 1)), None);
    }

    #[test]
    fn instructions_that_differ_in_anything_are_different() {
        let mut table = Numbers::with_capacity(4);
        table.insert(&sum(1, 2), v(3));
        for other in [
            sum(2, 1),
            Inst::binary(Opcode::Sub, Type::I64, v(1), v(2)),
            Inst::binary(Opcode::Add, Type::I32, v(1), v(2)),
            Inst::ternary(Opcode::Add, Type::I64, v(1), v(2), v(0)),
        ] {
            assert_eq!(table.get(&other), None, "{other:?}");
        }
    }
}
