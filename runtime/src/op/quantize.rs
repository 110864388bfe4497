//! ONNX's own quantization operators.

use serde::{Deserialize, Serialize};

use crate::dtype::DType;

/// Inputs (x, scale, zero_point?): `saturate(round_half_even(x / scale) + zero_point)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuantizeLinear {
    /// Element type of the result.
    pub to: DType,
    /// Axis of a one-dimensional scale, or of the blocks.
    pub axis: usize,
    /// Elements along the axis that share a scale; 0: the whole axis position (per axis) or the whole tensor.
    pub block: usize,
}

/// Inputs (x, scale, zero_point?): `(x - zero_point) · scale`, in the scale's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DequantizeLinear {
    /// Axis of a one-dimensional scale, or of the blocks.
    pub axis: usize,
    /// As in [`QuantizeLinear`].
    pub block: usize,
}

/// Input x: f32; outputs (y: u8, scale: f32, zero_point: u8) for the whole tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DynamicQuantizeLinear {}

impl super::Semantics for QuantizeLinear {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for DequantizeLinear {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for DynamicQuantizeLinear {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}
