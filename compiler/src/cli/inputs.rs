//! The inputs that commands on plans take, and the failures of the commands that are shared with the runtime's own program.

use clap::Args;
use sliderun::dim::Bindings;
use sliderun::session::{Device, SessionError, SessionOptions};
use sliderun::tool::run::RunOptions;
use sliderun::tool::{self, ToolError};
use std::path::PathBuf;

use super::failure::{Complaint, Failure, Result};
use super::values::{self, NamedFile};

/// Where a plan runs.
#[derive(Args)]
pub struct Where {
    /// Device: cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: Device,
    /// On a GPU, the plan's variant; what is fastest for the shape by default
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
}

impl Where {
    /// The plan on this device.
    pub fn target(&self, plan: PathBuf, threads: Option<usize>) -> tool::Target {
        let variant = self.variant.clone();
        tool::Target {
            plan,
            device: self.device,
            options: SessionOptions::default().with_threads(threads).with_variant(variant),
            ..tool::Target::default()
        }
    }
}

/// What goes into a plan.
#[derive(Args)]
pub struct Inputs {
    /// Reads an input from a file; may be given several times
    #[arg(long, value_name = "NAME=FILE.npy")]
    input: Vec<NamedFile>,
    /// Values of the plan's symbols for random inputs, like batch=2,seq=64
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::symbols)]
    shape: Option<Bindings>,
    /// What random inputs start from: the same seed gives the same inputs
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

impl Inputs {
    /// As options of a run; `random`: inputs that are not given are drawn.
    pub fn options(&self, target: tool::Target, random: bool) -> RunOptions {
        RunOptions {
            target,
            inputs: self.input.iter().map(|i| (i.name.clone(), i.file.clone())).collect(),
            random,
            seed: self.seed,
            symbols: self.shape.clone().unwrap_or_default(),
            ..RunOptions::default()
        }
    }
}

/// Ends a shared command: arguments that do not fit the plan are told from failures.
///
/// # Errors
/// The command's, as what the user sees.
pub fn finish<T>(what: &str, result: std::result::Result<T, ToolError>) -> Result<T> {
    result.map_err(|e| {
        let complaint = Complaint::of(&e).while_doing(what);
        match e {
            e if e.is_closed_pipe() => Failure::ClosedPipe,
            ToolError::Symbols(_)
            | ToolError::MissingInputs(_)
            | ToolError::Session(
                SessionError::UnknownInput { .. } | SessionError::MissingInput { .. } | SessionError::DuplicateInput { .. },
            ) => Failure::Usage(complaint),
            _ => Failure::Failed(complaint),
        }
    })
}
