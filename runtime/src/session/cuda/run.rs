//! Runs: inputs up, the graph of the shape replayed, outputs down; or launch by launch, for whoever wants to see.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::super::program::{Source, step_error};
use super::super::{SessionError, StepTrace, TracedValue, inputs};
use super::bound::Bound;
use super::{Gpu, State};
use crate::cuda::driver::{DeviceBuffer, Event, Stream};
use crate::tensor::{Tensor, TensorView};

/// Byte that outputs are filled with before each launch that is watched, so that elements which nobody writes are seen.
const POISON: u8 = 0xA5;

/// Values that launches are to read in place of what was computed, by name.
pub type Feed<'a> = &'a dyn Fn(&str) -> Option<TensorView<'a>>;

impl Gpu {
    /// Runs the program. `given` are (name, data) pairs.
    pub fn run(&self, given: &[(&str, TensorView<'_>)]) -> Result<Vec<(String, Tensor)>, SessionError> {
        self.with_bound(given, |gpu, bound, stream, fault, arranged| {
            gpu.upload(bound, stream, arranged)?;
            gpu.replay(bound, stream, fault)?;
            gpu.check_fault(fault, stream)?;
            gpu.download_outputs(bound, stream, arranged)
        })
    }

    /// Replays the graph `times` times without copies between host and device, and measures each on the device.
    pub fn time(&self, given: &[(&str, TensorView<'_>)], times: usize) -> Result<Vec<Duration>, SessionError> {
        self.with_bound(given, |gpu, bound, stream, fault, arranged| {
            gpu.upload(bound, stream, arranged)?;
            gpu.replay(bound, stream, fault)?;
            let (before, after) = (Event::timing(&gpu.context)?, Event::timing(&gpu.context)?);
            let mut out = Vec::with_capacity(times);
            for _ in 0..times {
                stream.record(&before)?;
                gpu.replay(bound, stream, fault)?;
                stream.record(&after)?;
                after.synchronize()?;
                out.push(after.since(&before)?);
            }
            Ok(out)
        })
    }

    /// Runs launch by launch; `trace` sees what each leaves in memory. With `feed`, launches read those values instead of what was computed
    /// before.
    pub fn run_traced(
        &self,
        given: &[(&str, TensorView<'_>)],
        feed: Option<Feed<'_>>,
        trace: &mut dyn FnMut(StepTrace<'_>),
    ) -> Result<Vec<(String, Tensor)>, SessionError> {
        self.with_bound(given, |gpu, bound, stream, fault, arranged| {
            gpu.upload(bound, stream, arranged)?;
            for (at, loaded) in gpu.launches.iter().enumerate() {
                for &v in &loaded.reads {
                    let value = &gpu.program.values[v];
                    if let (Source::Computed(_), Some(view)) = (&value.source, feed.and_then(|feed| feed(&value.name)))
                        && let Some(slice) = bound.slice(gpu, v)
                    {
                        slice.upload(view.data, stream)?;
                    }
                }
                for &v in &loaded.writes {
                    if let Some(slice) = bound.slice(gpu, v) {
                        slice.fill(POISON, stream)?;
                    }
                }
                stream.synchronize()?;
                let start = Instant::now();
                bound.launch(gpu, at, stream)?;
                stream.synchronize()?;
                let duration = start.elapsed();
                let last = loaded.steps.end - 1;
                let step = &gpu.program.steps[last];
                let mut tensors = Vec::with_capacity(loaded.writes.len());
                for &v in &loaded.writes {
                    tensors.push((v, gpu.download(bound, v, stream)?));
                }
                let values: Vec<TracedValue<'_>> = tensors
                    .iter()
                    .map(|(v, t)| {
                        let value = &gpu.program.values[*v];
                        TracedValue { name: &value.name, from_model: value.from_model, view: t.view() }
                    })
                    .collect();
                let op = &bound.ops[last];
                trace(StepTrace { index: last, name: &step.name, op, origin: &step.origin, duration, values: &values });
            }
            gpu.check_fault(fault, stream)?;
            gpu.download_outputs(bound, stream, arranged)
        })
    }

    /// Working memory of a run with inputs of these shapes, in bytes, and the least that any layout needs.
    pub fn arena(&self, shapes: &[&[usize]]) -> Result<(usize, usize), SessionError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let bound = self.bound(&mut state, shapes)?.0;
        Ok((bound.layout.total, bound.layout.lower_bound))
    }

    pub(super) fn with_bound<R>(
        &self,
        given: &[(&str, TensorView<'_>)],
        work: impl FnOnce(&Gpu, &mut Bound, &Stream, &DeviceBuffer, &[TensorView<'_>]) -> Result<R, SessionError>,
    ) -> Result<R, SessionError> {
        let arranged = inputs::arrange(&self.inputs(), given)?;
        let shapes: Vec<&[usize]> = arranged.iter().map(|v| v.shape).collect();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (bound, stream, fault) = self.bound(&mut state, &shapes)?;
        work(self, bound, stream, fault, &arranged)
    }

    fn bound<'s>(
        &self,
        state: &'s mut State,
        shapes: &[&[usize]],
    ) -> Result<(&'s mut Bound, &'s Stream, &'s DeviceBuffer), SessionError> {
        let State { stream, bound, fault } = state;
        let symbols = inputs::unify(&self.inputs(), shapes, &self.plan().manifest().symbols)?;
        let bound = bound.get(shapes, |shared| Bound::new(self, &symbols, shared, fault.as_slice()))?;
        Ok((bound, stream, fault))
    }

    pub(super) fn upload(&self, bound: &Bound, stream: &Stream, given: &[TensorView<'_>]) -> Result<(), SessionError> {
        for (&v, view) in self.program.inputs.iter().zip(given) {
            if let Some(slice) = bound.slice(self, v) {
                slice.upload(view.data, stream)?;
            }
        }
        Ok(())
    }

    /// Puts the whole program into the stream: launch by launch the first time, since libraries load kernels then, afterwards as a graph.
    fn replay(&self, bound: &mut Bound, stream: &Stream, fault: &DeviceBuffer) -> Result<(), SessionError> {
        if bound.graph.is_none() {
            let all = |stream: &Stream| -> Result<(), SessionError> {
                fault.as_slice().fill(0, stream)?;
                (0..self.launches.len()).try_for_each(|at| bound.launch(self, at, stream))
            };
            all(stream)?;
            stream.synchronize()?;
            let graph = stream.capture(all)?.instantiate()?;
            bound.graph = Some(graph);
        }
        let graph = bound.graph.as_ref().expect("just made");
        // SAFETY: the graph's memory is the bound's arena and workspace, the session's constants and modules: all outlive the stream's work,
        // which is waited for before any of them goes.
        #[allow(unsafe_code)]
        unsafe { graph.launch(stream) }.map_err(SessionError::from)
    }

    pub(super) fn check_fault(&self, fault: &DeviceBuffer, stream: &Stream) -> Result<(), SessionError> {
        let mut bytes = [0; 4];
        fault.as_slice().download(&mut bytes, stream)?;
        let launch = u32::from_ne_bytes(bytes) as usize;
        match launch.checked_sub(1).and_then(|at| self.launches.get(at)) {
            Some(loaded) => Err(step_error(&self.program.steps[loaded.steps.end - 1], "an index is out of range")),
            None => Ok(()),
        }
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
        let mut out = Vec::with_capacity(self.program.outputs.len());
        for (name, v) in &self.program.outputs {
            let root = self.program.values[*v].root;
            let tensor = match self.program.values[root].source {
                // Never computed: as the caller gave it, or as it is in the plan.
                Source::Input(position) => {
                    let ty = self.program.values[*v].ty.dtype;
                    TensorView { dtype: ty, shape: &bound.shapes[*v], data: given[position].data }.to_tensor()
                }
                Source::Computed(_) => self.download(bound, *v, stream)?,
                _ => match self.program.constant(*v, &bound.shapes[*v])? {
                    Some(view) => view.to_tensor(),
                    None => self.download(bound, *v, stream)?,
                },
            };
            out.push((name.clone(), tensor));
        }
        Ok(out)
    }
}
