//! Matrix products of any element type that is computed in itself: f32 through the packed kernels, f64 and integers in a blocked loop.
//!
//! Must not know: operators, shapes of tensors.

use rayon::prelude::*;

use super::float::{self, RhsF32};
use super::matrix::Strided;
use crate::cpu::KernelError;
use crate::dtype::Element;

/// Products with fewer multiplications than this are not worth packing or spreading over threads.
const TINY: usize = 64;

/// Multiplications that a parallel task should have at least.
pub(crate) const GRAIN: usize = 1 << 15;

/// Rows, depth and columns of a block: the depth × columns of the right-hand side stay in cache for all its rows.
const BLOCK: (usize, usize, usize) = (8, 64, 256);

/// An element type that is multiplied and added in itself; integers wrap.
pub(crate) trait Number: Element {
    const ZERO: Self;

    fn plus(self, rhs: Self) -> Self;

    fn times(self, rhs: Self) -> Self;

    /// `factor · self`; integers go through f64 unless the factor is 1.
    fn scaled(self, factor: f32) -> Self;

    /// `out = a · b`, row-major.
    fn multiply(out: &mut [Self], a: Strided<'_, Self>, b: Strided<'_, Self>) -> Result<(), KernelError>;
}

impl Number for f32 {
    const ZERO: f32 = 0.0;

    fn plus(self, rhs: f32) -> f32 {
        self + rhs
    }

    fn times(self, rhs: f32) -> f32 {
        self * rhs
    }

    fn scaled(self, factor: f32) -> f32 {
        self * factor
    }

    fn multiply(out: &mut [f32], a: Strided<'_, f32>, b: Strided<'_, f32>) -> Result<(), KernelError> {
        float::multiply(out, a, RhsF32::Strided(b), 1.0)
    }
}

impl Number for f64 {
    const ZERO: f64 = 0.0;

    fn plus(self, rhs: f64) -> f64 {
        self + rhs
    }

    fn times(self, rhs: f64) -> f64 {
        self * rhs
    }

    fn scaled(self, factor: f32) -> f64 {
        self * f64::from(factor)
    }

    fn multiply(out: &mut [f64], a: Strided<'_, f64>, b: Strided<'_, f64>) -> Result<(), KernelError> {
        blocked(out, a, b);
        Ok(())
    }
}

macro_rules! integer {
    ($($ty:ty),*) => {$(
        impl Number for $ty {
            const ZERO: $ty = 0;

            fn plus(self, rhs: $ty) -> $ty {
                self.wrapping_add(rhs)
            }

            fn times(self, rhs: $ty) -> $ty {
                self.wrapping_mul(rhs)
            }

            fn scaled(self, factor: f32) -> $ty {
                if factor == 1.0 { self } else { (self as f64 * f64::from(factor)) as $ty }
            }

            fn multiply(out: &mut [$ty], a: Strided<'_, $ty>, b: Strided<'_, $ty>) -> Result<(), KernelError> {
                blocked(out, a, b);
                Ok(())
            }
        }
    )*};
}
integer!(i8, i16, i32, i64, u8, u16, u32, u64);

/// Evaluates `$body` with `$T` bound to the [`Number`] type of `$dtype`, or `$other` when there is none.
macro_rules! with_number {
    ($dtype:expr, $T:ident => $body:expr, else $other:expr) => {{
        macro_rules! arm {
            ($ty:ty) => {{
                type $T = $ty;
                $body
            }};
        }
        match $dtype {
            $crate::dtype::DType::F32 => arm!(f32),
            $crate::dtype::DType::F64 => arm!(f64),
            $crate::dtype::DType::I8 => arm!(i8),
            $crate::dtype::DType::I16 => arm!(i16),
            $crate::dtype::DType::I32 => arm!(i32),
            $crate::dtype::DType::I64 => arm!(i64),
            $crate::dtype::DType::U8 => arm!(u8),
            $crate::dtype::DType::U16 => arm!(u16),
            $crate::dtype::DType::U32 => arm!(u32),
            $crate::dtype::DType::U64 => arm!(u64),
            _ => $other,
        }
    }};
}
pub(crate) use with_number;

/// Products of equal extents: product i multiplies the matrices that begin at `offsets[i]` and writes the i-th M·N elements of `out`.
pub(crate) fn batched<T: Number>(
    out: &mut [T],
    a: Strided<'_, T>,
    b: Strided<'_, T>,
    offsets: &[(usize, usize)],
) -> Result<(), KernelError> {
    if out.is_empty() {
        return Ok(());
    }
    let work = (a.rows * b.cols).saturating_mul(a.cols.max(1));
    let product = |out: &mut [T], &(a_start, b_start): &(usize, usize)| {
        let a = Strided { data: a.data.get(a_start..).unwrap_or_default(), ..a };
        let b = Strided { data: b.data.get(b_start..).unwrap_or_default(), ..b };
        if work <= TINY {
            tiny(out, a, b);
            Ok(())
        } else {
            T::multiply(out, a, b)
        }
    };
    if let [only] = offsets {
        return product(out, only);
    }
    let least = (GRAIN / work).max(1);
    out.par_chunks_mut(a.rows * b.cols).zip(offsets).with_min_len(least).try_for_each(|(out, offsets)| product(out, offsets))
}

fn tiny<T: Number>(out: &mut [T], a: Strided<'_, T>, b: Strided<'_, T>) {
    for (r, row) in out.chunks_exact_mut(b.cols).enumerate() {
        for (c, to) in row.iter_mut().enumerate() {
            *to = (0..a.cols).fold(T::ZERO, |sum, p| {
                sum.plus(a.data[r * a.row_stride + p * a.col_stride].times(b.data[p * b.row_stride + c * b.col_stride]))
            });
        }
    }
}

fn blocked<T: Number>(out: &mut [T], a: Strided<'_, T>, b: Strided<'_, T>) {
    let (rows, depth, cols) = BLOCK;
    let n = b.cols;
    let packed;
    let (b_data, b_stride) = if b.col_stride == 1 {
        (b.data, b.row_stride)
    } else {
        packed = b.to_row_major();
        (packed.as_slice(), n)
    };
    out.par_chunks_mut(rows * n).enumerate().for_each(|(block, out)| {
        out.fill(T::ZERO);
        for first_col in (0..n).step_by(cols) {
            let last_col = (first_col + cols).min(n);
            for first in (0..a.cols).step_by(depth) {
                for (r, row) in out.chunks_exact_mut(n).enumerate() {
                    for p in first..(first + depth).min(a.cols) {
                        let factor = a.data[(block * rows + r) * a.row_stride + p * a.col_stride];
                        let from = &b_data[p * b_stride..][first_col..last_col];
                        for (to, &v) in row[first_col..last_col].iter_mut().zip(from) {
                            *to = to.plus(factor.times(v));
                        }
                    }
                }
            }
        }
    });
}
