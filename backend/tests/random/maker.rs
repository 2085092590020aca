//! Makes traces up. The address of the arena is in rbx.

use redmagic_ir::sandbox::{Choices, interesting};
use redmagic_ir::{
    Address, Call, CallEffect, Cond, DelayedStore, Effect, Exit, ExitData, ExitValue, FLAGS_MASK, Format, Inst,
    NativeOp, Opcode, Recipe, Segment, Slot, Target, Terminator, Trace, Type, Value, typing,
};

/// Slots that made-up exits write. Not rbx, which holds the arena's address.
const WRITTEN: [u8; 8] = [0, 1, 2, 6, 8, 9, 12, 13];

struct Maker {
    choices: Choices,
    trace: Trace,
    segment: Segment,
    /// Values that may be used here.
    values: Vec<Value>,
    base: Value,
}

impl Maker {
    fn random(&mut self, bound: usize) -> usize {
        self.choices.below(bound as u64) as usize
    }

    fn add(&mut self, inst: Inst) -> Value {
        let value = self.trace.append(self.segment, inst);
        if inst.ty != Type::Void && inst.op != Opcode::Store {
            self.values.push(value);
        }
        value
    }

    /// A value of a type; recent ones are likelier.
    fn value(&mut self, ty: Type) -> Value {
        let fitting: Vec<Value> = self.values.iter().copied().filter(|value| self.trace.ty(*value) == ty).collect();
        if fitting.is_empty() || self.random(12) == 0 {
            let imm = interesting(self.choices.bits()) as i64;
            return self.add(Inst::constant(ty, imm));
        }
        let back = self.random(fitting.len()).min(self.random(fitting.len()));
        fitting[fitting.len() - 1 - back]
    }

    fn address(&mut self) -> Address {
        let mut address = Address::new(self.base, self.random(256) as i32);
        if self.random(3) == 0 {
            let (index, mask) = (self.value(Type::I64), self.add(Inst::constant(Type::I64, 31)));
            address.index = self.add(Inst::binary(Opcode::And, Type::I64, index, mask));
            address.scale = 1 << self.random(4);
        }
        address
    }

    fn memory_type(&mut self) -> Type {
        Type::ALL[1 + self.random(6)]
    }

    fn operation(&mut self) {
        match self.random(16) {
            0 | 1 => {
                let (ty, address) = (self.memory_type(), self.address());
                self.add(Inst::load(ty, address));
            }
            2 => {
                let (ty, address) = (self.memory_type(), self.address());
                let value = self.value(ty);
                self.add(Inst::store(ty, address, value));
            }
            3..7 => {
                let float = [Opcode::Fadd64, Opcode::Fsub64, Opcode::Fmul64, Opcode::Fmin64, Opcode::Fsqrt64];
                let op = float[self.random(float.len())];
                self.plain(op, Type::I64);
            }
            7 => {
                let flags = self.value(Type::I32);
                let mask = self.add(Inst::constant(Type::I32, i64::from(FLAGS_MASK)));
                let flags = self.add(Inst::binary(Opcode::And, Type::I32, flags, mask));
                let cond = Cond::ALL[self.random(16)];
                self.add(Inst::cond(cond, flags));
            }
            _ => {
                let op = Opcode::ALL[self.random(Opcode::ALL.len())];
                let ty = Type::ALL[self.random(7)];
                self.plain(op, ty);
            }
        }
    }

    /// Adds an operation with operands of made-up types, if they fit it.
    fn plain(&mut self, op: Opcode, ty: Type) {
        if let Some((operands, _)) = self.fitting(op, ty) {
            let args = operands.map(|ty| if ty == Type::Void { Value::NONE } else { self.value(ty) });
            self.add(Inst::ternary(op, ty, args[0], args[1], args[2]));
        }
    }

    /// Operand types for a total operation, `Void` where it has no operand.
    fn fitting(&mut self, op: Opcode, ty: Type) -> Option<([Type; 3], usize)> {
        let plain = matches!(op.format(), Format::Unary(_) | Format::Binary(_) | Format::Ternary(_));
        if !plain || op.effect() != Effect::Pure {
            return None;
        }
        let arity = op.format().arity();
        for _ in 0..40 {
            let mut operands = [Type::Void; 3];
            let first = Type::ALL[self.random(7)];
            for operand in operands.iter_mut().take(arity) {
                *operand = if self.random(2) == 0 { first } else { Type::ALL[self.random(7)] };
            }
            if typing::check(op, ty, &operands[..arity]).is_ok() {
                return Some((operands, arity));
            }
        }
        None
    }

