//! Attention of the `com.microsoft` domain. Source: ONNX Runtime 1.22, docs/ContribOperators.md.

use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::attention::Attention;
use sliderun::op::elementwise::{Binary, Cast, Where};
use sliderun::op::gemm::MatMul;
use sliderun::op::generate::Range;
use sliderun::op::index::Gather;
use sliderun::op::layout::{Concat, Reshape, Split, Transpose};
use sliderun::op::rotary::Rotary;

use super::{Imported, Importer, NodeContext, Refusal, microsoft};
use crate::ir::ValueRef;

pub(super) const IMPORTERS: &[Importer] = &[
    microsoft("Attention", attention),
    microsoft("GroupQueryAttention", group_query_attention),
    microsoft("MultiHeadAttention", multi_head_attention),
];

/// What attention gives keys that a mask of integers hides, unless the model says otherwise.
const FILTER: f32 = -10000.0;

/// A number of heads.
fn heads(cx: &NodeContext<'_>, name: &str) -> Result<usize, Refusal> {
    let heads = cx.required_int(name)?;
    usize::try_from(heads).ok().filter(|&h| h > 0).ok_or_else(|| Refusal::attribute(name, heads))
}

/// The axes of a value of rank 3.
fn rows(cx: &NodeContext<'_>, value: ValueRef, what: &str) -> Result<[Dim; 3], Refusal> {
    <[Dim; 3]>::try_from(cx.shape(value))
        .map_err(|shape| Refusal::new(format!("{what} of shape {shape:?}; [batch, tokens, width] is expected")))
}

/// A head's share of a width.
fn depth(width: &Dim, heads: usize) -> Result<Dim, Refusal> {
    width.exact_div(&heads.into()).ok_or_else(|| Refusal::new(format!("a width of {width} in {heads} heads")))
}

/// [batch, tokens, heads·depth] as [batch, heads, tokens, depth], as presents are.
fn apart(cx: &mut NodeContext<'_>, x: ValueRef, heads: usize) -> Result<ValueRef, Refusal> {
    let [batch, tokens, width] = rows(cx, x, "a key or value")?;
    let parted = cx.add(Reshape { shape: vec![batch, tokens, heads.into(), depth(&width, heads)?] }, &[x])?;
    cx.add(Transpose { perm: vec![0, 2, 1, 3] }, &[parted])
}

/// The factor of the scores: 1/√depth unless the node gives one that is not 0.
fn scale(cx: &NodeContext<'_>, depth: &Dim) -> Result<f32, Refusal> {
    match cx.float("scale")? {
        Some(scale) if scale != 0.0 => Ok(scale),
        _ => {
            let depth =
                depth.as_usize().ok_or_else(|| Refusal::new(format!("head size {depth} must be known, or scale given")))?;
            Ok((1.0 / (depth as f64).sqrt()) as f32)
        }
    }
}

/// Refuses operands that change what is computed.
fn absent(cx: &NodeContext<'_>, inputs: &[(usize, &str)]) -> Result<(), Refusal> {
    match inputs.iter().find(|(i, _)| cx.optional(*i).is_some()) {
        Some((_, name)) => Err(Refusal::new(format!("its input {name} is not supported; export the model without it"))),
        None => Ok(()),
    }
}

/// Keys and values behind those of earlier tokens.
struct Cache {
    key: ValueRef,
    value: ValueRef,
}

impl Cache {
    /// `past`: inputs of the node, [batch, heads, past, depth]. Without any, and when nobody asks for presents, keys and values stay as they are.
    fn new(cx: &mut NodeContext<'_>, [key, value]: [ValueRef; 2], past: [usize; 2], heads: usize) -> Result<Cache, Refusal> {
        let past = past.map(|i| cx.optional(i));
        if past == [None; 2] && !cx.wants_output(1) && !cx.wants_output(2) {
            return Ok(Cache { key, value });
        }
        let mut lie = [key, value];
        for (new, past) in lie.iter_mut().zip(past) {
            if cx.rank(*new) == 3 {
                *new = apart(cx, *new, heads)?;
            }
            if let Some(past) = past {
                *new = cx.add(Concat { axis: 2 }, &[past, *new])?;
            }
        }
        let [key, value] = lie;
        Ok(Cache { key, value })
    }
}

