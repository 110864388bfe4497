//! CPU kernels of [`crate::op::gemm`], and the matrix products that other kernels build on.
//!
//! f32 and 8-bit products run on rten-gemm's kernels for this machine; constant right-hand matrices are packed for them when a session is
//! created. f16 and bf16 are widened, accumulate in f32 and are rounded once. f64 and integers run in a blocked loop.

use super::elementwise::Activation;
use super::{Context, Kernel, KernelError, Prepared};
use crate::dtype::DType;
use crate::op::elementwise::Unary;
use crate::op::gemm::{Gemm, MatMul};
use crate::tensor::{TensorView, TensorViewMut};
use float::{PackedF32, RhsF32};
use matrix::{BatchedShape, Strided};
use number::{Number, batched, with_number};
use std::borrow::Cow;
use widen::{rounded, widened};

mod einsum;
pub(crate) mod float;
pub(crate) mod int8;
mod integer;
pub(crate) mod matrix;
mod number;
mod tiles;
pub(crate) mod widen;

/// Operand `i`.
pub(crate) fn required<'a>(inputs: &[Option<TensorView<'a>>], i: usize) -> Result<TensorView<'a>, KernelError> {
    inputs.get(i).copied().flatten().ok_or_else(|| KernelError::Data(format!("input {i} is missing")))
}

/// The elements of an operand of type `T`.
fn elements<'a, T: Number>(operator: &'static str, view: TensorView<'a>) -> Result<&'a [T], KernelError> {
    view.as_slice::<T>().ok_or(KernelError::UnsupportedType(operator, view.dtype))
}

/// Whether products of this type are computed in f32.
fn in_f32(dtype: DType) -> bool {
    dtype.computes_in_f32()
}

/// Packs a constant right-hand matrix of a type that is computed in f32.
fn prepack(operator: &'static str, b: TensorView<'_>, transposed: bool) -> Result<Option<Prepared>, KernelError> {
    let [leading @ .., rows, cols] = b.shape else { return Ok(None) };
    if !in_f32(b.dtype) || leading.iter().any(|&d| d != 1) {
        return Ok(None);
    }
    let data = widened(operator, b)?;
    let b = Strided::row_major(&data, *rows, *cols);
    Ok(PackedF32::new(if transposed { b.transposed() } else { b })?.map(Prepared::F32))
}

/// What happens to rows of a product in f32 while they are in the cache.
struct Epilogue<'a> {
    /// One value per column, or none.
    bias: Cow<'a, [f32]>,
    activation: Option<Activation>,
}

impl<'a> Epilogue<'a> {
    /// `None` when there is nothing to do.
    fn new(operator: &'static str, bias: Option<TensorView<'a>>, activation: Option<Unary>) -> Result<Option<Self>, KernelError> {
        if bias.is_none() && activation.is_none() {
            return Ok(None);
        }
        let bias = bias.map(|bias| widened(operator, bias)).transpose()?.unwrap_or_default();
        Ok(Some(Epilogue { bias, activation: activation.map(Activation::new) }))
    }

    fn apply(&self, rows: &mut [f32]) {
        if !self.bias.is_empty() {
            for row in rows.chunks_exact_mut(self.bias.len()) {
                row.iter_mut().zip(&*self.bias).for_each(|(to, b)| *to += b);
            }
        }
        if let Some(activation) = &self.activation {
            activation.apply(rows);
        }
    }
}

