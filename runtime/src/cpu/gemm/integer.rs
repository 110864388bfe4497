//! CPU kernel of [`MatMulInteger`].
//!
//! Operands of either signedness are shifted by 128, zero points with them, to the u8 × i8 that the kernels take. With zero points za of the rows
//! and zb of the columns, Σ (a - za)(b - zb) = Σ ab - za Σ b - zb Σ a + K·za·zb.

use rayon::prelude::*;
use std::borrow::Cow;

use super::int8::{self, PackedI8, RhsI8};
use super::matrix::{BatchedShape, Strided, offsets};
use super::required;
use crate::cpu::{Context, Kernel, KernelError, Prepared};
use crate::dtype::DType;
use crate::op::gemm::MatMulInteger;
use crate::tensor::{TensorView, TensorViewMut};

/// 8-bit elements as they are, or shifted by 128 when `from` is not the wanted signedness.
fn shifted(view: TensorView<'_>, from: DType) -> Result<Cow<'_, [u8]>, KernelError> {
    match view.dtype {
        dtype if dtype == from => Ok(Cow::Owned(view.data.iter().map(|v| v ^ 0x80).collect())),
        DType::I8 | DType::U8 => Ok(Cow::Borrowed(view.data)),
        dtype => Err(KernelError::UnsupportedType("MatMulInteger", dtype)),
    }
}

/// Left-hand elements as u8.
fn left(view: TensorView<'_>) -> Result<Cow<'_, [u8]>, KernelError> {
    shifted(view, DType::I8)
}

/// Right-hand elements as i8, by their bits.
fn right(view: TensorView<'_>) -> Result<Cow<'_, [u8]>, KernelError> {
    shifted(view, DType::U8)
}

/// Zero points of one product's rows or columns: one for all, or one each.
struct ZeroPoints {
    values: Vec<i32>,
    starts: Vec<usize>,
    each: usize,
}

impl ZeroPoints {
    /// `extent` rows (or columns) in each of the products of `batch`; `absent` is the shifted zero.
    fn new(view: Option<TensorView<'_>>, extent: usize, batch: &[usize], absent: i32, decode: impl Fn(u8) -> i32) -> Self {
        let products: usize = batch.iter().product();
        let Some(view) = view else { return ZeroPoints { values: vec![absent], starts: vec![0; products], each: 0 } };
        let values: Vec<i32> = view.data.iter().map(|&v| decode(v)).collect();
        if values.len() == 1 {
            return ZeroPoints { values, starts: vec![0; products], each: 0 };
        }
        let leading = &view.shape[..view.shape.len().saturating_sub(2)];
        ZeroPoints { values, starts: offsets(batch, leading, extent), each: 1 }
    }

    fn at(&self, product: usize, index: usize) -> i32 {
        self.values[self.starts[product] + index * self.each]
    }

    /// The one zero point of every row, when it is the same everywhere.
    fn uniform(&self) -> Option<i32> {
        (self.each == 0).then(|| self.values[0])
    }
}

impl Kernel for MatMulInteger {
    fn prepare(&self, constants: &[Option<TensorView<'_>>]) -> Result<Option<Prepared>, KernelError> {
        let Some(b) = constants.get(1).copied().flatten() else { return Ok(None) };
        let [rows, cols] = *b.shape else { return Ok(None) };
        let data = right(b)?;
        Ok(PackedI8::new(Strided::row_major(bytemuck::cast_slice(&data), rows, cols))?.map(Prepared::I8))
    }

    fn run(
        &self,
        context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let (a, b) = (required(inputs, 0)?, required(inputs, 1)?);
        let (a_zero, b_zero) = (inputs.get(2).copied().flatten(), inputs.get(3).copied().flatten());
        let BatchedShape { m, k, n, offsets } = BatchedShape::new(a.shape, b.shape);
        let out_shape = outputs[0].shape;
        let out = outputs[0].as_mut_slice::<i32>().ok_or(KernelError::UnsupportedType("MatMulInteger", a.dtype))?;
        if out.is_empty() {
            return Ok(());
        }
        let vectors = usize::from(a.shape.len() == 1) + usize::from(b.shape.len() == 1);
        let batch = &out_shape[..(out_shape.len() + vectors).saturating_sub(2)];
        let (a_flip, b_flip) = (if a.dtype == DType::I8 { 0x80 } else { 0 }, if b.dtype == DType::U8 { 0x80 } else { 0 });
        let a_zero = ZeroPoints::new(a_zero, m, batch, a_flip, |v| i32::from(v) ^ a_flip);
        let b_zero = ZeroPoints::new(b_zero, n, batch, -b_flip, |v| i32::from((v ^ b_flip as u8) as i8));
        let (a_data, b_data) = (left(a)?, right(b)?);
        let b_data: &[i8] = bytemuck::cast_slice(&b_data);
        // A zero point shared by all rows is left to the kernel, the others are corrected for below.
        let shared = a_zero.uniform().and_then(|zero| u8::try_from(zero).ok());
        let product = |(index, (out, &(a_start, b_start))): (usize, (&mut [i32], &(usize, usize)))| {
            let a = Strided::row_major(&a_data[a_start..][..m * k], m, k);
            let b = Strided::row_major(&b_data[b_start..][..k * n], k, n);
            let rhs = match context.prepared {
                Some(Prepared::I8(packed)) => RhsI8::Packed(packed),
                _ => RhsI8::Strided(b),
            };
            int8::multiply(out, a, shared.unwrap_or(0), rhs)?;
            let a_zeros: Vec<i32> = (0..m).map(|r| a_zero.at(index, r)).collect();
            let b_zeros: Vec<i32> = (0..n).map(|c| b_zero.at(index, c)).collect();
            if shared.is_none() {
                subtract_columns(out, b, &a_zeros);
            }
            if b_zeros.iter().any(|&z| z != 0) {
                subtract_rows(out, a, &a_zeros, &b_zeros);
            }
            Ok(())
        };
        out.par_chunks_mut(m * n).zip(&offsets).enumerate().try_for_each(product)
    }
}

/// `out[r, c] -= za[r] · Σ b[.., c]`.
fn subtract_columns(out: &mut [i32], b: Strided<'_, i8>, a_zeros: &[i32]) {
    let mut sums = vec![0i32; b.cols];
    for row in b.data.chunks_exact(b.cols) {
        for (sum, &v) in sums.iter_mut().zip(row) {
            *sum = sum.wrapping_add(v.into());
        }
    }
    for (row, &zero) in out.chunks_exact_mut(b.cols).zip(a_zeros) {
        for (to, &sum) in row.iter_mut().zip(&sums) {
            *to = to.wrapping_sub(zero.wrapping_mul(sum));
        }
    }
}

/// `out[r, c] -= zb[c] · Σ (a[r, ..] - za[r])`.
fn subtract_rows(out: &mut [i32], a: Strided<'_, u8>, a_zeros: &[i32], b_zeros: &[i32]) {
    for (r, (row, &zero)) in out.chunks_exact_mut(b_zeros.len()).zip(a_zeros).enumerate() {
        let elements = &a.data[r * a.cols..][..a.cols];
        let sum = elements.iter().fold(0i32, |sum, &v| sum.wrapping_add(i32::from(v) - zero));
        for (to, &zero) in row.iter_mut().zip(b_zeros) {
            *to = to.wrapping_sub(zero.wrapping_mul(sum));
        }
    }
}
