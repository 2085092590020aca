//! The rules for exits: their state maps, recipes and delayed stores.

use super::{Place, Problem, Verifier};
use crate::{Exit, ExitData, ExitValue, Format, Recipe, Segment, Type, typing};

impl Verifier<'_> {
    /// Checks that what an exit needs is defined where it is taken.
    pub(super) fn exit_available(&mut self, place: &Place, exit: Exit, segment: Segment, position: usize) {
        let mut values = Vec::new();
        self.trace.exits[exit].for_each_value(|value| values.push(value));
        for value in values {
            self.available(place, value, segment, position);
        }
    }

    /// Checks what does not depend on where the exit is taken.
    pub(super) fn exit(&mut self, exit: Exit) {
        let place = Place::Exit(exit);
        let data = &self.trace.exits[exit];
        for (at, recipe) in data.recipes.iter().enumerate() {
            self.recipe(&place, data, at, recipe);
        }
        for (at, (slot, value)) in data.slots.iter().enumerate() {
            if at > 0 && data.slots[at - 1].0 >= *slot {
                self.error(place.clone(), Problem::SlotOrder(*slot));
            }
            self.writable(&place, *slot);
            self.exit_value(&place, data, *value, slot.ty());
        }
        for store in &data.stores {
            if store.ty.bytes() == 0 {
                self.error(place.clone(), Problem::StoreType(store.ty));
            }
            if store.value == ExitValue::Undefined {
                self.error(place.clone(), Problem::UndefinedStore);
            }
            self.address(&place, store.address);
            self.exit_value(&place, data, store.value, store.ty);
        }
    }

    fn exit_value(&mut self, place: &Place, data: &ExitData, value: ExitValue, needs: Type) {
        match value {
            ExitValue::Value(value) => self.needs_type(place, value, needs),
            ExitValue::Recipe(at) => match data.recipes.get(at as usize) {
                None => self.error(place.clone(), Problem::NoRecipe(at)),
                Some(recipe) if recipe.ty != needs => {
                    self.error(place.clone(), Problem::RecipeType { at, has: recipe.ty, needs });
                }
                Some(_) => {}
            },
            ExitValue::Const(_) | ExitValue::Undefined => {}
        }
    }

    fn recipe(&mut self, place: &Place, data: &ExitData, at: usize, recipe: &Recipe) {
        let plain = matches!(recipe.op.format(), Format::Unary(_) | Format::Binary(_) | Format::Ternary(_));
        let second = match recipe.args[1] {
            ExitValue::Const(imm) => Some(imm),
            ExitValue::Value(_) | ExitValue::Recipe(_) | ExitValue::Undefined => None,
        };
        if !plain || !recipe.op.is_total(recipe.ty, second) {
            return self.error(place.clone(), Problem::RecipeOpcode(recipe.op));
        }
        let mut types = Vec::new();
        for (arg, ty) in recipe.args.iter().zip(recipe.arg_types).take(recipe.op.format().arity()) {
            match arg {
                ExitValue::Value(value) => types.extend(self.ty(*value)),
                ExitValue::Const(_) => types.push(ty),
                ExitValue::Recipe(inner) if (*inner as usize) < at => types.push(data.recipes[*inner as usize].ty),
                ExitValue::Recipe(_) => self.error(place.clone(), Problem::RecipeOrder(at)),
                ExitValue::Undefined => self.error(place.clone(), Problem::RecipeOperand(recipe.op)),
            }
        }
        // With fewer types than operands, one of them was reported already.
        if types.len() == recipe.op.format().arity()
            && let Err(error) = typing::check(recipe.op, recipe.ty, &types)
        {
            self.error(place.clone(), Problem::Rule(error));
        }
    }
}
