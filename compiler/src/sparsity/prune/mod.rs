//! Pruning a weight to a pattern: which weights go, and what becomes of the others.
//!
//! [`magnitude`] looks at the weight alone; [`wanda`] also at how large its inputs are; [`sparsegpt`] at how they vary together, and lets
//! the weights that stay make up for those that go.
//!
//! Must not know: graphs, where inputs come from.

pub mod hessian;
pub mod magnitude;
pub mod sparsegpt;
pub mod wanda;

#[cfg(test)]
mod tests;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sliderun::sparse::Pattern;

use super::Weight;

pub use magnitude::prune_by_magnitude;

/// How much a pruning took away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pruned {
    /// Non-zeros that became zero.
    pub removed: usize,
    /// Elements in all.
    pub elements: usize,
    /// Share of the sum of squares that was where weights still are, 0 to 1.
    pub kept_energy: f64,
}

impl Pruned {
    /// What lies between a weight and what it was pruned to.
    pub fn between(before: &Weight, after: &Weight) -> Self {
        let row = |(before, after): (&[f32], &[f32])| {
            let gone = before.iter().zip(after).filter(|(b, a)| **b != 0.0 && **a == 0.0).map(|(b, _)| *b);
            (gone.clone().count(), energy(gone), energy(before.iter().copied()))
        };
        // Summed up in the order of rows, whatever the threads did when.
        let rows: Vec<(usize, f64, f64)> = before.rows().zip(after.rows()).map(row).collect();
        let removed = rows.iter().map(|r| r.0).sum();
        let (lost, all) = rows.iter().fold((0.0, 0.0), |(lost, all), r| (lost + r.1, all + r.2));
        Pruned { removed, elements: before.values.len(), kept_energy: if all > 0.0 { 1.0 - lost / all } else { 1.0 } }
    }

    /// Share of the weights that went, 0 to 1.
    pub fn share(&self) -> f64 {
        self.removed as f64 / self.elements.max(1) as f64
    }
}

fn energy(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|v| f64::from(v) * f64::from(v)).sum()
}

/// In each block of 2N along K, all but the 2N-2 weights of highest score become zero; of equal ones, those that come last. The score is
/// that of a weight in a column of K.
fn keep_best(weight: &mut Weight, pattern: Pattern, score: impl Fn(usize, f32) -> f64 + Sync) {
    let k = weight.k;
    weight.values.par_chunks_exact_mut(k).for_each(|row| {
        for (at, block) in row.chunks_mut(pattern.block()).enumerate() {
            let first = at * pattern.block();
            // Blocks have at most 16 weights.
            let mut gone = 0u32;
            for _ in pattern.kept()..block.len() {
                let score = |i: &usize| score(first + i, block[*i]);
                // Of equal ones, `min_by` gives the first that it sees: here the last of the block.
                let left = (0..block.len()).rev().filter(|i| gone >> i & 1 == 0);
                gone |= left.min_by(|a, b| score(a).total_cmp(&score(b))).map_or(0, |i| 1 << i);
            }
            block.iter_mut().enumerate().filter(|(i, _)| gone >> i & 1 == 1).for_each(|(_, v)| *v = 0.0);
        }
    });
}
