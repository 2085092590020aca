//! Operations that round as MXCSR says, under each of its rounding modes: hardware against compiled code. (The evaluator
//! rounds to nearest only.)

use iced_x86::Mnemonic;
use redmagic_backend::{Backend, Options};
use redmagic_fuzz::native::Executor;
use redmagic_fuzz::oracle::{Case, Tally};
use redmagic_fuzz::place::{DF, place};
use redmagic_fuzz::record::Snapshot;
use redmagic_fuzz::rng::Rng;
use redmagic_fuzz::shapes::{Places, Shapes};
use redmagic_fuzz::values;

const ROUNDED: &[Mnemonic] = {
    use Mnemonic::*;
    &[
        Addsd,
        Subsd,
        Mulsd,
        Divsd,
        Sqrtsd,
        Addpd,
        Haddpd,
        Addss,
        Subss,
        Mulss,
        Divss,
        Sqrtss,
        Addps,
        Sqrtps,
        Cvtsi2sd,
        Cvtsi2ss,
        Cvtsd2ss,
        Cvtpd2ps,
        Cvtdq2ps,
        Cvtsd2si,
        Cvtss2si,
        Cvtpd2dq,
        Cvtps2dq,
        Cvttsd2si,
        Cvttps2dq,
        Roundsd,
        Roundss,
        Roundpd,
        Roundps,
        Vfmadd213sd,
        Vfnmsub231pd,
        Vfmsub132ss,
        Vfmaddsub213ps,
    ]
};

#[test]
fn compiled_code_rounds_as_the_hardware_does() {
    let mut executor = Executor::new().unwrap();
    let places = Places { arena: executor.arena_address(), pads: std::array::from_fn(|pad| executor.pad_address(pad)) };
    let mut backend = Backend::new(&Options { verify: true, dump: false }).unwrap();
    let mut tally = Tally::default();
    let shapes = Shapes::all();
    let codes = shapes.codes.iter().filter(|code| ROUNDED.contains(&code.mnemonic()));
    for (number, &code) in codes.enumerate() {
        let mut rng = Rng::new(number as u64);
        for _ in 0..8 {
            let Some(inst) = shapes.instruction_of(code, &places, &mut rng) else { continue };
            let inst = executor.load(&[inst]).unwrap()[0];
            let mut case = None;
            for round in 0..64 {
                let mut start = Snapshot { state: values::state(&mut rng), arena: *executor.arena() };
                if !place(&inst, &mut start.state, &mut start.arena, &places, &mut rng) {
                    break;
                }
                start.state.flags &= !DF;
                if case.is_none() {
                    case = Case::new(&mut executor, &mut backend, &[inst], &start, &|_| (), &mut tally).unwrap();
                }
                // The rounding mode is in bits 13 and 14.
                start.state.mxcsr |= (round % 4) << 13;
                if let Some(case) = &case {
                    case.check_code(&mut executor, &start, &mut tally).unwrap_or_else(|failure| panic!("{failure}"));
                }
            }
        }
    }
    assert!(tally.compiled > 10_000, "only {} states", tally.compiled);
}
