//! Writes the text form.
//!
//! The text shows the program, not the arenas: segments that the entry reaches, instructions that these list, exits
//! and native operations that these name. Numbers are arena indices, so what a pass leaves alone keeps its name. The
//! entry segment stands first, the others in index order.
//!
//! What is left out is what the reader can tell: the start address 0, `step 0`, the offset 0, the scale 1, the result type of an operation
//! whose opcode decides it (in a recipe). Numbers beyond four digits are hexadecimal. A recipe stands inline where it
//! is used; one that is used more than once, or is deep inside others, is named by a `let` first.
//!
//! Worked example of an exit with everything:
//! ```text
//! exit0 @0x40 step 3 anchor 5 { let x0 = add.i64(v1, i64 8), rax = x0, rcx = 16, rdx = undefined,
//!     flags = fl_sub(v1, v2), store i64 [v3 + 8] = x0 }
//! ```

use crate::lexer::is_word_character;
use crate::typing::implied_result;
use crate::{
    Address, CallEffect, Exit, ExitData, ExitKind, ExitValue, Format, Native, NativeOp, RegionKind, Segment, Target,
    Terminator, Trace, Value,
};
use std::collections::BTreeSet;
use std::fmt::{self, Write};

/// A number as the text form shows it: short ones decimal, others hexadecimal.
pub(crate) struct Number(pub(crate) i64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let magnitude = self.0.unsigned_abs();
        if magnitude < 10_000 { write!(f, "{sign}{magnitude}") } else { write!(f, "{sign}{magnitude:#x}") }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}", self.root)?;
        if self.index.is_some() {
            write!(f, " + {}", self.index)?;
            if self.scale != 1 {
                write!(f, "*{}", self.scale)?;
            }
        }
        if self.offset != 0 {
            let sign = if self.offset < 0 { '-' } else { '+' };
            write!(f, " {sign} {}", Number(i64::from(self.offset).abs()))?;
        }
        f.write_char(']')
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.segment)?;
        separated(f, &self.args)?;
        f.write_char(')')
    }
}

impl fmt::Display for Terminator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Terminator::Jump(target) => write!(f, "jump {target}"),
            Terminator::Switch { value, cases, default } => {
                write!(f, "switch {value} {{")?;
                for (at, (number, target)) in cases.iter().enumerate() {
                    let comma = if at == 0 { " " } else { ", " };
                    let hexadecimal = *number >= 10_000;
                    if hexadecimal {
                        write!(f, "{comma}{number:#x} => {target}")?;
                    } else {
                        write!(f, "{comma}{number} => {target}")?;
                    }
                }
                write!(f, "{}}} else {default}", if cases.is_empty() { "" } else { " " })
            }
            Terminator::Call(call) => {
                let effect = match call.effect {
                    CallEffect::Any => "any",
                    CallEffect::Reads => "reads",
                    CallEffect::Errno => "errno",
                    CallEffect::None => "none",
                };
                write!(
                    f,
                    "call {} ret {} state {} effect {effect} -> {}",
                    call.target, call.return_address, call.state, call.resume
                )
            }
            Terminator::Leave(exit) => write!(f, "leave {exit}"),
        }
    }
}

impl fmt::Display for NativeOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{:#x} bytes ", self.pc)?;
        self.bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(" in(")?;
        for (at, (slot, value)) in self.inputs.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{slot} = {value}")?;
        }
        f.write_str(") out(")?;
        separated(f, &self.outputs)?;
        f.write_char(')')?;
        if self.memory {
            f.write_str(" memory")?;
        }
        if self.wide {
            f.write_str(" wide")?;
        }
        Ok(())
    }
}

fn separated<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T]) -> fmt::Result {
    for (at, item) in items.iter().enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        write!(f, "{comma}{item}")?;
    }
    Ok(())
}

/// Displays an exit without its name: `@0x40 step 3 { rax = v1 }`.
impl fmt::Display for ExitData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{:#x}", self.pc)?;
        if self.step != 0 {
            write!(f, " step {}", self.step)?;
        }
        match self.kind {
            ExitKind::Guest => {}
            ExitKind::Anchor(number) => write!(f, " anchor {number}")?,
            ExitKind::Meter => f.write_str(" meter")?,
        }
        let items = ExitPrinter::new(self).items();
        if items.is_empty() {
            return f.write_str(" {}");
        }
        f.write_str(" { ")?;
        let mut column = 24;
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                // A line that is too long for the eye continues on the next, further in.
                let wraps = column + item.len() > 110;
                f.write_str(if wraps { ",\n    " } else { ", " })?;
                column = if wraps { 4 } else { column + 2 };
            }
            f.write_str(item)?;
            column += item.len();
        }
        f.write_str(" }")
    }
}

/// Recipes deeper than this inside others get a name, so that neither printer nor parser recurses deeply.
const INLINE_DEPTH: u32 = 16;

