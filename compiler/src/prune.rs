//! Pruning ONNX models: the same model with zeros in the weights of its matrix products.
//!
//! What a product and its weight are, the graph IR says: the model is imported and taken through the passes that a compilation runs
//! before it prunes. Each weight is then traced to the tensor of the file that stores it, and only that tensor's bytes change.
//!
//! Must not know: plans, the command line.

use serde::Serialize;
use sliderun::op::{Op, TensorType};
use sliderun::sparse::Pattern;
use std::collections::BTreeMap;

use crate::import::{ImportErrors, ImportOptions, import};
use crate::ir::{Constant, Graph, ValueRef};
use crate::onnx::{ModelError, OnnxModel};
use crate::options::CompileOptions;
use crate::passes::product::{ORIENTATION, Product};
use crate::passes::{PIPELINE, PipelineError, run_passes};
use crate::sparsity::Orientation;
use crate::sparsity::prune::{Pruned, prune_by_magnitude};

/// Why a model was not pruned, or its products are not known.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[allow(missing_docs)]
pub enum PruneError {
    #[error(transparent)]
    #[diagnostic(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Import(#[from] ImportErrors),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Pass(#[from] PipelineError),
}

/// Where a model stores a weight.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredWeight {
    /// The constant tensor's name: an initializer or the value of a Constant node of the main graph.
    pub tensor: String,
    /// How the tensor's last two axes, the only ones above 1, store the weight.
    pub orientation: Orientation,
}

/// A matrix product with a constant weight.
#[derive(Clone, Debug)]
pub struct ModelProduct {
    /// The node's name.
    pub node: String,
    /// The weight's name: that of the tensor that stores it, or else of what is computed from tensors.
    pub weight: String,
    /// The weight, [K, N].
    pub constant: Constant,
    /// Where the model stores it, or why pruning it there is out of the question.
    pub stored: Result<StoredWeight, String>,
}

/// Every product with a constant weight that a compilation finds in the model, in the graph's order.
///
/// # Errors
/// A model that cannot be imported.
pub fn products(model: &OnnxModel) -> Result<Vec<ModelProduct>, PruneError> {
    let mut graph = import(model, &ImportOptions::default())?;
    // Folding makes new constants, so weights are traced before it.
    let mut stored = BTreeMap::new();
    let before_pruning = PIPELINE.iter().take_while(|p| p.name != "prune");
    run_passes(&mut graph, before_pruning, &CompileOptions::default(), &mut |pass, graph| {
        if pass.name == "normalise" {
            let trace = |p: Product| (graph.node(p.node).name.clone(), trace(model, graph, p.weight));
            stored = Product::all(graph).into_iter().map(trace).collect();
        }
        Ok(())
    })?;
    let product = |p: Product| {
        let node = graph.node(p.node).name.clone();
        let constant = graph.constant(p.weight)?.clone();
        let traced = stored.remove(&node).unwrap_or_else(|| Err(NOT_STORED.to_owned()));
        let weight = traced.as_ref().map_or(&graph.output(p.weight).name, |s| &s.tensor).clone();
        let stored = p.ineligible(&graph).map_or(traced, Err);
        Some(ModelProduct { node, weight, constant, stored })
    };
    Ok(Product::all(&graph).into_iter().filter_map(product).collect())
}

/// Why a weight cannot be pruned in the file.
const NOT_STORED: &str =
    "the weight is computed from the model's constants; `slidec compile --prune magnitude` prunes the weight that results";

/// Follows transpositions up to the constant tensor that a weight is.
fn trace(model: &OnnxModel, graph: &Graph, weight: ValueRef) -> Result<StoredWeight, String> {
    let (mut value, mut orientation) = (weight, ORIENTATION);
    while let Some(step) = rearranged(graph, value) {
        if let Rearranged::Transposed(_) = step {
            orientation = orientation.transposed();
        }
        let (Rearranged::Transposed(from) | Rearranged::Reshaped(from)) = step;
        value = from;
    }
    let tensor = graph.output(value).name.clone();
    let constant = graph.constant(value).filter(|c| model.weight(&tensor).is_ok_and(|stored| stored == **c));
    constant.ok_or(NOT_STORED)?;
    only_multiplies(graph, value)?;
    Ok(StoredWeight { tensor, orientation })
}

/// How a value has the elements of the matrix that another one is.
enum Rearranged {
    Transposed(ValueRef),
    Reshaped(ValueRef),
}

fn rearranged(graph: &Graph, value: ValueRef) -> Option<Rearranged> {
    let op = graph.producer(value)?;
    let from = graph.operand(value.node, 0)?;
    let (given, result) = (matrix(graph.ty(from))?, matrix(graph.ty(value))?);
    match op {
        Op::Reshape(_) if given == result => Some(Rearranged::Reshaped(from)),
        Op::Transpose(t) => {
            let (leading, last) = t.perm.split_at(t.perm.len() - 2);
            let swaps = leading.iter().copied().eq(0..leading.len()) && last[0] > last[1];
            swaps.then_some(Rearranged::Transposed(from))
        }
        _ => None,
    }
}

