//! Pruning ONNX models: the same model with zeros in the weights of its matrix products.
//!
//! Must not know: the graph IR, plans.

use serde::Serialize;
use sliderun::sparse::Pattern;

use crate::onnx::proto::NodeProto;
use crate::onnx::{ModelError, OnnxModel};
use crate::sparsity::Orientation;
use crate::sparsity::prune::prune_by_magnitude;

/// A MatMul or Gemm of the main graph whose right-hand side is a constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelProduct {
    /// The node's name.
    pub node: String,
    /// The constant tensor's name.
    pub weight: String,
    /// How the tensor stores the weight.
    pub orientation: Orientation,
}

/// Every product of the main graph with a constant weight, in the model's order.
pub fn products(model: &OnnxModel) -> Vec<ModelProduct> {
    model.graph().node.iter().filter_map(|n| product(model, n)).collect()
}

fn product(model: &OnnxModel, node: &NodeProto) -> Option<ModelProduct> {
    let transposed = || node.attribute.iter().any(|a| a.name() == "transB" && a.i() != 0);
    let orientation = match (node.domain(), node.op_type()) {
        ("" | "ai.onnx", "MatMul") => Orientation::KN,
        ("" | "ai.onnx", "Gemm") if transposed() => Orientation::NK,
        ("" | "ai.onnx", "Gemm") => Orientation::KN,
        _ => return None,
    };
    let weight = node.input.get(1)?;
    model.weight(weight).ok()?;
    Some(ModelProduct { node: node.name().to_owned(), weight: weight.clone(), orientation })
}

/// What became of one weight.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PrunedWeight {
    /// The product's node.
    pub node: String,
    /// The weight.
    pub weight: String,
    /// Non-zeros that became zero.
    pub removed: usize,
    /// Elements in all.
    pub elements: usize,
    /// Share of the sum of squares that is left, 0 to 1.
    pub kept_energy: f64,
    /// Why the weight was left as it is, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub declined: Option<String>,
}

/// Prunes the weight of every product to a pattern along K, keeping the largest magnitudes; nothing else changes.
///
/// # Errors
/// Weights whose data cannot be read.
pub fn prune_model(model: &mut OnnxModel, pattern: Pattern) -> Result<Vec<PrunedWeight>, ModelError> {
    let mut out = Vec::new();
    // A weight that two products share is pruned for each: more zeros never break a pattern that holds.
    for ModelProduct { node, weight, orientation } in products(model) {
        let constant = model.weight(&weight)?;
        let entry = PrunedWeight { node, weight, removed: 0, elements: 0, kept_energy: 1.0, declined: None };
        out.push(match prune_by_magnitude(&constant, orientation, pattern) {
            Err(reason) => PrunedWeight { declined: Some(reason.to_string()), ..entry },
            Ok((pruned, report)) => {
                model.set_initializer(&entry.weight, pruned.data)?;
                let (removed, elements, kept_energy) = (report.removed, report.elements, report.kept_energy);
                PrunedWeight { removed, elements, kept_energy, ..entry }
            }
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::build::{ModelBuilder, node};
    use crate::sparsity::{Weight, satisfied};
    use sliderun::dtype::DType;
    use sliderun::tensor::Tensor;

    #[test]
    fn products_of_either_orientation_are_pruned_and_nothing_else() {
        let values: Vec<f32> = (1..=128).map(|i| i as f32).collect();
        let tensor = |shape: [usize; 2]| Tensor::from_slice(&shape, &values).unwrap();
        let mut model = ModelBuilder::new(17)
            .input("x", DType::F32, &["batch", "16"])
            .initializer("w", &tensor([16, 8]))
            .initializer("v", &tensor([16, 8]))
            .initializer("table", &tensor([16, 8]))
            .node(node("MatMul", &["x", "w"], &["h"]).name("kn"))
            .node(node("Gemm", &["h", "v"], &["y"]).attr("transB", 1i64).name("nk"))
            .output("y", DType::F32, &["batch", "16"])
            .model();
        let pattern = Pattern::from_n(4).unwrap();
        let report = prune_model(&mut model, pattern).unwrap();
        assert_eq!(report.iter().map(|p| (p.node.as_str(), p.removed)).collect::<Vec<_>>(), [("kn", 32), ("nk", 32)]);
        for p in products(&model) {
            let weight = Weight::read(&model.weight(&p.weight).unwrap(), p.orientation).unwrap();
            assert!(satisfied(&weight).contains(&pattern), "{}", p.node);
        }
        assert_eq!(model.weight("table").unwrap().to_tensor().as_slice::<f32>(), Some(&values[..]));
    }
}
