//! Weights that are nearly of a pattern: what a trainer has pruned but for a few blocks, or what a tool has touched afterwards.

use rayon::prelude::*;
use sliderun::plan::manifest::NearMiss;
use sliderun::sparse::Pattern;

use super::{Detection, Weight};

/// A weight is nearly of a pattern where at most this share of its blocks offends.
const NEARLY: f64 = 0.1;

/// The sparsest pattern that the weight is nearly of, if that is sparser than all that hold.
pub fn nearest(weight: &Weight, detections: &[Detection; Pattern::ALL.len()]) -> Option<NearMiss> {
    let share = |d: &Detection| d.offending as f64 / d.blocks.max(1) as f64;
    let sparser = detections.iter().take_while(|d| !d.holds());
    let Detection { pattern, offending, blocks } = *sparser.into_iter().find(|d| share(d) <= NEARLY)?;
    Some(NearMiss { pattern, offending: offending as u64, blocks: blocks as u64, kept_energy: kept_energy(weight, pattern) })
}

/// Share of the sum of squares that the largest weights of each block have, as many as the pattern keeps.
fn kept_energy(weight: &Weight, pattern: Pattern) -> f64 {
    let sums = |row: &[f32]| {
        row.chunks(pattern.block()).fold([0.0f64; 2], |[all, kept], block| {
            let mut squares: Vec<f64> = block.iter().map(|v| f64::from(*v).powi(2)).collect();
            squares.sort_by(|a, b| b.total_cmp(a));
            [all + squares.iter().sum::<f64>(), kept + squares.iter().take(pattern.kept()).sum::<f64>()]
        })
    };
    let [all, kept] = weight.rows().map(sums).reduce(|| [0.0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]);
    if all > 0.0 { kept / all } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sparsity::detect;

    /// 32 output channels of 48 weights 2, zeros in the last two of each 8, but for `full` blocks whose last two are 1.
    fn nearly_six_of_eight(full: usize) -> Weight {
        let value = |i: usize| match i % 8 {
            6 | 7 if i / 8 >= full => 0.0,
            6 | 7 => 1.0,
            _ => 2.0,
        };
        Weight { n: 32, k: 48, values: (0..32 * 48).map(value).collect() }
    }

    #[test]
    fn the_nearest_is_told_with_what_it_lacks() {
        let weight = nearly_six_of_eight(3);
        let near = nearest(&weight, &detect(&weight)).unwrap();
        assert_eq!((near.pattern.to_string().as_str(), near.offending, near.blocks), ("6:8", 3, 192));
        // Of 192·6 fours and 6 ones, the ones are lost.
        assert!((near.kept_energy - 4608.0 / 4614.0).abs() < 1e-12, "{near:?}");
    }

    #[test]
    fn what_holds_or_is_far_from_all_is_not_near() {
        for full in [0, 100, 192] {
            let weight = nearly_six_of_eight(full);
            assert_eq!(nearest(&weight, &detect(&weight)), None, "{full}");
        }
        let zeros = Weight { n: 1, k: 8, values: vec![0.0; 8] };
        assert_eq!(nearest(&zeros, &detect(&zeros)), None);
    }
}
