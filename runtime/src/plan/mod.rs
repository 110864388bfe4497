//! Compiled plans: what they hold, the file that holds them, and where their buffers lie in memory.
//!
//! Must not know: ONNX, how plans are made, devices.

mod architecture;
pub mod arena;
pub mod cuda;
mod embedded;
mod error;
mod file;
pub mod manifest;
mod options;
mod reader;
#[cfg(feature = "signatures")]
pub mod signature;
mod validate;
mod writer;

pub use architecture::{Architecture, UnknownArchitecture};
#[doc(hidden)]
pub use embedded::Embedded;
pub use error::PlanError;
pub use file::{BLOB_ALIGN, FORMAT_VERSION};
pub use options::PlanOptions;
pub use reader::Plan;
pub use writer::PlanWriter;

#[cfg(test)]
pub(crate) mod tests;
