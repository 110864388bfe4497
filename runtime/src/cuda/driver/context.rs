//! A device's primary context, which every library of the process shares.

use std::fmt;
use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;

use super::ffi::{CUcontext, CUdevice};
use super::memory::DeviceAllocator;
use super::{CudaError, DeviceInfo, Driver, call};

/// The primary context of a device, retained as long as a clone of this lives. Any thread may use it.
#[derive(Clone)]
pub struct Context {
    primary: Arc<Primary>,
    allocator: Option<Arc<dyn DeviceAllocator>>,
}

struct Primary {
    driver: &'static Driver,
    device: CUdevice,
    handle: CUcontext,
    info: DeviceInfo,
}

// SAFETY: a context may be used from any thread; the driver locks what has to be locked.
unsafe impl Send for Primary {}
// SAFETY: likewise.
unsafe impl Sync for Primary {}

impl Drop for Primary {
    fn drop(&mut self) {
        // SAFETY: retained once in `Context::new`. Every object of the context holds a clone, so that none is left.
        let _ = unsafe { (self.driver.api.cuDevicePrimaryCtxRelease_v2)(self.device) };
    }
}

impl Context {
    /// Retains the primary context of a device.
    ///
    /// # Errors
    /// No driver, no such device, or no room for a context.
    pub fn new(ordinal: usize) -> Result<Context, CudaError> {
        let driver = Driver::get()?;
        let (device, info) = (driver.device_handle(ordinal)?, driver.device(ordinal)?);
        let mut handle = ptr::null_mut();
        // SAFETY: a valid device and a place for the result.
        unsafe { call!(driver, cuDevicePrimaryCtxRetain(&mut handle, device))? };
        Ok(Context { primary: Arc::new(Primary { driver, device, handle, info }), allocator: None })
    }

    /// The same context, whose [`DeviceBuffer`](super::DeviceBuffer)s come from this allocator, those of clones too.
    #[must_use]
    pub fn with_allocator(self, allocator: Arc<dyn DeviceAllocator>) -> Context {
        Context { allocator: Some(allocator), ..self }
    }

    pub(super) fn allocator(&self) -> Option<&Arc<dyn DeviceAllocator>> {
        self.allocator.as_ref()
    }

    /// The device.
    pub fn device(&self) -> &DeviceInfo {
        &self.primary.info
    }

    /// Makes the context current on this thread until the guard is dropped; nothing happens when it is current already. Whatever
    /// calls the driver or a library over many calls holds one, so that each of the calls finds it current.
    ///
    /// # Errors
    /// A failing driver.
    pub fn enter(&self) -> Result<Current<'_>, CudaError> {
        let driver = self.primary.driver;
        let mut current = ptr::null_mut();
        // SAFETY: a place for the result; the context is retained.
        unsafe {
            call!(driver, cuCtxGetCurrent(&mut current))?;
            let pushed = current != self.primary.handle;
            if pushed {
                call!(driver, cuCtxPushCurrent_v2(self.primary.handle))?;
            }
            Ok(Current { context: self, pushed, _this_thread: PhantomData })
        }
    }

    /// Free and total memory of the device, in bytes.
    ///
    /// # Errors
    /// A failing driver.
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        let current = self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: places for the results.
        unsafe { call!(current.driver(), cuMemGetInfo_v2(&mut free, &mut total))? };
        Ok((free, total))
    }

    /// Waits until the device has done all that was asked of it; errors of kernels show here.
    ///
    /// # Errors
    /// What a kernel did wrong, or a failing driver.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        let current = self.enter()?;
        // SAFETY: the context is current.
        unsafe { call!(current.driver(), cuCtxSynchronize()) }
    }

    /// Whether both are the same device's.
    pub fn is(&self, other: &Context) -> bool {
        self.primary.handle == other.primary.handle
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context(cuda:{})", self.primary.info.ordinal)
    }
}

/// While this lives, the context is current on the thread that made it.
pub struct Current<'a> {
    context: &'a Context,
    pushed: bool,
    /// Which context is current is a matter of a thread: not `Send`.
    _this_thread: PhantomData<*const ()>,
}

impl Current<'_> {
    pub(super) fn driver(&self) -> &'static Driver {
        self.context.primary.driver
    }
}

impl Drop for Current<'_> {
    fn drop(&mut self) {
        if self.pushed {
            let mut popped = ptr::null_mut();
            // SAFETY: pushed in `enter`, on this thread.
            let _ = unsafe { (self.driver().api.cuCtxPopCurrent_v2)(&mut popped) };
        }
    }
}
