//! The Lua programs in `programs/`, for the tests and the measurements.
//!
//! Every program takes its size as the first argument, prints results that depend on nothing else, and says in its
//! second line how large it is for a test (a few milliseconds) and under an instruction counter (a few million
//! instructions):
//!
//! ```text
//! -- Sums integers; the sum wraps around.
//! -- sizes: test=1000 idle=200000
//! ```

use std::path::{Path, PathBuf};

/// One program.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Program {
    /// The file's name without its extension.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    text: String,
}

impl Program {
    /// The size for `purpose`, "test" or "idle", or `None` if the second line does not give it.
    pub fn size(&self, purpose: &str) -> Option<u64> {
        let sizes = self.text.lines().nth(1)?.strip_prefix("-- sizes: ")?;
        let size = sizes.split(' ').find_map(|size| size.strip_prefix(purpose)?.strip_prefix('='))?;
        size.parse().ok()
    }
}

/// All programs by name.
pub fn all() -> std::io::Result<Vec<Program>> {
    let mut programs = Vec::new();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("programs"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "lua") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path)?;
            programs.push(Program { name, path, text });
        }
    }
    programs.sort();
    Ok(programs)
}
