//! CPU kernel of [`crate::op::conv::Pool`], one spatial axis after the other: maxima of maxima, sums of sums.

use std::borrow::Cow;

use bytemuck::Pod;

use super::layout::operand;
use super::parallel;
use super::promote::{promote, to_real};
use super::windows::{WindowAxis, window_axes};
use super::{Context, Kernel, KernelError};
use crate::dtype::DType;
use crate::op::conv::{Pool, PoolKind};
use crate::tensor::{TensorView, TensorViewMut};

/// An element of which maxima are taken.
trait Ordered: Pod + Sync {
    /// What no other element is below.
    const LEAST: Self;
    /// The larger; NaN when either is.
    fn larger(self, other: Self) -> Self;
}

macro_rules! ordered {
    ($($t:ty: $least:expr, |$a:ident, $b:ident| $larger:expr;)*) => {$(
        impl Ordered for $t {
            const LEAST: $t = $least;
            fn larger(self, other: $t) -> $t {
                let ($a, $b) = (self, other);
                $larger
            }
        }
    )*};
}
ordered! {
    i8: i8::MIN, |a, b| a.max(b);
    i16: i16::MIN, |a, b| a.max(b);
    i32: i32::MIN, |a, b| a.max(b);
    i64: i64::MIN, |a, b| a.max(b);
    u8: u8::MIN, |a, b| a.max(b);
    u16: u16::MIN, |a, b| a.max(b);
    u32: u32::MIN, |a, b| a.max(b);
    u64: u64::MIN, |a, b| a.max(b);
    f32: f32::NEG_INFINITY, |a, b| if b > a || b.is_nan() { b } else { a };
    f64: f64::NEG_INFINITY, |a, b| if b > a || b.is_nan() { b } else { a };
}

/// Folds the windows of one axis: `src` is [outer, axis.input, inner], the result [outer, axis.output, inner]. A window with no
/// element inside the input gives `empty`.
fn fold_axis<T: Pod + Sync>(
    src: &[T],
    axis: &WindowAxis,
    (outer, inner): (usize, usize),
    empty: T,
    fold: impl Fn(T, T) -> T + Sync,
) -> Vec<T> {
    let mut out = vec![empty; outer * axis.output * inner];
    let work = inner.saturating_mul(axis.kernel.min(axis.input));
    parallel::rows(&mut out, inner, work, &|i, out| {
        let (outer, window) = (i / axis.output, i % axis.output);
        let (first, distance, count) = axis.taps_of(window);
        for tap in 0..count {
            let from = (outer * axis.input + first + tap * distance) * inner;
            let row = &src[from..from + inner];
            if tap == 0 {
                out.copy_from_slice(row);
            } else {
                out.iter_mut().zip(row).for_each(|(o, v)| *o = fold(*o, *v));
            }
        }
    });
    out
}

/// Folds all axes, innermost first, but those that padding makes longer last: no intermediate is larger than both ends. `out` is
/// [planes, windows…].
fn fold_windows<T: Pod + Sync>(src: &[T], axes: &[WindowAxis], empty: T, fold: impl Fn(T, T) -> T + Sync, out: &mut [T]) {
    let planes = out.len() / axes.iter().map(|a| a.output).product::<usize>();
    let mut extents: Vec<usize> = axes.iter().map(|a| a.input).collect();
    let mut order: Vec<usize> = (0..axes.len()).rev().collect();
    order.sort_by_key(|&i| axes[i].output > axes[i].input);
    let mut folded = Cow::Borrowed(src);
    for i in order {
        let outer = extents[..i].iter().fold(planes, |n, e| n * e);
        let inner = extents[i + 1..].iter().product();
        folded = fold_axis(&folded, &axes[i], (outer, inner), empty, &fold).into();
        extents[i] = axes[i].output;
    }
    out.copy_from_slice(&folded);
}

fn largest<T: Ordered>(x: &[u8], axes: &[WindowAxis], out: &mut [u8]) {
    fold_windows(bytemuck::cast_slice(x), axes, T::LEAST, T::larger, bytemuck::cast_slice_mut(out));
}

