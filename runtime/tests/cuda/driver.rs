//! Memory, streams, events, cubins and graphs.

#![allow(unsafe_code)]

use std::time::Duration;

use sliderun::cuda::CudaError;
use sliderun::cuda::driver::{Args, Context, DeviceBuffer, Event, LaunchShape, Module, PinnedBuffer, Stream};
use sliderun::cuda::nvml::{self, Monitor};

use crate::nvrtc::compile;
use crate::support::{Gpu, POISON, Random};

/// y = a · x + y, a reversal within blocks through dynamic shared memory, and y = reversed x + 1 by blocks that call the next launch and take
/// their time before they write.
const SOURCE: &std::ffi::CStr = cr#"
extern "C" __global__ void axpy(const float* x, float* y, float a, long long n) {
    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}
extern "C" __global__ void reverse(int* x, int n) {
    extern __shared__ int staged[];
    for (int i = threadIdx.x; i < n; i += blockDim.x) staged[i] = x[i];
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] = staged[n - 1 - i];
}
extern "C" __global__ void slow_step(const int* x, int* y, int n) {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    __nanosleep(20000);
#endif
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[n - 1 - i] + 1;
}
"#;

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn device_and_clocks() {
    let Some(gpu) = Gpu::find() else { return };
    let device = gpu.context.device();
    println!("{device:?}");
    assert!(!device.name.is_empty() && device.memory > 1 << 30 && device.multiprocessors > 0 && device.capability.0 >= 7);
    let (free, total) = gpu.context.memory().unwrap();
    assert!(0 < free && free <= total && total <= device.memory + (1 << 30));
    let count = sliderun::cuda::driver::Driver::get().unwrap().device_count().unwrap();
    let error = Context::new(count).unwrap_err();
    assert!(matches!(error, CudaError::Ordinal { .. }), "{error}");
    match Monitor::new(device) {
        Ok(monitor) => {
            println!(
                "NVML: {:?}, driver {:?}, now {:?}, at most {:?}",
                monitor.name(),
                nvml::driver_version(),
                monitor.read(),
                monitor.limits()
            );
        }
        Err(e) => println!("NVML: {e}"),
    }
}

#[test]
fn copies_go_round_and_stay_in_bounds() {
    let Some(gpu) = Gpu::find() else { return };
    let mut random = Random::fresh();
    for len in [0usize, 1, 3, 256, 1 << 20] {
        let bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        let first = gpu.upload(&bytes);
        let second = gpu.poisoned(len);
        assert!(gpu.download(&second).iter().all(|&b| b == POISON));
        second.as_slice().copy_from(first.as_slice(), &gpu.stream).unwrap();
        assert!(gpu.download(&second) == bytes, "{len} bytes");
        if len >= 3 {
            second.as_slice().slice(1, len - 2).unwrap().fill(7, &gpu.stream).unwrap();
            let got = gpu.download(&second);
            assert!(got[0] == bytes[0] && got[len - 1] == bytes[len - 1] && got[1..len - 1].iter().all(|&b| b == 7));
        }
        for (start, part) in [(len + 1, 0), (0, len + 1), (usize::MAX, 2), (1, usize::MAX)] {
            assert!(matches!(first.as_slice().slice(start, part), Err(CudaError::Range { .. })), "{start}, {part}");
        }
        assert!(matches!(first.as_slice().upload(&vec![0; len + 1], &gpu.stream), Err(CudaError::Range { .. })));
        assert!(matches!(
            first.as_slice().copy_from(gpu.poisoned(len + 1).as_slice(), &gpu.stream),
            Err(CudaError::Range { .. })
        ));
    }
    let mut staged = PinnedBuffer::new(&gpu.context, 1 << 16).unwrap();
    assert!(staged.iter().all(|&b| b == 0));
    staged.iter_mut().for_each(|b| *b = random.next() as u8);
    let mut back = PinnedBuffer::new(&gpu.context, staged.len()).unwrap();
    let buffer = DeviceBuffer::new(&gpu.context, staged.len()).unwrap();
    // SAFETY: neither is touched before the stream is waited for.
    unsafe {
        buffer.as_slice().upload_async(&staged, &gpu.stream).unwrap();
        buffer.as_slice().download_async(&mut back, &gpu.stream).unwrap();
    }
    gpu.stream.synchronize().unwrap();
    assert!(*back == *staged);
}

