//! Text form, graph, verifier and evaluator on traces that the file tests cannot express: built by hand, malformed, or
//! driven step by step.

use redmagic_ir::eval::{EvalError, Fault, Guest, Machine, Outcome};
use redmagic_ir::graph::Graph;
use redmagic_ir::sandbox::{Background, Difference, SparseMemory, TestGuest, compare, variations};
use redmagic_ir::verify::Problem;
use redmagic_ir::*;

const LOOP: &str = "trace count {
seg0():
  v0: i64 = slot rax
  jump seg1(v0)
seg1(v1: i64 = rax):
  v2: i64 = const 0
  v3: i1 = ne v1, v2
  guard v3, exit0
  v4: i64 = const -1
  v5: i64 = add v1, v4
  jump seg1(v5)
exit0 @0x40 { rax = v1 }
}
";

/// Builds the trace of `LOOP` with the constructors, so that the arenas are those a builder makes.
fn built() -> Trace {
    let mut trace = Trace::new("count");
    let (entry, header) = (trace.add_segment(), trace.add_segment());
    trace.entry = Some(entry);
    let start = trace.append(entry, Inst::slot_read(Slot::RAX));
    trace.segments[entry].terminator = Terminator::Jump(Target { segment: header, args: vec![start] });
    let number = trace.add_param(header, Type::I64, Some(Slot::RAX));
    let zero = trace.append(header, Inst::constant(Type::I64, 0));
    let more = trace.append(header, Inst::binary(Opcode::Ne, Type::I1, number, zero));
    let mut exit = ExitData::new(0x40, 0);
    exit.set(Slot::RAX, ExitValue::Value(number));
    let exit = trace.exits.push(exit);
    // Takes an index, but no name in the text.
    trace.append(header, Inst::guard(true, more, exit));
    let minus = trace.append(header, Inst::constant(Type::I64, -1));
    let next = trace.append(header, Inst::binary(Opcode::Add, Type::I64, number, minus));
    trace.segments[header].terminator = Terminator::Jump(Target { segment: header, args: vec![next] });
    trace
}

#[test]
fn text_of_a_built_trace_parses_to_the_same_arenas() {
    let trace = built();
    let text = trace.to_string();
    let parsed = parse_one(&text).unwrap();
    assert_eq!(parsed, trace, "{text}");
    assert_eq!(parse_one(LOOP).unwrap().to_string(), LOOP);
}

/// A deleted instruction leaves a gap; the others keep their names through any number of round trips.
#[test]
fn names_survive_deletion() {
    let mut trace = built();
    let header = Segment::from_index(1);
    trace.segments[header].insts.remove(2);
    let text = trace.to_string();
    assert!(text.contains("v6: i64 = add v1, v5"), "{text}");
    assert_eq!(parse_one(&text).unwrap().to_string(), text);
}

#[test]
fn every_opcode_has_a_distinct_readable_name() {
    let mut names: Vec<&str> = Opcode::ALL.iter().map(|op| op.name()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), Opcode::ALL.len());
    for op in Opcode::ALL {
        assert_eq!(Opcode::from_name(op.name()), Some(*op));
    }
}

/// Every plain opcode, written with operand types that its rule accepts, is printed, parsed and verified.
#[test]
fn every_plain_opcode_round_trips() {
    use redmagic_ir::typing::check;
    let mut trace = Trace::new("all");
    let entry = trace.add_segment();
    trace.entry = Some(entry);
    let operands: Vec<(Type, Value)> =
        Type::ALL.into_iter().map(|ty| (ty, trace.append(entry, Inst::constant(ty, 1)))).collect();
    let mut written = std::collections::BTreeSet::new();
    for op in Opcode::ALL.iter().copied() {
        let arity = op.format().arity();
        if !matches!(op.format(), Format::Unary(_) | Format::Binary(_) | Format::Ternary(_)) {
            continue;
        }
        for result in Type::ALL {
            for choice in 0..operands.len().pow(arity as u32) {
                let pick = |at: u32| operands[choice / operands.len().pow(at) % operands.len()];
                let picked: Vec<_> = (0..arity as u32).map(pick).collect();
                let types: Vec<Type> = picked.iter().map(|(ty, _)| *ty).collect();
                if check(op, result, &types).is_ok() {
                    let arg = |at: usize| picked.get(at).map_or(Value::NONE, |(_, value)| *value);
                    trace.append(entry, Inst::ternary(op, result, arg(0), arg(1), arg(2)));
                    written.insert(op);
                }
            }
        }
        assert!(written.contains(&op), "no types fit {}", op.name());
    }
    let exit = trace.exits.push(ExitData::new(0x40, 0));
    trace.segments[entry].terminator = Terminator::Leave(exit);
    verify(&trace).unwrap();
    let text = trace.to_string();
    let parsed = parse_one(&text).unwrap();
    assert_eq!(parsed, trace);
    Machine::new(&trace).enter(&trace, &mut TestGuest::new(0), 100_000).unwrap();
}

