//! The recorder: executes the guest's own instructions one by one and writes down what they did.
//!
//! # What it follows
//! Code of the traced modules. Calls are followed into these; all other calls are *residual*: the recorder stops with
//! the complete state before the call in the context, the caller lets the guest make it, and the recording goes on when it
//! has returned. Calls of our own API are not made at all.
//!
//! # Invariants
//! - Whenever [`Recorder::run`] returns, the context is the exact state of the guest, which can go on at `rip`.
//! - Between two guest instructions nothing is allocated and no lock is held; what has to be looked up for the first time
//!   (a slot, a decision about a callee) is, with signals blocked.
//! - No frame of the recorder exists while a residual call runs.
//!
//! # Worked example
//! The loop `top: add eax, [rdi]; …; call redmagic_anchor_stub; …; jmp top` was entered at the return address of the
//! anchor call. The recorder executes up to that call again, sees its own id at its own site and at the same stack
//! height, logs it as an API call, and stops with [`Stop::Close`].

pub mod disassembly;
pub mod log;
pub mod places;
pub mod slots;
pub mod stop;

use crate::check::keeps;
use crate::context::Context;
use crate::functions::Api;
use crate::loops::{Loop, Named};
use crate::memory::{guest_load, guest_store};
use crate::regions::Kind as Region;
use crate::runtime::{Decision, Limits, Runtime};
use crate::stubs;
use log::{CheckLog, Entry, EntryKind};
use places::Places;
use redmagic_ir::{CallEffect, Slot};
use redmagic_lift::Convention;
use slots::{Condition, Kind, SlotInfo};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
pub use stop::{EndReason, GiveUp, Stop};

/// The flags that `sub dword [counter], 1` leaves when the counter was 0.
const BORROW_FLAGS: u64 = (redmagic_ir::CF | redmagic_ir::PF | redmagic_ir::AF | redmagic_ir::SF) as u64;

/// Where a recording began.
#[derive(Clone, Copy)]
pub enum Origin {
    /// At an anchor.
    Anchor(&'static Loop),
    /// At an exit of a unit.
    Exit {
        /// The unit.
        unit: u32,
        /// The exit.
        exit: u32,
    },
}

impl Origin {
    /// The loop, if it is one's anchor.
    pub fn anchor(&self) -> Option<&'static Loop> {
        match self {
            Origin::Anchor(own) => Some(own),
            Origin::Exit { .. } => None,
        }
    }

    /// Whether it is the same place.
    pub fn is_same(&self, other: &Origin) -> bool {
        match (self, other) {
            (Origin::Anchor(own), Origin::Anchor(other)) => own.number == other.number,
            (Origin::Exit { unit, exit }, Origin::Exit { unit: other_unit, exit: other_exit }) => {
                unit == other_unit && exit == other_exit
            }
            _ => false,
        }
    }
}

/// A residual call that is about to be made, or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingCall {
    /// The callee.
    pub target: u64,
    /// Where it returns to.
    pub return_address: u64,
    /// It begins a region.
    pub region: Option<Region>,
}

/// A function that the recording is in.
struct Frame {
    function: u64,
    /// Length of the log at its entry.
    start: usize,
    /// The target of its last conditional jump backwards, and how often in a row that was taken.
    back: (u64, u32),
}

/// A recording under way.
pub struct Recorder {
    /// Where it began.
    pub origin: Origin,
    /// The first instruction.
    pub start: u64,
    /// What was executed.
    pub log: Vec<Entry>,
    /// The longer log that checks need.
    pub check: Option<Box<CheckLog>>,
    /// The residual call that [`Stop::Call`] asks for.
    pub call: PendingCall,
    /// An anchor that ends the recording was met: it ends where that anchor's traces begin.
    ending: Option<(u64, Stop)>,
    /// It stops when it has recorded so many instructions, at most those that `log` has room for.
    pub limit: usize,
    /// How often a declaration had been taken back when it began.
    pub taken_back: u64,
    /// Keeps the loop that it is a recording of.
    _named: Option<Named>,
    start_rsp: u64,
    /// Branchable frames that were begun since, less those that were ended.
    depth: i32,
    frames: Vec<Frame>,
    /// The callee with the most instructions among those that have returned.
    longest: Option<(u64, usize)>,
    /// Anchors of other loops that were passed.
    passes: u32,
    /// What this thread's recordings know; taken from the thread and given back to it.
    pub places: Places,
}

