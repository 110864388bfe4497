//! Plans of ranges of steps against the steps themselves; on a GPU too where there is one.

use super::*;
use crate::calibration::walk::{Live, StepError};
use crate::calibration::{Calibration, activations};
use crate::ir::parse::{no_constants, parse};
use crate::onnx::OnnxModel;
use crate::onnx::build::{ModelBuilder, node};
use crate::options::PruneMethod;
use crate::prune::{PruneOptions, prune_model};
use crate::verify::NamedTensors;
use sliderun::cuda::driver::Driver;
use sliderun::dtype::DType;
use sliderun::splitmix::SplitMix64;
use sliderun::tensor::Tensor;

/// Integers, bools and floats; rows of b·s tokens, whose extents tell neither b nor s; and f64, for which GPUs have no kernels.
const GRAPH: &str = r#"
symbols { b: 1..8, s: 1..64 }
input %ids: i64[b, s]
input %mask: i64[b, s]
const %table: f32[16, 12] = random(seed: 1)
const %w: f32[12, 12] = random(seed: 2)
const %v: f32[12, 12] = random(seed: 3)
const %gain: f32[12] = random(seed: 4)
const %one: i64[1] = [1]
const %low: f32[1] = [-1000.0]
%x = Gather(%table, %ids) {axis: 0}
%rows = Reshape(%x) {shape: ["b*s", 12]}
%k = MatMul(%rows, %w)
%back = Reshape(%k) {shape: ["b", "s", 12]}
%real = Equal(%mask, %one)
%column = Reshape(%real) {shape: ["b", 1, "s"]}
%t = Transpose(%back) {perm: [0, 2, 1]}
%scores = MatMul(%x, %t)
%kept = Where(%column, %scores, %low)
%p = Softmax(%kept) {axis: 2, log: false}
%c = MatMul(%p, %x)
%wide = Cast(%c) {to: f64}
%twice = Add(%wide, %wide) node "twice"
%narrow = Cast(%twice) {to: f32}
%n = LayerNorm(%narrow, %gain, %gain) {axis: 2, epsilon: 1e-5, stats: false}
%flat = Reshape(%n) {shape: ["b*s", 12]}
%y = MatMul(%flat, %v, %gain) {activation: Relu}
%z = Neg(%y)
%next = Add(%ids, %one)
output "z" = %z
output "next" = %next
"#;

fn graph() -> Graph {
    parse("test.ir", GRAPH, &no_constants).unwrap_or_else(|e| panic!("{e:?}"))
}

fn value(graph: &Graph, name: &str) -> ValueRef {
    let values = graph.node_ids().into_iter().map(|node| ValueRef { node, slot: 0 });
    values.into_iter().find(|v| graph.output(*v).name == name).unwrap()
}

/// Two samples of different shapes.
fn calibration() -> Calibration {
    let sample = |b: usize, s: usize| {
        let ids: Vec<i64> = (0..b * s).map(|i| (i * 7 % 16) as i64).collect();
        let mask: Vec<i64> = (0..b * s).map(|i| i64::from(i % s < 3)).collect();
        let tensor = |values: &[i64]| Tensor::from_slice(&[b, s], values).unwrap();
        NamedTensors::from([("ids".to_owned(), tensor(&ids)), ("mask".to_owned(), tensor(&mask))])
    };
    Calibration::new(vec![("a".to_owned(), sample(2, 5)), ("b".to_owned(), sample(3, 4))]).unwrap()
}

/// The GPU's engine, or none with the reason printed.
fn gpu() -> Option<Engine> {
    let engine = Engine::new(CalibrationDevice::On(Device::Cuda(0)), |_| ());
    match engine.plans() {
        Ok(_) => Some(engine),
        Err(error) => {
            assert!(std::env::var("SLIDERUN_TEST_GPU").is_err() && Driver::get().is_err(), "{error}");
            println!("skipped: no CUDA device");
            None
        }
    }
}

