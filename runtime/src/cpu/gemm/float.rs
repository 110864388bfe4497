//! The f32 matrix product: rten's packed kernels for this machine.
//!
//! Must not know: operators, shapes of tensors.

use rten_gemm::{BiasVector, GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedBMatrix};

use super::matrix::Strided;
use crate::cpu::KernelError;

thread_local! {
    // The library's executor is not `Send`; making one costs a feature check.
    static EXECUTOR: GemmExecutor<f32> = GemmExecutor::new();
}

/// A right-hand matrix packed for the f32 kernel of this machine.
pub struct PackedF32(PackedBMatrix<f32>);

impl PackedF32 {
    /// Packs a K×N matrix; `None` when it has no element and there is nothing to pack.
    pub(crate) fn new(b: Strided<'_, f32>) -> Result<Option<Self>, KernelError> {
        if b.is_empty() {
            return Ok(None);
        }
        let b = b.matrix()?;
        Ok(Some(PackedF32(EXECUTOR.with(|executor| executor.prepack_b(b)))))
    }
}

/// The right-hand side of a product.
#[derive(Clone, Copy)]
pub(crate) enum RhsF32<'a> {
    Strided(Strided<'a, f32>),
    Packed(&'a PackedF32),
}

/// `out = alpha · a · b`, plus `bias` of N elements on every row. `out` is row-major.
pub(crate) fn multiply(
    out: &mut [f32],
    a: Strided<'_, f32>,
    b: RhsF32<'_>,
    alpha: f32,
    bias: Option<&[f32]>,
) -> Result<(), KernelError> {
    let b = match b {
        RhsF32::Strided(b) => GemmInputB::Unpacked(b.matrix()?),
        RhsF32::Packed(b) => GemmInputB::Packed(&b.0),
    };
    let a = GemmInputA::Unpacked(a.matrix()?);
    let options = GemmOptions { alpha, bias: bias.map(BiasVector::Row), ..GemmOptions::default() };
    EXECUTOR
        .with(|executor| executor.gemm(out, a, b, options))
        .map_err(|e| KernelError::Data(format!("the product of matrices failed: {e}")))
}