/// Anchors other than its own that a recording may pass before the loops behind them are recorded first.
const MAX_PASSES: u32 = 2;
/// Recordings of a loop that are given up because they leave it.
const MAX_DETOURS: u32 = 4;
/// Iterations of a callee's own loop that are recorded.
const MAX_ITERATIONS: u32 = 16;

impl Recorder {
    /// Begins a recording at the context's rip. Allocates; signals must be blocked.
    pub fn new(context: &Context, origin: Origin, limits: &Limits, mut places: Places) -> Recorder {
        places.begin(limits.terms);
        let check = limits.check;
        Recorder {
            origin,
            start: context.rip,
            log: Vec::with_capacity(limits.instructions),
            check: check.then(|| Box::new(CheckLog::new(context, limits.instructions))),
            call: PendingCall { target: 0, return_address: 0, region: None },
            ending: None,
            limit: limits.instructions,
            taken_back: limits.taken_back,
            _named: origin.anchor().map(Loop::name),
            start_rsp: context.rsp(),
            depth: 0,
            frames: Vec::with_capacity(limits.depth),
            longest: None,
            passes: 0,
            places,
        }
    }

    /// The function to call residually in the future, when the recording was too long or too deep, or ran into a loop.
    pub fn culprit(&self) -> Option<u64> {
        if let Some(frame) = self.frames.last().filter(|frame| frame.back.1 >= MAX_ITERATIONS) {
            return Some(frame.function);
        }
        let total = self.log.len();
        let open = self.frames.iter().rev().find(|frame| (total - frame.start) * 2 > total);
        let finished = self.longest.filter(|(_, length)| length * 4 > total);
        open.map(|frame| frame.function).or(finished.map(|(function, _)| function))
    }

    /// Where the region begins that the recording waits for, if it waits for one.
    pub fn region(&self) -> Option<u64> {
        let EntryKind::Call { region: Some(_), return_address, .. } = self.log.last()?.kind else { return None };
        Some(return_address)
    }

    /// Goes on after a residual call or a region; the context holds what was left there, and says where that is.
    pub fn returned(&mut self, context: &Context) {
        if let Some(Entry { next, kind: EntryKind::Call { region: Some((_, end)), .. }, .. }) = self.log.last_mut() {
            (*next, *end) = (context.rip, context.rip);
        }
        let step = self.log.len().saturating_sub(1) as u32;
        if let Some(check) = &mut self.check {
            check.returned(step, context);
        }
    }

    /// Records until there is a reason to stop.
    pub fn run(&mut self, context: &mut Context, runtime: &'static Runtime) -> Stop {
        let mut slot = match self.find(context.rip, runtime) {
            Ok(slot) => slot,
            Err(stop) => return stop,
        };
        loop {
            if let Some((pc, stop)) = self.ending
                && pc == slot.pc
            {
                self.ending = None;
                return stop;
            }
            if self.log.len() == self.limit {
                return Stop::GiveUp(GiveUp::TooLong);
            }
            let result = match slot.kind {
                Kind::Plain(code) => {
                    self.plain(slot, code, context, runtime);
                    Ok(Flow::Next)
                }
                Kind::Branch { condition, target } => self.branch(slot, condition, target, context, runtime),
                Kind::Jump(target) => self.jump(slot, target, 0, context, runtime),
                Kind::JumpIndirect => {
                    let (target, address) = indirect_target(slot, context);
                    self.jump(slot, target, address, context, runtime)
                }
                Kind::Call(target) => self.call(slot, target, 0, context, runtime),
                Kind::CallIndirect => {
                    let (target, address) = indirect_target(slot, context);
                    self.call(slot, target, address, context, runtime)
                }
                Kind::Return(extra) => self.return_from(slot, extra, context),
                Kind::Refused(refusal) => Err(Stop::End(EndReason::Refused(refusal))),
            };
            let found = match result {
                Ok(Flow::Next) => {
                    context.rip = slot.next;
                    self.follow(slot, 0, context.rip, runtime)
                }
                Ok(Flow::Taken) => self.follow(slot, 1, context.rip, runtime),
                Ok(Flow::Elsewhere) => self.find(context.rip, runtime),
                Err(stop) => Err(stop),
            };
            match found {
                Ok(next) => slot = next,
                Err(stop) => return stop,
            }
        }
    }

