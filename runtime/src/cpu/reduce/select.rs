//! The extreme elements along an axis: their indices, or the first k of them.

use std::cmp::Ordering;

use super::super::dispatch::{dispatch, input, output, view};
use super::super::parallel::AxisView;
use super::super::promote::{promote, to_wide};
use super::super::{Context, Kernel, KernelError};
use crate::dtype::Element;
use crate::op::reduce::{ArgReduce, TopK};
use crate::tensor::{TensorView, TensorViewMut};

/// The order by size, NaN above every number and equal to itself.
fn by_size<T: PartialOrd>(a: &T, b: &T) -> Ordering {
    a.partial_cmp(b).unwrap_or_else(|| is_nan(a).cmp(&is_nan(b)))
}

#[allow(clippy::eq_op)]
fn is_nan<T: PartialOrd>(v: &T) -> bool {
    v.partial_cmp(v).is_none()
}

/// Calls `body` with the index of the line among the results and the elements of each line along an axis.
fn lines<T: Element>(x: &[T], axis: AxisView, mut body: impl FnMut(usize, usize, &[T])) {
    let AxisView { outer, extent, inner } = axis;
    let mut line = Vec::with_capacity(extent);
    for o in 0..outer {
        for i in 0..inner {
            line.clear();
            line.extend((0..extent).map(|k| x[(o * extent + k) * inner + i]));
            body(o, i, &line);
        }
    }
}

impl Kernel for ArgReduce {
    fn run(
        &self,
        _context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        promote!(self, inputs, outputs, to_wide);
        let x = view(inputs, 0)?;
        let axis = AxisView::new(x.shape, self.axis);
        let out = output::<i64>(outputs, 0)?;
        dispatch!(wide, "ArgReduce", x.dtype, T => {
            lines(input::<T>(inputs, 0)?, axis, |o, i, line| out[o * axis.inner + i] = self.index(line) as i64);
            Ok(())
        })
    }
}

impl ArgReduce {
    fn index<T: PartialOrd>(&self, line: &[T]) -> usize {
        let mut best = 0;
        for (i, v) in line.iter().enumerate() {
            if is_nan(v) {
                return i;
            }
            let order = by_size(v, &line[best]);
            let better = if self.max { Ordering::Greater } else { Ordering::Less };
            if order == better || (self.select_last && order == Ordering::Equal) {
                best = i;
            }
        }
        best
    }
}

impl Kernel for TopK {
    fn run(
        &self,
        _context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        promote!(self, inputs, outputs, to_wide);
        let x = view(inputs, 0)?;
        let axis = AxisView::new(x.shape, self.axis);
        let [values, indices] = outputs else {
            return Err(KernelError::Data("TopK has two outputs".into()));
        };
        let k = values.shape[self.axis];
        if k > axis.extent {
            return Err(KernelError::Data(format!("{k} elements asked for of an axis of {}", axis.extent)));
        }
        if k == 0 {
            return Ok(());
        }
        let mistyped = || KernelError::Data("TopK's outputs have other types than inferred".into());
        let indices = indices.as_mut_slice::<i64>().ok_or_else(mistyped)?;
        dispatch!(wide, "TopK", x.dtype, T => {
            let values = values.as_mut_slice::<T>().ok_or_else(mistyped)?;
            let mut order: Vec<usize> = Vec::with_capacity(axis.extent);
            lines(input::<T>(inputs, 0)?, axis, |o, i, line| {
                let compare = |a: &usize, b: &usize| {
                    let by_value = by_size(&line[*a], &line[*b]);
                    (if self.largest { by_value.reverse() } else { by_value }).then(a.cmp(b))
                };
                order.clear();
                order.extend(0..line.len());
                if k < line.len() {
                    order.select_nth_unstable_by(k - 1, compare);
                }
                order[..k].sort_unstable_by(compare);
                for (rank, &from) in order[..k].iter().enumerate() {
                    let at = (o * k + rank) * axis.inner + i;
                    values[at] = line[from];
                    indices[at] = from as i64;
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
    use crate::tensor::Tensor;
    use half::f16;

    #[test]
    fn arg_reduce_finds_first_or_last() {
        let x = [3i32, 1, 3, 1, 2, 9, 9, 0];
        for (shape, axis, max, select_last, want) in [
            (&[2usize, 4][..], 1, true, false, &[0i64, 1][..]),
            (&[2, 4], 1, true, true, &[2, 2]),
            (&[2, 4], 1, false, false, &[1, 3]),
            (&[2, 4], 1, false, true, &[3, 3]),
            (&[2, 4], 0, true, false, &[0, 1, 1, 0]),
            (&[2, 2, 2], 1, false, false, &[0, 0, 0, 1]),
        ] {
            let tensor = Tensor::from_slice(shape, &x).unwrap();
            let op = ArgReduce { max, axis, keep_dims: false, select_last };
            let out = eval(&op.into(), &[Some(tensor.view())]).unwrap();
            assert_eq!(out[0].as_slice::<i64>().unwrap(), want, "{shape:?} {op:?}");
        }
        let tensor = Tensor::from_slice(&[3], &[1.0f32, f32::NAN, f32::INFINITY]).unwrap();
        let op = ArgReduce { max: true, axis: 0, keep_dims: true, select_last: false };
        assert_eq!(eval(&op.into(), &[Some(tensor.view())]).unwrap()[0].as_slice::<i64>().unwrap(), [1]);
    }

    #[test]
    fn top_k_is_sorted_with_ties_by_index() {
        let x = [3.0f32, 1.0, 3.0, f32::NAN, 2.0, f32::NEG_INFINITY].map(f16::from_f32);
        for (k, largest, want) in
            [(4usize, true, &[3i64, 0, 2, 4][..]), (6, false, &[5, 1, 4, 0, 2, 3]), (1, true, &[3]), (0, true, &[])]
        {
            for (shape, axis) in [(&[6usize][..], 0), (&[1, 6, 1], 1)] {
                let tensor = Tensor::from_slice(shape, &x).unwrap();
                let out = eval(&TopK { k: k.into(), axis, largest }.into(), &[Some(tensor.view())]).unwrap();
                assert_eq!(out[1].as_slice::<i64>().unwrap(), want);
                let values: Vec<u16> = out[0].as_slice::<f16>().unwrap().iter().map(|v| v.to_bits()).collect();
                assert_eq!(values, want.iter().map(|&i| x[i as usize].to_bits()).collect::<Vec<_>>());
            }
        }
        let columns = Tensor::from_slice(&[3, 2], &[1u8, 60, 2, 50, 3, 40]).unwrap();
        let out = eval(&TopK { k: 2.into(), axis: 0, largest: true }.into(), &[Some(columns.view())]).unwrap();
        assert_eq!(out[0].as_slice::<u8>().unwrap(), [3, 60, 2, 50]);
        assert_eq!(out[1].as_slice::<i64>().unwrap(), [2, 0, 1, 1]);
    }
}
