//! CPU kernels of the gathers of [`crate::op::index`], and OneHot. Every position is checked before anything is read.

use std::borrow::Cow;

use half::{bf16, f16};
use rayon::prelude::*;

use super::layout::{inner_elements, operand};
use super::parallel;
use super::strided::{by_size, row_major};
use super::{Context, Kernel, KernelError};
use crate::dtype::DType;
use crate::f8::{F8E4M3, F8E5M2};
use crate::op::index::{Gather, GatherElements, GatherNd, OneHot};
use crate::tensor::{TensorView, TensorViewMut};

/// The elements of a tensor of positions.
pub(super) fn read_indices<'a>(indices: &TensorView<'a>) -> Result<Cow<'a, [i64]>, KernelError> {
    match indices.dtype {
        DType::I64 => Ok(Cow::Borrowed(bytemuck::cast_slice(indices.data))),
        DType::I32 => Ok(Cow::Owned(bytemuck::cast_slice::<u8, i32>(indices.data).iter().map(|&i| i.into()).collect())),
        other => Err(KernelError::UnsupportedType("indexing", other)),
    }
}

/// A position counted from the end when negative.
pub(super) fn resolve(index: i64, extent: usize) -> Result<usize, KernelError> {
    let position = if index < 0 { index.checked_add(extent as i64) } else { Some(index) };
    position.and_then(|p| usize::try_from(p).ok()).filter(|p| *p < extent).ok_or(KernelError::IndexOutOfRange { index, extent })
}

impl Kernel for Gather {
    fn run(
        &self,
        _: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let (data, indices, out) = (operand(inputs, 0)?, operand(inputs, 1)?, &mut outputs[0]);
        let extent = data.shape[self.axis];
        let rows = read_indices(&indices)?.iter().map(|&i| resolve(i, extent)).collect::<Result<Vec<usize>, _>>()?;
        if out.data.is_empty() {
            return Ok(());
        }
        let size = data.dtype.size();
        let inner = inner_elements(data.shape, self.axis);
        if inner == 1 {
            by_size!(size, T => {
                let data: &[T] = bytemuck::cast_slice(data.data);
                parallel::rows(out.data, rows.len() * size, rows.len() * size, &|outer, out| {
                    let data = &data[outer * extent..(outer + 1) * extent];
                    for (o, &row) in bytemuck::cast_slice_mut::<u8, T>(out).iter_mut().zip(&rows) {
                        *o = data[row];
                    }
                });
            });
            return Ok(());
        }
        let bytes = inner * size;
        parallel::rows(out.data, bytes, bytes, &|i, out| {
            let from = (i / rows.len() * extent + rows[i % rows.len()]) * bytes;
            out.copy_from_slice(&data.data[from..from + bytes]);
        });
        Ok(())
    }
}

/// For each element of a tensor of indices along `axis`, the position in `data` that it addresses.
pub(super) fn element_positions(data: &[usize], indices: &TensorView<'_>, axis: usize) -> Result<Vec<usize>, KernelError> {
    let values = read_indices(indices)?;
    let strides = row_major(data);
    let position = |(flat, &index): (usize, &i64)| {
        let mut at = resolve(index, data[axis])? * strides[axis] as usize;
        let mut rest = flat;
        for (i, &n) in indices.shape.iter().enumerate().rev() {
            if i != axis {
                at += rest % n * strides[i] as usize;
            }
            rest /= n;
        }
        Ok(at)
    };
    values.par_iter().enumerate().with_min_len(1 << 12).map(position).collect()
}

impl Kernel for GatherElements {
    fn run(
        &self,
        _: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let (data, indices, out) = (operand(inputs, 0)?, operand(inputs, 1)?, &mut outputs[0]);
        let positions = element_positions(data.shape, &indices, self.axis)?;
        by_size!(data.dtype.size(), T => {
            let data: &[T] = bytemuck::cast_slice(data.data);
            for (o, at) in bytemuck::cast_slice_mut::<u8, T>(out.data).iter_mut().zip(positions) {
                *o = data[at];
            }
        });
        Ok(())
    }
}

/// For each row of coordinates, the position of the block of elements that it addresses; the first `batch_dims` axes are shared.
/// The block's number of elements comes second.
pub(super) fn block_positions(
    data: &[usize],
    indices: &TensorView<'_>,
    batch_dims: usize,
) -> Result<(Vec<usize>, usize), KernelError> {
    let values = read_indices(indices)?;
    let strides = row_major(data);
    let Some((&count, leading)) = indices.shape.split_last() else { return Ok((Vec::new(), 0)) };
    let rows_per_batch: usize = leading[batch_dims..].iter().product();
    let batch_elements: usize = data[batch_dims..].iter().product();
    let block = data[batch_dims + count..].iter().product();
    let position = |(row, coordinates): (usize, &[i64])| {
        let mut at = row / rows_per_batch * batch_elements;
        for (axis, &index) in (batch_dims..).zip(coordinates) {
            at += resolve(index, data[axis])? * strides[axis] as usize;
        }
        Ok(at)
    };
    Ok((values.chunks_exact(count).enumerate().map(position).collect::<Result<_, KernelError>>()?, block))
}

