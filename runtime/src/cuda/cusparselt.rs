//! Products with a 2:4 sparse weight, by cuSPARSELt.
//!
//! `out[M, N] = alpha · x[M, K'] · weight[N, K']ᵀ`, everything row-major. To the library the weight is the structured matrix A, row-major;
//! `xᵀ` and `outᵀ` are column-major, which is the same bytes. A [`SparseMatmul`] is made once for each bucket of M (see
//! [`m_bucket`](super::m_bucket)) and run as often as wanted; making one costs half a millisecond. A [`SparseWeight`] is compressed once
//! and serves every M and every algorithm.
//!
//! Must not know: what the lifted axis K' came from.

#![allow(unsafe_code)]

mod ffi;
mod problem;
mod search;
mod weight;

use std::ffi::{CStr, c_int, c_void};
use std::fmt;
use std::path::Path;
use std::ptr;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

pub use problem::{Granularity, SparseProblem};
pub use search::{Candidate, SearchResult};
pub use weight::SparseWeight;

use super::driver::{Context, DeviceBuffer, DeviceSlice, Stream};
use super::dtype::cuda_type;
use super::error::CudaError;
use super::library::{CUSPARSELT, Library};
use crate::dtype::DType;
use ffi::{Api, Opaque};
use serde::{Deserialize, Serialize};

/// Device memory is aligned to this many bytes as far as the library is told, and as far as is checked.
const ALIGNMENT: u32 = 16;

/// A version of the library: major, minor and patch level.
pub type Version = (u32, u32, u32);

/// The loaded library and its version; there is one for the whole process. Needs no GPU.
fn load() -> Result<(&'static Api, Version), CudaError> {
    static API: OnceLock<Result<(Api, Version), CudaError>> = OnceLock::new();
    let load = || {
        let api = Api::load(Library::load(CUSPARSELT)?)?;
        let property = |which| {
            let mut value = 0;
            // SAFETY: a place for the result; the function needs no handle.
            check(&api, "cusparseLtGetProperty", unsafe { (api.cusparseLtGetProperty)(which, &mut value) })?;
            Ok::<u32, CudaError>(u32::try_from(value).unwrap_or(0))
        };
        let version = (property(0)?, property(1)?, property(2)?);
        match version {
            (0, 8..=10, _) => Ok((api, version)),
            (major, minor, patch) => Err(CudaError::Version {
                what: CUSPARSELT.what,
                found: format!("{major}.{minor}.{patch}"),
                required: "0.8, 0.9 or 0.10",
                remedy: "python3 -m pip install 'nvidia-cusparselt-cu13>=0.8,<0.11'",
            }),
        }
    };
    API.get_or_init(load).as_ref().map(|(api, version)| (api, *version)).map_err(Clone::clone)
}

/// The version of the library that is found.
///
/// # Errors
/// None is found, or one of another version than those declared here.
pub fn version() -> Result<Version, CudaError> {
    load().map(|(_, version)| version)
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
    let (name, text) = unsafe { (text((api.cusparseLtGetErrorName)(code)), text((api.cusparseLtGetErrorString)(code))) };
    Err(CudaError::Call { library: CUSPARSELT.what, function, code, name, text })
}

/// Calls a function of the library; for use inside `unsafe` with its reason.
macro_rules! call {
    ($api:expr, $function:ident($($arg:expr),* $(,)?)) => {
        $crate::cuda::cusparselt::check($api, stringify!($function), ($api.$function)($($arg),*))
    };
}
use call;

/// The library, made ready for a device. Clones share it.
#[derive(Clone)]
pub struct CusparseLt(Arc<Ready>);

struct Ready {
    api: &'static Api,
    version: Version,
    context: Context,
    /// The library does not say which of its functions may run at the same time with one handle: one at a time.
    handle: Mutex<Box<Opaque>>,
}

