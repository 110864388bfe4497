//! The exact decomposition of a (2N-2):2N weight into N-1 overlapping 2:4 windows per block.
//!
//! Window w of a block covers source positions 2w … 2w+3. Windows are walked left to right; each takes the first ≤ 2 non-zeros of its
//! span that are not yet taken. That is earliest-deadline-first scheduling, so it succeeds whenever a block has ≤ 2N-2 non-zeros,
//! and each non-zero lands in exactly one window: the sum over lifted positions equals the original dot product, term by term.

use half::{bf16, f16};
use rayon::prelude::*;
use sliderun::dtype::DType;
use sliderun::f8::F8E4M3;
use sliderun::sparse::compressed::{self, Weight as WeightElement};
use sliderun::sparse::{KLayout, Pattern};
use sliderun::tensor::Tensor;

/// A weight in the portable compressed form.
#[derive(Clone, Debug)]
pub struct Decomposed {
    /// How K is laid out.
    pub layout: KLayout,
    /// Kept values, [N, K'/2].
    pub values: Tensor,
    /// Positions, one nibble per group of four: u8 [N, K'/8].
    pub positions: Tensor,
}

/// A block with more non-zeros than the pattern allows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("output channel {channel} has {non_zeros} non-zeros in block {block} of {pattern}")]
#[allow(missing_docs)]
pub struct NotSparse {
    pub pattern: Pattern,
    pub channel: usize,
    pub block: usize,
    pub non_zeros: usize,
}

/// Decomposes a weight [N, K] of I8, F8e4m3, Bf16, F16 or F32 that satisfies `pattern`.
///
/// # Errors
/// The first block that does not satisfy it.
///
/// # Panics
/// For another element type: [`super::quantize::quantize`] makes no others.
pub fn decompose(weight: &Tensor, pattern: Pattern) -> Result<Decomposed, NotSparse> {
    match weight.dtype() {
        DType::I8 => decompose_as::<i8>(weight, pattern),
        DType::F8e4m3 => decompose_as::<F8E4M3>(weight, pattern),
        DType::F16 => decompose_as::<f16>(weight, pattern),
        DType::Bf16 => decompose_as::<bf16>(weight, pattern),
        DType::F32 => decompose_as::<f32>(weight, pattern),
        other => panic!("no product multiplies weights of type {other}"),
    }
}

fn decompose_as<T: WeightElement>(weight: &Tensor, pattern: Pattern) -> Result<Decomposed, NotSparse> {
    let (n, k) = (weight.shape()[0], weight.shape()[1]);
    let layout = KLayout::sparse(k, pattern);
    let width = layout.lifted();
    let mut lifted = vec![T::zeroed(); n * width];
    let rows = weight.as_slice::<T>().expect("dispatched on the element type").par_chunks_exact(k);
    rows.zip(lifted.par_chunks_exact_mut(width)).enumerate().try_for_each(|(channel, (row, lifted))| {
        let blocks = row.chunks(pattern.block()).zip(lifted.chunks_exact_mut(pattern.lifted_block()));
        for (block, (source, lifted)) in blocks.enumerate() {
            slide_block(source, lifted).map_err(|non_zeros| NotSparse { pattern, channel, block, non_zeros })?;
        }
        Ok(())
    })?;
    let lifted = Tensor::from_slice(&[n, width], &lifted).expect("N rows of K' elements");
    let (values, positions) = compressed::compress(lifted.view()).expect("sliding leaves at most two non-zeros in every window");
    Ok(Decomposed { layout, values, positions })
}

