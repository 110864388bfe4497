//! `fuse-layer-norm`: layer normalisation spelled out becomes one operator.
//!
//! First the normalisation itself, `(x - mean(x)) / sqrt(mean((x - mean(x))²) + ε)`, with a scale of ones; then a
//! multiplication by a constant scale and an addition of a constant bias that follow are taken in.

use bytes::Bytes;
use sliderun::dtype::DType;
use sliderun::op::elementwise::{Binary, Unary};
use sliderun::op::norm::LayerNorm;
use sliderun::op::reduce::{Reduce, ReduceKind};
use sliderun::op::{Op, TensorType, broadcast};

use super::matching::{Product, binary, constant_plus, either_order, splat, unary};
use super::rewrite::{Replacement, emit, rewrite};
use super::{Pass, PassContext, PassError};
use crate::ir::{Constant, Graph, NodeId, ValueRef};

/// The declaration.
pub const PASS: Pass = Pass {
    name: "fuse-layer-norm",
    summary: "layer normalisation spelled out becomes one operator, with its scale and bias",
    run,
};

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    rewrite(graph, context, |graph, id, context| match recognise(graph, id, context)? {
        Some(replacement) => Ok(Some(replacement)),
        None => absorb(graph, id),
    })
}

/// What normalises a value.
pub(super) struct Normalisation {
    pub x: ValueRef,
    pub axes: Vec<usize>,
    pub epsilon: f32,
}

impl Normalisation {
    /// The operator for the first axis and ε, with a scale of ones, in place of the node that ends what is spelled out; declined where the
    /// operator cannot do it.
    pub(super) fn replace(
        self,
        graph: &mut Graph,
        id: NodeId,
        context: &mut PassContext<'_>,
        op: impl FnOnce(usize, f32) -> Op,
        what: &str,
    ) -> Result<Option<Replacement>, PassError> {
        let Normalisation { x, axes, epsilon } = self;
        let name = graph.node(id).name.clone();
        let ty = graph.ty(x).clone();
        let axis = ty.rank() - axes.len();
        let op = op(axis, epsilon);
        if !axes.iter().copied().eq(axis..ty.rank()) {
            context.report.declined(name, format!("normalises axes {axes:?} of {ty}, and {} wants the last ones", op.name()));
            return Ok(None);
        }
        let normalised = TensorType { dtype: ty.dtype, shape: ty.shape[axis..].to_vec() };
        let Some(ones) = ones(&normalised) else {
            context.report.declined(name, format!("normalises {normalised}, whose extents must be known"));
            return Ok(None);
        };
        let scale = graph.add_constant(&format!("{name}.scale"), ones);
        let fused = emit(graph, &name, op, &[x, scale])?;
        Ok(Some(Replacement::new(fused, format!("recognised {what}"))))
    }
}

fn recognise(graph: &mut Graph, id: NodeId, context: &mut PassContext<'_>) -> Result<Option<Replacement>, PassError> {
    let Some(found) = find(graph, ValueRef { node: id, slot: 0 }) else { return Ok(None) };
    let op = |axis, epsilon| LayerNorm { axis, epsilon, stats: false }.into();
    found.replace(graph, id, context, op, "layer normalisation")
}

fn find(graph: &Graph, root: ValueRef) -> Option<Normalisation> {
    let (centred, squares, epsilon) = over_deviation(graph, root)?;
    let (square, axes) = mean(graph, squares)?;
    if !Product::of(graph, square, Some(centred)).is(1.0, &[centred, centred], 0.0) {
        return None;
    }
    let [x, average] = binary(graph, centred, Binary::Sub)?;
    let (of, same_axes) = mean(graph, average)?;
    (of == x && same_axes == axes && graph.ty(root) == graph.ty(x) && !axes.is_empty()).then(|| Normalisation {
        x,
        axes: axes.to_vec(),
        epsilon,
    })
}

