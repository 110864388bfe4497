//! `slidec compile`: a model becomes a plan.

use clap::Args;
use sliderun::atomic_file::write_atomically;
use sliderun::plan::manifest::{SymbolRange, Verdict};
use sliderun::timings::Timings;
use sliderun::tool::inspect::{preference, summary};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::failure::{Complaint, Failure, Result};
use super::output::{self, Column, Spinner, bytes, common_prefix, json, log_passes, table};
use super::values::{self, NamedFile};
use crate::budget::pareto::svg;
use crate::budget::{Budget, Found, Point, Request};
use crate::calibration::CalibrationDevice;
use crate::compile::{Compiled, Observer, Stage, compile};
use crate::cost::Measured;
use crate::ir::{Graph, sidecar};
use crate::options::{
    CompileOptions, Permute, Precision, PruneMethod, Smoothing, SparsityRequest, Target, Variants, WeightScales,
};
use crate::passes::Pass;
use crate::pruning::Progress;
use crate::recipe::Recipe;
use crate::report::{FileSize, PassEntry, Report, VariantEntry, html, patterns, peak_memory};

const EXAMPLES: &str = "\
Examples:
  slidec compile model.onnx -o model.slide
  slidec compile model.onnx -o model.slide --sparsity 6:8 --prune magnitude --precision int8
  slidec compile model.onnx -o model.slide --sparsity 6:8 --prune magnitude --write-recipe recipe.toml
  slidec compile model.onnx -o model.slide --recipe recipe.toml
  slidec compile model.onnx -o model.slide --sparsity 4:6 --prune sparsegpt --calib inputs.npz
  slidec compile model.onnx -o model.slide --budget cos=0.985 --calib samples/ --write-recipe recipe.toml --pareto plans.svg
  slidec compile model.onnx -o model.slide --shape batch=1..32,seq=1..512 --report report.html";

