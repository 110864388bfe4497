//! `normalise`: one form for what models write in many, so that later passes look for one.
//!
//! Operators that change nothing go; chains of Reshape and of Transpose become one; arithmetic with a neutral element goes
//! where the result is the same bit for bit; a Gemm that only multiplies and adds becomes MatMul and Add, with the bias kept; the
//! constant right-hand side of a MatMul loses leading extents of 1; a MatMul that adds nothing up becomes Mul; GatherND and GatherElements
//! that take whole rows become Gather.

use sliderun::dim::Dim;
use sliderun::op::Op;
use sliderun::op::elementwise::Binary;
use sliderun::op::gemm::{Gemm, MatMul};
use sliderun::op::index::{Gather, GatherElements, GatherNd};
use sliderun::op::layout::{Reshape, Transpose};

use super::matching::splat;
use super::rewrite::{Replacement, emit, rewrite};
use super::{Pass, PassContext, PassError};
use crate::ir::{Graph, NodeId, ValueRef};

/// The declaration.
pub const PASS: Pass =
    Pass { name: "normalise", summary: "no-ops go, chains of Reshape and Transpose merge, Gemm becomes MatMul and Add", run };

type Rule = fn(&mut Graph, NodeId) -> Result<Option<Replacement>, PassError>;

/// Tried in order on each node.
const RULES: &[Rule] =
    &[no_op, neutral_element, reshape_chain, transpose_chain, gemm, matrix_rhs, outer_product, gather_nd, gather_elements];

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    rewrite(graph, context, |graph, id, _| {
        for rule in RULES {
            if let Some(replacement) = rule(graph, id)? {
                return Ok(Some(replacement));
            }
        }
        Ok(None)
    })
}

/// An operator whose one result is its first operand.
fn no_op(graph: &mut Graph, id: NodeId) -> Result<Option<Replacement>, PassError> {
    let node = graph.node(id);
    let (Some(op), [output], Some(x)) = (node.op(), node.outputs.as_slice(), graph.operand(id, 0)) else { return Ok(None) };
    let changes_nothing = match op {
        Op::Identity(_) => true,
        // Where the type stays, so do the elements.
        Op::Reshape(_) | Op::Cast(_) | Op::Expand(_) | Op::Tile(_) => true,
        Op::Concat(_) => node.arity() == 1,
        Op::Split(split) => split.sizes.len() == 1,
        Op::Slice(slice) => slice.axes.iter().all(|a| a.step == 1),
        Op::Pad(pad) => pad.pads.iter().all(|p| *p == (0, 0)),
        Op::Transpose(transpose) => transpose.perm.iter().copied().eq(0..transpose.perm.len()),
        Op::Reduce(reduce) => reduce.axes.is_empty() && is_idempotent(reduce.kind),
        _ => false,
    };
    let what = format!("dropped {}, which changes nothing", op.name());
    Ok((changes_nothing && *graph.ty(x) == output.ty).then(|| Replacement::new(x, what)))
}

/// Whether the reduction of one element is that element.
fn is_idempotent(kind: sliderun::op::reduce::ReduceKind) -> bool {
    use sliderun::op::reduce::ReduceKind::{Max, Mean, Min, Prod, Sum};
    matches!(kind, Sum | Mean | Max | Min | Prod)
}

/// `x·1`, `x/1`, `x - 0`, `x^1`, and `x + 0` where it is exact: for floats only with -0, as -0 + 0 is 0.
fn neutral_element(graph: &mut Graph, id: NodeId) -> Result<Option<Replacement>, PassError> {
    let Some(Op::Binary(function)) = graph.node(id).op() else { return Ok(None) };
    let function = *function;
    let (Some(a), Some(b)) = (graph.operand(id, 0), graph.operand(id, 1)) else { return Ok(None) };
    let result = ValueRef { node: id, slot: 0 };
    let is_float = graph.ty(result).dtype.is_float();
    let neutral = |v: ValueRef| match (function, splat(graph, v)) {
        (Binary::Mul | Binary::Div | Binary::Pow, Some(n)) => n == 1.0,
        (Binary::Add, Some(n)) => n == 0.0 && (!is_float || n.is_sign_negative()),
        (Binary::Sub, Some(n)) => n == 0.0 && (!is_float || n.is_sign_positive()),
        _ => false,
    };
    let commutes = matches!(function, Binary::Mul | Binary::Add);
    let kept = if neutral(b) {
        a
    } else if commutes && neutral(a) {
        b
    } else {
        return Ok(None);
    };
    let what = format!("dropped {function:?} with a neutral element");
    Ok((graph.ty(kept) == graph.ty(result)).then(|| Replacement::new(kept, what)))
}

