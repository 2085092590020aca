//! Whole traces against the evaluator: exits, memory, loops, switches, native operations, residual calls.

mod common;

use common::{World, backend, check};
use redmagic_backend::{BackendError, FlagsRecipe, Request};
use redmagic_ir::sandbox::{TestGuest, interesting, mix};
use redmagic_ir::{Entity, Exit, Opcode, Slot, Type};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// Checks a trace on guests with made-up slots; rbx holds the arena's address, rcx is a small loop count.
fn check_many(text: &str) -> World {
    let mut world = World::parse(&mut backend(), text);
    for seed in 0..60 {
        let guest = varied(&world, seed);
        check(&mut world, &guest);
    }
    world
}

fn varied(world: &World, seed: u64) -> TestGuest {
    let mut guest = world.guest(seed, |at| mix(seed, at as u64 / 3) as u8);
    for slot in Slot::all() {
        let value = interesting(mix(seed, 77 + slot.index() as u64));
        guest.slots[slot.index()] =
            if slot == Slot::FLAGS { value & u64::from(redmagic_ir::FLAGS_MASK) } else { value };
    }
    guest.slots[Slot::RBX.index()] = world.memory() + 1024;
    guest.slots[Slot::RCX.index()] = mix(seed, 5) % 20;
    guest
}

#[test]
fn an_exit_stores_values_lists_constants_and_leaves_the_rest() {
    let world = check_many(
        "trace t { seg0():
           v0: i64 = slot rax
           v1: i64 = slot rdx
           v2: i64 = const 9
           v3: i1 = ult v0, v1
           guard v3, exit0
           leave exit1
         exit0 @0x40 { rax = v1, rsi = 7, rdi = undefined, r8 = v2, flags = 0x8d5, xmm0.lo = -2 }
         exit1 @0x48 { rdx = v0, flags = fl_sub(v0, i64 5) } }",
    );
    let exits = &world.compiled.exits;
    assert_eq!(exits[0].flags, FlagsRecipe::Stored);
    let constants = [(Slot::RSI, 7), (Slot::gpr(8), 9), (Slot::FLAGS, 0x8d5), (Slot::xmm(0, 0), -2i64 as u64)];
    let mut expected = constants.to_vec();
    expected.sort_by_key(|entry| entry.0);
    assert_eq!(exits[0].constants, expected);
    assert_eq!(exits[1].flags, FlagsRecipe::Recipe { op: Opcode::FlSub, ty: Type::I64 });
    assert!(exits[1].constants.is_empty());
}

#[test]
fn flags_reach_the_exit_as_values_and_as_recipes() {
    check_many(
        "trace t { seg0():
           v0: i64 = slot rax
           v1: i64 = slot rdx
           v2: i8 = trunc v0
           v3: i8 = trunc v1
           v4: i32 = fl_sub v2, v3
           v5: i32 = slot flags
           v6: i1 = cond.le v4
           guard v6, exit0
           v7: i1 = cond.be v5
           guard_not v7, exit1
           leave exit2
         exit0 @0x40 { flags = v4 }
         exit1 @0x48 { flags = fl_adc(v2, v3, v7) }
         exit2 @0x50 { flags = fl_shl(v2, v3, fl_rol(v3, i8 1, v5)) } }",
    );
}

#[test]
fn recipes_are_computed_before_delayed_stores_and_stores_keep_their_order() {
    check_many(
        "trace t { seg0():
           v0: i64 = slot rbx
           v1: i64 = slot rdx
           v2: i64 = load [v0 + 8]
           leave exit0
         exit0 @0x40 { let x0 = add.i64(v2, v1), rax = x0, rdx = mul.i64(x0, x0),
           store i64 [v0 + 8] = x0, store i32 [v0 + 12] = 77, store i64 [v0 + 16] = v2,
           store i8 [v0 + 9] = trunc.i8(x0) } }",
    );
}

