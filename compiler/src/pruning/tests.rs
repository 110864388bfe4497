use super::*;
use crate::calibration::{Engine, activations};
use crate::compile::compile_model;
use crate::import::{ImportOptions, import};
use crate::onnx::OnnxModel;
use crate::onnx::build::{ModelBuilder, node};
use crate::options::{CompileOptions, SparsityRequest};
use crate::passes::{PIPELINE, ignore, run_passes};
use crate::prune::{PruneOptions, PrunedWeight, products, prune_model};
use crate::sparsity::prune::hessian::Hessian;
use crate::sparsity::prune::sparsegpt;
use crate::sparsity::satisfied;
use crate::verify::NamedTensors;
use sliderun::dtype::DType;
use sliderun::splitmix::SplitMix64;
use sliderun::tensor::Tensor;
use std::path::PathBuf;
use std::sync::Arc;

/// Numbers from -1 to 1.
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = SplitMix64(seed);
    (0..count).map(|_| (state.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
}

/// y = relu(x·q + x·k)·wᵀ + r·q, where r is the sum that relu gets: two products of one activation, a weight that is stored as [N, K],
/// and one that is read again, by a product of another activation.
fn model() -> OnnxModel {
    let weight = |name, shape: [usize; 2], seed| (name, Tensor::from_slice(&shape, &values(shape[0] * shape[1], seed)).unwrap());
    let weights = [weight("q", [20, 20], 1), weight("k", [20, 20], 2), weight("w", [20, 20], 3)];
    let matmul = |a: &str, b: &str, c: &str| node("MatMul", &[a, b], &[c]).name(c);
    weights
        .iter()
        .fold(ModelBuilder::new(17).input("x", DType::F32, &["n", "20"]), |m, (name, t)| m.initializer(name, t))
        .node(matmul("x", "q", "xq"))
        .node(matmul("x", "k", "xk"))
        .node(node("Add", &["xq", "xk"], &["r"]))
        .node(node("Relu", &["r"], &["h"]))
        .node(node("Gemm", &["h", "w"], &["hw"]).attr("transB", 1i64).name("hw"))
        .node(matmul("r", "q", "rq"))
        .node(node("Add", &["hw", "rq"], &["y"]))
        .output("y", DType::F32, &["n", "20"])
        .model()
}

/// Two samples of rows that are mixed from seven sources.
fn calibration() -> Calibration {
    let mix = values(7 * 20, 10);
    let sample = |tokens: usize, seed| {
        let (sources, noise) = (values(tokens * 7, seed), values(tokens * 20, seed + 1));
        let at = |i: usize| 0.2 * noise[i] + (0..7).map(|s| sources[i / 20 * 7 + s] * mix[s * 20 + i % 20]).sum::<f32>();
        let x: Vec<f32> = (0..tokens * 20).map(at).collect();
        NamedTensors::from([("x".to_owned(), Tensor::from_slice(&[tokens, 20], &x).unwrap())])
    };
    Calibration::new(vec![("a".to_owned(), sample(60, 20)), ("b".to_owned(), sample(33, 30))]).unwrap()
}

fn options(method: PruneMethod) -> PruneOptions {
    PruneOptions {
        pattern: PATTERN.parse().unwrap(),
        method,
        calibration: Some(Arc::new(calibration())),
        engine: Arc::default(),
        permute: false,
        resume: None,
    }
}

const PATTERN: &str = "4:6";

fn pruned(options: &PruneOptions) -> (OnnxModel, Vec<PrunedWeight>) {
    let mut model = model();
    let report = prune_model(&mut model, options, &()).unwrap();
    (model, report)
}

fn weights(graph: &Graph) -> Vec<(String, Weight)> {
    let weight = |p: Product| (graph.node(p.node).name.clone(), p.read_weight(graph).unwrap());
    Product::all(graph).into_iter().map(weight).collect()
}

fn graph_of(model: &OnnxModel) -> Graph {
    import(model, &ImportOptions::default()).unwrap()
}

#[test]
fn a_compilation_prunes_as_the_command_does() {
    for method in [PruneMethod::Magnitude, PruneMethod::Wanda, PruneMethod::SparseGpt] {
        let (model_pruned, report) = pruned(&options(method));
        assert!(report.iter().all(|w| w.layer.as_ref().is_some_and(|l| l.method == method && l.output_error.is_some())));
        let compile_options = CompileOptions {
            sparsity: SparsityRequest::Pattern(PATTERN.parse().unwrap()),
            prune: method,
            calibration: Some(Arc::new(calibration())),
            ..CompileOptions::default()
        };
        let mut graph = graph_of(&model());
        let until = PIPELINE.iter().position(|p| p.name == "prune").unwrap();
        run_passes(&mut graph, &PIPELINE[..=until], &compile_options, &mut ignore).unwrap();
        let stored = products(&model_pruned).unwrap();
        let compiled = weights(&graph);
        assert_eq!(compiled.len(), 4);
        for ((node, weight), product) in compiled.iter().zip(&stored) {
            assert_eq!(node, &product.node);
            assert!(*weight == Weight::read(&product.constant, ORIENTATION).unwrap(), "{method}: {node}");
            assert!(satisfied(weight).contains(&PATTERN.parse().unwrap()), "{method}: {node}");
        }
        // And the whole way.
        let verdicts = compile_model(&model(), &compile_options, &mut ()).unwrap().manifest.verdicts;
        assert!(verdicts.iter().all(|v| v.sparse), "{verdicts:?}");
    }
}

/// ‖x·(w - v)ᵀ‖ / ‖x·wᵀ‖ in f64.
fn output_error(rows: &[f32], before: &Weight, after: &Weight) -> f64 {
    let (mut lost, mut all) = (0.0, 0.0);
    for x in rows.chunks(before.k) {
        for (w, v) in before.values.chunks(before.k).zip(after.values.chunks(before.k)) {
            let dot = |w: &dyn Fn(usize) -> f64| (0..before.k).map(|k| f64::from(x[k]) * w(k)).sum::<f64>();
            lost += dot(&|k| f64::from(w[k]) - f64::from(v[k])).powi(2);
            all += dot(&|k| f64::from(w[k])).powi(2);
        }
    }
    (lost / all).sqrt()
}

/// Each product by what the pruned products before it make of the samples.
#[test]
fn statistics_are_those_of_the_pruned_prefix() {
    let (after, report) = pruned(&options(PruneMethod::SparseGpt));
    let (before, after) = (graph_of(&model()), graph_of(&after));
    let mut checked = 0;
    for (was, is) in Product::all(&before).into_iter().zip(Product::all(&after)) {
        let name = &after.node(is.node).name;
        let weight = |graph: &Graph, product: &Product| product.read_weight(graph);
        // The Gemm is a product only after `normalise`; the last one's weight was pruned by what the first reads.
        let (Ok(w), Ok(v)) = (weight(&before, &was), weight(&after, &is)) else { continue };
        let read = if name == "rq" { Product::all(&after)[0].activation } else { is.activation };
        let mut rows = Vec::new();
        activations(&after, &[read], &calibration(), &Engine::default(), &mut |_, r, _| rows.extend_from_slice(r)).unwrap();
        let mut hessian = Hessian::new(w.k).unwrap();
        hessian.add(&rows);
        let mut expected = w.clone();
        sparsegpt::prune(&mut expected, PATTERN.parse().unwrap(), &hessian.factor(0.01).unwrap(), &|_| ());
        for (a, b) in v.values.iter().zip(&expected.values) {
            assert!((a - b).abs() < 1e-5 && (*a == 0.0) == (*b == 0.0), "{name}: {a}, not {b}");
        }
        let told = report.iter().find(|w| w.node == *name).unwrap().layer.as_ref().unwrap();
        let (error, expected) = (told.output_error.unwrap(), output_error(&rows, &w, &v));
        assert!((error - expected).abs() < 1e-4 * expected, "{name}: {error}, not {expected}");
        assert_eq!((told.pruned.elements, told.pruned.removed), (400, 20 * 6), "20 rows of three blocks and one of two");
        checked += 1;
    }
    assert_eq!(checked, 3);
}

#[test]
fn what_knows_more_costs_less() {
    let total = |method| {
        let (after, _) = pruned(&options(method));
        let (before, after) = (graph_of(&model()), graph_of(&after));
        let run = |graph: &Graph| {
            let mut out = Vec::new();
            activations(graph, &[graph.outputs[0].value], &calibration(), &Engine::default(), &mut |_, r, _| {
                out.extend_from_slice(r)
            })
            .unwrap();
            out
        };
        run(&before).iter().zip(&run(&after)).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
    };
    let [magnitude, wanda, sparsegpt] = [PruneMethod::Magnitude, PruneMethod::Wanda, PruneMethod::SparseGpt].map(total);
    assert!(sparsegpt < 0.8 * wanda && sparsegpt < 0.8 * magnitude, "{magnitude} {wanda} {sparsegpt}");
}

#[test]
fn an_interrupted_pruning_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let options = PruneOptions { resume: Some(folder.path().join("finished")), ..options(PruneMethod::SparseGpt) };
    let bytes = |model: &OnnxModel| ["q", "k", "w"].map(|name| model.weight(name).unwrap().data);
    let (first, report) = pruned(&options);
    let files = || {
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(folder.path().join("finished")).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        files
    };
    assert_eq!(files().len(), 3, "{report:?}");
    // Everything is there: each tells that it comes from the folder.
    for file in files() {
        let text = std::fs::read(&file).unwrap();
        let end = text.iter().position(|b| *b == b'\n').unwrap();
        let line = std::str::from_utf8(&text[..end]).unwrap().replace("\"method\":\"sparsegpt\"", "\"method\":\"wanda\"");
        std::fs::write(&file, [line.as_bytes(), &text[end..]].concat()).unwrap();
    }
    let methods = |report: &[PrunedWeight]| -> Vec<String> {
        report.iter().map(|w| w.layer.as_ref().unwrap().method.to_string()).collect()
    };
    let (second, report) = pruned(&options);
    assert_eq!(methods(&report), ["wanda"; 4]);
    assert_eq!(bytes(&first), bytes(&second));
    // One is damaged, one is missing: they are pruned again.
    let [one, two, _] = <[PathBuf; 3]>::try_from(files()).unwrap();
    let mut text = std::fs::read(&one).unwrap();
    *text.last_mut().unwrap() ^= 1;
    std::fs::write(&one, text).unwrap();
    std::fs::remove_file(two).unwrap();
    let (third, report) = pruned(&options);
    assert!(methods(&report).iter().any(|m| m == "wanda") && methods(&report).iter().any(|m| m == "sparsegpt"), "{report:?}");
    assert_eq!(bytes(&first), bytes(&third));
    // Another request finds nothing of its own.
    let (_, report) = pruned(&PruneOptions { method: PruneMethod::Wanda, ..options.clone() });
    assert!(report.iter().all(|w| w.layer.as_ref().unwrap().output_error.is_some()));
    assert_eq!(files().len(), 6);
}

