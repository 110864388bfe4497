//! CPU kernel of [`DenseGemm`]: the packed matrix products, exact in 8 bits.

use rayon::prelude::*;

use crate::cpu::gemm::float::{self, PackedF32, RhsF32};
use crate::cpu::gemm::int8::{self, PackedI8, RhsI8};
use crate::cpu::gemm::matrix::Strided;
use crate::cpu::gemm::required;
use crate::cpu::gemm::widen::{rounded, rounded_sums, widened};
use crate::cpu::{Context, Kernel, KernelError, Prepared};
use crate::dtype::DType;
use crate::op::sparse::DenseGemm;
use crate::tensor::{TensorView, TensorViewMut};

/// What is added to signed activations for the kernel, which wants them unsigned, and taken off again as their zero point.
const SHIFT: u8 = 128;

/// Bytes that one task shifts.
const CHUNK: usize = 1 << 16;

fn i8s<'a>(view: TensorView<'a>) -> Result<&'a [i8], KernelError> {
    view.as_slice::<i8>().ok_or(KernelError::UnsupportedType("DenseGemm", view.dtype))
}

/// The weight [N, K] as the K×N right-hand side.
fn right<'a, T: Copy>(w: &'a [T], shape: &[usize]) -> Strided<'a, T> {
    Strided::row_major(w, shape[0], shape[1]).transposed()
}

impl Kernel for DenseGemm {
    fn prepare(&self, constants: &[Option<TensorView<'_>>]) -> Result<Option<Prepared>, KernelError> {
        let Some(w) = constants.get(1).copied().flatten().filter(|w| w.shape.len() == 2) else { return Ok(None) };
        if w.dtype == DType::I8 {
            Ok(PackedI8::new(right(i8s(w)?, w.shape))?.map(Prepared::I8))
        } else {
            Ok(PackedF32::new(right(&widened("DenseGemm", w)?, w.shape))?.map(Prepared::F32))
        }
    }

    fn run(
        &self,
        context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let (x, w) = (required(inputs, 0)?, required(inputs, 1)?);
        let (rows, k) = match x.shape {
            [rows @ .., k] => (rows.iter().product(), *k),
            [] => return Err(KernelError::UnsupportedType("DenseGemm", x.dtype)),
        };
        let out = &mut outputs[0];
        if x.dtype == DType::I8 {
            let mut shifted = vec![0u8; x.data.len()];
            shifted.par_chunks_mut(CHUNK).zip(x.data.par_chunks(CHUNK)).for_each(|(to, from)| {
                to.iter_mut().zip(from).for_each(|(to, from)| *to = from ^ SHIFT);
            });
            let rhs = match context.prepared {
                Some(Prepared::I8(packed)) => RhsI8::Packed(packed),
                _ => RhsI8::Strided(right(i8s(w)?, w.shape)),
            };
            let x = Strided::row_major(&shifted, rows, k);
            return rounded_sums("DenseGemm", out, |out| int8::multiply(out, x, SHIFT, rhs));
        }
        let x = widened("DenseGemm", x)?;
        let x = Strided::row_major(&x, rows, k);
        rounded("DenseGemm", out, |out| match context.prepared {
            Some(Prepared::F32(packed)) => float::multiply(out, x, RhsF32::Packed(packed), 1.0),
            _ => float::multiply(out, x, RhsF32::Strided(right(&widened("DenseGemm", w)?, w.shape)), 1.0),
        })
    }
}
