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
const MAX_DEPTH: u32 = 4;

/// Runs the pass.
pub(crate) fn run(trace: &mut Trace, stats: &mut Stats) {
    let Choice { depths, dead } = choose(trace, stats);
    let mut sunk = 0;
    for segment in trace.segments.values_mut() {
        let before = segment.insts.len();
        segment.insts.retain(|value| !dead[*value]);
        let alive = segment.insts.len();
        segment.insts.retain(|value| depths[*value] == 0);
        stats.dead += (before - alive) as u32;
        sunk += (alive - segment.insts.len()) as u32;
    }
    if sunk == 0 {
        return;
    }
    stats.sunk += sunk;
    for exit in trace.exits.keys().collect::<Vec<_>>() {
        let data = std::mem::replace(&mut trace.exits[exit], ExitData::new(0, 0));
        trace.exits[exit] = Rewriter::rewrite(trace, &depths, data);
    }
}

/// Whether a recipe can compute the operation, and the pass wants it to: flags, and the truth values they use.
fn is_candidate(trace: &Trace, value: Value) -> bool {
    let inst = &trace.insts[value];
    let has_recipe_format = matches!(inst.op.format(), Format::Unary(_) | Format::Binary(_) | Format::Ternary(_));
    has_recipe_format && (inst.op.is_flags() || inst.ty == Type::I1)
}

/// What becomes of the values.
struct Choice {
    /// For each value that is sunk the depth of its recipe (from 1), 0 for others.
    depths: Map<Value, u32>,
    /// Values that nobody needs; they must not keep others from being sunk.
    dead: Map<Value, bool>,
}

fn choose(trace: &Trace, stats: &mut Stats) -> Choice {
    let mut uses = Map::filled(trace.insts.len(), 0u32);
    for segment in trace.segments.values() {
        for &value in &segment.insts {
            let inst = &trace.insts[value];
            inst.operands().for_each(|operand| uses[operand] += 1);
            if let Some(native) = inst.native_op() {
                trace.natives[native].inputs.iter().for_each(|input| uses[input.1] += 1);
            }
        }
        segment.terminator.for_each_value(|value| uses[value] += 1);
    }
    let mut needed = Map::filled(trace.insts.len(), 0u32);
    let mut in_exit = Map::filled(trace.insts.len(), false);
    note_exits(trace, &mut needed, &mut in_exit);
    let mut depths = Map::filled(trace.insts.len(), 0u32);
    let mut dead = Map::filled(trace.insts.len(), false);
    for segment in trace.segments.values().rev() {
        for &value in segment.insts.iter().rev() {
            let inst = &trace.insts[value];
            let removable = matches!(inst.op.effect(), Effect::Pure | Effect::Partial | Effect::Read);
            stats.rewrites.look_at(value);
            if uses[value] == 0 && !in_exit[value] && needed[value] == 0 && removable && stats.may("dead code") {
                dead[value] = true;
                inst.operands().for_each(|operand| uses[operand] -= 1);
                continue;
            }
            let sinks = uses[value] == 0 && is_candidate(trace, value) && needed[value] < MAX_DEPTH;
            if !sinks || !stats.may("flags in exits") {
                continue;
            }
            depths[value] = needed[value] + 1;
            for operand in inst.operands() {
                uses[operand] -= 1;
                needed[operand] = needed[operand].max(depths[value]);
            }
        }
    }
    Choice { depths, dead }
}

/// Finds the values that used exits hold.
fn note_exits(trace: &Trace, needed: &mut Map<Value, u32>, in_exit: &mut Map<Value, bool>) {
    let mut note = |exit| {
        let data: &ExitData = &trace.exits[exit];
        data.for_each_value(|value| in_exit[value] = true);
        // Addresses of delayed stores must stay values: pretend that nothing can be deep enough.
        for store in &data.stores {
            for part in [store.address.root, store.address.index] {
                if part.is_some() {
                    needed[part] = MAX_DEPTH;
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
    depths: &'t Map<Value, u32>,
    recipes: Vec<Recipe>,
    /// Where the recipe of each sunk value is.
    made: Vec<(Value, u32)>,
}

impl Rewriter<'_> {
    fn rewrite(trace: &Trace, depths: &Map<Value, u32>, mut data: ExitData) -> ExitData {
        let mut affected = false;
        data.for_each_value(|value| affected |= depths[value] > 0);
        if !affected {
            return data;
        }
        let old = std::mem::take(&mut data.recipes);
        let mut rewriter = Rewriter { trace, depths, recipes: Vec::new(), made: Vec::new() };
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
            ExitValue::Value(value) if self.depths[value] > 0 => ExitValue::Recipe(self.recipe(value)),
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
