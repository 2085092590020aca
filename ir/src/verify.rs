//! Checks that a trace is well formed: structure, types, dominance, exits, and the dirty-slot rule.
//!
//! Only what the entry reaches is checked; garbage in the arenas is nobody's business. Errors come in the order of the
//! text form, structural ones first: when an index leads nowhere, nothing that follows it is looked at.
//!
//! # The dirty-slot rule
//! A slot that an exit does not list is unchanged, so the context must hold the slot's current value on every path to the
//! exit. Two things break that and make the slot *dirty*: a parameter that carries it (its value lives in a register from
//! then on), and a native operation that writes it to the context (an input, unless that is the slot's own `slot` read;
//! or an output). A residual call makes every slot clean: its state brings the context up to date. Each guard, `leave`
//! and call must list every slot that is dirty there on any path; `undefined` counts as listed.
//!
//! # Worked example
//! ```text
//! seg1(v1: i64 = rax):
//!   v2: i64 = const 0
//!   v3: i1 = ne v1, v2
//!   guard v3, exit0
//! exit0 @0x40 {}
//! ```
//! gives "`guard v3, exit0`: exit0 does not list rax, which is not up to date in the context here".

mod dirty;
mod exits;
mod insts;
mod problem;

pub use problem::{Place, Problem, VerifyError};

use crate::graph::Graph;
use crate::{Entity, Exit, Opcode, Segment, Target, Terminator, Trace, Type, Value};
use std::collections::BTreeSet;

/// Checks a trace; all errors that were found.
pub fn verify(trace: &Trace) -> Result<(), Vec<VerifyError>> {
    let mut verifier = Verifier {
        trace,
        graph: Graph::new(trace),
        segments: trace.printed_segments(),
        definitions: vec![None; trace.insts.len()],
        resumes: BTreeSet::new(),
        errors: Vec::new(),
    };
    verifier.structure();
    if verifier.errors.is_empty() {
        verifier.contents();
        verifier.dirty_slots();
    }
    if verifier.errors.is_empty() { Ok(()) } else { Err(verifier.errors) }
}

/// A place in the order of execution within a segment: parameters come before every instruction.
const PARAMS: usize = 0;
const TERMINATOR: usize = usize::MAX;

struct Verifier<'a> {
    trace: &'a Trace,
    graph: Graph,
    /// Reachable segments in the order of the text.
    segments: Vec<Segment>,
    /// Where each value is listed: parameters at 0, instructions from 1.
    definitions: Vec<Option<(Segment, usize)>>,
    /// The segments that residual calls resume.
    resumes: BTreeSet<Segment>,
    errors: Vec<VerifyError>,
}

impl<'a> Verifier<'a> {
    fn error(&mut self, mut place: Place, problem: Problem) {
        // Only errors need the text: every trace that will run is verified.
        if let Place::Inst { value, text } = &mut place {
            *text = self.trace.display_inst(*value).to_string();
        }
        self.errors.push(VerifyError { place, problem });
    }

    fn at(&self, value: Value) -> Place {
        Place::Inst { text: String::new(), value }
    }

    /// The first stage: every index leads somewhere, and every value is listed once.
    fn structure(&mut self) {
        let trace = self.trace;
        let Some(entry) = trace.entry.filter(|entry| trace.segments.get(*entry).is_some()) else {
            return self.error(Place::Trace, Problem::NoEntry);
        };
        for segment in self.segments.clone() {
            let data = &trace.segments[segment];
            for param in &data.params {
                self.list(*param, segment, PARAMS);
            }
            for (at, inst) in data.insts.iter().enumerate() {
                self.list(*inst, segment, at + 1);
                self.references(*inst);
            }
            for next in data.terminator.successors() {
                if trace.segments.get(next).is_none() {
                    self.error(Place::Terminator(segment), Problem::NoSegment(next));
                }
            }
            if let Some(exit) = data.terminator.exit() {
                self.exit_exists(Place::Terminator(segment), exit);
            }
            if let Terminator::Call(call) = &data.terminator {
                self.resumes.insert(call.resume);
            }
        }
        if !trace.segments[entry].params.is_empty() {
            self.error(Place::Segment(entry), Problem::EntryParams);
        }
        if !self.graph.predecessors(entry).is_empty() {
            self.error(Place::Segment(entry), Problem::EntryPredecessors);
        }
    }

    fn list(&mut self, value: Value, segment: Segment, position: usize) {
        let Some(inst) = self.trace.insts.get(value) else {
            return self.error(Place::Segment(segment), Problem::NoValue(value));
        };
        if (inst.op == Opcode::Param) != (position == PARAMS) {
            let problem = if position == PARAMS { Problem::NotAParam } else { Problem::ParamInBody };
            self.error(self.at(value), problem);
        }
        match self.definitions[value.index()] {
            None => self.definitions[value.index()] = Some((segment, position)),
            Some((first, _)) => self.error(self.at(value), Problem::ListedTwice { first, again: segment }),
        }
    }

    fn references(&mut self, value: Value) {
        let Some(inst) = self.trace.insts.get(value) else { return };
        for exit in inst.exit().into_iter().chain(self.trace.resume_exit(value)) {
            self.exit_exists(self.at(value), exit);
        }
        if let Some(native) = inst.native_op()
            && self.trace.natives.get(native).is_none()
        {
            self.error(self.at(value), Problem::NoNative(native));
        }
    }