    fn exit_value(&mut self, exit: &mut ExitData, ty: Type) -> ExitValue {
        match self.random(5) {
            0 => ExitValue::Const(Inst::constant(ty, self.choices.bits() as i64 >> 7).as_const().unwrap_or(0)),
            1 => {
                let op = Opcode::ALL[self.random(Opcode::ALL.len())];
                let Some((operands, arity)) = self.fitting(op, ty) else { return ExitValue::Value(self.value(ty)) };
                let mut recipe = Recipe { op, ty, args: [ExitValue::Undefined; 3], arg_types: [Type::Void; 3] };
                for (at, ty) in operands.into_iter().enumerate().take(arity) {
                    let made = exit.recipes.iter().position(|recipe| recipe.ty == ty);
                    recipe.args[at] = match made {
                        Some(made) if self.random(3) == 0 => ExitValue::Recipe(made as u32),
                        _ => ExitValue::Value(self.value(ty)),
                    };
                }
                exit.recipes.push(recipe);
                ExitValue::Recipe(exit.recipes.len() as u32 - 1)
            }
            _ => ExitValue::Value(self.value(ty)),
        }
    }

    fn exit(&mut self) -> Exit {
        let mut exit = ExitData::new(0x40, 0);
        for _ in 0..self.random(6) {
            let slot = Slot::gpr(WRITTEN[self.random(WRITTEN.len())]);
            let value = self.exit_value(&mut exit, Type::I64);
            exit.set(slot, value);
        }
        for register in 0..self.random(3) {
            let value = self.exit_value(&mut exit, Type::I64);
            exit.set(Slot::xmm(register as u8, 0), value);
        }
        if self.random(2) == 0 {
            let flags = [Opcode::FlAdd, Opcode::FlSub, Opcode::FlLogic, Opcode::FlInc, Opcode::FlF64, Opcode::FlMul];
            let op = flags[self.random(flags.len())];
            if let Some((operands, arity)) = self.fitting(op, Type::I32) {
                let args = operands.map(|ty| match ty {
                    Type::Void => ExitValue::Undefined,
                    ty => ExitValue::Value(self.value(ty)),
                });
                debug_assert!(arity > 0);
                exit.recipes.push(Recipe { op, ty: Type::I32, args, arg_types: [Type::Void; 3] });
                exit.set(Slot::FLAGS, ExitValue::Recipe(exit.recipes.len() as u32 - 1));
            }
        }
        for _ in 0..self.random(3) {
            let (ty, address) = (self.memory_type(), self.address());
            let value = self.exit_value(&mut exit, ty);
            exit.stores.push(DelayedStore { ty, address, value });
        }
        self.trace.exits.push(exit)
    }

    fn guard(&mut self) {
        let exit = self.exit();
        let condition = self.value(Type::I1);
        let expected = self.random(2) == 0;
        self.add(Inst::guard(expected, condition, exit));
    }

    /// Ends the segment with a call, and goes on in the one that it resumes.
    fn call(&mut self) {
        let state = self.exit();
        let (target, return_address) = (self.value(Type::I64), self.value(Type::I64));
        let resume = self.trace.add_segment();
        let call = Call { state, target, return_address, effect: CallEffect::None, resume };
        self.trace.segments[self.segment].terminator = Terminator::Call(call);
        self.segment = resume;
        for slot in [Slot::RAX, Slot::RDX, Slot::xmm(0, 0), Slot::FLAGS] {
            self.add(Inst::slot_read(slot));
        }
    }

