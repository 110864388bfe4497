//! Copying a strided view into contiguous memory: what transposing, slicing, splitting, broadcasting and tiling come to.
//!
//! Must not know: element types (an element is 1, 2, 4 or 8 bytes), operators.

use bytemuck::Pod;

/// Destinations of fewer bytes are not worth a second thread.
const PARALLEL_BYTES: usize = 64 << 10;

/// Side of the tiles in which a transposed matrix is copied.
const TILE: usize = 8;

/// Calls `$body` with `$T` an unsigned integer type of `$size` bytes.
macro_rules! by_size {
    ($size:expr, $T:ident => $body:expr) => {
        match $size {
            1 => {
                type $T = u8;
                $body
            }
            2 => {
                type $T = u16;
                $body
            }
            4 => {
                type $T = u32;
                $body
            }
            _ => {
                type $T = u64;
                $body
            }
        }
    };
}
pub(super) use by_size;

/// Distance between neighbours along each axis of a row-major tensor. Wraps where the tensor has no element.
pub(super) fn row_major(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1isize; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].wrapping_mul(shape[i] as isize);
    }
    strides
}

/// Elements `offset + Σ indexᵢ·strideᵢ` of some memory, in row-major order of the index.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// Position of the element at index 0.
    pub offset: isize,
    /// Extents and strides, outermost first.
    pub axes: Vec<(usize, isize)>,
}

impl View {
    /// A view of extents with strides.
    pub fn new(offset: isize, shape: &[usize], strides: &[isize]) -> View {
        View { offset, axes: shape.iter().copied().zip(strides.iter().copied()).collect() }
    }

    /// The same elements with fewer axes: those of one element dropped, neighbours that are evenly spaced merged.
    fn coalesced(&self) -> View {
        let mut axes: Vec<(usize, isize)> = Vec::with_capacity(self.axes.len());
        for &(extent, stride) in self.axes.iter().filter(|(extent, _)| *extent != 1) {
            match axes.last_mut() {
                Some((outer, outer_stride)) if *outer_stride == stride.wrapping_mul(extent as isize) => {
                    (*outer, *outer_stride) = (*outer * extent, stride);
                }
                _ => axes.push((extent, stride)),
            }
        }
        View { offset: self.offset, axes }
    }

    /// Copies the viewed elements of `src` to `dst`, which has room for exactly them. Both are of elements of `size` bytes.
    pub fn copy(&self, size: usize, src: &[u8], dst: &mut [u8]) {
        if dst.is_empty() {
            return;
        }
        let view = self.coalesced();
        by_size!(size, T => {
            let (src, dst) = (bytemuck::cast_slice::<u8, T>(src), bytemuck::cast_slice_mut::<u8, T>(dst));
            let share = dst.len() / (4 * rayon::current_num_threads()).max(1);
            copy_halving(&view.axes, view.offset, src, dst, share.max(PARALLEL_BYTES / 2 / size));
        });
    }
}

/// Copies in parallel, in parts of about `share` elements.
fn copy_halving<T: Pod + Send + Sync>(axes: &[(usize, isize)], offset: isize, src: &[T], dst: &mut [T], share: usize) {
    let [(extent, stride), inner @ ..] = axes else {
        dst[0] = src[offset as usize];
        return;
    };
    if dst.len() <= share.saturating_mul(2) {
        return copy_serial(axes, offset, src, dst);
    }
    if *extent == 1 {
        return copy_halving(inner, offset, src, dst, share);
    }
    // Whole tiles on the near side, so that only the last part has a ragged edge.
    let half = if *extent >= 2 * TILE { extent / 2 / TILE * TILE } else { extent / 2 };
    let (near, far) = dst.split_at_mut(dst.len() / extent * half);
    let part = |n: usize| [&[(n, *stride)], inner].concat();
    let (near_axes, far_axes) = (part(half), part(extent - half));
    rayon::join(
        || copy_halving(&near_axes, offset, src, near, share),
        || copy_halving(&far_axes, offset + half as isize * stride, src, far, share),
    );
}

/// Calls `body` with the position of every index of `axes`, in row-major order.
fn for_each_position(axes: &[(usize, isize)], offset: isize, mut body: impl FnMut(isize)) {
    let mut index = vec![0usize; axes.len()];
    let mut position = offset;
    loop {
        body(position);
        let mut axis = axes.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            let (extent, stride) = axes[axis];
            index[axis] += 1;
            position += stride;
            if index[axis] < extent {
                break;
            }
            position -= stride * extent as isize;
            index[axis] = 0;
        }
    }
}

