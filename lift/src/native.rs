//! Native operations: instructions that the trace executes verbatim.
//!
//! Inputs and outputs come from the decoder library's register information, which is exact byte by byte for what it
//! lists; slots that it says are written in part or conditionally are inputs as well. The flags are always both,
//! because most instructions write some of them only (and shifts by CL may write none, which the library does not
//! say). Registers that are not slots stay in the CPU (x87) or in the context (`wide`).
//!
//! Worked example: `shld rax, rdx, 4` has the inputs rax, rdx, flags and the outputs rax, flags.

use crate::lifter::Lifter;
use crate::liveness::SLOT_FLAGS;
use crate::operand::{gpr_slot, lane_slot};
use crate::refuse::Refusal;
use iced_x86::{Decoder, DecoderOptions, EncodingKind, Instruction, Mnemonic as M, OpAccess, Register};
use redmagic_ir::{Inst, NativeOp, Slot};

/// What a verbatim instruction touches.
#[derive(Default)]
struct Touched {
    inputs: Vec<Slot>,
    outputs: Vec<Slot>,
    vector: bool,
    wide: bool,
    /// Upper halves of ymm registers are slots, and the instruction uses or clears them.
    upper: bool,
}

impl Touched {
    fn add(&mut self, slot: Slot, reads: bool, writes: bool) {
        if reads && !self.inputs.contains(&slot) {
            self.inputs.push(slot);
        }
        if writes && !self.outputs.contains(&slot) {
            self.outputs.push(slot);
        }
    }

    fn register(&mut self, register: Register, access: OpAccess) {
        let writes =
            matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite);
        let reads = !matches!(access, OpAccess::Write | OpAccess::None | OpAccess::NoMemAccess);
        if register.is_gpr() {
            self.add(gpr_slot(register), reads || register.size() < 4, writes);
        } else if register.is_vector_register() {
            self.vector = true;
            self.wide |= !register.is_xmm() || register.number() >= 16;
            if register.number() < 16 {
                // What is written in part may be a lane that is not.
                let whole = !self.upper;
                self.add(lane_slot(register, 0), reads || !whole, writes);
                self.add(lane_slot(register, 1), reads || !whole, writes);
                if self.upper {
                    self.add(lane_slot(register, 2), true, writes);
                    self.add(lane_slot(register, 3), true, writes);
                }
            }
        } else if register.is_k() {
            self.wide = true;
        }
    }
}

impl Lifter<'_> {
    /// Executes an instruction verbatim.
    pub(crate) fn native(&mut self, inst: &Instruction) -> Result<(), Refusal> {
        let bytes = self.recorded_bytes(inst)?;
        let (touched, memory) = self.touched(inst);
        let mut inputs = Vec::with_capacity(touched.inputs.len());
        for slot in touched.inputs {
            // An upper half that was not written in the trace is in the context, with what is above it. (A loop may have
            // written it in the iteration before; it begins at an anchor, where vector registers hold nothing.)
            if slot.is_upper() && self.header.is_none() && !self.dirty.contains(slot) {
                continue;
            }
            let value = self.read_slot(slot);
            self.overwrite_slot(slot, value);
            inputs.push((slot, value));
        }
        let outputs = touched.outputs;
        let wide = touched.wide;
        let op = NativeOp { pc: self.pc, bytes, inputs, outputs: outputs.clone(), memory, wide };
        let native = self.trace.natives.push(op);
        let value = self.emit(Inst::native(native));
        for slot in outputs {
            let output = self.emit(Inst::native_out(value, slot));
            self.overwritten[slot.index()] = true;
            self.write_slot(slot, output);
        }
        self.natives += 1;
        Ok(())
    }

    fn recorded_bytes(&self, inst: &Instruction) -> Result<Vec<u8>, Refusal> {
        let bytes = self.code.read(self.pc).ok_or(Refusal::Unreadable { pc: self.pc })?;
        let bytes = bytes.get(..inst.len()).ok_or(Refusal::Changed { pc: self.pc })?;
        let decoded = Decoder::with_ip(64, bytes, self.pc, DecoderOptions::NONE).decode();
        if decoded != *inst {
            return Err(Refusal::Changed { pc: self.pc });
        }
        Ok(bytes.to_vec())
    }

    /// The slots that `inst` touches, sorted, and whether it may access memory.
    fn touched(&mut self, inst: &Instruction) -> (Touched, bool) {
        let upper = self.upper && inst.encoding() != EncodingKind::Legacy;
        let mut touched = Touched { upper, ..Touched::default() };
        // It clears upper halves only; where these are slots, it is no native operation.
        if inst.mnemonic() == M::Vzeroupper {
            touched.wide = true;
            return (touched, false);
        }
        let info = self.info.info(inst);
        for used in info.used_registers() {
            touched.register(used.register(), used.access());
        }
        let fence = matches!(inst.mnemonic(), M::Mfence | M::Lfence | M::Sfence | M::Serialize);
        let memory = fence || info.used_memory().iter().any(|used| used.access() != OpAccess::NoMemAccess);
        touched.wide |= touched.vector && inst.encoding() != EncodingKind::Legacy;
        if (inst.rflags_read() | inst.rflags_modified()) & SLOT_FLAGS != 0 {
            touched.add(Slot::FLAGS, true, true);
        }
        touched.inputs.sort();
        touched.outputs.sort();
        (touched, memory)
    }
}
