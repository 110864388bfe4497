//! Dense products against a naive loop.

use sliderun::cuda::cublaslt::{CublasLt, DenseMatmul, DenseOperands, DenseProblem, Epilogue, Function, Strides};
use sliderun::cuda::driver::DeviceBuffer;
use sliderun::dtype::DType;

use crate::support::{Gpu, POISON, Random, Report, decode, dot, present, tolerance};

const TYPES: [(DType, DType); 9] = [
    (DType::I8, DType::I32),
    (DType::F8e4m3, DType::F32),
    (DType::F8e4m3, DType::Bf16),
    (DType::F8e4m3, DType::F16),
    (DType::Bf16, DType::Bf16),
    (DType::Bf16, DType::F32),
    (DType::F16, DType::F16),
    (DType::F16, DType::F32),
    (DType::F32, DType::F32),
];

/// Runs a problem on random operands and compares every element; between the rows of the output nothing may be written.
fn compare(gpu: &Gpu, library: &CublasLt, random: &mut Random, problem: &DenseProblem, alpha: f32) -> Result<String, String> {
    let matmul = DenseMatmul::new(library, problem).map_err(|e| e.to_string())?;
    let bytes = problem.bytes().unwrap();
    let (input, output) = (problem.input, problem.output);
    let [lhs, rhs] = [bytes[0], bytes[1]].map(|b| random.operand(input, b / input.size()));
    let (device_lhs, device_rhs, device_out) = (gpu.upload(&lhs), gpu.upload(&rhs), gpu.poisoned(bytes[2]));
    let workspace = DeviceBuffer::new(&gpu.context, matmul.workspace_bytes()).unwrap();
    let bias = problem.epilogue.bias.then(|| random.operand(output, problem.n));
    let device_bias = bias.as_ref().map(|bias| gpu.upload(bias));
    let bias = bias.map_or(vec![0.0; problem.n], |bias| decode(output, &bias));
    let operands = DenseOperands {
        lhs: device_lhs.as_slice(),
        rhs: device_rhs.as_slice(),
        out: device_out.as_slice(),
        bias: device_bias.as_ref().map(DeviceBuffer::as_slice),
        alpha,
        workspace: workspace.as_slice(),
    };
    matmul.run(&gpu.stream, &operands).map_err(|e| e.to_string())?;
    let out_bytes = gpu.download(&device_out);
    let (lhs, rhs, out) = (decode(input, &lhs), decode(input, &rhs), decode(output, &out_bytes));

    let [rhs_n, rhs_k] = if problem.rhs_transposed { [problem.rhs.row, 1] } else { [1, problem.rhs.row] };
    let mut written = vec![false; out.len()];
    let (mut worst, mut at) = (0f64, None);
    for b in 0..problem.batch {
        for m in 0..problem.m {
            let row = &lhs[b * problem.lhs.batch + m * problem.lhs.row..][..problem.k];
            for n in 0..problem.n {
                let column: Vec<f64> = (0..problem.k).map(|k| rhs[b * problem.rhs.batch + n * rhs_n + k * rhs_k]).collect();
                let (sum, magnitude) = dot(row, &column);
                let (sum, magnitude) = (sum * f64::from(alpha) + bias[n], magnitude * f64::from(alpha).abs() + bias[n].abs());
                let (exact, allowed) = match problem.epilogue.function {
                    None => (sum, 0.0),
                    Some(Function::Relu) => (sum.max(0.0), 0.0),
                    // The hardware's tanh is off by 2⁻¹¹.
                    Some(Function::GeluTanh) => {
                        let inner = (2.0 / std::f64::consts::PI).sqrt() * (sum + 0.044715 * sum.powi(3));
                        (0.5 * sum * (1.0 + inner.tanh()), 0.5 * sum.abs() / 2048.0)
                    }
                };
                let index = b * problem.out.batch + m * problem.out.row + n;
                written[index] = true;
                let excess = (out[index] - exact).abs() / (tolerance(input, output, exact, magnitude) + allowed).max(1e-30);
                // NaN, as poison is, is too far.
                let excess = if excess.is_nan() { f64::INFINITY } else { excess };
                if excess > worst {
                    (worst, at) = (excess, Some((b, m, n, out[index], exact)));
                }
            }
        }
    }
    if worst > 1.0 {
        return Err(format!("{problem}: {worst:.3} of the tolerance at {at:?}"));
    }
    for (bytes, written) in out_bytes.chunks_exact(output.size()).zip(written) {
        if !written && bytes.iter().any(|&b| b != POISON) {
            return Err(format!("{problem}: written outside"));
        }
    }
    Ok(format!("{problem}: {worst:.3} of the tolerance, {} bytes of workspace", matmul.workspace_bytes()))
}

#[test]
fn products_of_every_type() {
    let Some(gpu) = Gpu::find() else { return };
    let Some(library) = present(CublasLt::new(&gpu.context)) else { return };
    println!("{}", library.path().display());
    let (mut random, mut report) = (Random::fresh(), Report::default());
    for types in TYPES {
        for sizes in [[16, 16, 16], [32, 64, 96], [48, 192, 768], [224, 112, 320]] {
            report.add(compare(&gpu, &library, &mut random, &DenseProblem::contiguous(types, 1, sizes, true), 1.0));
            if types.0.size() > 1 {
                report.add(compare(&gpu, &library, &mut random, &DenseProblem::contiguous(types, 1, sizes, false), 0.125));
            }
        }
    }
    // One row, odd extents.
    for types in TYPES.into_iter().filter(|t| t.0.size() > 1) {
        for transposed in [false, true] {
            for sizes in [[1, 1, 1], [1, 384, 50], [7, 33, 65], [197, 3, 5]] {
                report.add(compare(&gpu, &library, &mut random, &DenseProblem::contiguous(types, 1, sizes, transposed), 1.0));
            }
        }
    }
    for types in TYPES.into_iter().filter(|t| t.0 == DType::F8e4m3) {
        report.add(compare(&gpu, &library, &mut random, &DenseProblem::contiguous(types, 1, [7, 48, 64], true), 0.5));
    }
    report.end();
}

