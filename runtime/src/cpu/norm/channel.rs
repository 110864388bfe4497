//! Normalisations of [N, C, …] tensors by channel.

use super::super::dispatch::{dispatch, input, output, view};
use super::super::parallel::rows;
use super::super::promote::{promote, to_common, to_real};
use super::super::{Context, Kernel, KernelError};
use super::{Real, moments};
use crate::op::norm::{BatchNorm, GroupNorm, InstanceNorm, Lrn};
use crate::tensor::{TensorView, TensorViewMut};

impl Kernel for BatchNorm {
    fn run(
        &self,
        _context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        promote!(self, inputs, outputs, to_common(inputs));
        let x = view(inputs, 0)?;
        let (channels, spatial): (usize, usize) = (x.shape[1], x.shape[2..].iter().product());
        dispatch!(real, "BatchNorm", x.dtype, T => {
            let (elements, scale, bias) = (input::<T>(inputs, 0)?, input::<T>(inputs, 1)?, input::<T>(inputs, 2)?);
            let (mean, variance) = (input::<T>(inputs, 3)?, input::<T>(inputs, 4)?);
            rows(output::<T>(outputs, 0)?, spatial, spatial, &|i, y| {
                let c = i % channels;
                let scale = scale[c].to_f64() / (variance[c].to_f64() + f64::from(self.epsilon)).sqrt();
                y.copy_from_slice(&elements[i * spatial..][..spatial]);
                T::normalise(y, mean[c].to_f64(), scale, bias[c].to_f64(), None, None);
            });
            Ok(())
        })
    }
}

/// Normalises each sample's `groups` groups of channels, then scales each channel.
fn group_norm<T: Real>(
    groups: usize,
    epsilon: f32,
    shape: &[usize],
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    let (x, scale, bias) = (input::<T>(inputs, 0)?, input::<T>(inputs, 1)?, input::<T>(inputs, 2)?);
    let spatial: usize = shape[2..].iter().product();
    let channels = shape[1] / groups.max(1);
    let length = channels * spatial;
    rows(output::<T>(outputs, 0)?, length, length, &|i, y| {
        y.copy_from_slice(&x[i * length..][..length]);
        let (mean, variance) = moments(y);
        let inverse = 1.0 / (variance + f64::from(epsilon)).sqrt();
        let first = i % groups * channels;
        for (c, y) in (first..).zip(y.chunks_mut(spatial)) {
            T::normalise(y, mean, inverse * scale[c].to_f64(), bias[c].to_f64(), None, None);
        }
    });
    Ok(())
}

impl Kernel for InstanceNorm {
    fn run(
        &self,
        _context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        promote!(self, inputs, outputs, to_real);
        let x = view(inputs, 0)?;
        dispatch!(real, "InstanceNorm", x.dtype, T => group_norm::<T>(x.shape[1], self.epsilon, x.shape, inputs, outputs))
    }
}

impl Kernel for GroupNorm {
    fn run(
        &self,
        _context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        promote!(self, inputs, outputs, to_real);
        let x = view(inputs, 0)?;
        dispatch!(real, "GroupNorm", x.dtype, T => group_norm::<T>(self.groups, self.epsilon, x.shape, inputs, outputs))
    }
}

