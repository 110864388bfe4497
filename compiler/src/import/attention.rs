//! ONNX Attention, as the operator or, where that does not know all that is asked for, as a composition of primitives.

use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::attention::Attention;
use sliderun::op::elementwise::{Binary, Cast, Unary, Where};
use sliderun::op::gemm::MatMul;
use sliderun::op::generate::Range;
use sliderun::op::layout::{Concat, Pad, PadMode, Reshape, Transpose};
use sliderun::op::norm::Softmax;

use super::{Imported, Importer, NodeContext, Refusal, onnx};
use crate::ir::ValueRef;

pub(super) const IMPORTERS: &[Importer] = &[onnx("Attention", attention)];

/// [batch, tokens, heads·size] to [batch, heads, tokens, size].
fn split_heads(cx: &mut NodeContext<'_>, x: ValueRef, heads: i64) -> Result<ValueRef, Refusal> {
    let shape = cx.shape(x);
    let size = (heads > 0)
        .then(|| shape[2].exact_div(&heads.into()))
        .flatten()
        .ok_or_else(|| Refusal::new(format!("a hidden size of {} in {heads} heads", shape[2])))?;
    let x = cx.add(Reshape { shape: vec![shape[0].clone(), shape[1].clone(), heads.into(), size] }, &[x])?;
    cx.add(Transpose { perm: vec![0, 2, 1, 3] }, &[x])
}

/// What the scores of an attention are masked with: a term added to them and conditions under which they count at all.
#[derive(Default)]
struct Masking {
    bias: Option<ValueRef>,
    keep: Option<ValueRef>,
}

impl Masking {
    fn and(&mut self, cx: &mut NodeContext<'_>, condition: ValueRef) -> Result<(), Refusal> {
        self.keep = Some(match self.keep {
            Some(keep) => cx.add(Binary::And, &[keep, condition])?,
            None => condition,
        });
        Ok(())
    }

    /// The bias with what does not count at minus infinity.
    fn total(self, cx: &mut NodeContext<'_>, dtype: DType) -> Result<Option<ValueRef>, Refusal> {
        let Some(keep) = self.keep else { return Ok(self.bias) };
        let otherwise = cx.scalar(dtype, f64::NEG_INFINITY)?;
        let bias = match self.bias {
            Some(bias) => bias,
            None => cx.scalar(dtype, 0.0)?,
        };
        cx.add(Where {}, &[keep, bias, otherwise]).map(Some)
    }
}

/// `causal`: whether keys behind a query are to be hidden here.
fn masking(cx: &mut NodeContext<'_>, causal: bool, [batch, tokens, past, total]: [&Dim; 4]) -> Result<Masking, Refusal> {
    let mut masking = Masking::default();
    if let Some(mut mask) = cx.optional(3) {
        let shape = cx.shape(mask);
        let missing = match shape.last() {
            Some(last) => (total.clone() - last.clone()).as_const(),
            None => Some(0),
        };
        match missing {
            Some(0) => {}
            Some(n @ 1..) => {
                let dtype = cx.dtype(mask);
                let fill = if dtype == DType::Bool { 0.0 } else { f64::NEG_INFINITY };
                let fill = cx.scalar(dtype, fill)?;
                let mut pads = vec![(0, 0); shape.len()];
                pads[shape.len() - 1].1 = n;
                mask = cx.add(Pad { mode: PadMode::Constant, pads }, &[mask, fill])?;
            }
            _ => {
                return Err(Refusal::new(format!(
                    "the mask's shape {shape:?} does not fit {total} keys; its last extent must be that, or less by a known number"
                )));
            }
        }
        if cx.dtype(mask) == DType::Bool {
            masking.and(cx, mask)?;
        } else {
            masking.bias = Some(mask);
        }
    }
    let range = |start: &Dim, len: &Dim| Range { start: start.clone(), step: 1.into(), len: len.clone(), dtype: DType::I64 };
    if causal {
        let rows = cx.add(range(past, tokens), &[])?;
        let rows = cx.add(Reshape { shape: vec![tokens.clone(), 1.into()] }, &[rows])?;
        let columns = cx.add(range(&0.into(), total), &[])?;
        let seen = cx.add(Binary::LessOrEqual, &[columns, rows])?;
        masking.and(cx, seen)?;
    }
    if let Some(lengths) = cx.optional(6) {
        let lengths = cx.add(Reshape { shape: vec![batch.clone(), 1.into(), 1.into(), 1.into()] }, &[lengths])?;
        let columns = cx.add(range(&0.into(), total), &[])?;
        let inside = cx.add(Binary::Less, &[columns, lengths])?;
        masking.and(cx, inside)?;
    }
    Ok(masking)
}

