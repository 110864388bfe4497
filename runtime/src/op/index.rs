//! Operators that read or write at positions given by an integer tensor. Indices may be negative (from the end); one out of
//! range is an error at run time, never a wrong value.

use serde::{Deserialize, Serialize};

use crate::dim::Dim;

/// Inputs (data, indices): slices of `data` along an axis; ONNX Gather.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gather {
    /// The axis.
    pub axis: usize,
}

/// Inputs (data, indices): ONNX GatherElements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatherElements {
    /// The axis.
    pub axis: usize,
}

/// Inputs (data, indices): ONNX GatherND.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatherNd {
    /// Leading axes shared by data and indices.
    pub batch_dims: usize,
}

/// How a scatter combines an update with what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Scatter {
    Replace,
    Add,
    Mul,
    Max,
    Min,
}

/// Inputs (data, indices, updates): ONNX ScatterElements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScatterElements {
    /// The axis.
    pub axis: usize,
    /// How updates combine.
    pub reduction: Scatter,
}

/// Inputs (data, indices, updates): ONNX ScatterND.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScatterNd {
    /// How updates combine.
    pub reduction: Scatter,
}

/// Inputs (indices, values: [off, on]): a new axis of `depth` elements, `on` at the index and `off` elsewhere; an index out of
/// range gives `off` everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OneHot {
    /// Position of the new axis.
    pub axis: usize,
    /// Its extent.
    pub depth: Dim,
}

impl super::Semantics for Gather {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for GatherElements {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for GatherNd {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for ScatterElements {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for ScatterNd {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for OneHot {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}
