//! Addresses in the text of a trace, moved to where they are the same in every process.
//!
//! # Invariants
//! Addresses keep their order, and those of one mapping (all of a file's, the heap's, the stack's) their distances. So
//! whatever the optimiser computes from them is the same but for the move.
//!
//! # Worked example
//! With the heap mapped at 0x5555_5566_0000, of which the trace mentions 0x5555_5566_1008 first, `load [v1] @0x555555661008`
//! becomes `load [v1] @0x300000008`, if two mappings that lie before it are mentioned.

use std::collections::BTreeMap;

/// The distance of mappings in the result.
const DISTANCE: u64 = 1 << 32;
/// Lower numbers are no addresses.
const LEAST: u64 = 1 << 16;

/// A mapping: its range, and a number that all mappings of a file share.
struct Mapping {
    start: u64,
    end: u64,
    group: usize,
}

/// Moves all addresses in `text`; `maps` is the process's `/proc/self/maps`.
pub fn normalise(text: &str, maps: &str) -> String {
    let mappings = mappings(maps);
    let group = |address: u64| {
        let inside = |mapping: &&Mapping| mapping.start <= address && address <= mapping.end;
        mappings.iter().find(inside).map(|mapping| mapping.group)
    };
    // The least address of each group that is mentioned; groups are numbered by it.
    let mut least: BTreeMap<usize, u64> = BTreeMap::new();
    for (_, _, number) in numbers(text) {
        if let Some(group) = group(number) {
            let least = least.entry(group).or_insert(number);
            *least = number.min(*least);
        }
    }
    let mut order: Vec<(u64, usize)> = least.iter().map(|(group, least)| (*least, *group)).collect();
    order.sort_unstable();
    let mut result = String::with_capacity(text.len());
    let mut done = 0;
    for (start, end, number) in numbers(text) {
        let Some(group) = group(number) else { continue };
        let Some(place) = order.iter().position(|known| known.1 == group) else { continue };
        // Alignment is kept up to a cache line.
        let base = order[place].0 & !63;
        result.push_str(&text[done..start]);
        result.push_str(&format!("{:#x}", (place as u64 + 1) * DISTANCE + (number - base)));
        done = end;
    }
    result + &text[done..]
}

fn mappings(maps: &str) -> Vec<Mapping> {
    let mut files: Vec<String> = Vec::new();
    let mut mappings = Vec::new();
    for (at, line) in maps.lines().enumerate() {
        let Some((start, rest)) = line.split_once('-') else { continue };
        let mut words = rest.split_whitespace();
        let end = words.next().unwrap_or("");
        let (Ok(start), Ok(end)) = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16)) else { continue };
        let file = words.nth(4).map_or_else(|| format!("anonymous {at}"), str::to_owned);
        let group = files.iter().position(|known| *known == file).unwrap_or_else(|| {
            files.push(file);
            files.len() - 1
        });
        mappings.push(Mapping { start, end, group });
    }
    mappings
}

/// The hexadecimal numbers in `text` that can be addresses: where they begin and end, and what they are.
fn numbers(text: &str) -> impl Iterator<Item = (usize, usize, u64)> + '_ {
    text.match_indices("0x").filter_map(|(start, _)| {
        let digits = &text[start + 2..];
        let length = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
        let number = u64::from_str_radix(&digits[..length], 16).ok().filter(|number| *number >= LEAST)?;
        // Behind a number, a dash makes a range.
        let mut before = text[..start].chars().rev();
        let negative = before.next() == Some('-') && !before.next().is_some_and(|c| c.is_ascii_hexdigit());
        (!negative).then_some((start, start + 2 + length, number))
    })
}
