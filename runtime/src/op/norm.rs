//! Normalisations and softmax. Arithmetic in f32 for f16, bf16 and f32 data, in f64 for f64.

use serde::{Deserialize, Serialize};

use super::check::{REAL, axis, broadcasts_to, optional_typed, typed, vector_of};
use super::{InferError, InputTypes, Semantics, TensorType};
use crate::dtype::DType;

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

/// Inputs (x, scale): `x / sqrt(mean(x²) + ε) · scale` over the axes from `axis` on, in the scale's element type.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RmsNorm {
    /// First normalised axis.
    pub axis: usize,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// Inputs (x: [N, C, …], scale, bias, mean, variance: [C]): ONNX BatchNormalization at inference. The element types may
/// differ; the result has that of x.
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

/// Input 0, a float, of which `axis` must be an axis.
fn along(inputs: InputTypes<'_>, along: usize) -> Result<&TensorType, InferError> {
    inputs.at_most(1)?;
    let x = typed(inputs, 0, DType::is_real, REAL)?;
    axis(along, x.rank())?;
    Ok(x)
}

impl Semantics for Softmax {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        Ok(vec![along(inputs, self.axis)?.clone()])
    }
}

impl Semantics for Hardmax {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        Ok(vec![along(inputs, self.axis)?.clone()])
    }
}

impl Semantics for LpNorm {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        if !matches!(self.p, 1 | 2) {
            return Err(InferError::Attribute { name: "p", reason: format!("{} is neither 1 nor 2", self.p) });
        }
        Ok(vec![along(inputs, self.axis)?.clone()])
    }
}

impl Semantics for LayerNorm {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(3)?;
        let x = typed(inputs, 0, DType::is_real, REAL)?;
        axis(self.axis, x.rank())?;
        let same = |d| d == x.dtype;
        broadcasts_to("the scale", &typed(inputs, 1, same, "the type of input 0")?.shape, &x.shape)?;
        if let Some(bias) = optional_typed(inputs, 2, same, "the type of input 0")? {
            broadcasts_to("the bias", &bias.shape, &x.shape)?;
        }
        let mut out = vec![x.clone()];
        if self.stats {
            let mut shape = x.shape.clone();
            shape[self.axis..].fill(1.into());
            let stat = TensorType { dtype: DType::F32, shape };
            out.extend([stat.clone(), stat]);
        }
        Ok(out)
    }
}

impl Semantics for RmsNorm {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(2)?;
        let x = typed(inputs, 0, DType::is_real, REAL)?;
        axis(self.axis, x.rank())?;
        let scale = typed(inputs, 1, DType::is_real, REAL)?;
        broadcasts_to("the scale", &scale.shape, &x.shape)?;
        Ok(vec![TensorType { dtype: scale.dtype, shape: x.shape.clone() }])
    }
}

/// Input 0, a float [N, C, …], after a check that inputs 1 to `last` are [C]; of the same type as x unless `mixed`.
fn per_channel(inputs: InputTypes<'_>, last: usize, mixed: bool) -> Result<&TensorType, InferError> {
    inputs.at_most(last + 1)?;
    let x = typed(inputs, 0, DType::is_real, REAL)?;
    let channels = x.shape.get(1).ok_or_else(|| InferError::Shape(format!("{x} has no channel axis: [N, C, …] expected")))?;
    for i in 1..=last {
        let (accept, expected): (&dyn Fn(DType) -> bool, _) =
            if mixed { (&DType::is_real, REAL) } else { (&|d| d == x.dtype, "the type of input 0") };
        vector_of(&format!("input {i}"), &typed(inputs, i, accept, expected)?.shape, channels)?;
    }
    Ok(x)
}

impl Semantics for BatchNorm {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        Ok(vec![per_channel(inputs, 4, true)?.clone()])
    }
}

impl Semantics for InstanceNorm {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        Ok(vec![per_channel(inputs, 2, false)?.clone()])
    }
}

impl Semantics for GroupNorm {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        let x = per_channel(inputs, 2, false)?;
        let divides = self.groups > 0 && x.shape[1].as_usize().is_none_or(|c| c % self.groups == 0);
        if !divides {
            let reason = format!("{} does not divide the {} channels", self.groups, x.shape[1]);
            return Err(InferError::Attribute { name: "groups", reason });
        }
        Ok(vec![x.clone()])
    }
}

impl Semantics for Lrn {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        if self.size == 0 {
            return Err(InferError::Attribute { name: "size", reason: "it must be at least 1".into() });
        }
        Ok(vec![per_channel(inputs, 0, false)?.clone()])
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::infer;
    use super::*;

    #[test]
    fn infers_types() {
        let layer = |axis, stats| LayerNorm { axis, epsilon: 1e-5, stats }.into();
        let rms = RmsNorm { axis: 1, epsilon: 1e-5 };
        let batch = BatchNorm { epsilon: 1e-5 };
        let group = |groups| GroupNorm { groups, epsilon: 1e-5 }.into();
        for (op, inputs, want) in [
            (Softmax { axis: 1, log: false }.into(), "bf16[n, m]", "bf16[n, m]"),
            (Softmax { axis: 2, log: false }.into(), "bf16[n, m]", "attribute axis"),
            (Hardmax { axis: 0 }.into(), "i32[n]", "input 0 is i32"),
            (LpNorm { p: 3, axis: 0 }.into(), "f32[n]", "3 is neither 1 nor 2"),
            (layer(2, false), "f32[n, s, 8] f32[8] f32[8]", "f32[n, s, 8]"),
            (layer(1, true), "f16[n, s, 8] f16[s, 8]", "f16[n, s, 8] f32[n, 1, 1] f32[n, 1, 1]"),
            (layer(1, false), "f32[n, 8] f32[7]", "the scale [7] does not broadcast"),
            (layer(1, false), "f32[n, 8] f32[8] f16[8]", "input 2 is f16"),
            (rms.into(), "f16[n, 8] f32[8]", "f32[n, 8]"),
            (batch.into(), "f16[n, c, h] f32[c] f32[c] f32[c] f32[c]", "f16[n, c, h]"),
            (batch.into(), "f32[n, 3] f32[3] f32[3] f32[3] f32[2]", "input 4 [2] must be [3]"),
            (batch.into(), "f32[n] f32[3] f32[3] f32[3] f32[2]", "no channel axis"),
            (InstanceNorm { epsilon: 0.0 }.into(), "f32[n, c, h] f32[c] f64[c]", "input 2 is f64"),
            (group(2), "f32[n, c, h] f32[c] f32[c]", "f32[n, c, h]"),
            (group(2), "f32[n, 3, h] f32[3] f32[3]", "2 does not divide the 3 channels"),
            (group(0), "f32[n, 3, h] f32[3] f32[3]", "0 does not divide"),
            (Lrn { alpha: 1.0, beta: 1.0, bias: 1.0, size: 0 }.into(), "f32[n, 3, h]", "at least 1"),
        ] {
            infer(&op, inputs, want);
        }
    }
}
