//! The pass `loops`: what the second copy has and has not, and that the nest does what the loop did.

mod common;

use common::{counted_loop, guest, optimised, trace};
use redmagic_ir::eval::{Guest, Machine, Outcome};
use redmagic_ir::sandbox::{TestGuest, compare, variations};
use redmagic_ir::{Opcode, Segment, Slot, Terminator, Trace};
use redmagic_passes::Stats;

const FUEL: u64 = 10_000;

/// A trace with its nest.
struct Nest {
    before: Trace,
    after: Trace,
    stats: Stats,
}

/// Applies `passes`, and compares on variations of `guests`.
fn nest_by(passes: &str, text: &str, guests: &[TestGuest]) -> Nest {
    let before = trace(text);
    let (after, stats) = optimised(&before, passes);
    let nest = Nest { before, after, stats };
    for base in guests {
        let compared = variations(&nest.before, base, 40).iter().filter(|guest| nest.same(guest)).count();
        assert!(compared > 0, "no run reaches an exit");
    }
    nest
}

fn nest(text: &str, guests: &[TestGuest]) -> Nest {
    let nest = nest_by("loops,dce", text, guests);
    println!("{}", nest.after);
    assert_eq!(nest.stats.loops_copied, 1, "{}", nest.stats);
    nest
}

impl Nest {
    /// Checks that both do the same to `guest`; `false` if the run does not end.
    fn same(&self, guest: &TestGuest) -> bool {
        compare(&self.before, &self.after, guest, FUEL)
            .unwrap_or_else(|difference| panic!("{difference}\n{}\n{}", self.before, self.after))
    }

    /// The segments P, H2 and F.
    fn parts(&self) -> [Segment; 3] {
        let new: Vec<Segment> = self.after.segments.keys().skip(self.before.segments.len()).collect();
        new.try_into().unwrap()
    }

    /// P, H2, F and the exits of H2, as text. Values that the pass has made are called a, b, c in order of appearance.
    fn text(&self) -> String {
        let text = self.after.to_string();
        let from = text.find(&format!("\n{}(", self.parts()[0])).unwrap() + 1;
        let mut segments = text[from..].split("\nexit").next().unwrap().to_owned();
        self.exit_lines().iter().for_each(|exit| segments += &format!("\n{exit}"));
        named(&segments, self.before.insts.len())
    }

    /// How many instructions of the second copy have opcode `op`.
    fn count(&self, op: Opcode) -> usize {
        let insts = &self.after.segments[self.parts()[1]].insts;
        insts.iter().filter(|value| self.after.insts[**value].op == op).count()
    }

    /// The exits of the second copy, as text.
    fn exits(&self) -> Vec<String> {
        let named = |line: &String| named(line, self.before.insts.len());
        self.exit_lines().iter().map(named).collect()
    }

    fn exit_lines(&self) -> Vec<String> {
        let copy = &self.after.segments[self.parts()[1]];
        let exits = copy.insts.iter().filter_map(|value| self.after.insts[*value].exit());
        let text = self.after.to_string();
        let line = |exit| text.lines().find(|line| line.starts_with(&format!("{exit} @"))).unwrap().to_owned();
        exits.map(line).collect()
    }

    /// Checks that both do the same where the second copy gives way after about this many iterations.
    fn around_strips(&self, base: &TestGuest) {
        let Terminator::Jump(target) = &self.after.segments[self.parts()[0]].terminator else { panic!() };
        let strip = self.after.as_const(target.args[0]).unwrap() as u64;
        for count in [strip - 1, strip, strip + 1, strip + 2, 3 * strip + 5] {
            let mut guest = base.clone();
            guest.set_slot(Slot::RAX, count);
            let compared = compare(&self.before, &self.after, &guest, 30 * count);
            assert_eq!(compared, Ok(true), "{count} iterations\n{}", self.after);
        }
    }

