//! The part of cuBLASLt that is used, as `cublasLt.h` of CUDA 13.0 declares it.

#![allow(non_camel_case_types)]

use std::ffi::{c_char, c_int, c_void};

/// A structure that only the library looks into, made and destroyed by it.
pub type Opaque = *mut c_void;
pub type cublasStatus_t = c_int;

pub const CUBLAS_COMPUTE_32F: c_int = 68;
pub const CUBLAS_COMPUTE_32I: c_int = 72;
pub const CUBLAS_OP_N: i32 = 0;
pub const CUBLAS_OP_T: i32 = 1;

pub const CUBLASLT_MATMUL_DESC_TRANSA: c_int = 3;
pub const CUBLASLT_MATMUL_DESC_TRANSB: c_int = 4;
pub const CUBLASLT_MATMUL_DESC_EPILOGUE: c_int = 7;
pub const CUBLASLT_MATMUL_DESC_BIAS_POINTER: c_int = 8;
// An epilogue is these together.
pub const CUBLASLT_EPILOGUE_DEFAULT: i32 = 1;
pub const CUBLASLT_EPILOGUE_RELU: i32 = 2;
pub const CUBLASLT_EPILOGUE_BIAS: i32 = 4;
pub const CUBLASLT_EPILOGUE_GELU: i32 = 32;
pub const CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: c_int = 5;
pub const CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET: c_int = 6;
pub const CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: c_int = 1;
pub const CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: c_int = 5;
pub const CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: c_int = 8;

/// A kernel and its parameters.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct cublasLtMatmulAlgo_t {
    pub data: [u64; 8],
}

/// A proposal of the heuristic.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct cublasLtMatmulHeuristicResult_t {
    pub algo: cublasLtMatmulAlgo_t,
    pub workspace_bytes: usize,
    pub state: cublasStatus_t,
    pub waves: f32,
    pub reserved: [c_int; 4],
}

const _: () = assert!(size_of::<cublasLtMatmulHeuristicResult_t>() == 96, "as the header declares it");

crate::foreign_functions! {
    /// The functions.
    pub struct Api {
        fn cublasLtGetVersion() -> usize;
        fn cublasLtGetStatusName(status: cublasStatus_t) -> *const c_char;
        fn cublasLtGetStatusString(status: cublasStatus_t) -> *const c_char;
        fn cublasLtCreate(handle: *mut Opaque) -> cublasStatus_t;
        fn cublasLtDestroy(handle: Opaque) -> cublasStatus_t;
        fn cublasLtMatmulDescCreate(matmul: *mut Opaque, compute: c_int, scale_type: c_int) -> cublasStatus_t;
        fn cublasLtMatmulDescDestroy(matmul: Opaque) -> cublasStatus_t;
        fn cublasLtMatmulDescSetAttribute(matmul: Opaque, attribute: c_int, data: *const c_void, bytes: usize) -> cublasStatus_t;
        fn cublasLtMatrixLayoutCreate(layout: *mut Opaque, value_type: c_int, rows: u64, cols: u64, ld: i64) -> cublasStatus_t;
        fn cublasLtMatrixLayoutDestroy(layout: Opaque) -> cublasStatus_t;
        fn cublasLtMatrixLayoutSetAttribute(layout: Opaque, attribute: c_int, data: *const c_void, bytes: usize) -> cublasStatus_t;
        fn cublasLtMatmulPreferenceCreate(preference: *mut Opaque) -> cublasStatus_t;
        fn cublasLtMatmulPreferenceDestroy(preference: Opaque) -> cublasStatus_t;
        fn cublasLtMatmulPreferenceSetAttribute(
            preference: Opaque, attribute: c_int, data: *const c_void, bytes: usize,
        ) -> cublasStatus_t;
        fn cublasLtMatmulAlgoGetHeuristic(
            handle: Opaque, matmul: Opaque, a: Opaque, b: Opaque, c: Opaque, d: Opaque, preference: Opaque,
            requested: c_int, results: *mut cublasLtMatmulHeuristicResult_t, returned: *mut c_int,
        ) -> cublasStatus_t;
        fn cublasLtMatmulAlgoCheck(
            handle: Opaque, matmul: Opaque, a: Opaque, b: Opaque, c: Opaque, d: Opaque, algorithm: *const cublasLtMatmulAlgo_t,
            result: *mut cublasLtMatmulHeuristicResult_t,
        ) -> cublasStatus_t;
        fn cublasLtMatmul(
            handle: Opaque, matmul: Opaque, alpha: *const c_void, a: *const c_void, a_layout: Opaque, b: *const c_void, b_layout: Opaque,
            beta: *const c_void, c: *const c_void, c_layout: Opaque, d: *mut c_void, d_layout: Opaque,
            algorithm: *const cublasLtMatmulAlgo_t, workspace: *mut c_void, workspace_bytes: usize, stream: *mut c_void,
        ) -> cublasStatus_t;
    }
}
