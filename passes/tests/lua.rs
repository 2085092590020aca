//! The loop `for i = 1, N do x = x + i end` of an interpreter in the manner of Lua's: two instructions of the
//! interpreted program, each fetched from declared memory and dispatched through a table in read-only memory.
//!
//! The machine code, at the anchor: rbx is the program counter, rbp the base of the interpreted frame, r13 the dispatch
//! table, r14 the call record whose field 0x28 is the trap flag.

mod common;

use common::{guest, optimised, same_effects, trace};
use redmagic_ir::sandbox::TestGuest;
use redmagic_ir::{ExitData, ExitValue, Opcode, Slot, Trace, Value};
use redmagic_passes::{Pipeline, Stats, optimise};

const CODE: u64 = 0x10_0000;
const TABLE: u64 = 0x20_0000;
const STACK: u64 = 0x30_0000;
const RECORD: u64 = 0x40_0000;
/// FORLOOP A=1 (op 0x49), jumping back by 1; ADD A=0 B=0 C=4 (op 0x22).
const FORLOOP: u64 = 1 << 15 | 1 << 7 | 0x49;
const ADD: u64 = 4 << 24 | 0x22;

/// Text of a recorded iteration, and the loads that may be promoted, with the address of their instruction.
struct Text {
    lines: String,
    next: usize,
    resumes: Vec<(usize, u64)>,
}

impl Text {
    fn op(&mut self, ty: &str, rhs: &str) -> String {
        let name = format!("v{}", self.next);
        self.next += 1;
        self.lines += &format!("  {name}: {ty} = {rhs}\n");
        name
    }
    fn imm(&mut self, imm: i64) -> String {
        self.op("i64", &format!("const {imm}"))
    }
    fn count(&mut self, imm: i64) -> String {
        self.op("i8", &format!("const {imm}"))
    }
    fn bin(&mut self, op: &str, a: &str, imm: i64) -> String {
        let imm = self.imm(imm);
        self.op("i64", &format!("{op} {a}, {imm}"))
    }
    fn shift(&mut self, op: &str, a: &str, imm: i64) -> String {
        let count = self.count(imm);
        self.op("i64", &format!("{op} {a}, {count}"))
    }
    fn add(&mut self, a: &str, b: &str) -> String {
        self.op("i64", &format!("add {a}, {b}"))
    }
    fn line(&mut self, line: &str) {
        self.lines += &format!("  {line}\n");
    }
    /// `shr word, at; movzx byte; shl 4; add rbp`: the address of an operand.
    fn operand(&mut self, word: &str, at: i64, base: &str) -> String {
        let shifted = self.shift("lshr", word, at);
        let low = self.op("i8", &format!("trunc {shifted}"));
        let byte = self.op("i64", &format!("zext {low}"));
        let scaled = self.shift("shl", &byte, 4);
        self.add(&scaled, base)
    }
    /// `mov r11d, [pc]; and eax, 7f; jmp [r13 + rax*8]`; the word.
    fn dispatch(&mut self, pc: &str, at: u64, word: u64, exit: usize) -> String {
        self.resumes.push((self.next, 0x7000 + at));
        let word32 = self.op("i32", &format!("load [{pc}] @{at:#x}={word:#x}"));
        let wide = self.op("i64", &format!("zext {word32}"));
        let opcode = self.bin("and", &wide, 0x7f);
        let entry = TABLE + (word & 0x7f) * 8;
        let target = 0x50_0000 + (word & 0x7f);
        let loaded = self.op("i64", &format!("load [v2 + {opcode}*8] @{entry:#x}={target:#x}"));
        let expected = self.imm(target as i64);
        let same = self.op("i1", &format!("eq {loaded}, {expected}"));
        self.line(&format!("guard {same}, exit{exit}"));
        wide
    }
    /// `cmp byte [address + 8], 3; jne`, lifted with its flags.
    fn check_tag(&mut self, address: &str, exit: usize) {
        let tag = self.op("i8", &format!("load [{address} + 8]"));
        let three = self.op("i8", "const 3");
        let flags = self.op("i32", &format!("fl_sub {tag}, {three}"));
        let equal = self.op("i1", &format!("cond.e {flags}"));
        self.line(&format!("guard {equal}, exit{exit}"));
    }
    fn store_int(&mut self, address: &str, value: &str) {
        let three = self.op("i8", "const 3");
        self.line(&format!("store i8 [{address} + 8], {three}"));
        self.line(&format!("store i64 [{address}], {value}"));
    }
}

