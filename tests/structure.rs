//! The rules of the house that a compiler does not check: which crate may know which, where `unsafe` may stand, what a
//! source may not contain.
//!
//! Every rule is a test that lists all its violations, with file and line. A rule that is in the way is changed here, in
//! the open, with its reason; the lists below are the whole truth about exceptions.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// What a package may depend on, beside itself. Packages that are not listed may depend on everything, and so may tests.
const EDGES: [(&str, &[&str]); 5] = [
    ("redmagic-ir", &["smallvec", "petgraph"]),
    ("redmagic-passes", &["redmagic-ir"]),
    ("redmagic-lift", &["redmagic-ir", "iced-x86"]),
    ("redmagic-backend", &["redmagic-ir", "cranelift-codegen", "cranelift-frontend", "cranelift-native", "rustc-hash"]),
    (
        "redmagic",
        &[
            "redmagic-ir",
            "redmagic-passes",
            "redmagic-lift",
            "redmagic-backend",
            "iced-x86",
            "libc",
            "smallvec",
            "clap",
            "serde_json",
        ],
    ),
];

/// Crates that do not use `unsafe` at all, and say so to the compiler.
const SAFE_CRATES: [&str; 4] = ["ir", "passes", "lift", "backend"];

/// Files that may use `unsafe`, and what for.
const UNSAFE: &[(&str, &str)] = &[
    ("src/bin/redmagic/executed.rs", "controls other processes"),
    ("src/calls.rs", "activation records, and the guest's stack"),
    ("src/capi.rs", "the C interface: symbols, and pointers that the host passes"),
    ("src/entry.rs", "called by stubs with the thread's context and its activation records"),
    ("src/fork_check/child.rs", "forks, and runs machine code"),
    ("src/fork_check/follow.rs", "executes the guest's instructions"),
    ("src/fork_check/pages.rs", "reads two address spaces"),
    ("src/fork_check/tests/mod.rs", "forks, and has guest code"),
    ("src/functions.rs", "dlsym"),
    ("src/interpret.rs", "the evaluator works on the guest's memory"),
    ("src/loops.rs", "a table that is read without a lock"),
    ("src/memory.rs", "mappings, signal masks, the guest's memory"),
    ("src/modules.rs", "the loader's list of modules"),
    ("src/reclaim.rs", "frees what threads have shared"),
    ("src/recorder/log.rs", "reads what the guest accesses"),
    ("src/recorder/mod.rs", "executes the guest's instructions"),
    ("src/records.rs", "activation records are shared with machine code"),
    ("src/regions.rs", "thread-local storage and activation records that machine code shares"),
    ("src/runtime.rs", "registers fork handlers"),
    ("src/stubs.rs", "machine code"),
    ("src/thread.rs", "thread-local storage that machine code shares"),
    ("src/words.rs", "words that the header's macros share"),
    ("benches/api.rs", "calls the C interface"),
    ("fuzz/src/native.rs", "executes instructions on the machine"),
    ("hosts/lua/src/bin/plain-lua.rs", "calls the C program"),
    ("hosts/lua/src/bin/plain-lua55.rs", "calls the C program"),
    ("hosts/lua/src/bin/redmagic-lua55.rs", "names the C program"),
    ("hosts/lua/src/compare.rs", "getrusage"),
    ("hosts/lua/src/host.rs", "calls the C program"),
    ("hosts/lua/src/main.rs", "names the C program"),
    ("hosts/lua/tests/signals.rs", "sends a signal"),
    ("backend/tests/common/mod.rs", "runs compiled code"),
];

/// Where instructions of the machine are known. Elsewhere they are events, operations, bytes.
const DECODING: [(&str, &str); 3] = [
    ("lift/", "gives instructions their meaning"),
    ("src/recorder/", "executes instructions"),
    ("src/bin/redmagic/main.rs", "lifts bytes from the command line"),
];

const MAX_LINES: usize = 700;
/// A justification stands at most so many lines above what it justifies.
const REASON_DISTANCE: usize = 6;