/// Compile a model into a plan
///
/// Prints one line per matrix product with a constant weight: its name and size, the sparsity patterns that its weight satisfies,
/// what was chosen and why. With the default options no number changes: products run sparse only where their weights already are.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Compile {
    /// The ONNX model
    #[arg(value_name = "MODEL.onnx")]
    model: PathBuf,
    /// The plan to write; it appears only when it is complete
    #[arg(short, long, value_name = "MODEL.slide")]
    output: PathBuf,
    /// Sparsity pattern of the products: auto, dense, 2:4, 4:6, 6:8, 8:10, 10:12, 12:14 or 14:16
    #[arg(long, value_name = "PATTERN", default_value = "auto")]
    sparsity: SparsityRequest,
    /// How to make weights satisfy the pattern: none, magnitude, wanda or sparsegpt
    #[arg(long, value_name = "METHOD", default_value = "none")]
    prune: PruneMethod,
    /// Inputs such as the model sees in use, by which --prune weighs weights and 8-bit products are quantized: a .npz file that has one batch of all inputs by name, or a folder
    /// of them; random ones without
    #[arg(long, value_name = "FILE.npz|DIR")]
    calib: Option<PathBuf>,
    /// What runs the model on them: auto (the first GPU, where driver, cuBLASLt and NVRTC are there, else the CPU), cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t)]
    calib_device: CalibrationDevice,
    /// Orders of K in which pruning keeps more: none; free for those that cost nothing, as part of the weights that an activation comes from;
    /// all for others as well, by an index in the quantization of the activation
    #[arg(long, value_name = "NONE|FREE|ALL", default_value_t)]
    permute: Permute,
    /// Arithmetic of products with constant weights: auto, f32, bf16, fp16, int8 or fp8
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    precision: Precision,
    /// What single products are to be in place of that, by the names of their nodes: pattern, precision and pruning method
    #[arg(long, value_name = "FILE.toml")]
    recipe: Option<PathBuf>,
    /// Writes what every product was asked to be, to be edited and given back with --recipe
    #[arg(long, value_name = "FILE.toml")]
    write_recipe: Option<PathBuf>,
    /// Whether activations of 8-bit products share with the weights what stands out in them: auto (where they lose less so on the
    /// calibration data) or none
    #[arg(long, value_name = "HOW", default_value = "auto")]
    smooth: Smoothing,
    /// How the scales of 8-bit weights are found: auto (least-error with calibration data), absmax or least-error
    #[arg(long, value_name = "HOW", default_value = "auto")]
    weight_scales: WeightScales,
    /// Keeps 8-bit products in a higher precision that lose more than this on the calibration data, relatively, like 0.05
    #[arg(long, value_name = "ERROR", requires = "calib", value_parser = max_layer_error)]
    max_layer_error: Option<f64>,
    /// How much may be lost on the calibration data, as the mean cosine of an output's rows (cos=0.985), as relative error (rel-err=0.05), or as
    /// the share of rows whose largest element stays it (keep-top1=0.99): for each product the pattern and precision are chosen that make the
    /// cheapest plan within it, by measuring
    #[arg(long, value_name = "METRIC=X", conflicts_with = "recipe")]
    budget: Option<Budget>,
    /// The output that the budget is for, all of floats by default; may be given several times
    #[arg(long, value_name = "NAME", requires = "budget")]
    budget_output: Vec<String>,
    /// Draws the plans that were measured for the budget
    #[arg(long, value_name = "FILE.svg", requires = "budget")]
    pareto: Option<PathBuf>,
    /// Devices that the plan is for: cpu, and GPUs like sm_80, sm_89, sm_90a
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_delimiter = ',')]
    target: Vec<Target>,
    /// Values that the symbols of the model's shapes may have, like batch=1..32,seq=1..512
    #[arg(long, value_name = "SYMBOL=MIN..MAX", value_delimiter = ',', value_parser = values::symbol_range)]
    shape: Vec<SymbolRange>,
    /// Makes an input a constant; may be given several times
    #[arg(long, value_name = "NAME=FILE.npy")]
    freeze: Vec<NamedFile>,
    /// Writes the graph as it is after a pass (`slidec passes` lists them), beside the plan unless FILE is given
    #[arg(long, value_name = "PASS[=FILE]", value_parser = EmitAfter::parse)]
    emit_after: Vec<EmitAfter>,
    /// Writes what was decided and done, by its ending as a page or as data; may be given several times
    #[arg(long, value_name = "FILE.html|FILE.json", value_parser = report_path)]
    report: Vec<PathBuf>,
    /// For GPUs: auto keeps a dense twin beside a plan's sparse program, and one that is sparse where that is estimated to pay, of which the
    /// runtime takes what is fastest for each shape; one is sparse as asked for
    #[arg(long, value_name = "AUTO|ONE", default_value_t)]
    variants: Variants,
    /// Timings that `slidec tune` has written, by which, and not by estimates, is decided where sparsity pays
    #[arg(long, value_name = "FILE")]
    timings: Option<PathBuf>,
    /// Fails when a product cannot take the pattern asked for
    #[arg(long)]
    strict: bool,
    /// Says on stderr what each pass did and declined
    #[arg(short, long)]
    verbose: bool,
    /// Prints the report as JSON instead of the table
    #[arg(long)]
    json: bool,
}

#[derive(Clone)]
struct EmitAfter {
    pass: &'static Pass,
    file: Option<PathBuf>,
}

impl EmitAfter {
    fn parse(text: &str) -> std::result::Result<Self, String> {
        let (name, file) = text.split_once('=').map_or((text, None), |(name, file)| (name, Some(file.into())));
        let pass = Pass::by_name(name).ok_or_else(|| format!("there is no pass '{name}'; `slidec passes` lists them"))?;
        Ok(EmitAfter { pass, file })
    }

