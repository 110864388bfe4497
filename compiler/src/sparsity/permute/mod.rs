//! Channel permutations: an order of K in which the blocks of a pattern lose less when weights are pruned.
//!
//! The search goes from an order to a better one by steps that are each as good as they can be: one channel is taken out of every block, and
//! the channels are put back where the most is kept, which is an assignment problem ([`assignment`]). What a block loses with a channel in
//! the gap follows from two numbers for each output channel, the two smallest scores that remain in the block, so the whole matrix of an
//! assignment takes one minimum and one addition for each score. Steps choose gaps at random, from a fixed seed; the work is bounded by
//! counting, not by time, so that the same scores give the same order on every machine.
//!
//! Sources: Pool and Yu, Channel Permutations for N:M Sparsity, NeurIPS 2021, for what is sought; Zhang et al., Plug-and-Play: An Efficient
//! Post-training Pruning Method for Large Language Models, ICLR 2024, section 4, for the assignment.
//!
//! Must not know: graphs, where scores come from, what becomes of the order.

mod assignment;
mod permutation;
mod scores;

use rayon::prelude::*;
use sliderun::sparse::Pattern;
use sliderun::splitmix::SplitMix64;

pub use permutation::Permutation;
pub use scores::Scores;

/// Blocks whose gaps are filled in one assignment: its time grows with their cube, what another one gains from more of them hardly.
const GROUP: usize = 64;

/// Steps of one descent.
const MAX_STEPS: u64 = 256;
const MIN_STEPS: u64 = 16;

/// Minima and additions that one search may take: seconds on two cores.
const WORK: u64 = 60_000_000_000;

/// Descents from different orders are tried where they cost nothing that anybody would notice.
const UNNOTICED: u64 = 20_000_000;
const MAX_STARTS: u64 = 16;

/// A descent ends when this many steps together lose less than this share of the loss.
const WINDOW: usize = 32;
const LEAST_GAIN: f64 = 5e-4;

/// What a search found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The order; the identity where nothing better was found.
    pub permutation: Permutation,
    /// Share of the scores that pruning keeps without it, 0 to 1.
    pub before: f64,
    /// Share that it keeps with it.
    pub after: f64,
}

/// Searches for the order of K that keeps the most of `scores` when each block of `pattern` loses the smallest. Positions keep their
/// class: `classes[p]` is that of position p and of channel p, and only channels of one class change places; empty where all are of one.
/// What is found is never worse than the order as it is.
///
/// # Panics
/// When `classes` is neither empty nor as long as K.
pub fn search(scores: &Scores, pattern: Pattern, classes: &[usize]) -> Found {
    let k = scores.k();
    assert!(classes.is_empty() || classes.len() == k, "a class for each channel");
    let identity: Vec<usize> = (0..k).collect();
    let total = scores.total();
    let share = |loss: f64| if total > 0.0 { 1.0 - loss / total } else { 1.0 };
    let unchanged = scores.loss(pattern, &identity);
    let sample = scores.sample();
    let blocks = k.div_ceil(pattern.block());
    let step_work = (k * sample.rows() + blocks * blocks.min(GROUP) * (sample.rows() + GROUP)) as u64;
    let steps = (WORK / step_work.max(1)).clamp(MIN_STEPS, MAX_STEPS);
    let starts = (UNNOTICED / (steps * step_work).max(1)).clamp(1, MAX_STARTS);
    let mut best = (unchanged, identity.clone());
    for start in 0..starts {
        let mut random = SplitMix64(start);
        let mut descent = Descent { scores: &sample, pattern, classes, order: identity.clone() };
        if start > 0 {
            descent.shuffle(&mut random);
        }
        descent.run(steps, &mut random);
        let loss = scores.loss(pattern, &descent.order);
        if loss < best.0 {
            best = (loss, descent.order);
        }
    }
    let permutation = Permutation::canonical(best.1, pattern.block(), !classes.is_empty());
    Found { permutation, before: share(unchanged), after: share(best.0) }
}

/// An order on its way to a better one.
struct Descent<'s> {
    scores: &'s Scores,
    pattern: Pattern,
    classes: &'s [usize],
    order: Vec<usize>,
}

/// Positions with a gap, at most one to a block, whose channels may take each other's places.
type Group = Vec<usize>;

impl Descent<'_> {
    fn class(&self, position: usize) -> usize {
        self.classes.get(position).copied().unwrap_or(0)
    }

    /// Exchanges channels at random.
    fn shuffle(&mut self, random: &mut SplitMix64) {
        for position in (1..self.order.len()).rev() {
            let other = below(random, position + 1);
            if self.class(position) == self.class(other) {
                self.order.swap(position, other);
            }
        }
    }

    fn run(&mut self, steps: u64, random: &mut SplitMix64) {
        let mut loss = self.scores.loss(self.pattern, &self.order);
        let mut before = loss;
        for step in 1..=steps as usize {
            loss -= self.step(random);
            if step.is_multiple_of(WINDOW) {
                if before - loss < LEAST_GAIN * before {
                    return;
                }
                before = loss;
            }
        }
    }

    /// Opens a gap in every block and fills the gaps again. Gives what is gained.
    fn step(&mut self, random: &mut SplitMix64) -> f64 {
        let groups = self.gaps(random);
        let filled: Vec<(f64, Vec<usize>)> = groups.par_iter().map(|group| self.fill(group)).collect();
        let mut gained = 0.0;
        for (group, (gain, channels)) in groups.iter().zip(filled) {
            if gain > 0.0 {
                gained += gain;
                group.iter().zip(channels).for_each(|(position, channel)| self.order[*position] = channel);
            }
        }
        gained
    }

    /// A position of every block, in groups of one class.
    fn gaps(&self, random: &mut SplitMix64) -> Vec<Group> {
        let (k, block) = (self.order.len(), self.pattern.block());
        let mut positions: Vec<usize> = (0..k).step_by(block).map(|first| first + below(random, block.min(k - first))).collect();
        for i in (1..positions.len()).rev() {
            positions.swap(i, below(random, i + 1));
        }
        positions.sort_by_key(|p| self.class(*p));
        let of_one_class = positions.chunk_by(|a, b| self.class(*a) == self.class(*b));
        of_one_class.flat_map(|positions| positions.chunks(GROUP)).filter(|g| g.len() > 1).map(<[usize]>::to_vec).collect()
    }

    /// The channels that a group's gaps take, and what is gained over those that they have.
    fn fill(&self, group: &Group) -> (f64, Vec<usize>) {
        let (block, n) = (self.pattern.block(), group.len());
        let costs: Vec<Vec<f64>> = group
            .par_iter()
            .map(|position| {
                let first = position / block * block;
                let channels = &self.order[first..(first + block).min(self.order.len())];
                let gap = self.scores.gap(channels, block, position - first);
                group.iter().map(|other| gap.loss_with(self.scores.channel(self.order[*other]))).collect()
            })
            .collect();
        let columns = assignment::cheapest(&costs);
        let gain = (0..n).map(|i| costs[i][i] - costs[i][columns[i]]).sum();
        (gain, columns.into_iter().map(|column| self.order[group[column]]).collect())
    }
}

/// A number below `n`, which is above 0.
fn below(random: &mut SplitMix64, n: usize) -> usize {
    (random.next() % n as u64) as usize
}

#[cfg(test)]
mod tests;
