//! The evaluator's world for tests: the executor's arena as memory, and the hardware for native operations.
//!
//! Worked example: a trace that stores rax to the arena and leaves, evaluated on an [`ArenaGuest`], changes
//! [`Executor::arena`] and the state just as the machine code that it was lifted from does.

use crate::compiled::{set_slot, slot_of};
use crate::native::{ARENA_BYTES, Executor, Outcome, State};
use iced_x86::{Decoder, DecoderOptions};
use redmagic_ir::eval::{Fault, Guest};
use redmagic_ir::{NativeOp, Slot};

/// A guest whose memory is the arena. A native operation replaces the block that is loaded in the executor.
pub struct ArenaGuest<'a> {
    /// Memory and hardware.
    pub executor: &'a mut Executor,
    /// The context.
    pub state: State,
}

impl ArenaGuest<'_> {
    fn cell(&mut self, address: u64, bytes: u32) -> Result<&mut [u8], Fault> {
        let at = address.wrapping_sub(self.executor.arena_address());
        match usize::try_from(at) {
            Ok(at) if at < ARENA_BYTES && bytes as usize <= ARENA_BYTES - at => {
                Ok(&mut self.executor.arena_mut()[at..at + bytes as usize])
            }
            _ => Err(Fault::Unmapped { address }),
        }
    }
}

impl Guest for ArenaGuest<'_> {
    fn slot(&self, slot: Slot) -> u64 {
        slot_of(&self.state, slot)
    }

    fn set_slot(&mut self, slot: Slot, value: u64) {
        set_slot(&mut self.state, slot, value);
    }

    fn load(&mut self, address: u64, bytes: u32) -> Result<u128, Fault> {
        let mut value = [0; 16];
        value[..bytes as usize].copy_from_slice(self.cell(address, bytes)?);
        Ok(u128::from_le_bytes(value))
    }

    fn store(&mut self, address: u64, bytes: u32, value: u128) -> Result<(), Fault> {
        self.cell(address, bytes)?.copy_from_slice(&value.to_le_bytes()[..bytes as usize]);
        Ok(())
    }

    fn native(&mut self, op: &NativeOp) -> Result<(), Fault> {
        let fault = |reason: String| Fault::Native { pc: op.pc, reason };
        let inst = Decoder::with_ip(64, &op.bytes, op.pc, DecoderOptions::NONE).decode();
        self.executor.load(&[inst]).map_err(|error| fault(error.to_string()))?;
        match self.executor.run(&mut self.state) {
            Outcome::Completed { .. } => Ok(()),
            Outcome::Fault { signal, .. } => Err(fault(format!("signal {signal}"))),
        }
    }
}
