//! Streams, in which work is done in order, and events, which mark places in them.

use std::ffi::c_void;
use std::ptr;
use std::time::Duration;

use super::context::Context;
use super::ffi::{
    CU_EVENT_DEFAULT, CU_EVENT_DISABLE_TIMING, CU_GRAPH_NODE_TYPE_KERNEL, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
    CU_STREAM_CAPTURE_STATUS_ACTIVE, CU_STREAM_NON_BLOCKING, CUDA_ERROR_NOT_READY, CUevent, CUstream,
};
use super::graph::Graph;
use super::{CudaError, call};

/// A queue of work on a device.
#[derive(Debug)]
pub struct Stream {
    context: Context,
    handle: CUstream,
    owned: bool,
}

// SAFETY: work may be put into a stream by any thread; the driver locks.
unsafe impl Send for Stream {}
// SAFETY: likewise.
unsafe impl Sync for Stream {}

impl Stream {
    /// A stream of its own, which does not wait for the default stream.
    ///
    /// # Errors
    /// A failing driver.
    pub fn new(context: &Context) -> Result<Stream, CudaError> {
        let current = context.enter()?;
        let mut handle = ptr::null_mut();
        // SAFETY: a place for the result.
        unsafe { call!(current.driver(), cuStreamCreate(&mut handle, CU_STREAM_NON_BLOCKING))? };
        Ok(Stream { context: context.clone(), handle, owned: true })
    }

    /// A caller's stream (`cudaStream_t` or `CUstream`; null is the default stream). It is not destroyed.
    ///
    /// # Safety
    /// It is a stream of this context and outlives what is returned.
    pub unsafe fn borrow(context: &Context, handle: *mut c_void) -> Stream {
        Stream { context: context.clone(), handle: handle.cast(), owned: false }
    }

    /// The `CUstream`, which libraries of the runtime API take as their `cudaStream_t`.
    pub fn handle(&self) -> *mut c_void {
        self.handle.cast()
    }

    pub(super) fn raw(&self) -> CUstream {
        self.handle
    }

    /// The device's.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Waits until everything in the stream is done; errors of kernels show here.
    ///
    /// # Errors
    /// What a kernel did wrong, or a failing driver.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        let current = self.context.enter()?;
        // SAFETY: the stream is alive.
        unsafe { call!(current.driver(), cuStreamSynchronize(self.handle)) }
    }

    /// Lets what is put into the stream from now on wait for an event.
    ///
    /// # Errors
    /// A failing driver.
    pub fn wait(&self, event: &Event) -> Result<(), CudaError> {
        let current = self.context.enter()?;
        // SAFETY: stream and event are alive.
        unsafe { call!(current.driver(), cuStreamWaitEvent(self.handle, event.handle, 0)) }
    }

    /// Marks the place that the stream has come to.
    ///
    /// # Errors
    /// A failing driver.
    pub fn record(&self, event: &Event) -> Result<(), CudaError> {
        let current = self.context.enter()?;
        // SAFETY: stream and event are alive.
        unsafe { call!(current.driver(), cuEventRecord(event.handle, self.handle)) }
    }

    /// Whether what is put into the stream is being recorded instead of done.
    ///
    /// # Errors
    /// A failing driver.
    pub fn is_capturing(&self) -> Result<bool, CudaError> {
        let current = self.context.enter()?;
        let mut status = 0;
        // SAFETY: the stream is alive; a place for the result.
        unsafe { call!(current.driver(), cuStreamIsCapturing(self.handle, &mut status))? };
        Ok(status != 0)
    }

    /// Whether what comes next is being recorded and follows one kernel and nothing else: only then can a graph start it early. The
    /// `cuStreamGetCaptureInfo` of CUDA 12.3 is asked, since only the driver knows what libraries have put into the stream.
    pub(super) fn records_behind_a_kernel(&self) -> Result<bool, CudaError> {
        let current = self.context.enter()?;
        let (mut status, mut count) = (0, 0);
        let (mut nodes, mut edges) = (ptr::null(), ptr::null());
        let unwanted = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the stream is alive; places for the results, but for the two that may be left out. What the driver says of a stream that
        // does not record is not looked at.
        unsafe {
            call!(
                current.driver(),
                cuStreamGetCaptureInfo_v3(self.handle, &mut status, unwanted.0, unwanted.1, &mut nodes, &mut edges, &mut count)
            )?;
        }
        if status != CU_STREAM_CAPTURE_STATUS_ACTIVE || count != 1 {
            return Ok(false);
        }
        let mut kind = 0;
        // SAFETY: the driver's array of one node, valid until the stream is used again; a place for the result.
        unsafe { call!(current.driver(), cuGraphNodeGetType(*nodes, &mut kind))? };
        Ok(kind == CU_GRAPH_NODE_TYPE_KERNEL)
    }

    /// Records what `work` puts into the stream as a graph, without doing it. Meanwhile this thread must not allocate or free
    /// device memory or wait for the stream; and libraries load kernels at their first use, so run the work once before. The default
    /// stream cannot be captured.
    ///
    /// # Errors
    /// What `work` fails with, a forbidden call in it, or a failing driver.
    pub fn capture<E: From<CudaError>>(&self, work: impl FnOnce(&Stream) -> Result<(), E>) -> Result<Graph, E> {
        let current = self.context.enter()?;
        // SAFETY: the stream is alive.
        unsafe { call!(current.driver(), cuStreamBeginCapture_v2(self.handle, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))? };
        let ending = EndCapture { stream: self };
        let done = work(self);
        let graph = ending.end();
        done?;
        Ok(graph?)
    }
}

