//! Element types as CUDA's libraries number them, and the bucket of M that products are planned for.

use std::ffi::c_int;

use super::error::CudaError;
use crate::dtype::DType;

/// `cudaDataType` of `library_types.h`.
pub(super) fn cuda_type(dtype: DType) -> Option<c_int> {
    Some(match dtype {
        DType::F32 => 0,
        DType::F16 => 2,
        DType::I8 => 3,
        DType::I32 => 10,
        DType::Bf16 => 14,
        DType::F8e4m3 => 28,
        _ => return None,
    })
}

/// The number of rows that `m` rows are padded to, so that many shapes need few plans: a multiple of 32, and above 256 one of eight
/// steps between powers of two, so that at most an eighth is padding.
pub fn m_bucket(m: usize) -> usize {
    let step = (m.checked_next_power_of_two().unwrap_or(1 << (usize::BITS - 1)) / 16).max(32);
    m.max(1).checked_next_multiple_of(step).unwrap_or(usize::MAX)
}

/// The bytes of `rows` rows of `cols` elements, `stride` elements apart, in `batch` matrices, `batch_stride` elements apart.
pub(super) fn extent(
    problem: &str,
    dtype: DType,
    [rows, cols, stride]: [usize; 3],
    [batch, batch_stride]: [usize; 2],
) -> Result<usize, CudaError> {
    let last = |count: usize, stride: usize| count.saturating_sub(1).checked_mul(stride);
    let elements = last(rows, stride).zip(last(batch, batch_stride)).and_then(|(r, b)| r.checked_add(b)?.checked_add(cols));
    elements
        .and_then(|e| e.checked_mul(dtype.size()))
        .filter(|&bytes| bytes <= isize::MAX as usize)
        .ok_or_else(|| CudaError::Problem { problem: problem.to_owned(), reason: "its sizes overflow".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_waste_little_and_are_few() {
        let cases =
            [(0, 32), (1, 32), (32, 32), (33, 64), (197, 224), (256, 256), (257, 288), (512, 512), (1000, 1024), (1025, 1152)];
        for (m, bucket) in cases {
            assert_eq!(m_bucket(m), bucket, "{m}");
        }
        let mut buckets = std::collections::BTreeSet::new();
        for m in 1..=8192 {
            let bucket = m_bucket(m);
            assert!(
                bucket >= m && bucket.is_multiple_of(32) && m_bucket(bucket) == bucket && (m < 256 || (bucket - m) * 8 < bucket),
                "{m}"
            );
            buckets.insert(bucket);
        }
        assert_eq!(buckets.len(), 8 + 5 * 8);
        assert!(m_bucket(usize::MAX) == usize::MAX);
    }

    #[test]
    fn extents_are_those_of_the_last_element() {
        let bytes = |rows, batch| extent("", DType::Bf16, rows, batch).ok();
        assert_eq!(bytes([3, 5, 8], [1, 0]), Some(2 * (2 * 8 + 5)));
        assert_eq!(bytes([3, 5, 8], [4, 100]), Some(2 * (3 * 100 + 2 * 8 + 5)));
        assert_eq!(bytes([3, 5, usize::MAX], [1, 0]), None);
        assert_eq!(bytes([2, 1 << 62, 0], [1, 0]), None);
    }
}
