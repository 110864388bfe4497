//! `slidec prune`: a model with zeros where a pattern wants them.

use clap::Args;
use sliderun::sparse::Pattern;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use super::failure::{Complaint, Failure, Result};
use super::output::{Column, Spinner, json, table};
use super::values;
use crate::calibration::CalibrationDevice;
use crate::onnx::OnnxModel;
use crate::options::{PruneMethod, UnknownOption};
use crate::prune::{PruneError, PruneOptions, PrunedWeight, prune_model};
use crate::pruning::Layer;

const EXAMPLES: &str = "\
Examples:
  slidec prune model.onnx -o pruned.onnx --pattern 6:8
  slidec prune model.onnx -o pruned.onnx --pattern 4:6 --method sparsegpt --calib inputs.npz
  slidec prune model.onnx -o pruned.onnx --pattern 2:4 --json";

/// Prune the weights of a model's matrix products to a sparsity pattern
///
/// Writes a model that differs only in these weights: in each block of 2N along K, two are zero, and with sparsegpt the others make up for
/// them. Layers are pruned one after the other, each by what its inputs are once those before it are pruned.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Prune {
    /// The ONNX model
    #[arg(value_name = "MODEL.onnx")]
    model: PathBuf,
    /// The model to write; it appears only when it is complete
    #[arg(short, long, value_name = "PRUNED.onnx")]
    output: PathBuf,
    /// Pattern: 2:4, 4:6, 6:8, 8:10, 10:12, 12:14 or 14:16
    #[arg(long, value_name = "PATTERN")]
    pattern: Pattern,
    /// Which weights go: magnitude (the smallest), wanda (those smallest when multiplied by their inputs' size) or sparsegpt (those that the
    /// others can best make up for)
    #[arg(long, value_name = "METHOD", default_value = "magnitude", value_parser = method)]
    method: PruneMethod,
    /// Inputs such as the model sees in use, for wanda and sparsegpt: a .npz file that has one batch of all inputs by name, or a folder of
    /// them; random ones without
    #[arg(long, value_name = "FILE.npz|DIR")]
    calib: Option<PathBuf>,
    /// What runs the model on them: auto (the first GPU, where driver, cuBLASLt and NVRTC are there, else the CPU), cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t)]
    calib_device: CalibrationDevice,
    /// First puts K into an order in which the pattern keeps more, where all weights that this takes are in the file: the model computes the
    /// same, its sums in another order
    #[arg(long)]
    permute: bool,
    /// A folder that finished weights are kept in: the same command again goes on where it was interrupted
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
    /// Prints JSON instead of the table
    #[arg(long)]
    json: bool,
}

fn method(text: &str) -> std::result::Result<PruneMethod, String> {
    match text.parse() {
        Ok(PruneMethod::None) => Err("magnitude, wanda or sparsegpt was expected".to_owned()),
        result => result.map_err(|e: UnknownOption| e.to_string()),
    }
}

impl Prune {
    /// Runs the command.
    ///
    /// # Errors
    /// A model that cannot be read or imported, has no weight to prune, or cannot be written.
    pub fn run(self, out: &mut dyn Write) -> Result {
        let what = format!("'{}' was not pruned", self.model.display());
        let fail = |e: PruneError| Failure::because(&what, Complaint::of_diagnostic(&e));
        let mut model = OnnxModel::open(&self.model).map_err(|e| fail(e.into()))?;
        let calibration = values::calibration(self.calib.as_deref())?;
        values::warn_without_calibration([self.method], calibration.as_deref());
        let spinner = Arc::new(Spinner::start());
        let options = PruneOptions {
            pattern: self.pattern,
            method: self.method,
            calibration,
            engine: values::engine(self.calib_device, &spinner),
            permute: self.permute,
            resume: self.resume,
        };
        spinner.say("import");
        let weights = prune_model(&mut model, &options, &*spinner).map_err(fail)?;
        spinner.stop();
        if weights.iter().all(|w| w.declined.is_some()) {
            let reason = |w: &PrunedWeight| format!("\n  {}: {}", w.node, w.declined.as_deref().unwrap_or_default());
            let reasons: String = weights.iter().map(reason).collect();
            let complaint = Complaint::new(match reasons.as_str() {
                "" => "the model has no matrix product with a constant weight".to_owned(),
                reasons => format!("none of the model's weights can be pruned:{reasons}"),
            });
            return Err(Failure::because(what, complaint));
        }
        model.save(&self.output).map_err(|e| fail(e.into()))?;
        if self.json {
            return json(out, &weights);
        }
        let columns = [
            Column::Text("MATMUL"),
            Column::Text("WEIGHT"),
            Column::Text("METHOD"),
            Column::Number("PRUNED"),
            Column::Number("ENERGY KEPT"),
            Column::Number("OUTPUT ERROR"),
            Column::Text("NOTE"),
        ];
        let percent = |x: f64| format!("{:.2} %", x * 100.0);
        let rows = weights.iter().map(|w| {
            let told = |what: &dyn Fn(&Layer) -> String| w.layer.as_ref().map_or("-".to_owned(), what);
            let note = w.declined.as_ref().or(w.layer.as_ref().and_then(|l| l.note.as_ref()));
            vec![
                w.node.clone(),
                w.weight.clone(),
                told(&|l| l.method.to_string()),
                told(&|l| percent(l.pruned.share())),
                told(&|l| percent(l.pruned.kept_energy)),
                told(&|l| l.output_error.map_or("-".to_owned(), |e| format!("{e:.4}"))),
                note.cloned().unwrap_or_default(),
            ]
        });
        table(out, &columns, rows)?;
        let orders: Vec<String> = weights.iter().filter_map(|w| Some(format!("  {}: {}", w.node, w.order.as_ref()?))).collect();
        if !orders.is_empty() {
            writeln!(out, "\norders of K:\n{}", orders.join("\n"))?;
        }
        let pruned = weights.iter().filter(|w| w.declined.is_none()).count();
        writeln!(out, "\n{}: {pruned} of {} weights are {}", self.output.display(), weights.len(), self.pattern)?;
        Ok(())
    }
}
