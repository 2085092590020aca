//! The generator: traces whose immutable region, or undeclared program, is at [`REGION`].

use redmagic_ir::sandbox::{Choices, TestGuest, mix};
use redmagic_ir::*;

const REGION: u64 = 0x20_0000;
/// Bytes in it.
const LENGTH: u64 = 64;
/// A table of dispatch targets for the program, which is read-only.
const TABLE: u64 = 0x30_0000;
/// Its entries.
const TARGETS: u64 = 16;

/// A trace in the making.
pub struct Generator {
    choices: Choices,
    trace: Trace,
    segment: Segment,
    values: Vec<Value>,
    calls: bool,
    /// The stack pointer that exits are relative to.
    stack: Value,
    /// Whether the loop carries it.
    carries_stack: bool,
    /// How the region is known.
    kind: RegionKind,
}

impl Generator {
    fn random(&mut self, below: u64) -> u64 {
        self.choices.below(below)
    }

    fn append(&mut self, inst: Inst) -> Value {
        let value = self.trace.append(self.segment, inst);
        if inst.ty != Type::Void && inst.op != Opcode::Store {
            self.values.push(value);
        }
        value
    }

    fn of_type(&mut self, ty: Type) -> Value {
        let fitting: Vec<Value> = self.values.iter().copied().filter(|v| self.trace.ty(*v) == ty).collect();
        // Newer values are more interesting, and some constants.
        if fitting.is_empty() || self.random(5) == 0 {
            let imm = match self.random(4) {
                0 => self.random(4),
                1 => 1 << self.random(u64::from(ty.bits().min(64))),
                2 => self.random(9).wrapping_sub(4).wrapping_mul(8),
                _ => 0xff << self.random(40),
            };
            return self.append(Inst::constant(ty, imm as i64));
        }
        let recent = fitting.len().min(6) as u64;
        let pick = if self.random(3) == 0 { self.random(fitting.len() as u64) } else { self.random(recent) };
        fitting[fitting.len() - 1 - pick as usize]
    }

    fn any_type(&mut self) -> Type {
        [Type::I1, Type::I8, Type::I16, Type::I32, Type::I64, Type::I64, Type::I64, Type::I128, Type::V128]
            [self.random(9) as usize]
    }

    fn pure(&mut self) {
        for _ in 0..40 {
            let op = Opcode::ALL[self.random(Opcode::ALL.len() as u64) as usize];
            let arity = match op.format() {
                Format::Unary(_) => 1,
                Format::Binary(_) => 2,
                Format::Ternary(_) => 3,
                Format::Cond => {
                    let flags: Vec<Value> =
                        self.values.iter().copied().filter(|v| self.trace.insts[*v].op.is_flags()).collect();
                    let Some(&flags) = flags.last() else { continue };
                    let cond = Cond::ALL[self.random(16) as usize];
                    self.append(Inst::cond(cond, flags));
                    return;
                }
                _ => continue,
            };
            let first = self.any_type();
            let types = [0, 1, 2].map(|at| if at > 0 && self.random(2) == 0 { self.any_type() } else { first });
            let ty = typing::implied_result(op).unwrap_or(if self.random(2) == 0 { first } else { self.any_type() });
            // Old flags must be flags.
            let is_shift = matches!(op.format(), Format::Ternary(Typing::FlagsShift));
            if typing::check(op, ty, &types[..arity]).is_err() || is_shift && self.random(2) == 0 {
                continue;
            }
            let mut args = [Value::NONE; 3];
            for at in 0..arity {
                args[at] = self.of_type(types[at]);
            }
            if is_shift {
                let mask = self.append(Inst::constant(Type::I32, i64::from(FLAGS_MASK)));
                args[2] = self.append(Inst::binary(Opcode::And, Type::I32, args[2], mask));
            }
            self.append(Inst::ternary(op, ty, args[0], args[1], args[2]));
            return;
        }
    }

