//! Checking a plan against the model it was compiled from, as an inference engine that shares no code with ours runs it.
//!
//! Must not know: the graph, the passes.

mod comparison;
mod npz;
pub mod reference;

use serde::Serialize;
use sliderun::op::Op;
use sliderun::plan::manifest::{Manifest, ValueId};
use sliderun::session::{Session, SessionError};
use sliderun::tensor::TensorView;
use std::collections::{BTreeMap, BTreeSet};

pub use comparison::{Comparison, ShapeMismatch, to_f64};
pub use npz::{NpzError, read_npz, write_npz};
pub use reference::{NamedTensors, ReferenceError};

/// How a plan stands to its model.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verification {
    /// The graph's outputs.
    pub outputs: Vec<Fidelity>,
    /// Results of the matrix products and convolutions, in the order in which the plan computes them.
    pub layers: Vec<Fidelity>,
    /// Graph outputs that the reference does not give.
    pub not_compared: Vec<String>,
}

/// How one tensor of a plan stands to the model's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fidelity {
    /// The tensor's name in the model.
    pub name: String,
    /// The plan against the model.
    pub plan: Comparison,
    /// The pruned model against the model: what pruning costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pruning: Option<Comparison>,
    /// The plan against the pruned model: what quantization costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Comparison>,
}

/// Why a plan could not be checked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum VerifyError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("'{name}' cannot be compared: {source}")]
    Shape { name: String, source: ShapeMismatch },
}

impl Verification {
    /// The largest relative error among the graph's outputs, NaN before any number.
    pub fn worst(&self) -> f64 {
        self.outputs.iter().map(|f| f.plan.rel).fold(0.0, |worst, rel| if rel.is_nan() || rel > worst { rel } else { worst })
    }

    /// Whether every graph output was compared and is within a relative error.
    pub fn within(&self, limit: f64) -> bool {
        self.not_compared.is_empty() && self.outputs.iter().all(|f| f.plan.within(limit))
    }
}

/// The model's names of the tensors worth comparing: graph outputs, and what matrix products and convolutions give.
pub fn observed(manifest: &Manifest) -> BTreeSet<String> {
    let mut out: BTreeSet<String> = manifest.program.outputs.iter().map(|o| o.name.clone()).collect();
    out.extend(layers(manifest));
    out
}

/// The results of matrix products and convolutions that stand for tensors of the model.
fn layers(manifest: &Manifest) -> BTreeSet<String> {
    let products = manifest.program.steps.iter().filter(|s| is_product(&s.op)).flat_map(|s| &s.outputs);
    let value = |id: &ValueId| manifest.program.values.get(id.0 as usize);
    let mut out: BTreeSet<String> = products.filter_map(value).filter(|v| v.from_model).map(|v| v.name.clone()).collect();
    // Those of merged products are cut out of a common one, by steps that are no products.
    out.extend(manifest.verdicts.iter().map(|v| v.output.clone()));
    out
}

fn is_product(op: &Op) -> bool {
    matches!(
        op,
        Op::MatMul(_)
            | Op::Attention(_)
            | Op::Gemm(_)
            | Op::Einsum(_)
            | Op::MatMulInteger(_)
            | Op::Conv(_)
            | Op::SparseGemm(_)
            | Op::DenseGemm(_)
            | Op::Dequant(_)
    )
}

/// Runs a plan on `inputs` and compares it with the `model`'s tensors on the same inputs and, to part what pruning costs from what
/// quantization does, with those of the pruned model.
///
/// # Errors
/// A run that fails, a tensor whose shape differs from the reference's.
pub fn verify(
    session: &Session,
    inputs: &[(&str, TensorView<'_>)],
    model: &NamedTensors,
    pruned: Option<&NamedTensors>,
) -> Result<Verification, VerifyError> {
    let layers = layers(session.plan().manifest());
    let mut compared = Ok(BTreeMap::new());
    let mut order = Vec::new();
    let outputs = session.run_traced(inputs, &mut |step| {
        for value in step.values.iter().filter(|v| v.from_model && layers.contains(v.name)) {
            let Ok(done) = &mut compared else { return };
            match fidelity(value.name, value.view, model, pruned) {
                Ok(Some(f)) => {
                    order.push(f.name.clone());
                    done.insert(f.name.clone(), f);
                }
                Ok(None) => {}
                Err(e) => compared = Err(e),
            }
        }
    })?;
    let mut compared = compared?;
    let mut out = Verification { layers: order.iter().filter_map(|n| compared.remove(n)).collect(), ..Verification::default() };
    for (name, tensor) in outputs {
        match fidelity(&name, tensor.view(), model, pruned)? {
            Some(f) => out.outputs.push(f),
            None => out.not_compared.push(name),
        }
    }
    Ok(out)
}

/// `None` when the model's tensor is not known.
fn fidelity(
    name: &str,
    actual: TensorView<'_>,
    model: &NamedTensors,
    pruned: Option<&NamedTensors>,
) -> Result<Option<Fidelity>, VerifyError> {
    let Some(model) = model.get(name) else { return Ok(None) };
    let compare = |a: TensorView<'_>, b: TensorView<'_>| {
        Comparison::new(a, b).map_err(|source| VerifyError::Shape { name: name.to_owned(), source })
    };
    let pruned = pruned.and_then(|p| p.get(name));
    Ok(Some(Fidelity {
        name: name.to_owned(),
        plan: compare(actual, model.view())?,
        pruning: pruned.map(|p| compare(p.view(), model.view())).transpose()?,
        quantization: pruned.map(|p| compare(actual, p.view())).transpose()?,
    }))
}