/// The last two extents of a constant, when all others are 1.
fn matrix(ty: &TensorType) -> Option<[usize; 2]> {
    let shape = ty.concrete_shape()?;
    let (leading, last) = shape.split_last_chunk::<2>()?;
    leading.iter().all(|d| *d == 1).then_some(*last)
}

/// Whether a constant is nothing but the weight of products; otherwise what else it is.
fn only_multiplies(graph: &Graph, value: ValueRef) -> Result<(), String> {
    let shared = |what: String| {
        format!("{what}, where pruning would change it as well; `slidec compile --prune magnitude` prunes a copy for the product")
    };
    let name = &graph.output(value).name;
    if graph.is_output(value) {
        return Err(shared(format!("'{name}' is an output of the model too")));
    }
    for (user, slot) in graph.uses(value) {
        let result = ValueRef { node: user, slot: 0 };
        let node = graph.node(user);
        match node.op() {
            Some(Op::MatMul(_)) if slot == 1 => {}
            _ if rearranged(graph, result).is_some() => only_multiplies(graph, result)?,
            op => return Err(shared(format!("'{name}' is read by '{}' ({}) too", node.name, op.map_or("", |op| op.name())))),
        }
    }
    Ok(())
}

/// What became of one product's weight.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PrunedWeight {
    /// The product's node.
    pub node: String,
    /// The weight.
    pub weight: String,
    /// Non-zeros that became zero; told again for each product that shares the weight.
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
/// As [`products`].
pub fn prune_model(model: &mut OnnxModel, pattern: Pattern) -> Result<Vec<PrunedWeight>, PruneError> {
    let mut out = Vec::new();
    let mut done = BTreeMap::new();
    for ModelProduct { node, weight, stored, .. } in products(model)? {
        let entry = PrunedWeight { node, weight, removed: 0, elements: 0, kept_energy: 1.0, declined: None };
        let result = match stored {
            Err(reason) => Err(reason),
            Ok(stored) => match done.get(&stored) {
                Some(known) => Clone::clone(known),
                None => {
                    // A tensor that is one product's weight and another's transposed is pruned for both: more zeros break no pattern.
                    let result = prune_stored(model, &stored, pattern)?;
                    done.insert(stored, result.clone());
                    result
                }
            },
        };
        out.push(match result {
            Err(reason) => PrunedWeight { declined: Some(reason), ..entry },
            Ok(Pruned { removed, elements, kept_energy }) => PrunedWeight { removed, elements, kept_energy, ..entry },
        });
    }
    Ok(out)
}

