//! Dense products, by cuBLASLt.
//!
//! Everything here is row-major; the library is column-major, so that it is asked for `outᵀ = rhsᵀ · lhsᵀ`, which is the same bytes: its A is
//! our right side, its B our left side. A [`DenseMatmul`] is made once for a problem, with the algorithm that the library's heuristic
//! proposes first or one that a search has found, and run as often as wanted. Accumulators are i32 for i8, where they wrap, and f32 for all others; f32 operands are
//! not rounded to TF32.

#![allow(unsafe_code)]

mod algorithm;
mod ffi;
mod problem;
mod search;

use std::ffi::{CStr, c_int, c_void};
use std::path::Path;
use std::ptr;
use std::sync::{Arc, OnceLock};

pub use algorithm::{BadAlgorithm, DenseAlgorithm};
pub use problem::{DenseProblem, Epilogue, Function, Strides};
pub use search::DenseSearch;

use super::driver::{Context, DeviceSlice, Stream};
use super::dtype::cuda_type;
use super::error::CudaError;
use super::library::{CUBLASLT, Library};
use crate::dtype::DType;
use ffi::{Api, Opaque, cublasLtMatmulAlgo_t, cublasLtMatmulHeuristicResult_t};

/// The most workspace that an algorithm may ask for: what NVIDIA recommends for compute capability 9.0 and up.
pub const MAX_WORKSPACE: usize = 32 << 20;

fn load() -> Result<&'static Api, CudaError> {
    static API: OnceLock<Result<Api, CudaError>> = OnceLock::new();
    API.get_or_init(|| Ok(Api::load(Library::load(CUBLASLT)?)?)).as_ref().map_err(Clone::clone)
}

/// The version of the library that is found, as `cublasLtGetVersion` counts: 130000 and more for 13.0. Needs no GPU.
///
/// # Errors
/// None is found, or one without a function that is used.
pub fn version() -> Result<usize, CudaError> {
    // SAFETY: the function takes nothing.
    load().map(|api| unsafe { (api.cublasLtGetVersion)() })
}

fn check(api: &Api, function: &'static str, code: c_int) -> Result<(), CudaError> {
    if code == 0 {
        return Ok(());
    }
    let text = |text: *const std::ffi::c_char| {
        // SAFETY: a constant of the library's, or null.
        if text.is_null() { "unknown".to_owned() } else { unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned() }
    };
    // SAFETY: any code may be asked for.
    let (name, text) = unsafe { (text((api.cublasLtGetStatusName)(code)), text((api.cublasLtGetStatusString)(code))) };
    Err(CudaError::Call { library: CUBLASLT.what, function, code, name, text })
}

/// Calls a function of the library; for use inside `unsafe` with its reason.
macro_rules! call {
    ($api:expr, $function:ident($($arg:expr),* $(,)?)) => {
        check($api, stringify!($function), ($api.$function)($($arg),*))
    };
}

/// The library, made ready for a device. Clones share it.
#[derive(Clone)]
pub struct CublasLt(Arc<Ready>);

struct Ready {
    api: &'static Api,
    context: Context,
    handle: Opaque,
}

// SAFETY: the library's handle may be used by several threads at once.
unsafe impl Send for Ready {}
// SAFETY: likewise.
unsafe impl Sync for Ready {}

impl Drop for Ready {
    fn drop(&mut self) {
        if let Ok(_current) = self.context.enter() {
            // SAFETY: created in `new`; every product holds a clone of the Arc, so that none is left.
            unsafe { (self.api.cublasLtDestroy)(self.handle) };
        }
    }
}

impl CublasLt {
    /// Finds and loads the library and makes it ready.
    ///
    /// # Errors
    /// No library, or one that fails.
    pub fn new(context: &Context) -> Result<CublasLt, CudaError> {
        let api = load()?;
        let _current = context.enter()?;
        let mut handle = ptr::null_mut();
        // SAFETY: a place for the result.
        unsafe { call!(api, cublasLtCreate(&mut handle))? };
        Ok(CublasLt(Arc::new(Ready { api, context: context.clone(), handle })))
    }

