//! A file per trace, with everything that is known of it: for people, and for shrinking what went wrong.
//!
//! Sections are added as the stages of the compiler finish, so that a failure shows what it failed on. Nothing is formatted
//! unless a directory was asked for.

use std::fmt::Write;
use std::path::PathBuf;

/// The report of one trace.
pub struct Report {
    file: Option<PathBuf>,
    text: String,
}

impl Report {
    /// A report of `kind` on trace `number` in `directory`, if there is one.
    pub fn new(directory: Option<&PathBuf>, kind: &str, number: u64) -> Report {
        let file = directory.map(|directory| directory.join(format!("{kind}-{}-{number}.txt", std::process::id())));
        Report { file, text: String::new() }
    }

    /// Adds a section.
    pub fn section(&mut self, title: &str, body: impl FnOnce() -> String) {
        if self.file.is_some() {
            let _ = writeln!(self.text, "==== {title}\n{}\n", body());
        }
    }

    /// Writes the file. Failures to write are ignored: dumps must not disturb the host.
    pub fn write(self) {
        if let Some(file) = self.file {
            let _ = file.parent().map(std::fs::create_dir_all);
            let _ = std::fs::write(file, self.text);
        }
    }
}
