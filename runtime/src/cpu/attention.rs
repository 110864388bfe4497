//! Attention: per block of tokens and head, the scores, their softmax and the product with the values, in a buffer that stays in
//! the cache. Heads are read and written where they lie; nothing is transposed, and what causality hides from a whole block is
//! not computed.

use rayon::prelude::*;
use std::borrow::Cow;

use super::gemm::float::{RhsF32, multiply};
use super::gemm::matrix::Strided;
use super::gemm::required;
use super::gemm::widen::{rounded, widened};
use super::softmax::{Mask, softmax};
use super::{Context, Kernel, KernelError};
use crate::dtype::DType;
use crate::op::attention::Attention;
use crate::tensor::{TensorView, TensorViewMut};

/// Scores in flight per task: 256 KiB.
const SCORES: usize = 64 * 1024;

/// Heads side by side in rows of [batch, rows, heads·depth], or one after the other in [batch, heads, rows, depth].
struct Heads<'a> {
    data: Cow<'a, [f32]>,
    rows: usize,
    depth: usize,
    /// Elements from one to the next.
    batch_stride: usize,
    head_stride: usize,
    row_stride: usize,
}

impl<'a> Heads<'a> {
    fn new(x: TensorView<'a>, heads: usize) -> Result<Self, KernelError> {
        let data = widened("Attention", x)?;
        Ok(match *x.shape {
            [_, heads, rows, depth] => {
                Heads { data, rows, depth, batch_stride: heads * rows * depth, head_stride: rows * depth, row_stride: depth }
            }
            [_, rows, width] => {
                let depth = width / heads;
                Heads { data, rows, depth, batch_stride: rows * width, head_stride: depth, row_stride: width }
            }
            _ => return Err(KernelError::Data(format!("an operand of Attention has {} axes", x.shape.len()))),
        })
    }

    /// `rows` rows of one head from `first` on.
    fn head(&self, batch: usize, head: usize, first: usize, rows: usize) -> Strided<'_, f32> {
        let start = batch * self.batch_stride + head * self.head_stride + first * self.row_stride;
        // Where there is no element there may be no start either.
        let data = self.data.get(start..).unwrap_or_default();
        Strided { data, rows, cols: self.depth, row_stride: self.row_stride, col_stride: 1 }
    }
}

/// A mask broadcast to [batch, heads, tokens, total], as what is added to the scores.
struct Masks<'a> {
    data: Cow<'a, [f32]>,
    strides: [usize; 3],
    /// Elements per row: `total` or 1.
    row: usize,
    /// Whether it only says which keys take part: −∞ or 0.
    selects: bool,
}

impl<'a> Masks<'a> {
    fn new(mask: TensorView<'a>) -> Result<Self, KernelError> {
        let selects = mask.dtype == DType::Bool;
        let data = if selects {
            Cow::Owned(mask.data.iter().map(|&b| if b == 0 { f32::NEG_INFINITY } else { 0.0 }).collect())
        } else {
            widened("Attention", mask)?
        };
        let mut extents = [1; 4];
        extents[4 - mask.shape.len()..].copy_from_slice(mask.shape);
        let mut strides = [0; 3];
        let mut step = extents[3];
        for axis in (0..3).rev() {
            strides[axis] = if extents[axis] == 1 { 0 } else { step };
            step *= extents[axis];
        }
        Ok(Masks { data, strides, row: extents[3], selects })
    }

    /// For the first `visible` of `total` keys.
    fn at(&self, index: [usize; 3], visible: usize, total: usize) -> Mask<'_> {
        let start: usize = std::iter::zip(index, self.strides).map(|(i, stride)| i * stride).sum();
        let row = &self.data[start..][..self.row];
        if self.row == 1 && total != 1 { Mask::Uniform(row[0]) } else { Mask::PerElement(&row[..visible]) }
    }
}