#[test]
fn too_much_memory_is_an_error_with_sizes() {
    let Some(gpu) = Gpu::find() else { return };
    let error = DeviceBuffer::new(&gpu.context, 1 << 46).unwrap_err();
    assert!(matches!(error, CudaError::OutOfMemory { requested, .. } if requested == 1 << 46), "{error}");
    println!("{error}");
    assert!(PinnedBuffer::new(&gpu.context, 1 << 50).is_err());
    DeviceBuffer::new(&gpu.context, 1 << 20).unwrap();
}

#[test]
fn events_order_and_time() {
    let Some(gpu) = Gpu::find() else { return };
    let other = Stream::new(&gpu.context).unwrap();
    let (start, end) = (Event::timing(&gpu.context).unwrap(), Event::timing(&gpu.context).unwrap());
    let done = Event::ordering(&gpu.context).unwrap();
    let buffer = gpu.poisoned(256 << 20);
    gpu.stream.record(&start).unwrap();
    buffer.as_slice().fill(1, &gpu.stream).unwrap();
    gpu.stream.record(&end).unwrap();
    gpu.stream.record(&done).unwrap();
    other.wait(&done).unwrap();
    buffer.as_slice().slice(0, 16).unwrap().fill(2, &other).unwrap();
    other.synchronize().unwrap();
    assert!(done.is_done().unwrap() && end.is_done().unwrap());
    let time = end.since(&start).unwrap();
    println!("filling 256 MiB took {time:?}");
    assert!(time > Duration::from_micros(5) && time < Duration::from_secs(1));
    assert!(end.since(&done).is_err(), "an event that keeps no time");
    let mut bytes = [0; 17];
    buffer.as_slice().slice(0, 17).unwrap().download(&mut bytes, &gpu.stream).unwrap();
    assert!(bytes[..16] == [2; 16] && bytes[16] == 1);
    // The default stream, as a caller might give it.
    // SAFETY: null is the default stream, always there.
    let default = unsafe { Stream::borrow(&gpu.context, std::ptr::null_mut()) };
    buffer.as_slice().slice(0, 16).unwrap().fill(3, &default).unwrap();
    default.synchronize().unwrap();
    assert!(!default.is_capturing().unwrap());
}