    /// Whether a run from `guest` gets into the second copy.
    fn enters(&self, guest: &TestGuest) -> bool {
        let mut machine = Machine::new(&self.after);
        let ended = machine.enter(&self.after, &mut guest.clone(), FUEL);
        assert!(matches!(ended, Ok(Outcome::Exit(_))), "{ended:?}");
        machine.value(self.after.segments[self.parts()[1]].params[0]) != 0
    }
}

/// Replaces values from number `first` on by letters.
fn named(text: &str, first: usize) -> String {
    let mut names: Vec<String> = Vec::new();
    let mut result = String::new();
    for word in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let name = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        if name.strip_prefix('v').and_then(|number| number.parse::<usize>().ok()).is_some_and(|number| number >= first)
        {
            let at = names.iter().position(|known| known == name).unwrap_or_else(|| {
                names.push(name.to_owned());
                names.len() - 1
            });
            result.push((b'a' + at as u8) as char);
            result += &word[name.len()..];
        } else {
            result += word;
        }
    }
    result
}

/// What the pass says of a loop that it leaves alone.
fn refusal(text: &str) -> Vec<&'static str> {
    let (after, stats) = optimised(&trace(text), "loops");
    assert_eq!(stats.loops_copied, 0, "{after}");
    stats.loop_refusals
}

/// A loop that counts rax down to 0; rsp is v4.
fn counted(body: &str, exits: &str) -> String {
    counted_loop("rsp", "", "", body, "", &format!("exit0 @0x40 {{ rax = v9 }}\n{exits}"))
}

const RBX: u64 = 0x5000;
const RCX: u64 = 0x6000;

fn far() -> TestGuest {
    guest(&[(Slot::RAX, 9), (Slot::RBX, RBX), (Slot::RCX, RCX), (Slot::RDX, 8)])
}

/// The same with rcx somewhere else.
fn with_rcx(rcx: u64) -> TestGuest {
    let mut guest = far();
    guest.set_slot(Slot::RCX, rcx);
    guest
}

const CELL: &str = "  v20: i64 = load [v2 + 8] @0x6008=0x1
  v21: i64 = load [v1] @0x5000=0x2
  v22: i64 = add v21, v20
  store i64 [v1], v22 @0x5000=0x3";

#[test]
fn a_cell_is_carried_and_its_store_waits() {
    let nest = nest(&counted(CELL, ""), &[far(), with_rcx(RBX - 8), with_rcx(RBX - 4), with_rcx(RBX)]);
    assert_eq!(
        nest.text(),
        "seg2():
  jump seg3(a, v11, v22)
seg3(b: i64, c: i64 = rax, d: i64):
  e: i1 = ne c, v7
  guard e, exit1
  f: i64 = add v20, d
  g: i64 = add c, v8
  h: i64 = add b, i
  j: i1 = ne h, k
  switch j { 1 => seg3(h, g, f) } else seg4()
seg4():
  store i64 [v1], f @0x5000=0x0
  jump seg1(g)
exit1 @0x40 { rax = c, store i64 [v1] = d }"
    );
    assert!(nest.enters(&far()));
    for rcx in [RBX - 8, RBX - 1, RBX - 15] {
        assert!(!nest.enters(&with_rcx(rcx)), "rcx = {rcx:#x}");
    }
}

#[test]
fn long_loops_look_at_memory_now_and_then() {
    let nest = nest(&counted(CELL, ""), &[]);
    nest.around_strips(&far());
}

#[test]
fn windows_are_apart_or_not_at_every_distance() {
    // A word that is stored and a word that is loaded, and the same around the end of the address space.
    let nest = nest(&counted(CELL, ""), &[]);
    for (rbx, rcx) in [(RBX, RBX - 8), (0, 0u64.wrapping_sub(8)), (u64::MAX, u64::MAX - 8), (1 << 63, (1 << 63) - 8)] {
        for by in -24i64..=24 {
            let mut guest = with_rcx(rcx.wrapping_add(by as u64));
            guest.set_slot(Slot::RBX, rbx);
            assert!(nest.same(&guest));
            assert_eq!(nest.enters(&guest), by.abs() >= 8, "{rbx:#x}, distance {by}");
        }
    }
}

