//! The functions that GPUs are said to compute as the CPU does, to the bit, on a GPU.

#![allow(unsafe_code)]

use std::ffi::CString;

use sliderun::cpu::eval;
use sliderun::cuda::driver::{Args, LaunchShape, Module};
use sliderun::tensor::Tensor;
use sliderun::tool::check::{EXACT, has_fused_multiply_add};

use crate::functions::functor;
use crate::nvrtc::compile;
use crate::support::{Gpu, Random, Report};

const FUNCTIONS: &str = include_str!("../../../kernels/src/cuda/activation.cuh");

#[test]
fn functions_give_the_numbers_of_the_cpu() {
    const COUNT: usize = 1 << 22;
    let Some(gpu) = Gpu::find() else { return };
    if !has_fused_multiply_add() {
        println!("skipped: this CPU has no fused multiply-add");
        return;
    }
    let mut source = FUNCTIONS.to_owned();
    for (i, f) in EXACT.iter().enumerate() {
        let at = "blockIdx.x * blockDim.x + threadIdx.x";
        let body = format!("unsigned i = {at}; y[i] = {}(x[i]);", functor(*f));
        source += &format!("extern \"C\" __global__ void f{i}(const float* x, float* y) {{ {body} }}\n");
    }
    let (major, minor) = gpu.context.device().capability;
    let Some(cubin) = compile(&CString::new(source).unwrap(), &format!("{major}{minor}")) else { return };
    let module = Module::load(&gpu.context, "the test", &cubin).unwrap();
    let mut random = Random::fresh();
    // Every sign, exponent and beginning of a mantissa.
    let bits = (0..COUNT as u32).map(|high| high << 10 | (random.next() >> 54) as u32);
    let inputs: Vec<f32> = bits.map(f32::from_bits).collect();
    let x = Tensor::from_slice(&[COUNT], &inputs).unwrap();
    let (from, to) = (gpu.upload(x.bytes()), gpu.poisoned(4 * COUNT));
    let mut report = Report::default();
    for (i, f) in EXACT.iter().enumerate() {
        let mut args = Args::new();
        args.pointer(from.as_slice()).pointer(to.as_slice());
        let shape = LaunchShape { grid: [COUNT as u32 / 256, 1, 1], block: [256, 1, 1], shared_bytes: 0 };
        // SAFETY: two buffers of as many floats as there are threads.
        unsafe { module.function(&format!("f{i}"), 0).unwrap().launch(&gpu.stream, shape, &args) }.unwrap();
        let got = gpu.download(&to);
        let got = got.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let cpu = eval(&(*f).into(), &[Some(x.view())]).unwrap();
        let different = |(got, want): &(f32, &f32)| got.to_bits() != want.to_bits() && !(got.is_nan() && want.is_nan());
        let mut wrong = got.zip(cpu[0].as_slice::<f32>().unwrap()).zip(&inputs).filter(|(pair, _)| different(pair));
        report.add(match wrong.next() {
            None => Ok(format!("{f:?}: {COUNT} equal")),
            Some(((got, want), x)) => {
                Err(format!("{f:?} of {x:e} is {got:e}, {want:e} on the CPU, and {} others differ", wrong.count()))
            }
        });
    }
    report.end();
}
