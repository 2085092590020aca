//! Resume exits: which loads have one, and that the state it describes is the one before the load's instruction.

mod bench;

use bench::{BASE, Guest};
use iced_x86::code_asm::*;
use redmagic_ir::eval::Outcome;
use redmagic_ir::sandbox::{Background, TestGuest, mix, run};
use redmagic_ir::{
    CallEffect, Exit, ExitValue, FLAGS_MASK, Inst, Region, RegionKind, Slot, Trace, Type, Value, verify,
};
use redmagic_lift::{End, Event, Recording, lift};

/// Declared memory.
const REGION: Region = Region { start: 0x9000, end: 0xa000, kind: RegionKind::Declared };

/// Lifts and verifies; every access of `events` is noted to have been in declared memory.
fn lifted(guest: &Guest, mut events: Vec<Event>, end: End, regions: &[Region]) -> Trace {
    for event in &mut events {
        if let Event::Inst { inst, address, .. } = event
            && (0..inst.op_count()).any(|operand| inst.op_kind(operand) == iced_x86::OpKind::Memory)
        {
            *address = 0x9100;
        }
    }
    let recording = Recording { name: "test".into(), start: BASE, events, end, regions: regions.to_vec(), meter: None };
    let trace = lift(&recording, guest).unwrap().trace;
    verify(&trace).unwrap_or_else(|errors| panic!("{}\n{trace}", errors[0]));
    trace
}

/// A copy of `trace` that leaves by the resume exit of `load` instead of executing the load.
fn forced(trace: &Trace, load: Value, exit: Exit) -> Trace {
    let mut trace = trace.clone();
    let never = trace.add_inst(Inst::constant(Type::I1, 0));
    let guard = trace.add_inst(Inst::guard(true, never, exit));
    for segment in trace.segments.values_mut() {
        if let Some(at) = segment.insts.iter().position(|value| *value == load) {
            segment.insts.splice(at..at, [never, guard]);
        }
    }
    verify(&trace).unwrap_or_else(|errors| panic!("{}\n{trace}", errors[0]));
    trace
}

fn machine(seed: u64) -> TestGuest {
    let mut machine = TestGuest::new(seed);
    machine.memory.set_background(Background::Derived(seed));
    for slot in Slot::all() {
        let value = mix(seed, slot.index() as u64);
        machine.slots[slot.index()] = if slot == Slot::FLAGS { value & u64::from(FLAGS_MASK) } else { value };
    }
    machine
}

fn run_to_exit(trace: &Trace, machine: &mut TestGuest) -> Exit {
    match run(trace, machine, 10_000) {
        Ok(Outcome::Exit(exit)) => exit,
        other => panic!("{other:?}\n{trace}"),
    }
}

/// Forces every resume exit, and compares with what a recording leaves behind that ends at the same place.
fn sweep(guest: &Guest, events: &[Event], end: End) -> usize {
    let trace = lifted(guest, events.to_vec(), end, &[REGION]);
    let loads: Vec<(Value, Exit)> = trace.resume_exits().collect();
    for &(load, exit) in &loads {
        let data = &trace.exits[exit];
        let before = events[..data.step as usize].to_vec();
        let expected = match before.is_empty() {
            true => None,
            false => Some(lifted(guest, before, End::Exit { pc: data.pc }, &[])),
        };
        let forced = forced(&trace, load, exit);
        for seed in 0..20 {
            let (mut first, mut second) = (machine(seed), machine(seed));
            if let Some(expected) = &expected {
                run_to_exit(expected, &mut first);
            }
            assert_eq!(run_to_exit(&forced, &mut second), exit, "{forced}");
            for slot in Slot::all().filter(|slot| data.get(*slot) != Some(ExitValue::Undefined)) {
                assert_eq!(first.slots[slot.index()], second.slots[slot.index()], "{slot} at {exit}\n{forced}");
            }
            assert!(first.memory.written().eq(second.memory.written()), "memory at {exit}\n{forced}");
            assert_eq!(first.events, second.events, "{exit}\n{forced}");
        }
    }
    loads.len()
}

#[test]
fn a_trace_knows_where_it_starts() {
    let guest = Guest::new(|a| a.nop().unwrap());
    assert_eq!(guest.lift_line(&[]).start, BASE);
}