    /// The slot at `pc`, which lies in a traced module.
    fn find(&mut self, pc: u64, runtime: &'static Runtime) -> Result<&'static SlotInfo, Stop> {
        if let Some(slot) = self.places.slot(pc) {
            return Ok(slot);
        }
        match self.decide(pc, runtime) {
            Decision::Outside | Decision::Residual { external: true, .. } => return Err(Stop::End(EndReason::Outside)),
            _ => {}
        }
        let slot = runtime.slot(pc).ok_or(Stop::GiveUp(GiveUp::NoMemory))?;
        self.places.learn_slot(pc, slot);
        Ok(slot)
    }

    /// The successor of a slot at `pc`; remembered in it, for slots live as long as the process.
    #[expect(unsafe_code, reason = "slots are leaked")]
    fn follow(
        &mut self,
        slot: &SlotInfo,
        which: usize,
        pc: u64,
        runtime: &'static Runtime,
    ) -> Result<&'static SlotInfo, Stop> {
        // SAFETY: slots are never freed and the pointer was published by a release store.
        if let Some(known) = unsafe { slot.successors[which].load(Acquire).as_ref() } {
            return Ok(known);
        }
        let found = self.find(pc, runtime)?;
        slot.successors[which].store(std::ptr::from_ref(found).cast_mut(), Release);
        Ok(found)
    }

    /// What to do at a call or jump to `target`.
    fn decide(&mut self, target: u64, runtime: &'static Runtime) -> Decision {
        if let Some(decision) = self.places.decision(target) {
            return decision;
        }
        let decision = runtime.decide(target, self.start);
        self.places.learn(target, decision);
        decision
    }

    fn push(&mut self, slot: &'static SlotInfo, next: u64, access: (u64, u64), kind: EntryKind) {
        self.log.push(Entry { slot, next, address: access.0, value: access.1, kind });
    }

    #[expect(unsafe_code, reason = "reads what the guest is about to access, or has just accessed")]
    fn plain(&mut self, slot: &'static SlotInfo, code: u64, context: &mut Context, runtime: &Runtime) {
        let step = self.log.len() as u32;
        let logged = slot.accesses.first().map(|access| (*access, access.address(context)));
        if let Some((access, address)) = logged
            && access.writes
            && runtime.words.is_counter(address)
        {
            // The countdown of an anchor macro: go on as if it had run out, so that the anchor is met.
            context.flags = BORROW_FLAGS;
            return self.push(slot, slot.next, (0, 0), EntryKind::Countdown);
        }
        let first = self.check.as_mut().map(|check| check.before(step, slot, context));
        let mut value = 0;
        if let Some((access, address)) = logged
            && access.reads
        {
            // SAFETY: the guest's instruction accesses these bytes unconditionally.
            value = unsafe { guest_load(address, access.size.min(8)) } as u64;
        }
        stubs::run_slot(context, code);
        if let Some((access, address)) = logged
            && !access.reads
        {
            // SAFETY: the guest's instruction has just written these bytes.
            value = unsafe { guest_load(address, access.size.min(8)) } as u64;
        }
        if let (Some(check), Some(first)) = (&mut self.check, first) {
            check.after(step, slot, context, first);
        }
        self.push(slot, slot.next, (logged.map_or(0, |logged| logged.1), value), EntryKind::Inst);
    }

    fn branch(
        &mut self,
        slot: &'static SlotInfo,
        condition: Condition,
        target: u64,
        context: &mut Context,
        runtime: &'static Runtime,
    ) -> Result<Flow, Stop> {
        if !holds(condition, context) {
            self.push(slot, slot.next, (0, 0), EntryKind::Inst);
            count_down(condition, context);
            return Ok(Flow::Next);
        }
        if target <= slot.pc && self.repeats(target) {
            return Err(Stop::GiveUp(GiveUp::NativeLoop));
        }
        let flow = self.jump(slot, target, 0, context, runtime)?;
        count_down(condition, context);
        Ok(flow)
    }

    /// Whether the innermost function is in a loop of its own that runs for long: then it is better called as it is, for
    /// its compiler knew more about it than a recording does.
    fn repeats(&mut self, target: u64) -> bool {
        let Some(frame) = self.frames.last_mut() else { return false };
        frame.back = if frame.back.0 == target { (target, frame.back.1 + 1) } else { (target, 1) };
        frame.back.1 >= MAX_ITERATIONS
    }

