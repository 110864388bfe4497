//! What the sparse passes see of a matrix product with a constant weight.

use sliderun::op::Op;
use sliderun::op::elementwise::Unary;
use sliderun::op::gemm::MatMul;

use super::PassError;
use crate::ir::{Graph, NodeId, ValueRef};
use crate::options::CompileOptions;
use crate::sparsity::{Orientation, Weight, WeightError, weight};

/// How MatMul stores its right-hand side.
pub const ORIENTATION: Orientation = Orientation::KN;

/// Checks that what a recipe names is in the graph: products, and convolutions that could be some.
///
/// # Errors
/// The first entry that names none.
pub fn check_recipe(graph: &Graph, options: &CompileOptions) -> Result<(), PassError> {
    let Some(recipe) = &options.recipe else { return Ok(()) };
    let multiplies = |id: &NodeId| matches!(graph.node(*id).op(), Some(Op::MatMul(_) | Op::Conv(_)));
    let nodes: Vec<NodeId> = graph.node_ids().into_iter().filter(multiplies).collect();
    Ok(recipe.check(nodes.iter().map(|id| graph.node(*id).name.as_str()))?)
}

/// A MatMul node and its operands.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// The node.
    pub node: NodeId,
    /// The activation, [.., K].
    pub activation: ValueRef,
    /// The right-hand side; a constant [K, N] when [`Product::eligibility`] says so.
    pub weight: ValueRef,
    /// The bias [N], when present.
    pub bias: Option<ValueRef>,
    /// What is applied last, when anything is.
    pub function: Option<Unary>,
}

impl Product {
    /// The product that a node is, when it is one.
    pub fn of(graph: &Graph, node: NodeId) -> Option<Product> {
        let Op::MatMul(MatMul { activation: function }) = *graph.node(node).op()? else {
            return None;
        };
        Some(Product {
            node,
            activation: graph.operand(node, 0)?,
            weight: graph.operand(node, 1)?,
            bias: graph.operand(node, 2),
            function,
        })
    }

    /// Every product of the graph, in schedule order.
    pub fn all(graph: &Graph) -> Vec<Product> {
        graph.schedule().into_iter().filter_map(|id| Product::of(graph, id)).collect()
    }

    /// The value that the product computes.
    pub fn result(&self) -> ValueRef {
        ValueRef { node: self.node, slot: 0 }
    }

    /// Why the product cannot run on a quantized or sparse weight, if it cannot.
    pub fn ineligible(&self, graph: &Graph) -> Option<String> {
        let Some(constant) = graph.constant(self.weight) else {
            return Some("both operands are computed".into());
        };
        let activation = graph.ty(self.activation);
        if constant.shape.len() != 2 {
            return Some(format!("the weight has {} axes, 2 are needed", constant.shape.len()));
        }
        if constant.shape.contains(&0) {
            return Some("the weight has no elements".into());
        }
        if !weight::is_weight_type(constant.dtype) {
            return Some(format!("the weight is {}; f32, f16 or bf16 is needed", constant.dtype));
        }
        if !activation.dtype.computes_in_f32() {
            return Some(format!("the activation is {}; f32, f16 or bf16 is needed", activation.dtype));
        }
        if let Some(bias) = self.bias
            && graph.constant(bias).is_none()
        {
            return Some("the bias is computed".into());
        }
        None
    }

    /// The weight as [N, K].
    ///
    /// # Errors
    /// As [`Weight::read`]; also for a weight that is no constant.
    pub fn read_weight(&self, graph: &Graph) -> Result<Weight, WeightError> {
        let constant = graph.constant(self.weight).ok_or(WeightError::Rank(0))?;
        Weight::read(constant, ORIENTATION)
    }
}
