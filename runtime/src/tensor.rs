//! Owned tensors and borrowed views of them: row-major, contiguous, aligned to 64 bytes when owned.

use bytemuck::{Pod, Zeroable};
use std::fmt;

use crate::dtype::{DType, Element};

/// Alignment in bytes of owned tensors and of the arena.
pub const ALIGN: usize = 64;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Chunk([u8; ALIGN]);

/// No bytes, aligned: what an empty view is made of.
pub(crate) fn no_bytes<'a>() -> &'a [u8] {
    const NONE: &[Chunk] = &[];
    bytemuck::cast_slice(NONE)
}

/// [`no_bytes`], writable.
pub(crate) fn no_bytes_mut<'a>() -> &'a mut [u8] {
    let none: &'a mut [Chunk] = &mut [];
    bytemuck::cast_slice_mut(none)
}

/// A zero-initialised byte buffer aligned to [`ALIGN`].
#[derive(Clone, Default)]
pub struct AlignedBytes {
    chunks: Vec<Chunk>,
    len: usize,
}

impl AlignedBytes {
    /// A buffer of `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        AlignedBytes { chunks: vec![Chunk::zeroed(); len.div_ceil(ALIGN)], len }
    }

    /// A buffer of `len` zero bytes, or `None` when there is not enough memory for it.
    pub fn try_zeroed(len: usize) -> Option<Self> {
        let count = len.div_ceil(ALIGN);
        let mut chunks = Vec::new();
        chunks.try_reserve_exact(count).ok()?;
        chunks.resize(count, Chunk::zeroed());
        Some(AlignedBytes { chunks, len })
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.chunks)[..self.len]
    }

    /// The bytes, writable.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.chunks)[..self.len]
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl From<&[u8]> for AlignedBytes {
    fn from(bytes: &[u8]) -> Self {
        let mut out = AlignedBytes::zeroed(bytes.len());
        out.as_mut_slice().copy_from_slice(bytes);
        out
    }
}

/// Number of elements of a concrete shape, or `None` on overflow: that of any of its axes' products, also where another axis is empty.
pub fn checked_elements(shape: &[usize]) -> Option<usize> {
    let product = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)))?;
    Some(if shape.contains(&0) { 0 } else { product })
}

/// An owned tensor: row-major, contiguous.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: AlignedBytes,
}

/// Why a tensor could not be made or read as asked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum TensorError {
    #[error("{dtype}{shape:?} needs {expected} bytes, {actual} were given")]
    WrongLength { dtype: DType, shape: Vec<usize>, expected: usize, actual: usize },
    #[error("a tensor of shape {0:?} does not fit in memory")]
    TooLarge(Vec<usize>),
}

