//! `fuse-bias`: MatMul(x, W) + b, W and b constant, becomes one MatMul with a bias.

use sliderun::op::Op;
use sliderun::op::elementwise::Binary;
use sliderun::op::gemm::MatMul;

use super::rewrite::{Replacement, rewrite};
use super::{Pass, PassContext, PassError};
use crate::ir::{Graph, NodeId, ValueRef};

/// The pass.
pub const PASS: Pass =
    Pass { name: "fuse-bias", summary: "add a constant bias inside the MatMul with a constant weight that it follows", run };

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    rewrite(graph, context, |graph, id, context| {
        let Some(Op::Binary(Binary::Add)) = graph.node(id).op() else {
            return Ok(None);
        };
        for (product, bias) in [(0, 1), (1, 0)] {
            if let (Some(product), Some(bias)) = (graph.operand(id, product), graph.operand(id, bias))
                && is_weight_product(graph, product.node)
                && graph.constant(bias).is_some()
            {
                return fuse(graph, id, product, bias, context);
            }
        }
        Ok(None)
    })
}

/// Whether a node multiplies with a constant matrix and has no bias yet.
fn is_weight_product(graph: &Graph, id: NodeId) -> bool {
    matches!(graph.node(id).op(), Some(Op::MatMul(MatMul { activation: None })))
        && graph.operand(id, 2).is_none()
        && graph.operand(id, 1).and_then(|w| graph.constant(w)).is_some_and(|w| w.shape.len() == 2)
}

fn fuse(
    graph: &mut Graph,
    add: NodeId,
    product: ValueRef,
    bias: ValueRef,
    context: &mut PassContext<'_>,
) -> Result<Option<Replacement>, PassError> {
    let name = graph.node(product.node).name.clone();
    let channels = graph.ty(product).shape.last().cloned();
    if graph.ty(bias).shape.as_slice() != channels.as_slice() {
        context.report.declined(name, format!("what is added is {}, not one value per output channel", graph.ty(bias)));
        return Ok(None);
    }
    if graph.single_use(product).is_none() {
        context.report.declined(name, "the product without its bias is used elsewhere too");
        return Ok(None);
    }
    if graph.ty(product) != graph.ty(ValueRef { node: add, slot: 0 }) {
        return Ok(None);
    }
    let operands = [graph.operand(product.node, 0), graph.operand(product.node, 1), Some(bias)];
    let fused = graph.add_op(&name, MatMul::default(), &operands).map_err(PassError::infer(&name))?;
    Ok(Some(Replacement::new(ValueRef { node: fused, slot: 0 }, "bias added inside the product")))
}