/// Cutting or damaging a text anywhere gives an error with a place in it, never a panic.
#[test]
fn damaged_text_is_an_error() {
    for at in 0..LOOP.trim_end().len() {
        let error = parse(&LOOP[..at]);
        if !LOOP[..at].trim().is_empty() {
            assert!(error.is_err(), "{:?}", &LOOP[..at]);
        }
        for damage in ["", "@", "v99999999999", "seg", "0x", "\"", "🦀", "}"] {
            let text = format!("{}{damage}{}", &LOOP[..at], &LOOP[at + 1..]);
            if let Ok(traces) = parse(&text) {
                for trace in traces {
                    let _ = verify(&trace);
                    assert_eq!(parse_one(&trace.to_string()).map(|trace| trace.to_string()), Ok(trace.to_string()));
                }
            }
        }
    }
}

fn problems(trace: &Trace) -> Vec<Problem> {
    verify(trace).err().unwrap_or_default().into_iter().map(|error| error.problem).collect()
}

#[test]
fn verifier_survives_wild_indices() {
    let wild = 1000;
    let mut trace = built();
    trace.entry = None;
    assert_eq!(problems(&trace), [Problem::NoEntry]);
    trace.entry = Some(Segment::from_index(wild));
    assert_eq!(problems(&trace), [Problem::NoEntry]);

    let mut trace = built();
    let header = Segment::from_index(1);
    trace.segments[header].insts.push(Value::from_index(wild));
    assert_eq!(problems(&trace), [Problem::NoValue(Value::from_index(wild))]);

    let mut trace = built();
    trace.segments[header].terminator = Terminator::Leave(Exit::NONE);
    assert_eq!(problems(&trace), [Problem::NoExit(Exit::NONE)]);

    let mut trace = built();
    let target = Target { segment: Segment::NONE, args: vec![] };
    trace.segments[header].terminator = Terminator::Jump(target);
    assert_eq!(problems(&trace), [Problem::NoSegment(Segment::NONE)]);

    let mut trace = built();
    trace.append(header, Inst::native(Native::from_index(wild)));
    assert_eq!(problems(&trace), [Problem::NoNative(Native::from_index(wild))]);

    let mut trace = built();
    trace.append(header, Inst::unary(Opcode::Neg, Type::I64, Value::from_index(wild)));
    assert_eq!(problems(&trace), [Problem::NoValue(Value::from_index(wild))]);
    trace.append(header, Inst::unary(Opcode::Neg, Type::I64, Value::NONE));
    assert!(problems(&trace).contains(&Problem::NoOperand));
    // A malformed trace still prints.
    assert!(trace.to_string().contains("neg v?"));
}

#[test]
fn verifier_checks_the_lists() {
    let (entry, header) = (Segment::from_index(0), Segment::from_index(1));
    let mut trace = built();
    let again = trace.segments[entry].insts[0];
    trace.segments[header].insts.push(again);
    assert_eq!(problems(&trace), [Problem::ListedTwice { first: entry, again: header }]);

    let mut trace = built();
    let param = trace.segments[header].params[0];
    trace.segments[entry].insts.push(param);
    assert!(problems(&trace).contains(&Problem::ParamInBody));

    let mut trace = built();
    let inst = trace.segments[header].insts.remove(0);
    trace.segments[header].params.push(inst);
    assert!(problems(&trace).contains(&Problem::NotAParam));
}

#[test]
fn verifier_checks_recipes_and_slot_order() {
    let exit = Exit::from_index(0);
    let one = ExitValue::Value(Value::from_index(0));
    let recipe =
        |op, a, b| Recipe { op, ty: Type::I64, args: [a, b, ExitValue::Undefined], arg_types: [Type::Void; 3] };

    let mut trace = built();
    trace.exits[exit].slots = vec![(Slot::RCX, one), (Slot::RAX, one)];
    assert_eq!(problems(&trace), [Problem::SlotOrder(Slot::RAX)]);

    let mut trace = built();
    trace.exits[exit].recipes = vec![recipe(Opcode::Add, one, ExitValue::Recipe(0))];
    trace.exits[exit].set(Slot::RAX, ExitValue::Recipe(0));
    assert_eq!(problems(&trace), [Problem::RecipeOrder(0)]);
    assert!(trace.to_string().contains("let x0 = add.i64(v0, x0)"), "it prints all the same");

    let mut trace = built();
    trace.exits[exit].set(Slot::RAX, ExitValue::Recipe(7));
    assert_eq!(problems(&trace), [Problem::NoRecipe(7)]);
}

