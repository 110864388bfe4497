//! How loops over elements, rows and axes are cut into tasks of the current rayon pool.
//!
//! The loop bodies are `dyn`: each is called once per thousands of elements, and only they are compiled per type.

use bytemuck::Pod;
use rayon::prelude::*;

/// From this many elements on, a loop runs on several threads.
pub const THRESHOLD: usize = 32 * 1024;
/// Elements per task.
pub const CHUNK: usize = 16 * 1024;

/// Calls `body` with the index and the elements of each piece of `y`, of `length` elements (the last may be shorter), on
/// several threads. As bytes underneath, so that rayon is compiled once and not per element type.
pub fn pieces<Y: Pod>(y: &mut [Y], length: usize, body: &(dyn Fn(usize, &mut [Y]) + Sync)) {
    let bytes = length.max(1) * size_of::<Y>();
    byte_pieces(bytemuck::cast_slice_mut(y), bytes, &|i, piece| body(i, bytemuck::cast_slice_mut(piece)));
}

fn byte_pieces(y: &mut [u8], length: usize, body: &(dyn Fn(usize, &mut [u8]) + Sync)) {
    y.par_chunks_mut(length).enumerate().for_each(|(i, piece)| body(i, piece));
}

/// Calls `body` with corresponding pieces of `x` and `y`, which have one length.
pub fn zip<X: Sync, Y: Pod>(x: &[X], y: &mut [Y], body: &(dyn Fn(&[X], &mut [Y]) + Sync)) {
    if y.len() < THRESHOLD {
        body(x, y);
    } else {
        pieces(y, CHUNK, &|i, y| body(&x[i * CHUNK..][..y.len()], y));
    }
}

/// Calls `body` with the index and the elements of each of the rows of `length` elements that make up `y`; `work` is the
/// number of elements read per row.
pub fn rows<Y: Pod>(y: &mut [Y], length: usize, work: usize, body: &(dyn Fn(usize, &mut [Y]) + Sync)) {
    if y.is_empty() {
        return;
    }
    let work = work.max(length).max(1);
    if (y.len() / length).saturating_mul(work) < THRESHOLD {
        y.chunks_mut(length).enumerate().for_each(|(i, row)| body(i, row));
        return;
    }
    let rows_per_task = (CHUNK / work).max(1);
    pieces(y, length * rows_per_task, &|task, rows| {
        rows.chunks_mut(length).enumerate().for_each(|(i, row)| body(task * rows_per_task + i, row));
    });
}

/// A shape seen from one axis: `[outer, extent, inner]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AxisView {
    /// Product of the extents before the axis.
    pub outer: usize,
    /// The axis's extent.
    pub extent: usize,
    /// Product of the extents after the axis.
    pub inner: usize,
}

impl AxisView {
    /// The view of `shape` from `axis`, which must be one of its axes.
    pub fn new(shape: &[usize], axis: usize) -> Self {
        AxisView { outer: shape[..axis].iter().product(), extent: shape[axis], inner: shape[axis + 1..].iter().product() }
    }
}

/// Columns gathered together, so that a strided axis is read a cache line at a time.
const COLUMNS: usize = 16;

/// Writes to `y` what `body` makes, in place, of each line of `x` along an axis.
pub fn along_axis<T: Pod + Sync>(x: &[T], y: &mut [T], axis: AxisView, body: &(dyn Fn(&mut [T]) + Sync)) {
    let AxisView { extent, inner, .. } = axis;
    if y.is_empty() {
        return;
    }
    if inner == 1 {
        rows(y, extent, extent, &|i, row| {
            row.copy_from_slice(&x[i * extent..][..extent]);
            body(row);
        });
        return;
    }
    rows(y, extent * inner, extent * inner, &|i, slab| {
        let x = &x[i * extent * inner..][..extent * inner];
        let mut lines = vec![x[0]; COLUMNS.min(inner) * extent];
        for start in (0..inner).step_by(COLUMNS) {
            let columns = COLUMNS.min(inner - start);
            for k in 0..extent {
                for (c, &v) in x[k * inner + start..][..columns].iter().enumerate() {
                    lines[c * extent + k] = v;
                }
            }
            lines.chunks_mut(extent).take(columns).for_each(body);
            for k in 0..extent {
                for (c, v) in slab[k * inner + start..][..columns].iter_mut().enumerate() {
                    *v = lines[c * extent + k];
                }
            }
        }
    });
}