/// Number of elements that each window of a plane counts.
fn window_sizes(axes: &[WindowAxis], count_pads: bool) -> Vec<f64> {
    let mut sizes = vec![1f64];
    for axis in axes {
        let along: Vec<f64> =
            (0..axis.output).map(|w| if count_pads { axis.padded_taps_of(w) } else { axis.taps_of(w).2 } as f64).collect();
        sizes = sizes.iter().flat_map(|s| along.iter().map(move |a| s * a)).collect();
    }
    sizes
}

/// Defines average and p-norm pooling for a float type.
macro_rules! float_pooling {
    ($name:ident, $t:ty) => {
        fn $name(kind: PoolKind, x: &[$t], axes: &[WindowAxis], out: &mut [$t]) {
            let sum = |x: &[$t], out: &mut [$t]| fold_windows(x, axes, 0.0, |a, b| a + b, out);
            match kind {
                PoolKind::Max => fold_windows(x, axes, <$t>::LEAST, <$t>::larger, out),
                PoolKind::Average { count_pads } => {
                    let sizes = window_sizes(axes, count_pads);
                    sum(x, out);
                    for (i, o) in out.iter_mut().enumerate() {
                        *o /= sizes[i % sizes.len()].max(1.0) as $t;
                    }
                }
                PoolKind::Lp { p } => {
                    let powers: Vec<$t> = match p {
                        1 => x.iter().map(|v| v.abs()).collect(),
                        2 => x.iter().map(|v| v * v).collect(),
                        _ => x.iter().map(|v| v.abs().powf(p as $t)).collect(),
                    };
                    sum(&powers, out);
                    match p {
                        1 => {}
                        2 => out.iter_mut().for_each(|o| *o = o.sqrt()),
                        _ => out.iter_mut().for_each(|o| *o = o.powf(1.0 / p as $t)),
                    }
                }
            }
        }
    };
}
float_pooling!(pool_f32, f32);
float_pooling!(pool_f64, f64);

