//! Copying in which each axis of the result has its own map to positions of the source: padding, nearest neighbours.
//!
//! Must not know: element types (an element is 1, 2, 4 or 8 bytes), operators.

use bytemuck::Pod;

use super::parallel;
use super::strided::{by_size, row_major};

/// For each position along an axis of the result, the position in the source, or none for the fill value.
pub(super) type AxisMap = Vec<Option<usize>>;

/// A run of the last axis.
enum Run {
    Fill(usize),
    /// Consecutive elements: first position in the source and their number.
    Copy(usize, usize),
}

fn runs(map: &AxisMap) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for &position in map {
        match (runs.last_mut(), position) {
            (Some(Run::Fill(n)), None) => *n += 1,
            (Some(Run::Copy(start, n)), Some(p)) if *start + *n == p => *n += 1,
            (_, None) => runs.push(Run::Fill(1)),
            (_, Some(p)) => runs.push(Run::Copy(p, 1)),
        }
    }
    runs
}

/// Copies `src` of extents `shape` to `dst` as the maps of all axes say; `fill` is one element. Elements have `size` bytes.
pub(super) fn copy_mapped(size: usize, src: &[u8], shape: &[usize], maps: &[AxisMap], fill: &[u8], dst: &mut [u8]) {
    by_size!(size, T => {
        let fill: T = bytemuck::pod_read_unaligned(fill);
        copy_typed(bytemuck::cast_slice(src), shape, maps, fill, bytemuck::cast_slice_mut(dst));
    });
}

fn copy_typed<T: Pod + Sync>(src: &[T], shape: &[usize], maps: &[AxisMap], fill: T, dst: &mut [T]) {
    let Some((last, outer)) = maps.split_last() else {
        dst.copy_from_slice(src);
        return;
    };
    if dst.is_empty() {
        return;
    }
    let (runs, strides) = (runs(last), row_major(shape));
    parallel::rows(dst, last.len(), last.len(), &|row, out| {
        let mut rest = row;
        let mut base = Some(0usize);
        for (map, stride) in outer.iter().zip(&strides).rev() {
            base = base.and_then(|b| Some(b + map[rest % map.len()]? * *stride as usize));
            rest /= map.len();
        }
        let Some(base) = base else {
            out.fill(fill);
            return;
        };
        let mut at = 0;
        for run in &runs {
            match *run {
                Run::Fill(n) => {
                    out[at..at + n].fill(fill);
                    at += n;
                }
                Run::Copy(start, 1) => {
                    out[at] = src[base + start];
                    at += 1;
                }
                Run::Copy(start, n) => {
                    out[at..at + n].copy_from_slice(&src[base + start..base + start + n]);
                    at += n;
                }
            }
        }
    });
}
