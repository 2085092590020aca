//! What lifted traces look like: parameters, exits, guards, calls.

mod bench;

use bench::{BASE, Guest};
use iced_x86::code_asm::*;
use redmagic_ir::{CallEffect, ExitKind, ExitValue, Opcode, Slot, Terminator, Trace, Value};
use redmagic_lift::{Convention, End, Event, Refusal, is_native, refusal};

fn count(trace: &Trace, op: Opcode) -> usize {
    let listed = trace.segments.values().flat_map(|segment| &segment.insts);
    listed.filter(|&&value| trace.insts[value].op == op).count()
}

fn params(trace: &Trace) -> Vec<Slot> {
    let params = trace.segments.values().flat_map(|segment| &segment.params);
    params.filter_map(|&value| trace.insts[value].slot()).collect()
}

/// The only exit to `pc`.
fn exit_to(trace: &Trace, pc: u64) -> &redmagic_ir::ExitData {
    let mut found = trace.exits.values().filter(|exit| exit.pc == pc);
    let exit = found.next().unwrap();
    assert!(found.next().is_none());
    exit
}

fn value_of(trace: &Trace, pc: u64, slot: Slot) -> Value {
    match exit_to(trace, pc).get(slot) {
        Some(ExitValue::Value(value)) => value,
        other => panic!("{slot}: {other:?}\n{trace}"),
    }
}

#[test]
fn a_loop_carries_what_it_writes_and_reads_the_rest_once() {
    let guest = Guest::new(|a| {
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.add(rax, rcx).unwrap();
        a.dec(rdi).unwrap();
        a.jne(top).unwrap();
        a.cmp(rax, rbx).unwrap();
    });
    let trace = guest.lift_loop(&[true]);
    // `add` overwrites the flags that the back edge could carry.
    assert_eq!(params(&trace), [Slot::RAX, Slot::RDI]);
    let behind = guest.end() - 3;
    let exit = exit_to(&trace, behind);
    assert_eq!(exit.step, 3);
    assert_eq!(exit.get(Slot::RCX), None);
    // `cmp` overwrites them.
    assert_eq!(exit.get(Slot::FLAGS), Some(ExitValue::Undefined));
    assert_eq!(trace.insts[value_of(&trace, behind, Slot::RAX)].op, Opcode::Add);
}

#[test]
fn a_register_that_is_back_at_its_value_is_no_parameter() {
    let guest = Guest::new(|a| {
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.mov(rdx, rax).unwrap();
        a.mov(rax, rbx).unwrap();
        a.mov(rax, rdx).unwrap();
        a.jmp(top).unwrap();
    });
    // rdx gets the same value every time, but that is not known at the first header.
    assert_eq!(params(&guest.lift_loop(&[])), [Slot::RDX]);
}

#[test]
fn exits_before_a_slot_is_written_list_the_parameter() {
    let guest = Guest::new(|a| {
        let mut top = a.create_label();
        let mut out = a.create_label();
        a.set_label(&mut top).unwrap();
        a.test(rbx, rbx).unwrap();
        a.je(out).unwrap();
        a.mov(rax, rbx).unwrap();
        a.jmp(top).unwrap();
        a.set_label(&mut out).unwrap();
        a.xor(ecx, ecx).unwrap();
    });
    let trace = guest.lift_loop(&[false]);
    let out = guest.end() - 2;
    let sum = value_of(&trace, out, Slot::RAX);
    assert_eq!(trace.insts[sum].op, Opcode::Param);
    assert_eq!(count(&trace, Opcode::FlLogic), 0, "dead at both ends");
}

#[test]
fn conditions_use_the_compared_operands() {
    let guest = Guest::new(|a| {
        let mut out = a.create_label();
        a.cmp(rax, rbx).unwrap();
        a.jl(out).unwrap();
        a.jge(out).unwrap();
        a.ucomisd(xmm0, xmm1).unwrap();
        a.ja(out).unwrap();
        a.jb(out).unwrap();
        a.set_label(&mut out).unwrap();
        a.nop().unwrap();
    });
    let trace = guest.lift_line(&[false, false, true]);
    assert_eq!(count(&trace, Opcode::Cond), 0);
    assert_eq!(count(&trace, Opcode::Slt), 2);
    assert_eq!(count(&trace, Opcode::Flt64), 1);
    assert_eq!(count(&trace, Opcode::GuardNot), 1);
    assert_eq!(count(&trace, Opcode::Guard), 2);
}