    /// A jump, which may be a call in the place of a return. `address` is where the target was loaded from, or 0.
    #[expect(unsafe_code, reason = "reads the return address, as the callee's return will")]
    fn jump(
        &mut self,
        slot: &'static SlotInfo,
        target: u64,
        address: u64,
        context: &mut Context,
        runtime: &'static Runtime,
    ) -> Result<Flow, Stop> {
        let decision = self.decide(target, runtime);
        match decision {
            Decision::Into => {
                self.note_reads(slot, address, context);
                self.push(slot, target, (address, target), EntryKind::Inst);
                context.rip = target;
                Ok(if address == 0 && !matches!(slot.kind, Kind::JumpIndirect) { Flow::Taken } else { Flow::Elsewhere })
            }
            Decision::Never => Err(Stop::End(EndReason::Never)),
            Decision::Outside => Err(Stop::End(EndReason::Outside)),
            Decision::Unresolved => Err(Stop::GiveUp(GiveUp::Unresolved)),
            Decision::Residual { .. } | Decision::Api(_) => {
                // SAFETY: a function that is entered by a jump returns to the address on top of the stack.
                let return_address = unsafe { guest_load(context.rsp(), 8) } as u64;
                let step = self.log.len() as u32;
                if let Some(check) = &mut self.check {
                    check.return_address(step, context.rsp(), return_address);
                }
                let callee = Callee { target, return_address, address, tail: true };
                self.leave_for(slot, decision, &callee, context, runtime)
            }
        }
    }

    #[expect(unsafe_code, reason = "pushes the return address, as the guest's call does")]
    fn call(
        &mut self,
        slot: &'static SlotInfo,
        target: u64,
        address: u64,
        context: &mut Context,
        runtime: &'static Runtime,
    ) -> Result<Flow, Stop> {
        let decision = match self.decide(target, runtime) {
            // A call comes back, wherever it goes.
            Decision::Outside => Decision::Residual { external: true, effect: CallEffect::Any },
            decision => decision,
        };
        match decision {
            Decision::Into => {
                if self.frames.len() == self.frames.capacity() {
                    return Err(Stop::GiveUp(GiveUp::TooDeep));
                }
                self.frames.push(Frame { function: target, start: self.log.len(), back: (0, 0) });
                let rsp = context.rsp().wrapping_sub(8);
                let step = self.log.len() as u32;
                let first = self.check.as_mut().map(|check| check.before(step, slot, context));
                // SAFETY: the guest's call writes these bytes.
                unsafe { guest_store(rsp, 8, u128::from(slot.next)) };
                if let (Some(check), Some(first)) = (&mut self.check, first) {
                    check.after(step, slot, context, first);
                }
                context.gpr[4] = rsp;
                let access = if address == 0 { (rsp, slot.next) } else { (address, target) };
                self.push(slot, target, access, EntryKind::Inst);
                context.rip = target;
                Ok(if matches!(slot.kind, Kind::Call(_)) { Flow::Taken } else { Flow::Elsewhere })
            }
            Decision::Never => Err(Stop::End(EndReason::Never)),
            Decision::Outside => Err(Stop::End(EndReason::Outside)),
            Decision::Unresolved => Err(Stop::GiveUp(GiveUp::Unresolved)),
            Decision::Residual { .. } | Decision::Api(_) => {
                let callee = Callee { target, return_address: slot.next, address, tail: false };
                self.leave_for(slot, decision, &callee, context, runtime)
            }
        }
    }

    /// Notes for checks that a branch has loaded its target from `address` (0 if it has not).
    fn note_reads(&mut self, slot: &SlotInfo, address: u64, context: &Context) {
        let step = self.log.len() as u32;
        if let Some(check) = self.check.as_mut().filter(|_| address != 0) {
            check.before_reads(step, slot, context);
        }
    }

    /// A call that is not followed: of the API, or residual.
    fn leave_for(
        &mut self,
        slot: &'static SlotInfo,
        decision: Decision,
        callee: &Callee,
        context: &mut Context,
        runtime: &'static Runtime,
    ) -> Result<Flow, Stop> {
        let &Callee { target, return_address, address, tail } = callee;
        match decision {
            Decision::Api(api) => self.api(slot, api, callee, context, runtime),
            Decision::Residual { external, effect } => {
                let kind = EntryKind::Call { target, return_address, tail, effect, external, region: None };
                self.note_reads(slot, address, context);
                self.push(slot, return_address, (address, target), kind);
                if tail {
                    context.gpr[4] = context.rsp().wrapping_add(8);
                }
                self.call = PendingCall { target, return_address, region: None };
                Err(Stop::Call)
            }
            Decision::Into | Decision::Never | Decision::Outside | Decision::Unresolved => {
                Err(Stop::End(EndReason::Outside))
            }
        }
    }

