//! What lifted traces compute, executed by the evaluator.

mod bench;

use bench::{BASE, Guest};
use iced_x86::code_asm::*;
use redmagic_ir::Slot;
use redmagic_ir::eval::Outcome;
use redmagic_ir::sandbox::{TestGuest, run};

/// Runs a trace from the given slots; the guest afterwards and where it is.
fn evaluate(trace: &redmagic_ir::Trace, slots: &[(Slot, u64)]) -> (TestGuest, u64) {
    let mut machine = TestGuest::new(1);
    for &(slot, value) in slots {
        machine.slots[slot.index()] = value;
    }
    match run(trace, &mut machine, 100_000).unwrap() {
        Outcome::Exit(exit) => (machine, trace.exits[exit].pc),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sum_loop() {
    let guest = Guest::new(|a| {
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.add(rax, rdi).unwrap();
        a.dec(rdi).unwrap();
        a.jne(top).unwrap();
        a.ret().unwrap();
    });
    let (machine, pc) = evaluate(&guest.lift_loop(&[true]), &[(Slot::RDI, 100)]);
    assert_eq!(pc, guest.end() - 1);
    assert_eq!(machine.slots[Slot::RAX.index()], 5050);
    assert_eq!(machine.slots[Slot::RDI.index()], 0);
    // The `ret` may read flags: those of `dec`, with the carry of `add`.
    assert_eq!(machine.slots[Slot::FLAGS.index()], u64::from(redmagic_ir::ZF | redmagic_ir::PF));
}

#[test]
fn a_call_that_is_traced_into() {
    let guest = Guest::new(|a| {
        let mut top = a.create_label();
        let mut callee = a.create_label();
        let mut over = a.create_label();
        a.set_label(&mut top).unwrap();
        a.push(rbx).unwrap();
        a.call(callee).unwrap();
        a.pop(rcx).unwrap();
        a.dec(rdi).unwrap();
        a.jmp(over).unwrap();
        a.set_label(&mut callee).unwrap();
        a.lea(rbx, ptr(rbx + rbx * 2 + 1)).unwrap();
        a.ret().unwrap();
        a.set_label(&mut over).unwrap();
        a.jne(top).unwrap();
        a.cmp(rax, rax).unwrap();
    });
    let trace = guest.lift_loop(&[true]);
    let (machine, pc) = evaluate(&trace, &[(Slot::RDI, 3), (Slot::RSP, 0x7000), (Slot::gpr(3), 1)]);
    assert_eq!(pc, guest.end() - 3);
    assert_eq!(machine.slots[3], 40);
    assert_eq!(machine.slots[Slot::RCX.index()], 13);
    assert_eq!(machine.slots[Slot::RSP.index()], 0x7000);
}

#[test]
fn division_leaves_where_it_would_fault() {
    let guest = Guest::new(|a| {
        a.cqo().unwrap();
        a.idiv(rcx).unwrap();
    });
    let trace = guest.lift_line(&[]);
    let (machine, pc) = evaluate(&trace, &[(Slot::RAX, -7i64 as u64), (Slot::RCX, 2)]);
    assert_eq!((pc, machine.slots[0] as i64, machine.slots[2] as i64), (guest.end(), -3, -1));
    let (machine, pc) = evaluate(&trace, &[(Slot::RAX, 7)]);
    assert_eq!((pc, machine.slots[0]), (BASE + 2, 7));
    let (_, pc) = evaluate(&trace, &[(Slot::RAX, 1 << 63), (Slot::RCX, u64::MAX)]);
    assert_eq!(pc, BASE + 2);
}

#[test]
fn wide_division_without_an_extension() {
    let guest = Guest::new(|a| {
        a.div(ecx).unwrap();
    });
    let trace = guest.lift_line(&[]);
    let (machine, pc) = evaluate(&trace, &[(Slot::RAX, 5), (Slot::RDX, 3), (Slot::RCX, 16)]);
    assert_eq!((pc, machine.slots[0], machine.slots[2]), (guest.end(), 0x3000_0000, 5));
    let (_, pc) = evaluate(&trace, &[(Slot::RAX, 5), (Slot::RDX, 3), (Slot::RCX, 3)]);
    assert_eq!(pc, BASE, "the quotient does not fit");
}

#[test]
fn shuffles() {
    let guest = Guest::new(|a| {
        a.pshufd(xmm1, xmm0, 0b00_01_10_11).unwrap();
        a.psrldq(xmm2, 3).unwrap();
    });
    let lanes = [(Slot::xmm(0, 0), 0x1111_1111_0000_0000), (Slot::xmm(0, 1), 0x3333_3333_2222_2222)];
    let shifted = [(Slot::xmm(2, 0), 0x0807_0605_0403_0201), (Slot::xmm(2, 1), 0x100f_0e0d_0c0b_0a09)];
    let slots: Vec<_> = lanes.into_iter().chain(shifted).collect();
    let (machine, _) = evaluate(&guest.lift_line(&[]), &slots);
    assert_eq!(machine.slots[Slot::xmm(1, 0).index()], 0x2222_2222_3333_3333);
    assert_eq!(machine.slots[Slot::xmm(1, 1).index()], 0x0000_0000_1111_1111);
    assert_eq!(machine.slots[Slot::xmm(2, 0).index()], 0x0b0a_0908_0706_0504);
    assert_eq!(machine.slots[Slot::xmm(2, 1).index()], 0x0000_0010_0f0e_0d0c);
}
