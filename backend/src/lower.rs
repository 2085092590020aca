//! The driver: from a trace to one function of the code generator's IR.
//!
//! # Shape of the function
//! ```text
//! entry(context, record):  brif record, dispatch, seg0        only if there are residual calls, else: jump seg0
//! dispatch:                switch on the record's resume index
//! resume k:                reload what call k saved; jump to the segment that call k resumes
//! seg n(parameters):       the segment; a guard ends a block: brif failed, exit (FIRST: this keeps exits out of the
//!                          loop in the register allocator's eyes), continue
//! exit k (cold):           write the state, return the address of exit record k
//! tail (cold):             write what several exits write, return their records
//! ```
//!
//! # Values
//! A value has one machine value, except: constants are made at each use; values that cross a residual call are
//! variables with several definitions, which the frontend merges; and an i64 may exist in both register files
//! (see [`crate::class`]).

mod call;
mod division;
mod exit;
mod flags;
mod float;
mod inline;
mod int;
mod lanes;
mod memory;
mod pure;
mod tails;
mod wide;

use crate::class::{Class, Classes};
use crate::liveness::{Liveness, is_removable};
use crate::{BackendError, ExitCode, FlagsRecipe, Request};
use cranelift_codegen::ir::{
    self, AbiParam, Block, BlockArg, FuncRef, Function, InstBuilder, MemFlagsData, SigRef, Signature, Value, types,
};
use cranelift_codegen::isa::{CallConv, TargetFrontendConfig};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Switch, Variable};
use division::Quotient;
use exit::Way;
pub(crate) use inline::{Inline, place_instructions};
use redmagic_ir::{Entity, Exit, Inst, Opcode, Segment, Target, Terminator, Trace, Type, Value as IrValue};
use tails::Tails;

/// What lowering finds out beside the function.
pub(crate) struct Lowered {
    pub exits: Vec<ExitCode>,
    pub operations: u32,
    /// What stands in the places of calls, in the order in which the functions were declared.
    pub inlines: Vec<Inline>,
}

/// An operand of an operation, wherever it comes from.
#[derive(Clone, Copy)]
enum Operand {
    /// A value of the trace.
    Trace(IrValue),
    /// A constant, sign-extended.
    Const(Type, i64),
    /// The result of a recipe.
    Made(Type, Class, Value),
}

/// Where a value of the trace is.
#[derive(Clone, Copy)]
enum Place {
    Nowhere,
    Plain(Value),
    Crossing(Variable),
}

/// Conversions made here dominate every use.
const EVERYWHERE: u32 = 0;

struct Lowering<'a, 'f> {
    builder: FunctionBuilder<'f>,
    request: &'a Request<'a>,
    trace: &'a Trace,
    liveness: &'a Liveness,
    classes: &'a Classes,
    context: Value,
    record: Value,
    places: Vec<Place>,
    /// By value: its form in the register file that is not its home, and the scope in which that form is defined.
    converted: Vec<Option<(u32, Value)>>,
    /// Counts segments and exits: conversions made in one scope are not used in another.
    scope: u32,
    blocks: Vec<Option<Block>>,
    exit_blocks: Vec<Option<Block>>,
    tails: Tails,
    /// The division lowered last.
    quotient: Option<Quotient>,
    native_signature: Option<SigRef>,
    /// The instructions that stand in the places of calls, with the functions.
    inlines: Vec<(Inline, FuncRef)>,
    exits: Vec<ExitCode>,
    operations: u32,
}

/// Builds the function of a trace in `function`, which must be empty.
pub(crate) fn lower(
    request: &Request<'_>,
    function: &mut Function,
    memory: &mut FunctionBuilderContext,
    config: TargetFrontendConfig,
) -> Result<Lowered, BackendError> {
    let trace = request.trace;
    let entry = trace.entry.ok_or_else(|| BackendError::Malformed("no entry segment".to_owned()))?;
    let liveness = Liveness::new(trace, entry);
    let classes = Classes::new(trace, &liveness);
    let mut signature = Signature::new(CallConv::Winch);
    signature.params.extend([AbiParam::new(types::I64), AbiParam::new(types::I64)]);
    signature.returns.push(AbiParam::new(types::I64));
    function.signature = signature;
    let mut builder = FunctionBuilder::new(function, memory);
    let block = builder.create_block();
    builder.append_block_params_for_function_params(block);
    builder.switch_to_block(block);
    builder.seal_block(block);
    let (context, record) = (builder.block_params(block)[0], builder.block_params(block)[1]);
    let unchanged = ExitCode { flags: FlagsRecipe::Unchanged, constants: Vec::new(), halves: 0 };
    let mut lowering = Lowering {
        builder,
        request,
        trace,
        liveness: &liveness,
        classes: &classes,
        context,
        record,
        places: vec![Place::Nowhere; trace.insts.len()],
        converted: vec![None; trace.insts.len()],
        scope: EVERYWHERE,
        blocks: vec![None; trace.segments.len()],
        exit_blocks: vec![None; trace.exits.len()],
        tails: Tails::default(),
        quotient: None,
        native_signature: None,
        inlines: Vec::new(),
        exits: vec![unchanged; trace.exits.len()],
        operations: 0,
    };
    lowering.function(entry)?;
    lowering.builder.seal_all_blocks();
    let Lowering { builder, exits, operations, inlines, .. } = lowering;
    builder.finalize(config);
    let inlines = inlines.into_iter().map(|(inline, _)| inline).collect();
    Ok(Lowered { exits, operations, inlines })
}

