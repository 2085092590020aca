//! The passes `flags` and `sink`: what only exits need is computed there, by recipes.
//!
//! `flags` does so for packed flags and the truth values they use, before loops are copied; `sink` for all cheap
//! operations, when the hot path is as short as it gets.
//!
//! # Invariants
//! - A recipe computes from values that were operands of the sunk operation, so they are in reach of the exit. What a sunk
//!   operation alone used is sunk with it, up to a depth.
//! - Loads stay, and so does what can trap or depends on the rounding mode: an exit computes from what is in registers.
//! - The state of a call, or of the trace's end, is needed whenever control comes there, so `sink` leaves what it needs on
//!   the path.
//! - An operation that several exits need is repeated in each, so `sink` leaves what more than [`MAX_EXITS`] need; and it
//!   keeps at most one operand in a register for much longer, instead of the result.
//!
//! Worked example: `v3: i32 = fl_sub v1, v2` with `exit0 @0x40 { flags = v3 }` as its only use vanishes, and the exit
//! becomes `{ flags = fl_sub(v1, v2) }`; `v4: i64 = add v1, v5` with `exit0 @0x40 { rax = v4 }` becomes `{ rax = add(v1, 16) }`
//! where v5 is the constant 16.

use crate::Stats;
use crate::scope::depends_on_mxcsr;
use redmagic_ir::{Effect, ExitData, ExitValue, Format, Map, Recipe, Segment, Trace, Type, Value};

/// How deep recipes are nested.
const MAX_DEPTH: u8 = 4;
/// Operations that more exits need than these are not sunk by `sink`.
const MAX_EXITS: u16 = 6;
/// A value that is needed for so many instructions longer hardly keeps a register from others.
const NEAR: u32 = 16;

/// What is sunk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// Packed flags and truth values.
    Flags,
    /// Everything cheap.
    All,
}

/// Runs the pass `flags`.
pub(crate) fn run_flags(trace: &mut Trace, stats: &mut Stats) {
    run(trace, stats, What::Flags);
}

/// Runs the pass `sink`.
pub(crate) fn run_all(trace: &mut Trace, stats: &mut Stats) {
    run(trace, stats, What::All);
}

fn run(trace: &mut Trace, stats: &mut Stats, what: What) {
    let fates = Chooser::new(trace, what).choose(stats);
    let mut sunk = 0;
    for segment in trace.segments.values_mut() {
        let before = segment.insts.len();
        segment.insts.retain(|value| !fates[*value].dead);
        let alive = segment.insts.len();
        segment.insts.retain(|value| fates[*value].depth == 0);
        stats.dead += (before - alive) as u32;
        sunk += (alive - segment.insts.len()) as u32;
    }
    if sunk == 0 {
        return;
    }
    stats.sunk += sunk;
    for exit in trace.exits.keys().collect::<Vec<_>>() {
        let data = std::mem::replace(&mut trace.exits[exit], ExitData::new(0, 0));
        trace.exits[exit] = Rewriter::rewrite(trace, &fates, data);
    }
}

/// What is known of a value.
#[derive(Clone, Copy, Default)]
struct Fate {
    /// Its uses in instructions that stay.
    uses: u32,
    /// Where it is used last: places are counted through all segments.
    last: u32,
    /// Exits that need it.
    exits: u16,
    /// The depth that the recipes which use it have (from 1), 0 if there are none.
    needed: u8,
    /// The depth of its own recipe (from 1), if it is sunk, else 0.
    depth: u8,
    in_exit: bool,
    /// Nobody needs it; it must not keep others from being sunk.
    dead: bool,
}

type Fates = Map<Value, Fate>;

/// Decides what becomes of the values.
struct Chooser<'t> {
    trace: &'t Trace,
    what: What,
    fates: Fates,
    /// Where each segment begins.
    starts: Map<Segment, u32>,
    /// Where each value is defined; parameters at the start of their segment.
    places: Map<Value, u32>,
}