impl Kernel for GatherNd {
    fn run(
        &self,
        _: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let (data, indices, out) = (operand(inputs, 0)?, operand(inputs, 1)?, &mut outputs[0]);
        let (positions, block) = block_positions(data.shape, &indices, self.batch_dims)?;
        let size = data.dtype.size();
        parallel::rows(out.data, block * size, block * size, &|i, out| {
            let from = positions[i] * size;
            out.copy_from_slice(&data.data[from..from + block * size]);
        });
        Ok(())
    }
}

/// Numbers of any type as integers, fractions dropped; what lies beyond 64 bits saturates.
fn read_integers(x: &TensorView<'_>) -> Result<Vec<i64>, KernelError> {
    macro_rules! read {
        ($($dtype:ident => |$v:ident: $t:ty| $convert:expr),* $(,)?) => {
            match x.dtype {
                $(DType::$dtype => Ok(bytemuck::cast_slice::<u8, $t>(x.data).iter().map(|&$v| $convert).collect()),)*
                DType::Bool => Err(KernelError::UnsupportedType("OneHot", x.dtype)),
            }
        };
    }
    read!(
        I8 => |v: i8| v.into(),
        I16 => |v: i16| v.into(),
        I32 => |v: i32| v.into(),
        I64 => |v: i64| v,
        U8 => |v: u8| v.into(),
        U16 => |v: u16| v.into(),
        U32 => |v: u32| v.into(),
        U64 => |v: u64| i64::try_from(v).unwrap_or(i64::MAX),
        F16 => |v: f16| v.to_f32() as i64,
        Bf16 => |v: bf16| v.to_f32() as i64,
        F32 => |v: f32| v as i64,
        F64 => |v: f64| v as i64,
        F8e4m3 => |v: F8E4M3| v.to_f32() as i64,
        F8e5m2 => |v: F8E5M2| v.to_f32() as i64,
    )
}

