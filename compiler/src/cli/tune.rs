//! `slidec tune`: the fastest algorithms of a plan's matrix products on a GPU.

use clap::Args;
use sliderun::dim::Bindings;
use sliderun::session::Device;
use sliderun::tool::Target;
use sliderun::tool::tune::{TuneOptions, tune};
use std::io::Write;
use std::path::PathBuf;

use super::failure::Result;
use super::inputs::finish;
use super::values;

const EXAMPLES: &str = "\
Examples:
  slidec tune model.slide --shape batch=1,seq=128 --shape batch=8,seq=128";

/// Find and keep the fastest algorithms of a plan's matrix products, and the fastest of its variants, on a GPU
///
/// Tries all that NVIDIA's libraries have, replays each variant of the plan, and keeps the fastest in SLIDERUN_CACHE or ~/.cache/sliderun for
/// later sessions on such a GPU. Timings also go beside the plan, where sessions on a like machine find them, and `compile --timings` does. Without,
/// a session tries for a tenth of a second when it first needs a product or a shape.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Tune {
    /// The plan
    #[arg(value_name = "MODEL.slide")]
    plan: PathBuf,
    /// Values of the plan's symbols, like batch=2,seq=64; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::symbols)]
    shape: Vec<Bindings>,
    /// Where timings are written; beside the plan by default, as MODEL.slide.timings
    #[arg(long, value_name = "FILE")]
    timings: Option<PathBuf>,
    /// GPU: cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cuda")]
    device: Device,
}

impl Tune {
    /// Runs the command.
    ///
    /// # Errors
    /// What is wrong with the plan, the shapes and the GPU.
    pub fn run(self, out: &mut dyn Write) -> Result {
        let what = format!("'{}' was not tuned", self.plan.display());
        let target = Target { plan: self.plan, device: self.device, ..Target::default() };
        finish(&what, tune(&TuneOptions { target, shapes: self.shape, timings: self.timings }, out))
    }
}