#[test]
fn guards_share_exits() {
    let world = check_many(
        "trace t { seg0():
           v0: i64 = slot rcx
           v1: i64 = slot rdx
           v2: i64 = const 10
           v3: i1 = ult v0, v2
           guard v3, exit0
           v4: i1 = slt v1, v0
           guard_not v4, exit0
           v5: i1 = trunc v1
           guard v5, exit0
           leave exit1
         exit0 @0x40 { rax = v0 }
         exit1 @0x48 { } }",
    );
    let clif = world.compiled.clif.as_deref().unwrap_or_default();
    assert_eq!(clif.matches("return").count(), 2, "{clif}");
}

#[test]
fn memory_of_every_width_and_addressing_form() {
    check_many(
        "trace t { seg0():
           v0: i64 = slot rbx
           v1: i64 = slot rcx
           v2: i8 = load [v0 + v1]
           v3: i16 = load [v0 + v1*2 - 4]
           v4: i32 = load [v0 + v1*4 + 3]
           v5: i64 = load [v0 + v1*8]
           v6: v128 = load [v0 + 1]
           v7: i128 = load [v0 + 33]
           v8: i64 = high v6
           v9: i64 = low v7
           store i8 [v0 + v1], v2
           store i16 [v0 + v1*2 + 301], v3
           store i32 [v0 + 5], v4
           store i64 [v0 + 64], v5
           store v128 [v0 + 129], v6
           store i128 [v0 - 32], v7
           v10: i64 = sext v3
           v11: i64 = zext v2
           v12: i32 = const -5
           store i32 [v0 + 200], v12
           v13: i64 = load [v0 + 198]
           leave exit0
         exit0 @0x40 { rax = v8, rdx = v9, rsi = v10, rdi = v11, r8 = v13 } }",
    );
}

#[test]
fn absolute_addresses() {
    let mut backend = backend();
    let arena: Box<[u64; 2]> = Box::new([0x1122_3344_5566_7788, 5]);
    let text = format!(
        "trace t {{ seg0():
           v0: i64 = const {}
           v1: i64 = load [v0 + 8]
           v2: i64 = slot rax
           v3: i64 = load [v0 + v2*8 - 8]
           leave exit0
         exit0 @0x40 {{ rax = v1, rdx = v3 }} }}",
        arena.as_ptr() as u64
    );
    let mut world = World::parse(&mut backend, &text);
    let mut guest = world.guest(1, |_| 0);
    guest.slots[Slot::RAX.index()] = 1;
    world.run(&mut guest);
    assert_eq!(guest.slots[Slot::RAX.index()], 5);
    assert_eq!(guest.slots[Slot::RDX.index()], arena[0]);
}

#[test]
fn a_counted_loop_with_memory() {
    check_many(
        "trace t { seg0():
           v0: i64 = slot rbx
           v1: i64 = slot rcx
           v2: i64 = slot rax
           jump seg1(v1, v2)
         seg1(v3: i64 = rcx, v4: i64 = rax):
           v5: i64 = const 0
           v6: i1 = ne v3, v5
           guard v6, exit0
           v7: i64 = load [v0 + v3*8]
           v8: i64 = add v4, v7
           store i64 [v0 + v3*8 + 8], v8
           v9: i64 = const -1
           v10: i64 = add v3, v9
           jump seg1(v10, v8)
         exit0 @0x40 { rcx = v3, rax = v4 } }",
    );
}

#[test]
fn a_two_level_nest_and_a_diamond() {
    check_many(
        "trace t { seg0():
           v0: i64 = slot rcx
           v1: i64 = slot rax
           v2: i64 = const 0
           jump seg1(v0, v1)
         seg1(v3: i64 = rcx, v4: i64 = rax):
           v5: i1 = ne v3, v2
           guard v5, exit0
           jump seg2(v3, v4)
         seg2(v6: i64 = rdx, v7: i64 = rax):
           v8: i1 = trunc v7
           switch v8 { 1 => seg3() } else seg4()
         seg3():
           v9: i64 = const 3
           v10: i64 = mul v7, v9
           jump seg5(v10)
         seg4():
           v11: i64 = add v7, v3
           jump seg5(v11)
         seg5(v12: i64):
           v13: i64 = const 1
           v14: i64 = sub v6, v13
           v15: i1 = eq v14, v2
           switch v15 { 0 => seg2(v14, v12), 1 => seg6() } else seg6()
         seg6():
           v16: i64 = sub v3, v13
           jump seg1(v16, v12)
         exit0 @0x40 { rcx = v3, rax = v4, rdx = 0 } }",
    );
}

