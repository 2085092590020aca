//! The executor and the generators, tested on their own: known results, faults, speed, and a check of the instruction
//! information that the lifter relies on.

use iced_x86::code_asm::*;
use iced_x86::{Code, Instruction, Register};
use redmagic_fuzz::blocks::{Blocks, place_block};
use redmagic_fuzz::native::{Executor, Outcome, State};
use redmagic_fuzz::place::place;
use redmagic_fuzz::rng::Rng;
use redmagic_fuzz::shapes::{Places, Shapes};
use redmagic_fuzz::values;

fn assemble(build: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) -> Vec<Instruction> {
    let mut assembler = CodeAssembler::new(64).unwrap();
    build(&mut assembler).unwrap();
    assembler.instructions().to_vec()
}

fn places(executor: &Executor) -> Places {
    Places { arena: executor.arena_address(), pads: std::array::from_fn(|pad| executor.pad_address(pad)) }
}

#[test]
fn state_goes_through_unchanged() {
    let mut executor = Executor::new().unwrap();
    let block = executor.load(&assemble(|a| a.nop())).unwrap();
    let mut rng = Rng::new(1);
    for _ in 0..1000 {
        let before = values::state(&mut rng);
        let mut after = before;
        assert_eq!(executor.run(&mut after), Outcome::Completed { next_pc: block[0].next_ip() });
        assert_eq!(before, after);
    }
}

#[test]
fn branches_land_on_their_pads() {
    let mut executor = Executor::new().unwrap();
    let pad = executor.pad_address(2);
    let block = executor.load(&[Instruction::with_branch(Code::Je_rel8_64, pad).unwrap()]).unwrap();
    let mut state = State { flags: 0x40, ..State::default() };
    assert_eq!(executor.run(&mut state), Outcome::Completed { next_pc: pad });
    state.flags = 0;
    assert_eq!(executor.run(&mut state), Outcome::Completed { next_pc: block[0].next_ip() });
}

#[test]
fn calls_push_real_return_addresses() {
    let mut executor = Executor::new().unwrap();
    let pad = executor.pad_address(0);
    let block = executor.load(&[Instruction::with_branch(Code::Call_rel32_64, pad).unwrap()]).unwrap();
    let mut state = State::default();
    state.gpr[4] = executor.arena_address() + 1024;
    assert_eq!(executor.run(&mut state), Outcome::Completed { next_pc: pad });
    assert_eq!(state.gpr[4], executor.arena_address() + 1016);
    assert_eq!(executor.arena()[1016..1024], block[0].next_ip().to_le_bytes());
}

#[test]
fn faults_leave_the_state_before_the_instruction() {
    let mut executor = Executor::new().unwrap();
    let faults: [(i32, Vec<Instruction>); 5] = [
        (libc::SIGSEGV, assemble(|a| a.mov(rax, qword_ptr(rcx)))),
        (libc::SIGSEGV, assemble(|a| a.push(rax))),
        (libc::SIGFPE, assemble(|a| a.div(r8))),
        (libc::SIGILL, assemble(|a| a.ud2())),
        (libc::SIGTRAP, assemble(|a| a.int3())),
    ];
    for (signal, fault) in faults {
        let block = executor.load(&[assemble(|a| a.inc(r9)), fault].concat()).unwrap();
        let mut rng = Rng::new(2);
        let mut before = values::state(&mut rng);
        before.gpr[1] = 0x8000_0000_0000_0000;
        before.gpr[4] = 8;
        before.gpr[8] = 0;
        before.gpr[9] = 41;
        let mut after = before;
        let pc = if signal == libc::SIGTRAP { block[1].next_ip() } else { block[1].ip() };
        assert_eq!(executor.run(&mut after), Outcome::Fault { signal, pc });
        assert_eq!(after.gpr[9], 42);
        before.gpr[9] = 42;
        before.flags = after.flags;
        assert_eq!(before, after);
    }
    // Wild jumps and a wild stack pointer are survived, too.
    executor.load(&assemble(|a| a.jmp(rax))).unwrap();
    let mut state = State { gpr: [0x1234_5678_9abc; 16], ..State::default() };
    let expected = Outcome::Fault { signal: libc::SIGSEGV, pc: 0x1234_5678_9abc };
    assert_eq!(executor.run(&mut state), expected);
}

