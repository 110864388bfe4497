//! The whole way from a model to a plan: open → import → passes → lower. Writing the result is the caller's last word, so that nothing
//! appears on disk before everything has succeeded.
//!
//! ```no_run
//! use slidec::compile::compile;
//! use slidec::options::{CompileOptions, Precision, PruneMethod};
//! use std::path::Path;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let options = CompileOptions {
//!     sparsity: "6:8".parse()?,
//!     prune: PruneMethod::Magnitude,
//!     precision: Precision::Int8,
//!     ..CompileOptions::default()
//! };
//! let compiled = compile(Path::new("model.onnx"), &options, &mut ())?;
//! for verdict in &compiled.manifest.verdicts {
//!     println!("{}: {}", verdict.node, verdict.chosen);
//! }
//! compiled.write(Path::new("model.slide"))?;
//! # Ok(())
//! # }
//! ```

use sliderun::plan::cuda::CudaPlan;
use sliderun::plan::manifest::{Manifest, Provenance, Verdict};
use sliderun::plan::{Architecture, PlanError, PlanWriter};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::budget::{self, BudgetError, Found};
use crate::calibration::{Calibration, CalibrationError};
use crate::cost::Measured;
use crate::import::{ImportErrors, ImportOptions, import};
use crate::ir::Graph;
use crate::lower::{Costs, LowerErrors, lower, lower_cuda, missed};
use crate::onnx::proto::EXTERNAL;
use crate::onnx::{ModelError, OnnxModel};
use crate::options::{CompileOptions, Permute, Smoothing, Target, Variants, WeightScales};
use crate::passes::{PIPELINE, Pass, PassReport, PipelineError, run_passes, run_passes_told};
use crate::pruning::Progress;
use crate::recipe::Recipe;
use crate::report::Timing;

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Stage {
    Open,
    Import,
    Budget,
    Passes,
    Lower,
    Kernels,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Stage::Open => "open",
            Stage::Import => "import",
            Stage::Budget => "budget",
            Stage::Passes => "passes",
            Stage::Lower => "lower",
            Stage::Kernels => "kernels",
        })
    }
}

/// Watches a compilation; `()` looks away.
pub trait Observer {
    /// A stage begins.
    fn stage(&mut self, _stage: Stage) {}

    /// Who is told how far a pass is that takes long.
    fn progress(&self) -> Arc<dyn Progress + Send> {
        Arc::new(())
    }

    /// A pass has left this graph.
    ///
    /// # Errors
    /// Those of writing the graph somewhere; they end the compilation.
    fn after_pass(&mut self, _pass: &Pass, _graph: &Graph) -> io::Result<()> {
        Ok(())
    }
}

impl Observer for () {}