    fn path(&self, plan: &Path) -> PathBuf {
        self.file.clone().unwrap_or_else(|| plan.with_extension(format!("{}.ir", self.pass.name)))
    }
}

fn max_layer_error(text: &str) -> std::result::Result<f64, String> {
    let limit = text.parse().ok().filter(|limit: &f64| limit.is_finite() && *limit >= 0.0);
    limit.ok_or_else(|| "a number like 0.05 was expected".to_owned())
}

fn report_path(text: &str) -> std::result::Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension().and_then(|e| e.to_str()) {
        Some("html" | "json") => Ok(path),
        _ => Err("a report is a .html or a .json file".to_owned()),
    }
}

impl Compile {
    /// Runs the command.
    ///
    /// # Errors
    /// Everything that keeps the model from being compiled or the results from being written.
    pub fn run(self, out: &mut dyn Write) -> Result {
        let what = || format!("'{}' was not compiled", self.model.display());
        if self.permute != Permute::None && self.prune == PruneMethod::None && self.recipe.is_none() {
            return Err(Failure::usage("--permute needs --prune", "an order of K is looked for where weights are pruned"));
        }
        let spinner = Arc::new(Spinner::start());
        let options = CompileOptions {
            sparsity: self.sparsity,
            precision: self.precision,
            prune: self.prune,
            permute: self.permute,
            calibration: values::calibration(self.calib.as_deref())?,
            engine: values::engine(self.calib_device, &spinner),
            recipe: None,
            smooth: self.smooth,
            weight_scales: self.weight_scales,
            max_layer_error: self.max_layer_error,
            budget: self.budget_request()?,
            strict: self.strict,
            variants: self.variants,
            timings: self.timings()?,
            targets: self.target.clone(),
            shapes: self.shape.clone(),
            freeze: values::load_all(&self.freeze)?,
        };
        let options = match &self.recipe {
            Some(path) => options.with_recipe(Recipe::read(path).map_err(|e| {
                let help = "`slidec compile --write-recipe` writes a recipe that names every product";
                Failure::from(Complaint::of(&e).while_doing(what()).or_help(help))
            })?),
            None => options,
        };
        values::warn_without_calibration(options.prune_methods(), options.calibration.as_deref());
        let mut watch = Watch { spinner: spinner.clone(), emit: &self.emit_after, plan: &self.output };
        let compiled =
            compile(&self.model, &options, &mut watch).map_err(|e| Failure::because(what(), Complaint::of_diagnostic(&e)))?;
        spinner.say("write");
        let plan_bytes = compiled
            .write(&self.output)
            .map_err(|e| Failure::because(format!("'{}' was not written", self.output.display()), &e))?;
        if let Some(path) = &self.write_recipe {
            write_recipe(path, &compiled)?;
        }
        if let (Some(path), Some(found)) = (&self.pareto, &compiled.budget) {
            write_atomically(path, |file| file.write_all(svg(found).as_bytes()))
                .map_err(|e| Failure::because(format!("the plot '{}' was not written", path.display()), &e))?;
        }
        let report = self.report_of(&compiled, plan_bytes);
        for path in &self.report {
            write_report(path, &report)?;
        }
        spinner.stop();
        for warning in &compiled.warnings {
            // The plan is good, also where nobody hears of the cache.
            let _ = writeln!(io::stderr(), "warning: {warning}");
        }
        if self.verbose {
            // Logging goes on without a reader.
            let _ = log_passes(&mut io::stderr().lock(), &compiled.reports);
        }
        if self.json { json(out, &report) } else { print(out, &report, &compiled) }
    }

    fn budget_request(&self) -> std::result::Result<Option<Request>, Failure> {
        let Some(budget) = self.budget else { return Ok(None) };
        if self.sparsity != SparsityRequest::Auto {
            let help = "leave --sparsity at auto, or leave --budget away";
            return Err(Failure::usage(format!("--budget chooses patterns, and --sparsity {} is one", self.sparsity), help));
        }
        if self.calib.is_none() {
            // Warnings go on without a reader.
            let _ = writeln!(io::stderr(), "warning: without --calib, what plans lose is measured on synthetic inputs");
        }
        Ok(Some(Request { budget, outputs: self.budget_output.clone() }))
    }

