//! The verifier. A graph is valid when:
//!
//! 1. There is no cycle.
//! 2. Every node has at least one output; inputs and constants have exactly one and no operand.
//! 3. Every edge comes from an output that its node has and goes to an input slot below the node's arity, one edge per slot.
//! 4. Every operand that an operator requires is there, and its outputs have the types that [`Semantics::infer`] gives, extents
//!    equal as expressions.
//! 5. Value names are not empty and unique; every node has a name.
//! 6. Every input node is listed as a graph input, once, and nothing else is.
//! 7. A constant has the type of its value and exactly the bytes that this type needs.
//! 8. Every graph output is a value of the graph, and their names are not empty and unique.
//! 9. Every symbol in a type or in an attribute is declared, under its own name, with a range that is not empty and not negative.
//!
//! All violations are reported, each with the node's line of the text form.

use petgraph::Direction;
use petgraph::visit::EdgeRef;
use sliderun::dim::Dim;
use sliderun::op::{InputTypes, Semantics, TensorType};
use sliderun::tensor::checked_elements;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::graph::{Graph, NodeId, NodeKind};
use super::print::print_node;

/// One invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The node, where it is one node's.
    pub node: Option<NodeId>,
    /// The node's line in the text form.
    pub line: Option<String>,
    /// What is wrong.
    pub what: String,
}

/// A graph that is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct InvalidGraph {
    /// Everything that is wrong, at least one thing.
    pub violations: Vec<Violation>,
}

impl fmt::Display for InvalidGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the graph is not valid:")?;
        for v in &self.violations {
            write!(f, "\n  {}", v.what)?;
            if let Some(line) = &v.line {
                write!(f, "\n    in {line}")?;
            }
        }
        Ok(())
    }
}

/// Checks every invariant.
///
/// # Errors
/// All that do not hold.
pub fn verify(graph: &Graph) -> Result<(), InvalidGraph> {
    let mut check = Check { graph, violations: Vec::new() };
    check.names();
    for id in graph.node_ids() {
        // Types are only looked at through edges that exist.
        if check.edges(id) {
            check.node(id);
        }
        check.symbols(id);
    }
    check.interface();
    check.declarations();
    if graph.try_schedule().is_none() {
        check.report(None, "there is a cycle".to_owned());
    }
    if check.violations.is_empty() { Ok(()) } else { Err(InvalidGraph { violations: check.violations }) }
}

struct Check<'g> {
    graph: &'g Graph,
    violations: Vec<Violation>,
}

