//! The generator: it executes what it appends.

use super::world::{ARENA, ARENA_BYTES, BOUND, COUNT, ERRNO, FS, INT, POINTERS, STACK, World, world};
use redmagic_ir::eval::Guest;
use redmagic_ir::sandbox::{Choices, interesting};
use redmagic_ir::*;

/// A loop in the making.
pub struct Generator {
    choices: Choices,
    trace: Trace,
    segment: Segment,
    world: World,
    /// What each value was in the recorded iteration.
    held: Vec<u128>,
    values: Vec<Value>,
    pointers: Vec<Value>,
    stack: Value,
    /// Leads to an `int`, which may be `errno`.
    int: Value,
    /// Slots that parameters carry.
    dirty: Vec<Slot>,
    /// How far the stack pointer may be below its value at entry where the loop begins.
    depth: i64,
    /// Whether there are accesses below the stack pointer.
    frames: bool,
    loads_without_bounds: bool,
    /// Whether the loop makes calls.
    calls: bool,
}

impl Generator {
    fn random(&mut self, below: u64) -> u64 {
        self.choices.below(below)
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.random(list.len() as u64) as usize]
    }

    fn held(&self, value: Value) -> u64 {
        self.held[value.index()] as u64
    }

    fn hold(&mut self, value: Value, held: u128) {
        if self.held.len() <= value.index() {
            self.held.resize(value.index() + 1, 0);
        }
        self.held[value.index()] = held;
    }

    fn address(&self, address: &Address) -> u64 {
        let index = if address.index.is_some() { self.held(address.index) } else { 0 };
        self.held(address.root)
            .wrapping_add(index.wrapping_mul(u64::from(address.scale)))
            .wrapping_add(i64::from(address.offset) as u64)
    }

    /// Appends an instruction and executes it.
    fn append(&mut self, inst: Inst) -> Value {
        let value = self.trace.append(self.segment, inst);
        let held = match inst.op.format() {
            Format::Const => inst.as_const().unwrap() as i128 as u128 & inst.ty.mask(),
            Format::Slot => u128::from(self.world.slot(inst.slot().unwrap())) & inst.ty.mask(),
            Format::Load | Format::Store => {
                let address = self.address(&inst.address().unwrap());
                let bytes = inst.ty.bytes();
                let held = if inst.op == Opcode::Store {
                    let stored = self.held[inst.args[2].index()];
                    self.world.store(address, bytes, stored).unwrap();
                    stored
                } else {
                    self.world.load(address, bytes).unwrap()
                };
                // Now and then an access is not noted.
                let recorded = Recorded { address, value: held as u64 };
                let noted = self.random(40) > 0;
                self.trace.set_recorded(value, noted.then_some(recorded));
                held
            }
            Format::Guard => 0,
            _ => {
                let args = inst.args.map(|arg| if arg.is_some() { self.held[arg.index()] } else { 0 });
                let typed = self.trace.ty(inst.args[usize::from(inst.op == Opcode::Select)]);
                scalar::eval_pure(inst.op, inst.ty, typed, args, inst.condition()).unwrap()
            }
        };
        self.hold(value, held);
        if inst.ty != Type::Void && inst.op != Opcode::Store {
            self.values.push(value);
        }
        value
    }

    fn constant(&mut self, ty: Type, imm: i64) -> Value {
        self.append(Inst::constant(ty, imm))
    }

    fn binary(&mut self, op: Opcode, a: Value, b: Value) -> Value {
        self.append(Inst::binary(op, self.trace.ty(a), a, b))
    }

    fn with_const(&mut self, op: Opcode, a: Value, imm: i64) -> Value {
        let ty = if op == Opcode::Shl || op == Opcode::Lshr { Type::I8 } else { self.trace.ty(a) };
        let imm = self.constant(ty, imm);
        self.binary(op, a, imm)
    }

    fn compare(&mut self, op: Opcode, a: Value, b: Value) -> Value {
        self.append(Inst::binary(op, Type::I1, a, b))
    }

    fn of_type(&mut self, ty: Type) -> Value {
        let fitting: Vec<Value> = self.values.iter().copied().filter(|v| self.trace.ty(*v) == ty).collect();
        if fitting.is_empty() || self.random(6) == 0 {
            let imm = interesting(self.choices.bits()) as i64;
            return self.constant(ty, imm);
        }
        let recent = fitting.len().min(8) as u64;
        let pick = if self.random(3) == 0 { self.random(fitting.len() as u64) } else { self.random(recent) };
        fitting[fitting.len() - 1 - pick as usize]
    }

    fn memory_type(&mut self) -> Type {
        self.pick(&[Type::I64, Type::I64, Type::I64, Type::I64, Type::I32, Type::I8, Type::I16, Type::I128, Type::V128])
    }

    fn offset(&mut self) -> i32 {
        let word = self.random(5) as i32 * 8;
        if self.random(8) == 0 { word + self.random(16) as i32 - 8 } else { word }
    }

    fn place(&mut self) -> Address {
        let pick = self.random(self.pointers.len() as u64 + 3) as usize;
        // The first pointers are used most.
        let root = self.pointers[if pick < self.pointers.len() { pick } else { pick - self.pointers.len() }];
        Address::new(root, self.offset())
    }

    /// An exit at a point of its own.
    fn exit(&mut self) -> Exit {
        let pc = 0x1000 + self.trace.exits.len() as u64;
        let mut exit = ExitData::new(pc, 0);
        for slot in [COUNT, Slot::RDX, Slot::RBX, Slot::RSI, Slot::gpr(10), Slot::gpr(11), Slot::FLAGS, Slot::xmm(0, 0)]
        {
            if !self.dirty.contains(&slot) && self.random(3) > 0 {
                continue;
            }
            let value = if slot == Slot::FLAGS {
                match self.values.iter().rev().find(|v| self.trace.insts[**v].op.is_flags()) {
                    Some(flags) => ExitValue::Value(*flags),
                    None => ExitValue::Const(1),
                }
            } else {
                ExitValue::Value(self.of_type(Type::I64))
            };
            exit.set(slot, value);
        }
        let down = if self.frames { self.depth + 8 * self.pick(&[0, 0, -1, -3, -5]) } else { 0 };
        if down != 0 || self.dirty.contains(&Slot::RSP) {
            let value = if down == 0 { self.stack } else { self.with_const(Opcode::Add, self.stack, down) };
            exit.set(Slot::RSP, ExitValue::Value(value));
        }
        self.trace.exits.push(exit)
    }

    /// A guard that the recorded iteration passes.
    fn guard(&mut self, test: Value) {
        let expected = self.held(test) == 1;
        let exit = self.exit();
        self.append(Inst::guard(expected, test, exit));
    }

    fn pure(&mut self) {
        match self.random(12) {
            0..=4 => {
                let ty = self.pick(&[Type::I64, Type::I64, Type::I32, Type::I8]);
                let (a, b) = (self.of_type(ty), self.of_type(ty));
                let op = self.pick(&[Opcode::Add, Opcode::Add, Opcode::Sub, Opcode::Xor, Opcode::And, Opcode::Mul]);
                self.binary(op, a, b);
            }
            5 => {
                let (narrow, op) =
                    (self.pick(&[Type::I8, Type::I16, Type::I32]), self.pick(&[Opcode::Zext, Opcode::Sext]));
                let a = self.of_type(narrow);
                self.append(Inst::unary(op, Type::I64, a));
            }
            6 => {
                let (a, ty) = (self.of_type(Type::I64), self.pick(&[Type::I8, Type::I16, Type::I32]));
                self.append(Inst::unary(Opcode::Trunc, ty, a));
            }
            7 => {
                let (a, b) = (self.of_type(Type::I64), self.of_type(Type::I64));
                let op = self.pick(&[Opcode::Fadd64, Opcode::Fmul64, Opcode::Fsub64]);
                self.binary(op, a, b);
            }
            8 => {
                let (a, b) = (self.of_type(Type::I64), self.of_type(Type::I64));
                let ty = self.pick(&[Type::I128, Type::V128]);
                self.append(Inst::binary(Opcode::Join, ty, a, b));
            }
            9 => {
                let ty = self.pick(&[Type::I128, Type::V128]);
                let (a, op) = (self.of_type(ty), self.pick(&[Opcode::Low, Opcode::High]));
                self.append(Inst::unary(op, Type::I64, a));
            }
            10 => {
                let (a, b) = (self.of_type(Type::I64), self.of_type(Type::I64));
                let op = self.pick(&[Opcode::FlSub, Opcode::FlAdd]);
                let flags = self.append(Inst::binary(op, Type::I32, a, b));
                let cond = self.pick(&Cond::ALL);
                self.append(Inst::cond(cond, flags));
            }
            _ => {
                let op = self.pick(&[Opcode::Eq, Opcode::Ult, Opcode::Slt]);
                let (a, b) = (self.of_type(Type::I64), self.of_type(Type::I64));
                let test = self.compare(op, a, b);
                let (a, b) = (self.of_type(Type::I64), self.of_type(Type::I64));
                self.append(Inst::ternary(Opcode::Select, Type::I64, test, a, b));
            }
        }
    }

    /// `cell = cell + something`.
    fn update(&mut self) {
        let (ty, place) = (self.pick(&[Type::I64, Type::I64, Type::I32, Type::I8]), self.place());
        let old = self.append(Inst::load(ty, place));
        let by = self.of_type(ty);
        let op = self.pick(&[Opcode::Add, Opcode::Xor, Opcode::Sub]);
        let new = self.binary(op, old, by);
        self.append(Inst::store(ty, place, new));
    }

    /// An access with an index that a guard finds below a bound.
    fn bounded(&mut self) {
        let x = self.of_type(Type::I64);
        let x = self.with_const(Opcode::And, x, 7);
        let slot = self.trace.segments[self.trace.entry()].insts.iter().copied();
        let slot = slot.clone().find(|value| self.trace.insts[*value].slot() == Some(BOUND)).unwrap();
        let bound = if self.random(2) == 0 {
            self.with_const(Opcode::And, slot, 31)
        } else {
            let byte = self.append(Inst::unary(Opcode::Trunc, Type::I8, slot));
            self.append(Inst::unary(Opcode::Zext, Type::I64, byte))
        };
        let shift = self.pick(&[0, 0, 1, -1]);
        let below = if shift == 0 { x } else { self.with_const(Opcode::Add, x, shift) };
        let test = self.compare(Opcode::Ult, below, bound);
        if self.held(test) == 0 {
            return;
        }
        self.guard(test);
        let root = self.pick(&self.pointers.clone());
        let (ty, offset) = (self.pick(&[Type::I64, Type::I32, Type::I8]), self.offset());
        let mut address = Address::new(root, offset);
        match self.random(3) {
            0 => (address.index, address.scale) = (x, self.pick(&[1, 8, 4])),
            1 => {
                let scaled = self.with_const(Opcode::Shl, x, 4);
                address.root = self.binary(Opcode::Add, root, scaled);
            }
            _ => {
                address.index = self.with_const(Opcode::Shl, x, 2);
                address.scale = self.pick(&[1, 2]);
            }
        }
        if self.random(2) == 0 {
            self.append(Inst::load(ty, address));
        } else {
            let value = self.of_type(ty);
            self.append(Inst::store(ty, address, value));
        }
    }

    fn unbounded(&mut self) {
        let x = self.of_type(Type::I64);
        let index = self.with_const(Opcode::And, x, 0x3f);
        let address = Address { index, scale: self.pick(&[1, 8]), ..self.place() };
        if self.random(2) == 0 {
            self.object(address);
            return;
        }
        if self.random(12) == 0 {
            let value = self.of_type(Type::I64);
            self.append(Inst::store(Type::I64, address, value));
        } else if self.loads_without_bounds {
            self.append(Inst::load(Type::I64, address));
        }
    }

    /// Accesses through one pointer that may be another one in each iteration: to a place of its own, more often than not.
    fn object(&mut self, place: Address) {
        let by = if place.scale == 1 { 4 } else { 3 };
        let scaled = self.with_const(Opcode::Shl, place.index, by);
        let root = self.binary(Opcode::Add, place.root, scaled);
        for _ in 0..1 + self.random(3) {
            let (ty, offset) = (self.pick(&[Type::I64, Type::I64, Type::I32, Type::I8]), self.offset());
            let far = if self.random(3) > 0 { 0x100 } else { 0 };
            let address = Address::new(root, offset + far);
            if self.random(2) == 0 {
                let value = self.of_type(ty);
                self.append(Inst::store(ty, address, value));
            } else {
                self.append(Inst::load(ty, address));
            }
        }
        if self.random(4) == 0 {
            self.pointers.push(root);
        }
    }

    /// A pointer in memory, perhaps compared with one that is at hand.
    fn pointer_in_memory(&mut self) {
        let place = self.place();
        let address = self.address(&place);
        let is_pointer = |word: u64| (ARENA + 0x80..ARENA + ARENA_BYTES - 0x80).contains(&word);
        let held = self.world.load(address, 8).unwrap() as u64;
        if !is_pointer(held) {
            return;
        }
        let loaded = self.append(Inst::load(Type::I64, place));
        let same: Vec<Value> = self.pointers.iter().copied().filter(|value| self.held(*value) == held).collect();
        if !same.is_empty() && self.random(3) > 0 {
            let other = self.pick(&same);
            let test = if self.random(2) == 0 {
                self.compare(Opcode::Eq, loaded, other)
            } else {
                self.compare(Opcode::Ne, other, loaded)
            };
            self.guard(test);
        }
        self.pointers.push(loaded);
    }

    /// An access below the stack pointer.
    fn frame_access(&mut self) {
        let offset = self.depth as i32 - 8 * (1 + self.random(5) as i32) + self.pick(&[0, 0, 0, 0, 4]);
        let (ty, place) = (self.pick(&[Type::I64, Type::I64, Type::I32]), Address::new(self.stack, offset));
        if self.random(3) == 0 {
            self.append(Inst::load(ty, place));
            return;
        }
        let value = self.of_type(ty);
        self.append(Inst::store(ty, place, value));
        if self.random(2) == 0 {
            self.pure();
            self.append(Inst::load(ty, place));
        }
    }

    fn division(&mut self) {
        let (a, b) = (self.of_type(Type::I64), self.of_type(Type::I64));
        let zero = self.constant(Type::I64, 0);
        let test = self.compare(Opcode::Ne, b, zero);
        if self.held(test) == 1 {
            self.guard(test);
            let op = self.pick(&[Opcode::Udiv, Opcode::Urem]);
            self.binary(op, a, b);
        }
    }

    fn step(&mut self) {
        if self.calls && self.random(12) == 0 {
            return match self.random(4) {
                0 | 1 => self.call_inside(),
                2 => self.swing(),
                _ => self.update_int(),
            };
        }
        match self.random(26) {
            0..=5 => self.pure(),
            24 => self.bounded(),
            25 => self.unbounded(),
            6..=8 => {
                let (ty, place) = (self.memory_type(), self.place());
                self.append(Inst::load(ty, place));
            }
            9..=11 => {
                let (ty, place) = (self.memory_type(), self.place());
                let value = self.of_type(ty);
                self.append(Inst::store(ty, place, value));
            }
            12..=14 => self.update(),
            15 => self.bounded(),
            16 => self.unbounded(),
            17 | 18 => self.pointer_in_memory(),
            19 | 20 if self.frames => self.frame_access(),
            21 => self.division(),
            22 => {
                // What was loaded is guarded: often the same in every iteration.
                let (ty, place) = (self.pick(&[Type::I64, Type::I8]), self.place());
                let loaded = self.append(Inst::load(ty, place));
                let imm = if self.random(2) == 0 { self.held(loaded) as i64 } else { self.random(16) as i64 };
                let other = self.constant(ty, imm);
                let op = self.pick(&[Opcode::Eq, Opcode::Ule, Opcode::Slt]);
                let test = self.compare(op, loaded, other);
                self.guard(test);
            }
            23 => {
                let pointer = self.pick(&self.pointers.clone());
                let by = self.offset();
                let moved = self.with_const(Opcode::Add, pointer, i64::from(by));
                self.pointers.push(moved);
            }
            _ => self.pure(),
        }
    }

    /// Reads of slots, and some more.
    fn entry(&mut self) {
        for slot in [Slot::RSP, COUNT, BOUND, Slot::RDX, Slot::gpr(10), Slot::xmm(0, 0), Slot::FS, INT] {
            let value = self.append(Inst::slot_read(slot));
            if slot == INT {
                self.int = value;
                self.values.pop();
            }
            if slot == Slot::RSP {
                self.stack = value;
            }
            if slot == Slot::FS && self.random(2) == 0 {
                self.pointers.push(value);
            }
        }
        for slot in POINTERS {
            let value = self.append(Inst::slot_read(slot));
            self.pointers.push(value);
        }
        self.values.retain(|value| self.trace.insts[*value].slot() != Some(Slot::RSP));
        if self.random(4) == 0 {
            let root = self.constant(Type::I64, (ARENA + 0x800) as i64);
            self.pointers.push(root);
        }
        // Frames that are open where the loop begins.
        if self.frames && self.random(4) == 0 {
            self.depth = -8 * (1 + self.random(4) as i64);
        }
        (0..self.random(4)).for_each(|_| self.pure());
    }

    /// A residual call between the entry and the loop.
    fn call(&mut self) {
        let target = self.constant(Type::I64, 0x9000);
        let return_address = self.constant(Type::I64, 0x9999);
        let mut state = ExitData::new(0x800, 0);
        if self.depth != 0 {
            let value = self.with_const(Opcode::Add, self.stack, self.depth);
            state.set(Slot::RSP, ExitValue::Value(value));
            self.world.set_slot(Slot::RSP, STACK.wrapping_add(self.depth as u64));
        }
        let state = self.trace.exits.push(state);
        let resume = self.trace.add_segment();
        let call = Call { state, target, return_address, effect: CallEffect::Any, resume };
        self.trace.segments[self.segment].terminator = Terminator::Call(call);
        self.segment = resume;
        self.world.call(CallEffect::Any);
        for slot in [Slot::RSI, Slot::RDI] {
            let value = self.append(Inst::slot_read(slot));
            self.pointers.insert(0, value);
        }
    }

    /// A residual call in the loop, most often of a callee that leaves memory alone.
    fn call_inside(&mut self) {
        let target = self.constant(Type::I64, 0x9000);
        let return_address = self.constant(Type::I64, 0x9999);
        let state = self.exit();
        for (slot, value) in self.trace.exits[state].slots.clone() {
            let held = match value {
                ExitValue::Value(value) => self.held(value),
                ExitValue::Const(imm) => imm as u64,
                ExitValue::Recipe(_) | ExitValue::Undefined => unreachable!("exits have none yet"),
            };
            self.world.set_slot(slot, held);
        }
        let effects = [CallEffect::Reads, CallEffect::Reads, CallEffect::Errno, CallEffect::None, CallEffect::None];
        let effect = if self.random(16) == 0 { CallEffect::Any } else { self.pick(&effects) };
        let resume = self.trace.add_segment();
        let call = Call { state, target, return_address, effect, resume };
        self.trace.segments[self.segment].terminator = Terminator::Call(call);
        self.segment = resume;
        self.world.call(effect);
        let slot = self.pick(&[Slot::gpr(11), Slot::RDX, Slot::xmm(0, 0)]);
        self.append(Inst::slot_read(slot));
        if self.random(3) == 0 {
            let value = self.append(Inst::slot_read(Slot::RSI));
            self.pointers.push(value);
        }
    }

    /// What is as wide as `errno`, and may be that.
    fn update_int(&mut self) {
        let place = Address::new(self.int, 0);
        let old = self.append(Inst::load(Type::I32, place));
        if self.random(3) > 0 {
            let by = self.of_type(Type::I32);
            let new = self.binary(Opcode::Add, old, by);
            self.append(Inst::store(Type::I32, place, new));
        }
    }

    /// A cell that is one thing for a callee, and the same as ever behind the call: what interpreters do to their own state.
    fn swing(&mut self) {
        let place = self.place();
        let usual = self.of_type(Type::I64);
        let other = self.of_type(Type::I64);
        self.append(Inst::store(Type::I64, place, other));
        self.call_inside();
        if self.random(2) == 0 {
            (0..self.random(3)).for_each(|_| self.pure());
            let imm = self.held(other) as i64;
            let (other, same) = (self.append(Inst::load(Type::I64, place)), self.constant(Type::I64, imm));
            let test = self.compare(Opcode::Eq, other, same);
            self.guard(test);
        }
        self.append(Inst::store(Type::I64, place, usual));
    }

    /// The loop.
    fn body(&mut self, steps: u64) {
        let before = self.segment;
        let header = self.trace.add_segment();
        let entry_values = self.values.clone();
        let count = entry_values.iter().copied().find(|v| self.trace.insts[*v].slot() == Some(COUNT)).unwrap();
        let mut params = vec![(Some(COUNT), count)];
        for slot in [Some(Slot::RDX), None, None] {
            if self.random(2) == 0 {
                params.push((slot, self.of_type(Type::I64)));
            }
        }
        // An index that grows, and a bound for it.
        let index = (self.random(3) == 0).then(|| {
            let [start, bound] = [7, 63].map(|mask| {
                let word = self.of_type(Type::I64);
                self.with_const(Opcode::And, word, mask)
            });
            params.push((None, start));
            (params.len() - 1, bound)
        });
        let moving = self.random(4);
        if moving < 3 {
            let slot = if self.random(2) == 0 { Some(Slot::RBX) } else { None };
            params.push((slot, self.pick(&self.pointers.clone())));
        }
        let carries_stack = self.frames && self.random(5) == 0;
        if carries_stack {
            params.push((Some(Slot::RSP), self.stack));
        }
        let args = params.iter().map(|param| param.1).collect();
        self.trace.segments[before].terminator = Terminator::Jump(Target { segment: header, args });
        self.segment = header;
        let mut heads = Vec::new();
        for (slot, arg) in &params {
            let param = self.trace.add_param(header, Type::I64, *slot);
            self.hold(param, u128::from(self.held(*arg)));
            self.dirty.extend(*slot);
            heads.push(param);
        }
        if carries_stack {
            self.stack = *heads.last().unwrap();
        }
        let counter = heads[0];
        let data = heads.len() - usize::from(moving < 3) - usize::from(carries_stack);
        self.values.extend(&heads[..data]);
        if moving < 3 {
            self.pointers.insert(0, heads[data]);
        }
        let zero = self.constant(Type::I64, 0);
        let goes_on = self.compare(Opcode::Ne, counter, zero);
        self.guard(goes_on);
        if let Some((at, bound)) = index {
            let addend = self.pick(&[0, 0, -1, 3]);
            let sum = if addend == 0 { heads[at] } else { self.with_const(Opcode::Add, heads[at], addend) };
            let op = self.pick(&[Opcode::Ult, Opcode::Ult, Opcode::Ule]);
            let test = if self.random(3) == 0 { self.compare(op, bound, sum) } else { self.compare(op, sum, bound) };
            self.guard(test);
        }
        (0..steps).for_each(|_| self.step());
        let mut next = vec![self.with_const(Opcode::Sub, counter, 1)];
        for (at, &head) in heads.iter().enumerate().take(data).skip(1) {
            if index.is_some_and(|(index, _)| index == at) {
                next.push(self.with_const(Opcode::Add, head, 1));
                continue;
            }
            let arg = match self.random(6) {
                0 => self.constant(Type::I64, 7),
                1 => head,
                2 => self.pick(&entry_values),
                _ => Value::NONE,
            };
            let fits = arg.is_some() && self.trace.ty(arg) == Type::I64;
            next.push(if fits { arg } else { self.of_type(Type::I64) });
        }
        match moving {
            0 => next.push(heads[data]),
            1 => next.push(self.pick(&self.pointers.clone())),
            2 => next.push(self.with_const(Opcode::Add, heads[data], 8)),
            _ => {}
        }
        if carries_stack {
            next.push(self.stack);
        }
        self.trace.segments[self.segment].terminator = Terminator::Jump(Target { segment: header, args: next });
    }

    /// A loop that follows from the choices, recorded in the world of `seed`.
    pub fn generate(seed: u64, choices: Choices) -> Trace {
        let mut trace = Trace::new("random");
        trace.start = 0x500;
        let segment = trace.add_segment();
        trace.entry = Some(segment);
        let mut g = Generator {
            choices,
            trace,
            segment,
            world: world(seed, 0),
            held: Vec::new(),
            values: Vec::new(),
            pointers: Vec::new(),
            stack: Value::NONE,
            int: Value::NONE,
            dirty: Vec::new(),
            depth: 0,
            frames: seed % 3 == 1,
            loads_without_bounds: seed.is_multiple_of(2),
            calls: seed % 4 == 3,
        };
        if g.calls && g.random(2) == 0 {
            g.trace.errno = Some(ERRNO.wrapping_sub(FS) as i64);
        }
        g.entry();
        if g.random(8) == 0 {
            g.call();
        }
        let most = if g.random(6) == 0 { 60 } else { 22 };
        let steps = 3 + g.random(most);
        g.body(steps);
        g.trace
    }
}