/// The code generator's type for a type in a register file. An i1 is a byte that is 0 or 1.
fn machine_type(ty: Type, class: Class) -> ir::Type {
    match ty {
        Type::Void | Type::I1 | Type::I8 => types::I8,
        Type::I16 => types::I16,
        Type::I32 => types::I32,
        Type::I64 if class == Class::Vector => types::F64,
        Type::I64 => types::I64,
        Type::I128 => types::I128,
        Type::V128 => types::I64X2,
    }
}

impl Lowering<'_, '_> {
    fn function(&mut self, entry: Segment) -> Result<(), BackendError> {
        for &segment in &self.liveness.order {
            let block = self.builder.create_block();
            self.blocks[segment.index()] = Some(block);
            for &param in &self.trace.segments[segment].params {
                let ty = machine_type(self.trace.ty(param), self.classes.home(param));
                self.builder.append_block_param(block, ty);
            }
        }
        self.entry(entry)?;
        for &segment in &self.liveness.order {
            self.segment(segment)?;
        }
        self.tails = Tails::new(self.trace, |exit| self.exit_blocks[exit.index()].is_some());
        for exit in self.trace.exits.keys() {
            if let Some(block) = self.exit_blocks[exit.index()] {
                self.builder.set_cold_block(block);
                self.builder.switch_to_block(block);
                self.builder.seal_block(block);
                self.scope += 1;
                self.write_state(exit, Way::Cold)?;
                let record = self.exit_record(exit);
                self.tail_of(exit, record)?;
            }
        }
        self.tails()
    }

    /// From the function's entry to the entry segment, or to where a residual call returns.
    fn entry(&mut self, entry: Segment) -> Result<(), BackendError> {
        self.begin_fused();
        let fresh = self.block(entry)?;
        let calls = &self.liveness.calls;
        if calls.is_empty() {
            self.builder.ins().jump(fresh, &[]);
            return Ok(());
        }
        let resumes: Vec<Block> = calls.iter().map(|_| self.builder.create_block()).collect();
        let dispatch = self.builder.create_block();
        self.builder.ins().brif(self.record, dispatch, &[], fresh, &[]);
        self.builder.switch_to_block(dispatch);
        self.builder.seal_block(dispatch);
        let index = self.load_record(types::I64, self.request.layout.record_resume);
        let mut switch = Switch::new();
        for (at, resume) in resumes.iter().enumerate().skip(1) {
            switch.set_entry(at as u128, *resume);
        }
        switch.emit(&mut self.builder, index, resumes[0]);
        for (site, block) in calls.iter().zip(resumes) {
            self.builder.switch_to_block(block);
            self.builder.seal_block(block);
            self.reload_saved(site);
            let target = self.block(site.resume)?;
            self.builder.ins().jump(target, &[]);
        }
        Ok(())
    }

    fn segment(&mut self, segment: Segment) -> Result<(), BackendError> {
        let data = &self.trace.segments[segment];
        let block = self.block(segment)?;
        self.builder.switch_to_block(block);
        self.scope += 1;
        let params = self.builder.block_params(block).to_vec();
        for (&param, value) in data.params.iter().zip(params) {
            self.define(param, value);
        }
        for &value in &data.insts {
            let inst = &self.trace.insts[value];
            if self.liveness.needed[value.index()] || !is_removable(inst.op) {
                self.operations += 1;
                self.inst(value, inst)?;
            }
        }
        match &data.terminator {
            Terminator::Jump(target) => self.jump(target),
            Terminator::Switch { value, cases, default } => self.switch(segment, *value, cases, default),
            Terminator::Call(call) => self.residual_call(segment, call),
            Terminator::Leave(exit) => self.leave(*exit),
        }
    }