#[test]
fn loads_and_guards_on_them_are_not_repeated() {
    let body = "  v20: i8 = load [v2 + 8] @0x6008=0x3
  v21: i8 = const 3
  v22: i1 = eq v20, v21
  guard v22, exit1
  v23: i64 = load [v1 + 8] @0x5008=0x7000
  v24: i64 = load [v23 + 16] @0x7010=0x5
  v25: i64 = add v24, v9
  store i64 [v1], v25 @0x5000=0x9";
    let mut base = far();
    base.memory.set(RBX + 8, 8, 0x7000);
    base.memory.set(RCX + 8, 1, 3);
    let mut cyclic = base.clone();
    cyclic.memory.set(RBX + 8, 8, u128::from(RBX - 16));
    let nest = nest(&counted(body, "exit1 @0x44 { rax = v9 }"), &[base.clone(), cyclic.clone()]);
    assert_eq!((nest.count(Opcode::Load), nest.count(Opcode::Store), nest.count(Opcode::Guard)), (0, 0, 1));
    assert!(nest.enters(&base) && !nest.enters(&cyclic));
}

#[test]
fn what_was_one_address_is_one_value() {
    // `ci->next->previous == ci`, and both names of the object are used.
    let body = "  v20: i64 = load [v1 + 8] @0x5008=0x7000
  v21: i64 = load [v20 + 16] @0x7010=0x5000
  v22: i1 = eq v21, v1
  guard v22, exit1
  v23: i64 = load [v21 + 24] @0x5018=0x5
  v24: i64 = add v23, v9
  store i64 [v1 + 24], v24 @0x5018=0x9";
    let mut base = far();
    base.memory.set(RBX + 8, 8, 0x7000);
    base.memory.set(0x7010, 8, u128::from(RBX));
    let nest = nest(&counted(body, "exit1 @0x44 { rax = v9 }"), std::slice::from_ref(&base));
    assert_eq!((nest.count(Opcode::Load), nest.count(Opcode::Store), nest.count(Opcode::Guard)), (0, 0, 1));
    assert!(nest.enters(&base));
}

#[test]
fn without_a_guard_one_address_is_checked() {
    let body = "  v20: i64 = load [v1 + 8] @0x5008=0x7000
  v21: i64 = load [v2] @0x6000=0x7008
  v22: i64 = load [v20 + 8] @0x7008=0x5
  v23: i64 = add v22, v9
  store i64 [v21], v23 @0x7008=0x9";
    let [mut same, mut apart, mut touching] = [far(), far(), far()];
    for (guest, other) in [(&mut same, 0x7008), (&mut apart, 0x8000), (&mut touching, 0x700c)] {
        guest.memory.set(RBX + 8, 8, 0x7000);
        guest.memory.set(RCX, 8, other);
    }
    let nest = nest(&counted(body, ""), &[same.clone(), apart.clone(), touching.clone()]);
    assert_eq!((nest.count(Opcode::Load), nest.count(Opcode::Store)), (0, 0));
    assert!(nest.enters(&same) && !nest.enters(&apart) && !nest.enters(&touching));
}

/// An array at rcx of rdx words of 16 bytes, indexed from 1, and a cell at rbx.
const ARRAY: &str = "  v20: i64 = const 255
  v21: i64 = and v3, v20
  v22: i64 = const 7
  v23: i64 = and v9, v22
  v24: i64 = add v23, v8
  v25: i1 = ult v24, v21
  guard v25, exit1
  v26: i8 = const 4
  v27: i64 = shl v23, v26
  v28: i64 = add v2, v27
  v29: i64 = load [v1] @0x5000=0x1
  v30: i64 = add v29, v9
  store i64 [v1], v30 @0x5000=0x9
  store i64 [v28 - 16], v30 @0x6000=0x9";

