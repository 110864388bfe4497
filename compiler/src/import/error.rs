//! What can be wrong with a model, collected over the whole of it.

use sliderun::op::{InferError, TensorType};
use std::fmt;

use crate::onnx::{DataTypeError, TensorDataError};

/// Why a node cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `None`: the causes have been reported at other nodes.
    pub(super) reason: Option<String>,
}

impl Refusal {
    /// A refusal for the reason given: what is wrong, and where there is one, the way out.
    pub fn new(reason: impl Into<String>) -> Self {
        Refusal { reason: Some(reason.into()) }
    }

    /// The operator is not supported.
    pub fn unsupported(op_type: &str) -> Self {
        Refusal::new(format!("{op_type} is not supported"))
    }

    /// An attribute's value is not supported.
    pub fn attribute(name: &str, value: impl fmt::Display) -> Self {
        Refusal::new(format!("attribute {name} = {value} is not supported"))
    }

    /// There is no such axis.
    pub fn axis(axis: i64, rank: usize) -> Self {
        Refusal::new(format!("axis {axis} does not exist, the tensor has {rank} axes"))
    }

    /// The causes have been reported at other nodes.
    pub(super) fn reported() -> Self {
        Refusal { reason: None }
    }
}

impl From<InferError> for Refusal {
    fn from(e: InferError) -> Self {
        Refusal::new(e.to_string())
    }
}

impl From<TensorDataError> for Refusal {
    fn from(e: TensorDataError) -> Self {
        Refusal::new(e.to_string())
    }
}

impl From<DataTypeError> for Refusal {
    fn from(e: DataTypeError) -> Self {
        Refusal::new(e.to_string())
    }
}

/// An operand of a refused node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operand {
    /// The tensor's name; empty for an absent optional operand.
    pub name: String,
    /// Its type, where it is known: what a refused node computes has none.
    pub ty: Option<TensorType>,
}

/// A node that cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsupported {
    /// The node's name.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// The operator's domain; empty for ONNX's own.
    pub domain: String,
    /// The version of the domain that the model uses, where it says.
    pub opset: Option<i64>,
    /// Its operands.
    pub inputs: Vec<Operand>,
    /// What is wrong.
    pub reason: String,
}

/// One thing that keeps a model from being imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// A node that is not supported, or not valid.
    Node(Unsupported),
    /// Something else in the model or the options.
    Model {
        /// What it is: `input 'x'`, `output 'y'`, `initializer 'w'` …
        subject: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Model { subject, reason } => write!(f, "{subject}\n  reason: {reason}"),
            Problem::Node(node) => {
                let domain = if node.domain.is_empty() { "ai.onnx" } else { &node.domain };
                write!(f, "node '{}': {} (domain {domain}, opset ", node.node, node.op)?;
                match node.opset {
                    Some(version) => write!(f, "{version})")?,
                    None => f.write_str("not imported)")?,
                }
                f.write_str("\n  inputs: ")?;
                if node.inputs.is_empty() {
                    f.write_str("none")?;
                }
                for (i, operand) in node.inputs.iter().enumerate() {
                    let comma = if i > 0 { ", " } else { "" };
                    match &operand.ty {
                        Some(ty) => write!(f, "{comma}{}: {ty}", operand.name)?,
                        None if operand.name.is_empty() => write!(f, "{comma}(absent)")?,
                        None => write!(f, "{comma}{}: unknown", operand.name)?,
                    }
                }
                write!(f, "\n  reason: {}", node.reason)
            }
        }
    }
}

/// Everything that keeps a model from being imported; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportErrors(pub Vec<Problem>);

impl fmt::Display for ImportErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0.len();
        write!(f, "the model cannot be imported: {n} {}", if n == 1 { "problem" } else { "problems" })?;
        self.0.iter().try_for_each(|p| write!(f, "\n\n{p}"))
    }
}

impl std::error::Error for ImportErrors {}

impl miette::Diagnostic for ImportErrors {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new("every problem is listed; nodes that only use what a refused node computes are not"))
    }
}
