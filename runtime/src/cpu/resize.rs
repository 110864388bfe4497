//! CPU kernels of [`crate::op::resize`].

use super::{Context, Kernel, KernelError};
use crate::op::resize::Resize;
use crate::tensor::{TensorView, TensorViewMut};

impl Kernel for Resize {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}
