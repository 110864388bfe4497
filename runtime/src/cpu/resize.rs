//! CPU kernel of [`crate::op::resize`]: each axis has its own weights and is resampled in turn.
//!
//! Positions and weights are those of the ONNX reference implementation (`reference/ops/op_resize.py`), in f64.

use std::ops::{AddAssign, Mul};

use bytemuck::Pod;

use super::axis_map::{AxisMap, copy_mapped};
use super::layout::operand;
use super::parallel;
use super::promote::{promote, to_real};
use super::{Context, Kernel, KernelError};
use crate::dtype::DType;
use crate::op::resize::{Coordinates, Interpolation, NearestRounding, Resize};
use crate::tensor::{TensorView, TensorViewMut};

/// One axis that is resampled.
struct Axis {
    input: usize,
    output: usize,
    /// Result extent over input extent.
    scale: f64,
}

impl Axis {
    fn of(op: &Resize, i: usize, input: usize, output: usize) -> Axis {
        let scale = op.scales.as_ref().map_or(output as f64 / input as f64, |s| f64::from(s[i]));
        Axis { input, output, scale }
    }

    /// Whether the axis stays as it is.
    fn is_identity(&self) -> bool {
        self.input == self.output && (self.scale - 1.0).abs() <= 1e-9
    }

    /// Position in the input of element `o` of the result.
    fn position(&self, o: usize, coordinates: Coordinates) -> f64 {
        let o = o as f64;
        // The extent that the scale gives, which is not rounded.
        let extent = self.scale * self.input as f64;
        let half_pixel = (o + 0.5) / self.scale - 0.5;
        match coordinates {
            Coordinates::HalfPixel => half_pixel,
            Coordinates::HalfPixelSymmetric => self.input as f64 / 2.0 * (1.0 - self.output as f64 / extent) + half_pixel,
            Coordinates::PytorchHalfPixel => {
                if extent == 1.0 {
                    -0.5
                } else {
                    half_pixel
                }
            }
            Coordinates::AlignCorners => {
                if extent == 1.0 {
                    0.0
                } else {
                    o * (self.input as f64 - 1.0) / (extent - 1.0)
                }
            }
            Coordinates::Asymmetric => o / self.scale,
        }
    }

    /// The nearest element of the input for each of the result.
    fn nearest(&self, coordinates: Coordinates, rounding: NearestRounding) -> AxisMap {
        let nearest = |o| {
            let x = self.position(o, coordinates);
            let fraction = x - x.floor();
            let up = match rounding {
                NearestRounding::RoundPreferFloor => fraction > 0.5,
                NearestRounding::RoundPreferCeil => fraction >= 0.5,
                NearestRounding::Floor => false,
                NearestRounding::Ceil => fraction > 0.0,
            };
            let at = if up { x.floor() + 1.0 } else { x.floor() };
            Some(at.clamp(0.0, (self.input - 1) as f64) as usize)
        };
        (0..self.output).map(nearest).collect()
    }

    /// The weights of the elements of the input for each element of the result.
    fn weights(&self, coordinates: Coordinates, filter: &Filter) -> Vec<Weights> {
        // When shrinking with a low-pass filter, the filter is as much wider as the result is smaller.
        let stretch = if filter.antialias { self.scale.min(1.0) } else { 1.0 };
        let first_tap = (-filter.radius / stretch).floor() as i64 + 1;
        let last = self.input as i64 - 1;
        let weights = |o| {
            let x = self.position(o, coordinates);
            // The neighbour to the left; an element exactly at the position counts as the one to its right.
            let left = x.ceil() - 1.0;
            let fraction = x - left;
            let left = left as i64;
            let range = left + first_tap..=left + 1 - first_tap;
            let start = (*range.start()).clamp(0, last);
            let mut weights = vec![0f64; ((*range.end()).clamp(0, last) - start + 1) as usize];
            let mut sum = 0.0;
            for at in range {
                if filter.exclude_outside && !(0..=last).contains(&at) {
                    continue;
                }
                let weight = filter.weight(stretch * ((at - left) as f64 - fraction));
                // Outside, the edge element continues.
                weights[(at.clamp(0, last) - start) as usize] += weight;
                sum += weight;
            }
            if sum != 0.0 {
                weights.iter_mut().for_each(|w| *w /= sum);
            }
            Weights { start: start as usize, weights }
        };
        (0..self.output).map(weights).collect()
    }
}

/// Weights of consecutive elements of the input.
struct Weights {
    start: usize,
    weights: Vec<f64>,
}

