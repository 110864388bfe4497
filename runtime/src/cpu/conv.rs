//! CPU kernel of [`crate::op::conv::Conv`]: windows unrolled into columns and multiplied by the weights; depthwise convolution and
//! f64 add up shifted rows instead.

use std::ops::{AddAssign, Mul};

use bytemuck::Pod;
use rayon::prelude::*;
use rten_gemm::{BiasVector, GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_tensor::NdTensorView;

use super::layout::operand;
use super::parallel;
use super::promote::{promote, to_real};
use super::windows::{WindowAxis, for_each_row, taps_of_window, window_axes};
use super::{Context, Kernel, KernelError};
use crate::dtype::DType;
use crate::op::conv::Conv;
use crate::tensor::{TensorView, TensorViewMut};

/// Columns are unrolled in parts of about this many elements (16 MiB).
const COLUMN_ELEMENTS: usize = 1 << 22;

/// One convolution: shapes in elements, all of one group.
struct Problem {
    /// Spatial axes.
    axes: Vec<WindowAxis>,
    /// Elements of the window.
    taps: Vec<Vec<usize>>,
    groups: usize,
    /// Channels of a group in the input and in the result.
    channels: usize,
    filters: usize,
    /// Spatial elements of the input and of the result.
    pixels_in: usize,
    pixels_out: usize,
}

impl Kernel for Conv {
    fn run(
        &self,
        _: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        promote!(self, inputs, outputs, to_real);
        let (x, w, out) = (operand(inputs, 0)?, operand(inputs, 1)?, &mut outputs[0]);
        let bias = inputs.get(2).copied().flatten();
        if out.data.is_empty() {
            return Ok(());
        }
        let axes = window_axes(&self.windows, x.shape, out.shape);
        let channels = w.shape[1];
        let problem = Problem {
            // Without channels the window may have any extent: nothing holds its elements.
            taps: if channels == 0 { Vec::new() } else { taps_of_window(&axes) },
            axes,
            groups: self.groups,
            channels,
            filters: w.shape[0] / self.groups,
            pixels_in: x.shape[2..].iter().product(),
            pixels_out: out.shape[2..].iter().product(),
        };
        if x.dtype == DType::F64 {
            let bias: Option<&[f64]> = bias.map(|b| bytemuck::cast_slice(b.data));
            let (x, w): (&[f64], &[f64]) = (bytemuck::cast_slice(x.data), bytemuck::cast_slice(w.data));
            direct(&problem, x, w, bias, bytemuck::cast_slice_mut(out.data));
            return Ok(());
        }
        let (x, w): (&[f32], &[f32]) = (bytemuck::cast_slice(x.data), bytemuck::cast_slice(w.data));
        let bias: Option<&[f32]> = bias.map(|b| bytemuck::cast_slice(b.data));
        let out = bytemuck::cast_slice_mut(out.data);
        let depth = problem.channels * problem.taps.len();
        let widest_row = depth.saturating_mul(problem.pixels_out / problem.axes[0].output);
        if problem.channels <= 1 || widest_row > 16 * COLUMN_ELEMENTS {
            direct(&problem, x, w, bias, out);
            return Ok(());
        }
        by_columns(&problem, x, w, bias, out)
    }
}

/// Adds, for each element of the window, the input times the weight, row by row. x: [N, groups·channels, pixels_in],
/// w: [groups·filters, channels, taps], out: [N, groups·filters, pixels_out].
fn direct<T: Pod + Default + Sync + AddAssign + Mul<Output = T>>(
    problem: &Problem,
    x: &[T],
    w: &[T],
    bias: Option<&[T]>,
    out: &mut [T],
) {
    let Problem { axes, taps, groups, channels, filters, pixels_in, pixels_out } = problem;
    let stride = axes[axes.len() - 1].stride();
    let work = pixels_out.saturating_mul(channels * taps.len());
    parallel::rows(out, *pixels_out, work, &|i, plane| {
        let (image, filter) = (i / (groups * filters), i % (groups * filters));
        plane.fill(bias.map_or(T::default(), |b| b[filter]));
        for c in 0..*channels {
            let from = (image * groups + filter / filters) * channels + c;
            let source = &x[from * pixels_in..(from + 1) * pixels_in];
            for (t, tap) in taps.iter().enumerate() {
                let weight = w[(filter * channels + c) * taps.len() + t];
                for_each_row(axes, tap, &mut |to, from, n| {
                    let row = &mut plane[to..to + n];
                    if stride == 1 {
                        row.iter_mut().zip(&source[from..from + n]).for_each(|(o, v)| *o += weight * *v);
                    } else {
                        row.iter_mut().zip(source[from..].iter().step_by(stride)).for_each(|(o, v)| *o += weight * *v);
                    }
                });
            }
        }
    });
}

/// Multiplies the weights [filters, channels·taps] with the unrolled windows [channels·taps, pixels_out] of each image and group.
fn by_columns(problem: &Problem, x: &[f32], w: &[f32], bias: Option<&[f32]>, out: &mut [f32]) -> Result<(), KernelError> {
    let Problem { axes, taps, groups, channels, filters, pixels_in, pixels_out } = problem;
    let gemm = GemmExecutor::<f32>::default();
    let depth = channels * taps.len();
    let pointwise = axes.iter().all(WindowAxis::is_identity);
    // Parts are cut along the first spatial axis, evenly.
    let lines = axes[0].output;
    let line = pixels_out / lines;
    let parts = (depth * pixels_out).div_ceil(COLUMN_ELEMENTS).clamp(1, lines);
    let lines_per_part = lines.div_ceil(parts);
    out.par_chunks_exact_mut(filters * pixels_out).enumerate().try_for_each(|(i, out)| {
        let group = i % groups;
        let x = &x[i * channels * pixels_in..(i + 1) * channels * pixels_in];
        let w = &w[group * filters * depth..(group + 1) * filters * depth];
        let bias = bias.map(|b| BiasVector::Column(&b[group * filters..(group + 1) * filters]));
        let multiply = |columns: &[f32], pixels: usize, out: &mut [f32]| {
            gemm.gemm(
                out,
                GemmInputA::Unpacked(NdTensorView::from_data([*filters, depth], w)),
                GemmInputB::Unpacked(NdTensorView::from_data([depth, pixels], columns)),
                GemmOptions { bias, ..Default::default() },
            )
            .map_err(|e| KernelError::Data(format!("the matrix product of a convolution failed: {e}")))
        };
        if pointwise {
            return multiply(x, *pixels_out, out);
        }
        let mut columns = vec![0f32; depth * lines_per_part * line];
        if parts == 1 {
            unroll(axes, taps, x, *pixels_in, &mut columns, *pixels_out);
            return multiply(&columns, *pixels_out, out);
        }
        let mut product = vec![0f32; filters * lines_per_part * line];
        for first in (0..lines).step_by(lines_per_part) {
            let last = (first + lines_per_part).min(lines);
            let pixels = (last - first) * line;
            let part: Vec<WindowAxis> = std::iter::once(axes[0].part(first..last)).chain(axes[1..].iter().copied()).collect();
            let (columns, product) = (&mut columns[..depth * pixels], &mut product[..filters * pixels]);
            unroll(&part, taps, x, *pixels_in, columns, pixels);
            multiply(columns, pixels, product)?;
            for (out, row) in out.chunks_exact_mut(*pixels_out).zip(product.chunks_exact(pixels)) {
                out[first * line..last * line].copy_from_slice(row);
            }
        }
        Ok(())
    })
}

/// Writes row (channel, tap) of the unrolled windows: what that element of every window is, 0 in the padding.
fn unroll(axes: &[WindowAxis], taps: &[Vec<usize>], x: &[f32], pixels_in: usize, columns: &mut [f32], pixels: usize) {
    let stride = axes[axes.len() - 1].stride();
    parallel::rows(columns, pixels, pixels, &|row, out| {
        let (channel, tap) = (row / taps.len(), &taps[row % taps.len()]);
        let source = &x[channel * pixels_in..(channel + 1) * pixels_in];
        out.fill(0.0);
        for_each_row(axes, tap, &mut |to, from, n| {
            let out = &mut out[to..to + n];
            if stride == 1 {
                out.copy_from_slice(&source[from..from + n]);
            } else {
                out.iter_mut().zip(source[from..].iter().step_by(stride)).for_each(|(o, v)| *o = *v);
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use half::f16;
    use proptest::prelude::*;

    use super::super::eval;
    use super::*;
    use crate::op::conv::Windows;
    use crate::tensor::Tensor;

    /// The definition, element by element, in f64.
    fn reference(op: &Conv, x: (&[usize], &[f32]), w: (&[usize], &[f32]), bias: Option<&[f32]>, out_shape: &[usize]) -> Vec<f64> {
        let index = |mut flat: usize, shape: &[usize]| {
            let mut at = vec![0; shape.len()];
            for (i, n) in shape.iter().enumerate().rev() {
                at[i] = flat % n;
                flat /= n;
            }
            at
        };
        let filters = w.0[0] / op.groups;
        let kernel = &w.0[1..];
        (0..out_shape.iter().product())
            .map(|flat| {
                let at = index(flat, out_shape);
                let mut sum = bias.map_or(0.0, |b| f64::from(b[at[1]]));
                for t in 0..kernel.iter().product() {
                    let tap = index(t, kernel);
                    let mut from = at[0] * x.0[1] + at[1] / filters * w.0[1] + tap[0];
                    let mut inside = true;
                    for i in 0..op.windows.kernel.len() {
                        let p = (at[i + 2] * op.windows.strides[i] + tap[i + 1] * op.windows.dilations[i]) as i64
                            - op.windows.pads[i].0 as i64;
                        inside &= (0..x.0[i + 2] as i64).contains(&p);
                        from = (from as i64 * x.0[i + 2] as i64 + p) as usize;
                    }
                    if inside {
                        sum += f64::from(x.1[from]) * f64::from(w.1[at[1] * kernel.iter().product::<usize>() + t]);
                    }
                }
                sum
            })
            .collect()
    }

    fn ramp(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 + seed * 11) % 19) as f32 / 4.0 - 2.0).collect()
    }

    fn check(op: &Conv, x_shape: &[usize], w_shape: &[usize]) {
        let (x, w) = (ramp(x_shape.iter().product(), 1), ramp(w_shape.iter().product(), 2));
        let bias = ramp(w_shape[0], 3);
        let t = |shape: &[usize], v: &[f32]| Tensor::from_slice(shape, v).unwrap();
        let (xt, wt, bt) = (t(x_shape, &x), t(w_shape, &w), t(&w_shape[..1], &bias));
        let out = eval(&op.clone().into(), &[Some(xt.view()), Some(wt.view()), Some(bt.view())]).unwrap().remove(0);
        let want = reference(op, (x_shape, &x), (w_shape, &w), Some(&bias), out.shape());
        for (got, want) in out.as_slice::<f32>().unwrap().iter().zip(&want) {
            assert!(
                (f64::from(*got) - want).abs() <= 1e-4 * want.abs().max(10.0),
                "{op:?} {x_shape:?} {w_shape:?}: {got} {want}"
            );
        }
    }

    fn conv(groups: usize, axes: &[(usize, usize, usize, (usize, usize))]) -> Conv {
        Conv {
            windows: Windows {
                kernel: axes.iter().map(|a| a.0).collect(),
                strides: axes.iter().map(|a| a.1).collect(),
                dilations: axes.iter().map(|a| a.2).collect(),
                pads: axes.iter().map(|a| a.3).collect(),
            },
            groups,
        }
    }

    proptest! {
        #[test]
        fn any_geometry(
            (n, groups, c, o) in (1usize..3, 1usize..3, 1usize..3, 1usize..3),
            axes in prop::collection::vec((1usize..7, 1usize..4, 1usize..3, 1usize..3, (0usize..4, 0usize..4)), 1..4),
        ) {
            let fits = |&(d, k, _, dilation, (b, a)): &(usize, usize, usize, usize, (usize, usize))| d + a + b > (k - 1) * dilation;
            prop_assume!(axes.iter().all(fits));
            let op = conv(groups, &axes.iter().map(|&(_, k, s, d, p)| (k, s, d, p)).collect::<Vec<_>>());
            let x: Vec<usize> = [n, groups * c].into_iter().chain(axes.iter().map(|a| a.0)).collect();
            let w: Vec<usize> = [groups * o, c].into_iter().chain(axes.iter().map(|a| a.1)).collect();
            check(&op, &x, &w);
        }
    }

    #[test]
    fn common_shapes() {
        check(&conv(1, &[(16, 16, 1, (0, 0)); 2]), &[2, 3, 32, 48], &[8, 3, 16, 16]);
        check(&conv(1, &[(3, 1, 1, (1, 1)); 2]), &[1, 8, 20, 20], &[12, 8, 3, 3]);
        check(&conv(1, &[(1, 1, 1, (0, 0)); 2]), &[2, 8, 20, 20], &[12, 8, 1, 1]);
        check(&conv(8, &[(3, 2, 1, (1, 1)); 2]), &[2, 8, 60, 60], &[8, 1, 3, 3]);
        check(&conv(1, &[(3, 1, 1, (1, 1)); 3]), &[1, 2, 5, 6, 7], &[3, 2, 3, 3, 3]);
    }

    #[test]
    fn columns_in_parts() {
        // 64·9 rows of 80·95 pixels are more than fit in one part.
        let op = conv(1, &[(3, 1, 1, (1, 1)); 2]);
        let (x_shape, w_shape) = ([1, 64, 80, 95], [1, 64, 3, 3]);
        const { assert!(64 * 9 * 80 * 95 > COLUMN_ELEMENTS) };
        check(&op, &x_shape, &w_shape);
    }

    #[test]
    fn other_types_and_no_elements() {
        let op = conv(1, &[(2, 1, 1, (0, 0))]);
        let f64s = |shape: &[usize], v: &[f64]| Tensor::from_slice(shape, v).unwrap();
        let (x, w) = (f64s(&[1, 1, 3], &[1., 2., 4.]), f64s(&[1, 1, 2], &[1e-9, 1.]));
        let out = eval(&op.clone().into(), &[Some(x.view()), Some(w.view())]).unwrap().remove(0);
        assert_eq!(out.as_slice::<f64>(), Some(&[2. + 1e-9, 4. + 2e-9][..]));
        let f16s = |shape: &[usize], v: &[f32]| {
            Tensor::from_slice(shape, &v.iter().map(|v| f16::from_f32(*v)).collect::<Vec<_>>()).unwrap()
        };
        let (x, w) = (f16s(&[1, 2, 2], &[1., 2., 3., 4.]), f16s(&[1, 2, 2], &[1., 1., 1., 0.5]));
        let out = eval(&op.clone().into(), &[Some(x.view()), Some(w.view())]).unwrap().remove(0);
        assert_eq!(out.bytes(), f16s(&[1, 1, 1], &[8.]).bytes());
        // No channel: the bias alone.
        let (x, w) = (Tensor::zeros(DType::F32, &[1, 0, 3]).unwrap(), Tensor::zeros(DType::F32, &[1, 0, 2]).unwrap());
        let bias = Tensor::from_slice(&[1], &[7f32]).unwrap();
        let out = eval(&op.clone().into(), &[Some(x.view()), Some(w.view()), Some(bias.view())]).unwrap().remove(0);
        assert_eq!(out.as_slice::<f32>(), Some(&[7f32, 7.][..]));
        let (x, w) = (Tensor::zeros(DType::F32, &[0, 1, 3]).unwrap(), Tensor::zeros(DType::F32, &[1, 1, 2]).unwrap());
        assert_eq!(eval(&op.into(), &[Some(x.view()), Some(w.view())]).unwrap()[0].shape(), &[0, 1, 2]);
    }
}
