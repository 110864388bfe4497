//! Sessions on a GPU: runs that are only started, device memory, callers' streams and allocators, shared weights. The plan, compiled for the
//! GPU, is the one that `SLIDERUN_TEST_PLAN` names.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use sliderun::cuda::driver::{Context, DeviceAllocator, DeviceBuffer, Stream};
use sliderun::plan::Plan;
use sliderun::plan::cuda::Work;
use sliderun::session::{
    CacheFolder, CallerStream, CudaOptions, Device, DeviceTensor, Session, SessionError, SessionOptions, SparseForm, Tuning,
};
use sliderun::tensor::{Tensor, TensorView};
use sliderun::tool::{random, symbols};

use crate::support::Gpu;

struct Case {
    gpu: Gpu,
    plan: Arc<Plan>,
    /// Inputs of two shapes.
    inputs: Vec<Vec<(String, Tensor)>>,
}

impl Case {
    fn find() -> Option<Case> {
        let gpu = Gpu::find()?;
        let Some(path) = std::env::var_os("SLIDERUN_TEST_PLAN") else {
            println!("skipped: SLIDERUN_TEST_PLAN is not set");
            return None;
        };
        let plan = Arc::new(Plan::open(path.as_ref()).unwrap());
        let mut case = Case { gpu, plan, inputs: Vec::new() };
        let session = case.session(CudaOptions::default());
        for (seed, last) in [(1, 7), (2, 40)] {
            let mut shape = symbols::complete(&Default::default(), session.symbols()).unwrap();
            if let Some(value) = shape.values_mut().last() {
                *value = last;
            }
            case.inputs.push(random::inputs(session.inputs(), &shape, seed).unwrap());
        }
        Some(case)
    }

    fn session(&self, cuda: CudaOptions) -> Session {
        // Sums of floats must not differ from one session to the next.
        let cuda = cuda.with_tuning(Tuning::Off).with_cache(CacheFolder::Nowhere);
        Session::new(self.plan.clone(), Device::Cuda(0), SessionOptions::default().with_cuda(cuda)).unwrap()
    }

    fn views(&self, at: usize) -> Vec<(&str, TensorView<'_>)> {
        self.inputs[at].iter().map(|(name, t)| (name.as_str(), t.view())).collect()
    }

    /// A run within the device; its outputs, when the device has them.
    fn run_on_device(&self, session: &Session, at: usize, like: &[(String, Tensor)]) -> Vec<Vec<u8>> {
        let views = self.views(at);
        let given: Vec<DeviceBuffer> = views.iter().map(|(_, v)| self.gpu.upload(v.data)).collect();
        let wanted: Vec<DeviceBuffer> = like.iter().map(|(_, t)| self.gpu.poisoned(t.bytes().len())).collect();
        self.gpu.stream.synchronize().unwrap();
        let place = |v: TensorView<'_>, buffer: &DeviceBuffer| (v.dtype, v.shape.to_vec(), buffer.as_slice().pointer());
        let inputs: Vec<_> = views.iter().zip(&given).map(|((_, v), b)| place(*v, b)).collect();
        let outputs: Vec<_> = like.iter().zip(&wanted).map(|((_, t), b)| place(t.view(), b)).collect();
        fn tensors<'a>(
            names: impl Iterator<Item = &'a str>,
            places: &'a [(sliderun::dtype::DType, Vec<usize>, u64)],
        ) -> Vec<(&'a str, DeviceTensor<'a>)> {
            names
                .zip(places.iter().map(|(dtype, shape, pointer)| DeviceTensor { dtype: *dtype, shape, pointer: *pointer }))
                .collect()
        }
        let inputs = tensors(views.iter().map(|(name, _)| *name), &inputs);
        let outputs = tensors(like.iter().map(|(name, _)| name.as_str()), &outputs);
        // SAFETY: buffers of the tensors' sizes, that are filled and outlive the run.
        let run = unsafe { session.start_on_device(&inputs, &outputs).unwrap() };
        assert_eq!(run.wait().unwrap().len(), 0);
        // What does not fit is refused before anything is put into the stream.
        // SAFETY: nothing is read or written.
        let refused = |inputs: &[(&str, DeviceTensor<'_>)], outputs: &[(&str, DeviceTensor<'_>)]| unsafe {
            session.start_on_device(inputs, outputs).map(|_| ()).unwrap_err().to_string()
        };
        assert!(refused(&inputs, &[("nonsense", outputs[0].1)]).contains("no output 'nonsense'"));
        assert!(refused(&inputs, &[(outputs[0].0, DeviceTensor { shape: &[1], ..outputs[0].1 })]).contains("expected"));
        assert!(refused(&[(inputs[0].0, DeviceTensor { pointer: 1, ..inputs[0].1 })], &[]).contains("no address"));
        assert!(refused(&inputs[1..], &[]).contains("missing"));
        wanted.iter().map(|b| self.gpu.download(b)).collect()
    }
}

fn bytes(outputs: &[(String, Tensor)]) -> Vec<Vec<u8>> {
    outputs.iter().map(|(_, t)| t.bytes().to_vec()).collect()
}

