//! The rules for single instructions and native operations.

use super::{Place, Problem, Verifier};
use crate::{Address, Effect, Format, Inst, Native, Opcode, Segment, Slot, Type, Value, typing};

impl Verifier<'_> {
    /// Checks one instruction. `slots_allowed` says whether a `slot` may still stand here.
    pub(super) fn inst(&mut self, value: Value, segment: Segment, position: usize, slots_allowed: &mut bool) {
        let inst = &self.trace.insts[value];
        let place = self.at(value);
        if let Some(exit) = self.trace.resume_exit(value) {
            self.exit_available(&place, exit, segment, position);
        }
        if inst.op.format() == Format::NativeOut {
            self.native_out(&place, inst, segment, position);
        } else {
            self.operands(&place, inst, segment, position);
        }
        match inst.op.effect() {
            Effect::Write | Effect::Guard | Effect::Barrier => *slots_allowed = false,
            Effect::Pure | Effect::Partial | Effect::Read => {}
        }
        match inst.op.format() {
            Format::Param => {}
            Format::Const => {
                if inst.ty == Type::Void {
                    self.error(place, Problem::ResultType { has: Type::Void, needs: "a value type" });
                }
            }
            Format::Slot => {
                if !*slots_allowed {
                    self.error(place.clone(), Problem::LateSlot);
                }
                self.slot_result(&place, inst);
            }
            Format::Unary(_) | Format::Binary(_) | Format::Ternary(_) => self.plain(&place, inst),
            Format::Cond => {
                self.needs_type(&place, inst.args[0], Type::I32);
                self.result(&place, inst, Type::I1);
            }
            Format::Tick => self.result(&place, inst, Type::I64),
            Format::Load | Format::Store => {
                if inst.ty.bytes() == 0 {
                    self.error(
                        place.clone(),
                        Problem::ResultType { has: inst.ty, needs: "a type that memory can hold" },
                    );
                }
                if let Some(address) = inst.address() {
                    self.address(&place, address);
                }
                if inst.op == Opcode::Store {
                    self.needs_type(&place, inst.args[2], inst.ty);
                }
            }
            Format::Guard => {
                self.needs_type(&place, inst.args[0], Type::I1);
                self.result(&place, inst, Type::Void);
                if let Some(exit) = inst.exit() {
                    self.exit_available(&place, exit, segment, position);
                }
            }
            Format::Native => {
                self.result(&place, inst, Type::Void);
                if let Some(native) = inst.native_op() {
                    for (_, input) in &self.trace.natives[native].inputs {
                        self.available(&place, *input, segment, position);
                    }
                }
            }
            Format::NativeOut => self.slot_result(&place, inst),
        }
    }

    fn operands(&mut self, place: &Place, inst: &Inst, segment: Segment, position: usize) {
        let needed = match inst.op.format() {
            Format::Load => 1,
            // An index is optional, so the stored value is looked at by itself.
            Format::Store => {
                if !inst.args[2].is_some() {
                    self.error(place.clone(), Problem::NoOperand);
                }
                1
            }
            format => format.arity(),
        };
        if inst.args[..needed].iter().any(|arg| !arg.is_some()) {
            self.error(place.clone(), Problem::NoOperand);
        }
        for operand in inst.operands() {
            self.available(place, operand, segment, position);
        }
    }

    fn plain(&mut self, place: &Place, inst: &Inst) {
        let arity = inst.op.format().arity();
        let types: Option<Vec<Type>> = inst.args[..arity].iter().map(|arg| self.ty(*arg)).collect();
        // Without the types, an operand is missing or void, and was reported.
        if let Some(types) = types
            && let Err(error) = typing::check(inst.op, inst.ty, &types)
        {
            self.error(place.clone(), Problem::Rule(error));
        }
    }

    fn result(&mut self, place: &Place, inst: &Inst, needs: Type) {
        if inst.ty != needs {
            self.error(place.clone(), Problem::ResultType { has: inst.ty, needs: needs.name() });
        }
    }

    fn slot_result(&mut self, place: &Place, inst: &Inst) {
        match inst.slot() {
            None => self.error(place.clone(), Problem::NoSlot),
            Some(slot) if slot.ty() != inst.ty => {
                self.error(place.clone(), Problem::SlotType { slot, has: inst.ty });
            }
            Some(_) => {}
        }
    }

    pub(super) fn address(&mut self, place: &Place, address: Address) {
        self.needs_type(place, address.root, Type::I64);
        if address.index.is_some() {
            self.needs_type(place, address.index, Type::I64);
        }
        if !matches!(address.scale, 1 | 2 | 4 | 8) {
            self.error(place.clone(), Problem::Scale(address.scale));
        }
    }

    fn native_out(&mut self, place: &Place, inst: &Inst, segment: Segment, position: usize) {
        let native = inst.args[0];
        let operation = self.trace.insts.get(native).and_then(Inst::native_op);
        let Some(operation) = operation.and_then(|operation| self.trace.natives.get(operation)) else {
            return self.error(place.clone(), Problem::NotNative(native));
        };
        if inst.slot().is_some_and(|slot| !operation.outputs.contains(&slot)) {
            self.error(place.clone(), Problem::NotAnOutput(native));
        }
        // The native instruction is void, so its availability is checked by hand.
        match self.definition(native) {
            None => self.error(place.clone(), Problem::NotDefined(native)),
            Some((home, at)) => {
                let before = if home == segment { at < position } else { self.graph.dominates(home, segment) };
                if !before {
                    self.error(place.clone(), Problem::NotAvailable(native));
                }
            }
        }
    }

    fn definition(&self, value: Value) -> Option<(Segment, usize)> {
        use crate::Entity;
        self.definitions.get(value.index()).copied().flatten()
    }

    pub(super) fn native(&mut self, native: Native) {
        let place = Place::Native(native);
        let operation = &self.trace.natives[native];
        if !(1..=15).contains(&operation.bytes.len()) {
            self.error(place.clone(), Problem::NativeBytes(operation.bytes.len()));
        }
        for (slot, value) in &operation.inputs {
            self.writable(&place, *slot);
            self.needs_type(&place, *value, slot.ty());
        }
        for slot in &operation.outputs {
            self.writable(&place, *slot);
        }
    }

    pub(super) fn writable(&mut self, place: &Place, slot: Slot) {
        if !slot.is_writable() {
            self.error(place.clone(), Problem::NotWritable(slot));
        }
    }
}
