//! How long compiling takes. Prints a table; run it with
//! `cargo test --release -p redmagic-backend --test speed -- --ignored --nocapture`.

use redmagic_backend::{Backend, Layout, Options, Request};
use redmagic_ir::{Address, ExitData, ExitValue, Inst, Opcode, Segment, Slot, Target, Terminator, Trace, Type, Value};
use std::time::{Duration, Instant};

/// A loop of `operations` operations over 10 general and 4 vector registers, with `guards` guards whose exits store
/// `stored` values each.
fn trace(operations: usize, guards: usize, stored: usize) -> Trace {
    let mut trace = Trace::new("speed");
    let entry = trace.add_segment();
    let body = trace.add_segment();
    trace.entry = Some(entry);
    let slots: Vec<Slot> = (0..10)
        .map(|at| Slot::gpr([0, 1, 2, 6, 7, 8, 9, 10, 11, 12][at]))
        .chain((0..4).map(|at| Slot::xmm(at, 0)))
        .collect();
    let base = trace.append(entry, Inst::slot_read(Slot::RBX));
    let args: Vec<Value> = slots.iter().map(|slot| trace.append(entry, Inst::slot_read(*slot))).collect();
    trace.segments[entry].terminator = Terminator::Jump(Target { segment: body, args });
    let mut registers: Vec<Value> = slots.iter().map(|slot| trace.add_param(body, Type::I64, Some(*slot))).collect();
    let mut guarded = 0;
    for at in 0..operations {
        operation(&mut trace, body, at, base, &mut registers);
        if (at + 1) * guards / operations > guarded {
            guarded += 1;
            guard(&mut trace, body, at, &slots, &registers, stored);
        }
    }
    trace.segments[body].terminator = Terminator::Jump(Target { segment: body, args: registers });
    trace
}

fn operation(trace: &mut Trace, body: Segment, at: usize, base: Value, registers: &mut [Value]) {
    let (a, b) = (at * 7 % 10, (at * 3 + 1) % 10);
    let (x, y) = (10 + at * 5 % 4, 10 + (at + 1) % 4);
    let offset = (at * 24 % 2048) as i32;
    match at % 20 {
        0..8 => {
            let op = [Opcode::Add, Opcode::Xor, Opcode::Sub, Opcode::And][at % 4];
            registers[a] = trace.append(body, Inst::binary(op, Type::I64, registers[a], registers[b]));
        }
        8..13 => registers[a] = trace.append(body, Inst::load(Type::I64, Address::new(base, offset))),
        13..16 => {
            trace.append(body, Inst::store(Type::I64, Address::new(base, offset), registers[a]));
        }
        _ => {
            let op = [Opcode::Fadd64, Opcode::Fmul64][at % 2];
            registers[x] = trace.append(body, Inst::binary(op, Type::I64, registers[x], registers[y]));
        }
    }
}

fn guard(trace: &mut Trace, body: Segment, at: usize, slots: &[Slot], registers: &[Value], stored: usize) {
    let mut exit = ExitData::new(at as u64, 0);
    for index in 0..stored {
        let index = (at + index) % slots.len();
        exit.set(slots[index], ExitValue::Value(registers[index]));
    }
    let exit = trace.exits.push(exit);
    let (a, b) = (registers[at % 10], registers[(at + 4) % 10]);
    let condition = trace.append(body, Inst::binary(Opcode::Ult, Type::I1, a, b));
    trace.append(body, Inst::guard(true, condition, exit));
}

/// The shortest of many compilations, and the bytes of code.
fn measure(backend: &mut Backend, trace: &Trace) -> (Duration, usize) {
    let layout = Layout {
        slots: std::array::from_fn(|slot| slot as i32 * 8),
        above: 0,
        free_record: 1000,
        flag_args: [1008, 1016, 1024],
        record_resume: 0,
        record_target: 8,
        record_return: 16,
        record_save: 24,
        save_words: 64,
    };
    let request = Request { trace, layout: &layout, exit_records: 1 << 40, exit_stride: 64, natives: &[] };
    let mut best = (Duration::MAX, 0);
    for _ in 0..200 {
        let start = Instant::now();
        let compiled = backend.compile(&request).expect("it compiles");
        best = best.min((start.elapsed(), compiled.code.len()));
    }
    best
}

#[test]
#[ignore = "a measurement"]
fn compile_time() {
    let mut backend = Backend::new(&Options::default()).expect("this machine is supported");
    println!("operations guards stored   microseconds  bytes");
    for (operations, guards, stored) in [
        (1, 0, 0),
        (100, 0, 0),
        (100, 12, 5),
        (300, 0, 0),
        (300, 40, 0),
        (300, 40, 5),
        (300, 40, 14),
        (1000, 0, 0),
        (1000, 126, 0),
        (1000, 126, 5),
        (1000, 126, 14),
    ] {
        let (time, bytes) = measure(&mut backend, &trace(operations, guards, stored));
        println!("{operations:10} {guards:6} {stored:6} {:14.1} {bytes:6}", time.as_nanos() as f64 / 1000.0);
    }
}
