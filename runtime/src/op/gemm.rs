//! Matrix products in the data's own precision (f16 and bf16 accumulate in f32). Those of the sparse method are in
//! [`super::sparse`].

use serde::{Deserialize, Serialize};

/// Inputs (a, b): NumPy's matmul, batched and broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatMul {}

/// Inputs (a, b, c?): `alpha·op(a)·op(b) + beta·c`, matrices, c broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Gemm {
    pub alpha: f32,
    pub beta: f32,
    pub trans_a: bool,
    pub trans_b: bool,
}

/// Einstein summation over any number of inputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Einsum {
    /// As in NumPy, with the arrow and the result's subscripts always present, without spaces.
    pub equation: String,
}

/// Inputs (a, b, a_zero?, b_zero?): 8-bit integers, i32 result; ONNX MatMulInteger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatMulInteger {}

impl super::Semantics for MatMul {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for Gemm {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for Einsum {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for MatMulInteger {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}
