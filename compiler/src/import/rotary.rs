//! Rotary position embedding: ONNX's operator and com.microsoft's, which order their operands differently.

use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::elementwise::Binary;
use sliderun::op::generate::Range;
use sliderun::op::index::Gather;
use sliderun::op::layout::Reshape;
use sliderun::op::rotary::Rotary;

use super::{Imported, Importer, NodeContext, Refusal, microsoft, onnx};
use crate::ir::ValueRef;

pub(super) const IMPORTERS: &[Importer] =
    &[onnx("RotaryEmbedding", rotary_embedding), microsoft("RotaryEmbedding", microsoft_rotary_embedding)];

/// RotaryEmbedding-23: operands (x, cos, sin, position_ids?); x is [batch, heads, tokens, D] or [batch, tokens, heads·D]; cosines and sines
/// are [positions, pairs] with position_ids [batch, tokens], [batch, tokens, pairs] without.
fn rotary_embedding(cx: &mut NodeContext<'_>) -> Imported {
    let (x, cos, sin) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let heads = match cx.int_or("num_heads", 0)? {
        0 if cx.rank(x) == 3 => return Err(Refusal::new("num_heads must be given where the input has 3 axes")),
        heads => heads,
    };
    let tables = match cx.optional(3) {
        Some(positions) => chosen(cx, [cos, sin], positions)?,
        None => [cos, sin],
    };
    rotary(cx, x, tables, heads)
}

/// com.microsoft RotaryEmbedding-1: operands (x, position_ids, cos, sin); position_ids are [batch, tokens], or [1], the first token's.
/// Without `num_heads` the cosines tell the width of heads of [batch, tokens, heads·D].
fn microsoft_rotary_embedding(cx: &mut NodeContext<'_>) -> Imported {
    let [x, positions, cos, sin] = [cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.input(3)?];
    let packed = cx.int_or("is_packed_batching", 0)?;
    if packed != 0 {
        return Err(Refusal::attribute("is_packed_batching", packed));
    }
    let scale = cx.float_or("scale", 1.0)?;
    if scale != 1.0 {
        return Err(Refusal::attribute("scale", scale));
    }
    let tokens_axis = if cx.rank(x) == 3 { 1 } else { 2 };
    let positions = match (cx.rank(positions), cx.shape(x).get(tokens_axis).cloned()) {
        (1, Some(tokens)) => {
            let range = Range { start: 0.into(), step: 1.into(), len: tokens.clone(), dtype: DType::I64 };
            let range = cx.add(range, &[])?;
            let positions = cx.add(Binary::Add, &[range, positions])?;
            cx.add(Reshape { shape: vec![1.into(), tokens] }, &[positions])?
        }
        _ => positions,
    };
    let tables = chosen(cx, [cos, sin], positions)?;
    let heads = cx.int_or("num_heads", 0)?;
    rotary(cx, x, tables, heads)
}

/// The rows of two tables at positions.
fn chosen(cx: &mut NodeContext<'_>, tables: [ValueRef; 2], positions: ValueRef) -> Result<[ValueRef; 2], Refusal> {
    let [cos, sin] = tables.map(|table| cx.add(Gather { axis: 0 }, &[table, positions]));
    Ok([cos?, sin?])
}

