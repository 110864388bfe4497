//! CPU kernels of [`crate::op::layout`]: they move elements of 1, 2, 4 or 8 bytes and never look at them.

use super::axis_map::{AxisMap, copy_mapped};
use super::parallel;
use super::strided::{View, row_major};
use super::{Context, Kernel, KernelError};
use crate::dim::Dim;
use crate::op::layout::{
    Concat, DepthToSpace, Expand, Identity, Pad, PadMode, Reshape, ReverseSequence, Slice, SpaceToDepth, Split, Tile, Transpose,
    Trilu,
};
use crate::tensor::{TensorView, TensorViewMut};

/// An operand that type inference requires to be present.
pub(super) fn operand<'a>(inputs: &[Option<TensorView<'a>>], i: usize) -> Result<TensorView<'a>, KernelError> {
    inputs.get(i).copied().flatten().ok_or_else(|| KernelError::Data(format!("input {i} is missing")))
}

/// The value of an extent among the attributes; they are concrete when a kernel runs.
pub(super) fn value(d: &Dim) -> Result<i64, KernelError> {
    d.as_const().ok_or_else(|| KernelError::Data(format!("extent {d} has no value yet")))
}

/// Defines kernels of one input and one output that copy a view of the input.
macro_rules! view_kernels {
    ($($op:ty => |$self:ident, $x:ident, $out:ident| $view:expr;)*) => {$(
        impl Kernel for $op {
            fn run(&self, _: Context<'_>, inputs: &[Option<TensorView<'_>>], outputs: &mut [TensorViewMut<'_>]) -> Result<(), KernelError> {
                let ($self, $x, $out) = (self, operand(inputs, 0)?, &mut outputs[0]);
                if !$out.data.is_empty() {
                    let view: View = $view;
                    view.copy($x.dtype.size(), $x.data, $out.data);
                }
                Ok(())
            }
        }
    )*};
}

/// The elements of a tensor in their order.
fn everything(x: &TensorView<'_>) -> View {
    View::new(0, &[x.elements()], &[1])
}

/// A tensor reshaped to `shape`, then transposed.
fn rearranged(shape: &[usize], perm: &[usize]) -> View {
    let strides = row_major(shape);
    View { offset: 0, axes: perm.iter().map(|&a| (shape[a], strides[a])).collect() }
}

view_kernels! {
    Identity => |_self, x, _out| everything(&x);
    Reshape => |_self, x, _out| everything(&x);
    Transpose => |op, x, _out| rearranged(x.shape, &op.perm);
    Expand => |_self, x, out| {
        let lead = out.shape.len() - x.shape.len();
        let strides = row_major(x.shape);
        let stride = |axis: usize| if axis < lead || x.shape[axis - lead] == 1 { 0 } else { strides[axis - lead] };
        View { offset: 0, axes: out.shape.iter().enumerate().map(|(axis, &n)| (n, stride(axis))).collect() }
    };
    Tile => |_self, x, out| {
        let pairs = x.shape.iter().zip(out.shape).zip(row_major(x.shape));
        View { offset: 0, axes: pairs.flat_map(|((&n, &total), stride)| [(total / n, 0), (n, stride)]).collect() }
    };
    Slice => |op, x, _out| {
        let mut view = View::new(0, x.shape, &row_major(x.shape));
        for cut in &op.axes {
            let axis = &mut view.axes[cut.axis];
            view.offset += value(&cut.start)? as isize * axis.1;
            // Only the first element is taken along an axis of length 1, however far the next would be.
            let len = value(&cut.len)? as usize;
            *axis = (len, if len > 1 { axis.1 * cut.step as isize } else { 0 });
        }
        view
    };
    DepthToSpace => |op, x, _out| {
        let ([n, c, h, w], b) = ([x.shape[0], x.shape[1], x.shape[2], x.shape[3]], op.block);
        if op.crd {
            rearranged(&[n, c / (b * b), b, b, h, w], &[0, 1, 4, 2, 5, 3])
        } else {
            rearranged(&[n, b, b, c / (b * b), h, w], &[0, 3, 4, 1, 5, 2])
        }
    };
    SpaceToDepth => |op, x, _out| {
        let ([n, c, h, w], b) = ([x.shape[0], x.shape[1], x.shape[2], x.shape[3]], op.block);
        rearranged(&[n, c, h / b, b, w / b, b], &[0, 3, 5, 1, 2, 4])
    };
}

/// Number of elements behind each index along `axis`.
pub(super) fn inner_elements(shape: &[usize], axis: usize) -> usize {
    shape[axis + 1..].iter().product()
}