impl Mask<'_> {
    /// Whether no key takes part.
    fn hides_all(self) -> bool {
        match self {
            Mask::None => false,
            Mask::Uniform(term) => term == f32::NEG_INFINITY,
            Mask::PerElement(terms) => terms.iter().all(|t| *t == f32::NEG_INFINITY),
        }
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
        let operand = |i, heads| Heads::new(required(inputs, i)?, heads);
        let (query, key, value) = (operand(0, self.heads)?, operand(1, self.kv_heads)?, operand(2, self.kv_heads)?);
        let (tokens, total, depth, width) = (query.rows, key.rows, value.depth, self.heads * value.depth);
        let masks = inputs.get(3).copied().flatten().map(Masks::new).transpose()?;
        // Keys that a query sees, those later than itself left out.
        let visible = |query: usize| if self.causal { (query + 1 + total).saturating_sub(tokens) } else { total };

        // Rows few enough for the scores to stay in the cache and for every thread to have some, but worth a product each.
        let share = tokens.div_ceil(2 * rayon::current_num_threads());
        let rows = (SCORES / total.max(1)).min(share).max(16).min(tokens);

        let block = |batch: usize, first: usize, out: &mut [f32]| {
            let rows = out.len() / width;
            // What none of the rows sees is not computed.
            let keys = visible(first + rows - 1);
            let (mut scores, mut head_out) = (vec![0.0; rows * keys], vec![0.0; rows * depth]);
            for head in 0..self.heads {
                let kv_head = head / self.group();
                let (q, k) = (query.head(batch, head, first, rows), key.head(batch, kv_head, 0, keys));
                let v = value.head(batch, kv_head, 0, keys);
                multiply(&mut scores, q, RhsF32::Strided(k.transposed()), self.scale)?;
                for (r, row) in scores.chunks_exact_mut(keys.max(1)).enumerate() {
                    let (seen, unseen) = row.split_at_mut(visible(first + r));
                    let mask = masks.as_ref().map_or(Mask::None, |m| m.at([batch, head, first + r], seen.len(), total));
                    if masks.as_ref().is_some_and(|m| m.selects) && mask.hides_all() {
                        seen.fill(0.0);
                    } else {
                        softmax(seen, mask);
                    }
                    unseen.fill(0.0);
                }
                multiply(&mut head_out, Strided::row_major(&scores, rows, keys), RhsF32::Strided(v), 1.0)?;
                for (to, from) in out.chunks_exact_mut(width).zip(head_out.chunks_exact(depth)) {
                    to[head * depth..][..depth].copy_from_slice(from);
                }
            }
            Ok(())
        };
        rounded("Attention", &mut outputs[0], |out| {
            out.par_chunks_mut(tokens * width).enumerate().try_for_each(|(batch, out)| {
                out.par_chunks_mut(rows * width).enumerate().try_for_each(|(i, out)| block(batch, i * rows, out))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::eval;
    use crate::dtype::Bool;
    use crate::op::elementwise::Cast;
    use crate::op::layout::Transpose;
    use crate::tensor::Tensor;

    fn values(shape: &[usize], seed: usize) -> Tensor {
        let x: Vec<f32> = (0..shape.iter().product()).map(|i: usize| ((i * 7919 + seed) % 1009) as f32 / 500.0 - 1.0).collect();
        Tensor::from_slice(shape, &x).unwrap()
    }

    fn cast(x: &Tensor, to: DType) -> Tensor {
        eval(&Cast { to }.into(), &[Some(x.view())]).unwrap().remove(0)
    }

    fn wide(x: &Tensor) -> Vec<f64> {
        cast(x, DType::F64).as_slice().unwrap().to_vec()
    }

    /// [batch, rows, heads·depth] as [batch, heads, rows, depth].
    fn apart(x: &Tensor, heads: usize) -> Tensor {
        let [batch, rows, width] = dims(x);
        let x = x.clone().reshaped(&[batch, rows, heads, width / heads]).unwrap();
        eval(&Transpose { perm: vec![0, 2, 1, 3] }.into(), &[Some(x.view())]).unwrap().remove(0)
    }

    /// The definition, by index arithmetic in f64; heads side by side.
    fn reference(op: Attention, q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> Vec<f64> {
        let ([batch, tokens, width], [_, total, kv_width], [_, _, value_width]) = (dims(q), dims(k), dims(v));
        let (d, e, group) = (width / op.heads, value_width / op.kv_heads, op.heads / op.kv_heads);
        let (q, k, v) = (wide(q), wide(k), wide(v));
        let term = mask.map(|m| (m.shape(), wide(m), m.dtype() == DType::Bool));
        let mask_at = |index: [usize; 4]| {
            term.as_ref().map_or(0.0, |(shape, terms, selects)| {
                let mut offset = 0;
                for (&extent, i) in shape.iter().zip(&index[4 - shape.len()..]) {
                    offset = offset * extent + if extent == 1 { 0 } else { *i };
                }
                match (selects, terms[offset]) {
                    (true, 0.0) => f64::NEG_INFINITY,
                    (true, _) => 0.0,
                    (false, term) => term,
                }
            })
        };
        let mut out = Vec::new();
        for (b, s, h) in (0..batch).flat_map(|b| (0..tokens).flat_map(move |s| (0..op.heads).map(move |h| (b, s, h)))) {
            let scores: Vec<f64> = (0..total)
                .map(|t| {
                    if op.causal && t + tokens > s + total {
                        return f64::NEG_INFINITY;
                    }
                    let (q, k) =
                        (&q[(b * tokens + s) * width + h * d..][..d], &k[(b * total + t) * kv_width + h / group * d..][..d]);
                    q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() * f64::from(op.scale) + mask_at([b, h, s, t])
                })
                .collect();
            let max = scores.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = scores.iter().map(|x| (x - max).exp()).sum();
            let value = |t: usize, i: usize| v[(b * total + t) * value_width + h / group * e + i];
            let mean = |i| (0..total).map(|t| (scores[t] - max).exp() / sum * value(t, i)).sum();
            out.extend((0..e).map(|i| if sum == 0.0 { 0.0 } else { mean(i) }));
        }
        out
    }

    fn dims(t: &Tensor) -> [usize; 3] {
        t.shape().try_into().unwrap()
    }

    #[test]
    fn matches_the_definition() {
        for (heads, kv_heads, [batch, tokens, total], d, e, mask) in [
            (1, 1, [1, 1, 1], 1, 1, None),
            (3, 3, [2, 5, 7], 4, 6, Some(&[2usize, 1, 1, 7][..])),
            (2, 1, [2, 37, 33], 8, 8, Some(&[37, 33])),
            (2, 2, [1, 70, 21], 16, 16, Some(&[1, 2, 70, 21])),
            (6, 2, [1, 3, 5], 2, 2, Some(&[6, 3, 1])),
            (2, 2, [3, 4, 1], 2, 3, Some(&[1])),
            (4, 2, [1, 130, 130], 16, 16, Some(&[])),
            (6, 3, [2, 40, 57], 8, 4, None),
        ] {
            let (q, k) = (values(&[batch, tokens, heads * d], 1), values(&[batch, total, kv_heads * d], 2));
            let v = values(&[batch, total, kv_heads * e], 3);
            let mask = mask.map(|shape| values(shape, 4));
            for (dtype, causal) in [DType::F32, DType::F16, DType::Bf16].into_iter().flat_map(|d| [(d, false), (d, true)]) {
                let op = Attention { heads, kv_heads, scale: 1.5, causal };
                let [q, k, v] = [&q, &k, &v].map(|x| cast(x, dtype));
                // Below an eighth no key takes part, so that some rows have none.
                let selection = mask.as_ref().map(|m| {
                    let bytes: Vec<Bool> = m.as_slice::<f32>().unwrap().iter().map(|v| Bool(u8::from(*v > 0.125))).collect();
                    Tensor::from_slice(m.shape(), &bytes).unwrap()
                });
                for mask in [mask.as_ref().map(|m| cast(m, dtype)), selection] {
                    let want = reference(op, &q, &k, &v, mask.as_ref());
                    for operands in [[q.clone(), k.clone(), v.clone()], [apart(&q, heads), k.clone(), apart(&v, kv_heads)]] {
                        let mut inputs: Vec<_> = operands.iter().map(|x| Some(x.view())).collect();
                        inputs.push(mask.as_ref().map(Tensor::view));
                        let got = wide(&eval(&op.into(), &inputs).unwrap()[0]);
                        let tolerance = match dtype {
                            DType::F32 => 2e-6,
                            DType::F16 => 1e-3,
                            _ => 8e-3,
                        };
                        for (got, want) in got.iter().zip(&want) {
                            assert!((got - want).abs() <= tolerance, "{op:?} {dtype}: {got}, not {want}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_to_attend_to_gives_zeros_and_masked_rows_nan() {
        let (q, none) = (values(&[1, 2, 4], 1), values(&[1, 0, 4], 1));
        let op = Attention { heads: 2, kv_heads: 2, scale: 1.0, causal: false }.into();
        let out = eval(&op, &[Some(q.view()), Some(none.view()), Some(none.view())]).unwrap();
        assert_eq!(out[0].as_slice::<f32>().unwrap(), [0.0; 8]);
        let mask = Tensor::from_slice(&[2, 2], &[0.0, f32::NEG_INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY]).unwrap();
        let selection = Tensor::from_slice(&[2, 2], &[1, 0, 0, 0].map(Bool)).unwrap();
        for (mask, is_zero) in [(&mask, false), (&selection, true)] {
            let out = eval(&op, &[Some(q.view()), Some(q.view()), Some(q.view()), Some(mask.view())]).unwrap();
            let (seen, masked) = out[0].as_slice::<f32>().unwrap().split_at(4);
            assert_eq!(seen, &q.as_slice::<f32>().unwrap()[..4]);
            assert!(masked.iter().all(|v| if is_zero { *v == 0.0 } else { v.is_nan() }));
        }
    }
}
