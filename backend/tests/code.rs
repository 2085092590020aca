//! What the machine code looks like where it matters: no moves between register files in floating-point loops, exits
//! out of line, operands in order.

mod common;

use common::{World, backend, check};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Formatter, Instruction, IntelFormatter, Mnemonic, OpKind};
use redmagic_ir::{Opcode, Slot};

fn instructions(code: &[u8]) -> Vec<Instruction> {
    Decoder::with_ip(64, code, 0x1000, DecoderOptions::NONE).into_iter().collect()
}

fn text(instructions: &[Instruction]) -> String {
    let mut formatter = IntelFormatter::new();
    let lines = instructions.iter().map(|instruction| {
        let mut line = String::new();
        formatter.format(instruction, &mut line);
        format!("{:x} {line}\n", instruction.ip())
    });
    lines.collect()
}

/// The instructions from the target of the last backward jump to that jump.
fn innermost_loop(code: &[u8]) -> Vec<Instruction> {
    let all = instructions(code);
    let is_jump = |at: &Instruction| {
        matches!(at.flow_control(), FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch)
    };
    let back = all.iter().rev().find(|at| is_jump(at) && at.near_branch_target() <= at.ip()).expect("a loop");
    let range = back.near_branch_target()..=back.ip();
    all.iter().filter(|at| range.contains(&at.ip())).copied().collect()
}

fn crosses_files(instruction: &Instruction) -> bool {
    let is_move = matches!(
        instruction.mnemonic(),
        Mnemonic::Movq | Mnemonic::Movd | Mnemonic::Vmovq | Mnemonic::Vmovd | Mnemonic::Pextrq | Mnemonic::Vpextrq
    );
    let registers = (0..instruction.op_count()).map(|at| instruction.op_register(at));
    is_move && registers.into_iter().any(|register| register.is_gpr())
}

const FLOAT_SUM: &str = "trace t { seg0():
       v0: i64 = slot rbx
       v1: i64 = slot rcx
       v2: i64 = slot xmm0.lo
       jump seg1(v1, v2)
     seg1(v3: i64 = rcx, v4: i64 = xmm0.lo):
       v5: i64 = const 0
       v6: i1 = ne v3, v5
       guard v6, exit0
       v7: i64 = load [v0 + v3*8]
       v8: i64 = fadd64 v4, v7
       v9: i64 = const -1
       v10: i64 = add v3, v9
       jump seg1(v10, v8)
     exit0 @0x40 { rcx = v3, xmm0.lo = v4 } }";

#[test]
fn a_float_sum_stays_in_a_vector_register() {
    let mut world = World::parse(&mut backend(), FLOAT_SUM);
    let body = innermost_loop(&world.compiled.code);
    assert!(!body.iter().any(crosses_files), "{}", text(&body));
    assert!(body.len() <= 8, "{}", text(&body));
    let mut guest = world.guest(1, |at| if at % 8 == 7 { 0x40 } else { at as u8 });
    guest.slots[Slot::RBX.index()] = world.memory();
    guest.slots[Slot::RCX.index()] = 100;
    check(&mut world, &guest).expect("always defined");
}

#[test]
fn a_float_loop_across_a_residual_call_stays_in_vector_registers() {
    let world = World::parse(
        &mut backend(),
        "trace t { seg0():
           v0: i64 = slot rcx
           v1: i64 = slot xmm0.lo
           jump seg1(v0, v1)
         seg1(v2: i64, v3: i64):
           v4: i64 = const 0
           v5: i1 = ne v2, v4
           guard v5, exit0
           v6: i64 = fadd64 v3, v3
           call v4 ret v4 state exit1 effect none -> seg2
         seg2():
           v7: i64 = const -1
           v8: i64 = add v2, v7
           v9: i64 = fmul64 v6, v3
           jump seg1(v8, v9)
         exit0 @0x40 { rcx = v2, xmm0.lo = v3 }
         exit1 @0x48 { rcx = v2, xmm0.lo = v6 } }",
    );
    let all = instructions(&world.compiled.code);
    assert!(!all.iter().any(crosses_files), "{}", text(&all));
}

#[test]
fn a_value_wanted_in_both_files_is_converted_before_the_loop() {
    let world = World::parse(
        &mut backend(),
        "trace t { seg0():
           v0: i64 = slot rcx
           v1: i64 = slot xmm0.lo
           v2: i64 = fadd64 v1, v1
           jump seg1(v0, v2)
         seg1(v3: i64, v4: i64):
           v5: i1 = ne v3, v2
           guard v5, exit0
           v6: i64 = fadd64 v4, v2
           v7: i64 = const -1
           v8: i64 = add v3, v7
           jump seg1(v8, v6)
         exit0 @0x40 { rcx = v3, xmm0.lo = v4 } }",
    );
    let body = innermost_loop(&world.compiled.code);
    assert!(!body.iter().any(crosses_files), "{}", text(&body));
}

#[test]
fn signs_of_floats_are_changed_in_vector_registers() {
    let world = World::parse(
        &mut backend(),
        "trace t { seg0():
           v0: i64 = slot rbx
           v1: i64 = load [v0]
           v2: i64 = const 0x8000000000000000
           v3: i64 = const 0x7fffffffffffffff
           v4: i64 = xor v1, v2
           v5: i64 = fadd64 v4, v4
           v6: i64 = and v5, v3
           v7: i64 = fsqrt64 v6
           leave exit0
         exit0 @0x40 { xmm0.lo = v7 } }",
    );
    let all = instructions(&world.compiled.code);
    // The masks are constants, which may come through a general register; the numbers may not.
    let out_of_vector = |at: &Instruction| crosses_files(at) && at.op0_register().is_gpr();
    assert!(!all.iter().any(out_of_vector), "{}", text(&all));
}

