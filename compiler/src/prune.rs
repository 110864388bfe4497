//! Pruning ONNX models: the same model with zeros in the weights of its matrix products.
//!
//! What a product and its weight are, the graph IR says: the model is imported and taken through the passes that a compilation runs
//! before it prunes, and pruned as a compilation does it. Each weight is traced to the tensor of the file that stores it, and only that
//! tensor's bytes change.
//!
//! Must not know: plans, the command line.

mod order;

use serde::Serialize;
use sliderun::op::{Op, TensorType};
use sliderun::sparse::Pattern;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::calibration::{Calibration, Engine};
use crate::import::{ImportErrors, ImportOptions, import};
use crate::ir::{Constant, Graph, ValueRef};
use crate::onnx::{ModelError, OnnxModel};
use crate::options::{CompileOptions, PruneMethod};
use crate::passes::product::{ORIENTATION, Product};
use crate::passes::{PIPELINE, PipelineError, run_passes};
use crate::pruning::{Checkpoint, Layer, Progress, PruningError, Setting, Task, prune};
use crate::sparsity::prune::prune_by_magnitude;
use crate::sparsity::{Orientation, Weight, WeightError};

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
    #[error(transparent)]
    #[diagnostic(transparent)]
    Pruning(#[from] PruningError),
    /// The constants are the compiler's own, so this is a defect of it.
    #[error("the pruned weight of '{tensor}' cannot be stored: {source}")]
    Store { tensor: String, source: WeightError },
}

/// What is to become of a model's weights.
#[derive(Clone, Debug)]
pub struct PruneOptions {
    /// The pattern that they are to have.
    pub pattern: Pattern,
    /// How they get it; nothing is pruned by `None`.
    pub method: PruneMethod,
    /// What the model is run on where the method needs it; synthetic when `None`.
    pub calibration: Option<Arc<Calibration>>,
    /// What runs it there.
    pub engine: Arc<Engine>,
    /// Whether K comes first in an order in which the pattern keeps more, where the file can be in that order for nothing.
    pub permute: bool,
    /// A folder that finished weights are kept in, and found in by a later run of the same.
    pub resume: Option<PathBuf>,
}

impl PruneOptions {
    /// By magnitude to a pattern.
    pub fn magnitude(pattern: Pattern) -> Self {
        PruneOptions {
            pattern,
            method: PruneMethod::Magnitude,
            calibration: None,
            engine: Arc::default(),
            permute: false,
            resume: None,
        }
    }
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
    Ok(Traced::new(model)?.products.into_iter().map(|(_, product)| product).collect())
}

/// The graph as it is where a compilation prunes, and its products.
struct Traced {
    graph: Graph,
    products: Vec<(Product, ModelProduct)>,
}

impl Traced {
    fn new(model: &OnnxModel) -> Result<Self, PruneError> {
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
            Some((p, ModelProduct { node, weight, constant, stored }))
        };
        let products = Product::all(&graph).into_iter().filter_map(product).collect();
        Ok(Traced { graph, products })
    }
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
    /// What was done; told again for each product that shares the weight.
    #[serde(flatten)]
    pub layer: Option<Layer>,
    /// What order K is in now, or why it is in the order that it was in, where another one was looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
    /// Why the weight was left as it is, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub declined: Option<String>,
}

