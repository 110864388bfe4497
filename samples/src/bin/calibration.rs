//! Makes calibration data of text: a folder of .npz files, each a batch of all inputs of a model by name, for `--calib`.
//!
//! ```text
//! calibration MODEL.onnx --tokenizer tokenizer.json --text sentences.txt --out FOLDER [--batch 32] [--tokens 128]
//! ```
//!
//! For images there is `samples/calibration_images.py`.

use clap::Parser;
use slidec::import::{ImportOptions, import};
use slidec::onnx::OnnxModel;
use slidec::verify::write_npz;
use slidec_samples::calibration::TextInputs;
use slidec_samples::embed::Error;
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;

/// Make calibration data of text: a folder of .npz files, each a batch of sentences of one length, without padding.
#[derive(Parser)]
struct Arguments {
    /// The model whose inputs are made: input_ids, attention_mask, token_type_ids and position_ids, as far as it has them.
    model: PathBuf,
    /// The model's tokenizer.json.
    #[arg(long)]
    tokenizer: PathBuf,
    /// Text file, one sentence or paragraph a line.
    #[arg(long)]
    text: PathBuf,
    /// The folder to write, which must not have .npz files yet.
    #[arg(long)]
    out: PathBuf,
    /// Most sentences in a batch.
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Where longer lines are cut.
    #[arg(long, default_value_t = 128)]
    tokens: usize,
}

fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    let graph = import(&OnnxModel::open(&arguments.model)?, &ImportOptions::default())?;
    let inputs = TextInputs::of(&graph)?;
    let text = std::fs::read_to_string(&arguments.text).map_err(|e| format!("{}: {e}", arguments.text.display()))?;
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    let mut tokenizer = Tokenizer::from_file(&arguments.tokenizer)?;
    let batches = inputs.batches(&mut tokenizer, &lines, arguments.batch, arguments.tokens)?;

    empty_folder(&arguments.out)?;
    let (mut sentences, mut tokens) = (0, 0);
    for (i, batch) in batches.iter().enumerate() {
        let shape = batch.values().next().ok_or("the model has no inputs")?.shape();
        sentences += shape[0];
        tokens += shape.iter().product::<usize>();
        write_npz(&arguments.out.join(format!("{i:04}-{}x{}.npz", shape[0], shape[1])), batch)?;
    }
    let out = arguments.out.display();
    println!("{out}: {sentences} of {} sentences, {tokens} tokens in {} batches", lines.len(), batches.len());
    if let Some(tokens) = inputs.padded_to() {
        println!("the model takes {tokens} tokens only: shorter sentences are padded, and statistics will count the padding");
    }
    Ok(())
}

/// Makes a folder; all .npz files of one count as calibration data, so there must be none.
fn empty_folder(folder: &Path) -> Result<(), Error> {
    let failed = |e: std::io::Error| format!("{}: {e}", folder.display());
    std::fs::create_dir_all(folder).map_err(failed)?;
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|e| e == "npz") {
            return Err(format!("{} is there already: give a new folder", path.display()).into());
        }
    }
    Ok(())
}