impl Drop for Ready {
    fn drop(&mut self) {
        if let Ok(_current) = self.context.enter() {
            let handle = self.handle.get_mut().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: initialised in `new`; descriptors and plans hold a clone of the Arc, so that none is left.
            unsafe { (self.api.cusparseLtDestroy)(&**handle) };
        }
    }
}

impl CusparseLt {
    /// Finds and loads the library and makes it ready.
    ///
    /// # Errors
    /// No library, one of another version, or a device that it does not support.
    pub fn new(context: &Context) -> Result<CusparseLt, CudaError> {
        let (api, version) = load()?;
        let _current = context.enter()?;
        let mut handle = Box::new(Opaque([0; 512]));
        // SAFETY: a place of the declared size and alignment, that does not move.
        unsafe { call!(api, cusparseLtInit(&mut *handle))? };
        Ok(CusparseLt(Arc::new(Ready { api, version, context: context.clone(), handle: Mutex::new(handle) })))
    }

    /// The version of the library.
    pub fn version(&self) -> Version {
        self.0.version
    }

    /// Where the library was found.
    pub fn path(&self) -> &Path {
        self.0.api.library.path()
    }

    /// What a compressed weight or a choice of algorithm is good for: this version of the library and this kind of GPU.
    pub fn cache_key(&self) -> String {
        let ((major, minor, patch), device) = (self.0.version, self.0.context.device());
        format!("cusparselt {major}.{minor}.{patch}, {}, sm_{}{}", device.name, device.capability.0, device.capability.1)
    }

    /// The device's.
    pub fn context(&self) -> &Context {
        &self.0.context
    }

    fn handle(&self) -> MutexGuard<'_, Box<Opaque>> {
        self.0.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the library's structures: initialised, at a fixed place, destroyed when dropped.
struct Object {
    library: CusparseLt,
    data: Box<Opaque>,
    destroy: unsafe extern "C" fn(*const Opaque) -> c_int,
}

impl Object {
    /// Calls `init` with the handle and a place for the structure.
    fn new(
        library: &CusparseLt,
        destroy: unsafe extern "C" fn(*const Opaque) -> c_int,
        init: impl FnOnce(*const Opaque, *mut Opaque) -> Result<(), CudaError>,
    ) -> Result<Object, CudaError> {
        let mut data = Box::new(Opaque([0; 512]));
        init(&**library.handle(), &mut *data)?;
        Ok(Object { library: library.clone(), data, destroy })
    }

    fn as_ptr(&self) -> *const Opaque {
        &*self.data
    }

    fn as_mut_ptr(&mut self) -> *mut Opaque {
        &mut *self.data
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        if let Ok(_current) = self.library.0.context.enter() {
            let _one_at_a_time = self.library.handle();
            // SAFETY: initialised in `new` by the function that goes with this one.
            unsafe { (self.destroy)(self.as_ptr()) };
        }
    }
}

/// A choice among the library's kernels, for one problem, version of the library and kind of GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SparseAlgorithm {
    /// `CUSPARSELT_MATMUL_ALG_CONFIG_ID`.
    pub config: i32,
    /// `CUSPARSELT_MATMUL_SPLIT_K`; 1 for none.
    pub split_k: i32,
}

/// As `CONFIG/SPLIT_K`.
impl fmt::Display for SparseAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.config, self.split_k)
    }
}

/// Text that is not a [`SparseAlgorithm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an algorithm of cuSPARSELt is CONFIG/SPLIT_K, two numbers")]
pub struct BadAlgorithm;

impl FromStr for SparseAlgorithm {
    type Err = BadAlgorithm;

    fn from_str(text: &str) -> Result<Self, BadAlgorithm> {
        let number = |text: &str| text.parse().map_err(|_| BadAlgorithm);
        let (config, split_k) = text.split_once('/').ok_or(BadAlgorithm)?;
        Ok(SparseAlgorithm { config: number(config)?, split_k: number(split_k)? })
    }
}

