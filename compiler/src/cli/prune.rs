//! `slidec prune`: a model with zeros where a pattern wants them.

use clap::{Args, ValueEnum};
use sliderun::sparse::Pattern;
use std::io::Write;
use std::path::PathBuf;

use super::failure::{Complaint, Failure, Result};
use super::output::{Column, json, table};
use crate::onnx::OnnxModel;
use crate::prune::{PruneError, PrunedWeight, prune_model};

const EXAMPLES: &str = "\
Examples:
  slidec prune model.onnx -o pruned.onnx --pattern 6:8
  slidec prune model.onnx -o pruned.onnx --pattern 2:4 --json";

/// Prune the weights of a model's matrix products to a sparsity pattern
///
/// Writes a model that differs only by zeros: in each block of 2N weights along K, the two smallest.
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
    /// Which weights go
    #[arg(long, value_enum, value_name = "METHOD", default_value_t = Method::Magnitude)]
    method: Method,
    /// Prints JSON instead of the table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Method {
    /// Those of smallest magnitude
    Magnitude,
}

impl Prune {
    /// Runs the command.
    ///
    /// # Errors
    /// A model that cannot be read or imported, has no weight to prune, or cannot be written.
    pub fn run(self, out: &mut dyn Write) -> Result {
        let Method::Magnitude = self.method;
        let what = format!("'{}' was not pruned", self.model.display());
        let fail = |e: PruneError| Failure::because(&what, Complaint::of_diagnostic(&e));
        let mut model = OnnxModel::open(&self.model).map_err(|e| fail(e.into()))?;
        let weights = prune_model(&mut model, self.pattern).map_err(fail)?;
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
            Column::Number("PRUNED"),
            Column::Number("ENERGY KEPT"),
            Column::Text("NOTE"),
        ];
        let percent = |x: f64| format!("{:.2} %", x * 100.0);
        let rows = weights.iter().map(|w| {
            let removed = w.removed as f64 / w.elements.max(1) as f64;
            let note = w.declined.clone().unwrap_or_default();
            vec![w.node.clone(), w.weight.clone(), percent(removed), percent(w.kept_energy), note]
        });
        table(out, &columns, rows)?;
        let pruned = weights.iter().filter(|w| w.declined.is_none()).count();
        writeln!(out, "\n{}: {pruned} of {} weights are {}", self.output.display(), weights.len(), self.pattern)?;
        Ok(())
    }
}
