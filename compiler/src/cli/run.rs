//! `slidec run`: a plan on given or random inputs.

use clap::Args;
use sliderun::tool::run::{RunOptions, run};
use std::io::Write;
use std::path::PathBuf;

use super::failure::Result;
use super::inputs::{Inputs, Where, finish};

const EXAMPLES: &str = "\
Examples:
  slidec run model.slide --input input_ids=ids.npy --input attention_mask=mask.npy --output results
  slidec run model.slide --random --shape batch=2,seq=64 --threads 2";

/// Run a plan
///
/// Prints one line per output: name, element type, shape, smallest, largest and mean element, and the beginning of a
/// BLAKE3 digest of type, shape and bytes, whole in JSON.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Run {
    /// The plan
    #[arg(value_name = "MODEL.slide")]
    plan: PathBuf,
    #[command(flatten)]
    inputs: Inputs,
    /// Draws the inputs that are not given
    #[arg(long)]
    random: bool,
    /// Writes the outputs into a folder, one .npy file each
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    #[command(flatten)]
    device: Where,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

impl Run {
    /// Runs the command.
    ///
    /// # Errors
    /// What is wrong with the plan, the inputs and the files.
    pub fn run(self, threads: Option<usize>, out: &mut dyn Write) -> Result {
        let what = format!("'{}' was not run", self.plan.display());
        let options = self.inputs.options(self.device.target(self.plan, threads), self.random);
        finish(&what, run(&RunOptions { output: self.output, json: self.json, ..options }, out))
    }
}
