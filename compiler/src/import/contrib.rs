//! Operators of the `com.microsoft` domain that are activations or embeddings; normalisations and products are with their families.

use sliderun::dtype::DType;
use sliderun::op::elementwise::{Binary, Cast, Unary};
use sliderun::op::index::Gather;
use sliderun::op::layout::{Slice, SliceAxis};
use sliderun::op::norm::LayerNorm;
use sliderun::op::reduce::{Reduce, ReduceKind};

use super::{Imported, Importer, NodeContext, Refusal, microsoft};

pub(super) const IMPORTERS: &[Importer] = &[
    microsoft("BiasGelu", gelu),
    microsoft("EmbedLayerNormalization", embed_layer_norm),
    microsoft("FastGelu", gelu),
    microsoft("Gelu", gelu),
    microsoft("QuickGelu", gelu),
];

/// An activation of the input, or of the input and a bias.
fn gelu(cx: &mut NodeContext<'_>) -> Imported {
    let op = match cx.op_type() {
        "FastGelu" => Unary::GeluTanh,
        "QuickGelu" => Unary::Swish { alpha: cx.float_or("alpha", 1.702)? },
        _ => Unary::Gelu,
    };
    let mut x = cx.input(0)?;
    if let Some(bias) = cx.optional(1) {
        x = cx.add(Binary::Add, &[x, bias])?;
    }
    Ok(vec![cx.add(op, &[x])?])
}

/// Operands (ids, segment_ids?, words, positions, segments?, scale, shift, mask?, position_ids?); results (y, mask index, sum).
fn embed_layer_norm(cx: &mut NodeContext<'_>) -> Imported {
    cx.ignore(&["mask_index_type"]);
    let (ids, words, positions) = (cx.input(0)?, cx.input(2)?, cx.input(3)?);
    let (scale, shift) = (cx.input(5)?, cx.input(6)?);
    let tokens = cx.shape(ids).get(1).cloned().ok_or_else(|| Refusal::new("the ids must be [batch, tokens]"))?;
    let mut sum = cx.add(Gather { axis: 0 }, &[words, ids])?;
    let position = match cx.optional(8) {
        Some(ids) => cx.add(Gather { axis: 0 }, &[positions, ids])?,
        None => cx.add(Slice { axes: vec![SliceAxis { axis: 0, start: 0.into(), len: tokens, step: 1 }] }, &[positions])?,
    };
    sum = cx.add(Binary::Add, &[sum, position])?;
    if let (Some(ids), Some(table)) = (cx.optional(1), cx.optional(4)) {
        let segment = cx.add(Gather { axis: 0 }, &[table, ids])?;
        sum = cx.add(Binary::Add, &[sum, segment])?;
    }
    let op = LayerNorm { axis: 2, epsilon: cx.float_or("epsilon", 1e-12)?, stats: false };
    let y = cx.add(op, &[sum, scale, shift])?;
    // The number of tokens that each sequence's mask counts.
    let counts = match (cx.optional(7), cx.wants_output(1)) {
        (Some(mask), true) => {
            let one = cx.scalar(cx.dtype(mask), 1.0)?;
            let counted = cx.add(Binary::Equal, &[mask, one])?;
            let counted = cx.add(Cast { to: DType::I32 }, &[counted])?;
            cx.add(Reduce { kind: ReduceKind::Sum, axes: vec![1], keep_dims: false }, &[counted])?
        }
        (None, true) => return Err(Refusal::new("the mask index is wanted, but there is no mask")),
        // An output that is absent is never read.
        _ => y,
    };
    Ok(vec![y, counts, sum])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use crate::onnx::build::node;
    use sliderun::dtype::DType::*;

    const X: Given<'_> = Input(F32, &["n", "4"]);

    #[test]
    fn activations() {
        let op = |name| node(name, &[], &[]).domain("com.microsoft");
        check(17, op("Gelu"), &[X], &["Unary(Gelu) -> f32[n, 4]"]);
        check(17, op("FastGelu"), &[X, Input(F32, &["4"])], &["Binary(Add) -> f32[n, 4]", "Unary(GeluTanh) -> f32[n, 4]"]);
        check(17, op("QuickGelu"), &[X], &["Unary(Swish { alpha: 1.702 }) -> f32[n, 4]"]);
    }

    #[test]
    fn embeddings() {
        let ids = || Input(I32, &["batch", "seq"]);
        let table = |n| Input(F32, if n == 0 { &["9", "4"] } else { &["16", "4"] });
        let weight = || Input(F32, &["4"]);
        let op = node("EmbedLayerNormalization", &[], &[]).domain("com.microsoft");
        let given = [ids(), ids(), table(0), table(1), table(0), weight(), weight()];
        let graph = import_node(17, op, &given, 1).unwrap();
        assert_eq!(graph.ty(graph.outputs[0].value).to_string(), "f32[batch, seq, 4]");
        let op = node("EmbedLayerNormalization", &[], &[]).domain("com.microsoft");
        let graph = import_node(17, op, &[&given[..], &[ids()]].concat(), 2).unwrap();
        assert_eq!(graph.ty(graph.outputs[1].value).to_string(), "i32[batch]");
    }
}