    fn timings(&self) -> std::result::Result<Timings, Failure> {
        let Some(path) = &self.timings else { return Ok(Timings::default()) };
        let what = || format!("'{}' was not compiled", self.model.display());
        let timings = Timings::read(path).map_err(|e| Failure::because(what(), &e))?;
        let architectures = self.target.iter().filter_map(|t| if let Target::Cuda(on) = t { Some(*on) } else { None });
        for on in architectures.filter(|on| Measured::new(&timings, *on).is_empty()) {
            // Warnings go on without a reader.
            let _ = writeln!(io::stderr(), "warning: '{}' has no timings of GPUs like {on}", path.display());
        }
        Ok(timings)
    }

    fn report_of(&self, compiled: &Compiled, plan_bytes: u64) -> Report {
        Report {
            model: FileSize { path: self.model.display().to_string(), bytes: compiled.model_bytes },
            plan: FileSize { path: self.output.display().to_string(), bytes: plan_bytes },
            provenance: compiled.manifest.provenance.clone(),
            symbols: compiled.manifest.symbols.clone(),
            stages: compiled.timings.clone(),
            seconds: compiled.elapsed().as_secs_f64(),
            peak_memory: peak_memory(),
            verdicts: compiled.verdicts().to_vec(),
            budget: compiled.budget.clone(),
            variants: compiled.manifest.cuda.iter().flat_map(|cuda| &cuda.variants).map(VariantEntry::from).collect(),
            passes: compiled.reports.iter().map(PassEntry::from).collect(),
        }
    }
}

struct Watch<'a> {
    spinner: Arc<Spinner>,
    emit: &'a [EmitAfter],
    plan: &'a Path,
}

impl Observer for Watch<'_> {
    fn stage(&mut self, stage: Stage) {
        self.spinner.say(stage);
    }

    fn progress(&self) -> Arc<dyn Progress + Send> {
        self.spinner.clone()
    }

    fn after_pass(&mut self, pass: &Pass, graph: &Graph) -> io::Result<()> {
        self.spinner.say(format_args!("after pass {}", pass.name));
        for emit in self.emit.iter().filter(|e| e.pass.name == pass.name) {
            let path = emit.path(self.plan);
            sidecar::write(graph, &path)
                .map_err(|e| io::Error::new(e.kind(), format!("cannot write '{}': {e}", path.display())))?;
        }
        Ok(())
    }
}

fn write_report(path: &Path, report: &Report) -> Result {
    let text =
        if path.extension().is_some_and(|e| e == "html") { html(report) } else { serde_json::to_string_pretty(report)? + "\n" };
    write_atomically(path, |file| file.write_all(text.as_bytes()))
        .map_err(|e| Failure::because(format!("the report '{}' was not written", path.display()), &e))
}

/// Writes what every product was asked to be, with what came of it in comments.
fn write_recipe(path: &Path, compiled: &Compiled) -> Result {
    let came = |v: &Verdict| format!("{}×{}×{}: {} ({})", v.m, v.n, v.k, v.choices(), v.reason);
    let text = compiled.recipe.to_toml(|node| compiled.verdicts().iter().find(|v| v.node == node).map(came));
    write_atomically(path, |file| file.write_all(text.as_bytes()))
        .map_err(|e| Failure::because(format!("the recipe '{}' was not written", path.display()), &e))
}

