//! The instruction information that the lifter's checks rely on (which registers and flags an instruction reads and
//! writes), compared with this CPU.
//!
//! Method: run an instruction twice, the second time with everything that it is not said to read replaced. What it is
//! said to write must come out equal, and what it is not said to write must come out as it went in.

use iced_x86::{Instruction, InstructionInfoFactory, OpAccess, Register, RflagsBits};
use redmagic_fuzz::native::{Executor, Outcome, State};
use redmagic_fuzz::place::{gpr_number, place};
use redmagic_fuzz::rng::Rng;
use redmagic_fuzz::shapes::{Places, Shapes};
use redmagic_fuzz::undefined::{undefined_flags, undefined_result};
use redmagic_fuzz::values;

/// The bytes of a register file: one bit per byte of each register, and flag bits.
#[derive(Clone, Copy, Default)]
struct Parts {
    gpr: [u8; 16],
    vector: [u32; 16],
    flags: u64,
}

impl Parts {
    fn add(&mut self, register: Register) {
        if register.is_gpr() {
            let high = matches!(register, Register::AH | Register::CH | Register::DH | Register::BH);
            self.gpr[gpr_number(register)] |= if high { 2 } else { ((1u32 << register.size()) - 1) as u8 };
        } else if register.is_vector_register() && register.number() < 16 {
            // What clears all above it is said to write a zmm register.
            self.vector[register.number()] |= if register.is_xmm() { 0xffff } else { 0xffff_ffff };
        }
    }
}

fn flag_bits(bits: u32) -> u64 {
    let table = [
        (RflagsBits::CF, 0),
        (RflagsBits::PF, 2),
        (RflagsBits::AF, 4),
        (RflagsBits::ZF, 6),
        (RflagsBits::SF, 7),
        (RflagsBits::DF, 10),
        (RflagsBits::OF, 11),
    ];
    table.iter().filter(|entry| bits & entry.0 != 0).map(|entry| 1 << entry.1).sum()
}

fn byte_mask(bytes: u32, at: usize) -> u64 {
    (0..8).filter(|byte| bytes >> (at + byte) & 1 == 1).map(|byte| 0xff << (byte * 8)).sum()
}

/// Takes the bits of `parts` from `ours`, the others from `theirs`.
fn mix(parts: &Parts, ours: &State, theirs: &State) -> State {
    let mut mixed = *ours;
    for number in 0..16 {
        let mask = byte_mask(u32::from(parts.gpr[number]), 0);
        mixed.gpr[number] = ours.gpr[number] & mask | theirs.gpr[number] & !mask;
        for lane in 0..4 {
            let mask = byte_mask(parts.vector[number], lane * 8);
            mixed.vector[number][lane] = ours.vector[number][lane] & mask | theirs.vector[number][lane] & !mask;
        }
    }
    mixed.flags = ours.flags & parts.flags | theirs.flags & !parts.flags;
    mixed
}

/// What `inst` is said to read (or possibly keep) and to write.
fn parts(inst: &Instruction, before: &State, factory: &mut InstructionInfoFactory) -> (Parts, Parts) {
    let (mut read, mut written) = (Parts::default(), Parts::default());
    for used in factory.info(inst).used_registers() {
        match used.access() {
            OpAccess::Read | OpAccess::CondRead => read.add(used.register()),
            OpAccess::Write => written.add(used.register()),
            OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite => {
                read.add(used.register());
                written.add(used.register());
            }
            OpAccess::None | OpAccess::NoMemAccess => {}
        }
    }
    read.flags = flag_bits(inst.rflags_read());
    written.flags = flag_bits(inst.rflags_modified());
    // The one known error: a shift by CL keeps all flags when the count is 0. `rep` may do nothing, too.
    let by_register = matches!(inst.op_count(), 2 | 3) && inst.op_register(inst.op_count() - 1) == Register::CL;
    if by_register || inst.has_rep_prefix() || inst.has_repne_prefix() {
        read.flags |= written.flags;
    }
    // What is undefined may depend on anything.
    read.flags |= u64::from(undefined_flags(inst, before));
    (read, written)
}

#[test]
fn registers_and_flags_are_as_stated() {
    let mut executor = Executor::new().unwrap();
    let places = Places { arena: executor.arena_address(), pads: std::array::from_fn(|pad| executor.pad_address(pad)) };
    let shapes = Shapes::all();
    let mut factory = InstructionInfoFactory::new();
    for (number, &code) in shapes.codes.iter().enumerate() {
        let mut rng = Rng::new(number as u64);
        for _ in 0..4 {
            let Some(inst) = shapes.instruction_of(code, &places, &mut rng) else { continue };
            let inst = executor.load(&[inst]).unwrap()[0];
            for _ in 0..8 {
                let mut before = values::state(&mut rng);
                let mut arena = *executor.arena();
                values::memory(&mut rng, &mut arena);
                if !place(&inst, &mut before, &mut arena, &places, &mut rng) {
                    break;
                }
                if undefined_result(&inst, &before) {
                    continue;
                }
                let (read, written) = parts(&inst, &before, &mut factory);
                let other = mix(&read, &before, &values::state(&mut rng));
                *executor.arena_mut() = arena;
                let mut first = before;
                if let Outcome::Fault { .. } = executor.run(&mut first) {
                    continue;
                }
                let memory = *executor.arena();
                *executor.arena_mut() = arena;
                let mut second = other;
                let outcome = executor.run(&mut second);
                let context = || format!("{inst} {code:?}\nbefore {before:x?}\nfirst {first:x?}\nsecond {second:x?}");
                assert!(matches!(outcome, Outcome::Completed { .. }), "reads more: {}", context());
                let undefined = u64::from(undefined_flags(&inst, &before));
                for (at, input, output) in [(1, &before, &first), (2, &other, &second)] {
                    let mut kept = mix(&written, output, input);
                    kept.flags = kept.flags & !undefined | output.flags & undefined;
                    kept.mxcsr = output.mxcsr;
                    assert_eq!(&kept, output, "run {at} writes more: {}", context());
                }
                let mut expected = mix(&written, &first, &second);
                expected.flags = expected.flags & !undefined | second.flags & undefined;
                expected.mxcsr = second.mxcsr;
                assert_eq!(expected, second, "results depend on more: {}", context());
                assert_eq!(memory, *executor.arena(), "stores depend on more: {}", context());
            }
        }
    }
}