#[test]
fn inc_keeps_the_carry_of_the_comparison_before() {
    let guest = Guest::new(|a| {
        let mut out = a.create_label();
        a.cmp(rax, rbx).unwrap();
        a.inc(rcx).unwrap();
        a.jb(out).unwrap();
        a.set_label(&mut out).unwrap();
        a.ret().unwrap();
    });
    let events: Vec<_> = guest.events_until(3, &[false]);
    let trace = guest.checked(events, End::Exit { pc: guest.end() - 1 });
    assert_eq!(count(&trace, Opcode::Cond), 0);
    assert_eq!(count(&trace, Opcode::FlSub), 0);
}

#[test]
fn returns_are_guarded_and_leave_at_themselves() {
    let guest = Guest::new(|a| {
        let mut callee = a.create_label();
        let mut end = a.create_label();
        a.call(callee).unwrap();
        a.jmp(end).unwrap();
        a.set_label(&mut callee).unwrap();
        a.add(rax, 1).unwrap();
        a.ret().unwrap();
        a.set_label(&mut end).unwrap();
        a.nop().unwrap();
    });
    let trace = guest.lift_line(&[]);
    let at_ret = guest.end() - 2;
    assert_eq!(exit_to(&trace, at_ret).step, 2);
    // The pushed return address is below the stack pointer that the exit restores.
    let sum = value_of(&trace, at_ret, Slot::RSP);
    assert_eq!(trace.as_const(trace.insts[sum].args[1]), Some(-8));
    assert!(exit_to(&trace, guest.end()).get(Slot::RSP).is_some());
}

#[test]
fn narrow_registers_merge() {
    let guest = Guest::new(|a| {
        a.mov(ah, 5).unwrap();
        a.mov(ecx, edx).unwrap();
        a.add(ecx, 1).unwrap();
    });
    let trace = guest.lift_line(&[]);
    let sum = value_of(&trace, guest.end(), Slot::RAX);
    assert_eq!(trace.insts[sum].op, Opcode::Or);
    // `add` works on the truncation itself, not on one of an extension.
    assert_eq!(count(&trace, Opcode::Trunc), 1);
}

#[test]
fn clearing_idioms_read_nothing() {
    let guest = Guest::new(|a| {
        a.xor(eax, eax).unwrap();
        a.pxor(xmm3, xmm3).unwrap();
    });
    let trace = guest.lift_line(&[]);
    assert_eq!(count(&trace, Opcode::Slot), 0);
    assert_eq!(exit_to(&trace, guest.end()).get(Slot::RAX), Some(ExitValue::Const(0)));
    assert_eq!(exit_to(&trace, guest.end()).get(Slot::xmm(3, 1)), Some(ExitValue::Const(0)));
}

fn with_call(guest: &Guest, taken: &[bool], at: usize, external: bool) -> Vec<Event> {
    let mut events = guest.events(taken);
    let Event::Inst { inst, next, .. } = events[at].clone() else { panic!() };
    assert_eq!(next, inst.next_ip());
    events[at] = Event::Call {
        inst,
        target: 0x50_0000,
        return_address: inst.next_ip(),
        tail: false,
        effect: CallEffect::Any,
        guard_target: false,
        external,
    };
    events
}

fn call_in_a_loop() -> Guest {
    Guest::new(|a| {
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.mov(rdi, rbx).unwrap();
        a.call(r12).unwrap();
        a.add(rbx, rax).unwrap();
        a.mov(ptr(r13), rbx).unwrap();
        a.jmp(top).unwrap();
    })
}