/// The factor of the scores.
fn scale(cx: &NodeContext<'_>, size: &Dim) -> Result<f64, Refusal> {
    match cx.float("scale")? {
        Some(scale) => Ok(f64::from(scale)),
        None => {
            let size = size.as_usize().ok_or_else(|| Refusal::new(format!("head size {size} must be known, or scale given")))?;
            Ok(1.0 / (size as f64).sqrt())
        }
    }
}

/// The node as one operator, where there is nothing to it that the operator does not know: f64, scores that are capped or wanted, queries that
/// are causal from the first key on though there are more of these.
fn whole(cx: &mut NodeContext<'_>) -> Result<Option<Vec<ValueRef>>, Refusal> {
    let (q, mut k, mut v) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let rank = cx.rank(q);
    let (q_shape, k_shape) = (cx.shape(q), cx.shape(k));
    let heads = |cx: &NodeContext<'_>, name: &str, shape: &[Dim]| match rank {
        3 => cx.required_int(name).map(|heads| usize::try_from(heads).ok().filter(|&heads| heads > 0)),
        _ => Ok(shape[1].as_usize()),
    };
    let (Some(heads), Some(kv_heads)) = (heads(cx, "q_num_heads", &q_shape)?, heads(cx, "kv_num_heads", &k_shape)?) else {
        return Ok(None);
    };
    let (tokens, new) = (&q_shape[rank - 2], &k_shape[rank - 2]);
    let causal = cx.int_or("is_causal", 0)? != 0;
    let precision = match cx.int_or("softmax_precision", 0)? {
        0 => DType::F32,
        _ => cx.dtype_attribute("softmax_precision")?,
    };
    let float = cx.dtype(q).computes_in_f32() && cx.dtype(k) == cx.dtype(q) && cx.dtype(v) == cx.dtype(q);
    let plain = cx.float_or("softcap", 0.0)? <= 0.0 && !cx.wants_output(3) && precision != DType::F64;
    if !float || !plain || causal && tokens != new || heads % kv_heads != 0 {
        return Ok(None);
    }
    cx.ignore(&["qk_matmul_output_mode"]);
    let batch = &q_shape[0];
    let width = |x: &[Dim]| x[rank - 1].clone();
    let size = if rank == 3 {
        width(&q_shape)
            .exact_div(&heads.into())
            .ok_or_else(|| Refusal::new(format!("a hidden size of {} in {heads} heads", width(&q_shape))))?
    } else {
        width(&q_shape)
    };
    let op = Attention { heads, kv_heads, scale: scale(cx, &size)? as f32, causal };
    let pasts = [cx.optional(4), cx.optional(5)];
    let mut past = Dim::from(0);
    if pasts != [None; 2] || cx.wants_output(1) || cx.wants_output(2) {
        for (x, before) in [&mut k, &mut v].into_iter().zip(pasts) {
            if rank == 3 {
                *x = split_heads(cx, *x, kv_heads as i64)?;
            }
            if let Some(before) = before {
                past = cx.shape(before).get(2).cloned().ok_or_else(|| Refusal::new("past_key must have 4 axes"))?;
                *x = cx.add(Concat { axis: 2 }, &[before, *x])?;
            }
        }
    }
    let total = past.clone() + new.clone();
    let mask = match masking(cx, false, [batch, tokens, &past, &total])? {
        Masking { bias: None, keep } => keep,
        masking => {
            let dtype = masking.bias.map_or(DType::F32, |bias| cx.dtype(bias));
            masking.total(cx, dtype)?
        }
    };
    let mut y = cx.add_optional(op, &[Some(q), Some(k), Some(v), mask])?;
    if rank == 4 {
        let size = width(&cx.shape(v));
        y = cx.add(Reshape { shape: vec![batch.clone(), tokens.clone(), heads.into(), size] }, &[y])?;
        y = cx.add(Transpose { perm: vec![0, 2, 1, 3] }, &[y])?;
    }
    // An output that is absent is never read.
    Ok(Some(vec![y, k, v, y]))
}

