//! Exits: writing the guest's state.
//!
//! Everything is computed first, then slots are written and delayed stores are made. Constants and unchanged slots
//! cost no code. Flags that are a recipe are not computed at all: their operands are stored, and whoever wants the
//! flags applies the recipe (a linked trace often wants none).
//!
//! Worked example: `exit0 @0x40 { rax = v1, rbx = 7, flags = fl_sub(v1, v2), store.i64 [v3] = v4 }` becomes
//! ```text
//! store v1 -> context.rax;  store v1 -> context.flag_args[0];  store v2 -> context.flag_args[1];  store v4 -> [v3]
//! return exit_records + 0 * exit_stride
//! ```
//! with `ExitCode { flags: Recipe { op: FlSub, ty: I64 }, constants: [(rbx, 7)], halves: 0 }`.

use super::memory::FLAGS;
use super::tails::is_in_tail;
use super::{Lowering, Operand};
use crate::class::Class;
use crate::{BackendError, ExitCode, FlagsRecipe};
use cranelift_codegen::ir::{InstBuilder, Value, types};
use redmagic_ir::{Entity, Exit, ExitData, ExitValue, Recipe, Slot, Type};

/// Where an exit's code is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Where the trace ends, or makes a residual call.
    Hot,
    /// Beside the trace: it has a tail.
    Cold,
}

impl Lowering<'_, '_> {
    /// Writes the state of an exit and returns from the function.
    pub(super) fn leave(&mut self, exit: Exit) -> Result<(), BackendError> {
        self.write_state(exit, Way::Hot)?;
        self.return_exit(exit);
        Ok(())
    }

    pub(super) fn return_exit(&mut self, exit: Exit) {
        let record = self.exit_record(exit);
        self.builder.ins().return_(&[record]);
    }

    /// The address of an exit's record.
    pub(super) fn exit_record(&mut self, exit: Exit) -> Value {
        let offset = (exit.index() as u64).wrapping_mul(self.request.exit_stride);
        let record = self.request.exit_records.wrapping_add(offset);
        self.builder.ins().iconst(types::I64, record as i64)
    }

    /// Writes the state of an exit, but for its tail if it has one, and notes what is left to the runtime.
    pub(super) fn write_state(&mut self, exit: Exit, way: Way) -> Result<(), BackendError> {
        let trace = self.trace;
        let Some(data) = trace.exits.get(exit) else {
            return Err(BackendError::Malformed(format!("{exit} does not exist")));
        };
        let mut made = vec![None; data.recipes.len()];
        let mut code = ExitCode { flags: FlagsRecipe::Unchanged, constants: Vec::new(), halves: halves(data) };
        let mut slots: Vec<(Slot, Value)> = Vec::with_capacity(data.slots.len());
        let mut flag_args: Vec<Value> = Vec::new();
        for &(slot, value) in &data.slots {
            if let (Slot::FLAGS, ExitValue::Recipe(index)) = (slot, value) {
                let recipe = recipe(data, index)?;
                if recipe.op.is_flags() {
                    let ty = self.flag_operands(data, recipe, &mut made, &mut flag_args)?;
                    code.flags = FlagsRecipe::Recipe { op: recipe.op, ty };
                    continue;
                }
            }
            if way == Way::Cold && is_in_tail(trace, data, slot, value) {
                if slot == Slot::FLAGS {
                    code.flags = FlagsRecipe::Stored;
                }
                continue;
            }
            let Some(operand) = self.exit_operand(data, value, slot.ty(), &mut made)? else { continue };
            if slot == Slot::FLAGS {
                code.flags = FlagsRecipe::Stored;
            }
            match self.operand_const(operand) {
                Some(imm) => code.constants.push((slot, imm as u64 & slot.ty().mask() as u64)),
                None => slots.push((slot, self.at_home(operand)?.0)),
            }
        }
        let stores = self.delayed_stores(data, &mut made)?;
        for (slot, value) in slots {
            self.write_slot(slot, value);
        }
        for (value, offset) in flag_args.into_iter().zip(self.request.layout.flag_args) {
            self.builder.ins().store(FLAGS, value, self.context, offset);
        }
        for (value, base, offset) in stores {
            self.builder.ins().store(FLAGS, value, base, offset);
        }
        self.exits[exit.index()] = code;
        Ok(())
    }

