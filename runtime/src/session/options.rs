//! Options, one after the other.

#[cfg(feature = "cuda")]
use super::CudaOptions;
use super::{SessionOptions, SparseForm};

impl SessionOptions {
    /// Threads that one run uses on the CPU.
    #[must_use]
    pub fn with_threads(self, threads: impl Into<Option<usize>>) -> Self {
        SessionOptions { threads: threads.into(), ..self }
    }

    /// How sparse products run on the CPU.
    #[must_use]
    pub fn with_sparse_form(self, sparse_form: SparseForm) -> Self {
        SessionOptions { sparse_form, ..self }
    }

    /// On the CPU, runs the plan's program for CUDA devices.
    #[must_use]
    pub fn with_cuda_program(self, cuda_program: bool) -> Self {
        SessionOptions { cuda_program, ..self }
    }

    /// The variant of the plan's CUDA program that runs, whatever the shape.
    #[must_use]
    pub fn with_variant(self, variant: impl Into<Option<String>>) -> Self {
        SessionOptions { variant: variant.into(), ..self }
    }

    /// Most bytes of working memory that one run may take.
    #[must_use]
    pub fn with_memory_limit(self, memory_limit: impl Into<Option<usize>>) -> Self {
        SessionOptions { memory_limit: memory_limit.into(), ..self }
    }

    /// What it may do on a GPU.
    #[cfg(feature = "cuda")]
    #[must_use]
    pub fn with_cuda(self, cuda: CudaOptions) -> Self {
        SessionOptions { cuda, ..self }
    }
}
