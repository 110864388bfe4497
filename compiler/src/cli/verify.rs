//! `slidec verify`: a plan against the model it was compiled from.

use clap::Args;
use serde::Serialize;
use sliderun::plan::Plan;
use sliderun::session::Session;
use sliderun::tensor::TensorView;
use sliderun::tool::names::shortened;
use sliderun::tool::run::{inputs, read_input};
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::failure::{Complaint, Failure, Result};
use super::inputs::{Inputs, Where, finish};
use super::output::{Column, Spinner, json, table};
use crate::onnx::OnnxModel;
use crate::verify::reference::evaluate;
use crate::verify::{Comparison, Fidelity, NamedTensors, Verification, observed, read_npz, verify};

const EXAMPLES: &str = "\
Examples:
  slidec verify model.onnx model.slide
  slidec verify model.onnx model.slide --shape batch=4,seq=128 --max-rel-err 1e-4
  slidec verify model.onnx model.slide --pruned pruned.onnx --input input_ids=ids.npy";

/// Compare a plan with its model, run by an independent f32 engine
///
/// Prints for each output and each layer the largest absolute error, the relative error ‖a−b‖₂/‖b‖₂ and the cosine. Inputs that are
/// not given are random. With --pruned, what pruning costs (pruned model against model) is told from what quantization costs (plan
/// against pruned model).
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Verify {
    /// The model that the plan was compiled from
    #[arg(value_name = "MODEL.onnx")]
    model: PathBuf,
    /// The plan
    #[arg(value_name = "MODEL.slide")]
    plan: PathBuf,
    #[command(flatten)]
    inputs: Inputs,
    /// The model pruned as the plan is (`slidec prune` writes it)
    #[arg(long, value_name = "PRUNED.onnx", conflicts_with = "reference")]
    pruned: Option<PathBuf>,
    /// The model's outputs on the given inputs, by name, for models that the reference engine cannot run
    #[arg(long, value_name = "FILE.npz", requires = "input")]
    reference: Option<PathBuf>,
    /// Fails when the relative error of an output is above this
    #[arg(long, value_name = "X")]
    max_rel_err: Option<f64>,
    #[command(flatten)]
    device: Where,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Results<'a> {
    #[serde(flatten)]
    verification: &'a Verification,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_rel_err: Option<f64>,
    passed: bool,
}