    /// What a choice of algorithm is good for: this version of the library and this kind of GPU.
    pub fn cache_key(&self) -> String {
        let device = self.0.context.device();
        // SAFETY: the function takes nothing.
        let version = unsafe { (self.0.api.cublasLtGetVersion)() };
        format!("cublaslt {version}, {}, sm_{}{}", device.name, device.capability.0, device.capability.1)
    }

    /// The device's.
    pub fn context(&self) -> &Context {
        &self.0.context
    }

    /// Where the library was found.
    pub fn path(&self) -> &Path {
        self.0.api.library.path()
    }
}

/// One of the library's structures, destroyed when dropped.
struct Object {
    data: Opaque,
    destroy: unsafe extern "C" fn(Opaque) -> c_int,
}

// SAFETY: a structure on the host's heap; it is only read once it is made.
unsafe impl Send for Object {}
// SAFETY: likewise.
unsafe impl Sync for Object {}

impl Object {
    fn new(
        destroy: unsafe extern "C" fn(Opaque) -> c_int,
        create: impl FnOnce(*mut Opaque) -> Result<(), CudaError>,
    ) -> Result<Object, CudaError> {
        let mut data = ptr::null_mut();
        create(&mut data)?;
        Ok(Object { data, destroy })
    }

    /// Sets an attribute by the library's function for this kind of structure; the value has the attribute's type.
    fn set<T: Copy>(
        &self,
        api: &Api,
        set: unsafe extern "C" fn(Opaque, c_int, *const c_void, usize) -> c_int,
        attribute: c_int,
        value: T,
    ) -> Result<(), CudaError> {
        // SAFETY: a structure of the function's kind; the library checks the size of the value and copies it.
        check(api, "cublasLtSetAttribute", unsafe { set(self.data, attribute, ptr::from_ref(&value).cast(), size_of::<T>()) })
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: made by the function that goes with this one.
        unsafe { (self.destroy)(self.data) };
    }
}

/// What a run works on, in device memory aligned as the problem says.
#[derive(Clone, Copy, Debug)]
pub struct DenseOperands<'a> {
    /// [batch, M, K].
    pub lhs: DeviceSlice<'a>,
    /// [batch, K, N], or [batch, N, K].
    pub rhs: DeviceSlice<'a>,
    /// [batch, M, N].
    pub out: DeviceSlice<'a>,
    /// [N], of the output's type, where the problem has a bias; aligned as the others.
    pub bias: Option<DeviceSlice<'a>>,
    /// Multiplies the product; 1 for i8.
    pub alpha: f32,
    /// At least [`DenseMatmul::workspace_bytes`]. Runs in different streams need different ones.
    pub workspace: DeviceSlice<'a>,
}

/// A problem in the library's terms.
struct Described {
    matmul: Object,
    /// The library's A, B and D: right side, left side, output.
    layouts: [Object; 3],
}

/// A CUDA number for an element type.
fn value_type(problem: &DenseProblem, dtype: DType) -> Result<c_int, CudaError> {
    cuda_type(dtype).ok_or_else(|| refused(problem, format!("{dtype} has no number in CUDA")))
}