/// What multiplies the product.
#[derive(Clone, Copy, Debug)]
pub enum Alpha<'a> {
    /// One factor.
    Scalar(f32),
    /// f32 [N], on the device: a factor for each column of the output. For problems with `alpha_vector`.
    PerColumn(DeviceSlice<'a>),
}

/// What a run works on, in device memory aligned to 16 bytes.
#[derive(Clone, Copy)]
pub struct SparseOperands<'a> {
    /// [N, K'], compressed.
    pub weight: &'a SparseWeight,
    /// [M, K'], all M rows of the bucket.
    pub x: DeviceSlice<'a>,
    /// [M, N], all M rows of the bucket.
    pub out: DeviceSlice<'a>,
    /// What multiplies the product.
    pub alpha: Alpha<'a>,
    /// At least [`SparseMatmul::workspace_bytes`]. Runs in different streams need different ones.
    pub workspace: DeviceSlice<'a>,
}

/// A planned product.
pub struct SparseMatmul {
    // In the order in which they must be destroyed.
    plan: Object,
    _selection: Object,
    _matmul: Object,
    _matrices: [Object; 3],
    /// The library keeps its address.
    _bias: Option<Arc<DeviceBuffer>>,
    library: CusparseLt,
    problem: SparseProblem,
    algorithm: SparseAlgorithm,
    algorithms: i32,
    workspace_bytes: usize,
}

