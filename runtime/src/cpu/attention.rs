//! Attention: per block of tokens and head, the scores, their softmax and the product with the values, in a buffer that stays in
//! the cache. Heads are read and written where they lie; nothing is transposed.

use rayon::prelude::*;
use std::borrow::Cow;

use super::gemm::float::{RhsF32, multiply};
use super::gemm::matrix::Strided;
use super::gemm::required;
use super::gemm::widen::{rounded, widened};
use super::softmax::{Mask, softmax};
use super::{Context, Kernel, KernelError};
use crate::op::attention::Attention;
use crate::tensor::{TensorView, TensorViewMut};

/// Scores in flight per task: 256 KiB.
const SCORES: usize = 64 * 1024;

/// [batch, tokens, width], the heads side by side along the width.
struct Interleaved<'a> {
    data: Cow<'a, [f32]>,
    tokens: usize,
    width: usize,
    heads: usize,
}

impl<'a> Interleaved<'a> {
    fn new(x: TensorView<'a>, heads: usize) -> Result<Self, KernelError> {
        Ok(Interleaved { data: widened("Attention", x)?, tokens: x.shape[1], width: x.shape[2], heads })
    }

    /// One head of `rows` tokens from `first` on.
    fn head(&self, batch: usize, head: usize, first: usize, rows: usize) -> Strided<'_, f32> {
        let cols = self.width / self.heads;
        let start = (batch * self.tokens + first) * self.width + head * cols;
        // Where there is no element there may be no start either.
        Strided { data: self.data.get(start..).unwrap_or_default(), rows, cols, row_stride: self.width, col_stride: 1 }
    }
}

/// An additive mask broadcast to [batch, heads, tokens, total].
struct Masks<'a> {
    data: &'a [f32],
    strides: [usize; 3],
    /// Elements per row: `total` or 1.
    row: usize,
}

impl<'a> Masks<'a> {
    fn new(data: &'a [f32], shape: &[usize]) -> Self {
        let mut extents = [1; 4];
        extents[4 - shape.len()..].copy_from_slice(shape);
        let mut strides = [0; 3];
        let mut step = extents[3];
        for axis in (0..3).rev() {
            strides[axis] = if extents[axis] == 1 { 0 } else { step };
            step *= extents[axis];
        }
        Masks { data, strides, row: extents[3] }
    }

    fn at(&self, index: [usize; 3], total: usize) -> Mask<'a> {
        let start: usize = std::iter::zip(index, self.strides).map(|(i, stride)| i * stride).sum();
        let row = &self.data[start..][..self.row];
        if self.row == 1 && total != 1 { Mask::Uniform(row[0]) } else { Mask::PerElement(row) }
    }
}

