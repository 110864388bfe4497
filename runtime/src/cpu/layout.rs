//! CPU kernels of [`crate::op::layout`].

use super::{Context, Kernel, KernelError};
use crate::op::layout::{
    Concat, DepthToSpace, Expand, Identity, Pad, Reshape, ReverseSequence, Slice, SpaceToDepth, Split, Tile, Transpose, Trilu,
};
use crate::tensor::{TensorView, TensorViewMut};

impl Kernel for Identity {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}

impl Kernel for Reshape {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}

impl Kernel for Transpose {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}

impl Kernel for Expand {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}

impl Kernel for Concat {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}

impl Kernel for Split {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}

impl Kernel for Slice {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}

impl Kernel for Pad {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}

impl Kernel for Tile {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}

impl Kernel for DepthToSpace {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}

impl Kernel for SpaceToDepth {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}

impl Kernel for Trilu {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}

impl Kernel for ReverseSequence {
    fn run(
        &self,
        _context: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        _outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        unimplemented!()
    }
}
