//! What the passes leave of all that is recorded of the programs.
//!
//! Every program of `hosts/lua/programs` runs in `redmagic-lua` at the size for an instruction counter; each trace that it
//! leaves in a file is optimised again and weighed as the loops are, once through: the innermost loop of a trace that has
//! one, else all of it. The weights of a program's traces, together, are compared with the instructions recorded for them.

use crate::{Failure, command, sections};
use lua_runs::programs;
use redmagic_ir::parse_one;
use redmagic_passes::{Pipeline, optimise, path_weight};
use std::path::Path;

/// What one program came to.
#[derive(Default)]
struct Row {
    traces: usize,
    recorded: usize,
    /// Within an iteration, and by all passes.
    left: [usize; 2],
}

/// Prints the table.
pub fn table() -> Result<(), Failure> {
    let folder = Path::new("hosts/lua/programs");
    let programs = programs::all().map_err(|error| Failure::Io(folder.display().to_string(), error))?;
    println!("| program | traces | recorded instructions | straight line leaves | with loops | removed |");
    println!("|---|---|---|---|---|---|");
    let (mut logarithms, mut rows) = ([0.0; 2], 0);
    for program in &programs {
        let row = weigh(program)?;
        if row.recorded == 0 {
            continue;
        }
        let left = row.left.map(|left| left as f64 / row.recorded as f64);
        logarithms.iter_mut().zip(left).for_each(|(sum, left)| *sum += left.ln());
        rows += 1;
        let Row { traces, recorded, left: [straight, looped] } = row;
        let removed = removed(left[1]);
        println!("| {} | {traces} | {recorded} | {straight} | {looped} | {removed:.0}% |", program.name);
    }
    let [straight, looped] = logarithms.map(|sum| removed((sum / f64::from(rows.max(1))).exp()));
    println!(
        "\nremoved, geometric mean of {rows} programs: {straight:.1}% within an iteration, {looped:.1}% with loops"
    );
    Ok(())
}

/// What is gone of a whole of which this part is left, in percent.
fn removed(left: f64) -> f64 {
    100.0 * (1.0 - left)
}

/// Runs a program and weighs its traces.
fn weigh(program: &programs::Program) -> Result<Row, Failure> {
    let size = program.size("idle").unwrap_or(1);
    let texts = command(&program.name, |command| {
        command.arg(&program.path).arg(size.to_string());
    })?;
    let mut row = Row::default();
    for text in &texts {
        let (recorded, lifted) = (sections(text, "recorded"), sections(text, "lifted"));
        // What could not be lifted or optimised has no text.
        let Ok(trace) = parse_one(lifted) else { continue };
        row.traces += 1;
        row.recorded += recorded.lines().filter(|line| !line.is_empty()).count();
        let all = Pipeline::default();
        for (left, passes) in row.left.iter_mut().zip([all.without("loops"), all]) {
            let mut after = trace.clone();
            optimise(&mut after, &passes);
            *left += path_weight(&after).total() as usize;
        }
    }
    Ok(row)
}
