//! Reductions, scans and selections along axes.

use serde::{Deserialize, Serialize};

/// What a [`Reduce`] computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ReduceKind {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    L1,
    L2,
    LogSum,
    LogSumExp,
    SumSquare,
}

/// Reduction over axes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reduce {
    /// What is computed.
    pub kind: ReduceKind,
    /// The axes reduced, sorted, without repeats. Empty: no axis (a reduction of each element by itself).
    pub axes: Vec<usize>,
    /// Whether reduced axes stay, with extent 1.
    pub keep_dims: bool,
}

/// Index of the largest (or smallest) element along an axis, as i64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArgReduce {
    /// Largest rather than smallest.
    pub max: bool,
    /// The axis.
    pub axis: usize,
    /// Whether the axis stays, with extent 1.
    pub keep_dims: bool,
    /// Among equal elements, the last rather than the first.
    pub select_last: bool,
}

/// Running sum or product along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cumulative {
    /// Product rather than sum.
    pub product: bool,
    /// The axis.
    pub axis: usize,
    /// Element i excludes input i.
    pub exclusive: bool,
    /// From the end.
    pub reverse: bool,
}

/// The k largest (or smallest) elements along an axis: outputs (values, indices: i64). Ties: the lower index first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopK {
    /// How many.
    pub k: crate::dim::Dim,
    /// The axis.
    pub axis: usize,
    /// Largest rather than smallest.
    pub largest: bool,
}

impl super::Semantics for Reduce {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for ArgReduce {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for Cumulative {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for TopK {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}
