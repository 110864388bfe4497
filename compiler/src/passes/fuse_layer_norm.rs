//! `fuse-layer-norm`: layer normalisation spelled out becomes one operator.
//!
//! First the normalisation itself, `(x - mean(x)) / sqrt(variance(x) + ε)`, with the constant scale that is among the factors or with one of
//! ones, also multiplied out as `x·s + (bias - mean(x)·s)`; then a multiplication by a constant scale and an addition of a constant bias that
//! follow are taken in.

use bytes::Bytes;
use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::elementwise::Binary;
use sliderun::op::norm::LayerNorm;
use sliderun::op::{Op, TensorType, broadcast};

use super::matching::{binary, either_order, splat};
use super::rewrite::{Replacement, emit, rewrite};
use super::statistics::{Mean, Quotient, centred, is_variance, keeps_axes, mean, quotients};
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
    /// Constants.
    pub scale: Option<ValueRef>,
    pub bias: Option<ValueRef>,
}

impl Normalisation {
    /// The operator for the first axis and ε in place of the node that ends what is spelled out; declined where the operator cannot do it.
    pub(super) fn replace(
        self,
        graph: &mut Graph,
        id: NodeId,
        context: &mut PassContext<'_>,
        op: impl FnOnce(usize, f32) -> Op,
        what: &str,
    ) -> Result<Option<Replacement>, PassError> {
        let Normalisation { x, axes, epsilon, scale, bias } = self;
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
        let mut operands = vec![x];
        for constant in [scale, bias].into_iter().flatten() {
            let Some(row) = row(graph, constant, &normalised.shape) else {
                context.report.declined(name, format!("its scale or bias does not lie along {normalised}"));
                return Ok(None);
            };
            operands.push(row);
        }
        if scale.is_none() {
            operands.insert(1, graph.add_constant(&format!("{name}.scale"), ones));
        }
        let fused = emit(graph, &name, op, &operands)?;
        Ok(Some(Replacement::new(fused, format!("recognised {what}"))))
    }
}

fn recognise(graph: &mut Graph, id: NodeId, context: &mut PassContext<'_>) -> Result<Option<Replacement>, PassError> {
    let root = ValueRef { node: id, slot: 0 };
    let Some(found) = find(graph, root).or_else(|| multiplied_out(graph, root)) else { return Ok(None) };
    let op = |axis, epsilon| LayerNorm { axis, epsilon, stats: false }.into();
    found.replace(graph, id, context, op, "layer normalisation")
}

fn find(graph: &Graph, root: ValueRef) -> Option<Normalisation> {
    quotients(graph, root).into_iter().find_map(|q| {
        let (x, axes) = centred(graph, q.over)?;
        is_normalised(graph, root, x, axes, &q).then(|| Normalisation {
            x,
            axes: axes.to_vec(),
            epsilon: q.epsilon,
            scale: q.scale,
            bias: None,
        })
    })
}

/// Whether a quotient of this type is by the deviation of x.
fn is_normalised(graph: &Graph, root: ValueRef, x: ValueRef, axes: &[usize], q: &Quotient) -> bool {
    !axes.is_empty()
        && graph.ty(root) == graph.ty(x)
        && keeps_axes(graph, q.deviation, x, axes)
        && is_variance(graph, q.squares, x, axes)
}

/// `x·s + (bias - mean(x)·s)`, where s is the scale over the deviation.
fn multiplied_out(graph: &Graph, root: ValueRef) -> Option<Normalisation> {
    either_order(binary(graph, root, Binary::Add)?).into_iter().find_map(|[scaled, shift]| {
        let [bias, of_mean] = binary(graph, shift, Binary::Sub)?;
        graph.constant(bias)?;
        quotients(graph, of_mean).into_iter().find_map(|of_mean| {
            let Mean { of: x, squared: false, axes } = mean(graph, of_mean.over)? else { return None };
            let same = quotients(graph, scaled).contains(&Quotient { over: x, ..of_mean.clone() });
            (same && keeps_axes(graph, of_mean.over, x, axes) && is_normalised(graph, root, x, axes, &of_mean)).then(|| {
                Normalisation { x, axes: axes.to_vec(), epsilon: of_mean.epsilon, scale: of_mean.scale, bias: Some(bias) }
            })
        })
    })
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
            let alone = graph.single_use(norm).is_some() && graph.ty(root) == graph.ty(norm);
            if !alone || (function == Binary::Mul && splat(graph, scale) != Some(1.0)) {
                continue;
            }
            let normalised = graph.ty(norm).shape[op.axis..].to_vec();
            let Some(constant) = row(graph, constant, &normalised) else { continue };
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

/// A constant that broadcasts to the normalised axes, without the axes of one element before them.
pub(super) fn row(graph: &mut Graph, constant: ValueRef, normalised: &[Dim]) -> Option<ValueRef> {
    let known = graph.constant(constant)?;
    let beyond = known.shape.len().saturating_sub(normalised.len());
    let shape = known.shape[beyond..].to_vec();
    let extents: Vec<Dim> = shape.iter().copied().map(Dim::from).collect();
    if known.shape[..beyond].iter().any(|d| *d != 1) || !broadcast(&[&extents, normalised]).is_ok_and(|all| all == normalised) {
        return None;
    }
    if beyond == 0 {
        return Some(constant);
    }
    let trimmed = Constant { shape, ..known.clone() };
    let name = graph.output(constant).name.clone();
    Some(graph.add_constant(&name, trimmed))
}
