//! What fails is made small.

use redmagic_fuzz::bench::force;
use redmagic_fuzz::shrink::shrink;
use redmagic_ir::{Opcode, Trace, parse, verify};
use std::fs;
use std::path::Path;

fn trace() -> Trace {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/filetests/text/everything.tir");
    let text = fs::read_to_string(file).unwrap();
    let traces = parse(text.split("; ---- expected ----").next().unwrap()).unwrap();
    traces.into_iter().max_by_key(Trace::len).unwrap()
}

#[test]
fn of_a_large_trace_the_cause_remains() {
    let trace = trace();
    // It stores, or an exit lists what it loads.
    let guilty = |trace: &Trace| {
        let used = |value| {
            trace
                .exits
                .values()
                .any(|exit| exit.slots.iter().any(|slot| slot.1 == redmagic_ir::ExitValue::Value(value)))
        };
        let has = |op: Opcode| {
            trace.segments.values().flat_map(|segment| &segment.insts).any(|value| trace.insts[*value].op == op)
        };
        has(Opcode::Store) || has(Opcode::Load) && trace.insts.keys().any(used)
    };
    assert!(guilty(&trace), "{trace}");
    let small = shrink(&trace, guilty);
    assert!(guilty(&small) && verify(&small).is_ok(), "{small}");
    assert!(
        small.len() <= 4 && small.len() * 4 < trace.len(),
        "{} of {} instructions are left:\n{small}",
        small.len(),
        trace.len()
    );
}

/// A guard that is made to fail is found by its number, and there is an end to them.
#[test]
fn every_guard_has_its_number() {
    let mut forced = 0;
    for number in 0.. {
        let mut trace = trace();
        if force(&mut trace, number).is_none() {
            break;
        }
        verify(&trace).unwrap();
        forced += 1;
    }
    let all = trace().insts.values().filter(|inst| inst.exit().is_some()).count();
    assert_eq!(forced, all);
}