#[test]
fn executors_run_in_parallel() {
    let work = || {
        let mut executor = Executor::new().unwrap();
        for round in 0..200u64 {
            executor
                .load(&assemble(|a| if round % 2 == 0 { a.add(rax, rcx) } else { a.mov(rax, qword_ptr(0)) }))
                .unwrap();
            let mut state = State { gpr: [round; 16], ..State::default() };
            match executor.run(&mut state) {
                Outcome::Completed { .. } => assert_eq!(state.gpr[0], 2 * round),
                Outcome::Fault { signal, .. } => assert_eq!((signal, round % 2), (libc::SIGSEGV, 1)),
            }
        }
    };
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(work))));
}

#[test]
fn every_shape_is_built_and_runs() {
    let mut executor = Executor::new().unwrap();
    let places = places(&executor);
    let shapes = Shapes::all();
    let (mut runs, mut faults) = (0, 0);
    for (number, &code) in shapes.codes.iter().enumerate() {
        let mut rng = Rng::new(number as u64);
        let mut usable = 0;
        for _ in 0..20 {
            let Some(inst) = shapes.instruction_of(code, &places, &mut rng) else { continue };
            let block = executor.load(&[inst]).unwrap();
            assert_eq!(block.len(), 1, "{inst} {code:?}");
            let mut state = values::state(&mut rng);
            values::memory(&mut rng, executor.arena_mut());
            if !place(&block[0], &mut state, executor.arena_mut(), &places, &mut rng) {
                continue;
            }
            usable += 1;
            runs += 1;
            if let Outcome::Fault { signal, pc } = executor.run(&mut state) {
                faults += 1;
                assert_eq!(pc, block[0].ip(), "{inst} {code:?}");
                let aligned = block[0].memory_size().size() >= 16;
                let divides = matches!(block[0].mnemonic(), iced_x86::Mnemonic::Div | iced_x86::Mnemonic::Idiv);
                let expected = aligned && signal == libc::SIGSEGV || divides && signal == libc::SIGFPE;
                assert!(expected, "signal {signal}: {inst} {code:?} {state:x?}");
            }
        }
        assert!(usable >= 5, "{code:?}: {usable} usable of 20");
    }
    println!("{} encodings, {runs} runs, {faults} faults", shapes.codes.len());
    assert!(shapes.codes.len() > 500 && faults * 20 < runs);
}

#[test]
fn blocks_run() {
    let mut executor = Executor::new().unwrap();
    let places = places(&executor);
    let mut blocks = Blocks::new(Shapes::all());
    let (mut fell_through, mut left, mut faults) = (0, 0, 0);
    for case in 0..2000 {
        let mut rng = Rng::new(case);
        let length = 2 + rng.below(19);
        let insts = blocks.block(length, executor.block_address(), &places, &mut rng);
        let block = executor.load(&insts).unwrap();
        assert_eq!(block.len(), insts.len());
        let mut state = values::state(&mut rng);
        values::memory(&mut rng, executor.arena_mut());
        place_block(&mut state, &places, &mut rng);
        match executor.run(&mut state) {
            Outcome::Completed { next_pc } if next_pc == block[block.len() - 1].next_ip() => fell_through += 1,
            Outcome::Completed { next_pc } => {
                left += 1;
                assert!(places.pads.contains(&next_pc));
            }
            Outcome::Fault { signal, pc } => {
                faults += 1;
                let inst = block.iter().find(|inst| inst.ip() == pc).unwrap();
                assert_eq!(signal, libc::SIGFPE, "case {case}: {inst} {:?}\n{state:x?}", inst.code());
            }
        }
    }
    println!("{fell_through} fell through, {left} left by a branch, {faults} faulted");
    assert!(fell_through > 500 && left > 200 && faults < 100);
}

#[test]
fn speed() {
    let mut executor = Executor::new().unwrap();
    executor.load(&[Instruction::with2(Code::Add_r64_rm64, Register::RAX, Register::RCX).unwrap()]).unwrap();
    let mut state = State::default();
    let rounds = 100_000;
    let start = std::time::Instant::now();
    for _ in 0..rounds {
        executor.run(&mut state);
    }
    println!("{:?} per run", start.elapsed() / rounds);
}
