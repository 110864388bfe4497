//! The f32 product with a packed right-hand side where vectors have 16 lanes (AVX-512): tiles of 8 × 48 results in 24 registers.
//!
//! rten's tile there is 6 × 32, made for cores with one multiply-add unit: its 12 sums do not cover the latency of two. Measured on one
//! such core, 512 × 384 → 384 runs at 135 GFLOP/s in these tiles and at 106 in rten's; the larger the matrices, the closer they come.
//!
//! Must not know: operators, shapes of tensors.

use rayon::prelude::*;
use rten_simd::ops::{BitOps, NumOps};
use rten_simd::{Isa, SimdOp};

use super::matrix::Strided;

/// Rows of a tile.
pub(super) const ROWS: usize = 8;
/// Vectors of a tile's row.
const VECTORS: usize = 3;
const LANES: usize = 16;
/// Columns of a tile.
const COLUMNS: usize = VECTORS * LANES;
/// Elements along K that are summed in registers before they are added to the result.
const DEPTH: usize = 768;
/// Fewest results worth a task.
const GRAIN: usize = 16 * 1024;

/// A K×N matrix in strips of 48 columns, each strip row by row; the last one is filled up with zeros.
pub struct Tiles {
    data: Vec<f32>,
    k: usize,
    n: usize,
}

struct Lanes;

impl SimdOp for Lanes {
    type Output = usize;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> usize {
        isa.f32().len()
    }
}

impl Tiles {
    /// Packs a matrix; `None` where vectors have another number of lanes.
    pub fn new(b: Strided<'_, f32>) -> Option<Tiles> {
        if Lanes.dispatch() != LANES {
            return None;
        }
        let (k, n) = (b.rows, b.cols);
        let mut data = vec![0.0; n.div_ceil(COLUMNS) * COLUMNS * k];
        for (strip, to) in data.chunks_exact_mut(COLUMNS * k.max(1)).enumerate() {
            let first = strip * COLUMNS;
            let columns = COLUMNS.min(n - first);
            for (row, to) in to.chunks_exact_mut(COLUMNS).enumerate() {
                for (column, to) in to[..columns].iter_mut().enumerate() {
                    *to = b.data[row * b.row_stride + (first + column) * b.col_stride];
                }
            }
        }
        Some(Tiles { data, k, n })
    }

    /// `out = a · self`. `out` is row-major and not empty. Every element is the same whatever the number of threads.
    pub fn multiply(&self, out: &mut [f32], a: Strided<'_, f32>) {
        let copied;
        let a = if a.col_stride == 1 {
            a
        } else {
            copied = a.to_row_major();
            Strided::row_major(&copied, a.rows, a.cols)
        };
        let threads = rayon::current_num_threads();
        let strips = self.n.div_ceil(COLUMNS);
        if threads == 1 || out.len() < GRAIN {
            self.multiply_alone(out, a);
        } else if a.rows >= threads * 2 * ROWS {
            let rows = a.rows.div_ceil(2 * threads).next_multiple_of(ROWS);
            out.par_chunks_mut(rows * self.n)
                .enumerate()
                .for_each(|(i, out)| self.multiply_alone(out, a.rows_from(i * rows, out.len() / self.n)));
        } else {
            // Few rows: tasks take columns, into memory of their own.
            let each = strips.div_ceil(2 * threads).max(1);
            let parts: Vec<Vec<f32>> = (0..strips.div_ceil(each))
                .into_par_iter()
                .map(|task| {
                    let range = task * each..strips.min((task + 1) * each);
                    let columns = self.columns(&range);
                    let mut part = vec![0.0; a.rows * columns];
                    self.strips(range, a, &mut part, columns);
                    part
                })
                .collect();
            let mut first = 0;
            for part in &parts {
                let columns = part.len() / a.rows;
                for (to, from) in out.chunks_exact_mut(self.n).zip(part.chunks_exact(columns)) {
                    to[first..first + columns].copy_from_slice(from);
                }
                first += columns;
            }
        }
    }

    /// As [`Tiles::multiply`], of a row-major `a`, on this thread.
    pub fn multiply_alone(&self, out: &mut [f32], a: Strided<'_, f32>) {
        self.strips(0..self.n.div_ceil(COLUMNS), a, out, self.n);
    }

    /// Columns of these strips.
    fn columns(&self, strips: &std::ops::Range<usize>) -> usize {
        (strips.end * COLUMNS).min(self.n) - strips.start * COLUMNS
    }