#[test]
fn the_state_before_every_kind_of_load_in_a_line() {
    let guest = Guest::new(|a| {
        a.add(rax, rcx).unwrap();
        a.mov(rdx, qword_ptr(rbx)).unwrap();
        a.inc(rcx).unwrap();
        a.add(dword_ptr(rbx + rcx * 4), 7).unwrap();
        a.adc(al, byte_ptr(rsi + 3)).unwrap();
        a.push(qword_ptr(rdi)).unwrap();
        a.pop(r8).unwrap();
        a.movups(xmm1, xmmword_ptr(rsi)).unwrap();
        a.addsd(xmm1, qword_ptr(rsi + 8)).unwrap();
        a.cpuid().unwrap();
        a.cmp(rdx, qword_ptr(r9)).unwrap();
        a.cmovb(rax, qword_ptr(r9 + 8)).unwrap();
        a.movzx(r10d, byte_ptr(rax)).unwrap();
        a.sub(rax, qword_ptr(rsp + 16)).unwrap();
    });
    // All but `pop`, which has no explicit memory operand.
    assert_eq!(sweep(&guest, &guest.events(&[]), End::Exit { pc: guest.end() }), 10);
}

#[test]
fn the_state_in_the_first_iteration_of_a_loop() {
    let guest = Guest::new(|a| {
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.mov(eax, dword_ptr(rbx)).unwrap();
        a.lea(rbx, ptr(rbx + 4)).unwrap();
        a.xor(qword_ptr(rbp + 8), rax).unwrap();
        a.movzx(ecx, word_ptr(rbx)).unwrap();
        a.dec(rdi).unwrap();
        a.jmp(top).unwrap();
    });
    assert_eq!(sweep(&guest, &guest.events(&[]), End::Loop), 3);
}

#[test]
fn the_state_behind_a_residual_call() {
    let guest = Guest::new(|a| {
        a.add(rax, rbx).unwrap();
        a.mov(rdx, qword_ptr(rbx)).unwrap();
        a.call(0x50_0000).unwrap();
        a.sub(rbp, 1).unwrap();
        a.mov(rdx, qword_ptr(rax)).unwrap();
    });
    let events: Vec<Event> = guest
        .events_until(3, &[])
        .into_iter()
        .map(|event| match event {
            Event::Inst { inst, next, .. } if inst.mnemonic() == iced_x86::Mnemonic::Call => Event::Call {
                inst,
                target: next,
                return_address: inst.next_ip(),
                tail: false,
                effect: CallEffect::Any,
                guard_target: false,
                external: false,
            },
            other => other,
        })
        .chain(rest(&guest))
        .collect();
    assert_eq!(sweep(&guest, &events, End::Exit { pc: guest.end() }), 2);
}

/// The last two instructions.
fn rest(guest: &Guest) -> Vec<Event> {
    let last = guest.inst(guest.end() - 3);
    let before = guest.inst(guest.end() - 7);
    [before, last].map(|inst| Event::Inst { inst, next: inst.next_ip(), address: 0, value: 0 }).to_vec()
}

#[test]
fn only_loads_in_declared_memory_have_one() {
    let guest = Guest::new(|a| {
        a.mov(rdx, qword_ptr(rbx)).unwrap();
        a.mov(qword_ptr(rbx), rdx).unwrap();
        a.mov(rax, qword_ptr(0x9100)).unwrap();
    });
    let end = End::Exit { pc: guest.end() };
    let exits = |regions: &[Region]| lifted(&guest, guest.events(&[]), end, regions).resume_exits().count();
    assert_eq!(exits(&[]), 0);
    assert_eq!(exits(&[REGION]), 1);
    assert_eq!(exits(&[Region { kind: RegionKind::ReadOnly, ..REGION }]), 0);
    assert_eq!(exits(&[Region { start: 0x9101, ..REGION }]), 0);
    assert_eq!(exits(&[Region { end: 0x9107, ..REGION }]), 0);
    assert_eq!(exits(&[Region { end: 0x9108, ..REGION }]), 1);
    // Out of order and overlapping.
    let small = |start, end| Region { start, end, ..REGION };
    assert_eq!(exits(&[small(0xb000, 0xc000), REGION, small(0x9050, 0x9060), small(0x1000, 0x9040)]), 1);
}
