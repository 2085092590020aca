//! The reference evaluator: what a trace means, executed one instruction at a time.
//!
//! It works on a [`Guest`]: a context that holds slots, memory, and somebody who can execute native operations. A
//! [`Machine`] holds the values and borrows nothing, so that a caller can keep it while a residual call runs and
//! [resume](Machine::resume) it afterwards, from the same place as compiled code would be resumed.
//!
//! The trace must have passed the verifier.
//!
//! Worked example: evaluating the loop in the documentation of [`Trace`] with rax = 2 executes 17
//! instructions and returns `Outcome::Exit(exit0)`; the guest then holds rax = 0, written by the exit.

use crate::scalar::eval_pure;
use crate::{
    Address, Entity, Exit, ExitData, ExitValue, Format, Inst, NativeOp, Opcode, Recipe, Segment, Slot, Target,
    Terminator, Trace, Type, Value,
};
use std::fmt;

/// Why an access or a native operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is mapped at the address.
    Unmapped {
        /// The address.
        address: u64,
    },
    /// The address may not be written.
    ReadOnly {
        /// The address.
        address: u64,
    },
    /// The native operation at this guest address cannot be executed here.
    Native {
        /// The address of the instruction.
        pc: u64,
        /// Why not.
        reason: String,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Unmapped { address } => write!(f, "nothing is mapped at {address:#x}"),
            Fault::ReadOnly { address } => write!(f, "{address:#x} may not be written"),
            Fault::Native { pc, reason } => write!(f, "the native operation at {pc:#x} cannot be executed: {reason}"),
        }
    }
}

impl std::error::Error for Fault {}

/// The world that a trace runs in.
pub trait Guest {
    /// What the context holds for a slot.
    fn slot(&self, slot: Slot) -> u64;
    /// Changes what the context holds for a slot.
    fn set_slot(&mut self, slot: Slot, value: u64);
    /// Reads `bytes` bytes of memory (1 to 16), little-endian.
    fn load(&mut self, address: u64, bytes: u32) -> Result<u128, Fault>;
    /// Writes `bytes` bytes of memory (1 to 16), little-endian.
    fn store(&mut self, address: u64, bytes: u32, value: u128) -> Result<(), Fault>;
    /// Reads `bytes` bytes of memory (1, 2, 4 or 8) and, if they are `expected`, writes `new` there; returns what was read. Guests
    /// whose memory others may change do that atomically.
    fn compare_swap(&mut self, address: u64, bytes: u32, expected: u128, new: u128) -> Result<u128, Fault> {
        swap_in_steps(self, address, bytes, expected, new)
    }
    /// Executes a native operation on the context, which holds its inputs already.
    fn native(&mut self, op: &NativeOp) -> Result<(), Fault>;
}

/// A comparison and exchange that is not atomic.
pub fn swap_in_steps<G: Guest + ?Sized>(
    guest: &mut G,
    address: u64,
    bytes: u32,
    expected: u128,
    new: u128,
) -> Result<u128, Fault> {
    let seen = guest.load(address, bytes)?;
    if seen == expected {
        guest.store(address, bytes, new)?;
    }
    Ok(seen)
}

/// How an evaluation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An exit was taken; its slots and delayed stores are written.
    Exit(Exit),
    /// A residual call is due; its state is written.
    Call {
        /// The callee.
        target: u64,
        /// The original return address.
        return_address: u64,
        /// Where to [resume](Machine::resume) after the call.
        resume: Segment,
        /// The state that was written.
        state: Exit,
    },
    /// The fuel ran out. The machine cannot go on.
    OutOfFuel,
}

/// Why an evaluation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EvalError {
    /// The trace has no entry segment.
    NoEntry,
    /// An instruction faulted.
    Fault {
        /// The instruction.
        value: Value,
        /// What happened.
        fault: Fault,
    },
    /// A delayed store of an exit faulted.
    ExitFault {
        /// The exit.
        exit: Exit,
        /// What happened.
        fault: Fault,
    },
    /// An operation without a result for its operands (division).
    Undefined {
        /// The instruction.
        value: Value,
    },
    /// A recipe without a result, or a malformed one.
    BadRecipe {
        /// The exit.
        exit: Exit,
    },
    /// A `native_out` before its native operation.
    NoNative {
        /// The instruction.
        value: Value,
    },
}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EvalError::NoEntry => f.write_str("the trace has no entry segment"),
            EvalError::Fault { value, fault } => write!(f, "at {value}: {fault}"),
            EvalError::ExitFault { exit, fault } => write!(f, "while {exit} is taken: {fault}"),
            EvalError::Undefined { value } => write!(f, "{value} is undefined for its operands"),
            EvalError::BadRecipe { exit } => write!(f, "a recipe of {exit} has no result"),
            EvalError::NoNative { value } => write!(f, "{value} reads an operation that was not executed"),
        }
    }
}

impl std::error::Error for EvalError {}

