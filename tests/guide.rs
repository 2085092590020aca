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
