//! CPU kernels of [`crate::op::norm`]: over the last axes, along one axis, and per channel, in a file each.

use rten_simd::SimdOp;
use rten_vecmath::{Normalize, NormalizeOptions, Sum, SumSquareSub};

use crate::dtype::Element;

mod channel;
mod layer;
mod line;

/// What normalisations need of an element type. Sums of f32 are vectorised over blocks and added up in f64.
trait Real: Element {
    /// Σ x.
    fn sum(x: &[Self]) -> f64;
    /// Σ (x − offset)².
    fn sum_square_sub(x: &[Self], offset: f64) -> f64;
    /// x ← (x − shift) · scale · weights + bias + biases.
    fn normalise(x: &mut [Self], shift: f64, scale: f64, bias: f64, weights: Option<&[Self]>, biases: Option<&[Self]>);
    /// Exact.
    fn to_f64(self) -> f64;
    /// Rounded.
    fn from_f64(v: f64) -> Self;
}

/// Elements summed in f32 before f64 takes over.
const BLOCK: usize = 4096;

impl Real for f32 {
    fn sum(x: &[f32]) -> f64 {
        x.chunks(BLOCK).map(|x| f64::from(Sum::new(x).dispatch())).sum()
    }

    fn sum_square_sub(x: &[f32], offset: f64) -> f64 {
        x.chunks(BLOCK).map(|x| f64::from(SumSquareSub::new(x, offset as f32).dispatch())).sum()
    }

    fn normalise(x: &mut [f32], shift: f64, scale: f64, bias: f64, weights: Option<&[f32]>, biases: Option<&[f32]>) {
        let options = NormalizeOptions {
            pre_scale_bias: shift as f32,
            scale: scale as f32,
            element_scale: weights,
            bias: bias as f32,
            element_bias: biases,
        };
        Normalize::new_mut(x, options).dispatch();
    }

    fn to_f64(self) -> f64 {
        self.into()
    }

    fn from_f64(v: f64) -> f32 {
        v as f32
    }
}

impl Real for f64 {
    fn sum(x: &[f64]) -> f64 {
        x.iter().sum()
    }

    fn sum_square_sub(x: &[f64], offset: f64) -> f64 {
        x.iter().map(|v| (v - offset) * (v - offset)).sum()
    }

    fn normalise(x: &mut [f64], shift: f64, scale: f64, bias: f64, weights: Option<&[f64]>, biases: Option<&[f64]>) {
        for (i, v) in x.iter_mut().enumerate() {
            *v = (*v - shift) * scale * weights.map_or(1.0, |w| w[i]) + bias + biases.map_or(0.0, |b| b[i]);
        }
    }

    fn to_f64(self) -> f64 {
        self
    }

    fn from_f64(v: f64) -> f64 {
        v
    }
}

/// Mean and variance, in two passes.
fn moments<T: Real>(x: &[T]) -> (f64, f64) {
    let mean = T::sum(x) / x.len() as f64;
    (mean, T::sum_square_sub(x, mean) / x.len() as f64)
}