/// The y, v and ε of `y / sqrt(v + ε)`: either the quotient or a product with the reciprocal.
pub(super) fn over_deviation(graph: &Graph, root: ValueRef) -> Option<(ValueRef, ValueRef, f32)> {
    let of = |y: ValueRef, deviation: ValueRef| variance(graph, deviation).map(|(v, epsilon)| (y, v, epsilon));
    let quotient = binary(graph, root, Binary::Div).and_then(|[y, deviation]| of(y, deviation));
    quotient.or_else(|| {
        either_order(binary(graph, root, Binary::Mul)?).into_iter().find_map(|[y, inverse]| {
            let deviation = unary(graph, inverse, Unary::Reciprocal).or_else(|| {
                let [one, deviation] = binary(graph, inverse, Binary::Div)?;
                (splat(graph, one) == Some(1.0)).then_some(deviation)
            })?;
            of(y, deviation)
        })
    })
}

/// The v and ε of `sqrt(v + ε)`.
fn variance(graph: &Graph, deviation: ValueRef) -> Option<(ValueRef, f32)> {
    let sum = unary(graph, deviation, Unary::Sqrt).or_else(|| {
        let [sum, half] = binary(graph, deviation, Binary::Pow)?;
        (splat(graph, half) == Some(0.5)).then_some(sum)
    })?;
    let (epsilon, squares) = constant_plus(graph, sum)?;
    Some((squares, epsilon as f32))
}

/// Operand and axes of a mean that keeps its axes.
pub(super) fn mean(graph: &Graph, value: ValueRef) -> Option<(ValueRef, &[usize])> {
    match graph.producer(value)? {
        Op::Reduce(Reduce { kind: ReduceKind::Mean, axes, keep_dims: true }) => Some((graph.operand(value.node, 0)?, axes)),
        _ => None,
    }
}

/// A constant of ones, when the extents are known and the type is one that is normalised.
fn ones(ty: &TensorType) -> Option<Constant> {
    let one: &[u8] = match ty.dtype {
        DType::F32 => &1f32.to_le_bytes(),
        DType::F64 => &1f64.to_le_bytes(),
        DType::F16 => &half::f16::ONE.to_le_bytes(),
        DType::Bf16 => &half::bf16::ONE.to_le_bytes(),
        _ => return None,
    };
    let shape = ty.concrete_shape()?;
    let data = one.repeat(shape.iter().product());
    Some(Constant { dtype: ty.dtype, shape, data: Bytes::from(data) })
}

/// Takes a multiplication or an addition with a constant into the normalisation before it, where that has ones and no bias.
fn absorb(graph: &mut Graph, id: NodeId) -> Result<Option<Replacement>, PassError> {
    let root = ValueRef { node: id, slot: 0 };
    for function in [Binary::Mul, Binary::Add] {
        let Some(operands) = binary(graph, root, function) else { continue };
        for [norm, constant] in either_order(operands) {
            let Some(Op::LayerNorm(op @ LayerNorm { stats: false, .. })) = graph.producer(norm).cloned() else { continue };
            let (x, scale) = (graph.operand(norm.node, 0), graph.operand(norm.node, 1));
            let (Some(x), Some(scale), None) = (x, scale, graph.operand(norm.node, 2)) else { continue };
            let fits =
                graph.single_use(norm).is_some() && fits(graph, constant, norm, op.axis) && graph.ty(root) == graph.ty(norm);
            if !fits || (function == Binary::Mul && splat(graph, scale) != Some(1.0)) {
                continue;
            }
            let name = graph.node(norm.node).name.clone();
            return Ok(Some(if function == Binary::Mul {
                Replacement::new(emit(graph, &name, op, &[x, constant])?, "took the scale in")
            } else {
                Replacement::new(emit(graph, &name, op, &[x, scale, constant])?, "took the bias in")
            }));
        }
    }
    Ok(None)
}

/// Whether a constant broadcasts to the normalised axes.
pub(super) fn fits(graph: &Graph, constant: ValueRef, norm: ValueRef, axis: usize) -> bool {
    let normalised = &graph.ty(norm).shape[axis..];
    let shape = &graph.ty(constant).shape;
    graph.constant(constant).is_some()
        && shape.len() <= normalised.len()
        && broadcast(&[shape, normalised]).is_ok_and(|common| common == normalised)
}
