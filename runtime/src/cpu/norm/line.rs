//! Normalisations along one axis: each line along it is worked on by itself.

use rten_simd::SimdOp;

use super::super::dispatch::{dispatch, input, output, view};
use super::super::parallel::{AxisView, along_axis};
use super::super::promote::{promote, to_real};
use super::super::{Context, Kernel, KernelError, softmax};
use super::Real;
use crate::op::norm::{Hardmax, LpNorm, Softmax};
use crate::tensor::{TensorView, TensorViewMut};

trait Line: Real {
    fn softmax(line: &mut [Self]);
    fn log_softmax(line: &mut [Self]);
}

impl Line for f32 {
    fn softmax(line: &mut [f32]) {
        softmax::softmax(line, softmax::Mask::None);
    }

    fn log_softmax(line: &mut [f32]) {
        rten_vecmath::LogSoftmax::new_mut(line).dispatch();
    }
}

impl Line for f64 {
    fn softmax(line: &mut [f64]) {
        let max = line.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        line.iter_mut().for_each(|v| *v = (*v - max).exp());
        let sum: f64 = line.iter().sum();
        line.iter_mut().for_each(|v| *v /= sum);
    }

    fn log_softmax(line: &mut [f64]) {
        let max = line.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log_sum = line.iter().map(|v| (v - max).exp()).sum::<f64>().ln();
        line.iter_mut().for_each(|v| *v = *v - max - log_sum);
    }
}

fn hardmax<T: Real + PartialOrd>(line: &mut [T]) {
    let mut best = 0;
    for i in 1..line.len() {
        if line[i] > line[best] {
            best = i;
        }
    }
    line.fill(T::from_f64(0.0));
    line[best] = T::from_f64(1.0);
}

fn lp_norm<T: Real>(p: u8, line: &mut [T]) {
    let norm = if p == 1 { line.iter().map(|v| v.to_f64().abs()).sum() } else { T::sum_square_sub(line, 0.0).sqrt() };
    for v in line {
        *v = T::from_f64(if norm == 0.0 { 0.0 } else { v.to_f64() / norm });
    }
}

macro_rules! along {
    ($($op:ident($self:ident, $t:ident) => $line:expr;)*) => {$(
        impl Kernel for $op {
            fn run(
                &$self,
                _context: Context<'_>,
                inputs: &[Option<TensorView<'_>>],
                outputs: &mut [TensorViewMut<'_>],
            ) -> Result<(), KernelError> {
                promote!($self, inputs, outputs, to_real);
                let x = view(inputs, 0)?;
                let axis = AxisView::new(x.shape, $self.axis);
                dispatch!(real, stringify!($op), x.dtype, $t => {
                    along_axis(input::<$t>(inputs, 0)?, output::<$t>(outputs, 0)?, axis, &$line);
                    Ok(())
                })
            }
        }
    )*};
}
along! {
    Softmax(self, T) => |line: &mut [T]| if self.log { T::log_softmax(line) } else { T::softmax(line) };
    Hardmax(self, T) => |line: &mut [T]| hardmax(line);
    LpNorm(self, T) => |line: &mut [T]| lp_norm(self.p, line);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::eval;
    use crate::dtype::Element;
    use crate::op::Op;
    use crate::tensor::Tensor;
    use half::f16;

    fn run<T: Element>(op: impl Into<Op>, shape: &[usize], x: &[T]) -> Vec<T> {
        let x = Tensor::from_slice(shape, x).unwrap();
        eval(&op.into(), &[Some(x.view())]).unwrap()[0].as_slice().unwrap().to_vec()
    }

    #[test]
    fn softmax_along_any_axis() {
        for shape in [&[3usize, 5, 7][..], &[2, 300, 40], &[70, 1031], &[1], &[4, 0], &[2, 1, 3]] {
            let x: Vec<f32> = (0..shape.iter().product()).map(|i: usize| ((i * 7919) % 1013) as f32 * 0.02 - 10.0).collect();
            let wide: Vec<f64> = x.iter().map(|&v| v.into()).collect();
            for axis in 0..shape.len() {
                let inner: usize = shape[axis + 1..].iter().product();
                let got = run(Softmax { axis, log: false }, shape, &x);
                let log = run(Softmax { axis, log: true }, shape, &x);
                let double = run(Softmax { axis, log: false }, shape, &wide);
                let line = |i: usize| i / (inner * shape[axis]) * inner + i % inner;
                let mut sums = vec![0f64; x.len()];
                (0..x.len()).for_each(|i| sums[line(i)] += wide[i].exp());
                for i in 0..x.len() {
                    let sum = sums[line(i)];
                    let want = wide[i].exp() / sum;
                    // Subtracting the largest element already rounds the exponent, by up to 1e-6 for a distance of 20.
                    assert!((f64::from(got[i]) - want).abs() <= 2e-6 * want, "{shape:?} {axis}: {} not {want}", got[i]);
                    assert!((double[i] - want).abs() <= 1e-12 * want);
                    assert!((f64::from(log[i]) - want.ln()).abs() <= 2e-6 * (1.0 + want.ln().abs()), "{} {want}", log[i]);
                }
            }
        }
    }

    #[test]
    fn softmax_of_masks_and_infinities() {
        const INF: f32 = f32::INFINITY;
        let nan = f32::NAN;
        for (x, want) in [
            ([0.0f32, 0.0, -INF], [0.5f32, 0.5, 0.0]),
            ([1.0, f32::MIN, f32::MIN], [1.0, 0.0, 0.0]),
            ([f32::MIN; 3], [1.0 / 3.0; 3]),
            ([-INF; 3], [nan; 3]),
            ([1.0, nan, 2.0], [nan; 3]),
            ([1.0, INF, 2.0], [nan; 3]),
            ([3e38, 3e38, -3e38], [0.5, 0.5, 0.0]),
        ] {
            for got in [run(Softmax { axis: 0, log: false }, &[3], &x), {
                run(Softmax { axis: 0, log: false }, &[3], &x.map(f64::from)).iter().map(|&v| v as f32).collect()
            }] {
                for (g, w) in got.iter().zip(&want) {
                    assert!((g - w).abs() <= 1e-7 || g.is_nan() && w.is_nan(), "{x:?}: {got:?}");
                }
            }
        }
        let log = run(Softmax { axis: 0, log: true }, &[2], &[0.0f32, -INF]);
        assert_eq!(log, [0.0, -INF]);
    }

    #[test]
    fn hardmax_and_lp_norm() {
        assert_eq!(run(Hardmax { axis: 1 }, &[2, 3], &[1.0f32, 3.0, 3.0, -1.0, -2.0, -1.0]), [0.0, 1.0, 0.0, 1.0, 0.0, 0.0]);
        assert_eq!(run(Hardmax { axis: 0 }, &[2, 2], &[1.0f64, 3.0, 2.0, 0.0]), [0.0, 1.0, 1.0, 0.0]);
        assert_eq!(run(LpNorm { p: 2, axis: 1 }, &[2, 2], &[3.0f32, -4.0, 0.0, 0.0]), [0.6, -0.8, 0.0, 0.0]);
        let half = |v: [f32; 4]| v.map(f16::from_f32);
        assert_eq!(run(LpNorm { p: 1, axis: 0 }, &[2, 2], &half([1.0, 3.0, -3.0, 5.0])), half([0.25, 0.375, -0.75, 0.625]));
    }
}
