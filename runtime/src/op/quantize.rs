//! ONNX's own quantization operators.

use serde::{Deserialize, Serialize};

use super::check::{axis, may_equal, optional_typed, typed, vector_of};
use super::{InferError, InputTypes, Semantics, TensorType};
use crate::dim::Dim;
use crate::dtype::DType;

/// Inputs (x, scale, zero_point?): `saturate(round_half_even(x / scale) + zero_point)`, divided in f32. To an 8-bit float: `x / scale`
/// plus the zero point, rounded and saturated. NaN gives the integer's zero point.
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

/// Input x: f32; outputs (y: u8, scale: f32, zero_point: u8) for the whole tensor. Where x is all zero (or empty) the scale is 1; with
/// NaN or an infinity among x it is NaN and y is 0, so that whatever is dequantized is NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DynamicQuantizeLinear {}

/// What 8- and 16-bit values stand for quantized numbers.
fn is_quantized(dtype: DType) -> bool {
    matches!(dtype, DType::I8 | DType::U8 | DType::I16 | DType::U16 | DType::F8e4m3 | DType::F8e5m2)
}

/// Checks a scale, and a zero point if there is one, against x: one for all, one per position of the axis, or one per block.
fn scales(x: &TensorType, scale: &TensorType, zero: Option<&TensorType>, along: usize, block: usize) -> Result<(), InferError> {
    let mismatch = || InferError::Shape(format!("scale {scale} fits neither {x} nor its axis {along}"));
    if block > 0 {
        axis(along, x.rank())?;
        let block =
            i64::try_from(block).map_err(|_| InferError::Attribute { name: "block", reason: format!("{block} is too large") })?;
        let blocks = x.shape[along].ceil_div(block);
        let fits = scale.rank() == x.rank()
            && scale.shape.iter().zip(&x.shape).enumerate().all(|(i, (s, d))| may_equal(s, if i == along { &blocks } else { d }));
        if !fits {
            return Err(mismatch());
        }
    } else if !scale.shape.iter().all(Dim::is_one) {
        axis(along, x.rank())?;
        vector_of("the scale", &scale.shape, &x.shape[along]).map_err(|_| mismatch())?;
    }
    match zero {
        Some(zero) if zero.rank() != scale.rank() || !zero.shape.iter().zip(&scale.shape).all(|(z, s)| may_equal(z, s)) => {
            Err(InferError::Shape(format!("zero point {zero} must have the shape of the scale, {scale}")))
        }
        _ => Ok(()),
    }
}

/// The types that a scale may have.
fn is_scale(dtype: DType) -> bool {
    dtype.computes_in_f32()
}

impl Semantics for QuantizeLinear {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(3)?;
        if !is_quantized(self.to) {
            let reason = format!("{} is not an integer of 8 or 16 bits nor an 8-bit float", self.to);
            return Err(InferError::Attribute { name: "to", reason });
        }
        let x = typed(inputs, 0, |d| is_scale(d) || d == DType::I32, "f32, f16, bf16 or i32")?;
        let scale = typed(inputs, 1, is_scale, "f32, f16 or bf16")?;
        let zero = optional_typed(inputs, 2, |d| d == self.to, "the result's type")?;
        scales(x, scale, zero, self.axis, self.block)?;
        Ok(vec![TensorType { dtype: self.to, shape: x.shape.clone() }])
    }
}

impl Semantics for DequantizeLinear {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(3)?;
        let x = typed(inputs, 0, |d| is_quantized(d) || d == DType::I32, "an integer of 8 or 16 bits, i32 or an 8-bit float")?;
        let scale = typed(inputs, 1, is_scale, "f32, f16 or bf16")?;
        let zero = optional_typed(inputs, 2, |d| d == x.dtype, "the type of input 0")?;
        scales(x, scale, zero, self.axis, self.block)?;
        Ok(vec![TensorType { dtype: scale.dtype, shape: x.shape.clone() }])
    }
}

impl Semantics for DynamicQuantizeLinear {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(1)?;
        let x = typed(inputs, 0, |d| d == DType::F32, "f32")?;
        let scalar = |dtype| TensorType { dtype, shape: Vec::new() };
        Ok(vec![TensorType { dtype: DType::U8, shape: x.shape.clone() }, scalar(DType::F32), scalar(DType::U8)])
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::infer;
    use super::*;

    #[test]
    fn infers_types() {
        let quantize = |to, axis, block| QuantizeLinear { to, axis, block }.into();
        let dequantize = |axis, block| DequantizeLinear { axis, block }.into();
        for (op, inputs, want) in [
            (quantize(DType::I8, 1, 0), "f32[n, 4] f32[]", "i8[n, 4]"),
            (quantize(DType::U8, 1, 0), "f16[n, 4] f16[4] u8[4]", "u8[n, 4]"),
            (quantize(DType::F8e4m3, 1, 2), "f32[n, 5] f32[n, 3] f8e4m3[n, 3]", "f8e4m3[n, 5]"),
            (quantize(DType::I32, 1, 0), "f32[n, 4] f32[]", "attribute to: i32 is not"),
            (quantize(DType::I8, 1, 0), "f32[n, 4] f32[3]", "scale f32[3] fits neither"),
            (quantize(DType::I8, 1, 2), "f32[n, 5] f32[n, 2]", "scale f32[n, 2] fits neither"),
            (quantize(DType::I8, 1, 0), "f32[n, 4] f32[] u8[]", "input 2 is u8"),
            (quantize(DType::I8, 1, 0), "f32[n, 4] f32[4] i8[]", "zero point i8[] must have the shape"),
            (quantize(DType::I8, 7, 0), "f32[n, 4] f32[4]", "attribute axis"),
            (dequantize(0, 0), "i8[k, n] bf16[k] i8[k]", "bf16[k, n]"),
            (dequantize(0, 0), "i32[n] f32[1]", "f32[n]"),
            (dequantize(0, 0), "i64[n] f32[1]", "input 0 is i64"),
            (DynamicQuantizeLinear {}.into(), "f32[b, s]", "u8[b, s] f32[] u8[]"),
            (DynamicQuantizeLinear {}.into(), "f16[b, s]", "input 0 is f16"),
        ] {
            infer(&op, inputs, want);
        }
    }
}
