//! The exact 8-bit matrix product u8 × i8 → i32 on rten's kernels.
//!
//! On machines without 8-bit dot products those kernels add pairs of products in 16 bits, which saturates. There the right-hand
//! matrix is split into W/2 + (W − W/2): each half lies in -64 … 64, so that 2 · 255 · 64 fits, and the two products add up to the exact one.
//!
//! Must not know: operators, shapes of tensors.

use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedBMatrix, QuantParams};

use super::matrix::Strided;
use crate::cpu::KernelError;

thread_local! {
    // The library's executor is not `Send`; making one costs a feature check.
    static EXECUTOR: GemmExecutor<u8, i8, i32> = GemmExecutor::new();
}

/// Whether this machine's kernel needs the split.
fn saturates() -> bool {
    EXECUTOR.with(GemmExecutor::may_saturate)
}

/// The two addends of a matrix, row-major.
fn halves(b: Strided<'_, i8>) -> [Vec<i8>; 2] {
    let whole = b.to_row_major();
    let half: Vec<i8> = whole.iter().map(|&v| v / 2).collect();
    let rest = whole.iter().zip(&half).map(|(&v, &h)| v - h).collect();
    [half, rest]
}

/// A right-hand matrix packed for the 8-bit kernel of this machine: one part, or two that add up to it.
pub struct PackedI8 {
    parts: Vec<PackedBMatrix<i8>>,
}

impl PackedI8 {
    /// Packs a K×N matrix; `None` when it has no element and there is nothing to pack.
    pub(crate) fn new(b: Strided<'_, i8>) -> Result<Option<Self>, KernelError> {
        PackedI8::with_split(b, saturates())
    }

    fn with_split(b: Strided<'_, i8>, split: bool) -> Result<Option<Self>, KernelError> {
        if b.is_empty() {
            return Ok(None);
        }
        let pack = |b: Strided<'_, i8>| b.matrix().map(|b| EXECUTOR.with(|executor| executor.prepack_b(b)));
        let parts = if split {
            halves(b).iter().map(|half| pack(Strided::row_major(half, b.rows, b.cols))).collect::<Result<_, KernelError>>()?
        } else {
            vec![pack(b)?]
        };
        Ok(Some(PackedI8 { parts }))
    }
}

/// The right-hand side of a product.
#[derive(Clone, Copy)]
pub(crate) enum RhsI8<'a> {
    Strided(Strided<'a, i8>),
    Packed(&'a PackedI8),
}

/// `out = (a - a_zero) · b`, exact modulo 2³². `out` is row-major.
pub(crate) fn multiply(out: &mut [i32], a: Strided<'_, u8>, a_zero: u8, b: RhsI8<'_>) -> Result<(), KernelError> {
    match b {
        RhsI8::Strided(b) if saturates() => multiply_halves(out, a, a_zero, b),
        RhsI8::Strided(b) => accumulate(out, a, a_zero, GemmInputB::Unpacked(b.matrix()?), 0),
        RhsI8::Packed(b) => {
            for (i, part) in b.parts.iter().enumerate() {
                accumulate(out, a, a_zero, GemmInputB::Packed(part), i32::from(i > 0))?;
            }
            Ok(())
        }
    }
}

fn multiply_halves(out: &mut [i32], a: Strided<'_, u8>, a_zero: u8, b: Strided<'_, i8>) -> Result<(), KernelError> {
    for (i, half) in halves(b).iter().enumerate() {
        let half = Strided::row_major(half, b.rows, b.cols).matrix()?;
        accumulate(out, a, a_zero, GemmInputB::Unpacked(half), i32::from(i > 0))?;
    }
    Ok(())
}

/// `out = (a - a_zero) · b + beta · out`. Per-column zero points are not passed on: rten-gemm 0.27 packs those of the first column panel
/// into every full panel.
fn accumulate(out: &mut [i32], a: Strided<'_, u8>, a_zero: u8, b: GemmInputB<'_, i8>, beta: i32) -> Result<(), KernelError> {
    let zero_point = vec![a_zero; if a_zero == 0 { 0 } else { a.rows }];
    let a_quant = (a_zero != 0).then_some(QuantParams { zero_point: &zero_point });
    let options = GemmOptions { beta, a_quant, ..GemmOptions::default() };
    EXECUTOR.with(|executor| {
        executor.gemm(out, GemmInputA::Unpacked(a.matrix()?), b, options).map_err(|e| e.to_string()).map_err(KernelError::Data)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(a: &[u8], zero: u8, b: &[i8], m: usize, k: usize, n: usize) -> Vec<i32> {
        let at = |i: usize, j: usize| -> i64 {
            (0..k).map(|p| (i64::from(a[i * k + p]) - i64::from(zero)) * i64::from(b[p * n + j])).sum()
        };
        (0..m * n).map(|o| at(o / n, o % n) as i32).collect()
    }

    /// Operands at the ends of their ranges, where 16-bit pair sums saturate, through every path.
    #[test]
    fn extreme_operands_are_exact() {
        let left: [fn(usize) -> u8; 3] = [|_| 255, |i| if i % 3 == 0 { 0 } else { 255 }, |i| (i * 89) as u8];
        let right: [fn(usize) -> i8; 4] = [|_| 127, |_| -128, |i| if i % 2 == 0 { 127 } else { -128 }, |i| (i * 57) as u8 as i8];
        for (m, k, n) in [(1, 64, 32), (1, 37, 3), (3, 1100, 70), (9, 130, 33), (70, 5, 1)] {
            for (a, b) in left.iter().flat_map(|a| right.iter().map(move |b| (a, b))) {
                let a: Vec<u8> = (0..m * k).map(a).collect();
                let b: Vec<i8> = (0..k * n).map(b).collect();
                for zero in [0, 128, 255] {
                    let expected = exact(&a, zero, &b, m, k, n);
                    let (a, b) = (Strided::row_major(&a, m, k), Strided::row_major(&b, k, n));
                    let (whole, halves) = (PackedI8::new(b), PackedI8::with_split(b, true));
                    let (whole, halves) = (whole.unwrap().unwrap(), halves.unwrap().unwrap());
                    for rhs in [RhsI8::Strided(b), RhsI8::Packed(&whole), RhsI8::Packed(&halves)] {
                        let mut out = vec![7; m * n];
                        multiply(&mut out, a, zero, rhs).unwrap();
                        assert!(out == expected, "{m}×{k}×{n}, zero point {zero}");
                    }
                    let mut out = vec![7; m * n];
                    multiply_halves(&mut out, a, zero, b).unwrap();
                    assert!(out == expected, "{m}×{k}×{n} in halves, zero point {zero}");
                    let transposed: Vec<i8> = b.transposed().to_row_major();
                    multiply(&mut out, a, zero, RhsI8::Strided(Strided::row_major(&transposed, n, k).transposed())).unwrap();
                    assert!(out == expected, "{m}×{k}×{n} transposed, zero point {zero}");
                }
            }
        }
    }
}