/// A file of the repository.
struct Source {
    /// Its path from the root, with `/` between the parts.
    name: String,
    text: String,
}

impl Source {
    fn is(&self, extensions: &[&str]) -> bool {
        Path::new(&self.name).extension().is_some_and(|own| extensions.iter().any(|other| own == *other))
    }

    /// Whether a line (from 0) belongs to tests. Test modules stand at the end of a file.
    fn is_test(&self, line: usize) -> bool {
        let folder =
            |name: &str| self.name.starts_with(&format!("{name}/")) || self.name.contains(&format!("/{name}/"));
        folder("tests") || folder("benches") || folder("examples") || self.name.starts_with("fuzz/") || {
            let begin = self.text.lines().position(|line| line.trim() == "#[cfg(test)]");
            begin.is_some_and(|begin| line >= begin)
        }
    }

    /// The text of Rust code with blanks in the place of comments and of what stands in quotation marks.
    fn code(&self) -> String {
        let bytes = self.text.as_bytes();
        let mut code = String::with_capacity(bytes.len());
        let mut at = 0;
        while at < bytes.len() {
            let rest = &self.text[at..];
            let length = skipped(rest).unwrap_or(0);
            if length > 0 {
                code.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
                at += length;
            } else {
                let first = rest.chars().next().map_or(1, char::len_utf8);
                code.push_str(&rest[..first]);
                at += first;
            }
        }
        code
    }
}

/// The length of the comment or literal that Rust code begins with, if it begins with one.
fn skipped(code: &str) -> Option<usize> {
    let until = |end: &str, from: usize| code[from..].find(end).map_or(code.len(), |at| from + at + end.len());
    if code.starts_with("//") {
        return Some(code.find('\n').unwrap_or(code.len()));
    }
    if code.starts_with("/*") {
        return Some(until("*/", 2));
    }
    if let Some(raw) = code.strip_prefix("r").filter(|raw| raw.starts_with('"') || raw.starts_with("#\"")) {
        let (open, close) = if raw.starts_with('"') { (2, "\"") } else { (3, "\"#") };
        return Some(until(close, open));
    }
    let quote = code.chars().next().filter(|c| *c == '"' || *c == '\'')?;
    let mut escaped = false;
    let mut end = None;
    for (at, c) in code.char_indices().skip(1) {
        if !escaped && c == quote {
            end = Some(at + 1);
            break;
        }
        escaped = !escaped && c == '\\';
        if quote == '\'' && !escaped && at > 12 {
            break;
        }
    }
    match (quote, end) {
        ('"', end) => Some(end.unwrap_or(code.len())),
        // 'a' and '\n' are characters; 'a without an end is a lifetime.
        (_, Some(end)) if code[1..end - 1].chars().count() == 1 || code[1..].starts_with('\\') => Some(end),
        _ => None,
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All text files of the repository in a fixed order.
fn sources() -> Vec<Source> {
    let mut folders = vec![root()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let hidden = name.starts_with('.') && name != ".ci";
            if path.is_dir() && !hidden && name != "target" {
                folders.push(path);
            } else if path.is_file() && !hidden {
                files.push(path);
            }
        }
    }
    files.sort();
    let source = |path: PathBuf| {
        let name = path.strip_prefix(root()).expect("below the root").to_string_lossy().replace('\\', "/");
        fs::read_to_string(&path).ok().map(|text| Source { name, text })
    };
    files.into_iter().filter_map(source).collect()
}

/// Lines (from 0) of `text` with `word`, which is no part of a longer one.
fn lines_with<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let whole = move |line: &str| {
        line.match_indices(word)
            .any(|(at, _)| !part(line[..at].chars().next_back()) && !part(line[at + word.len()..].chars().next()))
    };
    text.lines().enumerate().filter(move |(_, line)| whole(line))
}

