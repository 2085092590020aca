//! Trials of traces that are right, and of traces that are broken on purpose.
//!
//! A trial needs a process with one thread, and its caller on the private stack: each test forks one, and there calls its
//! body as the stubs would.

#![expect(unsafe_code, reason = "forks, and has guest code")]

use super::*;
use crate::compile;
use crate::exits::NO_UNIT;
use crate::{runtime, thread};
use std::arch::{global_asm, naked_asm};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

global_asm!(
    ".text",
    ".globl redmagic_trial_loop",
    "redmagic_trial_loop:",
    "add rax, [rdi]",
    "mov [rdi + 8], rax",
    "lea rdx, [rax + 5]",
    "dec rcx",
    ".globl redmagic_trial_loop_branch",
    "redmagic_trial_loop_branch: jne redmagic_trial_loop",
    ".globl redmagic_trial_loop_end",
    "redmagic_trial_loop_end: ret",
    ".globl redmagic_trial_call",
    "redmagic_trial_call: add rax, 1",
    ".globl redmagic_trial_call_call",
    "redmagic_trial_call_call: call rsi",
    ".globl redmagic_trial_call_end",
    "redmagic_trial_call_end: ret",
);

// SAFETY: labels in the code above; only their addresses are used.
unsafe extern "C" {
    static redmagic_trial_loop: u8;
    static redmagic_trial_loop_branch: u8;
    static redmagic_trial_loop_end: u8;
    static redmagic_trial_call: u8;
    static redmagic_trial_call_call: u8;
    static redmagic_trial_call_end: u8;
}

const LOOP: &str = "trace loop @START {
seg0():
  v0: i64 = slot rax
  v1: i64 = slot rcx
  v2: i64 = slot rdi
  jump seg1(v0, v1)
seg1(v10: i64 = rax, v11: i64 = rcx):
  v12: i64 = load [v2]
  v13: i64 = add v10, v12
  store i64 [v2 + 8], v13
  v14: i64 = const 5
  v15: i64 = add v13, v14
  v16: i64 = const -1
  v17: i64 = add v11, v16
  v18: i64 = const 0
  v19: i1 = ne v17, v18
  guard v19, exit0
  jump seg1(v13, v17)
exit0 @END step 5 { rax = v13, rcx = v17, rdx = v15, flags = fl_dec(v11, i1 0) }
}";

const CALL: &str = "trace call @START {
seg0():
  v0: i64 = slot rax
  v1: i64 = const 1
  v2: i64 = add v0, v1
  v3: i64 = slot rsi
  v4: i64 = const END
  call v3 ret v4 state exit0 effect any -> seg1
seg1():
  leave exit1
exit0 @CALL step 1 { rax = v2, flags = fl_add(v0, v1) }
exit1 @END step 2 { }
}";

/// What the guest works on: the load, the store, and words beside them.
static DATA: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
static GUEST_STACK: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];

/// The texts of the right traces.
fn texts() -> (String, String) {
    let replace = |text: &str, start: *const u8, end: *const u8| {
        let places = [("START", start), ("END", end), ("CALL", &raw const redmagic_trial_call_call)];
        places.iter().fold(text.to_owned(), |text, (name, place)| text.replace(name, &format!("{:#x}", *place as u64)))
    };
    (
        replace(LOOP, &raw const redmagic_trial_loop, &raw const redmagic_trial_loop_end),
        replace(CALL, &raw const redmagic_trial_call, &raw const redmagic_trial_call_end),
    )
}

static ONE: Mutex<()> = Mutex::new(());

/// Calls a function on another stack.
#[unsafe(naked)]
extern "C" fn on_stack(_top: u64, _body: extern "C" fn()) {
    naked_asm!("push rbp", "mov rbp, rsp", "mov rsp, rdi", "call rsi", "mov rsp, rbp", "pop rbp", "ret")
}