impl Verify {
    /// Runs the command.
    ///
    /// # Errors
    /// What is wrong with the files and inputs; [`Failure::Negative`] when an output is over the limit.
    pub fn run(self, threads: Option<usize>, out: &mut dyn Write) -> Result {
        let what = format!("'{}' was not verified", self.plan.display());
        let target = self.device.target(self.plan.clone(), threads);
        let (device, options) = (target.device, target.options.clone());
        let run = self.inputs.options(target, true);
        let plan = Plan::open(&self.plan).map_err(|e| Failure::because(&what, &e))?;
        self.warn_of_another_model(&plan)?;
        let session = finish(&what, Session::new(plan.into(), device, options).map_err(Into::into))?;
        let known = |name: &str| session.inputs().iter().any(|p| p.name == name);
        let (for_plan, for_model_only): (Vec<_>, Vec<_>) = run.inputs.iter().cloned().partition(|(name, _)| known(name));
        let run = sliderun::tool::run::RunOptions { inputs: for_plan, ..run };
        let tensors = finish(&what, inputs(session.inputs(), session.symbols(), &run))?;

        let spinner = Spinner::start();
        // Inputs that were frozen when the plan was compiled are still inputs of the model.
        let mut given: NamedTensors = tensors.iter().cloned().collect();
        for (name, file) in &for_model_only {
            given.insert(name.clone(), finish(&what, read_input(file, None))?);
        }
        let names = observed(session.plan().manifest());
        spinner.say("reference");
        let model = match &self.reference {
            Some(file) => read_npz(file).map_err(|e| Failure::because(&what, &e))?,
            None => reference(&self.model, &given, &names, &what)?,
        };
        let pruned = self.pruned.as_ref().map(|p| reference(p, &given, &names, &what)).transpose()?;
        spinner.say("plan");
        let views: Vec<(&str, TensorView<'_>)> = tensors.iter().map(|(name, t)| (name.as_str(), t.view())).collect();
        let verification = verify(&session, &views, &model, pruned.as_ref()).map_err(|e| Failure::because(&what, &e))?;
        drop(spinner);
        self.print(&verification, out)
    }

    fn warn_of_another_model(&self, plan: &Plan) -> Result {
        let model = OnnxModel::open(&self.model)
            .map_err(|e| Failure::because(format!("'{}' cannot be read", self.model.display()), Complaint::of_diagnostic(&e)))?;
        if model.digest().to_hex().as_str() != plan.manifest().provenance.model_digest {
            // A warning without a reader is no failure.
            let _ = writeln!(
                io::stderr(),
                "warning: '{}' was not compiled from '{}' as it is now: the model's digest differs",
                self.plan.display(),
                self.model.display()
            );
        }
        Ok(())
    }

    fn print(&self, verification: &Verification, out: &mut dyn Write) -> Result {
        let passed = self.max_rel_err.is_none_or(|limit| verification.within(limit));
        if self.json {
            json(out, &Results { verification, max_rel_err: self.max_rel_err, passed })?;
        } else {
            for (title, rows) in [("LAYER", &verification.layers), ("OUTPUT", &verification.outputs)] {
                if !rows.is_empty() {
                    fidelity_table(out, title, rows)?;
                    writeln!(out)?;
                }
            }
            for name in &verification.not_compared {
                writeln!(out, "output '{name}' was not compared: the reference does not give it")?;
            }
            let worst = verification.worst();
            match self.max_rel_err {
                None => writeln!(out, "largest relative error of an output: {worst:.3e}")?,
                Some(limit) => writeln!(
                    out,
                    "{}: largest relative error of an output: {worst:.3e}, limit {limit:.3e}",
                    if passed { "passed" } else { "FAILED" }
                )?,
            }
        }
        if passed { Ok(()) } else { Err(Failure::Negative) }
    }
}

fn reference(model: &Path, inputs: &NamedTensors, names: &BTreeSet<String>, what: &str) -> Result<NamedTensors> {
    evaluate(model, inputs, names).map_err(|e| {
        let complaint = Complaint::of(&e)
            .while_doing(format!("the reference engine cannot run '{}'", model.display()))
            .while_doing(what)
            .or_help("compute the outputs elsewhere, on the inputs given by --input, and pass them with --reference FILE.npz");
        Failure::Failed(complaint)
    })
}

fn fidelity_table(out: &mut dyn Write, title: &'static str, rows: &[Fidelity]) -> Result {
    let parted = rows.iter().any(|f| f.pruning.is_some());
    let mut columns = vec![Column::Text(title), Column::Number("MAX ABS"), Column::Number("REL ERR"), Column::Number("COSINE")];
    if parted {
        columns.extend(["PRUNING REL", "COSINE", "QUANT REL", "COSINE"].map(Column::Number));
    }
    let two = |c: &Option<Comparison>| match c {
        Some(c) => [format!("{:.3e}", c.rel), format!("{:.6}", c.cosine)],
        None => ["-".to_owned(), "-".to_owned()],
    };
    let row = |(f, name): (&Fidelity, String)| {
        let mut cells =
            vec![name, format!("{:.3e}", f.plan.max_abs), format!("{:.3e}", f.plan.rel), format!("{:.6}", f.plan.cosine)];
        if parted {
            cells.extend(two(&f.pruning).into_iter().chain(two(&f.quantization)));
        }
        cells
    };
    table(out, &columns, rows.iter().zip(shortened(rows.iter().map(|f| f.name.as_str()))).map(row))
}