impl Kernel for OneHot {
    fn run(
        &self,
        _: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let (indices, values, out) = (operand(inputs, 0)?, operand(inputs, 1)?, &mut outputs[0]);
        let depth = out.shape[self.axis];
        let inner = inner_elements(out.shape, self.axis);
        // An index out of range is no error here: its row is `off` throughout.
        let hot: Vec<Option<usize>> = read_integers(&indices)?.into_iter().map(|i| resolve(i, depth).ok()).collect();
        by_size!(values.dtype.size(), T => {
            let [off, on] = *bytemuck::cast_slice::<u8, T>(values.data) else {
                return Err(KernelError::Data("two values are needed: off and on".to_owned()));
            };
            let out: &mut [T] = bytemuck::cast_slice_mut(out.data);
            out.fill(off);
            for (i, hot) in hot.iter().enumerate() {
                if let Some(hot) = hot {
                    out[(i / inner * depth + hot) * inner + i % inner] = on;
                }
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{EvalError, eval};
    use super::*;
    use crate::op::Op;
    use crate::tensor::Tensor;

    fn run(op: impl Into<Op>, inputs: &[&Tensor]) -> Result<Tensor, EvalError> {
        let views: Vec<_> = inputs.iter().map(|t| Some(t.view())).collect();
        Ok(eval(&op.into(), &views)?.remove(0))
    }

    fn i64s(shape: &[usize], values: &[i64]) -> Tensor {
        Tensor::from_slice(shape, values).unwrap()
    }

    fn expect(op: impl Into<Op>, inputs: &[&Tensor], shape: &[usize], values: &[f32]) {
        let op = op.into();
        let out = run(op.clone(), inputs).unwrap();
        assert_eq!((out.shape(), out.as_slice::<f32>().unwrap()), (shape, values), "{op:?}");
    }

    fn iota(shape: &[usize]) -> Tensor {
        Tensor::from_slice(shape, &(0..shape.iter().product()).map(|i: usize| i as f32).collect::<Vec<_>>()).unwrap()
    }

    /// Examples of the ONNX operator documentation, and negative indices.
    #[test]
    fn gathers() {
        let x = iota(&[3, 2]);
        expect(Gather { axis: 0 }, &[&x, &i64s(&[2, 2], &[0, 1, 1, -1])], &[2, 2, 2], &[0., 1., 2., 3., 2., 3., 4., 5.]);
        expect(Gather { axis: 1 }, &[&x, &i64s(&[], &[-1])], &[3], &[1., 3., 5.]);
        expect(
            Gather { axis: 1 },
            &[&x, &Tensor::from_slice(&[1, 2], &[1i32, 0]).unwrap()],
            &[3, 1, 2],
            &[1., 0., 3., 2., 5., 4.],
        );
        expect(Gather { axis: 0 }, &[&x, &i64s(&[0], &[])], &[0, 2], &[]);
        let x = iota(&[3, 3]);
        let indices = i64s(&[2, 3], &[1, 2, 0, -1, 0, 0]);
        expect(GatherElements { axis: 0 }, &[&x, &indices], &[2, 3], &[3., 7., 2., 6., 1., 2.]);
        expect(GatherElements { axis: 1 }, &[&iota(&[2, 2]), &i64s(&[2, 2], &[0, 0, 1, 0])], &[2, 2], &[0., 0., 3., 2.]);
        expect(GatherElements { axis: 1 }, &[&x, &i64s(&[2, 1], &[2, 1])], &[2, 1], &[2., 4.]);
        let x = iota(&[2, 2]);
        expect(GatherNd { batch_dims: 0 }, &[&x, &i64s(&[2, 2], &[0, 0, 1, 1])], &[2], &[0., 3.]);
        expect(GatherNd { batch_dims: 0 }, &[&x, &i64s(&[2, 1], &[1, 0])], &[2, 2], &[2., 3., 0., 1.]);
        let x = iota(&[2, 2, 2]);
        expect(GatherNd { batch_dims: 0 }, &[&x, &i64s(&[2, 1, 2], &[0, 1, -1, 0])], &[2, 1, 2], &[2., 3., 4., 5.]);
        expect(GatherNd { batch_dims: 1 }, &[&x, &i64s(&[2, 1], &[1, 0])], &[2, 2], &[2., 3., 4., 5.]);
    }

    #[test]
    fn embedding_rows_in_parallel() {
        let rows: Vec<i64> = (0..500).map(|i| (i * 37) % 101).collect();
        let out = run(Gather { axis: 0 }, &[&iota(&[101, 384]), &i64s(&[5, 100], &rows)]).unwrap();
        for (row, got) in rows.iter().zip(out.as_slice::<f32>().unwrap().chunks_exact(384)) {
            assert!(got.iter().enumerate().all(|(i, v)| *v == (row * 384 + i as i64) as f32));
        }
    }

    #[test]
    fn out_of_range() {
        let x = iota(&[3, 3]);
        for index in [3, -4, i64::MIN, i64::MAX] {
            let cases: [(Op, &[usize]); 3] = [
                (Gather { axis: 1 }.into(), &[1]),
                (GatherElements { axis: 0 }.into(), &[1, 1]),
                (GatherNd { batch_dims: 0 }.into(), &[1]),
            ];
            for (op, shape) in cases {
                let e = run(op, &[&x, &i64s(shape, &[index])]).unwrap_err();
                assert!(matches!(e, EvalError::Kernel(KernelError::IndexOutOfRange { extent: 3, .. })), "{e}");
            }
        }
        assert!(run(Gather { axis: 0 }, &[&iota(&[0, 3]), &i64s(&[1], &[0])]).is_err());
        assert!(run(GatherElements { axis: 1 }, &[&iota(&[1, 0]), &i64s(&[1, 1], &[0])]).is_err());
    }

    #[test]
    fn one_hot() {
        let values = Tensor::from_slice(&[2], &[1f32, 3.]).unwrap();
        let op = |axis, depth: i64| OneHot { axis, depth: depth.into() };
        let column = |hot: &[usize], depth: usize| -> Vec<f32> {
            hot.iter().flat_map(|h| (0..depth).map(move |i| if i == *h { 3. } else { 1. })).collect()
        };
        // ONNX test_onehot_negative_indices, and one index out of range on either side.
        expect(op(1, 10), &[&i64s(&[5], &[0, -7, -8, 10, -11]), &values], &[5, 10], &column(&[0, 3, 2, 99, 99], 10));
        let floats = Tensor::from_slice(&[2, 1], &[1f32, 0.]).unwrap();
        expect(op(1, 2), &[&floats, &values], &[2, 2, 1], &column(&[1, 0], 2));
        expect(op(0, 2), &[&Tensor::from_slice(&[3], &[1u8, 0, 1]).unwrap(), &values], &[2, 3], &[1., 3., 1., 3., 1., 3.]);
        expect(op(0, 0), &[&i64s(&[3], &[0, 1, 2]), &values], &[0, 3], &[]);
        let nan = Tensor::from_slice(&[2], &[f64::INFINITY, 1e300]).unwrap();
        expect(op(1, 2), &[&nan, &values], &[2, 2], &[1., 1., 1., 1.]);
    }
}
