//! Memory: on the device, and page-locked on the host.

use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::slice;

use super::context::Context;
use super::ffi::{CUDA_ERROR_OUT_OF_MEMORY, CUdeviceptr};
use super::stream::Stream;
use super::{CudaError, call};

/// A range of device memory that outlives `'a`. Copies of it may overlap: what writes where is a matter of the order of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceSlice<'a> {
    pointer: CUdeviceptr,
    len: usize,
    _memory: PhantomData<&'a ()>,
}

impl<'a> DeviceSlice<'a> {
    /// A caller's device memory.
    ///
    /// # Safety
    /// `len` bytes from `pointer` on are device memory of the context that the slice is used with, as long as `'a` and as what is put
    /// into streams with it lasts.
    pub unsafe fn from_raw(pointer: u64, len: usize) -> DeviceSlice<'a> {
        DeviceSlice { pointer, len, _memory: PhantomData }
    }

    /// The `CUdeviceptr`.
    pub fn pointer(&self) -> u64 {
        self.pointer
    }

    /// In bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `len` bytes from `start` on.
    ///
    /// # Errors
    /// A range that leaves this one.
    pub fn slice(&self, start: usize, len: usize) -> Result<DeviceSlice<'a>, CudaError> {
        self.require("a part of device memory", start, len)?;
        Ok(DeviceSlice { pointer: self.pointer + start as u64, len, _memory: PhantomData })
    }

    fn require(&self, what: &'static str, start: usize, len: usize) -> Result<(), CudaError> {
        match start.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            end => Err(CudaError::Range { what, start, end: end.unwrap_or(usize::MAX), len: self.len }),
        }
    }

    /// Puts filling with a byte into the stream.
    ///
    /// # Errors
    /// A failing driver.
    pub fn fill(&self, value: u8, stream: &Stream) -> Result<(), CudaError> {
        if self.is_empty() {
            return Ok(());
        }
        let current = stream.context().enter()?;
        // SAFETY: the slice is device memory of that length.
        unsafe { call!(current.driver(), cuMemsetD8Async(self.pointer, value, self.len, stream.raw())) }
    }

    /// Puts copying from other device memory of the same length into the stream.
    ///
    /// # Errors
    /// Different lengths, or a failing driver.
    pub fn copy_from(&self, from: DeviceSlice<'_>, stream: &Stream) -> Result<(), CudaError> {
        same_length("copying within the device", self.len, from.len)?;
        if self.is_empty() {
            return Ok(());
        }
        let current = stream.context().enter()?;
        // SAFETY: both slices are device memory of that length.
        unsafe { call!(current.driver(), cuMemcpyDtoDAsync_v2(self.pointer, from.pointer, self.len, stream.raw())) }
    }

    /// Copies from the host, in the order of the stream, and waits.
    ///
    /// # Errors
    /// Different lengths, what a kernel before it did wrong, or a failing driver.
    pub fn upload(&self, from: &[u8], stream: &Stream) -> Result<(), CudaError> {
        // SAFETY: `from` is borrowed until the stream has been waited for, below.
        unsafe { self.upload_async(from, stream)? };
        stream.synchronize()
    }

    /// Copies to the host, in the order of the stream, and waits.
    ///
    /// # Errors
    /// Different lengths, what a kernel before it did wrong, or a failing driver.
    pub fn download(&self, to: &mut [u8], stream: &Stream) -> Result<(), CudaError> {
        // SAFETY: `to` is borrowed until the stream has been waited for, below.
        unsafe { self.download_async(to, stream)? };
        stream.synchronize()
    }

    /// Puts copying from the host into the stream. Only from page-locked memory ([`PinnedBuffer`]) does the host run on meanwhile.
    ///
    /// # Errors
    /// Different lengths, or a failing driver.
    ///
    /// # Safety
    /// `from` is neither written nor freed before the stream has passed the copy; in a captured stream, before the last replay has.
    pub unsafe fn upload_async(&self, from: &[u8], stream: &Stream) -> Result<(), CudaError> {
        same_length("copying to the device", self.len, from.len())?;
        if self.is_empty() {
            return Ok(());
        }
        let current = stream.context().enter()?;
        // SAFETY: both are of that length; the caller keeps the host's.
        unsafe { call!(current.driver(), cuMemcpyHtoDAsync_v2(self.pointer, from.as_ptr().cast(), self.len, stream.raw())) }
    }

    /// Puts copying to the host into the stream. Only to page-locked memory ([`PinnedBuffer`]) does the host run on meanwhile.
    ///
    /// # Errors
    /// Different lengths, or a failing driver.
    ///
    /// # Safety
    /// `to` is not touched or freed before the stream has passed the copy; in a captured stream, before the last replay has.
    pub unsafe fn download_async(&self, to: &mut [u8], stream: &Stream) -> Result<(), CudaError> {
        same_length("copying from the device", to.len(), self.len)?;
        if self.is_empty() {
            return Ok(());
        }
        let current = stream.context().enter()?;
        // SAFETY: both are of that length; the caller keeps the host's.
        unsafe { call!(current.driver(), cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), self.pointer, self.len, stream.raw())) }
    }
}

fn same_length(what: &'static str, to: usize, from: usize) -> Result<(), CudaError> {
    if to == from { Ok(()) } else { Err(CudaError::Range { what, start: 0, end: from, len: to }) }
}

/// What gives and takes back device memory in the driver's place: a caller's pool.
///
/// # Safety
/// What [`DeviceAllocator::allocate`] gives is device memory of the context that it is used with, as large as was asked for, aligned to
/// [`ALIGNMENT`] bytes and nobody else's until it is taken back.
pub unsafe trait DeviceAllocator: fmt::Debug + Send + Sync {
    /// The address of so many bytes, more than 0; none when there are not so many.
    fn allocate(&self, bytes: usize) -> Option<u64>;