#[test]
fn an_external_call_keeps_callee_saved_registers() {
    let guest = call_in_a_loop();
    let trace = guest.checked(with_call(&guest, &[], 1, true), End::Loop);
    // r12 and r13 are invariant; rdi was brought up to date by the call, whose callee might read flags.
    assert_eq!(params(&trace), [Slot::RBX, Slot::FLAGS]);
    let state = trace.segments.values().find_map(|segment| match &segment.terminator {
        Terminator::Call(call) => Some(call.state),
        _ => None,
    });
    let state = &trace.exits[state.unwrap()];
    assert!(state.get(Slot::RDI).is_some() && state.get(Slot::RSP).is_none());
    assert_eq!(state.step, 1);
}

#[test]
fn an_internal_call_may_change_every_register() {
    let guest = call_in_a_loop();
    let trace = guest.checked(with_call(&guest, &[], 1, false), End::Loop);
    assert_eq!(params(&trace), [Slot::RBX, Slot::gpr(12), Slot::FLAGS]);
}

#[test]
fn exits_list_a_register_whose_first_value_comes_back_after_a_call() {
    let guest = Guest::new(|a| {
        let mut top = a.create_label();
        let mut out = a.create_label();
        a.set_label(&mut top).unwrap();
        a.test(rbx, rbx).unwrap();
        a.je(out).unwrap();
        a.mov(r14, rbp).unwrap();
        a.xor(ebp, ebp).unwrap();
        a.call(r12).unwrap();
        a.mov(rbp, r14).unwrap();
        a.jmp(top).unwrap();
        a.set_label(&mut out).unwrap();
        a.xor(ecx, ecx).unwrap();
    });
    let trace = guest.checked(with_call(&guest, &[false], 4, true), End::Loop);
    // In the second iteration the context holds the 0 that the call has left there.
    assert!(exit_to(&trace, guest.end() - 2).get(Slot::RBP).is_some());
}

#[test]
fn a_tail_call_pops_its_return_address() {
    let guest = Guest::new(|a| {
        a.jmp(rax).unwrap();
        a.nop().unwrap();
    });
    let inst = guest.inst(BASE);
    let call = Event::Call {
        inst,
        target: 0x50_0000,
        return_address: 0x60_0000,
        tail: true,
        effect: CallEffect::Any,
        guard_target: true,
        external: true,
    };
    let trace = guest.checked(vec![call], End::Anchor { pc: 0x60_0000, id: 7 });
    assert_eq!(count(&trace, Opcode::Guard), 2);
    let end = exit_to(&trace, 0x60_0000);
    assert_eq!(end.kind, ExitKind::Anchor(7));
    assert!(end.slots.is_empty(), "everything is in the context");
}

#[test]
fn what_an_elided_call_leaves_undefined_is_no_parameter() {
    let guest = Guest::new(|a| {
        let mut top = a.create_label();
        let mut out = a.create_label();
        a.set_label(&mut top).unwrap();
        a.inc(rbx).unwrap();
        a.movsd_2(xmm0, ptr(rbx)).unwrap();
        a.add(rcx, rbx).unwrap();
        a.js(out).unwrap();
        a.call(top).unwrap();
        a.jmp(top).unwrap();
        a.set_label(&mut out).unwrap();
        a.nop().unwrap();
    });
    let mut events = guest.events(&[false]);
    let Event::Inst { inst, .. } = events.pop().unwrap() else { panic!() };
    let api = Event::Api { inst, return_address: inst.next_ip(), convention: Convention::Function, result: Some(0) };
    events.push(api);
    let jump = guest.inst(inst.next_ip());
    events.push(Event::Inst { inst: jump, next: BASE, address: 0, value: 0 });
    let trace = guest.checked(events, End::Loop);
    // rax holds the call's result.
    assert_eq!(params(&trace), [Slot::RAX, Slot::RBX]);
}

#[test]
fn a_native_operation_in_a_loop_keeps_the_context_honest() {
    let guest = Guest::new(|a| {
        let mut top = a.create_label();
        let mut out = a.create_label();
        a.set_label(&mut top).unwrap();
        a.test(rbx, rbx).unwrap();
        a.je(out).unwrap();
        a.mov(rdx, rax).unwrap();
        a.cpuid().unwrap();
        a.mov(rax, rsi).unwrap();
        a.jmp(top).unwrap();
        a.set_label(&mut out).unwrap();
        a.nop().unwrap();
    });
    let trace = guest.lift_loop(&[false]);
    assert_eq!(count(&trace, Opcode::Native), 1);
    let native = trace.natives.values().next().unwrap();
    assert_eq!(native.outputs, [Slot::RAX, Slot::RCX, Slot::RDX, Slot::RBX]);
    assert!(!native.memory && !native.wide);
}