    fn address(&mut self) -> Address {
        let root = match self.random(4) {
            0 => self.of_type(Type::I64),
            1 => self.stack,
            // The first values are the slots: stack pointer, two pointers.
            _ => {
                let pick = self.random(3) as usize;
                self.values[pick]
            }
        };
        let offset = (self.random(12) as i32 - 6) * 4;
        let mut address = Address::new(root, offset);
        if self.random(5) == 0 {
            address.index = self.of_type(Type::I64);
            address.scale = 1 << self.random(4);
        }
        address
    }

    fn memory_type(&mut self) -> Type {
        [Type::I8, Type::I16, Type::I32, Type::I64, Type::I64, Type::I64, Type::I128, Type::V128]
            [self.random(8) as usize]
    }

    /// An exit at a fresh point that lists all slots that parameters carry, and some more.
    fn exit(&mut self) -> Exit {
        let pc = 0x1000 + self.trace.exits.len() as u64;
        let mut exit = ExitData::new(pc, 0);
        for slot in [0, 1, 2, 3, 4, 5, 6, 16] {
            let slot = Slot::from_index(slot).unwrap();
            let dirty = slot == Slot::RAX || slot == Slot::RDX || slot == Slot::RSP && self.carries_stack;
            if !dirty && self.random(2) == 0 {
                continue;
            }
            let value = if slot == Slot::RSP {
                let down = -8 * self.random(6) as i64;
                let down = self.append(Inst::constant(Type::I64, down));
                ExitValue::Value(self.append(Inst::binary(Opcode::Add, Type::I64, self.stack, down)))
            } else if slot == Slot::FLAGS {
                let flags = self.values.iter().rev().find(|v| self.trace.insts[**v].op.is_flags());
                flags.map_or(ExitValue::Const(1), |v| ExitValue::Value(*v))
            } else {
                ExitValue::Value(self.of_type(Type::I64))
            };
            exit.set(slot, value);
        }
        self.trace.exits.push(exit)
    }

    /// The stack pointer or, now and then, one near it.
    fn moved_stack(&mut self) -> Value {
        if self.random(3) > 0 {
            return self.stack;
        }
        let by = self.random(9).wrapping_sub(5).wrapping_mul(8);
        let by = self.append(Inst::constant(Type::I64, by as i64));
        self.append(Inst::binary(Opcode::Add, Type::I64, self.stack, by))
    }

    fn step(&mut self) {
        match self.random(24) {
            10..=12 | 21 if self.kind == RegionKind::Code => self.fetch(),
            0..=12 => self.pure(),
            13..=15 => {
                let (ty, address) = (self.memory_type(), self.address());
                self.append(Inst::load(ty, address));
            }
            16..=18 => {
                let (ty, address) = (self.memory_type(), self.address());
                let value = self.of_type(ty);
                self.append(Inst::store(ty, address, value));
            }
            19..=20 => {
                let (test, expected) = (self.of_type(Type::I1), self.random(2) == 0);
                let exit = self.exit();
                self.append(Inst::guard(expected, test, exit));
            }
            21 => self.region_load(),
            22 if self.random(3) == 0 => {
                let inputs = vec![(Slot::RAX, self.of_type(Type::I64))];
                let memory = self.random(2) == 0;
                let native =
                    NativeOp { pc: 0x99, bytes: vec![0x90], inputs, outputs: vec![Slot::RDX], memory, wide: false };
                let native = self.trace.natives.push(native);
                let placed = self.append(Inst::native(native));
                self.append(Inst::native_out(placed, Slot::RDX));
            }
            23 if self.calls && self.random(3) == 0 => self.call(),
            _ => self.pure(),
        }
    }

    fn region_load(&mut self) {
        let offset = self.random(16) * 4;
        let recorded = Recorded { address: REGION + offset, value: region_word(offset) };
        let constant = self.random(2) == 0;
        let root = if constant { self.append(Inst::constant(Type::I64, REGION as i64)) } else { self.values[3] };
        let exit = self.exit();
        let load = self.append(Inst::load(Type::I32, Address::new(root, offset as i32)));
        self.trace.set_recorded(load, Some(recorded));
        self.trace.set_resume_exit(load, Some(exit));
    }