#[test]
fn a_guarded_index_bounds_an_array() {
    let nest = nest(&counted(ARRAY, "exit1 @0x44 { rax = v9 }"), &[far(), with_rcx(RBX), with_rcx(RBX - 0x78)]);
    assert_eq!((nest.count(Opcode::Load), nest.count(Opcode::Store)), (0, 1));
    for elements in [7u64, 8, 40, 255] {
        // The array is `elements - 1` times 16 bytes long, and 8.
        let bytes = 16 * (elements as i64 - 1) + 8;
        for by in [0, 8, -bytes].into_iter().flat_map(|edge| edge - 9..edge + 10).chain([-6000, 6000, 1 << 32]) {
            let mut guest = with_rcx(RBX.wrapping_add(by as u64));
            guest.set_slot(Slot::RDX, elements);
            assert!(nest.same(&guest));
            // Eight is left out by the loop's own guard.
            guest.set_slot(Slot::RAX, 7);
            assert_eq!(nest.enters(&guest), by >= 8 || by <= -bytes, "{elements} elements, distance {by}");
        }
    }
}

#[test]
fn a_load_from_an_array_is_apart_from_stores() {
    let body = "  v20: i64 = const 255
  v21: i64 = and v3, v20
  v22: i64 = const 3
  v23: i64 = and v9, v22
  v24: i1 = ult v23, v21
  guard v24, exit1
  v25: i64 = load [v2 + v23*8] @0x6000=0x1
  v26: i64 = load [v1] @0x5000=0x1
  v27: i64 = add v26, v25
  store i64 [v1], v27 @0x5000=0x9";
    let distances = [-7i64, 0, 8, -8, -24, -31, -56, -64];
    let guests = distances.map(|by| with_rcx(RBX.wrapping_add(by as u64)));
    let nest = nest(&counted(body, "exit1 @0x44 { rax = v9 }"), &guests);
    assert_eq!((nest.count(Opcode::Load), nest.count(Opcode::Store)), (1, 0));
    for (guest, by) in guests.iter().zip(distances) {
        assert_eq!(nest.enters(guest), by >= 8 || by <= -64, "distance {by}");
    }
}

#[test]
fn where_a_load_may_be_from_anywhere_stores_do_not_wait() {
    let body = "  v20: i64 = const 3
  v21: i64 = and v9, v20
  v22: i64 = load [v2 + v21*8] @0x6008=0x1
  v23: i64 = load [v1] @0x5000=0x1
  v24: i64 = add v23, v22
  store i64 [v1], v24 @0x5000=0x9";
    let nest = nest(&counted(body, ""), &[far(), with_rcx(RBX), with_rcx(RBX - 8), with_rcx(RBX - 3)]);
    assert_eq!((nest.count(Opcode::Load), nest.count(Opcode::Store)), (1, 1));
    assert!(nest.enters(&with_rcx(RBX)));
}

#[test]
fn an_array_may_start_at_a_pointer_that_another_one_is_an_alias_of() {
    // rdx was recorded at rbx + 8: in the second copy it is expressed by rbx. The array begins where the cells end.
    let body = "  v20: i64 = const 255
  v21: i64 = and v2, v20
  v22: i64 = const 7
  v23: i64 = and v9, v22
  v25: i1 = ult v23, v21
  guard v25, exit1
  v26: i64 = load [v1 + 8] @0x5008=0x1
  v27: i64 = add v26, v9
  store i64 [v3], v27 @0x5008=0x9
  v28: i64 = load [v3 + v23*8 + 24] @0x5048=0x1
  store i64 [v1 + 24], v28 @0x5018=0x1";
    let at = |rdx| guest(&[(Slot::RAX, 7), (Slot::RBX, RBX), (Slot::RCX, 8), (Slot::RDX, rdx)]);
    let nest = nest(&counted(body, "exit1 @0x44 { rax = v9 }"), &[at(RBX + 8), at(RBX), at(RBX - 64), at(0x7000)]);
    assert_eq!(nest.count(Opcode::Load), 1);
    assert!(nest.enters(&at(RBX + 8)) && !nest.enters(&at(RBX)) && !nest.enters(&at(0x7000)));
}

