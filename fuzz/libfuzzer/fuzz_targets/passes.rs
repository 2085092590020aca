//! The target `passes` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| redmagic_libfuzzer::run("passes", data));
