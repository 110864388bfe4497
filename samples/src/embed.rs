//! Sentence embeddings with a plan of a BERT-like encoder and its tokenizer.

use sliderun::session::Session;
use sliderun::tensor::Tensor;
use std::path::Path;
use tokenizers::{PaddingParams, Tokenizer, TruncationParams};

/// Anything that can go wrong, as a message for the user.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Tokenized sentences: `input_ids` and `attention_mask`, i64 [batch, sequence], padded to the longest one.
pub struct Batch {
    /// Token ids.
    pub input_ids: Tensor,
    /// 1 for tokens, 0 for padding.
    pub attention_mask: Tensor,
}

/// Reads a tokenizer and sets it to pad each batch to its longest sentence and to cut sentences at `max_tokens`.
///
/// # Errors
/// A file that cannot be read or is no tokenizer.
pub fn tokenizer(file: &Path, max_tokens: usize) -> Result<Tokenizer, Error> {
    let mut tokenizer = Tokenizer::from_file(file)?;
    tokenizer.with_padding(Some(PaddingParams::default()));
    tokenizer.with_truncation(Some(TruncationParams { max_length: max_tokens, ..Default::default() }))?;
    Ok(tokenizer)
}

/// Tokenizes sentences into one batch.
///
/// # Errors
/// A sentence that the tokenizer refuses.
pub fn tokenize(tokenizer: &Tokenizer, sentences: &[&str]) -> Result<Batch, Error> {
    let encodings = tokenizer.encode_batch(sentences.to_vec(), true)?;
    let length = encodings.first().map_or(0, |e| e.get_ids().len());
    let matrix = |row: fn(&tokenizers::Encoding) -> &[u32]| {
        let values: Vec<i64> = encodings.iter().flat_map(|e| row(e).iter().map(|v| i64::from(*v))).collect();
        Tensor::from_slice(&[encodings.len(), length], &values)
    };
    Ok(Batch { input_ids: matrix(|e| e.get_ids())?, attention_mask: matrix(|e| e.get_attention_mask())? })
}

/// Runs a batch and gives one embedding per sentence, scaled to length 1: rows of the last output that is
/// f32 [batch, width].
///
/// # Errors
/// A plan without such an output, or one that does not take the batch.
pub fn embed(session: &Session, batch: &Batch) -> Result<Vec<Vec<f32>>, Error> {
    let inputs = [("input_ids", batch.input_ids.view()), ("attention_mask", batch.attention_mask.view())];
    let outputs = session.run(&inputs)?;
    let sentences = batch.input_ids.shape()[0];
    let embeddings = outputs
        .iter()
        .rev()
        .find(|(_, t)| t.shape().len() == 2 && t.shape()[0] == sentences && t.as_slice::<f32>().is_some())
        .ok_or("the plan has no f32 output of one row per sentence")?;
    let width = embeddings.1.shape()[1];
    let values = embeddings.1.as_slice::<f32>().ok_or("checked above")?;
    Ok(values.chunks_exact(width).map(unit).collect())
}

fn unit(v: &[f32]) -> Vec<f32> {
    let norm = v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    v.iter().map(|x| (f64::from(*x) / norm) as f32).collect()
}

/// Cosine of two embeddings of length 1.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

/// For each embedding, the index of the other one that is nearest to it, and their cosine.
pub fn nearest(embeddings: &[Vec<f32>]) -> Vec<(usize, f64)> {
    (0..embeddings.len())
        .map(|i| {
            let others = (0..embeddings.len()).filter(|j| *j != i).map(|j| (j, cosine(&embeddings[i], &embeddings[j])));
            others.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((i, 1.0))
        })
        .collect()
}