struct ExitPrinter<'a> {
    exit: &'a ExitData,
    /// The `let` number of each recipe that has one.
    names: Vec<Option<usize>>,
}

impl<'a> ExitPrinter<'a> {
    fn new(exit: &'a ExitData) -> Self {
        let count = exit.recipes.len();
        let mut uses = vec![0u32; count];
        let note = |uses: &mut [u32], value: &ExitValue| {
            if let ExitValue::Recipe(at) = value
                && let Some(uses) = uses.get_mut(*at as usize)
            {
                *uses += 1;
            }
        };
        exit.slots.iter().for_each(|(_, value)| note(&mut uses, value));
        exit.stores.iter().for_each(|store| note(&mut uses, &store.value));
        // Recipes use lower ones only. One that nothing uses is not printed, so what it uses does not count.
        for (at, recipe) in exit.recipes.iter().enumerate().rev() {
            if uses[at] > 0 {
                recipe.args.iter().for_each(|value| note(&mut uses, value));
            }
        }
        let mut depth = vec![0u32; count];
        let mut names = vec![None; count];
        let mut next = 0;
        for (at, recipe) in exit.recipes.iter().enumerate() {
            depth[at] = recipe
                .args
                .iter()
                .filter_map(|arg| if let ExitValue::Recipe(inner) = arg { depth.get(*inner as usize) } else { None })
                .max()
                .map_or(1, |inner| inner + 1);
            if uses[at] > 1 || (uses[at] == 1 && depth[at] > INLINE_DEPTH) {
                names[at] = Some(next);
                next += 1;
                depth[at] = 0;
            }
        }
        ExitPrinter { exit, names }
    }

    fn items(&self) -> Vec<String> {
        let lets = self
            .names
            .iter()
            .enumerate()
            .filter_map(|(at, name)| name.map(|name| format!("let x{name} = {}", self.recipe(at, at))));
        let slots = self.exit.slots.iter().map(|(slot, value)| format!("{slot} = {}", self.value(*value, usize::MAX)));
        let stores = self
            .exit
            .stores
            .iter()
            .map(|store| format!("store {} {} = {}", store.ty, store.address, self.value(store.value, usize::MAX)));
        lets.chain(slots).chain(stores).collect()
    }

    /// `user` is the index of the recipe that uses the value; only lower ones are expanded, so that a malformed exit
    /// (which the verifier reports) still prints.
    fn value(&self, value: ExitValue, user: usize) -> String {
        match value {
            ExitValue::Value(value) => value.to_string(),
            ExitValue::Const(number) => Number(number).to_string(),
            ExitValue::Undefined => "undefined".to_owned(),
            ExitValue::Recipe(at) => match self.names.get(at as usize) {
                Some(Some(name)) => format!("x{name}"),
                Some(None) if (at as usize) < user => self.recipe(at as usize, at as usize),
                Some(None) | None => format!("recipe?{at}"),
            },
        }
    }

    fn recipe(&self, at: usize, user: usize) -> String {
        let recipe = &self.exit.recipes[at];
        let mut text = recipe.op.name().to_owned();
        if implied_result(recipe.op) != Some(recipe.ty) {
            text.push('.');
            text.push_str(recipe.ty.name());
        }
        text.push('(');
        for (at, arg) in recipe.args.iter().take(recipe.op.format().arity()).enumerate() {
            if at > 0 {
                text.push_str(", ");
            }
            if matches!(arg, ExitValue::Const(_)) {
                text.push_str(recipe.arg_types[at].name());
                text.push(' ');
            }
            text.push_str(&self.value(*arg, user));
        }
        text.push(')');
        text
    }
}

/// Displays one instruction as its line in the text form.
#[derive(Clone, Copy)]
pub struct DisplayInst<'a> {
    trace: &'a Trace,
    value: Value,
}

impl fmt::Display for DisplayInst<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value;
        let Some(inst) = self.trace.insts.get(value) else {
            return write!(f, "{value}");
        };
        let name = inst.op.name();
        let [a, b, c] = inst.args;
        match inst.op.format() {
            Format::Store | Format::Guard => {}
            Format::Native => write!(f, "{value} = ")?,
            Format::Param => write!(f, "{value}: {}", inst.ty)?,
            Format::Const
            | Format::Slot
            | Format::Unary(_)
            | Format::Binary(_)
            | Format::Ternary(_)
            | Format::Cond
            | Format::Tick
            | Format::Load
            | Format::NativeOut => write!(f, "{value}: {} = ", inst.ty)?,
        }
        match inst.op.format() {
            Format::Param => match inst.slot() {
                Some(slot) => write!(f, " = {slot}"),
                None => Ok(()),
            },
            Format::Const => write!(f, "{name} {}", Number(inst.as_const().unwrap_or_default())),
            Format::Slot => match inst.slot() {
                Some(slot) => write!(f, "{name} {slot}"),
                None => write!(f, "{name} ?"),
            },
            Format::Unary(_) => write!(f, "{name} {a}"),
            Format::Binary(_) => write!(f, "{name} {a}, {b}"),
            Format::Ternary(_) => write!(f, "{name} {a}, {b}, {c}"),
            Format::Cond => write!(f, "{name}.{} {a}", inst.condition().map_or("?", |cond| cond.name())),
            Format::Tick => write!(f, "{name} {:#x}", inst.meter().unwrap_or_default()),
            Format::Load | Format::Store => self.memory(f),
            Format::Guard => write!(f, "{name} {a}, {}", inst.exit().unwrap_or(Exit::NONE)),
            Format::Native => write!(f, "{name} {}", inst.native_op().unwrap_or(Native::NONE)),
            Format::NativeOut => match inst.slot() {
                Some(slot) => write!(f, "{name} {a}, {slot}"),
                None => write!(f, "{name} {a}, ?"),
            },
        }
    }
}