fn print(out: &mut dyn Write, report: &Report, compiled: &Compiled) -> Result {
    if !report.verdicts.is_empty() {
        verdict_table(out, &report.verdicts)?;
        writeln!(out)?;
    }
    if let Some(found) = &report.budget {
        budget_table(out, found)?;
        writeln!(out)?;
    }
    let sparse = report.verdicts.iter().filter(|v| v.sparse).count();
    write!(
        out,
        "{}: {} (model {}), {} steps, {sparse} of {} matrix products sparse; compiled in {}",
        report.plan.path,
        bytes(report.plan.bytes),
        bytes(report.model.bytes),
        compiled.manifest.program.steps.len(),
        report.verdicts.len(),
        output::duration(std::time::Duration::from_secs_f64(report.seconds)),
    )?;
    match report.peak_memory {
        Some(peak) => writeln!(out, ", peak memory {}", bytes(peak))?,
        None => writeln!(out)?,
    }
    if let Some(cuda) = &compiled.manifest.cuda {
        for variant in &cuda.variants {
            writeln!(out, "on GPUs, variant {}, {}: {}", variant.name, preference(cuda, variant), summary(variant))?;
        }
    }
    Ok(())
}

/// One line per plan that was measured, the chosen one marked, and what it saves beside one form for all.
fn budget_table(out: &mut dyn Write, found: &Found) -> Result {
    let numbers = ["MACS", "COST", "COSINE", "WORST ROW", "REL ERR", "TOP-1"].map(Column::Number);
    let columns: Vec<Column> = [Column::Text("PLAN")].into_iter().chain(numbers).chain([Column::Text("WITHIN")]).collect();
    let row = |(at, p): (usize, &Point)| {
        let f = &p.fidelity;
        let figures = [f.cosine, f.worst_cosine, f.relative_error, f.kept_top1].map(|x| format!("{x:.5}"));
        let within = match (at == found.chosen, p.deployed, p.within) {
            (true, ..) => "chosen",
            (false, true, true) => "yes",
            (false, true, false) => "no",
            (false, false, true) => "as a draft",
            (false, false, false) => "not as a draft",
        };
        let head = [p.what.clone(), format!("{:.1} %", 100.0 * p.macs), format!("{:.4e}", p.cost)];
        head.into_iter().chain(figures).chain([within.to_owned()]).collect()
    };
    table(out, &columns, found.points.iter().enumerate().map(row))?;
    let chosen = found.point();
    write!(out, "{}: {:.1} % of the dense multiply-accumulates", found.budget, 100.0 * chosen.macs)?;
    if let Some(uniform) = found.best_uniform().filter(|u| u.macs > 0.0) {
        write!(out, ", {:.1} % fewer than {}", 100.0 * (1.0 - chosen.macs / uniform.macs), uniform.what)?;
    }
    writeln!(out, "; weights pruned by {}, cost in {}", found.prune, found.unit)?;
    if found.measured_on < found.samples {
        let others = found.samples - found.measured_on;
        writeln!(
            out,
            "measured on {} of {} samples, with weights that went by the {others} others",
            found.measured_on, found.samples
        )?;
    } else {
        writeln!(out, "measured on the samples that weights went by: give 8 or more, and others are measured on")?;
    }
    Ok(())
}

/// One line per matrix product with a constant weight; what all their names begin with is told once.
///
/// # Errors
/// Those of `out`.
pub fn verdict_table(out: &mut dyn Write, verdicts: &[Verdict]) -> Result {
    let columns =
        [Column::Text("MATMUL"), Column::Number("M×N×K"), Column::Text("PATTERNS"), Column::Text("CHOSEN"), Column::Text("WHY")];
    let prefix = common_prefix(verdicts.iter().map(|v| v.node.as_str()));
    if !prefix.is_empty() {
        writeln!(out, "names begin with {prefix}")?;
    }
    let name = |v: &Verdict| v.node[prefix.len()..].to_owned();
    let row = |v: &Verdict| vec![name(v), format!("{}×{}×{}", v.m, v.n, v.k), patterns(v), v.choices(), v.reason.clone()];
    table(out, &columns, verdicts.iter().map(row))
}