#[test]
fn batches_with_the_strides_of_attention() {
    let Some(gpu) = Gpu::find() else { return };
    let Some(library) = present(CublasLt::new(&gpu.context)) else { return };
    let (mut random, mut report) = (Random::fresh(), Report::default());
    let (heads, tokens, width) = (6, 40, 32);
    for types in TYPES.into_iter().filter(|t| t.0.size() > 1) {
        let elements = |bytes: usize| bytes / types.0.size();
        let contiguous = |batch, sizes, transposed| DenseProblem::contiguous(types, batch, sizes, transposed);
        // Queries by keys, both [tokens, heads, width]: heads are `width` apart.
        let within = Strides { row: heads * width, batch: width };
        let scores = contiguous(heads, [tokens, tokens, width], true);
        report.add(compare(&gpu, &library, &mut random, &DenseProblem { lhs: within, rhs: within, ..scores }, 0.177));
        // Scores by values, the output again [tokens, heads, width].
        let mixed = contiguous(heads, [tokens, width, tokens], false);
        report.add(compare(&gpu, &library, &mut random, &DenseProblem { rhs: within, out: within, ..mixed }, 1.0));
        // An odd number of tokens, so that matrices of a batch begin at odd places.
        report.add(compare(&gpu, &library, &mut random, &contiguous(heads, [13, 13, width], true), 1.0));
        report.add(compare(&gpu, &library, &mut random, &contiguous(heads, [13, width, 13], false), 1.0));
        // One right side for all.
        let shared = contiguous(3, [16, elements(64), 8], true);
        report.add(compare(
            &gpu,
            &library,
            &mut random,
            &DenseProblem { rhs: Strides { batch: 0, ..shared.rhs }, ..shared },
            1.0,
        ));
        // Rows apart, with nothing written between them.
        let apart = contiguous(1, [20, 24, 16], true);
        report.add(compare(&gpu, &library, &mut random, &DenseProblem { out: Strides { row: 40, batch: 0 }, ..apart }, 1.0));
    }
    for types in TYPES.into_iter().filter(|t| t.0.size() == 1) {
        report.add(compare(&gpu, &library, &mut random, &DenseProblem::contiguous(types, 5, [32, 48, 64], true), 1.0));
    }
    report.end();
}

/// What follows the sums, by every way that rows and right sides lie; single rows too.
#[test]
fn products_with_epilogues() {
    let Some(gpu) = Gpu::find() else { return };
    let Some(library) = present(CublasLt::new(&gpu.context)) else { return };
    let (mut random, mut report) = (Random::fresh(), Report::default());
    let functions = |dtype: DType| match dtype {
        DType::F32 => vec![None, Some(Function::Relu)],
        _ => vec![None, Some(Function::Relu), Some(Function::GeluTanh)],
    };
    for types in [(DType::Bf16, DType::Bf16), (DType::F16, DType::F16), (DType::F32, DType::F32)] {
        for (function, bias) in functions(types.1).into_iter().flat_map(|f| [(f, true), (f, false)]) {
            for sizes in [[1, 48, 64], [77, 40, 128], [128, 256, 96]] {
                for transposed in [false, true] {
                    let plain = DenseProblem::contiguous(types, 1, sizes, transposed);
                    let problem = DenseProblem { epilogue: Epilogue { bias, function }, ..plain };
                    report.add(compare(&gpu, &library, &mut random, &problem, 0.25));
                }
            }
        }
    }
    report.end();
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let Some(gpu) = Gpu::find() else { return };
    let Some(library) = present(CublasLt::new(&gpu.context)) else { return };
    let problem = DenseProblem::contiguous((DType::I8, DType::I32), 1, [32, 32, 32], true);
    let matmul = DenseMatmul::new(&library, &problem).unwrap();
    let (operand, out) = (gpu.poisoned(32 * 32 + 1), gpu.poisoned(4 * 32 * 32));
    let workspace = gpu.poisoned(matmul.workspace_bytes());
    let fitting = DenseOperands {
        lhs: operand.as_slice().slice(0, 1024).unwrap(),
        rhs: operand.as_slice().slice(0, 1024).unwrap(),
        out: out.as_slice(),
        bias: None,
        alpha: 1.0,
        workspace: workspace.as_slice(),
    };
    matmul.run(&gpu.stream, &fitting).unwrap();
    let refusals = [
        (DenseOperands { alpha: 0.5, ..fitting }, "factor"),
        (DenseOperands { bias: Some(operand.as_slice()), ..fitting }, "adds no bias"),
        (DenseOperands { lhs: operand.as_slice().slice(0, 1023).unwrap(), ..fitting }, "the left side needs 1024 bytes"),
        (DenseOperands { rhs: operand.as_slice().slice(1, 1024).unwrap(), ..fitting }, "aligned to 16"),
        (DenseOperands { out: operand.as_slice(), ..fitting }, "the output needs 4096 bytes"),
    ];
    for (operands, reason) in refusals {
        let error = matmul.run(&gpu.stream, &operands).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}
