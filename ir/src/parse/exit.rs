//! Reads exits and their recipes (the grammar stands in `parse`).
//!
//! Worked example: `flags = fl_sub(v1, i64 5)` becomes a recipe with the operands value 1 and constant 5 of type i64,
//! and the slot `flags` refers to it by index. A named recipe (`let x0 = ...`) is added once and shared by its uses.

use super::cursor::{Cursor, ParseError, ParseErrorKind, Parsed, numbered};
use super::{Pending, address, exit_head};
use crate::typing::implied_result;
use crate::{DelayedStore, Effect, ExitData, ExitValue, Format, Opcode, Recipe, Slot, Type};
use std::collections::BTreeMap;

/// The printer names recipes long before this depth.
const MAX_NESTING: u32 = 64;

/// The exit that stands here, its name already read.
pub(crate) fn exit(cursor: &mut Cursor<'_>, pending: &mut Pending) -> Parsed<ExitData> {
    let exit = exit_head(cursor)?;
    let mut reader = Reader { cursor, pending, exit, names: BTreeMap::new() };
    reader.cursor.symbol("{")?;
    let mut first = true;
    while !reader.cursor.take_symbol("}") {
        if !first {
            reader.cursor.symbol(",")?;
        }
        first = false;
        reader.item()?;
    }
    Ok(reader.exit)
}

struct Reader<'c, 'a, 'p> {
    cursor: &'c mut Cursor<'a>,
    pending: &'p mut Pending,
    exit: ExitData,
    /// `let` names with their recipes.
    names: BTreeMap<u64, ExitValue>,
}

impl Reader<'_, '_, '_> {
    fn item(&mut self) -> Parsed<()> {
        if self.cursor.take_keyword("let") {
            let number = self.cursor.choice("a name such as `x0`", |word| numbered(word, "x"))?;
            if self.names.contains_key(&number) {
                return self.cursor.error(ParseErrorKind::Redefined(format!("x{number}")));
            }
            self.cursor.symbol("=")?;
            let recipe = self.recipe(0)?;
            self.names.insert(number, recipe);
            return Ok(());
        }
        if self.cursor.take_keyword("store") {
            let ty = self.cursor.ty()?;
            let address = address(self.cursor, self.pending)?;
            self.cursor.symbol("=")?;
            let value = self.value(ty)?;
            self.exit.stores.push(DelayedStore { ty, address, value });
            return Ok(());
        }
        let at = self.cursor.position();
        let slot = self.cursor.choice("a slot, `store`, `let` or `}`", Slot::from_name)?;
        if self.exit.get(slot).is_some() {
            return Err(ParseError::new(at, ParseErrorKind::Redefined(slot.to_string())));
        }
        self.cursor.symbol("=")?;
        let value = self.value(slot.ty())?;
        self.exit.set(slot, value);
        Ok(())
    }

    fn value(&mut self, ty: Type) -> Parsed<ExitValue> {
        match self.cursor.peek_word() {
            None => Ok(ExitValue::Const(self.cursor.immediate(ty)?)),
            Some(word) if word.starts_with(|c: char| c.is_ascii_digit()) => {
                Ok(ExitValue::Const(self.cursor.immediate(ty)?))
            }
            Some(_) => self.computed(0),
        }
    }

    /// A value that is not a constant.
    fn computed(&mut self, nesting: u32) -> Parsed<ExitValue> {
        let word = self.cursor.peek_word().unwrap_or_default();
        if numbered(word, "v").is_some() {
            return Ok(ExitValue::Value(self.pending.value(self.cursor)?));
        }
        if let Some(number) = numbered(word, "x") {
            let Some(named) = self.names.get(&number) else {
                return self.cursor.error(ParseErrorKind::Undefined(word.to_owned()));
            };
            self.cursor.advance();
            return Ok(*named);
        }
        if self.cursor.take_keyword("undefined") {
            return Ok(ExitValue::Undefined);
        }
        self.recipe(nesting)
    }

    fn recipe(&mut self, nesting: u32) -> Parsed<ExitValue> {
        if nesting > MAX_NESTING {
            return self.cursor.error(ParseErrorKind::Nesting);
        }
        let (op, ty) = self.cursor.choice("a value, a constant or a pure operation", |word| {
            let (name, ty) = match word.split_once('.') {
                Some((name, ty)) => (name, Some(Type::from_name(ty)?)),
                None => (word, None),
            };
            let op = Opcode::from_name(name)?;
            let plain = matches!(op.format(), Format::Unary(_) | Format::Binary(_) | Format::Ternary(_));
            (plain && matches!(op.effect(), Effect::Pure | Effect::Partial)).then_some(())?;
            Some((op, ty.or(implied_result(op))?))
        })?;
        let mut args = [ExitValue::Undefined; 3];
        let mut arg_types = [Type::Void; 3];
        self.cursor.symbol("(")?;
        for at in 0..op.format().arity() {
            if at > 0 {
                self.cursor.symbol(",")?;
            }
            if let Some(constant) = self.cursor.peek_word().and_then(Type::from_name) {
                self.cursor.advance();
                args[at] = ExitValue::Const(self.cursor.immediate(constant)?);
                arg_types[at] = constant;
            } else {
                args[at] = self.computed(nesting + 1)?;
            }
        }
        self.cursor.symbol(")")?;
        self.exit.recipes.push(Recipe { op, ty, args, arg_types });
        Ok(ExitValue::Recipe(self.exit.recipes.len() as u32 - 1))
    }
}
