//! Between narrow floats and the f32 that they are computed in.
//!
//! Must not know: operators, shapes of tensors.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use std::borrow::Cow;
use std::sync::LazyLock;

use crate::cpu::KernelError;
use crate::dtype::{DType, Element};
use crate::f8::F8E4M3;
use crate::tensor::{TensorView, TensorViewMut};

/// Elements that one task converts.
const CHUNK: usize = 1 << 14;

static E4M3: LazyLock<[f32; 256]> = LazyLock::new(|| std::array::from_fn(|code| F8E4M3(code as u8).to_f32()));

/// An element type whose values are all f32 values.
pub(crate) trait Widen: Element {
    /// Exact; of equal lengths.
    fn widen(from: &[Self], to: &mut [f32]);

    /// The elements as f32, in `scratch` unless they are already.
    fn as_wide<'a>(from: &'a [Self], scratch: &'a mut Vec<f32>) -> &'a [f32] {
        scratch.resize(from.len(), 0.0);
        Self::widen(from, scratch);
        scratch
    }
}

impl Widen for f32 {
    fn widen(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }

    fn as_wide<'a>(from: &'a [f32], _scratch: &'a mut Vec<f32>) -> &'a [f32] {
        from
    }
}

impl Widen for f16 {
    fn widen(from: &[f16], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }
}

impl Widen for bf16 {
    fn widen(from: &[bf16], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = f32::from_bits(u32::from(from.to_bits()) << 16);
        }
    }
}

impl Widen for F8E4M3 {
    fn widen(from: &[F8E4M3], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = E4M3[usize::from(from.0)];
        }
    }
}

fn widen_all<T: Widen>(from: &[T]) -> Vec<f32> {
    let mut to = vec![0.0; from.len()];
    to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| T::widen(from, to));
    to
}

/// The elements of an f32, f16, bf16 or f8e4m3 tensor as f32; `operator` is for the error.
pub(crate) fn widened<'a>(operator: &'static str, view: TensorView<'a>) -> Result<Cow<'a, [f32]>, KernelError> {
    match view.dtype {
        DType::F32 => view.as_slice::<f32>().map(Cow::Borrowed),
        DType::F16 => view.as_slice::<f16>().map(|v| Cow::Owned(widen_all(v))),
        DType::Bf16 => view.as_slice::<bf16>().map(|v| Cow::Owned(widen_all(v))),
        DType::F8e4m3 => view.as_slice::<F8E4M3>().map(|v| Cow::Owned(widen_all(v))),
        _ => None,
    }
    .ok_or(KernelError::UnsupportedType(operator, view.dtype))
}

/// Runs `compute` on f32 room for `out`'s elements and rounds the result once, half to even, to its type: f32, f16 or bf16.
pub(crate) fn rounded(
    operator: &'static str,
    out: &mut TensorViewMut<'_>,
    compute: impl FnOnce(&mut [f32]) -> Result<(), KernelError>,
) -> Result<(), KernelError> {
    let dtype = out.dtype;
    let unsupported = || KernelError::UnsupportedType(operator, dtype);
    if let Some(out) = out.as_mut_slice::<f32>() {
        return compute(out);
    }
    let mut wide = vec![0.0; out.elements()];
    compute(&mut wide)?;
    match dtype {
        DType::F16 => {
            let out = out.as_mut_slice::<f16>().ok_or_else(unsupported)?;
            out.par_chunks_mut(CHUNK).zip(wide.par_chunks(CHUNK)).for_each(|(out, wide)| out.convert_from_f32_slice(wide));
        }
        DType::Bf16 => {
            let out = out.as_mut_slice::<bf16>().ok_or_else(unsupported)?;
            out.par_chunks_mut(CHUNK).zip(wide.par_chunks(CHUNK)).for_each(|(out, wide)| out.convert_from_f32_slice(wide));
        }
        _ => return Err(unsupported()),
    }
    Ok(())
}

/// Runs `compute` on i32 room for `out`'s elements; what is no i32 then gets the sums as f32, rounded as [`rounded`] does.
pub(crate) fn rounded_sums(
    operator: &'static str,
    out: &mut TensorViewMut<'_>,
    compute: impl FnOnce(&mut [i32]) -> Result<(), KernelError>,
) -> Result<(), KernelError> {
    if let Some(out) = out.as_mut_slice::<i32>() {
        return compute(out);
    }
    let mut sums = vec![0; out.elements()];
    compute(&mut sums)?;
    rounded(operator, out, |out| {
        out.par_chunks_mut(CHUNK).zip(sums.par_chunks(CHUNK)).for_each(|(out, sums)| {
            out.iter_mut().zip(sums).for_each(|(out, &sum)| *out = sum as f32);
        });
        Ok(())
    })
}
