//! The library's state: loops, units, options, what is known of the guest's code.
//!
//! # Invariants
//! - There is one [`Runtime`] per process, made by the first `redmagic_start` and never freed.
//! - What anchors need on every pass is reached without a lock; everything else is behind [`Runtime::lock`], which blocks
//!   signals while it is held and survives a fork.
//! - An exit record's `next` and a loop's `function` always lead to code that may be executed.
//!
//! # Counters
//! The header's macros count an anchor down in a table that is shared by the hash of its id. Below zero, the library
//! looks at the loop and puts the counter up again, unless a loop with a trace shares it: then it is *pinned*, and
//! every pass comes here, where finding the trace takes a few nanoseconds.

use crate::ballot::Ballots;
use crate::compile::{Compiled, Failure};
use crate::declared::Declared;
use crate::forks;
use crate::functions::{Functions, Treatment};
use crate::judge::Docket;
use crate::log;
use crate::loops::{Loop, Loops};
use crate::memory::{Arena, SignalsBlocked};
use crate::modules::Modules;
use crate::options::{Check, OptionError, Options};
use crate::pieces::{self, Counts, VectorState};
use crate::reclaim::Reclaim;
use crate::recorder::Origin;
use crate::recorder::places::Terms;
use crate::recorder::slots::{self, Kind, SlotInfo};
use crate::records;
use crate::rest::Rests;
use crate::stats::{self, COUNTERS};
use crate::stubs;
use crate::unit::{Unit, Units};
use crate::words::{COUNTER_COUNT, Words, bucket};
use redmagic_backend::Backend;
use redmagic_ir::CallEffect;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::{Deref, DerefMut};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed, Ordering::Release};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

pub use crate::calls::on_refill;
pub use crate::entry::{add_entries, on_anchor, on_exit, on_foreign_thread, on_odd_entry, on_stray_return};
pub use crate::functions::Api;

/// Address space for code. Only what is used costs memory.
const ARENA_BYTES: usize = 256 << 20;

static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// What to do at a call or jump of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Follow it.
    Into,
    /// Let the guest call it.
    Residual {
        /// It is in another module.
        external: bool,
        /// What it may do.
        effect: CallEffect,
    },
    /// End the recording before it.
    Never,
    /// It is code that belongs to no module.
    Outside,
    /// It is a linkage stub whose function is not known yet.
    Unresolved,
    /// It is one of our own functions.
    Api(Api),
}

/// Limits of recordings.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Instructions.
    pub instructions: usize,
    /// Calls it may be deep in.
    pub depth: usize,
    /// Whether what a check needs is logged.
    pub check: bool,
    /// How often a declaration was taken back so far.
    pub taken_back: u64,
    /// What recordings know of places holds on these terms.
    pub terms: Terms,
}

/// The state of the library.
pub struct Runtime {
    /// All loops.
    pub loops: Loops,
    /// What the macros share.
    pub words: Words,
    hot_loop: AtomicU32,
    hot_exit: AtomicU32,
    /// By counter: how many loops with traces share it.
    pinned: Box<[AtomicU32]>,
    shared: Mutex<Shared>,
}

/// What is behind the lock.
pub struct Shared {
    /// Options.
    pub options: Options,
    /// Modules of the process.
    pub modules: Modules,
    /// How functions are treated.
    pub functions: Functions,
    /// Counts what was said about functions, and changes of options.
    epoch: u64,
    /// Machine code.
    pub arena: Arena,
    /// All traces.
    pub units: Units,
    /// What was dropped and is not yet given back.
    pub reclaim: Reclaim,
    /// Compiled traces that are tried out when their origin is reached again, and used only then.
    pub untried: Vec<Compiled>,
    /// What the host has declared immutable.
    pub declared: Declared,
    backend: Option<Backend>,
    slots: HashMap<u64, &'static SlotInfo>,
    leave_pieces: HashMap<u64, u64>,
    /// Makes the residual calls of recordings.
    pub call_piece: u64,
    /// Leaves where the context says, when no other piece can be made.
    last_resort: u64,
    /// Where regions begin that did not end where they should.
    odd_regions: HashSet<u64>,
    /// Loop ids that are never traced.
    disabled: HashSet<u64>,
    /// What traces have saved, by trials, in nanoseconds.
    pub saved: u64,
    /// What it took to compile traces that were too slow, in nanoseconds.
    pub wasted: u64,
    /// What is known of the loops' times.
    pub docket: Docket,
    /// The paths that loops were recorded on.
    pub ballots: Ballots,
    /// When anchors rest, and how long.
    pub rests: Rests,
    reasons: BTreeMap<String, u64>,
}

