//! CPU kernels of [`crate::op::quantize`].

use half::{bf16, f16};

use super::convert::convert;
use super::dispatch::{input, output, view};
use super::parallel::{AxisView, rows, zip};
use super::{Context, Kernel, KernelError};
use crate::dtype::{DType, Element};
use crate::f8::{F8E4M3, F8E5M2};
use crate::op::quantize::{DequantizeLinear, DynamicQuantizeLinear, QuantizeLinear};
use crate::tensor::{Tensor, TensorView, TensorViewMut};

/// What is done to a run of elements: the run, where it starts, the index of its first scale, and the distance to the next element's.
type RunBody<'f, Y> = dyn Fn(&mut [Y], usize, usize, usize) + Sync + 'f;

/// How the elements along one axis share scales.
#[derive(Clone, Copy)]
struct Sharing {
    axis: AxisView,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Tensor,
    Axis,
    /// Elements per block and blocks along the axis.
    Blocks(usize, usize),
}

impl Sharing {
    fn new(shape: &[usize], scales: usize, axis: usize, block: usize) -> Self {
        if block > 0 {
            let axis = AxisView::new(shape, axis);
            Sharing { axis, kind: Kind::Blocks(block, axis.extent.div_ceil(block)) }
        } else if scales == 1 {
            // All axes but none: a single row per tensor would not be shared among threads, so rows are the innermost axis.
            let inner = shape.last().copied().unwrap_or(1);
            let outer = shape.iter().rev().skip(1).product();
            Sharing { axis: AxisView { outer, extent: 1, inner }, kind: Kind::Tensor }
        } else {
            Sharing { axis: AxisView::new(shape, axis), kind: Kind::Axis }
        }
    }

    /// Calls `body` with each run of `y` (a row of the inner axes), where it starts, and the index of the first element's scale and
    /// how far the next element's is.
    fn for_each<Y: Element>(&self, y: &mut [Y], body: &RunBody<'_, Y>) {
        let AxisView { extent, inner, .. } = self.axis;
        rows(y, inner, inner, &|row, y| {
            let k = row % extent;
            let (scale, step) = match self.kind {
                Kind::Tensor => (0, 0),
                Kind::Axis => (k, 0),
                Kind::Blocks(block, blocks) => ((row / extent * blocks + k / block) * inner, 1),
            };
            body(y, row * inner, scale, step);
        });
    }
}

/// A copy in another element type.
fn converted(x: TensorView<'_>, to: DType) -> Result<Tensor, KernelError> {
    let mut out = Tensor::zeros(to, x.shape).map_err(|e| KernelError::Data(e.to_string()))?;
    convert(x, &mut out.view_mut())?;
    Ok(out)
}

/// The elements of an operand as `T`, converted into `copy` unless they are that already.
fn elements<'a, T: Element>(x: TensorView<'a>, copy: &'a mut Option<Tensor>) -> Result<&'a [T], KernelError> {
    if let Some(elements) = x.as_slice() {
        return Ok(elements);
    }
    let copy = copy.insert(converted(x, T::DTYPE)?);
    copy.as_slice().ok_or_else(|| KernelError::Data(format!("an operand is not {}", T::DTYPE)))
}

