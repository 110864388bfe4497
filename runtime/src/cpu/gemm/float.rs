//! The f32 matrix product: by the kernels of rten, or, with a packed right-hand side where vectors are long, by [`tiles`](super::tiles).
//!
//! Must not know: operators, shapes of tensors.

use rayon::prelude::*;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedBMatrix};

use super::matrix::Strided;
use super::tiles::Tiles;
use crate::cpu::KernelError;

thread_local! {
    // The library's executor is not `Send`; making one costs a feature check.
    static EXECUTOR: GemmExecutor<f32> = GemmExecutor::new();
}

/// A right-hand matrix packed for the f32 kernel of this machine.
pub struct PackedF32(Packed);

enum Packed {
    Tiles(Tiles),
    Rten(PackedBMatrix<f32>),
}

impl PackedF32 {
    /// Packs a K×N matrix; `None` when it has no element and there is nothing to pack.
    pub(crate) fn new(b: Strided<'_, f32>) -> Result<Option<Self>, KernelError> {
        if b.is_empty() {
            return Ok(None);
        }
        Ok(Some(PackedF32(match Tiles::new(b) {
            Some(tiles) => Packed::Tiles(tiles),
            None => {
                let b = b.matrix()?;
                Packed::Rten(EXECUTOR.with(|executor| executor.prepack_b(b)))
            }
        })))
    }
}

/// The right-hand side of a product.
#[derive(Clone, Copy)]
pub(crate) enum RhsF32<'a> {
    Strided(Strided<'a, f32>),
    Packed(&'a PackedF32),
}

/// `out = alpha · a · b`. `out` is row-major.
pub(crate) fn multiply(out: &mut [f32], a: Strided<'_, f32>, b: RhsF32<'_>, alpha: f32) -> Result<(), KernelError> {
    let b = match b {
        RhsF32::Strided(b) => GemmInputB::Unpacked(b.matrix()?),
        RhsF32::Packed(PackedF32(Packed::Rten(b))) => GemmInputB::Packed(b),
        RhsF32::Packed(PackedF32(Packed::Tiles(b))) => {
            if !out.is_empty() {
                b.multiply(out, a);
                if alpha != 1.0 {
                    out.iter_mut().for_each(|v| *v *= alpha);
                }
            }
            return Ok(());
        }
    };
    let a = GemmInputA::Unpacked(a.matrix()?);
    let options = GemmOptions { alpha, ..GemmOptions::default() };
    EXECUTOR
        .with(|executor| executor.gemm(out, a, b, options))
        .map_err(|e| KernelError::Data(format!("the product of matrices failed: {e}")))
}

/// Rows that are multiplied and finished together: enough for the packed matrix to be read rarely, few enough for the result to be in
/// the cache still.
const ROWS: usize = 192;

/// [`multiply`], then `finish` on groups of whole rows of the result, while they are in the cache.
pub(crate) fn multiply_then(
    out: &mut [f32],
    a: Strided<'_, f32>,
    b: RhsF32<'_>,
    alpha: f32,
    finish: &(dyn Fn(&mut [f32]) + Sync),
) -> Result<(), KernelError> {
    if out.is_empty() {
        return Ok(());
    }
    let n = out.len() / a.rows;
    let tasks = a.rows.div_ceil(ROWS).next_multiple_of(rayon::current_num_threads());
    // Rows of a kernel's tile, of rten's kernels too. A larger step would leave one thread more to do than the others.
    let tile = if let RhsF32::Packed(PackedF32(Packed::Tiles(_))) = b { super::tiles::ROWS } else { 24 };
    let rows = a.rows.div_ceil(tasks).next_multiple_of(tile).max(ROWS / 2);
    match b {
        RhsF32::Packed(_) => out.par_chunks_mut(rows * n).enumerate().try_for_each(|(i, out)| {
            let a = a.rows_from(i * rows, out.len() / n);
            match b {
                RhsF32::Packed(PackedF32(Packed::Tiles(b))) if a.col_stride == 1 && alpha == 1.0 => b.multiply_alone(out, a),
                b => multiply(out, a, b, alpha)?,
            }
            finish(out);
            Ok(())
        }),
        // Taken apart it would be packed for each group of rows.
        RhsF32::Strided(_) => {
            multiply(out, a, b, alpha)?;
            out.par_chunks_mut(rows * n).for_each(finish);
            Ok(())
        }
    }
}