/// What hides keys: a mask of integers, and numbers added to the scores.
fn mask(
    cx: &mut NodeContext<'_>,
    keep: Option<ValueRef>,
    bias: Option<ValueRef>,
    total: &Dim,
) -> Result<Option<ValueRef>, Refusal> {
    let Some(keep) = keep else { return Ok(bias) };
    let shape = cx.shape(keep);
    let zero = cx.scalar(cx.dtype(keep), 0.0)?;
    let (holds, axes) = match shape.as_slice() {
        // The number of keys of each sequence.
        [batch] => {
            let lengths = cx.add(Reshape { shape: vec![batch.clone(), 1.into(), 1.into(), 1.into()] }, &[keep])?;
            let keys = Range { start: 0.into(), step: 1.into(), len: total.clone(), dtype: cx.dtype(keep) };
            let keys = cx.add(keys, &[])?;
            (cx.add(Binary::Less, &[keys, lengths])?, None)
        }
        [batch, keys] => (cx.add(Binary::Greater, &[keep, zero])?, Some(vec![batch.clone(), 1.into(), 1.into(), keys.clone()])),
        [batch, tokens, keys] => {
            (cx.add(Binary::Greater, &[keep, zero])?, Some(vec![batch.clone(), 1.into(), tokens.clone(), keys.clone()]))
        }
        _ => {
            return Err(Refusal::new(format!(
                "a mask of shape {shape:?}; [batch], [batch, keys] or [batch, tokens, keys] is expected"
            )));
        }
    };
    let holds = match axes {
        Some(shape) => cx.add(Reshape { shape }, &[holds])?,
        None => holds,
    };
    let filter = cx.float_or("mask_filter_value", FILTER)?;
    let [zero, filter] = [0.0, f64::from(filter)].map(|v| cx.scalar(DType::F32, v));
    let mask = cx.add(Where {}, &[holds, zero?, filter?])?;
    match bias {
        None => Ok(Some(mask)),
        Some(bias) => {
            let bias = if cx.dtype(bias) == DType::F32 { bias } else { cx.add(Cast { to: DType::F32 }, &[bias])? };
            cx.add(Binary::Add, &[mask, bias]).map(Some)
        }
    }
}

/// Operands (x, weights [K, q + k + v], bias?, mask?, past?, attention_bias?, past_sequence_length?); results (y, present).
fn attention(cx: &mut NodeContext<'_>) -> Imported {
    absent(cx, &[(4, "past"), (6, "past_sequence_length")])?;
    if cx.wants_output(1) {
        return Err(Refusal::new("present, keys and values in one output, is not supported; export the model without it"));
    }
    if cx.int_or("do_rotary", 0)? != 0 {
        return Err(Refusal::attribute("do_rotary", 1));
    }
    cx.ignore(&["rotary_embedding_dim", "past_present_share_buffer", "mask_filter_value"]);
    let heads = heads(cx, "num_heads")?;
    let mut qkv = cx.add(MatMul::default(), &[cx.input(0)?, cx.input(1)?])?;
    if let Some(bias) = cx.optional(2) {
        qkv = cx.add(Binary::Add, &[qkv, bias])?;
    }
    let [_, tokens, width] = rows(cx, qkv, "the product with the weights")?;
    let sizes: Vec<Dim> = match cx.ints("qkv_hidden_sizes")? {
        Some(sizes) if sizes.len() == 3 => sizes.into_iter().map(Dim::from).collect(),
        Some(sizes) => return Err(Refusal::new(format!("qkv_hidden_sizes = {sizes:?}; three are expected"))),
        None => vec![depth(&width, 3)?; 3],
    };
    let op = Attention {
        heads,
        kv_heads: heads,
        scale: scale(cx, &depth(&sizes[0], heads)?)?,
        causal: cx.int_or("unidirectional", 0)? != 0,
    };
    let parts = cx.add_all(Split { axis: 2, sizes }, &[Some(qkv)])?;
    let (keep, bias) = (cx.optional(3), cx.optional(5));
    let mask = mask(cx, keep, bias, &tokens)?;
    let y = cx.add_optional(op, &[Some(parts[0]), Some(parts[1]), Some(parts[2]), mask])?;
    Ok(vec![y])
}

