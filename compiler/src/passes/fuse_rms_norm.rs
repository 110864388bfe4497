//! `fuse-rms-norm`: root mean square normalisation spelled out becomes one operator.
//!
//! First the normalisation itself, `x / sqrt(mean(x²) + ε)`, with the constant scale that is among the factors or with one of ones; then a
//! multiplication by a constant scale that follows is taken in. Where 16-bit models normalise in f32 and scale what they have rounded, the scale stays outside: taken in, it would be rounded
//! otherwise.

use sliderun::op::elementwise::Binary;
use sliderun::op::norm::RmsNorm;
use sliderun::op::{Op, TensorType};

use super::fuse_layer_norm::{Normalisation, row};
use super::matching::{binary, either_order, splat};
use super::rewrite::{Replacement, emit, rewrite};
use super::statistics::{Quotient, is_mean_square, keeps_axes, quotients};
use super::{Pass, PassContext, PassError};
use crate::ir::{Constant, Graph, NodeId, ValueRef};

/// The declaration.
pub const PASS: Pass = Pass {
    name: "fuse-rms-norm",
    summary: "root mean square normalisation spelled out becomes one operator, with its scale",
    run,
};

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    rewrite(graph, context, |graph, id, context| match recognise(graph, id, context)? {
        Some(replacement) => Ok(Some(replacement)),
        None => absorb(graph, id).and_then(|done| done.map_or_else(|| narrow_scale(graph, id), |done| Ok(Some(done)))),
    })
}

fn recognise(graph: &mut Graph, id: NodeId, context: &mut PassContext<'_>) -> Result<Option<Replacement>, PassError> {
    let root = ValueRef { node: id, slot: 0 };
    let find = |q: Quotient| {
        let axes = is_mean_square(graph, q.squares, q.over)?.to_vec();
        let fits = !axes.is_empty() && graph.ty(root) == graph.ty(q.over) && keeps_axes(graph, q.deviation, q.over, &axes);
        fits.then_some(Normalisation { x: q.over, axes, epsilon: q.epsilon, scale: q.scale, bias: None })
    };
    let Some(found) = quotients(graph, root).into_iter().find_map(find) else { return Ok(None) };
    found.replace(graph, id, context, |axis, epsilon| RmsNorm { axis, epsilon }.into(), "root mean square normalisation")
}

/// Takes a multiplication by a constant into the normalisation before it, where that has ones.
fn absorb(graph: &mut Graph, id: NodeId) -> Result<Option<Replacement>, PassError> {
    let root = ValueRef { node: id, slot: 0 };
    let Some(operands) = binary(graph, root, Binary::Mul) else { return Ok(None) };
    for [norm, constant] in either_order(operands) {
        let Some(&Op::RmsNorm(op)) = graph.producer(norm) else { continue };
        let (Some(x), Some(scale)) = (graph.operand(norm.node, 0), graph.operand(norm.node, 1)) else { continue };
        let alone = graph.single_use(norm).is_some() && graph.ty(root) == graph.ty(norm);
        let normalised = graph.ty(norm).shape[op.axis..].to_vec();
        if alone
            && splat(graph, scale) == Some(1.0)
            && let Some(constant) = row(graph, constant, &normalised)
        {
            let name = graph.node(norm.node).name.clone();
            return Ok(Some(Replacement::new(emit(graph, &name, op, &[x, constant])?, "took the scale in")));
        }
    }
    Ok(None)
}

/// Gives a normalisation whose scale is one number, expanded to x's shape in runs, a constant row of it.
fn narrow_scale(graph: &mut Graph, id: NodeId) -> Result<Option<Replacement>, PassError> {
    let Some(&Op::RmsNorm(op)) = graph.node(id).op() else { return Ok(None) };
    let (Some(x), Some(scale)) = (graph.operand(id, 0), graph.operand(id, 1)) else { return Ok(None) };
    let expanded = matches!(graph.producer(scale), Some(Op::Expand(_))).then(|| graph.operand(scale.node, 0)).flatten();
    let normalised = TensorType { dtype: graph.ty(scale).dtype, shape: graph.ty(x).shape[op.axis..].to_vec() };
    let (Some(number), Some(shape)) = (expanded.and_then(|v| graph.constant(v)), normalised.concrete_shape()) else {
        return Ok(None);
    };
    if number.shape.iter().any(|d| *d != 1) {
        return Ok(None);
    }
    let data = number.data.repeat(shape.iter().product()).into();
    let name = graph.node(id).name.clone();
    let row = graph.add_constant(&format!("{name}.scale"), Constant { dtype: number.dtype, shape, data });
    Ok(Some(Replacement::new(emit(graph, &name, op, &[x, row])?, "took one row of the scale")))
}