#[test]
fn kernels_launch_with_the_arguments_they_have() {
    let Some(gpu) = Gpu::find() else { return };
    let (major, minor) = gpu.context.device().capability;
    let Some(cubin) = compile(SOURCE, &format!("{major}{minor}")) else { return };
    let mut random = Random::fresh();
    let n = 1000usize;
    let value = |bits: u64| (bits % 2001) as f32 - 1000.0;
    let (x, y): (Vec<f32>, Vec<f32>) = (0..n).map(|_| (value(random.next()), value(random.next()))).unzip();
    // The second time from an odd address.
    let mut shifted = vec![0];
    shifted.extend_from_slice(&cubin);
    for image in [&cubin[..], &shifted[1..]] {
        let module = Module::load(&gpu.context, "test", image).unwrap();
        let axpy = module.function("axpy", 0).unwrap();
        assert_eq!(axpy.parameters(), [8, 8, 4, 8]);
        let (device_x, device_y) = (gpu.upload(&floats(&x)), gpu.upload(&floats(&y)));
        let mut args = Args::new();
        args.pointer(device_x.as_slice()).pointer(device_y.as_slice()).f32(3.0).i64(n as i64);
        // SAFETY: the kernel stays within n elements of both.
        unsafe {
            axpy.launch(&gpu.stream, LaunchShape::linear(0, 256), &args).unwrap();
            axpy.launch(&gpu.stream, LaunchShape::linear(4, 256), &args).unwrap();
            let few = axpy.launch(&gpu.stream, LaunchShape::linear(4, 256), Args::new().pointer(device_x.as_slice()));
            assert!(few.unwrap_err().to_string().contains("the arguments [8]"));
            let mut wrong = args.clone();
            wrong.clear();
            wrong.pointer(device_x.as_slice()).null().i64(0).i64(0);
            assert!(axpy.launch(&gpu.stream, LaunchShape::linear(4, 256), &wrong).is_err(), "a long long for a float");
            let shared = LaunchShape { shared_bytes: 64, ..LaunchShape::linear(4, 256) };
            assert!(axpy.launch(&gpu.stream, shared, &args).unwrap_err().to_string().contains("announced"));
            assert!(axpy.launch(&gpu.stream, LaunchShape::linear(1, 4096), &args).is_err(), "a block too large");
        }
        let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| 3.0 * x + y).collect();
        assert!(gpu.download(&device_y) == floats(&expected));
    }

    let module = Module::load(&gpu.context, "test", &cubin).unwrap();
    let most = gpu.context.device().max_shared_bytes;
    let reverse = module.function("reverse", most).unwrap();
    let len = most as usize / 4;
    let ints = |values: Vec<i32>| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let device_x = gpu.upload(&ints((0..len as i32).collect()));
    let shape = LaunchShape { shared_bytes: most, ..LaunchShape::linear(1, 1024) };
    // SAFETY: the kernel stays within len elements.
    unsafe { reverse.launch(&gpu.stream, shape, Args::new().pointer(device_x.as_slice()).i32(len as i32)).unwrap() };
    assert!(gpu.download(&device_x) == ints((0..len as i32).rev().collect()));
    assert!(module.function("reverse", most + 1024).unwrap_err().to_string().contains("of at most"));

    let error = module.function("nothing", 0).unwrap_err().to_string();
    assert_eq!(error, "the cubin 'test' has no kernel 'nothing'");
    for (image, reason) in [(&cubin[..cubin.len() / 2], "leave"), (b"PTX", "ELF")] {
        let error = Module::load(&gpu.context, "broken", image).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains("'broken'"), "{error}");
    }
    let other = if major == 12 { "90" } else { "120" };
    if let Some(cubin) = compile(SOURCE, other) {
        let error = Module::load(&gpu.context, "other", &cubin).unwrap_err().to_string();
        println!("{error}");
        assert!(error.contains(&format!("compute capability {major}.{minor}")), "{error}");
    }
    gpu.context.synchronize().unwrap();
}

#[test]
fn graphs_replay_what_was_captured() {
    let Some(gpu) = Gpu::find() else { return };
    let (major, minor) = gpu.context.device().capability;
    let Some(cubin) = compile(SOURCE, &format!("{major}{minor}")) else { return };
    let axpy = Module::load(&gpu.context, "test", &cubin).unwrap().function("axpy", 0).unwrap();
    let n = 4096usize;
    let x = gpu.upload(&floats(&vec![1.0; n]));
    let (y, z) = (gpu.poisoned(4 * n), gpu.poisoned(4 * n));
    let capture = |to: &DeviceBuffer, launches: usize| {
        gpu.stream.capture(|stream| {
            assert!(stream.is_capturing().unwrap());
            to.as_slice().fill(0, stream)?;
            for _ in 0..launches {
                let mut args = Args::new();
                args.pointer(x.as_slice()).pointer(to.as_slice()).f32(2.0).i64(n as i64);
                // SAFETY: the kernel stays within n elements of both.
                unsafe { axpy.launch(stream, LaunchShape::linear(16, 256), &args)? };
            }
            Ok::<(), CudaError>(())
        })
    };
    let graph = capture(&y, 3).unwrap();
    assert_eq!(graph.node_count().unwrap(), 4);
    let mut exec = graph.instantiate().unwrap();
    drop(graph);
    gpu.stream.synchronize().unwrap();
    assert!(gpu.download(&y).iter().all(|&b| b == POISON), "captured, not run");
    let expect = |value: f32, of: &DeviceBuffer| assert!(gpu.download(of) == floats(&vec![value; n]), "{value}");
    for value in [1.0, 5.0] {
        x.as_slice().upload(&floats(&vec![value; n]), &gpu.stream).unwrap();
        // SAFETY: all buffers live.
        unsafe { exec.launch(&gpu.stream).unwrap() };
        expect(6.0 * value, &y);
    }
    // The same work elsewhere is taken over; other work is not, and changes nothing.
    assert!(exec.update(&capture(&z, 3).unwrap()).unwrap());
    assert!(!exec.update(&capture(&y, 2).unwrap()).unwrap());
    // SAFETY: all buffers live.
    unsafe { exec.launch(&gpu.stream).unwrap() };
    expect(30.0, &z);

    // What is forbidden in a capture, or fails in it, leaves a stream that works.
    let waits = gpu.stream.capture(|stream| x.as_slice().upload(&floats(&vec![0.0; n]), stream));
    println!("waiting in a capture: {}", waits.unwrap_err());
    let fails = gpu.stream.capture(|_| Err(CudaError::NoDevice));
    assert!(matches!(fails, Err(CudaError::NoDevice)));
    let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = gpu.stream.capture(|_| -> Result<(), CudaError> { panic!("as it should") });
    }));
    assert!(panics.is_err() && !gpu.stream.is_capturing().unwrap());
    y.as_slice().fill(0, &gpu.stream).unwrap();
    expect(0.0, &y);
}

