//! CPU kernels of [`crate::op::reduce`].

use super::{Context, Kernel, KernelError};
use crate::op::reduce::{ArgReduce, Cumulative, Reduce, TopK};
use crate::tensor::{TensorView, TensorViewMut};

impl Kernel for Reduce {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}

impl Kernel for ArgReduce {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}

impl Kernel for Cumulative {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}

impl Kernel for TopK {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}
