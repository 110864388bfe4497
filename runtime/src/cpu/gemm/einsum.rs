//! CPU kernel of [`Einsum`]: operands are contracted from left to right, each pair as one batched matrix product.
//!
//! Subscripts of a pair are those of a batch (in both, and still needed), summed (in both, not needed later), of rows (left only) and of
//! columns (right only). Operands are read through strides; one is copied only where a group of its axes has no common stride.

use rayon::prelude::*;
use std::borrow::Cow;

use super::matrix::{Strided, strided_offsets};
use super::number::{Number, batched, with_number};
use super::widen::{rounded, widened};
use super::{elements, in_f32, required};
use crate::cpu::{Context, Kernel, KernelError};
use crate::op::gemm::{Einsum, Subscripts};
use crate::tensor::{TensorView, TensorViewMut};

/// One subscript of an operand; its stride is 0 where the operand is broadcast.
#[derive(Clone, Copy)]
struct Axis {
    label: char,
    extent: usize,
    stride: usize,
}

/// An operand or an intermediate result.
struct Term<'a, T: Clone> {
    data: Cow<'a, [T]>,
    axes: Vec<Axis>,
}

/// A term seen as a batch of matrices.
struct Grouped<'a, T: Clone> {
    data: Cow<'a, [T]>,
    batch_strides: Vec<usize>,
    row_stride: usize,
    col_stride: usize,
}

fn row_major_strides(extents: impl DoubleEndedIterator<Item = usize>) -> Vec<usize> {
    let mut strides: Vec<usize> = extents
        .rev()
        .scan(1, |next: &mut usize, extent| {
            let stride = *next;
            *next = stride.wrapping_mul(extent);
            Some(stride)
        })
        .collect();
    strides.reverse();
    strides
}

fn elements_of(axes: &[Axis]) -> usize {
    axes.iter().map(|a| a.extent).product()
}

/// The one stride of several axes taken as one, outermost first; `None` when they have none.
fn common_stride(axes: &[Axis]) -> Option<usize> {
    let mut long = axes.iter().rev().filter(|a| a.extent != 1);
    let Some(inner) = long.next() else { return Some(1) };
    let mut next = inner.stride * inner.extent;
    for axis in long {
        if axis.stride != next {
            return None;
        }
        next = axis.stride * axis.extent;
    }
    (inner.stride != 0).then_some(inner.stride)
}

impl<'a, T: Number> Term<'a, T> {
    /// An operand; a repeated subscript walks the diagonal. `extents` are those of the whole equation.
    fn operand(data: Cow<'a, [T]>, labels: &[char], shape: &[usize], extents: &dyn Fn(char) -> usize) -> Self {
        let mut axes: Vec<Axis> = Vec::new();
        for ((&label, &extent), stride) in labels.iter().zip(shape).zip(row_major_strides(shape.iter().copied())) {
            let stride = if extent == 1 { 0 } else { stride };
            match axes.iter_mut().find(|a| a.label == label) {
                Some(axis) => axis.stride += stride,
                None => axes.push(Axis { label, extent: extents(label), stride }),
            }
        }
        Term { data, axes }
    }

    fn has(&self, label: char) -> bool {
        self.axes.iter().any(|a| a.label == label)
    }

    /// The axes of `labels`, in that order.
    fn axes_of(&self, labels: &[char]) -> Vec<Axis> {
        labels.iter().filter_map(|&l| self.axes.iter().find(|a| a.label == l).copied()).collect()
    }

    /// The elements in the order of `labels`, summed over all other subscripts.
    fn gathered(&self, labels: &[char]) -> Vec<T> {
        let (extents, strides): (Vec<usize>, Vec<usize>) = self.axes_of(labels).iter().map(|a| (a.extent, a.stride)).unzip();
        let rest = self.axes.iter().filter(|a| !labels.contains(&a.label));
        let (rest_extents, rest_strides): (Vec<usize>, Vec<usize>) = rest.map(|a| (a.extent, a.stride)).unzip();
        let summed = strided_offsets(&rest_extents, &rest_strides);
        let sum = |start: usize| summed.iter().fold(T::ZERO, |sum, offset| sum.plus(self.data[start + offset]));
        strided_offsets(&extents, &strides).into_par_iter().with_min_len(1024).map(sum).collect()
    }

    /// The same over `labels` only, the others summed.
    fn reduced(self, labels: &[char]) -> Self {
        if self.axes.len() == labels.len() {
            return self;
        }
        let data = Cow::Owned(self.gathered(labels));
        let mut axes = self.axes_of(labels);
        for (axis, stride) in axes.iter_mut().zip(row_major_strides(labels.iter().map(|&l| self.extent(l)))) {
            axis.stride = stride;
        }
        Term { data, axes }
    }

    fn extent(&self, label: char) -> usize {
        self.axes.iter().find(|a| a.label == label).map_or(1, |a| a.extent)
    }

