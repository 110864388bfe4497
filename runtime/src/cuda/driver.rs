//! The CUDA driver: devices, contexts, memory, streams, cubins and graphs, as safe Rust where they can be.
//!
//! Every object keeps the [`Context`] that it belongs to and makes it current for as long as a call needs it, so that any thread
//! may use it. Device memory is named by [`DeviceSlice`]s, whose bounds are checked on the host.

#![allow(unsafe_code)]

mod context;
mod cubin;
pub mod ffi;
mod graph;
mod memory;
mod module;
mod stream;

use std::ffi::{CStr, c_char, c_int};
use std::ptr;
use std::sync::OnceLock;

pub use context::{Context, Current};
pub use graph::{Graph, GraphExec};
pub use memory::{ALIGNMENT, DeviceAllocator, DeviceBuffer, DeviceSlice, PinnedBuffer};
pub use module::{Args, Function, LaunchShape, Module};
pub use stream::{Event, Stream};

use super::error::CudaError;
use super::library::{DRIVER, Library};
use ffi::{Api, CUDA_ERROR_NO_DEVICE, CUDA_SUCCESS, CUdevice, CUresult};

/// The oldest driver, as `cuDriverGetVersion` counts: CUDA 13.0, that is driver 580. Cubins and libraries of CUDA 13 need it.
pub const MINIMUM_VERSION: i32 = 13_000;

/// The loaded driver. There is one for the whole process.
pub struct Driver {
    pub(super) api: Api,
    version: i32,
}

/// Calls a function of the driver and turns its result into a `Result`; for use inside `unsafe` with its reason.
macro_rules! call {
    ($driver:expr, $function:ident($($arg:expr),* $(,)?)) => {{
        let driver: &$crate::cuda::driver::Driver = $driver;
        driver.check(stringify!($function), (driver.api.$function)($($arg),*))
    }};
}
use call;

impl Driver {
    /// The driver, loaded and initialised by whoever asks first.
    ///
    /// # Errors
    /// No driver, one older than [`MINIMUM_VERSION`], or one that finds no GPU.
    pub fn get() -> Result<&'static Driver, CudaError> {
        static DRIVER: OnceLock<Result<Driver, CudaError>> = OnceLock::new();
        DRIVER.get_or_init(Driver::load).as_ref().map_err(Clone::clone)
    }

    fn load() -> Result<Driver, CudaError> {
        let mut driver = Driver { api: Api::load(Library::load(DRIVER)?)?, version: 0 };
        // SAFETY: cuDriverGetVersion may be called before cuInit, with a place for the result; cuInit takes no memory.
        unsafe {
            let mut version = 0;
            call!(&driver, cuDriverGetVersion(&mut version))?;
            driver.version = version;
            if version < MINIMUM_VERSION {
                return Err(CudaError::Version {
                    what: "the NVIDIA driver's CUDA",
                    found: format!("{}.{}", version / 1000, version % 1000 / 10),
                    required: "13.0 or newer",
                    remedy: "install driver 580 or newer",
                });
            }
            match (driver.api.cuInit)(0) {
                CUDA_ERROR_NO_DEVICE => return Err(CudaError::NoDevice),
                code => driver.check("cuInit", code)?,
            }
        }
        Ok(driver)
    }

    /// As `cuDriverGetVersion` counts: 13000 is CUDA 13.0.
    pub fn version(&self) -> i32 {
        self.version
    }

    /// The number of devices.
    ///
    /// # Errors
    /// A failing driver.
    pub fn device_count(&self) -> Result<usize, CudaError> {
        let mut count = 0;
        // SAFETY: a place for the result.
        unsafe { call!(self, cuDeviceGetCount(&mut count))? };
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// What the device of this ordinal is.
    ///
    /// # Errors
    /// No such device.
    pub fn device(&self, ordinal: usize) -> Result<DeviceInfo, CudaError> {
        let handle = self.device_handle(ordinal)?;
        let (mut name, mut bus_id) = ([0 as c_char; 256], [0 as c_char; 64]);
        let mut memory = 0;
        // SAFETY: a valid device and places for the results, those of texts with their length.
        unsafe {
            call!(self, cuDeviceGetPCIBusId(bus_id.as_mut_ptr(), bus_id.len() as c_int - 1, handle))?;
            call!(self, cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int - 1, handle))?;
            call!(self, cuDeviceTotalMem_v2(&mut memory, handle))?;
        }
        let attribute = |attribute| {
            let mut value = 0;
            // SAFETY: a valid device and a place for the result; an attribute that the driver does not know is an error.
            unsafe { call!(self, cuDeviceGetAttribute(&mut value, attribute, handle)) }
                .map(|()| u32::try_from(value).unwrap_or(0))
        };
        // SAFETY: zeroed, and the driver leaves the last byte alone, so that there is a NUL.
        let text = |text: &[c_char]| unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned();
        Ok(DeviceInfo {
            ordinal,
            name: text(&name),
            pci_bus_id: text(&bus_id),
            capability: (
                attribute(ffi::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(ffi::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            memory,
            multiprocessors: attribute(ffi::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            l2_bytes: attribute(ffi::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
            max_shared_bytes: attribute(ffi::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            bus_bits: attribute(ffi::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?,
            // Newer drivers may drop these two.
            clock_khz: attribute(ffi::CU_DEVICE_ATTRIBUTE_CLOCK_RATE).ok(),
            memory_clock_khz: attribute(ffi::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE).ok(),
        })
    }

    fn device_handle(&self, ordinal: usize) -> Result<CUdevice, CudaError> {
        let count = self.device_count()?;
        if ordinal >= count {
            return Err(CudaError::Ordinal { ordinal, count });
        }
        let mut handle = 0;
        // SAFETY: a place for the result; the ordinal is below the count, a c_int.
        unsafe { call!(self, cuDeviceGet(&mut handle, ordinal as c_int))? };
        Ok(handle)
    }

    fn check(&self, function: &'static str, code: CUresult) -> Result<(), CudaError> {
        if code == CUDA_SUCCESS { Ok(()) } else { Err(self.failure(function, code)) }
    }

    fn failure(&self, function: &'static str, code: CUresult) -> CudaError {
        let text = |get: unsafe extern "C" fn(CUresult, *mut *const c_char) -> CUresult| {
            let mut text = ptr::null();
            // SAFETY: a place for the result, which is a constant of the driver's or null when the code is unknown.
            unsafe {
                let known = get(code, &mut text) == CUDA_SUCCESS && !text.is_null();
                if known { CStr::from_ptr(text).to_string_lossy().into_owned() } else { "unknown".to_owned() }
            }
        };
        let (name, text) = (text(self.api.cuGetErrorName), text(self.api.cuGetErrorString));
        CudaError::Call { library: "CUDA", function, code, name, text }
    }
}

/// What a device is.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// Counted from 0, as `CUDA_VISIBLE_DEVICES` leaves them.
    pub ordinal: usize,
    /// As the driver calls it: `NVIDIA H200`.
    pub name: String,
    /// Where it is: `0000:3b:00.0`.
    pub pci_bus_id: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Memory in bytes.
    pub memory: usize,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// L2 cache in bytes.
    pub l2_bytes: u32,
    /// The most shared memory that a block can ask for, in bytes.
    pub max_shared_bytes: u32,
    /// Width of the memory bus in bits.
    pub bus_bits: u32,
    /// Peak clock of the multiprocessors.
    pub clock_khz: Option<u32>,
    /// Peak clock of the memory.
    pub memory_clock_khz: Option<u32>,
}
