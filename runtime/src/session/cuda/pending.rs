//! A run that has been started: its end, and what comes to the host.

use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;

use super::super::SessionError;
use super::Gpu;
use super::runner::Runner;
use crate::cuda::driver::{Event, PinnedBuffer};
use crate::dtype::DType;
use crate::tensor::Tensor;

/// A run on a GPU that has been started. Dropping it waits until the run is done, and drops its outputs.
#[must_use = "what the run gives, and whether it failed, comes from `wait`"]
pub struct PendingRun {
    runner: Arc<Runner>,
    /// The variant that runs.
    gpu: Arc<Gpu>,
    done: Event,
    /// There until the run has been waited for.
    staging: Option<PinnedBuffer>,
    fault: Range<usize>,
    outputs: Vec<Output>,
}

/// An output that comes to the host.
pub(super) struct Output {
    pub name: String,
    pub data: OutputData,
}

/// Where an output's data is.
pub(super) enum OutputData {
    /// In the staging buffer when the run is done.
    Staged { dtype: DType, shape: Vec<usize>, place: Range<usize> },
    /// Here: never computed.
    Known(Tensor),
}

impl PendingRun {
    pub(super) fn new(
        (runner, gpu): (Arc<Runner>, Arc<Gpu>),
        done: Event,
        staging: PinnedBuffer,
        fault: Range<usize>,
        outputs: Vec<Output>,
    ) -> PendingRun {
        PendingRun { runner, gpu, done, staging: Some(staging), fault, outputs }
    }

    /// Whether the run is done.
    ///
    /// # Errors
    /// A failing device.
    pub fn is_done(&self) -> Result<bool, SessionError> {
        Ok(self.done.is_done()?)
    }

    /// The `CUevent` that is recorded behind the run, for other streams to wait for; it lives as long as this.
    pub fn event(&self) -> *mut c_void {
        self.done.handle()
    }

    /// Waits until the run is done. Gives (name, data) of the outputs that come to the host: all, in the order of the session's outputs, or none
    /// of a run on device memory.
    ///
    /// # Errors
    /// Data that a kernel refuses, such as an index out of range, and a failing device.
    pub fn wait(mut self) -> Result<Vec<(String, Tensor)>, SessionError> {
        self.done.synchronize()?;
        let Some(staging) = self.staging.take() else { return Ok(Vec::new()) };
        let given = self.collect(&staging);
        self.runner.put_back(staging);
        given
    }

    fn collect(&mut self, staging: &[u8]) -> Result<Vec<(String, Tensor)>, SessionError> {
        if let Some(fault) = staging[self.fault.clone()].first_chunk() {
            self.gpu.check_fault(u32::from_ne_bytes(*fault))?;
        }
        let tensor = |Output { name, data }| match data {
            OutputData::Known(tensor) => Ok((name, tensor)),
            OutputData::Staged { dtype, shape, place } => {
                let bytes = place.len();
                let mut tensor =
                    Tensor::zeros(dtype, &shape).map_err(|_| SessionError::Memory { bytes, why: "more than there is" })?;
                tensor.view_mut().data.copy_from_slice(&staging[place]);
                Ok((name, tensor))
            }
        };
        self.outputs.drain(..).map(tensor).collect()
    }
}

impl Drop for PendingRun {
    fn drop(&mut self) {
        if let Some(staging) = self.staging.take() {
            // The stream may still copy from and to it; when it cannot be waited for, it is not given to another run.
            match self.done.synchronize() {
                Ok(()) => self.runner.put_back(staging),
                Err(_) => std::mem::forget(staging),
            }
        }
    }
}

/// A tensor in device memory.
#[derive(Clone, Copy, Debug)]
pub struct DeviceTensor<'a> {
    /// Element type.
    pub dtype: DType,
    /// Extents; elements lie behind each other, the last axis fastest.
    pub shape: &'a [usize],
    /// Where it begins: a `CUdeviceptr`, aligned to the element type.
    pub pointer: u64,
}

impl DeviceTensor<'_> {
    /// Checks that an element can be at the address.
    pub(super) fn check_address(&self, name: &str) -> Result<(), SessionError> {
        let (pointer, alignment) = (self.pointer, self.dtype.size());
        if (pointer == 0 && !self.shape.contains(&0)) || !pointer.is_multiple_of(alignment as u64) {
            return Err(SessionError::DeviceAddress { name: name.to_owned(), pointer, alignment });
        }
        Ok(())
    }
}
