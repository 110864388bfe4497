//! The CUDA C++ sources of the project's own kernels, their registry, and their compilation to cubins with NVRTC.
//!
//! Invariants: a kernel takes raw pointers and sizes only; this crate knows no plan, no graph and no session. The compiler compiles what is
//! registered here, without a GPU, and the runtime only ever sees the result.

mod cache;
mod compile;
mod functions;
mod headers;
pub mod launch;
mod nvrtc;

pub use cache::Cache;
pub use compile::{CompileError, Compiler};
pub use functions::functor;
pub use headers::HEADERS;