#[test]
fn switches_with_many_cases_on_every_type() {
    for (ty, extra) in [("i8", "200"), ("i16", "0x8000"), ("i32", "0xfffffffe"), ("i64", "0xffffffffffffffff")] {
        let narrow = if ty == "i64" { "add v0, v9".to_owned() } else { "trunc v0".to_owned() };
        let text = format!(
            "trace t {{ seg0():
               v0: i64 = slot rcx
               v9: i64 = const 0
               v1: {ty} = {narrow}
               v2: i64 = const 100
               v3: i64 = const 200
               switch v1 {{ 0 => seg1(v2), 1 => seg1(v3), 2 => seg2(v0), 3 => seg1(v0), 7 => seg2(v2),
                 {extra} => seg2(v3) }} else seg1(v9)
             seg1(v4: i64):
               leave exit0
             seg2(v5: i64):
               leave exit1
             exit0 @0x40 {{ rax = v4 }}
             exit1 @0x48 {{ rdx = v5 }} }}"
        );
        let mut world = World::parse(&mut backend(), &text);
        for value in [0, 1, 2, 3, 4, 7, 8, 200, 0x8000, 0xffff_fffe, u64::MAX, 0x1_0000_0000, 0x100, 0x1_0002] {
            let mut guest = world.guest(1, |_| 0);
            guest.slots[Slot::RCX.index()] = value;
            check(&mut world, &guest).expect("always defined");
        }
    }
}

#[test]
fn native_operations_see_their_inputs_and_outputs_outlive_later_ones() {
    check_many(
        "trace t { seg0():
           v0: i64 = slot rax
           v1: i64 = slot xmm1.lo
           v2: i64 = slot rcx
           v20: i64 = slot rbx
           v3: i64 = fadd64 v1, v1
           v21: i128 = load [v20 + 8]
           v4 = native native0
           v5 = native native1
           v6: i64 = native_out v4, rdx
           v7: i64 = native_out v4, xmm2.hi
           v8: i64 = native_out v5, rdx
           v9: i32 = native_out v5, flags
           v10: i64 = fmul64 v7, v3
           v11: i64 = add v6, v8
           v12: i1 = cond.b v9
           v13: i64 = high v21
           guard v12, exit0
           leave exit1
         exit0 @0x40 { rax = v11, xmm1.lo = v10, xmm2.hi = v7, rdx = v8, flags = v9, rsi = v13 }
         exit1 @0x48 { rax = v11, xmm1.lo = v3, xmm2.hi = v7, rdx = v8, flags = v9, rsi = v2 }
         native0 @0x40 bytes 0f01 in (rax = v0, xmm1.lo = v3) out (rdx, xmm2.hi)
         native1 @0x44 bytes 0f02 in (rax = v2) out (rdx, flags) }",
    );
}

const CALL_IN_LOOP: &str = "trace t { seg0():
       v0: i64 = slot rbx
       v1: i64 = slot rcx
       v2: i64 = slot xmm0.lo
       v3: i64 = const 0
       v30: i64 = load [v0]
       v31: i128 = load [v0 + 8]
       v32: v128 = load [v0 + 24]
       v33: i8 = load [v0 + 40]
       jump seg1(v1, v2, v30)
     seg1(v4: i64 = r12, v5: i64, v6: i64):
       v7: i1 = ne v4, v3
       guard v7, exit0
       v8: i64 = fadd64 v5, v6
       v9: i64 = const 0x7000
       v10: i64 = const 0x1234
       v11: i64 = fmul64 v8, v8
       v34: i1 = flt64 v8, v11
       call v9 ret v10 state exit1 effect none -> seg2
     seg2():
       v12: i64 = slot rax
       v13: i64 = slot xmm0.lo
       v14: i64 = const -1
       v15: i64 = add v4, v14
       v16: i64 = xor v12, v6
       v17: i64 = fadd64 v13, v8
       v35: i64 = high v31
       v36: i64 = low v32
       v37: i64 = sext v33
       v38: i64 = add v35, v36
       v39: i64 = add v38, v37
       v40: i64 = add v39, v16
       guard v34, exit2
       jump seg1(v15, v17, v40)
     exit0 @0x40 { r12 = v4, xmm0.lo = v5, rax = v6 }
     exit1 @0x44 { r12 = v4, xmm0.lo = v11, rsi = 5, flags = fl_sub(v4, v6), rdx = add.i64(v4, i64 3),
       store i64 [v0 + 56] = v6 }
     exit2 @0x48 { r12 = v15, xmm0.hi = v17, rdx = v40 } }";