/// The state of an evaluation: the values computed so far.
#[derive(Clone, Debug)]
pub struct Machine {
    values: Vec<u128>,
    /// What each native instruction left in its output slots, in the order of its outputs.
    outputs: Vec<Option<Vec<u64>>>,
    executed: u64,
}

enum Step {
    Next,
    Leave(Exit),
}

impl Machine {
    /// A machine for `trace`.
    pub fn new(trace: &Trace) -> Machine {
        Machine { values: vec![0; trace.insts.len()], outputs: vec![None; trace.insts.len()], executed: 0 }
    }

    /// The number of instructions executed so far, terminators included.
    pub fn executed(&self) -> u64 {
        self.executed
    }

    /// The current bits of a value (0 if it was not computed yet).
    pub fn value(&self, value: Value) -> u128 {
        self.values.get(value.index()).copied().unwrap_or(0)
    }

    /// Runs from the entry, at most `fuel` instructions (a terminator counts as one).
    pub fn enter(&mut self, trace: &Trace, guest: &mut dyn Guest, fuel: u64) -> Result<Outcome, EvalError> {
        let entry = trace.entry.ok_or(EvalError::NoEntry)?;
        self.run(trace, entry, guest, fuel)
    }

    /// Goes on in the segment that a residual call resumes, after the caller has made the call.
    pub fn resume(
        &mut self,
        trace: &Trace,
        resume: Segment,
        guest: &mut dyn Guest,
        fuel: u64,
    ) -> Result<Outcome, EvalError> {
        self.run(trace, resume, guest, fuel)
    }

    fn run(&mut self, trace: &Trace, start: Segment, guest: &mut dyn Guest, fuel: u64) -> Result<Outcome, EvalError> {
        let mut segment = start;
        let end = self.executed.saturating_add(fuel);
        loop {
            let data = &trace.segments[segment];
            for value in &data.insts {
                if self.executed >= end {
                    return Ok(Outcome::OutOfFuel);
                }
                self.executed += 1;
                if let Step::Leave(exit) = self.step(trace, *value, guest)? {
                    self.apply(trace, exit, guest)?;
                    return Ok(Outcome::Exit(exit));
                }
            }
            if self.executed >= end {
                return Ok(Outcome::OutOfFuel);
            }
            self.executed += 1;
            segment = match &data.terminator {
                Terminator::Jump(target) => self.edge(trace, target),
                Terminator::Switch { value, cases, default } => {
                    let number = self.value(*value);
                    let case = cases.iter().find(|case| u128::from(case.0) == number);
                    self.edge(trace, case.map_or(default, |case| &case.1))
                }
                Terminator::Call(call) => {
                    self.apply(trace, call.state, guest)?;
                    return Ok(Outcome::Call {
                        target: self.value(call.target) as u64,
                        return_address: self.value(call.return_address) as u64,
                        resume: call.resume,
                        state: call.state,
                    });
                }
                Terminator::Leave(exit) => {
                    self.apply(trace, *exit, guest)?;
                    return Ok(Outcome::Exit(*exit));
                }
            };
        }
    }

    /// Passes the arguments of an edge: all are read before the first parameter is written.
    fn edge(&mut self, trace: &Trace, target: &Target) -> Segment {
        let args: Vec<u128> = target.args.iter().map(|arg| self.value(*arg)).collect();
        for (param, arg) in trace.segments[target.segment].params.iter().zip(args) {
            self.values[param.index()] = arg;
        }
        target.segment
    }

    fn address(&self, address: Address) -> u64 {
        let index = if address.index.is_some() { self.value(address.index) as u64 } else { 0 };
        (self.value(address.root) as u64)
            .wrapping_add(index.wrapping_mul(u64::from(address.scale)))
            .wrapping_add(i64::from(address.offset) as u64)
    }