/// A chain of recipes, each using the one before twice, is linear text: the shared ones are named.
#[test]
fn shared_and_deep_recipes_print_in_linear_size() {
    for twice in [true, false] {
        let mut trace = built();
        let exit = Exit::from_index(0);
        let mut last = ExitValue::Value(Value::from_index(0));
        for _ in 0..2000 {
            let other = if twice { last } else { ExitValue::Const(3) };
            let recipe = Recipe {
                op: Opcode::Add,
                ty: Type::I64,
                args: [last, other, ExitValue::Undefined],
                arg_types: [Type::Void, Type::I64, Type::Void],
            };
            trace.exits[exit].recipes.push(recipe);
            last = ExitValue::Recipe(trace.exits[exit].recipes.len() as u32 - 1);
        }
        trace.exits[exit].set(Slot::RAX, last);
        verify(&trace).unwrap();
        let text = trace.to_string();
        assert!(text.len() < 100_000);
        let parsed = parse_one(&text).unwrap();
        assert_eq!(parsed.to_string(), text);
        verify(&parsed).unwrap();
        let run = |trace: &Trace| {
            let mut guest = TestGuest::new(0);
            Machine::new(trace).enter(trace, &mut guest, 100).unwrap();
            guest.slot(Slot::RAX)
        };
        assert_eq!(run(&trace), run(&parsed));
    }
}

#[test]
fn graph_of_a_nest() {
    let text = "trace nest {
seg0():
  v0: i1 = const 0
  jump seg5()
seg5():
  switch v0 { 0 => seg2() } else seg1()
seg2():
  switch v0 { 0 => seg2(), 1 => seg3() } else seg3()
seg3():
  jump seg5()
seg1():
  leave exit0
exit0 @0x40 {}
}";
    let trace = parse_one(text).unwrap();
    let graph = Graph::new(&trace);
    let segment = Segment::from_index;
    assert_eq!(graph.reverse_post_order()[..2], [segment(0), segment(5)]);
    assert_eq!(graph.reverse_post_order().len(), 5);
    assert!(!graph.is_reachable(segment(4)), "a gap in the numbers");
    assert_eq!(graph.headers(), [segment(5), segment(2)]);
    assert_eq!(graph.back_edges(segment(5)).collect::<Vec<_>>(), [segment(3)]);
    assert_eq!(graph.back_edges(segment(2)).collect::<Vec<_>>(), [segment(2)]);
    assert_eq!(graph.predecessors(segment(3)), [segment(2), segment(2)]);
    assert_eq!(graph.successors(segment(2)), [segment(2), segment(3), segment(3)]);
    assert_eq!(graph.immediate_dominator(segment(3)), Some(segment(2)));
    assert_eq!(graph.immediate_dominator(segment(0)), None);
    assert!(graph.dominates(segment(5), segment(3)) && graph.dominates(segment(2), segment(2)));
    assert!(!graph.dominates(segment(2), segment(1)) && !graph.dominates(segment(3), segment(5)));
    assert!(Graph::new(&Trace::new("empty")).reverse_post_order().is_empty());
}

#[test]
fn evaluation_is_counted_and_resumable() {
    let trace = parse_one(LOOP).unwrap();
    let mut guest = TestGuest::new(0);
    guest.set_slot(Slot::RAX, 2);
    let mut machine = Machine::new(&trace);
    assert_eq!(machine.enter(&trace, &mut guest, 17), Ok(Outcome::Exit(Exit::from_index(0))));
    assert_eq!((machine.executed(), guest.slot(Slot::RAX)), (17, 0));
    guest.set_slot(Slot::RAX, 2);
    assert_eq!(Machine::new(&trace).enter(&trace, &mut guest, 16), Ok(Outcome::OutOfFuel));

    let text = "trace call {
seg0():
  v0: i64 = slot rdi
  v1: i64 = const 0x5000
  v2: i64 = const 0x44
  call v1 ret v2 state exit0 effect any -> seg1
seg1():
  v3: i64 = slot rdi
  v4: i64 = add v3, v0
  leave exit1
exit0 @0x3f { rsi = v0, store i32 [v1] = 9 }
exit1 @0x44 { rax = v4 }
}";
    let trace = parse_one(text).unwrap();
    verify(&trace).unwrap();
    let mut guest = TestGuest::new(0);
    guest.set_slot(Slot::RDI, 5);
    let mut machine = Machine::new(&trace);
    let resume = Segment::from_index(1);
    let call = Outcome::Call { target: 0x5000, return_address: 0x44, resume, state: Exit::from_index(0) };
    assert_eq!(machine.enter(&trace, &mut guest, 100), Ok(call));
    assert_eq!((guest.slot(Slot::RSI), guest.load(0x5000, 4)), (5, Ok(9)));
    guest.set_slot(Slot::RDI, 37);
    assert_eq!(machine.resume(&trace, resume, &mut guest, 100), Ok(Outcome::Exit(Exit::from_index(1))));
    assert_eq!(guest.slot(Slot::RAX), 42);
}

