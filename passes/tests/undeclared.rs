//! Interpreted programs that nobody has declared: what is compared, and where a trace is left when it has changed.

mod common;

use common::{guest, optimised, trace};
use redmagic_ir::eval::Outcome;
use redmagic_ir::sandbox::{TestGuest, run};
use redmagic_ir::{Opcode, Slot, Trace};
use redmagic_passes::Pipeline;

const CODE: u64 = 0x12_3400;
const CELLS: u64 = 0x7000;
const TABLE: u64 = 0x45_7000;

/// A loop of two instructions, at [`CODE`]: `[CODE] add operand to cell`, three bytes, and `count the next cell down`, two bytes. The program
/// counter is `counter`, and `region` what is known of the program.
fn text(counter: &str, region: &str) -> String {
    format!(
        "trace t @0x400100 {{
region {region}
region readonly {TABLE:#x}-{:#x}
seg0():
  v0: i64 = slot {counter}
  v1: i64 = slot rdi
  v2: i64 = slot rsi
  v30: i64 = const 0
  v31: i64 = const 3
  v32: i64 = const -1
  jump seg1(v0)
seg1(v3: i64 = {counter}):
  v4: i8 = load [v3] @0x123400=1 resume exit0
  v5: i64 = zext v4
  v6: i64 = load [v2 + v5*8] @0x457008=0x400300
  v7: i64 = const 0x400300
  v8: i1 = eq v6, v7
  guard v8, exit1
  v11: i8 = load [v3 + 2] @0x123402=2 resume exit2
  v12: i64 = sext v11
  v13: i64 = load [v1] @0x7000=5
  v14: i64 = add v13, v12
  store i64 [v1], v14 @0x7000=7
  v15: i64 = add v3, v31
  v16: i8 = load [v15] @0x123403=2 resume exit3
  v17: i64 = zext v16
  v18: i64 = load [v2 + v17*8] @0x457010=0x400310
  v19: i64 = const 0x400310
  v20: i1 = eq v18, v19
  guard v20, exit4
  v23: i64 = load [v1 + 8] @0x7008=3
  v24: i64 = add v23, v32
  store i64 [v1 + 8], v24 @0x7008=2
  v25: i1 = eq v24, v30
  guard_not v25, exit6
  v26: i64 = sub v15, v31
  jump seg1(v26)
exit0 @0x400100 {{ {counter} = v3 }}
exit1 @0x400108 {{ {counter} = v3, rax = v6 }}
exit2 @0x400300 {{ {counter} = v3, rax = v6 }}
exit3 @0x400310 {{ {counter} = v15 }}
exit4 @0x400318 {{ {counter} = v15, rax = v18 }}
exit6 @0x400330 {{ {counter} = v15, rax = v24 }}
}}",
        TABLE + 0x1000
    )
}

/// The program's bytes.
const PROGRAM: u128 = 0x01_02_02_00_01;

const REGION: &str = "code 0x113400-0x133400";

/// The state that was recorded, with the cells at `cells`.
fn state(cells: u64) -> TestGuest {
    let mut guest = guest(&[(Slot::RBX, CODE), (Slot::RDI, cells), (Slot::RSI, TABLE)]);
    guest.memory.set(cells, 8, 0);
    guest.memory.set(CODE, 5, PROGRAM);
    guest.memory.set(cells.wrapping_add(8), 8, 40);
    for entry in 0..8 {
        guest.memory.set(TABLE + 8 * entry, 8, u128::from(0x40_02f0 + 16 * entry));
    }
    guest
}

/// Where a run leaves to, the program counter, the first cell, and how many instructions that took.
fn end(trace: &Trace, mut guest: TestGuest) -> (u64, u64, u64) {
    let cells = guest.slots[Slot::RDI.index()];
    let Ok(Outcome::Exit(exit)) = run(trace, &mut guest, 10_000) else { panic!("{trace}") };
    (trace.exits[exit].pc, guest.slots[Slot::RBX.index()], guest.memory.get(cells, 8).unwrap() as u64)
}

