//! Clocks, power and temperature, by NVML. Only reads.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::OnceLock;

use super::driver::DeviceInfo;
use super::error::CudaError;
use super::library::{Library, NVML};

type NvmlDevice = *mut c_void;

const NVML_CLOCK_SM: c_int = 1;
const NVML_CLOCK_MEM: c_int = 2;
const NVML_TEMPERATURE_GPU: c_int = 0;

crate::foreign_functions! {
    /// The functions, as `nvml.h` of CUDA 13.0 declares them.
    struct Api {
        fn nvmlInit_v2() -> c_int;
        fn nvmlErrorString(code: c_int) -> *const c_char;
        fn nvmlSystemGetDriverVersion(text: *mut c_char, bytes: c_uint) -> c_int;
        fn nvmlDeviceGetHandleByPciBusId_v2(bus_id: *const c_char, device: *mut NvmlDevice) -> c_int;
        fn nvmlDeviceGetName(device: NvmlDevice, text: *mut c_char, bytes: c_uint) -> c_int;
        fn nvmlDeviceGetClockInfo(device: NvmlDevice, clock: c_int, megahertz: *mut c_uint) -> c_int;
        fn nvmlDeviceGetMaxClockInfo(device: NvmlDevice, clock: c_int, megahertz: *mut c_uint) -> c_int;
        fn nvmlDeviceGetPowerUsage(device: NvmlDevice, milliwatts: *mut c_uint) -> c_int;
        fn nvmlDeviceGetEnforcedPowerLimit(device: NvmlDevice, milliwatts: *mut c_uint) -> c_int;
        fn nvmlDeviceGetTemperature(device: NvmlDevice, sensor: c_int, celsius: *mut c_uint) -> c_int;
    }
}

impl Api {
    fn check(&self, function: &'static str, code: c_int) -> Result<(), CudaError> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: any code may be asked for; a constant of the library's, or null.
        let text = unsafe {
            let text = (self.nvmlErrorString)(code);
            if text.is_null() { "unknown".to_owned() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
        };
        Err(CudaError::Call { library: NVML.what, function, code, name: "error".to_owned(), text })
    }
}

fn load() -> Result<&'static Api, CudaError> {
    static API: OnceLock<Result<Api, CudaError>> = OnceLock::new();
    let load = || {
        let api = Api::load(Library::load(NVML)?)?;
        // SAFETY: takes nothing; never shut down, as the library is never unloaded.
        api.check("nvmlInit", unsafe { (api.nvmlInit_v2)() })?;
        Ok(api)
    };
    API.get_or_init(load).as_ref().map_err(Clone::clone)
}

/// Reads a text of the library's into 96 bytes, its longest.
fn text(api: &Api, function: &'static str, get: impl FnOnce(*mut c_char, c_uint) -> c_int) -> Result<String, CudaError> {
    let mut bytes = [0 as c_char; 97];
    api.check(function, get(bytes.as_mut_ptr(), 96))?;
    // SAFETY: zeroed, and one longer than was told, so that there is a NUL.
    Ok(unsafe { CStr::from_ptr(bytes.as_ptr()) }.to_string_lossy().into_owned())
}

/// The version of the driver: `580.159.03`.
///
/// # Errors
/// No NVML, or one that fails.
pub fn driver_version() -> Result<String, CudaError> {
    let api = load()?;
    // SAFETY: a place of the length that is told.
    text(api, "nvmlSystemGetDriverVersion", |place, bytes| unsafe { (api.nvmlSystemGetDriverVersion)(place, bytes) })
}

/// What a device does at the moment. What it does not tell is none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// Clock of the multiprocessors, MHz.
    pub sm_mhz: Option<u32>,
    /// Clock of the memory, MHz.
    pub memory_mhz: Option<u32>,
    /// Power, W, on average over about a second.
    pub watts: Option<f32>,
    /// Temperature, °C.
    pub celsius: Option<u32>,
}

/// A device, as NVML sees it.
#[derive(Clone, Copy)]
pub struct Monitor {
    api: &'static Api,
    device: NvmlDevice,
}

// SAFETY: NVML may be used by several threads at once; its devices stay as long as it does.
unsafe impl Send for Monitor {}
// SAFETY: likewise.
unsafe impl Sync for Monitor {}

impl Monitor {
    /// The device that CUDA calls this, found by its place on the PCI bus: NVML counts all devices, CUDA those that are visible.
    ///
    /// # Errors
    /// No NVML, or one that does not know the device.
    pub fn new(device: &DeviceInfo) -> Result<Monitor, CudaError> {
        let api = load()?;
        let bus_id = CString::new(device.pci_bus_id.as_str()).unwrap_or_default();
        let mut handle = ptr::null_mut();
        // SAFETY: a C string and a place for the result.
        let code = unsafe { (api.nvmlDeviceGetHandleByPciBusId_v2)(bus_id.as_ptr(), &mut handle) };
        api.check("nvmlDeviceGetHandleByPciBusId", code)?;
        Ok(Monitor { api, device: handle })
    }

    /// What it is called.
    ///
    /// # Errors
    /// A failing library.
    pub fn name(&self) -> Result<String, CudaError> {
        // SAFETY: a device of NVML's and a place of the length that is told.
        text(self.api, "nvmlDeviceGetName", |place, bytes| unsafe { (self.api.nvmlDeviceGetName)(self.device, place, bytes) })
    }

    /// What it does at the moment.
    pub fn read(&self) -> Reading {
        let (api, device) = (self.api, self.device);
        // SAFETY: of all four: a device of NVML's and a place for the result.
        unsafe {
            Reading {
                sm_mhz: number(|place| (api.nvmlDeviceGetClockInfo)(device, NVML_CLOCK_SM, place)),
                memory_mhz: number(|place| (api.nvmlDeviceGetClockInfo)(device, NVML_CLOCK_MEM, place)),
                watts: number(|place| (api.nvmlDeviceGetPowerUsage)(device, place)).map(|mw| mw as f32 * 1e-3),
                celsius: number(|place| (api.nvmlDeviceGetTemperature)(device, NVML_TEMPERATURE_GPU, place)),
            }
        }
    }

    /// The highest clocks and power that it may reach; the temperature is none.
    pub fn limits(&self) -> Reading {
        let (api, device) = (self.api, self.device);
        // SAFETY: of all three: a device of NVML's and a place for the result.
        unsafe {
            Reading {
                sm_mhz: number(|place| (api.nvmlDeviceGetMaxClockInfo)(device, NVML_CLOCK_SM, place)),
                memory_mhz: number(|place| (api.nvmlDeviceGetMaxClockInfo)(device, NVML_CLOCK_MEM, place)),
                watts: number(|place| (api.nvmlDeviceGetEnforcedPowerLimit)(device, place)).map(|mw| mw as f32 * 1e-3),
                celsius: None,
            }
        }
    }
}

fn number(get: impl FnOnce(*mut c_uint) -> c_int) -> Option<u32> {
    let mut value = 0;
    (get(&mut value) == 0).then_some(value)
}