impl Kernel for Pool {
    fn run(
        &self,
        _: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        promote!(self, inputs, outputs, to_real);
        let (x, out) = (operand(inputs, 0)?, &mut outputs[0]);
        if out.data.is_empty() {
            return Ok(());
        }
        let axes = window_axes(&self.windows, x.shape, out.shape);
        match x.dtype {
            DType::F64 => pool_f64(self.kind, bytemuck::cast_slice(x.data), &axes, bytemuck::cast_slice_mut(out.data)),
            DType::I8 => largest::<i8>(x.data, &axes, out.data),
            DType::I16 => largest::<i16>(x.data, &axes, out.data),
            DType::I32 => largest::<i32>(x.data, &axes, out.data),
            DType::I64 => largest::<i64>(x.data, &axes, out.data),
            DType::U8 => largest::<u8>(x.data, &axes, out.data),
            DType::U16 => largest::<u16>(x.data, &axes, out.data),
            DType::U32 => largest::<u32>(x.data, &axes, out.data),
            DType::U64 => largest::<u64>(x.data, &axes, out.data),
            DType::F32 => pool_f32(self.kind, bytemuck::cast_slice(x.data), &axes, bytemuck::cast_slice_mut(out.data)),
            other => return Err(KernelError::UnsupportedType("Pool", other)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::eval;
    use super::*;
    use crate::op::conv::Windows;
    use crate::tensor::Tensor;

    fn pool(kind: PoolKind, ceil: bool, axes: &[(usize, usize, usize, (usize, usize))]) -> Pool {
        Pool {
            kind,
            windows: Windows {
                kernel: axes.iter().map(|a| a.0).collect(),
                strides: axes.iter().map(|a| a.1).collect(),
                dilations: axes.iter().map(|a| a.2).collect(),
                pads: axes.iter().map(|a| a.3).collect(),
            },
            ceil,
        }
    }

    fn run(op: Pool, x: &Tensor) -> Tensor {
        eval(&op.into(), &[Some(x.view())]).unwrap().remove(0)
    }

    fn iota(shape: &[usize], from: f32) -> Tensor {
        Tensor::from_slice(shape, &(0..shape.iter().product()).map(|i: usize| i as f32 + from).collect::<Vec<_>>()).unwrap()
    }

    /// The examples of the ONNX operator documentation.
    #[test]
    fn documented_examples() {
        let average = |count_pads| PoolKind::Average { count_pads };
        let five = [(5, 1, 1, (2, 2)); 2];
        let x44 = iota(&[1, 1, 4, 4], 1.0);
        let x55 = iota(&[1, 1, 5, 5], 1.0);
        let cases: &[(Pool, &Tensor, &[usize], &[f32])] = &[
            (pool(PoolKind::Max, true, &[(3, 2, 1, (0, 0)); 2]), &x44, &[2, 2], &[11., 12., 15., 16.]),
            (pool(PoolKind::Max, false, &[(2, 1, 2, (0, 0)); 2]), &x44, &[2, 2], &[11., 12., 15., 16.]),
            (pool(PoolKind::Max, false, &[(2, 2, 1, (0, 0)); 2]), &x55, &[2, 2], &[7., 9., 17., 19.]),
            (
                pool(PoolKind::Max, false, &five),
                &x55,
                &[5, 5],
                &[
                    13., 14., 15., 15., 15., 18., 19., 20., 20., 20., 23., 24., 25., 25., 25., 23., 24., 25., 25., 25., 23., 24.,
                    25., 25., 25.,
                ],
            ),
            (pool(average(false), true, &[(3, 2, 1, (0, 0)); 2]), &x44, &[2, 2], &[6., 7.5, 12., 13.5]),
            (
                pool(average(false), false, &five),
                &x55,
                &[5, 5],
                &[
                    7., 7.5, 8., 8.5, 9., 9.5, 10., 10.5, 11., 11.5, 12., 12.5, 13., 13.5, 14., 14.5, 15., 15.5, 16., 16.5, 17.,
                    17.5, 18., 18.5, 19.,
                ],
            ),
            (
                pool(average(true), false, &five),
                &x55,
                &[5, 5],
                &[
                    2.52, 3.6, 4.8, 4.08, 3.24, 4.56, 6.4, 8.4, 7.04, 5.52, 7.2, 10., 13., 10.8, 8.4, 6.96, 9.6, 12.4, 10.24,
                    7.92, 6.12, 8.4, 10.8, 8.88, 6.84,
                ],
            ),
            (
                pool(PoolKind::Lp { p: 2 }, false, &[(2, 1, 2, (0, 0)); 2]),
                &x44,
                &[2, 2],
                &[14.560_22, 16.248_077, 21.633_308, 23.494_68],
            ),
        ];
        for (op, x, shape, expected) in cases {
            let out = run(op.clone(), x);
            assert_eq!(&out.shape()[2..], *shape, "{op:?}");
            for (got, want) in out.as_slice::<f32>().unwrap().iter().zip(*expected) {
                assert!((got - want).abs() < 1e-4, "{op:?}: {got} {want}");
            }
        }
    }

    proptest! {
        /// Against the definition: every window's elements listed one by one.
        #[test]
        fn any_geometry(
            axes in prop::collection::vec((1usize..7, 1usize..4, 1usize..4, 1usize..3, (0usize..3, 0usize..3)), 1..4),
            ceil: bool,
            kind in prop_oneof![
                Just(PoolKind::Max), Just(PoolKind::Average { count_pads: true }), Just(PoolKind::Average { count_pads: false }),
                Just(PoolKind::Lp { p: 1 }), Just(PoolKind::Lp { p: 3 }),
            ],
        ) {
            prop_assume!(axes.iter().all(|&(d, k, _, dilation, (b, a))| d + a + b > (k - 1) * dilation));
            let op = pool(kind, ceil, &axes.iter().map(|&(_, k, s, d, p)| (k, s, d, p)).collect::<Vec<_>>());
            let shape: Vec<usize> = [2, 1].into_iter().chain(axes.iter().map(|a| a.0)).collect();
            let x = iota(&shape, -7.5);
            let values = x.as_slice::<f32>().unwrap();
            let out = run(op, &x);
            for (flat, got) in out.as_slice::<f32>().unwrap().iter().enumerate() {
                // Elements of the window as positions in the input, none for the padding; those beyond the padding are left out.
                let mut window: Vec<Option<usize>> = vec![Some(flat / out.shape()[2..].iter().product::<usize>())];
                let mut rest = flat % out.shape()[2..].iter().product::<usize>();
                for (i, &(d, k, s, dilation, (b, a))) in axes.iter().enumerate() {
                    let behind: usize = out.shape()[i + 3..].iter().product();
                    let o = rest / behind;
                    rest %= behind;
                    let along: Vec<i64> = (0..k)
                        .map(|k| (o * s + k * dilation) as i64 - b as i64)
                        .filter(|p| *p < (d + a) as i64)
                        .collect();
                    window = window
                        .iter()
                        .flat_map(|w| along.iter().map(|&p| usize::try_from(p).ok().filter(|p| *p < d).and_then(|p| Some((*w)? * d + p))))
                        .collect();
                }
                let inside: Vec<f64> = window.iter().flatten().map(|&at| f64::from(values[at])).collect();
                let sum: f64 = inside.iter().sum();
                let want = match kind {
                    PoolKind::Max => inside.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                    PoolKind::Average { count_pads: true } => sum / window.len() as f64,
                    PoolKind::Average { count_pads: false } => if inside.is_empty() { 0.0 } else { sum / inside.len() as f64 },
                    PoolKind::Lp { p } => inside.iter().map(|v| v.abs().powi(p as i32)).sum::<f64>().powf(1.0 / f64::from(p)),
                };
                let got = f64::from(*got);
                prop_assert!(got == want || (got - want).abs() <= 1e-5 * want.abs().max(1.0), "{kind:?} at {flat}: {got} {want}");
            }
        }
    }

    #[test]
    fn types_and_edges() {
        let op = |kind| pool(kind, false, &[(2, 1, 1, (1, 1))]);
        let bytes = Tensor::from_slice(&[1, 1, 3], &[-3i8, -2, -1]).unwrap();
        assert_eq!(run(op(PoolKind::Max), &bytes).as_slice::<i8>(), Some(&[-3, -2, -1, -1][..]));
        let half = |v: &[f32]| {
            Tensor::from_slice(&[1, 1, v.len()], &v.iter().map(|v| half::bf16::from_f32(*v)).collect::<Vec<_>>()).unwrap()
        };
        let out = run(op(PoolKind::Average { count_pads: true }), &half(&[2., 4.]));
        assert_eq!(out.bytes(), half(&[1., 3., 2.]).bytes());
        let nan = Tensor::from_slice(&[1, 1, 3], &[1., f64::NAN, 3.]).unwrap();
        let out = run(op(PoolKind::Max), &nan);
        assert!(out.as_slice::<f64>().unwrap()[1..3].iter().all(|v| v.is_nan()));
        // A window of 2^31 over an input of 2 costs no more than the input.
        let wide = run(pool(PoolKind::Max, false, &[(1 << 31, 1, 1, (1 << 31, 0))]), &iota(&[1, 1, 2], 0.0));
        assert_eq!(wide.as_slice::<f32>(), Some(&[f32::NEG_INFINITY, 0.0, 1.0][..]));
        // Nor do an axis that grows and one that shrinks cost their product, in either order.
        for (shape, axes) in [
            ([1, 1, 60_000, 1], [(60_000, 1, 1, (0, 0)), (2, 1, 1, (30_000, 30_000))]),
            ([1, 1, 1, 60_000], [(2, 1, 1, (30_000, 30_000)), (60_000, 1, 1, (0, 0))]),
        ] {
            let out = run(pool(PoolKind::Max, false, &axes), &iota(&shape, 0.0));
            assert_eq!(out.as_slice::<f32>().unwrap().iter().filter(|v| **v == 59_999.0).count(), 2);
        }
        let none = Tensor::zeros(DType::F32, &[1, 1, 0]).unwrap();
        assert_eq!(run(op(PoolKind::Max), &none).as_slice::<f32>(), Some(&[f32::NEG_INFINITY][..]));
        let none = Tensor::zeros(DType::F32, &[1, 1, 0, 2]).unwrap();
        let out = run(pool(PoolKind::Average { count_pads: false }, false, &[(2, 1, 1, (1, 1)); 2]), &none);
        assert_eq!((out.shape(), out.as_slice::<f32>()), (&[1, 1, 1, 3][..], Some(&[0f32; 3][..])));
    }
}
