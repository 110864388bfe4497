//! `fuse-silu`: `x·sigmoid(α·x)` becomes one operator: SiLU, also known as Swish.

use sliderun::op::elementwise::{Binary, Unary};

use super::matching::{Product, binary, parts, unary};
use super::rewrite::{Replacement, emit, rewrite};
use super::{Pass, PassContext, PassError};
use crate::ir::{Graph, NodeId, ValueRef};

/// The declaration.
pub const PASS: Pass = Pass { name: "fuse-silu", summary: "x·sigmoid(α·x) becomes one operator", run };

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    rewrite(graph, context, |graph, id, _| {
        let Some((x, alpha)) = find(graph, id) else { return Ok(None) };
        let name = graph.node(id).name.clone();
        let fused = emit(graph, &name, Unary::Swish { alpha }, &[x])?;
        Ok(Some(Replacement::new(fused, "recognised SiLU")))
    })
}

fn find(graph: &Graph, id: NodeId) -> Option<(ValueRef, f32)> {
    let root = ValueRef { node: id, slot: 0 };
    binary(graph, root, Binary::Mul)?;
    parts(graph, root).into_iter().filter(|x| graph.ty(*x) == graph.ty(root)).find_map(|x| {
        let product = Product::of(graph, root, Some(x));
        let argument = unary(graph, product.beside(x)?, Unary::Sigmoid)?;
        let argument = Product::of(graph, argument, Some(x));
        (product.scale == 1.0 && argument.factors == [x]).then_some((x, argument.scale as f32))
    })
}
