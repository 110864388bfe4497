//! BERT encoders, as Hugging Face's implementation with eager attention is exported.
//!
//! Inputs: with embeddings `input_ids` and `token_type_ids` i64 [batch, sequence_length], otherwise `hidden_states`
//! [batch, sequence_length, hidden]; `attention_mask` i64 [batch, sequence_length], 0 for padding. Output: `last_hidden_state`.

use slidec::onnx::build::node;
use sliderun::dtype::DType;
use std::fmt;
use std::path::Path;

use super::blocks::{gelu, join_heads, layer_norm, linear, split_heads};
use super::exporter::{Exporter, Extent};
use super::weights::Kind;
use super::{GenerateError, Options};

/// ε of BERT's norms.
const EPSILON: f32 = 1e-12;

/// Sizes of an encoder.
#[derive(Clone, Copy, Debug)]
pub struct Encoder {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Heads; divides `hidden`.
    pub heads: usize,
    /// Layers of the whole model.
    pub layers: usize,
    /// Rows of the table of words.
    pub vocabulary: usize,
    /// Longest sequence.
    pub positions: usize,
}

impl fmt::Display for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Encoder { hidden, intermediate, heads, layers, .. } = self;
        write!(f, "hidden {hidden}, intermediate {intermediate}, {heads} heads of {}, {layers} layers", hidden / heads)
    }
}

impl Encoder {
    /// Writes `layers` layers to `path` and gives the number of parameters.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn generate(&self, path: &Path, layers: usize, options: &Options) -> Result<u64, GenerateError> {
        let mut e = Exporter::new(path, options)?;
        let dtype = e.dtype();
        let hidden = self.hidden.to_string();
        let states = ["batch_size", "sequence_length", &hidden];
        let mut x = if options.embeddings {
            let ids = e.input("input_ids", DType::I64, &states[..2]);
            let types = e.input("token_type_ids", DType::I64, &states[..2]);
            self.embed(&mut e, &ids, &types)?
        } else {
            e.input("hidden_states", dtype, &states)
        };
        let mask = e.input("attention_mask", DType::I64, &states[..2]);
        let mask = extended_mask(&mut e, &mask);
        for layer in 0..layers {
            x = self.layer(&mut e, layer, &x, &mask)?;
        }
        e.output(&x, "last_hidden_state", dtype, &states);
        e.finish()
    }

    fn embed(&self, e: &mut Exporter, ids: &str, types: &str) -> Result<String, GenerateError> {
        let (scope, prefix) = ("/embeddings", "embeddings");
        let tokens = e.extent(scope, ids, 1);
        let [start, axis, step] = [0, 1, 1].map(|n| e.ints(scope, &[n]));
        let end = e.unsqueeze(scope, &tokens, 0);
        let all: Vec<i64> = (0..self.positions as i64).collect();
        let all = sliderun::tensor::Tensor::from_slice(&[1, all.len()], &all).expect("as many elements as the shape says");
        let all = e.constant(scope, &all);
        let positions = e.op(scope, "Slice", &[&all, &start, &end, &axis, &step]);
        let mut gather = |name: &str, rows, ids: &str| -> Result<String, GenerateError> {
            let table = e.parameter(&format!("{prefix}.{name}.weight"), Kind::Table, &[rows, self.hidden])?;
            Ok(e.op(&format!("{scope}/{name}"), "Gather", &[&table, ids]))
        };
        let words = gather("word_embeddings", self.vocabulary, ids)?;
        let types = gather("token_type_embeddings", 2, types)?;
        let places = gather("position_embeddings", self.positions, &positions)?;
        let x = e.op(scope, "Add", &[&words, &types]);
        let x = e.op(scope, "Add", &[&x, &places]);
        layer_norm(e, (&format!("{scope}/LayerNorm"), &format!("{prefix}.LayerNorm")), &x, self.hidden, EPSILON)
    }

    fn layer(&self, e: &mut Exporter, layer: usize, x: &str, mask: &str) -> Result<String, GenerateError> {
        let (scope, prefix) = (format!("/encoder/layer.{layer}"), format!("encoder.layer.{layer}"));
        let project = |e: &mut Exporter, name: &str, x: &str, size| {
            let path = name.replace('/', ".");
            linear(e, (&format!("{scope}/{name}"), &format!("{prefix}.{path}")), x, size, true)
        };
        let norm = |e: &mut Exporter, name: &str, x: &str| {
            let path = name.replace('/', ".");
            layer_norm(e, (&format!("{scope}/{name}"), &format!("{prefix}.{path}")), x, self.hidden, EPSILON)
        };
        let (hidden, head) = (self.hidden, self.hidden / self.heads);
        let attention = format!("{scope}/attention/self");
        let mut heads = Vec::new();
        for (name, perm) in [("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])] {
            let projected = project(e, &format!("attention/self/{name}"), x, [hidden, hidden])?;
            let split = split_heads(e, &attention, &projected, Extent::Known(self.heads as i64), head);
            heads.push(e.transpose(&attention, &split, &perm));
        }
        let scores = e.op(&attention, "MatMul", &[&heads[0], &heads[1]]);
        let root = e.number(&attention, (head as f64).sqrt());
        let scores = e.op(&attention, "Div", &[&scores, &root]);
        let scores = e.op(&attention, "Add", &[&scores, mask]);
        let probabilities = e.add(&attention, node("Softmax", &[&scores], &[]).attr("axis", -1i64));
        let attended = e.op(&attention, "MatMul", &[&probabilities, &heads[2]]);
        let joined = join_heads(e, &attention, &attended, Extent::Known(hidden as i64));

        let attended = project(e, "attention/output/dense", &joined, [hidden, hidden])?;
        let x = e.op(&format!("{scope}/attention/output"), "Add", &[&attended, x]);
        let x = norm(e, "attention/output/LayerNorm", &x)?;
        let wide = project(e, "intermediate/dense", &x, [hidden, self.intermediate])?;
        let wide = gelu(e, &format!("{scope}/intermediate/intermediate_act_fn"), &wide);
        let narrow = project(e, "output/dense", &wide, [self.intermediate, hidden])?;
        let x = e.op(&format!("{scope}/output"), "Add", &[&narrow, &x]);
        norm(e, "output/LayerNorm", &x)
    }
}

/// `(1 - attention_mask[:, None, None, :]) · finfo.min`.
fn extended_mask(e: &mut Exporter, mask: &str) -> String {
    let mask = e.unsqueeze("", mask, 1);
    let mask = e.unsqueeze("", &mask, 2);
    let mask = e.cast("", &mask, e.dtype());
    let one = e.number("", 1.0);
    let absent = e.op("", "Sub", &[&one, &mask]);
    let least = e.smallest("");
    e.op("", "Mul", &[&absent, &least])
}