impl SparseMatmul {
    /// Plans a product; `algorithm` as remembered from a search, or the library's default. `bias` is there when the problem says so: [N],
    /// of [`SparseProblem::bias_type`].
    ///
    /// # Errors
    /// A problem that [`SparseProblem::check`] or the library refuses, a bias of another length, an algorithm that there is none of.
    pub fn new(
        library: &CusparseLt,
        problem: &SparseProblem,
        bias: Option<Arc<DeviceBuffer>>,
        algorithm: Option<SparseAlgorithm>,
    ) -> Result<SparseMatmul, CudaError> {
        problem.check()?;
        let refused = |reason: String| CudaError::Problem { problem: problem.to_string(), reason };
        let bias_bytes = if problem.bias { problem.n * problem.bias_type()?.size() } else { 0 };
        if bias.as_ref().map_or(0, |b| b.len()) != bias_bytes {
            return Err(refused(format!("its bias has {bias_bytes} bytes, {} are given", bias.map_or(0, |b| b.len()))));
        }
        let api = library.0.api;
        let _current = library.0.context.enter()?;
        let [m, n, k] = [problem.m, problem.n, problem.k].map(|extent| extent as i64);
        let value_type = |dtype| cuda_type(dtype).ok_or_else(|| refused(format!("{dtype} has no number in CUDA")));
        let (input, output) = (value_type(problem.input)?, value_type(problem.output)?);

        let weight = weight::describe(library, problem.input, problem.n, problem.k)?;
        let column_major = |rows: i64, cols: i64, value_type| {
            // SAFETY: an initialised handle and a place for the structure.
            Object::new(library, api.cusparseLtMatDescriptorDestroy, |handle, place| unsafe {
                let order = ffi::CUSPARSE_ORDER_COL;
                call!(api, cusparseLtDenseDescriptorInit(handle, place, rows, cols, rows, ALIGNMENT, value_type, order))
            })
        };
        let (x, out) = (column_major(k, m, input)?, column_major(n, m, output)?);
        let compute = if problem.input == DType::I8 { ffi::CUSPARSE_COMPUTE_32I } else { ffi::CUSPARSE_COMPUTE_32F };
        // Only matrix descriptors are destroyed by their own function; for this structure there is none.
        // SAFETY: initialised descriptors that live, unmoved, as long as what is made of them.
        let mut matmul = Object::new(library, keep, |handle, place| unsafe {
            let op = ffi::CUSPARSE_OPERATION_NON_TRANSPOSE;
            let (a, b, c) = (weight.as_ptr(), x.as_ptr(), out.as_ptr());
            call!(api, cusparseLtMatmulDescriptorInit(handle, place, op, op, a, b, c, c, compute))
        })?;
        if problem.alpha_vector {
            set_matmul(library, &mut matmul, ffi::CUSPARSELT_MATMUL_ALPHA_VECTOR_SCALING, &1i32)?;
        }
        if let Some(bias) = &bias {
            set_matmul(library, &mut matmul, ffi::CUSPARSELT_MATMUL_BIAS_POINTER, &bias.as_slice().pointer())?;
        }

        // SAFETY: an initialised handle and descriptor, and a place for the structure.
        let mut selection = Object::new(library, api.cusparseLtMatmulAlgSelectionDestroy, |handle, place| unsafe {
            call!(api, cusparseLtMatmulAlgSelectionInit(handle, place, matmul.as_ptr(), ffi::CUSPARSELT_MATMUL_ALG_DEFAULT))
        })?;
        let algorithms = get_algorithm(library, &selection, ffi::CUSPARSELT_MATMUL_ALG_CONFIG_MAX_ID)?;
        if let Some(SparseAlgorithm { config, split_k }) = algorithm {
            if !(0..algorithms).contains(&config) {
                return Err(refused(format!("there is no configuration {config}: the library has {algorithms} for it")));
            }
            set_algorithm(library, &mut selection, ffi::CUSPARSELT_MATMUL_ALG_CONFIG_ID, config)?;
            if split_k > 1 {
                set_algorithm(library, &mut selection, ffi::CUSPARSELT_MATMUL_SPLIT_K, split_k)?;
            }
        }
        // SAFETY: initialised descriptors that live, unmoved, as long as the plan.
        let plan = Object::new(library, api.cusparseLtMatmulPlanDestroy, |handle, place| unsafe {
            call!(api, cusparseLtMatmulPlanInit(handle, place, matmul.as_ptr(), selection.as_ptr()))
        })?;
        let algorithm = SparseAlgorithm {
            config: get_algorithm(library, &selection, ffi::CUSPARSELT_MATMUL_ALG_CONFIG_ID)?,
            split_k: get_algorithm(library, &selection, ffi::CUSPARSELT_MATMUL_SPLIT_K)?,
        };
        let mut workspace_bytes = 0;
        // SAFETY: an initialised plan and a place for the result.
        unsafe { call!(api, cusparseLtMatmulGetWorkspace(&**library.handle(), plan.as_ptr(), &mut workspace_bytes))? };
        Ok(SparseMatmul {
            plan,
            _selection: selection,
            _matmul: matmul,
            _matrices: [weight, x, out],
            _bias: bias,
            library: library.clone(),
            problem: problem.clone(),
            algorithm,
            algorithms,
            workspace_bytes,
        })
    }

    /// What it was planned for.
    pub fn problem(&self) -> &SparseProblem {
        &self.problem
    }

    /// What it runs with.
    pub fn algorithm(&self) -> SparseAlgorithm {
        self.algorithm
    }

    /// How many configurations the library has for the problem.
    pub fn algorithms(&self) -> i32 {
        self.algorithms
    }

    /// The workspace that a run needs.
    pub fn workspace_bytes(&self) -> usize {
        self.workspace_bytes
    }

