//! Texts to vectors: a tokenizer and a plan of a BERT-like encoder.

use std::num::NonZero;
use std::time::{Duration, Instant};

use sliderun::plan::Plan;
use sliderun::session::{Device, Session, SessionOptions};
use sliderun::tensor::Tensor;
use tokenizers::{Encoding, PaddingParams, Tokenizer, TruncationParams};

use crate::Error;

/// Tokens of a text that count; what is behind them is cut.
const MOST_TOKENS: usize = 128;

/// Turns texts into vectors of length 1, whose dot products are the cosines of their meanings.
pub struct Embedder {
    tokenizer: Tokenizer,
    session: Session,
}

/// How long the parts of an embedding took.
pub struct Times {
    /// Text to token ids.
    pub tokens: Duration,
    /// The plan.
    pub plan: Duration,
}

impl Embedder {
    /// An embedder of a plan with the inputs `input_ids` and `attention_mask`, i64 [texts, tokens], and other ones filled with zeros (token
    /// types), and of its tokenizer's `tokenizer.json`.
    ///
    /// # Errors
    /// What is no plan or no tokenizer.
    pub fn new(plan: &'static [u8], tokenizer: &[u8], threads: Option<NonZero<usize>>) -> Result<Self, Error> {
        let mut tokenizer = Tokenizer::from_bytes(tokenizer)?;
        tokenizer.with_padding(Some(PaddingParams::default()));
        tokenizer.with_truncation(Some(TruncationParams { max_length: MOST_TOKENS, ..Default::default() }))?;
        let mut options = SessionOptions::default();
        options.threads = threads.map(NonZero::get);
        let session = Session::new(Plan::from_bytes(plan)?.into(), Device::Cpu, options)?;
        Ok(Embedder { tokenizer, session })
    }

    /// One vector for each text.
    ///
    /// # Errors
    /// A plan that does not take tokens, or has no f32 output of one row for each text.
    pub fn embed(&self, texts: &[&str]) -> Result<(Vec<Vec<f32>>, Times), Error> {
        let start = Instant::now();
        let encodings = self.tokenizer.encode_batch(texts.to_vec(), true)?;
        let tokens = start.elapsed();
        let inputs = self.inputs(&encodings)?;
        let views: Vec<_> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect();
        let start = Instant::now();
        let outputs = self.session.run(&views)?;
        let plan = start.elapsed();
        let per_text = |t: &Tensor| t.shape().len() == 2 && t.shape()[0] == texts.len();
        let rows = outputs.iter().rev().find_map(|(_, t)| Some((t.as_slice::<f32>().filter(|_| per_text(t))?, t.shape()[1])));
        let (values, width) = rows.ok_or("the plan has no f32 output of one row for each text")?;
        Ok((values.chunks_exact(width).map(unit).collect(), Times { tokens, plan }))
    }

    fn inputs(&self, encodings: &[Encoding]) -> Result<Vec<(String, Tensor)>, Error> {
        let shape = [encodings.len(), encodings.first().map_or(0, Encoding::len)];
        let matrix = |row: fn(&Encoding) -> &[u32]| -> Result<Tensor, Error> {
            let values: Vec<i64> = encodings.iter().flat_map(|e| row(e).iter().map(|v| i64::from(*v))).collect();
            Ok(Tensor::from_slice(&shape, &values)?)
        };
        let input = |name: &str| match name {
            "input_ids" => matrix(Encoding::get_ids),
            "attention_mask" => matrix(Encoding::get_attention_mask),
            "token_type_ids" => matrix(Encoding::get_type_ids),
            other => Err(format!("the plan's input '{other}' is none of input_ids, attention_mask and token_type_ids").into()),
        };
        self.session.inputs().iter().map(|port| Ok((port.name.clone(), input(&port.name)?))).collect()
    }
}

fn unit(v: &[f32]) -> Vec<f32> {
    let norm = v.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    v.iter().map(|x| x / norm).collect()
}