fn int_sum() -> Trace {
    let mut t = Text { lines: String::new(), next: 9, resumes: Vec::new() };
    // The FORLOOP instruction, which the anchor precedes.
    let word = t.dispatch("v5", CODE + 4, FORLOOP, 0);
    let pc = t.bin("add", "v5", 4);
    let ra = t.operand(&word, 7, "v6");
    t.check_tag(&ra, 1);
    let counter = t.op("i64", &format!("load [{ra} + 0x10]"));
    let flags = t.op("i32", &format!("fl_logic {counter}"));
    let done = t.op("i1", &format!("cond.e {flags}"));
    t.line(&format!("guard_not {done}, exit2"));
    let one = t.imm(1);
    let less = t.op("i64", &format!("sub {counter}, {one}"));
    let index = t.op("i64", &format!("load [{ra}]"));
    let step = t.op("i64", &format!("load [{ra} + 0x20]"));
    t.line(&format!("store i64 [{ra} + 0x10], {less}"));
    let sum = t.add(&step, &index);
    t.line(&format!("store i64 [{ra}], {sum}"));
    let control = t.bin("add", &ra, 0x30);
    t.store_int(&control, &sum);
    let jump = t.shift("lshr", &word, 15);
    let bytes = t.shift("shl", &jump, 2);
    let back = t.op("i64", &format!("sub {pc}, {bytes}"));
    let back = t.bin("add", &back, -4);
    let trap = t.op("i32", "load [v7 + 0x28]");
    let trapped = t.op("i32", &format!("fl_logic {trap}"));
    let quiet = t.op("i1", &format!("cond.e {trapped}"));
    t.line(&format!("guard {quiet}, exit3"));
    // The ADD instruction.
    let word = t.dispatch(&back, CODE, ADD, 4);
    let next = t.bin("add", &back, 4);
    let rc = t.operand(&word, 24, "v6");
    let rb = t.operand(&word, 16, "v6");
    t.check_tag(&rb, 5);
    t.check_tag(&rc, 6);
    let x = t.op("i64", &format!("load [{rb}]"));
    let i = t.op("i64", &format!("load [{rc}]"));
    let y = t.add(&x, &i);
    let dest = t.operand(&word, 7, "v6");
    t.store_int(&dest, &y);
    let flags = t.op("i32", &format!("fl_add {x}, {i}"));
    let text = format!(
        "trace int_sum {{
region declared {CODE:#x}-{:#x}
region readonly {TABLE:#x}-{:#x}
seg0():
  v0: i64 = slot rbx
  v1: i64 = slot rbp
  v2: i64 = slot r13
  v3: i64 = slot r14
  v4: i32 = slot flags
  jump seg1(v0, v1, v3, v4)
seg1(v5: i64 = rbx, v6: i64 = rbp, v7: i64 = r14, v8: i32 = flags):
{}  jump seg1({next}, v6, v7, {flags})
exit0 @0x7000 {{ rbx = v5, rbp = v6, r14 = v7, flags = v8 }}
exit1 @0x7001 {{ rdx = {ra}, rbx = {pc}, rbp = v6, r14 = v7, flags = undefined }}
exit2 @0x7002 {{ rax = {counter}, rdx = {ra}, rbx = {pc}, rbp = v6, r14 = v7, flags = undefined }}
exit3 @0x7003 {{ rbx = {back}, rbp = v6, r14 = v7, flags = {trapped} }}
exit4 @0x7004 {{ rbx = {back}, rbp = v6, r14 = v7, flags = {trapped} }}
exit5 @0x7005 {{ rbx = {next}, rbp = v6, r14 = v7, flags = undefined }}
exit6 @0x7006 {{ rbx = {next}, rbp = v6, r14 = v7, flags = undefined }}
}}",
        CODE + 64,
        TABLE + 1024,
        t.lines
    );
    let mut trace = trace(&text);
    trace.start = 0x7000;
    for (load, pc) in &t.resumes {
        let value = |name: &str| -> Value { redmagic_ir::Entity::from_index(name[1..].parse().unwrap()) };
        let mut exit = ExitData::new(*pc, 0);
        exit.set(Slot::RBX, ExitValue::Value(value(if *load == 9 { "v5" } else { &back })));
        exit.set(Slot::RBP, ExitValue::Value(value("v6")));
        exit.set(Slot::gpr(14), ExitValue::Value(value("v7")));
        exit.set(Slot::FLAGS, ExitValue::Value(value(if *load == 9 { "v8" } else { &trapped })));
        let exit = trace.exits.push(exit);
        trace.set_resume_exit(redmagic_ir::Entity::from_index(*load), Some(exit));
    }
    trace
}

