//! What can go wrong on a GPU.

use super::library::LibraryError;

/// See each message.
#[derive(Debug, Clone, thiserror::Error)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum CudaError {
    #[error(transparent)]
    Library(#[from] LibraryError),
    #[error("{what} is version {found}, {required} is needed: {remedy}")]
    Version { what: &'static str, found: String, required: &'static str, remedy: &'static str },
    #[error(
        "there is no CUDA device: the NVIDIA driver is there but finds no GPU (nvidia-smi lists those it finds; CUDA_VISIBLE_DEVICES may hide them)"
    )]
    NoDevice,
    #[error("there is no device cuda:{ordinal}: this machine has {count}, counted from cuda:0")]
    Ordinal { ordinal: usize, count: usize },
    #[error(
        "cuda:{ordinal} is out of memory: {requested} bytes were asked for, {free} of {total} are free. \
         Smaller batches or sequences need less, or another process holds it (nvidia-smi shows who)"
    )]
    OutOfMemory { ordinal: usize, requested: usize, free: usize, total: usize },
    #[error("the caller's allocator has no {requested} bytes of device memory on cuda:{ordinal}")]
    Allocator { ordinal: usize, requested: usize },
    #[error("{bytes} bytes of page-locked host memory cannot be had: {reason}")]
    PinnedMemory { bytes: usize, reason: String },
    #[error("{what}: bytes {start}..{end} are outside a range of {len} bytes")]
    Range { what: &'static str, start: usize, end: usize, len: usize },
    #[error("the cubin '{name}' cannot be loaded: {reason}")]
    Cubin { name: String, reason: String },
    #[error("the cubin '{module}' has no kernel '{kernel}'")]
    NoKernel { module: String, kernel: String },
    #[error("kernel '{kernel}' cannot be launched: {reason}")]
    Launch { kernel: String, reason: String },
    #[error("{problem}: {reason}")]
    Problem { problem: String, reason: String },
    #[error("{library}: {function} failed with {name} ({code}): {text}")]
    Call { library: &'static str, function: &'static str, code: i32, name: String, text: String },
}
