//! Embeds sentences with a compiled plan, prints nearest neighbours, and compares with the plan of the unpruned model.
//!
//! ```text
//! sentences PLAN --tokenizer tokenizer.json --sentences sentences.txt [--reference DENSE_PLAN] [--save-inputs DIR]
//! ```

use clap::Parser;
use slidec_samples::embed::{self, Batch, Error};
use sliderun::plan::Plan;
use sliderun::session::{Device, Session, SessionOptions};
use sliderun::tool::npy;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Sentences in one run of the plan.
const BATCH: usize = 16;
/// Sentences whose neighbours are printed.
const SHOWN: usize = 8;

/// Embed sentences with a compiled plan and print nearest neighbours.
#[derive(Parser)]
struct Arguments {
    /// Plan of a sentence encoder with inputs `input_ids` and `attention_mask`.
    plan: PathBuf,
    /// The model's tokenizer.json.
    #[arg(long)]
    tokenizer: PathBuf,
    /// Text file, one sentence a line.
    #[arg(long)]
    sentences: PathBuf,
    /// Plan to compare the embeddings with.
    #[arg(long)]
    reference: Option<PathBuf>,
    /// Where to write the first batch's inputs as .npy.
    #[arg(long)]
    save_inputs: Option<PathBuf>,
}

fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    let text = std::fs::read_to_string(&arguments.sentences)?;
    let sentences: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    let tokenizer = embed::tokenizer(&arguments.tokenizer, 128)?;
    let batches = sentences.chunks(BATCH).map(|c| embed::tokenize(&tokenizer, c)).collect::<Result<Vec<_>, _>>()?;
    if let (Some(folder), Some(first)) = (&arguments.save_inputs, batches.first()) {
        std::fs::create_dir_all(folder)?;
        npy::write(first.input_ids.view(), &mut File::create(folder.join("input_ids.npy"))?)?;
        npy::write(first.attention_mask.view(), &mut File::create(folder.join("attention_mask.npy"))?)?;
    }

    let embeddings = run(&arguments.plan, &batches)?;
    let neighbours = embed::nearest(&embeddings);
    if let Some(reference) = &arguments.reference {
        let reference = run(reference, &batches)?;
        let cosines: Vec<f64> = embeddings.iter().zip(&reference).map(|(a, b)| embed::cosine(a, b)).collect();
        let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
        let worst = cosines.iter().copied().fold(f64::INFINITY, f64::min);
        let kept = embed::nearest(&reference).iter().zip(&neighbours).filter(|(a, b)| a.0 == b.0).count();
        println!("cosine to the reference embeddings: mean {mean:.4}, worst {worst:.4}, over {} sentences", cosines.len());
        println!("nearest neighbour kept: {kept} of {} ({:.3})", cosines.len(), kept as f64 / cosines.len() as f64);
    }
    println!();
    for i in (0..sentences.len()).step_by(sentences.len().div_ceil(SHOWN).max(1)) {
        let (j, cosine) = neighbours[i];
        println!("{cosine:.3}  {}\n       {}", sentences[i], sentences[j]);
    }
    Ok(())
}

fn run(plan: &Path, batches: &[Batch]) -> Result<Vec<Vec<f32>>, Error> {
    let session = Session::new(Arc::new(Plan::open(plan)?), Device::Cpu, SessionOptions::default())?;
    let start = Instant::now();
    let mut embeddings = Vec::new();
    for batch in batches {
        embeddings.extend(embed::embed(&session, batch)?);
    }
    let per_sentence = start.elapsed().as_secs_f64() * 1e3 / embeddings.len().max(1) as f64;
    println!("{}: {} sentences, {per_sentence:.2} ms each", plan.display(), embeddings.len());
    Ok(embeddings)
}
