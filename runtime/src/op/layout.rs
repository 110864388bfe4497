//! Operators that move elements without computing on them.

use serde::{Deserialize, Serialize};

use crate::dim::Dim;

/// The input unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {}

/// The same elements, row-major, under another shape. Squeeze, Unsqueeze and Flatten are this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reshape {
    /// The result's extents, all resolved (no 0 or -1).
    pub shape: Vec<Dim>,
}

/// Axis i of the result is axis `perm[i]` of the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transpose {
    /// A permutation of the axes.
    pub perm: Vec<usize>,
}

/// The input broadcast with a shape, as ONNX Expand (both ways: an extent of 1 in `shape` keeps the input's).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expand {
    /// The shape to broadcast with.
    pub shape: Vec<Dim>,
}

/// Inputs, one or more, joined along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concat {
    /// The axis.
    pub axis: usize,
}

/// The input cut into consecutive parts along an axis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// The axis.
    pub axis: usize,
    /// Extent of each part; they add up to the axis.
    pub sizes: Vec<Dim>,
}

/// What a [`Slice`] takes of one axis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceAxis {
    /// The axis.
    pub axis: usize,
    /// First element taken; within the axis when `len` is not 0.
    pub start: Dim,
    /// Elements taken.
    pub len: Dim,
    /// Distance between elements taken; negative walks backwards; never 0.
    pub step: i64,
}

/// Strided part of the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// One entry per axis that is cut, sorted by axis.
    pub axes: Vec<SliceAxis>,
}

/// How a [`Pad`] fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PadMode {
    /// With the second input, a scalar of the same type; 0 without it.
    Constant,
    /// Mirrored about the edge element.
    Reflect,
    /// With the edge element.
    Edge,
    /// Periodically.
    Wrap,
}

/// The input extended (or, with negative pads, cut) at both ends of each axis. Inputs (x, value?).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pad {
    /// How to fill.
    pub mode: PadMode,
    /// Elements added before and after, one pair per axis.
    pub pads: Vec<(i64, i64)>,
}

/// The input repeated along each axis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tile {
    /// Repeats, one per axis.
    pub repeats: Vec<Dim>,
}

/// [N, C, H, W] to [N, C/b², H·b, W·b].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DepthToSpace {
    /// The block size b.
    pub block: usize,
    /// Column-row-depth order instead of depth-column-row.
    pub crd: bool,
}

/// [N, C, H, W] to [N, C·b², H/b, W/b].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceToDepth {
    /// The block size b.
    pub block: usize,
}

/// The upper or lower triangle of each matrix of the last two axes; zeros elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trilu {
    /// Upper rather than lower.
    pub upper: bool,
    /// Diagonal: 0 the main one, positive above it.
    pub k: i64,
}

/// The first `lengths[b]` elements along the time axis reversed, for each b. Inputs (x, lengths: i64).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReverseSequence {
    /// Axis of time, 0 or 1.
    pub time_axis: usize,
    /// Axis of batch, 1 or 0.
    pub batch_axis: usize,
}

impl super::Semantics for Identity {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for Reshape {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for Transpose {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for Expand {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for Concat {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for Split {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for Slice {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for Pad {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for Tile {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for DepthToSpace {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for SpaceToDepth {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for Trilu {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for ReverseSequence {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}
