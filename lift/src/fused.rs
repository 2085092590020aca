//! Fused multiplications and additions: one rounding, and three ways to number the operands.
//!
//! The name's digits say which operands are multiplied, in this order, and which one is added: 132, 213 or 231. Of
//! several NaN operands the one in the order's first place survives, so the order is kept. Worked example:
//! `vfmadd231sd xmm0, xmm1, xmm2` becomes `xmm0.lo = fma64 xmm1.lo, xmm2.lo, xmm0.lo`.

use crate::lifter::Lifter;
use iced_x86::{Instruction, Mnemonic as M};
use redmagic_ir::{Inst, Opcode, Type, Value};

/// What a fused instruction computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fused {
    /// The operations of lanes with even and odd numbers.
    ops: [Opcode; 2],
    /// The operands that are the first, second and third one of the operation.
    order: [u32; 3],
    /// Of the lowest number only.
    scalar: bool,
}

impl Fused {
    /// What `mnemonic` names.
    pub(crate) fn of(mnemonic: M) -> Option<Fused> {
        let (ops, scalar, form) = ROWS.iter().find_map(|(ops, scalar, forms)| {
            forms.iter().position(|form| *form == mnemonic).map(|form| (*ops, *scalar, form))
        })?;
        Some(Fused { ops, order: [[0, 2, 1], [1, 0, 2], [1, 2, 0]][form], scalar })
    }
}

/// Operations, whether they are of the lowest number only, and the three mnemonics.
type Row = ([Opcode; 2], bool, [M; 3]);

const ROWS: [Row; 20] = {
    use Opcode::{Fma32, Fma64, Fms32, Fms64, Fnma32, Fnma64, Fnms32, Fnms64};
    [
        ([Fma64; 2], true, [M::Vfmadd132sd, M::Vfmadd213sd, M::Vfmadd231sd]),
        ([Fma64; 2], false, [M::Vfmadd132pd, M::Vfmadd213pd, M::Vfmadd231pd]),
        ([Fma32; 2], true, [M::Vfmadd132ss, M::Vfmadd213ss, M::Vfmadd231ss]),
        ([Fma32; 2], false, [M::Vfmadd132ps, M::Vfmadd213ps, M::Vfmadd231ps]),
        ([Fms64; 2], true, [M::Vfmsub132sd, M::Vfmsub213sd, M::Vfmsub231sd]),
        ([Fms64; 2], false, [M::Vfmsub132pd, M::Vfmsub213pd, M::Vfmsub231pd]),
        ([Fms32; 2], true, [M::Vfmsub132ss, M::Vfmsub213ss, M::Vfmsub231ss]),
        ([Fms32; 2], false, [M::Vfmsub132ps, M::Vfmsub213ps, M::Vfmsub231ps]),
        ([Fnma64; 2], true, [M::Vfnmadd132sd, M::Vfnmadd213sd, M::Vfnmadd231sd]),
        ([Fnma64; 2], false, [M::Vfnmadd132pd, M::Vfnmadd213pd, M::Vfnmadd231pd]),
        ([Fnma32; 2], true, [M::Vfnmadd132ss, M::Vfnmadd213ss, M::Vfnmadd231ss]),
        ([Fnma32; 2], false, [M::Vfnmadd132ps, M::Vfnmadd213ps, M::Vfnmadd231ps]),
        ([Fnms64; 2], true, [M::Vfnmsub132sd, M::Vfnmsub213sd, M::Vfnmsub231sd]),
        ([Fnms64; 2], false, [M::Vfnmsub132pd, M::Vfnmsub213pd, M::Vfnmsub231pd]),
        ([Fnms32; 2], true, [M::Vfnmsub132ss, M::Vfnmsub213ss, M::Vfnmsub231ss]),
        ([Fnms32; 2], false, [M::Vfnmsub132ps, M::Vfnmsub213ps, M::Vfnmsub231ps]),
        ([Fms64, Fma64], false, [M::Vfmaddsub132pd, M::Vfmaddsub213pd, M::Vfmaddsub231pd]),
        ([Fms32, Fma32], false, [M::Vfmaddsub132ps, M::Vfmaddsub213ps, M::Vfmaddsub231ps]),
        ([Fma64, Fms64], false, [M::Vfmsubadd132pd, M::Vfmsubadd213pd, M::Vfmsubadd231pd]),
        ([Fma32, Fms32], false, [M::Vfmsubadd132ps, M::Vfmsubadd213ps, M::Vfmsubadd231ps]),
    ]
};

/// The type of the numbers that an operation works on.
fn number(op: Opcode) -> Type {
    match op {
        Opcode::Fma32 | Opcode::Fms32 | Opcode::Fnma32 | Opcode::Fnms32 => Type::I32,
        _ => Type::I64,
    }
}

impl Lifter<'_> {
    pub(crate) fn fused(&mut self, inst: &Instruction, Fused { ops, order, scalar }: Fused) {
        let register = inst.op0_register();
        if scalar {
            let operands = [0, 1, 2].map(|operand| self.read_number(inst, operand, number(ops[0])));
            let value = self.fused_number(ops[0], operands, order);
            return match number(ops[0]) {
                Type::I32 => {
                    let low = self.read_lane(register, 0);
                    let low = self.with_lane(32, low, 0, value);
                    self.write_lane(register, 0, low);
                }
                _ => self.write_lane(register, 0, value),
            };
        }
        let operands = [0, 1, 2].map(|operand| self.read_full(inst, operand));
        let result = [0, 1].map(|half| {
            let operands = operands.map(|lanes| lanes[half]);
            if number(ops[0]) == Type::I64 {
                return self.fused_number(ops[half], operands, order);
            }
            let parts = [0, 1].map(|at| {
                let operands = operands.map(|half| self.lane_of_half(32, half, at));
                self.fused_number(ops[at as usize], operands, order)
            });
            self.joined_lanes(32, &parts)
        });
        self.write_lanes(register, result);
    }

    /// The lowest number of an operand.
    fn read_number(&mut self, inst: &Instruction, operand: u32, ty: Type) -> Value {
        if ty == Type::I32 { self.read_single(inst, operand) } else { self.read_low(inst, operand) }
    }

    fn fused_number(&mut self, op: Opcode, operands: [Value; 3], order: [u32; 3]) -> Value {
        let [a, b, c] = order.map(|operand| operands[operand as usize]);
        self.emit(Inst::ternary(op, number(op), a, b, c))
    }
}
