//! Operators whose result depends on extents alone.

use serde::{Deserialize, Serialize};

use crate::dim::Dim;
use crate::dtype::DType;

/// The values of extents as an integer tensor: what is left of shape arithmetic whose result is used as data. No input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extents {
    /// The elements, row-major.
    pub values: Vec<Dim>,
    /// The result's shape; `[]` or `[values.len()]`.
    pub shape: Vec<usize>,
    /// I64 or I32.
    pub dtype: DType,
}

/// `start + i·step` for i in 0..len, one axis. No input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// First element.
    pub start: Dim,
    /// Distance between elements.
    pub step: Dim,
    /// Number of elements.
    pub len: Dim,
    /// An integer type.
    pub dtype: DType,
}

/// A matrix with ones on a diagonal. No input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EyeLike {
    /// Rows.
    pub rows: Dim,
    /// Columns.
    pub columns: Dim,
    /// Diagonal: 0 the main one, positive above it.
    pub k: i64,
    /// Element type.
    pub dtype: DType,
}

impl super::Semantics for Extents {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for Range {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for EyeLike {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}
