//! CPU kernels of [`crate::op::quantize`].

use super::{Context, Kernel, KernelError};
use crate::op::quantize::{DequantizeLinear, DynamicQuantizeLinear, QuantizeLinear};
use crate::tensor::{TensorView, TensorViewMut};

impl Kernel for QuantizeLinear {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}

impl Kernel for DequantizeLinear {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}

impl Kernel for DynamicQuantizeLinear {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}
