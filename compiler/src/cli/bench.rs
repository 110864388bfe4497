//! `slidec bench`: how fast a plan runs.

use clap::Args;
use sliderun::dim::Bindings;
use sliderun::tool::bench::{BenchOptions, bench};
use std::io::Write;
use std::path::PathBuf;

use super::failure::Result;
use super::inputs::{Where, finish};
use super::values;

const EXAMPLES: &str = "\
Examples:
  slidec bench model.slide --shape batch=4,seq=128 --threads 2
  slidec bench model.slide --shape batch=4,seq=128 --iterations 100 --steps --json
  slidec bench model.slide --shape batch=32,seq=128 --device cuda --steps";

/// Measure how fast a plan runs, on random inputs
///
/// Prints percentiles of the latency and where the time goes, by operator or with --steps by step. On a GPU: with copies from and to
/// the host and without, each kind of launch, or with --steps each launch, against what the GPU does in a large copy and in large dense
/// products in the same run, and clocks and watts meanwhile.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Bench {
    /// The plan
    #[arg(value_name = "MODEL.slide")]
    plan: PathBuf,
    /// Values of the plan's symbols, like batch=2,seq=64
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::symbols)]
    shape: Option<Bindings>,
    /// Counted runs; as many as fit into three seconds by default
    #[arg(long, value_name = "N")]
    iterations: Option<usize>,
    /// Tells the time of each step, and for matrix products their rate
    #[arg(long)]
    steps: bool,
    /// On a GPU, also runs each matrix product with all of its library's algorithms
    #[arg(long)]
    algorithms: bool,
    /// What random inputs start from
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: Where,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

impl Bench {
    /// Runs the command.
    ///
    /// # Errors
    /// What is wrong with the plan and the shapes.
    pub fn run(self, threads: Option<usize>, out: &mut dyn Write) -> Result {
        let what = format!("'{}' was not measured", self.plan.display());
        let options = BenchOptions {
            target: self.device.target(self.plan, threads),
            symbols: self.shape.unwrap_or_default(),
            seed: self.seed,
            iterations: self.iterations,
            operators: !self.steps || self.json,
            steps: self.steps,
            algorithms: self.algorithms,
            json: self.json,
            ..BenchOptions::default()
        };
        finish(&what, bench(&options, out))
    }
}