fn copy_serial<T: Pod>(axes: &[(usize, isize)], offset: isize, src: &[T], dst: &mut [T]) {
    let [outer @ .., (len, stride)] = axes else {
        dst[0] = src[offset as usize];
        return;
    };
    let (len, stride) = (*len, *stride);
    match (outer, stride) {
        (_, 1) => {
            let mut rows = dst.chunks_exact_mut(len);
            for_each_position(outer, offset, |at| {
                let at = at as usize;
                if let Some(row) = rows.next() {
                    row.copy_from_slice(&src[at..at + len]);
                }
            });
        }
        (_, 0) => {
            let mut rows = dst.chunks_exact_mut(len);
            for_each_position(outer, offset, |at| {
                if let Some(row) = rows.next() {
                    row.fill(src[at as usize]);
                }
            });
        }
        ([outer @ .., (rows, 1)], stride) if stride > 0 => {
            let mut matrices = dst.chunks_exact_mut(rows * len);
            for_each_position(outer, offset, |at| {
                if let Some(matrix) = matrices.next() {
                    transpose(&src[at as usize..], stride as usize, matrix, *rows, len);
                }
            });
        }
        (outer, stride) => {
            let mut rows = dst.chunks_exact_mut(len);
            for_each_position(outer, offset, |at| {
                for (i, d) in rows.next().into_iter().flatten().enumerate() {
                    *d = src[(at + i as isize * stride) as usize];
                }
            });
        }
    }
}

/// `dst[r][c] = src[c·stride + r]`, tile by tile.
fn transpose<T: Pod>(src: &[T], stride: usize, dst: &mut [T], rows: usize, columns: usize) {
    let (whole_rows, whole_columns) = (rows / TILE * TILE, columns / TILE * TILE);
    for c in (0..whole_columns).step_by(TILE) {
        for r in (0..whole_rows).step_by(TILE) {
            let mut tile = [[T::zeroed(); TILE]; TILE];
            for (i, line) in tile.iter_mut().enumerate() {
                let at = (c + i) * stride + r;
                line.copy_from_slice(&src[at..at + TILE]);
            }
            for i in 0..TILE {
                let at = (r + i) * columns + c;
                let out: &mut [T] = &mut dst[at..at + TILE];
                for (o, line) in out.iter_mut().zip(&tile) {
                    *o = line[i];
                }
            }
        }
    }
    let mut edge = |r: usize, c: usize| dst[r * columns + c] = src[c * stride + r];
    for r in whole_rows..rows {
        (0..columns).for_each(|c| edge(r, c));
    }
    for r in 0..whole_rows {
        (whole_columns..columns).for_each(|c| edge(r, c));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expected(view: &View, src: &[u32]) -> Vec<u32> {
        let total: usize = view.axes.iter().map(|a| a.0).product();
        (0..total)
            .map(|mut flat| {
                let mut at = view.offset;
                for &(extent, stride) in view.axes.iter().rev() {
                    at += (flat % extent) as isize * stride;
                    flat /= extent;
                }
                src[at as usize]
            })
            .collect()
    }

    fn check(view: &View, src: &[u32]) {
        let want = expected(view, src);
        let mut got = vec![0u32; want.len()];
        view.copy(4, bytemuck::cast_slice(src), bytemuck::cast_slice_mut(&mut got));
        assert!(got == want, "{view:?}");
    }

    proptest! {
        #[test]
        fn any_view(axes in prop::collection::vec((0usize..12, -9isize..10), 0..5), unit in 0usize..5, backwards: bool) {
            // Some axis walks single elements, which is what the fast paths look for.
            let mut axes = axes;
            if let Some(a) = axes.get_mut(unit) {
                a.1 = if backwards { -1 } else { 1 };
            }
            let low: isize = axes.iter().map(|&(n, s)| (n as isize - 1).max(0) * s.min(0)).sum();
            let high: isize = axes.iter().map(|&(n, s)| (n as isize - 1).max(0) * s.max(0)).sum();
            let src: Vec<u32> = (0..(high - low + 1) as u32).collect();
            check(&View { offset: -low, axes }, &src);
        }
    }

    #[test]
    fn large_views_in_parallel() {
        let src: Vec<u32> = (0..3 * 130 * 5 * 77).collect();
        let strides = row_major(&[3, 130, 5, 77]);
        for perm in [[0, 2, 1, 3], [0, 2, 3, 1], [3, 2, 1, 0], [0, 1, 3, 2], [1, 0, 2, 3]] {
            let shape = [3, 130, 5, 77];
            check(&View { offset: 0, axes: perm.iter().map(|&a: &usize| (shape[a], strides[a])).collect() }, &src);
        }
        check(&View::new(0, &[50, 200, 7], &[0, 1, 0]), &src);
        check(&View::new(149_999, &[150_000], &[-1]), &src);
    }
}
