//! Random weights that look like trained ones, the same for the same seed, one tensor at a time.
//!
//! What is imitated, and where it is described:
//! - Linear weights are near normal with a deviation of about 0.02 (`initializer_range` of BERT, GPT-2 and Llama; QLoRA, arXiv 2305.14314,
//!   appendix F, finds trained weights normal), output channels differ in scale (per-channel quantization exists because of it; here
//!   lognormal with σ = 0.3), and a few weights are far out (SpQR, arXiv 2306.03078; here one in 1024, five times as large).
//! - Norms' weights lie around 1, their biases and those of linear layers are small.
//!
//! Activations that come out of such layers are well-behaved: the outlier channels of trained language models are not imitated.
//!
//! Must not know: graphs.

use bytes::Bytes;
use half::{bf16, f16};
use rayon::prelude::*;
use slidec::ir::Constant;
use slidec::sparsity::prune::prune_by_magnitude;
use slidec::sparsity::{Orientation, WeightError};
use sliderun::dtype::DType;
use sliderun::sparse::Pattern;
use sliderun::splitmix::SplitMix64;

/// Deviation of linear weights and tables.
const DEVIATION: f32 = 0.02;
/// σ of the logarithm of an output channel's scale.
const CHANNEL_SPREAD: f32 = 0.3;
/// One weight in 1024, told by ten bits that are all zero, is an outlier …
const OUTLIER_MASK: u64 = (1 << 10) - 1;
/// … and this many times as large.
const OUTLIER: f32 = 5.0;
/// Deviation of norms' weights from 1.
const NORM_SPREAD: f32 = 0.1;

/// What a parameter is, which decides how it is distributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The weight of a matrix product; pruned when that is asked for.
    Linear(Orientation),
    /// The filters of a convolution, [output channels, …], or an embedding's table.
    Table,
    /// The weight of a normalisation.
    Norm,
    /// A bias.
    Bias,
}

/// Where parameters come from.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    /// Element type of all parameters: f32, bf16 or f16.
    pub dtype: DType,
    /// The same seed gives the same parameters.
    pub seed: u64,
    /// A pattern that linear weights satisfy, made so by pruning by magnitude.
    pub prune: Option<Pattern>,
}

impl Weights {
    /// The elements of a parameter, row-major and little-endian.
    ///
    /// # Errors
    /// A linear weight whose shape is no matrix.
    pub fn elements(&self, name: &str, kind: Kind, shape: &[usize]) -> Result<Vec<u8>, WeightError> {
        let data = self.random(name, kind, shape);
        let (Kind::Linear(orientation), Some(pattern)) = (kind, self.prune) else { return Ok(data) };
        let dense = Constant { dtype: self.dtype, shape: shape.to_vec(), data: Bytes::from(data) };
        let (pruned, _) = prune_by_magnitude(&dense, orientation, pattern)?;
        drop(dense);
        Ok(Vec::from(pruned.data))
    }

    fn random(&self, name: &str, kind: Kind, shape: &[usize]) -> Vec<u8> {
        let width = shape.last().copied().unwrap_or(1).max(1);
        let row_bytes = width * self.dtype.size();
        let seed = seed_of(self.seed, name);
        // Rows have seeds of their own, so that they can be made side by side; channel scales have another.
        let channels = |n: usize| -> Vec<f32> {
            let mut random = row_generator(seed, u64::MAX);
            (0..n).map(|_| (CHANNEL_SPREAD * normal(random.next())).exp()).collect()
        };
        let rows = shape.iter().product::<usize>() / width;
        let (by_row, by_column) = match kind {
            Kind::Linear(Orientation::KN) => (vec![1.0; rows], channels(width)),
            Kind::Linear(Orientation::NK) => (channels(rows), vec![1.0; width]),
            _ => (vec![1.0; rows], vec![1.0; width]),
        };
        let (mean, deviation) = match kind {
            Kind::Norm => (1.0, NORM_SPREAD),
            _ => (0.0, DEVIATION),
        };
        let with_outliers = matches!(kind, Kind::Linear(_));
        let mut data = vec![0u8; rows * row_bytes];
        data.par_chunks_exact_mut(row_bytes).zip(by_row).enumerate().for_each(|(row, (out, scale))| {
            let mut random = row_generator(seed, row as u64);
            for (out, channel) in out.chunks_exact_mut(self.dtype.size()).zip(&by_column) {
                let bits = random.next();
                let far = with_outliers && (bits >> NORMAL_BITS) & OUTLIER_MASK == 0;
                let deviation = if far { OUTLIER * deviation } else { deviation };
                write(self.dtype, mean + deviation * scale * channel * normal(bits), out);
            }
        });
        data
    }
}