#[test]
fn many_roots_are_checked_by_their_order() {
    let slots = ["rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10"];
    let reads: String = slots.iter().enumerate().map(|(at, slot)| format!("  v{at}: i64 = slot {slot}\n")).collect();
    let stores: String =
        (0..8).map(|at| format!("  store i64 [v{at} + 8], v13 @{:#x}=0x1\n", 0x5008 + 0x100 * at)).collect();
    let text = format!(
        "trace t {{
seg0():
{reads}  v10: i64 = slot rax
  v11: i64 = const 0
  v12: i64 = const -1
  jump seg1(v10)
seg1(v13: i64 = rax):
  v14: i1 = ne v13, v11
  guard v14, exit0
{stores}  v15: i64 = add v13, v12
  jump seg1(v15)
exit0 @0x40 {{ rax = v13 }}
}}"
    );
    let in_order = |shift: u64| {
        let registers = [3, 1, 2, 6, 7, 8, 9, 10].map(Slot::gpr);
        let mut base = guest(&[(Slot::RAX, 5)]);
        (0..8).for_each(|at| base.set_slot(registers[at as usize], 0x5000 + shift * at));
        base
    };
    let mut swapped = in_order(0x100);
    swapped.set_slot(Slot::RBX, 0x5a00);
    let nest = nest(&text, &[in_order(0x100), in_order(8), in_order(7), in_order(0), swapped.clone()]);
    assert_eq!(nest.count(Opcode::Store), 0);
    assert!(nest.enters(&in_order(0x100)) && nest.enters(&in_order(8)));
    assert!(!nest.enters(&in_order(7)) && !nest.enters(&in_order(0)) && !nest.enters(&swapped));
}

#[test]
fn an_exit_stores_what_memory_holds_by_then() {
    // Two cells: one before, one behind the exit in the middle; a third one that is back at its value there.
    let body = "  v20: i64 = load [v1] @0x5000=0x1
  v21: i64 = add v20, v9
  store i64 [v1], v21 @0x5000=0x2
  store i8 [v1 + 16], v30 @0x5010=0x2
  v22: i1 = ne v21, v3
  guard v22, exit1
  store i8 [v1 + 16], v31 @0x5010=0x2
  v23: i64 = load [v1 + 8] @0x5008=0x1
  v24: i64 = add v23, v9
  store i64 [v1 + 8], v24 @0x5008=0x2";
    let text = counted(body, "exit1 @0x44 { rax = v9 }")
        .replace("  v7: i64 = const 0\n", "  v7: i64 = const 0\n  v30: i8 = const 5\n  v31: i8 = const 6\n");
    let mut base = far();
    (0..3).for_each(|at| base.memory.set(RBX + 8 * at, 8, 1));
    // The exit in the middle is taken in the second, the third, and the fifth iteration.
    let guests: Vec<TestGuest> = [18, 25, 36]
        .map(|rdx| {
            let mut guest = base.clone();
            guest.set_slot(Slot::RDX, rdx);
            guest
        })
        .to_vec();
    let nest = nest(&text, &guests);
    assert_eq!((nest.count(Opcode::Load), nest.count(Opcode::Store)), (0, 0));
    // The store of 5 is not yet undone by that of 6, which memory holds.
    let expected = [
        "exit2 @0x40 { rax = a, store i64 [v1] = b, store i64 [v1 + 8] = c }",
        "exit3 @0x44 { rax = a, store i64 [v1] = b, store i8 [v1 + 16] = 5, store i64 [v1 + 8] = c }",
    ];
    assert_eq!(nest.exits(), expected);
}