/// Why a model did not compile.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[allow(missing_docs)]
pub enum CompileError {
    #[error(transparent)]
    #[diagnostic(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Import(#[from] ImportErrors),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Calibration(#[from] CalibrationError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Pass(#[from] PipelineError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Lower(#[from] LowerErrors),
    #[error("no plan was chosen: {0}")]
    #[diagnostic(transparent)]
    Budget(#[from] BudgetError),
    /// NVRTC is missing, or does not compile the kernels.
    #[error("the plan's CUDA kernels cannot be compiled: {0}")]
    #[diagnostic(help("without --target, or with `--target cpu`, no kernels are needed"))]
    Kernels(#[from] slidec_kernels::CompileError),
}

/// A compiled model: a plan that has not been written yet.
pub struct Compiled {
    /// The graph that was lowered.
    pub graph: Graph,
    /// The plan's manifest; its blobs are the writer's.
    pub manifest: Manifest,
    /// The plan's constant data.
    pub writer: PlanWriter<'static>,
    /// What each product was asked to be: options with this recipe give the same plan.
    pub recipe: Recipe,
    /// How that was chosen, where there was a budget.
    pub budget: Option<Found>,
    /// What each pass did and declined; last, where there are GPUs among the targets, what their launches leave apart.
    pub reports: Vec<PassReport>,
    /// How long each stage took.
    pub timings: Vec<Timing>,
    /// What went wrong without changing the plan, as a cache that could not be written.
    pub warnings: Vec<String>,
    /// Size of the model in bytes, external data included.
    pub model_bytes: u64,
    started: Instant,
}

impl Compiled {
    /// One verdict per matrix product with a constant weight.
    pub fn verdicts(&self) -> &[Verdict] {
        &self.manifest.verdicts
    }

    /// Time since the compilation began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Writes the plan; the file appears only when it is complete. Gives its size in bytes.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, path: &Path) -> Result<u64, PlanError> {
        self.writer.finish(self.manifest.clone(), path)
    }

    /// The bytes of the plan file.
    ///
    /// # Errors
    /// A manifest that is not valid, which is a defect of the compiler.
    pub fn to_bytes(&self) -> Result<Vec<u8>, PlanError> {
        self.writer.to_bytes(self.manifest.clone())
    }
}

/// Compiles the model at `path`.
///
/// # Errors
/// A file that is no model, everything in it that is not supported (all at once), and options that it cannot meet.
pub fn compile(path: &Path, options: &CompileOptions, observer: &mut dyn Observer) -> Result<Compiled, CompileError> {
    let mut clock = Clock::start();
    observer.stage(Stage::Open);
    let model = OnnxModel::open(path)?;
    clock.lap(Stage::Open);
    compile_from(&model, options, observer, clock)
}

/// Compiles a model that has been opened or built in memory.
///
/// # Errors
/// As [`compile`].
pub fn compile_model(model: &OnnxModel, options: &CompileOptions, observer: &mut dyn Observer) -> Result<Compiled, CompileError> {
    compile_from(model, options, observer, Clock::start())
}

fn compile_from(
    model: &OnnxModel,
    options: &CompileOptions,
    observer: &mut dyn Observer,
    mut clock: Clock,
) -> Result<Compiled, CompileError> {
    observer.stage(Stage::Import);
    let symbols = options.shapes.iter().map(|s| (s.name.clone(), (s.min, s.max))).collect();
    let imported = import(model, &ImportOptions { symbols, freeze: options.freeze.clone() })?;
    if let Some(calibration) = &options.calibration {
        calibration.check(&imported)?;
    }
    clock.lap(Stage::Import);
    let chosen;
    let (options, found) = match &options.budget {
        None => (options, None),
        Some(request) => {
            observer.stage(Stage::Budget);
            let calibration = Calibration::or_synthetic(options.calibration.as_deref(), &imported)?;
            let found = budget::choose(&imported, options, request, &calibration, &*observer.progress())?;
            chosen = options.clone().with_recipe(found.recipe.clone());
            clock.lap(Stage::Budget);
            (&chosen, Some(found))
        }
    };
    observer.stage(Stage::Passes);
    let gpus = options.targets.iter().copied().filter(|t| *t != Target::Cpu);
    let for_cpu = CompileOptions { targets: [Target::Cpu].into_iter().chain(gpus.clone()).collect(), ..options.clone() };
    let mut graph = imported;
    let progress = observer.progress();
    let mut after = |pass: &Pass, graph: &Graph| observer.after_pass(pass, graph);
    // What smooths and prunes is done once for all devices: it may take long, and all are to have the same weights.
    let pruned = PIPELINE.iter().position(|p| p.name == "prune").map_or(0, |at| at + 1);
    let changes_weights = options.calibration.is_some() || options.prune_methods().next().is_some();
    let (common, own) = PIPELINE.split_at(if changes_weights { pruned } else { 0 });
    let mut reports = run_passes_told(&mut graph, common, &for_cpu, &*progress, &mut after)?.reports;
    let for_gpus = graph.clone();
    let mut outcome = run_passes(&mut graph, own, &for_cpu, &mut after)?;
    reports.append(&mut outcome.reports);
    let architectures: Vec<Architecture> = options.architectures().collect();
    let mut choices = std::mem::take(&mut outcome.choices);
    let cuda_graph = if architectures.is_empty() {
        None
    } else {
        let mut graph = for_gpus;
        let for_cuda =
            run_passes(&mut graph, own, &CompileOptions { targets: gpus.collect(), ..options.clone() }, &mut |_, _| Ok(()))?;
        choices.extend(for_cuda.choices);
        let mut chosen: BTreeMap<_, _> = for_cuda.verdicts.into_iter().map(|v| (v.node, (v.chosen, v.reason))).collect();
        for verdict in &mut outcome.verdicts {
            let Some((cuda, reason)) = chosen.remove(&verdict.node) else { continue };
            if cuda != verdict.chosen && reason != verdict.reason {
                verdict.reason = format!("{}; on GPUs: {reason}", verdict.reason);
            }
            verdict.cuda = Some(cuda);
        }
        Some(graph)
    };
    clock.lap(Stage::Passes);
    observer.stage(Stage::Lower);
    let recipe = Recipe::complete(options.asked_of_all(), &choices);
    let provenance = Provenance {
        producer: concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).to_owned(),
        model_digest: model.digest().to_hex().to_string(),
        options: spelled(options),
        recipe: Some(recipe.digest()),
    };
    let mut lowered = lower(&graph, provenance, outcome.verdicts)?;
    let on = architectures.iter().max();
    let costs = |on: Architecture| Costs { on, measured: Measured::new(&options.timings, on) };
    let lower_for = |(graph, on): (Graph, &Architecture)| lower_cuda(&graph, &mut lowered, &costs(*on), options.variants);
    let source = cuda_graph.zip(on).map(lower_for).transpose()?;
    clock.lap(Stage::Lower);
    reports.extend(lowered.manifest.cuda.as_ref().map(not_fused));
    let mut warnings = Vec::new();
    if let Some(source) = source {
        observer.stage(Stage::Kernels);
        let compiler = slidec_kernels::Compiler::new(slidec_kernels::Cache::from_env())?;
        lowered.add_kernels(&compiler, &source, &architectures)?;
        warnings = compiler.warnings();
        clock.lap(Stage::Kernels);
    }
    Ok(Compiled {
        graph,
        manifest: lowered.manifest,
        writer: lowered.writer,
        recipe,
        budget: found,
        reports,
        timings: clock.timings,
        warnings,
        model_bytes: model_bytes(model),
        started: clock.started,
    })
}