    /// A load from the program, and perhaps a dispatch on it.
    fn fetch(&mut self) {
        let ty = [Type::I8, Type::I8, Type::I32, Type::I64][self.random(4) as usize];
        let offset = self.random(LENGTH - 16);
        let (root, by) = match self.random(6) {
            0 => (self.append(Inst::constant(Type::I64, REGION as i64)), 0),
            1 => {
                // A jump of the program, as a condition says that the recording does not contradict.
                let (condition, step) = (self.values[5], self.append(Inst::constant(Type::I64, 8)));
                let by = self.append(Inst::binary(Opcode::And, Type::I64, condition, step));
                (self.append(Inst::binary(Opcode::Add, Type::I64, self.values[3], by)), 8 * self.random(2))
            }
            _ => (self.values[3], 0),
        };
        let place = offset + by;
        let value = (0..u64::from(ty.bytes())).fold(0, |sum, at| sum | u64::from(region_byte(place + at)) << (8 * at));
        let exit = self.exit();
        let load = self.append(Inst::load(ty, Address::new(root, offset as i32)));
        self.trace.set_recorded(load, Some(Recorded { address: REGION + place, value }));
        self.trace.set_resume_exit(load, Some(exit));
        if self.random(2) == 0 || ty == Type::I64 {
            return;
        }
        let mask = self.append(Inst::constant(ty, TARGETS as i64 - 1));
        let low = self.append(Inst::binary(Opcode::And, ty, load, mask));
        let index = self.append(Inst::unary(Opcode::Zext, Type::I64, low));
        let table = self.append(Inst::constant(Type::I64, TABLE as i64));
        let entry = value & (TARGETS - 1);
        let target = self.append(Inst::load(Type::I64, Address { index, scale: 8, ..Address::new(table, 0) }));
        self.trace.set_recorded(target, Some(Recorded { address: TABLE + 8 * entry, value: dispatch_target(entry) }));
        let expected = self.append(Inst::constant(Type::I64, dispatch_target(entry) as i64));
        let test = self.append(Inst::binary(Opcode::Eq, Type::I1, target, expected));
        let exit = self.exit();
        self.append(Inst::guard(true, test, exit));
    }

    fn call(&mut self) {
        let target = self.append(Inst::constant(Type::I64, 0x9000));
        let return_address = self.append(Inst::constant(Type::I64, 0x9999));
        let state = self.exit();
        let resume = self.trace.add_segment();
        let effects = [CallEffect::Any, CallEffect::Reads, CallEffect::Errno, CallEffect::None];
        let effect = effects[self.random(4) as usize];
        let call = Call { state, target, return_address, effect, resume };
        self.trace.segments[self.segment].terminator = Terminator::Call(call);
        self.segment = resume;
        for slot in [Slot::RAX, Slot::RSP, Slot::RBX] {
            self.append(Inst::slot_read(slot));
        }
    }

    fn straight(&mut self, steps: u64) {
        (0..self.random(steps)).for_each(|_| self.step());
    }

    /// `if` with two arms that join in a segment with a parameter.
    fn diamond(&mut self) {
        let test = self.of_type(Type::I1);
        let (from, outside) = (self.segment, self.values.len());
        let [yes, no, join] = [0; 3].map(|_| self.trace.add_segment());
        let empty = |segment| Target { segment, args: Vec::new() };
        self.trace.segments[from].terminator =
            Terminator::Switch { value: test, cases: vec![(1, empty(yes))], default: empty(no) };
        for arm in [yes, no] {
            self.segment = arm;
            self.straight(10);
            let arg = self.of_type(Type::I64);
            self.trace.segments[self.segment].terminator = Terminator::Jump(Target { segment: join, args: vec![arg] });
            self.values.truncate(outside);
        }
        self.segment = join;
        let param = self.trace.add_param(join, Type::I64, None);
        self.values.push(param);
    }