impl Kernel for Lrn {
    fn run(
        &self,
        _context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        promote!(self, inputs, outputs, to_real);
        let x = view(inputs, 0)?;
        let (channels, spatial): (usize, usize) = (x.shape[1], x.shape[2..].iter().product());
        let length = channels * spatial;
        let (before, after) = ((self.size - 1) / 2, self.size / 2);
        let alpha = f64::from(self.alpha) / self.size as f64;
        dispatch!(real, "Lrn", x.dtype, T => {
            let elements = input::<T>(inputs, 0)?;
            rows(output::<T>(outputs, 0)?, length, length, &|n, y| {
                let x = &elements[n * length..][..length];
                let mut squares = vec![0f64; spatial];
                for (c, y) in y.chunks_mut(spatial).enumerate() {
                    squares.fill(0.0);
                    for neighbour in c.saturating_sub(before)..=c.saturating_add(after).min(channels - 1) {
                        for (s, v) in squares.iter_mut().zip(&x[neighbour * spatial..][..spatial]) {
                            *s += v.to_f64() * v.to_f64();
                        }
                    }
                    for ((y, v), s) in y.iter_mut().zip(&x[c * spatial..]).zip(&squares) {
                        *y = T::from_f64(v.to_f64() / (f64::from(self.bias) + alpha * s).powf(f64::from(self.beta)));
                    }
                }
            });
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::eval;
    use crate::dtype::DType;
    use crate::op::Op;
    use crate::op::elementwise::Cast;
    use crate::tensor::Tensor;

    const SHAPES: [&[usize]; 5] = [&[2, 6, 5, 7], &[3, 6], &[1, 6, 6000], &[2, 6, 0], &[0, 6, 2]];

    fn values(shape: &[usize], seed: usize) -> (Tensor, Vec<f64>) {
        let x: Vec<f32> = (0..shape.iter().product()).map(|i: usize| ((i * 7919 + seed) % 1009) as f32 / 300.0 + 0.1).collect();
        (Tensor::from_slice(shape, &x).unwrap(), x.iter().map(|&v| v.into()).collect())
    }

    fn check(op: impl Into<Op>, inputs: &[&Tensor], want: &[f64]) {
        let op = op.into();
        for dtype in [DType::F32, DType::F64] {
            let inputs: Vec<Tensor> =
                inputs.iter().map(|t| eval(&Cast { to: dtype }.into(), &[Some(t.view())]).unwrap().remove(0)).collect();
            let inputs: Vec<_> = inputs.iter().map(|t| Some(t.view())).collect();
            let out = eval(&op, &inputs).unwrap().remove(0);
            let got = eval(&Cast { to: DType::F64 }.into(), &[Some(out.view())]).unwrap().remove(0);
            for (got, want) in got.as_slice::<f64>().unwrap().iter().zip(want) {
                assert!((got - want).abs() <= 2e-6 * (1.0 + want.abs()), "{op:?} {dtype}: {got}, not {want}");
            }
        }
    }

    #[test]
    fn channel_norms_match_their_definitions() {
        const EPSILON: f32 = 1e-3;
        for shape in SHAPES {
            let spatial: usize = shape[2..].iter().product();
            let (x, xs) = values(shape, 1);
            let [(scale, s), (bias, b), (mean, m), (variance, v)] = [2, 3, 4, 5].map(|seed| values(&[6], seed));
            let channel = |i: usize| i / spatial % 6;
            let want: Vec<f64> = (0..xs.len())
                .map(|i| {
                    let c = channel(i);
                    (xs[i] - m[c]) / (v[c] + f64::from(EPSILON)).sqrt() * s[c] + b[c]
                })
                .collect();
            check(BatchNorm { epsilon: EPSILON }, &[&x, &scale, &bias, &mean, &variance], &want);

            for groups in [1, 2, 3, 6] {
                let length = 6 / groups * spatial;
                let moments: Vec<(f64, f64)> = xs
                    .chunks(length.max(1))
                    .map(|group| {
                        let mean = group.iter().sum::<f64>() / length as f64;
                        (mean, group.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / length as f64)
                    })
                    .collect();
                let want: Vec<f64> = (0..xs.len())
                    .map(|i| {
                        let (mean, variance) = moments[i / length];
                        (xs[i] - mean) / (variance + f64::from(EPSILON)).sqrt() * s[channel(i)] + b[channel(i)]
                    })
                    .collect();
                check(GroupNorm { groups, epsilon: EPSILON }, &[&x, &scale, &bias], &want);
                if groups == 6 {
                    check(InstanceNorm { epsilon: EPSILON }, &[&x, &scale, &bias], &want);
                }
            }

            for size in [1usize, 2, 3, 9] {
                let lrn = Lrn { alpha: 0.5, beta: 0.75, bias: 1.0, size };
                let want: Vec<f64> = (0..xs.len())
                    .map(|i| {
                        let c = channel(i) as i64;
                        let (low, high) = (c - (size as i64 - 1) / 2, c + size as i64 / 2);
                        let sum: f64 =
                            (low.max(0)..=high.min(5)).map(|k| xs[(i as i64 + (k - c) * spatial as i64) as usize].powi(2)).sum();
                        xs[i] / (1.0 + 0.5 / size as f64 * sum).powf(0.75)
                    })
                    .collect();
                check(lrn, &[&x], &want);
            }
        }
    }

    #[test]
    fn batch_norm_keeps_the_type_of_x() {
        let x = Tensor::from_slice(&[1, 2], &[1.0f32, 2.0].map(half::f16::from_f32)).unwrap();
        let [scale, bias] = [[2.0f32, 3.0], [0.5, 0.25]].map(|v| Tensor::from_slice(&[2], &v).unwrap());
        let [mean, variance] = [[0.0f64, 1.0], [1.0, 4.0]].map(|v| Tensor::from_slice(&[2], &v).unwrap());
        let inputs = [&x, &scale, &bias, &mean, &variance].map(|t| Some(t.view()));
        let out = eval(&BatchNorm { epsilon: 0.0 }.into(), &inputs).unwrap();
        assert_eq!(out[0].as_slice::<half::f16>().unwrap(), [2.5f32, 1.75].map(half::f16::from_f32));
    }
}
