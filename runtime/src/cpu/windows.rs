//! Where the windows of convolution and pooling lie on each spatial axis. Whatever lies in the padding is skipped by arithmetic,
//! so that no cost grows with the padding or with taps that fall outside.
//!
//! Must not know: element types, what is computed of a window.

use std::ops::Range;

use crate::op::conv::Windows;

/// One spatial axis. Type inference bounds all attributes to 2^31, extents are of tensors in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct WindowAxis {
    /// Extent of the input.
    pub input: usize,
    /// Number of windows.
    pub output: usize,
    /// Elements of a window.
    pub kernel: usize,
    stride: i64,
    dilation: i64,
    /// Padding before the input; what window 0 starts at is its negative.
    before: i64,
    after: i64,
}

/// The axes of `windows` over an input and an output of shape [N, C, spatial…].
pub(super) fn window_axes(windows: &Windows, input: &[usize], output: &[usize]) -> Vec<WindowAxis> {
    (0..windows.kernel.len())
        .map(|i| WindowAxis {
            input: input[i + 2],
            output: output[i + 2],
            kernel: windows.kernel[i],
            stride: windows.strides[i] as i64,
            dilation: windows.dilations[i] as i64,
            before: windows.pads[i].0 as i64,
            after: windows.pads[i].1 as i64,
        })
        .collect()
}

/// ⌈a / b⌉ for b > 0, at least 0.
fn ceil_to_zero(a: i64, b: i64) -> i64 {
    if a <= 0 { 0 } else { (a - 1) / b + 1 }
}

impl WindowAxis {
    /// Distance between windows.
    pub fn stride(&self) -> usize {
        self.stride as usize
    }

    /// Whether window i is element i alone.
    pub fn is_identity(&self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.before == 0 && self.after == 0
    }

    /// The axis with only the windows of `range`.
    pub fn part(&self, range: Range<usize>) -> WindowAxis {
        WindowAxis { output: range.len(), before: self.before - range.start as i64 * self.stride, ..*self }
    }

    /// The windows whose element `tap` lies inside the input, and where it does so in the first of them.
    pub fn windows_of(&self, tap: usize) -> (Range<usize>, usize) {
        let shift = tap as i64 * self.dilation - self.before;
        let first = ceil_to_zero(-shift, self.stride);
        let end = ceil_to_zero(self.input as i64 - shift, self.stride).min(self.output as i64);
        if first >= end {
            return (0..0, 0);
        }
        (first as usize..end as usize, (first * self.stride + shift) as usize)
    }

    /// The elements of a window that lie inside the input, as positions of the input: first, distance, number.
    pub fn taps_of(&self, window: usize) -> (usize, usize, usize) {
        let start = window as i64 * self.stride - self.before;
        let first = ceil_to_zero(-start, self.dilation);
        let end = ceil_to_zero(self.input as i64 - start, self.dilation).min(self.kernel as i64);
        if first >= end {
            return (0, 1, 0);
        }
        ((start + first * self.dilation) as usize, self.dilation as usize, (end - first) as usize)
    }

    /// Number of elements of a window that lie inside the input or its padding.
    pub fn padded_taps_of(&self, window: usize) -> usize {
        let room = self.input as i64 + self.after + self.before - window as i64 * self.stride;
        ceil_to_zero(room, self.dilation).min(self.kernel as i64) as usize
    }
}

/// For one element of the window, `taps`, calls `row` with each run of windows along the last axis that has it inside the input:
/// position of the first in the output, position of its element in the input, number of windows.
pub(super) fn for_each_row(axes: &[WindowAxis], taps: &[usize], row: &mut impl FnMut(usize, usize, usize)) {
    descend(axes, taps, 0, 0, row);
}

fn descend(axes: &[WindowAxis], taps: &[usize], output: usize, input: usize, row: &mut impl FnMut(usize, usize, usize)) {
    let ([axis, inner @ ..], [tap, inner_taps @ ..]) = (axes, taps) else { return };
    let (windows, start) = axis.windows_of(*tap);
    let (output, input) = (output * axis.output, input * axis.input + start);
    if inner.is_empty() {
        if !windows.is_empty() {
            row(output + windows.start, input, windows.len());
        }
        return;
    }
    for (i, window) in windows.enumerate() {
        descend(inner, inner_taps, output + window, input + i * axis.stride(), row);
    }
}

/// The elements of a window: their position along each axis, in row-major order.
pub(super) fn taps_of_window(axes: &[WindowAxis]) -> Vec<Vec<usize>> {
    let mut taps = vec![Vec::new()];
    for axis in axes {
        taps = taps.iter().flat_map(|t: &Vec<usize>| (0..axis.kernel).map(move |k| [t.as_slice(), &[k]].concat())).collect();
    }
    taps
}
