//! How long work takes on the device, by its own clock.

use std::time::Duration;

use super::driver::{Event, Stream};
use super::error::CudaError;

/// Times what is put into a stream.
pub(crate) struct Timer<'s> {
    stream: &'s Stream,
    start: Event,
    end: Event,
}

impl<'s> Timer<'s> {
    /// # Errors
    /// A failing driver.
    pub fn new(stream: &'s Stream) -> Result<Timer<'s>, CudaError> {
        let event = || Event::timing(stream.context());
        Ok(Timer { stream, start: event()?, end: event()? })
    }

    /// The time on the device of what `work` puts into the stream, which is waited for, also where the work fails.
    ///
    /// # Errors
    /// What `work` fails with, and a failing device.
    pub fn time<E: From<CudaError>>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<Duration, E> {
        self.stream.record(&self.start)?;
        let done = work();
        let recorded = self.stream.record(&self.end);
        self.stream.synchronize()?;
        done?;
        recorded?;
        Ok(self.end.since(&self.start)?)
    }
}