    /// The values and addresses of an exit's delayed stores, none of them made yet.
    fn delayed_stores(
        &mut self,
        data: &ExitData,
        made: &mut [Option<Operand>],
    ) -> Result<Vec<(Value, Value, i32)>, BackendError> {
        let mut stores = Vec::with_capacity(data.stores.len());
        for store in &data.stores {
            // Nothing can read an undefined value: what is there will do.
            let Some(operand) = self.exit_operand(data, store.value, store.ty, made)? else { continue };
            let (value, _) = self.at_home(operand)?;
            let (base, offset) = self.address(&store.address)?;
            stores.push((value, base, offset));
        }
        Ok(stores)
    }

    /// Adds the operands of a flags recipe to `operands`, as 64 bits, and returns the type of the first.
    fn flag_operands(
        &mut self,
        data: &ExitData,
        recipe: &Recipe,
        made: &mut [Option<Operand>],
        operands: &mut Vec<Value>,
    ) -> Result<Type, BackendError> {
        let mut first = None;
        for at in 0..recipe.op.format().arity() {
            let operand = self.recipe_operand(data, recipe, at, made)?;
            let ty = self.operand_type(operand);
            first.get_or_insert(ty);
            let (value, _) = match self.operand_const(operand) {
                Some(imm) => (self.constant(Type::I64, (imm as u64 & ty.mask() as u64) as i64), Class::General),
                None => self.at_home(operand)?,
            };
            let is_narrow = self.builder.func.dfg.value_type(value).bits() < 64;
            operands.push(if is_narrow { self.builder.ins().uextend(types::I64, value) } else { value });
        }
        first.ok_or(BackendError::Unsupported { op: recipe.op, ty: recipe.ty })
    }

    /// What an exit writes, with its recipes computed; `None` if any value will do. `ty` is the type of a constant.
    pub(super) fn exit_operand(
        &mut self,
        data: &ExitData,
        value: ExitValue,
        ty: Type,
        made: &mut [Option<Operand>],
    ) -> Result<Option<Operand>, BackendError> {
        match value {
            ExitValue::Value(value) => Ok(Some(Operand::Trace(value))),
            ExitValue::Const(imm) => Ok(Some(Operand::Const(ty, imm))),
            ExitValue::Recipe(index) => self.make(data, index, made).map(Some),
            ExitValue::Undefined => Ok(None),
        }
    }

    fn recipe_operand(
        &mut self,
        data: &ExitData,
        recipe: &Recipe,
        at: usize,
        made: &mut [Option<Operand>],
    ) -> Result<Operand, BackendError> {
        let ty = recipe.arg_types[at];
        Ok(self.exit_operand(data, recipe.args[at], ty, made)?.unwrap_or(Operand::Const(ty, 0)))
    }

    /// Computes a recipe, once per exit.
    fn make(&mut self, data: &ExitData, index: u32, made: &mut [Option<Operand>]) -> Result<Operand, BackendError> {
        let recipe = recipe(data, index)?;
        if let Some(operand) = made[index as usize] {
            return Ok(operand);
        }
        let mut operands = [Operand::Const(Type::I64, 0); 3];
        for (at, operand) in operands.iter_mut().enumerate().take(recipe.op.format().arity()) {
            if matches!(recipe.args[at], ExitValue::Recipe(inner) if inner >= index) {
                return Err(BackendError::Malformed(format!("recipe {index} uses a later one")));
            }
            *operand = self.recipe_operand(data, recipe, at, made)?;
        }
        let value = self.pure(recipe.op, recipe.ty, None, operands, Class::General)?;
        let is_float = self.builder.func.dfg.value_type(value) == types::F64;
        let class = if is_float { Class::Vector } else { Class::General };
        let operand = Operand::Made(recipe.ty, class, value);
        made[index as usize] = Some(operand);
        Ok(operand)
    }
}

/// The xmm registers that an exit lists halves of.
fn halves(data: &ExitData) -> u16 {
    let registers = data.slots.iter().filter_map(|(slot, _)| slot.as_xmm()).filter(|(_, lane)| *lane < 2);
    registers.fold(0, |mask, (register, _)| mask | 1 << register)
}

fn recipe(data: &ExitData, index: u32) -> Result<&Recipe, BackendError> {
    data.recipes.get(index as usize).ok_or_else(|| BackendError::Malformed(format!("recipe {index} does not exist")))
}
