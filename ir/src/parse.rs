//! Reads the text form.
//!
//! The grammar (words in quotes are literal; white space and `;` comments are free anywhere):
//! ```text
//! file       = trace*
//! trace      = "trace" NAME ["@" NUMBER] "{" region* segment+ (exit | native)* "}"        the first segment is the entry
//! region     = "region" ("declared" | "readonly" | "code") NUMBER "-" NUMBER
//! segment    = SEG "(" [param {"," param}] ")" ":" inst* terminator
//! param      = VALUE ":" TYPE ["=" SLOT]
//! inst       = VALUE ":" TYPE "=" ( "const" ["-"] NUMBER | "slot" SLOT | OP VALUE {"," VALUE} | "cond." COND VALUE
//!            | "load" ["." CLASS] address [recorded] ["resume" EXIT] | "native_out" VALUE "," SLOT )
//!            | "store" ["." CLASS] TYPE address "," VALUE [recorded]
//!            | ("guard" | "guard_not") VALUE "," EXIT
//!            | [VALUE "="] "native" NATIVE
//! address    = "[" VALUE ["+" VALUE ["*" SCALE]] [("+" | "-") NUMBER] "]"
//! recorded   = "@" NUMBER "=" NUMBER
//! terminator = "jump" target | "switch" VALUE "{" [NUMBER "=>" target {"," ...}] "}" "else" target
//!            | "call" VALUE "ret" VALUE "state" EXIT "effect" EFFECT "->" SEG | "leave" EXIT
//! target     = SEG "(" [VALUE {"," VALUE}] ")"
//! exit       = EXIT "@" NUMBER ["step" NUMBER] ["anchor" NUMBER] "{" [item {"," item}] "}"
//! item       = "let" XNAME "=" recipe | SLOT "=" exitvalue | "store" TYPE address "=" exitvalue
//! exitvalue  = VALUE | ["-"] NUMBER | "undefined" | XNAME | recipe
//! recipe     = OP ["." TYPE] "(" operand {"," operand} ")"       the type where the opcode does not decide it
//! operand    = VALUE | TYPE ["-"] NUMBER | XNAME | recipe
//! native     = NATIVE "@" NUMBER "bytes" HEX ["in" "(" SLOT "=" VALUE, ... ")"] ["out" "(" SLOT, ... ")"]
//!              ["memory"] ["wide"]
//! ```
//! Numbers in names are kept: `v7` becomes value 7, and what the text does not name fills the gaps. So
//! `print(parse(x))` is a fixed point, and pass tests can tell which values survived.
//!
//! Worked example: `parse("trace t {\nseg0():\n  leave exit0\nexit0 @0x40 {}\n}\n")` gives one trace, which prints as
//! the same text. With `leave exit1` it gives the error `line 3, column 9: exit1 is not defined`.

mod cursor;
mod exit;

pub use cursor::{ParseError, ParseErrorKind};