impl<'t> Chooser<'t> {
    /// Counts the uses.
    fn new(trace: &'t Trace, what: What) -> Chooser<'t> {
        let mut chooser = Chooser {
            trace,
            what,
            fates: Fates::filled(trace.insts.len(), Fate::default()),
            starts: Map::filled(trace.segments.len(), 0),
            places: Map::filled(trace.insts.len(), 0),
        };
        let mut place = 0;
        for (segment, data) in trace.segments.iter() {
            chooser.starts[segment] = place;
            data.params.iter().for_each(|param| chooser.places[*param] = place);
            for &value in &data.insts {
                place += 1;
                chooser.places[value] = place;
                let inst = &trace.insts[value];
                inst.operands().for_each(|operand| chooser.use_at(operand, place));
                if let Some(native) = inst.native_op() {
                    trace.natives[native].inputs.iter().for_each(|input| chooser.use_at(input.1, place));
                }
                if let Some(exit) = inst.exit() {
                    chooser.note_exit(&trace.exits[exit], place);
                }
            }
            place += 1;
            data.terminator.for_each_value(|value| chooser.use_at(value, place));
            if let Some(exit) = data.terminator.exit() {
                let data_of_exit = &trace.exits[exit];
                if what == What::All {
                    data_of_exit.for_each_value(|value| chooser.use_at(value, place));
                }
                chooser.note_exit(data_of_exit, place);
            }
            place += 1;
        }
        trace.resume_exits().for_each(|(value, exit)| chooser.note_exit(&trace.exits[exit], chooser.places[value]));
        chooser
    }

    fn use_at(&mut self, value: Value, place: u32) {
        let fate = &mut self.fates[value];
        fate.uses += 1;
        fate.last = fate.last.max(place);
    }

    /// Notes the values that an exit needs.
    fn note_exit(&mut self, data: &ExitData, place: u32) {
        let fates = &mut self.fates;
        data.for_each_value(|value| {
            let fate = &mut fates[value];
            fate.in_exit = true;
            fate.exits = fate.exits.saturating_add(1);
            fate.last = fate.last.max(place);
        });
        // Addresses of delayed stores must stay values: pretend that nothing can be deep enough.
        for store in &data.stores {
            for part in [store.address.root, store.address.index] {
                if part.is_some() {
                    fates[part].needed = MAX_DEPTH;
                }
            }
        }
    }

    /// The decisions, from the last value to the first.
    fn choose(mut self, stats: &mut Stats) -> Fates {
        let trace = self.trace;
        for (segment, data) in trace.segments.iter().rev() {
            for &value in data.insts.iter().rev() {
                let inst = &trace.insts[value];
                let fate = self.fates[value];
                if fate.uses > 0 {
                    continue;
                }
                stats.rewrites.look_at(value);
                let removable = matches!(inst.op.effect(), Effect::Pure | Effect::Partial | Effect::Read);
                if !fate.in_exit && fate.needed == 0 && removable && stats.may("dead code") {
                    self.fates[value].dead = true;
                    inst.operands().for_each(|operand| self.fates[operand].uses -= 1);
                    continue;
                }
                let wanted = match self.what {
                    What::Flags => self.is_flags(value),
                    What::All => self.is_cheap(value) && self.pays(segment, value),
                };
                let name = if self.what == What::Flags { "flags in exits" } else { "operation in exits" };
                if wanted && fate.needed < MAX_DEPTH && stats.may(name) {
                    self.sink(value);
                }
            }
        }
        self.fates
    }

    fn sink(&mut self, value: Value) {
        let fate = self.fates[value];
        let depth = fate.needed + 1;
        self.fates[value].depth = depth;
        for operand in self.trace.insts[value].operands() {
            let operand = &mut self.fates[operand];
            operand.uses -= 1;
            operand.needed = operand.needed.max(depth);
            operand.exits = operand.exits.saturating_add(fate.exits);
            operand.last = operand.last.max(fate.last);
        }
    }

    /// Whether it is packed flags, or a truth value such as they use.
    fn is_flags(&self, value: Value) -> bool {
        let inst = &self.trace.insts[value];
        is_plain(inst.op.format()) && (inst.op.is_flags() || inst.ty == Type::I1)
    }

    /// Whether a recipe can compute it as well as the path.
    fn is_cheap(&self, value: Value) -> bool {
        let inst = &self.trace.insts[value];
        let narrow = |ty: Type| ty.bits() <= 64;
        is_plain(inst.op.format())
            && inst.op.effect() == Effect::Pure
            && !depends_on_mxcsr(inst.op)
            && narrow(inst.ty)
            && inst.operands().all(|operand| narrow(self.trace.ty(operand)))
    }

    /// Whether not too many exits compute it then, and not more values than before wait for them.
    fn pays(&self, segment: Segment, value: Value) -> bool {
        let fate = &self.fates[value];
        let own = self.starts[segment];
        let end = self.places[value];
        let waits_longer = |operand: &Value| {
            // What comes from elsewhere is there for the whole segment, at least if that is a loop.
            let is_local = (own..end).contains(&self.places[*operand]) && self.trace.as_const(*operand).is_none();
            is_local && self.fates[*operand].last + NEAR < fate.last
        };
        fate.exits <= MAX_EXITS && self.trace.insts[value].operands().filter(waits_longer).count() <= 1
    }
}

/// Whether a recipe can have the format.
fn is_plain(format: Format) -> bool {
    matches!(format, Format::Unary(_) | Format::Binary(_) | Format::Ternary(_))
}

/// Gives one exit the recipes of the sunk values that it uses.
struct Rewriter<'t> {
    trace: &'t Trace,
    fates: &'t Fates,
    recipes: Vec<Recipe>,
    /// Where the recipe of each sunk value is.
    made: Vec<(Value, u32)>,
}

