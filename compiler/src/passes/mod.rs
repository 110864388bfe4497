//! The passes: each rewrites the graph in place and says what it did and what it declined.
//!
//! One file per pass, one declaration each ([`Pass`]), gathered in the one ordered list [`PIPELINE`]. A pass that only applies
//! under some options is in the list all the same and looks at the options itself.
//!
//! Must not know: where the graph came from, plans, the command line.

use miette::Diagnostic;
use sliderun::op::InferError;
use std::collections::BTreeMap;
use std::time::Instant;

use crate::calibration::CalibrationError;
use crate::ir::verify::{InvalidGraph, verify};
use crate::ir::{Graph, ValueRef};
use crate::options::{CompileOptions, WeightScales};
use crate::pruning::{Progress, PruningError};
use crate::recipe::{Asked, RecipeError};
use crate::sparsity::scales::Scales;

mod choose;
mod conv_to_matmul;
mod decompose;
mod deduplicate;
mod fold_constants;
mod fuse_activation;
mod fuse_attention;
mod fuse_bias;
mod fuse_gelu;
mod fuse_layer_norm;
mod fuse_rms_norm;
mod fuse_rotary;
mod fuse_silu;
mod fuse_softmax;
mod lift;
mod limit_error;
pub mod matching;
mod merge;
mod narrow;
mod normalise;
pub(crate) mod permute;
pub(crate) mod product;
mod prune;
pub mod report;
pub mod rewrite;
mod row_elements;
mod smooth;
mod split_epilogues;
mod statistics;
mod widen;

pub use report::{PassReport, Verdict};

/// Every pass, in the order in which a compilation runs them.
pub const PIPELINE: &[Pass] = &[
    conv_to_matmul::PASS,
    normalise::PASS,
    fold_constants::PASS,
    deduplicate::PASS,
    fuse_layer_norm::PASS,
    fuse_rms_norm::PASS,
    fuse_gelu::PASS,
    fuse_silu::PASS,
    fuse_softmax::PASS,
    fuse_bias::PASS,
    fuse_rotary::PASS,
    smooth::PASS,
    permute::PASS,
    prune::PASS,
    choose::PASS,
    limit_error::PASS,
    fuse_attention::PASS,
    merge::PASS,
    fuse_activation::PASS,
    decompose::PASS,
    lift::PASS,
    split_epilogues::PASS,
    narrow::PASS,
    widen::PASS,
];

/// A pass's declaration.
#[derive(Clone, Copy)]
pub struct Pass {
    /// Lower case with hyphens, as in `--pass fold-constants`.
    pub name: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// Runs it. Code that it leaves dead is removed for it.
    pub run: fn(&mut Graph, &mut PassContext<'_>) -> Result<(), PassError>,
}

impl Pass {
    /// The pass of that name in [`PIPELINE`].
    pub fn by_name(name: &str) -> Option<&'static Pass> {
        PIPELINE.iter().find(|p| p.name == name)
    }
}

/// What a pass gets beside the graph.
pub struct PassContext<'a> {
    /// What the user asked for.
    pub options: &'a CompileOptions,
    /// Is told how far a pass is that takes long.
    pub progress: &'a dyn Progress,
    /// Where it says what it did and declined.
    pub report: PassReport,
    /// The verdicts on products with constant weights, so far; they live through the whole pipeline.
    pub verdicts: Vec<Verdict>,
    /// What each product that can be sparse or quantized was asked to be, by the name of its node.
    pub choices: BTreeMap<String, Asked>,
    /// The second moments of activations' channels on the calibration data, by the values' names, for those that 8-bit products read.
    pub moments: BTreeMap<String, Vec<f32>>,
}

impl<'a> PassContext<'a> {
    /// The context of a pipeline's beginning.
    pub fn new(options: &'a CompileOptions) -> Self {
        PassContext {
            options,
            progress: &(),
            report: PassReport::default(),
            verdicts: Vec::new(),
            choices: BTreeMap::new(),
            moments: BTreeMap::new(),
        }
    }

    /// How the scales of 8-bit weights are found that multiply this activation.
    pub fn scales(&self, graph: &Graph, activation: ValueRef) -> Scales<'_> {
        let moments = self.moments.get(&graph.output(activation).name).map(Vec::as_slice);
        match self.options.weight_scales {
            WeightScales::Auto if moments.is_none() => Scales::AbsMax,
            WeightScales::AbsMax => Scales::AbsMax,
            WeightScales::Auto | WeightScales::LeastError => Scales::LeastError(moments),
        }
    }
}

/// A node that a pass cannot treat as the user demands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Refusal {
    pub node: String,
    pub reason: String,
}

fn list(refusals: &[Refusal]) -> String {
    refusals.iter().map(|r| format!("\n  {}: {}", r.node, r.reason)).collect()
}

