//! Splits the text form into tokens.
//!
//! There are three kinds: *words* (letters, digits, `_` and `.`: names, opcodes, numbers, hexadecimal bytes), quoted
//! text, and symbols. What a word means depends on where it stands, so the parser decides. White space separates words
//! and means nothing else; a comment runs from `;` to the end of its line.
//!
//! Worked example: `v3: i64 = load.frame [v1 - 8] ; top` is `v3`, `:`, `i64`, `=`, `load.frame`, `[`, `v1`, `-`, `8`,
//! `]`.

use crate::parse::{ParseError, ParseErrorKind};
use std::fmt;

/// One token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// A name, an opcode, or a number.
    Word(&'a str),
    /// Quoted text, its escapes replaced.
    Quoted(String),
    /// Punctuation.
    Symbol(&'static str),
    /// The end of the text.
    End,
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Word(word) => write!(f, "`{word}`"),
            Token::Quoted(text) => write!(f, "{text:?}"),
            Token::Symbol(symbol) => write!(f, "`{symbol}`"),
            Token::End => f.write_str("the end of the text"),
        }
    }
}

/// A place in the text, both counted from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

/// Longer symbols stand before their prefixes.
const SYMBOLS: [&str; 15] = ["->", "=>", "(", ")", "{", "}", "[", "]", ":", "=", ",", "+", "-", "*", "@"];

/// Whether a word may contain `c`.
pub(crate) fn is_word_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '.'
}

/// All tokens of `text`; the last is [`Token::End`].
pub(crate) fn tokens(text: &str) -> Result<Vec<(Token<'_>, Position)>, ParseError> {
    let mut lexer = Lexer { rest: text, position: Position { line: 1, column: 1 } };
    let mut all = Vec::new();
    loop {
        let (token, position) = lexer.next()?;
        let end = token == Token::End;
        all.push((token, position));
        if end {
            return Ok(all);
        }
    }
}

struct Lexer<'a> {
    rest: &'a str,
    position: Position,
}

impl<'a> Lexer<'a> {
    fn advance(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        for c in taken.chars() {
            if c == '\n' {
                self.position = Position { line: self.position.line + 1, column: 1 };
            } else {
                self.position.column += 1;
            }
        }
        self.rest = rest;
        taken
    }

    fn skip_blanks(&mut self) {
        loop {
            let blank = self.rest.len() - self.rest.trim_start().len();
            let comment = if blank == 0 && self.rest.starts_with(';') {
                self.rest.find('\n').unwrap_or(self.rest.len())
            } else {
                0
            };
            if blank + comment == 0 {
                return;
            }
            self.advance(blank + comment);
        }
    }

    fn next(&mut self) -> Result<(Token<'a>, Position), ParseError> {
        self.skip_blanks();
        let start = self.position;
        let Some(first) = self.rest.chars().next() else {
            return Ok((Token::End, start));
        };
        if is_word_character(first) {
            let len = self.rest.find(|c| !is_word_character(c)).unwrap_or(self.rest.len());
            return Ok((Token::Word(self.advance(len)), start));
        }
        if first == '"' {
            return Ok((Token::Quoted(self.quoted()?), start));
        }
        let Some(symbol) = SYMBOLS.into_iter().find(|symbol| self.rest.starts_with(symbol)) else {
            return Err(ParseError::new(start, ParseErrorKind::Character(first)));
        };
        self.advance(symbol.len());
        Ok((Token::Symbol(symbol), start))
    }

    fn quoted(&mut self) -> Result<String, ParseError> {
        let start = self.position;
        let mut text = String::new();
        let mut escaped = false;
        for (at, c) in self.rest.char_indices().skip(1) {
            match c {
                '\n' => break,
                'n' if escaped => text.push('\n'),
                _ if escaped => text.push(c),
                '\\' => {
                    escaped = true;
                    continue;
                }
                '"' => {
                    self.advance(at + 1);
                    return Ok(text);
                }
                _ => text.push(c),
            }
            escaped = false;
        }
        Err(ParseError::new(start, ParseErrorKind::OpenQuote))
    }
}
