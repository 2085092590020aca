//! Memory, slots and records.
//!
//! Accesses are made where the trace has them, in that order. They may fault (the runtime knows what to do with the
//! guest's faults), need no alignment, and are never assumed to be constant: the flags say "does not trap", which here
//! only means that no trap is recorded for them.
//!
//! Worked example: `v3: i64 = load [v1 + v2*8 + 16]` becomes `v3 = load.i64 notrap (iadd v1, (ishl v2, 3))+16`, which the
//! code generator turns into one `mov r, [r1 + r2*8 + 16]`, or into an operand of the single instruction that uses it.

use super::{Lowering, Operand, machine_type};
use crate::BackendError;
use crate::class::Class;
use crate::liveness::CallSite;
use cranelift_codegen::ir::{self, InstBuilder, MemFlagsData, Value, types};
use redmagic_ir::{Address, Slot, Type, Value as IrValue};

/// For every access. Not `aligned`: the guest's 16-byte accesses may not be.
pub(super) const FLAGS: MemFlagsData = MemFlagsData::new().with_notrap();

impl Lowering<'_, '_> {
    pub(super) fn load(&mut self, value: IrValue, ty: Type, address: &Address) -> Result<(), BackendError> {
        let (base, offset) = self.address(address)?;
        self.read(value, ty, base, offset);
        Ok(())
    }

    pub(super) fn store(&mut self, address: &Address, value: Operand) -> Result<(), BackendError> {
        let (value, _) = self.at_home(value)?;
        let (base, offset) = self.address(address)?;
        self.builder.ins().store(FLAGS, value, base, offset);
        Ok(())
    }

    /// `lock cmpxchg`.
    pub(super) fn compare_swap(&mut self, value: IrValue, args: [IrValue; 3]) -> Result<(), BackendError> {
        let [address, expected, new] = args.map(|arg| self.general(Operand::Trace(arg)));
        let seen = self.builder.ins().atomic_cas(FLAGS, address?, expected?, new?);
        self.define(value, seen);
        Ok(())
    }

    /// Counts down the meter at `address`.
    pub(super) fn tick(&mut self, value: IrValue, address: u64) {
        let address = self.builder.ins().iconst(types::I64, address as i64);
        let before = self.builder.ins().load(types::I64, FLAGS, address, 0);
        let left = self.builder.ins().iadd_imm_s(before, -1);
        self.builder.ins().store(FLAGS, left, address, 0);
        self.define(value, left);
    }

    pub(super) fn read_slot(&mut self, value: IrValue) -> Result<(), BackendError> {
        let Some(slot) = self.trace.insts[value].slot() else {
            return Err(BackendError::Malformed(format!("{value} names no slot")));
        };
        self.read(value, slot.ty(), self.context, self.request.layout.slots[slot.index()]);
        Ok(())
    }

    /// Reads memory into the home class of `value`, and defines it.
    fn read(&mut self, value: IrValue, ty: Type, base: Value, offset: i32) {
        let class = self.classes.home(value);
        let result = self.builder.ins().load(machine_type(ty, class), FLAGS, base, offset);
        if class == Class::Vector && self.classes.is_pinned(value) {
            // A second use, never computed, keeps the access from becoming an operand of the arithmetic.
            self.convert(result, class);
        }
        self.define(value, result);
    }

    pub(super) fn write_slot(&mut self, slot: Slot, value: Value) {
        let offset = self.request.layout.slots[slot.index()];
        self.builder.ins().store(FLAGS, value, self.context, offset);
        // What was written to a whole ymm register has cleared the rest.
        if slot.as_xmm().is_some_and(|(_, lane)| lane == 3) && self.request.layout.above > 0 {
            let zero = self.builder.ins().iconst(types::I64, 0);
            for at in (0..self.request.layout.above).step_by(8) {
                self.builder.ins().store(FLAGS, zero, self.context, offset + 8 + at);
            }
        }
    }

    pub(super) fn load_record(&mut self, ty: ir::Type, offset: i32) -> Value {
        self.builder.ins().load(ty, FLAGS, self.record, offset)
    }

    /// Reads what a residual call saved from the save area of the record.
    pub(super) fn reload_saved(&mut self, site: &CallSite) {
        if site.saved.is_empty() {
            return;
        }
        let area = self.load_record(types::I64, self.request.layout.record_save);
        for &(value, word) in &site.saved {
            let ty = machine_type(self.trace.ty(value), self.classes.home(value));
            let result = self.builder.ins().load(ty, FLAGS, area, word as i32 * 8);
            let variable = self.variable(value);
            self.builder.def_var(variable, result);
        }
    }

    /// The base register and the displacement of an address. The code generator folds what it can into one operand.
    pub(super) fn address(&mut self, address: &Address) -> Result<(Value, i32), BackendError> {
        let root = Operand::Trace(address.root);
        if let (Some(base), false) = (self.trace.as_const(address.root), address.index.is_some()) {
            let absolute = base.wrapping_add(i64::from(address.offset));
            return Ok((self.builder.ins().iconst(types::I64, absolute), 0));
        }
        let mut base = self.general(root)?;
        if address.index.is_some() {
            let mut index = self.general(Operand::Trace(address.index))?;
            if address.scale > 1 {
                let shift = self.builder.ins().iconst(types::I8, i64::from(address.scale.trailing_zeros()));
                index = self.builder.ins().ishl(index, shift);
            }
            base = self.builder.ins().iadd(base, index);
        }
        Ok((base, address.offset))
    }
}
