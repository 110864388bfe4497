//! The compressed weight: the library's own format, good for one version of it and one kind of GPU, never stored in a plan.

use std::ffi::c_void;

use super::{ALIGNMENT, CudaError, CusparseLt, DeviceBuffer, DeviceSlice, Object, SparseProblem, Stream, call, cuda_type, ffi};
use crate::cuda::dtype::extent;
use crate::dtype::DType;

/// A 2:4 sparse weight [N, K'] on the device, compressed.
#[derive(Debug)]
pub struct SparseWeight {
    dtype: DType,
    n: usize,
    k: usize,
    /// What the library calls the compressed size; the buffer has some more, see [`read_beyond`].
    compressed: usize,
    buffer: DeviceBuffer,
}

fn refused(dtype: DType, n: usize, k: usize, reason: String) -> CudaError {
    CudaError::Problem { problem: format!("sparse weight {dtype} [{n}, {k}]"), reason }
}

/// The structured matrix.
pub(super) fn describe(library: &CusparseLt, dtype: DType, n: usize, k: usize) -> Result<Object, CudaError> {
    let granularity = SparseProblem::granularity(dtype);
    let fits = granularity.is_some_and(|g| n.is_multiple_of(g.n) && k.is_multiple_of(g.k) && n > 0 && k > 0);
    let (true, Some(value_type), Ok(rows), Ok(cols)) = (fits, cuda_type(dtype), i32::try_from(n), i32::try_from(k)) else {
        let reason = match granularity {
            Some(g) => format!("N must be a positive multiple of {} and K' of {}: pad them", g.n, g.k),
            None => "cuSPARSELt multiplies i8, f8e4m3, bf16 and f16".to_owned(),
        };
        return Err(refused(dtype, n, k, reason));
    };
    let (rows, cols) = (i64::from(rows), i64::from(cols));
    let api = library.0.api;
    // SAFETY: an initialised handle and a place for the structure.
    Object::new(library, api.cusparseLtMatDescriptorDestroy, |handle, place| unsafe {
        let (order, sparsity) = (ffi::CUSPARSE_ORDER_ROW, ffi::CUSPARSELT_SPARSITY_50_PERCENT);
        call!(api, cusparseLtStructuredDescriptorInit(handle, place, rows, cols, cols, ALIGNMENT, value_type, order, sparsity))
    })
}

/// Bytes of the compressed form, and of the buffer that compressing needs.
fn sizes(library: &CusparseLt, matrix: &Object) -> Result<(usize, usize), CudaError> {
    let (mut compressed, mut buffer) = (0, 0);
    let handle = library.handle();
    // SAFETY: an initialised descriptor and places for the results.
    unsafe { call!(library.0.api, cusparseLtSpMMACompressedSize2(&**handle, matrix.as_ptr(), &mut compressed, &mut buffer))? };
    Ok((compressed, buffer))
}

/// Bytes behind the compressed ones that must be there. The library's kernels copy the positions of the kept values, one bit for each element
/// of [N, K'], tile by tile, and whole tiles also at the end (0.8.0 on compute capability 9.0, N 384, K' 576: 512 bytes too many). What
/// they read there meets values that are zero.
fn read_beyond(n: usize, k: usize) -> usize {
    const LARGEST_TILE: usize = 256;
    (n.next_multiple_of(LARGEST_TILE) * k.next_multiple_of(LARGEST_TILE) - n * k) / 8
}

impl SparseWeight {
    /// Compresses a weight that lies on the device with its zeros, [N, K'] row-major, at most two of each aligned group of four along K'
    /// non-zero; and waits. What the library makes of a denser group is undefined.
    ///
    /// # Errors
    /// An element type or extents that the library does not take, `dense` of another size, no room, or a failing library.
    pub fn compress(
        library: &CusparseLt,
        (dtype, n, k): (DType, usize, usize),
        dense: DeviceSlice<'_>,
        stream: &Stream,
    ) -> Result<SparseWeight, CudaError> {
        let _current = library.0.context.enter()?;
        let matrix = describe(library, dtype, n, k)?;
        let needed = extent("sparse weight", dtype, [n, k, k], [1, 0])?;
        if dense.len() != needed || !dense.pointer().is_multiple_of(u64::from(ALIGNMENT)) {
            let (len, pointer) = (dense.len(), dense.pointer());
            return Err(refused(
                dtype,
                n,
                k,
                format!("it has {needed} bytes aligned to {ALIGNMENT}; {len} at {pointer:#x} are given"),
            ));
        }
        let (compressed, buffer_bytes) = sizes(library, &matrix)?;
        let buffer = DeviceBuffer::new(&library.0.context, compressed + read_beyond(n, k))?;
        let scratch = DeviceBuffer::new(&library.0.context, buffer_bytes)?;
        // Bytes that the library leaves out must be the same every time, so that what is cached is.
        buffer.as_slice().fill(0, stream)?;
        let device = |slice: DeviceSlice<'_>| slice.pointer() as *mut c_void;
        // SAFETY: an initialised descriptor, and device memory of the sizes that it asks for.
        unsafe {
            let (op, handle) = (ffi::CUSPARSE_OPERATION_NON_TRANSPOSE, library.handle());
            let (from, to, scratch) = (device(dense), device(buffer.as_slice()), device(scratch.as_slice()));
            let matrix = matrix.as_ptr();
            call!(library.0.api, cusparseLtSpMMACompress2(&**handle, matrix, 1, op, from, to, scratch, stream.handle()))?;
        }
        stream.synchronize()?;
        Ok(SparseWeight { dtype, n, k, compressed, buffer })
    }

    /// Takes over what [`SparseWeight::download`] gave, under the same [`CusparseLt::cache_key`].
    ///
    /// # Errors
    /// Another size than the library's for this weight, no room, or a failing driver.
    pub fn from_cached(
        library: &CusparseLt,
        (dtype, n, k): (DType, usize, usize),
        bytes: &[u8],
        stream: &Stream,
    ) -> Result<SparseWeight, CudaError> {
        let _current = library.0.context.enter()?;
        let (needed, _) = sizes(library, &describe(library, dtype, n, k)?)?;
        if bytes.len() != needed {
            return Err(refused(dtype, n, k, format!("compressed it has {needed} bytes; {} are given", bytes.len())));
        }
        let buffer = DeviceBuffer::new(&library.0.context, needed + read_beyond(n, k))?;
        let all = buffer.as_slice();
        all.slice(needed, all.len() - needed)?.fill(0, stream)?;
        all.slice(0, needed)?.upload(bytes, stream)?;
        Ok(SparseWeight { dtype, n, k, compressed: needed, buffer })
    }

    /// The compressed bytes, for a cache.
    ///
    /// # Errors
    /// A failing driver.
    pub fn download(&self, stream: &Stream) -> Result<Vec<u8>, CudaError> {
        let mut bytes = vec![0; self.compressed];
        self.buffer.as_slice().slice(0, self.compressed)?.download(&mut bytes, stream)?;
        Ok(bytes)
    }

    /// Of the kept values.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Rows: output channels.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Lifted extent K'.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The compressed bytes on the device, and those behind them.
    pub fn as_slice(&self) -> DeviceSlice<'_> {
        self.buffer.as_slice()
    }
}