#[test]
fn memory_of_the_sandbox() {
    let mut memory = SparseMemory::new(Background::Unmapped);
    assert_eq!(memory.get(0x1000, 4), Err(Fault::Unmapped { address: 0x1000 }));
    memory.set(0x1000, 4, 0x1234_5678);
    assert_eq!(memory.get(0x1000, 4), Ok(0x1234_5678));
    assert_eq!(memory.get(0x1002, 4), Err(Fault::Unmapped { address: 0x1004 }));
    let mut guest = TestGuest::with_memory(0, memory);
    assert!(guest.store(0x1002, 4, 0).is_err());
    assert_eq!(guest.load(0x1000, 4), Ok(0x1234_5678), "a store that faults writes nothing");

    // A scramble changes some bytes, the same ones whether or not they were written before, and no stable ones.
    let mut one = SparseMemory::new(Background::Derived(7));
    let mut two = one.clone();
    for address in 0..100 {
        let byte = two.byte(address).unwrap();
        two.set_byte(address, byte);
    }
    one.keep_stable(50, 60);
    two.keep_stable(50, 60);
    let before: Vec<_> = (0..200).map(|address| one.byte(address)).collect();
    one.scramble(3);
    two.scramble(3);
    let after: Vec<_> = (0..200).map(|address| one.byte(address)).collect();
    assert_eq!(after, (0..200).map(|address| two.byte(address)).collect::<Vec<_>>());
    assert_ne!(before, after);
    assert_eq!(before[50..60], after[50..60]);
}

#[test]
fn comparison_finds_differences() {
    let trace = parse_one(LOOP).unwrap();
    let guests = variations(&trace, &TestGuest::new(1), 64);
    let compared = |other: &Trace| -> Result<usize, Difference> {
        let results: Result<Vec<bool>, _> = guests.iter().map(|guest| compare(&trace, other, guest, 10_000)).collect();
        Ok(results?.into_iter().filter(|reached| *reached).count())
    };
    assert!(compared(&trace).unwrap() > 20, "most small numbers count down in time");
    let wrong = parse_one(&LOOP.replace("{ rax = v1 }", "{ rax = v2 }")).unwrap();
    assert_eq!(compared(&wrong), Ok(compared(&trace).unwrap()), "v1 is 0 there, too");
    let wrong = parse_one(&LOOP.replace("{ rax = v1 }", "{ rax = v1, rcx = 5 }")).unwrap();
    assert!(matches!(compared(&wrong), Err(Difference::Slot(Slot::RCX, ..))));
    let wrong = parse_one(&LOOP.replace("{ rax = v1 }", "{ rax = v1, store i8 [v1 + 5] = 77 }")).unwrap();
    assert!(matches!(compared(&wrong), Err(Difference::Memory(5, ..))));
    let wrong = parse_one(&LOOP.replace("@0x40", "@0x41")).unwrap();
    assert!(matches!(compared(&wrong), Err(Difference::Point(..))));
    let wrong = parse_one(&LOOP.replace("ne v1, v2", "ne v1, v1")).unwrap();
    assert!(matches!(compared(&wrong), Err(Difference::Slot(Slot::RAX, ..))));
}

#[test]
fn undefined_results_stop_the_evaluation() {
    let text = "trace t {\nseg0():\n  v0: i64 = slot rax\n  v1: i64 = udiv v0, v0\n  leave exit0\nexit0 @0x40 {}\n}";
    let trace = parse_one(text).unwrap();
    let result = Machine::new(&trace).enter(&trace, &mut TestGuest::new(0), 10);
    assert_eq!(result, Err(EvalError::Undefined { value: Value::from_index(1) }));
}