#[test]
fn a_residual_call_in_a_loop_saves_and_reloads_what_lives_across_it() {
    let mut world = World::parse(&mut backend(), CALL_IN_LOOP);
    let mut calls = 0;
    for seed in 0..100 {
        let mut guest = varied(&world, seed);
        guest.slots[Slot::xmm(0, 0).index()] = 3f64.to_bits();
        check(&mut world, &guest).expect("always defined");
        calls += world.run(&mut guest).1;
    }
    assert!(calls > 100, "{calls}");
}

#[test]
fn several_calls_resume_each_in_its_place() {
    let world = check_many(
        "trace t { seg0():
           v0: i64 = slot rcx
           v1: i64 = slot rdx
           v2: i64 = const 0
           v3: i64 = const 0x1000
           jump seg1(v0, v1)
         seg1(v4: i64, v5: i64):
           v6: i1 = ne v4, v2
           guard v6, exit0
           call v3 ret v1 state exit1 effect any -> seg2
         seg2():
           v7: i64 = slot rax
           v8: i1 = trunc v7
           switch v8 { 0 => seg3() } else seg5(v7)
         seg3():
           call v7 ret v1 state exit2 effect none -> seg4
         seg4():
           v9: i64 = slot rdx
           v10: i64 = add v7, v9
           jump seg5(v10)
         seg5(v11: i64):
           call v5 ret v4 state exit3 effect none -> seg6
         seg6():
           v12: i64 = slot rsi
           v13: i64 = add v12, v11
           v14: i64 = const 1
           v15: i64 = sub v4, v14
           jump seg1(v15, v13)
         exit0 @0x40 { rax = v5, rcx = v4 }
         exit1 @0x44 { rax = v5 }
         exit2 @0x48 { rdi = v4 }
         exit3 @0x4c { rdi = v11, rdx = 3 } }",
    );
    assert_eq!(world.compiled.exits[3].constants, [(Slot::RDX, 3)]);
}