/// The interpolating function.
struct Filter {
    /// Coefficient of the cubic; none for linear.
    cubic: Option<f64>,
    /// Distance from which the weight is 0.
    radius: f64,
    exclude_outside: bool,
    antialias: bool,
}

impl Filter {
    /// The weight at a distance.
    fn weight(&self, distance: f64) -> f64 {
        let x = distance.abs();
        match self.cubic {
            None => (1.0 - x).max(0.0),
            Some(a) if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
            Some(a) if x < 2.0 => ((x - 5.0) * x + 8.0) * x * a - 4.0 * a,
            Some(_) => 0.0,
        }
    }
}

/// Resamples one axis: `src` is [outer, input, inner], the result [outer, taps.len(), inner]. `taps` has the first element and the
/// weights of consecutive ones.
fn resample<T: Pod + Default + Sync + AddAssign + Mul<Output = T>>(
    src: &[T],
    input: usize,
    inner: usize,
    taps: &[(usize, Vec<T>)],
) -> Vec<T> {
    let outer = src.len() / (input * inner);
    let mut out = vec![T::default(); outer * taps.len() * inner];
    let widest = taps.iter().map(|(_, weights)| weights.len()).max().unwrap_or(0);
    parallel::rows(&mut out, inner, inner.saturating_mul(widest), &|i, out| {
        let (start, weights) = &taps[i % taps.len()];
        let from = (i / taps.len() * input + start) * inner;
        for (row, &weight) in src[from..].chunks_exact(inner).zip(weights) {
            out.iter_mut().zip(row).for_each(|(o, v)| *o += weight * *v);
        }
    });
    out
}

/// Resamples every axis that changes, those that grow last: no intermediate is larger than both ends. `number` makes a weight of the
/// type that is computed in.
fn interpolate<T: Pod + Default + Sync + AddAssign + Mul<Output = T>>(
    x: &[T],
    axes: &[Axis],
    coordinates: Coordinates,
    filter: &Filter,
    number: impl Fn(f64) -> T,
    out: &mut [T],
) {
    let mut extents: Vec<usize> = axes.iter().map(|a| a.input).collect();
    let mut order: Vec<usize> = (0..axes.len()).filter(|&i| !axes[i].is_identity()).collect();
    order.sort_by_key(|&i| axes[i].output > axes[i].input);
    let mut current = std::borrow::Cow::Borrowed(x);
    for i in order {
        let weights = axes[i].weights(coordinates, filter);
        let taps: Vec<(usize, Vec<T>)> =
            weights.into_iter().map(|w| (w.start, w.weights.into_iter().map(&number).collect())).collect();
        let inner = extents[i + 1..].iter().product();
        current = resample(&current, axes[i].input, inner, &taps).into();
        extents[i] = axes[i].output;
    }
    out.copy_from_slice(&current);
}

impl Kernel for Resize {
    fn run(
        &self,
        _: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let (x, out) = (operand(inputs, 0)?, &mut outputs[0]);
        if out.data.is_empty() {
            return Ok(());
        }
        let pairs = x.shape.iter().zip(out.shape).enumerate();
        let axes: Vec<Axis> = pairs.map(|(i, (&input, &output))| Axis::of(self, i, input, output)).collect();
        let (cubic, radius, exclude_outside) = match self.interpolation {
            Interpolation::Nearest(rounding) => {
                let map = |axis: &Axis| {
                    if axis.is_identity() {
                        (0..axis.output).map(Some).collect()
                    } else {
                        axis.nearest(self.coordinates, rounding)
                    }
                };
                let maps: Vec<AxisMap> = axes.iter().map(map).collect();
                let size = x.dtype.size();
                copy_mapped(size, x.data, x.shape, &maps, &[0u8; 8][..size], out.data);
                return Ok(());
            }
            Interpolation::Linear => (None, 1.0, false),
            Interpolation::Cubic { a, exclude_outside } => (Some(f64::from(a)), 2.0, exclude_outside),
        };
        let filter = Filter { cubic, radius, exclude_outside, antialias: self.antialias };
        if x.dtype == DType::F64 {
            let (x, out) = (bytemuck::cast_slice(x.data), bytemuck::cast_slice_mut(out.data));
            interpolate::<f64>(x, &axes, self.coordinates, &filter, |w| w, out);
            return Ok(());
        }
        promote!(self, inputs, outputs, to_real);
        let (x, out) = (bytemuck::cast_slice(x.data), bytemuck::cast_slice_mut(outputs[0].data));
        interpolate::<f32>(x, &axes, self.coordinates, &filter, |w| w as f32, out);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
