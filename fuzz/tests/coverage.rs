//! How much of what interpreters consist of is lifted: the shares that `redmagic coverage` prints, of files of this machine.

use redmagic_lift::coverage::{Coverage, executable_sections};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders where interpreters and their libraries are.
const FOLDERS: [&str; 5] = ["/usr/bin", "/usr/local/bin", "/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/local/lib"];
/// Interpreters, by the beginning of the name of the program or the library.
const INTERPRETERS: [(&str, &[&str]); 10] = [
    ("CPython", &["python3", "libpython3"]),
    ("Perl", &["perl", "libperl"]),
    ("Lua", &["lua5", "liblua5"]),
    ("LuaJIT", &["luajit", "libluajit"]),
    ("Ruby", &["ruby", "libruby"]),
    ("PHP", &["php", "libphp"]),
    ("Bash", &["bash"]),
    ("Tcl", &["tclsh", "libtcl8"]),
    ("Guile", &["guile", "libguile"]),
    ("Gawk", &["gawk", "mawk"]),
];
/// A program with fewer instructions only starts a library.
const FEWEST: u64 = 10_000;

/// The share of a file's instructions that is lifted, x87 left out, and how many there are.
fn share(path: &Path) -> Option<(f64, u64)> {
    let file = fs::read(path).ok()?;
    let mut coverage = Coverage::default();
    executable_sections(&file).ok()?.iter().for_each(|section| coverage.add(section));
    Some((coverage.share(), coverage.count(|_| true)))
}

/// The files of `FOLDERS` whose names begin so, each once.
fn files(prefixes: &[&str]) -> BTreeSet<PathBuf> {
    let entries = FOLDERS.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let named =
        entries.filter(|entry| prefixes.iter().any(|prefix| entry.file_name().to_string_lossy().starts_with(prefix)));
    named.filter_map(|entry| fs::canonicalize(entry.path()).ok()).filter(|path| path.is_file()).collect()
}

#[test]
fn interpreters_are_lifted() {
    let mut found = 0;
    for (name, prefixes) in INTERPRETERS {
        let shares: Vec<_> = files(prefixes)
            .into_iter()
            .filter_map(|path| share(&path).map(|share| (path, share)))
            .filter(|(_, (_, count))| *count >= FEWEST)
            .collect();
        if shares.is_empty() {
            println!("{name}: not on this machine");
        }
        for (path, (share, count)) in shares {
            println!("{name}: {:.4}% of {count} instructions ({})", share * 100.0, path.display());
            assert!(share >= 0.999, "{}: {share}", path.display());
            found += 1;
        }
    }
    println!("{found} files");
}

#[test]
fn the_c_library_is_lifted() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let library = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| path.contains("/libc.so"));
    // Linked statically, it is part of this program.
    let path = library.map_or_else(|| std::env::current_exe().unwrap(), PathBuf::from);
    let (share, count) = share(&path).unwrap();
    println!("{:.4}% of {count} instructions ({})", share * 100.0, path.display());
    assert!(share >= 0.97 && count > 100_000, "{share} of {count}");
}