/// The operation, with its bias at an address where it has one.
fn operation(library: &CublasLt, problem: &DenseProblem, bias: u64) -> Result<Object, CudaError> {
    let api = library.0.api;
    let (compute, scale) = match problem.input {
        DType::I8 => (ffi::CUBLAS_COMPUTE_32I, value_type(problem, DType::I32)?),
        _ => (ffi::CUBLAS_COMPUTE_32F, value_type(problem, DType::F32)?),
    };
    // SAFETY: a place for the structure.
    let matmul = Object::new(api.cublasLtMatmulDescDestroy, |place| unsafe {
        call!(api, cublasLtMatmulDescCreate(place, compute, scale))
    })?;
    let set = api.cublasLtMatmulDescSetAttribute;
    let operation = if problem.rhs_transposed { ffi::CUBLAS_OP_T } else { ffi::CUBLAS_OP_N };
    matmul.set(api, set, ffi::CUBLASLT_MATMUL_DESC_TRANSA, operation)?;
    matmul.set(api, set, ffi::CUBLASLT_MATMUL_DESC_TRANSB, ffi::CUBLAS_OP_N)?;
    let function = match problem.epilogue.function {
        Some(Function::Relu) => ffi::CUBLASLT_EPILOGUE_RELU,
        Some(Function::GeluTanh) => ffi::CUBLASLT_EPILOGUE_GELU,
        None if problem.epilogue.bias => 0,
        None => ffi::CUBLASLT_EPILOGUE_DEFAULT,
    };
    let added = if problem.epilogue.bias { ffi::CUBLASLT_EPILOGUE_BIAS } else { 0 };
    matmul.set(api, set, ffi::CUBLASLT_MATMUL_DESC_EPILOGUE, function | added)?;
    if problem.epilogue.bias {
        matmul.set(api, set, ffi::CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias)?;
    }
    Ok(matmul)
}

impl Described {
    fn new(library: &CublasLt, problem: &DenseProblem) -> Result<Described, CudaError> {
        problem.check()?;
        let api = library.0.api;
        let (input, output) = (value_type(problem, problem.input)?, value_type(problem, problem.output)?);
        // What looks for algorithms takes from the bias's address how it is aligned, and does not read there.
        let matmul = operation(library, problem, problem.alignment as u64)?;

        // Our rows are the library's columns.
        let layout = |value_type, rows: usize, cols: usize, strides: Strides| {
            // SAFETY: a place for the structure.
            let layout = Object::new(api.cublasLtMatrixLayoutDestroy, |place| unsafe {
                call!(api, cublasLtMatrixLayoutCreate(place, value_type, cols as u64, rows as u64, strides.row as i64))
            })?;
            let set = api.cublasLtMatrixLayoutSetAttribute;
            layout.set(api, set, ffi::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, problem.batch as i32)?;
            layout.set(api, set, ffi::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, strides.batch as i64)?;
            Ok::<Object, CudaError>(layout)
        };
        let (rows, cols) = if problem.rhs_transposed { (problem.n, problem.k) } else { (problem.k, problem.n) };
        let layouts = [
            layout(input, rows, cols, problem.rhs)?,
            layout(input, problem.m, problem.k, problem.lhs)?,
            layout(output, problem.m, problem.n, problem.out)?,
        ];
        Ok(Described { matmul, layouts })
    }

    /// What the library's heuristic proposes, at least one and at most `most`.
    fn proposals(
        &self,
        library: &CublasLt,
        problem: &DenseProblem,
        most: usize,
    ) -> Result<Vec<cublasLtMatmulHeuristicResult_t>, CudaError> {
        let api = library.0.api;
        // SAFETY: a place for the structure.
        let preference = Object::new(api.cublasLtMatmulPreferenceDestroy, |place| unsafe {
            call!(api, cublasLtMatmulPreferenceCreate(place))
        })?;
        let set = api.cublasLtMatmulPreferenceSetAttribute;
        preference.set(api, set, ffi::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, MAX_WORKSPACE)?;
        for attribute in ffi::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES..=ffi::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES {
            preference.set(api, set, attribute, problem.common_alignment() as u32)?;
        }
        let mut proposals = vec![cublasLtMatmulHeuristicResult_t::default(); most.clamp(1, 1024)];
        let (wanted, mut count) = (proposals.len() as c_int, 0);
        let [a, b, d] = self.layouts.each_ref().map(|layout| layout.data);
        let handle = library.0.handle;
        // SAFETY: structures of the declared kinds, places for as many results as are wanted, and one for their number.
        let found = unsafe {
            let (matmul, preference, places) = (self.matmul.data, preference.data, proposals.as_mut_ptr());
            call!(api, cublasLtMatmulAlgoGetHeuristic(handle, matmul, a, b, d, d, preference, wanted, places, &mut count))
        };
        found.map_err(|e| refused(problem, e.to_string()))?;
        proposals.truncate(usize::try_from(count).unwrap_or(0));
        let failed = proposals.first().map_or(0, |p| p.state);
        proposals.retain(|p| p.state == 0);
        if proposals.is_empty() {
            check(api, "cublasLtMatmulAlgoGetHeuristic", failed).map_err(|e| refused(problem, e.to_string()))?;
            return Err(refused(problem, "cuBLASLt has no algorithm for it on this device".to_owned()));
        }
        Ok(proposals)
    }
}

