//! The guest's registers while lifting, and the exits that write them back.
//!
//! # Invariants
//! - A slot is *dirty* if the context may hold something else than its current value; exits list exactly those slots.
//! - A slot is read from the context at most once per *epoch*: from the trace's entry to the first residual call, and
//!   from each residual call to the next. The reads stand at the start of the epoch's first segment.
//! - What an elided API call leaves undefined is [`Held::Undefined`]; reading it gives 0, listing it
//!   [`ExitValue::Undefined`].
//!
//! # Loops
//! The header's parameters are known only when the recording has been lifted to its end: a slot is one if what the
//! back edge would pass differs from what the iteration started with. Its first read, emitted as a `slot` instruction,
//! is then turned into the parameter in place, and the exits of the first epoch that do not list the slot, being clean
//! there, get it with the parameter's value. (So do slots that are back at their first value, or undefined, when a native
//! operation has overwritten them in the context meanwhile.) Worked example: `mov [rdi], rax; inc rax` reads `v0 = slot rax`; at the
//! back edge rax is `v1 = add v0, 1`, so `v0` becomes a parameter of the header and the entry passes a fresh read.

use crate::flags::{Flags, Kind};
use crate::lifter::Lifter;
use redmagic_ir::{Entity, Exit, ExitData, ExitKind, ExitValue, Inst, Segment, Slot, Target, Terminator, Value};

/// Where the current value of a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// In the context, not read yet.
    Context,
    /// In this value.
    Value(Value),
    /// Nowhere: any value will do.
    Undefined,
}

/// A set of slots, one bit each. Most are in none of them, and exits look at all.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SlotSet(u128);

const _: () = assert!(Slot::COUNT <= u128::BITS as usize);

impl SlotSet {
    pub(crate) fn add(&mut self, slot: Slot) {
        self.0 |= 1 << slot.index();
    }

    pub(crate) fn contains(self, slot: Slot) -> bool {
        self.0 >> slot.index() & 1 == 1
    }

    pub(crate) fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// The slots, in order.
    pub(crate) fn iter(self) -> impl Iterator<Item = Slot> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let slot = Slot::from_index(rest.trailing_zeros() as usize)?;
            rest &= rest - 1;
            Some(slot)
        })
    }
}