    /// A call of the API: elided, an end, or an anchor.
    fn api(
        &mut self,
        slot: &'static SlotInfo,
        api: Api,
        callee: &Callee,
        context: &mut Context,
        runtime: &'static Runtime,
    ) -> Result<Flow, Stop> {
        let &Callee { return_address, tail, address, target } = callee;
        let own_frame = self.depth == 0 && context.rsp() == self.start_rsp;
        let (convention, result) = match api {
            Api::Leave => return Err(Stop::End(EndReason::Leave)),
            // One that did not end where a recording could go on.
            Api::Region(kind) if runtime.is_odd_region(return_address) => match kind {
                Region::Disabled => return Err(Stop::End(EndReason::Leave)),
                Region::Merge => (Convention::Function, None),
            },
            Api::Region(kind) => return Err(self.begin_region(slot, kind, callee, context)),
            Api::FellThrough if own_frame && self.is_own(context.gpr[7]) => return Err(Stop::GiveUp(GiveUp::Over)),
            Api::EndFrame if self.depth == 0 && matches!(self.origin, Origin::Anchor(_)) => {
                return Err(Stop::GiveUp(GiveUp::Over));
            }
            Api::BeginFrame | Api::EndFrame => {
                self.depth += if api == Api::BeginFrame { 1 } else { -1 };
                (Convention::Function, None)
            }
            Api::AnchorStub => (Convention::Macro, None),
            Api::BackwardsBranch | Api::FellThrough | Api::Nothing => (Convention::Function, None),
            Api::IsTraced => (Convention::Function, Some(1)),
        };
        let id = match api {
            Api::AnchorStub => context.gpr[0],
            Api::BackwardsBranch => context.gpr[7],
            _ => 0,
        };
        let access = if address == 0 { (0, 0) } else { (address, target) };
        self.push(slot, return_address, access, EntryKind::Api { return_address, convention, result });
        if tail {
            context.gpr[4] = context.rsp().wrapping_add(8);
        }
        // Vector registers that the call does not keep read as 0 in the trace, so they are 0 here: the guest may store them
        // without looking at them, as a function with variable arguments does, and checks compare memory.
        let ended = |slot: &Slot| slot.as_xmm().is_some() && self.log.last().is_some_and(|entry| !keeps(entry, *slot));
        Slot::all().filter(ended).for_each(|slot| context.set_slot(slot, 0));
        if let Some(result) = result {
            context.gpr[0] = result;
        }
        context.rip = return_address;
        if id != 0 {
            self.anchor(id, return_address, context, runtime)?;
        }
        Ok(Flow::Elsewhere)
    }

    /// Whether the recording is one of loop `id`.
    fn is_own(&self, id: u64) -> bool {
        matches!(self.origin, Origin::Anchor(own) if own.id == id)
    }

    /// A region that the guest runs in its own code. Where it ends shows when it does.
    fn begin_region(&mut self, slot: &'static SlotInfo, kind: Region, callee: &Callee, context: &mut Context) -> Stop {
        let &Callee { target, return_address, address, tail } = callee;
        self.note_reads(slot, address, context);
        let (effect, region) = (CallEffect::Any, Some((kind, 0)));
        let call = EntryKind::Call { target, return_address, tail, effect, external: false, region };
        self.push(slot, return_address, (address, target), call);
        if tail {
            context.gpr[4] = context.rsp().wrapping_add(8);
        }
        // As the lifter has it: a function without arguments, and a region that knows the frames.
        context.gpr[7] = context.rsp();
        self.call = PendingCall { target, return_address, region: Some(kind) };
        Stop::Call
    }

    /// An anchor: the recording's own, or another.
    fn anchor(&mut self, id: u64, site: u64, context: &Context, runtime: &Runtime) -> Result<(), Stop> {
        let known = runtime.loops.find(id, site);
        if let Origin::Anchor(own) = self.origin
            && own.id == id
        {
            if own.site != site {
                // Compilers duplicate the anchor's code: go on until its own place comes again, unless the loop goes
                // round without it.
                return self.pass();
            }
            if self.depth == 0 && self.start_rsp == context.rsp().wrapping_add(own.landing.stack) {
                self.ending = Some((own.start(), Stop::Close));
                return Ok(());
            }
        }
        match known {
            Some(other) if other.function.load(Acquire) != 0 => {
                self.ending = Some((other.start(), Stop::Anchor(other)));
                Ok(())
            }
            Some(other) if other.disabled.load(Acquire) => {
                self.keep_argument();
                Ok(())
            }
            _ => {
                if !matches!(self.origin, Origin::Anchor(own) if own.id == id) {
                    self.leave_loop()?;
                }
                self.pass()
            }
        }
    }