/// A loop with a traced call: its frame is 0xa0 bytes deep. `first` comes before the push, `v40` is the stack pointer in the callee.
fn framed(first: &str) -> String {
    counted(
        &format!(
            "{first}
  v20: i64 = const -0xa0
  v21: i64 = add v4, v20
  store.frame i64 [v4 - 0xa0], v9 @0x7ffeff60=0x9
  v22: i1 = ne v9, v3
  guard v22, exit1
  v23: i64 = load.frame [v4 - 0xa0] @0x7ffeff60=0x9
  v24: i64 = load [v1] @0x5000=0x1
  v25: i64 = add v24, v23
  store i64 [v1], v25 @0x5000=0x9"
        ),
        "exit1 @0x44 { rax = v9, rsp = v21 }
exit2 @0x48 { rax = v9 }",
    )
}

#[test]
fn a_popped_frame_is_not_written() {
    let mut leaves = far();
    leaves.set_slot(Slot::RDX, 5);
    let nest = nest(&framed(""), &[far(), leaves]);
    assert_eq!((nest.count(Opcode::Load), nest.count(Opcode::Store)), (0, 0));
    assert_eq!(nest.exits()[0], "exit3 @0x40 { rax = a, store i64 [v1] = b }");
    assert_eq!(nest.exits()[1], "exit4 @0x44 { rax = a, rsp = v21, store i64 [v4 - 160] = a, store i64 [v1] = b }");
    assert!(nest.text().contains("seg4():\n  store i64 [v1], "));
}

#[test]
fn what_is_read_below_the_stack_pointer_is_kept() {
    let first = "  v26: i64 = load.frame [v4 - 0xa0] @0x7ffeff60=0x9
  v27: i1 = ne v26, v2
  guard v27, exit2";
    let mut leaves = far();
    leaves.set_slot(Slot::RCX, 5);
    // Far below, the loop itself reads it, but nobody behind an exit; in the red zone, the program may.
    for (text, exits) in [(framed(first), 1), (framed(first).replace("v4 - 0xa0", "v4 - 0x18"), 3)] {
        let nest = nest(&text, &[far(), leaves.clone()]);
        nest.around_strips(&far());
        let exits_store = nest.exits().iter().filter(|exit| exit.contains("store i64 [v4 - ")).count();
        assert_eq!(exits_store, exits, "{}", nest.after);
        assert!(nest.text().contains("seg4():\n  store i64 [v4 - "), "{}", nest.after);
    }
}

#[test]
fn frames_that_are_open_where_the_loop_begins_are_flushed() {
    // The loop is in a callee: what it stored in the iteration before is in its frame when exit0 is taken.
    let text = framed("")
        .replace("exit0 @0x40 { rax = v9 }", "exit0 @0x40 { rax = v9, rsp = v6 }")
        .replace("  v7: i64 = const 0\n", "  v7: i64 = const 0\n  v5: i64 = const -0x100\n  v6: i64 = add v4, v5\n");
    let nest = nest(&text, &[]);
    nest.around_strips(&far());
    assert_eq!(
        nest.text(),
        "seg2():
  jump seg3(a, v11, v9, v25)
seg3(b: i64, c: i64 = rax, d: i64, e: i64):
  f: i1 = ne c, v7
  guard f, exit3
  g: i1 = ne v3, c
  guard g, exit4
  h: i64 = add c, e
  i: i64 = add c, v8
  j: i64 = add b, k
  l: i1 = ne j, m
  switch l { 1 => seg3(j, i, c, h) } else seg4()
seg4():
  store i64 [v4 - 160], c @0x7ffeff60=0x0
  store i64 [v1], h @0x5000=0x0
  jump seg1(i)
exit3 @0x40 { rax = c, rsp = v6, store i64 [v4 - 160] = d, store i64 [v1] = e }
exit4 @0x44 { rax = c, rsp = v21, store i64 [v4 - 160] = c, store i64 [v1] = e }"
    );
}

