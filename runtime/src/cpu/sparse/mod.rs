//! CPU kernels of [`crate::op::sparse`], and the fast path's weight.
//!
//! Every kernel has one definition of its numbers, shared with the other devices: int8 accumulators are exact (modulo 2³²), so that the
//! compressed and the dense form of a weight give the same ones.

use super::KernelError;
use crate::op::sparse::SparseGemm;
use crate::sparse::compressed::{Compressed, CompressedError};
use crate::tensor::{Tensor, TensorView};

mod dense_gemm;
mod dequant;
mod quant_lift;
mod sparse_gemm;

impl From<CompressedError> for KernelError {
    fn from(error: CompressedError) -> Self {
        KernelError::Data(error.to_string())
    }
}

/// The dense weight [N, K] of a sparse product's constant operands, for the fast path: `op` on a lifted activation gives the same
/// int8 accumulators as [`DenseGemm`](crate::op::sparse::DenseGemm) with this weight on the activation of
/// [`QuantLift::dense_twin`](crate::op::sparse::QuantLift::dense_twin).
///
/// # Errors
/// Operands that are not a decomposed weight in compressed form.
pub fn undo_lift(op: &SparseGemm, values: TensorView<'_>, positions: TensorView<'_>) -> Result<Tensor, KernelError> {
    Ok(Compressed::new(&op.layout, values, positions)?.undo_lift()?)
}

#[cfg(test)]
mod tests;
