//! A graph interpreter on the CPU kernels, one operator after the other: what a graph computes, without a plan. For tests of
//! passes, where memory and speed are no concern; calibration walks through graphs step by step.

use sliderun::cpu;
use sliderun::dim::{Bindings, Dim, DimError};
use sliderun::op::{Semantics, TensorType};
use sliderun::tensor::{Tensor, TensorView};
use std::collections::BTreeMap;

use super::graph::{Graph, NodeId, NodeKind, ValueRef};

/// Why a graph could not be evaluated.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum EvaluateError {
    #[error("input '{0}' is missing")]
    MissingInput(String),
    #[error("input '{name}' is {actual}, {expected} was expected")]
    WrongInput { name: String, actual: TensorType, expected: TensorType },
    #[error("node '{node}': {source}")]
    Dim { node: String, source: DimError },
    #[error("node '{node}' ({op}): {source}")]
    Node { node: String, op: &'static str, source: cpu::EvalError },
    #[error("'{node}' gave {actual} where the graph says {expected}")]
    WrongResult { node: String, actual: TensorType, expected: TensorType },
}

/// Every value of a graph.
#[derive(Debug, Default)]
pub struct Evaluation {
    /// By value.
    pub values: BTreeMap<ValueRef, Tensor>,
    /// The symbols' values.
    pub bindings: Bindings,
}

impl Evaluation {
    /// The graph outputs in order, with their names.
    pub fn outputs<'e>(&'e self, graph: &'e Graph) -> impl Iterator<Item = (&'e str, &'e Tensor)> {
        graph.outputs.iter().map(|o| (o.name.as_str(), &self.values[&o.value]))
    }
}

/// Evaluates a valid graph on inputs given by name.
///
/// # Errors
/// Inputs that are missing or do not fit, and what a kernel finds wrong in data.
pub fn evaluate(graph: &Graph, inputs: &BTreeMap<String, Tensor>) -> Result<Evaluation, EvaluateError> {
    let mut out = Evaluation { bindings: bind(graph, inputs)?, ..Evaluation::default() };
    for id in graph.node_ids() {
        let tensor = match &graph.node(id).kind {
            NodeKind::Input => inputs[&graph.node(id).outputs[0].name].clone(),
            NodeKind::Constant(c) => c.to_tensor(),
            NodeKind::Op(_) => continue,
        };
        out.values.insert(ValueRef { node: id, slot: 0 }, tensor);
    }
    for id in graph.schedule() {
        let results = step(graph, id, &out.bindings, |v| out.values[&v].view())?;
        for (slot, tensor) in results.into_iter().enumerate() {
            out.values.insert(ValueRef { node: id, slot }, tensor);
        }
    }
    Ok(out)
}

fn type_of(t: &Tensor) -> TensorType {
    TensorType::new(t.dtype(), t.shape().iter().copied())
}

/// The symbols' values: those that are an extent of an input by themselves; everything else must then agree.
///
/// # Errors
/// Inputs that are missing, of another type, or whose extents do not agree.
pub(crate) fn bind(graph: &Graph, inputs: &BTreeMap<String, Tensor>) -> Result<Bindings, EvaluateError> {
    let mut bindings = Bindings::new();
    let mut given = Vec::new();
    for id in graph.inputs() {
        let output = &graph.node(*id).outputs[0];
        let tensor = inputs.get(&output.name).ok_or_else(|| EvaluateError::MissingInput(output.name.clone()))?;
        for (d, n) in output.ty.shape.iter().zip(tensor.shape()) {
            if let Some(symbol) = d.as_symbol() {
                bindings.entry(symbol.to_owned()).or_insert(*n as i64);
            }
        }
        given.push((output, tensor));
    }
    for (output, tensor) in given {
        let expected =
            concrete(&output.ty, &bindings).map_err(|source| EvaluateError::Dim { node: output.name.clone(), source })?;
        let actual = type_of(tensor);
        if actual != expected {
            return Err(EvaluateError::WrongInput { name: output.name.clone(), actual, expected });
        }
    }
    Ok(bindings)
}

fn concrete(ty: &TensorType, bindings: &Bindings) -> Result<TensorType, DimError> {
    let shape = ty.shape.iter().map(|d| d.eval(bindings)).collect::<Result<Vec<i64>, DimError>>()?;
    Ok(TensorType::new(ty.dtype, shape))
}

/// Runs one operator of a graph; `value` gives its operands, aligned.
///
/// # Errors
/// Extents that the bindings do not determine, and what the kernel finds wrong in data.
pub(crate) fn step<'v>(
    graph: &Graph,
    id: NodeId,
    bindings: &Bindings,
    value: impl Fn(ValueRef) -> TensorView<'v>,
) -> Result<Vec<Tensor>, EvaluateError> {
    let node = graph.node(id);
    let dim_error = |source| EvaluateError::Dim { node: node.name.clone(), source };
    let mut op = node.op().expect("the schedule has operators only").clone();
    let mut failure = None;
    op.map_dims(&mut |d| match d.eval(bindings) {
        Ok(v) => Dim::from(v),
        Err(e) => {
            failure.get_or_insert(e);
            d.clone()
        }
    });
    if let Some(source) = failure {
        return Err(dim_error(source));
    }
    let operands: Vec<Option<TensorView<'_>>> = graph.operands(id).into_iter().map(|v| v.map(&value)).collect();
    let results =
        cpu::eval(&op, &operands).map_err(|source| EvaluateError::Node { node: node.name.clone(), op: op.name(), source })?;
    for (tensor, output) in results.iter().zip(&node.outputs) {
        let (actual, expected) = (type_of(tensor), concrete(&output.ty, bindings).map_err(dim_error)?);
        if actual != expected {
            return Err(EvaluateError::WrongResult { node: node.name.clone(), actual, expected });
        }
    }
    Ok(results)
}