fn lua_guest() -> TestGuest {
    let mut guest =
        guest(&[(Slot::RBX, CODE + 4), (Slot::RBP, STACK), (Slot::gpr(13), TABLE), (Slot::gpr(14), RECORD)]);
    guest.memory.set(CODE, 4, u128::from(ADD));
    guest.memory.set(CODE + 4, 4, u128::from(FORLOOP));
    for op in [ADD & 0x7f, FORLOOP & 0x7f] {
        guest.memory.set(TABLE + op * 8, 8, u128::from(0x50_0000 + op));
    }
    guest.memory.set(RECORD + 0x28, 4, 0);
    for (register, value) in [(0, 100), (1, 1), (2, 20), (3, 1), (4, 1)] {
        guest.memory.set(STACK + register * 16, 8, value);
        guest.memory.set(STACK + register * 16 + 8, 1, 3);
    }
    guest
}

fn count(trace: &Trace, ops: &[Opcode]) -> usize {
    let placed = trace.segments.values().flat_map(|segment| &segment.insts);
    placed.filter(|value| ops.contains(&trace.insts[**value].op)).count()
}

fn default_pipeline(before: &Trace) -> (Trace, Stats) {
    let mut after = before.clone();
    let stats = optimise(&mut after, &Pipeline::default());
    (after, stats)
}

#[test]
fn dispatch_vanishes() {
    let before = int_sum();
    let (after, stats) = default_pipeline(&before);
    println!("{before}\n{after}\n{stats}");
    let header = after.segments.keys().nth(1).unwrap();
    let body = &after.segments[header];
    let loads = body.insts.iter().filter(|value| after.insts[**value].op == Opcode::Load);
    let guards = body.insts.iter().filter(|value| after.insts[**value].exit().is_some());
    // Left: the for loop's tag, counter, index, step; the trap; x and its tag.
    assert_eq!((loads.count(), guards.count()), (7, 4), "{after}");
    assert_eq!(body.params.len(), 0, "{after}");
    assert_eq!(stats.promotions_hoisted, 1);
    assert_eq!(count(&after, &[Opcode::Cond, Opcode::FlAdd, Opcode::FlSub, Opcode::FlLogic]), 0, "{after}");
    assert!(same_effects(&before, &after, &lua_guest()) > 50);
}

#[test]
fn without_resume_exits_the_loads_stay() {
    let mut before = int_sum();
    before.clear_resume_exits();
    let (after, stats) = default_pipeline(&before);
    assert_eq!(stats.promotions_refused > 0, stats.promotions_hoisted == 0);
    assert!(same_effects(&before, &after, &lua_guest()) > 50);
}

#[test]
fn every_subset_of_the_passes_keeps_the_effects() {
    let before = int_sum();
    let names: Vec<_> = Pipeline::names().collect();
    for subset in 0..1 << names.len() {
        let list: Vec<_> = (0..names.len()).filter(|at| subset >> at & 1 == 1).map(|at| names[at]).collect();
        let (after, _) = optimised(&before, &list.join(","));
        assert!(same_effects(&before, &after, &lua_guest()) > 50);
    }
}