impl Tensor {
    /// A tensor of zero bytes.
    ///
    /// # Errors
    /// [`TensorError::TooLarge`] when the size in bytes overflows.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Result<Self, TensorError> {
        let bytes = checked_elements(shape)
            .and_then(|n| n.checked_mul(dtype.size()))
            .filter(|&b| isize::try_from(b).is_ok())
            .ok_or_else(|| TensorError::TooLarge(shape.to_vec()))?;
        Ok(Tensor { dtype, shape: shape.to_vec(), data: AlignedBytes::zeroed(bytes) })
    }

    /// A tensor from little-endian, row-major bytes, which are copied.
    ///
    /// # Errors
    /// [`TensorError::WrongLength`] when `bytes` is not exactly the tensor's size.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<Self, TensorError> {
        let expected = checked_elements(shape)
            .and_then(|n| n.checked_mul(dtype.size()))
            .ok_or_else(|| TensorError::TooLarge(shape.to_vec()))?;
        if expected != bytes.len() {
            return Err(TensorError::WrongLength { dtype, shape: shape.to_vec(), expected, actual: bytes.len() });
        }
        Ok(Tensor { dtype, shape: shape.to_vec(), data: bytes.into() })
    }

    /// A tensor from row-major elements, which are copied.
    ///
    /// # Errors
    /// [`TensorError::WrongLength`] when the shape does not have `values.len()` elements.
    pub fn from_slice<T: Element>(shape: &[usize], values: &[T]) -> Result<Self, TensorError> {
        Tensor::from_bytes(T::DTYPE, shape, bytemuck::cast_slice(values))
    }

    /// A tensor of rank 0.
    pub fn scalar<T: Element>(value: T) -> Self {
        Tensor { dtype: T::DTYPE, shape: Vec::new(), data: bytemuck::bytes_of(&value).into() }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Row-major little-endian bytes.
    pub fn bytes(&self) -> &[u8] {
        self.data.as_slice()
    }

    /// Row-major little-endian bytes, writable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.data.as_mut_slice()
    }

    /// The elements, when `T` is this tensor's type.
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        self.view().as_slice()
    }

    /// The elements, writable, when `T` is this tensor's type.
    pub fn as_mut_slice<T: Element>(&mut self) -> Option<&mut [T]> {
        (self.dtype == T::DTYPE).then(|| bytemuck::cast_slice_mut(self.data.as_mut_slice()))
    }

    /// A borrowed view.
    pub fn view(&self) -> TensorView<'_> {
        TensorView { dtype: self.dtype, shape: &self.shape, data: self.bytes() }
    }

    /// A borrowed writable view.
    pub fn view_mut(&mut self) -> TensorViewMut<'_> {
        TensorViewMut { dtype: self.dtype, shape: &self.shape, data: self.data.as_mut_slice() }
    }

    /// The same elements under another shape of as many elements.
    ///
    /// # Errors
    /// [`TensorError::WrongLength`] when the element counts differ.
    pub fn reshaped(mut self, shape: &[usize]) -> Result<Self, TensorError> {
        let expected = checked_elements(shape).and_then(|n| n.checked_mul(self.dtype.size()));
        if expected != Some(self.data.len()) {
            return Err(TensorError::WrongLength {
                dtype: self.dtype,
                shape: shape.to_vec(),
                expected: expected.unwrap_or(usize::MAX),
                actual: self.data.len(),
            });
        }
        self.shape = shape.to_vec();
        Ok(self)
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({}{:?})", self.dtype, self.shape)
    }
}

/// A borrowed tensor. `data` is aligned to its element type: views are made from owned tensors, from the arena and
/// from plan blobs, all of which are.
#[derive(Clone, Copy)]
pub struct TensorView<'a> {
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: &'a [usize],
    /// Row-major bytes; exactly as many as the shape needs.
    pub data: &'a [u8],
}

impl<'a> TensorView<'a> {
    /// The elements, when `T` is this view's type.
    pub fn as_slice<T: Element>(&self) -> Option<&'a [T]> {
        (self.dtype == T::DTYPE).then(|| bytemuck::try_cast_slice(self.data).ok()).flatten()
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.data.len() / self.dtype.size()
    }

    /// A copy that owns its data.
    pub fn to_tensor(&self) -> Tensor {
        Tensor { dtype: self.dtype, shape: self.shape.to_vec(), data: self.data.into() }
    }
}

impl fmt::Debug for TensorView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TensorView({}{:?})", self.dtype, self.shape)
    }
}

/// A borrowed writable tensor; see [`TensorView`].
pub struct TensorViewMut<'a> {
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: &'a [usize],
    /// Row-major bytes; exactly as many as the shape needs.
    pub data: &'a mut [u8],
}

impl TensorViewMut<'_> {
    /// The elements, when `T` is this view's type.
    pub fn as_mut_slice<T: Element>(&mut self) -> Option<&mut [T]> {
        (self.dtype == T::DTYPE).then(|| bytemuck::try_cast_slice_mut(self.data).ok()).flatten()
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.data.len() / self.dtype.size()
    }
}

impl fmt::Debug for TensorViewMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TensorViewMut({}{:?})", self.dtype, self.shape)
    }
}
