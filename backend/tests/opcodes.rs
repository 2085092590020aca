//! Every pure opcode, on every type that it is defined on, against the evaluator: as an instruction, with constant and
//! memory operands, and as a recipe of an exit.

mod common;

use common::{World, backend, check};
use redmagic_backend::Backend;
use redmagic_ir::{
    Address, Cond, Effect, ExitData, ExitValue, FLAGS_MASK, Format, Inst, Opcode, Recipe, Segment, Slot, Terminator,
    Trace, Type, Typing, Value, typing,
};

const WORDS: [u64; 22] = [
    0,
    1,
    2,
    3,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0x8000_0000_0000_0001,
    0xffff_ffff_ffff_fffe,
    0xffff_ffff_ffff_ffff,
    0x0123_4567_89ab_cdef,
    0xaaaa_5555_aaaa_5555,
    0x10,
];

fn floats() -> Vec<u64> {
    let numbers = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        -1.5,
        1e300,
        -1e300,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MIN_POSITIVE,
        2147483647.0,
        2147483647.5,
        2147483648.0,
        -2147483648.0,
        -2147483648.9,
        -2147483649.0,
        9223372036854774784.0,
        9223372036854775808.0,
        -9223372036854775808.0,
        -9223372036854777856.0,
        0.1,
    ];
    // Denormals; quiet NaNs, signalling NaNs, both signs, with payloads.
    let bits = [1, 0x8000_0000_0000_0001, 0x000f_ffff_ffff_ffff, 0x7ff8_0000_0000_0000, 0xfff8_0000_0000_0123];
    let more = [0x7ff0_0000_0000_0001, 0xfff4_0000_0000_4567, 0x7fff_ffff_ffff_ffff];
    numbers.iter().map(|number: &f64| number.to_bits()).chain(bits).chain(more).collect()
}

/// `binary32` numbers, in both halves of a word.
fn singles() -> Vec<u64> {
    let numbers = [0.0, -0.0, 1.0, -1.5, 3.3, 1e38, -1e38, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE];
    let bits = [1, 0x807f_ffff, 0x7fc0_0000, 0xffc0_0123, 0x7f80_0001, 0xffa0_4567, 0x7fff_ffff];
    let all = numbers.iter().map(|number: &f32| number.to_bits()).chain(bits);
    all.map(|bits| u64::from(bits) << 32 | u64::from(bits)).collect()
}

/// Whether the operands are numbers, and of which format.
fn is_double(op: Opcode) -> bool {
    matches!(
        op.format(),
        Format::Unary(Typing::F64 | Typing::F64ToInt | Typing::F32Narrow)
            | Format::Binary(Typing::F64 | Typing::F64Compare | Typing::FlagsF64)
            | Format::Ternary(Typing::F64)
    )
}

fn is_single(op: Opcode) -> bool {
    matches!(
        op.format(),
        Format::Unary(Typing::F32 | Typing::F32Widen) | Format::Binary(Typing::F32) | Format::Ternary(Typing::F32)
    )
}

/// Where operands come from.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Source {
    /// Slots.
    Slot,
    /// Slots, the last operand a constant.
    LastConstant(u64),
    /// Slots, the first operand a constant.
    FirstConstant(u64),
    /// Memory at rbx.
    Memory,
}

/// The slots of operand `at`: rcx and rdx, rsi and rdi, r8 and r9.
fn slots(at: usize) -> (Slot, Slot) {
    [(1, 2), (6, 7), (8, 9)].map(|(low, high)| (Slot::gpr(low), Slot::gpr(high)))[at]
}

struct Build {
    trace: Trace,
    entry: Segment,
}

impl Build {
    fn add(&mut self, inst: Inst) -> Value {
        self.trace.append(self.entry, inst)
    }

    fn operand(&mut self, at: usize, arity: usize, ty: Type, source: Source) -> Value {
        let (low, high) = slots(at);
        match source {
            Source::LastConstant(bits) if at + 1 == arity => self.add(Inst::constant(ty, bits as i64)),
            Source::FirstConstant(bits) if at == 0 => self.add(Inst::constant(ty, bits as i64)),
            Source::Memory if ty != Type::I1 => {
                let root = self.add(Inst::slot_read(Slot::RBX));
                self.add(Inst::load(ty, Address::new(root, 16 * at as i32)))
            }
            _ => {
                let low = self.add(Inst::slot_read(low));
                match ty {
                    Type::I64 => low,
                    Type::I128 | Type::V128 => {
                        let high = self.add(Inst::slot_read(high));
                        self.add(Inst::binary(Opcode::Join, ty, low, high))
                    }
                    _ => self.add(Inst::unary(Opcode::Trunc, ty, low)),
                }
            }
        }
    }