/// Why a pass failed.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[allow(missing_docs)]
pub enum PassError {
    /// The pass built a node with operands that its operator cannot have.
    #[error("rewriting '{node}' gives an operator with operands that it cannot have: {source}")]
    #[diagnostic(help("this is a defect of slidec; `slidec opt` on the dump before this pass (`--emit-after`) shows it"))]
    Infer { node: String, source: InferError },
    /// Every node that stands against what the user demands (`--strict`).
    #[error("what was asked for cannot be done for {} of the model's nodes:{}", .nodes.len(), list(.nodes))]
    Refused {
        nodes: Vec<Refusal>,
        #[help]
        help: String,
    },
    /// A recipe that names what the model does not have.
    #[error(transparent)]
    #[diagnostic(help("`slidec compile --write-recipe` writes one that names every product; * stands for any characters"))]
    Recipe(#[from] RecipeError),
    /// Pruning by activations needs them.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Pruning(PruningError),
    /// The model cannot be run on the calibration data.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Calibration(#[from] CalibrationError),
    /// Local rules undo each other.
    #[error("the rules still find something to rewrite after {sweeps} sweeps over the graph")]
    #[diagnostic(help("this is a defect of slidec"))]
    NoFixpoint { sweeps: usize },
}

impl PassError {
    /// Turns an error of [`Graph::add_op`] into one of the pass that rewrites `node`.
    pub fn infer(node: &str) -> impl FnOnce(InferError) -> PassError {
        let node = node.to_owned();
        move |source| PassError::Infer { node, source }
    }
}

/// Why a pipeline failed.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[allow(missing_docs)]
pub enum PipelineError {
    #[error("pass '{pass}' failed: {source}")]
    Pass {
        pass: &'static str,
        #[source]
        #[diagnostic_source]
        source: PassError,
    },
    #[error("there is no pass '{name}'")]
    #[diagnostic(help("`slidec passes` lists them"))]
    UnknownPass { name: String },
    #[error("pass '{pass}' left a graph that is not valid: {source}")]
    #[diagnostic(help("this is a defect of slidec; `--emit-after` with the pass before it gives the graph to report it with"))]
    Invalid { pass: &'static str, source: InvalidGraph },
    /// What the caller's hook failed with.
    #[error("after pass '{pass}': {source}")]
    Hook { pass: &'static str, source: std::io::Error },
}

/// What a pipeline leaves beside the graph.
#[derive(Debug, Default)]
pub struct Outcome {
    /// One report per pass, in order.
    pub reports: Vec<PassReport>,
    /// The verdicts on products with constant weights.
    pub verdicts: Vec<Verdict>,
    /// What each product that can be sparse or quantized was asked to be, by the name of its node.
    pub choices: BTreeMap<String, Asked>,
}

/// Called after each pass with the graph that it left; [`ignore`] does nothing.
pub type Hook<'h> = &'h mut dyn FnMut(&Pass, &Graph) -> std::io::Result<()>;

/// A [`Hook`] that does nothing.
///
/// # Errors
/// None.
pub fn ignore(_: &Pass, _: &Graph) -> std::io::Result<()> {
    Ok(())
}

/// Runs the whole [`PIPELINE`].
///
/// # Errors
/// See [`run_passes`].
pub fn run_pipeline(graph: &mut Graph, options: &CompileOptions, after: Hook<'_>) -> Result<Outcome, PipelineError> {
    run_passes(graph, PIPELINE, options, after)
}

/// Runs passes in the order given.
///
/// # Errors
/// A pass that fails, a hook that fails; in builds with debug assertions also a graph that a pass left invalid.
pub fn run_passes<'p>(
    graph: &mut Graph,
    passes: impl IntoIterator<Item = &'p Pass>,
    options: &CompileOptions,
    after: Hook<'_>,
) -> Result<Outcome, PipelineError> {
    run_passes_told(graph, passes, options, &(), after)
}

/// As [`run_passes`], and tells how far passes are that take long.
///
/// # Errors
/// See [`run_passes`].
pub fn run_passes_told<'p>(
    graph: &mut Graph,
    passes: impl IntoIterator<Item = &'p Pass>,
    options: &CompileOptions,
    progress: &dyn Progress,
    after: Hook<'_>,
) -> Result<Outcome, PipelineError> {
    let mut context = PassContext { progress, ..PassContext::new(options) };
    let mut reports = Vec::new();
    for pass in passes {
        let start = Instant::now();
        (pass.run)(graph, &mut context).map_err(|source| PipelineError::Pass { pass: pass.name, source })?;
        graph.remove_dead();
        let mut report = std::mem::take(&mut context.report);
        report.pass = pass.name;
        report.time = start.elapsed();
        reports.push(report);
        if cfg!(debug_assertions) {
            verify(graph).map_err(|source| PipelineError::Invalid { pass: pass.name, source })?;
        }
        after(pass, graph).map_err(|source| PipelineError::Hook { pass: pass.name, source })?;
    }
    Ok(Outcome { reports, verdicts: context.verdicts, choices: context.choices })
}

/// The passes of a list of names.
///
/// # Errors
/// The first name that no pass has.
pub fn by_names<'n>(names: impl IntoIterator<Item = &'n str>) -> Result<Vec<&'static Pass>, PipelineError> {
    let find = |name: &str| Pass::by_name(name).ok_or_else(|| PipelineError::UnknownPass { name: name.to_owned() });
    names.into_iter().map(find).collect()
}
