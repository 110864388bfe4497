//! `fuse-attention`: scaled dot-product attention spelled out becomes one operator.
//!
//! Per head `softmax(q·kᵀ·scale + mask)·v`, where q, k and v are split into heads by a reshape and a transposition and the result is
//! joined by the inverse of both. The scale may be applied to the scores, to q or to k.

use sliderun::op::Op;
use sliderun::op::attention::Attention;
use sliderun::op::elementwise::Binary;
use sliderun::op::gemm::MatMul;
use sliderun::op::layout::Transpose;
use sliderun::op::norm::Softmax;
use sliderun::op::{InputTypes, Semantics};

use super::matching::{Product, binary, either_order};
use super::rewrite::{Replacement, emit, rewrite};
use super::{Pass, PassContext, PassError};
use crate::ir::{Graph, ValueRef};

/// The declaration. It comes after `choose`, whose verdicts cover all products.
pub const PASS: Pass =
    Pass { name: "fuse-attention", summary: "scaled dot-product attention spelled out becomes one operator", run };

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    rewrite(graph, context, |graph, id, context| {
        let root = ValueRef { node: id, slot: 0 };
        let Some(Found { op, operands, probabilities }) = find(graph, root) else { return Ok(None) };
        let types: Vec<_> = operands.iter().map(|&v| Some(graph.ty(v))).collect();
        if !op.infer(InputTypes(&types)).is_ok_and(|out| out[0] == *graph.ty(root)) {
            return Ok(None);
        }
        let name = graph.node(id).name.clone();
        if graph.single_use(probabilities).is_none() {
            context.report.declined(name, "the attention's probabilities are used elsewhere too");
            return Ok(None);
        }
        let fused = emit(graph, &name, op, &operands)?;
        Ok(Some(Replacement::new(fused, format!("recognised attention of {} heads", op.heads))))
    })
}

struct Found {
    op: Attention,
    operands: Vec<ValueRef>,
    /// The softmax, which nobody else may want to see.
    probabilities: ValueRef,
}

/// The attention whose joined heads `root` is.
fn find(graph: &Graph, root: ValueRef) -> Option<Found> {
    let Op::Reshape(_) = graph.producer(root)? else { return None };
    let joined = graph.operand(root.node, 0)?;
    let [probabilities, values] = product(graph, transposed(graph, joined, &[0, 2, 1, 3])?)?;
    let Op::Softmax(Softmax { axis: 3, log: false }) = graph.producer(probabilities)? else { return None };
    let logits = graph.operand(probabilities.node, 0)?;

    let (scores, mask) = scores(graph, logits)?;
    let [q, k] = product(graph, *scores.factors.first()?)?;
    let (q, k) = (Product::of(graph, q, None), Product::of(graph, k, None));
    let ([q_heads], [k_heads]) = (&q.factors[..], &k.factors[..]) else { return None };
    let (query, heads) = split(graph, *q_heads, &[0, 2, 1, 3])?;
    let (key, key_heads) = split(graph, *k_heads, &[0, 2, 3, 1])?;
    let (value, value_heads) = split(graph, values, &[0, 2, 1, 3])?;
    let scale = (scores.scale * q.scale * k.scale) as f32;
    (heads == key_heads && heads == value_heads).then(|| Found {
        op: Attention { heads, kv_heads: heads, scale, causal: false },
        operands: [query, key, value].into_iter().chain(mask).collect(),
        probabilities,
    })
}

/// The scaled product of q and k among what the softmax is taken of, and the mask added to it.
fn scores(graph: &Graph, logits: ValueRef) -> Option<(Product, Option<ValueRef>)> {
    let scaled = |value| {
        let product = Product::of(graph, value, None);
        let [factor] = product.factors[..] else { return None };
        matches!(graph.producer(factor), Some(Op::MatMul(_))).then_some(product)
    };
    match binary(graph, logits, Binary::Add) {
        Some(operands) => either_order(operands).into_iter().find_map(|[value, mask]| Some((scaled(value)?, Some(mask)))),
        None => Some((scaled(logits)?, None)),
    }
}

/// Operands of a product without bias.
fn product(graph: &Graph, value: ValueRef) -> Option<[ValueRef; 2]> {
    let Op::MatMul(MatMul { activation: None }) = graph.producer(value)? else { return None };
    match graph.operand(value.node, 2) {
        Some(_) => None,
        None => Some([graph.operand(value.node, 0)?, graph.operand(value.node, 1)?]),
    }
}

/// Operand of a transposition by this permutation.
fn transposed(graph: &Graph, value: ValueRef, by: &[usize]) -> Option<ValueRef> {
    match graph.producer(value)? {
        Op::Transpose(Transpose { perm }) if perm == by => graph.operand(value.node, 0),
        _ => None,
    }
}

/// The [batch, tokens, heads·D] of which a value is the [batch, tokens, heads, D], transposed, and the number of heads.
fn split(graph: &Graph, value: ValueRef, by: &[usize]) -> Option<(ValueRef, usize)> {
    let parted = transposed(graph, value, by)?;
    let Op::Reshape(_) = graph.producer(parted)? else { return None };
    let whole = graph.operand(parted.node, 0)?;
    let ([batch, tokens, width], [b, t, heads, depth]) = (&graph.ty(whole).shape[..], &graph.ty(parted).shape[..]) else {
        return None;
    };
    let same = batch == b && tokens == t && *width == heads.clone() * depth.clone();
    same.then_some((whole, heads.as_usize()?))
}
