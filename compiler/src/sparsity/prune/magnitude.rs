//! Pruning by magnitude: the smallest weights of each block go.

use sliderun::sparse::Pattern;

use super::{Pruned, keep_best};
use crate::ir::Constant;
use crate::sparsity::{Orientation, Weight, WeightError};

/// Prunes a weight to a pattern: in each block of 2N along K, the 2N-2 of largest magnitude stay; of equal ones, those that come first.
pub fn prune(weight: &mut Weight, pattern: Pattern) {
    keep_best(weight, pattern, |_, w| f64::from(w.abs()));
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
    let before = Weight::read(constant, orientation)?;
    let mut after = before.clone();
    prune(&mut after, pattern);
    Ok((after.to_constant(constant.dtype, orientation), Pruned::between(&before, &after)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sparsity::satisfied;
    use bytes::Bytes;
    use proptest::prelude::*;
    use sliderun::dtype::DType;

    fn constant(shape: [usize; 2], values: &[f32]) -> Constant {
        Constant { dtype: DType::F32, shape: shape.to_vec(), data: Bytes::copy_from_slice(bytemuck::cast_slice(values)) }
    }

    #[test]
    fn keeps_the_largest_and_breaks_ties_by_position() {
        let mut weight = Weight { n: 2, k: 4, values: vec![1.0, -3.0, 2.0, 0.5, -1.0, 1.0, 1.0, -1.0] };
        prune(&mut weight, Pattern::from_n(2).unwrap());
        assert_eq!(weight.values, [0.0, -3.0, 2.0, 0.0, -1.0, 1.0, 0.0, 0.0]);
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