#[test]
fn behind_a_call_the_stack_pointer_may_be_another() {
    // The call was made with a frame pushed, which exits do not say: the context has it since.
    let text = "trace t {
seg0():
  v0: i64 = slot rsp
  v1: i64 = const -0x200
  v2: i64 = add v0, v1
  v3: i64 = const 0x9000
  call v3 ret v3 state exit0 effect any -> seg1
seg1():
  v4: i64 = slot rax
  v5: i64 = slot rbx
  v7: i64 = const 0
  v8: i64 = const -1
  jump seg2(v4)
seg2(v9: i64 = rax):
  v10: i1 = ne v9, v7
  guard v10, exit1
  store.frame i64 [v0 - 0xa0], v9 @0x7ffeff60=0x9
  v20: i64 = load [v5] @0x5000=0x1
  v21: i64 = add v20, v9
  store i64 [v5], v21 @0x5000=0x2
  v11: i64 = add v9, v8
  jump seg2(v11)
exit0 @0x30 { rsp = v2 }
exit1 @0x40 { rax = v9 }
}";
    let nest = nest(text, &[far()]);
    let expected = "exit2 @0x40 { rax = a, store i64 [v0 - 160] = b, store i64 [v5] = c }";
    assert_eq!(nest.exits()[0], expected);
}

#[test]
fn a_load_that_a_guard_protects_stays_behind_it() {
    // From the second iteration on, v12 is rcx; that it is no null pointer is checked first, each time.
    let text = "trace t {
seg0():
  v0: i64 = slot rax
  v1: i64 = slot rbx
  v2: i64 = slot rcx
  v7: i64 = const 0
  v8: i64 = const -1
  jump seg1(v0, v1)
seg1(v9: i64 = rax, v12: i64):
  v10: i1 = ne v9, v7
  guard v10, exit0
  v20: i1 = ne v12, v7
  guard v20, exit1
  v21: i64 = load.immutable [v12 + 8] @0x5008=0x1
  v22: i64 = udiv v1, v21
  v23: i64 = load [v1] @0x5000=0x1
  v24: i64 = add v23, v22
  store i64 [v1], v24 @0x5000=0x1
  v25: i64 = load [v1 + 8]
  v11: i64 = add v9, v8
  jump seg1(v11, v2)
exit0 @0x40 { rax = v9 }
exit1 @0x44 { rax = v9 }
}";
    let nest = nest(text, &[far(), with_rcx(0)]);
    let copy = nest.text();
    assert!(copy.starts_with("seg2():\n  a: i1 = ne v2, v7\n  jump seg3("), "{copy}");
    assert!(copy.contains("guard a, exit3\n  g: i64 = load.immutable [v2 + 8]\n  h: i64 = udiv v1, g\n"), "{copy}");
}

#[test]
fn every_simple_loop_of_a_trace_gets_its_copy() {
    let text = "trace t {
seg0():
  v0: i64 = slot rax
  v1: i64 = slot rbx
  v2: i64 = slot rcx
  v6: i64 = const 1
  v7: i64 = const 0
  v8: i64 = const -1
  v5: i1 = eq v2, v7
  switch v5 { 1 => seg1(v0) } else seg2(v0, v7)
seg1(v9: i64 = rax):
  v10: i1 = ne v9, v7
  guard v10, exit0
  v20: i64 = load [v1] @0x5000=0x1
  v21: i64 = add v20, v9
  store i64 [v1], v21 @0x5000=0x2
  v11: i64 = add v9, v8
  jump seg1(v11)
seg2(v12: i64 = rax, v13: i64 = rdx):
  v14: i1 = ne v12, v7
  guard v14, exit1
  v22: i64 = load [v1 + 8]
  v15: i64 = add v13, v22
  v23: i64 = load [v2] @0x6000=0x2
  v16: i64 = add v12, v8
  store i64 [v2 + 8], v23
  jump seg2(v16, v15)
exit0 @0x40 { rax = v9 }
exit1 @0x44 { rax = v12, rdx = v13 }
}";
    let before = trace(text);
    for passes in ["loops", "loops,dce", "loops,loops", "fold,loops,forward,dce", "loops,params,forward,flags,dce"] {
        let (after, stats) = optimised(&before, passes);
        assert_eq!(stats.loops_copied, 2, "{passes}");
        for base in [far(), with_rcx(0), with_rcx(RBX), with_rcx(RBX + 8)] {
            for guest in variations(&before, &base, 40) {
                compare(&before, &after, &guest, FUEL).unwrap_or_else(|error| panic!("{passes}: {error}\n{after}"));
            }
        }
    }
}

