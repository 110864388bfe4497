//! The cheapest plan that stays close enough to the model: for each matrix product a pattern and a precision, chosen by what they were
//! measured to lose.
//!
//! 1. [`groups`]: products that run as one are chosen for together; each may be dense or of any pattern, in a narrow precision, or dense in
//!    the model's own.
//! 2. [`bench`]: for each of these, the model is compiled with nothing else changed and run on the samples; what its outputs lose is the
//!    group's sensitivity to it. Weights are pruned for that by what the unpruned model computes.
//! 3. [`solve`]: losses of independent errors add up, nearly, so the best for any budget is a knapsack problem, solved for all budgets at
//!    once.
//! 4. [`search`]: they do not add up exactly, so whole recipes are measured: a few along the curve, then those between the cheapest that is
//!    within the budget and the next that is not, then that one with single groups made cheaper. Plain recipes, one pattern for all, are
//!    measured beside them. All that with the weights of step 2 and with quantization by weights alone; where pruning or quantization go
//!    by activations, the compiler goes by what comes of the weights before, so the cheapest of these drafts are then measured as they are
//!    deployed. The cheapest
//!    that was measured *so* to be within the budget is chosen: none that is not can be.
//!
//! Must not know: the command line, how samples came about.

mod bench;
pub mod fidelity;
mod groups;
pub mod pareto;
mod search;
pub mod solve;
mod store;

use serde::Serialize;
use sliderun::plan::PlanError;
use sliderun::session::SessionError;
use sliderun::sparse::Pattern;
use std::collections::BTreeMap;

use crate::calibration::Calibration;
use crate::ir::Graph;
use crate::ir::eval::EvaluateError;
use crate::lower::LowerErrors;
use crate::options::{CompileOptions, Precision, PruneMethod, SparsityRequest};
use crate::passes::PipelineError;
use crate::pruning::{Progress, PruningError};
use crate::recipe::{Asked, Recipe};
use bench::Bench;
use fidelity::Fidelity;
use groups::{Costs, Form, Group};

pub use fidelity::{Budget, Metric};

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The bound.
    pub budget: Budget,
    /// The outputs that it is for; all of floats where there are none.
    pub outputs: Vec<String>,
}

/// Why there is no plan within the budget.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[allow(missing_docs)]
pub enum BudgetError {
    #[error("the model has no matrix product whose pattern or precision could be chosen")]
    NoProducts,
    #[error("the model has no output of floats to measure")]
    NoOutputs,
    #[error("the model has no output '{name}' of floats; there are {known}")]
    UnknownOutput { name: String, known: String },
    #[error("no plan is within {budget}: the best, {what}, reaches {best:.6}")]
    #[diagnostic(help("a budget that this keeps can be met; `--precision f32` loses least"))]
    OutOfReach { budget: Budget, what: String, best: f64 },
    #[error(transparent)]
    #[diagnostic(transparent)]
    Pass(#[from] PipelineError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Lower(#[from] LowerErrors),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Pruning(#[from] PruningError),
    #[error("pruned weights cannot be kept for the time being: {0}")]
    #[diagnostic(help("the folder for temporary files needs room for as many weights as there are patterns"))]
    Store(#[from] std::io::Error),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("a sample does not fit the model: {0}")]
    Sample(#[from] EvaluateError),
}

/// A recipe that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// What it is: `int8 6:8`, or how many groups have which pattern.
    pub what: String,
    /// Whether all products have one form.
    pub uniform: bool,
    /// What it costs, in the choice's unit.
    pub cost: f64,
    /// Its multiply-accumulates for those of the dense model.
    pub macs: f64,
    /// What it was measured to keep.
    #[serde(flatten)]
    pub fidelity: Fidelity,
    /// Whether that is within the budget.
    pub within: bool,
    /// Whether it was measured as it is deployed; otherwise with each weight pruned by what the unpruned model computes.
    pub deployed: bool,
    /// Which form, by group.
    #[serde(skip)]
    picks: Vec<usize>,
}

/// How much a group of products loses.
#[derive(Clone, Debug, Serialize)]
pub struct Sensitivity {
    /// The products' nodes.
    pub nodes: Vec<String>,
    /// What was chosen.
    pub chosen: String,
    /// For each form, `int8 6:8` …, what the outputs lose when this group alone has it.
    pub losses: BTreeMap<String, f64>,
}

/// What was chosen, and of what.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// The budget.
    pub budget: Budget,
    /// What costs are counted in.
    pub unit: String,
    /// How weights were pruned.
    pub prune: String,
    /// Samples of the calibration.
    pub samples: usize,
    /// How many of them were measured on. The others are those that pruning and quantization went by; where it is all of them, all of them are.
    pub measured_on: usize,
    /// All that were measured, cheapest first.
    pub points: Vec<Point>,
    /// Which of them was chosen.
    pub chosen: usize,
    /// One per group.
    pub groups: Vec<Sensitivity>,
    /// The choice.
    #[serde(skip)]
    pub recipe: Recipe,
}

impl Found {
    /// The recipe that was chosen, as it was measured.
    pub fn point(&self) -> &Point {
        &self.points[self.chosen]
    }

