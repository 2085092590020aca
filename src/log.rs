//! The log: a line at a time, to a file or to standard error. Silent unless asked.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

/// Writes one line. Failures to write are ignored: there is nobody to tell.
pub fn line(path: Option<&Path>, text: &str) {
    let text = format!("redmagic: {text}\n");
    match path {
        None => drop(std::io::stderr().write_all(text.as_bytes())),
        Some(path) => {
            if let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path) {
                drop(file.write_all(text.as_bytes()));
            }
        }
    }
}