    fn inst(&mut self, value: IrValue, inst: &Inst) -> Result<(), BackendError> {
        if let Some(exit) = inst.exit() {
            return self.guard(inst.args[0], inst.op == Opcode::Guard, exit);
        }
        if let Some(native) = inst.native_op() {
            return self.native(value, native);
        }
        if let Some(address) = inst.address() {
            if inst.op == Opcode::Store {
                return self.store(&address, Operand::Trace(inst.args[2]));
            }
            return self.load(value, inst.ty, &address);
        }
        if inst.op == Opcode::CompareSwap {
            return self.compare_swap(value, inst.args);
        }
        if let Some(meter) = inst.meter() {
            self.tick(value, meter);
            return Ok(());
        }
        // Constants are made where they are used, and results of a native operation right behind it.
        if inst.op == Opcode::Const || inst.op == Opcode::NativeOut {
            return Ok(());
        }
        if inst.op == Opcode::Slot {
            return self.read_slot(value);
        }
        let class = self.classes.home(value);
        let operands =
            inst.args.map(|arg| if arg.is_some() { Operand::Trace(arg) } else { Operand::Const(Type::I64, 0) });
        let result = self.pure(inst.op, inst.ty, inst.condition(), operands, class)?;
        self.define(value, result);
        Ok(())
    }

    fn jump(&mut self, target: &Target) -> Result<(), BackendError> {
        let block = self.block(target.segment)?;
        let params = &self.trace.segments[target.segment].params;
        let mut args = Vec::with_capacity(params.len());
        for (&arg, &param) in target.args.iter().zip(params) {
            args.push(BlockArg::Value(self.in_class(Operand::Trace(arg), self.classes.home(param))?));
        }
        self.builder.ins().jump(block, &args);
        Ok(())
    }

    fn switch(
        &mut self,
        segment: Segment,
        value: IrValue,
        cases: &[(u64, Target)],
        default: &Target,
    ) -> Result<(), BackendError> {
        if let [(number, case)] = cases
            && self.trace.ty(value) == Type::I1
        {
            return self.branch(value, *number == 1, case, default, case.segment == segment);
        }
        let mask = self.trace.ty(value).mask();
        let value = self.general(Operand::Trace(value))?;
        let mut switch = Switch::new();
        let mut edges = Vec::with_capacity(cases.len() + 1);
        // Numbers beyond the type are never met, and the code generator refuses them.
        for (number, target) in cases.iter().filter(|case| u128::from(case.0) <= mask) {
            let edge = self.builder.create_block();
            switch.set_entry(u128::from(*number), edge);
            edges.push((edge, target));
        }
        let otherwise = self.builder.create_block();
        edges.push((otherwise, default));
        switch.emit(&mut self.builder, value, otherwise);
        for (edge, target) in edges {
            self.builder.switch_to_block(edge);
            self.builder.seal_block(edge);
            // What is converted on one edge is not defined on the next.
            self.scope += 1;
            self.jump(target)?;
        }
        Ok(())
    }

    /// A switch on a truth value with one case: goes there if the value is `expected`. The other way is the unlikely one, and
    /// leaves the straight line as an exit does; but behind a loop of one segment it follows, so that the way back is the
    /// branch itself.
    fn branch(
        &mut self,
        value: IrValue,
        expected: bool,
        likely: &Target,
        unlikely: &Target,
        repeats: bool,
    ) -> Result<(), BackendError> {
        let value = self.general(Operand::Trace(value))?;
        let failed = if expected { self.negate(value) } else { value };
        let (away, next) = (self.builder.create_block(), self.builder.create_block());
        if !repeats {
            self.builder.set_cold_block(away);
        }
        self.builder.ins().brif(failed, away, &[], next, &[]);
        for (edge, target) in [(next, likely), (away, unlikely)] {
            self.builder.switch_to_block(edge);
            self.builder.seal_block(edge);
            // What is converted on one edge is not defined on the next.
            self.scope += 1;
            self.jump(target)?;
        }
        Ok(())
    }

    fn guard(&mut self, value: IrValue, expected: bool, exit: Exit) -> Result<(), BackendError> {
        let value = self.general(Operand::Trace(value))?;
        let failed = if expected { self.negate(value) } else { value };
        let Some(slot) = self.exit_blocks.get(exit.index()).copied() else {
            return Err(BackendError::Malformed(format!("{exit} does not exist")));
        };
        let leave = slot.unwrap_or_else(|| self.builder.create_block());
        self.exit_blocks[exit.index()] = Some(leave);
        let next = self.builder.create_block();
        self.builder.ins().brif(failed, leave, &[], next, &[]);
        self.builder.switch_to_block(next);
        self.builder.seal_block(next);
        Ok(())
    }

    fn block(&self, segment: Segment) -> Result<Block, BackendError> {
        let block = self.blocks.get(segment.index()).copied().flatten();
        block.ok_or_else(|| BackendError::Malformed(format!("{segment} does not exist")))
    }