/// What runs plans: the CPU's sessions, and a GPU's.
fn engines() -> impl Iterator<Item = Engine> {
    std::iter::once(Engine::rehearsing(|_| ())).chain(gpu())
}

/// Whether tensors are alike: floats within 1e-5 of the largest, all others equal.
fn alike(a: &Tensor, b: &Tensor) -> bool {
    let same = a.dtype() == b.dtype() && a.shape() == b.shape();
    match (a.as_slice::<f32>(), b.as_slice::<f32>()) {
        (Some(a), Some(b)) => same && near(a, b),
        _ => same && a.bytes() == b.bytes(),
    }
}

fn near(a: &[f32], b: &[f32]) -> bool {
    let largest = a.iter().fold(0.0, |most: f32, v| most.max(v.abs()));
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5 * largest)
}

#[test]
fn plans_of_any_range_give_what_the_steps_give() {
    let graph = graph();
    let walk = Walk::to(&graph, &["z", "next"].map(|name| value(&graph, name)));
    let count = walk.steps().len();
    let (steps, calibration) = (Engine::default(), calibration());
    for engine in engines() {
        for most in [1, 2, 3, 5, count] {
            let begin = || -> Vec<Live> { calibration.samples().map(|(_, s)| Walk::begin(&graph, s).unwrap()).collect() };
            let (mut expected, mut actual) = (begin(), begin());
            for start in (0..count).step_by(most) {
                let range = start..count.min(start + most);
                for (engine, samples) in [(&steps, &mut expected), (&engine, &mut actual)] {
                    let ready = engine.ready(&graph, &walk, range.clone(), &BTreeSet::new()).unwrap();
                    for live in samples {
                        ready.advance::<StepError>(&graph, &walk, live, |_, _| Ok(())).unwrap();
                    }
                }
                for (expected, actual) in expected.iter().zip(&actual) {
                    assert!(expected.values.keys().eq(actual.values.keys()), "{range:?}");
                    for (value, tensor) in &expected.values {
                        assert!(alike(tensor, &actual.values[value]), "{range:?}: {}", graph.output(*value).name);
                    }
                }
            }
        }
    }
}

#[test]
fn activations_are_those_of_the_steps() {
    let (graph, calibration) = (graph(), calibration());
    let values = ["z", "x", "c", "n"].map(|name| value(&graph, name));
    let seen = |engine: &Engine| {
        let mut out = Vec::new();
        activations(&graph, &values, &calibration, engine, &mut |v, rows, k| out.push((v, k, rows.to_vec()))).unwrap();
        out
    };
    let expected = seen(&Engine::default());
    assert_eq!(expected.len(), 8);
    for engine in engines() {
        let actual = seen(&engine);
        assert!(expected.iter().map(|(v, k, _)| (v, k)).eq(actual.iter().map(|(v, k, _)| (v, k))), "the order is the same");
        assert!(expected.iter().zip(&actual).all(|((.., a), (.., b))| near(a, b)));
    }
}

/// An engine, and what it has told.
fn told(make: impl FnOnce(Box<dyn Fn(&str) + Send + Sync>) -> Engine) -> (Engine, Arc<Mutex<Vec<String>>>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = lines.clone();
    (make(Box::new(move |line| kept.lock().unwrap().push(line.to_owned()))), lines)
}

