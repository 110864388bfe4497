//! What `sliderun` and the compiler's command line share: tensors in `.npy` files, random inputs, and the commands on plans.
//!
//! Commands take their options as plain values and write results to the given writer; parsing arguments, progress and exit codes
//! are the program's business.

pub mod bench;
#[cfg(feature = "cuda")]
pub mod check;
#[cfg(feature = "cuda")]
pub mod churn;
#[cfg(feature = "cuda")]
pub mod devices;
#[cfg(feature = "cuda")]
pub mod gpu;
pub mod inspect;
pub mod latency;
pub mod names;
pub mod npy;
pub mod random;
pub mod run;
pub mod symbols;
#[cfg(feature = "cuda")]
pub mod tune;
pub mod turns;

use std::io;
use std::path::PathBuf;

pub use npy::NpyError;
pub use symbols::BadSymbols;

use crate::plan::{Plan, PlanError, PlanOptions};
use crate::session::{Device, SessionError, SessionOptions};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum ToolError {
    #[error("{}: {source}", path.display())]
    Plan { path: PathBuf, source: PlanError },
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("{}: {source}", path.display())]
    Npy { path: PathBuf, source: NpyError },
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Timings(#[from] crate::timings::TimingsError),
    #[error(transparent)]
    Symbols(#[from] BadSymbols),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("inputs are missing: {0}; give each as --input NAME=FILE.npy, or ask for --random ones")]
    MissingInputs(String),
    #[error("{count} of the launches' results differ from the CPU's by more than the limit")]
    Differs { count: usize },
    #[error("not flat: {0}")]
    Grown(String),
    #[error("there is no place to keep what is found: set SLIDERUN_CACHE to a folder, or HOME")]
    NoCache,
    #[error("two outputs would be written to {}", .0.display())]
    SameFile(PathBuf),
    /// Results could not be written; a closed pipe is [`io::ErrorKind::BrokenPipe`].
    #[error("writing results: {0}")]
    Write(#[from] io::Error),
}

impl ToolError {
    /// Whether the reader of the results went away, which is no failure.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, ToolError::Write(e) if e.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// Which plan, and how it is run.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// The plan's file.
    pub plan: PathBuf,
    /// Where it runs.
    pub device: Device,
    /// How it runs.
    pub options: SessionOptions,
    /// How its file is opened.
    pub opening: PlanOptions,
}

impl Target {
    fn open(&self) -> Result<crate::session::Session, ToolError> {
        let plan = open_plan(&self.plan, &self.opening)?;
        Ok(crate::session::Session::new(plan.into(), self.device, self.options.clone())?)
    }
}

fn open_plan(path: &std::path::Path, opening: &PlanOptions) -> Result<Plan, ToolError> {
    Plan::open_with(path, opening).map_err(|source| match source {
        PlanError::Io { path, source } => ToolError::File { path, source },
        source => ToolError::Plan { path: path.to_owned(), source },
    })
}
