//! One instruction: hardware, evaluator and compiled code do the same.

use super::{Finding, with_bench};
use crate::corpus::{Corpus, is_executable_alone, placed};
use crate::oracle::Failure;
use crate::rng::Rng;
use crate::shapes::{Places, Shapes};
use iced_x86::{CpuidFeature, Decoder, DecoderOptions, Encoder, FlowControl, Instruction};
use std::sync::LazyLock;

/// States for each case.
const STATES: usize = 16;

static CORPUS: LazyLock<Vec<Instruction>> = LazyLock::new(|| {
    let corpus = Corpus::parse(include_str!("../../corpus/instructions.txt"));
    corpus.instructions().copied().collect()
});
static SHAPES: LazyLock<Shapes> = LazyLock::new(Shapes::all);

/// Runs one case.
pub fn run(data: &[u8]) -> Result<(), Finding> {
    let mut rng = Rng::from_bytes(data);
    with_bench(|bench| {
        let Some(inst) = instruction(&bench.places, &mut rng) else { return Ok(()) };
        match bench.single(&inst, STATES, &mut rng) {
            Err(Failure::Mismatch(text)) => Err(text),
            // What is refused or has no encoding leaves nothing to compare.
            Err(Failure::Refused(_) | Failure::Load(_) | Failure::Compile(_)) | Ok(()) => Ok(()),
        }
    })
}

fn is_x87(feature: CpuidFeature) -> bool {
    use CpuidFeature as F;
    matches!(feature, F::FPU | F::FPU287 | F::FPU387 | F::FPU287XL_ONLY | F::FPU387SL_ONLY)
}

fn instruction(places: &Places, rng: &mut Rng) -> Option<Instruction> {
    let decode = |bytes: &[u8]| {
        let inst = Decoder::with_ip(64, bytes, places.pads[0] + 64, DecoderOptions::NONE).decode();
        let straight = matches!(inst.flow_control(), FlowControl::Next | FlowControl::ConditionalBranch);
        // The x87 stack would carry over from one run to the next.
        let stack = inst.is_invalid() || inst.cpuid_features().iter().any(|feature| is_x87(*feature));
        (straight && !stack && is_executable_alone(&inst)).then_some(inst)
    };
    let inst = match rng.below(8) {
        0 => decode(&std::array::from_fn::<u8, 15, _>(|_| rng.below(256) as u8))?,
        1..4 => {
            let code = SHAPES.codes[rng.bits() as usize % SHAPES.codes.len()];
            return SHAPES.instruction(code, places, rng);
        }
        choice => {
            let inst = CORPUS[rng.bits() as usize % CORPUS.len()];
            let mut encoder = Encoder::new(64);
            encoder.encode(&inst, places.pads[0] + 64).ok()?;
            let mut bytes = encoder.take_buffer();
            if choice > 4 {
                let at = rng.below(bytes.len());
                bytes[at] ^= 1 << rng.below(8);
            }
            bytes.resize(15, 0);
            decode(&bytes)?
        }
    };
    placed(&inst, places, rng)
}
