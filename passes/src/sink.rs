//! The passes `flags` and `sink`: what only exits need is computed there, by recipes.
//!
//! `flags` does so for packed flags and the truth values they use, before loops are copied; `sink` for all cheap
//! operations, when the hot path is as short as it gets.
//!
//! # Invariants
//! - A recipe computes from values that were operands of the sunk operation, so they are in reach of the exit. What a sunk
//!   operation alone used is sunk with it, up to a depth.
//! - Loads stay, and so does what can trap (not a division by a constant) or depends on the rounding mode: an exit computes from what is in registers.
//! - The state of a call, or of the trace's end, is needed whenever control comes there, so `sink` leaves what it needs on
//!   the path.
//! - An operation that several exits need is repeated in each, so `sink` leaves what more than [`MAX_EXITS`] need; and it
//!   keeps at most one operand in a register for much longer, instead of the result.
//!
//! Worked example: `v3: i32 = fl_sub v1, v2` with `exit0 @0x40 { flags = v3 }` as its only use vanishes, and the exit
//! becomes `{ flags = fl_sub(v1, v2) }`; `v4: i64 = add v1, v5` with `exit0 @0x40 { rax = v4 }` becomes `{ rax = add(v1, 16) }`
//! where v5 is the constant 16.

use crate::Stats;
use crate::scope::{depends_on_mxcsr, has_property, is_total};
use redmagic_ir::{Effect, ExitData, ExitValue, Format, Inst, Map, Opcode, Recipe, Segment, Trace, Type, Value};

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
    let Chooser { fates, dead, sunk, .. } = Chooser::new(trace, what).choose(stats);
    stats.dead += dead;
    stats.sunk += sunk;
    if dead + sunk > 0 {
        for segment in trace.segments.values_mut() {
            segment.insts.retain(|value| !fates[*value].dead && fates[*value].depth == 0);
        }
    }
    if sunk > 0 {
        let mut rewriter = Rewriter { insts: &trace.insts, fates: &fates, recipes: Vec::new(), made: Vec::new() };
        trace.exits.values_mut().for_each(|data| rewriter.rewrite(data));
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
    /// Where each value is defined; parameters at the start of their segment. Only [`What::All`] needs it.
    places: Map<Value, u32>,
    /// How many values nobody needs.
    dead: u32,
    /// How many are sunk.
    sunk: u32,
}