/// Ends a capture even when the work panics.
struct EndCapture<'a> {
    stream: &'a Stream,
}

impl EndCapture<'_> {
    fn end(self) -> Result<Graph, CudaError> {
        let stream = self.stream;
        std::mem::forget(self);
        end_capture(stream)
    }
}

impl Drop for EndCapture<'_> {
    fn drop(&mut self) {
        let _ = end_capture(self.stream);
    }
}

fn end_capture(stream: &Stream) -> Result<Graph, CudaError> {
    let current = stream.context.enter()?;
    let mut graph = ptr::null_mut();
    // SAFETY: the capture was begun on this thread; a place for the result.
    unsafe { call!(current.driver(), cuStreamEndCapture(stream.handle, &mut graph))? };
    Ok(Graph::new(&stream.context, graph))
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let (true, Ok(current)) = (self.owned, self.context.enter()) {
            // SAFETY: created in `new`; the driver ends what is still in the stream first.
            let _ = unsafe { (current.driver().api.cuStreamDestroy_v2)(self.handle) };
        }
    }
}

/// A place in a stream.
#[derive(Debug)]
pub struct Event {
    context: Context,
    handle: CUevent,
}

// SAFETY: an event may be recorded and asked by any thread; the driver locks.
unsafe impl Send for Event {}
// SAFETY: likewise.
unsafe impl Sync for Event {}

impl Event {
    /// An event that keeps the time.
    ///
    /// # Errors
    /// A failing driver.
    pub fn timing(context: &Context) -> Result<Event, CudaError> {
        Event::new(context, CU_EVENT_DEFAULT)
    }

    /// An event to wait for, cheaper than one that keeps the time.
    ///
    /// # Errors
    /// A failing driver.
    pub fn ordering(context: &Context) -> Result<Event, CudaError> {
        Event::new(context, CU_EVENT_DISABLE_TIMING)
    }

    fn new(context: &Context, flags: u32) -> Result<Event, CudaError> {
        let current = context.enter()?;
        let mut handle = ptr::null_mut();
        // SAFETY: a place for the result.
        unsafe { call!(current.driver(), cuEventCreate(&mut handle, flags))? };
        Ok(Event { context: context.clone(), handle })
    }

    /// Whether the stream has passed the place; true when the event was never recorded.
    ///
    /// # Errors
    /// What a kernel did wrong, or a failing driver.
    pub fn is_done(&self) -> Result<bool, CudaError> {
        let current = self.context.enter()?;
        // SAFETY: the event is alive.
        match unsafe { (current.driver().api.cuEventQuery)(self.handle) } {
            CUDA_ERROR_NOT_READY => Ok(false),
            code => current.driver().check("cuEventQuery", code).map(|()| true),
        }
    }

    /// Waits until the stream has passed the place.
    ///
    /// # Errors
    /// What a kernel did wrong, or a failing driver.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        let current = self.context.enter()?;
        // SAFETY: the event is alive.
        unsafe { call!(current.driver(), cuEventSynchronize(self.handle)) }
    }

    /// The time on the device from `earlier` to this, to half a microsecond. Both keep the time and are done.
    ///
    /// # Errors
    /// Events that do not keep the time, were not recorded or are not done.
    pub fn since(&self, earlier: &Event) -> Result<Duration, CudaError> {
        let current = self.context.enter()?;
        let mut milliseconds = 0.0;
        // SAFETY: both events are alive; a place for the result.
        unsafe { call!(current.driver(), cuEventElapsedTime(&mut milliseconds, earlier.handle, self.handle))? };
        Ok(Duration::try_from_secs_f64(f64::from(milliseconds) * 1e-3).unwrap_or_default())
    }

    /// The `CUevent`.
    pub fn handle(&self) -> *mut c_void {
        self.handle.cast()
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(current) = self.context.enter() {
            // SAFETY: created in `new`; the driver keeps what a stream still needs of it.
            let _ = unsafe { (current.driver().api.cuEventDestroy_v2)(self.handle) };
        }
    }
}