#[test]
fn however_it_is_run_a_plan_gives_the_same() {
    let Some(case) = Case::find() else { return };
    let session = case.session(CudaOptions::default());
    let expected: Vec<_> = [0, 1].map(|at| session.run(&case.views(at)).unwrap()).into();
    // Several runs under way, waited for in another order; one is dropped.
    let mut pending: Vec<_> = (0..6).map(|i| (i % 2, session.start(&case.views(i % 2)).unwrap())).collect();
    drop(pending.remove(2));
    for (at, run) in pending.into_iter().rev() {
        assert!(!run.event().is_null());
        assert_eq!(bytes(&run.wait().unwrap()), bytes(&expected[at]));
    }
    for (at, expected) in expected.iter().enumerate() {
        assert_eq!(case.run_on_device(&session, at, expected), bytes(expected));
    }
    // One kernel after the other, as where none can be started early; the second run is a graph.
    let serial = case.session(CudaOptions::default().with_no_overlap(true));
    for at in [0, 0, 1, 1] {
        assert_eq!(bytes(&serial.run(&case.views(at)).unwrap()), bytes(&expected[at]));
    }
    // Side by side, on the same weights.
    let before = session.cuda_report();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (session, case, expected) = (session.share(None).unwrap(), &case, &expected);
            scope.spawn(move || {
                for i in 0..20 {
                    let at = (thread + i) % 2;
                    assert_eq!(bytes(&session.run(&case.views(at)).unwrap()), bytes(&expected[at]));
                }
            });
        }
    });
    assert_eq!(session.cuda_report(), before, "nothing is loaded or planned again");
}

#[test]
fn kernels_run_without_the_libraries() {
    let Some(case) = Case::find() else { return };
    let cuda = &case.plan.manifest().cuda.as_ref().unwrap().variants[0];
    let options = SessionOptions::default().with_variant(cuda.name.clone());
    let reference = options.clone().with_cuda_program(true).with_sparse_form(SparseForm::Compressed);
    let mut known = BTreeMap::new();
    let cpu = Session::new(case.plan.clone(), Device::Cpu, reference).unwrap();
    cpu.run_traced(&case.views(0), &mut |step| {
        known.extend(step.values.iter().map(|v| (v.name.to_owned(), v.view.to_tensor())));
    })
    .unwrap();
    let kernels_only = CudaOptions::default().with_kernels_only(true).with_cache(CacheFolder::Nowhere);
    let session = Session::new(case.plan.clone(), Device::Cuda(0), options.with_cuda(kernels_only)).unwrap();
    let kernels: Vec<usize> =
        cuda.launched().filter(|(_, l)| matches!(l.work, Work::Kernel(_))).map(|(steps, _)| steps.end - 1).collect();
    let mut seen = Vec::new();
    session.run_fed(&case.views(0), &|name| known.get(name).map(Tensor::view), &mut |step| seen.push(step.index)).unwrap();
    assert_eq!(seen, kernels);
    assert_eq!(session.cuda_report().plans, 0);
    // What nothing computes is missed, and what would need products fails.
    if kernels.len() < cuda.launches.len() {
        let missed = session.run_fed(&case.views(0), &|_| None, &mut |_| {}).unwrap_err().to_string();
        assert!(missed.contains("neither computed nor given"), "{missed}");
        let refused = session.run(&case.views(0)).map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains("leaves products out"), "{refused}");
    }
}

/// Takes and gives back the driver's memory, and counts.
#[derive(Debug)]
struct Counting {
    buffers: Mutex<Vec<DeviceBuffer>>,
    context: Context,
    bytes: AtomicUsize,
}

// SAFETY: buffers of the driver, each given once.
unsafe impl DeviceAllocator for Counting {
    fn allocate(&self, bytes: usize) -> Option<u64> {
        let buffer = DeviceBuffer::new(&self.context, bytes).ok()?;
        let pointer = buffer.as_slice().pointer();
        self.buffers.lock().unwrap().push(buffer);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Some(pointer)
    }

    fn free(&self, pointer: u64, bytes: usize) {
        let mut buffers = self.buffers.lock().unwrap();
        let at = buffers.iter().position(|b| b.as_slice().pointer() == pointer).unwrap();
        assert_eq!(buffers.swap_remove(at).len(), bytes);
    }
}

#[test]
fn callers_bring_stream_and_memory() {
    let Some(case) = Case::find() else { return };
    let expected = case.session(CudaOptions::default()).run(&case.views(0)).unwrap();
    let context = case.gpu.context.clone();
    let allocator = Arc::new(Counting { buffers: Mutex::default(), context, bytes: AtomicUsize::new(0) });
    let stream = Stream::new(&case.gpu.context).unwrap();
    // The default stream, too, which cannot be captured.
    for handle in [stream.handle(), std::ptr::null_mut()] {
        // SAFETY: a stream of the primary context that outlives the session, or the default one.
        let stream = unsafe { CallerStream::from_raw(handle) };
        let session = case.session(CudaOptions::default().with_stream(stream).with_allocator(allocator.clone()));
        for _ in 0..3 {
            assert_eq!(bytes(&session.run(&case.views(0)).unwrap()), bytes(&expected));
        }
        assert!(!allocator.buffers.lock().unwrap().is_empty());
        drop(session);
        assert!(allocator.buffers.lock().unwrap().is_empty(), "everything is given back");
    }
    println!("{} bytes allocated", allocator.bytes.load(Ordering::Relaxed));
}

#[test]
fn memory_has_its_limits() {
    let Some(case) = Case::find() else { return };
    let options = SessionOptions::default().with_memory_limit(100);
    let session = Session::new(case.plan.clone(), Device::Cuda(0), options).unwrap();
    let error = session.run(&case.views(0)).map(|_| ()).unwrap_err();
    assert!(matches!(error, SessionError::Memory { .. }), "{error}");
    // Nothing but the device is too small.
    let (free, _) = case.gpu.context.memory().unwrap();
    let error = DeviceBuffer::new(&case.gpu.context, free + (1 << 30)).unwrap_err().to_string();
    assert!(error.contains("out of memory"), "{error}");
}
