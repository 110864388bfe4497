//! CPU kernels of [`crate::op::elementwise`].

use super::{Context, Kernel, KernelError};
use crate::op::elementwise::{Binary, Cast, Clip, Unary, Where};
use crate::tensor::{TensorView, TensorViewMut};

impl Kernel for Unary {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}

impl Kernel for Binary {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}

impl Kernel for Where {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}

impl Kernel for Clip {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}

impl Kernel for Cast {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}
