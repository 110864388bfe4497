//! The Open Inference Protocol, version 2, apart from what carries it: names of element types, requests and answers as both HTTP and gRPC say them.
//!
//! Must not know: models, queues, sockets.

mod datatype;
pub mod http;
pub mod messages;
mod numbers;
mod parameters;
pub mod proto;

pub use datatype::{datatype, from_datatype};
pub use parameters::{Parameter, Parameters};

use sliderun::session::Port;
use sliderun::tensor::Tensor;
use std::time::Duration;

/// Extensions of the protocol that this server has, as server metadata names them.
pub const EXTENSIONS: [&str; 2] = ["binary_tensor_data", "model_repository"];

/// What a plan is called as a platform.
pub const PLATFORM: &str = "slidec_plan";

/// A request for inference.
#[derive(Debug)]
pub struct InferRequest {
    /// The client's name for it, empty without one.
    pub id: String,
    /// Input tensors by name.
    pub inputs: Vec<(String, Tensor)>,
    /// Outputs that are wanted, in this order; all when empty.
    pub outputs: Vec<RequestedOutput>,
    /// Whether outputs come in binary form unless they say otherwise.
    pub binary: bool,
    /// How long it may take.
    pub timeout: Option<Duration>,
}

/// An output that is wanted.
#[derive(Debug)]
pub struct RequestedOutput {
    /// Its name.
    pub name: String,
    /// Whether it comes in binary form; as the request says when `None`.
    pub binary: Option<bool>,
}

/// An answer with tensors.
#[derive(Debug)]
pub struct InferResponse {
    /// The model that ran.
    pub model: String,
    /// Its version.
    pub version: String,
    /// The request's `id`.
    pub id: String,
    /// Outputs in the order in which they were wanted, and whether each goes out in binary form.
    pub outputs: Vec<(String, Tensor, bool)>,
}

/// An extent as metadata says it: -1 where it is not fixed.
pub fn shape(port: &Port) -> Vec<i64> {
    port.ty.shape.iter().map(|d| d.as_const().unwrap_or(-1)).collect()
}

/// Extents of a request as a tensor has them.
///
/// # Errors
/// A negative one.
fn extents(name: &str, shape: &[i64]) -> Result<Vec<usize>, String> {
    let extent = |d: &i64| usize::try_from(*d).map_err(|_| format!("input '{name}': {d} is no extent"));
    shape.iter().map(extent).collect()
}
