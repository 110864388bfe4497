//! Local rewriting: a rule looks at one operator node and gives values that take the place of its outputs. The driver visits
//! the nodes, redirects uses, removes what became dead, carries the names of the model's nodes over and writes the report, so
//! that passes only say what to look for and what to build.

use sliderun::op::Op;
use std::collections::BTreeSet;

use super::{PassContext, PassError};
use crate::ir::{Graph, NodeId, ValueRef};

/// Sweeps after which the rules are taken to undo each other. Each sweep visits every node, and rules cascade forwards within
/// one, so that real graphs need a handful.
const MAX_SWEEPS: usize = 100;

/// What a rule wants in place of a node.
#[derive(Clone, Debug)]
pub struct Replacement {
    /// One value per output of the node, of the same type.
    pub values: Vec<ValueRef>,
    /// What was done, for the report.
    pub what: String,
}

impl Replacement {
    /// In place of a node with one output.
    pub fn new(value: ValueRef, what: impl Into<String>) -> Self {
        Replacement { values: vec![value], what: what.into() }
    }
}

/// Applies `rule` to every operator node in schedule order, again and again until it finds nothing more. A rule that returns
/// `None` must leave no trace but dead nodes.
///
/// The nodes that die with the replaced one pass their origin on to the operators that the rule added, or, when it added none,
/// to the operators whose values it reused.
///
/// # Errors
/// What a rule fails with; [`PassError::NoFixpoint`].
pub fn rewrite(
    graph: &mut Graph,
    context: &mut PassContext<'_>,
    mut rule: impl FnMut(&mut Graph, NodeId, &mut PassContext<'_>) -> Result<Option<Replacement>, PassError>,
) -> Result<(), PassError> {
    for _ in 0..MAX_SWEEPS {
        let mut changed = false;
        for id in graph.schedule() {
            if !graph.contains(id) || graph.node(id).op().is_none() {
                continue;
            }
            let before = graph.next_serial();
            if let Some(replacement) = rule(graph, id, context)? {
                apply(graph, context, id, replacement, before);
                changed = true;
            }
        }
        graph.remove_dead();
        if !changed {
            return Ok(());
        }
    }
    Err(PassError::NoFixpoint { sweeps: MAX_SWEEPS })
}

/// Puts a replacement in a node's place; nodes with a serial from `before` on are the ones that the rule added.
pub(super) fn apply(graph: &mut Graph, context: &mut PassContext<'_>, id: NodeId, replacement: Replacement, before: u64) {
    let name = graph.node(id).name.clone();
    for (slot, to) in replacement.values.iter().enumerate() {
        graph.replace(ValueRef { node: id, slot }, *to);
    }
    let dead = graph.remove_dead_above(id);
    let mut origin: BTreeSet<String> = dead.into_iter().flat_map(|n| n.origin).collect();
    let mut heirs = graph.operators_since(before);
    if heirs.is_empty() {
        heirs.extend(replacement.values.iter().map(|v| v.node).filter(|n| graph.node(*n).op().is_some()));
    }
    for heir in heirs {
        graph.add_origin(heir, origin.iter().cloned());
    }
    if origin.is_empty() {
        origin.insert(name);
    }
    context.report.did(origin, replacement.what);
}

/// Adds an operator with one output and all operands present; for rules.
///
/// # Errors
/// [`PassError::Infer`]: the rule should not have built this.
pub fn emit(graph: &mut Graph, name: &str, op: impl Into<Op>, operands: &[ValueRef]) -> Result<ValueRef, PassError> {
    let operands: Vec<Option<ValueRef>> = operands.iter().copied().map(Some).collect();
    let node = graph.add_op(name, op, &operands).map_err(PassError::infer(name))?;
    Ok(ValueRef { node, slot: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::parse::{no_constants, parse};
    use crate::options::CompileOptions;
    use sliderun::op::elementwise::Unary;

    /// Applies a rule to a graph and gives the graph and the report as text.
    fn applied(
        text: &str,
        rule: impl FnMut(&mut Graph, NodeId, &mut PassContext<'_>) -> Result<Option<Replacement>, PassError>,
    ) -> String {
        let mut graph = parse("test.ir", text, &no_constants).unwrap();
        let options = CompileOptions::default();
        let mut context = PassContext::new(&options);
        match rewrite(&mut graph, &mut context, rule) {
            Ok(()) => format!("{graph}{}", context.report),
            Err(e) => e.to_string(),
        }
    }

    const CHAIN: &str = r#"
        input %x: f32[2]
        %a = Neg(%x) node "A" origin self
        %b! = Neg(%a) node "B" origin self
        %c = Relu(%b) node "C" origin self
        output "y" = %c"#;

    fn two_negations(graph: &mut Graph, id: NodeId, _: &mut PassContext<'_>) -> Result<Option<Replacement>, PassError> {
        let neg = |g: &Graph, id: NodeId| (g.node(id).op() == Some(&Op::Unary(Unary::Neg))).then(|| g.operand(id, 0)).flatten();
        let Some(inner) = neg(graph, id) else { return Ok(None) };
        let Some(x) = neg(graph, inner.node) else { return Ok(None) };
        // Built anew, so that there is something to inherit.
        let value = emit(graph, "AB", Unary::Abs, &[x])?;
        Ok(Some(Replacement::new(value, "merged")))
    }

    #[test]
    fn new_nodes_inherit_name_and_origin() {
        assert_eq!(
            applied(CHAIN, two_negations),
            r#"input %x: f32[2]
%b!: f32[2] = Abs(%x) node "AB" origin ["A", "B"]
%c: f32[2] = Relu(%b) node "C" origin self
output "y" = %c
did: A, B: merged
"#
        );
    }

    #[test]
    fn reused_nodes_inherit_origin() {
        let drop_relu = |graph: &mut Graph, id: NodeId, _: &mut PassContext<'_>| {
            let is_relu = graph.node(id).op() == Some(&Op::Unary(Unary::Relu));
            Ok(is_relu.then(|| Replacement::new(graph.operand(id, 0).unwrap(), "dropped")))
        };
        let text = applied(CHAIN, drop_relu);
        assert!(
            text.contains(r#"%b!: f32[2] = Neg(%a) node "B" origin ["B", "C"]"#) && text.contains(r#"output "y" = %b"#),
            "{text}"
        );
    }

    #[test]
    fn rules_that_never_end_are_stopped() {
        let forever = |graph: &mut Graph, id: NodeId, _: &mut PassContext<'_>| {
            let x = graph.operand(id, 0).unwrap();
            let op = graph.node(id).op().unwrap().clone();
            emit(graph, "again", op, &[x]).map(|v| Some(Replacement::new(v, "again")))
        };
        assert!(applied(CHAIN, forever).contains("after 100 sweeps"));
    }
}
