//! ONNX files: their protobuf messages, loading and saving them, and building small ones.
//!
//! Must not know: operators, the graph IR beyond its constants.

pub mod build;
mod external;
mod load;
pub mod proto;
mod save;
mod stream;
mod tensor;
#[cfg(test)]
mod tests;

pub use load::{ModelError, OnnxModel};
pub use stream::StreamedModel;
pub use tensor::{DataTypeError, TensorDataError, data_type_name, dtype_of, onnx_data_type};
