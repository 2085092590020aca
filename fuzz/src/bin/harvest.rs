//! Collects the distinct instructions of executables in the corpus's text form.
//!
//! Worked example: `cargo run -p redmagic-fuzz --bin harvest -- /usr/bin/perl /usr/bin/bash > fuzz/corpus/instructions.txt`.
//! A file whose name ends in `.txt` is a corpus, to which the others add.

use redmagic_fuzz::corpus::Corpus;
use redmagic_lift::coverage::executable_sections;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut corpus = Corpus::default();
    for file in std::env::args().skip(1) {
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) => {
                eprintln!("{file}: {error}");
                return ExitCode::FAILURE;
            }
        };
        if file.ends_with(".txt") {
            corpus.extend(&String::from_utf8_lossy(&bytes));
            continue;
        }
        match executable_sections(&bytes) {
            Ok(sections) => sections.iter().for_each(|section| corpus.collect(section)),
            Err(error) => {
                eprintln!("{file}: {error}");
                return ExitCode::FAILURE;
            }
        }
        eprintln!("{file}: {} distinct instructions so far", corpus.len());
    }
    print!("{}", corpus.text());
    ExitCode::SUCCESS
}
