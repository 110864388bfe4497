//! CPU kernels of the scatters of [`crate::op::index`]. Updates apply in their order, so that duplicates have one defined result.

use half::{bf16, f16};

use super::index::{block_positions, element_positions};
use super::layout::operand;
use super::strided::by_size;
use super::{Context, Kernel, KernelError};
use crate::dtype::DType;
use crate::f8::{F8E4M3, F8E5M2};
use crate::op::index::{Scatter, ScatterElements, ScatterNd};
use crate::tensor::{TensorView, TensorViewMut};

/// An element that scatters combine. Integers wrap; the smaller and larger of a NaN and a number are NaN.
trait Combine: bytemuck::Pod {
    fn combine(self, update: Self, reduction: Scatter) -> Self;
}

macro_rules! combine_integers {
    ($($t:ty),*) => {$(
        impl Combine for $t {
            fn combine(self, update: Self, reduction: Scatter) -> Self {
                match reduction {
                    Scatter::Replace => update,
                    Scatter::Add => self.wrapping_add(update),
                    Scatter::Mul => self.wrapping_mul(update),
                    Scatter::Max => self.max(update),
                    Scatter::Min => self.min(update),
                }
            }
        }
    )*};
}
combine_integers!(i8, i16, i32, i64, u8, u16, u32, u64);

macro_rules! combine_floats {
    ($($t:ty),*) => {$(
        impl Combine for $t {
            fn combine(self, update: Self, reduction: Scatter) -> Self {
                match reduction {
                    Scatter::Replace => update,
                    Scatter::Add => self + update,
                    Scatter::Mul => self * update,
                    _ if self.is_nan() || update.is_nan() => <$t>::NAN,
                    Scatter::Max => self.max(update),
                    Scatter::Min => self.min(update),
                }
            }
        }
    )*};
}
combine_floats!(f32, f64);

macro_rules! combine_through_f32 {
    ($($t:ty),*) => {$(
        impl Combine for $t {
            fn combine(self, update: Self, reduction: Scatter) -> Self {
                <$t>::from_f32(self.to_f32().combine(update.to_f32(), reduction))
            }
        }
    )*};
}
combine_through_f32!(f16, bf16, F8E4M3, F8E5M2);

/// Combines blocks of `updates`, each of `block` elements, into `out` at `positions`.
fn combine_blocks<T: Combine>(out: &mut [u8], updates: &[u8], positions: &[usize], block: usize, reduction: Scatter) {
    let (out, updates): (&mut [T], &[T]) = (bytemuck::cast_slice_mut(out), bytemuck::cast_slice(updates));
    for (&at, update) in positions.iter().zip(updates.chunks_exact(block.max(1))) {
        for (o, &u) in out[at..at + block].iter_mut().zip(update) {
            *o = o.combine(u, reduction);
        }
    }
}

fn scatter(
    reduction: Scatter,
    data: &TensorView<'_>,
    updates: &TensorView<'_>,
    (positions, block): (&[usize], usize),
    out: &mut TensorViewMut<'_>,
) -> Result<(), KernelError> {
    out.data.copy_from_slice(data.data);
    if reduction == Scatter::Replace {
        by_size!(data.dtype.size(), T => combine_blocks::<T>(out.data, updates.data, positions, block, reduction));
        return Ok(());
    }
    macro_rules! combine {
        ($($dtype:ident => $t:ty),*) => {
            match data.dtype {
                $(DType::$dtype => combine_blocks::<$t>(out.data, updates.data, positions, block, reduction),)*
                DType::Bool => return Err(KernelError::UnsupportedType("a combining scatter", data.dtype)),
            }
        };
    }
    combine!(
        I8 => i8, I16 => i16, I32 => i32, I64 => i64, U8 => u8, U16 => u16, U32 => u32, U64 => u64,
        F16 => f16, Bf16 => bf16, F32 => f32, F64 => f64, F8e4m3 => F8E4M3, F8e5m2 => F8E5M2
    );
    Ok(())
}

impl Kernel for ScatterElements {
    fn run(
        &self,
        _: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let (data, indices, updates) = (operand(inputs, 0)?, operand(inputs, 1)?, operand(inputs, 2)?);
        let positions = element_positions(data.shape, &indices, self.axis)?;
        scatter(self.reduction, &data, &updates, (&positions, 1), &mut outputs[0])
    }
}

impl Kernel for ScatterNd {
    fn run(
        &self,
        _: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let (data, indices, updates) = (operand(inputs, 0)?, operand(inputs, 1)?, operand(inputs, 2)?);
        let (positions, block) = block_positions(data.shape, &indices, 0)?;
        scatter(self.reduction, &data, &updates, (&positions, block), &mut outputs[0])
    }
}

#[cfg(test)]
mod tests {
    use super::super::{EvalError, eval};
    use super::*;
    use crate::op::Op;
    use crate::tensor::Tensor;

    fn run(op: impl Into<Op>, inputs: [&Tensor; 3]) -> Result<Tensor, EvalError> {
        Ok(eval(&op.into(), &inputs.map(|t| Some(t.view())))?.remove(0))
    }

