//! What quantization wants to know of an activation: per channel the largest magnitude and the second moment of all rows, and some of the
//! rows themselves, each as likely as any other.

use sliderun::splitmix::SplitMix64;
use std::collections::{BTreeMap, BTreeSet};

use super::{Calibration, CalibrationError, Engine, activations};
use crate::ir::{Graph, ValueRef};

/// The statistics of values over all samples. Nothing of values that have no row.
///
/// # Errors
/// Those of [`activations`].
///
/// # Panics
/// As [`activations`].
pub fn row_statistics(
    graph: &Graph,
    values: impl IntoIterator<Item = ValueRef>,
    calibration: &Calibration,
    engine: &Engine,
) -> Result<BTreeMap<ValueRef, RowStatistics>, CalibrationError> {
    let values: Vec<ValueRef> = values.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    let mut statistics = BTreeMap::new();
    if !values.is_empty() {
        activations(graph, &values, calibration, engine, &mut |value, rows, k| {
            statistics.entry(value).or_insert_with(|| RowStatistics::new(k)).add(rows);
        })?;
    }
    Ok(statistics)
}

/// Rows that are kept at most, and bytes that they take at most.
const ROWS: usize = 512;
const BYTES: usize = 8 << 20;

/// Rows [T, K] of an activation, summed up.
#[derive(Clone, Debug)]
pub struct RowStatistics {
    k: usize,
    seen: u64,
    absmax: Vec<f32>,
    squares: Vec<f64>,
    /// Row-major.
    sample: Vec<f32>,
    /// Rows that `sample` has place for.
    limit: usize,
    random: SplitMix64,
}

impl RowStatistics {
    /// Of rows of K elements, none so far. The same rows in the same order always give the same.
    pub fn new(k: usize) -> Self {
        let limit = (BYTES / (4 * k.max(1))).clamp(1, ROWS);
        let (absmax, squares) = (vec![0.0; k], vec![0.0; k]);
        RowStatistics { k, seen: 0, absmax, squares, sample: Vec::new(), limit, random: SplitMix64(k as u64) }
    }

    /// Adds rows, row-major, of finite numbers.
    pub fn add(&mut self, rows: &[f32]) {
        for row in rows.chunks_exact(self.k.max(1)) {
            for ((v, absmax), square) in row.iter().zip(&mut self.absmax).zip(&mut self.squares) {
                *absmax = absmax.max(v.abs());
                *square += f64::from(*v).powi(2);
            }
            self.seen += 1;
            // Algorithm R (Vitter 1985): the row takes a random place, which for those that come later is less and less often one.
            if self.sample.len() < self.limit * self.k {
                self.sample.extend_from_slice(row);
            } else if let Ok(place) = usize::try_from(self.random.next() % self.seen)
                && place < self.limit
            {
                self.sample[place * self.k..(place + 1) * self.k].copy_from_slice(row);
            }
        }
    }

    /// Elements of a row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Rows in all.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// The largest magnitude of each channel.
    pub fn absmax(&self) -> &[f32] {
        &self.absmax
    }

    /// The second moment of each channel relative to their mean, and a hundredth of that, so that channels that calibration has never seen
    /// anything of count for a little. All 1 where it has seen nothing at all.
    pub fn moments(&self) -> Vec<f32> {
        let mean = self.squares.iter().sum::<f64>() / self.k.max(1) as f64;
        let relative = |square: &f64| (square / mean + 0.01) as f32;
        if mean > 0.0 { self.squares.iter().map(relative).collect() } else { vec![1.0; self.k] }
    }

    /// The rows that were kept, row-major.
    pub fn sample(&self) -> &[f32] {
        &self.sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_up_all_rows() {
        let mut rows = RowStatistics::new(3);
        rows.add(&[1.0, 0.0, -4.0, -3.0, 0.0, 2.0]);
        assert_eq!((rows.seen(), rows.absmax(), rows.sample()), (2, &[3.0, 0.0, 4.0][..], &[1.0, 0.0, -4.0, -3.0, 0.0, 2.0][..]));
        // 10, 0 and 20 of 10 on average.
        assert_eq!(rows.moments(), [1.01, 0.01, 2.01]);
        assert_eq!(RowStatistics::new(2).moments(), [1.0, 1.0]);
    }

    /// Of many rows as many are kept as there is place for, from everywhere.
    #[test]
    fn keeps_rows_from_everywhere() {
        let mut rows = RowStatistics::new(1);
        (0..40 * ROWS).for_each(|i| rows.add(&[i as f32]));
        assert_eq!(rows.sample().len(), ROWS);
        let mean = rows.sample().iter().sum::<f32>() / ROWS as f32 / (40 * ROWS) as f32;
        assert!((mean - 0.5).abs() < 0.06, "{mean}");
        let mut sorted = rows.sample().to_vec();
        sorted.sort_by(f32::total_cmp);
        sorted.dedup();
        assert_eq!(sorted.len(), ROWS);
        assert_eq!(RowStatistics::new(BYTES).limit, 1);
    }
}