/// The fusions that the launches for GPUs miss, as if a pass had declined them.
fn not_fused(cuda: &CudaPlan) -> PassReport {
    let mut report = PassReport { pass: "launches", ..PassReport::default() };
    for variant in &cuda.variants {
        missed(&variant.program, &variant.launches).into_iter().for_each(|m| report.declined(m.step, m.why));
    }
    report
}

struct Clock {
    started: Instant,
    lap: Instant,
    timings: Vec<Timing>,
}

impl Clock {
    fn start() -> Self {
        let now = Instant::now();
        Clock { started: now, lap: now, timings: Vec::new() }
    }

    fn lap(&mut self, stage: Stage) {
        let now = Instant::now();
        self.timings.push(Timing::new(stage.to_string(), now - self.lap));
        self.lap = now;
    }
}

/// The options in command-line form, always in this order.
fn spelled(options: &CompileOptions) -> Vec<String> {
    let list = |items: Vec<String>| items.join(",");
    let mut out = vec![
        format!("--sparsity={}", options.sparsity),
        format!("--prune={}", options.prune),
        format!("--precision={}", options.precision),
        format!("--target={}", list(options.targets.iter().map(ToString::to_string).collect())),
    ];
    if options.smooth != Smoothing::default() {
        out.push(format!("--smooth={}", options.smooth));
    }
    if options.weight_scales != WeightScales::default() {
        out.push(format!("--weight-scales={}", options.weight_scales));
    }
    out.extend(options.max_layer_error.map(|limit| format!("--max-layer-error={limit}")));
    if options.permute != Permute::default() {
        out.push(format!("--permute={}", options.permute));
    }
    if options.variants != Variants::default() {
        out.push(format!("--variants={}", options.variants));
    }
    if !options.shapes.is_empty() {
        let range = |s: &sliderun::plan::manifest::SymbolRange| format!("{}={}..{}", s.name, s.min, s.max);
        out.push(format!("--shape={}", list(options.shapes.iter().map(range).collect())));
    }
    out.extend(options.freeze.keys().map(|name| format!("--freeze={name}")));
    if let Some(calibration) = &options.calibration {
        out.push(format!("--calib={}", calibration.digest().to_hex()));
    }
    out.extend(options.engine.used().map(|device| format!("--calib-device={device}")));
    if options.strict {
        out.push("--strict".to_owned());
    }
    out
}

/// The model file and what its initializers take in other files.
fn model_bytes(model: &OnnxModel) -> u64 {
    let external = model.graph().initializer.iter().filter(|t| t.data_location() == EXTERNAL);
    let lengths = external.filter_map(|t| t.external_data.iter().find(|e| e.key() == "length")?.value().parse::<u64>().ok());
    lengths.fold(model.file_len() as u64, u64::saturating_add)
}
