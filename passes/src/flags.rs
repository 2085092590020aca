//! The pass `flags`: packed flags that only exits need become recipes there.
//!
//! # Invariants
//! A recipe computes from values that were operands of the sunk operation, so they are in reach of the exit. What a sunk
//! operation alone used (flags before it, a carry) is sunk with it, up to [`MAX_DEPTH`] deep; operations of other kinds
//! are not, because they would keep their own operands alive instead of themselves.
//!
//! Worked example: `v3: i32 = fl_sub v1, v2` with `exit0 @0x40 { flags = v3 }` as its only use vanishes, and the exit
//! becomes `{ flags = fl_sub(v1, v2) }`.

use crate::Stats;
use redmagic_ir::{Effect, ExitData, ExitValue, Format, Map, Recipe, Trace, Type, Value};

/// How deep recipes are nested.
const MAX_DEPTH: u8 = 4;

/// Runs the pass.
pub(crate) fn run(trace: &mut Trace, stats: &mut Stats) {
    let fates = choose(trace, stats);
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

/// Whether a recipe can compute the operation, and the pass wants it to: flags, and the truth values they use.
fn is_candidate(trace: &Trace, value: Value) -> bool {
    let inst = &trace.insts[value];
    let has_recipe_format = matches!(inst.op.format(), Format::Unary(_) | Format::Binary(_) | Format::Ternary(_));
    has_recipe_format && (inst.op.is_flags() || inst.ty == Type::I1)
}

/// What the pass knows of a value.
#[derive(Clone, Copy, Default)]
struct Fate {
    /// Its uses in instructions that stay.
    uses: u32,
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
fn choose(trace: &Trace, stats: &mut Stats) -> Fates {
    let mut fates = Fates::filled(trace.insts.len(), Fate::default());
    for segment in trace.segments.values() {
        for &value in &segment.insts {
            let inst = &trace.insts[value];
            inst.operands().for_each(|operand| fates[operand].uses += 1);
            if let Some(native) = inst.native_op() {
                trace.natives[native].inputs.iter().for_each(|input| fates[input.1].uses += 1);
            }
        }
        segment.terminator.for_each_value(|value| fates[value].uses += 1);
    }
    note_exits(trace, &mut fates);
    for segment in trace.segments.values().rev() {
        for &value in segment.insts.iter().rev() {
            let inst = &trace.insts[value];
            let fate = fates[value];
            if fate.uses > 0 {
                continue;
            }
            stats.rewrites.look_at(value);
            let removable = matches!(inst.op.effect(), Effect::Pure | Effect::Partial | Effect::Read);
            if !fate.in_exit && fate.needed == 0 && removable && stats.may("dead code") {
                fates[value].dead = true;
                inst.operands().for_each(|operand| fates[operand].uses -= 1);
                continue;
            }
            if !is_candidate(trace, value) || fate.needed >= MAX_DEPTH || !stats.may("flags in exits") {
                continue;
            }
            let depth = fate.needed + 1;
            fates[value].depth = depth;
            for operand in inst.operands() {
                let operand = &mut fates[operand];
                operand.uses -= 1;
                operand.needed = operand.needed.max(depth);
            }
        }
    }
    fates
}

/// Finds the values that used exits hold.
fn note_exits(trace: &Trace, fates: &mut Fates) {
    let mut note = |exit| {
        let data: &ExitData = &trace.exits[exit];
        data.for_each_value(|value| fates[value].in_exit = true);
        // Addresses of delayed stores must stay values: pretend that nothing can be deep enough.
        for store in &data.stores {
            for part in [store.address.root, store.address.index] {
                if part.is_some() {
                    fates[part].needed = MAX_DEPTH;
                }
            }
        }
    };
    for segment in trace.segments.values() {
        segment.insts.iter().filter_map(|value| trace.insts[*value].exit()).for_each(&mut note);
        segment.terminator.exit().into_iter().for_each(&mut note);
    }
    trace.resume_exits().for_each(|(_, exit)| note(exit));
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
