//! Pruning a weight to a pattern.

use bytes::Bytes;
use rayon::prelude::*;
use sliderun::sparse::Pattern;

use super::{Orientation, Weight, WeightError};
use crate::ir::Constant;

/// How much a pruning took away.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pruned {
    /// Non-zeros that became zero.
    pub removed: usize,
    /// Elements in all.
    pub elements: usize,
    /// Share of the sum of squares that is left, 0 to 1.
    pub kept_energy: f64,
}

/// Which weights magnitude pruning keeps, row-major [N, K]: in each block of 2N along K, the 2N-2 of largest magnitude; of equal ones, those
/// that come first.
pub fn magnitude_mask(weight: &Weight, pattern: Pattern) -> Vec<bool> {
    let mut keep = vec![true; weight.values.len()];
    keep.par_chunks_exact_mut(weight.k).zip(weight.rows()).for_each(|(keep, row)| {
        for (keep, block) in keep.chunks_mut(pattern.block()).zip(row.chunks(pattern.block())) {
            for _ in pattern.kept()..block.len() {
                // Of equal ones, `min_by` gives the first that it sees: here the last of the block.
                let left = (0..block.len()).rev().filter(|i| keep[*i]);
                let dropped = left.min_by(|a, b| block[*a].abs().total_cmp(&block[*b].abs()));
                dropped.into_iter().for_each(|i| keep[i] = false);
            }
        }
    });
    keep
}

/// Prunes a constant to a pattern by magnitude: a copy of it with zeros, every other byte unchanged.
///
/// # Errors
/// A constant that cannot be read as a weight.
pub fn prune_by_magnitude(
    constant: &Constant,
    orientation: Orientation,
    pattern: Pattern,
) -> Result<(Constant, Pruned), WeightError> {
    let weight = Weight::read(constant, orientation)?;
    let keep = magnitude_mask(&weight, pattern);
    let mut data = constant.data.to_vec();
    let size = constant.dtype.size();
    let (mut all, mut lost, mut removed) = (0.0, 0.0, 0);
    for (n, (row, keep)) in weight.values.chunks_exact(weight.k).zip(keep.chunks_exact(weight.k)).enumerate() {
        for (k, (value, keep)) in row.iter().zip(keep).enumerate() {
            let square = f64::from(*value).powi(2);
            all += square;
            if !keep {
                lost += square;
                removed += usize::from(*value != 0.0);
                let at = match orientation {
                    Orientation::NK => n * weight.k + k,
                    Orientation::KN => k * weight.n + n,
                };
                data[at * size..(at + 1) * size].fill(0);
            }
        }
    }
    let kept_energy = if all > 0.0 { 1.0 - lost / all } else { 1.0 };
    let pruned = Pruned { removed, elements: weight.values.len(), kept_energy };
    Ok((Constant { data: Bytes::from(data), ..constant.clone() }, pruned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sparsity::satisfied;
    use proptest::prelude::*;
    use sliderun::dtype::DType;

    fn constant(shape: [usize; 2], values: &[f32]) -> Constant {
        Constant { dtype: DType::F32, shape: shape.to_vec(), data: Bytes::copy_from_slice(bytemuck::cast_slice(values)) }
    }

    #[test]
    fn keeps_the_largest_and_breaks_ties_by_position() {
        let weight = Weight { n: 2, k: 4, values: vec![1.0, -3.0, 2.0, 0.5, -1.0, 1.0, 1.0, -1.0] };
        let mask = magnitude_mask(&weight, Pattern::from_n(2).unwrap());
        assert_eq!(mask, [false, true, true, false, true, true, false, false]);
    }

    #[test]
    fn reports_what_it_took() {
        let (pruned, report) =
            prune_by_magnitude(&constant([1, 4], &[3.0, 0.0, 4.0, 12.0]), Orientation::NK, Pattern::from_n(2).unwrap()).unwrap();
        assert_eq!(pruned, constant([1, 4], &[0.0, 0.0, 4.0, 12.0]));
        assert_eq!((report.removed, report.elements), (1, 4));
        assert!((report.kept_energy - 160.0 / 169.0).abs() < 1e-12);
    }

    proptest! {
        #[test]
        fn result_satisfies_the_pattern_and_changes_nothing_else(
            n in 2usize..=8, rows in 1usize..20, columns in 1usize..40, transposed in any::<bool>(), seed in any::<u32>(),
        ) {
            let pattern = Pattern::from_n(n).unwrap();
            let orientation = if transposed { Orientation::KN } else { Orientation::NK };
            let values: Vec<f32> = (0..rows * columns).map(|i| ((i as u32).wrapping_mul(2654435761) ^ seed) as i32 as f32).collect();
            let original = constant([rows, columns], &values);
            let (pruned, _) = prune_by_magnitude(&original, orientation, pattern).unwrap();
            prop_assert!(satisfied(&Weight::read(&pruned, orientation).unwrap()).contains(&pattern));
            let after: Vec<f32> = pruned.data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            prop_assert!(values.iter().zip(&after).all(|(a, b)| *b == 0.0 || a.to_bits() == b.to_bits()));
            // Blocks lose exactly what the pattern asks for.
            let k = if transposed { rows } else { columns };
            let per_row: usize = (0..k.div_ceil(2 * n)).map(|b| (k - b * 2 * n).min(2 * n).saturating_sub(2 * n - 2)).sum();
            let zeros = after.iter().filter(|v| **v == 0.0).count();
            prop_assert_eq!(zeros - values.iter().filter(|v| **v == 0.0).count().min(zeros), per_row * (rows * columns / k));
        }
    }
}
