//! The documentation lists what the lifter does; `BLESS=1` rewrites it.

use redmagic_fuzz::page::{lifted_codes, page};
use redmagic_fuzz::shapes::Shapes;

#[test]
fn the_page_of_supported_instructions_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/supported-instructions.md");
    let expected = page();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(found == expected, "{path} is out of date; BLESS=1 rewrites it");
}

/// What the page promises: a comparison of every lifted encoding.
#[test]
fn every_lifted_encoding_is_compared_with_the_hardware() {
    use iced_x86::Mnemonic as M;
    let shapes = Shapes::all();
    let missing: Vec<_> = lifted_codes()
        .into_iter()
        .filter(|code| !shapes.codes.contains(code))
        // They do nothing, or depend on the processor's state of mind.
        .filter(|code| {
            let name = format!("{:?}", code.mnemonic());
            let idle = matches!(code.mnemonic(), M::Nop | M::Endbr64 | M::Endbr32 | M::Pause);
            !idle && !name.starts_with("Prefetch")
        })
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
