//! Pruning that lets the weights which stay make up for those that go (SparseGPT, arXiv 2301.00774).
//!
//! Columns are decided from the last to the first. With H = XᵀX over the calibration's rows and H = L·Lᵀ, the inverse of the leading part of
//! H that belongs to columns 0..=k has (L⁻¹[k, k])² in its last corner and L⁻¹[k, k]·L⁻¹[k, ..] as its last row. So a weight w at k that goes
//! costs e², e = w / L⁻¹[k, k], in the squared error of its output, and e·L⁻¹[k, j] is what each column j < k gives up to make up for it. One
//! triangular matrix, computed in place, is all that is needed. (The paper goes from first to last, by the factor of the inverse; which end
//! comes first makes no difference of principle.)
//!
//! What goes is chosen when a block is reached: of all ways to meet the pattern in it, at most two weights of a block, the one whose cost is
//! least when the first loss has been made up for by the second weight too.
//!
//! Must not know: where rows and weights come from.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;
use sliderun::sparse::Pattern;

use super::hessian::Factor;
use crate::sparsity::Weight;

/// Columns that are finished before their losses are passed on to all columns before them, about.
const COLUMNS: usize = 128;
/// Output channels that go through all columns together. The result does not depend on it, nor on the number of threads.
const ROWS: usize = 128;

/// Prunes a weight to a pattern.
///
/// # Panics
/// When the factor is of another K.
pub fn prune(weight: &mut Weight, pattern: Pattern, factor: &Factor, finished: &(dyn Fn(usize) + Sync)) {
    assert_eq!(weight.k, factor.width(), "rows as wide as the weight gave the factor");
    let k = weight.k;
    let columns = COLUMNS / pattern.block() * pattern.block();
    weight.values.par_chunks_mut(ROWS * k).for_each(|rows| {
        let mut wide: Vec<f64> = rows.iter().map(|v| f64::from(*v)).collect();
        let count = rows.len() / k;
        let mut losses = vec![0.0; count * columns];
        for first in (0..k).step_by(columns).rev() {
            let width = columns.min(k - first);
            let corner = Corner::new(factor, first, width);
            let losses = &mut losses[..count * width];
            losses.fill(0.0);
            for (row, losses) in wide.chunks_exact_mut(k).zip(losses.chunks_exact_mut(width)) {
                corner.prune(&mut row[first..first + width], losses, pattern);
            }
            let before = MatMut::from_row_major_slice_mut(&mut wide, count, k).subcols_mut(0, first);
            let losses = MatRef::from_row_major_slice(losses, count, width);
            matmul(before, Accum::Add, losses, factor.inverse().submatrix(first, 0, width, first), -1.0, Par::Seq);
        }
        rows.iter_mut().zip(&wide).for_each(|(to, from)| *to = *from as f32);
        finished(count);
    });
}

/// The part of L⁻¹ that is of one run of columns, row-major.
struct Corner {
    values: Vec<f64>,
    width: usize,
}

impl Corner {
    fn new(factor: &Factor, first: usize, width: usize) -> Self {
        let part = factor.inverse().submatrix(first, first, width, width);
        let values = (0..width * width).map(|i| if i % width <= i / width { part[(i / width, i % width)] } else { 0.0 });
        Corner { values: values.collect(), width }
    }

    /// The row of column `k`, up to itself.
    fn row(&self, k: usize) -> &[f64] {
        &self.values[k * self.width..=k * self.width + k]
    }

    /// What a weight at `k` costs, signed and before it is squared.
    fn loss(&self, k: usize, w: f64) -> f64 {
        w / self.values[k * (self.width + 1)]
    }

    /// Decides one output channel's weights in these columns; their losses are left for the columns before.
    fn prune(&self, weights: &mut [f64], losses: &mut [f64], pattern: Pattern) {
        for start in (0..weights.len()).step_by(pattern.block()).rev() {
            let end = weights.len().min(start + pattern.block());
            for k in self.cheapest(weights, start, end, pattern).into_iter().flatten() {
                let (before, rest) = weights.split_at_mut(k);
                let loss = self.loss(k, rest[0]);
                before.iter_mut().zip(self.row(k)).for_each(|(w, l)| *w -= loss * l);
                rest[0] = 0.0;
                losses[k] = loss;
            }
        }
    }

    /// The weights of the block from `start` to `end` that go, the last first.
    fn cheapest(&self, weights: &[f64], start: usize, end: usize, pattern: Pattern) -> [Option<usize>; 2] {
        let too_many = (end - start).saturating_sub(pattern.kept());
        let mut best = (f64::INFINITY, [None, None]);
        for last in (start..end).filter(|_| too_many > 0) {
            let loss = self.loss(last, weights[last]);
            if too_many == 1 {
                if loss * loss < best.0 {
                    best = (loss * loss, [Some(last), None]);
                }
                continue;
            }
            for (first, l) in (start..last).zip(&self.row(last)[start..]) {
                let second = self.loss(first, weights[first] - loss * l);
                let cost = loss * loss + second * second;
                if cost < best.0 {
                    best = (cost, [Some(last), Some(first)]);
                }
            }
        }
        best.1
    }
}
