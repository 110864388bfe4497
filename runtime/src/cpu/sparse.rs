//! CPU kernels of [`crate::op::sparse`].

use super::{Context, Kernel, KernelError};
use crate::op::sparse::{DenseGemm, Dequant, QuantLift, SparseGemm};
use crate::sparse::compressed::{Compressed, CompressedError};
use crate::tensor::{Tensor, TensorView, TensorViewMut};

impl From<CompressedError> for KernelError {
    fn from(error: CompressedError) -> Self {
        KernelError::Data(error.to_string())
    }
}

/// The dense weight [N, K] of a sparse product's constant operands, for the fast path: `op` on a lifted activation gives the
/// same accumulators as [`DenseGemm`] with this weight on the activation of [`QuantLift::dense_twin`].
///
/// # Errors
/// Operands that are not a decomposed weight in compressed form.
pub fn undo_lift(op: &SparseGemm, values: TensorView<'_>, positions: TensorView<'_>) -> Result<Tensor, KernelError> {
    Ok(Compressed::new(&op.layout, values, positions)?.undo_lift()?)
}

impl Kernel for QuantLift {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}

impl Kernel for SparseGemm {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}

impl Kernel for DenseGemm {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}

impl Kernel for Dequant {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}
