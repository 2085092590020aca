//! Points: places where a guard can stand that the recorded program knows nothing of.
//!
//! A guard needs an exit with the state of its place. The lifter gives one to loads from declared memory, as the fetch of an
//! instruction of the interpreted program: the state before the load's instruction. Whatever becomes of the load, other guards
//! can stand there too; the walk puts there the guards of roots that it took to be apart.
//!
//! # Invariants
//! - The guards of a point stand in front of everything that was made of its load, and their operands are defined there.
//! - What was concluded from a guard's pair comes behind the point.
//! - A pair gets a guard only when it has been asked for some times before: the guard must save more than it costs.
//!
//! # Worked example
//! ```text
//! v3 = load [v1 + 8]        a field of an object that v1 points to
//! store [v0 + 16], v2       a local of the interpreted program
//! v4 = load [v9]            the next instruction's fetch, resume exit1: a point
//! v5 = load [v1 + 8]        v3, if v0 and v1 are apart: that would be guarded at the point, which leaves by exit1
//! ```

use crate::apart::{Guard, Pairs, Spot};
use crate::walk::Walk;
use redmagic_ir::{Exit, Inst, Opcode, Segment, Type, Value};

impl Walk<'_> {
    /// Notes that the place in front of load `value` is a point, if it is one.
    pub(crate) fn note_point(&mut self, value: Value, segment: Segment) {
        if let Some(exit) = self.resume_exit(value) {
            self.point = Some((Spot { segment, at: self.scope.out.len() }, exit));
            self.stronger.at_point();
        }
    }

    /// Whether what is concluded from `pairs` here is guarded, or can be, and that is worth it.
    pub(crate) fn can_rely(&mut self, pairs: Pairs) -> bool {
        let mut all = true;
        for pair in pairs.iter() {
            let Some(roots) = self.apart.open(pair, &self.path) else { continue };
            let made_since = |at: usize| roots.iter().any(|root| self.scope.out[at..].contains(root));
            all &= self.apart.is_wanted(pair) && self.point.is_some_and(|(spot, _)| !made_since(spot.at));
        }
        all
    }

    /// Notes that something was concluded from `pairs`.
    pub(crate) fn rely(&mut self, pairs: Pairs) {
        if pairs.is_empty() {
            return;
        }
        for pair in pairs.iter() {
            let point = self.point.filter(|_| self.apart.open(pair, &self.path).is_some());
            if let Some((spot, exit)) = point
                && self.points.last().is_none_or(|last| last.0 != spot)
            {
                self.points.push((spot, exit));
                // Facts differ between the exit's places: it is rewritten with what is always true.
                self.exit_uses[exit] = self.exit_uses[exit].max(1) + 1;
            }
            self.apart.rely(pair, point.map(|point| point.0));
        }
    }

    /// Makes the guards of the pairs that something was concluded from.
    pub(crate) fn guard_pairs(&mut self) {
        let guards: Vec<Guard> = self.apart.guards().collect();
        let mut placed: Vec<(Spot, Vec<Value>)> = self.stronger_tests().collect();
        for guard in guards {
            let exit = match guard.spot {
                Some(spot) => self.points.iter().find(|point| point.0 == spot).map_or(Exit::NONE, |point| point.1),
                None => self.start_exit(),
            };
            let insts = self.guard_pair(&guard, exit);
            self.scope.stats.roots_apart += 1;
            match guard.spot {
                Some(spot) => placed.push((spot, insts)),
                None => self.entry_guards.extend(insts),
            }
        }
        // From the last to the first, so that places stay what they are.
        placed.sort_by_key(|(spot, _)| std::cmp::Reverse(*spot));
        for (spot, insts) in placed {
            self.scope.trace.segments[spot.segment].insts.splice(spot.at..spot.at, insts);
        }
    }

    fn guard_pair(&mut self, guard: &Guard, exit: Exit) -> Vec<Value> {
        let [addend, limit] = [guard.addend, guard.limit].map(|imm| self.scope.constant(Type::I64, imm));
        let difference = self.scope.add(Inst::binary(Opcode::Sub, Type::I64, guard.a, guard.b));
        let moved = self.scope.add(Inst::binary(Opcode::Add, Type::I64, difference, addend));
        let test = self.scope.add(Inst::binary(Opcode::Ule, Type::I1, moved, limit));
        let guard = self.scope.add(Inst::guard(true, test, exit));
        vec![difference, moved, test, guard]
    }
}
