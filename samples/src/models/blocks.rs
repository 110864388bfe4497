//! Modules that several architectures have, as the exporter decomposes them.
//!
//! `scope` is a module's path in node names (`/model/layers.0/mlp`), `prefix` the same in parameter names (`model.layers.0.mlp`).

use slidec::onnx::build::node;
use sliderun::dtype::DType;

use super::GenerateError;
use super::exporter::{Exporter, Extent};
use super::weights::Kind;

/// The first opset with LayerNormalization.
const LAYER_NORM_OPSET: i64 = 17;

/// `torch.nn.Linear` of [.., K]: a product with the transposed weight, [K, N], and the bias in front of it.
///
/// # Errors
/// What cannot be written.
pub fn linear(
    e: &mut Exporter,
    (scope, prefix): (&str, &str),
    x: &str,
    [k, n]: [usize; 2],
    bias: bool,
) -> Result<String, GenerateError> {
    let weight = e.transposed_weight(&format!("{prefix}.weight"), [k, n])?;
    let product = e.op(scope, "MatMul", &[x, &weight]);
    if !bias {
        return Ok(product);
    }
    let bias = e.parameter(&format!("{prefix}.bias"), Kind::Bias, &[n])?;
    Ok(e.op(scope, "Add", &[&bias, &product]))
}

/// RMSNorm as Hugging Face's models have it: in f32, multiplied by the weight in the model's type.
///
/// # Errors
/// What cannot be written.
pub fn rms_norm(
    e: &mut Exporter,
    (scope, prefix): (&str, &str),
    x: &str,
    width: usize,
    epsilon: f32,
) -> Result<String, GenerateError> {
    let x = e.cast(scope, x, DType::F32);
    let mean = {
        let two = e.f32(scope, 2.0);
        let squares = e.op(scope, "Pow", &[&x, &two]);
        e.add(scope, node("ReduceMean", &[&squares], &[]).attr("axes", &[-1i64][..]).attr("keepdims", 1i64))
    };
    let epsilon = e.f32(scope, epsilon);
    let mean = e.op(scope, "Add", &[&mean, &epsilon]);
    let root = e.op(scope, "Sqrt", &[&mean]);
    let one = e.f32(scope, 1.0);
    let scale = e.op(scope, "Div", &[&one, &root]);
    let normal = e.op(scope, "Mul", &[&x, &scale]);
    let normal = e.cast(scope, &normal, e.dtype());
    let weight = e.parameter(&format!("{prefix}.weight"), Kind::Norm, &[width])?;
    Ok(e.op(scope, "Mul", &[&weight, &normal]))
}

/// `torch.nn.LayerNorm` over the last axis: one operator from opset 17 on, decomposed before.
///
/// # Errors
/// What cannot be written.
pub fn layer_norm(
    e: &mut Exporter,
    (scope, prefix): (&str, &str),
    x: &str,
    width: usize,
    epsilon: f32,
) -> Result<String, GenerateError> {
    let weight = e.parameter(&format!("{prefix}.weight"), Kind::Norm, &[width])?;
    let bias = e.parameter(&format!("{prefix}.bias"), Kind::Bias, &[width])?;
    if e.opset() >= LAYER_NORM_OPSET {
        let norm = node("LayerNormalization", &[x, &weight, &bias], &[]).attr("axis", -1i64).attr("epsilon", epsilon);
        return Ok(e.add(scope, norm));
    }
    let reduce = |e: &mut Exporter, x: &str| e.add(scope, node("ReduceMean", &[x], &[]).attr("axes", &[-1i64][..]));
    let mean = reduce(e, x);
    let centred = e.op(scope, "Sub", &[x, &mean]);
    let two = e.number(scope, 2.0);
    let squares = e.op(scope, "Pow", &[&centred, &two]);
    let variance = reduce(e, &squares);
    let epsilon = e.number(scope, f64::from(epsilon));
    let variance = e.op(scope, "Add", &[&variance, &epsilon]);
    let deviation = e.op(scope, "Sqrt", &[&variance]);
    let normal = e.op(scope, "Div", &[&centred, &deviation]);
    let scaled = e.op(scope, "Mul", &[&normal, &weight]);
    Ok(e.op(scope, "Add", &[&scaled, &bias]))
}

/// GELU by the error function: `x · (1 + erf(x / √2)) · ½`.
pub fn gelu(e: &mut Exporter, scope: &str, x: &str) -> String {
    let root = e.number(scope, std::f64::consts::SQRT_2);
    let scaled = e.op(scope, "Div", &[x, &root]);
    let erf = e.op(scope, "Erf", &[&scaled]);
    let one = e.number(scope, 1.0);
    let shifted = e.op(scope, "Add", &[&erf, &one]);
    let product = e.op(scope, "Mul", &[x, &shifted]);
    let half = e.number(scope, 0.5);
    e.op(scope, "Mul", &[&product, &half])
}

/// [batch, tokens, heads·D] → [batch, tokens, heads, D], by `view`.
pub fn split_heads(e: &mut Exporter, scope: &str, x: &str, heads: Extent<'_>, head: usize) -> String {
    let batch = e.extent(scope, x, 0);
    let tokens = e.extent(scope, x, 1);
    e.reshape(scope, x, &[Extent::Of(&batch), Extent::Of(&tokens), heads, Extent::Known(head as i64)])
}

/// [batch, heads, tokens, D] → [batch, tokens, heads·D].
pub fn join_heads(e: &mut Exporter, scope: &str, x: &str, width: Extent<'_>) -> String {
    let joined = e.transpose(scope, x, &[0, 2, 1, 3]);
    let batch = e.extent(scope, &joined, 0);
    let tokens = e.extent(scope, &joined, 1);
    e.reshape(scope, &joined, &[Extent::Of(&batch), Extent::Of(&tokens), width])
}
