//! CPU kernels of [`crate::op::conv`].

use super::{Context, Kernel, KernelError};
use crate::op::conv::{Conv, Pool};
use crate::tensor::{TensorView, TensorViewMut};

impl Kernel for Conv {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}

impl Kernel for Pool {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}
