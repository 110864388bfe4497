//! Normalisations over the last axes: LayerNorm and RMSNorm.

use super::super::broadcast::{Broadcast, zip2};
use super::super::dispatch::{dispatch, input, optional, output, view};
use super::super::parallel::rows;
use super::super::promote::{promote, to_common, to_real};
use super::super::{Context, Kernel, KernelError};
use super::{Real, moments};
use crate::op::norm::{LayerNorm, RmsNorm};
use crate::tensor::{TensorView, TensorViewMut};

/// Whether an operand's elements are one per element of a row of the given shape.
fn is_row(operand: &[usize], row: &[usize]) -> bool {
    let trimmed = |shape: &[usize]| shape.iter().copied().skip_while(|&d| d == 1).collect::<Vec<_>>();
    trimmed(operand) == trimmed(row)
}

/// Normalises each row of `x` by the (shift, scale) that `statistics` finds for it, then applies the affine part.
fn normalise_rows<T: Real + std::ops::Mul<Output = T> + std::ops::Add<Output = T>>(
    x: TensorView<'_>,
    axis: usize,
    inputs: &[Option<TensorView<'_>>],
    y: &mut [T],
    statistics: &(dyn Fn(&[T]) -> (f64, f64) + Sync),
) -> Result<(), KernelError> {
    let (elements, row) = (input::<T>(inputs, 0)?, &x.shape[axis..]);
    let length: usize = row.iter().product();
    let operand = |i: usize| inputs.get(i).copied().flatten();
    let (weights, biases) = (optional::<T>(inputs, 1)?, optional::<T>(inputs, 2)?);
    let shape = |i| operand(i).map_or(row, |v| v.shape);
    if is_row(shape(1), row) && is_row(shape(2), row) {
        rows(y, length, length, &|i, y| {
            y.copy_from_slice(&elements[i * length..][..length]);
            let (shift, scale) = statistics(y);
            T::normalise(y, shift, scale, 0.0, weights, biases);
        });
        return Ok(());
    }
    rows(y, length, length, &|i, y| {
        y.copy_from_slice(&elements[i * length..][..length]);
        let (shift, scale) = statistics(y);
        T::normalise(y, shift, scale, 0.0, None, None);
    });
    if let Some(weights) = weights {
        let before = y.to_vec();
        zip2(&Broadcast::new(x.shape, [x.shape, shape(1)]), &before, weights, y, |v, w| v * w);
    }
    if let Some(biases) = biases {
        let before = y.to_vec();
        zip2(&Broadcast::new(x.shape, [x.shape, shape(2)]), &before, biases, y, |v, b| v + b);
    }
    Ok(())
}

impl Kernel for LayerNorm {
    fn run(
        &self,
        _context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        promote!(self, inputs, outputs, to_real);
        let x = view(inputs, 0)?;
        let epsilon = f64::from(self.epsilon);
        dispatch!(real, "LayerNorm", x.dtype, T => {
            let statistics = |row: &[T]| {
                let (mean, variance) = moments(row);
                (mean, 1.0 / (variance + epsilon).sqrt())
            };
            normalise_rows::<T>(x, self.axis, inputs, output(outputs, 0)?, &statistics)?;
            if self.stats {
                // Asked for rarely: found again rather than carried out of the loop above.
                let length: usize = x.shape[self.axis..].iter().product();
                let elements = input::<T>(inputs, 0)?;
                let stats: Vec<_> =
                    (0..outputs[1].elements()).map(|i| statistics(&elements[i * length..][..length])).collect();
                output::<f32>(outputs, 1)?.iter_mut().zip(&stats).for_each(|(o, s)| *o = s.0 as f32);
                output::<f32>(outputs, 2)?.iter_mut().zip(&stats).for_each(|(o, s)| *o = s.1 as f32);
            }
            Ok(())
        })
    }
}

impl Kernel for RmsNorm {
    fn run(
        &self,
        _context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        promote!(self, inputs, outputs, to_common(inputs));
        let x = view(inputs, 0)?;
        let epsilon = f64::from(self.epsilon);
        dispatch!(real, "RmsNorm", x.dtype, T => {
            normalise_rows::<T>(x, self.axis, inputs, output(outputs, 0)?, &|row| {
                (0.0, 1.0 / (T::sum_square_sub(row, 0.0) / row.len() as f64 + epsilon).sqrt())
            })
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

    fn cast(x: &Tensor, to: DType) -> Tensor {
        eval(&Cast { to }.into(), &[Some(x.view())]).unwrap().remove(0)
    }

    fn doubles(x: &Tensor) -> Vec<f64> {
        cast(x, DType::F64).as_slice().unwrap().to_vec()
    }

    fn values(shape: &[usize], seed: usize) -> Tensor {
        let x: Vec<f64> = (0..shape.iter().product()).map(|i: usize| ((i * 7919 + seed) % 1009) as f64 / 300.0 - 1.0).collect();
        Tensor::from_slice(shape, &x).unwrap()
    }

    /// The definitions by index arithmetic in f64: `operand` is read at the broadcast position of element `at`.
    fn at(operand: &(Vec<usize>, Vec<f64>), shape: &[usize], mut index: usize) -> f64 {
        let (mut offset, mut step) = (0, 1);
        for (i, &extent) in shape.iter().rev().enumerate() {
            if let Some(own) = operand.0.len().checked_sub(i + 1).map(|a| operand.0[a]) {
                offset += if own == 1 { 0 } else { index % extent * step };
                step *= own;
            }
            index /= extent;
        }
        operand.1[offset]
    }

    #[test]
    fn layer_and_rms_norm_match_their_definitions() {
        for (shape, axis, scale, bias) in [
            (&[3usize, 5, 48][..], 2, &[48usize][..], Some(&[48usize][..])),
            (&[103, 331], 1, &[331], Some(&[331])),
            (&[2, 3, 4], 1, &[3, 4], None),
            (&[2, 3, 4], 1, &[4], Some(&[3, 1])),
            (&[2, 3, 4], 2, &[2, 1, 4], Some(&[])),
            (&[5], 0, &[5], None),
            (&[2, 0], 1, &[0], None),
        ] {
            let (x, scale, bias) = (values(shape, 1), values(scale, 5), bias.map(|b| values(b, 9)));
            for dtype in [DType::F64, DType::F32, DType::F16, DType::Bf16] {
                let tolerance = match dtype {
                    DType::F64 => 1e-12,
                    DType::F32 => 2e-6,
                    DType::F16 => 1e-3,
                    _ => 8e-3,
                };
                let (x, scale, bias) = (cast(&x, dtype), cast(&scale, dtype), bias.as_ref().map(|b| cast(b, dtype)));
                let wide = doubles(&x);
                let known = |t: &Tensor| (t.shape().to_vec(), doubles(t));
                let (scales, biases) = (known(&scale), bias.as_ref().map(known));
                let length: usize = shape[axis..].iter().product();
                for rms in [false, true] {
                    let op: Op = if rms {
                        RmsNorm { axis, epsilon: 1e-3 }.into()
                    } else {
                        LayerNorm { axis, epsilon: 1e-3, stats: true }.into()
                    };
                    let bias = bias.as_ref().filter(|_| !rms);
                    let inputs = [Some(x.view()), Some(scale.view()), bias.map(Tensor::view)];
                    let out = eval(&op, &inputs[..if rms { 2 } else { 3 }]).unwrap();
                    let got = doubles(&out[0]);
                    let moments: Vec<(f64, f64)> = wide
                        .chunks(length.max(1))
                        .map(|row| {
                            let mean = if rms { 0.0 } else { row.iter().sum::<f64>() / length as f64 };
                            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / length as f64;
                            (mean, 1.0 / (variance + f64::from(1e-3f32)).sqrt())
                        })
                        .collect();
                    for (i, got) in got.iter().enumerate() {
                        let (mean, inverse) = moments[i / length];
                        let scaled = (wide[i] - mean) * inverse * at(&scales, shape, i);
                        let want = scaled + biases.as_ref().filter(|_| !rms).map_or(0.0, |b| at(b, shape, i));
                        let near = tolerance * (want.abs() + scaled.abs() + 0.5);
                        assert!((got - want).abs() <= near, "{op:?} {dtype} {shape:?} at {i}: {got}, not {want}");
                        if !rms && i % length == 0 {
                            let stat = |o: usize| f64::from(out[o].as_slice::<f32>().unwrap()[i / length]);
                            assert!((stat(1) - mean).abs() < 1e-6 && (stat(2) - inverse).abs() < 1e-5, "{dtype} {shape:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_large_mean_does_not_cancel() {
        let x: Vec<f32> = (0..1000).map(|i| 8192.0 + (i % 2) as f32).collect();
        let (x, one) = (Tensor::from_slice(&[1000], &x).unwrap(), Tensor::from_slice(&[1000], &[1f32; 1000]).unwrap());
        let op = LayerNorm { axis: 0, epsilon: 0.0, stats: false }.into();
        let out = eval(&op, &[Some(x.view()), Some(one.view())]).unwrap();
        for (i, v) in out[0].as_slice::<f32>().unwrap().iter().enumerate() {
            assert!((v - if i % 2 == 0 { -1.0 } else { 1.0 }).abs() < 1e-6, "{v}");
        }
    }

    #[test]
    fn mixed_types_and_nan() {
        let x = Tensor::from_slice(&[2, 2], &[3.0f32, 4.0, f32::NAN, 1.0]).unwrap();
        let scale = Tensor::from_slice(&[2], &[1.0f64, 2.0]).unwrap();
        let out = eval(&RmsNorm { axis: 1, epsilon: 0.0 }.into(), &[Some(x.view()), Some(scale.view())]).unwrap();
        let y = out[0].as_slice::<f64>().unwrap();
        assert!((y[0] - 3.0 / 12.5f64.sqrt()).abs() < 1e-12 && (y[1] - 8.0 / 12.5f64.sqrt()).abs() < 1e-12, "{y:?}");
        assert!(y[2].is_nan() && y[3].is_nan());
    }
}