    /// Makes rax (and r10) the bits of a value.
    fn result(&mut self, value: Value, exit: &mut ExitData) {
        match self.trace.ty(value) {
            Type::I64 => exit.set(Slot::RAX, ExitValue::Value(value)),
            Type::I128 | Type::V128 => {
                let low = self.add(Inst::unary(Opcode::Low, Type::I64, value));
                let high = self.add(Inst::unary(Opcode::High, Type::I64, value));
                exit.set(Slot::RAX, ExitValue::Value(low));
                exit.set(Slot::gpr(10), ExitValue::Value(high));
            }
            _ => {
                let wide = self.add(Inst::unary(Opcode::Zext, Type::I64, value));
                exit.set(Slot::RAX, ExitValue::Value(wide));
            }
        }
    }
}

/// A trace that computes one operation; as a recipe of the exit if `is_recipe`.
fn trace_of(op: Opcode, ty: Type, operands: &[Type], cond: Option<Cond>, source: Source, is_recipe: bool) -> Trace {
    let mut trace = Trace::new(format!("{}.{ty} {operands:?} {cond:?} {source:?} recipe={is_recipe}", op.name()));
    let entry = trace.add_segment();
    trace.entry = Some(entry);
    let mut build = Build { trace, entry };
    // Slot reads come first in a trace, so all of them are made by the operands.
    let mut args = [Value::NONE; 3];
    for (at, operand) in operands.iter().enumerate() {
        args[at] = build.operand(at, operands.len(), *operand, source);
    }
    let mut exit = ExitData::new(0x40, 0);
    if is_recipe {
        let mut recipe = Recipe { op, ty, args: [ExitValue::Undefined; 3], arg_types: [Type::Void; 3] };
        for at in 0..operands.len() {
            recipe.args[at] = match build.trace.as_const(args[at]) {
                Some(imm) => {
                    recipe.arg_types[at] = operands[at];
                    ExitValue::Const(imm)
                }
                None => ExitValue::Value(args[at]),
            };
        }
        exit.recipes.push(recipe);
        let slot = if op.is_flags() { Slot::FLAGS } else { Slot::RAX };
        let mut result = ExitValue::Recipe(0);
        if slot.ty() != ty {
            let widened = Recipe { op: Opcode::Zext, ty: Type::I64, args: [result; 3], arg_types: [Type::Void; 3] };
            let widened = Recipe { args: [result, ExitValue::Undefined, ExitValue::Undefined], ..widened };
            exit.recipes.push(widened);
            result = ExitValue::Recipe(1);
        }
        exit.set(slot, result);
    } else {
        let inst = match cond {
            Some(cond) => Inst::cond(cond, args[0]),
            None => Inst::ternary(op, ty, args[0], args[1], args[2]),
        };
        let value = build.add(inst);
        build.result(value, &mut exit);
    }
    let exit = build.trace.exits.push(exit);
    build.trace.segments[entry].terminator = Terminator::Leave(exit);
    build.trace
}

/// The operand types of every well-typed form of an opcode with this result type.
fn forms(op: Opcode, ty: Type) -> Vec<Vec<Type>> {
    let types = Type::ALL;
    let candidates: Vec<Vec<Type>> = match op.format() {
        Format::Cond if ty == Type::I1 => return vec![vec![Type::I32]],
        Format::Unary(_) => types.iter().map(|a| vec![*a]).collect(),
        Format::Binary(_) => types.iter().flat_map(|a| types.iter().map(|b| vec![*a, *b])).collect(),
        Format::Ternary(Typing::FlagsShift) => types.iter().map(|a| vec![*a, Type::I8, Type::I32]).collect(),
        Format::Ternary(Typing::FlagsCarry) => types.iter().map(|a| vec![*a, *a, Type::I1]).collect(),
        Format::Ternary(Typing::Lanes | Typing::F64) => vec![vec![Type::I64; 3]],
        Format::Ternary(Typing::F32) => vec![vec![Type::I32; 3]],
        Format::Ternary(_) => types.iter().map(|a| vec![Type::I1, *a, *a]).collect(),
        Format::Cond
        | Format::Param
        | Format::Const
        | Format::Slot
        | Format::Tick
        | Format::Load
        | Format::Store
        | Format::Guard
        | Format::Native
        | Format::NativeOut => Vec::new(),
    };
    candidates.into_iter().filter(|operands| typing::check(op, ty, operands).is_ok()).collect()
}