    fn exit_exists(&mut self, place: Place, exit: Exit) {
        if self.trace.exits.get(exit).is_none() {
            self.error(place, Problem::NoExit(exit));
        }
    }

    /// The second stage: everything that needs valid indices.
    fn contents(&mut self) {
        let mut exits = BTreeSet::new();
        let mut natives = BTreeSet::new();
        for segment in self.segments.clone() {
            let data = &self.trace.segments[segment];
            self.params(segment);
            let mut slots_allowed = self.trace.entry == Some(segment) || self.resumes.contains(&segment);
            for (at, value) in data.insts.iter().enumerate() {
                self.inst(*value, segment, at + 1, &mut slots_allowed);
                let inst = &self.trace.insts[*value];
                exits.extend(inst.exit().into_iter().chain(self.trace.resume_exit(*value)));
                natives.extend(inst.native_op());
            }
            self.terminator(segment);
            exits.extend(data.terminator.exit());
        }
        for exit in exits {
            self.exit(exit);
        }
        for native in natives {
            self.native(native);
        }
    }

    fn params(&mut self, segment: Segment) {
        let mut carried = BTreeSet::new();
        for param in &self.trace.segments[segment].params {
            let inst = &self.trace.insts[*param];
            if inst.ty == Type::Void {
                self.error(self.at(*param), Problem::VoidParam);
            }
            let Some(slot) = inst.slot() else { continue };
            if !carried.insert(slot) {
                self.error(self.at(*param), Problem::CarriedTwice(slot));
            }
            if !slot.is_writable() {
                self.error(self.at(*param), Problem::NotWritable(slot));
            }
            if slot.ty() != inst.ty {
                self.error(self.at(*param), Problem::SlotType { slot, has: inst.ty });
            }
        }
    }

    fn terminator(&mut self, segment: Segment) {
        let place = Place::Terminator(segment);
        let terminator = &self.trace.segments[segment].terminator;
        let mut values = Vec::new();
        terminator.for_each_value(|value| values.push(value));
        for value in values {
            self.available(&place, value, segment, TERMINATOR);
        }
        for target in terminator.targets() {
            self.arguments(&place, target);
        }
        match terminator {
            Terminator::Jump(_) => {}
            Terminator::Switch { value, cases, .. } => {
                let ty = self.ty(*value);
                if ty.is_some_and(|ty| !ty.is_word() && ty != Type::I1) {
                    self.error(place.clone(), Problem::SwitchType(*value));
                }
                let mut seen = BTreeSet::new();
                for (number, _) in cases {
                    if !seen.insert(*number) {
                        self.error(place.clone(), Problem::CaseTwice(*number));
                    }
                    if ty.is_some_and(|ty| u128::from(*number) > ty.mask()) {
                        self.error(place.clone(), Problem::CaseRange(*number));
                    }
                }
            }
            Terminator::Call(call) => {
                self.needs_type(&place, call.target, Type::I64);
                self.needs_type(&place, call.return_address, Type::I64);
                if !self.trace.segments[call.resume].params.is_empty() {
                    self.error(place.clone(), Problem::ResumeParams(call.resume));
                }
                if self.graph.predecessors(call.resume).len() != 1 {
                    self.error(place.clone(), Problem::ResumePredecessors(call.resume));
                }
                if self.trace.exits[call.state].get(crate::Slot::RSP) == Some(crate::ExitValue::Undefined) {
                    self.error(place.clone(), Problem::NoStackPointer(call.state));
                }
            }
            Terminator::Leave(_) => {}
        }
        if let Some(exit) = terminator.exit() {
            self.exit_available(&place, exit, segment, TERMINATOR);
        }
    }

    fn arguments(&mut self, place: &Place, target: &Target) {
        let params = &self.trace.segments[target.segment].params;
        if params.len() != target.args.len() {
            let problem =
                Problem::ArgumentCount { target: target.segment, has: target.args.len(), needs: params.len() };
            return self.error(place.clone(), problem);
        }
        for (param, arg) in params.iter().zip(&target.args) {
            self.needs_type(place, *arg, self.trace.ty(*param));
        }
    }

    /// The type of a value that exists.
    fn ty(&self, value: Value) -> Option<Type> {
        self.trace.insts.get(value).map(|inst| inst.ty).filter(|ty| *ty != Type::Void)
    }

    /// Reports a value of another type. (One that does not exist or is void is reported as such elsewhere.)
    fn needs_type(&mut self, place: &Place, value: Value, needs: Type) {
        if let Some(has) = self.ty(value)
            && has != needs
        {
            self.error(place.clone(), Problem::OperandType { value, has, needs });
        }
    }

    /// Checks that a value is defined on every path to a use of it.
    fn available(&mut self, place: &Place, value: Value, segment: Segment, position: usize) {
        let Some(inst) = self.trace.insts.get(value) else {
            return self.error(place.clone(), Problem::NoValue(value));
        };
        let Some((home, at)) = self.definitions[value.index()] else {
            return self.error(place.clone(), Problem::NotDefined(value));
        };
        let before = if home == segment { at < position } else { self.graph.dominates(home, segment) };
        if !before {
            self.error(place.clone(), Problem::NotAvailable(value));
        } else if inst.ty == Type::Void {
            self.error(place.clone(), Problem::VoidOperand(value));
        }
    }
}
