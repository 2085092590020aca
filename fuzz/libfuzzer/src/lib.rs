//! Runs the targets of `redmagic-fuzz` as libFuzzer wants it: a finding is printed as a test file and ends the process.

use redmagic_fuzz::targets::Target;

/// Runs one case of the target called `name`.
pub fn run(name: &str, data: &[u8]) {
    let Some(target) = Target::named(name) else { return };
    if let Err(finding) = target.run(data) {
        eprintln!("{name}: {finding}");
        std::process::abort();
    }
}
