//! cuSPARSELt, as `cusparseLt.h` of 0.8.0 to 0.10.0 declares it; the declarations and numbers used here are the same in all of them.

#![allow(non_camel_case_types)]

use std::ffi::{c_char, c_int, c_uint, c_void};

/// What every one of the library's structures is to its callers: 512 bytes that must not move, aligned to 16.
#[repr(C, align(16))]
pub struct Opaque(pub [u8; 512]);

const _: () = assert!(size_of::<Opaque>() == 512 && align_of::<Opaque>() == 16, "as the header declares them");

pub type cusparseStatus_t = c_int;

pub const CUSPARSE_OPERATION_NON_TRANSPOSE: c_int = 0;
pub const CUSPARSE_ORDER_COL: c_int = 1;
pub const CUSPARSE_ORDER_ROW: c_int = 2;
pub const CUSPARSE_COMPUTE_32I: c_int = 0;
pub const CUSPARSE_COMPUTE_32F: c_int = 2;
pub const CUSPARSELT_SPARSITY_50_PERCENT: c_int = 0;

pub const CUSPARSELT_MATMUL_ALPHA_VECTOR_SCALING: c_int = 5;
pub const CUSPARSELT_MATMUL_BIAS_POINTER: c_int = 8;

pub const CUSPARSELT_MATMUL_ALG_DEFAULT: c_int = 0;
pub const CUSPARSELT_MATMUL_ALG_CONFIG_ID: c_int = 0;
pub const CUSPARSELT_MATMUL_ALG_CONFIG_MAX_ID: c_int = 1;
pub const CUSPARSELT_MATMUL_SPLIT_K: c_int = 3;

crate::foreign_functions! {
    /// The functions.
    pub struct Api {
        fn cusparseLtGetProperty(property: c_int, value: *mut c_int) -> cusparseStatus_t;
        fn cusparseLtGetErrorName(status: cusparseStatus_t) -> *const c_char;
        fn cusparseLtGetErrorString(status: cusparseStatus_t) -> *const c_char;
        fn cusparseLtInit(handle: *mut Opaque) -> cusparseStatus_t;
        fn cusparseLtDestroy(handle: *const Opaque) -> cusparseStatus_t;
        fn cusparseLtDenseDescriptorInit(
            handle: *const Opaque, matrix: *mut Opaque,
            rows: i64, cols: i64, ld: i64, alignment: c_uint, value_type: c_int, order: c_int,
        ) -> cusparseStatus_t;
        fn cusparseLtStructuredDescriptorInit(
            handle: *const Opaque, matrix: *mut Opaque,
            rows: i64, cols: i64, ld: i64, alignment: c_uint, value_type: c_int, order: c_int, sparsity: c_int,
        ) -> cusparseStatus_t;
        fn cusparseLtMatDescriptorDestroy(matrix: *const Opaque) -> cusparseStatus_t;
        fn cusparseLtMatmulDescriptorInit(
            handle: *const Opaque, matmul: *mut Opaque, op_a: c_int, op_b: c_int,
            a: *const Opaque, b: *const Opaque, c: *const Opaque, d: *const Opaque, compute: c_int,
        ) -> cusparseStatus_t;
        fn cusparseLtMatmulDescSetAttribute(
            handle: *const Opaque, matmul: *mut Opaque, attribute: c_int, data: *const c_void, bytes: usize,
        ) -> cusparseStatus_t;
        fn cusparseLtMatmulAlgSelectionInit(
            handle: *const Opaque, selection: *mut Opaque, matmul: *const Opaque, algorithm: c_int,
        ) -> cusparseStatus_t;
        fn cusparseLtMatmulAlgSelectionDestroy(selection: *const Opaque) -> cusparseStatus_t;
        fn cusparseLtMatmulAlgSetAttribute(
            handle: *const Opaque, selection: *mut Opaque, attribute: c_int, data: *const c_void, bytes: usize,
        ) -> cusparseStatus_t;
        fn cusparseLtMatmulAlgGetAttribute(
            handle: *const Opaque, selection: *const Opaque, attribute: c_int, data: *mut c_void, bytes: usize,
        ) -> cusparseStatus_t;
        fn cusparseLtMatmulPlanInit(
            handle: *const Opaque, plan: *mut Opaque, matmul: *const Opaque, selection: *const Opaque,
        ) -> cusparseStatus_t;
        fn cusparseLtMatmulPlanDestroy(plan: *const Opaque) -> cusparseStatus_t;
        fn cusparseLtMatmulGetWorkspace(handle: *const Opaque, plan: *const Opaque, bytes: *mut usize) -> cusparseStatus_t;
        fn cusparseLtMatmul(
            handle: *const Opaque, plan: *const Opaque, alpha: *const c_void, a: *const c_void, b: *const c_void,
            beta: *const c_void, c: *const c_void, d: *mut c_void, workspace: *mut c_void, streams: *mut *mut c_void, stream_count: i32,
        ) -> cusparseStatus_t;
        fn cusparseLtSpMMACompressedSize2(
            handle: *const Opaque, matrix: *const Opaque, compressed_bytes: *mut usize, buffer_bytes: *mut usize,
        ) -> cusparseStatus_t;
        fn cusparseLtSpMMACompress2(
            handle: *const Opaque, matrix: *const Opaque, is_sparse_a: c_int, op: c_int, dense: *const c_void,
            compressed: *mut c_void, buffer: *mut c_void, stream: *mut c_void,
        ) -> cusparseStatus_t;
    }
}
