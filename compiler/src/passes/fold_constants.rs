//! `fold-constants`: operators whose operands are all constant are evaluated.
//!
//! Only where the result is small or no larger than its operands together: weights keep their storage type, so the Cast or
//! DequantizeLinear of a large int8 weight stays in the graph, and so does an Expand of a constant. The Transpose of a weight is
//! folded.

use sliderun::cpu;
use sliderun::tensor::{Tensor, TensorView};

use super::rewrite::{Replacement, rewrite};
use super::{Pass, PassContext, PassError};
use crate::ir::{Constant, Graph, NodeId, NodeOutput, ValueRef};

/// The declaration.
pub const PASS: Pass =
    Pass { name: "fold-constants", summary: "operators on constants are evaluated, unless that grows the data", run };

/// Results of at most this many bytes are folded whatever their operands.
const SMALL: usize = 4096;

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    rewrite(graph, context, |graph, id, context| {
        let Some(tensors) = fold(graph, id, context) else { return Ok(None) };
        let op = graph.node(id).op().map_or("", |op| op.name());
        let what = format!("evaluated {op}");
        let mut values = Vec::new();
        for (slot, tensor) in tensors.iter().enumerate() {
            // The constant is the value that was computed: it takes its name.
            let old = ValueRef { node: id, slot };
            let NodeOutput { name, from_model, .. } = graph.output(old).clone();
            graph.name_value(old, &format!("{name}.folded"), false);
            let new = graph.add_constant(&name, Constant::from_tensor(tensor));
            graph.name_value(new, &name, from_model);
            values.push(new);
        }
        Ok(Some(Replacement { values, what }))
    })
}

/// A value that depends on constants alone, however large it is; for passes that need one.
pub(super) fn evaluate(graph: &Graph, value: ValueRef) -> Option<Tensor> {
    if let Some(constant) = graph.constant(value) {
        return Some(constant.to_tensor());
    }
    let op = graph.producer(value)?;
    let operands: Vec<Tensor> = graph.operands(value.node).into_iter().map(|v| evaluate(graph, v?)).collect::<Option<_>>()?;
    let views: Vec<_> = operands.iter().map(|t| Some(t.view())).collect();
    cpu::eval(op, &views).ok()?.into_iter().nth(value.slot)
}

/// The results of a node that is to be folded.
fn fold(graph: &Graph, id: NodeId, context: &mut PassContext<'_>) -> Option<Vec<Tensor>> {
    let node = graph.node(id);
    let op = node.op()?;
    let operands = graph.operands(id);
    let constants: Vec<Option<&Constant>> = operands
        .iter()
        .map(|v| v.map(|v: ValueRef| graph.constant(v)).map_or(Some(None), |c| c.map(Some)))
        .collect::<Option<_>>()?;
    let result: usize = node
        .outputs
        .iter()
        .map(|o| o.ty.concrete_shape()?.iter().try_fold(o.ty.dtype.size(), |n, d| n.checked_mul(*d)))
        .try_fold(0usize, |sum, bytes| sum.checked_add(bytes?))?;
    let given: usize = constants.iter().flatten().map(|c| c.data.len()).sum();
    if result > SMALL.max(given) {
        context.report.declined(
            &node.name,
            format!("the result of {} on constants takes {result} bytes, its operands {given}: kept as it is stored", op.name()),
        );
        return None;
    }
    let tensors: Vec<Option<Tensor>> = constants.into_iter().map(|c| c.map(Constant::to_tensor)).collect();
    let views: Vec<Option<TensorView<'_>>> = tensors.iter().map(|t| t.as_ref().map(Tensor::view)).collect();
    match cpu::eval(op, &views) {
        Ok(results) => Some(results),
        Err(e) => {
            context.report.declined(&node.name, format!("{} cannot be evaluated: {e}", op.name()));
            None
        }
    }
}
