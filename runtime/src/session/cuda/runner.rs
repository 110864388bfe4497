//! Runs of a loaded plan, one after the other on one stream: inputs onto the device, the graph of the shape, outputs away, and
//! the host waits only when it wants to.

use std::sync::{Arc, Mutex, MutexGuard};

use super::super::program::Source;
use super::super::{SessionError, SessionOptions, inputs};
use super::Gpu;
use super::bound::{Bound, BoundCache, OnShape};
use super::options::CallerStream;
use super::pending::{DeviceTensor, Output, OutputData, PendingRun};
use super::staging::{Places, Staging};
use super::trial::{self, Entrant, Fill};
use super::variants::{Decision, Variants};
use crate::cuda::driver::{DeviceBuffer, DeviceSlice, Event, PinnedBuffer, Stream};
use crate::plan::Plan;
use crate::tensor::{Tensor, TensorView};

/// See the module documentation.
pub struct Runner {
    variants: Arc<Variants>,
    memory_limit: Option<usize>,
    staging: Staging,
    state: Mutex<State>,
}

/// What runs change.
pub struct State {
    bound: BoundCache,
    /// Where kernels note faults in data.
    fault: DeviceBuffer,
    stream: Stream,
    /// A stream of the runner's own, for what a caller's may not allow.
    recorder: Stream,
}

/// The variant and its program on a shape, and what a run needs besides.
pub(super) struct Ready<'s> {
    pub gpu: Arc<Gpu>,
    pub bound: &'s mut Bound,
    pub fault: &'s DeviceBuffer,
    pub stream: &'s Stream,
    pub recorder: &'s Stream,
}

/// A run's inputs in the plan's order, and where its outputs go.
enum Io<'a> {
    /// From the host, and back to it.
    Host(&'a [TensorView<'a>]),
    /// From device memory, and to it: an output's position, and where.
    Device(&'a [DeviceTensor<'a>], &'a [(usize, DeviceTensor<'a>)]),
}

impl Runner {
    /// Loads a plan onto the device of this ordinal.
    pub fn load(plan: Arc<Plan>, ordinal: usize, options: &SessionOptions) -> Result<Runner, SessionError> {
        let variants = Arc::new(Variants::new(plan, ordinal, options)?);
        Runner::new(variants, options.cuda.stream, options.memory_limit)
    }

    /// Another one on the same loaded plan.
    pub fn share(&self, stream: Option<CallerStream>) -> Result<Runner, SessionError> {
        Runner::new(self.variants.clone(), stream, self.memory_limit)
    }

    fn new(variants: Arc<Variants>, stream: Option<CallerStream>, memory_limit: Option<usize>) -> Result<Runner, SessionError> {
        let context = &variants.base.context;
        let recorder = Stream::new(context)?;
        let stream = match stream {
            // SAFETY: a stream of this context that outlives the session, as whoever made the `CallerStream` has promised.
            #[allow(unsafe_code)]
            Some(stream) => unsafe { Stream::borrow(context, stream.raw()) },
            None => Stream::new(context)?,
        };
        // Where no kernel may note a fault, nothing clears it again.
        let fault = DeviceBuffer::from_host(&[0; 4], &recorder)?;
        let state = Mutex::new(State { bound: BoundCache::default(), fault, stream, recorder });
        Ok(Runner { variants, memory_limit, staging: Staging::default(), state })
    }

    pub fn variants(&self) -> &Variants {
        &self.variants
    }

