//! Deliberately wrong traces: what the comparisons with the hardware must notice.
//!
//! A [`Mutation`] is one small mistake of the kind that lifters make: an operation taken for its neighbour, operands in
//! the wrong order, a lost extension, another width, another flag, a slot that an exit forgets. [`mutants`] finds all
//! places of a trace where each can be made.
//!
//! Worked example: for `neg eax` the mutants are, among others, `not eax`, a sign-extended result, and one whose exit
//! does not list rax.

use redmagic_ir::{
    AF, CF, Entity, Exit, ExitValue, Format, Inst, OF, Opcode as Op, PF, SF, Slot, Terminator, Trace, Type, Value, ZF,
    typing, verify,
};

/// A kind of mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutation {
    /// One operation for another.
    Replace(Op, Op),
    /// The first two operands exchanged (of a selection, the alternatives).
    Exchange(Op),
    /// The value itself in place of its truncation and extension.
    DropExtension,
    /// Half of the bytes loaded.
    NarrowLoad,
    /// Half of the bytes stored.
    NarrowStore,
    /// A store left out.
    DropStore,
    /// An address one byte further on.
    NextByte,
    /// An address without its index.
    DropIndex,
    /// An index with another scale.
    OtherScale,
    /// A constant plus 1.
    NextConstant,
    /// The complement of a constant.
    ComplementConstant,
    /// A flag of an exit inverted.
    InvertFlag(u32),
    /// All flags of an exit clear.
    ClearFlags,
    /// An exit without a slot's value.
    ForgetSlot,
    /// The values of two slots of an exit exchanged.
    ExchangeSlots,
    /// An exit to the next byte.
    NextExit,
}

/// Operations that are easily taken for each other. Each is tried in the place of the other.
const NEIGHBOURS: &[(Op, Op)] = &[
    (Op::Add, Op::Sub),
    (Op::Add, Op::Or),
    (Op::And, Op::Or),
    (Op::And, Op::Xor),
    (Op::Or, Op::Xor),
    (Op::Neg, Op::Not),
    (Op::Shl, Op::Lshr),
    (Op::Lshr, Op::Ashr),
    (Op::Shl, Op::Rotl),
    (Op::Rotl, Op::Rotr),
    (Op::Mul, Op::Add),
    (Op::Mul, Op::Umulhi),
    (Op::Umulhi, Op::Smulhi),
    (Op::Udiv, Op::Sdiv),
    (Op::Urem, Op::Srem),
    (Op::Udiv, Op::Urem),
    (Op::Sdiv, Op::Srem),
    (Op::Clz, Op::Ctz),
    (Op::Ctz, Op::Popcnt),
    (Op::Bswap, Op::Not),
    (Op::Eq, Op::Ne),
    (Op::Ult, Op::Ule),
    (Op::Slt, Op::Sle),
    (Op::Ult, Op::Slt),
    (Op::Zext, Op::Sext),
    (Op::Guard, Op::GuardNot),
    (Op::FlAdd, Op::FlSub),
    (Op::FlAdc, Op::FlSbb),
    (Op::FlInc, Op::FlDec),
    (Op::FlShl, Op::FlShr),
    (Op::FlShr, Op::FlSar),
    (Op::FlRol, Op::FlRor),
    (Op::Fadd64, Op::Fsub64),
    (Op::Fmul64, Op::Fdiv64),
    (Op::Fmin64, Op::Fmax64),
    (Op::Feq64, Op::Fle64),
    (Op::Flt64, Op::Fle64),
    (Op::Funo64, Op::Feq64),
    (Op::Ffloor64, Op::Fceil64),
    (Op::Ftrunc64, Op::Fnearest64),
    (Op::Fadd32, Op::Fsub32),
    (Op::Fmul32, Op::Fdiv32),
    (Op::Add8, Op::Add16),
    (Op::Add16, Op::Add32),
    (Op::Sub8, Op::Sub16),
    (Op::Sub16, Op::Sub32),
    (Op::Usubs8, Op::Usubs16),
    (Op::Eq8, Op::Eq16),
    (Op::Eq16, Op::Eq32),
    (Op::Sgt8, Op::Sgt16),
    (Op::Sgt16, Op::Sgt32),
    (Op::Zip8, Op::ZipHigh8),
    (Op::Zip16, Op::ZipHigh16),
    (Op::Zip8, Op::Zip16),
    (Op::PackS16, Op::PackU16),
    (Op::PackS16, Op::PackS32),
    (Op::Pdep, Op::Pext),
    (Op::Fma64, Op::Fms64),
    (Op::Fma64, Op::Fnma64),
    (Op::Fms64, Op::Fnms64),
    (Op::Fma32, Op::Fms32),
    (Op::Fma32, Op::Fnma32),
    (Op::Fms32, Op::Fnms32),
];