fn whole() -> (Trace, Trace) {
    let before = trace(&text("rbx", REGION));
    let (after, stats) = optimised(&before, &Pipeline::default().to_string());
    assert_eq!((stats.code_compared, stats.promotions, stats.loops_copied), (3, 2, 1), "{stats}\n{after}");
    (before, after)
}

#[test]
fn the_program_is_constant_behind_comparisons_and_not_read_by_the_second_copy() {
    let (before, after) = whole();
    assert_eq!(end(&before, state(CELLS)), end(&after, state(CELLS)));
    let reads = |value| {
        let recorded = after.recorded(value).map_or(0, |recorded| recorded.address);
        after.insts[value].op == Opcode::Load && (CODE..CODE + 5).contains(&recorded)
    };
    let counts = after.segments.values().map(|segment| segment.insts.iter().filter(|value| reads(**value)).count());
    assert_eq!(counts.filter(|count| *count > 0).collect::<Vec<_>>(), [3], "{after}");
}

#[test]
fn what_has_changed_is_noticed_where_it_is_read() {
    let (_, after) = whole();
    for (offset, byte, expected) in [
        (0, 2, (0x40_0100, CODE, 0)),
        // The byte between is nobody's.
        (1, 9, (0x40_0330, CODE + 3, 80)),
        (2, 3, (0x40_0300, CODE, 0)),
        (3, 1, (0x40_0310, CODE + 3, 2)),
    ] {
        let mut guest = state(CELLS);
        guest.memory.set_byte(CODE + offset, byte);
        assert_eq!(end(&after, guest), expected, "byte {offset}");
    }
}

/// The cells lie over the program: what an iteration adds to its own operand counts in the next one.
#[test]
fn a_program_that_rewrites_itself_is_followed() {
    let (before, after) = whole();
    // The first cell begins at the first operand, which grows.
    assert_eq!(end(&after, state(CODE + 2)), (0x40_0300, CODE, 0x01_02_04));
    // The cells are behind it: nothing changes.
    assert_eq!(end(&after, state(CODE + 5)), end(&before, state(CODE + 5)));
    // So do cells in front of it, but for the one that is counted down: in the third iteration it borrows from the opcode.
    assert_eq!(end(&after, state(CODE - 16)), end(&before, state(CODE - 16)));
    let mut guest = state(CODE - 12);
    guest.memory.set(CODE - 4, 4, 2);
    guest.memory.set(CODE, 5, PROGRAM);
    assert_eq!(end(&after, guest), (0x40_0100, CODE, 6));
}

#[test]
fn what_is_not_the_program_counter_is_not_taken_for_it() {
    let pipeline = Pipeline::default().to_string();
    let compared = |text: &str| optimised(&trace(text), &pipeline).1.code_compared;
    assert_eq!(compared(&text("rbx", REGION)), 3);
    // The stack pointer; a register that was too far from the middle; no program; a program that is immutable anyway.
    assert_eq!(compared(&text("rbx", "code 0x113480-0x133480")), 0);
    assert_eq!(compared(&text("rbx", "code 0x113440-0x133440")), 3);
    assert_eq!(compared(&text("rbx", "code 0x200000-0x300000")), 0);
    assert_eq!(compared(&text("rbx", "declared 0x123000-0x124000")), 0);
    assert_eq!(compared(&text("rsp", REGION)), 0);
}

#[test]
fn comparisons_can_be_left_out_one_by_one() {
    let before = trace(&text("rbx", REGION));
    let mut all = before.clone();
    let total = redmagic_passes::optimise(&mut all, &Pipeline::default()).rewrites();
    for limit in 0..=total {
        let mut after = before.clone();
        redmagic_passes::optimise_limited(&mut after, &Pipeline::default(), limit);
        redmagic_ir::verify(&after).unwrap_or_else(|errors| panic!("limit {limit}: {errors:#?}\n{after}"));
        for cells in [CELLS, CODE + 5] {
            assert_eq!(end(&after, state(cells)), end(&before, state(cells)), "limit {limit}\n{after}");
        }
    }
}
