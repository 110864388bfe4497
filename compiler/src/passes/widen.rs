//! `widen`: on CUDA devices, what is calculated between a product's sums and the quantization for the next product stays f32.
//!
//! Scaling the sums back, the element-wise operators behind that and the quantization are one kernel along rows, so these values never are in
//! memory: rounding them to 16 bits would cost instructions and accuracy and save nothing.

use sliderun::dtype::DType;
use sliderun::op::Op;
use sliderun::op::sparse::Dequant;
use std::collections::{BTreeMap, BTreeSet};

use super::{Pass, PassContext, PassError};
use crate::ir::{Graph, NodeId, ValueRef};

/// The pass.
pub const PASS: Pass = Pass {
    name: "widen",
    summary: "for CUDA devices alone: keep what is calculated between sums and the next quantization in f32",
    run,
};

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    if !context.options.for_cuda() {
        return Ok(());
    }
    let between = between(graph);
    let mut wide: BTreeMap<ValueRef, ValueRef> = BTreeMap::new();
    for id in graph.schedule() {
        let held = |v: ValueRef| wide.get(&v).copied().unwrap_or(v);
        if is_quantization(graph, id) {
            let x = graph.operand(id, 0).map(held);
            graph.set_input(id, 0, x);
        }
        if !between.contains(&id) {
            continue;
        }
        let operands: Vec<_> = graph.operands(id).into_iter().map(|v| v.map(held)).collect();
        let node = graph.node(id).clone();
        let Some(op) = node.op() else { continue };
        let op = match op {
            Op::Dequant(dequant) => Dequant { to: DType::F32, ..*dequant }.into(),
            op => op.clone(),
        };
        let new = graph.add_op(&node.name, op, &operands).map_err(PassError::infer(&node.name))?;
        graph.add_origin(new, node.origin);
        for (slot, output) in node.outputs.into_iter().enumerate() {
            let (old, value) = (ValueRef { node: id, slot }, ValueRef { node: new, slot });
            graph.name_value(old, &format!("{}.{}", output.name, output.ty.dtype), false);
            graph.name_value(value, &output.name, output.from_model);
            wide.insert(old, value);
        }
    }
    if !between.is_empty() {
        context.report.did(["the whole graph"], format!("{} operators hold their results as f32, in registers", between.len()));
    }
    Ok(())
}

/// One that can be done in registers: those that put K into another order read it from memory.
fn is_quantization(graph: &Graph, id: NodeId) -> bool {
    matches!(graph.node(id).op(), Some(Op::QuantLift(lift)) if lift.quantizes()) && graph.operand(id, 1).is_none()
}

/// The operators that read nothing but sums and each other's results, which nothing reads but each other and quantizations.
fn between(graph: &Graph) -> BTreeSet<NodeId> {
    let narrow =
        |id: NodeId| (0..graph.node(id).outputs.len()).all(|slot| graph.ty(ValueRef { node: id, slot }).dtype.size() == 2);
    let by_element = |id: &NodeId| {
        let op = graph.node(*id).op();
        narrow(*id) && matches!(op, Some(Op::Dequant(_) | Op::Unary(_) | Op::Binary(_) | Op::Split(_)))
    };
    let mut found: BTreeSet<NodeId> = graph.node_ids().into_iter().filter(by_element).collect();
    loop {
        let belongs = |id: &NodeId| {
            let sums = matches!(graph.node(*id).op(), Some(Op::Dequant(_)));
            let reads = sums || graph.operands(*id).into_iter().flatten().all(|v| found.contains(&v.node));
            let outputs = (0..graph.node(*id).outputs.len()).map(|slot| ValueRef { node: *id, slot });
            let read_by = |(user, _): (NodeId, usize)| found.contains(&user) || is_quantization(graph, user);
            reads && outputs.into_iter().all(|v| !graph.is_output(v) && graph.uses(v).into_iter().all(read_by))
        };
        let left: BTreeSet<NodeId> = found.iter().copied().filter(belongs).collect();
        if left.len() == found.len() {
            return found;
        }
        found = left;
    }
}