use crate::lexer::{Position, Token, tokens};
use crate::{
    Address, Call, CallEffect, Class, Cond, Entity, Exit, ExitData, Format, Inst, Native, NativeOp, Opcode, Recorded,
    Region, RegionKind, Segment, SegmentData, Target, Terminator, Trace, Type, Value,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use cursor::{Cursor, Parsed, numbered};

/// Reads all traces of a text.
pub fn parse(text: &str) -> Result<Vec<Trace>, ParseError> {
    let mut cursor = Cursor::new(tokens(text)?);
    let mut traces = Vec::new();
    while *cursor.peek() != Token::End {
        traces.push(trace(&mut cursor)?);
    }
    Ok(traces)
}

/// Reads a text that holds exactly one trace.
pub fn parse_one(text: &str) -> Result<Trace, ParseError> {
    let mut cursor = Cursor::new(tokens(text)?);
    let trace = trace(&mut cursor)?;
    match cursor.peek() {
        Token::End => Ok(trace),
        _ => cursor.expected("the end of the text"),
    }
}

/// Numbers in names are arena indices; these bounds keep a short text from asking for gigabytes.
const MAX_VALUES: u64 = 1 << 20;
const MAX_OTHERS: u64 = 1 << 16;

struct PendingInst {
    name: Option<Value>,
    inst: Inst,
    recorded: Option<Recorded>,
    resume: Option<Exit>,
}

struct PendingSegment {
    name: Segment,
    params: Vec<PendingInst>,
    insts: Vec<PendingInst>,
    terminator: Terminator,
}

/// What is known of the trace while its text is read.
#[derive(Default)]
pub(crate) struct Pending {
    start: u64,
    regions: Vec<Region>,
    errno: Option<i64>,
    segments: Vec<PendingSegment>,
    exits: BTreeMap<usize, ExitData>,
    natives: BTreeMap<usize, NativeOp>,
    /// Every value that the text mentions.
    values: BTreeSet<usize>,
    defined: BTreeSet<usize>,
    /// Names used before, or without, their definition; the kinds keep their names apart.
    used: Vec<(String, Position)>,
    known: BTreeSet<String>,
}

impl Pending {
    fn name<E: Entity>(&mut self, cursor: &mut Cursor<'_>, prefix: &str, what: &str, limit: u64) -> Parsed<E> {
        let Some((word, number)) = cursor.peek_word().and_then(|word| Some((word, numbered(word, prefix)?))) else {
            return cursor.expected(what);
        };
        if number >= limit {
            return cursor.error(ParseErrorKind::Range { number: word.to_owned(), limit: format!("{limit} entries") });
        }
        cursor.advance();
        Ok(E::from_index(number as usize))
    }

    pub(crate) fn value(&mut self, cursor: &mut Cursor<'_>) -> Parsed<Value> {
        let value: Value = self.name(cursor, "v", "a value", MAX_VALUES)?;
        self.values.insert(value.index());
        Ok(value)
    }

    fn use_of<E: Entity + fmt::Display>(&mut self, cursor: &mut Cursor<'_>, prefix: &str, what: &str) -> Parsed<E> {
        let at = cursor.position();
        let entity: E = self.name(cursor, prefix, what, MAX_OTHERS)?;
        self.used.push((entity.to_string(), at));
        Ok(entity)
    }

    fn definition<E: Entity + fmt::Display>(&mut self, cursor: &mut Cursor<'_>, prefix: &str) -> Parsed<E> {
        let at = cursor.position();
        let entity: E = self.name(cursor, prefix, "a definition", MAX_OTHERS)?;
        if !self.known.insert(entity.to_string()) {
            return Err(ParseError::new(at, ParseErrorKind::Redefined(entity.to_string())));
        }
        Ok(entity)
    }

    fn segment(&mut self, cursor: &mut Cursor<'_>) -> Parsed<Segment> {
        self.use_of(cursor, "seg", "a segment")
    }

    fn exit(&mut self, cursor: &mut Cursor<'_>) -> Parsed<Exit> {
        self.use_of(cursor, "exit", "an exit")
    }

    fn define_value(&mut self, cursor: &mut Cursor<'_>) -> Parsed<Value> {
        let at = cursor.position();
        let value = self.value(cursor)?;
        if !self.defined.insert(value.index()) {
            return Err(ParseError::new(at, ParseErrorKind::Redefined(value.to_string())));
        }
        Ok(value)
    }

    /// Builds the trace: named things at their numbers, the rest in the gaps.
    fn finish(self, name: String) -> Parsed<Trace> {
        for (name, at) in self.used {
            if !self.known.contains(&name) {
                return Err(ParseError::new(at, ParseErrorKind::Undefined(name)));
            }
        }
        let mut trace = Trace::new(name);
        trace.start = self.start;
        trace.regions = self.regions;
        trace.errno = self.errno;
        trace.entry = self.segments.first().map(|segment| segment.name);
        let mut free = (0..).filter(|number| !self.values.contains(number)).map(Value::from_index);
        let mut place = |pending: PendingInst, trace: &mut Trace| {
            // invariant: `free` is endless
            let value = pending.name.unwrap_or_else(|| free.next().unwrap_or(Value::NONE));
            while trace.insts.len() <= value.index() {
                trace.add_inst(Inst::constant(Type::Void, 0));
            }
            trace.insts[value] = pending.inst;
            trace.set_recorded(value, pending.recorded);
            trace.set_resume_exit(value, pending.resume);
            value
        };
        for pending in self.segments {
            while trace.segments.len() <= pending.name.index() {
                trace.add_segment();
            }
            let params = pending.params.into_iter().map(|param| place(param, &mut trace)).collect();
            let insts = pending.insts.into_iter().map(|inst| place(inst, &mut trace)).collect();
            trace.segments[pending.name] = SegmentData { params, insts, terminator: pending.terminator };
        }
        // A value that is used but defined nowhere must at least have an index: the verifier reports it.
        while trace.insts.len() <= self.values.last().copied().unwrap_or(0) && !self.values.is_empty() {
            trace.add_inst(Inst::constant(Type::Void, 0));
        }
        for (number, exit) in self.exits {
            while trace.exits.len() < number {
                trace.exits.push(ExitData::new(0, 0));
            }
            trace.exits.push(exit);
        }
        for (number, native) in self.natives {
            while trace.natives.len() < number {
                trace.natives.push(NativeOp {
                    pc: 0,
                    bytes: Vec::new(),
                    inputs: Vec::new(),
                    outputs: Vec::new(),
                    memory: false,
                    wide: false,
                });
            }
            trace.natives.push(native);
        }
        Ok(trace)
    }
}

fn trace(cursor: &mut Cursor<'_>) -> Parsed<Trace> {
    cursor.keyword("trace")?;
    let name = match cursor.peek() {
        Token::Word(word) => (*word).to_owned(),
        Token::Quoted(text) => text.clone(),
        Token::Symbol(_) | Token::End => return cursor.expected("the trace's name"),
    };
    cursor.advance();
    let mut pending = Pending::default();
    if cursor.take_symbol("@") {
        pending.start = cursor.number()?;
    }
    cursor.symbol("{")?;
    while cursor.take_keyword("region") {
        let kind = cursor.choice("`declared`, `readonly` or `code`", |word| match word {
            "declared" => Some(RegionKind::Declared),
            "readonly" => Some(RegionKind::ReadOnly),
            "code" => Some(RegionKind::Code),
            _ => None,
        })?;
        let start = cursor.number()?;
        cursor.symbol("-")?;
        pending.regions.push(Region { start, end: cursor.number()?, kind });
    }
    if cursor.take_keyword("errno") {
        pending.errno = Some(cursor.number()? as i64);
    }
    while !cursor.take_symbol("}") {
        match cursor.peek_word() {
            Some(word) if numbered(word, "seg").is_some() => segment(cursor, &mut pending)?,
            Some(word) if numbered(word, "exit").is_some() => {
                let exit: Exit = pending.definition(cursor, "exit")?;
                let data = exit::exit(cursor, &mut pending)?;
                pending.exits.insert(exit.index(), data);
            }
            Some(word) if numbered(word, "native").is_some() => {
                let native: Native = pending.definition(cursor, "native")?;
                let data = native_op(cursor, &mut pending)?;
                pending.natives.insert(native.index(), data);
            }
            _ => return cursor.expected("a segment, an exit, a native operation or `}`"),
        }
    }
    pending.finish(name)
}

fn segment(cursor: &mut Cursor<'_>, pending: &mut Pending) -> Parsed<()> {
    let name: Segment = pending.definition(cursor, "seg")?;
    let params = cursor.list(|cursor| {
        let name = pending.define_value(cursor)?;
        cursor.symbol(":")?;
        let ty = cursor.ty()?;
        let slot = if cursor.take_symbol("=") { Some(cursor.slot()?) } else { None };
        Ok(PendingInst { name: Some(name), inst: Inst::param(ty, slot), recorded: None, resume: None })
    })?;
    cursor.symbol(":")?;
    let mut insts = Vec::new();
    let terminator = loop {
        if let Some(terminator) = terminator(cursor, pending)? {
            break terminator;
        }
        insts.push(inst(cursor, pending)?);
    };
    pending.segments.push(PendingSegment { name, params, insts, terminator });
    Ok(())
}

fn target(cursor: &mut Cursor<'_>, pending: &mut Pending) -> Parsed<Target> {
    let segment = pending.segment(cursor)?;
    Ok(Target { segment, args: cursor.list(|cursor| pending.value(cursor))? })
}

/// The terminator that stands here, if one does.
fn terminator(cursor: &mut Cursor<'_>, pending: &mut Pending) -> Parsed<Option<Terminator>> {
    if cursor.take_keyword("jump") {
        return Ok(Some(Terminator::Jump(target(cursor, pending)?)));
    }
    if cursor.take_keyword("leave") {
        return Ok(Some(Terminator::Leave(pending.exit(cursor)?)));
    }
    if cursor.take_keyword("switch") {
        let value = pending.value(cursor)?;
        cursor.symbol("{")?;
        let mut cases = Vec::new();
        while !cursor.take_symbol("}") {
            if !cases.is_empty() {
                cursor.symbol(",")?;
            }
            let number = cursor.number()?;
            cursor.symbol("=>")?;
            cases.push((number, target(cursor, pending)?));
        }
        cursor.keyword("else")?;
        return Ok(Some(Terminator::Switch { value, cases, default: target(cursor, pending)? }));
    }
    if cursor.take_keyword("call") {
        let target = pending.value(cursor)?;
        cursor.keyword("ret")?;
        let return_address = pending.value(cursor)?;
        cursor.keyword("state")?;
        let state = pending.exit(cursor)?;
        cursor.keyword("effect")?;
        let effect = cursor.choice("`any`, `reads`, `errno` or `none`", |word| match word {
            "any" => Some(CallEffect::Any),
            "reads" => Some(CallEffect::Reads),
            "errno" => Some(CallEffect::Errno),
            "none" => Some(CallEffect::None),
            _ => None,
        })?;
        cursor.symbol("->")?;
        let resume = pending.segment(cursor)?;
        return Ok(Some(Terminator::Call(Call { state, target, return_address, effect, resume })));
    }
    Ok(None)
}

/// A memory opcode's class: `load`, `load.frame`.
fn class(word: &str, opcode: Opcode) -> Option<Class> {
    let suffix = word.strip_prefix(opcode.name())?;
    Class::ALL.into_iter().find(|class| match suffix.strip_prefix('.') {
        Some(name) => !class.name().is_empty() && class.name() == name,
        None => suffix.is_empty() && class.name().is_empty(),
    })
}

fn inst(cursor: &mut Cursor<'_>, pending: &mut Pending) -> Parsed<PendingInst> {
    let unnamed = |inst| PendingInst { name: None, inst, recorded: None, resume: None };
    let Some(word) = cursor.peek_word() else {
        return cursor.expected("an instruction or a terminator");
    };
    if let Some(class) = class(word, Opcode::Store) {
        cursor.advance();
        let ty = cursor.ty()?;
        let address = address(cursor, pending)?;
        cursor.symbol(",")?;
        let mut inst = Inst::store(ty, address, pending.value(cursor)?);
        inst.class = class;
        return Ok(PendingInst { recorded: recorded(cursor)?, ..unnamed(inst) });
    }
    if word == Opcode::Guard.name() || word == Opcode::GuardNot.name() {
        cursor.advance();
        let value = pending.value(cursor)?;
        cursor.symbol(",")?;
        return Ok(unnamed(Inst::guard(word == Opcode::Guard.name(), value, pending.exit(cursor)?)));
    }
    if cursor.take_keyword(Opcode::Native.name()) {
        return Ok(unnamed(Inst::native(pending.use_of(cursor, "native", "a native operation")?)));
    }
    if numbered(word, "v").is_none() {
        return cursor.expected("an instruction or a terminator");
    }
    let name = Some(pending.define_value(cursor)?);
    if cursor.take_symbol("=") {
        cursor.keyword(Opcode::Native.name())?;
        let native = pending.use_of(cursor, "native", "a native operation")?;
        return Ok(PendingInst { name, ..unnamed(Inst::native(native)) });
    }
    cursor.symbol(":")?;
    let at = cursor.position();
    let ty = cursor.ty()?;
    cursor.symbol("=")?;
    let inst = operation(cursor, pending, ty)?;
    if inst.ty != ty {
        return Err(ParseError::new(at, ParseErrorKind::WrongType { has: inst.ty, written: ty }));
    }
    let (mut note, mut resume) = (None, None);
    if inst.op == Opcode::Load {
        note = recorded(cursor)?;
        if cursor.take_keyword("resume") {
            resume = Some(pending.exit(cursor)?);
        }
    }
    Ok(PendingInst { name, inst, recorded: note, resume })
}

/// An instruction with a result, from its opcode on.
fn operation(cursor: &mut Cursor<'_>, pending: &mut Pending, ty: Type) -> Parsed<Inst> {
    let word = cursor.peek_word().unwrap_or_default();
    if let Some(class) = class(word, Opcode::Load) {
        cursor.advance();
        let mut inst = Inst::load(ty, address(cursor, pending)?);
        inst.class = class;
        return Ok(inst);
    }
    let cond_name = |word: &str| word.strip_prefix(Opcode::Cond.name())?.strip_prefix('.').and_then(Cond::from_name);
    if let Some(cond) = cond_name(word) {
        cursor.advance();
        return Ok(Inst::cond(cond, pending.value(cursor)?));
    }
    let at = cursor.position();
    let op = cursor.choice("an operation with a result", |word| {
        Opcode::from_name(word).filter(|op| {
            !matches!(
                op.format(),
                Format::Param | Format::Cond | Format::Load | Format::Store | Format::Guard | Format::Native
            )
        })
    })?;
    match op.format() {
        Format::Const => Ok(Inst::constant(ty, cursor.immediate(ty)?)),
        Format::Slot => Ok(Inst::slot_read(cursor.slot()?)),
        Format::Tick => Ok(Inst::tick(cursor.number()?)),
        Format::NativeOut => {
            let native = pending.value(cursor)?;
            cursor.symbol(",")?;
            Ok(Inst::native_out(native, cursor.slot()?))
        }
        Format::Unary(_) | Format::Binary(_) | Format::Ternary(_) => {
            let mut args = [Value::NONE; 3];
            for (at, arg) in args.iter_mut().take(op.format().arity()).enumerate() {
                if at > 0 {
                    cursor.symbol(",")?;
                }
                *arg = pending.value(cursor)?;
            }
            Ok(Inst::ternary(op, ty, args[0], args[1], args[2]))
        }
        Format::Param | Format::Cond | Format::Load | Format::Store | Format::Guard | Format::Native => {
            let kind =
                ParseErrorKind::Expected { expected: "an operation with a result".into(), found: op.name().into() };
            Err(ParseError::new(at, kind))
        }
    }
}

pub(crate) fn address(cursor: &mut Cursor<'_>, pending: &mut Pending) -> Parsed<Address> {
    cursor.symbol("[")?;
    let mut address = Address::new(pending.value(cursor)?, 0);
    let index = matches!(cursor.peek_at(1), Token::Word(word) if numbered(word, "v").is_some());
    if index && cursor.take_symbol("+") {
        address.index = pending.value(cursor)?;
        if cursor.take_symbol("*") {
            address.scale = cursor.choice("the scale 1, 2, 4 or 8", |word| match word {
                "1" => Some(1),
                "2" => Some(2),
                "4" => Some(4),
                "8" => Some(8),
                _ => None,
            })?;
        }
    }
    let at = cursor.position();
    let negative = cursor.take_symbol("-");
    if negative || cursor.take_symbol("+") {
        let magnitude = cursor.number()?;
        let offset = i128::from(magnitude) * if negative { -1 } else { 1 };
        address.offset = i32::try_from(offset).map_err(|_| {
            let kind = ParseErrorKind::Range { number: offset.to_string(), limit: "an offset of 32 bits".to_owned() };
            ParseError::new(at, kind)
        })?;
    }
    cursor.symbol("]")?;
    Ok(address)
}

fn recorded(cursor: &mut Cursor<'_>) -> Parsed<Option<Recorded>> {
    if !cursor.take_symbol("@") {
        return Ok(None);
    }
    let address = cursor.number()?;
    cursor.symbol("=")?;
    Ok(Some(Recorded { address, value: cursor.number()? }))
}

/// The head that exits share: address, step, anchor.
pub(crate) fn exit_head(cursor: &mut Cursor<'_>) -> Parsed<ExitData> {
    cursor.symbol("@")?;
    let mut exit = ExitData::new(cursor.number()?, 0);
    if cursor.take_keyword("step") {
        exit.step = cursor.small_number()?;
    }
    if cursor.take_keyword("anchor") {
        exit.kind = crate::ExitKind::Anchor(cursor.small_number()?);
    } else if cursor.take_keyword("meter") {
        exit.kind = crate::ExitKind::Meter;
    }
    Ok(exit)
}

fn native_op(cursor: &mut Cursor<'_>, pending: &mut Pending) -> Parsed<NativeOp> {
    cursor.symbol("@")?;
    let pc = cursor.number()?;
    cursor.keyword("bytes")?;
    let bytes = cursor.choice("the instruction's bytes in hexadecimal", |word| {
        let digits: Option<Vec<u8>> = word.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
        digits.filter(|digits| digits.len().is_multiple_of(2))
    })?;
    let bytes = bytes.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    let inputs = if cursor.take_keyword("in") {
        cursor.list(|cursor| {
            let slot = cursor.slot()?;
            cursor.symbol("=")?;
            Ok((slot, pending.value(cursor)?))
        })?
    } else {
        Vec::new()
    };
    let outputs = if cursor.take_keyword("out") { cursor.list(Cursor::slot)? } else { Vec::new() };
    let memory = cursor.take_keyword("memory");
    Ok(NativeOp { pc, bytes, inputs, outputs, memory, wide: cursor.take_keyword("wide") })
}