/// The parts of [batch, tokens, heads, parts, depth], each as [batch, tokens, heads·depth].
fn packed(cx: &mut NodeContext<'_>, x: ValueRef) -> Result<Vec<ValueRef>, Refusal> {
    let [batch, tokens, heads, parts, depth] = <[Dim; 5]>::try_from(cx.shape(x)).map_err(|shape| {
        Refusal::new(format!("packed operands of shape {shape:?}; [batch, tokens, heads, parts, depth] is expected"))
    })?;
    let parts = parts.as_usize().ok_or_else(|| Refusal::new(format!("{parts} packed operands; their number must be known")))?;
    let split = cx.add_all(Split { axis: 3, sizes: vec![1.into(); parts] }, &[Some(x)])?;
    let shape = vec![batch, tokens, heads * depth];
    split.into_iter().map(|part| cx.add(Reshape { shape: shape.clone() }, &[part])).collect()
}

/// Operands (query, key?, value?, bias?, key_padding_mask?, attention_bias?, past_key?, past_value?, past_sequence_length?,
/// cache_indirection?); results (y, present_key, present_value). The query may be packed with both, or the key with the value.
fn multi_head_attention(cx: &mut NodeContext<'_>) -> Imported {
    absent(cx, &[(8, "past_sequence_length"), (9, "cache_indirection")])?;
    if cx.wants_output(3) {
        return Err(Refusal::new("the scores as a further output are not supported"));
    }
    cx.ignore(&["mask_filter_value"]);
    let heads = heads(cx, "num_heads")?;
    let query = cx.input(0)?;
    let operands = match (cx.rank(query), cx.optional(1), cx.optional(2)) {
        (5, None, None) => packed(cx, query)?,
        (3, Some(key), None) => [vec![query], packed(cx, key)?].concat(),
        (3, Some(key), Some(value)) => vec![query, key, value],
        _ => return Err(Refusal::new("a query of 3 axes with a key, or one packed with key and value is expected")),
    };
    let [mut query, mut key, mut value] = <[ValueRef; 3]>::try_from(operands)
        .map_err(|given| Refusal::new(format!("{} packed operands; query, key and value are expected", given.len())))?;
    if let Some(bias) = cx.optional(3) {
        let widths = [query, key, value].map(|x| cx.shape(x).pop().unwrap_or_default());
        if cx.rank(key) != 3 || cx.rank(value) != 3 {
            return Err(Refusal::new("a bias of keys that are apart by heads is not supported"));
        }
        let parts = cx.add_all(Split { axis: 0, sizes: widths.to_vec() }, &[Some(bias)])?;
        for (x, bias) in [&mut query, &mut key, &mut value].into_iter().zip(parts) {
            *x = cx.add(Binary::Add, &[*x, bias])?;
        }
    }
    let [_, _, width] = rows(cx, query, "the query")?;
    let op = Attention {
        heads,
        kv_heads: heads,
        scale: scale(cx, &depth(&width, heads)?)?,
        causal: cx.int_or("unidirectional", 0)? != 0,
    };
    let Cache { key, value } = Cache::new(cx, [key, value], [6, 7], heads)?;
    let total = cx.shape(key).iter().rev().nth(1).cloned().unwrap_or_default();
    let (keep, bias) = (cx.optional(4), cx.optional(5));
    let mask = mask(cx, keep, bias, &total)?;
    let y = cx.add_optional(op, &[Some(query), Some(key), Some(value), mask])?;
    Ok(vec![y, key, value])
}