    /// The recording goes on behind the anchor that was logged last: if it was a macro, with its argument in rax.
    fn keep_argument(&mut self) {
        if let Some(Entry { kind: EntryKind::Api { convention: convention @ Convention::Macro, .. }, .. }) =
            self.log.last_mut()
        {
            *convention = Convention::PassedMacro;
        }
    }

    /// The iteration that is recorded is one of many, perhaps the last: while its loop has not often been left, it is better
    /// to record another one.
    fn leave_loop(&self) -> Result<(), Stop> {
        match self.origin {
            Origin::Anchor(own) if own.detours.load(Relaxed) < MAX_DETOURS => Err(Stop::GiveUp(GiveUp::Detour)),
            Origin::Anchor(_) | Origin::Exit { .. } => Ok(()),
        }
    }

    /// Goes on past an anchor where the recording does not end.
    fn pass(&mut self) -> Result<(), Stop> {
        if self.passes == MAX_PASSES {
            return Err(Stop::GiveUp(GiveUp::InnerLoop));
        }
        self.passes += 1;
        self.keep_argument();
        Ok(())
    }

    #[expect(unsafe_code, reason = "reads the return address, as the guest's return does")]
    fn return_from(&mut self, slot: &'static SlotInfo, extra: u16, context: &mut Context) -> Result<Flow, Stop> {
        if self.frames.is_empty() {
            self.leave_loop()?;
        }
        let rsp = context.rsp();
        let step = self.log.len() as u32;
        let first = self.check.as_mut().map(|check| check.before(step, slot, context));
        // SAFETY: the guest's return reads these bytes.
        let target = unsafe { guest_load(rsp, 8) } as u64;
        if let (Some(check), Some(first)) = (&mut self.check, first) {
            check.after(step, slot, context, first);
        }
        context.gpr[4] = rsp.wrapping_add(8 + u64::from(extra));
        self.push(slot, target, (rsp, target), EntryKind::Inst);
        context.rip = target;
        if let Some(frame) = self.frames.pop() {
            let length = self.log.len() - frame.start;
            if self.longest.is_none_or(|(_, longest)| longest < length) {
                self.longest = Some((frame.function, length));
            }
        }
        Ok(Flow::Elsewhere)
    }
}

/// How the recording goes on.
enum Flow {
    /// At the next instruction.
    Next,
    /// At the fixed target of this one.
    Taken,
    /// Somewhere that depends on the state.
    Elsewhere,
}

/// The callee of a call that is not followed.
struct Callee {
    target: u64,
    return_address: u64,
    /// Where the target was loaded from, or 0.
    address: u64,
    tail: bool,
}

/// The target of an indirect jump or call, and where it was loaded from, or 0.
#[expect(unsafe_code, reason = "reads what the guest is about to read")]
fn indirect_target(slot: &SlotInfo, context: &Context) -> (u64, u64) {
    let register = slot.instruction.op0_register();
    if register.is_gpr() {
        return (context.gpr[register.full_register().number()], 0);
    }
    let address = slot.accesses.iter().find(|access| access.reads).map_or(0, |access| access.address(context));
    // SAFETY: the guest's instruction loads its target from here.
    (unsafe { guest_load(address, 8) } as u64, address)
}

fn counter(narrow: bool, context: &Context) -> u64 {
    let rcx = context.slot(Slot::RCX);
    if narrow { rcx & 0xffff_ffff } else { rcx }
}

/// Whether a conditional jump is taken.
fn holds(condition: Condition, context: &Context) -> bool {
    match condition {
        Condition::Flags(cond) => cond.holds(context.flags as u32),
        Condition::Zero { narrow } => counter(narrow, context) == 0,
        Condition::Loop { narrow, also } => {
            counter(narrow, context) != 1 && also.is_none_or(|cond| cond.holds(context.flags as u32))
        }
    }
}

/// What the loop instructions do to their counter.
fn count_down(condition: Condition, context: &mut Context) {
    if let Condition::Loop { narrow, .. } = condition {
        let count = context.slot(Slot::RCX).wrapping_sub(1);
        context.set_slot(Slot::RCX, if narrow { count & 0xffff_ffff } else { count });
    }
}