#[test]
fn exits_in_front_of_calls_and_behind_them_share_code() {
    // exit0 is used in front of the calls and behind each, exit4 behind two; exit5 to exit7 write the same, and each is behind
    // another call or none; v3 is 128 bits wide; v5 dies at the second call; seg4 is reached from behind different calls, the
    // loop's head also from the entry.
    let mut world = World::parse(
        &mut backend(),
        "trace t { seg0():
           v0: i64 = slot rbx
           v1: i64 = slot rcx
           v2: i64 = const 0x1000
           v3: v128 = load [v0 + 16]
           v20: i64 = slot rdi
           jump seg1(v1, v20)
         seg1(v4: i64, v21: i64):
           v5: i64 = add v4, v21
           v6: i64 = const 0
           v7: i1 = ne v4, v6
           guard v7, exit0
           v23: i64 = const 5
           v24: i1 = ne v4, v23
           guard v24, exit5
           call v2 ret v1 state exit1 effect any -> seg2
         seg2():
           v8: i64 = slot rax
           v9: i64 = xor v8, v5
           v25: i64 = const 7
           v26: i64 = and v8, v25
           v27: i1 = ne v26, v6
           guard v27, exit6
           v10: i1 = ult v8, v9
           guard v10, exit0
           v11: i1 = trunc v9
           switch v11 { 0 => seg3() } else seg4(v9)
         seg3():
           call v2 ret v4 state exit2 effect none -> seg5
         seg5():
           v12: i64 = low v3
           v13: i64 = add v9, v12
           v14: i1 = ne v13, v21
           guard v14, exit0
           jump seg4(v13)
         seg4(v15: i64):
           v16: i1 = ne v15, v8
           guard v16, exit4
           call v2 ret v15 state exit3 effect none -> seg6
         seg6():
           v17: i64 = const -1
           v18: i64 = add v4, v17
           v19: i64 = add v15, v9
           v22: i1 = ne v19, v21
           guard v22, exit4
           v28: i64 = and v19, v25
           v29: i1 = ne v28, v6
           guard v29, exit7
           jump seg1(v18, v19)
         exit0 @0x40 { rax = v1, rcx = v4, rdx = v21, rsi = v20, xmm1.lo = low.i64(v3), store i64 [v0 + 64] = v4 }
         exit1 @0x44 { rax = v5, rcx = v4 }
         exit2 @0x48 { rdi = v5, rcx = v4, rdx = v21 }
         exit3 @0x4c { rdi = v15, rdx = 3, rsi = v9 }
         exit4 @0x50 { rax = v1, rcx = v4, rdx = v21, rsi = v20, r9 = add.i64(v15, v8) }
         exit5 @0x54 { rax = v1, rcx = v4, rdx = v21, rsi = v20, r8 = v0 }
         exit6 @0x58 { rax = v1, rcx = v4, rdx = v21, rsi = v20, r8 = v0 }
         exit7 @0x5c { rax = v1, rcx = v4, rdx = v21, rsi = v20, r8 = v0, store i64 [v0 + 72] = v4 } }",
    );
    let mut calls = 0;
    for seed in 0..200 {
        let mut guest = varied(&world, seed);
        check(&mut world, &guest);
        calls += world.run(&mut guest).1;
    }
    assert!(calls > 200, "{calls}");
}

#[test]
fn of_two_nans_that_of_the_first_operand_survives_a_call() {
    // A reload of v0 must not become the second operand of the addition.
    let mut world = World::parse(
        &mut backend(),
        "trace t { seg0():
           v0: i64 = slot xmm1.lo
           v1: i64 = const 0x1000
           call v1 ret v1 state exit0 effect none -> seg1
         seg1():
           v2: i64 = slot xmm0.lo
           v3: i64 = fadd64 v0, v2
           call v1 ret v3 state exit1 effect none -> seg2
         seg2():
           v4: i64 = slot xmm0.lo
           v5: i64 = fmul64 v0, v4
           leave exit2
         exit0 @0x40 {}
         exit1 @0x44 {}
         exit2 @0x48 { rax = v3, rcx = v5 } }",
    );
    let is_nan = |bits: u64| f64::from_bits(bits).is_nan();
    let mut met = 0;
    for seed in 0..3000 {
        let mut guest = varied(&world, seed);
        guest.slots[Slot::xmm(1, 0).index()] = 0x7ff8_0000_0000_0000 | seed;
        let (_, after) = check(&mut world, &guest).expect("always defined");
        met += u32::from(is_nan(after.slots[Slot::xmm(0, 0).index()]));
    }
    assert!(met > 100, "{met} pairs of NaNs");
}

#[test]
fn too_many_values_across_a_call_are_refused() {
    let loads: String = (0..40).map(|at| format!("v{}: i64 = load [v0 + {}]\n", at + 10, at * 8)).collect();
    let adds: String = (0..40).map(|at| format!("store i64 [v0 + {}], v{}\n", at * 8 + 8, at + 10)).collect();
    let text = format!(
        "trace t {{ seg0():
           v0: i64 = slot rbx
           {loads} v1: i64 = const 5
           call v1 ret v1 state exit0 effect none -> seg1
         seg1():
           {adds} leave exit1
         exit0 @0x40 {{}}
         exit1 @0x48 {{}} }}"
    );
    let trace = redmagic_ir::parse_one(&text).expect("it is well formed");
    let layout = common::layout();
    let request = Request { trace: &trace, layout: &layout, exit_records: 0, exit_stride: 8, natives: &[] };
    let mut backend = backend();
    let error = backend.compile(&request).expect_err("it cannot be saved");
    assert!(matches!(error, BackendError::TooManyLiveValues { words: 41, limit: 32, .. }), "{error}");
    // The compiler is usable after a failure.
    check_with(&mut backend);
}