    /// Runs the program and waits. `given` are (name, data) pairs.
    pub fn run(self: &Arc<Self>, given: &[(&str, TensorView<'_>)]) -> Result<Vec<(String, Tensor)>, SessionError> {
        self.start(given)?.wait()
    }

    /// Starts a run from the host and back.
    pub fn start(self: &Arc<Self>, given: &[(&str, TensorView<'_>)]) -> Result<PendingRun, SessionError> {
        let arranged = inputs::arrange(&self.variants.inputs, given)?;
        let shapes: Vec<&[usize]> = arranged.iter().map(|v| v.shape).collect();
        // SAFETY: nothing in device memory is given.
        #[allow(unsafe_code)]
        unsafe {
            self.enqueue(&shapes, &Io::Host(&arranged))
        }
    }

    /// Starts a run within the device.
    ///
    /// # Safety
    /// As [`Session::start_on_device`](super::super::Session::start_on_device).
    #[allow(unsafe_code)]
    pub unsafe fn start_on_device(
        self: &Arc<Self>,
        given: &[(&str, DeviceTensor<'_>)],
        wanted: &[(&str, DeviceTensor<'_>)],
    ) -> Result<PendingRun, SessionError> {
        let arranged = inputs::arrange_by_name(&self.variants.inputs, given, |port, tensor| {
            inputs::check_type(port, tensor.dtype, tensor.shape)?;
            tensor.check_address(&port.name)
        })?;
        let mut outputs = Vec::with_capacity(wanted.len());
        for (name, tensor) in wanted {
            let Some(position) = self.variants.outputs.iter().position(|p| p.name == *name) else {
                let known = self.variants.outputs.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
                return Err(SessionError::UnknownOutput { name: (*name).to_owned(), known });
            };
            tensor.check_address(name)?;
            outputs.push((position, *tensor));
        }
        let shapes: Vec<&[usize]> = arranged.iter().map(|v| v.shape).collect();
        // SAFETY: as the caller promises.
        unsafe { self.enqueue(&shapes, &Io::Device(&arranged, &outputs)) }
    }

    /// The variant for the inputs' shapes, which fit the ranks of the plan's, and its program on these. With `fill`, which puts
    /// the inputs where a variant reads them, variants are measured where that is to be done.
    pub(super) fn bound<'s>(
        &self,
        state: &'s mut State,
        shapes: &[&[usize]],
        fill: Option<Fill<'_>>,
    ) -> Result<Ready<'s>, SessionError> {
        let State { bound, fault, stream, recorder } = state;
        let ready = bound.get(shapes, fill.is_some(), |cache| {
            let symbols = inputs::unify(&self.variants.inputs, shapes, &self.variants.base.plan.manifest().symbols)?;
            let on_shape = |cache: &mut BoundCache, position, settled| {
                let gpu = self.variants.get(position)?;
                let bound = Bound::new(&gpu, &symbols, cache, fault.as_slice(), self.memory_limit)?;
                Ok(OnShape { gpu, bound, settled })
            };
            // One session at a time measures: what runs beside it would disturb it.
            let mut alone = None;
            let (rows, preferred, budget, fill) = loop {
                match (self.variants.decide(&symbols)?, fill) {
                    (Decision::Certain(position), _) => return on_shape(cache, position, true),
                    (Decision::Measure { preferred, .. }, None) => return on_shape(cache, preferred, false),
                    // Another session may have measured it meanwhile.
                    (Decision::Measure { .. }, Some(_)) if alone.is_none() => alone = Some(self.variants.alone()),
                    (Decision::Measure { rows, preferred, budget }, Some(fill)) => break (rows, preferred, budget, fill),
                }
            };
            // Runs that were started use the same memory.
            stream.synchronize()?;
            let mut entrants = Vec::new();
            for position in 0..self.variants.base.cuda().variants.len() {
                match on_shape(cache, position, true) {
                    Ok(ready) => entrants.push(Entrant { position, gpu: ready.gpu, bound: ready.bound }),
                    Err(e) if position == preferred => return Err(e),
                    Err(e) => self.variants.leave_out(position, &e),
                }
            }
            let times = trial::times(&mut entrants, fill, recorder, fault, budget)?;
            let fastest = self.variants.settle_measured(rows, entrants.iter().map(|e| e.position).zip(times).collect());
            let Entrant { gpu, bound, position } = entrants.swap_remove(fastest);
            if cache.holds(&bound) { Ok(OnShape { gpu, bound, settled: true }) } else { on_shape(cache, position, true) }
        })?;
        Ok(Ready { gpu: ready.gpu.clone(), bound: &mut ready.bound, fault, stream, recorder })
    }

    /// The variant that runs on these inputs.
    pub fn variant_of(&self, given: &[(&str, TensorView<'_>)]) -> Result<String, SessionError> {
        self.with_bound(given, |gpu, _, _, _, _| Ok(gpu.name.clone()))
    }

    pub(super) fn put_back(&self, staging: PinnedBuffer) {
        self.staging.put_back(staging);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        super::lock(&self.state)
    }

    /// Puts a run into the stream.
    ///
    /// # Safety
    /// What is given in device memory is there until the stream has passed the run.
    #[allow(unsafe_code)]
    unsafe fn enqueue(self: &Arc<Self>, shapes: &[&[usize]], io: &Io<'_>) -> Result<PendingRun, SessionError> {
        let mut state = self.lock();
        // SAFETY: as the caller promises.
        let fill = |gpu: &Gpu, bound: &Bound, stream: &Stream| unsafe { fill(gpu, bound, stream, io) };
        let ready = self.bound(&mut state, shapes, Some(&fill))?;
        let gpu = &*ready.gpu.clone();
        let mut places = Places::default();
        let fault = places.next(size_of::<u32>());
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        match io {
            Io::Host(given) => {
                inputs.extend(given.iter().map(|view| places.next(view.data.len())));
                for (name, v) in &gpu.program.outputs {
                    let shape = &ready.bound.shapes[*v];
                    let data = match gpu.never_computed(*v, shape, given)? {
                        Some(view) => OutputData::Known(view.to_tensor()),
                        None => OutputData::Staged {
                            dtype: gpu.program.values[*v].ty.dtype,
                            shape: shape.clone(),
                            place: places.next(ready.bound.bytes(gpu, *v)),
                        },
                    };
                    outputs.push(Output { name: name.clone(), data });
                }
            }
            Io::Device(_, wanted) => {
                for (position, tensor) in *wanted {
                    let (name, v) = &gpu.program.outputs[*position];
                    let ty = crate::op::TensorType::new(gpu.program.values[*v].ty.dtype, ready.bound.shapes[*v].iter().copied());
                    let given = crate::op::TensorType::new(tensor.dtype, tensor.shape.iter().copied());
                    if ty != given {
                        return Err(SessionError::InputType { name: name.clone(), expected: ty, given });
                    }
                }
            }
        }
        let mut staging = self.staging.take(&gpu.context, places.bytes())?;
        let queued = Event::ordering(&gpu.context).map_err(SessionError::from).and_then(|done| {
            match io {
                Io::Host(given) => {
                    for ((&v, view), place) in gpu.program.inputs.iter().zip(*given).zip(&inputs) {
                        let Some(slice) = ready.bound.slice(gpu, v) else { continue };
                        let staged = &mut staging[place.clone()];
                        staged.copy_from_slice(view.data);
                        // SAFETY: nobody else has the staging buffer until the run is done.
                        unsafe { slice.upload_async(staged, ready.stream)? };
                    }
                }
                // SAFETY: as the caller promises.
                Io::Device(..) => unsafe { self::fill(gpu, ready.bound, ready.stream, io)? },
            }
            ready.bound.replay(gpu, ready.stream, ready.recorder, ready.fault)?;
            match io {
                Io::Host(_) => {
                    for ((_, v), output) in gpu.program.outputs.iter().zip(&outputs) {
                        let OutputData::Staged { place, .. } = &output.data else { continue };
                        let Some(slice) = ready.bound.slice(gpu, *v) else { continue };
                        // SAFETY: nobody else has the staging buffer until the run is done.
                        unsafe { slice.download_async(&mut staging[place.clone()], ready.stream)? };
                    }
                }
                // SAFETY: as the caller promises.
                Io::Device(given, wanted) => unsafe { copy_out(gpu, &ready, given, wanted)? },
            }
            // SAFETY: nobody else has the staging buffer until the run is done.
            unsafe { ready.fault.as_slice().download_async(&mut staging[fault.clone()], ready.stream)? };
            ready.stream.record(&done)?;
            Ok(done)
        });
        match queued {
            Ok(done) => Ok(PendingRun::new((self.clone(), ready.gpu.clone()), done, staging, fault, outputs)),
            Err(e) => {
                // What is in the stream already may copy from and to the staging buffer.
                match ready.stream.synchronize() {
                    Ok(()) => self.put_back(staging),
                    Err(_) => std::mem::forget(staging),
                }
                Err(e)
            }
        }
    }
}

/// Puts inputs where a variant reads them.
///
/// # Safety
/// What is given in device memory is there.
#[allow(unsafe_code)]
unsafe fn fill(gpu: &Gpu, bound: &Bound, stream: &Stream, io: &Io<'_>) -> Result<(), SessionError> {
    match io {
        Io::Host(given) => gpu.upload(bound, stream, given),
        Io::Device(given, _) => {
            for (&v, tensor) in gpu.program.inputs.iter().zip(*given) {
                let Some(slice) = bound.slice(gpu, v) else { continue };
                // SAFETY: as the caller promises; the shape is the input's.
                slice.copy_from(unsafe { DeviceSlice::from_raw(tensor.pointer, slice.len()) }, stream)?;
            }
            Ok(())
        }
    }
}

/// Puts copying outputs to device memory into the stream.
///
/// # Safety
/// The given and wanted tensors, whose types are checked, are there until the stream has passed the copies.
#[allow(unsafe_code)]
unsafe fn copy_out(
    gpu: &Gpu,
    ready: &Ready<'_>,
    given: &[DeviceTensor<'_>],
    wanted: &[(usize, DeviceTensor<'_>)],
) -> Result<(), SessionError> {
    for (position, tensor) in wanted {
        let v = gpu.program.outputs[*position].1;
        // SAFETY: as the caller promises.
        let to = unsafe { DeviceSlice::from_raw(tensor.pointer, ready.bound.bytes(gpu, v)) };
        if let Source::Input(from) = gpu.program.values[gpu.program.values[v].root].source {
            // SAFETY: likewise; aliases have as many bytes.
            to.copy_from(unsafe { DeviceSlice::from_raw(given[from].pointer, to.len()) }, ready.stream)?;
        } else if let Some(constant) = gpu.never_computed(v, &ready.bound.shapes[v], &[])? {
            // SAFETY: the plan's data, which the run holds.
            unsafe { to.upload_async(constant.data, ready.stream)? };
        } else if let Some(from) = ready.bound.slice(gpu, v) {
            to.copy_from(from, ready.stream)?;
        }
    }
    Ok(())
}