    fn floats(shape: &[usize], values: &[f32]) -> Tensor {
        Tensor::from_slice(shape, values).unwrap()
    }

    fn i64s(shape: &[usize], values: &[i64]) -> Tensor {
        Tensor::from_slice(shape, values).unwrap()
    }

    /// Examples of the ONNX operator documentation.
    #[test]
    fn elements() {
        let op = |axis, reduction| ScatterElements { axis, reduction };
        let zeros = floats(&[3, 3], &[0.; 9]);
        let out = run(
            op(0, Scatter::Replace),
            [&zeros, &i64s(&[2, 3], &[1, 0, 2, 0, 2, 1]), &floats(&[2, 3], &[1.0, 1.1, 1.2, 2.0, 2.1, 2.2])],
        );
        assert_eq!(out.unwrap().as_slice::<f32>(), Some(&[2.0, 1.1, 0., 1., 0., 2.2, 0., 2.1, 1.2][..]));
        let data = floats(&[1, 5], &[1., 2., 3., 4., 5.]);
        for (indices, reduction, expected) in [
            ([1, 3], Scatter::Replace, [1., 1.1, 3., 2.1, 5.]),
            ([1, -3], Scatter::Replace, [1., 1.1, 2.1, 4., 5.]),
            ([1, 1], Scatter::Add, [1., 5.2, 3., 4., 5.]),
            ([1, 1], Scatter::Replace, [1., 2.1, 3., 4., 5.]),
            ([1, 1], Scatter::Max, [1., 2.1, 3., 4., 5.]),
            ([1, 1], Scatter::Min, [1., 1.1, 3., 4., 5.]),
            ([0, 1], Scatter::Mul, [1.1, 4.2, 3., 4., 5.]),
        ] {
            let out = run(op(1, reduction), [&data, &i64s(&[1, 2], &indices), &floats(&[1, 2], &[1.1, 2.1])]).unwrap();
            assert_eq!(out.as_slice::<f32>(), Some(&expected[..]), "{indices:?} {reduction:?}");
        }
    }

    #[test]
    fn blocks() {
        let op = |reduction| ScatterNd { reduction };
        let data = Tensor::from_slice(&[8], &[1i32, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        let updates = Tensor::from_slice(&[4], &[9i32, 10, 11, 12]).unwrap();
        let out = run(op(Scatter::Replace), [&data, &i64s(&[4, 1], &[4, 3, 1, -1]), &updates]).unwrap();
        assert_eq!(out.as_slice::<i32>(), Some(&[1, 11, 3, 10, 9, 6, 7, 12][..]));
        let data = Tensor::from_slice(&[2, 2], &[1u8, 250, 3, 4]).unwrap();
        let updates = Tensor::from_slice(&[2, 2], &[5u8, 10, 7, 8]).unwrap();
        for (reduction, expected) in [
            (Scatter::Replace, [7, 8, 3, 4]),
            (Scatter::Add, [13, 12, 3, 4]),
            (Scatter::Mul, [35, 250u8.wrapping_mul(80), 3, 4]),
            (Scatter::Max, [7, 250, 3, 4]),
            (Scatter::Min, [1, 8, 3, 4]),
        ] {
            let out = run(op(reduction), [&data, &i64s(&[2, 1], &[0, -2]), &updates]).unwrap();
            assert_eq!(out.as_slice::<u8>(), Some(&expected[..]), "{reduction:?}");
        }
    }

    #[test]
    fn types_and_edges() {
        let op = ScatterNd { reduction: Scatter::Add };
        let half = |v: &[f32]| Tensor::from_slice(&[v.len()], &v.iter().map(|v| f16::from_f32(*v)).collect::<Vec<_>>()).unwrap();
        let out = run(op, [&half(&[1., 2.]), &i64s(&[2, 1], &[1, 1]), &half(&[0.5, 0.25])]).unwrap();
        assert_eq!(out.bytes(), half(&[1., 2.75]).bytes());
        let nan =
            run(ScatterNd { reduction: Scatter::Max }, [&floats(&[1], &[1.]), &i64s(&[1, 1], &[0]), &floats(&[1], &[f32::NAN])]);
        assert!(nan.unwrap().as_slice::<f32>().unwrap()[0].is_nan());
        for index in [2, -3, i64::MIN] {
            let e = run(op, [&floats(&[2], &[1., 2.]), &i64s(&[1, 1], &[index]), &floats(&[1], &[1.])]).unwrap_err();
            assert!(matches!(e, EvalError::Kernel(KernelError::IndexOutOfRange { extent: 2, .. })), "{e}");
        }
        let none = run(op, [&floats(&[2, 0], &[]), &i64s(&[3, 1], &[0, 1, 0]), &floats(&[3, 0], &[])]).unwrap();
        assert_eq!(none.shape(), &[2, 0]);
        let same = run(op, [&floats(&[2], &[1., 2.]), &i64s(&[0, 1], &[]), &floats(&[0], &[])]).unwrap();
        assert_eq!(same.as_slice::<f32>(), Some(&[1., 2.][..]));
    }
}
