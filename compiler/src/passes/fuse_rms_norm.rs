//! `fuse-rms-norm`: root mean square normalisation spelled out becomes one operator.
//!
//! First the normalisation itself, `x / sqrt(mean(x²) + ε)`, with a scale of ones; then a multiplication by a constant scale that follows is
//! taken in. Where 16-bit models normalise in f32 and scale what they have rounded, the scale stays outside: taken in, it would be rounded
//! otherwise.

use sliderun::op::Op;
use sliderun::op::elementwise::Binary;
use sliderun::op::norm::RmsNorm;

use super::fuse_layer_norm::{Normalisation, fits, mean, over_deviation};
use super::matching::{Product, binary, either_order, splat};
use super::rewrite::{Replacement, emit, rewrite};
use super::{Pass, PassContext, PassError};
use crate::ir::{Graph, NodeId, ValueRef};

/// The declaration.
pub const PASS: Pass = Pass {
    name: "fuse-rms-norm",
    summary: "root mean square normalisation spelled out becomes one operator, with its scale",
    run,
};

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    rewrite(graph, context, |graph, id, context| match recognise(graph, id, context)? {
        Some(replacement) => Ok(Some(replacement)),
        None => absorb(graph, id),
    })
}

fn recognise(graph: &mut Graph, id: NodeId, context: &mut PassContext<'_>) -> Result<Option<Replacement>, PassError> {
    let root = ValueRef { node: id, slot: 0 };
    let Some((x, squares, epsilon)) = over_deviation(graph, root) else { return Ok(None) };
    let Some((square, axes)) = mean(graph, squares) else { return Ok(None) };
    if axes.is_empty() || graph.ty(root) != graph.ty(x) || !Product::of(graph, square, Some(x)).is(1.0, &[x, x], 0.0) {
        return Ok(None);
    }
    let found = Normalisation { x, axes: axes.to_vec(), epsilon };
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
        if alone && fits(graph, constant, norm, op.axis) && splat(graph, scale) == Some(1.0) {
            let name = graph.node(norm.node).name.clone();
            return Ok(Some(Replacement::new(emit(graph, &name, op, &[x, constant])?, "took the scale in")));
        }
    }
    Ok(None)
}
