//! `slidec opt`: passes on a graph in its text form.

use clap::Args;
use std::io::{self, Write};
use std::path::PathBuf;

use super::failure::{Complaint, Failure, Result};
use super::output::log_passes;
use crate::ir::sidecar;
use crate::options::{CompileOptions, Permute, Precision, PruneMethod, SparsityRequest};
use crate::passes::{by_names, ignore, run_passes};

const EXAMPLES: &str = "\
Examples:
  slidec compile model.onnx -o model.slide --emit-after normalise=graph.ir
  slidec opt graph.ir --pass fold-constants,deduplicate
  slidec opt graph.ir --pass fuse-gelu -o fused.ir";

/// Run passes on a graph in its text form, as `slidec compile --emit-after` writes it
///
/// The graph is checked before the first pass; what passes did and declined goes to stderr. Large constants are read from the folder FILE.ir.d beside the file.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Opt {
    /// The graph
    #[arg(value_name = "FILE.ir")]
    graph: PathBuf,
    /// Passes to run, in this order (`slidec passes` lists them)
    #[arg(long, value_name = "PASS", value_delimiter = ',', required = true)]
    pass: Vec<String>,
    /// Writes the result here, with a folder for its large constants, rather than printing it
    #[arg(short, long, value_name = "FILE.ir")]
    output: Option<PathBuf>,
    /// Sparsity pattern of the products: auto, dense, 2:4, 4:6, 6:8, 8:10, 10:12, 12:14 or 14:16
    #[arg(long, value_name = "PATTERN", default_value = "auto")]
    sparsity: SparsityRequest,
    /// How to make weights satisfy the pattern: none, magnitude, wanda or sparsegpt
    #[arg(long, value_name = "METHOD", default_value = "none")]
    prune: PruneMethod,
    /// Orders of K in which pruning keeps more: none, free or all
    #[arg(long, value_name = "NONE|FREE|ALL", default_value_t)]
    permute: Permute,
    /// Arithmetic of products with constant weights: auto, f32, bf16, fp16, int8 or fp8
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    precision: Precision,
}

impl Opt {
    /// Runs the command. What passes did and declined goes to stderr.
    ///
    /// # Errors
    /// A graph that cannot be read or is not valid, a pass that does not exist or fails, and those of writing.
    pub fn run(self, out: &mut dyn Write) -> Result {
        let passes = by_names(self.pass.iter().map(String::as_str))
            .map_err(|e| Failure::usage(e.to_string(), "`slidec passes` lists them"))?;
        let mut graph = sidecar::read(&self.graph)
            .map_err(|e| Failure::because(format!("'{}' was not read", self.graph.display()), Complaint::of_diagnostic(&e)))?;
        let options = CompileOptions {
            sparsity: self.sparsity,
            prune: self.prune,
            permute: self.permute,
            precision: self.precision,
            ..CompileOptions::default()
        };
        let outcome = run_passes(&mut graph, passes, &options, &mut ignore)
            .map_err(|e| Failure::because("the passes did not all run", Complaint::of_diagnostic(&e)))?;
        // Logging goes on without a reader.
        let _ = log_passes(&mut io::stderr().lock(), &outcome.reports);
        match &self.output {
            Some(path) => sidecar::write(&graph, path)
                .map_err(|e| Failure::because(format!("'{}' was not written", path.display()), Complaint::of(&e))),
            None => Ok(write!(out, "{graph}")?),
        }
    }
}
