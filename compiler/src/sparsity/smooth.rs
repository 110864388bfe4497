//! Scale migration: an activation is divided channel by channel by what the columns of its weights are multiplied by, so that what stands out
//! in the activation, which is scaled per token, is shared with the weight, which is scaled per output channel.
//!
//! `s[k] = max|x[k]|^α / max|w[k]|^(1−α)`, rounded to a power of two: dividing by that is exact in every float type, so that the product is
//! the same to the last bit until it is quantized, and zeros of weights stay zeros.
//!
//! Must not know: graphs, where an activation is divided.
//!
//! Source: SmoothQuant, arXiv 2211.10438, section 4.

use super::Weight;

/// The strengths α that are tried.
pub const STRENGTHS: [f32; 7] = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];

/// Largest exponent of a factor, either way: far from where the 16-bit floats end.
const LARGEST_EXPONENT: f32 = 10.0;

/// The largest magnitude of each column over all weights [N, K] that read one activation.
pub fn column_absmax<'w>(k: usize, weights: impl IntoIterator<Item = &'w Weight>) -> Vec<f32> {
    let mut out = vec![0.0f32; k];
    for row in weights.into_iter().flat_map(|w| w.values.chunks_exact(k)) {
        out.iter_mut().zip(row).for_each(|(m, w)| *m = m.max(w.abs()));
    }
    out
}

/// The factors for a strength α, given the largest magnitudes of the activation's channels and of the weights' columns. They are 1 in the
/// geometric mean, or nearly, and where either magnitude is 0.
pub fn factors(activation: &[f32], weight: &[f32], strength: f32) -> Vec<f32> {
    let exponent = |(x, w): (&f32, &f32)| {
        (*x > 0.0 && *w > 0.0).then(|| strength * x.log2() - (1.0 - strength) * w.log2()).filter(|e| e.is_finite())
    };
    let exponents: Vec<Option<f32>> = activation.iter().zip(weight).map(exponent).collect();
    let known = exponents.iter().flatten().count().max(1);
    let mean = exponents.iter().flatten().map(|e| f64::from(*e)).sum::<f64>() / known as f64;
    let factor = |e: &Option<f32>| e.map_or(1.0, |e| (e - mean as f32).round().clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT).exp2());
    exponents.iter().map(factor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_factors() {
        // √(64·4) = 16, √(1/1) = 1, √(4/64) = 1/4, of geometric mean 4^(1/3) = 2^(2/3): 2^(4 − 2/3), 2^(−2/3), 2^(−2 − 2/3).
        assert_eq!(factors(&[64.0, 1.0, 4.0, 0.0, 3.0], &[0.25, 1.0, 64.0, 1.0, 0.0], 0.5), [8.0, 0.5, 0.125, 1.0, 1.0]);
        // All of the activation's spread goes to the weight; none of it.
        assert_eq!(factors(&[8.0, 2.0], &[1.0, 5.0], 1.0), [2.0, 0.5]);
        assert_eq!(factors(&[8.0, 2.0], &[1.0, 4.0], 0.0), [2.0, 0.5]);
        assert_eq!(factors(&[1e30, 1.0, 1e-30], &[1.0; 3], 1.0), [1024.0, 1.0, 1.0 / 1024.0]);
        assert_eq!(factors(&[0.0], &[0.0], 0.5), [1.0]);
    }

    #[test]
    fn columns_of_all_weights() {
        let weights = [Weight { n: 2, k: 2, values: vec![1.0, -3.0, -2.0, 0.0] }, Weight { n: 1, k: 2, values: vec![0.5, 4.0] }];
        assert_eq!(column_absmax(2, &weights), [2.0, 4.0]);
    }
}