    /// A trace that follows from the choices, with a declared region.
    pub fn generate(choices: Choices) -> Trace {
        Generator::generate_with(choices, RegionKind::Declared)
    }

    /// The same with an undeclared program in place of the region.
    pub fn generate_undeclared(choices: Choices) -> Trace {
        Generator::generate_with(choices, RegionKind::Code)
    }

    fn generate_with(mut choices: Choices, kind: RegionKind) -> Trace {
        let mut trace = Trace::new("random");
        trace.start = 0x500;
        // The program is in the middle.
        let start = if kind == RegionKind::Code { REGION - LENGTH } else { REGION };
        trace.regions.push(Region { start, end: REGION + LENGTH, kind });
        if kind == RegionKind::Code {
            let read_only = Region { start: TABLE, end: TABLE + 8 * TARGETS, kind: RegionKind::ReadOnly };
            trace.regions.push(read_only);
        }
        let segment = trace.add_segment();
        trace.entry = Some(segment);
        let calls = choices.below(3) == 0;
        let carries_stack = choices.below(2) == 0;
        let (values, stack) = (Vec::new(), Value::NONE);
        let mut g = Generator { choices, trace, segment, values, calls, stack, carries_stack, kind };
        for slot in [Slot::RSP, Slot::RBX, Slot::RCX, Slot::RSI, Slot::RAX, Slot::RDX] {
            g.append(Inst::slot_read(slot));
        }
        g.stack = g.values[0];
        g.straight(12);
        let header = g.trace.add_segment();
        let mut initial = vec![g.values[4], g.values[5], g.values[3], g.of_type(Type::I64)];
        if carries_stack {
            initial.push(g.moved_stack());
        }
        g.trace.segments[g.segment].terminator = Terminator::Jump(Target { segment: header, args: initial });
        g.segment = header;
        for slot in [Some(Slot::RAX), Some(Slot::RDX), None, None] {
            let param = g.trace.add_param(header, Type::I64, slot);
            g.values.push(param);
        }
        if carries_stack {
            g.stack = g.trace.add_param(header, Type::I64, Some(Slot::RSP));
        }
        let pc = g.values[g.values.len() - 2];
        if g.random(2) == 0 {
            g.values[3] = pc;
        }
        g.straight(25);
        if g.random(2) == 0 {
            g.diamond();
            g.straight(15);
        }
        let test = g.of_type(Type::I1);
        let exit = g.exit();
        g.append(Inst::guard(true, test, exit));
        let mut next = vec![g.of_type(Type::I64), g.of_type(Type::I64), g.values[3], g.of_type(Type::I64)];
        if carries_stack {
            next.push(g.moved_stack());
        }
        g.trace.segments[g.segment].terminator = if g.random(3) == 0 {
            Terminator::Leave(g.exit())
        } else {
            Terminator::Jump(Target { segment: header, args: next })
        };
        g.trace
    }
}

fn region_word(offset: u64) -> u64 {
    mix(3, offset) & 0xffff_ffff
}

fn region_byte(offset: u64) -> u8 {
    (region_word(offset & !3) >> (8 * (offset & 3))) as u8
}

fn dispatch_target(entry: u64) -> u64 {
    0x600 + 16 * entry
}

/// Puts into a guest's memory what the region holds, and its address into rsi; and the table.
pub fn place_region(guest: &mut TestGuest) {
    for entry in 0..TARGETS {
        guest.memory.set(TABLE + 8 * entry, 8, u128::from(dispatch_target(entry)));
    }
    guest.slots[Slot::RSI.index()] = REGION;
    for offset in (0..LENGTH).step_by(4) {
        guest.memory.set(REGION + offset, 4, u128::from(region_word(offset)));
    }
}