fn refused(problem: &DenseProblem, reason: String) -> CudaError {
    CudaError::Problem { problem: problem.to_string(), reason }
}

/// A planned product.
pub struct DenseMatmul {
    described: Described,
    algorithm: cublasLtMatmulAlgo_t,
    workspace_bytes: usize,
    /// Of left side, right side and output.
    bytes: [usize; 3],
    problem: DenseProblem,
    library: CublasLt,
}

impl DenseMatmul {
    /// Plans a product with what the library proposes first.
    ///
    /// # Errors
    /// A problem that [`DenseProblem::check`] refuses, or that the library has no algorithm for.
    pub fn new(library: &CublasLt, problem: &DenseProblem) -> Result<DenseMatmul, CudaError> {
        let _current = library.0.context.enter()?;
        let described = Described::new(library, problem)?;
        let proposal = described.proposals(library, problem, 1)?[0];
        DenseMatmul::of(library, problem, described, proposal.algo, proposal.workspace_bytes)
    }

    /// Plans a product with an algorithm as remembered from a search.
    ///
    /// # Errors
    /// A problem that [`DenseProblem::check`] refuses; an algorithm that the library refuses for it, or that needs more than
    /// [`MAX_WORKSPACE`].
    pub fn with_algorithm(
        library: &CublasLt,
        problem: &DenseProblem,
        algorithm: DenseAlgorithm,
    ) -> Result<DenseMatmul, CudaError> {
        let _current = library.0.context.enter()?;
        let described = Described::new(library, problem)?;
        let algorithm = cublasLtMatmulAlgo_t { data: algorithm.0 };
        let mut result = cublasLtMatmulHeuristicResult_t::default();
        let [a, b, d] = described.layouts.each_ref().map(|layout| layout.data);
        let (api, handle, matmul) = (library.0.api, library.0.handle, described.matmul.data);
        // SAFETY: structures of the declared kinds, and a place for the result.
        unsafe { call!(api, cublasLtMatmulAlgoCheck(handle, matmul, a, b, d, d, &algorithm, &mut result)) }
            .and(check(api, "cublasLtMatmulAlgoCheck", result.state))
            .map_err(|e| refused(problem, e.to_string()))?;
        if result.workspace_bytes > MAX_WORKSPACE {
            return Err(refused(problem, format!("the algorithm needs a workspace of {} bytes", result.workspace_bytes)));
        }
        DenseMatmul::of(library, problem, described, algorithm, result.workspace_bytes)
    }

    fn of(
        library: &CublasLt,
        problem: &DenseProblem,
        described: Described,
        algorithm: cublasLtMatmulAlgo_t,
        workspace_bytes: usize,
    ) -> Result<DenseMatmul, CudaError> {
        let bytes = problem.bytes()?;
        Ok(DenseMatmul { described, algorithm, workspace_bytes, bytes, problem: problem.clone(), library: library.clone() })
    }

    /// What the library's heuristic proposes for a problem, at most `most`, the most promising first.
    ///
    /// # Errors
    /// As [`DenseMatmul::new`].
    pub fn proposals(library: &CublasLt, problem: &DenseProblem, most: usize) -> Result<Vec<DenseAlgorithm>, CudaError> {
        let _current = library.0.context.enter()?;
        let proposals = Described::new(library, problem)?.proposals(library, problem, most)?;
        Ok(proposals.into_iter().map(|p| DenseAlgorithm(p.algo.data)).collect())
    }