/// The operand of the operator that computes operand 0 of a node, when both are of the same kind.
fn chained<T>(graph: &Graph, id: NodeId, pick: fn(&Op) -> Option<&T>) -> Option<(&T, &T, ValueRef)> {
    let outer = pick(graph.node(id).op()?)?;
    let between = graph.operand(id, 0)?;
    let inner = pick(graph.producer(between)?)?;
    Some((inner, outer, graph.operand(between.node, 0)?))
}

fn reshape_chain(graph: &mut Graph, id: NodeId) -> Result<Option<Replacement>, PassError> {
    fn pick(op: &Op) -> Option<&Reshape> {
        if let Op::Reshape(r) = op { Some(r) } else { None }
    }
    let Some((_, outer, x)) = chained(graph, id, pick) else { return Ok(None) };
    let (outer, name) = (outer.clone(), graph.node(id).name.clone());
    // Squeeze and Unsqueeze, say, with the same shape at both ends.
    let value = if graph.ty(x).shape == outer.shape { x } else { emit(graph, &name, outer, &[x])? };
    Ok(Some(Replacement::new(value, "merged Reshape with the one before it")))
}

fn transpose_chain(graph: &mut Graph, id: NodeId) -> Result<Option<Replacement>, PassError> {
    fn pick(op: &Op) -> Option<&Transpose> {
        if let Op::Transpose(t) = op { Some(t) } else { None }
    }
    let Some((inner, outer, x)) = chained(graph, id, pick) else { return Ok(None) };
    let perm: Vec<usize> = outer.perm.iter().map(|i| inner.perm[*i]).collect();
    let name = graph.node(id).name.clone();
    let unchanged = perm.iter().copied().eq(0..perm.len());
    let value = if unchanged { x } else { emit(graph, &name, Transpose { perm }, &[x])? };
    Ok(Some(Replacement::new(value, "merged Transpose with the one before it")))
}

/// `a·b + c` and `a·bᵀ + c` with a constant b; its transpose is left to constant folding.
fn gemm(graph: &mut Graph, id: NodeId) -> Result<Option<Replacement>, PassError> {
    let Some(Op::Gemm(Gemm { alpha: 1.0, beta, trans_a: false, trans_b })) = graph.node(id).op().cloned() else {
        return Ok(None);
    };
    let (Some(a), Some(mut b), c) = (graph.operand(id, 0), graph.operand(id, 1), graph.operand(id, 2)) else { return Ok(None) };
    let of_constant = graph.constant(b).is_some();
    if (c.is_some() && beta != 1.0) || (trans_b && !of_constant) || !graph.ty(a).dtype.is_float() {
        return Ok(None);
    }
    let name = graph.node(id).name.clone();
    if trans_b {
        b = emit(graph, &format!("{name}.rhs"), Transpose { perm: vec![1, 0] }, &[b])?;
    }
    let mut value = emit(graph, &name, MatMul::default(), &[a, b])?;
    if let Some(c) = c {
        value = emit(graph, &format!("{name}.bias"), Binary::Add, &[value, c])?;
    }
    Ok(Some(Replacement::new(value, if c.is_some() { "Gemm became MatMul and Add" } else { "Gemm became MatMul" })))
}

/// A constant right-hand side [1, …, K, N] becomes [K, N] where the result keeps its shape.
fn matrix_rhs(graph: &mut Graph, id: NodeId) -> Result<Option<Replacement>, PassError> {
    let Some(Op::MatMul(_)) = graph.node(id).op() else { return Ok(None) };
    let (Some(a), Some(b)) = (graph.operand(id, 0), graph.operand(id, 1)) else { return Ok(None) };
    let shape = &graph.ty(b).shape;
    let leading = shape.len().saturating_sub(2);
    if graph.constant(b).is_none()
        || leading == 0
        || shape.len() > graph.ty(a).rank()
        || !shape[..leading].iter().all(Dim::is_one)
    {
        return Ok(None);
    }
    let (name, matrix) = (graph.node(id).name.clone(), shape[leading..].to_vec());
    let b = emit(graph, &format!("{name}.rhs"), Reshape { shape: matrix }, &[b])?;
    let value = emit(graph, &name, MatMul::default(), &[a, b])?;
    Ok(Some(Replacement::new(value, "right-hand side became a matrix")))
}

