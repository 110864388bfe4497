//! What a recipe's plan gives on samples: compiled as it would be deployed, run on the CPU, and compared with the dense model in its own
//! precision.
//!
//! With GPUs among the targets, it is the program for these that runs, on the CPU's kernels: the numbers are rounded where a GPU's are.
//!
//! Must not know: how recipes are chosen.

use sliderun::dim::Bindings;
use sliderun::dtype::DType;
use sliderun::plan::Plan;
use sliderun::plan::manifest::Provenance;
use sliderun::session::{Device, Session, SessionOptions};
use sliderun::tensor::{Tensor, TensorView};
use std::sync::Arc;

use super::BudgetError;
use super::fidelity::{Fidelity, Rows, worst};
use crate::calibration::Calibration;
use crate::ir::Graph;
use crate::ir::eval::bind;
use crate::lower::lower;
use crate::options::{CompileOptions, Precision, PruneMethod, SparsityRequest, Target};
use crate::passes::{PIPELINE, ignore, run_passes};
use crate::recipe::Recipe;
use crate::verify::NamedTensors;

/// A model, ready to be compiled to many recipes, and what it gives on samples.
pub struct Bench<'a> {
    /// As it comes to the passes that follow recipes.
    pub prefix: Graph,
    options: CompileOptions,
    calibration: &'a Calibration,
    outputs: Vec<String>,
    /// By sample and output.
    expected: Vec<Vec<Tensor>>,
}

impl<'a> Bench<'a> {
    /// Prepares an imported model and runs it, dense and in its own precision, on each sample. `outputs`: which are compared; all of floats
    /// where it is empty.
    ///
    /// # Errors
    /// Passes, lowering and runs that fail; outputs that the model does not have, or none of floats.
    pub fn new(
        imported: &Graph,
        options: &CompileOptions,
        calibration: &'a Calibration,
        outputs: &[String],
    ) -> Result<Bench<'a>, BudgetError> {
        let gpus: Vec<Target> = options.targets.iter().copied().filter(|t| *t != Target::Cpu).collect();
        let targets = if gpus.is_empty() { vec![Target::Cpu] } else { gpus };
        // Convolutions that can be products are among the candidates.
        let any = SparsityRequest::Pattern(sliderun::sparse::Pattern::ALL[0]);
        let options = CompileOptions { targets, sparsity: any, recipe: None, budget: None, strict: false, ..options.clone() };
        let mut prefix = imported.clone();
        run_passes(&mut prefix, PIPELINE.iter().take_while(|p| p.name != "prune"), &options, &mut ignore)?;
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
        let mut bench = Bench { prefix, options, calibration, outputs, expected: Vec::new() };
        let dense = CompileOptions {
            sparsity: SparsityRequest::Dense,
            precision: Precision::Auto,
            prune: PruneMethod::None,
            targets: vec![Target::Cpu],
            ..bench.options.clone()
        };
        let session = bench.session(&dense)?;
        bench.expected = calibration.samples().map(|(_, sample)| bench.run(&session, sample)).collect::<Result<_, _>>()?;
        Ok(bench)
    }

    /// The symbols' values for each sample.
    ///
    /// # Errors
    /// Samples that do not fit the model.
    pub fn bindings(&self) -> Result<Vec<Bindings>, BudgetError> {
        self.calibration.samples().map(|(_, sample)| Ok(bind(&self.prefix, sample)?)).collect()
    }

    /// What the plan of a recipe gives.
    ///
    /// # Errors
    /// As [`Bench::new`].
    pub fn fidelity(&self, recipe: Recipe) -> Result<Fidelity, BudgetError> {
        let session = self.session(&self.options.clone().with_recipe(recipe))?;
        let mut rows = vec![Rows::default(); self.outputs.len()];
        for ((_, sample), expected) in self.calibration.samples().zip(&self.expected) {
            for ((rows, actual), expected) in rows.iter_mut().zip(self.run(&session, sample)?).zip(expected) {
                rows.add(actual.view(), expected.view());
            }
        }
        Ok(worst(&rows))
    }

    fn session(&self, options: &CompileOptions) -> Result<Session, BudgetError> {
        let mut graph = self.prefix.clone();
        let outcome = run_passes(&mut graph, PIPELINE.iter().skip_while(|p| p.name != "prune"), options, &mut ignore)?;
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
