//! `sliderun`: the minimal runtime that replays compiled plans.
//!
//! Invariants: this crate never parses ONNX and never compiles code. It has no protobuf, no graph library and no other
//! inference engine among its dependencies. It trusts no plan: whatever a file says is validated before it is used.

pub mod atomic_file;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod dim;
#[cfg(feature = "cuda")]
pub mod disk_cache;
pub mod dtype;
pub mod f8;
pub mod op;
pub mod plan;
pub mod session;
pub mod sparse;
#[cfg(any(feature = "cli", feature = "cuda"))]
pub mod splitmix;
pub mod tensor;
#[cfg(feature = "cuda")]
pub mod timings;
#[cfg(feature = "cli")]
pub mod tool;
