//! What a recipe's plan gives on samples: compiled as it would be deployed, run on the CPU, and compared with the dense model in its own
//! precision.
//!
//! With GPUs among the targets, it is the program for these that runs, on the CPU's kernels: the numbers are rounded where a GPU's are.
//!
//! Must not know: how recipes are chosen.

use sliderun::dim::Bindings;
use sliderun::dtype::DType;
use sliderun::op::gemm::MatMul;
use sliderun::plan::Plan;
use sliderun::plan::manifest::Provenance;
use sliderun::session::{Device, Session, SessionOptions};
use sliderun::sparse::Pattern;
use sliderun::tensor::{Tensor, TensorView};
use std::sync::Arc;

use super::BudgetError;
use super::fidelity::{Fidelity, Rows, worst};
use super::groups::Group;
use crate::calibration::Calibration;
use crate::ir::eval::bind;
use crate::ir::{Constant, Graph};
use crate::lower::lower;
use crate::options::{CompileOptions, Precision, PruneMethod, SparsityRequest, Target};
use crate::passes::product::Product;
use crate::passes::{PIPELINE, Pass, PassError, PipelineError, ignore, run_passes, run_passes_told};
use crate::pruning::{Progress, Setting, Task, prune};
use crate::recipe::Recipe;
use crate::verify::NamedTensors;

/// A model, ready to be compiled to many recipes, and what it gives on samples.
pub(crate) struct Bench<'a> {
    /// As it comes to the passes that follow recipes.
    pub prefix: Graph,
    options: CompileOptions,
    /// What pruning and quantization go by.
    by: Arc<Calibration>,
    /// What is measured on.
    on: Calibration,
    progress: &'a dyn Progress,
    outputs: Vec<String>,
    /// By sample and output.
    expected: Vec<Vec<Tensor>>,
}

