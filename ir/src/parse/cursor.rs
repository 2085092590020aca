//! The parser's place in the tokens, and its errors.
//!
//! Every method named after a thing reads that thing or fails with what was expected; those named `take_...` read it if
//! it stands here and say whether it did.
//!
//! Worked example: on `-5`, `immediate(Type::I8)` gives -5; on `300` it fails with `0x12c does not fit i8`.

use crate::lexer::{Position, Token};
use crate::{Inst, Slot, Type};
use std::fmt;

/// Why a text is not a trace, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Line, counted from 1.
    pub line: u32,
    /// Column in characters, counted from 1.
    pub column: u32,
    /// What is wrong there.
    pub kind: ParseErrorKind,
}

/// What is wrong at a place of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseErrorKind {
    /// Something else should stand here.
    Expected {
        /// What should stand here.
        expected: String,
        /// What stands here.
        found: String,
    },
    /// A character that the text form does not use.
    Character(char),
    /// A quote without its end.
    OpenQuote,
    /// The name is defined a second time.
    Redefined(String),
    /// The name is defined nowhere.
    Undefined(String),
    /// The number does not fit.
    Range {
        /// The number as written.
        number: String,
        /// What it should fit.
        limit: String,
    },
    /// The type written here is not the one that the operation has.
    WrongType {
        /// The type that it has.
        has: Type,
        /// The type written here.
        written: Type,
    },
    /// Recipes inside recipes, beyond what the parser follows.
    Nesting,
}

impl ParseError {
    pub(crate) fn new(at: Position, kind: ParseErrorKind) -> ParseError {
        ParseError { line: at.line, column: at.column, kind }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: ", self.line, self.column)?;
        match &self.kind {
            ParseErrorKind::Expected { expected, found } => write!(f, "expected {expected}, found {found}"),
            ParseErrorKind::Character(c) => write!(f, "unexpected character {c:?}"),
            ParseErrorKind::OpenQuote => f.write_str("the quote is not closed on its line"),
            ParseErrorKind::Redefined(name) => write!(f, "{name} is defined a second time"),
            ParseErrorKind::Undefined(name) => write!(f, "{name} is not defined"),
            ParseErrorKind::Range { number, limit } => write!(f, "{number} does not fit {limit}"),
            ParseErrorKind::WrongType { has, written } => write!(f, "this has type {has}, not {written}"),
            ParseErrorKind::Nesting => f.write_str("recipes are nested too deeply; name the inner ones with `let`"),
        }
    }
}

impl std::error::Error for ParseError {}

/// The tokens with a place in them.
pub(crate) struct Cursor<'a> {
    tokens: Vec<(Token<'a>, Position)>,
    at: usize,
}

pub(crate) type Parsed<T> = Result<T, ParseError>;

impl<'a> Cursor<'a> {
    pub(crate) fn new(tokens: Vec<(Token<'a>, Position)>) -> Cursor<'a> {
        Cursor { tokens, at: 0 }
    }

    pub(crate) fn peek(&self) -> &Token<'a> {
        self.peek_at(0)
    }

    pub(crate) fn peek_at(&self, ahead: usize) -> &Token<'a> {
        // The last token is `End`; there is always one.
        &self.tokens[(self.at + ahead).min(self.tokens.len() - 1)].0
    }

    pub(crate) fn position(&self) -> Position {
        self.tokens[self.at.min(self.tokens.len() - 1)].1
    }

    pub(crate) fn advance(&mut self) {
        self.at += 1;
    }

    pub(crate) fn expected<T>(&self, what: impl Into<String>) -> Parsed<T> {
        let kind = ParseErrorKind::Expected { expected: what.into(), found: self.peek().to_string() };
        Err(ParseError::new(self.position(), kind))
    }

    pub(crate) fn error<T>(&self, kind: ParseErrorKind) -> Parsed<T> {
        Err(ParseError::new(self.position(), kind))
    }

