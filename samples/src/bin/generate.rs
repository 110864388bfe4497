//! Writes a model of a well-known architecture with random weights, as PyTorch's exporter would.
//!
//! ```text
//! generate --list
//! generate qwen2.5-7b --out layer.onnx [--layers 1] [--dtype bf16] [--prune 6:8] [--past] [--seed 0]
//! ```

use clap::{Parser, ValueEnum};
use slidec_samples::models::{ARCHITECTURES, Architecture, GenerateError, Options};
use sliderun::dtype::DType;
use sliderun::sparse::Pattern;
use std::path::PathBuf;
use std::process::ExitCode;

/// Write an ONNX model of a well-known architecture with random weights.
#[derive(Parser)]
struct Arguments {
    /// The architecture.
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// Print the architectures and their sizes.
    #[arg(long)]
    list: bool,
    /// Where to write the model; weights go to the same name with .data appended.
    #[arg(long, required_unless_present = "list")]
    out: Option<PathBuf>,
    /// How many layers: all by default, one of a decoder.
    #[arg(long)]
    layers: Option<usize>,
    /// Element type of parameters and activations.
    #[arg(long, value_enum, default_value_t = Float::F32)]
    dtype: Float,
    /// Prune the weights of linear layers by magnitude to a pattern such as 6:8.
    #[arg(long)]
    prune: Option<Pattern>,
    /// Take K and V of earlier tokens as inputs; decoders only.
    #[arg(long)]
    past: bool,
    /// Begin with token ids; encoders only.
    #[arg(long)]
    embeddings: bool,
    /// Version of ONNX's operators, 14 to 17; before 17, LayerNorm is decomposed.
    #[arg(long, default_value_t = 17)]
    opset: i64,
    /// The same seed gives the same model.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Float {
    F32,
    Bf16,
    F16,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let mut cause: Option<&dyn std::error::Error> = Some(&e);
            while let Some(error) = cause {
                eprintln!("generate: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), GenerateError> {
    let (Some(name), Some(out), false) = (arguments.name, arguments.out, arguments.list) else {
        ARCHITECTURES.iter().for_each(|a| println!("{a}"));
        return Ok(());
    };
    let dtype = match arguments.dtype {
        Float::F32 => DType::F32,
        Float::Bf16 => DType::Bf16,
        Float::F16 => DType::F16,
    };
    let options = Options {
        layers: arguments.layers,
        dtype,
        prune: arguments.prune,
        past: arguments.past,
        embeddings: arguments.embeddings,
        opset: arguments.opset,
        seed: arguments.seed,
    };
    let parameters = Architecture::by_name(&name)?.generate(&out, &options)?;
    println!("{}: {:.1} million parameters", out.display(), parameters as f64 / 1e6);
    Ok(())
}
