//! Page-locked host memory that tensors pass through on their way to and from the device, so that the host need not wait for copies.

use std::sync::Mutex;

use crate::cuda::CudaError;
use crate::cuda::driver::{Context, PinnedBuffer};

/// The least that is allocated.
const LEAST: usize = 64 << 10;
/// Most buffers that are kept when nobody uses them: as many as runs overlap, within reason.
const MOST_KEPT: usize = 8;

/// The buffers of a session. Runs that are waited for one after the other need one, which grows; runs that are started before the last one is
/// done need more.
#[derive(Default)]
pub struct Staging(Mutex<Vec<PinnedBuffer>>);

impl Staging {
    /// A buffer of at least so many bytes, that is nobody else's until it is put back.
    pub fn take(&self, context: &Context, bytes: usize) -> Result<PinnedBuffer, CudaError> {
        let mut free = super::lock(&self.0);
        if let Some(at) = free.iter().position(|b| b.len() >= bytes) {
            return Ok(free.swap_remove(at));
        }
        // In the place of one that is too small.
        free.pop();
        PinnedBuffer::new(context, bytes.checked_next_power_of_two().unwrap_or(bytes).max(LEAST))
    }

    /// Puts a buffer back, which no stream uses any more.
    pub fn put_back(&self, buffer: PinnedBuffer) {
        let mut free = super::lock(&self.0);
        if free.len() < MOST_KEPT {
            free.push(buffer);
        }
    }
}

/// Places in a buffer, one behind the other, each aligned for any element type.
#[derive(Default)]
pub struct Places {
    bytes: usize,
}

impl Places {
    /// The next place of so many bytes.
    pub fn next(&mut self, bytes: usize) -> std::ops::Range<usize> {
        let start = self.bytes.next_multiple_of(crate::tensor::ALIGN);
        self.bytes = start + bytes;
        start..self.bytes
    }

    /// Bytes up to the end of the last.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