/// The lock on [`Shared`], with signals blocked while it is held.
pub struct Locked {
    // Dropped in this order: unlocked before signals come.
    guard: MutexGuard<'static, Shared>,
    _blocked: SignalsBlocked,
}

impl Deref for Locked {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.guard
    }
}

impl DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut Shared {
        &mut self.guard
    }
}

/// The runtime, if the library was started and could be.
pub fn get() -> Option<&'static Runtime> {
    RUNTIME.get()
}

/// Starts the library with the options of the environment. Returns the runtime unless it is off or cannot be.
pub fn start() -> Option<&'static Runtime> {
    let _blocked = SignalsBlocked::new();
    if let Some(runtime) = RUNTIME.get() {
        return Some(runtime);
    }
    let (options, errors) = Options::from_environment();
    if !options.enabled || !std::is_x86_feature_detected!("sse4.1") {
        return None;
    }
    let report = |error: &OptionError| log::line(options.log_path.as_deref(), &error.to_string());
    errors.iter().filter(|_| options.log_level > 0).for_each(report);
    let runtime = Runtime::new(options)?;
    // A second thread may have been faster; then its runtime is the one, and this one has not been seen by anybody.
    let runtime = RUNTIME.get_or_init(|| runtime);
    runtime.go();
    Some(runtime)
}

impl Runtime {
    fn new(options: Options) -> Option<Runtime> {
        stubs::detect_vectors();
        let mut arena = Arena::new(ARENA_BYTES)?;
        let last_resort = arena.add(&pieces::leave_dynamic(VectorState::All), 16)?.address;
        let function = crate::entry::recorder_returned as *const () as u64;
        let call = pieces::call(&pieces::unchanged(), function, crate::exits::NO_UNIT, VectorState::All, true);
        let call_piece = arena.add(&call, 16)?.address;
        let mut functions = Functions::new();
        crate::capi::declare_functions(&mut functions);
        Some(Runtime {
            loops: Loops::new(),
            words: Words::of_process(),
            hot_loop: AtomicU32::new(options.hot_loop),
            hot_exit: AtomicU32::new(options.hot_exit),
            pinned: (0..COUNTER_COUNT).map(|_| AtomicU32::new(0)).collect(),
            shared: Mutex::new(Shared {
                options,
                modules: Modules::new(),
                functions,
                epoch: 0,
                arena,
                units: Units::default(),
                reclaim: Reclaim::default(),
                untried: Vec::new(),
                declared: Declared::default(),
                backend: None,
                slots: HashMap::new(),
                leave_pieces: HashMap::new(),
                call_piece,
                last_resort,
                odd_regions: HashSet::new(),
                disabled: HashSet::new(),
                saved: 0,
                wasted: 0,
                docket: Docket::default(),
                ballots: Ballots::default(),
                rests: Rests::default(),
                reasons: BTreeMap::new(),
            }),
        })
    }

    /// Begins to watch.
    #[expect(unsafe_code, reason = "registers fork handlers")]
    fn go(&'static self) {
        self.reset_counters();
        // SAFETY: the handlers live as long as the process.
        unsafe { libc::pthread_atfork(Some(forks::before), Some(forks::after_in_parent), Some(forks::after_in_child)) };
        self.words.set_active(true);
    }

    /// Takes the lock.
    pub fn lock(&'static self) -> Locked {
        let blocked = SignalsBlocked::new();
        Locked { guard: self.shared.lock().unwrap_or_else(PoisonError::into_inner), _blocked: blocked }
    }

