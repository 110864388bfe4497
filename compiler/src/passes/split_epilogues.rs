//! `split-epilogues`: for CUDA devices, bias and activation of a MatMul become operators of their own.
//!
//! There a library does the product, and what follows it is fused into one element-wise kernel; on the CPU it is cheapest inside the product.

use sliderun::op::Op;
use sliderun::op::elementwise::Binary;
use sliderun::op::gemm::MatMul;

use super::rewrite::{Replacement, emit, rewrite};
use super::{Pass, PassContext, PassError};
use crate::ir::{Graph, ValueRef};

/// The pass.
pub const PASS: Pass = Pass {
    name: "split-epilogues",
    summary: "for CUDA devices alone: take bias and activation out of the MatMuls that libraries do",
    run,
};

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    if !context.options.for_cuda() {
        return Ok(());
    }
    rewrite(graph, context, |graph, id, _| {
        let Some(&Op::MatMul(MatMul { activation })) = graph.node(id).op() else { return Ok(None) };
        let bias = graph.operand(id, 2);
        let (Some(a), Some(b)) = (graph.operand(id, 0), graph.operand(id, 1)) else { return Ok(None) };
        if bias.is_none() && activation.is_none() {
            return Ok(None);
        }
        let name = graph.node(id).name.clone();
        let mut value: ValueRef = emit(graph, &name, MatMul::default(), &[a, b])?;
        if let Some(bias) = bias {
            value = emit(graph, &format!("{name}/bias"), Binary::Add, &[value, bias])?;
        }
        if let Some(activation) = activation {
            value = emit(graph, &format!("{name}/activation"), activation, &[value])?;
        }
        Ok(Some(Replacement::new(value, "what follows the product was taken out of it")))
    })
}