#[test]
fn a_parameter_that_becomes_constant_is_no_parameter_of_the_copy() {
    let text = counted("  v20: i64 = add v12, v9\n  store i64 [v1], v20 @0x5000=0x1", "")
        .replace("jump seg1(v0)", "jump seg1(v0, v2)")
        .replace("v9: i64 = rax)", "v9: i64 = rax, v12: i64 = rdx)")
        .replace("jump seg1(v11)", "jump seg1(v11, v8)")
        .replace("rax = v9 }", "rax = v9, rdx = v12 }");
    let nest = nest(&text, &[far()]);
    let expected = "exit1 @0x40 { rax = a, rdx = -1, store i64 [v1] = b }";
    assert_eq!(nest.exits()[0], expected);
}

#[test]
fn flags_that_only_exits_need_stay_recipes() {
    let body = format!("{CELL}\n  v23: i32 = fl_add v21, v20\n  v24: i1 = ne v22, v3\n  guard v24, exit1");
    let text = counted(&body, "exit1 @0x44 { rax = v22, flags = v23 }");
    let mut leaves = far();
    leaves.memory.set(RBX, 8, 2);
    leaves.memory.set(RCX + 8, 8, 3);
    let nest = nest_by("flags,loops,dce", &text, &[far(), leaves]);
    assert_eq!(nest.exits()[1], "exit3 @0x44 { rax = a, flags = fl_add(b, v20), store i64 [v1] = a }");
}

#[test]
fn what_has_no_second_copy_says_why() {
    let unbounded = counted("  v20: i64 = load [v1]\n  store i64 [v2 + v20*8], v9", "");
    assert_eq!(refusal(&unbounded), ["store without bounds"]);
    let fails = counted("  v20: i64 = load [v1]\n  v21: i1 = eq v20, v7\n  guard v21, exit1\n  store i64 [v1], v8", "")
        .replace("exit0 @", "exit1 @0x44 { rax = v9 }\nexit0 @");
    assert_eq!(refusal(&fails), ["a guard always fails"]);
    let nothing = counted("  v20: i64 = load [v1 + v9*8]\n  v21: i64 = load [v20]\n  v22: i64 = load [v21]", "");
    assert_eq!(refusal(&nothing), ["nothing gained"]);
    let root =
        |at: u32| format!("  v{}: i64 = const {at}0000\n  v{}: i64 = load [v{}]\n", 100 + at, 200 + at, 100 + at);
    let roots: String = (1..50).map(root).collect();
    assert_eq!(refusal(&counted(roots.trim_end(), "")), ["too many roots"]);
}

#[test]
fn the_walk_understands_the_nest() {
    let rcx = [RBX - 8, RBX - 4, RBX, RCX];
    for text in [counted(CELL, ""), counted(ARRAY, "exit1 @0x44 { rax = v9 }"), framed("")] {
        for passes in ["loops,forward,dce", "loops,params,fold,flags,dce", "forward,loops,dce,forward,params,dce"] {
            nest_by(passes, &text, &rcx.map(with_rcx));
        }
    }
}
