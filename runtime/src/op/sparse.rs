//! The sparse method: quantize and lift activations, multiply with a compressed weight, dequantize.
//!
//! Source: SlideSparse, arXiv 2603.05232; the exact definitions are in `docs/method.md` and [`crate::sparse`].

use serde::{Deserialize, Serialize};

use crate::dtype::DType;
use crate::sparse::KLayout;

/// Input x: float [.., K]. Converts each row ("token") to `to` and rearranges it to the lifted order.
///
/// - `to` I8 or F8e4m3: dynamic quantization per token, `scale = absmax / 127` or `/ 448`, `q = round_half_even(x / scale)`; a row
///   whose absmax is below 1e-30 has scale 1 and gives zeros; a row with NaN or an infinity has scale NaN (and q 0), so that
///   every output it reaches is NaN. Outputs (q: [.., K'], scale: f32 [.., 1]).
/// - `to` Bf16, F16 or F32: only rounded and lifted. Output (x': [.., K']).
///
/// A dense layout lifts nothing: K' = K.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuantLift {
    /// Element type of the result.
    pub to: DType,
    /// How K is laid out.
    pub layout: KLayout,
}

/// Inputs (x': [.., K'] from [`QuantLift`], values: [N, K'/2], positions: u8 [N, K'/8]): the product with a weight in compressed form,
/// [.., N]: i32 for I8 inputs, else f32.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SparseGemm {
    /// How K is laid out; of one sparse segment.
    pub layout: KLayout,
}

/// Inputs (x: [.., K] from [`QuantLift`] with a dense layout, w: [N, K] of the same type): [.., N], i32 for I8 inputs, else f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenseGemm {}

/// Inputs (acc: i32 or f32 [.., N], token_scale: f32 [.., 1], channel_scale: f32 [N], bias?: f32 [N]):
/// `acc · token_scale · channel_scale + bias`, computed in f32 in this order, in `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dequant {
    /// Element type of the result: F32, F16 or Bf16.
    pub to: DType,
}

impl super::Semantics for QuantLift {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for SparseGemm {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for DenseGemm {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for Dequant {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}
