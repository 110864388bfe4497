//! The weight products of a transformer layer in each form: `cargo bench -p sliderun --bench gemm`.
//!
//! A line per form: median µs, GOP/s of the dense product (2·M·N·K, whatever the form skips), and the time against f32's.

use rayon::ThreadPoolBuilder;
use sliderun::cpu::{Context, Kernel};
use sliderun::dtype::DType;
use sliderun::op::gemm::MatMul;
use sliderun::op::sparse::{DenseGemm, Dequant, QuantLift, SparseGemm};
use sliderun::op::{InputTypes, Op, Semantics, TensorType};
use sliderun::sparse::compressed::compress;
use sliderun::sparse::{KLayout, Pattern};
use sliderun::tensor::{Tensor, TensorView};
use std::time::Instant;

/// Deterministic noise in -1 … 1.
fn noise(seed: u64, i: usize) -> f32 {
    let mut z = (seed << 40 ^ i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (z >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

/// A weight [n, K'] that keeps the first two of each group of four: the products' speed does not depend on which.
fn lifted_weight(n: usize, lifted: usize) -> Tensor {
    let value = |i: usize| if i % 4 < 2 { (noise(3, i) * 127.0) as i8 } else { 0 };
    Tensor::from_slice(&[n, lifted], &(0..n * lifted).map(value).collect::<Vec<_>>()).expect("the shape fits")
}

/// Median time of `op` in µs, and its first output.
fn time(op: impl Into<Op>, inputs: &[&Tensor], constants: &[usize]) -> (f64, Tensor) {
    let op = op.into();
    let views: Vec<Option<TensorView<'_>>> = inputs.iter().map(|t| Some(t.view())).collect();
    let types: Vec<TensorType> = inputs.iter().map(|t| TensorType::new(t.dtype(), t.shape().iter().copied())).collect();
    let types: Vec<Option<&TensorType>> = types.iter().map(Some).collect();
    let known: Vec<_> = views.iter().enumerate().map(|(i, v)| v.filter(|_| constants.contains(&i))).collect();
    let prepared = op.prepare(&known).expect("the constants are sound");
    let types = op.infer(InputTypes(&types)).expect("the shapes fit");
    let new = |ty: &TensorType| Tensor::zeros(ty.dtype, &ty.concrete_shape().expect("concrete")).expect("it fits");
    let mut outputs: Vec<Tensor> = types.iter().map(new).collect();
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < 3 || start.elapsed().as_secs_f64() < 0.7 {
        let mut out: Vec<_> = outputs.iter_mut().map(Tensor::view_mut).collect();
        let once = Instant::now();
        op.run(Context { prepared: prepared.as_ref() }, &views, &mut out).expect("the product runs");
        times.push(once.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], outputs.remove(0))
}

fn bench(m: usize, k: usize, n: usize) {
    let pattern = Pattern::from_n(4).expect("6:8 is a pattern");
    let layout = KLayout::sparse(k, pattern);
    let x: Vec<f32> = (0..m * k).map(|i| noise(1, i)).collect();
    let x = Tensor::from_slice(&[m, k], &x).expect("the shape fits");
    let w: Vec<f32> = (0..n * k).map(|i| noise(2, i)).collect();
    let w_f32 = Tensor::from_slice(&[k, n], &w).expect("the shape fits");
    let w_i8: Vec<i8> = w.iter().map(|v| (v * 127.0) as i8).collect();
    let w_i8 = Tensor::from_slice(&[n, k], &w_i8).expect("the shape fits");
    let (values, positions) = compress(lifted_weight(n, layout.lifted()).view()).expect("two of four are kept");
    let lift = QuantLift { to: DType::I8, layout: layout.clone() };

    let operations = 2.0 * (m * k * n) as f64;
    let (f32_time, _) = time(MatMul::default(), &[&x, &w_f32], &[1]);
    let (twin_time, q) = time(lift.dense_twin(), &[&x], &[]);
    let (lift_time, lifted) = time(lift, &[&x], &[]);
    let (dense_time, acc) = time(DenseGemm::default(), &[&q, &w_i8], &[1]);
    let (sparse_time, _) = time(SparseGemm { layout, to: None }, &[&lifted, &values, &positions], &[1, 2]);
    let ones = |shape: &[usize]| Tensor::from_slice(shape, &vec![1.0f32; shape.iter().product()]).expect("the shape fits");
    let (token, channel) = (ones(&[m, 1]), ones(&[n]));
    let (dequant_time, _) = time(Dequant { to: DType::F32, activation: None }, &[&acc, &token, &channel, &channel], &[2, 3]);

    println!("{m}×{k}→{n}");
    for (name, time) in [("f32", f32_time), ("i8 dense", dense_time), ("i8 compressed 6:8", sparse_time)] {
        println!("  {name:<18} {time:>9.0} µs {:>7.1} GOP/s {:>6.2}× f32", operations / time / 1e3, time / f32_time);
    }
    for (name, time) in [("quantize", twin_time), ("quantize and lift", lift_time), ("dequantize", dequant_time)] {
        println!("  {name:<18} {time:>9.0} µs");
    }
}

fn attention(batch: usize, tokens: usize, width: usize) {
    let tensor = |shape: &[usize]| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|i| noise(4, i)).collect();
        Tensor::from_slice(shape, &values).expect("the shape fits")
    };
    for (name, k, n) in [("scores", width, tokens), ("context", tokens, width)] {
        let (a, b) = (tensor(&[batch, tokens, k]), tensor(&[batch, k, n]));
        let (time, _) = time(MatMul::default(), &[&a, &b], &[]);
        let gops = 2.0 * (batch * tokens * k * n) as f64 / time / 1e3;
        println!("  {name:<18} {time:>9.0} µs {gops:>7.1} GOP/s  {batch}×[{tokens}, {k}]·[{k}, {n}]");
    }
}

fn main() {
    // `cargo test --benches` starts it too, without this argument.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let pool = ThreadPoolBuilder::new().num_threads(2).build().expect("two threads can be started");
    pool.install(|| {
        println!("two threads");
        bench(512, 1536, 384);
        bench(512, 384, 1536);
        for m in [1, 4, 8] {
            bench(m, 384, 1536);
        }
        println!("attention, f32");
        attention(48, 128, 32);
        attention(12, 7, 32);
    });
}
