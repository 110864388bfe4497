//! Accuracy of a real classifier on real labelled data, as deployed: a transformer trained on scikit-learn's handwritten digits, its 719 test
//! images, and what ONNX Runtime computes of them, dense and pruned by NumPy (`tests/fidelity/fixture.py`).

use slidec::calibration::Calibration;
use slidec::compile::compile;
use slidec::options::{CompileOptions, Precision, PruneMethod, SparsityRequest};
use slidec::verify::{Comparison, NamedTensors, read_npz};
use sliderun::plan::Plan;
use sliderun::session::{Device, Session, SessionOptions};
use sliderun::tensor::Tensor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const CLASSES: usize = 10;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/digits").join(name)
}

/// Images as the model takes them, 0 to 1.
fn images(data: &NamedTensors, name: &str) -> Tensor {
    let pixels = data[name].as_slice::<u8>().unwrap();
    Tensor::from_slice(data[name].shape(), &pixels.iter().map(|p| f32::from(*p) / 16.0).collect::<Vec<_>>()).unwrap()
}

fn logits(data: &NamedTensors, sparsity: &str, prune: PruneMethod, precision: Precision) -> Tensor {
    let sparsity: SparsityRequest = sparsity.parse().unwrap();
    // Without it, 8-bit products are quantized by largest magnitudes alone.
    let calibration = matches!(prune, PruneMethod::Wanda | PruneMethod::SparseGpt).then(|| {
        let sample = [("image".to_owned(), images(data, "calibration"))].into();
        Arc::new(Calibration::new(vec![("calibration".to_owned(), sample)]).unwrap())
    });
    let options = CompileOptions { sparsity, precision, prune, calibration, ..CompileOptions::default() };
    let compiled = compile(&fixture("digits.onnx"), &options, &mut ()).unwrap();
    let sparse = compiled.verdicts().iter().filter(|v| v.sparse).count();
    assert_eq!(
        sparse,
        if prune == PruneMethod::None { 0 } else { 14 },
        "six products in each of two layers, and those around them"
    );
    let plan = Arc::new(Plan::from_bytes(compiled.to_bytes().unwrap()).unwrap());
    let session = Session::new(plan, Device::Cpu, SessionOptions::default()).unwrap();
    session.run(&[("image", images(data, "image").view())]).unwrap().remove(0).1
}

fn answers(logits: &Tensor) -> Vec<usize> {
    let best = |row: &[f32]| (0..CLASSES).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
    logits.as_slice::<f32>().unwrap().chunks_exact(CLASSES).map(best).collect()
}

fn share<T>(all: &[T], of: impl Fn(usize, &T) -> bool) -> f64 {
    all.iter().enumerate().filter(|(i, x)| of(*i, x)).count() as f64 / all.len() as f64
}

fn right(data: &NamedTensors, logits: &Tensor) -> f64 {
    let labels = data["label"].as_slice::<u8>().unwrap();
    share(&answers(logits), |i, a| *a == usize::from(labels[i]))
}

#[test]
fn plans_answer_as_onnx_runtime_does() {
    let data = read_npz(&fixture("digits.npz")).unwrap();
    // Accuracy that the expected logits have, and how many answers rounding may change.
    let cases = [
        ("dense", 0.958, Precision::F32, 1.0),
        ("dense", 0.958, Precision::Int8, 0.99),
        ("6:8", 0.920, Precision::F32, 1.0),
        ("6:8", 0.920, Precision::Int8, 0.985),
        ("6:8", 0.920, Precision::Fp8, 0.97),
        ("2:4", 0.605, Precision::Int8, 0.97),
    ];
    for (sparsity, accuracy, precision, kept) in cases {
        let expected = &data[sparsity];
        let told = right(&data, expected);
        assert!((told - accuracy).abs() < 0.001, "{sparsity}: the expected accuracy is {told}");
        let prune = if sparsity == "dense" { PruneMethod::None } else { PruneMethod::Magnitude };
        let got = logits(&data, sparsity, prune, precision);
        let wanted = answers(expected);
        let agreement = share(&answers(&got), |i, a| *a == wanted[i]);
        let right = right(&data, &got);
        println!("{sparsity} {precision}: accuracy {right:.4}, answers kept {agreement:.4}");
        assert!(agreement >= kept, "{sparsity} {precision}: {agreement:.4} of the answers kept, {kept} expected");
        assert!(right >= accuracy - 0.01, "{sparsity} {precision}: accuracy {right:.4}, {accuracy} expected");
        if precision == Precision::F32 {
            let comparison = Comparison::new(got.view(), expected.view()).unwrap();
            assert!(comparison.within(1e-5), "{sparsity}: {:.2e}", comparison.rel);
        }
    }
}

/// What pruning with calibration data is for, as deployed in int8: at 6:8 magnitude leaves 0.920 of the answers right.
#[test]
fn calibrated_pruning_keeps_accuracy() {
    let data = read_npz(&fixture("digits.npz")).unwrap();
    for (prune, least) in [(PruneMethod::Wanda, 0.93), (PruneMethod::SparseGpt, 0.945)] {
        let right = right(&data, &logits(&data, "6:8", prune, Precision::Int8));
        println!("6:8 {prune}: accuracy {right:.4}");
        assert!(right >= least, "6:8 {prune}: accuracy {right:.4}, {least} expected");
    }
}
