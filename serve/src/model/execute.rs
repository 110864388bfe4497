//! What runs a batch: a session, or what a test puts in its place.

use sliderun::cuda::CudaError;
use sliderun::session::{Session, SessionError};
use sliderun::tensor::{Tensor, TensorView};

/// Why a batch has no result, by what is to be done about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fault {
    /// The data: another request may run well.
    #[error("{0}")]
    Data(String),
    /// Too little memory: a smaller batch may run well.
    #[error("{0}")]
    Memory(String),
    /// The device: whatever runs there next will fail too.
    #[error("{0}")]
    Device(String),
    /// The program: a bug.
    #[error("{0}")]
    Bug(String),
}

/// Something that runs batches, one at a time.
pub trait Execute: Send {
    /// Outputs in the plan's order for inputs by name.
    ///
    /// # Errors
    /// See [`Fault`].
    fn run(&mut self, inputs: &[(&str, TensorView<'_>)]) -> Result<Vec<Tensor>, Fault>;
}

impl Execute for Session {
    fn run(&mut self, inputs: &[(&str, TensorView<'_>)]) -> Result<Vec<Tensor>, Fault> {
        let outputs = Session::run(self, inputs)?;
        Ok(outputs.into_iter().map(|(_, tensor)| tensor).collect())
    }
}

impl From<SessionError> for Fault {
    fn from(error: SessionError) -> Fault {
        let text = error.to_string();
        match error {
            SessionError::Memory { .. } => Fault::Memory(text),
            SessionError::Cuda(CudaError::OutOfMemory { .. } | CudaError::PinnedMemory { .. } | CudaError::Allocator { .. }) => {
                Fault::Memory(text)
            }
            SessionError::Cuda(_) => Fault::Device(text),
            _ => Fault::Data(text),
        }
    }
}