    /// Ends the segment with a switch to two others that meet again.
    fn diamond(&mut self) {
        let ty = [Type::I1, Type::I8, Type::I64][self.random(3)];
        let number = self.value(ty);
        let (left, right, meet) = (self.trace.add_segment(), self.trace.add_segment(), self.trace.add_segment());
        let edge = |segment| Target { segment, args: Vec::new() };
        let mut cases = vec![(0, edge(left)), (1, edge(right)), (77, edge(left))];
        cases.truncate(if ty == Type::I1 { 2 } else { 3 });
        self.trace.segments[self.segment].terminator =
            Terminator::Switch { value: number, cases, default: edge(right) };
        let types = [Type::I64, Type::I64, Type::I1, Type::V128];
        let params = types.map(|ty| self.trace.add_param(meet, ty, None));
        let outside = self.values.len();
        for arm in [left, right] {
            self.segment = arm;
            for _ in 0..self.random(6) {
                self.operation();
            }
            let args = types.iter().map(|ty| self.value(*ty)).collect();
            self.trace.segments[arm].terminator = Terminator::Jump(Target { segment: meet, args });
            self.values.truncate(outside);
        }
        self.segment = meet;
        self.values.extend(params);
    }
}

fn native(maker: &mut Maker) {
    let (a, b) = (maker.value(Type::I64), maker.value(Type::I64));
    let op = NativeOp {
        pc: 0x40,
        bytes: vec![0x0f, 1],
        inputs: vec![(Slot::RDI, a), (Slot::xmm(3, 0), b)],
        outputs: vec![Slot::RDI, Slot::xmm(3, 0)],
        memory: false,
        wide: false,
    };
    let native = maker.trace.natives.push(op);
    let value = maker.trace.append(maker.segment, Inst::native(native));
    maker.operation();
    maker.add(Inst::native_out(value, Slot::RDI));
    maker.add(Inst::native_out(value, Slot::xmm(3, 0)));
}

/// A loop that makes at most eight turns.
pub fn make(choices: Choices, calls: bool) -> Trace {
    let mut trace = Trace::new("random");
    let entry = trace.add_segment();
    let header = trace.add_segment();
    trace.entry = Some(entry);
    let base = trace.append(entry, Inst::slot_read(Slot::RBX));
    let mut maker = Maker { choices, trace, segment: entry, values: Vec::new(), base };
    for slot in [Slot::RAX, Slot::RCX, Slot::RDX, Slot::RSI, Slot::xmm(0, 0), Slot::xmm(1, 0), Slot::FLAGS] {
        maker.add(Inst::slot_read(slot));
    }
    for _ in 0..maker.random(10) {
        maker.operation();
    }
    let types = [Type::I64, Type::I64, Type::I64, Type::I64, Type::I32, Type::I8, Type::I1, Type::I128, Type::V128];
    let start = maker.trace.append(entry, Inst::constant(Type::I64, 8));
    let args = std::iter::once(start).chain(types.map(|ty| maker.value(ty))).collect();
    maker.trace.segments[entry].terminator = Terminator::Jump(Target { segment: header, args });
    maker.segment = header;
    let count = maker.trace.add_param(header, Type::I64, None);
    let params = types.map(|ty| maker.trace.add_param(header, ty, None));
    maker.values.extend(params);
    let zero = maker.trace.append(header, Inst::constant(Type::I64, 0));
    let going = maker.trace.append(header, Inst::binary(Opcode::Ne, Type::I1, count, zero));
    let last = maker.exit();
    maker.trace.append(header, Inst::guard(true, going, last));
    for _ in 0..30 {
        match maker.random(24) {
            0 => maker.guard(),
            1 if calls => maker.call(),
            2 => maker.diamond(),
            3 if maker.trace.natives.len() < 2 => native(&mut maker),
            _ => maker.operation(),
        }
    }
    let minus = maker.trace.append(maker.segment, Inst::constant(Type::I64, -1));
    let next = maker.trace.append(maker.segment, Inst::binary(Opcode::Add, Type::I64, count, minus));
    let args = std::iter::once(next).chain(types.map(|ty| maker.value(ty))).collect();
    maker.trace.segments[maker.segment].terminator = Terminator::Jump(Target { segment: header, args });
    // The dirty-slot rule: what a native operation writes is listed by every exit behind it.
    for exit in maker.trace.exits.values_mut() {
        for slot in [Slot::RDI, Slot::xmm(3, 0)] {
            exit.set(slot, ExitValue::Const(5));
        }
    }
    maker.trace
}