    /// Takes back what [`DeviceAllocator::allocate`] gave for so many bytes. The device no longer uses it.
    fn free(&self, pointer: u64, bytes: usize);
}

/// What device memory that is allocated is aligned to, in bytes.
pub const ALIGNMENT: usize = 256;

/// Device memory of one's own, aligned to [`ALIGNMENT`] bytes. Freeing it waits until the device no longer uses it.
#[derive(Debug)]
pub struct DeviceBuffer {
    context: Context,
    pointer: CUdeviceptr,
    len: usize,
}

impl DeviceBuffer {
    /// So many bytes: `pattern` again and again, of which there are some.
    ///
    /// # Errors
    /// As [`DeviceBuffer::new`], and a failing driver.
    pub fn repeating(pattern: &[u8], len: usize, stream: &Stream) -> Result<DeviceBuffer, CudaError> {
        let buffer = DeviceBuffer::new(stream.context(), len)?;
        let mut filled = pattern.len().min(len);
        buffer.as_slice().slice(0, filled)?.upload(&pattern[..filled], stream)?;
        while (1..len).contains(&filled) {
            let more = filled.min(len - filled);
            buffer.as_slice().slice(filled, more)?.copy_from(buffer.as_slice().slice(0, more)?, stream)?;
            filled += more;
        }
        Ok(buffer)
    }

    /// Allocates. What is in it is undefined.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`] with what was asked for and what there is, or a failing driver.
    pub fn new(context: &Context, len: usize) -> Result<DeviceBuffer, CudaError> {
        let mut pointer = 0;
        if let (true, Some(allocator)) = (len > 0, context.allocator()) {
            let ordinal = context.device().ordinal;
            pointer = allocator.allocate(len).ok_or(CudaError::Allocator { ordinal, requested: len })?;
        } else if len > 0 {
            let current = context.enter()?;
            // SAFETY: a place for the result.
            match unsafe { (current.driver().api.cuMemAlloc_v2)(&mut pointer, len) } {
                CUDA_ERROR_OUT_OF_MEMORY => {
                    let ((free, total), ordinal) = (context.memory()?, context.device().ordinal);
                    return Err(CudaError::OutOfMemory { ordinal, requested: len, free, total });
                }
                code => current.driver().check("cuMemAlloc", code)?,
            }
        }
        Ok(DeviceBuffer { context: context.clone(), pointer, len })
    }

    /// Allocates and copies from the host, in the order of the stream, and waits.
    ///
    /// # Errors
    /// As [`DeviceBuffer::new`] and [`DeviceSlice::upload`].
    pub fn from_host(bytes: &[u8], stream: &Stream) -> Result<DeviceBuffer, CudaError> {
        let buffer = DeviceBuffer::new(stream.context(), bytes.len())?;
        buffer.as_slice().upload(bytes, stream)?;
        Ok(buffer)
    }

    /// All of it.
    pub fn as_slice(&self) -> DeviceSlice<'_> {
        DeviceSlice { pointer: self.pointer, len: self.len, _memory: PhantomData }
    }

    /// In bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The device's.
    pub fn context(&self) -> &Context {
        &self.context
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        if let Some(allocator) = self.context.allocator() {
            // What cannot be waited for cannot be given back.
            if self.context.synchronize().is_ok() {
                allocator.free(self.pointer, self.len);
            }
        } else if let Ok(current) = self.context.enter() {
            // SAFETY: allocated in `new`; cuMemFree waits for the device.
            let _ = unsafe { (current.driver().api.cuMemFree_v2)(self.pointer) };
        }
    }
}

/// Page-locked host memory: the device copies from and to it while the host runs on. Zero at first.
#[derive(Debug)]
pub struct PinnedBuffer {
    context: Context,
    pointer: NonNull<u8>,
    len: usize,
}

// SAFETY: owned bytes, like a boxed slice.
unsafe impl Send for PinnedBuffer {}
// SAFETY: likewise.
unsafe impl Sync for PinnedBuffer {}

impl PinnedBuffer {
    /// Allocates.
    ///
    /// # Errors
    /// [`CudaError::PinnedMemory`].
    pub fn new(context: &Context, len: usize) -> Result<PinnedBuffer, CudaError> {
        let current = context.enter()?;
        let mut pointer: *mut c_void = ptr::null_mut();
        // SAFETY: a place for the result; no length of zero, for which the driver fails.
        unsafe { call!(current.driver(), cuMemHostAlloc(&mut pointer, len.max(1), 0)) }
            .map_err(|e| CudaError::PinnedMemory { bytes: len, reason: e.to_string() })?;
        let pointer = NonNull::new(pointer.cast::<u8>())
            .ok_or_else(|| CudaError::PinnedMemory { bytes: len, reason: "the driver gave none".to_owned() })?;
        // SAFETY: just allocated with that length; Rust's slices must be initialised.
        unsafe { pointer.write_bytes(0, len) };
        Ok(PinnedBuffer { context: context.clone(), pointer, len })
    }
}

impl Deref for PinnedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: allocated with that length and initialised; asynchronous copies into it are their callers' business.
        unsafe { slice::from_raw_parts(self.pointer.as_ptr(), self.len) }
    }
}

impl DerefMut for PinnedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: likewise, and borrowed alone.
        unsafe { slice::from_raw_parts_mut(self.pointer.as_ptr(), self.len) }
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        if let Ok(current) = self.context.enter() {
            // SAFETY: allocated in `new`.
            let _ = unsafe { (current.driver().api.cuMemFreeHost)(self.pointer.as_ptr().cast()) };
        }
    }
}