#[test]
fn exits_are_behind_the_code_that_runs() {
    let world = World::parse(&mut backend(), FLOAT_SUM);
    let all = instructions(&world.compiled.code);
    let ret = all.iter().position(|at| at.mnemonic() == Mnemonic::Ret).expect("an exit");
    let back = all
        .iter()
        .position(|at| at.is_jcc_short_or_near() && at.near_branch_target() < at.ip() || at.is_jmp_short_or_near())
        .expect("a loop");
    assert!(back < ret, "{}", text(&all));
}

#[test]
fn sums_and_products_of_two_nans_keep_the_left_one() {
    for op in [Opcode::Fadd64, Opcode::Fmul64, Opcode::Fsub64, Opcode::Fdiv64] {
        for (left, right) in [("v1", "v2"), ("v2", "v1")] {
            let mut world = World::parse(
                &mut backend(),
                &format!(
                    "trace t {{ seg0():
                       v0: i64 = slot rbx
                       v2: i64 = slot xmm1.lo
                       v1: i64 = load [v0 + 8]
                       v3: i64 = {} {left}, {right}
                       leave exit0
                     exit0 @0x40 {{ xmm0.lo = v3 }} }}",
                    op.name()
                ),
            );
            let mut guest = world.guest(1, |at| 0x7ff8_0000_0000_0001u64.to_le_bytes()[at % 8]);
            guest.slots[Slot::RBX.index()] = world.memory();
            guest.slots[Slot::xmm(1, 0).index()] = 0xfff8_0000_0000_0002;
            check(&mut world, &guest).expect("always defined");
        }
    }
}

#[test]
fn a_fused_operation_is_one_instruction() {
    if !std::arch::is_x86_feature_detected!("fma") {
        println!("this processor has no FMA");
        return;
    }
    let mut world = World::parse(
        &mut backend(),
        "trace t { seg0():
           v0: i64 = slot rbx
           v1: i64 = slot rcx
           v2: i64 = slot xmm0.lo
           jump seg1(v1, v2)
         seg1(v3: i64 = rcx, v4: i64 = xmm0.lo):
           v5: i64 = const 0
           v6: i1 = ne v3, v5
           guard v6, exit0
           v7: i64 = load [v0 + v3*8]
           v8: i64 = fma64 v7, v7, v4
           v9: i64 = const -1
           v10: i64 = add v3, v9
           jump seg1(v10, v8)
         exit0 @0x40 { rcx = v3, xmm0.lo = v4, ymm0.lo = 0 } }",
    );
    let clears = instructions(&world.compiled.code).iter().filter(|at| at.mnemonic() == Mnemonic::Vzeroupper).count();
    assert_eq!(clears, 1);
    let body = innermost_loop(&world.compiled.code);
    let fused = body.iter().filter(|at| at.mnemonic() == Mnemonic::Vfmadd213sd).count();
    assert!(fused == 1 && !body.iter().any(|at| at.flow_control() == FlowControl::Call), "{}", text(&body));
    let mut guest = world.guest(1, |at| if at % 8 == 7 { 0x40 } else { at as u8 });
    guest.slots[Slot::RBX.index()] = world.memory();
    guest.slots[Slot::RCX.index()] = 100;
    check(&mut world, &guest).expect("always defined");
}

/// Exits whose states differ in one slot each share the stores of the others.
#[test]
fn exits_share_their_stores() {
    const EXITS: usize = 20;
    let slots = ["rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11"];
    let mut text = "trace t { seg0():\n v100: i64 = slot rax\n".to_owned();
    for (at, slot) in slots.iter().enumerate() {
        text += &format!("v{at}: i64 = slot {slot}\n v{}: i64 = add v{at}, v100\n", at + 20);
    }
    for exit in 0..EXITS {
        let (value, test) = (200 + 2 * exit, 201 + 2 * exit);
        text += &format!("v{value}: i64 = load [v100 + {}]\n v{test}: i1 = ne v{value}, v100\n", exit * 8);
        text += &format!("guard v{test}, exit{exit}\n");
    }
    text += &format!("leave exit{EXITS}\n");
    for exit in 0..=EXITS {
        let state: Vec<String> = slots.iter().enumerate().map(|(at, slot)| format!("{slot} = v{}", at + 20)).collect();
        let own = if exit < EXITS { format!("rax = v{}, ", 200 + 2 * exit) } else { String::new() };
        text += &format!("exit{exit} @{:#x} {{ {own}{} }}\n", 0x40 + exit, state.join(", "));
    }
    let world = World::parse(&mut backend(), &(text + "}"));
    let is_store = |inst: &&Instruction| inst.mnemonic() == Mnemonic::Mov && inst.op0_kind() == OpKind::Memory;
    let stores = instructions(&world.compiled.code).iter().filter(is_store).count();
    // Those of the way to the end, the shared ones, one of its own for each exit; what the register allocator spills.
    assert!(stores <= 2 * slots.len() + EXITS + slots.len(), "{stores} stores");
}
