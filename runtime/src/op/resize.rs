//! Resampling.

use serde::{Deserialize, Serialize};

use crate::dim::Dim;

/// How a position of the result maps to one of the input (ONNX Resize `coordinate_transformation_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
}

/// Interpolation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Interpolation {
    Nearest(NearestRounding),
    Linear,
    Cubic { a: f32, exclude_outside: bool },
}

/// Which neighbour `Nearest` takes (ONNX Resize `nearest_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum NearestRounding {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
}

/// The input resampled to other extents; ONNX Resize.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resize {
    /// The result's extents, one per axis.
    pub shape: Vec<Dim>,
    /// Result extent over input extent per axis, where the model gives scales rather than sizes (it need not be the exact
    /// quotient).
    pub scales: Option<Vec<f32>>,
    /// Position mapping.
    pub coordinates: Coordinates,
    /// Interpolation.
    pub interpolation: Interpolation,
    /// Low-pass filter when shrinking.
    pub antialias: bool,
}

impl super::Semantics for Resize {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}
