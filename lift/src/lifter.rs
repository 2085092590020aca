//! The driver: one pass over the events of a recording.
//!
//! # Invariants
//! - Before each event the lifter's state is the guest's state at the event's address, and `step` is the number of
//!   events before it.
//! - A rule that guards with an exit at its own instruction does so before it changes the state or memory.
//!
//! Worked example: for `End::Loop` the entry segment gets only slot reads and a jump; lifting goes on in the header
//! and, behind each residual call, in the segment that the call resumes. `state.rs` describes how the header gets its
//! parameters.

use crate::branch::ResidualCall;
use crate::cover::{Handler, handler, is_vector};
use crate::fastmap::FastMap;
use crate::flags::{BORROW_FLAGS, Flags, Kind};
use crate::lanes::signs;
use crate::liveness::Liveness;
use crate::locked::Lock;
use crate::recording::{Code, End, Event, Recording};
use crate::refuse::Refusal;
use crate::resume::Declared;
use crate::state::{Held, SlotSet};
use iced_x86::{EncodingKind, Instruction, InstructionInfoFactory};
use redmagic_ir::{Exit, ExitKind, Inst, Opcode, Segment, Slot, Trace, Type, Value};

/// A lifted recording.
#[derive(Clone, Debug)]
pub struct Lifted {
    /// The trace.
    pub trace: Trace,
    /// Recorded instructions that became native operations.
    pub natives: u32,
}

/// What the recorder saw at the current event's memory access; address 0 if it made none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub address: u64,
    pub value: u64,
}

/// The state of lifting.
pub(crate) struct Lifter<'a> {
    pub trace: Trace,
    pub code: &'a dyn Code,
    /// Where instructions are appended.
    pub segment: Segment,
    /// Where the epoch's slot reads go.
    pub base: Segment,
    /// The loop's header, if the recording is a loop.
    pub header: Option<Segment>,
    /// Where the current values of the slots are (of the flags, `flags` says that).
    pub slots: [Held; Slot::COUNT],
    /// The slots for which the context may hold something else.
    pub dirty: SlotSet,
    pub flags: Flags,
    /// The epoch's slot reads.
    pub reads: [Option<Value>; Slot::COUNT],
    /// The first epoch's slot reads, once it has ended.
    pub first_reads: [Option<Value>; Slot::COUNT],
    /// The number of exits that the first epoch has made, once it has ended.
    pub first_epoch_exits: Option<usize>,
    /// Slots whose place in the context a native operation of this epoch has overwritten.
    pub overwritten: [bool; Slot::COUNT],
    pub constants: FastMap<(Type, i64), Value>,
    /// The exits that the current event has made.
    pub shared_exits: Vec<Exit>,
    pub liveness: Liveness,
    /// Memory in which loads get resume exits.
    pub declared: Declared,
    pub info: InstructionInfoFactory,
    /// The number of the current event.
    pub step: u32,
    /// The address of the current event.
    pub pc: u64,
    pub seen: Seen,
    /// The current event has changed neither the state nor memory yet.
    pub untouched: bool,
    pub natives: u32,
    /// The atomic instruction that is being lifted, if it is one.
    pub lock: Option<Lock>,
    /// The half of a ymm register that vector rules work on: 0 or 1.
    pub half: u8,
    /// Whether upper halves of ymm registers are slots in this trace.
    pub upper: bool,
}