impl Kernel for Attention {
    fn run(
        &self,
        _context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        if outputs[0].elements() == 0 {
            return Ok(());
        }
        let operand = |i| Interleaved::new(required(inputs, i)?, self.heads);
        let (query, key, value) = (operand(0)?, operand(1)?, operand(2)?);
        let (tokens, total, value_width, value_depth) = (query.tokens, key.tokens, value.width, value.width / self.heads);
        let mask = inputs.get(3).copied().flatten();
        let mask = mask.map(|m| Ok::<_, KernelError>((widened("Attention", m)?, m.shape))).transpose()?;
        let masks = mask.as_ref().map(|(data, shape)| Masks::new(data, shape));

        // Rows few enough for the scores to stay in the cache and for every thread to have some, but worth a product each.
        let share = tokens.div_ceil(2 * rayon::current_num_threads());
        let rows = (SCORES / total.max(1)).min(share).max(16).min(tokens);

        let block = |batch: usize, first: usize, out: &mut [f32]| {
            let rows = out.len() / value_width;
            let (mut scores, mut heads_out) = (vec![0.0; rows * total], vec![0.0; rows * value_depth]);
            for head in 0..self.heads {
                let (q, k) = (query.head(batch, head, first, rows), key.head(batch, head, 0, total));
                let v = value.head(batch, head, 0, total);
                multiply(&mut scores, q, RhsF32::Strided(k.transposed()), self.scale)?;
                for (r, row) in scores.chunks_exact_mut(total.max(1)).enumerate() {
                    softmax(row, masks.as_ref().map_or(Mask::None, |m| m.at([batch, head, first + r], total)));
                }
                multiply(&mut heads_out, Strided::row_major(&scores, rows, total), RhsF32::Strided(v), 1.0)?;
                for (to, from) in out.chunks_exact_mut(value_width).zip(heads_out.chunks_exact(value_depth)) {
                    to[head * value_depth..][..value_depth].copy_from_slice(from);
                }
            }
            Ok(())
        };
        rounded("Attention", &mut outputs[0], |out| {
            out.par_chunks_mut(tokens * value_width).enumerate().try_for_each(|(batch, out)| {
                out.par_chunks_mut(rows * value_width).enumerate().try_for_each(|(i, out)| block(batch, i * rows, out))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::eval;
    use crate::dtype::DType;
    use crate::op::elementwise::Cast;
    use crate::tensor::Tensor;

    fn values(shape: &[usize], seed: usize) -> Tensor {
        let x: Vec<f32> = (0..shape.iter().product()).map(|i: usize| ((i * 7919 + seed) % 1009) as f32 / 500.0 - 1.0).collect();
        Tensor::from_slice(shape, &x).unwrap()
    }

    fn wide(x: &Tensor) -> Vec<f64> {
        eval(&Cast { to: DType::F64 }.into(), &[Some(x.view())]).unwrap()[0].as_slice().unwrap().to_vec()
    }

    /// The definition, by index arithmetic in f64.
    fn reference(op: Attention, q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> Vec<f64> {
        let ([batch, tokens, width], [_, total, value_width]) = (dims(q), dims(v));
        let (d, e) = (width / op.heads, value_width / op.heads);
        let (q, k, v) = (wide(q), wide(k), wide(v));
        let mask_at = |index: [usize; 4]| {
            mask.map_or(0.0, |m| {
                let mut offset = 0;
                for (&extent, i) in m.shape().iter().zip(&index[4 - m.shape().len()..]) {
                    offset = offset * extent + if extent == 1 { 0 } else { *i };
                }
                wide(m)[offset]
            })
        };
        let mut out = vec![0.0; batch * tokens * value_width];
        for b in 0..batch {
            for h in 0..op.heads {
                for s in 0..tokens {
                    let scores: Vec<f64> = (0..total)
                        .map(|t| {
                            let dot: f64 = (0..d)
                                .map(|i| q[(b * tokens + s) * width + h * d + i] * k[(b * total + t) * width + h * d + i])
                                .sum();
                            dot * f64::from(op.scale) + mask_at([b, h, s, t])
                        })
                        .collect();
                    let max = scores.iter().copied().fold(f64::MIN, f64::max);
                    let sum: f64 = scores.iter().map(|x| (x - max).exp()).sum();
                    for i in 0..e {
                        out[(b * tokens + s) * value_width + h * e + i] = (0..total)
                            .map(|t| (scores[t] - max).exp() / sum * v[(b * total + t) * value_width + h * e + i])
                            .sum();
                    }
                }
            }
        }
        out
    }

    fn dims(t: &Tensor) -> [usize; 3] {
        t.shape().try_into().unwrap()
    }

    #[test]
    fn matches_the_definition() {
        for (heads, batch, tokens, total, d, e, mask) in [
            (1, 1, 1, 1, 1, 1, None),
            (3, 2, 5, 7, 4, 6, Some(&[2usize, 1, 1, 7][..])),
            (2, 2, 37, 33, 8, 8, Some(&[37, 33])),
            (2, 1, 70, 21, 16, 16, Some(&[1, 2, 70, 21])),
            (2, 1, 3, 5, 2, 2, Some(&[2, 3, 1])),
            (2, 3, 4, 1, 2, 3, Some(&[1])),
            (4, 1, 300, 300, 32, 32, Some(&[])),
        ] {
            let (q, k) = (values(&[batch, tokens, heads * d], 1), values(&[batch, total, heads * d], 2));
            let v = values(&[batch, total, heads * e], 3);
            let mask = mask.map(|shape| values(shape, 4));
            let op = Attention { heads, scale: 1.5 };
            for dtype in [DType::F32, DType::F16, DType::Bf16] {
                let cast = |x: &Tensor| eval(&Cast { to: dtype }.into(), &[Some(x.view())]).unwrap().remove(0);
                let (q, k, v, mask) = (cast(&q), cast(&k), cast(&v), mask.as_ref().map(cast));
                let inputs = [Some(q.view()), Some(k.view()), Some(v.view()), mask.as_ref().map(Tensor::view)];
                let got = wide(&eval(&op.into(), &inputs).unwrap()[0]);
                let tolerance = match dtype {
                    DType::F32 => 2e-6,
                    DType::F16 => 1e-3,
                    _ => 8e-3,
                };
                for (got, want) in got.iter().zip(reference(op, &q, &k, &v, mask.as_ref())) {
                    assert!((got - want).abs() <= tolerance, "{op:?} {dtype}: {got}, not {want}");
                }
            }
        }
    }

    #[test]
    fn nothing_to_attend_to_gives_zeros_and_masked_rows_nan() {
        let (q, none) = (values(&[1, 2, 4], 1), values(&[1, 0, 4], 1));
        let op = Attention { heads: 2, scale: 1.0 }.into();
        let out = eval(&op, &[Some(q.view()), Some(none.view()), Some(none.view())]).unwrap();
        assert_eq!(out[0].as_slice::<f32>().unwrap(), [0.0; 8]);
        let mask = Tensor::from_slice(&[2, 2], &[0.0, f32::NEG_INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY]).unwrap();
        let out = eval(&op, &[Some(q.view()), Some(q.view()), Some(q.view()), Some(mask.view())]).unwrap();
        let (seen, masked) = out[0].as_slice::<f32>().unwrap().split_at(4);
        assert_eq!(seen, &q.as_slice::<f32>().unwrap()[..4]);
        assert!(masked.iter().all(|v| v.is_nan()));
    }
}