/// The zero point of each scale as f32, exact for every type of quantized values.
fn zero_points(inputs: &[Option<TensorView<'_>>], scales: usize) -> Result<Vec<f32>, KernelError> {
    match inputs.get(2).copied().flatten() {
        Some(zero) => elements::<f32>(zero, &mut None).map(<[f32]>::to_vec),
        None => Ok(vec![0.0; scales]),
    }
}

/// An element type of quantized values.
trait Quantized: Element {
    fn quantize(scaled: f32, zero: f32) -> Self;
}

macro_rules! integers {
    ($($t:ident),*) => {$(
        impl Quantized for $t {
            fn quantize(scaled: f32, zero: f32) -> $t {
                // In f64 the sum is exact wherever it does not saturate; the cast saturates, and NaN gives 0.
                if scaled.is_nan() { zero as $t } else { (f64::from(scaled.round_ties_even()) + f64::from(zero)) as $t }
            }
        }
    )*};
}
integers!(i8, u8, i16, u16);

macro_rules! floats {
    ($($t:ident),*) => {$(
        impl Quantized for $t {
            fn quantize(scaled: f32, zero: f32) -> $t {
                $t::from_f32(scaled + zero)
            }
        }
    )*};
}
floats!(F8E4M3, F8E5M2);

impl Kernel for QuantizeLinear {
    fn run(
        &self,
        _context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let (x, scale) = (view(inputs, 0)?, view(inputs, 1)?);
        let sharing = Sharing::new(x.shape, scale.elements(), self.axis, self.block);
        let (mut x_copy, mut scale_copy) = (None, None);
        let zeros = zero_points(inputs, scale.elements())?;
        let (x, scales) = (elements::<f32>(x, &mut x_copy)?, elements::<f32>(scale, &mut scale_copy)?);

        fn quantize<Q: Quantized>(sharing: Sharing, x: &[f32], scales: &[f32], zeros: &[f32], y: &mut [Q]) {
            sharing.for_each(y, &|y, start, scale, step| {
                let x = &x[start..][..y.len()];
                if step == 0 {
                    let (s, z) = (scales[scale], zeros[scale]);
                    y.iter_mut().zip(x).for_each(|(y, x)| *y = Q::quantize(x / s, z));
                } else {
                    for ((y, x), (s, z)) in y.iter_mut().zip(x).zip(scales[scale..].iter().zip(&zeros[scale..])) {
                        *y = Q::quantize(x / s, *z);
                    }
                }
            });
        }
        match self.to {
            DType::I8 => quantize::<i8>(sharing, x, scales, &zeros, output(outputs, 0)?),
            DType::U8 => quantize::<u8>(sharing, x, scales, &zeros, output(outputs, 0)?),
            DType::I16 => quantize::<i16>(sharing, x, scales, &zeros, output(outputs, 0)?),
            DType::U16 => quantize::<u16>(sharing, x, scales, &zeros, output(outputs, 0)?),
            DType::F8e4m3 => quantize::<F8E4M3>(sharing, x, scales, &zeros, output(outputs, 0)?),
            DType::F8e5m2 => quantize::<F8E5M2>(sharing, x, scales, &zeros, output(outputs, 0)?),
            other => return Err(KernelError::UnsupportedType("QuantizeLinear", other)),
        }
        Ok(())
    }
}

impl Kernel for DequantizeLinear {
    fn run(
        &self,
        _context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let (x, scale) = (view(inputs, 0)?, view(inputs, 1)?);
        let sharing = Sharing::new(x.shape, scale.elements(), self.axis, self.block);
        let mut scale_copy = None;
        let scales = elements::<f32>(scale, &mut scale_copy)?;
        // i32 and its zero point do not fit f32, but their difference is rounded to f32 once; the others are exact.
        let x = converted(x, DType::F64)?;
        let x = x.as_slice::<f64>().unwrap_or_default();
        let zeros = match inputs.get(2).copied().flatten() {
            Some(zero) => elements::<f64>(zero, &mut None).map(<[f64]>::to_vec)?,
            None => vec![0.0; scale.elements()],
        };

        fn dequantize<Y: Element>(
            sharing: Sharing,
            x: &[f64],
            scales: &[f32],
            zeros: &[f64],
            y: &mut [Y],
            round: impl Fn(f32) -> Y + Sync,
        ) {
            sharing.for_each(y, &|y, start, scale, step| {
                for (i, (y, x)) in y.iter_mut().zip(&x[start..]).enumerate() {
                    let at = scale + i * step;
                    *y = round((x - zeros[at]) as f32 * scales[at]);
                }
            });
        }
        match outputs[0].dtype {
            DType::F32 => dequantize::<f32>(sharing, x, scales, &zeros, output(outputs, 0)?, |v| v),
            DType::F16 => dequantize(sharing, x, scales, &zeros, output(outputs, 0)?, f16::from_f32),
            DType::Bf16 => dequantize(sharing, x, scales, &zeros, output(outputs, 0)?, bf16::from_f32),
            other => return Err(KernelError::UnsupportedType("DequantizeLinear", other)),
        }
        Ok(())
    }
}

impl Kernel for DynamicQuantizeLinear {
    fn run(
        &self,
        _context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let x = input::<f32>(inputs, 0)?;
        // The range always contains 0.
        let (low, high) = x.iter().fold((0f32, 0f32), |(low, high), &v| (low.min(v), high.max(v)));
        let finite = x.iter().all(|v| v.is_finite());
        let scale = match (finite, high - low) {
            (false, _) => f32::NAN,
            (true, 0.0) => 1.0,
            // The width of the range may exceed f32 although its ends do not.
            _ => ((f64::from(high) - f64::from(low)) / 255.0) as f32,
        };
        let zero = u8::quantize(-low / scale, 0.0);
        output::<f32>(outputs, 1)?.fill(scale);
        output::<u8>(outputs, 2)?.fill(if finite { zero } else { 0 });
        let y = output::<u8>(outputs, 0)?;
        if finite {
            zip(x, y, &|x, y| y.iter_mut().zip(x).for_each(|(y, x)| *y = u8::quantize(x / scale, zero.into())));
        } else {
            y.fill(0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::eval;
    use crate::op::Op;

    fn run(op: impl Into<Op>, inputs: &[&Tensor]) -> Vec<Tensor> {
        let inputs: Vec<_> = inputs.iter().map(|t| Some(t.view())).collect();
        eval(&op.into(), &inputs).unwrap()
    }

    fn tensor<T: Element>(shape: &[usize], x: &[T]) -> Tensor {
        Tensor::from_slice(shape, x).unwrap()
    }

    /// The examples of ONNX's QuantizeLinear and DequantizeLinear.
    #[test]
    fn specification_examples() {
        let q = |to| QuantizeLinear { to, axis: 1, block: 0 };
        let x = tensor(&[6], &[0.0f32, 2.0, 3.0, 1000.0, -254.0, -1000.0]);
        let y = run(q(DType::U8), &[&x, &Tensor::scalar(2.0f32), &Tensor::scalar(128u8)]);
        assert_eq!(y[0].as_slice::<u8>().unwrap(), [128, 129, 130, 255, 1, 0]);

        let x: [f32; 18] = [
            -162.0, 10.0, -100.0, 232.0, -20.0, -50.0, -76.0, 0.0, 0.0, 252.0, 32.0, -44.0, 245.0, -485.0, -960.0, -270.0,
            -375.0, -470.0,
        ];
        let (scale, zero) = (tensor(&[3], &[2.0f32, 4.0, 5.0]), tensor(&[3], &[84u8, 24, 196]));
        let y = run(q(DType::U8), &[&tensor(&[1, 3, 3, 2], &x), &scale, &zero]);
        let want = [3u8, 89, 34, 200, 74, 59, 5, 24, 24, 87, 32, 13, 245, 99, 4, 142, 121, 102];
        assert_eq!(y[0].as_slice::<u8>().unwrap(), want);
        let back = run(DequantizeLinear { axis: 1, block: 0 }, &[&y[0], &scale, &zero]);
        assert_eq!(back[0].as_slice::<f32>().unwrap(), x);

        let y = run(q(DType::F8e4m3), &[&tensor(&[5], &[0.0f32, 1.0, 2.0, 100_000.0, 200.0]), &Tensor::scalar(2.0f32)]);
        assert_eq!(
            y[0].as_slice::<F8E4M3>().unwrap().iter().map(|v| v.to_f32()).collect::<Vec<_>>(),
            [0.0, 0.5, 1.0, 448.0, 96.0]
        );
        let back = run(
            DequantizeLinear { axis: 0, block: 0 },
            &[&y[0], &Tensor::scalar(f16::from_f32(2.0)), &Tensor::scalar(F8E4M3::from_f32(0.0))],
        );
        assert_eq!(back[0].as_slice::<f16>().unwrap(), [0.0f32, 1.0, 2.0, 896.0, 192.0].map(f16::from_f32));
    }

    #[test]
    fn rounds_half_to_even_and_saturates() {
        let x = tensor(&[9], &[0.5f32, 1.5, 2.5, -0.5, -1.5, 1e30, -1e30, f32::INFINITY, f32::NAN]);
        let y = run(QuantizeLinear { to: DType::I8, axis: 0, block: 0 }, &[&x, &Tensor::scalar(1.0f32), &Tensor::scalar(3i8)]);
        assert_eq!(y[0].as_slice::<i8>().unwrap(), [3, 5, 5, 3, 1, 127, -128, 127, 3]);
        let y =
            run(QuantizeLinear { to: DType::U16, axis: 0, block: 0 }, &[&x, &Tensor::scalar(1.0f32), &Tensor::scalar(65_000u16)]);
        assert_eq!(y[0].as_slice::<u16>().unwrap()[..6], [65_000, 65_002, 65_002, 65_000, 64_998, 65_535]);
        let y = run(
            QuantizeLinear { to: DType::I16, axis: 0, block: 0 },
            &[&tensor(&[2], &[-7i32, 100_000]), &Tensor::scalar(2.0f32)],
        );
        assert_eq!(y[0].as_slice::<i16>().unwrap(), [-4, i16::MAX]);
    }

    #[test]
    fn blocks_follow_index_arithmetic() {
        let (shape, block) = ([3usize, 7, 5], 3);
        for axis in 0..3 {
            let mut scale_shape = shape;
            scale_shape[axis] = shape[axis].div_ceil(block);
            let count: usize = scale_shape.iter().product();
            let scales: Vec<f32> = (0..count).map(|i| 0.5 + i as f32 * 0.25).collect();
            let zeros: Vec<i8> = (0..count).map(|i| i as i8 - 9).collect();
            let x: Vec<f32> = (0..105).map(|i| i as f32 * 1.3 - 60.0).collect();
            let (scale, zero) = (tensor(&scale_shape, &scales), tensor(&scale_shape, &zeros));
            let y = run(QuantizeLinear { to: DType::I8, axis, block }, &[&tensor(&shape, &x), &scale, &zero]).remove(0);
            let back = run(DequantizeLinear { axis, block }, &[&y, &scale, &zero]).remove(0);
            for (i, x) in x.iter().enumerate() {
                let mut at = [i / 35, i / 5 % 7, i % 5];
                at[axis] /= block;
                let s = (at[0] * scale_shape[1] + at[1]) * scale_shape[2] + at[2];
                let want = ((x / scales[s]).round_ties_even() as i32 + i32::from(zeros[s])).clamp(-128, 127) as i8;
                assert_eq!(y.as_slice::<i8>().unwrap()[i], want, "axis {axis} at {i}");
                let want = (f32::from(want) - f32::from(zeros[s])) * scales[s];
                assert_eq!(back.as_slice::<f32>().unwrap()[i], want, "axis {axis} at {i}");
            }
        }
    }

    #[test]
    fn dequantizes_wide_integers() {
        let x = tensor(&[2, 2], &[i32::MAX, i32::MIN, 10, -10]);
        let y =
            run(DequantizeLinear { axis: 0, block: 0 }, &[&x, &tensor(&[2], &[1.0f32, 0.5]), &tensor(&[2], &[i32::MAX - 3, 0])]);
        assert_eq!(y[0].as_slice::<f32>().unwrap(), [3.0, -4_294_967_292.0, 5.0, -5.0]);
        let empty = run(DequantizeLinear { axis: 1, block: 0 }, &[&tensor(&[0, 3], &[0u8; 0]), &tensor(&[3], &[bf16::ONE; 3])]);
        assert_eq!(empty[0].dtype(), DType::Bf16);
    }

    /// The examples of ONNX's DynamicQuantizeLinear, and the edges it leaves open.
    #[test]
    fn dynamic() {
        for (x, y, scale, zero) in [
            (&[0.0f32, 2.0, -3.0, -2.5, 1.34, 0.5][..], &[153u8, 255, 0, 26, 221, 179][..], 0.019_607_844f32, 153u8),
            (&[-1.0, -2.1, -1.3, -2.5, -3.34, -4.0], &[191, 121, 172, 96, 42, 0], 0.015_686_275, 255),
            (&[1.0, 2.1, 1.3, 2.5, 3.34, 4.0], &[64, 134, 83, 159, 213, 255], 0.015_686_275, 0),
            (&[0.0, 0.0], &[0, 0], 1.0, 0),
            (&[], &[], 1.0, 0),
            (&[1.0, f32::NAN], &[0, 0], f32::NAN, 0),
            (&[1.0, f32::INFINITY], &[0, 0], f32::NAN, 0),
            // The width of the range exceeds f32.
            (&[f32::MAX, f32::MIN / 2.0], &[255, 0], 2.001_660_9e36, 85),
        ] {
            let out = run(DynamicQuantizeLinear {}, &[&tensor(&[x.len()], x)]);
            assert_eq!(out[0].as_slice::<u8>().unwrap(), y, "{x:?}");
            let got = out[1].as_slice::<f32>().unwrap()[0];
            assert!((got - scale).abs() <= scale * 1e-6 || got.is_nan() && scale.is_nan(), "{x:?}: {got}");
            assert_eq!(out[2].as_slice::<u8>().unwrap(), [zero], "{x:?}");
        }
    }
}