/// Prunes one tensor of the model; or says why not.
fn prune_stored(model: &mut OnnxModel, stored: &StoredWeight, pattern: Pattern) -> Result<Result<Pruned, String>, ModelError> {
    let constant = model.weight(&stored.tensor)?;
    // Leading axes of 1 are the tensor's own business.
    let shape = constant.shape[constant.shape.len().saturating_sub(2)..].to_vec();
    match prune_by_magnitude(&Constant { shape, ..constant }, stored.orientation, pattern) {
        Err(reason) => Ok(Err(reason.to_string())),
        Ok((pruned, report)) => {
            model.set_initializer(&stored.tensor, pruned.data)?;
            Ok(Ok(report))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::build::{ModelBuilder, NodeBuilder, function, node};
    use crate::sparsity::{Weight, satisfied};
    use sliderun::dtype::DType;
    use sliderun::tensor::Tensor;

    /// Weights of 1, 2, 3 …; `long` is too large for import to fold what is computed from it.
    const WEIGHTS: [(&str, &[usize]); 4] = [("w", &[16, 16]), ("v", &[16, 16]), ("cube", &[1, 16, 16]), ("long", &[128, 64])];

    fn model(nodes: Vec<NodeBuilder>) -> OnnxModel {
        let product = function(("my", "Product"), 17, &["a", "b"], &["c"], [node("MatMul", &["a", "b"], &["c"])]);
        let mut builder = ModelBuilder::new(17).opset("my", 1).function(product).input("ids", DType::I64, &["n"]);
        for (name, shape) in [("x", &["m", "16"][..]), ("x3", &["1", "m", "16"]), ("x64", &["m", "64"]), ("x128", &["m", "128"])]
        {
            builder = builder.input(name, DType::F32, shape);
        }
        for (name, shape) in WEIGHTS {
            let values: Vec<f32> = (1..=shape.iter().product()).map(|i| i as f32).collect();
            builder = builder.initializer(name, &Tensor::from_slice(shape, &values).unwrap());
        }
        nodes.into_iter().fold(builder, ModelBuilder::node).output("y", DType::F32, &["?", "?"]).model()
    }

    #[test]
    fn weights_are_traced_to_the_tensors_that_store_them() {
        let matmul = |a: &str, b: &str, c: &str| node("MatMul", &[a, b], &[c]).name(c);
        let turned = || node("Transpose", &["long"], &["turned"]).attr("perm", &[1i64, 0][..]);
        let constant = Tensor::from_slice(&[16, 16], &[1f32; 256]).unwrap();
        // Half of 256 or 8192 elements go at 2:4. What is pruned of which product's weight, or why it is not.
        type Expected = &'static [(&'static str, &'static str, Result<usize, &'static str>)];
        let cases: Vec<(Vec<NodeBuilder>, Expected)> = vec![
            (vec![matmul("x", "w", "h"), matmul("h", "v", "y")], &[("h", "w", Ok(128)), ("y", "v", Ok(128))]),
            (vec![node("Gemm", &["x", "w"], &["y"]).attr("transB", 1i64).name("y")], &[("y", "w", Ok(128))]),
            (vec![node("Identity", &["w"], &["i"]), matmul("x", "i", "y")], &[("y", "w", Ok(128))]),
            (vec![matmul("x3", "cube", "y")], &[("y", "cube", Ok(128))]),
            (vec![node("Product", &["x", "w"], &["y"]).domain("my").name("f")], &[("f/MatMul_0", "w", Ok(128))]),
            (vec![node("Constant", &[], &["c"]).attr("value", &constant), matmul("x", "c", "y")], &[("y", "c", Ok(128))]),
            (vec![turned(), matmul("x64", "turned", "y")], &[("y", "long", Ok(4096))]),
            // Shared: pruned once, told twice.
            (vec![matmul("x", "w", "h"), matmul("h", "w", "y")], &[("h", "w", Ok(128)), ("y", "w", Ok(128))]),
            // Both operands computed: no weight.
            (vec![node("Transpose", &["x"], &["t"]), matmul("x", "t", "y")], &[]),
            // What no output depends on is no reason.
            (vec![matmul("x", "w", "y"), node("Gather", &["w", "ids"], &["rows"])], &[("y", "w", Ok(128))]),
            (
                vec![node("Gather", &["w", "ids"], &["rows"]).name("lookup"), matmul("rows", "w", "y")],
                &[("y", "w", Err("read by 'lookup' (Gather) too"))],
            ),
            (vec![node("Add", &["w", "v"], &["s"]), matmul("x", "s", "y")], &[("y", "s", Err("computed from"))]),
            (
                vec![
                    node("Cast", &["w"], &["c"]).attr("to", 11i64),
                    node("Cast", &["x"], &["xd"]).attr("to", 11i64),
                    matmul("xd", "c", "y"),
                ],
                &[("y", "c", Err("the weight is f64"))],
            ),
        ];
        let pattern = Pattern::from_n(2).unwrap();
        for (nodes, expected) in cases {
            let mut model = model(nodes);
            let before = model.proto().clone();
            let report = prune_model(&mut model, pattern).unwrap();
            let told: Vec<&str> = report.iter().map(|p| p.node.as_str()).collect();
            assert_eq!(told, expected.iter().map(|e| e.0).collect::<Vec<_>>());
            let mut pruned = Vec::new();
            for (entry, (node, tensor, result)) in report.iter().zip(expected) {
                match result {
                    Ok(removed) => {
                        assert_eq!((entry.removed, &entry.declined), (*removed, &None), "{node}");
                        pruned.push(*tensor);
                    }
                    Err(reason) => {
                        let said = entry.declined.as_deref().unwrap_or_default();
                        assert!(said.contains(reason) && entry.removed == 0, "{node}: {said}");
                    }
                }
            }
            for (name, _) in WEIGHTS.iter().filter(|(name, _)| !pruned.contains(name)) {
                let original = OnnxModel::from_proto(before.clone());
                assert_eq!(model.weight(name).unwrap(), original.weight(name).unwrap(), "{name} is untouched");
            }
            for product in products(&model).unwrap().iter().filter(|p| p.stored.is_ok()) {
                let weight = Weight::read(&product.constant, ORIENTATION).unwrap();
                assert!(satisfied(&weight).contains(&pattern), "{}", product.node);
            }
        }
    }

    #[test]
    fn a_weight_and_its_transpose_are_pruned_for_both() {
        let turned = node("Transpose", &["long"], &["turned"]).attr("perm", &[1i64, 0][..]);
        let tied =
            vec![turned, node("MatMul", &["x64", "turned"], &["h"]).name("h"), node("MatMul", &["h", "long"], &["y"]).name("y")];
        let mut model = model(tied);
        let pattern = Pattern::from_n(2).unwrap();
        let report = prune_model(&mut model, pattern).unwrap();
        assert!(report.len() == 2 && report.iter().all(|p| p.declined.is_none()), "{report:?}");
        let stored = model.weight("long").unwrap();
        for orientation in [Orientation::KN, Orientation::NK] {
            assert!(satisfied(&Weight::read(&stored, orientation).unwrap()).contains(&pattern), "{orientation:?}");
        }
    }
}