    /// What it runs with.
    pub fn algorithm(&self) -> DenseAlgorithm {
        DenseAlgorithm(self.algorithm.data)
    }

    /// What it was planned for.
    pub fn problem(&self) -> &DenseProblem {
        &self.problem
    }

    /// The workspace that a run needs, at most [`MAX_WORKSPACE`].
    pub fn workspace_bytes(&self) -> usize {
        self.workspace_bytes
    }

    /// Puts the product into a stream. Every element of the output is written.
    ///
    /// # Errors
    /// Operands that do not fit the problem, or a failing library.
    pub fn run(&self, stream: &Stream, operands: &DenseOperands<'_>) -> Result<(), CudaError> {
        let refused = |reason: String| refused(&self.problem, reason);
        let [lhs, rhs, out] = self.bytes;
        let bias = match (self.problem.epilogue.bias, operands.bias) {
            (true, Some(bias)) => Some(bias),
            (false, None) => None,
            (true, None) => return Err(refused("its bias is missing".to_owned())),
            (false, Some(_)) => return Err(refused("it adds no bias, and one is given".to_owned())),
        };
        let workspace_alignment = if self.workspace_bytes > 0 { 256 } else { 1 };
        let alignment = self.problem.alignment;
        let sized = [
            ("the left side", operands.lhs, lhs, alignment),
            ("the right side", operands.rhs, rhs, alignment),
            ("the output", operands.out, out, alignment),
            ("the workspace", operands.workspace, self.workspace_bytes, workspace_alignment),
        ];
        let bias_bytes = self.problem.n * self.problem.output.size();
        for (name, slice, needed, alignment) in sized.into_iter().chain(bias.map(|b| ("the bias", b, bias_bytes, alignment))) {
            if slice.len() < needed || !slice.pointer().is_multiple_of(alignment as u64) {
                let (pointer, len) = (slice.pointer(), slice.len());
                return Err(refused(format!(
                    "{name} needs {needed} bytes aligned to {alignment}; {len} at {pointer:#x} are given"
                )));
            }
        }
        // The factors have the type of the accumulators.
        let float = [operands.alpha, 0.0];
        let int = [1i32, 0];
        let factors: [*const c_void; 2] = match self.problem.input {
            DType::I8 if operands.alpha == 1.0 => [ptr::from_ref(&int[0]).cast(), ptr::from_ref(&int[1]).cast()],
            DType::I8 => return Err(refused(format!("its factor must be 1, not {}", operands.alpha))),
            _ => [ptr::from_ref(&float[0]).cast(), ptr::from_ref(&float[1]).cast()],
        };
        let device = |slice: DeviceSlice<'_>| slice.pointer() as *mut c_void;
        let [a, b, d] = [operands.rhs, operands.lhs, operands.out].map(device);
        let [a_layout, b_layout, d_layout] = self.described.layouts.each_ref().map(|layout| layout.data);
        let _current = stream.context().enter()?;
        // Of its own, since others may run the product at the same time with another bias. The library copies it.
        let biased = bias.map(|bias| operation(&self.library, &self.problem, bias.pointer())).transpose()?;
        let matmul = biased.as_ref().unwrap_or(&self.described.matmul).data;
        // SAFETY: structures of the declared kinds; device memory is as large and as aligned as the problem needs; the factors are
        // read before the call returns.
        unsafe {
            call!(
                self.library.0.api,
                cublasLtMatmul(
                    self.library.0.handle,
                    matmul,
                    factors[0],
                    a,
                    a_layout,
                    b,
                    b_layout,
                    factors[1],
                    d,
                    d_layout,
                    d,
                    d_layout,
                    &self.algorithm,
                    device(operands.workspace),
                    self.workspace_bytes,
                    stream.handle(),
                )
            )
        }
    }
}