impl Kernel for MatMul {
    fn prepare(&self, constants: &[Option<TensorView<'_>>]) -> Result<Option<Prepared>, KernelError> {
        match constants.get(1).copied().flatten() {
            Some(b) => prepack("MatMul", b, false),
            None => Ok(None),
        }
    }

    fn run(
        &self,
        context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let (a, b) = (required(inputs, 0)?, required(inputs, 1)?);
        let BatchedShape { m, k, n, offsets } = BatchedShape::new(a.shape, b.shape).collapsed();
        let out = &mut outputs[0];
        if in_f32(a.dtype) {
            let a = widened("MatMul", a)?;
            let a = Strided::row_major(&a, m, k);
            let epilogue = Epilogue::new("MatMul", inputs.get(2).copied().flatten(), self.activation)?;
            return rounded("MatMul", out, |out| match (context.prepared, epilogue) {
                (Some(Prepared::F32(packed)), None) if offsets.len() == 1 => float::multiply(out, a, RhsF32::Packed(packed), 1.0),
                (Some(Prepared::F32(packed)), Some(epilogue)) => {
                    float::multiply_then(out, a, RhsF32::Packed(packed), 1.0, &|rows| epilogue.apply(rows))
                }
                // An epilogue comes with a matrix on the right, so that the batch has collapsed into one product.
                (_, Some(epilogue)) => {
                    let b = widened("MatMul", b)?;
                    let b = RhsF32::Strided(Strided::row_major(&b, k, n));
                    float::multiply_then(out, a, b, 1.0, &|rows| epilogue.apply(rows))
                }
                _ => batched(out, a, Strided::row_major(&widened("MatMul", b)?, k, n), &offsets),
            });
        }
        with_number!(a.dtype, T => {
            let (a, b) = (elements::<T>("MatMul", a)?, elements::<T>("MatMul", b)?);
            let dtype = out.dtype;
            let out = out.as_mut_slice::<T>().ok_or(KernelError::UnsupportedType("MatMul", dtype))?;
            batched(out, Strided::row_major(a, m, k), Strided::row_major(b, k, n), &offsets)
        }, else Err(KernelError::UnsupportedType("MatMul", a.dtype)))
    }
}

/// A row-major operand of Gemm, transposed or not.
fn operand<'a, T: Copy>(data: &'a [T], shape: &[usize], transposed: bool) -> Strided<'a, T> {
    let matrix = Strided::row_major(data, shape[0], shape[1]);
    if transposed { matrix.transposed() } else { matrix }
}

/// `out = alpha · out + beta · c` for an M×N `out`, c broadcast.
fn add_broadcast<T: Number>(out: &mut [T], n: usize, alpha: f32, beta: f32, c: &[T], c_shape: &[usize]) {
    let (rows, cols) = match *c_shape {
        [rows, cols] => (rows, cols),
        [cols] => (1, cols),
        _ => (1, 1),
    };
    for (r, row) in out.chunks_exact_mut(n.max(1)).enumerate() {
        let c = &c[if rows == 1 { 0 } else { r * cols }..][..cols];
        for (i, to) in row.iter_mut().enumerate() {
            *to = to.scaled(alpha).plus(c[if cols == 1 { 0 } else { i }].scaled(beta));
        }
    }
}

impl Kernel for Gemm {
    fn prepare(&self, constants: &[Option<TensorView<'_>>]) -> Result<Option<Prepared>, KernelError> {
        match constants.get(1).copied().flatten() {
            Some(b) if b.shape.len() == 2 => prepack("Gemm", b, self.trans_b),
            _ => Ok(None),
        }
    }

    fn run(
        &self,
        context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let (a, b) = (required(inputs, 0)?, required(inputs, 1)?);
        let c = inputs.get(2).copied().flatten();
        let out = &mut outputs[0];
        let n = out.shape[1];
        if in_f32(a.dtype) {
            let wide_a = widened("Gemm", a)?;
            let a = operand(&wide_a, a.shape, self.trans_a);
            let wide_c = c.map(|c| widened("Gemm", c)).transpose()?;
            return rounded("Gemm", out, |out| {
                match context.prepared {
                    Some(Prepared::F32(packed)) => float::multiply(out, a, RhsF32::Packed(packed), self.alpha)?,
                    _ => {
                        let wide_b = widened("Gemm", b)?;
                        float::multiply(out, a, RhsF32::Strided(operand(&wide_b, b.shape, self.trans_b)), self.alpha)?;
                    }
                }
                if let (Some(wide), Some(c)) = (&wide_c, c) {
                    add_broadcast(out, n, 1.0, self.beta, wide, c.shape);
                }
                Ok(())
            });
        }
        with_number!(a.dtype, T => {
            let (a_data, b_data) = (elements::<T>("Gemm", a)?, elements::<T>("Gemm", b)?);
            let dtype = out.dtype;
            let out = out.as_mut_slice::<T>().ok_or(KernelError::UnsupportedType("Gemm", dtype))?;
            let (a, b) = (operand(a_data, a.shape, self.trans_a), operand(b_data, b.shape, self.trans_b));
            batched(out, a, b, &[(0, 0)])?;
            match c {
                Some(c) => add_broadcast(out, n, self.alpha, self.beta, elements::<T>("Gemm", c)?, c.shape),
                None => out.iter_mut().for_each(|v| *v = v.scaled(self.alpha)),
            }
            Ok(())
        }, else Err(KernelError::UnsupportedType("Gemm", a.dtype)))
    }
}

#[cfg(test)]
mod tests;