/// Operations whose operands have an order.
const ORDERED: &[Op] = &[
    Op::Sub,
    Op::Ult,
    Op::Ule,
    Op::Slt,
    Op::Sle,
    Op::Udiv,
    Op::FlSub,
    Op::Fadd64,
    Op::Fsub64,
    Op::Fmul64,
    Op::Fdiv64,
    Op::Fmin64,
    Op::Flt64,
    Op::FlF64,
    Op::Fadd32,
    Op::Fsub32,
    Op::Sub8,
    Op::Usubs8,
    Op::Sgt8,
    Op::Zip8,
    Op::PackU16,
    Op::Fma64,
    Op::Fma32,
    Op::Pdep,
    Op::Select,
];

/// Every kind of mistake.
pub fn kinds() -> Vec<Mutation> {
    let both = |&(a, b): &(Op, Op)| [Mutation::Replace(a, b), Mutation::Replace(b, a)];
    let mut all: Vec<Mutation> = NEIGHBOURS.iter().flat_map(both).collect();
    all.extend(ORDERED.iter().map(|&op| Mutation::Exchange(op)));
    all.extend([CF, PF, AF, ZF, SF, OF].map(Mutation::InvertFlag));
    all.extend([
        Mutation::DropExtension,
        Mutation::NarrowLoad,
        Mutation::NarrowStore,
        Mutation::DropStore,
        Mutation::NextByte,
        Mutation::DropIndex,
        Mutation::OtherScale,
        Mutation::NextConstant,
        Mutation::ComplementConstant,
        Mutation::ClearFlags,
        Mutation::ForgetSlot,
        Mutation::ExchangeSlots,
        Mutation::NextExit,
    ]);
    all
}

/// The number of places that `kind` may be tried at in a trace.
fn places(kind: Mutation, trace: &Trace) -> usize {
    match kind {
        Mutation::InvertFlag(_) | Mutation::ClearFlags | Mutation::NextExit => trace.exits.len(),
        Mutation::ForgetSlot | Mutation::ExchangeSlots => trace.exits.values().map(|exit| exit.slots.len()).sum(),
        _ => trace.insts.len(),
    }
}

/// Every well-formed trace with one mistake of this kind.
pub fn mutants(kind: Mutation, trace: &Trace) -> Vec<Trace> {
    (0..places(kind, trace))
        .filter_map(|place| {
            let mut mutant = trace.clone();
            apply(kind, &mut mutant, place)?;
            verify(&mutant).ok().map(|_| mutant)
        })
        .collect()
}

/// Makes the mistake at one place; `None` if it cannot be made there.
fn apply(kind: Mutation, trace: &mut Trace, place: usize) -> Option<()> {
    match kind {
        Mutation::InvertFlag(flag) => change_flags(trace, place, |trace, old| {
            let mask = trace.add_inst(Inst::constant(Type::I32, i64::from(flag)));
            let changed = trace.add_inst(Inst::binary(Op::Xor, Type::I32, old, mask));
            vec![mask, changed]
        }),
        Mutation::ClearFlags => {
            change_flags(trace, place, |trace, _| vec![trace.add_inst(Inst::constant(Type::I32, 0))])
        }
        Mutation::NextExit => {
            trace.exits[Exit::from_index(place)].pc += 1;
            Some(())
        }
        Mutation::ForgetSlot | Mutation::ExchangeSlots => {
            let (exit, at) = slot_place(trace, place)?;
            let slots = &mut trace.exits[exit].slots;
            if kind == Mutation::ForgetSlot {
                slots.remove(at);
            } else {
                let (first, second) = (slots[at], *slots.get(at + 1)?);
                (first.0.ty() == second.0.ty()).then_some(())?;
                slots[at].1 = second.1;
                slots[at + 1].1 = first.1;
            }
            Some(())
        }
        _ => change_inst(kind, trace, Value::from_index(place)),
    }
}

/// The exit and the index in its list of the slot number `place` of all exits.
fn slot_place(trace: &Trace, mut place: usize) -> Option<(Exit, usize)> {
    for (exit, data) in trace.exits.iter() {
        if place < data.slots.len() {
            return Some((exit, place));
        }
        place -= data.slots.len();
    }
    None
}