    /// Puts the product into a stream. Every element of `out` is written; i32 as the nearest f32, so that integers above 2²⁴ lose what
    /// their conversion to f32 would lose.
    ///
    /// # Errors
    /// Operands that do not fit the problem, or a failing library.
    pub fn run(&self, stream: &Stream, operands: &SparseOperands<'_>) -> Result<(), CudaError> {
        let problem = &self.problem;
        let refused = |reason: String| CudaError::Problem { problem: problem.to_string(), reason };
        let weight = operands.weight;
        if (weight.dtype(), weight.n(), weight.k()) != (problem.input, problem.n, problem.k) {
            return Err(refused(format!("its weight is not {} [{}, {}]", weight.dtype(), weight.n(), weight.k())));
        }
        let (x, out) = (problem.x_bytes(), problem.out_bytes());
        let alpha_bytes = 4 * problem.n;
        let alpha_vector = match operands.alpha {
            Alpha::PerColumn(alpha) => Some(alpha),
            Alpha::Scalar(_) => None,
        };
        if alpha_vector.is_some() != problem.alpha_vector {
            return Err(refused("it was planned with the other kind of alpha".to_owned()));
        }
        let sized = [
            ("x", Some(operands.x), x),
            ("out", Some(operands.out), out),
            ("workspace", Some(operands.workspace), self.workspace_bytes),
            ("alpha", alpha_vector, alpha_bytes),
        ];
        for (name, slice, needed) in sized {
            let Some(slice) = slice else { continue };
            if slice.len() < needed || needed > 0 && !slice.pointer().is_multiple_of(u64::from(ALIGNMENT)) {
                let (pointer, len) = (slice.pointer(), slice.len());
                return Err(refused(format!(
                    "{name} needs {needed} bytes aligned to {ALIGNMENT}; {len} at {pointer:#x} are given"
                )));
            }
        }
        let beta = 0f32;
        let device = |slice: DeviceSlice<'_>| slice.pointer() as *mut c_void;
        let alpha: *const c_void = match &operands.alpha {
            Alpha::Scalar(alpha) => ptr::from_ref(alpha).cast(),
            Alpha::PerColumn(alpha) => device(*alpha),
        };
        let mut streams = [stream.handle()];
        let _current = stream.context().enter()?;
        let (a, b, d) = (device(weight.as_slice()), device(operands.x), device(operands.out));
        let handle = self.library.handle();
        // SAFETY: the plan is initialised, and so is all that it refers to; device memory is as large and as aligned as the problem
        // needs; alpha and beta are read before the call returns, or alpha lies on the device as the problem says.
        unsafe {
            call!(
                self.library.0.api,
                cusparseLtMatmul(
                    &**handle,
                    self.plan.as_ptr(),
                    alpha,
                    a,
                    b,
                    ptr::from_ref(&beta).cast(),
                    d,
                    d,
                    device(operands.workspace),
                    streams.as_mut_ptr(),
                    1,
                )
            )
        }
    }
}

/// The end of a structure that the library has no function to destroy for.
unsafe extern "C" fn keep(_: *const Opaque) -> c_int {
    0
}

fn set_matmul<T>(library: &CusparseLt, matmul: &mut Object, attribute: c_int, value: &T) -> Result<(), CudaError> {
    let value = ptr::from_ref(value).cast();
    // SAFETY: an initialised descriptor; the value has the attribute's type, which the library checks by its size.
    unsafe {
        let handle = library.handle();
        call!(library.0.api, cusparseLtMatmulDescSetAttribute(&**handle, matmul.as_mut_ptr(), attribute, value, size_of::<T>()))
    }
}

fn set_algorithm(library: &CusparseLt, selection: &mut Object, attribute: c_int, value: i32) -> Result<(), CudaError> {
    let (handle, bytes) = (library.handle(), size_of::<i32>());
    // SAFETY: an initialised selection; the attribute is an int.
    unsafe {
        let value = ptr::from_ref(&value).cast();
        call!(library.0.api, cusparseLtMatmulAlgSetAttribute(&**handle, selection.as_mut_ptr(), attribute, value, bytes))
    }
}

fn get_algorithm(library: &CusparseLt, selection: &Object, attribute: c_int) -> Result<i32, CudaError> {
    let (handle, mut value, bytes) = (library.handle(), 0i32, size_of::<i32>());
    // SAFETY: an initialised selection; the attribute is an int, and there is a place for it.
    unsafe {
        let place = ptr::from_mut(&mut value).cast();
        call!(library.0.api, cusparseLtMatmulAlgGetAttribute(&**handle, selection.as_ptr(), attribute, place, bytes))?;
    }
    Ok(value)
}
