//! CPU kernels of [`crate::op::sparse`].

use super::{Context, Kernel, KernelError};
use crate::op::sparse::{DenseGemm, Dequant, QuantLift, SparseGemm};
use crate::tensor::{TensorView, TensorViewMut};

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
