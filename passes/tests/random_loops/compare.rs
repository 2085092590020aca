//! What a loop leaves behind, before and after the passes.

use super::world::{ARENA, ARENA_BYTES, RED_ZONE, STACK, STACK_BYTES, STACK_START, World};
use redmagic_ir::eval::{Guest, Machine, Outcome};
use redmagic_ir::*;

/// Where a run ended.
pub struct End {
    pub exit: Exit,
    pub world: World,
    pub executed: u64,
}

/// Runs a trace with its residual calls; `None` if it reaches no exit.
pub fn run(trace: &Trace, start: &World, fuel: u64) -> Option<End> {
    let mut world = start.clone();
    let mut machine = Machine::new(trace);
    let mut outcome = machine.enter(trace, &mut world, fuel).ok()?;
    while let Outcome::Call { resume, .. } = outcome {
        let mut calls = trace.segments.values().filter_map(|segment| match &segment.terminator {
            Terminator::Call(call) if call.resume == resume => Some(call.effect),
            Terminator::Call(_) | Terminator::Jump(_) | Terminator::Switch { .. } | Terminator::Leave(_) => None,
        });
        world.call(calls.next()?);
        outcome = machine.resume(trace, resume, &mut world, fuel).ok()?;
    }
    match outcome {
        Outcome::Exit(exit) => Some(End { exit, world, executed: machine.executed() }),
        Outcome::Call { .. } | Outcome::OutOfFuel => None,
    }
}

/// Compares two ends; `dead_frames` if what lies below the stack pointer at entry is nobody's where all was popped.
pub fn compare(before: &Trace, after: &Trace, one: &End, two: &End, dead_frames: bool) -> Result<(), String> {
    let (exit, other) = (&before.exits[one.exit], &after.exits[two.exit]);
    if exit.pc != other.pc {
        return Err(format!("leaves to {:#x}, then {:#x}", exit.pc, other.pc));
    }
    for slot in Slot::all().filter(|slot| exit.get(*slot) != Some(ExitValue::Undefined)) {
        let (left, right) = (one.world.slot(slot), two.world.slot(slot));
        if left != right {
            return Err(format!("at {:#x}: {slot} is {left:#x}, then {right:#x}", exit.pc));
        }
    }
    let stack = one.world.slot(Slot::RSP);
    let dead_end = if dead_frames && stack == STACK { stack } else { stack - RED_ZONE };
    let live = (dead_end..STACK_START + STACK_BYTES).chain(ARENA..ARENA + ARENA_BYTES);
    let live: Box<dyn Iterator<Item = u64>> =
        if dead_frames { Box::new(live) } else { Box::new((STACK_START..dead_end).chain(live)) };
    for address in live.chain(one.world.other.keys().chain(two.world.other.keys()).copied()) {
        let (left, right) = (one.world.byte(address), two.world.byte(address));
        if left != right {
            return Err(format!("at {:#x}: the byte at {address:#x} is {left:#x}, then {right:#x}", exit.pc));
        }
    }
    Ok(())
}
