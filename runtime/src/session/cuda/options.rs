//! How a session uses a GPU.

use std::ffi::c_void;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::cuda::driver::DeviceAllocator;
use crate::disk_cache::DiskCache;

/// What a session may do on a GPU: `CudaOptions::default()`, and what is to be otherwise.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CudaOptions {
    /// How algorithms of matrix products are chosen.
    pub tuning: Tuning,
    /// Where they, and compressed weights, are kept for the next process.
    pub cache: CacheFolder,
    /// What was measured before, beside what the cache holds.
    pub timings: TimingsFile,
    /// The stream that runs are put into; one of the session's own when `None`. Sessions that share weights each have theirs.
    pub stream: Option<CallerStream>,
    /// What gives and takes back device memory; the driver when `None`.
    pub allocator: Option<Arc<dyn DeviceAllocator>>,
    /// Leave out the products by NVIDIA's libraries, which are not even loaded: for [`Session::run_fed`](super::super::Session::run_fed),
    /// which then runs the plan's own kernels. Every other run fails at the first product.
    pub kernels_only: bool,
    /// Starts each kernel only when the one before it has ended. Otherwise, from compute capability 9.0 on, the GPU may prepare a kernel of the
    /// plan while the one before it still runs; results are the same.
    pub no_overlap: bool,
}

impl CudaOptions {
    /// How algorithms of matrix products are chosen.
    #[must_use]
    pub fn with_tuning(self, tuning: Tuning) -> Self {
        CudaOptions { tuning, ..self }
    }

    /// Where they, and compressed weights, are kept.
    #[must_use]
    pub fn with_cache(self, cache: CacheFolder) -> Self {
        CudaOptions { cache, ..self }
    }

    /// What was measured before.
    #[must_use]
    pub fn with_timings(self, timings: TimingsFile) -> Self {
        CudaOptions { timings, ..self }
    }

    /// Puts runs into a caller's stream.
    #[must_use]
    pub fn with_stream(self, stream: CallerStream) -> Self {
        CudaOptions { stream: Some(stream), ..self }
    }

    /// Takes device memory from a caller's allocator.
    #[must_use]
    pub fn with_allocator(self, allocator: Arc<dyn DeviceAllocator>) -> Self {
        CudaOptions { allocator: Some(allocator), ..self }
    }

    /// Leaves out the products by NVIDIA's libraries.
    #[must_use]
    pub fn with_kernels_only(self, kernels_only: bool) -> Self {
        CudaOptions { kernels_only, ..self }
    }

    /// Starts each kernel only when the one before it has ended.
    #[must_use]
    pub fn with_no_overlap(self, no_overlap: bool) -> Self {
        CudaOptions { no_overlap, ..self }
    }
}

/// Where a session finds what [`timings`](crate::timings) say of its plan's variants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TimingsFile {
    /// Beside the plan's file, if there are any; see [`Timings::beside`](crate::timings::Timings::beside).
    #[default]
    Beside,
    /// Here.
    File(PathBuf),
    /// Nowhere.
    Nowhere,
}

/// A caller's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallerStream(*mut c_void);

// SAFETY: work may be put into a stream by any thread; the driver locks.
#[allow(unsafe_code)]
unsafe impl Send for CallerStream {}
// SAFETY: likewise.
#[allow(unsafe_code)]
unsafe impl Sync for CallerStream {}

impl CallerStream {
    /// A `CUstream` or `cudaStream_t`; null is the default stream. Runs are not put into it while it is being captured.
    ///
    /// # Safety
    /// It belongs to the primary context of the session's device, and outlives the session and its runs.
    #[allow(unsafe_code)]
    pub unsafe fn from_raw(stream: *mut c_void) -> CallerStream {
        CallerStream(stream)
    }

    pub(super) fn raw(self) -> *mut c_void {
        self.0
    }
}

/// How the algorithms of matrix products, and a plan's variants, are chosen: libraries have some dozens for each problem, and their own choice may take twice as long
/// as the best. All give the same integers; sums of floats may differ in their last bits from one to another.
///
/// A problem is a product of one weight's extents and a bucket of rows. It is looked at when a session first needs it, on operands of its own.
/// A variant is chosen for a bucket of rows, by replaying all of them on the inputs of the first run that needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tuning {
    /// The libraries' own choice, and the variant that the compiler's cost model prefers.
    Off,
    /// What was found earlier and the cache, or of variants the timings beside the plan, holds, else as [`Tuning::Off`].
    Remembered,
    /// What was found earlier, else what a search finds in about this time for each problem. A few milliseconds for each of the libraries' kernels
    /// come on top when a process first loads it: the first search may take half a second.
    Quick {
        /// The time for one problem.
        budget: Duration,
    },
    /// What a search finds that tries everything, whatever the cache holds; seconds for each problem.
    Exhaustive,
}

impl Default for Tuning {
    /// [`Tuning::Quick`] with 100 ms.
    fn default() -> Self {
        Tuning::Quick { budget: Duration::from_millis(100) }
    }
}

/// Text that is not a [`Tuning`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no tuning: off, remembered, quick or exhaustive was expected")]
pub struct UnknownTuning(String);

/// `off`, `remembered`, `quick` (the default) or `exhaustive`.
impl FromStr for Tuning {
    type Err = UnknownTuning;

    fn from_str(text: &str) -> Result<Tuning, UnknownTuning> {
        match text {
            "off" => Ok(Tuning::Off),
            "remembered" => Ok(Tuning::Remembered),
            "quick" => Ok(Tuning::default()),
            "exhaustive" => Ok(Tuning::Exhaustive),
            other => Err(UnknownTuning(other.to_owned())),
        }
    }
}

impl Tuning {
    /// The time of one search; none when there is to be none.
    pub(super) fn budget(self) -> Option<Duration> {
        match self {
            Tuning::Off | Tuning::Remembered => None,
            Tuning::Quick { budget } => Some(budget),
            Tuning::Exhaustive => Some(Duration::from_secs(60)),
        }
    }

    /// For how long variants are measured; none when they are not to be.
    pub(super) fn trial(self) -> Option<Duration> {
        match self {
            Tuning::Off | Tuning::Remembered => None,
            Tuning::Quick { budget } => Some(budget),
            Tuning::Exhaustive => Some(Duration::from_secs(3)),
        }
    }

    /// Whether what is remembered counts.
    pub(super) fn remembers(self) -> bool {
        matches!(self, Tuning::Remembered | Tuning::Quick { .. })
    }
}

/// Where results are kept for the next process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CacheFolder {
    /// Where the environment says: see [`DiskCache::from_env`].
    #[default]
    Environment,
    /// Here.
    Folder(PathBuf),
    /// Nowhere.
    Nowhere,
}

impl CacheFolder {
    pub(super) fn open(&self) -> Option<DiskCache> {
        match self {
            CacheFolder::Environment => DiskCache::from_env(),
            CacheFolder::Folder(folder) => Some(DiskCache::new(folder)),
            CacheFolder::Nowhere => None,
        }
    }
}
