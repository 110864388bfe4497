//! `lift`: one lifted activation serves every product that reads the same value, in the same order, with the same layout and element type.

use sliderun::op::Op;
use sliderun::op::sparse::QuantLift;

use super::{Pass, PassContext, PassError};
use crate::ir::{Graph, ValueRef};

/// The pass.
pub const PASS: Pass =
    Pass { name: "lift", summary: "share one quantized and lifted activation among all products that read it", run };

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    let mut kept: Vec<(Vec<Option<ValueRef>>, QuantLift, ValueRef)> = Vec::new();
    for id in graph.schedule() {
        let Some(Op::QuantLift(op)) = graph.node(id).op() else {
            continue;
        };
        let operands = graph.operands(id);
        match kept.iter().find(|(known, like, _)| *known == operands && like == op) {
            None => kept.push((operands, op.clone(), ValueRef { node: id, slot: 0 })),
            Some((_, _, shared)) => {
                let shared = *shared;
                let names = [graph.node(shared.node).name.clone(), graph.node(id).name.clone()];
                for slot in 0..graph.node(id).outputs.len() {
                    graph.replace_uses(ValueRef { node: id, slot }, ValueRef { node: shared.node, slot });
                }
                let origin = graph.node(id).origin.clone();
                graph.add_origin(shared.node, origin);
                context.report.did(names, "one lifted activation serves both");
            }
        }
    }
    Ok(())
}