/// Lifts a recording to a trace.
pub fn lift(recording: &Recording, code: &dyn Code) -> Result<Lifted, Refusal> {
    if recording.events.is_empty() {
        return Err(Refusal::Empty);
    }
    let mut trace = Trace::new(recording.name.clone());
    trace.start = recording.start;
    trace.regions = recording.regions.clone();
    // Most recordings become about so many operations.
    trace.insts.reserve(2 * recording.events.len() + 16);
    let entry = trace.add_segment();
    trace.entry = Some(entry);
    let header = (recording.end == End::Loop).then(|| trace.add_segment());
    let mut lifter = Lifter {
        trace,
        code,
        segment: header.unwrap_or(entry),
        base: header.unwrap_or(entry),
        header,
        slots: [Held::Context; Slot::COUNT],
        dirty: SlotSet::default(),
        flags: Flags::new(Kind::Context),
        reads: [None; Slot::COUNT],
        first_reads: [None; Slot::COUNT],
        first_epoch_exits: None,
        overwritten: [false; Slot::COUNT],
        constants: FastMap::default(),
        shared_exits: Vec::new(),
        liveness: Liveness::default(),
        declared: Declared::new(&recording.regions),
        info: InstructionInfoFactory::new(),
        step: 0,
        pc: recording.start,
        seen: Seen::default(),
        untouched: true,
        natives: 0,
        lock: None,
        half: 0,
        upper: !recording.events.iter().any(Event::is_beyond_slots),
    };
    if let (Some(meter), Some(_)) = (recording.meter, header) {
        lifter.count_down(meter);
    }
    let mut pc = recording.start;
    for event in &recording.events {
        pc = lifter.event(event, pc)?;
        lifter.step += 1;
    }
    lifter.pc = pc;
    match (recording.end, header) {
        (End::Exit { pc }, _) => lifter.leave(pc, ExitKind::Guest),
        (End::Anchor { pc, id }, _) => lifter.leave(pc, ExitKind::Anchor(id)),
        (End::Loop, Some(header)) if pc == recording.start => lifter.close_loop(entry, header),
        (End::Loop, _) => return Err(Refusal::Inconsistent { pc }),
    }
    Ok(Lifted { trace: lifter.trace, natives: lifter.natives })
}

