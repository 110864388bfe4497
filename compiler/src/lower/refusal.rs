//! What cannot be lowered, and why.

use sliderun::dim::Dim;
use sliderun::op::{Op, Semantics, TensorType};
use std::collections::BTreeSet;
use std::fmt;

use crate::ir::{Graph, NodeId};

/// A node that cannot be lowered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The node's name, as in the model where it has one there.
    pub node: String,
    /// The operator.
    pub operator: &'static str,
    /// Types of its present operands.
    pub inputs: Vec<TensorType>,
    /// Why, and the way out where there is one.
    pub reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.node, self.operator)?;
        for (i, ty) in self.inputs.iter().enumerate() {
            write!(f, "{}{ty}", if i == 0 { " of " } else { ", " })?;
        }
        write!(f, "): {}", self.reason)
    }
}

/// Everything that keeps a graph from being lowered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
#[diagnostic(help("every node is listed; a model without them compiles"))]
pub struct LowerErrors(pub Vec<Refusal>);

impl fmt::Display for LowerErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => write!(f, "a node cannot be lowered: {one}"),
            many => {
                write!(f, "{} nodes cannot be lowered:", many.len())?;
                many.iter().try_for_each(|r| write!(f, "\n{r}"))
            }
        }
    }
}

/// Adds the symbols that an operator's attributes mention to `out`.
pub(crate) fn attribute_symbols(op: &Op, out: &mut BTreeSet<String>) {
    op.clone().map_dims(&mut |d: &Dim| {
        d.symbols(out);
        d.clone()
    });
}

/// Every live node that the CPU device cannot run, in schedule order.
pub(super) fn refusals(graph: &Graph, live: &BTreeSet<NodeId>) -> Vec<Refusal> {
    let mut bound = BTreeSet::new();
    for &input in graph.inputs() {
        graph.node(input).outputs[0].ty.shape.iter().for_each(|d| d.symbols(&mut bound));
    }
    let mut out = Vec::new();
    // A symbol that nothing binds is reported where it first appears, not at everything downstream.
    let mut reported = BTreeSet::new();
    for id in graph.schedule().into_iter().filter(|n| live.contains(n)) {
        let node = graph.node(id);
        let Some(op) = node.op() else { continue };
        let mut mentioned = BTreeSet::new();
        attribute_symbols(op, &mut mentioned);
        node.outputs.iter().flat_map(|o| &o.ty.shape).for_each(|d| d.symbols(&mut mentioned));
        let unbound: Vec<String> = mentioned.into_iter().filter(|s| !bound.contains(s) && !reported.contains(s)).collect();
        let reason = if unbound.is_empty() {
            unsupported(op)
        } else {
            let names = unbound.join("', '");
            reported.extend(unbound);
            Some(format!(
                "its extents depend on '{names}', which no input's shape determines: they would be known only from data while running"
            ))
        };
        if let Some(reason) = reason {
            let inputs = graph.operands(id).into_iter().flatten().map(|v| graph.ty(v).clone()).collect();
            out.push(Refusal { node: node.name.clone(), operator: op.name(), inputs, reason });
        }
    }
    out
}

/// Why the CPU device cannot run an operator whatever its operands.
fn unsupported(op: &Op) -> Option<String> {
    let layout = match op {
        Op::QuantLift(lift) => &lift.layout,
        Op::SparseGemm(gemm) => &gemm.layout,
        _ => return None,
    };
    match layout.segments.len() {
        1 if matches!(op, Op::SparseGemm(_)) && layout.is_dense() => {
            Some("a sparse product over a dense K axis; a DenseGemm does that".to_owned())
        }
        1 => None,
        n => Some(format!("its K axis has {n} segments; one is supported, so give the whole axis one pattern")),
    }
}
