//! Guards that share one comparison.

mod common;

use common::{guest, trace};
use redmagic_ir::sandbox::{compare, mix};
use redmagic_ir::{Opcode, Slot, Trace, Type};
use redmagic_passes::{MemoryModel, Pipeline, Stats, optimise};

const OBJECT: u64 = 0x5000;

fn fused(before: &Trace, model: MemoryModel) -> (Trace, Stats) {
    let mut after = before.clone();
    let stats = optimise(&mut after, &Pipeline::parse("fuse,dce").unwrap().under(model));
    redmagic_ir::verify(&after).unwrap_or_else(|errors| panic!("{errors:#?}\n{after}"));
    (after, stats)
}

fn loads(trace: &Trace, ty: Type) -> usize {
    let all = trace.segments.values().flat_map(|segment| &segment.insts);
    all.filter(|value| trace.insts[**value].op == Opcode::Load && trace.ty(**value) == ty).count()
}

/// Two tags next to each other, of which one is asked for twice.
const TAGS: &str = "trace t {
seg0():
  v0: i64 = slot rax
  v1: i8 = const 15
  v2: i8 = const 0
  v3: i8 = const 68
  v4: i8 = const 19
  v5: i64 = load [v0]
  v6: i8 = load [v0 + 9]
  v7: i1 = eq v6, v3
  guard v7, exit0
  v8: i8 = load [v0 + 8]
  v9: i8 = and v8, v1
  v10: i1 = eq v9, v2
  guard_not v10, exit1
  v11: i1 = eq v8, v4
  guard v11, exit2
  leave exit3
exit0 @0x40 {}
exit1 @0x50 { rcx = v5 }
exit2 @0x60 { rcx = v5 }
exit3 @0x70 { rcx = v5 }
}";

#[test]
fn adjacent_tags_are_one_load() {
    let (after, stats) = fused(&trace(TAGS), MemoryModel::Default);
    assert_eq!(stats.guards_fused, 2, "{after}");
    assert_eq!((loads(&after, Type::I8), loads(&after, Type::I16)), (0, 1), "{after}");
    assert!(stats.to_string().contains("guards fused 2"), "{stats}");
}

#[test]
fn the_strict_model_keeps_every_load() {
    let (after, stats) = fused(&trace(TAGS), MemoryModel::Strict);
    // What asks about one load does not need another.
    assert_eq!(stats.guards_fused, 1, "{after}");
    assert_eq!((loads(&after, Type::I8), loads(&after, Type::I16)), (2, 0), "{after}");
}

#[test]
fn bytes_that_may_be_on_another_page_are_not_loaded() {
    let text = TAGS.replace("v5: i64 = load [v0]\n", "v5: i64 = load [v0 + 16]\n");
    let (after, stats) = fused(&trace(&text), MemoryModel::Default);
    assert_eq!((stats.guards_fused, loads(&after, Type::I16)), (1, 0), "{after}");
}

#[test]
fn what_lies_in_frames_or_does_not_change_stays() {
    for class in ["load.frame", "load.immutable"] {
        let text = TAGS.replace("load [v0 + 9]", &format!("{class} [v0 + 9]"));
        let (after, stats) = fused(&trace(&text), MemoryModel::Default);
        assert_eq!((stats.guards_fused, loads(&after, Type::I16)), (1, 0), "{after}");
    }
}

/// A random trace: checks of random widths, masks and constants on two objects, of which most hold for bytes `at`.
fn random(seed: u64, at: impl Fn(u64) -> u8) -> Trace {
    let mut number = 0;
    let mut choose = |count: u64| {
        number += 1;
        mix(seed, number) % count
    };
    let (mut lines, mut exits) = (String::new(), String::new());
    let mut loaded: Vec<(String, u32, u64)> = Vec::new();
    for step in 0..24 {
        let kind = choose(16);
        if kind < 1 {
            let by = choose(32);
            lines += &format!("  store i8 [v1 + {by}], v2\n");
            loaded.clear();
        } else if kind < 7 || loaded.is_empty() {
            let (width, offset) = ([1, 1, 1, 2, 4, 8][choose(6) as usize], choose(12));
            let value = (0..width).fold(0, |value, byte| value | u64::from(at(offset + byte)) << (8 * byte));
            let root = choose(5) / 4;
            lines += &format!("  v10{step}: i{} = load [v{root} + {offset}]\n", 8 * width);
            loaded.push((format!("v10{step}"), 8 * width as u32, value));
        } else {
            let (name, bits, value) = loaded[choose(loaded.len() as u64) as usize].clone();
            let all = u64::MAX >> (64 - bits);
            let mask = if choose(2) == 0 { all } else { choose(u64::MAX) & all };
            let differs = u64::from(choose(12) == 0);
            let op = ["eq", "eq", "eq", "ne", "ult", "sle"][choose(6) as usize];
            let constant = ((value & mask) ^ differs) & all;
            let signed = |imm: u64| (imm << (64 - bits)) as i64 >> (64 - bits);
            let guard = if matches!(op, "eq" | "sle") { "guard" } else { "guard_not" };
            lines += &format!("  v20{step}: i{bits} = const {}\n", signed(mask));
            lines += &format!("  v30{step}: i{bits} = const {}\n", signed(constant));
            lines += &format!("  v40{step}: i{bits} = and {name}, v20{step}\n");
            lines += &format!("  v50{step}: i1 = {op} v40{step}, v30{step}\n");
            lines += &format!("  {guard} v50{step}, exit{step}\n");
            let seen = loaded.iter().find(|load| load.1 == 64).map_or("v1", |load| &load.0);
            exits += &format!("exit{step} @{:#x} {{ rbx = {seen} }}\n", 0x40 + step);
        }
    }
    trace(&format!(
        "trace t {{
seg0():
  v0: i64 = slot rax
  v1: i64 = slot rcx
  v2: i8 = const 7
{lines}  leave exit99
{exits}exit99 @0x4000 {{}}
}}"
    ))
}

#[test]
fn random_checks_keep_their_exits() {
    const COUNT: u64 = 400;
    let (mut fused_guards, mut wide, mut reached) = (0, 0, 0);
    for seed in 0..COUNT {
        let before = random(seed, |at| mix(seed, at + 5000) as u8);
        for model in [MemoryModel::Strict, MemoryModel::Default] {
            let (after, stats) = fused(&before, model);
            fused_guards += stats.guards_fused;
            wide += u32::from(loads(&after, Type::I8) < loads(&before, Type::I8) && model == MemoryModel::Default);
            for number in 0..48u64 {
                let mut guest =
                    guest(&[(Slot::RAX, OBJECT), (Slot::RCX, [OBJECT, OBJECT + 4, 0x6000][number as usize % 3])]);
                for at in 0..24 {
                    guest.memory.set_byte(OBJECT + at, mix(seed, at + 5000) as u8);
                    guest.memory.set_byte(0x6000 + at, mix(seed, at + 5000) as u8);
                }
                if number > 2 {
                    let at = OBJECT + mix(seed, number) % 20;
                    let bit = 1 << (mix(number, seed) % 8);
                    guest.memory.set_byte(at, guest.memory.byte(at).unwrap_or(0) ^ bit);
                }
                match compare(&before, &after, &guest, 500) {
                    Ok(same) => reached += u64::from(same),
                    Err(difference) => panic!("seed {seed}, guest {number}: {difference}\n{before}\n{after}"),
                }
            }
        }
    }
    assert!(fused_guards > COUNT as u32 && wide > 20, "only {fused_guards} guards were fused, {wide} loads widened");
    assert_eq!(reached, COUNT * 96);
}
