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