    /// Gives a value of the trace its machine value, which is in its home class.
    fn define(&mut self, value: IrValue, result: Value) {
        if self.liveness.crossing[value.index()] {
            let variable = self.variable(value);
            self.builder.def_var(variable, result);
            return;
        }
        self.places[value.index()] = Place::Plain(result);
        if self.classes.wants_both(value) {
            let other = self.convert(result, self.classes.home(value));
            self.converted[value.index()] = Some((EVERYWHERE, other));
        }
    }

    /// The variable of a crossing value.
    fn variable(&mut self, value: IrValue) -> Variable {
        if let Place::Crossing(variable) = self.places[value.index()] {
            return variable;
        }
        let variable = self.builder.declare_var(machine_type(self.trace.ty(value), self.classes.home(value)));
        self.places[value.index()] = Place::Crossing(variable);
        variable
    }

    fn operand_type(&self, operand: Operand) -> Type {
        match operand {
            Operand::Trace(value) => self.trace.ty(value),
            Operand::Const(ty, _) | Operand::Made(ty, ..) => ty,
        }
    }

    /// The constant that an operand is, if it is one.
    fn operand_const(&self, operand: Operand) -> Option<i64> {
        match operand {
            Operand::Trace(value) => self.trace.as_const(value),
            Operand::Const(_, imm) => Some(imm),
            Operand::Made(..) => None,
        }
    }

    /// An operand in a register file of its own choice.
    fn at_home(&mut self, operand: Operand) -> Result<(Value, Class), BackendError> {
        match operand {
            Operand::Trace(value) => {
                let class = self.classes.home(value);
                match self.places.get(value.index()).copied().unwrap_or(Place::Nowhere) {
                    Place::Plain(result) => Ok((result, class)),
                    Place::Crossing(variable) => Ok((self.builder.use_var(variable), class)),
                    Place::Nowhere => match self.trace.insts.get(value).map(|inst| (inst.ty, inst.as_const())) {
                        Some((ty, Some(imm))) => Ok((self.constant(ty, imm), Class::General)),
                        _ => Err(BackendError::Malformed(format!("{value} is used before it is defined"))),
                    },
                }
            }
            Operand::Const(ty, imm) => Ok((self.constant(ty, imm), Class::General)),
            Operand::Made(_, class, result) => Ok((result, class)),
        }
    }

    /// An operand in register file `class` (general, unless it is an i64).
    fn in_class(&mut self, operand: Operand, class: Class) -> Result<Value, BackendError> {
        if let (Some(imm), Class::Vector) = (self.operand_const(operand), class) {
            return Ok(self.builder.ins().f64const(ir::immediates::Ieee64::with_bits(imm as u64)));
        }
        let (value, home) = self.at_home(operand)?;
        if home == class {
            return Ok(value);
        }
        let Operand::Trace(source) = operand else { return Ok(self.convert(value, home)) };
        match self.converted[source.index()] {
            Some((scope, other)) if scope == EVERYWHERE || scope == self.scope => Ok(other),
            _ => {
                let other = self.convert(value, home);
                self.converted[source.index()] = Some((self.scope, other));
                Ok(other)
            }
        }
    }

    fn general(&mut self, operand: Operand) -> Result<Value, BackendError> {
        self.in_class(operand, Class::General)
    }

    fn vector(&mut self, operand: Operand) -> Result<Value, BackendError> {
        self.in_class(operand, Class::Vector)
    }

    /// Moves an i64 from register file `from` to the other one.
    fn convert(&mut self, value: Value, from: Class) -> Value {
        let to = match from {
            Class::General => types::F64,
            Class::Vector => types::I64,
        };
        self.cast(to, value)
    }

    /// The same bits as another type. Between vectors and others the numbering of the lanes must be named.
    fn cast(&mut self, to: ir::Type, value: Value) -> Value {
        self.builder.ins().bitcast(to, MemFlagsData::new().with_endianness(ir::Endianness::Little), value)
    }

    /// A constant in general registers (for v128, in a vector register).
    fn constant(&mut self, ty: Type, imm: i64) -> Value {
        match ty {
            Type::I128 | Type::V128 => {
                let low = self.builder.ins().iconst(types::I64, imm);
                let high = self.builder.ins().iconst(types::I64, imm >> 63);
                let wide = self.builder.ins().iconcat(low, high);
                if ty == Type::I128 {
                    return wide;
                }
                self.cast(types::I64X2, wide)
            }
            Type::Void | Type::I1 | Type::I8 | Type::I16 | Type::I32 | Type::I64 => {
                let bits = (imm as u64) & ty.mask() as u64;
                self.builder.ins().iconst(machine_type(ty, Class::General), bits as i64)
            }
        }
    }
}
