//! The sparse method: quantize and lift activations, multiply with a compressed weight, dequantize.
//!
//! Source: SlideSparse, arXiv 2603.05232; the exact definitions are in `docs/method.md` and [`crate::sparse`].

use serde::{Deserialize, Serialize};

use super::elementwise::Unary;
use super::{InferError, InputTypes, Semantics, TensorType};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::sparse::KLayout;

/// Inputs (x: float [.., K], order?: i32 [K]). Converts each row ("token") to `to` and rearranges it to the lifted order.
///
/// - `to` I8 or F8e4m3: dynamic quantization per token, `scale = absmax / 127` or `/ 448`, `q = round_half_even(x · (1 / scale))`, each
///   operation rounded to f32; a row whose absmax is below 1e-30 has scale 1 and gives zeros; a row with NaN or an infinity has scale
///   NaN (and q 0), so that every output it reaches is NaN. Outputs (q: [.., K'], scale: f32 [.., 1]).
/// - `to` Bf16, F16 or F32: only rounded and lifted. Output (x': [.., K']).
///
/// A dense layout lifts nothing: K' = K. With an order, channel `order[k]` of x stands at position k of what is converted and lifted; in plans
/// it is a constant that names each channel once ([`crate::sparse::check_order`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuantLift {
    /// Element type of the result.
    pub to: DType,
    /// How K is laid out.
    pub layout: KLayout,
}

/// Inputs (x': [.., K'] from [`QuantLift`], values: [N, K'/2], positions: u8 [N, K'/8]): the product with a weight in compressed form,
/// [.., N]: the sums as they are, i32 for I8 inputs, else f32, or rounded to `to` (i32 by way of f32, which holds them up to 2²⁴ exactly).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SparseGemm {
    /// How K is laid out; of one sparse segment.
    pub layout: KLayout,
    /// What sums are rounded to: Bf16, or F16 for floats, whose range holds them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<DType>,
}

/// Inputs (x: [.., K] from [`QuantLift`] with a dense layout, w: [N, K] of the same type): [.., N], as [`SparseGemm`]'s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenseGemm {
    /// What sums are rounded to: Bf16, or F16 for floats, whose range holds them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<DType>,
}

/// Inputs (acc: i32, f32, f16 or bf16 [.., N], token_scale: f32 [.., 1], channel_scale: f32 [N], bias?: f32 [N]):
/// `activation(acc · token_scale · channel_scale + bias)`, computed in f32 in this order, in `to`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dequant {
    /// Element type of the result: F32, F16 or Bf16.
    pub to: DType,
    /// Function of each element of the result; of the kind that gives floats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<Unary>,
}

impl QuantLift {
    /// The same conversion without the lift: what feeds a [`DenseGemm`] with the weight whose lift was undone.
    pub fn dense_twin(&self) -> QuantLift {
        QuantLift { to: self.to, layout: KLayout::dense(self.layout.k()) }
    }

    /// Whether activations are scaled per token, so that there is a second output.
    pub fn quantizes(&self) -> bool {
        matches!(self.to, DType::I8 | DType::F8e4m3)
    }
}

/// The element type of a product's result.
fn product_type(input: DType, to: Option<DType>) -> Result<DType, InferError> {
    let sums = accumulator(0, input)?;
    match to {
        None => Ok(sums),
        Some(DType::Bf16) => Ok(DType::Bf16),
        Some(DType::F16) if sums == DType::F32 => Ok(DType::F16),
        Some(to) => Err(InferError::Attribute { name: "to", reason: format!("sums in {sums} are not rounded to {to}") }),
    }
}

/// Element types of activations and weights, and of what their products accumulate in.
fn accumulator(input: usize, dtype: DType) -> Result<DType, InferError> {
    match dtype {
        DType::I8 => Ok(DType::I32),
        DType::F8e4m3 | DType::F16 | DType::Bf16 | DType::F32 => Ok(DType::F32),
        actual => Err(InferError::DType { input, actual, expected: "i8, f8e4m3, f16, bf16 or f32" }),
    }
}

/// The leading extents and the last one.
fn rows(input: usize, ty: &TensorType) -> Result<(&[Dim], &Dim), InferError> {
    let (k, rows) =
        ty.shape.split_last().ok_or_else(|| InferError::Shape(format!("input {input} is a scalar, rows were expected")))?;
    Ok((rows, k))
}

fn expect_dtype(input: usize, ty: &TensorType, dtype: DType) -> Result<(), InferError> {
    if ty.dtype != dtype {
        return Err(InferError::DType { input, actual: ty.dtype, expected: dtype.name() });
    }
    Ok(())
}