#[test]
fn what_has_no_kernel_runs_on_the_cpu_and_is_told_once() {
    let (graph, calibration) = (graph(), calibration());
    let (engine, lines) = told(|tell| Engine::rehearsing(tell));
    for _ in 0..2 {
        activations(&graph, &[value(&graph, "z")], &calibration, &engine, &mut |_, _, _| ()).unwrap();
    }
    let lines = lines.lock().unwrap();
    let of =
        |operator: &str| lines.iter().filter(|line| line.starts_with(&format!("{operator} runs on the CPU, as in '"))).count();
    assert_eq!((lines.len(), of("Cast"), of("Binary")), (2, 1, 1), "{lines:?}");
    let z = value(&graph, "z");
    let walk = Walk::to(&graph, &[z]).holding(&[z]);
    let ready = engine.ready(&graph, &walk, 0..walk.steps().len(), &BTreeSet::new()).unwrap();
    let by_steps = ready.parts.iter().filter(|part| matches!(part.by, By::Steps(_))).flat_map(|part| part.range.clone());
    let names: Vec<&str> = by_steps.map(|at| graph.output(ValueRef { node: walk.steps()[at], slot: 0 }).name.as_str()).collect();
    assert_eq!(names, ["wide", "twice", "narrow"], "all else is in plans");
}

#[test]
fn a_device_that_is_not_there_is_an_error_unless_any_will_do() {
    let (graph, calibration) = (graph(), calibration());
    let run = |engine: &Engine| activations(&graph, &[value(&graph, "z")], &calibration, engine, &mut |_, _, _| ());
    let (absent, lines) = told(|tell| Engine::new("cuda:99".parse().unwrap(), tell));
    let error = run(&absent).unwrap_err().to_string();
    let reason = Context::new(99).err().unwrap().to_string();
    assert_eq!(error, format!("samples cannot run on cuda:99: {reason}"));
    assert!(lines.lock().unwrap().is_empty() && absent.used().is_none());
    let (any, lines) = told(|tell| Engine::new(CalibrationDevice::Auto, tell));
    run(&any).unwrap();
    run(&any).unwrap();
    let about_device = lines.lock().unwrap().iter().filter(|line| line.starts_with("samples run on ")).count();
    assert_eq!(about_device, 1);
    for text in ["auto", "cpu", "cuda:0", "cuda:3"] {
        assert_eq!(text.parse::<CalibrationDevice>().unwrap().to_string(), text);
    }
    assert!("gpu".parse::<CalibrationDevice>().is_err());
}

/// Two products with what makes the second's input depend on the first one's pruned weight, and samples of them.
fn model() -> (OnnxModel, Calibration) {
    let random = |shape: [usize; 2], seed: u64| {
        let mut state = SplitMix64(seed);
        let values: Vec<f32> =
            (0..shape[0] * shape[1]).map(|_| (state.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect();
        Tensor::from_slice(&shape, &values).unwrap()
    };
    let model = ModelBuilder::new(17)
        .input("x", DType::F32, &["n", "24"])
        .initializer("w", &random([24, 32], 1))
        .initializer("v", &random([32, 24], 2))
        .node(node("MatMul", &["x", "w"], &["h"]).name("h"))
        .node(node("Relu", &["h"], &["r"]))
        .node(node("MatMul", &["r", "v"], &["y"]).name("y"))
        .output("y", DType::F32, &["n", "24"])
        .model();
    let sample = |n, seed| (format!("{seed}"), NamedTensors::from([("x".to_owned(), random([n, 24], seed))]));
    (model, Calibration::new(vec![sample(70, 3), sample(41, 4)]).unwrap())
}

#[test]
fn pruning_is_the_same_on_every_device() {
    let pruned = |engine: Engine| {
        let (mut model, calibration) = model();
        let options = PruneOptions {
            method: PruneMethod::SparseGpt,
            calibration: Some(Arc::new(calibration)),
            engine: Arc::new(engine),
            ..PruneOptions::magnitude("4:6".parse().unwrap())
        };
        prune_model(&mut model, &options, &()).unwrap();
        ["w", "v"].map(|name| model.weight(name).unwrap().to_tensor().as_slice::<f32>().unwrap().to_vec())
    };
    let expected = pruned(Engine::default());
    for engine in engines() {
        for (a, b) in expected.iter().zip(&pruned(engine)) {
            assert!(a.iter().zip(b).all(|(a, b)| (*a == 0.0) == (*b == 0.0) && (a - b).abs() < 1e-4));
        }
    }
}
