//! The state that a lifted trace was recorded in, as far as the trace itself tells: every access notes its address, and every load
//! what it gave.
//!
//! # Worked example
//! `v8: i64 = param rbx; v9: i32 = load [v8 + 4] @0x1004=0x22` tells `rbx=0x1000` and four bytes at 0x1004.

use redmagic_ir::{Address, Inst, Map, Opcode, Slot, Trace, Type, Value, scalar};
use std::collections::BTreeMap;

/// What is known while the iteration is followed.
struct State<'t> {
    trace: &'t Trace,
    values: Map<Value, Option<u64>>,
    slots: BTreeMap<String, u64>,
    /// Bytes as they were at first; none where the trace has stored before it has loaded.
    bytes: BTreeMap<u64, Option<u8>>,
}

/// The `run` line that sets it up.
pub fn run_line(trace: &Trace) -> String {
    let values = Map::filled(trace.insts.len(), None);
    let mut state = State { trace, values, slots: BTreeMap::new(), bytes: BTreeMap::new() };
    for &value in trace.segments.values().flat_map(|segment| &segment.insts) {
        state.follow(value);
    }
    state.line()
}

impl State<'_> {
    fn follow(&mut self, value: Value) {
        let inst = &self.trace.insts[value];
        if let Some(imm) = inst.as_const() {
            self.values[value] = Some(imm as u64 & inst.ty.mask() as u64);
        } else if let Some(address) = inst.address() {
            let Some(recorded) = self.trace.recorded(value) else { return };
            self.solve_address(&address, recorded.address);
            let load = inst.op == Opcode::Load;
            for at in 0..u64::from(inst.ty.bytes().min(8)) {
                let byte = load.then_some((recorded.value >> (8 * at)) as u8);
                self.bytes.entry(recorded.address.wrapping_add(at)).or_insert(byte);
            }
            if load && inst.ty.bits() <= 64 {
                self.values[value] = Some(recorded.value & inst.ty.mask() as u64);
            }
        } else if self.values[value].is_none() {
            self.values[value] = self.computed(inst);
        }
    }

    fn computed(&self, inst: &Inst) -> Option<u64> {
        let mut args = [0u128; 3];
        let mut ty = Type::Void;
        for (at, operand) in inst.operands().enumerate() {
            args[at] = u128::from(self.values[operand]?);
            if at == usize::from(inst.op == Opcode::Select) {
                ty = self.trace.ty(operand);
            }
        }
        if inst.ty.bits() > 64 || inst.operands().next().is_none() {
            return None;
        }
        Some(scalar::eval_pure(inst.op, inst.ty, ty, args, inst.condition())? as u64)
    }

    /// Learns from an address what it is made of.
    fn solve_address(&mut self, address: &Address, recorded: u64) {
        let mut rest = recorded.wrapping_sub(i64::from(address.offset) as u64);
        if address.index.is_some() {
            match (self.values[address.root], self.values[address.index]) {
                (_, Some(index)) => rest = rest.wrapping_sub(index.wrapping_mul(u64::from(address.scale))),
                (Some(root), None) => {
                    return self.solve(address.index, rest.wrapping_sub(root) / u64::from(address.scale));
                }
                (None, None) => return,
            }
        }
        self.solve(address.root, rest);
    }

    /// `value` is `number`.
    fn solve(&mut self, value: Value, number: u64) {
        if self.values[value].is_some() {
            return;
        }
        self.values[value] = Some(number);
        let inst = &self.trace.insts[value];
        let [a, b, _] = inst.args;
        match inst.op {
            Opcode::Param | Opcode::Slot => self.solve_slot(inst.slot(), number),
            Opcode::Add | Opcode::Sub => {
                let add = inst.op == Opcode::Add;
                match (self.values[a], self.values[b]) {
                    (None, Some(b)) if add => self.solve(a, number.wrapping_sub(b)),
                    (None, Some(b)) => self.solve(a, number.wrapping_add(b)),
                    (Some(a), None) if add => self.solve(b, number.wrapping_sub(a)),
                    (Some(a), None) => self.solve(b, a.wrapping_sub(number)),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn solve_slot(&mut self, slot: Option<Slot>, number: u64) {
        if let Some(slot) = slot.filter(|slot| *slot != Slot::FLAGS) {
            self.slots.entry(slot.to_string()).or_insert(number);
        }
    }

    fn line(&self) -> String {
        let mut line = "run".to_owned();
        for (slot, number) in &self.slots {
            line += &format!(" {slot}={number:#x}");
        }
        let mut next = None;
        for (address, byte) in &self.bytes {
            let Some(byte) = byte else { continue };
            if next == Some(*address) {
                line += &format!(",{byte}");
            } else {
                line += &format!(" i8[{address:#x}]={byte}");
            }
            next = address.checked_add(1);
        }
        line
    }
}