/// Fails with the list of violations if there are any.
fn none(rule: &str, violations: &[String]) {
    assert!(
        violations.is_empty(),
        "{rule}:\n{}",
        violations.iter().fold(String::new(), |mut list, violation| {
            let _ = writeln!(list, "  {violation}");
            list
        })
    );
}

#[test]
fn dependencies_point_down() {
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(root())
        .output()
        .expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let mut wrong = Vec::new();
    for (name, allowed) in EDGES {
        let package = packages.iter().find(|package| package["name"] == name).expect("every listed package exists");
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let other = dependency["name"].as_str().expect("a name");
            if dependency["kind"] != "dev" && !allowed.contains(&other) {
                wrong.push(format!("{name} depends on {other}"));
            }
        }
    }
    none("dependencies beside those of the plan", &wrong);
}

#[test]
fn instructions_and_the_code_generator_are_known_in_few_places() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.is(&["rs"])) {
        let code = source.code();
        let mut check = |word: &str, allowed: bool| {
            let found = lines_with(&code, word).filter(|(line, _)| !allowed && !source.is_test(*line));
            wrong.extend(found.map(|(line, _)| format!("{}:{}: {word}", source.name, line + 1)));
        };
        check("iced_x86", DECODING.iter().any(|(place, _)| source.name.starts_with(place)));
        for part in ["cranelift_codegen", "cranelift_frontend", "cranelift_native"] {
            check(part, source.name.starts_with("backend/"));
        }
    }
    none("a crate is used where it should not be known", &wrong);
}

#[test]
fn unsafe_code_stands_in_few_files() {
    let sources = sources();
    let mut wrong = Vec::new();
    for source in sources.iter().filter(|source| source.is(&["rs"])) {
        let uses = lines_with(&source.code(), "unsafe").next().map(|(line, _)| line + 1);
        let listed = UNSAFE.iter().any(|(name, _)| *name == source.name);
        match uses {
            Some(line) if !listed => {
                wrong.push(format!("{}:{line}: `unsafe` in a file that is not listed", source.name))
            }
            None if listed => wrong.push(format!("{}: listed without need", source.name)),
            _ => {}
        }
    }
    for name in SAFE_CRATES {
        let file = format!("{name}/src/lib.rs");
        let source = sources.iter().find(|source| source.name == file).expect("every crate has a root");
        if !source.text.contains("#![forbid(unsafe_code)]") {
            wrong.push(format!("{file}: does not forbid unsafe code"));
        }
    }
    none("unsafe code", &wrong);
}

#[test]
fn unsafe_code_says_why_it_is_sound() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.is(&["rs"])) {
        let lines: Vec<&str> = source.text.lines().collect();
        for (line, code) in lines_with(&source.code(), "unsafe") {
            let attribute = code.contains("#[unsafe(");
            let near = &lines[line.saturating_sub(REASON_DISTANCE)..=line];
            if !attribute && !near.iter().any(|line| line.contains("SAFETY:") || line.contains("# Safety")) {
                wrong.push(format!("{}:{}: {}", source.name, line + 1, lines[line].trim()));
            }
        }
    }
    none("unsafe code without a word on its safety", &wrong);
}

#[test]
fn nothing_panics_in_a_host() {
    let ways = [".unwrap()", ".expect(", "panic!(", "todo!(", "unimplemented!(", "unreachable!("];
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.is(&["rs"])) {
        let code = source.code();
        for (line, (code, text)) in code.lines().zip(source.text.lines()).enumerate() {
            let panics = ways.iter().any(|way| code.contains(way));
            if panics && !text.contains("// invariant:") && !source.is_test(line) {
                wrong.push(format!("{}:{}: {}", source.name, line + 1, text.trim()));
            }
        }
    }
    none("panics without a word on why they cannot happen", &wrong);
}

