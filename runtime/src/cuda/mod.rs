//! What NVIDIA GPUs offer, as safe Rust: libraries found and loaded at run time, memory, streams, cubins, graphs, matrix products.
//!
//! Nothing of CUDA is linked. Every library is looked for when it is first asked for; one that is missing, too old or without a
//! function is an error that says what was looked for, where, and what to install. Nothing here panics for want of a library.
//!
//! The libraries are declared by hand, function by function, over `libloading`: what is needed of five libraries is some eighty C
//! functions, their tables resolve every symbol at loading instead of panicking at the first call, and the runtime's dependencies
//! stay few.
//!
//! Must not know: plans, sessions, operators.

mod contest;
pub mod cublaslt;
pub mod cusparselt;
pub mod driver;
mod dtype;
mod error;
pub mod library;
pub mod nvml;
pub(crate) mod timer;

pub use dtype::m_bucket;
pub use error::CudaError;