/// Runs one trace on a grid of operands; the number of comparisons.
fn exercise(backend: &mut Backend, trace: Trace, op: Opcode, operands: &[Type]) -> usize {
    let mut world = World::with_arena(backend, trace, 48);
    let (floats, singles) = (floats(), singles());
    let of = |at: usize| -> &[u64] {
        let ty = operands.get(at).copied();
        match ty {
            _ if ty.is_none() => &WORDS[..1],
            _ if is_double(op) => &floats,
            _ if is_single(op) => &singles,
            Some(Type::I1) => &WORDS[..2],
            _ => &WORDS,
        }
    };
    let mut compared = 0;
    let mut random = 1u64;
    for &a in of(0) {
        for &b in of(1) {
            // The full grid of three operands is large; the third one takes turns.
            random = redmagic_ir::sandbox::mix(random, a ^ b);
            let thirds = of(2);
            let mut c = thirds[random as usize % thirds.len()];
            if op.format() == Format::Ternary(Typing::FlagsShift) {
                c &= u64::from(FLAGS_MASK);
            }
            let values = [a, b, c];
            let mut guest = world.guest(1, |at| {
                let value = values[(at / 16).min(2)];
                let value = if at % 16 < 8 { value } else { value.rotate_left(13) };
                value.to_le_bytes()[at % 8]
            });
            for (at, value) in values.into_iter().enumerate() {
                let (low, high) = slots(at);
                // Wrong bits around narrow operands must not matter.
                guest.slots[low.index()] = match operands.get(at) {
                    Some(ty) if ty.bits() < 64 => value & ty.mask() as u64 | random << ty.bits(),
                    _ => value,
                };
                guest.slots[high.index()] = value.rotate_left(13);
            }
            guest.slots[Slot::RBX.index()] = world.memory();
            guest.slots[Slot::RAX.index()] = 0x5555;
            compared += usize::from(check(&mut world, &guest).is_some());
        }
    }
    compared
}

#[test]
fn every_pure_opcode_on_every_type_agrees_with_the_evaluator() {
    let mut backend = backend();
    let mut compared = 0;
    for &op in Opcode::ALL {
        let mut forms_of_op = 0;
        for ty in Type::ALL {
            for operands in forms(op, ty) {
                forms_of_op += 1;
                let conditions = Cond::ALL.map(Some);
                let conditions: &[Option<Cond>] = if op == Opcode::Cond { &conditions } else { &[None] };
                let constant = match (is_double(op), is_single(op)) {
                    (true, _) => 0x7ff0_0000_0000_0001,
                    (_, true) => 0x7f80_0001,
                    _ => 0x85,
                };
                let sources =
                    [Source::Slot, Source::Memory, Source::LastConstant(constant), Source::FirstConstant(constant)];
                for &cond in conditions {
                    for source in sources {
                        let trace = trace_of(op, ty, &operands, cond, source, false);
                        compared += exercise(&mut backend, trace, op, &operands);
                    }
                }
                let fits_slot = ty == Type::I64 || ty.bits() < 64;
                if op.effect() == Effect::Pure && op != Opcode::Cond && fits_slot {
                    for source in [Source::Slot, Source::Memory, Source::LastConstant(constant)] {
                        let trace = trace_of(op, ty, &operands, None, source, true);
                        compared += exercise(&mut backend, trace, op, &operands);
                    }
                }
            }
        }
        let plain = matches!(op.format(), Format::Unary(_) | Format::Binary(_) | Format::Ternary(_) | Format::Cond);
        assert_eq!(forms_of_op > 0, plain && op.effect() != Effect::Barrier, "{op:?}");
    }
    assert!(compared > 100_000, "only {compared} comparisons");
}

/// Constant divisors are multiplied with: every kind of them, with dividends around their multiples, too.
#[test]
fn constant_divisors_agree_with_the_evaluator() {
    let mut backend = backend();
    let mut compared = 0;
    let small = (1u64..=40).flat_map(|divisor| [divisor, divisor.wrapping_neg()]);
    let powers = (6..64).flat_map(|log| [1u64 << log, (1 << log) - 1, (1 << log) + 1, (1u64 << log).wrapping_neg()]);
    let others = [100, 641, 1000, 6_700_417, 1_000_000_007, 0x5555_5555_5555_5555, 0xaaaa_aaaa_aaaa_aaab];
    for divisor in small.chain(powers).chain(others) {
        for (op, ty) in [Opcode::Udiv, Opcode::Urem, Opcode::Sdiv, Opcode::Srem]
            .into_iter()
            .flat_map(|op| [Type::I16, Type::I32, Type::I64].map(|ty| (op, ty)))
        {
            let trace = trace_of(op, ty, &[ty, ty], None, Source::LastConstant(divisor), false);
            let mut world = World::with_arena(&mut backend, trace, 48);
            let multiples = [1u64, 2, 3, 0xffff, 0x1234_5678_9abc_def0].map(|factor| divisor.wrapping_mul(factor));
            let around = multiples
                .into_iter()
                .flat_map(|multiple| [multiple, multiple.wrapping_sub(1), multiple.wrapping_add(1)]);
            for dividend in around.chain(WORDS) {
                let mut guest = world.guest(1, |_| 0);
                guest.slots[slots(0).0.index()] = dividend;
                guest.slots[Slot::RBX.index()] = world.memory();
                compared += usize::from(check(&mut world, &guest).is_some());
            }
        }
    }
    assert!(compared > 50_000, "only {compared} comparisons");
}