/// Operands (query, key?, value?, past_key?, past_value?, seqlens_k, total_sequence_length, cos_cache?, sin_cache?, position_ids?,
/// attention_bias?, head_sink?); results (y, present_key, present_value). The query may be packed with both.
///
/// A past is taken to be as long as its extent says, for all sequences: `seqlens_k` and `total_sequence_length` say nothing new then, and new
/// keys follow the past. So it is in the first run, where what pads a sequence follows it and no token of it sees that, and in later ones of
/// sequences of one length.
fn group_query_attention(cx: &mut NodeContext<'_>) -> Imported {
    absent(cx, &[(11, "head_sink"), (12, "k_scale"), (13, "v_scale")])?;
    if cx.wants_output(3) {
        return Err(Refusal::new("the scores as a further output are not supported"));
    }
    for (name, without) in [("local_window_size", -1), ("smooth_softmax", 0), ("qk_output", 0), ("kv_cache_bit_width", 0)] {
        let value = cx.int_or(name, without)?;
        if value != without {
            return Err(Refusal::attribute(name, value));
        }
    }
    let softcap = cx.float_or("softcap", 0.0)?;
    if softcap != 0.0 {
        return Err(Refusal::attribute("softcap", softcap));
    }
    let (heads, kv_heads) = (heads(cx, "num_heads")?, heads(cx, "kv_num_heads")?);
    let query = cx.input(0)?;
    let [mut query, mut key, value] = match (cx.optional(1), cx.optional(2)) {
        (Some(key), Some(value)) => [query, key, value],
        (None, None) => {
            let [_, _, width] = rows(cx, query, "the query")?;
            let depth = depth(&width, heads + 2 * kv_heads)?;
            let sizes = [heads, kv_heads, kv_heads].map(|heads| depth.clone() * Dim::from(heads));
            let parts = cx.add_all(Split { axis: 2, sizes: sizes.to_vec() }, &[Some(query)])?;
            [parts[0], parts[1], parts[2]]
        }
        _ => return Err(Refusal::new("key and value must both be given, or both be packed with the query")),
    };
    let [_, tokens, width] = rows(cx, query, "the query")?;
    let past = match cx.optional(3) {
        Some(past) => cx.shape(past).get(2).cloned().ok_or_else(|| Refusal::new("past_key must have 4 axes"))?,
        None => 0.into(),
    };
    let interleaved = cx.int_or("rotary_interleaved", 0)? != 0;
    if cx.int_or("do_rotary", 0)? != 0 {
        let positions = match cx.optional(9) {
            Some(positions) => positions,
            None => {
                let range = cx.add(Range { start: past, step: 1.into(), len: tokens.clone(), dtype: DType::I64 }, &[])?;
                cx.add(Reshape { shape: vec![1.into(), tokens] }, &[range])?
            }
        };
        let tables = [cx.input(7)?, cx.input(8)?];
        let half = cx.shape(tables[0]).get(1).and_then(Dim::as_usize);
        let rotated = 2 * half.ok_or_else(|| Refusal::new("cos_cache must be [positions, half of what is turned]"))?;
        let [cos, sin] = tables.map(|table| cx.add(Gather { axis: 0 }, &[table, positions]));
        let (cos, sin) = (cos?, sin?);
        query = cx.add(Rotary { heads, rotated, interleaved }, &[query, cos, sin])?;
        key = cx.add(Rotary { heads: kv_heads, rotated, interleaved }, &[key, cos, sin])?;
    }
    let op = Attention { heads, kv_heads, scale: scale(cx, &depth(&width, heads)?)?, causal: true };
    let Cache { key, value } = Cache::new(cx, [key, value], [3, 4], kv_heads)?;
    let bias = cx.optional(10);
    let y = cx.add_optional(op, &[Some(query), Some(key), Some(value), bias])?;
    Ok(vec![y, key, value])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use crate::onnx::build::{NodeBuilder, node};
    use sliderun::dtype::DType::*;

    fn types(op: NodeBuilder, given: &[Given<'_>], outputs: usize) -> Vec<String> {
        let graph = import_node(17, op, given, outputs).unwrap();
        let attentions = ops(&graph).iter().filter(|op| op.starts_with("Attention")).count();
        assert_eq!(attentions, 1);
        graph.outputs.iter().map(|o| graph.ty(o.value).to_string()).collect()
    }

    fn op(name: &str) -> NodeBuilder {
        node(name, &[], &[]).domain("com.microsoft").attr("num_heads", 4)
    }

    const QUERY: Given<'_> = Input(F16, &["b", "s", "32"]);

    #[test]
    fn attention_of_one_product() {
        let operands = [QUERY, Input(F16, &["32", "72"]), Input(F16, &["72"])];
        let widths = || op("Attention").attr("qkv_hidden_sizes", vec![32i64, 32, 8]);
        for mask in [&["b"][..], &["b", "s"], &["b", "s", "s"]] {
            let given = [operands.to_vec(), vec![Input(I32, mask)]].concat();
            assert_eq!(types(widths().attr("unidirectional", 1), &given, 1), ["f16[b, s, 8]"]);
        }
        let past = [operands.to_vec(), vec![Absent, Input(F16, &["2", "b", "4", "p", "8"])]].concat();
        refused(17, widths(), &past, "its input past is not supported");
        refused(17, op("Attention"), &[QUERY, Input(F16, &["32", "71"])], "71 in 3 heads");
    }

    #[test]
    fn attention_of_many_heads() {
        let op = || op("MultiHeadAttention");
        let key = Input(F16, &["b", "t", "32"]);
        let past = Input(F16, &["b", "4", "p", "8"]);
        let present = "f16[b, 4, p+t, 8]";
        assert_eq!(
            types(op(), &[QUERY, key, key, Input(F16, &["96"]), Input(I32, &["b", "p+t"]), Absent, past, past], 3),
            ["f16[b, s, 32]", present, present]
        );
        assert_eq!(types(op(), &[Input(F32, &["b", "s", "4", "3", "8"])], 1), ["f32[b, s, 32]"]);
        assert_eq!(types(op(), &[QUERY, Input(F16, &["b", "t", "4", "2", "8"])], 1), ["f16[b, s, 32]"]);
        let apart = Input(F16, &["b", "4", "t", "8"]);
        assert_eq!(types(op(), &[QUERY, apart, apart], 1), ["f16[b, s, 32]"]);
    }

    #[test]
    fn grouped_queries_turned_on_the_way() {
        let op = || op("GroupQueryAttention").attr("kv_num_heads", 2);
        let past = Input(F16, &["b", "2", "p", "8"]);
        let lengths = [Input(I32, &["b"]), Input(I32, &[])];
        let table = Input(F16, &["64", "4"]);
        let packed = [Input(F16, &["b", "s", "64"]), Absent, Absent, past, past, lengths[0], lengths[1], table, table];
        let present = "f16[b, 2, p+s, 8]";
        assert_eq!(types(op().attr("do_rotary", 1), &packed, 3), ["f16[b, s, 32]", present, present]);
        let key = Input(F16, &["b", "s", "16"]);
        let given = [QUERY, key, key, Absent, Absent, lengths[0], lengths[1]];
        assert_eq!(types(op(), &given, 1), ["f16[b, s, 32]"]);
        refused(17, op().attr("local_window_size", 128), &given, "local_window_size = 128");
        refused(17, op().attr("softcap", 30.0f32), &given, "softcap = 30");
    }
}
