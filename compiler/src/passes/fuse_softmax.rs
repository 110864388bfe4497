//! `fuse-softmax`: `e / sum(e)` with `e = exp(x - max(x))` becomes one operator.

use sliderun::op::Op;
use sliderun::op::elementwise::{Binary, Unary};
use sliderun::op::norm::Softmax;
use sliderun::op::reduce::{Reduce, ReduceKind};

use super::matching::{binary, either_order, splat, unary};
use super::rewrite::{Replacement, emit, rewrite};
use super::statistics::{keeps_axes, reshaped};
use super::{Pass, PassContext, PassError};
use crate::ir::{Graph, NodeId, ValueRef};

/// The declaration.
pub const PASS: Pass = Pass { name: "fuse-softmax", summary: "softmax spelled out becomes one operator", run };

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    rewrite(graph, context, |graph, id, _| {
        let Some((x, axis)) = find(graph, id) else { return Ok(None) };
        let name = graph.node(id).name.clone();
        let fused = emit(graph, &name, Softmax { axis, log: false }, &[x])?;
        Ok(Some(Replacement::new(fused, "recognised softmax")))
    })
}

fn find(graph: &Graph, id: NodeId) -> Option<(ValueRef, usize)> {
    let root = ValueRef { node: id, slot: 0 };
    let quotient = binary(graph, root, Binary::Div).or_else(|| {
        let factors = either_order(binary(graph, root, Binary::Mul)?);
        factors.into_iter().find_map(|[e, inverse]| Some([e, unary(graph, inverse, Unary::Reciprocal)?]))
    });
    let [e, sum] = quotient?;
    let [x, largest] = binary(graph, unary(graph, e, Unary::Exp)?, Binary::Sub)?;
    let (of, axis) = reduced(graph, sum, ReduceKind::Sum)?;
    let (below, same_axis) = reduced(graph, largest, ReduceKind::Max)?;
    let beside = [sum, largest].into_iter().all(|v| keeps_axes(graph, v, x, &[axis]));
    (of == e && below == x && same_axis == axis && beside).then_some((x, axis))
}

/// What is reduced in this way along one axis, which may be kept later; of a maximum perhaps together with -∞.
fn reduced(graph: &Graph, value: ValueRef, wanted: ReduceKind) -> Option<(ValueRef, usize)> {
    let value = reshaped(graph, value);
    if let Some(operands) = binary(graph, value, Binary::Max).filter(|_| wanted == ReduceKind::Max) {
        let rest = |[low, v]: [ValueRef; 2]| (splat(graph, low) == Some(f64::NEG_INFINITY)).then_some(v);
        return either_order(operands).into_iter().find_map(rest).and_then(|v| reduced(graph, v, wanted));
    }
    match graph.producer(value)? {
        Op::Reduce(Reduce { kind, axes, .. }) if *kind == wanted => match axes.as_slice() {
            [axis] => Some((graph.operand(value.node, 0)?, *axis)),
            _ => None,
        },
        _ => None,
    }
}
