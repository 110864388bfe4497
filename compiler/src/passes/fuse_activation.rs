//! `fuse-activation`: a function of each element of MatMul(x, W) + b becomes part of the MatMul.
//!
//! After `merge`, so that products that read one activation are one even where a function follows one of them (gate/up).

use sliderun::op::Op;
use sliderun::op::gemm::MatMul;

use super::rewrite::{Replacement, rewrite};
use super::{Pass, PassContext, PassError};
use crate::ir::{Graph, ValueRef};

/// The pass.
pub const PASS: Pass = Pass {
    name: "fuse-activation",
    summary: "apply an element-wise function inside the MatMul with a weight that it follows",
    run,
};

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    rewrite(graph, context, |graph, id, context| {
        let Some(&Op::Unary(function)) = graph.node(id).op() else { return Ok(None) };
        let Some(product) = graph.operand(id, 0).filter(|p| is_weight_product(graph, *p)) else { return Ok(None) };
        let name = graph.node(product.node).name.clone();
        if graph.ty(product) != graph.ty(ValueRef { node: id, slot: 0 }) {
            return Ok(None);
        }
        if graph.single_use(product).is_none() {
            context.report.declined(name, format!("the product without its {function:?} is used elsewhere too"));
            return Ok(None);
        }
        let operands = graph.operands(product.node);
        let op = MatMul { activation: Some(function) };
        let fused = graph.add_op(&name, op, &operands).map_err(PassError::infer(&name))?;
        graph.set_form(fused, graph.node(product.node).form);
        Ok(Some(Replacement::new(ValueRef { node: fused, slot: 0 }, format!("{function:?} applied inside the product"))))
    })
}

/// Whether a value is a product of floats with a constant matrix, with nothing applied to it yet.
fn is_weight_product(graph: &Graph, value: ValueRef) -> bool {
    graph.ty(value).dtype.computes_in_f32()
        && matches!(graph.node(value.node).op(), Some(Op::MatMul(MatMul { activation: None })))
        && graph.operand(value.node, 1).and_then(|w| graph.constant(w)).is_some_and(|w| w.shape.len() == 2)
}
