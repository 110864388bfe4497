//! Pruning by magnitude times the size of the input (Wanda, arXiv 2306.11695): a small weight on a large input matters.
//!
//! The paper compares the weights of a whole row; here the pattern has them compared within each block.

use sliderun::sparse::Pattern;

use super::keep_best;
use crate::sparsity::Weight;

/// ‖x_k‖₂ of each input over all rows of a calibration, as far as rows have been added.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Norms {
    squares: Vec<f64>,
}

impl Norms {
    /// Those of no rows of `width` elements.
    pub fn new(width: usize) -> Self {
        Norms { squares: vec![0.0; width] }
    }

    /// Adds rows, row-major [tokens, K].
    pub fn add(&mut self, rows: &[f32]) {
        for row in rows.chunks_exact(self.squares.len().max(1)) {
            self.squares.iter_mut().zip(row).for_each(|(sum, v)| *sum += f64::from(*v) * f64::from(*v));
        }
    }

    /// Whether no input was ever anything but zero.
    pub fn are_zero(&self) -> bool {
        self.squares.iter().all(|s| *s == 0.0)
    }
}

/// Prunes a weight to a pattern: in each block of 2N along K, the 2N-2 of largest |w|·‖x_k‖₂ stay; of equal ones, those that come first.
///
/// # Panics
/// When the norms are of another K.
pub fn prune(weight: &mut Weight, pattern: Pattern, norms: &Norms) {
    assert_eq!(weight.k, norms.squares.len(), "rows as wide as the weight gave the norms");
    let norms: Vec<f64> = norms.squares.iter().map(|s| s.sqrt()).collect();
    keep_best(weight, pattern, |k, w| f64::from(w.abs()) * norms[k]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_inputs_protect_small_weights() {
        let mut norms = Norms::new(6);
        norms.add(&[3.0, 0.0, 1.0, 1.0, 1.0, 9.0, 4.0, 0.0, 0.0, 1.0, 0.0, 9.0]);
        // Norms are 5, 0, 1, √2, 1, 12.7: scores 5, 0, 2, 2.8 and, in a block that is not full, no two too many.
        let mut weight = Weight { n: 1, k: 6, values: vec![1.0, 100.0, 2.0, -2.0, 0.1, 0.1] };
        prune(&mut weight, Pattern::from_n(2).unwrap(), &norms);
        assert_eq!(weight.values, [1.0, 0.0, 0.0, -2.0, 0.1, 0.1]);
    }
}