/// Attention-23 and -24: operands (q, k, v, mask?, past_key?, past_value?, nonpad_kv_seqlen?), 3-D (heads side by side) or 4-D; results
/// (y, present_key, present_value, scores at the stage that `qk_matmul_output_mode` names).
fn attention(cx: &mut NodeContext<'_>) -> Imported {
    let (mut q, mut k, mut v) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let rank = cx.rank(q);
    if !(rank == 3 || rank == 4) || cx.rank(k) != rank || cx.rank(v) != rank {
        return Err(Refusal::new("query, key and value must all have 3 or all have 4 axes"));
    }
    if let Some(results) = whole(cx)? {
        return Ok(results);
    }
    cx.ignore(&["q_num_heads", "kv_num_heads"]);
    if rank == 3 {
        let (q_heads, kv_heads) = (cx.required_int("q_num_heads")?, cx.required_int("kv_num_heads")?);
        q = split_heads(cx, q, q_heads)?;
        k = split_heads(cx, k, kv_heads)?;
        v = split_heads(cx, v, kv_heads)?;
    }
    let mut past = Dim::from(0);
    if let (Some(past_key), Some(past_value)) = (cx.optional(4), cx.optional(5)) {
        past = cx.shape(past_key).get(2).cloned().ok_or_else(|| Refusal::new("past_key must have 4 axes"))?;
        k = cx.add(Concat { axis: 2 }, &[past_key, k])?;
        v = cx.add(Concat { axis: 2 }, &[past_value, v])?;
    }
    let (present_key, present_value) = (k, v);

    let dtype = cx.dtype(q);
    let (q_shape, k_shape, v_shape) = (cx.shape(q), cx.shape(k), cx.shape(v));
    let [batch, heads, tokens, size] =
        <[Dim; 4]>::try_from(q_shape).map_err(|s| Refusal::new(format!("query of shape {s:?}")))?;
    let (kv_heads, total) = (&k_shape[1], &k_shape[2]);
    let scale = scale(cx, &size)?;
    let root = cx.scalar(dtype, scale.sqrt())?;
    q = cx.add(Binary::Mul, &[q, root])?;
    k = cx.add(Binary::Mul, &[k, root])?;
    // Heads of the query that share one of key and value become an axis of their own, which broadcasts.
    let group = heads
        .exact_div(kv_heads)
        .ok_or_else(|| Refusal::new(format!("{heads} heads of the query are not a multiple of {kv_heads} of the key")))?;
    let grouped = !group.is_one();
    let key_rank = if grouped { 5 } else { 4 };
    if grouped {
        q = cx.add(Reshape { shape: vec![batch.clone(), kv_heads.clone(), group.clone(), tokens.clone(), size] }, &[q])?;
        for (value, shape) in [(&mut k, &k_shape), (&mut v, &v_shape)] {
            let mut shape = shape.clone();
            shape.insert(2, 1.into());
            *value = cx.add(Reshape { shape }, &[*value])?;
        }
    }
    let mut perm: Vec<usize> = (0..key_rank).collect();
    perm.swap(key_rank - 2, key_rank - 1);
    let k = cx.add(Transpose { perm }, &[k])?;
    let mut scores = cx.add(MatMul::default(), &[q, k])?;
    if grouped {
        scores = cx.add(Reshape { shape: vec![batch.clone(), heads.clone(), tokens.clone(), total.clone()] }, &[scores])?;
    }
    let raw = scores;
    let softcap = cx.float_or("softcap", 0.0)?;
    if softcap > 0.0 {
        let cap = cx.scalar(dtype, f64::from(softcap))?;
        scores = cx.add(Binary::Div, &[scores, cap])?;
        scores = cx.add(Unary::Tanh, &[scores])?;
        scores = cx.add(Binary::Mul, &[scores, cap])?;
    }
    let capped = scores;
    let causal = cx.int_or("is_causal", 0)? != 0;
    if let Some(bias) = masking(cx, causal, [&batch, &tokens, &past, total])?.total(cx, dtype)? {
        scores = cx.add(Binary::Add, &[scores, bias])?;
    }
    let masked = scores;
    let precision = if cx.int_or("softmax_precision", 0)? == 0 { dtype } else { cx.dtype_attribute("softmax_precision")? };
    if precision != dtype {
        scores = cx.add(Cast { to: precision }, &[scores])?;
        v = cx.add(Cast { to: precision }, &[v])?;
    }
    let mut weights = cx.add(Softmax { axis: 3, log: false }, &[scores])?;
    let shown = match cx.int_or("qk_matmul_output_mode", 0)? {
        0 => raw,
        1 => capped,
        2 => masked,
        3 if precision != dtype => cx.add(Cast { to: dtype }, &[weights])?,
        3 => weights,
        other => return Err(Refusal::attribute("qk_matmul_output_mode", other)),
    };
    if grouped {
        let shape = vec![batch.clone(), kv_heads.clone(), group, tokens.clone(), total.clone()];
        weights = cx.add(Reshape { shape }, &[weights])?;
    }
    let mut y = cx.add(MatMul::default(), &[weights, v])?;
    if precision != dtype {
        y = cx.add(Cast { to: dtype }, &[y])?;
    }
    let v_size = &v_shape[3];
    if grouped {
        y = cx.add(Reshape { shape: vec![batch.clone(), heads.clone(), tokens.clone(), v_size.clone()] }, &[y])?;
    }
    if rank == 3 {
        y = cx.add(Transpose { perm: vec![0, 2, 1, 3] }, &[y])?;
        y = cx.add(Reshape { shape: vec![batch, tokens, heads * v_size.clone()] }, &[y])?;
    }
    Ok(vec![y, present_key, present_value, shown])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use crate::onnx::build::node;
    use sliderun::dtype::DType::*;

    #[test]
    fn extents_of_attention() {
        let op = || node("Attention", &[], &[]);
        let types = |op, given: &[Given<'_>], outputs| {
            let graph = import_node(23, op, given, outputs).unwrap();
            graph.outputs.iter().map(|o| graph.ty(o.value).to_string()).collect::<Vec<_>>()
        };
        let heads = op().attr("q_num_heads", 4).attr("kv_num_heads", 2).attr("is_causal", 1);
        let (q, kv) = (Input(F32, &["b", "s", "32"]), Input(F32, &["b", "t", "16"]));
        assert_eq!(types(heads, &[q, kv, kv], 1), ["f32[b, s, 32]"]);
        let q = Input(F16, &["b", "3", "s", "8"]);
        let past = Input(F16, &["b", "3", "p", "8"]);
        let with_past = [q, q, q, Absent, past, past];
        let present = "f16[b, 3, p+s, 8]";
        assert_eq!(types(op(), &with_past, 4), ["f16[b, 3, s, 8]", present, present, "f16[b, 3, s, p+s]"]);
        refused(23, op().attr("q_num_heads", 3).attr("kv_num_heads", 2), &[kv, kv, kv], "16 in 3 heads");
    }

    #[test]
    fn one_operator_where_it_knows_all() {
        let op = || node("Attention", &[], &[]);
        let whole = |op, given: &[Given<'_>], outputs| {
            ops(&import_node(24, op, given, outputs).unwrap()).iter().any(|op| op.starts_with("Attention"))
        };
        let (q, k) = (Input(F16, &["b", "4", "s", "8"]), Input(F16, &["b", "2", "s", "8"]));
        let (past, longer) = (Input(F16, &["b", "2", "p", "8"]), Input(F16, &["b", "2", "t", "8"]));
        let causal = || op().attr("is_causal", 1);
        assert!(whole(causal(), &[q, k, k, Input(Bool, &["s", "p+s"]), past, past], 3));
        assert!(whole(op(), &[q, longer, longer, Input(F16, &["s", "t"]), Absent, Absent, Input(I64, &["b"])], 1));
        // The first query sees the first key alone, though there are more keys than queries; scores are wanted; scores are capped.
        assert!(!whole(causal(), &[q, longer, longer], 1));
        assert!(!whole(op(), &[q, k, k], 4));
        assert!(!whole(op().attr("softcap", 30.0f32), &[q, k, k], 1));
    }
}
