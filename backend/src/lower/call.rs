//! Leaving the function to execute foreign code: residual calls and native operations.
//!
//! A residual call returns from the function, so that no frame of ours is on any stack while the callee runs. Before,
//! it writes the complete guest state like an exit, and into the next free activation record: callee, return
//! address, resume index, and every value that is used behind the call.
//!
//! A native operation is a call of a stub that executes one instruction on the context; registers survive it.
//!
//! Worked example: `call v1 ret v2 state exit3 ... -> seg4`, with v5 used in `seg4`, becomes
//! ```text
//! (state of exit 3, as in `exit`)
//! record = load context.free_record
//! store v1 -> record.target;  store v2 -> record.return;  store 0 -> record.resume;  store v5 -> record.save[0]
//! return exit_records + 3 * exit_stride
//! ```

use super::exit::Way;
use super::memory::FLAGS;
use super::{Lowering, Operand};
use crate::BackendError;
use cranelift_codegen::ir::{AbiParam, InstBuilder, SigRef, Signature, types};
use cranelift_codegen::isa::CallConv;
use redmagic_ir::{Call, Entity, Native, Segment, Value as IrValue};

impl Lowering<'_, '_> {
    pub(super) fn residual_call(&mut self, segment: Segment, call: &Call) -> Result<(), BackendError> {
        let Some((index, site)) = self.liveness.calls.iter().enumerate().find(|(_, site)| site.segment == segment)
        else {
            return Err(BackendError::Malformed(format!("{segment} makes an unknown call")));
        };
        let layout = self.request.layout;
        if site.words > layout.save_words {
            return Err(BackendError::TooManyLiveValues { segment, words: site.words, limit: layout.save_words });
        }
        let target = self.general(Operand::Trace(call.target))?;
        let return_address = self.general(Operand::Trace(call.return_address))?;
        self.write_state(call.state, Way::Hot)?;
        let record = self.builder.ins().load(types::I64, FLAGS, self.context, layout.free_record);
        self.builder.ins().store(FLAGS, target, record, layout.record_target);
        self.builder.ins().store(FLAGS, return_address, record, layout.record_return);
        let resume = self.builder.ins().iconst(types::I64, index as i64);
        self.builder.ins().store(FLAGS, resume, record, layout.record_resume);
        if !site.saved.is_empty() {
            let area = self.builder.ins().load(types::I64, FLAGS, record, layout.record_save);
            for &(value, word) in &site.saved {
                let (value, _) = self.at_home(Operand::Trace(value))?;
                self.builder.ins().store(FLAGS, value, area, word as i32 * 8);
            }
        }
        self.return_exit(call.state);
        Ok(())
    }

    pub(super) fn native(&mut self, value: IrValue, native: Native) -> Result<(), BackendError> {
        let missing = || BackendError::MissingNative { native: native.index() };
        let stub = self.request.natives.get(native.index()).copied().ok_or_else(missing)?;
        let op = self.trace.natives.get(native).ok_or_else(missing)?;
        for &(slot, input) in &op.inputs {
            let (input, _) = self.at_home(Operand::Trace(input))?;
            self.write_slot(slot, input);
        }
        let signature = self.native_signature();
        let stub = self.builder.ins().iconst(types::I64, stub as i64);
        self.builder.ins().call_indirect(signature, stub, &[self.context]);
        for &(_, output) in self.liveness.outputs_of(value) {
            self.read_slot(output)?;
        }
        Ok(())
    }

    fn native_signature(&mut self) -> SigRef {
        if let Some(signature) = self.native_signature {
            return signature;
        }
        let mut signature = Signature::new(CallConv::SystemV);
        signature.params.push(AbiParam::new(types::I64));
        let signature = self.builder.import_signature(signature);
        self.native_signature = Some(signature);
        signature
    }
}