impl Kernel for Concat {
    fn run(
        &self,
        _: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let out = &mut outputs[0];
        if out.data.is_empty() {
            return Ok(());
        }
        let inner = inner_elements(out.shape, self.axis) * out.dtype.size();
        let parts = (0..inputs.len())
            .map(|i| operand(inputs, i).map(|x| (x.data, x.shape[self.axis] * inner)))
            .collect::<Result<Vec<_>, _>>()?;
        parallel::rows(out.data, out.shape[self.axis] * inner, out.shape[self.axis] * inner, &|row, mut out| {
            for &(data, len) in &parts {
                let (part, rest) = out.split_at_mut(len);
                part.copy_from_slice(&data[row * len..(row + 1) * len]);
                out = rest;
            }
        });
        Ok(())
    }
}

impl Kernel for Split {
    fn run(
        &self,
        _: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let x = operand(inputs, 0)?;
        let strides = row_major(x.shape);
        let mut start = 0;
        for out in outputs {
            View::new(start as isize * strides[self.axis], out.shape, &strides).copy(x.dtype.size(), x.data, out.data);
            start += out.shape[self.axis];
        }
        Ok(())
    }
}

/// Positions of the input for those of a padded axis of `extent` elements.
fn pad_map(mode: PadMode, extent: usize, (before, after): (i64, i64)) -> AxisMap {
    // Type inference bounds pads to 2^48, and extents are of tensors in memory.
    let (extent, total) = (extent as i64, extent as i64 + before + after);
    // The part of the axis that the cuts leave, [low, high): the others repeat it.
    let (low, high) = ((-before).max(0), extent - (-after).max(0));
    let kept = high - low;
    let source = |i: i64| match mode {
        PadMode::Constant => (0..extent).contains(&i).then_some(i),
        PadMode::Edge => Some(i.clamp(low, high - 1)),
        PadMode::Wrap => Some(low + (i - low).rem_euclid(kept)),
        PadMode::Reflect if kept == 1 => Some(low),
        PadMode::Reflect => {
            let period = 2 * (kept - 1);
            let at = (i - low).rem_euclid(period);
            Some(low + at.min(period - at))
        }
    };
    (0..total).map(|o| source(o - before).map(|i| i as usize)).collect()
}

impl Kernel for Pad {
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
        let maps: Vec<AxisMap> = x.shape.iter().zip(&self.pads).map(|(&n, &pads)| pad_map(self.mode, n, pads)).collect();
        let zero = [0u8; 8];
        let size = x.dtype.size();
        let fill = inputs.get(1).copied().flatten().map_or(&zero[..size], |value| value.data);
        copy_mapped(size, x.data, x.shape, &maps, fill, out.data);
        Ok(())
    }
}

impl Kernel for Trilu {
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
        let [.., rows, columns] = *x.shape else { return Ok(()) };
        let size = x.dtype.size();
        parallel::rows(out.data, columns * size, columns * size, &|row, out| {
            let from = row * out.len();
            out.copy_from_slice(&x.data[from..from + out.len()]);
            // First column on or above the diagonal; the lower triangle includes the diagonal itself.
            let diagonal = self.k.saturating_add((row % rows) as i64);
            let edge = diagonal.saturating_add(i64::from(!self.upper)).clamp(0, columns as i64) as usize * size;
            if self.upper { &mut out[..edge] } else { &mut out[edge..] }.fill(0);
        });
        Ok(())
    }
}

impl Kernel for ReverseSequence {
    fn run(
        &self,
        _: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let (x, lengths, out) = (operand(inputs, 0)?, operand(inputs, 1)?, &mut outputs[0]);
        let lengths: &[i64] = bytemuck::cast_slice(lengths.data);
        let time = x.shape[self.time_axis];
        for &length in lengths {
            if length < 0 || length as usize > time {
                return Err(KernelError::IndexOutOfRange { index: length, extent: time });
            }
        }
        if out.data.is_empty() {
            return Ok(());
        }
        let run = inner_elements(x.shape, 1) * x.dtype.size();
        let columns = x.shape[1];
        parallel::rows(out.data, run, run, &|i, out| {
            let (mut at, batch) = if self.time_axis == 0 { (i / columns, i % columns) } else { (i % columns, i / columns) };
            let length = lengths[batch] as usize;
            if at < length {
                at = length - 1 - at;
            }
            let from = if self.time_axis == 0 { at * columns + batch } else { batch * columns + at } * run;
            out.copy_from_slice(&x.data[from..from + run]);
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