    /// Sets an option, and what follows from it.
    pub fn configure(&'static self, name: &str, value: &str) -> Result<(), OptionError> {
        let mut shared = self.lock();
        shared.options.set(name, value)?;
        shared.epoch += 1;
        self.hot_loop.store(shared.options.hot_loop, Relaxed);
        self.hot_exit.store(shared.options.hot_exit, Relaxed);
        let enabled = shared.options.enabled;
        if matches!(name, "dump" | "check" | "debug") {
            shared.backend = None;
        }
        if !enabled {
            self.drop_units(&mut shared, |_| true);
        }
        drop(shared);
        if name == "hot_loop" {
            self.reset_counters();
        }
        self.words.set_active(enabled);
        self.words.rest(0);
        Ok(())
    }

    fn reset_counters(&self) {
        for bucket in 0..COUNTER_COUNT {
            if self.pinned[bucket].load(Relaxed) == 0 {
                self.words.counter(bucket).store(self.first_count(), Relaxed);
            }
        }
    }

    /// What a counter is put up to: the anchor that finds it below zero is the `hot_loop`th.
    fn first_count(&self) -> i32 {
        i32::try_from(self.hot_loop() - 1).unwrap_or(i32::MAX)
    }

    /// Puts the counter of an id up again: to zero if it is pinned (the next pass comes here), else to `hot_loop`.
    /// Returns how many passes it stood for.
    pub fn rewind(&self, id: u64) -> u32 {
        let bucket = bucket(id);
        let pinned = self.pinned[bucket].load(Relaxed) != 0;
        self.words.counter(bucket).store(if pinned { 0 } else { self.first_count() }, Relaxed);
        if pinned { 1 } else { self.hot_loop() }
    }

    /// Lets a loop lead to a trace's function. Every pass of its anchors comes here from now on. The lock is held.
    pub fn lead(&self, own: &Loop, function: u64) {
        let bucket = bucket(own.id);
        if own.function.swap(function, Release) == 0 {
            self.pinned[bucket].fetch_add(1, Relaxed);
        }
        self.words.counter(bucket).store(0, Relaxed);
        self.words.rest(0);
    }

    /// The opposite: its anchors pass again, if no other loop with a trace shares their counter. Returns the function, 0 if it
    /// had none. The lock is held.
    pub fn lead_nowhere(&self, own: &Loop) -> u64 {
        let function = own.function.swap(0, Relaxed);
        if function != 0 {
            self.pinned[bucket(own.id)].fetch_sub(1, Relaxed);
        }
        function
    }

    /// Whether every pass of an id's anchors comes here.
    pub fn is_pinned(&self, id: u64) -> bool {
        self.pinned[bucket(id)].load(Relaxed) != 0
    }

    /// The address of the counter of an id.
    pub fn counter_address(&self, id: u64) -> u64 {
        std::ptr::from_ref(self.words.counter(bucket(id))) as u64
    }

    /// Lets so many passes of an id's anchors go by.
    pub fn count_down(&self, id: u64, passes: i32) {
        self.words.counter(bucket(id)).store(passes - 1, Relaxed);
    }

    /// Passes before a loop is recorded.
    pub fn hot_loop(&self) -> u32 {
        self.hot_loop.load(Relaxed)
    }

    /// Times an exit is taken before a side trace is recorded.
    pub fn hot_exit(&self) -> u32 {
        self.hot_exit.load(Relaxed)
    }

    /// Limits of a recording that begins at `start`.
    pub fn limits(&'static self, start: u64) -> Limits {
        let mut shared = self.lock();
        shared.modules.refresh();
        Limits {
            instructions: shared.options.max_recording as usize,
            depth: shared.options.max_depth as usize,
            check: shared.options.check != Check::Off,
            taken_back: shared.declared.taken_back(),
            terms: Terms {
                epoch: shared.epoch,
                modules: shared.modules.generation(),
                start: shared.modules.find(start),
            },
        }
    }

