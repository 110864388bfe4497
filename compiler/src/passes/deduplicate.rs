//! `deduplicate`: equal operators on the same operands are computed once, equal constants are stored once.

use sliderun::dtype::DType;
use std::collections::HashMap;

use super::rewrite::{Replacement, rewrite};
use super::{Pass, PassContext, PassError};
use crate::ir::print::digest;
use crate::ir::{Graph, NodeId, ValueRef};

/// The declaration.
pub const PASS: Pass = Pass { name: "deduplicate", summary: "what is computed or stored twice is shared", run };

/// Of equal nodes the first in schedule order stays, whatever order a hash table has.
fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    share_constants(graph, context);
    // Everything that an operator's results depend on.
    let mut known: HashMap<(String, Vec<Option<ValueRef>>), NodeId> = HashMap::new();
    rewrite(graph, context, |graph, id, _| {
        let node = graph.node(id);
        let key = (format!("{:?}", node.op()), graph.operands(id));
        let first = *known.entry(key).or_insert(id);
        if first == id {
            return Ok(None);
        }
        let values = (0..node.outputs.len()).map(|slot| ValueRef { node: first, slot }).collect();
        let what = format!("same as '{}'", graph.node(first).name);
        Ok(Some(Replacement { values, what }))
    })
}

fn share_constants(graph: &mut Graph, context: &mut PassContext<'_>) {
    let mut by_type: HashMap<(DType, Vec<usize>), Vec<ValueRef>> = HashMap::new();
    let mut types = Vec::new();
    for node in graph.node_ids() {
        if let Some(c) = graph.node(node).constant() {
            let key = (c.dtype, c.shape.clone());
            let values = by_type.entry(key.clone()).or_default();
            if values.is_empty() {
                types.push(key);
            }
            values.push(ValueRef { node, slot: 0 });
        }
    }
    for key in types {
        // Digests are only taken where there is something to compare.
        let values = by_type.remove(&key).filter(|v| v.len() > 1).unwrap_or_default();
        let mut first: HashMap<String, ValueRef> = HashMap::new();
        for v in values {
            let Some(c) = graph.constant(v) else { continue };
            let kept = *first.entry(digest(c)).or_insert(v);
            if kept != v {
                let what = format!("same constant as '{}', {}", graph.output(kept).name, graph.ty(kept));
                context.report.did([graph.node(v.node).name.as_str()], what);
                graph.replace_uses(v, kept);
            }
        }
    }
}
