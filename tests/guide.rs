//! The guide for annotating an interpreter quotes all that the patch for Lua adds, and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// How often each line is added.
fn added<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, u32> {
    let mut added = BTreeMap::new();
    for line in lines.filter(|line| line.starts_with('+') && !line.starts_with("+++")) {
        let line = line[1..].trim();
        if !line.is_empty() {
            *added.entry(line).or_default() += 1;
        }
    }
    added
}

#[test]
fn the_guide_quotes_the_patch() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| fs::read_to_string(root.join(name)).expect("a file of the repository");
    let (patch, guide) = (read("hosts/lua/patches/lua54.patch"), read("docs/annotate.md"));
    let quoted = guide.split("```diff\n").skip(1).filter_map(|block| block.split("```").next());
    assert_eq!(added(quoted.flat_map(str::lines)), added(patch.lines()));
}

/// A line of a trace without the numbers of values, segments and exits.
fn without_numbers(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line.trim();
    while let Some(c) = rest.chars().next() {
        let name = ["seg", "exit", "v"].into_iter().find(|name| {
            let digits = rest.strip_prefix(name);
            digits.is_some_and(|digits| digits.starts_with(|c: char| c.is_ascii_digit()))
        });
        match name {
            Some(name) => {
                text += name;
                rest = rest[name.len()..].trim_start_matches(|c: char| c.is_ascii_digit());
            }
            None => {
                text.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    text
}

/// The segments in `text` that go on with themselves, each as lines.
fn loops(text: &str) -> Vec<Vec<&str>> {
    let mut segments: Vec<Vec<&str>> = Vec::new();
    for line in text.lines() {
        match (line.starts_with("seg"), line.starts_with("  ")) {
            (true, _) => segments.push(vec![line]),
            (false, true) if !segments.is_empty() => segments.last_mut().into_iter().for_each(|last| last.push(line)),
            _ => {}
        }
    }
    let name = |lines: &[&str]| lines[0].split('(').next().unwrap_or("").to_owned();
    let again = |lines: &[&str]| lines.last().is_some_and(|last| last.contains(&format!("{}(", name(lines))));
    segments.retain(|lines| again(lines));
    segments
}

#[test]
fn the_simplest_loop_is_as_the_documents_show_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| fs::read_to_string(root.join(name)).expect("a file of the repository");
    let (test, document) = (read("tests/filetests/loops/int_sum.tir"), read("docs/performance.md"));
    let optimised = test.split_once("; all passes").expect("the optimised form").1;
    let copies = loops(optimised);
    let second = copies.last().expect("a loop");
    let operations = &second[1..];
    assert!(operations.len() <= 8, "{second:#?}");
    assert!(!operations.iter().any(|line| line.contains("load") || line.contains("store")), "{second:#?}");
    let shown = document.split_once("x = x + i end").expect("the loop").1;
    let shown = shown.split("```").nth(1).expect("its trace").trim_start_matches("text\n");
    let plain = |lines: &[&str]| lines.iter().map(|line| without_numbers(line)).collect::<Vec<_>>();
    assert_eq!(plain(&shown.lines().collect::<Vec<_>>()), plain(second));
}
