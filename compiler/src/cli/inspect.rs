//! `slidec inspect`: what a model or a plan is made of.

mod dot;
mod model;
mod plan;

use clap::Args;
use sliderun::dim::Bindings;
use sliderun::plan::{Plan, PlanError};
use std::io::Write;
use std::path::PathBuf;

use super::failure::{Complaint, Failure, Result};
use super::values;
use crate::onnx::OnnxModel;

const EXAMPLES: &str = "\
Examples:
  slidec inspect model.onnx
  slidec inspect model.slide --steps --shape batch=4,seq=128
  slidec inspect model.slide --dot | dot -Tsvg > model.svg";

/// Show what a model or a plan is made of
///
/// Of a model: inputs, outputs, operators, parameters, and the sparsity patterns that its weights satisfy. Of a plan: symbols, inputs,
/// outputs, steps, memory, what was decided for each matrix product, and the launches of its program for GPUs.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Inspect {
    /// The model or plan
    #[arg(value_name = "FILE.onnx|FILE.slide")]
    file: PathBuf,
    /// Prints JSON
    #[arg(long, conflicts_with = "dot")]
    json: bool,
    /// Prints a graph for graphviz
    #[arg(long)]
    dot: bool,
    /// Also checks all constant data: a plan's against its digests, a model's for being there
    #[arg(long)]
    check: bool,
    /// Lists the steps of a plan and the launches of its program for GPUs, the steps and launches that each of the model's nodes went into,
    /// and why launches were not fused
    #[arg(long)]
    steps: bool,
    /// Tells a plan's working memory for these values of its symbols, like batch=2,seq=64
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::symbols)]
    shape: Option<Bindings>,
}

impl Inspect {
    /// Runs the command.
    ///
    /// # Errors
    /// A file that is neither; with `--check`, data that is damaged or missing.
    pub fn run(self, out: &mut dyn Write) -> Result {
        let what = format!("'{}' cannot be inspected", self.file.display());
        match Plan::open(&self.file) {
            Ok(plan) => plan::inspect(&self, &what, plan, out),
            Err(PlanError::NotAPlan) => {
                let model = OnnxModel::open(&self.file).map_err(|e| Failure::because(&what, Complaint::of_diagnostic(&e)))?;
                if self.steps || self.shape.is_some() {
                    let help = "--steps and --shape are for plans: compile the model first";
                    return Err(Failure::usage(format!("'{}' is a model, which has no steps", self.file.display()), help));
                }
                model::inspect(&self, &what, &model, out)
            }
            Err(e) => Err(Failure::because(what, &e)),
        }
    }
}