impl<'t> Chooser<'t> {
    /// Counts the uses.
    fn new(trace: &'t Trace, what: What) -> Chooser<'t> {
        let all = what == What::All;
        let mut chooser = Chooser {
            trace,
            what,
            fates: Fates::filled(trace.insts.len(), Fate::default()),
            starts: Map::filled(trace.segments.len(), 0),
            places: Map::filled(if all { trace.insts.len() } else { 0 }, 0),
            dead: 0,
            sunk: 0,
        };
        let mut place = 0;
        for (segment, data) in trace.segments.iter() {
            chooser.starts[segment] = place;
            if all {
                data.params.iter().for_each(|param| chooser.places[*param] = place);
            }
            for &value in &data.insts {
                place += 1;
                if all {
                    chooser.places[value] = place;
                }
                let inst = &trace.insts[value];
                inst.operands().for_each(|operand| chooser.use_at(operand, place));
                if let Some(exit) = inst.exit() {
                    chooser.note_exit(&trace.exits[exit], place);
                } else if let Some(native) = inst.native_op() {
                    trace.natives[native].inputs.iter().for_each(|input| chooser.use_at(input.1, place));
                }
            }
            place += 1;
            data.terminator.for_each_value(|value| chooser.use_at(value, place));
            if let Some(exit) = data.terminator.exit() {
                let data_of_exit = &trace.exits[exit];
                if all {
                    data_of_exit.for_each_value(|value| chooser.use_at(value, place));
                }
                chooser.note_exit(data_of_exit, place);
            }
            place += 1;
        }
        for (value, exit) in trace.resume_exits() {
            let place = chooser.places.get(value).copied().unwrap_or(0);
            chooser.note_exit(&trace.exits[exit], place);
        }
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
    fn choose(mut self, stats: &mut Stats) -> Chooser<'t> {
        let trace = self.trace;
        let name = if self.what == What::Flags { "flags in exits" } else { "operation in exits" };
        for (segment, data) in trace.segments.iter().rev() {
            for &value in data.insts.iter().rev() {
                let fate = self.fates[value];
                let inst = &trace.insts[value];
                if fate.uses > 0 || !is_removable(inst.op) {
                    continue;
                }
                stats.rewrites.look_at(value);
                if !fate.in_exit && fate.needed == 0 && stats.may("dead code") {
                    self.fates[value].dead = true;
                    self.dead += 1;
                    inst.operands().for_each(|operand| self.fates[operand].uses -= 1);
                    continue;
                }
                let wanted = match self.what {
                    What::Flags => is_plain(inst.op) && (inst.op.is_flags() || inst.ty == Type::I1),
                    What::All => self.is_cheap(inst) && self.pays(segment, value),
                };
                if wanted && fate.needed < MAX_DEPTH && stats.may(name) {
                    self.sink(value);
                }
            }
        }
        self
    }

    fn sink(&mut self, value: Value) {
        let fate = self.fates[value];
        let depth = fate.needed + 1;
        self.fates[value].depth = depth;
        self.sunk += 1;
        for operand in self.trace.insts[value].operands() {
            let operand = &mut self.fates[operand];
            operand.uses -= 1;
            operand.needed = operand.needed.max(depth);
            operand.exits = operand.exits.saturating_add(fate.exits);
            operand.last = operand.last.max(fate.last);
        }
    }

    /// Whether a recipe can compute it as well as the path.
    fn is_cheap(&self, inst: &Inst) -> bool {
        let narrow = |ty: Type| ty.bits() <= 64;
        is_plain(inst.op)
            && is_total(self.trace, inst)
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

/// Whether a recipe can have the opcode's format.
fn is_plain(op: Opcode) -> bool {
    has_property!(op, Format::Unary(_) | Format::Binary(_) | Format::Ternary(_), _)
}

/// Whether it can go if nobody needs its result.
fn is_removable(op: Opcode) -> bool {
    has_property!(op, _, Effect::Pure | Effect::Partial | Effect::Read)
}

/// Gives exits the recipes of the sunk values that they use.
struct Rewriter<'t> {
    insts: &'t Map<Value, Inst>,
    fates: &'t Fates,
    /// The recipes of the exit that is rewritten.
    recipes: Vec<Recipe>,
    /// Where there the recipe of each sunk value is.
    made: Vec<(Value, u32)>,
}

impl Rewriter<'_> {
    fn rewrite(&mut self, data: &mut ExitData) {
        let is_sunk = |value: &ExitValue| matches!(value, ExitValue::Value(value) if self.fates[*value].depth > 0);
        let affected = data.slots.iter().any(|(_, value)| is_sunk(value))
            || data.recipes.iter().any(|recipe| recipe.args.iter().any(is_sunk))
            || data.stores.iter().any(|store| is_sunk(&store.value));
        if !affected {
            return;
        }
        self.recipes.clear();
        self.made.clear();
        // Old recipes keep their order, but those of sunk values come before their users.
        let mut places = Vec::new();
        for recipe in &data.recipes {
            let args = recipe.args.map(|arg| self.update(arg, &places));
            places.push(self.recipes.len() as u32);
            self.recipes.push(Recipe { args, ..*recipe });
        }
        for (_, value) in &mut data.slots {
            *value = self.update(*value, &places);
        }
        for store in &mut data.stores {
            store.value = self.update(store.value, &places);
        }
        data.recipes.clone_from(&self.recipes);
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
        let inst = self.insts[value];
        let mut args = [ExitValue::Undefined; 3];
        let mut arg_types = [Type::Void; 3];
        for (at, operand) in inst.operands().enumerate() {
            let used = &self.insts[operand];
            args[at] = match used.as_const() {
                Some(imm) => {
                    arg_types[at] = used.ty;
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
