//! Text: the parser and the verifier are content with everything and surprised by nothing.

use super::{Finding, caught};
use crate::rng::Rng;
use redmagic_ir::sandbox::TestGuest;
use redmagic_ir::{parse, verify};

/// Traces with much in them, to start from.
const SEEDS: &[&str] = &[
    include_str!("../../../tests/filetests/text/everything.tir"),
    include_str!("../../../tests/filetests/text/loop_nest.tir"),
    include_str!("../../../tests/filetests/text/resume.tir"),
    include_str!("../../../tests/filetests/text/side_trace.tir"),
    include_str!("../../../tests/filetests/verify/structure.tir"),
];

/// What stands between the words that a mutation exchanges.
const SEPARATORS: &[char] = &[' ', '\n', ',', '(', ')', '{', '}', '[', ']'];

const NUMBERS: &[&str] = &["0 ", "-1 ", "0xffffffffffffffff ", "v0 ", "seg0 ", "exit0 ", "99999999999999999999 "];

/// Runs one case.
pub fn run(data: &[u8]) -> Result<(), Finding> {
    let text = String::from_utf8_lossy(data);
    let finding = |what: &str| format!("{what}\nAs a file in tests/filetests/text:\n; test: text\n{text}");
    let Ok(traces) = caught(|| parse(&text)).map_err(|panic| finding(&format!("the parser panics: {panic}")))? else {
        return Ok(());
    };
    for trace in &traces {
        let printed = trace.to_string();
        let again = parse(&printed).map_err(|error| finding(&format!("what was printed is no trace: {error}")))?;
        let same = matches!(&again[..], [again] if again.to_string() == printed);
        if !same {
            return Err(finding("the printed text is not a fixed point"));
        }
        let valid = caught(|| verify(trace)).map_err(|panic| finding(&format!("the verifier panics: {panic}")))?;
        if valid.is_err() {
            continue;
        }
        let run = || redmagic_ir::sandbox::run(trace, &mut TestGuest::new(1), 500).is_ok();
        caught(run).map_err(|panic| finding(&format!("the evaluator panics: {panic}")))?;
    }
    Ok(())
}

/// A test file with some words exchanged, repeated or left out, or a number changed.
pub(super) fn made_up(rng: &mut Rng) -> Vec<u8> {
    let mut words: Vec<&str> = rng.pick(SEEDS).split_inclusive(SEPARATORS).collect();
    let other: Vec<&str> = rng.pick(SEEDS).split_inclusive(SEPARATORS).collect();
    for _ in 0..1 + rng.below(4) {
        let at = rng.below(words.len());
        match rng.below(5) {
            0 => drop(words.remove(at)),
            1 => words.insert(at, *rng.pick(&other)),
            2 => words[at] = *rng.pick(&other),
            3 => words[at] = *rng.pick(NUMBERS),
            _ => {
                let second = rng.below(words.len());
                words.swap(at, second);
            }
        }
    }
    words.concat().into_bytes()
}