/// Distributes a block's non-zeros over its windows, `lifted` being all zeros before; on failure, how many there are.
fn slide_block<T: WeightElement>(source: &[T], lifted: &mut [T]) -> Result<(), usize> {
    let too_full = || source.iter().filter(|v| !v.is_zero()).count();
    let mut waiting = (0..source.len()).filter(|i| !source[*i].is_zero()).peekable();
    for (w, window) in lifted.chunks_exact_mut(4).enumerate() {
        let first = 2 * w;
        for _ in 0..2 {
            if let Some(i) = waiting.next_if(|i| *i < first + 4) {
                // Earlier windows took everything before this one's span, or there was too much of it.
                if i < first {
                    return Err(too_full());
                }
                window[i - first] = source[i];
            }
        }
    }
    match waiting.next() {
        None => Ok(()),
        Some(_) => Err(too_full()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sparsity::Weight;
    use crate::sparsity::quantize::quantize;
    use crate::sparsity::scales::Scales;
    use proptest::prelude::*;

    /// Every zero pattern of a block, for every N that can be tried exhaustively: it decomposes exactly when it has at most 2N-2
    /// non-zeros, every window then holds at most two, and each non-zero lands once, on a lifted position that reads its source.
    #[test]
    fn exhaustive_over_zero_patterns() {
        for n in 2..=6 {
            let pattern = Pattern::from_n(n).unwrap();
            let sources = KLayout::sparse(pattern.block(), pattern).sources();
            for mask in 0u32..1 << pattern.block() {
                let block: Vec<i8> = (0..pattern.block()).map(|i| if mask >> i & 1 == 1 { i as i8 + 1 } else { 0 }).collect();
                let mut lifted = vec![0; pattern.lifted_block()];
                let result = slide_block(&block, &mut lifted);
                assert_eq!(result.is_ok(), mask.count_ones() as usize <= pattern.kept(), "N={n} mask={mask:b}");
                if result.is_ok() {
                    assert!(lifted.chunks(4).all(|w| w.iter().filter(|v| **v != 0).count() <= 2));
                    let mut back = vec![0; pattern.block()];
                    for (p, v) in lifted.iter().enumerate().filter(|(_, v)| **v != 0) {
                        let source = sources[p].unwrap();
                        assert_eq!(back[source], 0, "taken twice");
                        back[source] = *v;
                    }
                    assert_eq!(back, block, "N={n} mask={mask:b}");
                }
            }
        }
    }

    proptest! {
        /// Dot products over the compressed form equal the original ones, for every N and any K.
        #[test]
        fn dot_products_are_exact(n in 2usize..=8, k in 1usize..100, channels in 1usize..5, seed in any::<u64>()) {
            let pattern = Pattern::from_n(n).unwrap();
            let mut state = seed;
            let mut next = || { state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407); state >> 33 };
            let mut values: Vec<i8> = (0..channels * k).map(|_| next() as i8).collect();
            for row in values.chunks_mut(k) {
                for block in row.chunks_mut(pattern.block()) {
                    while block.iter().filter(|v| **v != 0).count() > pattern.kept() {
                        let i = next() as usize % block.len();
                        block[i] = 0;
                    }
                }
            }
            let x: Vec<i64> = (0..k).map(|_| i64::from(next() as i8)).collect();
            let d = decompose(&Tensor::from_slice(&[channels, k], &values).unwrap(), pattern).unwrap();
            let (kept, positions) = (d.values.as_slice::<i8>().unwrap(), d.positions.bytes());
            let lifted: Vec<i64> = d.layout.sources().iter().map(|s| s.map_or(0, |s| x[s])).collect();
            let half = d.layout.lifted() / 2;
            for (channel, row) in values.chunks(k).enumerate() {
                let dense: i64 = row.iter().zip(&x).map(|(w, x)| i64::from(*w) * x).sum();
                let mut sparse = 0;
                for group in 0..d.layout.lifted() / 4 {
                    let nibble = positions[channel * half / 4 + group / 2] >> (4 * (group % 2)) & 0xf;
                    for (slot, position) in [(0, nibble & 3), (1, nibble >> 2)] {
                        let w = kept[channel * half + 2 * group + slot];
                        sparse += i64::from(w) * lifted[4 * group + usize::from(position)];
                    }
                }
                prop_assert_eq!(sparse, dense);
            }
        }
    }

    #[test]
    fn a_block_that_is_too_full_is_named() {
        let mut values = vec![0.0; 32];
        values[16 + 8..].fill(1.0);
        let weight = Weight { n: 2, k: 16, values };
        let error = decompose(&quantize(&weight, DType::I8, Scales::AbsMax).values, Pattern::from_n(4).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "output channel 1 has 8 non-zeros in block 1 of 6:8");
    }

    #[test]
    fn negative_zeros_are_zeros() {
        let weight = Weight { n: 1, k: 4, values: vec![-0.0, 1.0, -0.0, -2.0] };
        for dtype in [DType::F32, DType::F16, DType::Bf16, DType::F8e4m3, DType::I8] {
            assert!(decompose(&quantize(&weight, dtype, Scales::AbsMax).values, Pattern::from_n(2).unwrap()).is_ok(), "{dtype}");
        }
    }
}