impl<'a> Bench<'a> {
    /// Prepares an imported model and runs it, dense and in its own precision, on the samples to measure on, which are none of those that
    /// pruning and quantization go by where there are enough. `outputs`: which are compared; all of floats where it is empty.
    ///
    /// # Errors
    /// Passes, lowering and runs that fail; outputs that the model does not have, or none of floats.
    pub fn new(
        imported: &Graph,
        options: &CompileOptions,
        calibration: &Calibration,
        outputs: &[String],
        progress: &'a dyn Progress,
    ) -> Result<Bench<'a>, BudgetError> {
        let gpus: Vec<Target> = options.targets.iter().copied().filter(|t| *t != Target::Cpu).collect();
        let targets = if gpus.is_empty() { vec![Target::Cpu] } else { gpus };
        // Convolutions that can be products are among the candidates.
        let any = SparsityRequest::Pattern(Pattern::ALL[0]);
        let (by, on) = calibration.split();
        let by = Arc::new(by);
        let given = options.calibration.as_ref().map(|_| by.clone());
        let options = CompileOptions {
            targets,
            sparsity: any,
            calibration: given,
            recipe: None,
            budget: None,
            strict: false,
            ..options.clone()
        };
        let mut prefix = imported.clone();
        run_passes(&mut prefix, PIPELINE.iter().take_while(|p| !follows_recipes(p)), &options, &mut ignore)?;
        let floats = |t: DType| matches!(t, DType::F32 | DType::F16 | DType::Bf16 | DType::F64);
        let known: Vec<&str> =
            imported.outputs.iter().filter(|o| floats(imported.ty(o.value).dtype)).map(|o| o.name.as_str()).collect();
        if let Some(name) = outputs.iter().find(|name| !known.contains(&name.as_str())) {
            return Err(BudgetError::UnknownOutput { name: name.clone(), known: known.join(", ") });
        }
        let outputs: Vec<String> =
            known.iter().filter(|o| outputs.is_empty() || outputs.iter().any(|n| n == *o)).map(|o| (*o).to_owned()).collect();
        if outputs.is_empty() {
            return Err(BudgetError::NoOutputs);
        }
        let mut bench = Bench { prefix, options, by, on, progress, outputs, expected: Vec::new() };
        let dense = CompileOptions {
            sparsity: SparsityRequest::Dense,
            precision: Precision::Auto,
            prune: PruneMethod::None,
            calibration: None,
            targets: vec![Target::Cpu],
            ..bench.options.clone()
        };
        let session = bench.session(bench.prefix.clone(), &dense)?;
        bench.expected = bench.on.samples().map(|(_, sample)| bench.run(&session, sample)).collect::<Result<_, _>>()?;
        Ok(bench)
    }

    /// How many samples it measures on.
    pub fn samples(&self) -> usize {
        self.on.samples().len()
    }

    /// The symbols' values for each sample.
    ///
    /// # Errors
    /// Samples that do not fit the model.
    pub fn bindings(&self) -> Result<Vec<Bindings>, BudgetError> {
        self.on.samples().map(|(_, sample)| Ok(bind(&self.prefix, sample)?)).collect()
    }

    /// What the plan of a recipe gives.
    ///
    /// # Errors
    /// As [`Bench::new`].
    pub fn fidelity(&self, recipe: Recipe) -> Result<Fidelity, BudgetError> {
        self.compare(self.prefix.clone(), &self.options.clone().with_recipe(recipe))
    }

    /// What the plan of a recipe gives when nothing is pruned, with other weights in products of [`Bench::prefix`] and all else done that needs
    /// no calibration.
    ///
    /// # Errors
    /// As [`Bench::new`].
    pub fn fidelity_with(&self, weights: Vec<(Product, Constant)>, recipe: Recipe) -> Result<Fidelity, BudgetError> {
        let mut graph = self.prefix.clone();
        for (product, weight) in weights {
            let name = format!("{}.pruned", graph.output(product.weight).name);
            let new = graph.add_constant(&name, weight);
            graph.set_input(product.node, 1, Some(new));
        }
        let plain = CompileOptions { calibration: None, max_layer_error: None, ..self.options.clone() };
        self.compare(graph, &plain.with_recipe(recipe.without_pruning()))
    }

    /// Whether quantization goes by the samples.
    pub fn quantizes_by_samples(&self) -> bool {
        self.options.calibration.is_some()
    }

    /// The weights of a group's products pruned to each of the patterns, by what the unpruned model makes of the samples: their inputs are
    /// computed, and what a method makes of these, once for all patterns.
    ///
    /// # Errors
    /// Those of pruning.
    pub fn pruned(&self, group: &Group, patterns: &[Pattern], method: PruneMethod) -> Result<Vec<Vec<Constant>>, BudgetError> {
        let mut graph = self.prefix.clone();
        let mut tasks = Vec::new();
        for pattern in patterns {
            for product in &group.products {
                // Products beside those of the model, whose results nothing reads: pruning gives each a weight, and the model keeps its own.
                let node = graph
                    .add_op("probe", MatMul::default(), &[Some(product.activation), Some(product.weight)])
                    .map_err(PassError::infer("probe"))
                    .map_err(|source| PipelineError::Pass { pass: "prune", source })?;
                let product = Product::of(&graph, node).expect("a MatMul was added");
                tasks.push(Task { product, pattern: *pattern, method });
            }
        }
        let engine = &self.options.engine;
        let setting = Setting { calibration: Some(&self.by), engine, progress: self.progress, checkpoint: None };
        prune(&mut graph, &tasks, &setting)?;
        let weight = |task: &Task| {
            let weight = graph.operand(task.product.node, 1).and_then(|value| graph.constant(value));
            weight.expect("products keep a constant weight").clone()
        };
        Ok(tasks.chunks(group.products.len()).map(|of| of.iter().map(weight).collect()).collect())
    }

    fn compare(&self, graph: Graph, options: &CompileOptions) -> Result<Fidelity, BudgetError> {
        let session = self.session(graph, options)?;
        let mut rows = vec![Rows::default(); self.outputs.len()];
        for ((_, sample), expected) in self.on.samples().zip(&self.expected) {
            for ((rows, actual), expected) in rows.iter_mut().zip(self.run(&session, sample)?).zip(expected) {
                rows.add(actual.view(), expected.view());
            }
        }
        Ok(worst(&rows))
    }

    fn session(&self, mut graph: Graph, options: &CompileOptions) -> Result<Session, BudgetError> {
        let passes = PIPELINE.iter().skip_while(|p| !follows_recipes(p));
        let outcome = run_passes_told(&mut graph, passes, options, self.progress, &mut ignore)?;
        let lowered = lower(&graph, Provenance::default(), outcome.verdicts)?;
        let plan = Plan::from_bytes(lowered.writer.to_bytes(lowered.manifest)?)?;
        Ok(Session::new(Arc::new(plan), Device::Cpu, SessionOptions::default())?)
    }

    /// The outputs that are compared.
    fn run(&self, session: &Session, sample: &NamedTensors) -> Result<Vec<Tensor>, BudgetError> {
        let inputs: Vec<(&str, TensorView<'_>)> = sample.iter().map(|(name, t)| (name.as_str(), t.view())).collect();
        let outputs = session.run(&inputs)?;
        Ok(outputs.into_iter().filter(|(name, _)| self.outputs.contains(name)).map(|(_, tensor)| tensor).collect())
    }
}

/// Whether a pass, or one after it, does with products what a recipe says.
fn follows_recipes(pass: &Pass) -> bool {
    matches!(pass.name, "smooth" | "prune" | "choose")
}
