//! What the verifier reports.

use crate::typing::TypeError;
use crate::{Exit, Native, Opcode, Segment, Slot, Type, Value};
use std::fmt;

/// A violated rule and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyError {
    /// What violates it.
    pub place: Place,
    /// The rule.
    pub problem: Problem,
}

/// A part of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The trace as a whole.
    Trace,
    /// A segment's header.
    Segment(Segment),
    /// An instruction or parameter.
    Inst {
        /// Its index.
        value: Value,
        /// Its text.
        text: String,
    },
    /// The end of a segment.
    Terminator(Segment),
    /// An exit.
    Exit(Exit),
    /// A native operation.
    Native(Native),
}

/// The ways in which a trace can be malformed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are what the messages name")]
pub enum Problem {
    /// No entry segment.
    NoEntry,
    /// Parameters of the entry.
    EntryParams,
    /// An edge to the entry.
    EntryPredecessors,
    /// No such segment.
    NoSegment(Segment),
    /// No such exit.
    NoExit(Exit),
    /// No such native operation.
    NoNative(Native),
    /// An index beyond the arena.
    NoValue(Value),
    /// A parameter list with something else in it.
    NotAParam,
    /// A parameter among instructions.
    ParamInBody,
    /// A parameter without a value.
    VoidParam,
    /// A value in two places.
    ListedTwice { first: Segment, again: Segment },
    /// A use of a value that no reachable segment lists.
    NotDefined(Value),
    /// A use that the definition does not dominate.
    NotAvailable(Value),
    /// A use of an instruction without a result.
    VoidOperand(Value),
    /// An operand is missing.
    NoOperand,
    /// A rule of the opcode's [`Typing`](crate::Typing).
    Rule(TypeError),
    /// A value of the wrong type.
    OperandType { value: Value, has: Type, needs: Type },
    /// A result of the wrong type.
    ResultType { has: Type, needs: &'static str },
    /// A slot read or carried with the wrong type.
    SlotType { slot: Slot, has: Type },
    /// No slot is named.
    NoSlot,
    /// Two parameters of one segment carry the slot.
    CarriedTwice(Slot),
    /// The slot cannot be written.
    NotWritable(Slot),
    /// A `slot` elsewhere than at the start of the entry or of a resumed segment.
    LateSlot,
    /// An impossible scale.
    Scale(u8),
    /// The operand of `native_out` is something else.
    NotNative(Value),
    /// The native operation does not write the slot.
    NotAnOutput(Value),
    /// An impossible instruction length.
    NativeBytes(usize),
    /// An edge with too many or too few arguments.
    ArgumentCount { target: Segment, has: usize, needs: usize },
    /// A switch on something that is neither i1 nor a word.
    SwitchType(Value),
    /// A switch with a number twice.
    CaseTwice(u64),
    /// A switch with a number that its operand cannot have.
    CaseRange(u64),
    /// A resumed segment with parameters.
    ResumeParams(Segment),
    /// A resumed segment with other predecessors.
    ResumePredecessors(Segment),
    /// A call without a stack pointer.
    NoStackPointer(Exit),
    /// Slots are out of order, or one is listed twice.
    SlotOrder(Slot),
    /// A recipe that does not exist.
    NoRecipe(u32),
    /// A recipe's result has the wrong type.
    RecipeType { at: u32, has: Type, needs: Type },
    /// An operation that a recipe cannot have.
    RecipeOpcode(Opcode),
    /// A recipe that uses itself or a later one.
    RecipeOrder(usize),
    /// A recipe with a missing or undefined operand.
    RecipeOperand(Opcode),
    /// A delayed store of something that memory cannot hold.
    StoreType(Type),
    /// A delayed store of an undefined value.
    UndefinedStore,
    /// The dirty-slot rule.
    Dirty { exit: Exit, slot: Slot },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Trace => f.write_str("the trace"),
            Place::Segment(segment) => write!(f, "{segment}"),
            Place::Inst { text, .. } => write!(f, "`{text}`"),
            Place::Terminator(segment) => write!(f, "the end of {segment}"),
            Place::Exit(exit) => write!(f, "{exit}"),
            Place::Native(native) => write!(f, "{native}"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::NoEntry => f.write_str("there is no entry segment"),
            Problem::EntryParams => f.write_str("the entry has parameters"),
            Problem::EntryPredecessors => f.write_str("an edge leads to the entry"),
            Problem::NoSegment(segment) => write!(f, "there is no {segment}"),
            Problem::NoExit(exit) => write!(f, "there is no {exit}"),
            Problem::NoNative(native) => write!(f, "there is no {native}"),
            Problem::NoValue(value) => write!(f, "there is no {value}"),
            Problem::NotAParam => f.write_str("a parameter list holds something that is no parameter"),
            Problem::ParamInBody => f.write_str("a parameter stands among the instructions"),
            Problem::VoidParam => f.write_str("the parameter has no type"),
            Problem::ListedTwice { first, again } => write!(f, "it is listed in {first} and again in {again}"),
            Problem::NotDefined(value) => write!(f, "{value} is not defined"),
            Problem::NotAvailable(value) => write!(f, "{value} is not available here"),
            Problem::VoidOperand(value) => write!(f, "{value} has no result"),
            Problem::NoOperand => f.write_str("an operand is missing"),
            Problem::Rule(error) => write!(f, "{error}"),
            Problem::OperandType { value, has, needs } => write!(f, "{value} has type {has}, not {needs}"),
            Problem::ResultType { has, needs } => write!(f, "the type is {has}, not {needs}"),
            Problem::SlotType { slot, has } => write!(f, "{slot} has type {}, not {has}", slot.ty()),
            Problem::NoSlot => f.write_str("it names no slot"),
            Problem::CarriedTwice(slot) => write!(f, "two parameters carry {slot}"),
            Problem::NotWritable(slot) => write!(f, "{slot} cannot be written"),
            Problem::LateSlot => {
                f.write_str("slots are read at the start of the entry or of a resumed segment only, before any effect")
            }
            Problem::Scale(scale) => write!(f, "{scale} is no scale"),
            Problem::NotNative(value) => write!(f, "{value} is no native instruction"),
            Problem::NotAnOutput(value) => write!(f, "the slot is not among the outputs of {value}"),
            Problem::NativeBytes(count) => write!(f, "an instruction of {count} bytes"),
            Problem::ArgumentCount { target, has, needs } => {
                write!(f, "{target} has {needs} parameters, but {has} arguments are passed")
            }
            Problem::SwitchType(value) => write!(f, "{value} has a type that a switch cannot test"),
            Problem::CaseTwice(number) => write!(f, "the case {number} stands twice"),
            Problem::CaseRange(number) => write!(f, "the case {number} is beyond the operand's type"),
            Problem::ResumeParams(segment) => write!(f, "{segment}, which the call resumes, has parameters"),
            Problem::ResumePredecessors(segment) => {
                write!(f, "{segment}, which the call resumes, has other predecessors")
            }
            Problem::NoStackPointer(exit) => write!(f, "rsp is undefined in {exit}"),
            Problem::SlotOrder(slot) => write!(f, "{slot} is listed twice or out of order"),
            Problem::NoRecipe(at) => write!(f, "there is no recipe {at}"),
            Problem::RecipeType { at, has, needs } => write!(f, "recipe {at} has type {has}, not {needs}"),
            Problem::RecipeOpcode(op) => write!(f, "{} cannot be a recipe", op.name()),
            Problem::RecipeOrder(at) => write!(f, "recipe {at} uses itself, a later one, or one that does not exist"),
            Problem::RecipeOperand(op) => write!(f, "an operand of the recipe {} is undefined", op.name()),
            Problem::StoreType(ty) => write!(f, "memory does not hold values of type {ty}"),
            Problem::UndefinedStore => f.write_str("a delayed store needs a value"),
            Problem::Dirty { exit, slot } => {
                write!(f, "{exit} does not list {slot}, which is not up to date in the context here")
            }
        }
    }
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}

impl std::error::Error for VerifyError {}