fn expect_shape(input: usize, ty: &TensorType, expected: &[Dim]) -> Result<(), InferError> {
    let fits = ty.rank() == expected.len() && ty.shape.iter().zip(expected).all(|(a, b)| super::may_equal(a, b));
    if !fits {
        return Err(InferError::Shape(format!("input {input} is {ty}, extents {expected:?} were expected")));
    }
    Ok(())
}

impl Semantics for QuantLift {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(2)?;
        let x = inputs.required(0)?;
        if !x.dtype.computes_in_f32() {
            return Err(InferError::DType { input: 0, actual: x.dtype, expected: "f32, f16 or bf16" });
        }
        if accumulator(0, self.to).is_err() {
            let reason = format!("{} is not one of i8, f8e4m3, f16, bf16, f32", self.to);
            return Err(InferError::Attribute { name: "to", reason });
        }
        let (rows, k) = rows(0, x)?;
        if !super::may_equal(k, &self.layout.k().into()) {
            return Err(InferError::Shape(format!("the last extent of {x} is not the layout's K, {}", self.layout.k())));
        }
        if let Some(order) = inputs.optional(1) {
            expect_dtype(1, order, DType::I32)?;
            expect_shape(1, order, &[self.layout.k().into()])?;
        }
        let with_last = |dtype, last: usize| TensorType::new(dtype, rows.iter().cloned().chain([last.into()]));
        let mut outputs = vec![with_last(self.to, self.layout.lifted())];
        if self.quantizes() {
            outputs.push(with_last(DType::F32, 1));
        }
        Ok(outputs)
    }
}

impl Semantics for SparseGemm {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(3)?;
        let (x, values, positions) = (inputs.required(0)?, inputs.required(1)?, inputs.required(2)?);
        if self.layout.segments.len() != 1 || self.layout.is_dense() {
            let reason = "exactly one sparse segment is supported".to_owned();
            return Err(InferError::Attribute { name: "layout", reason });
        }
        let to = product_type(x.dtype, self.to)?;
        expect_dtype(1, values, x.dtype)?;
        expect_dtype(2, positions, DType::U8)?;
        let (rows, k) = rows(0, x)?;
        let lifted = self.layout.lifted();
        if !super::may_equal(k, &lifted.into()) {
            return Err(InferError::Shape(format!("the last extent of {x} is not the layout's K', {lifted}")));
        }
        let n = values.shape.first().cloned().unwrap_or_default();
        expect_shape(1, values, &[n.clone(), (lifted / 2).into()])?;
        expect_shape(2, positions, &[n.clone(), (lifted / 8).into()])?;
        Ok(vec![TensorType::new(to, rows.iter().cloned().chain([n]))])
    }
}

impl Semantics for DenseGemm {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(2)?;
        let (x, w) = (inputs.required(0)?, inputs.required(1)?);
        let to = product_type(x.dtype, self.to)?;
        expect_dtype(1, w, x.dtype)?;
        let (rows, k) = rows(0, x)?;
        let n = w.shape.first().cloned().unwrap_or_default();
        expect_shape(1, w, &[n.clone(), k.clone()])?;
        Ok(vec![TensorType::new(to, rows.iter().cloned().chain([n]))])
    }
}

impl Semantics for Dequant {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(4)?;
        let (acc, token_scale, channel_scale) = (inputs.required(0)?, inputs.required(1)?, inputs.required(2)?);
        if !matches!(acc.dtype, DType::I32 | DType::F32 | DType::F16 | DType::Bf16) {
            return Err(InferError::DType { input: 0, actual: acc.dtype, expected: "i32, f32, f16 or bf16" });
        }
        if !self.to.computes_in_f32() {
            return Err(InferError::Attribute { name: "to", reason: format!("{} is not one of f32, f16, bf16", self.to) });
        }
        let (rows, n) = rows(0, acc)?;
        let per_token: Vec<Dim> = rows.iter().cloned().chain([1.into()]).collect();
        expect_dtype(1, token_scale, DType::F32)?;
        expect_shape(1, token_scale, &per_token)?;
        for (input, ty) in [(2, Some(channel_scale)), (3, inputs.optional(3))] {
            if let Some(ty) = ty {
                expect_dtype(input, ty, DType::F32)?;
                expect_shape(input, ty, std::slice::from_ref(n))?;
            }
        }
        let result = TensorType::new(self.to, acc.shape.iter().cloned());
        if let Some(activation) = self.activation {
            super::gemm::expect_activation(activation, &result)?;
        }
        Ok(vec![result])
    }
}