fn check_with(backend: &mut redmagic_backend::Backend) {
    let mut world = World::parse(backend, CALL_IN_LOOP);
    let guest = varied(&world, 3);
    check(&mut world, &guest).expect("always defined");
}

#[test]
fn a_missing_native_stub_is_refused() {
    let text = "trace t { seg0():
           v0 = native native0
           leave exit0
         exit0 @0x40 { rax = undefined }
         native0 @0x40 bytes 0f01 out (rax) }";
    let trace = redmagic_ir::parse_one(text).expect("it is well formed");
    let layout = common::layout();
    let request = Request { trace: &trace, layout: &layout, exit_records: 0, exit_stride: 8, natives: &[] };
    let error = backend().compile(&request).expect_err("there is no stub");
    assert_eq!(error, BackendError::MissingNative { native: 0 });
}

#[test]
fn values_in_both_register_files() {
    check_many(
        "trace t { seg0():
           v0: i64 = slot xmm0.lo
           v1: i64 = slot rcx
           v2: i64 = slot xmm1.lo
           v3: i64 = fadd64 v0, v2
           v20: i64 = const 0x7fffffffffffffff
           v21: i64 = const 0x8000000000000000
           jump seg1(v1, v3, v2)
         seg1(v4: i64 = rcx, v5: i64, v6: i64):
           v7: i64 = const 0
           v8: i1 = ne v4, v7
           guard v8, exit0
           v9: i64 = and v5, v20
           v10: i64 = xor v6, v21
           v11: i64 = fadd64 v9, v10
           v12: i64 = lshr v3, v4
           v13: i1 = slt v12, v11
           v14: i64 = select v13, v11, v9
           v15: i64 = const -1
           v16: i64 = add v4, v15
           v17: i64 = xor v5, v12
           v18: v128 = join v14, v17
           v19: i64 = high v18
           v22: i64 = low v18
           v23: i64 = fmul64 v22, v19
           jump seg1(v16, v23, v19)
         exit0 @0x40 { rcx = v4, xmm0.lo = v5, xmm1.lo = v6, rax = v3 } }",
    );
}

#[test]
fn unreachable_and_unused_things_do_not_matter() {
    let world = check_many(
        "trace t { seg0():
           v0: i64 = slot rbx
           v1: i64 = load [v0]
           v2: i64 = mul v1, v1
           v3: i32 = fl_sub v1, v2
           leave exit0
         exit0 @0x40 { } }",
    );
    assert_eq!(world.compiled.operations, 0);
    assert_eq!(world.compiled.exits.len(), Exit::from_index(1).index());
}

#[test]
fn a_meter_is_counted_down_in_memory() {
    static METER: AtomicI64 = AtomicI64::new(0);
    let text = format!(
        "trace t {{ seg0():
           v0: i64 = slot rax
           jump seg1(v0)
         seg1(v1: i64 = rax):
           v2: i64 = tick {:#x}
           v3: i64 = const 0
           v4: i1 = slt v2, v3
           guard_not v4, exit0
           v5: i64 = const 1
           v6: i64 = add v1, v5
           jump seg1(v6)
         exit0 @0x40 meter {{ rax = v1 }} }}",
        METER.as_ptr() as u64
    );
    let mut world = World::parse(&mut backend(), &text);
    for passes in [0, 1, 7] {
        METER.store(passes, Relaxed);
        let mut guest = world.guest(1, |_| 0);
        guest.slots[Slot::RAX.index()] = 100;
        let (exit, _) = world.run(&mut guest);
        assert_eq!((exit.index(), METER.load(Relaxed)), (0, -1));
        assert_eq!(guest.slots[Slot::RAX.index()], 100 + passes as u64);
    }
}
