//! Every difference that was ever found, compared again.

use redmagic_fuzz::bench::{Bench, Forced};
use redmagic_fuzz::finding::Finding;
use redmagic_passes::Pipeline;
use std::fs;
use std::path::Path;

#[test]
fn what_was_found_once_is_right_now() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("findings");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    let mut bench = Bench::new();
    for path in paths {
        let finding = Finding::parse(&fs::read_to_string(&path).unwrap()).unwrap();
        let insts = finding.instructions(bench.executor.block_address());
        assert_eq!(insts.len(), finding.code.len(), "{}", path.display());
        let pipeline = finding.passes.as_deref().map(|list| Pipeline::parse(list).unwrap());
        let forced = finding.force.map(Forced::guard);
        if let Err(failure) = bench.compare(&insts, pipeline.as_ref(), forced.as_ref(), &finding.starts) {
            panic!("{}: {failure}", path.display());
        }
    }
    assert!(bench.tally.compared > 0 && bench.tally.compiled > 0, "{}", bench.tally);
}

/// The text of a finding is the finding.
#[test]
fn text_is_read_as_it_is_written() {
    let text = "passes fold,flags\nforce 2\ncode 4801c8\ncode 90\n\
        state rax=0x1 flags=0x40 xmm0.lo=0x7 ymm3.hi=0x9 mxcsr=0x3f80\n\
        memory 0x340=0100ff00000000000000000000000000\n";
    assert_eq!(Finding::parse(text).unwrap().to_string(), text);
    assert!(Finding::parse("code 4").is_err());
    assert!(Finding::parse("nonsense").is_err());
}
