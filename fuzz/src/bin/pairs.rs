//! Compares hardware and compiled code until a number of pairs or of seconds is reached.
//!
//! `cargo run --release -p redmagic-fuzz --bin pairs -- 1000000000 1500` makes a thousand million pairs, in at most 25
//! minutes: rounds over the corpus, with other states and other compiled code in each. A finding is printed as a file for
//! `fuzz/findings`, and the soak goes on with the next instruction.

use redmagic_fuzz::bench::Bench;
use redmagic_fuzz::corpus::Corpus;
use redmagic_fuzz::rng::Rng;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// States for each instruction in a round.
const STATES: u64 = 4096;
/// The evaluator takes part in one of so many.
const EVERY: u64 = 256;

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>().unwrap_or(0));
    let pairs = numbers.next().unwrap_or(10_000_000);
    let limit = Duration::from_secs(numbers.next().unwrap_or(600));
    let seed = numbers.next().unwrap_or(1);
    let corpus = Corpus::parse(include_str!("../../corpus/instructions.txt"));
    let mut bench = Bench::new();
    let (start, mut findings) = (Instant::now(), 0);
    'rounds: for round in 0.. {
        for (number, inst) in corpus.instructions().enumerate() {
            let done = bench.tally.pairs + bench.tally.compared;
            if done >= pairs || start.elapsed() >= limit {
                break 'rounds;
            }
            let mut rng = Rng::new((seed << 48) + (round << 24) + number as u64);
            if let Err(failure) = bench.many(inst, STATES, EVERY, &mut rng) {
                findings += 1;
                println!("round {round}, instruction {number}: {failure}");
            }
        }
    }
    let (done, seconds) = (bench.tally.pairs + bench.tally.compared, start.elapsed().as_secs_f64());
    println!("{done} pairs in {seconds:.1} s, {:.0} ns each; {findings} findings", seconds * 1e9 / done as f64);
    println!("{}", bench.tally);
    if findings == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