/// `heads`: 0 where the shapes must tell.
fn rotary(cx: &mut NodeContext<'_>, x: ValueRef, tables: [ValueRef; 2], heads: i64) -> Imported {
    let angles = cx.shape(tables[0]);
    let [_, _, pairs] = &angles[..] else {
        return Err(Refusal::new(format!("cosines of shape {angles:?}; [batch, tokens, pairs of a head] is expected")));
    };
    let pairs =
        pairs.as_usize().ok_or_else(|| Refusal::new(format!("{pairs} angles for each token; their number must be known")))?;
    let shape = cx.shape(x);
    let in_width = |width: &Dim| {
        let one = Dim::from(2) * Dim::from(pairs);
        if heads == 0 { width.exact_div(&one).as_ref().and_then(Dim::as_usize) } else { usize::try_from(heads).ok() }
    };
    let (heads, depth) = match &shape[..] {
        [_, _, width] => {
            let heads = in_width(width).filter(|h| *h > 0);
            (heads, heads.and_then(|h| width.exact_div(&h.into())))
        }
        [_, heads, _, depth] => (heads.as_usize(), Some(depth.clone())),
        _ => return Err(Refusal::new(format!("the input has {} axes; 3 or 4 are expected", shape.len()))),
    };
    let (Some(heads), Some(depth)) = (heads, depth) else {
        return Err(Refusal::new(format!(
            "the heads of an input of shape {shape:?} must be of a known number and of equal widths"
        )));
    };
    let rotated = match (cx.int_or("rotary_embedding_dim", 0)?, depth.as_usize()) {
        (0, Some(depth)) => depth,
        (0, None) => return Err(Refusal::new(format!("head size {depth} must be known when compiling"))),
        (n, _) => usize::try_from(n).map_err(|_| Refusal::attribute("rotary_embedding_dim", n))?,
    };
    let interleaved = cx.int_or("interleaved", 0)? != 0;
    Ok(vec![cx.add(Rotary { heads, rotated, interleaved }, &[x, tables[0], tables[1]])?])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use crate::onnx::build::node;
    use sliderun::dtype::DType::*;

    fn op(attributes: &[(&str, i64)]) -> crate::onnx::build::NodeBuilder {
        attributes.iter().fold(node("RotaryEmbedding", &[], &[]), |node, (name, value)| node.attr(name, *value))
    }

    const IDS: Given<'_> = Input(I64, &["b", "s"]);

    #[test]
    fn onnx_opset_23() {
        let four = [Input(F32, &["b", "3", "s", "8"]), Input(F32, &["64", "2"]), Input(F32, &["64", "2"]), IDS];
        let gathers = ["Gather(Gather { axis: 0 }) -> f32[b, s, 2]"; 2];
        for interleaved in [0, 1] {
            let rotary =
                format!("Rotary(Rotary {{ heads: 3, rotated: 4, interleaved: {} }}) -> f32[b, 3, s, 8]", interleaved == 1);
            let op = op(&[("rotary_embedding_dim", 4), ("interleaved", interleaved)]);
            check(23, op, &four, &[gathers[0], gathers[1], &rotary]);
        }
        let three = [Input(F16, &["b", "s", "24"]), Input(F16, &["b", "s", "4"]), Input(F16, &["b", "s", "4"])];
        let rotary = "Rotary(Rotary { heads: 3, rotated: 8, interleaved: false }) -> f16[b, s, 24]";
        check(23, op(&[("num_heads", 3)]), &three, &[rotary]);
        refused(23, op(&[]), &three, "num_heads must be given");
        refused(23, op(&[("num_heads", 5)]), &three, "of equal widths");
        refused(23, op(&[("num_heads", 3), ("rotary_embedding_dim", 6)]), &three, "is not [1 or b, s, 3]");
    }

    #[test]
    fn microsoft() {
        let op = |attributes: &[(&str, i64)]| op(attributes).domain("com.microsoft");
        let table = || Input(F32, &["64", "4"]);
        let three = [Input(F32, &["b", "s", "24"]), IDS, table(), table()];
        let gather = "Gather(Gather { axis: 0 }) -> f32[b, s, 4]";
        let rotary = "Rotary(Rotary { heads: 3, rotated: 8, interleaved: false }) -> f32[b, s, 24]";
        check(17, op(&[]), &three, &[gather, gather, rotary]);
        let partial = "Rotary(Rotary { heads: 2, rotated: 8, interleaved: true }) -> f32[b, s, 24]";
        let attributes = [("num_heads", 2), ("rotary_embedding_dim", 8), ("interleaved", 1)];
        check(17, op(&attributes), &three, &[gather, gather, partial]);
        let graph =
            import_node(17, op(&[]), &[Input(F32, &["b", "3", "s", "8"]), Input(I64, &["1"]), table(), table()], 1).unwrap();
        assert_eq!(graph.ty(graph.outputs[0].value).to_string(), "f32[b, 3, s, 8]");
        refused(17, op(&[("is_packed_batching", 1)]), &three, "is_packed_batching");
        refused(17, op(&[]).attr("scale", 2.0f32), &three, "scale");
    }
}
