//! What HTTP says beside tensors: metadata, health, the model repository and errors, as JSON.

use serde::{Deserialize, Serialize};

/// `GET /v2`.
#[derive(Serialize)]
#[allow(missing_docs)]
pub struct ServerMetadata {
    pub name: &'static str,
    pub version: &'static str,
    pub extensions: &'static [&'static str],
}

/// `GET /v2/models/NAME`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct ModelMetadata {
    pub name: String,
    pub versions: Vec<String>,
    pub platform: &'static str,
    pub inputs: Vec<TensorMetadata>,
    pub outputs: Vec<TensorMetadata>,
}

/// An input or output of a model; extents that are not fixed are -1.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct TensorMetadata {
    pub name: String,
    pub datatype: &'static str,
    pub shape: Vec<i64>,
}

/// A model in `POST /v2/repository/index`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct IndexEntry {
    pub name: String,
    pub version: String,
    pub state: &'static str,
    pub reason: String,
}

/// What `POST /v2/repository/index` is asked.
#[derive(Debug, Default, Deserialize)]
pub struct IndexRequest {
    /// Only models that are ready.
    #[serde(default)]
    pub ready: bool,
}

/// Any failure.
#[derive(Serialize)]
#[allow(missing_docs)]
pub struct Failure {
    pub error: String,
}
