//! Matrices in slices, and which of them a batched product multiplies.
//!
//! Must not know: how a product is computed.

use rten_tensor::Matrix;

use crate::cpu::KernelError;

/// A borrowed matrix: element (r, c) lies at `r · row_stride + c · col_stride`.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a, T> {
    pub data: &'a [T],
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<'a, T: Copy> Strided<'a, T> {
    /// A row-major matrix.
    pub fn row_major(data: &'a [T], rows: usize, cols: usize) -> Self {
        Strided { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The same data read the other way round.
    pub fn transposed(self) -> Self {
        Strided { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// Some of the rows.
    pub fn rows_from(self, first: usize, rows: usize) -> Self {
        Strided { data: self.data.get(first * self.row_stride..).unwrap_or_default(), rows, ..self }
    }

    /// Some of the columns.
    pub fn columns_from(self, first: usize, cols: usize) -> Self {
        Strided { data: self.data.get(first * self.col_stride..).unwrap_or_default(), cols, ..self }
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.rows == 0 || self.cols == 0
    }

    /// The elements in row-major order.
    pub fn to_row_major(self) -> Vec<T> {
        let mut out = Vec::with_capacity(self.rows * self.cols);
        for r in 0..self.rows {
            let start = r * self.row_stride;
            if self.col_stride == 1 {
                out.extend_from_slice(&self.data[start..start + self.cols]);
            } else {
                out.extend((0..self.cols).map(|c| self.data[start + c * self.col_stride]));
            }
        }
        out
    }

    /// The view that the GEMM library takes.
    pub fn matrix(self) -> Result<Matrix<'a, T>, KernelError> {
        Matrix::from_slice_with_strides([self.rows, self.cols], self.data, [self.row_stride, self.col_stride])
            .map_err(|e| KernelError::Data(format!("a matrix of {}×{} elements: {e}", self.rows, self.cols)))
    }
}

/// What NumPy's matmul does to two concrete shapes: a batch of M×K by K×N products.
#[derive(Debug, PartialEq)]
pub(crate) struct BatchedShape {
    pub m: usize,
    pub k: usize,
    pub n: usize,
    /// For each product, the offsets of its operands' first elements.
    pub offsets: Vec<(usize, usize)>,
}

impl BatchedShape {
    /// The products of row-major operands whose shapes fit each other.
    pub fn new(a: &[usize], b: &[usize]) -> Self {
        let (a_batch, m, k) = split(a, true);
        let (b_batch, _, n) = split(b, false);
        let batch = broadcast_extents(a_batch, b_batch);
        let starts = |shape, rows: usize, cols: usize| offsets(&batch, shape, rows.wrapping_mul(cols));
        let offsets = std::iter::zip(starts(a_batch, m, k), starts(b_batch, k, n)).collect();
        BatchedShape { m, k, n, offsets }
    }

    /// The same with a batch that shares one right-hand matrix taken as one product of more rows.
    pub fn collapsed(mut self) -> Self {
        let contiguous = self.offsets.iter().enumerate().all(|(i, &(a, b))| a == i * self.m * self.k && b == 0);
        if contiguous && self.offsets.len() > 1 {
            self.m *= self.offsets.len();
            self.offsets = vec![(0, 0)];
        }
        self
    }
}

/// A batch of products whose operands lie at constant distances.
#[cfg(feature = "cuda")]
#[derive(Debug, PartialEq)]
pub(crate) struct StridedBatch {
    pub m: usize,
    pub k: usize,
    pub n: usize,
    pub batch: usize,
    /// Elements from one left-hand matrix to the next.
    pub lhs_stride: usize,
    pub rhs_stride: usize,
}

/// NumPy's matmul of two concrete shapes as one strided batch; `None` when it is not one.
#[cfg(feature = "cuda")]
pub(crate) fn batched_matmul(a: &[usize], b: &[usize]) -> Option<StridedBatch> {
    let BatchedShape { m, k, n, offsets } = BatchedShape::new(a, b).collapsed();
    let stride = |of: fn(&(usize, usize)) -> usize| {
        let stride = offsets.get(1).map_or(0, of);
        offsets.iter().enumerate().all(|(i, o)| of(o) == i * stride).then_some(stride)
    };
    let (lhs_stride, rhs_stride) = (stride(|o| o.0)?, stride(|o| o.1)?);
    Some(StridedBatch { m, k, n, batch: offsets.len(), lhs_stride, rhs_stride })
}

/// Batch extents, rows and columns; a vector is a row on the left, a column on the right.
fn split(shape: &[usize], left: bool) -> (&[usize], usize, usize) {
    match *shape {
        [ref batch @ .., rows, cols] => (batch, rows, cols),
        [k] if left => (&[], 1, k),
        [k] => (&[], k, 1),
        [] => (&[], 1, 1),
    }
}

/// The common extents of two shapes that broadcast.
fn broadcast_extents(a: &[usize], b: &[usize]) -> Vec<usize> {
    let rank = a.len().max(b.len());
    let extent = |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |i| shape[i]);
    (0..rank).map(|axis| if extent(a, axis) == 1 { extent(b, axis) } else { extent(a, axis) }).collect()
}

/// For each index of `batch`, in order, where the block of `block` elements of a tensor of batch extents `shape` begins.
pub(crate) fn offsets(batch: &[usize], shape: &[usize], block: usize) -> Vec<usize> {
    let mut strides = vec![0; batch.len()];
    let mut stride = block;
    for (&extent, to) in shape.iter().rev().zip(strides.iter_mut().rev()) {
        *to = if extent == 1 { 0 } else { stride };
        stride = stride.wrapping_mul(extent);
    }
    strided_offsets(batch, &strides)
}

/// For each index of `extents`, in order, the sum of its coordinates times `strides`.
pub(crate) fn strided_offsets(extents: &[usize], strides: &[usize]) -> Vec<usize> {
    if extents.contains(&0) {
        return Vec::new();
    }
    let mut out = vec![0];
    for (&extent, &stride) in extents.iter().zip(strides) {
        out = out.iter().flat_map(|&o| (0..extent).map(move |i| o + i * stride)).collect();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_broadcast() {
        let shape = BatchedShape::new(&[2, 1, 3, 4], &[5, 4, 6]);
        assert_eq!((shape.m, shape.k, shape.n), (3, 4, 6));
        assert_eq!(shape.offsets[..6], [(0, 0), (0, 24), (0, 48), (0, 72), (0, 96), (12, 0)]);
        assert_eq!(BatchedShape::new(&[4], &[4]), BatchedShape { m: 1, k: 4, n: 1, offsets: vec![(0, 0)] });
        let folded = BatchedShape::new(&[2, 7, 3, 4], &[1, 4, 6]).collapsed();
        assert_eq!(folded, BatchedShape { m: 42, k: 4, n: 6, offsets: vec![(0, 0)] });
        assert_eq!(BatchedShape::new(&[0, 3, 4], &[4, 6]).offsets, []);
    }
}