impl Rewriter<'_> {
    fn rewrite(trace: &Trace, fates: &Fates, mut data: ExitData) -> ExitData {
        let mut affected = false;
        data.for_each_value(|value| affected |= fates[value].depth > 0);
        if !affected {
            return data;
        }
        let old = std::mem::take(&mut data.recipes);
        let mut rewriter = Rewriter { trace, fates, recipes: Vec::new(), made: Vec::new() };
        // Old recipes keep their order, but those of sunk values come before their users.
        let mut places = Vec::new();
        for mut recipe in old {
            for arg in &mut recipe.args {
                *arg = rewriter.update(*arg, &places);
            }
            places.push(rewriter.recipes.len() as u32);
            rewriter.recipes.push(recipe);
        }
        for (_, value) in &mut data.slots {
            *value = rewriter.update(*value, &places);
        }
        for store in &mut data.stores {
            store.value = rewriter.update(store.value, &places);
        }
        data.recipes = rewriter.recipes;
        data
    }

    fn update(&mut self, value: ExitValue, places: &[u32]) -> ExitValue {
        match value {
            ExitValue::Value(value) if self.fates[value].depth > 0 => ExitValue::Recipe(self.recipe(value)),
            ExitValue::Recipe(at) => places.get(at as usize).map_or(value, |place| ExitValue::Recipe(*place)),
            ExitValue::Value(_) | ExitValue::Const(_) | ExitValue::Undefined => value,
        }
    }

    /// The place of the recipe of the sunk value `value`.
    fn recipe(&mut self, value: Value) -> u32 {
        if let Some(known) = self.made.iter().find(|made| made.0 == value) {
            return known.1;
        }
        let inst = self.trace.insts[value];
        let mut args = [ExitValue::Undefined; 3];
        let mut arg_types = [Type::Void; 3];
        for (at, operand) in inst.operands().enumerate() {
            args[at] = match self.trace.as_const(operand) {
                Some(imm) => {
                    arg_types[at] = self.trace.ty(operand);
                    ExitValue::Const(imm)
                }
                None => self.update(ExitValue::Value(operand), &[]),
            };
        }
        let at = self.recipes.len() as u32;
        self.recipes.push(Recipe { op: inst.op, ty: inst.ty, args, arg_types });
        self.made.push((value, at));
        at
    }
}