    /// The slot of the instruction at `pc`, made if it is new; `None` if there is no code or no memory. What follows it up
    /// to the next branch is made with it, because it will be asked for next.
    pub fn slot(&'static self, pc: u64) -> Option<&'static SlotInfo> {
        let mut shared = self.lock();
        let first = shared.slot(pc)?;
        let mut last = first;
        while let Kind::Plain(_) = last.kind
            && last.successors[0].load(Relaxed).is_null()
            && let Some(next) = shared.slot(last.next)
        {
            last.successors[0].store(ptr::from_ref(next).cast_mut(), Release);
            last = next;
        }
        Some(first)
    }

    /// What a recording that began at `start` does at a call or jump to `target`.
    pub fn decide(&'static self, target: u64, start: u64) -> Decision {
        let mut shared = self.lock();
        let treatment = shared.functions.treatment(target);
        let effect = shared.functions.effect(target);
        let module = shared.modules.of_code(target);
        let traced = module.is_some_and(|module| shared.traced_modules(start).contains(&module));
        match (treatment, module) {
            (Treatment::Api(api), _) => Decision::Api(api),
            (Treatment::Never, _) => Decision::Never,
            (Treatment::Residual, _) => Decision::Residual { external: !traced, effect },
            (Treatment::Ordinary, None) => Decision::Outside,
            (Treatment::Ordinary, Some(_)) if !traced => Decision::Residual { external: true, effect },
            (Treatment::Ordinary, Some(_)) if shared.modules.is_unresolved(target) => Decision::Unresolved,
            (Treatment::Ordinary, Some(_)) => Decision::Into,
        }
    }

    /// Says how a function is treated from now on.
    pub fn treat(&'static self, function: u64, treatment: Treatment) {
        let mut shared = self.lock();
        let function = shared.modules.stub_target(function).unwrap_or(function);
        shared.functions.set(function, treatment);
        shared.epoch += 1;
    }

    /// Says what calls of a function do that are not followed.
    pub fn set_effect(&'static self, function: u64, effect: CallEffect) {
        let mut shared = self.lock();
        let function = shared.modules.stub_target(function).unwrap_or(function);
        shared.functions.set_effect(function, effect);
        shared.epoch += 1;
    }

    /// Declares a range immutable.
    pub fn declare(&'static self, start: u64, end: u64) {
        self.lock().declared.add(start, end);
    }

    /// Takes a declaration back: drops what depends on the range, and the loops whose ids lie in it.
    pub fn forget(&'static self, start: u64, end: u64) {
        let mut shared = self.lock();
        if shared.declared.remove(start, end) {
            self.drop_units(&mut shared, |unit| unit.dependencies.iter().any(|range| range.0 < end && start < range.1));
        }
        for entry in self.loops.within(start..end) {
            self.retire(&mut shared, entry);
        }
    }

    /// This loop is over for good: what comes with its identity is another one.
    fn retire(&self, shared: &mut Shared, retired: &'static Loop) {
        self.drop_loop(shared, retired);
        self.loops.retire(retired);
        shared.reclaim.retired(retired);
    }

    /// Never traces loop `id` any more.
    pub fn disable(&'static self, id: u64) {
        let mut shared = self.lock();
        shared.disabled.insert(id);
        for entry in self.loops.within(id..id.saturating_add(1)) {
            entry.disabled.store(true, Release);
            self.drop_loop(&mut shared, entry);
        }
    }

    /// The region that begins at `pc` does not end where a recording could go on.
    pub fn note_odd_region(&'static self, pc: u64) {
        self.lock().odd_regions.insert(pc);
    }

    /// Whether that is known of the region at `pc`.
    pub fn is_odd_region(&'static self, pc: u64) -> bool {
        self.lock().odd_regions.contains(&pc)
    }

    /// Loop `id` is over: it cools down by the passes that going through it is not worth.
    pub fn cool(&self, id: u64) {
        /// A loop that is left after so many passes each time never becomes hot.
        const SHORT: i32 = 3;
        let bucket = bucket(id);
        if self.pinned[bucket].load(Relaxed) == 0 {
            let counter = self.words.counter(bucket);
            let left = counter.load(Relaxed);
            // What stands higher waits for another reason.
            counter.store(left.saturating_add(SHORT).min(self.first_count()).max(left), Relaxed);
        }
    }

    /// The module with code at `inside` goes: forgets what is known of its code, before another one takes its place.
    pub fn unload(&'static self, inside: u64) {
        let mut shared = self.lock();
        let Some(text) = shared.modules.remove(inside) else { return };
        shared.declared.doubt();
        let touches = |range: &(u64, u64)| text.iter().any(|text| range.0 < text.end && text.start < range.1);
        self.drop_units(&mut shared, |unit| unit.dependencies.iter().any(touches));
        let is_inside = |pc: u64| text.iter().any(|text| text.contains(&pc));
        for entry in self.loops.all().into_iter().filter(|entry| is_inside(entry.site)) {
            self.retire(&mut shared, entry);
        }
        // Others may know some of these as their successors.
        shared.slots.clear();
        shared.functions.forget(is_inside);
        shared.odd_regions.retain(|pc| !is_inside(*pc));
        shared.epoch += 1;
    }

    /// Makes the next pass of loop `id` a hot one.
    pub fn heat_now(&'static self, id: u64) {
        // Nothing is freed meanwhile.
        let _shared = self.lock();
        for entry in self.loops.within(id..id.saturating_add(1)) {
            entry.heat.store(0, Relaxed);
        }
        self.words.counter(bucket(id)).store(0, Relaxed);
    }

    /// The loop with this identity, made if it is new. The calling thread, whose context is `own`, is in no trace.
    pub fn find_or_add(&'static self, id: u64, site: u64, own: u64) -> &'static Loop {
        let mut shared = self.lock();
        // Where loops come and go and are never hot, nothing else would free them.
        shared.give_back(own);
        let entry = self.loops.find_or_add(id, site, self.hot_loop());
        if shared.disabled.contains(&id) {
            entry.disabled.store(true, Release);
        }
        entry
    }

    /// Drops units with their side traces: nothing enters them any more, and the calls they have under way go on in the guest.
    /// Returns what they took to compile, in nanoseconds.
    pub fn drop_units(&self, shared: &mut Shared, which: impl Fn(&Unit) -> bool) -> u64 {
        let to_library = stubs::exit_to_library as *const () as u64;
        let (mut gone, mut cost) = (HashSet::new(), 0);
        for compiled in shared.untried.extract_if(.., |compiled| which(&compiled.unit)) {
            shared.reclaim.code(compiled.unit.blocks());
        }
        for (number, unit) in shared.units.in_use() {
            let orphan = matches!(unit.origin, Origin::Exit { unit, .. } if gone.contains(&unit));
            if !orphan && !which(unit) {
                continue;
            }
            unit.dropped = true;
            gone.insert(number);
            cost += unit.cost;
            stats::add(&COUNTERS.traces_dropped, 1);
            if let Some(own) = unit.origin.anchor() {
                if own.function.load(Relaxed) == unit.function {
                    self.lead_nowhere(own);
                }
                own.heat.store(i32::try_from(self.hot_loop()).unwrap_or(i32::MAX), Relaxed);
                shared.docket.strike(own);
                shared.ballots.close(own);
            }
            unit.records.iter().for_each(|record| record.next.store(to_library, Release));
        }
        records::abandon_units(&gone);
        unlink(shared, &gone);
        shared.reclaim.units(gone);
        cost
    }

    /// Drops the trace of a loop, in use or set aside; returns like `drop_units`.
    pub fn drop_loop(&self, shared: &mut Shared, own: &Loop) -> u64 {
        self.drop_units(shared, |unit| unit.origin.anchor().is_some_and(|root| root.number == own.number))
    }

    /// Takes the trace of a loop out of use, so that it can come back; returns its function.
    pub fn set_aside(&self, shared: &mut Shared, own: &Loop) -> u64 {
        let function = self.lead_nowhere(own);
        if let Some(number) = shared.units.of_function(function) {
            unlink(shared, &HashSet::from([number]));
        }
        function
    }

    /// Counts a reason for a failure, and logs it at `level`.
    pub fn note(&'static self, level: u32, cause: &str, detail: &str) {
        self.lock().note(level, cause, detail);
    }

    /// The statistics as JSON.
    pub fn json(&'static self) -> String {
        let shared = self.lock();
        stats::to_json(&self.snapshot(&shared), &shared.reasons)
    }

    /// The counters.
    pub fn snapshot(&self, shared: &Shared) -> stats::Snapshot {
        let entries = crate::entry::entries();
        stats::Snapshot { entries, code_bytes: shared.arena.used(), ..COUNTERS.snapshot() }
    }
}

/// Makes exits that lead to some units lead to the library again.
fn unlink(shared: &mut Shared, gone: &HashSet<u32>) {
    let to_library = stubs::exit_to_library as *const () as u64;
    for (_, unit) in shared.units.in_use() {
        for (index, used) in unit.exits.all_used() {
            if let Some(link) = used.link.take_if(|link| gone.contains(&link.unit)) {
                if let Some(record) = unit.records.get(index as usize) {
                    record.next.store(to_library, Release);
                }
                shared.reclaim.code([link.code].into_iter().chain(used.piece.take()));
            }
        }
    }
}

impl Shared {
    /// The slot of the instruction at `pc`, made if it is new.
    fn slot(&mut self, pc: u64) -> Option<&'static SlotInfo> {
        if let Some(slot) = self.slots.get(&pc) {
            return Some(slot);
        }
        let bytes = self.modules.code(pc)?;
        let arena = &mut self.arena;
        let prepared = slots::prepare(slots::decode(pc, &bytes), &bytes, |code, scratch, vectors| {
            arena.add(&pieces::slot(code, scratch, vectors), 16).map(|slot| slot.address)
        })?;
        let slot: &'static SlotInfo = Box::leak(Box::new(prepared));
        self.slots.insert(pc, slot);
        Some(slot)
    }

    /// The modules that a recording which began at `start` follows calls into.
    pub fn traced_modules(&self, start: u64) -> Vec<usize> {
        let own = self.modules.find(start);
        let named = self.options.trace_modules.iter().flat_map(|name| self.modules.named(name));
        own.into_iter().chain(named).collect()
    }

    /// The compiler.
    pub fn backend(&mut self) -> Result<&mut Backend, Failure> {
        if self.backend.is_none() {
            let options =
                redmagic_backend::Options { verify: cfg!(debug_assertions), dump: self.options.dump.is_some() };
            self.backend = Some(Backend::new(&options).map_err(Failure::Backend)?);
        }
        self.backend.as_mut().ok_or(Failure::Panicked)
    }

    /// A piece that leaves to the guest at `pc` with everything from the context.
    pub fn leave_piece(&mut self, pc: u64) -> u64 {
        if let Some(piece) = self.leave_pieces.get(&pc) {
            return *piece;
        }
        let code = pieces::leave(&pieces::unchanged(), pc, VectorState::All, Counts::default());
        match self.arena.add(&code, 16) {
            Some(piece) => *self.leave_pieces.entry(pc).or_insert(piece.address),
            None => self.last_resort,
        }
    }

    /// Counts a reason for a failure, and logs it at `level`.
    pub fn note(&mut self, level: u32, cause: &str, detail: &str) {
        *self.reasons.entry(cause.to_owned()).or_insert(0) += 1;
        self.log(level, detail);
    }

    /// The compiled but untried unit of an origin.
    pub fn take_untried(&mut self, origin: &Origin) -> Option<Compiled> {
        let at = self.untried.iter().position(|compiled| compiled.unit.origin.is_same(origin))?;
        Some(self.untried.swap_remove(at))
    }

    /// Writes a line if the log is that verbose.
    pub fn log(&self, level: u32, text: &str) {
        if self.options.log_level >= level {
            log::line(self.options.log_path.as_deref(), text);
        }
    }
}