/// Runs `body` on the private stack of the only thread of a process of its own.
fn alone(body: extern "C" fn()) {
    // No other test holds a lock of the panic machinery now; should one do after all, the alarm ends the wait.
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the child uses what was made before the fork, and ends without destructors.
    let status = unsafe {
        let pid = libc::fork();
        if pid == 0 {
            libc::alarm(60);
            let ready = runtime::start().is_some() && thread::create();
            if ready {
                on_stack((*thread::current_context()).stack_top, body);
            }
            libc::_exit(i32::from(!ready));
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
        status
    };
    assert_eq!(status, 0, "the process has failed");
}

/// Tries out `text` with these values of rcx and rsi; rax is 1, and the loop adds 9 to it.
fn try_out(text: &str, length: usize, rcx: u64, rsi: u64) -> (Conclusion, &'static Context) {
    try_out_or_sweep(text, length, rcx, rsi, false)
}

/// The same, also at every guard if it `sweeps`.
fn try_out_or_sweep(text: &str, length: usize, rcx: u64, rsi: u64, sweeps: bool) -> (Conclusion, &'static Context) {
    let runtime = runtime::get().expect("started");
    // SAFETY: the only thread's context, of which there is no other reference.
    let thread = unsafe { thread::of_context(thread::current_context()) };
    let trace = redmagic_ir::parse_one(text).expect("well-formed text");
    redmagic_ir::verify(&trace).expect("a well-formed trace");
    let mut bounded = bounded(&trace).expect("an iteration");
    let guards = if sweeps { let_guards_fail(&mut bounded.trace) } else { 0 };
    let lowered = compile::lower(&mut runtime.lock(), &bounded.trace, NO_UNIT).expect("code");
    let calls = BTreeSet::from([&raw const redmagic_trial_call_call as u64]);
    let trial = Trial::new(bounded, Recorded { length, calls }, lowered, guards);
    [9, 0, 0, 0].iter().zip(&DATA).for_each(|(value, word)| word.store(*value, Relaxed));
    let context = &mut thread.context;
    context.gpr = [0; 16];
    (context.gpr[0], context.gpr[1], context.gpr[6], context.gpr[7]) = (1, rcx, rsi, DATA.as_ptr() as u64);
    context.gpr[4] = &raw const GUEST_STACK[32] as u64;
    context.rip = trace.start;
    let origin = Origin::Anchor(runtime.loops.find_or_add(1, trace.start, 1));
    let conclusion = trial.run(thread, origin, runtime);
    (conclusion, &thread.context)
}

/// Tries out the loop with part of its text replaced.
fn difference(from: &str, to: &str, rcx: u64) -> Option<Difference> {
    let text = texts().0;
    assert!(text.contains(from));
    try_out(&text.replace(from, to), 5, rcx, 0).0.verdict.err()
}

extern "C" fn right_traces() {
    let (of_loop, of_call) = texts();
    for rcx in [1, 2, 10] {
        let (conclusion, context) = try_out(&of_loop, 5, rcx, 0);
        assert!(matches!(conclusion.verdict, Ok(Verdict::Passed)), "{:?}", conclusion.verdict);
        // The guest itself has made an iteration.
        let end = if rcx == 1 { &raw const redmagic_trial_loop_end } else { &raw const redmagic_trial_loop };
        assert_eq!((context.rip, context.gpr[0], context.gpr[1]), (end as u64, 10, rcx - 1));
        assert_eq!(DATA[1].load(Relaxed), 10);
    }
    let callee = libc::getppid as *const () as u64;
    let (conclusion, context) = try_out(&of_call, 2, 0, callee);
    assert!(matches!(conclusion.verdict, Ok(Verdict::Passed)), "{:?}", conclusion.verdict);
    let expected =
        PendingCall { target: callee, return_address: &raw const redmagic_trial_call_end as u64, region: None };
    assert_eq!((conclusion.call, context.gpr[0]), (Some(expected), 2));
}

#[test]
fn right_traces_pass() {
    alone(right_traces);
}

extern "C" fn wrong_registers() {
    let register = |difference, wanted| matches!(difference, Some(Difference::Register { slot, .. }) if slot == wanted);
    assert!(register(difference("v14: i64 = const 5", "v14: i64 = const 6", 1), Slot::gpr(2)));
    assert!(register(difference("v16: i64 = const -1", "v16: i64 = const -2", 5), Slot::RCX));
    // A load that is taken for the constant that it was when recorded.
    assert!(register(difference("v12: i64 = load [v2]", "v12: i64 = const 8", 5), Slot::RAX));
    assert!(register(difference("fl_dec(v11, i1 0)", "fl_sub(v11, i64 3)", 1), Slot::FLAGS));
}

#[test]
fn wrong_registers_are_found() {
    alone(wrong_registers);
}

extern "C" fn wrong_exits() {
    let right = texts().0;
    // Five iterations are left, so that the exit is not taken by itself.
    let sweep = |text: &str| try_out_or_sweep(text, 5, 5, 0, true).0;
    let conclusion = sweep(&right);
    assert!(matches!((&conclusion.verdict, conclusion.swept), (Ok(Verdict::Passed), 1)), "{:?}", conclusion.verdict);
    for (from, to) in [
        ("rdx = v15", "rdx = v13"),
        ("rcx = v17", "rcx = v11"),
        ("fl_dec(v11, i1 0)", "fl_sub(v11, i64 2)"),
        ("step 5", "step 4"),
        ("  store i64 [v2 + 8], v13\n", "  store i64 [v2 + 16], v13\n"),
    ] {
        assert!(right.contains(from));
        let conclusion = sweep(&right.replace(from, to));
        assert!(conclusion.verdict.is_err(), "{to}: {:?}", conclusion.verdict);
    }
}

#[test]
fn wrong_exits_are_found_by_force() {
    alone(wrong_exits);
}

extern "C" fn wrong_rests() {
    // A guard in front of the last instruction, which still needs the flags.
    let (guard, exit) = ("  guard v19, exit0\n", "flags = fl_dec(v11, i1 0) }\n}");
    let right = texts().0.replace(guard, &format!("  v20: i1 = ne v10, v11\n  guard v20, exit1\n{guard}"));
    let more = "exit1 @BRANCH step 4 { rax = v13, rcx = v17, rdx = v15, flags = fl_dec(v11, i1 0) }\n}";
    let right = right.replace(exit, &format!("{}{more}", exit.trim_end_matches('}')));
    let right = right.replace("BRANCH", &format!("{:#x}", &raw const redmagic_trial_loop_branch as u64));
    let conclusion = try_out_or_sweep(&right, 5, 5, 0, true).0;
    assert!(matches!(conclusion.verdict, Ok(Verdict::Passed)), "{:?}", conclusion.verdict);
    assert_eq!((conclusion.swept, conclusion.followed), (2, 1));
    // At the exit itself, flags that it calls undefined are not compared.
    let wrong = right.replace("rdx = v15, flags = fl_dec(v11, i1 0) }\n}", "rdx = v15, flags = undefined }\n}");
    assert_ne!(wrong, right);
    let conclusion = try_out_or_sweep(&wrong, 5, 5, 0, true).0;
    assert!(matches!(conclusion.verdict, Err(Difference::Left { .. })), "{:?}", conclusion.verdict);
}

#[test]
fn what_is_missed_behind_an_exit_is_found() {
    alone(wrong_rests);
}

extern "C" fn wrong_memory() {
    let at = |index: usize| Some(&raw const DATA[index] as u64);
    let memory = |difference| match difference {
        Some(Difference::Memory { address, .. }) => Some(address & !7),
        _ => None,
    };
    let store = "  store i64 [v2 + 8], v13\n";
    assert_eq!(memory(difference(store, "", 5)), at(1));
    assert_eq!(memory(difference(store, "  store i64 [v2 + 8], v10\n", 5)), at(1));
    assert_eq!(memory(difference(store, "  store i64 [v2 + 16], v13\n", 5)), at(2));
    // A store too many, where the recording has never been.
    assert_eq!(memory(difference(store, &format!("{store}  store i64 [v2 + 24], v11\n"), 5)), at(3));
}

#[test]
fn wrong_memory_is_found() {
    alone(wrong_memory);
}

extern "C" fn wrong_places() {
    assert!(matches!(difference("step 5", "step 4", 1), Some(Difference::Left { .. })));
    assert!(matches!(difference("v19: i1 = ne", "v19: i1 = eq", 5), Some(Difference::Left { .. })));
    let null = "  v20: i64 = const 0\n  store i64 [v20 + 8], v13\n";
    assert!(matches!(
        difference("  store i64 [v2 + 8], v13\n", null, 5),
        Some(Difference::Died { signal: libc::SIGSEGV })
    ));
    let of_call = texts().1;
    let (target, other) = (libc::getppid as *const () as u64, libc::getpid as *const () as u64);
    let moved = of_call.replace("call v3 ret", "call v2 ret");
    let returned = of_call.replace("v4: i64 = const", "v4: i64 = const 1 ; ");
    let skipped = of_call.replace("call v3 ret v4 state exit0 effect any -> seg1", "jump seg1()");
    for (text, callee) in [(&moved, target), (&returned, other), (&skipped, target)] {
        let (conclusion, _) = try_out(text, 2, 0, callee);
        assert!(
            matches!(conclusion.verdict, Err(Difference::Call { expected }) if expected == callee),
            "{:?}",
            conclusion.verdict
        );
        // The guest makes the call.
        assert_eq!(conclusion.call.map(|call| call.target), Some(callee));
    }
}

#[test]
fn wrong_places_are_found() {
    alone(wrong_places);
}