#[test]
fn any_thread_may_use_a_context() {
    let Some(gpu) = Gpu::find() else { return };
    std::thread::scope(|scope| {
        for value in 0..4u8 {
            let context = gpu.context.clone();
            scope.spawn(move || {
                let stream = Stream::new(&context).unwrap();
                for _ in 0..50 {
                    let buffer = DeviceBuffer::new(&context, 1 << 16).unwrap();
                    buffer.as_slice().fill(value, &stream).unwrap();
                    let mut bytes = vec![POISON; buffer.len()];
                    buffer.as_slice().download(&mut bytes, &stream).unwrap();
                    assert!(bytes.iter().all(|&b| b == value));
                }
            });
        }
    });
}

/// Launches that begin early see what those before them wrote, whatever those follow: kernels, fills, kernels that do not wait.
#[test]
fn kernels_overlap_in_graphs() {
    let Some(gpu) = Gpu::find() else { return };
    let (major, minor) = gpu.context.device().capability;
    let Some(cubin) = compile(SOURCE, &format!("{major}{minor}")) else { return };
    let plain = Module::load(&gpu.context, "test", &cubin).unwrap().function("slow_step", 0).unwrap();
    let early = plain.clone().overlapping(major >= 9);
    let (n, steps) = (4096usize, 40);
    let buffers = [gpu.poisoned(4 * n), gpu.poisoned(4 * n)];
    let step = |stream: &Stream, at: usize| {
        let mut args = Args::new();
        args.pointer(buffers[at % 2].as_slice()).pointer(buffers[(at + 1) % 2].as_slice()).i32(n as i32);
        let function = if at % 8 == 5 { &plain } else { &early };
        // SAFETY: the kernel stays within n elements of both, and waits.
        unsafe { function.launch(stream, LaunchShape::linear(32, 128), &args) }
    };
    let graph = gpu.stream.capture(|stream| {
        (0..steps).try_for_each(|at| {
            if at % 10 == 0 {
                buffers[at % 2].as_slice().fill(0, stream)?;
            }
            step(stream, at)
        })
    });
    let graph = graph.unwrap();
    let expected = (0..steps).filter(|at| at % 10 != 0 && at % 8 != 5).count();
    assert_eq!(graph.overlap_count().unwrap(), if major >= 9 { expected } else { 0 });
    let exec = graph.instantiate().unwrap();
    let ten: Vec<u8> = std::iter::repeat_n(10i32.to_le_bytes(), n).flatten().collect();
    for _ in 0..20 {
        buffers[0].as_slice().fill(POISON, &gpu.stream).unwrap();
        // SAFETY: all buffers live.
        unsafe { exec.launch(&gpu.stream).unwrap() };
        assert!(gpu.download(&buffers[0]) == ten);
    }
    // Nothing overlaps outside graphs, and nothing is wrong.
    buffers[0].as_slice().fill(0, &gpu.stream).unwrap();
    (0..10).try_for_each(|at| step(&gpu.stream, at)).unwrap();
    assert!(gpu.download(&buffers[0]) == ten);
}