/// Prunes the weight of every product to a pattern along K; nothing else changes.
///
/// # Errors
/// As [`products`]; a calibration that does not fit, folders that cannot be written.
pub fn prune_model(
    model: &mut OnnxModel,
    options: &PruneOptions,
    progress: &dyn Progress,
) -> Result<Vec<PrunedWeight>, PruneError> {
    let mut orders = if options.permute { order::reorder(model, options)? } else { BTreeMap::new() };
    let Traced { mut graph, products } = Traced::new(model)?;
    let calibration = options.calibration.as_deref();
    if let Some(calibration) = calibration {
        calibration.check(&graph).map_err(PruningError::from)?;
    }
    // Of the products that share a tensor, those that read it as the first of them does are pruned with it.
    let mut first: BTreeMap<&str, (usize, Orientation, ValueRef)> = BTreeMap::new();
    let mut tasks = Vec::new();
    let mut task_of = BTreeMap::new();
    for (at, (product, told)) in products.iter().enumerate() {
        let Ok(stored) = &told.stored else { continue };
        let first = first.entry(&stored.tensor).or_insert((at, stored.orientation, product.weight));
        if (first.1, first.2) == (stored.orientation, product.weight) {
            task_of.insert(at, tasks.len());
            tasks.push(Task { product: *product, pattern: options.pattern, method: options.method });
        }
    }
    let checkpoint = options.resume.as_deref().map(|folder| checkpoint(folder, model, options)).transpose()?;
    let setting = Setting { calibration, engine: &options.engine, progress, checkpoint: checkpoint.as_ref() };
    let results = prune(&mut graph, &tasks, &setting)?;

    for (tensor, (at, orientation, _)) in &first {
        if results[task_of[at]].as_ref().is_ok_and(Layer::is_changed) {
            let store = |source| PruneError::Store { tensor: (*tensor).to_owned(), source };
            let pruned = graph.operand(products[*at].0.node, 1).and_then(|v| graph.constant(v));
            let constant = pruned.expect("what was pruned has a new constant in its place");
            let weight = Weight::read(constant, ORIENTATION).map_err(store)?;
            model.set_initializer(tensor, weight.to_constant(constant.dtype, *orientation).data)?;
        }
    }
    let mut out = Vec::new();
    for (at, (_, told)) in products.iter().enumerate() {
        let result = match (&told.stored, task_of.get(&at)) {
            (Err(reason), _) => Err(reason.clone()),
            (_, Some(task)) => results[*task].clone(),
            (Ok(stored), None) => {
                let (leader, orientation, _) = first[stored.tensor.as_str()];
                if orientation == stored.orientation {
                    results[task_of[&leader]].clone()
                } else {
                    prune_too(model, stored, options.pattern)?
                }
            }
        };
        let (layer, declined) = match result {
            Ok(layer) => (Some(layer), None),
            Err(reason) => (None, Some(reason)),
        };
        let order = orders.remove(&told.node);
        out.push(PrunedWeight { node: told.node.clone(), weight: told.weight.clone(), layer, order, declined });
    }
    Ok(out)
}

/// Where this model's finished weights are kept: everything that they depend on makes the key.
fn checkpoint(folder: &std::path::Path, model: &OnnxModel, options: &PruneOptions) -> Result<Checkpoint, PruneError> {
    let calibration = options.calibration.as_ref().map_or_else(|| "synthetic".to_owned(), |c| c.digest().to_hex().to_string());
    let order = if options.permute { "another order" } else { "the model's order" };
    let about = [
        &model.digest().to_hex().to_string(),
        &options.pattern.to_string(),
        &options.method.to_string(),
        &calibration,
        &order.to_owned(),
    ];
    Ok(Checkpoint::open(folder, &about.map(String::as_str)).map_err(PruningError::from)?)
}

/// Prunes a tensor that one product's weight is already pruned in, for one that reads it transposed. More zeros break no pattern.
fn prune_too(model: &mut OnnxModel, stored: &StoredWeight, pattern: Pattern) -> Result<Result<Layer, String>, ModelError> {
    let constant = model.weight(&stored.tensor)?;
    // Leading axes of 1 are the tensor's own business.
    let shape = constant.shape[constant.shape.len().saturating_sub(2)..].to_vec();
    match prune_by_magnitude(&Constant { shape, ..constant }, stored.orientation, pattern) {
        Err(reason) => Ok(Err(reason.to_string())),
        Ok((constant, pruned)) => {
            model.set_initializer(&stored.tensor, constant.data)?;
            let note = Some("the transpose of a weight that was pruned before: by magnitude".to_owned());
            Ok(Ok(Layer { method: PruneMethod::Magnitude, pruned, output_error: None, note }))
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
            let report = prune_model(&mut model, &PruneOptions::magnitude(pattern), &()).unwrap();
            let told: Vec<&str> = report.iter().map(|p| p.node.as_str()).collect();
            assert_eq!(told, expected.iter().map(|e| e.0).collect::<Vec<_>>());
            let mut pruned = Vec::new();
            for (entry, (node, tensor, result)) in report.iter().zip(expected) {
                match result {
                    Ok(removed) => {
                        let told = entry.layer.as_ref().map(|l| l.pruned.removed);
                        assert_eq!((told, &entry.declined), (Some(*removed), &None), "{node}");
                        pruned.push(*tensor);
                    }
                    Err(reason) => {
                        let said = entry.declined.as_deref().unwrap_or_default();
                        assert!(said.contains(reason) && entry.layer.is_none(), "{node}: {said}");
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
        let report = prune_model(&mut model, &PruneOptions::magnitude(pattern), &()).unwrap();
        assert!(report.len() == 2 && report.iter().all(|p| p.declined.is_none()), "{report:?}");
        let stored = model.weight("long").unwrap();
        for orientation in [Orientation::KN, Orientation::NK] {
            assert!(satisfied(&Weight::read(&stored, orientation).unwrap()).contains(&pattern), "{orientation:?}");
        }
    }
}