    /// The product with some strips, into rows of `width` elements.
    fn strips(&self, strips: std::ops::Range<usize>, a: Strided<'_, f32>, out: &mut [f32], width: usize) {
        if self.k == 0 {
            out.fill(0.0);
        }
        for first in (0..self.k).step_by(DEPTH) {
            let depth = DEPTH.min(self.k - first);
            for strip in strips.clone() {
                let b = &self.data[strip * COLUMNS * self.k..][first * COLUMNS..][..depth * COLUMNS];
                let column = (strip - strips.start) * COLUMNS;
                Strip { a: a.columns_from(first, depth), b, out, width, column, adds: first > 0 }.dispatch();
            }
        }
    }
}

/// The product of some rows with one strip, or a part of it along K.
struct Strip<'a, 'o> {
    a: Strided<'a, f32>,
    b: &'a [f32],
    out: &'o mut [f32],
    /// Elements per row of `out`, and the first that this writes.
    width: usize,
    column: usize,
    /// To what is there already.
    adds: bool,
}

impl SimdOp for Strip<'_, '_> {
    type Output = ();

    // Sums stay in registers only as long as every index is a constant of an unrolled loop.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let Strip { a, b, out, width, column, adds } = self;
        let columns = COLUMNS.min(width - column);
        for first in (0..a.rows).step_by(ROWS) {
            let rows = ROWS.min(a.rows - first);
            // Rows past the end repeat the last one and are not stored.
            let mut from = [&a.data[..0]; ROWS];
            for (i, from) in from.iter_mut().enumerate() {
                *from = &a.data[(first + i.min(rows - 1)) * a.row_stride..][..a.cols];
            }
            let mut sums = [[ops.zero(); VECTORS]; ROWS];
            for (k, b) in b.chunks_exact(COLUMNS).take(a.cols).enumerate() {
                let mut right = [ops.zero(); VECTORS];
                for (j, right) in right.iter_mut().enumerate() {
                    *right = ops.load(&b[j * LANES..]);
                }
                for i in 0..ROWS {
                    let left = ops.splat(from[i][k]);
                    for j in 0..VECTORS {
                        sums[i][j] = ops.mul_add(left, right[j], sums[i][j]);
                    }
                }
            }
            if rows == ROWS && columns == COLUMNS {
                for i in 0..ROWS {
                    let to = &mut out[(first + i) * width + column..][..COLUMNS];
                    for j in 0..VECTORS {
                        let to = &mut to[j * LANES..][..LANES];
                        let sum = if adds { ops.add(sums[i][j], ops.load(to)) } else { sums[i][j] };
                        ops.store(sum, to);
                    }
                }
            } else {
                let mut tile = [[0.0; COLUMNS]; ROWS];
                for i in 0..ROWS {
                    for j in 0..VECTORS {
                        ops.store(sums[i][j], &mut tile[i][j * LANES..]);
                    }
                }
                for (i, tile) in tile[..rows].iter().enumerate() {
                    let to = &mut out[(first + i) * width + column..][..columns];
                    for (to, sum) in to.iter_mut().zip(tile) {
                        *to = if adds { *to + sum } else { *sum };
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_share_the_work_gives_the_product() {
        let value = |i: usize| ((i * 7919) % 1009) as f32 / 500.0 - 1.0;
        for (m, k, n) in [(1, 1, 1), (7, 400, 50), (9, 3, 48), (64, 385, 1000), (3, 800, 6000), (200, 24, 96), (5, 0, 7)] {
            let (a, b): (Vec<f32>, Vec<f32>) = ((0..m * k).map(value).collect(), (0..k * n).map(|i| value(i + 3)).collect());
            let Some(tiles) = Tiles::new(Strided::row_major(&b, k, n)) else {
                println!("skipped: vectors have another number of lanes here");
                return;
            };
            // The same matrix, laid out the other way.
            let turned: Vec<f32> = (0..n * k).map(|i| b[i % k.max(1) * n + i / k.max(1)]).collect();
            let from_turned = Tiles::new(Strided::row_major(&turned, n, k).transposed()).unwrap();
            let a_turned: Vec<f32> = (0..k * m).map(|i| a[i % m * k + i / m]).collect();
            let (mut first, mut again) = (vec![f32::NAN; m * n], vec![f32::NAN; m * n]);
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| tiles.multiply(&mut again, Strided::row_major(&a, m, k)));
                if threads == 1 {
                    first.clone_from(&again);
                }
                assert_eq!(first, again, "{threads} threads");
                pool.install(|| from_turned.multiply(&mut again, Strided::row_major(&a_turned, k, m).transposed()));
                assert_eq!(first, again, "transposed, {threads} threads");
            }
            for (i, &got) in first.iter().enumerate() {
                let want: f64 = (0..k).map(|p| f64::from(a[i / n * k + p]) * f64::from(b[p * n + i % n])).sum();
                assert!((f64::from(got) - want).abs() <= 1e-4 * (1.0 + want.abs()), "{m}×{k}×{n} at {i}: {got}, not {want}");
            }
        }
    }
}