    /// Matrices whose rows and columns run over groups of subscripts; copied where a group has no common stride.
    fn grouped(self, batch: &[char], rows: &[char], cols: &[char]) -> Grouped<'a, T> {
        let batch_axes = self.axes_of(batch);
        let (row_axes, col_axes) = (self.axes_of(rows), self.axes_of(cols));
        if let (Some(row_stride), Some(col_stride)) = (common_stride(&row_axes), common_stride(&col_axes)) {
            let batch_strides = batch_axes.iter().map(|a| a.stride).collect();
            return Grouped { data: self.data, batch_strides, row_stride, col_stride };
        }
        let order = [batch, rows, cols].concat();
        let (row_count, col_count) = (elements_of(&row_axes), elements_of(&col_axes));
        let mut batch_strides = row_major_strides(batch_axes.iter().map(|a| a.extent));
        batch_strides.iter_mut().for_each(|s| *s *= row_count * col_count);
        Grouped { data: Cow::Owned(self.gathered(&order)), batch_strides, row_stride: col_count, col_stride: 1 }
    }
}

/// The product of two terms, summed over the subscripts that are not in `needed`.
fn contract<T: Number>(a: Term<'_, T>, b: Term<'_, T>, needed: &[char]) -> Result<Term<'static, T>, KernelError> {
    let labels = |term: &Term<'_, T>, keep: &dyn Fn(char) -> bool| -> Vec<char> {
        term.axes.iter().map(|axis| axis.label).filter(|&l| keep(l)).collect()
    };
    let of_a = labels(&a, &|l| needed.contains(&l) || b.has(l));
    let of_b = labels(&b, &|l| needed.contains(&l) || a.has(l));
    let (a, b) = (a.reduced(&of_a), b.reduced(&of_b));
    let batch = labels(&a, &|l| b.has(l) && needed.contains(&l));
    let depth = labels(&a, &|l| b.has(l) && !needed.contains(&l));
    let rows = labels(&a, &|l| !b.has(l));
    let cols = labels(&b, &|l| !a.has(l));

    let order = [batch.as_slice(), &rows, &cols].concat();
    let extents: Vec<usize> = order.iter().map(|&l| if a.has(l) { a.extent(l) } else { b.extent(l) }).collect();
    let size = |group: &[char], of: &Term<'_, T>| group.iter().map(|&l| of.extent(l)).product::<usize>();
    let (m, k, n) = (size(&rows, &a), size(&depth, &a), size(&cols, &b));
    let (a, b) = (a.grouped(&batch, &rows, &depth), b.grouped(&batch, &depth, &cols));

    let batch_extents = &extents[..batch.len()];
    let a_starts = strided_offsets(batch_extents, &a.batch_strides);
    let offsets: Vec<(usize, usize)> = a_starts.into_iter().zip(strided_offsets(batch_extents, &b.batch_strides)).collect();
    let mut out = vec![T::ZERO; offsets.len() * m * n];
    let lhs = Strided { data: &a.data, rows: m, cols: k, row_stride: a.row_stride, col_stride: a.col_stride };
    let rhs = Strided { data: &b.data, rows: k, cols: n, row_stride: b.row_stride, col_stride: b.col_stride };
    batched(&mut out, lhs, rhs, &offsets)?;
    let strides = row_major_strides(extents.iter().copied());
    let axes = order.iter().zip(extents).zip(strides).map(|((&label, extent), stride)| Axis { label, extent, stride }).collect();
    Ok(Term { data: Cow::Owned(out), axes })
}

fn evaluate<T: Number>(
    subscripts: &Subscripts,
    shapes: &[&[usize]],
    operands: Vec<Cow<'_, [T]>>,
    out: &mut [T],
) -> Result<(), KernelError> {
    let extent = |label: char| {
        let axes = subscripts.inputs.iter().zip(shapes).flat_map(|(labels, shape)| labels.iter().zip(*shape));
        axes.filter(|&(&l, &d)| l == label && d != 1).map(|(_, &d)| d).next().unwrap_or(1)
    };
    let terms = operands.into_iter().zip(&subscripts.inputs).zip(shapes);
    let mut terms = terms.enumerate().map(|(i, ((data, labels), shape))| (i, Term::operand(data, labels, shape, &extent)));
    let Some((_, mut result)) = terms.next() else { return Err(KernelError::Data("Einsum without operands".to_owned())) };
    for (i, term) in terms {
        let later = subscripts.inputs[i + 1..].iter().flatten();
        let needed: Vec<char> = later.chain(&subscripts.output).copied().collect();
        result = contract(result, term, &needed)?;
    }
    out.copy_from_slice(&result.gathered(&subscripts.output));
    Ok(())
}

impl Kernel for Einsum {
    fn run(
        &self,
        _context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let views: Vec<TensorView<'_>> = (0..inputs.len()).map(|i| required(inputs, i)).collect::<Result<_, _>>()?;
        let shapes: Vec<&[usize]> = views.iter().map(|v| v.shape).collect();
        let ranks: Vec<usize> = shapes.iter().map(|s| s.len()).collect();
        let subscripts = self.subscripts(&ranks).map_err(|e| KernelError::Data(e.to_string()))?;
        let out = &mut outputs[0];
        let dtype = out.dtype;
        if in_f32(dtype) {
            let operands = views.iter().map(|&v| widened("Einsum", v)).collect::<Result<_, _>>()?;
            return rounded("Einsum", out, |out| evaluate(&subscripts, &shapes, operands, out));
        }
        with_number!(dtype, T => {
            let operands = views.iter().map(|&v| elements::<T>("Einsum", v).map(Cow::Borrowed)).collect::<Result<_, _>>()?;
            let out = out.as_mut_slice::<T>().ok_or(KernelError::UnsupportedType("Einsum", dtype))?;
            evaluate(&subscripts, &shapes, operands, out)
        }, else Err(KernelError::UnsupportedType("Einsum", dtype)))
    }
}