impl Lifter<'_> {
    /// The current value of a slot.
    pub(crate) fn read_slot(&mut self, slot: Slot) -> Value {
        if slot == Slot::FLAGS {
            return self.packed_flags();
        }
        match self.slots[slot.index()] {
            Held::Value(value) => value,
            Held::Undefined => self.constant(slot.ty(), 0),
            Held::Context => {
                let value = self.read_context(slot);
                self.slots[slot.index()] = Held::Value(value);
                value
            }
        }
    }

    /// Reads a slot at the start of the epoch.
    pub(crate) fn read_context(&mut self, slot: Slot) -> Value {
        if let Some(value) = self.reads[slot.index()] {
            return value;
        }
        let value = self.trace.add_inst(Inst::slot_read(slot));
        self.reads[slot.index()] = Some(value);
        value
    }

    /// Changes a slot.
    pub(crate) fn write_slot(&mut self, slot: Slot, value: Value) {
        if slot == Slot::FLAGS {
            self.set_flags(Kind::Packed(value));
        } else {
            self.untouched = false;
            self.slots[slot.index()] = Held::Value(value);
            self.dirty.add(slot);
        }
    }

    /// Leaves a slot without a defined value.
    pub(crate) fn forget_slot(&mut self, slot: Slot) {
        self.untouched = false;
        if slot == Slot::FLAGS {
            self.flags = Flags::new(Kind::Undefined);
        } else {
            self.slots[slot.index()] = Held::Undefined;
        }
    }

    /// The exit to guest address `pc` with the current state, `step` events from the start.
    pub(crate) fn exit_at(&mut self, pc: u64, step: u32) -> Exit {
        let data = self.exit_data(pc, step, ExitKind::Guest);
        if let Some(&exit) = self.shared_exits.iter().find(|&&exit| self.trace.exits[exit] == data) {
            return exit;
        }
        let exit = self.trace.exits.push(data);
        self.shared_exits.push(exit);
        exit
    }

    /// The state map of an exit.
    pub(crate) fn exit_data(&mut self, pc: u64, step: u32, kind: ExitKind) -> ExitData {
        let mut data = ExitData { kind, ..ExitData::new(pc, step) };
        let flags = self.exit_flags(pc);
        data.slots.reserve_exact(self.dirty.len());
        for slot in self.dirty.iter() {
            if slot == Slot::FLAGS {
                data.slots.extend(flags.map(|value| (slot, value)));
            } else {
                let value = match self.slots[slot.index()] {
                    Held::Value(value) => self.exit_value(value),
                    Held::Undefined | Held::Context => ExitValue::Undefined,
                };
                data.slots.push((slot, value));
            }
        }
        data
    }

    fn exit_value(&self, value: Value) -> ExitValue {
        self.as_const(value).map_or(ExitValue::Value(value), ExitValue::Const)
    }

    fn exit_flags(&mut self, pc: u64) -> Option<ExitValue> {
        if !self.dirty.contains(Slot::FLAGS) {
            return None;
        }
        if matches!(self.flags.kind, Kind::Undefined) || !self.liveness.flags_live(self.code, pc) {
            return Some(ExitValue::Undefined);
        }
        let packed = self.packed_flags();
        Some(self.exit_value(packed))
    }

    /// Ends the epoch with a residual call's terminator and starts the next one in the segment it resumes. `keep` says
    /// which slots keep their values.
    pub(crate) fn start_epoch(&mut self, resume: Segment, keep: impl Fn(Slot) -> bool) {
        self.place_reads();
        self.first_epoch_exits.get_or_insert(self.trace.exits.len());
        self.segment = resume;
        self.base = resume;
        self.constants.clear();
        self.shared_exits.clear();
        self.reads = [None; Slot::COUNT];
        self.overwritten = [false; Slot::COUNT];
        self.dirty = SlotSet::default();
        for slot in Slot::all().filter(|slot| !keep(*slot)) {
            self.slots[slot.index()] = Held::Context;
        }
        self.flags = Flags::new(Kind::Context);
    }

    /// Puts the epoch's slot reads at its start. In a loop's first epoch this waits for the back edge, which decides
    /// which of them are parameters.
    fn place_reads(&mut self) {
        if self.header.is_some() && self.first_epoch_exits.is_none() {
            self.first_reads = self.reads;
            return;
        }
        let reads = self.reads.iter().copied().flatten();
        self.trace.segments[self.base].insts.splice(0..0, reads);
    }

    /// Ends a recording that leaves the trace.
    pub(crate) fn leave(&mut self, pc: u64, kind: ExitKind) {
        let data = self.exit_data(pc, self.step, kind);
        let exit = self.trace.exits.push(data);
        self.trace.segments[self.segment].terminator = Terminator::Leave(exit);
        self.place_reads();
    }

    /// Ends a recording at its own start: decides on the parameters of `header` and jumps back to it.
    pub(crate) fn close_loop(&mut self, entry: Segment, header: Segment) {
        let first_epoch = self.first_epoch_exits.is_none();
        let initial = if first_epoch { self.reads } else { self.first_reads };
        let mut carried = Vec::new();
        for slot in Slot::all() {
            if let Some(back) = self.back_edge(slot, initial[slot.index()], first_epoch) {
                carried.push((slot, back));
            }
        }
        // Reads that the back edge itself has added are now known.
        let initial = if first_epoch { self.reads } else { self.first_reads };
        self.place_reads();
        let patched = self.first_epoch_exits.unwrap_or(self.trace.exits.len());
        let mut is_param = [false; Slot::COUNT];
        let mut entry_args = Vec::new();
        let mut back_args = Vec::new();
        let mut entry_insts = Vec::new();
        for (slot, back) in carried {
            is_param[slot.index()] = true;
            self.header_param(header, slot, initial[slot.index()], patched);
            let read = self.trace.add_inst(Inst::slot_read(slot));
            entry_insts.push(read);
            entry_args.push(read);
            back_args.push(back);
        }
        let overwritten = self.overwritten;
        for slot in Slot::all().filter(|slot| overwritten[slot.index()] && !is_param[slot.index()]) {
            let held = self.slots[slot.index()];
            // The flags are here only when nothing can read them.
            let value = match held {
                Held::Value(value) => self.exit_value(value),
                Held::Undefined | Held::Context => ExitValue::Undefined,
            };
            self.list_in_exits(slot, value, patched);
        }
        let invariant = Slot::all().filter(|slot| !is_param[slot.index()]);
        entry_insts.extend(invariant.filter_map(|slot| initial[slot.index()]));
        self.trace.segments[entry].insts = entry_insts;
        self.trace.segments[entry].terminator = Terminator::Jump(Target { segment: header, args: entry_args });
        self.trace.segments[self.segment].terminator = Terminator::Jump(Target { segment: header, args: back_args });
    }

    /// What the back edge passes for a slot, if the header needs a parameter for it.
    fn back_edge(&mut self, slot: Slot, initial: Option<Value>, first_epoch: bool) -> Option<Value> {
        let (held, dirty) = (self.slots[slot.index()], self.dirty.contains(slot));
        if slot == Slot::FLAGS {
            return match self.flags.kind {
                Kind::Undefined => None,
                _ if dirty && !self.liveness.flags_live(self.code, self.trace.start) => {
                    // No exit before they are overwritten needs them.
                    self.forget_slot(Slot::FLAGS);
                    self.overwritten[Slot::FLAGS.index()] = true;
                    None
                }
                Kind::Context if first_epoch || initial.is_none() => None,
                _ if !dirty && initial.is_none() => None,
                _ => Some(self.packed_flags()).filter(|&value| Some(value) != initial || dirty && !first_epoch),
            };
        }
        match held {
            Held::Undefined => None,
            Held::Context if first_epoch || initial.is_none() => None,
            Held::Context => Some(self.read_slot(slot)),
            // Back at its first value, which the context has unless a call has left something else there meanwhile.
            Held::Value(value) if Some(value) == initial && (first_epoch || !dirty) => None,
            Held::Value(value) => (dirty || initial.is_some()).then_some(value),
        }
    }

    /// Adds the parameter for a slot, and lists it in the first epoch's exits that found the slot unchanged.
    fn header_param(&mut self, header: Segment, slot: Slot, initial: Option<Value>, patched: usize) {
        let carried = slot.is_writable().then_some(slot);
        let param = match initial {
            Some(value) => {
                self.trace.insts[value] = Inst::param(slot.ty(), carried);
                self.trace.segments[header].params.push(value);
                value
            }
            None => self.trace.add_param(header, slot.ty(), carried),
        };
        if carried.is_some() {
            self.list_in_exits(slot, ExitValue::Value(param), patched);
        }
    }

    /// Lists a slot in those of the first `count` exits that do not.
    fn list_in_exits(&mut self, slot: Slot, value: ExitValue, count: usize) {
        for index in 0..count {
            let exit = Exit::from_index(index);
            if self.trace.exits[exit].get(slot).is_none() {
                self.trace.exits[exit].set(slot, value);
            }
        }
    }

    /// Notes that a native operation has written `slot` to the context as an input.
    pub(crate) fn overwrite_slot(&mut self, slot: Slot, value: Value) {
        if self.reads[slot.index()] != Some(value) {
            self.overwritten[slot.index()] = true;
            self.dirty.add(slot);
        }
    }
}