fn with_samples(samples: Vec<NamedTensors>, method: PruneMethod) -> Result<Vec<PrunedWeight>, String> {
    let calibration = Calibration::new(samples.into_iter().map(|s| ("a".to_owned(), s)).collect()).map_err(|e| e.to_string())?;
    let options = PruneOptions { calibration: Some(Arc::new(calibration)), ..options(method) };
    prune_model(&mut model(), &options, &()).map_err(|e| e.to_string())
}

#[test]
fn bad_data_is_told() {
    let x = |shape: &[usize], value: f32| {
        let tensor = Tensor::from_slice(shape, &vec![value; shape.iter().product()]).unwrap();
        vec![NamedTensors::from([("x".to_owned(), tensor)])]
    };
    for (samples, expected) in [
        (x(&[3, 20], f32::NAN), "contains NaN"),
        (x(&[3, 19], 1.0), "'x' is f32[3, 19], f32[3, 20] was expected"),
        (x(&[3, 20], 1e38), "on calibration sample 'a', 'h' contains NaN or an infinity"),
        (vec![NamedTensors::new()], "input 'x' is missing"),
    ] {
        let error = with_samples(samples, PruneMethod::SparseGpt).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    // Inputs that never vary say nothing of how weights stand in for each other, but no more than that is lost.
    let report = with_samples(x(&[3, 20], 1.0), PruneMethod::SparseGpt).unwrap();
    assert!(report.iter().all(|w| w.layer.as_ref().is_some_and(|l| l.method == PruneMethod::SparseGpt)), "{report:?}");
    for method in [PruneMethod::Wanda, PruneMethod::SparseGpt] {
        for entry in with_samples(x(&[3, 20], 0.0), method).unwrap() {
            let layer = entry.layer.unwrap();
            assert_eq!((layer.method, layer.output_error), (PruneMethod::Magnitude, Some(0.0)));
            assert!(layer.note.unwrap().contains("inputs are all zero on the calibration data"));
        }
    }
}

#[test]
fn weights_that_are_not_finite_stay() {
    let mut model = model();
    let mut data = model.weight("k").unwrap().data.to_vec();
    data[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    model.set_initializer("k", data.into()).unwrap();
    let by_magnitude = PruneOptions::magnitude(PATTERN.parse().unwrap());
    let report = prune_model(&mut model, &by_magnitude, &()).unwrap();
    let declined = |node: &str| report.iter().find(|w| w.node == node).unwrap().declined.clone();
    assert!(declined("xk").unwrap().contains("the weight contains NaN or an infinity (output channel 0, input 0)"));
    assert_eq!(declined("xq"), None);
    // What follows is infinite as well, and that is told by those who look.
    let other = PruneOptions { pattern: "2:4".parse().unwrap(), ..options(PruneMethod::Wanda) };
    let error = prune_model(&mut model, &other, &()).unwrap_err().to_string();
    assert!(error.contains("contains NaN or an infinity"), "{error}");
}

#[test]
fn without_data_there_is_something_synthetic() {
    let options = PruneOptions { calibration: None, ..options(PruneMethod::SparseGpt) };
    let (first, report) = pruned(&options);
    assert!(report.iter().all(|w| w.layer.as_ref().is_some_and(|l| l.output_error.is_some())), "{report:?}");
    assert_eq!(first.weight("w").unwrap(), pruned(&options).0.weight("w").unwrap());
}
