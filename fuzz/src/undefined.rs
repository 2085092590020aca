//! The flags that the architecture leaves undefined: the only thing that comparisons with hardware may leave out.
//!
//! The table depends on the operands as the manuals do: a shift by 0 changes nothing, a shift by 1 defines OF.
//!
//! Worked example: for `shl eax, 5` AF and OF are undefined; for `shl eax, 1` only AF; for `shl al, 9` also CF.

use crate::native::State;
use iced_x86::{Instruction, Mnemonic, OpKind};
use redmagic_ir::{AF, CF, FLAGS_MASK, OF, PF, SF, ZF};

/// The flags that are undefined after `inst` has run on `before`.
pub fn undefined_flags(inst: &Instruction, before: &State) -> u32 {
    match inst.mnemonic() {
        Mnemonic::And | Mnemonic::Or | Mnemonic::Xor | Mnemonic::Test => AF,
        Mnemonic::Imul | Mnemonic::Mul => SF | ZF | AF | PF,
        Mnemonic::Div | Mnemonic::Idiv => FLAGS_MASK,
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => OF | SF | AF | PF,
        Mnemonic::Bsf | Mnemonic::Bsr => OF | SF | AF | PF | CF,
        Mnemonic::Andn | Mnemonic::Blsi | Mnemonic::Blsr | Mnemonic::Blsmsk | Mnemonic::Bzhi => AF | PF,
        Mnemonic::Bextr => SF | AF | PF,
        Mnemonic::Tzcnt | Mnemonic::Lzcnt => OF | SF | AF | PF,
        Mnemonic::Shl | Mnemonic::Sal | Mnemonic::Shr | Mnemonic::Sar | Mnemonic::Shld | Mnemonic::Shrd => {
            let (count, width) = shift(inst, before);
            let carry = if count >= width && inst.mnemonic() != Mnemonic::Sar { CF } else { 0 };
            let double = matches!(inst.mnemonic(), Mnemonic::Shld | Mnemonic::Shrd);
            match count {
                0 => 0,
                1 => AF,
                _ if double && count > width => FLAGS_MASK,
                _ if double => AF | OF,
                _ => AF | OF | carry,
            }
        }
        Mnemonic::Rol | Mnemonic::Ror | Mnemonic::Rcl | Mnemonic::Rcr => match shift(inst, before).0 {
            0 | 1 => 0,
            _ => OF,
        },
        _ => 0,
    }
}

/// The flags that may be undefined after `inst` from any state, if `before` may have been undefined before it.
pub fn maybe_undefined(inst: &Instruction, before: u32) -> u32 {
    let counted = matches!(
        inst.mnemonic(),
        Mnemonic::Shl
            | Mnemonic::Sal
            | Mnemonic::Shr
            | Mnemonic::Sar
            | Mnemonic::Shld
            | Mnemonic::Shrd
            | Mnemonic::Rol
            | Mnemonic::Ror
            | Mnemonic::Rcl
            | Mnemonic::Rcr
    );
    let mut count = State::default();
    // The worst count: more than any width below 64.
    count.gpr[1] = 31;
    let by_register = counted && inst.op_kind(inst.op_count() - 1) == OpKind::Register;
    let none = counted && !by_register && shift(inst, &count).0 == 0;
    let kept = by_register || none || inst.has_rep_prefix() || inst.has_repne_prefix();
    let defined = if kept { 0 } else { iced_flags(inst.rflags_modified()) };
    before & !defined | undefined_flags(inst, &count)
}

/// The packed flags of iced's flag bits.
pub fn iced_flags(bits: u32) -> u32 {
    use iced_x86::RflagsBits as R;
    let table = [(R::CF, CF), (R::PF, PF), (R::AF, AF), (R::ZF, ZF), (R::SF, SF), (R::OF, OF)];
    table.iter().filter(|entry| bits & entry.0 != 0).map(|entry| entry.1).sum()
}

/// Whether the destination of `inst` on `before` is undefined as well: a double shift by more than the width. (For the
/// source 0 of `bsf` and `bsr`, which the manuals also call undefined, every processor keeps the destination.)
pub fn undefined_result(inst: &Instruction, before: &State) -> bool {
    matches!(inst.mnemonic(), Mnemonic::Shld | Mnemonic::Shrd) && {
        let (count, width) = shift(inst, before);
        count > width
    }
}

/// The masked count and the operand width of a shift.
fn shift(inst: &Instruction, before: &State) -> (u32, u32) {
    let width = match inst.op0_kind() {
        OpKind::Register => inst.op0_register().size() as u32 * 8,
        _ => inst.memory_size().size() as u32 * 8,
    };
    let operand = inst.op_count() - 1;
    let count = match inst.op_kind(operand) {
        OpKind::Immediate8 => u32::from(inst.immediate8()),
        _ => before.gpr[1] as u32 & 0xff,
    };
    (count & if width == 64 { 63 } else { 31 }, width)
}

/// The names of `flags`, for messages.
pub fn flag_names(flags: u32) -> String {
    let named = [(CF, "CF"), (PF, "PF"), (AF, "AF"), (ZF, "ZF"), (SF, "SF"), (OF, "OF")];
    let present: Vec<_> = named.iter().filter(|flag| flags & flag.0 != 0).map(|flag| flag.1).collect();
    present.join("|")
}