/// Puts instructions that `make` derives from the flags of exit number `place` at the end of the trace's only segment.
fn change_flags(trace: &mut Trace, place: usize, make: impl Fn(&mut Trace, Value) -> Vec<Value>) -> Option<()> {
    let exit = Exit::from_index(place);
    let entry = trace.entry?;
    (trace.segments[entry].terminator == Terminator::Leave(exit)).then_some(())?;
    let Some(ExitValue::Value(old)) = trace.exits[exit].get(Slot::FLAGS) else { return None };
    let made = make(trace, old);
    let last = *made.last()?;
    trace.segments[entry].insts.extend(made);
    trace.exits[exit].set(Slot::FLAGS, ExitValue::Value(last));
    Some(())
}

fn change_inst(kind: Mutation, trace: &mut Trace, value: Value) -> Option<()> {
    let mut inst = trace.insts[value];
    match kind {
        Mutation::Replace(from, to) => {
            (inst.op == from).then_some(())?;
            let operands: Vec<Type> = inst.operands().map(|operand| trace.ty(operand)).collect();
            let plain = matches!(to.format(), Format::Unary(_) | Format::Binary(_) | Format::Ternary(_));
            (!plain || typing::check(to, inst.ty, &operands).is_ok()).then_some(())?;
            inst.op = to;
        }
        Mutation::Exchange(op) => {
            (inst.op == op).then_some(())?;
            let first = usize::from(op == Op::Select);
            inst.args.swap(first, first + 1);
        }
        Mutation::DropExtension => {
            let inner = trace.insts.get(inst.args[0]).filter(|_| inst.op == Op::Zext)?;
            let source = inner.args[0];
            (inner.op == Op::Trunc && trace.ty(source) == inst.ty).then_some(())?;
            replace_uses(trace, value, source);
            return Some(());
        }
        Mutation::NextConstant | Mutation::ComplementConstant => {
            let old = inst.as_const()?;
            let new = if kind == Mutation::NextConstant { old.wrapping_add(1) } else { !old };
            inst = Inst::constant(inst.ty, new);
        }
        Mutation::DropStore => {
            (inst.op == Op::Store).then_some(())?;
            for segment in trace.segments.values_mut() {
                segment.insts.retain(|&other| other != value);
            }
        }
        Mutation::NarrowStore => {
            (inst.op == Op::Store).then_some(())?;
            let narrow = half(inst.ty)?;
            let cut = trace.add_inst(Inst::unary(Op::Trunc, narrow, inst.args[2]));
            let new = Inst::store(narrow, inst.address()?, cut);
            insert_before(trace, value, cut);
            inst = new;
        }
        Mutation::NarrowLoad => {
            (inst.op == Op::Load).then_some(())?;
            let narrow = half(inst.ty)?;
            let part = trace.add_inst(Inst::load(narrow, inst.address()?));
            insert_before(trace, value, part);
            inst = Inst::unary(Op::Zext, inst.ty, part);
            trace.set_recorded(value, None);
        }
        Mutation::NextByte | Mutation::DropIndex | Mutation::OtherScale => {
            let mut address = inst.address()?;
            if kind == Mutation::NextByte {
                address.offset = address.offset.checked_add(1)?;
            } else {
                address.index.is_some().then_some(())?;
                if kind == Mutation::DropIndex {
                    address.index = Value::NONE;
                    address.scale = 1;
                } else {
                    address.scale = if address.scale == 8 { 1 } else { address.scale * 2 };
                }
            }
            inst.set_address(address);
        }
        Mutation::InvertFlag(_)
        | Mutation::ClearFlags
        | Mutation::ForgetSlot
        | Mutation::ExchangeSlots
        | Mutation::NextExit => return None,
    }
    trace.insts[value] = inst;
    Some(())
}

/// The type of half the width.
fn half(ty: Type) -> Option<Type> {
    Some(match ty {
        Type::I16 => Type::I8,
        Type::I32 => Type::I16,
        Type::I64 => Type::I32,
        _ => return None,
    })
}

fn insert_before(trace: &mut Trace, value: Value, new: Value) {
    for segment in trace.segments.values_mut() {
        if let Some(at) = segment.insts.iter().position(|&other| other == value) {
            segment.insts.insert(at, new);
        }
    }
}

fn replace_uses(trace: &mut Trace, old: Value, new: Value) {
    let change = |value: Value| if value == old { new } else { value };
    for user in trace.insts.keys().collect::<Vec<_>>() {
        trace.insts[user].map_operands(change);
    }
    for exit in trace.exits.values_mut() {
        exit.map_values(change);
    }
}