    /// The word that stands here, if one does.
    pub(crate) fn peek_word(&self) -> Option<&'a str> {
        if let Token::Word(word) = self.peek() { Some(word) } else { None }
    }

    pub(crate) fn take_symbol(&mut self, symbol: &str) -> bool {
        let here = matches!(self.peek(), Token::Symbol(here) if *here == symbol);
        if here {
            self.advance();
        }
        here
    }

    pub(crate) fn symbol(&mut self, symbol: &str) -> Parsed<()> {
        if self.take_symbol(symbol) { Ok(()) } else { self.expected(format!("`{symbol}`")) }
    }

    pub(crate) fn take_keyword(&mut self, keyword: &str) -> bool {
        let here = self.peek_word() == Some(keyword);
        if here {
            self.advance();
        }
        here
    }

    pub(crate) fn keyword(&mut self, keyword: &str) -> Parsed<()> {
        if self.take_keyword(keyword) { Ok(()) } else { self.expected(format!("`{keyword}`")) }
    }

    /// What `choose` makes of the word that stands here.
    pub(crate) fn choice<T>(&mut self, what: &str, choose: impl FnOnce(&'a str) -> Option<T>) -> Parsed<T> {
        match self.peek_word().and_then(choose) {
            Some(found) => {
                self.advance();
                Ok(found)
            }
            None => self.expected(what),
        }
    }

    pub(crate) fn number(&mut self) -> Parsed<u64> {
        let word = match self.peek_word() {
            Some(word) if word.starts_with(|c: char| c.is_ascii_digit()) => word,
            _ => return self.expected("a number"),
        };
        let (digits, radix) = word.strip_prefix("0x").map_or((word, 10), |digits| (digits, 16));
        if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
            return self.expected("a number");
        }
        match u64::from_str_radix(digits, radix) {
            Ok(number) => {
                self.advance();
                Ok(number)
            }
            Err(_) => self.error(ParseErrorKind::Range { number: word.to_owned(), limit: "64 bits".to_owned() }),
        }
    }

    pub(crate) fn small_number(&mut self) -> Parsed<u32> {
        let at = self.position();
        let number = self.number()?;
        u32::try_from(number).map_err(|_| {
            ParseError::new(at, ParseErrorKind::Range { number: number.to_string(), limit: "32 bits".to_owned() })
        })
    }

    /// A constant of type `ty`: signed or unsigned in its width.
    pub(crate) fn immediate(&mut self, ty: Type) -> Parsed<i64> {
        let at = self.position();
        let negative = self.take_symbol("-");
        let magnitude = self.number()?;
        let bits = ty.bits();
        let (most_negative, most_positive) = match bits {
            0 => (0, 0),
            1 => (0, 1),
            2..=63 => (1u64 << (bits - 1), (1u64 << bits) - 1),
            64 => (1 << 63, u64::MAX),
            // Constants of 128 bits are sign-extended from 64.
            _ => (1 << 63, i64::MAX as u64),
        };
        if magnitude > if negative { most_negative } else { most_positive } {
            let number = format!("{}{magnitude:#x}", if negative { "-" } else { "" });
            return Err(ParseError::new(at, ParseErrorKind::Range { number, limit: ty.to_string() }));
        }
        let number = if negative { magnitude.wrapping_neg() } else { magnitude } as i64;
        // Kept sign-extended from the type's width, as `Inst::constant` does.
        Ok(Inst::constant(ty, number).as_const().unwrap_or(number))
    }

    pub(crate) fn ty(&mut self) -> Parsed<Type> {
        self.choice("a type", Type::from_name)
    }

    pub(crate) fn slot(&mut self) -> Parsed<Slot> {
        self.choice("a slot", Slot::from_name)
    }

    /// The items of a list in parentheses.
    pub(crate) fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        self.symbol("(")?;
        let mut items = Vec::new();
        while !self.take_symbol(")") {
            if !items.is_empty() {
                self.symbol(",")?;
            }
            items.push(item(self)?);
        }
        Ok(items)
    }
}

/// The number in a name such as `v12`.
pub(crate) fn numbered(word: &str, prefix: &str) -> Option<u64> {
    let digits = word.strip_prefix(prefix)?;
    // Only the spelling that the printer uses, so that two spellings cannot mean the same entity.
    let canonical = !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && (digits == "0" || !digits.starts_with('0'));
    if canonical { digits.parse().ok() } else { None }
}
