//! Models of well-known architectures with random weights, written as PyTorch's exporter writes them: decomposed, with the extents computed in
//! the graph, large weights in a data file beside the model.
//!
//! They are for measuring and for testing what the compiler recognises; what they compute means nothing.
//!
//! Must not know: the command line, plans.

pub mod blocks;
pub mod decoder;
pub mod encoder;
pub mod exporter;
#[cfg(test)]
mod tests;
pub mod vit;
pub mod weights;

use decoder::{Decoder, Flavour};
use encoder::Encoder;
use slidec::onnx::ModelError;
use slidec::sparsity::WeightError;
use sliderun::dtype::DType;
use sliderun::sparse::Pattern;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;
use vit::Vit;

/// Versions of ONNX's operators that models can be written in.
pub const OPSETS: RangeInclusive<i64> = 14..=17;

/// What the user chooses beside the architecture.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many layers; the architecture's own number by default, one of a decoder.
    pub layers: Option<usize>,
    /// Element type of parameters and activations: f32, bf16 or f16.
    pub dtype: DType,
    /// A pattern that the weights of linear layers satisfy.
    pub prune: Option<Pattern>,
    /// Whether a decoder has K and V of earlier tokens as inputs.
    pub past: bool,
    /// Whether a BERT begins with token ids.
    pub embeddings: bool,
    /// Version of ONNX's operators, of [`OPSETS`].
    pub opset: i64,
    /// The same seed gives the same model.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options { layers: None, dtype: DType::F32, prune: None, past: false, embeddings: false, opset: 17, seed: 0 }
    }
}

/// Why a model was not generated.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum GenerateError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("a weight cannot be pruned")]
    Weight(#[from] WeightError),
    #[error("no architecture is called '{0}'; --list shows them all")]
    UnknownArchitecture(String),
    #[error("'{architecture}' has no {option}; only {family} have")]
    OptionOfAnotherFamily { architecture: &'static str, option: &'static str, family: &'static str },
    #[error("a model needs one layer at least")]
    NoLayers,
    #[error("parameters of type {0} are not generated; f32, bf16 and f16 are")]
    UnsupportedType(DType),
    #[error("opset {0} is not written; {low} to {high} are", low = OPSETS.start(), high = OPSETS.end())]
    UnsupportedOpset(i64),
}

/// Sizes of an architecture, by family.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Family {
    Decoder(Decoder),
    Encoder(Encoder),
    Vit(Vit),
}

/// An architecture that can be generated.
#[derive(Clone, Copy, Debug)]
pub struct Architecture {
    /// As the user writes it.
    pub name: &'static str,
    /// Its sizes.
    pub family: Family,
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, sizes): (_, &dyn fmt::Display) = match &self.family {
            Family::Decoder(d) => ("decoder", d),
            Family::Encoder(e) => ("encoder", e),
            Family::Vit(v) => ("ViT", v),
        };
        write!(f, "{:14} {kind}: {sizes}", self.name)
    }
}

const fn decoder(
    name: &'static str,
    flavour: Flavour,
    [hidden, intermediate, heads, kv_heads, head]: [usize; 5],
    theta: f64,
    epsilon: f32,
) -> Architecture {
    let decoder = Decoder { flavour, hidden, intermediate, heads, kv_heads, head, theta, epsilon };
    Architecture { name, family: Family::Decoder(decoder) }
}

const fn encoder(name: &'static str, [hidden, intermediate, heads, layers, vocabulary, positions]: [usize; 6]) -> Architecture {
    Architecture { name, family: Family::Encoder(Encoder { hidden, intermediate, heads, layers, vocabulary, positions }) }
}

const fn vit(name: &'static str, [hidden, heads, layers, patch, image, classes]: [usize; 6]) -> Architecture {
    Architecture { name, family: Family::Vit(Vit { hidden, heads, layers, patch, image, classes }) }
}

/// Every architecture. Sizes are those of the models' published configurations; the tiny ones are for tests.
pub const ARCHITECTURES: &[Architecture] = &[
    decoder("llama-3.2-1b", Flavour::Llama, [2048, 8192, 32, 8, 64], 5e5, 1e-5),
    decoder("llama-3.2-3b", Flavour::Llama, [3072, 8192, 24, 8, 128], 5e5, 1e-5),
    decoder("qwen2.5-7b", Flavour::Qwen, [3584, 18944, 28, 4, 128], 1e6, 1e-6),
    decoder("qwen2.5-14b", Flavour::Qwen, [5120, 13824, 40, 8, 128], 1e6, 1e-6),
    decoder("bitnet-2b", Flavour::BitNet, [2560, 6912, 20, 5, 128], 5e5, 1e-5),
    encoder("bert-base", [768, 3072, 12, 12, 30522, 512]),
    encoder("bert-large", [1024, 4096, 16, 24, 30522, 512]),
    vit("vit-s", [384, 6, 12, 16, 224, 1000]),
    vit("vit-b", [768, 12, 12, 16, 224, 1000]),
    vit("vit-l", [1024, 16, 24, 16, 224, 1000]),
    decoder("tiny-decoder", Flavour::Qwen, [64, 96, 4, 2, 16], 1e4, 1e-6),
    decoder("tiny-llama", Flavour::Llama, [64, 96, 4, 2, 16], 1e4, 1e-5),
    decoder("tiny-bitnet", Flavour::BitNet, [64, 96, 4, 2, 16], 1e4, 1e-5),
    encoder("tiny-encoder", [64, 128, 4, 2, 1000, 32]),
    vit("tiny-vit", [64, 4, 2, 8, 32, 10]),
];

impl Architecture {
    /// The architecture of that name.
    ///
    /// # Errors
    /// [`GenerateError::UnknownArchitecture`].
    pub fn by_name(name: &str) -> Result<&'static Architecture, GenerateError> {
        ARCHITECTURES.iter().find(|a| a.name == name).ok_or_else(|| GenerateError::UnknownArchitecture(name.to_owned()))
    }

    /// Writes a model to `path`, its large weights to `path` with `.data` appended, and gives its number of parameters.
    ///
    /// # Errors
    /// Options that the architecture does not have, and what cannot be written.
    pub fn generate(&self, path: &Path, options: &Options) -> Result<u64, GenerateError> {
        let refuse = |option, family| GenerateError::OptionOfAnotherFamily { architecture: self.name, option, family };
        if options.past && !matches!(self.family, Family::Decoder(_)) {
            return Err(refuse("past", "decoders"));
        }
        if options.embeddings && !matches!(self.family, Family::Encoder(_)) {
            return Err(refuse("embeddings", "encoders"));
        }
        if !options.dtype.computes_in_f32() {
            return Err(GenerateError::UnsupportedType(options.dtype));
        }
        if !OPSETS.contains(&options.opset) {
            return Err(GenerateError::UnsupportedOpset(options.opset));
        }
        if options.layers == Some(0) {
            return Err(GenerateError::NoLayers);
        }
        match &self.family {
            Family::Decoder(d) => d.generate(path, options.layers.unwrap_or(1), options),
            Family::Encoder(e) => e.generate(path, options.layers.unwrap_or(e.layers), options),
            Family::Vit(v) => v.generate(path, options.layers.unwrap_or(v.layers), options),
        }
    }
}
