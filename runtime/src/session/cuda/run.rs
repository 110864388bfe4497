//! Runs for whoever wants to see or to measure: launch by launch, or the graph alone.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::super::program::{Source, step_error};
use super::super::{SessionError, StepTrace, TracedValue, inputs};
use super::Gpu;
use super::bound::Bound;
use super::runner::Runner;
use crate::cuda::driver::{DeviceBuffer, Stream};
use crate::cuda::timer::Timer;
use crate::tensor::{Tensor, TensorView};

/// Byte that outputs are filled with before each launch that is watched, so that elements which nobody writes are seen.
const POISON: u8 = 0xA5;

/// Values by name that launches are to read in place of what was computed.
pub type Feed<'a> = &'a dyn Fn(&str) -> Option<TensorView<'a>>;

impl Runner {
    /// Replays the graph `times` times without copies between host and device, and measures each on the device.
    pub fn time(&self, given: &[(&str, TensorView<'_>)], times: usize) -> Result<Vec<Duration>, SessionError> {
        self.with_bound(given, |gpu, bound, stream, fault, arranged| {
            gpu.upload(bound, stream, arranged)?;
            bound.replay(gpu, stream, stream, fault)?;
            let timer = Timer::new(stream)?;
            (0..times).map(|_| timer.time(|| bound.replay(gpu, stream, stream, fault))).collect()
        })
    }

    /// Runs launch by launch; `trace` sees what each leaves in memory.
    pub fn run_traced(
        &self,
        given: &[(&str, TensorView<'_>)],
        trace: &mut dyn FnMut(StepTrace<'_>),
    ) -> Result<Vec<(String, Tensor)>, SessionError> {
        self.with_bound(given, |gpu, bound, stream, fault, arranged| {
            gpu.upload(bound, stream, arranged)?;
            fault.as_slice().fill(0, stream)?;
            for at in 0..gpu.launches.len() {
                gpu.launch_traced(bound, at, stream, trace)?;
            }
            gpu.check_fault(read_fault(fault, stream)?)?;
            gpu.download_outputs(bound, stream, arranged)
        })
    }

    /// Runs each launch on what `feed` has for it in place of what was computed before, save products that the session leaves out.
    pub fn run_fed(
        &self,
        given: &[(&str, TensorView<'_>)],
        feed: Feed<'_>,
        trace: &mut dyn FnMut(StepTrace<'_>),
    ) -> Result<(), SessionError> {
        self.with_bound(given, |gpu, bound, stream, fault, arranged| {
            gpu.upload(bound, stream, arranged)?;
            fault.as_slice().fill(0, stream)?;
            let mut left_out: BTreeSet<usize> = BTreeSet::new();
            for (at, loaded) in gpu.launches.iter().enumerate() {
                if bound.is_left_out(at) {
                    left_out.extend(&loaded.traffic.writes);
                    continue;
                }
                for &v in &loaded.traffic.reads {
                    let value = &gpu.program.values[v];
                    let Source::Computed(_) = value.source else { continue };
                    match feed(&value.name) {
                        Some(view) => {
                            if let Some(slice) = bound.slice(gpu, v) {
                                slice.upload(view.data, stream)?;
                            }
                        }
                        None if left_out.contains(&v) => {
                            let step = &gpu.program.steps[loaded.steps.end - 1];
                            return Err(step_error(step, format!("'{}' is neither computed nor given", value.name)));
                        }
                        None => {}
                    }
                }
                gpu.launch_traced(bound, at, stream, trace)?;
            }
            gpu.check_fault(read_fault(fault, stream)?)
        })
    }

    /// Working memory of a run with inputs of these shapes, in bytes, and the least that any layout needs.
    pub fn arena(&self, shapes: &[&[usize]]) -> Result<(usize, usize), SessionError> {
        let mut state = self.lock();
        let bound = self.bound(&mut state, shapes, None)?.bound;
        Ok((bound.layout.total, bound.layout.lower_bound))
    }

    /// The program on the shapes of the inputs, and a stream of the runner's own, whose work is waited for.
    pub(super) fn with_bound<R>(
        &self,
        given: &[(&str, TensorView<'_>)],
        work: impl FnOnce(&Gpu, &mut Bound, &Stream, &DeviceBuffer, &[TensorView<'_>]) -> Result<R, SessionError>,
    ) -> Result<R, SessionError> {
        let arranged = inputs::arrange(&self.variants().inputs, given)?;
        let shapes: Vec<&[usize]> = arranged.iter().map(|v| v.shape).collect();
        let mut state = self.lock();
        let fill = |gpu: &Gpu, bound: &Bound, stream: &Stream| gpu.upload(bound, stream, &arranged);
        let ready = self.bound(&mut state, &shapes, Some(&fill))?;
        // Runs that were started use the same memory.
        ready.stream.synchronize()?;
        let done = work(&ready.gpu, ready.bound, ready.recorder, ready.fault, &arranged);
        ready.recorder.synchronize()?;
        done
    }
}

/// The word in which kernels note faults.
pub(super) fn read_fault(fault: &DeviceBuffer, stream: &Stream) -> Result<u32, SessionError> {
    let mut bytes = [0; 4];
    fault.as_slice().download(&mut bytes, stream)?;
    Ok(u32::from_ne_bytes(bytes))
}

impl Gpu {
    pub(super) fn upload(&self, bound: &Bound, stream: &Stream, given: &[TensorView<'_>]) -> Result<(), SessionError> {
        for (&v, view) in self.program.inputs.iter().zip(given) {
            if let Some(slice) = bound.slice(self, v) {
                slice.upload(view.data, stream)?;
            }
        }
        Ok(())
    }

    /// Runs one launch, its outputs poisoned before, and shows `trace` what it leaves in memory.
    fn launch_traced(
        &self,
        bound: &Bound,
        at: usize,
        stream: &Stream,
        trace: &mut dyn FnMut(StepTrace<'_>),
    ) -> Result<(), SessionError> {
        let loaded = &self.launches[at];
        // Not what lies where an operand does.
        for &v in loaded.traffic.writes.iter().filter(|v| !bound.is_in_place(loaded, **v)) {
            if let Some(slice) = bound.slice(self, v) {
                slice.fill(POISON, stream)?;
            }
        }
        stream.synchronize()?;
        let start = Instant::now();
        bound.launch(self, at, stream)?;
        stream.synchronize()?;
        let duration = start.elapsed();
        let last = loaded.steps.end - 1;
        let step = &self.program.steps[last];
        let mut tensors = Vec::with_capacity(loaded.traffic.writes.len());
        for &v in &loaded.traffic.writes {
            tensors.push((v, self.download(bound, v, stream)?));
        }
        let values: Vec<TracedValue<'_>> = tensors
            .iter()
            .map(|(v, t)| {
                let value = &self.program.values[*v];
                TracedValue { name: &value.name, from_model: value.from_model, view: t.view() }
            })
            .collect();
        let op = &bound.ops[last];
        trace(StepTrace { index: last, name: &step.name, op, origin: &step.origin, duration, values: &values });
        Ok(())
    }

    fn download(&self, bound: &Bound, value: usize, stream: &Stream) -> Result<Tensor, SessionError> {
        let v = &self.program.values[value];
        let mut tensor = Tensor::zeros(v.ty.dtype, &bound.shapes[value])
            .map_err(|_| SessionError::Memory { bytes: bound.bytes(self, value), why: "more than there is" })?;
        if let Some(slice) = bound.slice(self, value) {
            slice.download(tensor.view_mut().data, stream)?;
        }
        Ok(tensor)
    }

    fn download_outputs(
        &self,
        bound: &Bound,
        stream: &Stream,
        given: &[TensorView<'_>],
    ) -> Result<Vec<(String, Tensor)>, SessionError> {
        let output = |(name, v): &(String, usize)| {
            let tensor = match self.never_computed(*v, &bound.shapes[*v], given)? {
                Some(view) => view.to_tensor(),
                None => self.download(bound, *v, stream)?,
            };
            Ok((name.clone(), tensor))
        };
        self.program.outputs.iter().map(output).collect()
    }
}