    fn step(&mut self, trace: &Trace, value: Value, guest: &mut dyn Guest) -> Result<Step, EvalError> {
        let inst = &trace.insts[value];
        let fault = |fault| EvalError::Fault { value, fault };
        let [a, b, c] = inst.args;
        let result = match inst.op.format() {
            Format::Param => return Ok(Step::Next),
            Format::Const => constant(inst.as_const().unwrap_or(0), inst.ty),
            Format::Slot => inst.slot().map_or(0, |slot| u128::from(guest.slot(slot)) & inst.ty.mask()),
            Format::Ternary(_) if inst.op == Opcode::CompareSwap => {
                let [address, expected, new] = [a, b, c].map(|arg| self.value(arg));
                guest.compare_swap(address as u64, inst.ty.bytes(), expected, new).map_err(fault)? & inst.ty.mask()
            }
            Format::Unary(_) | Format::Binary(_) | Format::Ternary(_) | Format::Cond => {
                let typed = if inst.op == Opcode::Select { b } else { a };
                let args = [a, b, c].map(|arg| if arg.is_some() { self.value(arg) } else { 0 });
                eval_pure(inst.op, inst.ty, trace.ty(typed), args, inst.condition())
                    .ok_or(EvalError::Undefined { value })?
            }
            Format::Tick => i64::MAX as u128,
            Format::Load => {
                let address = inst.address().map_or(0, |address| self.address(address));
                guest.load(address, inst.ty.bytes()).map_err(fault)? & inst.ty.mask()
            }
            Format::Store => {
                let address = inst.address().map_or(0, |address| self.address(address));
                guest.store(address, inst.ty.bytes(), self.value(c)).map_err(fault)?;
                return Ok(Step::Next);
            }
            Format::Guard => {
                let expected = inst.op == Opcode::Guard;
                return Ok(match inst.exit() {
                    Some(exit) if (self.value(a) == 1) != expected => Step::Leave(exit),
                    Some(_) | None => Step::Next,
                });
            }
            Format::Native => {
                if let Some(native) = inst.native_op() {
                    self.native(value, &trace.natives[native], guest).map_err(fault)?;
                }
                return Ok(Step::Next);
            }
            Format::NativeOut => self.native_out(trace, inst).ok_or(EvalError::NoNative { value })?,
        };
        self.values[value.index()] = result;
        Ok(Step::Next)
    }

    fn native(&mut self, value: Value, op: &NativeOp, guest: &mut dyn Guest) -> Result<(), Fault> {
        for (slot, input) in &op.inputs {
            guest.set_slot(*slot, self.value(*input) as u64);
        }
        guest.native(op)?;
        // A later native operation or call overwrites the context, so the outputs are kept.
        self.outputs[value.index()] = Some(op.outputs.iter().map(|slot| guest.slot(*slot)).collect());
        Ok(())
    }

    fn native_out(&self, trace: &Trace, inst: &Inst) -> Option<u128> {
        let native = inst.args[0];
        let op = &trace.natives[trace.insts[native].native_op()?];
        let at = op.outputs.iter().position(|slot| Some(*slot) == inst.slot())?;
        let outputs = self.outputs[native.index()].as_ref()?;
        Some(u128::from(*outputs.get(at)?) & inst.ty.mask())
    }

    /// Brings the guest to the state of an exit: computes everything, then writes slots, then performs stores.
    fn apply(&self, trace: &Trace, exit: Exit, guest: &mut dyn Guest) -> Result<(), EvalError> {
        let data = &trace.exits[exit];
        let recipes = self.recipes(trace, data).ok_or(EvalError::BadRecipe { exit })?;
        let resolve = |value: ExitValue, ty: Type| match value {
            ExitValue::Value(value) => Some(self.value(value)),
            ExitValue::Const(number) => Some(constant(number, ty)),
            ExitValue::Recipe(at) => recipes.get(at as usize).copied(),
            ExitValue::Undefined => None,
        };
        let stores: Vec<(u64, Type, Option<u128>)> = data
            .stores
            .iter()
            .map(|store| (self.address(store.address), store.ty, resolve(store.value, store.ty)))
            .collect();
        for (slot, value) in &data.slots {
            if let Some(value) = resolve(*value, slot.ty()) {
                guest.set_slot(*slot, value as u64);
            }
        }
        for (address, ty, value) in stores {
            if let Some(value) = value {
                guest.store(address, ty.bytes(), value).map_err(|fault| EvalError::ExitFault { exit, fault })?;
            }
        }
        Ok(())
    }

    fn recipes(&self, trace: &Trace, data: &ExitData) -> Option<Vec<u128>> {
        let mut results: Vec<u128> = Vec::with_capacity(data.recipes.len());
        for recipe in &data.recipes {
            let mut args = [0; 3];
            for (at, arg) in recipe.args.iter().enumerate().take(recipe.op.format().arity()) {
                args[at] = match *arg {
                    ExitValue::Value(value) => self.value(value),
                    ExitValue::Const(number) => constant(number, recipe.arg_types[at]),
                    ExitValue::Recipe(inner) => *results.get(inner as usize)?,
                    ExitValue::Undefined => return None,
                };
            }
            let typed = operand_type(trace, data, recipe)?;
            results.push(eval_pure(recipe.op, recipe.ty, typed, args, None)?);
        }
        Some(results)
    }
}

/// The bits of a sign-extended constant.
fn constant(number: i64, ty: Type) -> u128 {
    number as i128 as u128 & ty.mask()
}

/// The type that decides how a recipe is evaluated: its first operand's, the second's for a `select`.
fn operand_type(trace: &Trace, data: &ExitData, recipe: &Recipe) -> Option<Type> {
    let at = usize::from(recipe.op == Opcode::Select);
    Some(match recipe.args[at] {
        ExitValue::Value(value) => trace.ty(value),
        ExitValue::Const(_) => recipe.arg_types[at],
        ExitValue::Recipe(inner) => data.recipes.get(inner as usize)?.ty,
        ExitValue::Undefined => return None,
    })
}
