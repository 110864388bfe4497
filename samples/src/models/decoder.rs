//! Decoder layers of Llama, Qwen2.5 and BitNet, as Hugging Face's implementations with eager attention are exported.
//!
//! Left out: token embeddings, the final norm and the head; Llama 3's scaling of rotary frequencies, which changes numbers and no step;
//! BitNet's ternary weights and 8-bit activations, which are quantization and not architecture.
//!
//! Inputs: `hidden_states` [batch, sequence_length, hidden], `position_ids` i64 [batch, sequence_length] and, with past, each layer's
//! `past_key_values.N.key` and `.value` [batch, kv_heads, past_sequence_length, head]. Outputs: `last_hidden_state`, like
//! `hidden_states`, and each layer's `present.N.key` (rotated) and `present.N.value` [batch, kv_heads, past and sequence, head].

use slidec::onnx::build::node;
use sliderun::dtype::DType;
use sliderun::tensor::Tensor;
use std::fmt;
use std::path::Path;

use super::blocks::{join_heads, linear, rms_norm, split_heads};
use super::exporter::{Exporter, Extent};
use super::{GenerateError, Options};

/// Which family's peculiarities a decoder has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// Gated by SiLU.
    Llama,
    /// Llama with biases on q, k and v.
    Qwen,
    /// Llama gated by squared ReLU, with norms in front of `o_proj` and `down_proj`.
    BitNet,
}

/// Sizes of a decoder.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    /// The family.
    pub flavour: Flavour,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head: usize,
    /// Base of the rotary frequencies.
    pub theta: f64,
    /// ε of the norms.
    pub epsilon: f32,
}

impl fmt::Display for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Decoder { hidden, intermediate, heads, kv_heads, head, .. } = self;
        write!(f, "hidden {hidden}, intermediate {intermediate}, {heads} heads of {head}, {kv_heads} for K and V")
    }
}

/// Values that all layers share.
struct Shared {
    cos: String,
    sin: String,
    mask: String,
}

impl Decoder {
    /// Writes `layers` layers to `path` and gives the number of parameters.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn generate(&self, path: &Path, layers: usize, options: &Options) -> Result<u64, GenerateError> {
        let mut e = Exporter::new(path, options)?;
        let dtype = e.dtype();
        let [hidden, kv_heads, head] = [self.hidden, self.kv_heads, self.head].map(|n| n.to_string());
        let states = ["batch_size", "sequence_length", &hidden];
        let mut x = e.input("hidden_states", dtype, &states);
        let positions = e.input("position_ids", DType::I64, &states[..2]);
        let past = ["batch_size", &kv_heads, "past_sequence_length", &head];
        let past: Vec<[String; 2]> = (0..if options.past { layers } else { 0 })
            .map(|layer| ["key", "value"].map(|what| e.input(&format!("past_key_values.{layer}.{what}"), dtype, &past)))
            .collect();