/// Writes a number as an element; types that are no floats get it as f32 and are refused before.
fn write(dtype: DType, value: f32, out: &mut [u8]) {
    match dtype {
        DType::Bf16 => out.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
        DType::F16 => out.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
        _ => out.copy_from_slice(&value.to_le_bytes()),
    }
}

/// FNV-1a over the seed and the parameter's name.
fn seed_of(seed: u64, name: &str) -> u64 {
    let bytes = seed.to_le_bytes().into_iter().chain(name.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The random numbers of one row of a tensor.
fn row_generator(seed: u64, row: u64) -> SplitMix64 {
    SplitMix64(SplitMix64(seed ^ row.wrapping_mul(0xd6e8_feb8_6659_fd93)).next())
}

/// Bits that [`normal`] reads.
const NORMAL_BITS: u32 = 52;

/// A nearly normal number of mean 0 and variance 1 from random bits: four uniform ones added (Irwin and Hall), at most √12 from 0.
///
/// Spelled out, for there are hundreds of millions to make and development builds inline nothing.
fn normal(bits: u64) -> f32 {
    const EACH: u32 = NORMAL_BITS / 4;
    const MASK: u64 = (1 << EACH) - 1;
    // Each is uniform over 0, 1 … 2^13 - 1, with a variance of (2^26 - 1) / 12.
    const DEVIATION: f32 = 4729.653;
    let sum = (bits & MASK) + ((bits >> EACH) & MASK) + ((bits >> (2 * EACH)) & MASK) + ((bits >> (3 * EACH)) & MASK);
    (sum as f32 - 2.0 * MASK as f32) / DEVIATION
}

#[cfg(test)]
mod tests {
    use super::*;
    use slidec::sparsity::{Weight, satisfied};

    fn values(weights: &Weights, kind: Kind, shape: &[usize]) -> Vec<f64> {
        let data = weights.elements("w", kind, shape).unwrap();
        data.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect()
    }

    fn moments(values: &[f64]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        (mean, (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt())
    }

    #[test]
    fn distributions_are_as_documented() {
        let weights = Weights { dtype: DType::F32, seed: 1, prune: None };
        // A lognormal scale of σ multiplies the second moment by exp(2σ²), outliers by 1 + 24/1024.
        let linear = 0.02 * 0.3f64.powi(2).exp() * (1.0 + 24.0 / 1024.0f64).sqrt();
        for (kind, mean, deviation) in [
            (Kind::Linear(Orientation::KN), 0.0, linear),
            (Kind::Linear(Orientation::NK), 0.0, linear),
            (Kind::Table, 0.0, 0.02),
            (Kind::Bias, 0.0, 0.02),
            (Kind::Norm, 1.0, 0.1),
        ] {
            let (m, d) = moments(&values(&weights, kind, &[512, 512]));
            assert!(
                (m - mean).abs() < 1e-3 && (d / deviation - 1.0).abs() < 0.05,
                "{kind:?}: {m} ± {d}, not {mean} ± {deviation}"
            );
        }
        let linear = values(&weights, Kind::Linear(Orientation::KN), &[512, 512]);
        let far = linear.iter().filter(|v| v.abs() > 6.0 * 0.02).count();
        assert!((50..1000).contains(&far), "{far} outliers of {}", linear.len());
    }

    #[test]
    fn seeds_and_names_decide() {
        let weights = Weights { dtype: DType::Bf16, seed: 1, prune: None };
        let bytes = |w: &Weights, name: &str| w.elements(name, Kind::Bias, &[64]).unwrap();
        assert_eq!(bytes(&weights, "a"), bytes(&weights, "a"));
        assert_ne!(bytes(&weights, "a"), bytes(&weights, "b"));
        assert_ne!(bytes(&weights, "a"), bytes(&Weights { seed: 2, ..weights }, "a"));
        assert_eq!(bytes(&weights, "a").len(), 128);
    }

    #[test]
    fn linear_weights_satisfy_the_pattern_along_k() {
        let pattern: Pattern = "6:8".parse().unwrap();
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            for orientation in [Orientation::KN, Orientation::NK] {
                let weights = Weights { dtype, seed: 3, prune: Some(pattern) };
                let data = weights.elements("w", Kind::Linear(orientation), &[32, 48]).unwrap();
                let constant = Constant { dtype, shape: vec![32, 48], data: Bytes::from(data) };
                assert!(satisfied(&Weight::read(&constant, orientation).unwrap()).contains(&pattern));
            }
            let weights = Weights { dtype, seed: 3, prune: Some(pattern) };
            let norm = weights.elements("n", Kind::Norm, &[64]).unwrap();
            assert_eq!(norm, Weights { prune: None, ..weights }.elements("n", Kind::Norm, &[64]).unwrap());
        }
    }
}