impl Lifter<'_> {
    /// Counts down the meter of a loop at its start.
    fn count_down(&mut self, meter: u64) {
        let left = self.emit(Inst::tick(meter));
        let zero = self.constant(Type::I64, 0);
        let over = self.emit(Inst::binary(Opcode::Slt, Type::I1, left, zero));
        let state = self.exit_data(self.pc, 0, ExitKind::Meter);
        let exit = self.trace.exits.push(state);
        self.emit(Inst::guard(false, over, exit));
    }

    /// Lifts one event that is expected at `pc`; returns the address of the next.
    fn event(&mut self, event: &Event, pc: u64) -> Result<u64, Refusal> {
        let (Event::Inst { inst, .. }
        | Event::Countdown { inst, .. }
        | Event::Call { inst, .. }
        | Event::Region { inst, .. }
        | Event::Api { inst, .. }) = event;
        self.pc = inst.ip();
        if self.pc != pc {
            return Err(Refusal::Inconsistent { pc: self.pc });
        }
        self.seen = Seen::default();
        self.untouched = true;
        self.shared_exits.clear();
        match *event {
            Event::Inst { ref inst, next, address, value } => {
                self.seen = Seen { address, value };
                self.instruction(inst, next)?;
                Ok(next)
            }
            Event::Countdown { next, .. } => {
                let flags = self.constant(Type::I32, i64::from(BORROW_FLAGS));
                self.set_flags(Kind::Packed(flags));
                Ok(next)
            }
            Event::Call { ref inst, target, return_address, tail, effect, guard_target, external } => {
                let call = ResidualCall { target, return_address, tail, effect, guard_target, external, end: None };
                self.residual_call(inst, &call)?;
                Ok(return_address)
            }
            Event::Region { ref inst, target, return_address, tail, end } => {
                let (effect, end) = (redmagic_ir::CallEffect::Any, Some(end));
                let call =
                    ResidualCall { target, return_address, tail, effect, guard_target: true, external: false, end };
                self.residual_call(inst, &call)?;
                Ok(end.unwrap_or(return_address))
            }
            Event::Api { ref inst, return_address, convention, result } => {
                self.elided_call(inst, return_address, convention, result);
                Ok(return_address)
            }
        }
    }

    /// Lifts an executed instruction.
    fn instruction(&mut self, inst: &Instruction, next: u64) -> Result<(), Refusal> {
        let rule = handler(inst);
        match rule {
            Handler::Call => return self.call_into(inst, next),
            Handler::Jmp => return self.jump(inst, next),
            Handler::Jcc(cond) => return self.jump_if(inst, cond, next),
            Handler::Counted(count) => return self.counted_jump(inst, count, next),
            Handler::Ret => {
                self.return_to(inst, next);
                return Ok(());
            }
            Handler::Refused(reason) => return Err(reason),
            // A repeated string instruction may have been recorded one round at a time.
            _ if next != inst.next_ip() => return Err(Refusal::Inconsistent { pc: self.pc }),
            Handler::Native => return self.native(inst),
            Handler::Locked => return self.locked(inst),
            _ if inst.encoding() == EncodingKind::VEX && is_vector(rule, inst) => {
                return if self.upper { self.wide_instruction(inst, rule) } else { self.native(inst) };
            }
            Handler::Repeated { stores } => return self.repeated(inst, stores),
            Handler::RepeatedComparison { scans } => return self.repeated_comparison(inst, scans),
            _ => {}
        }
        self.straight(inst, rule);
        Ok(())
    }

    /// Lifts an instruction that goes on to the next one. One arm per rule of the coverage table.
    pub(crate) fn straight(&mut self, inst: &Instruction, rule: Handler) {
        match rule {
            Handler::Nothing => {}
            Handler::Mov => self.mov(inst),
            Handler::Extend { signed } => self.extended_move(inst, signed),
            Handler::Lea => self.lea(inst),
            Handler::Alu(op) => self.alu(inst, op),
            Handler::One(op) => self.one_operand(inst, op),
            Handler::WidenAccumulator => self.widen_accumulator(inst),
            Handler::SignAccumulator => self.sign_accumulator(inst),
            Handler::Set(cond) => self.set_on_condition(inst, cond),
            Handler::Cmov(cond) => self.move_on_condition(inst, cond),
            Handler::Xchg => self.exchange(inst),
            Handler::ExchangeAdd => self.exchange_add(inst),
            Handler::CompareExchange => self.compare_exchange(inst),
            Handler::Bswap => self.swap_bytes(inst),
            Handler::SwappedMove => self.swapped_move(inst),
            Handler::BitTest(change) => self.bit_test(inst, change),
            Handler::BitCount(count) => self.bit_count(inst, count),
            Handler::Flags(change) => self.move_flags(change),
            Handler::Shift(op) => self.shift(inst, op),
            Handler::Rotate(op) => self.rotate(inst, op),
            Handler::DoubleShift { left } => self.double_shift(inst, left),
            Handler::RotateThroughCarry { left } => self.rotate_through_carry(inst, left),
            Handler::PlainShift(op) => self.plain_shift(inst, op),
            Handler::AndNot => self.and_not(inst),
            Handler::Scatter(op) => self.scatter(inst, op),
            Handler::LowestBit(change) => self.lowest_bit(inst, change),
            Handler::ClearHigh => self.clear_high(inst),
            Handler::ExtractBits => self.extract_bits(inst),
            Handler::ProductHalves => self.product_halves(inst),
            Handler::Product => self.product(inst),
            Handler::WideProduct { signed } => self.wide_product(inst, signed),
            Handler::Divide { signed } => self.divide(inst, signed),
            Handler::Push => self.push(inst),
            Handler::Pop => self.pop(inst),
            Handler::Leave => self.leave_frame(),
            Handler::Movs => self.move_string(inst),
            Handler::Stos => self.store_string(inst),
            Handler::Lods => self.load_string(inst),
            Handler::Cmps => self.compare_strings(inst),
            Handler::Scas => self.scan_string(inst),
            Handler::Full => self.move_full(inst),
            Handler::Scalar64 => self.move_scalar(inst, Type::I64),
            Handler::Scalar32 => self.move_scalar(inst, Type::I32),
            Handler::Clearing => self.move_clearing(inst),
            Handler::Lane(lane) => self.move_lane(inst, lane),
            Handler::HighToLow => self.copy_lane(inst, 1, 0),
            Handler::LowToHigh => self.copy_lane(inst, 0, 1),
            Handler::Duplicate => self.duplicate(inst),
            Handler::SignMask => self.sign_mask(inst),
            Handler::PartSignMask => self.sign_mask_of_parts(inst),
            Handler::ByteMask => self.byte_mask(inst),
            Handler::VectorLogic(op) => self.vector_logic(inst, op),
            Handler::Lanes(op) => self.lanes(inst, op),
            Handler::LaneShift { op, bits } => self.lane_shift(inst, op, bits),
            Handler::Absolute(bits) => self.absolute(inst, bits),
            Handler::Pack(op) => self.pack_lanes(inst, op),
            Handler::PackDoublewords => self.pack_doublewords(inst),
            Handler::Unpack { bits, high } => self.unpack(inst, bits, high),
            Handler::WidenLanes { from, to, signed } => self.widened_lanes(inst, from, to, signed),
            Handler::Unpack64 { high } => self.unpack64(inst, high),
            Handler::Unpack32 { high } => self.unpack32(inst, high),
            Handler::DuplicateParts { odd } => self.duplicate_parts(inst, odd),
            Handler::Shufpd => self.shuffle64(inst),
            Handler::Shufps => self.shuffle_two(inst),
            Handler::Pshufd => self.shuffle_one(inst),
            Handler::ShuffleBytes => self.shuffle_bytes(inst),
            Handler::ShuffleWords { high } => self.shuffle_words(inst, high),
            Handler::AlignBytes => self.align_bytes(inst),
            Handler::ByteShift { left } => self.byte_shift(inst, left),
            Handler::PermuteParts => self.permute_parts(inst),
            Handler::PermuteDoubles => self.permute_doubles(inst),
            Handler::PermuteDoublesBy => self.permute_doubles_by(inst),
            Handler::PermuteEight => self.permute_eight(inst),
            Handler::LaneShiftBy { op, bits } => self.lane_shift_by(inst, op, bits),
            Handler::HorizontalLanes(op) => self.horizontal_lanes(inst, op),
            Handler::Blend(bits) => self.blend(inst, bits),
            Handler::BlendBy(bits) => self.blend_by(inst, bits),
            Handler::InsertLane(bits) => self.insert_lane(inst, bits),
            Handler::ExtractLane(bits) => self.extract_lane(inst, bits),
            Handler::InsertPart => self.insert_part(inst),
            Handler::TestBits => self.test_bits(inst, -1),
            Handler::TestSigns(bits) => self.test_bits(inst, signs(bits)),
            Handler::Float(op) => self.float(inst, op),
            Handler::PackedFloat(op) => self.each_lane(inst, op),
            Handler::Horizontal(op) => self.horizontal(inst, op),
            Handler::HorizontalSingles(op) => self.horizontal_singles(inst, op),
            Handler::DifferenceAndSum => self.difference_and_sum(inst),
            Handler::DifferencesAndSums => self.differences_and_sums(inst),
            Handler::Sqrt => self.square_root(inst),
            Handler::PackedSqrt => self.packed_square_root(inst),
            Handler::FloatFlags => self.float_flags(inst),
            Handler::FloatMask => self.float_mask(inst),
            Handler::PackedFloatMask => self.packed_float_mask(inst),
            Handler::Single(op) => self.single(inst, op),
            Handler::PackedSingle(op) => self.packed_single(inst, op),
            Handler::SingleSqrt => self.single_root(inst),
            Handler::PackedSingleSqrt => self.packed_single_root(inst),
            Handler::SingleFlags => self.single_flags(inst),
            Handler::SingleMask => self.single_mask(inst),
            Handler::PackedSingleMask => self.packed_single_mask(inst),
            Handler::FromInt { single } => self.int_to_float(inst, single),
            Handler::ToInt { single, rounded } => self.float_to_int(inst, single, rounded),
            Handler::SingleToDouble => self.single_to_double(inst),
            Handler::DoubleToSingle => self.double_to_single(inst),
            Handler::WidenLow(op) => self.widening_conversion(inst, op),
            Handler::NarrowBoth { op, rounded } => self.narrowing_conversion(inst, op, rounded),
            Handler::PackedIntToSingle => self.packed_int_to_single(inst),
            Handler::PackedSingleToInt { rounded } => self.packed_single_to_int(inst, rounded),
            Handler::RoundDouble => self.round_double(inst),
            Handler::RoundSingle => self.round_single(inst),
            Handler::RoundDoubles => self.round_doubles(inst),
            Handler::RoundSingles => self.round_singles(inst),
            Handler::ClearUpper { all } => self.clear_upper(all),
            Handler::Broadcast(bits) => self.broadcast(inst, bits),
            Handler::BroadcastHalf => self.broadcast_half(inst),
            Handler::ExtractHalf => self.extract_half(inst),
            Handler::InsertHalf => self.insert_half(inst),
            Handler::PermuteHalves => self.permute_halves(inst),
            Handler::PermuteQuadwords => self.permute_quadwords(inst),
            Handler::Fused(fused) => self.fused(inst, fused),
            Handler::CompareExchangeWide => self.compare_exchange_wide(inst),
            Handler::CompareExchangePair => self.compare_exchange_pair(inst),
            // Done above.
            Handler::Call
            | Handler::Ret
            | Handler::Jmp
            | Handler::Jcc(_)
            | Handler::Counted(_)
            | Handler::Repeated { .. }
            | Handler::RepeatedComparison { .. }
            | Handler::Native
            | Handler::Locked
            | Handler::Refused(_) => {}
        }
    }
}