        let (cos, sin) = self.rotary(&mut e, &positions);
        let mask = self.causal_mask(&mut e, &x, past.first().map(|p| p[0].as_str()));
        let shared = Shared { cos, sin, mask };
        let mut present = Vec::new();
        for layer in 0..layers {
            let (result, kv) = self.layer(&mut e, layer, &x, &shared, past.get(layer))?;
            x = result;
            present.push(kv);
        }
        e.output(&x, "last_hidden_state", dtype, &states);
        let total = if options.past { "past_sequence_length + sequence_length" } else { "sequence_length" };
        for (layer, kv) in present.iter().enumerate() {
            for (value, what) in kv.iter().zip(["key", "value"]) {
                e.output(value, &format!("present.{layer}.{what}"), dtype, &["batch_size", &kv_heads, total, &head]);
            }
        }
        e.finish()
    }

    /// Cosines and sines, [batch, sequence, head], of the angles `position · theta^(-2i / head)`.
    fn rotary(&self, e: &mut Exporter, positions: &str) -> (String, String) {
        let scope = "/model/rotary_emb";
        let half = self.head / 2;
        let frequencies: Vec<f32> = (0..half).map(|i| self.theta.powf(-(i as f64) / half as f64) as f32).collect();
        let frequencies = Tensor::from_slice(&[1, half, 1], &frequencies).expect("as many elements as the shape says");
        let frequencies = e.constant(scope, &frequencies);
        let batch = e.extent(scope, positions, 0);
        let frequencies = e.expand(scope, &frequencies, &[Extent::Of(&batch), Extent::Known(-1), Extent::Known(1)]);
        let positions = e.unsqueeze(scope, positions, 1);
        let positions = e.cast(scope, &positions, DType::F32);
        let angles = e.op(scope, "MatMul", &[&frequencies, &positions]);
        let angles = e.transpose(scope, &angles, &[0, 2, 1]);
        let angles = e.concat(scope, &[&angles, &angles], -1);
        let [cos, sin] = ["Cos", "Sin"].map(|function| {
            let value = e.op(scope, function, &[&angles]);
            // `attention_scaling`, 1 without a scaling of frequencies.
            let one = e.f32(scope, 1.0);
            let value = e.op(scope, "Mul", &[&value, &one]);
            e.cast(scope, &value, e.dtype())
        });
        (cos, sin)
    }

    /// What is added to the scores, [batch, 1, sequence, past and sequence]: the least number where a token is later than the query.
    fn causal_mask(&self, e: &mut Exporter, x: &str, past_key: Option<&str>) -> String {
        let scope = "/model";
        let batch = e.extent(scope, x, 0);
        let sequence = e.extent(scope, x, 1);
        let one = e.int(scope, 1);
        let (first, total) = match past_key {
            Some(key) => {
                let past = e.extent(scope, key, 2);
                let total = e.op(scope, "Add", &[&past, &sequence]);
                (past, total)
            }
            None => (e.int(scope, 0), sequence.clone()),
        };
        let cache_position = e.op(scope, "Range", &[&first, &total, &one]);

        let least = e.smallest(scope);
        let shape = e.shape(scope, &[Extent::Of(&sequence), Extent::Of(&total)]);
        let mask = e.op(scope, "Expand", &[&least, &shape]);
        let diagonal = e.int(scope, 1);
        let mask = e.add(scope, node("Trilu", &[&mask, &diagonal], &[]).attr("upper", 1i64));
        let zero = e.int(scope, 0);
        let keys = e.op(scope, "Range", &[&zero, &total, &one]);
        let queries = e.reshape(scope, &cache_position, &[Extent::Known(-1), Extent::Known(1)]);
        let later = e.op(scope, "Greater", &[&keys, &queries]);
        let later = e.cast(scope, &later, e.dtype());
        let mask = e.op(scope, "Mul", &[&mask, &later]);
        let mask = e.unsqueeze(scope, &mask, 0);
        let mask = e.unsqueeze(scope, &mask, 1);
        e.expand(scope, &mask, &[Extent::Of(&batch), Extent::Known(1), Extent::Known(-1), Extent::Known(-1)])
    }

    fn layer(
        &self,
        e: &mut Exporter,
        layer: usize,
        x: &str,
        shared: &Shared,
        past: Option<&[String; 2]>,
    ) -> Result<(String, [String; 2]), GenerateError> {
        let (scope, prefix) = (format!("/model/layers.{layer}"), format!("model.layers.{layer}"));
        let norm = |e: &mut Exporter, name: &str, x: &str| {
            rms_norm(e, (&format!("{scope}/{name}"), &format!("{prefix}.{name}")), x, self.hidden, self.epsilon)
        };
        let normal = norm(e, "input_layernorm", x)?;
        let (attended, present) =
            self.attention(e, (&format!("{scope}/self_attn"), &format!("{prefix}.self_attn")), &normal, shared, past)?;
        let x = e.op(&scope, "Add", &[x, &attended]);
        let normal = norm(e, "post_attention_layernorm", &x)?;
        let gated = self.mlp(e, (&format!("{scope}/mlp"), &format!("{prefix}.mlp")), &normal)?;
        Ok((e.op(&scope, "Add", &[&x, &gated]), present))
    }

    fn attention(
        &self,
        e: &mut Exporter,
        (scope, prefix): (&str, &str),
        x: &str,
        shared: &Shared,
        past: Option<&[String; 2]>,
    ) -> Result<(String, [String; 2]), GenerateError> {
        let mut heads = Vec::new();
        for (name, count) in [("q_proj", self.heads), ("k_proj", self.kv_heads), ("v_proj", self.kv_heads)] {
            let names = (&*format!("{scope}/{name}"), &*format!("{prefix}.{name}"));
            let projected = linear(e, names, x, [self.hidden, count * self.head], self.flavour == Flavour::Qwen)?;
            let split = split_heads(e, scope, &projected, Extent::Known(-1), self.head);
            heads.push(e.transpose(scope, &split, &[0, 2, 1, 3]));
        }
        let cos = e.unsqueeze(scope, &shared.cos, 1);
        let sin = e.unsqueeze(scope, &shared.sin, 1);
        let query = self.rotate(e, scope, &heads[0], &cos, &sin);
        let mut present = [self.rotate(e, scope, &heads[1], &cos, &sin), heads[2].clone()];
        if let Some(past) = past {
            for (present, past) in present.iter_mut().zip(past) {
                *present = e.concat(scope, &[past, present], -2);
            }
        }
        let [key, value] = [0, 1].map(|i| self.repeat_kv(e, scope, &present[i]));

        let key_transposed = e.transpose(scope, &key, &[0, 1, 3, 2]);
        let scores = e.op(scope, "MatMul", &[&query, &key_transposed]);
        let scale = e.number(scope, (self.head as f64).powf(-0.5));
        let scores = e.op(scope, "Mul", &[&scores, &scale]);
        let total = e.extent(scope, &key, -2);
        let end = e.unsqueeze(scope, &total, 0);
        let [start, axis, step] = [0, 3, 1].map(|n| e.ints(scope, &[n]));
        let mask = e.op(scope, "Slice", &[&shared.mask, &start, &end, &axis, &step]);
        let scores = e.op(scope, "Add", &[&scores, &mask]);
        // `softmax(dtype=torch.float32).to(query.dtype)`.
        let scores = e.cast(scope, &scores, DType::F32);
        let probabilities = e.add(scope, node("Softmax", &[&scores], &[]).attr("axis", -1i64));
        let probabilities = e.cast(scope, &probabilities, e.dtype());
        let attended = e.op(scope, "MatMul", &[&probabilities, &value]);
        let mut joined = join_heads(e, scope, &attended, Extent::Known(-1));
        let width = self.heads * self.head;
        if self.flavour == Flavour::BitNet {
            let names = (&*format!("{scope}/attn_sub_norm"), &*format!("{prefix}.attn_sub_norm"));
            joined = rms_norm(e, names, &joined, width, self.epsilon)?;
        }
        let names = (&*format!("{scope}/o_proj"), &*format!("{prefix}.o_proj"));
        Ok((linear(e, names, &joined, [width, self.hidden], false)?, present))
    }

    /// `x · cos + rotate_half(x) · sin`, where the latter is (-second half, first half).
    fn rotate(&self, e: &mut Exporter, scope: &str, x: &str, cos: &str, sin: &str) -> String {
        let half = (self.head / 2) as i64;
        let straight = e.op(scope, "Mul", &[x, cos]);
        let [first, second] = [(0, half), (half, i64::MAX)].map(|(from, to)| {
            let [from, to, axis, step] = [from, to, 3, 1].map(|n| e.ints(scope, &[n]));
            e.op(scope, "Slice", &[x, &from, &to, &axis, &step])
        });
        let second = e.op(scope, "Neg", &[&second]);
        let turned = e.concat(scope, &[&second, &first], -1);
        let turned = e.op(scope, "Mul", &[&turned, sin]);
        e.op(scope, "Add", &[&straight, &turned])
    }

    /// [batch, kv_heads, tokens, head] → [batch, heads, tokens, head]; nothing where there are as many key as query heads.
    fn repeat_kv(&self, e: &mut Exporter, scope: &str, x: &str) -> String {
        let repeats = self.heads / self.kv_heads;
        if repeats == 1 {
            return x.to_owned();
        }
        let batch = e.extent(scope, x, 0);
        let tokens = e.extent(scope, x, 2);
        let (batch, tokens) = (Extent::Of(&batch), Extent::Of(&tokens));
        let [kv_heads, repeats, heads, head] = [self.kv_heads, repeats, self.heads, self.head].map(|n| Extent::Known(n as i64));
        let x = e.unsqueeze(scope, x, 2);
        let x = e.expand(scope, &x, &[batch, kv_heads, repeats, tokens, head]);
        e.reshape(scope, &x, &[batch, heads, tokens, head])
    }

    fn mlp(&self, e: &mut Exporter, (scope, prefix): (&str, &str), x: &str) -> Result<String, GenerateError> {
        let project = |e: &mut Exporter, name: &str, x: &str, size| {
            linear(e, (&format!("{scope}/{name}"), &format!("{prefix}.{name}")), x, size, false)
        };
        let gate = project(e, "gate_proj", x, [self.hidden, self.intermediate])?;
        let activation = format!("{scope}/act_fn");
        let gate = match self.flavour {
            Flavour::BitNet => {
                let positive = e.op(&activation, "Relu", &[&gate]);
                e.op(&activation, "Mul", &[&positive, &positive])
            }
            Flavour::Llama | Flavour::Qwen => {
                let sigmoid = e.op(&activation, "Sigmoid", &[&gate]);
                e.op(&activation, "Mul", &[&gate, &sigmoid])
            }
        };
        let up = project(e, "up_proj", x, [self.hidden, self.intermediate])?;
        let mut gated = e.op(scope, "Mul", &[&gate, &up]);
        if self.flavour == Flavour::BitNet {
            let names = (&*format!("{scope}/ffn_sub_norm"), &*format!("{prefix}.ffn_sub_norm"));
            gated = rms_norm(e, names, &gated, self.intermediate, self.epsilon)?;
        }
        project(e, "down_proj", &gated, [self.intermediate, self.hidden])
    }
}