#[test]
fn files_are_short_and_have_one_concept() {
    let mut wrong = Vec::new();
    for source in &sources() {
        let lines = source.text.lines().count();
        if source.is(&["rs", "c", "cpp", "h", "py", "sh", "lua"]) && lines > MAX_LINES {
            wrong.push(format!("{}: {lines} lines", source.name));
        }
        let heap = ["utils", "util", "helpers", "helper", "misc"];
        if source.is(&["rs"]) && source.name.trim_end_matches(".rs").split('/').any(|part| heap.contains(&part)) {
            wrong.push(format!("{}: a heap of things, not a concept", source.name));
        }
    }
    none("files", &wrong);
}

#[test]
fn texts_speak_of_the_project() {
    // In pieces, so that this file does not contain them.
    let unfinished = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["X", "XX"].concat()];
    let foreign = [["ses", "sion"].concat(), ["ses", "sions"].concat()];
    let places = ["work", "tmp", "root", "home"].map(|folder| format!("/{folder}/"));
    let mut wrong = Vec::new();
    for source in
        sources().iter().filter(|source| source.is(&["rs", "c", "cpp", "h", "py", "sh", "lua", "md", "toml", "tir"]))
    {
        for word in &unfinished {
            let found = lines_with(&source.text, word);
            wrong.extend(found.map(|(line, _)| format!("{}:{}: {word}", source.name, line + 1)));
        }
        let lower = source.text.to_lowercase();
        for word in &foreign {
            let found = lines_with(&lower, word);
            wrong.extend(found.map(|(line, _)| format!("{}:{}: {word}", source.name, line + 1)));
        }
        for (line, text) in source.text.lines().enumerate() {
            // A path begins where no name ends before it.
            let begins = |place: &String| {
                text.match_indices(place.as_str())
                    .any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric() || "._-~/}".contains(c)))
            };
            if places.iter().any(begins) {
                wrong.push(format!("{}:{}: a path of one machine: {}", source.name, line + 1, text.trim()));
            }
        }
    }
    none("words that do not belong", &wrong);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.is(&["md"])) {
        let folder = root().join(&source.name).parent().expect("a folder").to_path_buf();
        for (line, text) in source.text.lines().enumerate() {
            let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
            for target in targets.filter(|target| !target.is_empty() && !target.contains("://")) {
                if !folder.join(target).exists() {
                    wrong.push(format!("{}:{}: {target}", source.name, line + 1));
                }
            }
        }
    }
    none("links to nothing", &wrong);
}

#[test]
fn every_function_and_option_is_documented() {
    let read = |name: &str| fs::read_to_string(root().join(name)).expect("a file of the repository");
    let (header, api, readme, options) =
        (read("include/redmagic.h"), read("docs/api.md"), read("README.md"), read("src/options.rs"));
    let mut wrong = Vec::new();
    for word in header.split(|c: char| !c.is_alphanumeric() && c != '_') {
        let public = word.starts_with("redmagic_") && !word.ends_with('_');
        if public && !api.contains(word) {
            wrong.push(format!("docs/api.md does not mention {word}"));
        }
    }
    let names =
        options.split("NAMES: [").nth(1).and_then(|rest| rest.split("];").next()).expect("the table of options");
    for name in names.split('"').skip(1).step_by(2).filter(|name| *name != "enabled") {
        let variable = format!("`REDMAGIC_{}", name.to_ascii_uppercase());
        if !readme.contains(&variable) {
            wrong.push(format!("README.md does not mention {variable}`"));
        }
    }
    wrong.sort();
    wrong.dedup();
    none("documentation", &wrong);
}

#[test]
fn comments_and_literals_are_told_from_code() {
    let text =
        "let a = \"un\\\"safe\"; // unsafe\nlet b: &'static str = r#\"unsafe\"#; let c = '\"'; unsafe {}".to_owned();
    let code = Source { name: "a.rs".to_owned(), text }.code();
    let found: Vec<usize> = lines_with(&code, "unsafe").map(|(line, _)| line).collect();
    assert_eq!(found, [1]);
    assert_eq!(lines_with(&code, "unsafe").map(|(_, line)| line.matches("unsafe").count()).sum::<usize>(), 1);
    assert!(code.contains("&'static str"));
}
