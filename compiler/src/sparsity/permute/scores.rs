//! How much each weight matters, laid out so that channels of K can be compared and exchanged.

use rayon::prelude::*;
use sliderun::sparse::Pattern;

use crate::sparsity::Weight;

/// Rows beyond which a search looks at a sample: with more of them an order that suits some suits the others.
const MAX_ROWS: usize = 4096;

/// Sums in this many lanes, so that the same scores give the same sum and the processor adds side by side.
const LANES: usize = 16;

/// Importance scores of weights [N, K], by input channel: [K, N], none below 0, the largest 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    k: usize,
    rows: usize,
    values: Vec<f32>,
}

/// A block without one of its channels: for each row the two smallest scores that remain, zeros standing in for channels beyond K.
pub(super) struct Gap {
    /// Sum over rows of the smallest.
    smallest: f64,
    /// For each row the next one.
    second: Vec<f32>,
}

impl Gap {
    /// What the block loses with a channel in the gap: in each row the two smallest, of which the smallest that remains is one unless the
    /// channel's is smaller, and then it is the other.
    pub fn loss_with(&self, channel: &[f32]) -> f64 {
        let mut sums = [0.0f32; LANES];
        let ((second, second_rest), (channel, channel_rest)) = (self.second.as_chunks::<LANES>(), channel.as_chunks::<LANES>());
        for (a, b) in second.iter().zip(channel) {
            for lane in 0..LANES {
                sums[lane] += if a[lane] < b[lane] { a[lane] } else { b[lane] };
            }
        }
        let rest: f32 = second_rest.iter().zip(channel_rest).map(|(a, b)| a.min(*b)).sum();
        self.smallest + f64::from(sums.iter().sum::<f32>() + rest)
    }
}

impl Scores {
    /// The squares of weights that read one activation, one below the other; each weight is multiplied with `channel[k]` first, where
    /// that is given: the norm of the activation's channel makes them the squared error that pruning a weight brings.
    ///
    /// # Panics
    /// When the weights differ in K, or there are not as many factors.
    pub fn squares(weights: &[&Weight], channel: Option<&[f32]>) -> Scores {
        let k = weights.first().map_or(0, |w| w.k);
        assert!(weights.iter().all(|w| w.k == k), "weights that read one activation have one K");
        assert!(channel.is_none_or(|c| c.len() == k), "a factor for each input channel");
        let rows: usize = weights.iter().map(|w| w.n).sum();
        let factor = |channel_of: usize| channel.map_or(1.0, |c| f64::from(c[channel_of]));
        let largest =
            |w: &&Weight| w.values.iter().enumerate().fold(0.0f64, |m, (i, v)| m.max((f64::from(*v) * factor(i % k)).abs()));
        let scale = match weights.iter().map(largest).fold(0.0, f64::max) {
            0.0 => 0.0,
            largest => 1.0 / largest,
        };
        let mut values = vec![0.0f32; k * rows];
        values.par_chunks_exact_mut(rows.max(1)).enumerate().for_each(|(at, column)| {
            let elements = weights.iter().flat_map(|w| w.values.iter().skip(at).step_by(k));
            for (score, v) in column.iter_mut().zip(elements) {
                *score = (f64::from(*v) * factor(at) * scale).powi(2) as f32;
            }
        });
        Scores { k, rows, values }
    }

    /// Extent of K.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Output channels.
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn channel(&self, k: usize) -> &[f32] {
        &self.values[k * self.rows..(k + 1) * self.rows]
    }

    /// The sum of all.
    pub fn total(&self) -> f64 {
        self.values.iter().map(|v| f64::from(*v)).sum()
    }

    /// Sum of what pruning to a pattern takes when K is in this order: of each whole block the two smallest, and what there is beyond 2N-2
    /// of the last.
    pub fn loss(&self, pattern: Pattern, order: &[usize]) -> f64 {
        let block = pattern.block();
        let of_block = |channels: &[usize]| {
            let (smallest, second) = self.two_smallest(channels.iter(), block - channels.len());
            smallest.iter().chain(&second).map(|v| f64::from(*v)).sum::<f64>()
        };
        order.par_chunks(block).map(of_block).collect::<Vec<f64>>().into_iter().sum()
    }

    /// A block of channels with a gap at one of them.
    pub(super) fn gap(&self, channels: &[usize], block: usize, gap: usize) -> Gap {
        let others = channels.iter().enumerate().filter(|(at, _)| *at != gap).map(|(_, channel)| channel);
        let (smallest, second) = self.two_smallest(others, block - channels.len());
        Gap { smallest: smallest.iter().map(|v| f64::from(*v)).sum(), second }
    }

    /// For each row the smallest score of some channels and the next one; `absent` further ones count as zeros.
    fn two_smallest<'c>(&self, channels: impl Iterator<Item = &'c usize>, absent: usize) -> (Vec<f32>, Vec<f32>) {
        let start = |zero: bool| vec![if zero { 0.0 } else { f32::INFINITY }; self.rows];
        let (mut smallest, mut second) = (start(absent > 0), start(absent > 1));
        for channel in channels {
            for ((smallest, second), v) in smallest.iter_mut().zip(&mut second).zip(self.channel(*channel)) {
                *second = second.min(smallest.max(*v));
                *smallest = smallest.min(*v);
            }
        }
        (smallest, second)
    }

    /// The scores of rows spread evenly, where there are very many.
    pub(super) fn sample(&self) -> Scores {
        if self.rows <= MAX_ROWS {
            return self.clone();
        }
        let row = |i: usize| i * self.rows / MAX_ROWS;
        let values = (0..self.k).flat_map(|k| (0..MAX_ROWS).map(move |i| self.channel(k)[row(i)])).collect();
        Scores { k: self.k, rows: MAX_ROWS, values }
    }
}