impl DisplayInst<'_> {
    fn memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inst = &self.trace.insts[self.value];
        f.write_str(inst.op.name())?;
        if !inst.class.name().is_empty() {
            write!(f, ".{}", inst.class.name())?;
        }
        let address = inst.address().unwrap_or(Address::new(Value::NONE, 0));
        if inst.op.format() == Format::Store {
            write!(f, " {} {address}, {}", inst.ty, inst.args[2])?;
        } else {
            write!(f, " {address}")?;
        }
        if let Some(recorded) = self.trace.recorded(self.value) {
            write!(f, " @{:#x}={:#x}", recorded.address, recorded.value)?;
        }
        match self.trace.resume_exit(self.value) {
            Some(exit) => write!(f, " resume {exit}"),
            None => Ok(()),
        }
    }
}

impl Trace {
    /// Displays instruction `value` as its line in the text form.
    pub fn display_inst(&self, value: Value) -> DisplayInst<'_> {
        DisplayInst { trace: self, value }
    }

    /// Segments in the order of the text: the entry, then the others that it reaches, by index. Without a valid
    /// entry: all, by index.
    pub(crate) fn printed_segments(&self) -> Vec<Segment> {
        let Some(entry) = self.entry.filter(|entry| self.segments.get(*entry).is_some()) else {
            return self.segments.keys().collect();
        };
        let mut reached = BTreeSet::from([entry]);
        let mut pending = vec![entry];
        while let Some(segment) = pending.pop() {
            for next in self.segments[segment].terminator.successors() {
                if self.segments.get(next).is_some() && reached.insert(next) {
                    pending.push(next);
                }
            }
        }
        reached.remove(&entry);
        std::iter::once(entry).chain(reached).collect()
    }

    fn write_segment(&self, f: &mut fmt::Formatter<'_>, segment: Segment) -> fmt::Result {
        let data = &self.segments[segment];
        write!(f, "{segment}(")?;
        let params: Vec<_> = data.params.iter().map(|param| self.display_inst(*param)).collect();
        separated(f, &params)?;
        f.write_str("):\n")?;
        for inst in &data.insts {
            writeln!(f, "  {}", self.display_inst(*inst))?;
        }
        writeln!(f, "  {}", data.terminator)
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.name.is_empty() && self.name.chars().all(is_word_character) {
            write!(f, "trace {}", self.name)?;
        } else {
            let escaped = self.name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            write!(f, "trace \"{escaped}\"")?;
        }
        if self.start != 0 {
            write!(f, " @{:#x}", self.start)?;
        }
        f.write_str(" {\n")?;
        for region in &self.regions {
            let kind = match region.kind {
                RegionKind::ReadOnly => "readonly",
                RegionKind::Declared => "declared",
                RegionKind::Code => "code",
            };
            writeln!(f, "region {kind} {:#x}-{:#x}", region.start, region.end)?;
        }
        if let Some(errno) = self.errno {
            writeln!(f, "errno {:#x}", errno as u64)?;
        }
        let mut exits = BTreeSet::new();
        let mut natives = BTreeSet::new();
        for segment in self.printed_segments() {
            self.write_segment(f, segment)?;
            let data = &self.segments[segment];
            let insts = || data.insts.iter().filter_map(|inst| self.insts.get(*inst));
            exits.extend(insts().filter_map(|inst| inst.exit()).chain(data.terminator.exit()));
            exits.extend(data.insts.iter().filter_map(|inst| self.resume_exit(*inst)));
            natives.extend(insts().filter_map(|inst| inst.native_op()));
        }
        for exit in exits {
            if let Some(data) = self.exits.get(exit) {
                writeln!(f, "{exit} {data}")?;
            }
        }
        for native in natives {
            if let Some(data) = self.natives.get(native) {
                writeln!(f, "{native} {data}")?;
            }
        }
        f.write_str("}\n")
    }
}