impl Check<'_> {
    fn report(&mut self, node: Option<NodeId>, what: String) {
        let line = node.map(|id| print_node(self.graph, id));
        self.violations.push(Violation { node, line, what });
    }

    fn names(&mut self) {
        let mut seen: BTreeMap<&str, NodeId> = BTreeMap::new();
        for id in self.graph.node_ids() {
            let node = self.graph.node(id);
            if node.name.is_empty() {
                self.report(Some(id), "a node has no name".to_owned());
            }
            for output in &node.outputs {
                if output.name.is_empty() {
                    self.report(Some(id), "a value has no name".to_owned());
                } else if seen.insert(&output.name, id).is_some() {
                    self.report(Some(id), format!("value name '{}' is used twice", output.name));
                }
            }
        }
    }

    /// Whether the node's edges can be followed.
    fn edges(&mut self, id: NodeId) -> bool {
        let before = self.violations.len();
        let mut filled = BTreeSet::new();
        for edge in self.graph.nodes.edges_directed(id, Direction::Incoming) {
            let slots = *edge.weight();
            if slots.from_slot >= self.graph.nodes[edge.source()].outputs.len() {
                let source = self.graph.node(edge.source()).name.clone();
                self.report(
                    Some(id),
                    format!("operand {} is output {} of '{source}', which has no such output", slots.to_slot, slots.from_slot),
                );
            }
            if slots.to_slot >= self.graph.node(id).arity() {
                self.report(Some(id), format!("there is an edge to input slot {}, beyond the node's arity", slots.to_slot));
            }
            if !filled.insert(slots.to_slot) {
                self.report(Some(id), format!("input slot {} has several operands", slots.to_slot));
            }
        }
        before == self.violations.len()
    }

    fn node(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        match &node.kind {
            NodeKind::Input | NodeKind::Constant(_) if node.arity() > 0 => {
                self.report(Some(id), "an input or a constant has operands".to_owned());
            }
            NodeKind::Input | NodeKind::Constant(_) if node.outputs.len() != 1 => {
                self.report(Some(id), format!("an input or a constant has {} outputs instead of one", node.outputs.len()));
            }
            NodeKind::Input => {}
            NodeKind::Constant(c) => {
                if node.outputs[0].ty != c.ty() {
                    self.report(Some(id), format!("the constant is {}, its value {}", c.ty(), node.outputs[0].ty));
                }
                let expected = checked_elements(&c.shape).and_then(|n| n.checked_mul(c.dtype.size()));
                if expected != Some(c.data.len()) {
                    self.report(Some(id), format!("{} does not have {} bytes", c.ty(), c.data.len()));
                }
            }
            NodeKind::Op(op) => {
                let operands = self.graph.operands(id);
                let types: Vec<Option<&TensorType>> = operands.iter().map(|v| v.map(|v| self.graph.ty(v))).collect();
                let declared: Vec<&TensorType> = node.outputs.iter().map(|o| &o.ty).collect();
                match op.infer(InputTypes(&types)) {
                    Err(e) => self.report(Some(id), format!("{} cannot have these operands: {e}", op.name())),
                    Ok(inferred) if !inferred.iter().eq(declared) => {
                        self.report(Some(id), format!("the types that {} gives are {inferred:?}", op.name()));
                    }
                    Ok(_) if node.outputs.is_empty() => self.report(Some(id), "an operator has no output".to_owned()),
                    Ok(_) => {}
                }
            }
        }
    }

    fn symbols(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        let mut mentioned = BTreeSet::new();
        node.outputs.iter().flat_map(|o| &o.ty.shape).for_each(|d| d.symbols(&mut mentioned));
        if let NodeKind::Op(op) = &node.kind {
            op.clone().map_dims(&mut |d: &Dim| {
                d.symbols(&mut mentioned);
                d.clone()
            });
        }
        for symbol in mentioned.iter().filter(|s| !self.graph.symbols.contains_key(*s)) {
            self.report(Some(id), format!("symbol '{symbol}' is not declared"));
        }
    }

    fn interface(&mut self) {
        let mut listed = BTreeSet::new();
        for &id in self.graph.inputs() {
            if !self.graph.contains(id) {
                self.report(None, "a node that is gone is listed as a graph input".to_owned());
            } else if !matches!(self.graph.node(id).kind, NodeKind::Input) {
                self.report(Some(id), "a node is listed as a graph input and is none".to_owned());
            } else if !listed.insert(id) {
                self.report(Some(id), "a graph input is listed twice".to_owned());
            }
        }
        for id in self.graph.node_ids() {
            if matches!(self.graph.node(id).kind, NodeKind::Input) && !listed.contains(&id) {
                self.report(Some(id), "an input is not listed as a graph input".to_owned());
            }
        }
        let mut names = BTreeSet::new();
        for output in &self.graph.outputs {
            let v = output.value;
            if !self.graph.contains(v.node) || v.slot >= self.graph.node(v.node).outputs.len() {
                self.report(None, format!("graph output '{}' is no value of the graph", output.name));
            }
            if output.name.is_empty() || !names.insert(&output.name) {
                self.report(None, format!("graph output name '{}' is empty or used twice", output.name));
            }
        }
    }

    fn declarations(&mut self) {
        for (name, range) in &self.graph.symbols {
            if *name != range.name {
                self.report(None, format!("symbol '{}' is declared as '{name}'", range.name));
            }
            if range.min < 0 || range.max < range.min {
                self.report(None, format!("the range {}..{} of symbol '{name}' is empty or negative", range.min, range.max));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::graph::{Constant, GraphOutput, ValueRef};
    use crate::ir::parse::{no_constants, parse};
    use sliderun::plan::manifest::SymbolRange;

    const VALID: &str = r#"
        symbols { n: 1..4 }
        input %x: f32[n, 2]
        const %c: f32[2] = [1.0, 2.0]
        %a = Add(%x, %c)
        %b = Relu(%a)
        output "y" = %b"#;

    fn valid() -> (Graph, Vec<NodeId>) {
        let graph = parse("valid.ir", VALID, &no_constants).unwrap();
        let ids = graph.node_ids();
        (graph, ids)
    }

    type Damage = fn(&mut Graph, &[NodeId]);

    /// One damage to the valid graph (nodes x, c, a, b) for each invariant, by its number.
    const DAMAGES: &[(u8, &str, Damage)] = &[
        (1, "there is a cycle", |g, n| g.set_input(n[2], 1, Some(ValueRef { node: n[3], slot: 0 }))),
        (2, "an input or a constant has operands", |g, n| g.set_input(n[1], 0, Some(ValueRef { node: n[0], slot: 0 }))),
        (2, "has 0 outputs instead of one", |g, n| g.nodes[n[1]].outputs.clear()),
        (3, "which has no such output", |g, n| g.set_input(n[3], 0, Some(ValueRef { node: n[2], slot: 1 }))),
        (3, "several operands", |g, n| {
            g.nodes.add_edge(n[0], n[3], crate::ir::graph::Edge { from_slot: 0, to_slot: 0 });
        }),
        (3, "beyond the node's arity", |g, n| {
            g.nodes.add_edge(n[0], n[3], crate::ir::graph::Edge { from_slot: 0, to_slot: 7 });
        }),
        (4, "input 0 is missing", |g, n| g.set_input(n[3], 0, None)),
        (4, "the types that Unary gives are", |g, n| g.nodes[n[3]].outputs[0].ty.shape.swap(0, 1)),
        (5, "value name 'a' is used twice", |g, n| g.nodes[n[3]].outputs[0].name = "a".into()),
        (5, "a value has no name", |g, n| g.nodes[n[3]].outputs[0].name.clear()),
        (5, "a node has no name", |g, n| g.nodes[n[3]].name.clear()),
        (6, "not listed as a graph input", |g, _| g.inputs.clear()),
        (6, "listed twice", |g, n| g.inputs.push(n[0])),
        (6, "listed as a graph input and is none", |g, n| g.inputs.push(n[2])),
        (7, "does not have 4 bytes", |g, n| {
            let NodeKind::Constant(Constant { data, .. }) = &mut g.nodes[n[1]].kind else { unreachable!("it is the constant") };
            data.truncate(4);
        }),
        (8, "graph output 'z' is no value", |g, n| {
            g.outputs.push(GraphOutput { name: "z".into(), value: ValueRef { node: n[3], slot: 5 } });
        }),
        (8, "graph output name 'y' is empty or used twice", |g, n| {
            g.outputs.push(GraphOutput { name: "y".into(), value: ValueRef { node: n[3], slot: 0 } });
        }),
        (9, "symbol 'n' is not declared", |g, _| g.symbols.clear()),
        (9, "is empty or negative", |g, _| {
            g.symbols.insert("n".into(), SymbolRange { name: "n".into(), min: 3, max: 2 });
        }),
    ];

    #[test]
    fn every_invariant_is_checked() {
        for (invariant, message, damage) in DAMAGES {
            let (mut graph, ids) = valid();
            damage(&mut graph, &ids);
            let error = verify(&graph).expect_err(message).to_string();
            assert!(error.contains(message), "invariant {invariant}: {error}");
        }
        let invariants: BTreeSet<u8> = DAMAGES.iter().map(|d| d.0).collect();
        assert!(invariants.into_iter().eq(1..=9));
    }

    #[test]
    fn all_violations_are_reported_with_their_lines() {
        let (mut graph, ids) = valid();
        graph.set_input(ids[3], 0, None);
        graph.symbols.clear();
        let error = verify(&graph).unwrap_err();
        assert_eq!(error.violations.len(), 4);
        assert!(error.to_string().contains("in %b: f32[n, 2] = Relu(_)"), "{error}");
    }
}
