//! Normalisations and softmax. Arithmetic in f32 for f16, bf16 and f32 data, in f64 for f64.

use serde::{Deserialize, Serialize};

/// Softmax along one axis (opset 13's meaning; import rewrites the older, flattening one).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Softmax {
    /// The axis.
    pub axis: usize,
    /// The logarithm of it.
    pub log: bool,
}

/// One at the first largest element along an axis, zero elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardmax {
    /// The axis.
    pub axis: usize,
}

/// Inputs (x, scale, bias?): ONNX LayerNormalization over the axes from `axis` on; scale and bias broadcast to x.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerNorm {
    /// First normalised axis.
    pub axis: usize,
    /// Added to the variance.
    pub epsilon: f32,
    /// Whether the mean and the inverse standard deviation (f32, normalised axes 1) are further outputs.
    pub stats: bool,
}

/// Inputs (x, scale): `x / sqrt(mean(x²) + ε) · scale` over the axes from `axis` on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RmsNorm {
    /// First normalised axis.
    pub axis: usize,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// Inputs (x: [N, C, …], scale, bias, mean, variance: [C]): ONNX BatchNormalization at inference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchNorm {
    /// Added to the variance.
    pub epsilon: f32,
}

/// Inputs (x: [N, C, …], scale, bias: [C]): normalised per sample and channel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceNorm {
    /// Added to the variance.
    pub epsilon: f32,
}

/// Inputs (x: [N, C, …], scale, bias: [C]): normalised per sample and group of channels (ONNX GroupNormalization-21).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupNorm {
    /// Number of groups.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f32,
}

/// Division by the L1 or L2 norm along an axis; where the norm is 0, the result is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LpNorm {
    /// 1 or 2.
    pub p: u8,
    /// The axis.
    pub axis: usize,
}

/// Local response normalisation across channels of [N, C, …].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Lrn {
    pub alpha: f32,
    pub beta: f32,
    pub bias: f32,
    pub size: usize,
}

impl super::Semantics for Softmax {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for Hardmax {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for LayerNorm {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for RmsNorm {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for BatchNorm {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for InstanceNorm {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for GroupNorm {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for LpNorm {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for Lrn {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}
