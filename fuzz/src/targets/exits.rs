//! Blocks and loops: the three sources agree wherever the trace is left, by itself or because a guard was made to fail.

use super::{Finding, with_bench};
use crate::oracle::Failure;
use crate::rng::Rng;
use redmagic_passes::Pipeline;

/// Runs one case.
pub fn run(data: &[u8]) -> Result<(), Finding> {
    let mut rng = Rng::from_bytes(data);
    let pipeline = pipeline(&mut rng);
    with_bench(|bench| {
        let result = match rng.below(3) {
            0 => bench.block(pipeline.as_ref(), &mut rng),
            _ => bench.sweep(pipeline.as_ref(), &mut rng),
        };
        match result {
            Err(Failure::Mismatch(text)) => Err(text),
            Err(Failure::Refused(_) | Failure::Load(_) | Failure::Compile(_)) | Ok(()) => Ok(()),
        }
    })
}

/// No passes, the default ones, or a list of some.
pub(super) fn pipeline(rng: &mut Rng) -> Option<Pipeline> {
    match rng.below(4) {
        0 => None,
        1 | 2 => Some(Pipeline::default()),
        _ => {
            let names: Vec<_> = Pipeline::names().collect();
            let list: Vec<_> = (0..1 + rng.below(6)).map(|_| *rng.pick(&names)).collect();
            Pipeline::parse(&list.join(",")).ok()
        }
    }
}
