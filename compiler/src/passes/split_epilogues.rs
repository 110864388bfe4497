//! `split-epilogues`: for CUDA devices, bias and activation of a MatMul become operators of their own, unless the library does them for nothing.
//!
//! There a library does the product, and what follows it is fused into one element-wise kernel; on the CPU it is cheapest inside the product.
//! Where no kernel follows that could take bias and activation along, since the next to read the result is an Attention, another product, or
//! nobody, they would be a launch and two passes over memory of their own: there they stay inside, where cuBLASLt adds and applies them to
//! the sums before it rounds those. erf's GELU it does not have.

use sliderun::op::Op;
use sliderun::op::elementwise::Binary;
use sliderun::op::gemm::MatMul;
use sliderun::plan::cuda::library_applies;

use super::rewrite::{Replacement, emit, rewrite};
use super::{Pass, PassContext, PassError};
use crate::ir::{Graph, NodeId, ValueRef};

/// The pass.
pub const PASS: Pass = Pass {
    name: "split-epilogues",
    summary: "for CUDA devices alone: take bias and activation out of the MatMuls that libraries do, where a kernel follows that takes them along",
    run,
};

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    if !context.options.for_cuda() {
        return Ok(());
    }
    rewrite(graph, context, |graph, id, context| {
        let Some(&Op::MatMul(MatMul { activation })) = graph.node(id).op() else { return Ok(None) };
        let bias = graph.operand(id, 2);
        let (Some(a), Some(b)) = (graph.operand(id, 0), graph.operand(id, 1)) else { return Ok(None) };
        if bias.is_none() && activation.is_none() {
            return Ok(None);
        }
        let name = graph.node(id).name.clone();
        let result = ValueRef { node: id, slot: 0 };
        let dtype = graph.ty(result).dtype;
        let applied = activation.is_none_or(|function| library_applies(function, dtype));
        if applied && stands_alone(graph, result) {
            context.report.declined(name, "no kernel follows that would take it along, and the library does it");
            return Ok(None);
        }
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

/// Whether none of a value's readers has a kernel that calculates elements of it on the way, be it through parts of it.
fn stands_alone(graph: &Graph, value: ValueRef) -> bool {
    graph.uses(value).into_iter().all(|(reader, _)| match graph.node(reader).op() {
        Some(Op::Split(_) | Op::Reshape(_) | Op::Identity(_)) => results(graph, reader).all(|v| stands_alone(graph, v)),
        Some(op) => has_kernel_of_its_own(op),
        None => true,
    })
}

fn results(graph: &Graph, id: NodeId) -> impl Iterator<Item = ValueRef> {
    (0..graph.node(id).outputs.len()).map(move |slot| ValueRef { node: id, slot })
}

/// Whether what an operator reads is calculated before, and not by the kernel that does the operator.
fn has_kernel_of_its_own(op: &Op) -> bool {
    matches!(op, Op::Attention(_) | Op::MatMul(_) | Op::Conv(_) | Op::Softmax(_) | Op::Reduce(_) | Op::Concat(_) | Op::Gather(_))
}