    /// The cheapest of those with one form for all products that is within the budget.
    pub fn best_uniform(&self) -> Option<&Point> {
        self.points.iter().find(|p| p.uniform && p.within && p.deployed)
    }
}

/// Chooses a recipe for an imported model.
///
/// # Errors
/// Nothing to choose or to measure on; a budget that nothing measured is within, naming the best; everything that keeps a plan from being
/// compiled and run.
pub fn choose(
    imported: &Graph,
    options: &CompileOptions,
    request: &Request,
    calibration: &Calibration,
    progress: &dyn Progress,
) -> Result<Found, BudgetError> {
    progress.say("the dense model");
    let bench = Bench::new(imported, options, calibration, &request.outputs, progress)?;
    let groups = groups::groups(&bench.prefix, &bench.bindings()?);
    if groups.is_empty() {
        return Err(BudgetError::NoProducts);
    }
    let costs = Costs::new(options, &groups);
    let prune = match options.prune {
        PruneMethod::None if calibration.is_synthetic() => PruneMethod::Magnitude,
        PruneMethod::None => PruneMethod::SparseGpt,
        method => method,
    };
    let choices = Choices { groups: &groups, forms: groups::forms(options), costs: &costs, prune };
    let measured = search::search(&bench, &choices, &request.budget, progress)?;
    let search::Measured { points, chosen, losses } = measured;
    let picks = &points[chosen].picks;
    let sensitivity = |(at, group): (usize, &Group)| Sensitivity {
        nodes: group.nodes.clone(),
        chosen: choices.forms[picks[at]].to_string(),
        losses: choices.forms.iter().zip(&losses[at]).map(|(form, loss)| (form.to_string(), *loss)).collect(),
    };
    Ok(Found {
        budget: request.budget,
        unit: costs.unit(),
        prune: prune.to_string(),
        samples: calibration.samples().len(),
        measured_on: bench.samples(),
        chosen,
        groups: groups.iter().enumerate().map(sensitivity).collect(),
        recipe: choices.recipe(picks),
        points,
    })
}

/// What there is to choose from.
struct Choices<'a> {
    groups: &'a [Group],
    forms: Vec<Form>,
    costs: &'a Costs,
    prune: PruneMethod,
}

impl Choices<'_> {
    fn asked(&self, form: Form) -> Asked {
        let (sparsity, prune) = match form.pattern {
            None => (SparsityRequest::Dense, PruneMethod::None),
            Some(pattern) => (SparsityRequest::Pattern(pattern), self.prune),
        };
        Asked { sparsity, precision: form.precision, prune }
    }

    /// The recipe of one form for each group. What is not chosen for is dense in the model's precision; on GPUs, what is not multiplied is
    /// held as suits the narrowest that is.
    fn recipe(&self, picks: &[usize]) -> Recipe {
        let chosen = |pick: &usize| self.forms[*pick];
        let narrow = picks.iter().map(chosen).map(|f| f.precision).find(|p| *p != Precision::Auto);
        let default =
            Asked { sparsity: SparsityRequest::Dense, precision: narrow.unwrap_or(Precision::Auto), prune: PruneMethod::None };
        let named = self.groups.iter().zip(picks).flat_map(|(g, pick)| g.nodes.iter().map(move |n| (n.clone(), *pick)));
        Recipe::complete(default, &named.map(|(node, pick)| (node, self.asked(self.forms[pick]))).collect())
    }

    /// The form that loses least: dense, in the model's precision where that is among them.
    const DENSE: usize = 0;

    /// What the groups cost with these forms; infinite where one cannot be.
    fn cost(&self, picks: &[usize]) -> f64 {
        let of = |(group, pick): (&Group, &usize)| self.costs.of(group, self.forms[*pick]).unwrap_or(f64::INFINITY);
        self.groups.iter().zip(picks).map(of).sum()
    }

    /// Multiply-accumulates for those of the dense model.
    fn macs(&self, picks: &[usize]) -> f64 {
        let all = |pattern: &dyn Fn(usize) -> Option<Pattern>| {
            self.groups.iter().enumerate().map(|(at, g)| g.macs(pattern(at))).sum::<f64>()
        };
        all(&|at| self.forms[picks[at]].pattern) / all(&|_| None)
    }

    /// The name of a choice.
    fn name(&self, picks: &[usize]) -> String {
        if picks.iter().all(|pick| *pick == picks[0]) {
            return self.forms[picks[0]].to_string();
        }
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        picks.iter().for_each(|pick| *counts.entry(*pick).or_default() += 1);
        let parts: Vec<String> = counts.iter().map(|(pick, n)| format!("{n}× {}", self.forms[*pick])).collect();
        parts.join(", ")
    }
}