#[test]
fn refusals_have_reasons() {
    let guest = Guest::new(|a| {
        a.syscall().unwrap();
    });
    assert_eq!(refusal(&guest.inst(BASE)), Some(Refusal::Syscall));
    let events = guest.events_until(1, &[]);
    assert_eq!(guest.lift(events, End::Exit { pc: guest.end() }).unwrap_err(), Refusal::Syscall);
    assert_eq!(guest.lift(Vec::new(), End::Loop).unwrap_err(), Refusal::Empty);
    let bits = |bytes: &[u8]| iced_x86::Decoder::with_ip(64, bytes, 0, 0).decode();
    assert_eq!(refusal(&bits(&[0xfd])), Some(Refusal::SystemFlags));
    assert_eq!(refusal(&bits(&[0x0f, 0xae, 0x17])), Some(Refusal::FloatControl));
    assert_eq!(refusal(&bits(&[0x0f, 0x0b])), Some(Refusal::Interrupt));
    assert_eq!(refusal(&bits(&[0x8e, 0xe0])), Some(Refusal::Segment));
    assert_eq!(refusal(&bits(&[0x0f, 0xa8])), None, "push gs");
    assert!(!is_native(&bits(&[0xf0, 0x48, 0x0f, 0xb1, 0x0f])), "lock cmpxchg");
    assert!(is_native(&bits(&[0xf0, 0x48, 0x0f, 0xc7, 0x0f])), "lock cmpxchg16b");
    assert!(is_native(&bits(&[0xd9, 0xc0])), "fld");
    assert!(!is_native(&bits(&[0x90])));
}

#[test]
fn a_gap_in_the_recording_is_refused() {
    let guest = Guest::new(|a| {
        a.nop().unwrap();
        a.nop().unwrap();
    });
    let mut events = guest.events(&[]);
    events.remove(0);
    let error = guest.lift(events, End::Exit { pc: guest.end() }).unwrap_err();
    assert_eq!(error, Refusal::Inconsistent { pc: BASE + 1 });
}

/// Upper halves are slots only where nothing names what lies above them.
#[test]
fn wide_vectors_are_halves_or_verbatim() {
    let upper = |trace: &Trace| trace.exits.values().any(|exit| exit.slots.iter().any(|(slot, _)| slot.is_upper()));
    let halves = Guest::new(|a| {
        a.vpaddb(ymm1, ymm2, ymm3).unwrap();
        a.vzeroupper().unwrap();
    })
    .lift_line(&[]);
    assert_eq!(count(&halves, Opcode::Add8), 4);
    assert!(upper(&halves) && halves.natives.is_empty(), "{halves}");
    let verbatim = Guest::new(|a| {
        a.vpaddb(ymm1, ymm2, ymm3).unwrap();
        a.vpaddb(zmm1, zmm2, zmm3).unwrap();
        a.vzeroupper().unwrap();
    })
    .lift_line(&[]);
    assert_eq!(verbatim.natives.len(), 3);
    assert!(!upper(&verbatim) && verbatim.natives.values().all(|native| native.wide), "{verbatim}");
    // A verbatim instruction gets the upper halves that the trace has made, and gives back those it changes.
    let mixed = Guest::new(|a| {
        a.vpaddb(ymm1, ymm2, ymm3).unwrap();
        a.vdpps(ymm4, ymm1, ymm5, 0xff).unwrap();
    })
    .lift_line(&[]);
    let native = mixed.natives.values().next().unwrap();
    let [made, kept] = [1, 5].map(|number| Slot::xmm(number, 2));
    assert!(native.inputs.iter().any(|input| input.0 == made) && native.inputs.iter().all(|input| input.0 != kept));
    assert!(native.outputs.contains(&Slot::xmm(4, 3)) && !native.outputs.contains(&made), "{mixed}");
}