/// `a·b` with K = 1: an outer product.
fn outer_product(graph: &mut Graph, id: NodeId) -> Result<Option<Replacement>, PassError> {
    let Some(Op::MatMul(MatMul { activation: None })) = graph.node(id).op() else { return Ok(None) };
    let [Some(a), Some(b)] = graph.operands(id)[..] else { return Ok(None) };
    let matrices = graph.ty(a).rank() >= 2 && graph.ty(b).rank() >= 2;
    if !matrices || !graph.ty(a).shape.last().is_some_and(Dim::is_one) {
        return Ok(None);
    }
    let name = graph.node(id).name.clone();
    let value = emit(graph, &name, Binary::Mul, &[a, b])?;
    let same = graph.ty(value) == graph.ty(ValueRef { node: id, slot: 0 });
    Ok(same.then(|| Replacement::new(value, "MatMul of one column and one row became Mul")))
}

/// GatherND with indices of one axis.
fn gather_nd(graph: &mut Graph, id: NodeId) -> Result<Option<Replacement>, PassError> {
    let Some(Op::GatherNd(GatherNd { batch_dims: 0 })) = graph.node(id).op() else { return Ok(None) };
    let (Some(data), Some(indices)) = (graph.operand(id, 0), graph.operand(id, 1)) else { return Ok(None) };
    let Some((last, shape)) = graph.ty(indices).shape.split_last() else { return Ok(None) };
    if !last.is_one() {
        return Ok(None);
    }
    let (name, shape) = (graph.node(id).name.clone(), shape.to_vec());
    let indices = emit(graph, &format!("{name}.indices"), Reshape { shape }, &[indices])?;
    let value = emit(graph, &name, Gather { axis: 0 }, &[data, indices])?;
    Ok(Some(Replacement::new(value, "GatherND along one axis became Gather")))
}

/// GatherElements along axis 1 of matrices that are all the same, by indices that are the same along rows.
fn gather_elements(graph: &mut Graph, id: NodeId) -> Result<Option<Replacement>, PassError> {
    let Some(Op::GatherElements(GatherElements { axis: 1 })) = graph.node(id).op() else { return Ok(None) };
    let (Some(data), Some(indices)) = (graph.operand(id, 0), graph.operand(id, 1)) else { return Ok(None) };
    // What is repeated along one axis, where it has one element.
    let repeated = |value: ValueRef, axis: usize| {
        let Some(Op::Tile(_) | Op::Expand(_)) = graph.producer(value) else { return None };
        let one = graph.operand(value.node, 0)?;
        let (before, after) = (&graph.ty(one).shape, &graph.ty(value).shape);
        let rest = before.len() == 3 && after.len() == 3 && (0..3).all(|a| a == axis || before[a] == after[a]);
        (rest && before[axis].is_one()).then_some(one)
    };
    let (Some(matrix), Some(index)) = (repeated(data, 0), repeated(indices, 2)) else { return Ok(None) };
    let (matrix_shape, index_shape) = (graph.ty(matrix).shape[1..].to_vec(), graph.ty(index).shape[..2].to_vec());
    if graph.ty(data).shape[0] != index_shape[0] || graph.ty(indices).shape[2] != matrix_shape[1] {
        return Ok(None);
    }
    let name = graph.node(id).name.clone();
    let matrix = emit(graph, &format!("{name}.rows"), Reshape { shape: matrix_shape }, &[matrix])?;
    let index = emit(graph, &format!("{name}.indices"), Reshape { shape: index_shape }, &[index])?;
    let value = emit(graph, &name, Gather { axis: 0 }, &[matrix, index])?;
    Ok(Some(Replacement::new(value, "GatherElements of whole rows became Gather")))
}
